"""The calibration the other way round: the driving skeleton moved to the person of the reference."""

import numpy as np

from tpc_fast import _checks
from tpc_fast._moved import warn
from tpc_fast.calibration.proportions import BOUNDS, WHOLE_BODY, ratios, with_ratios
from tpc_fast.ops.coco import COUNT
from tpc_fast.ops.procrustes import Similarity

MODES = ("constant", "frame")


def retarget_keypoints(driving, calibration, mode: str = "constant", keep_limbs: bool = False) -> np.ndarray:
    """The old name of `Calibration.retarget`; goes with the next release."""
    warn("retarget_keypoints(keypoints, calibration)", "calibration.retarget(keypoints)", 2)
    return retarget(calibration, driving, mode, keep_limbs)


def retarget(
    calibration, keypoints=None, mode: str = "constant", keep_limbs: bool = False, scores=None, bounds=BOUNDS
) -> np.ndarray:
    """Moves driving keypoints to where they would be in the reference photo; see `Calibration.retarget`."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, but is {mode!r}")
    frames, persons = calibration.matrices.shape[:2]
    if keypoints is None:
        points = calibration.keypoints.astype(np.float64)
    else:
        points = _checks.to_numpy(keypoints, "keypoints").astype(np.float64)
        if points.ndim != 4 or points.shape[:2] != (frames, persons) or points.shape[-1] != 2:
            raise ValueError(f"keypoints must be [{frames}, {persons}, K, 2], but is {_checks.describe(keypoints)}")
        points = calibration.canvas.apply(points)
    if keep_limbs and points.shape[2] not in (COUNT, WHOLE_BODY):
        raise ValueError(f"keypoints must be 17 or 133 a person for keep_limbs, but are {points.shape[2]}")
    scores = _scores(scores, calibration if keypoints is None else None, points)
    matrices = calibration.matrices.astype(np.float64)
    inverse = np.linalg.inv(matrices[..., :2])
    moved = by_frame = np.einsum("fpij,fpkj->fpki", inverse, points - matrices[..., None, :, 2])
    if mode == "constant":
        moved = np.stack([_moved_as_one(points[:, p], matrices[:, p], calibration, p) for p in range(persons)], 1)
    if keep_limbs:
        for p in range(persons):
            theirs = calibration.reference_keypoints[p], calibration.reference_scores[p]
            # Measured in the photo's scale in every frame: who comes nearer does not grow.
            have = by_frame[:, p].copy(), scores[:, p]
            moved[:, p] = with_ratios(moved[:, p], ratios(*theirs, *have, bounds))
    return moved.astype(np.float32)


def _scores(scores, calibration, points) -> np.ndarray:
    """[F, P, K]: as given, or the calibration's, or 1 of what is there."""
    if scores is None:
        return np.isfinite(points).all(-1) * 1.0 if calibration is None else calibration.scores
    array = _checks.to_numpy(scores, "scores")
    if array.shape != points.shape[:-1]:
        raise ValueError(f"scores must be {list(points.shape[:-1])}, but are {_checks.describe(scores)}")
    return array


def _moved_as_one(points, matrices, calibration, person) -> np.ndarray:
    """All frames' points [F, K, 2] through the inverse of one matrix, the median over the frames [F, 2, 3]."""
    reference = calibration.reference_keypoints[person].astype(np.float64)
    anchor = np.nanmean(reference, 0)  # the medians of scale, angle and place belong to it, not to the photo's corner
    used = calibration.opacity[:, person] > 0
    matrices = matrices[used] if used.any() else matrices
    # Of a squeezed photo the linear part is no similarity: what squeezes is the same in all frames.
    first = matrices[0, :, :2]
    turns = Similarity.from_matrix(np.concatenate([matrices[:, :, :2] @ np.linalg.inv(first), matrices[:, :, 2:]], -1))
    scale = np.exp(np.median(np.log(turns.scale)))
    angle = np.median(np.unwrap(turns.angle))
    linear = Similarity.from_scale_angle(scale, angle).matrix[:, :2] @ first
    place = np.median(matrices[:, :, :2] @ anchor + matrices[:, :, 2], 0)
    return (points - place) @ np.linalg.inv(linear).T + anchor
