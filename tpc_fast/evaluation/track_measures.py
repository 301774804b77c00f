"""How well a track of similarities lies on the keypoints it was estimated from, without any truth."""

import dataclasses

import numpy as np

HEAD, TORSO = (0, 1, 2), (5, 6, 11, 12)  # nose and eyes; shoulders and hips
HEAD_SHARE, LENGTH_PERCENTILE = 0.45, 75  # a head is 0.45 of a torso; the clip's torso is its 75th percentile


@dataclasses.dataclass(frozen=True)
class TrackMeasures:
    """Of one person in a clip; NaN where nothing can be measured.

    Attributes:
        head, torso: median distance of the mean of nose and eyes (of shoulders and hips), of those that photo and
            frame both show, two at least: where the track puts the photo's, from where the frame has it. In head sizes:
            0.45 of the 75th percentile of the distance between the middles of shoulders and hips in the clip.
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
    score_threshold: float = 0.3,
) -> TrackMeasures:
    """Measures a track.

    Args:
        reference [K, 2], reference_scores [K], driving [F, K, 2], driving_scores [F, K]: COCO keypoints, pixels.
        matrices: [F, 2, 3], photo -> frame.
        score_threshold: keypoints with a lower score, and NaN, are missing.
    """
    seen = (driving_scores >= score_threshold) & np.isfinite(driving).all(-1)
    known = (reference_scores >= score_threshold) & np.isfinite(reference).all(-1)
    moved = np.nan_to_num(reference) @ matrices[:, :, :2].swapaxes(-1, -2) + matrices[:, None, :, 2]
    middles = driving[:, TORSO[:2]].mean(1) - driving[:, TORSO[2:]].mean(1)
    lengths = np.linalg.norm(middles, axis=-1)
    if not np.isfinite(lengths).any():
        return TrackMeasures(*[np.nan] * 7)
    size = HEAD_SHARE * np.nanpercentile(lengths, LENGTH_PERCENTILE)

    def offsets(part):
        both = seen[:, part] & known[list(part)]
        count = both.sum(1)
        apart = np.where(both[..., None], moved[:, part] - np.nan_to_num(driving[:, part]), 0).sum(1)
        return np.linalg.norm(apart[count >= 2] / count[count >= 2, None], axis=-1) / size

    head, torso = offsets(HEAD), offsets(TORSO)
    log_scale = 0.5 * np.log(np.linalg.det(matrices[:, :, :2]))
    angle = np.degrees(np.unwrap(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])))
    spread = [np.std(np.diff(x, 2)) if len(x) > 2 else np.nan for x in (log_scale, angle)]
    numbers = [np.percentile(x, q) if len(x) else np.nan for x in (head, torso) for q in (50, 95)]
    return TrackMeasures(*(float(x) for x in (*numbers, np.exp(np.ptp(log_scale)), *spread)))
