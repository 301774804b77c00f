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
    except (TypeError, ValueError):
        order = None
    if order is None or sorted(order) != list(range(persons)):
        raise ValueError(f'depth must be "auto" or the {persons} person(s) from back to front, but is {depth!r}')
    return order


class DepthOrder:
    """Orders persons from back to front: lower feet stand in front, or, where feet are not seen, the larger person.

    Two persons change places only by a margin, so that the order does not flicker; who is not seen keeps the last
    feet and size.
    """

    def __init__(self, persons: int, depth="auto", threshold: float = 0.3):
        self._fixed = None if isinstance(depth, str) else np.array(depth)
        self._persons, self._threshold = persons, threshold
        self.reset()

    def reset(self) -> None:
        """Forgets the past."""
        self._feet, self._size = np.full(self._persons, np.nan), np.full(self._persons, np.nan)
        self._front = np.zeros((self._persons, self._persons))  # 1 where the row's person stands before the column's

    def step(self, keypoints: np.ndarray, scores: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """[P] persons from back to front.

        Args:
            keypoints: [P, 17, 2] canvas pixels, NaN where missing.
            scores: [P, 17].
            sizes: [P] of the driving persons, in canvas pixels; NaN for who is not seen.
        """
        if self._fixed is not None or self._persons == 1:
            return np.arange(self._persons) if self._fixed is None else self._fixed
        here = np.isfinite(sizes)
        y = np.where(scores[:, coco.ANKLES] >= self._threshold, keypoints[:, coco.ANKLES, 1], np.nan)
        feet = np.where(np.isfinite(y), y, -np.inf).max(-1)
        self._feet[here] = np.where(np.isfinite(feet), feet, np.nan)[here]
        self._size[here] = sizes[here]
        lower = (self._feet[:, None] - self._feet) / np.sqrt(self._size[:, None] * self._size) / FEET_MARGIN
        larger = np.log(self._size[:, None] / self._size) / SIZE_MARGIN
        ahead = np.where(np.isfinite(lower), lower, np.nan_to_num(larger))
        undecided = (abs(ahead) < 1) & (self._front != 0)
        self._front = np.where(undecided, self._front, np.sign(ahead))
        return np.argsort(self._front.sum(1), kind="stable")
