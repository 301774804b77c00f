"""How good an alignment is, in numbers; every metric of one clip, F frames, one person.

A frame for which a metric is not defined (no keypoint in common, both masks empty) has NaN, and means leave it out.
"""

import numpy as np

from tpc_fast.media.images import mask_iou as mask_iou
from tpc_fast.ops.procrustes import COCO_SIGMAS, scale_and_angle

LAG_LIMIT = 1.0  # seconds


def oks(found: np.ndarray, truth: np.ndarray, area: np.ndarray, used: np.ndarray | None = None) -> np.ndarray:
    """Object keypoint similarity of the COCO keypoint evaluation: mean of exp(-d^2 / (2 area (2 sigma)^2)).

    Args:
        found, truth: [..., 17, 2] pixels; a keypoint that is NaN in either does not count.
        area: [...] pixels^2, of the person.
        used: [..., 17] bool, the keypoints that count; None: all.

    Returns:
        [...] from 0 to 1; NaN where no keypoint counts.
    """
    _same_shape(found=found, truth=truth)
    distance = ((found - truth) ** 2).sum(-1)
    counts = np.isfinite(distance) if used is None else np.isfinite(distance) & used
    spread = 2 * np.asarray(area)[..., None] * (2 * COCO_SIGMAS) ** 2
    return _mean(np.exp(-np.where(counts, distance, 0) / spread), counts)


def rms(found: np.ndarray, truth: np.ndarray, used: np.ndarray | None = None) -> np.ndarray:
    """Root mean square distance [...] of points [..., K, 2] that are finite in both (and `used` [..., K])."""
    _same_shape(found=found, truth=truth)
    distance = ((found - truth) ** 2).sum(-1)
    counts = np.isfinite(distance) if used is None else np.isfinite(distance) & used
    return np.sqrt(_mean(np.where(counts, distance, 0), counts))


def roughness(matrices: np.ndarray) -> tuple[float, float]:
    """Standard deviation of the second difference of log scale, and of the angle in degrees, of matrices [F, 2, 3].

    NaN for fewer than three frames.
    """
    if len(matrices) < 3:
        return np.nan, np.nan
    scale, angle = scale_and_angle(matrices)
    return float(np.std(np.diff(np.log(scale), 2))), float(np.degrees(np.std(np.diff(np.unwrap(angle), 2))))


def errors(matrices: np.ndarray, truth: np.ndarray, points: np.ndarray) -> dict[str, np.ndarray]:
    """Errors of matrices [F, 2, 3] against true similarities [F, 2, 3].

    Args:
        points: [K, 2] pixels of the reference, the person's keypoints; those that are NaN do not count.

    Returns:
        angle_error: [F] degrees from 0 to 180; log_scale_error: [F], absolute; point_error: [F], rms distance of the
        points' images, pixels of the canvas.
    """
    _same_shape(matrices=matrices, truth=truth)
    (scale, angle), (true_scale, true_angle) = scale_and_angle(matrices), scale_and_angle(truth)
    turn = (angle - true_angle + np.pi) % (2 * np.pi) - np.pi
    return {
        "angle_error": np.degrees(abs(turn)),
        "log_scale_error": abs(np.log(scale / true_scale)),
        "point_error": rms(apply(matrices, points), apply(truth, points)),
    }


def lag(matrices: np.ndarray, truth: np.ndarray, points: np.ndarray, times: np.ndarray) -> float:
    """By how many seconds matrices [F, 2, 3] trail the truth: the delay that makes the true points fit theirs best.

    Args:
        points: [K, 2] pixels of the reference; times: [F] seconds, increasing.

    Returns:
        From 0 to 1 second (the limit of the search), to a quarter of a frame; NaN for fewer than three frames, or a
        truth that does not move.
    """
    if len(times) < 3:
        return np.nan
    points = points[np.isfinite(points).all(-1)]
    moved = apply(matrices, points).reshape(len(times), -1)
    true = apply(truth, points).reshape(len(times), -1)
    if not np.ptp(true, 0).max(initial=0) > 1e-6:
        return np.nan
    step = (times[-1] - times[0]) / (len(times) - 1) / 4
    most = min(LAG_LIMIT, (times[-1] - times[0]) / 2)
    delays = np.arange(0, most + step / 2, step)
    inside = times >= times[0] + delays[-1]  # the same frames for every delay

    def cost(delay):
        late = np.stack([np.interp(times[inside] - delay, times, column) for column in true.T], -1)
        return ((late - moved[inside]) ** 2).sum()

    costs = [cost(delay) for delay in delays]
    return float(delays[int(np.argmin(costs))])


def shares(status: np.ndarray) -> dict[str, float]:
    """Share of the frames of each status, of `status` [F]."""
    return {name: float((status == name).mean()) for name in ("tracked", "fallback", "held", "lost")}


def apply(matrices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [K, 2] under matrices [F, 2, 3]: [F, K, 2]."""
    return points @ matrices[:, :, :2].swapaxes(-1, -2) + matrices[:, None, :, 2]


def mean(values: np.ndarray) -> float:
    """Mean of those that are not NaN; NaN if none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else np.nan


def _mean(values, counts):
    number = counts.sum(-1)
    return np.where(number > 0, (values * counts).sum(-1) / np.maximum(number, 1), np.nan)


def _same_shape(**arrays) -> None:
    (first, a), (second, b) = arrays.items()
    if np.shape(a) != np.shape(b):
        raise ValueError(f"{second} must have the shape of {first}, {np.shape(a)}, but has {np.shape(b)}")
