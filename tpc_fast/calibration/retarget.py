"""The calibration the other way round: the driving skeleton moved to the person of the reference."""

import numpy as np

from tpc_fast import _checks
from tpc_fast.ops.procrustes import Similarity

MODES = ("constant", "frame")
STRETCHED = 90  # percentile of a limb's lengths over the clip that is taken for its length unforeshortened
# From the body outwards: joint, child, and all that hangs on it.
_LIMBS = (
    *((5, 7, (7, 9)), (7, 9, (9,)), (6, 8, (8, 10)), (8, 10, (10,))),
    *((11, 13, (13, 15)), (13, 15, (15,)), (12, 14, (14, 16)), (14, 16, (16,))),
)


def retarget_keypoints(driving, calibration, mode: str = "constant", keep_limbs: bool = False) -> np.ndarray:
    """Moves driving keypoints to where they would be in the reference photo: for models that are driven by skeletons.

    Args:
        driving: [F, P, K, 2] in pixels of the driving frames, of the persons and in the order of the calibration, NaN
            where missing; any K (whole bodies, hands, faces). None: the calibration's own 17.
        calibration: the Calibration of the same frames.
        mode: "constant" takes one similarity for the whole clip, its median in scale, angle and place, so that all
            motion remains; "frame" takes every frame's own, so that the torso stays where the reference's is.
        keep_limbs: whether arms and legs get the reference's lengths: each by one factor for the whole clip, so that
            they still shorten in perspective. Needs K = 17.

    Returns:
        float32 [F, P, K, 2] in native pixels of the reference.

    Raises:
        TypeError, ValueError: for keypoints of another shape, an unknown mode, or `keep_limbs` with another K.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, but is {mode!r}")
    frames, persons = calibration.matrices.shape[:2]
    if driving is None:
        points = calibration.keypoints.astype(np.float64)
    else:
        points = _checks.to_numpy(driving, "driving").astype(np.float64)
        if points.ndim != 4 or points.shape[:2] != (frames, persons) or points.shape[-1] != 2:
            raise ValueError(f"driving must be [{frames}, {persons}, K, 2], but is {_checks.describe(driving)}")
        points = calibration.canvas.apply(points)
    if keep_limbs and points.shape[2] != calibration.reference_keypoints.shape[1]:
        raise ValueError(f"driving must have 17 keypoints for keep_limbs, but has {points.shape[2]}")
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
