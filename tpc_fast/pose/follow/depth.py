"""Who stands in front of whom, for pictures that show several persons."""

import numpy as np

from tpc_fast.pose import keypoints as coco

FEET_MARGIN, SIZE_MARGIN = 0.15, 0.08  # person sizes, and log size, that must lie between two persons to change places


def check_depth(depth, persons: int):
    """`depth` option -> "auto" or the persons from back to front.

    Raises:
        ValueError: if it is neither "auto" nor every person once.
    """
    if isinstance(depth, str) and depth == "auto":
        return depth
    try:
        order = tuple(int(p) for p in depth)
    except (TypeError, ValueError, OverflowError, np.ma.MaskError):
        order = None
    if order is None or sorted(order) != list(range(persons)):
        raise ValueError(f'depth must be "auto" or the {persons} person(s) from back to front, but is {depth!r}')
    return order


class DepthOrder:
    """Orders persons from back to front: lower feet stand in front, or, where feet are not seen, the larger person.

    Two persons change places only by a margin, so that the order does not flicker, and only while both are seen, the
    feet of both or of neither.

    Attributes:
        fixed: [P] the order that was asked for; None for "auto".
    """

    def __init__(self, persons: int, depth="auto", threshold: float = coco.SCORE_THRESHOLD):
        self.fixed = None if isinstance(depth, str) else np.array(depth)
        self._persons, self._threshold = persons, threshold
        self.reset()

    def reset(self) -> None:
        """Forgets the past."""
        unknown = np.full(self._persons, np.nan)
        self._state = [unknown, unknown, np.zeros((self._persons, self._persons))]

    def step(self, keypoints: np.ndarray, scores: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """[P] persons from back to front.

        Args:
            keypoints: [P, 17, 2] canvas pixels, NaN where missing.
            scores: [P, 17].
            sizes: [P] of the driving persons, in canvas pixels; NaN for those not seen.
        """
        if self.fixed is not None or self._persons == 1:
            return np.arange(self._persons) if self.fixed is None else self.fixed
        *self._state, order = order_by_depth(*self._state, keypoints, scores, sizes, self._threshold)
        return order


def order_by_depth(feet, size, ahead, keypoints, scores, sizes, threshold):
    """One frame of `DepthOrder`.

    Args:
        feet, size: [P] of the frame before, NaN if not known.
        ahead: [P, P], 1 where the row's person stood before the column's, -1 where behind.
        keypoints, scores, sizes: as in `DepthOrder.step`.

    Returns:
        feet, size, ahead, and the order [P].
    """
    here = np.isfinite(sizes)
    y = keypoints[:, coco.ANKLES, 1]
    lowest = np.amax(np.where((scores[:, coco.ANKLES] >= threshold) & np.isfinite(y), y, -np.inf), -1)
    feet = np.where(here, np.where(np.isfinite(lowest), lowest, np.nan), feet)
    size = np.where(here, sizes, size)
    lower = (feet[:, None] - feet) / np.sqrt(size[:, None] * size) / FEET_MARGIN
    larger = np.log(size[:, None] / size) / SIZE_MARGIN
    now = np.where(np.isfinite(lower), lower, np.nan_to_num(larger))
    # The feet of the one cannot be compared with the face of the other, nor with where somebody was.
    shown = np.isfinite(feet)
    unequal = (shown[:, None] != shown) | ~(here[:, None] & here)
    undecided = ((abs(now) < 1) | unequal) & (ahead != 0)
    ahead = np.where(undecided, ahead, np.sign(now))
    return feet, size, ahead, np.argsort(ahead.sum(1), kind="stable")
