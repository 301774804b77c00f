"""How well a track of similarities lies on the keypoints it was estimated from, without any truth."""

import dataclasses

import numpy as np

from tpc_fast.evaluation.metrics import roughness
from tpc_fast.ops.coco import SCORE_THRESHOLD
from tpc_fast.ops.procrustes import scale_and_angle
from tpc_fast.pose.follow.quality import offsets


@dataclasses.dataclass(frozen=True)
class TrackMeasures:
    """Of one person in a clip; NaN where nothing can be measured.

    Attributes:
        head, torso: median distance of the mean of nose and eyes (of shoulders and hips) from the photo's, in head
            sizes; see `tpc_fast.pose.follow.quality.offsets`.
        head_95, torso_95: the same, 95th percentile.
        scale_range: the largest scale over the smallest.
        scale_roughness, angle_roughness: standard deviation of the second difference of log scale, and of the angle in
            degrees, per frame^2.
    """

    head: float
    head_95: float
    torso: float
    torso_95: float
    scale_range: float
    scale_roughness: float
    angle_roughness: float


def measure_track(
    reference: np.ndarray,
    reference_scores: np.ndarray,
    driving: np.ndarray,
    driving_scores: np.ndarray,
    matrices: np.ndarray,
    score_threshold: float = SCORE_THRESHOLD,
) -> TrackMeasures:
    """Measures a track.

    Args:
        reference [K, 2], reference_scores [K], driving [F, K, 2], driving_scores [F, K]: COCO keypoints, pixels.
        matrices: [F, 2, 3], photo -> frame.
        score_threshold: keypoints with a lower score, and NaN, are missing.
    """
    seen = driving_scores >= score_threshold
    known = reference_scores >= score_threshold
    points = np.where(known[:, None], reference, np.nan).astype(np.float64)
    keypoints = np.where(seen[..., None], driving, np.nan).astype(np.float64)
    numbers = []
    for part in offsets(matrices[:, None], points[None], keypoints[:, None]):
        finite = part[np.isfinite(part)]
        numbers += [np.percentile(finite, q) if len(finite) else np.nan for q in (50, 95)]
    log_scale = np.log(scale_and_angle(matrices)[0])
    return TrackMeasures(*(float(x) for x in (*numbers, np.exp(np.ptp(log_scale)), *roughness(matrices))))


def area_jumps(masks: np.ndarray) -> float:
    """Share of the frames whose mask's area differs by more than a quarter from the one before, of masks [F, h, w].

    Frames without a mask, and those after them, do not count; NaN if none does.
    """
    areas = np.array([np.count_nonzero(mask >= 128) for mask in masks], np.float64)
    before, after = areas[:-1], areas[1:]
    counted = (before > 0) & (after > 0)
    return float((abs(after - before) > 0.25 * before)[counted].mean()) if counted.any() else np.nan
