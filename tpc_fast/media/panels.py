"""Small pictures that a person looks at, shrunk and laid over each other: by the core, or by its naive twin."""

from collections.abc import Sequence

import numpy as np

from tpc_fast import _native
from tpc_fast.naive import pictures as naive

LARGEST_FACTOR = 4  # by which pictures are shrunk: to warp a reference anew is as fast as to read more pixels


def shrink(pictures: np.ndarray, factor: int) -> np.ndarray:
    """Pictures uint8 [P, H, W] or [P, H, W, 3] at sides smaller by `factor`, which divides them, 1 to 4: means."""
    if factor == 1:
        return pictures
    return (_native.core() or naive).shrink(np.ascontiguousarray(pictures), factor)


def lay_over(pictures: np.ndarray, masks: np.ndarray, order: Sequence[int], ground: np.ndarray) -> None:
    """Cuts pictures uint8 [P, H, W, 3] out by their masks [P, H, W], and lays them over `ground` [H, W, 3], in place.

    Args:
        order: the pictures, from back to front.
    """
    function = (_native.core() or naive).lay_over
    function(np.ascontiguousarray(pictures), np.ascontiguousarray(masks), order, ground)
