"""The calibration the other way round: the driving skeleton moved to the person of the reference."""

import numpy as np

from tpc_fast import _checks
from tpc_fast._moved import warn
from tpc_fast.ops.procrustes import Similarity

MODES = ("constant", "frame")
STRETCHED = 90  # percentile of a limb's lengths over the clip that is taken for its length unforeshortened
# From the body outwards: joint, child, and all that hangs on it.
_LIMBS = (
    *((5, 7, (7, 9)), (7, 9, (9,)), (6, 8, (8, 10)), (8, 10, (10,))),
    *((11, 13, (13, 15)), (13, 15, (15,)), (12, 14, (14, 16)), (14, 16, (16,))),
)


def retarget_keypoints(driving, calibration, mode: str = "constant", keep_limbs: bool = False) -> np.ndarray:
    """The old name of `Calibration.retarget`; goes with the next release."""
    warn("retarget_keypoints(keypoints, calibration)", "calibration.retarget(keypoints)", 2)
    return retarget(calibration, driving, mode, keep_limbs)


def retarget(calibration, keypoints=None, mode: str = "constant", keep_limbs: bool = False) -> np.ndarray:
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
    if keep_limbs and points.shape[2] != calibration.reference_keypoints.shape[1]:
        raise ValueError(f"keypoints must be 17 a person for keep_limbs, but are {points.shape[2]}")
    matrices = calibration.matrices.astype(np.float64)
    inverse = np.linalg.inv(matrices[..., :2])
    moved = np.einsum("fpij,fpkj->fpki", inverse, points - matrices[..., None, :, 2])
    if mode == "constant":
        moved = np.stack([_moved_as_one(points[:, p], matrices[:, p], calibration, p) for p in range(persons)], 1)
    if keep_limbs:
        for p in range(persons):
            _keep_limbs(moved[:, p], calibration.reference_keypoints[p])
    return moved.astype(np.float32)


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


def _keep_limbs(points: np.ndarray, reference: np.ndarray) -> None:
    """Gives the limbs of [F, 17, 2] the lengths of the reference [17, 2], in place."""
    for joint, child, hanging in _LIMBS:
        bone = points[:, child] - points[:, joint]
        lengths = np.linalg.norm(bone, axis=-1)
        lengths = lengths[np.isfinite(lengths)]
        wanted = np.linalg.norm(reference[child] - reference[joint])
        if not len(lengths) or not np.isfinite(wanted) or (have := np.percentile(lengths, STRETCHED)) < 1e-6:
            continue
        shift = bone * (wanted / have - 1)
        for k in hanging:
            points[:, k] += np.where(np.isfinite(shift), shift, 0)
