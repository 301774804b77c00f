"""Small pictures that a person looks at: shrunk, laid over each other, marked. By the core, or by its naive twin."""

from collections.abc import Sequence

import numpy as np

from tpc_fast import _native
from tpc_fast.naive import panels as naive

_DARK = 18  # the rims of discs


def shrink(pictures: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pictures uint8 [P, H, W] or [P, H, W, 3] at sides of at most theirs: what `images.scale` does, sooner."""
    if pictures.shape[1:3] == tuple(size):
        return pictures
    pictures, core = np.ascontiguousarray(pictures), _native.core()
    return naive.shrink(pictures, size) if core is None else core.shrink(pictures, *size)


def lay_over(pictures: np.ndarray, masks: np.ndarray, order: Sequence[int], ground: np.ndarray) -> None:
    """Cuts pictures uint8 [P, H, W, 3] out by their masks [P, H, W], and lays them over `ground` [H, W, 3], in place.

    Args:
        order: the pictures, from back to front.
    """
    function = (_native.core() or naive).lay_over
    function(np.ascontiguousarray(pictures), np.ascontiguousarray(masks), [int(i) for i in order], ground)


def draw_marks(picture: np.ndarray, masks: np.ndarray, colours: Sequence, discs: Sequence) -> None:
    """Draws outlines of masks and discs into a picture uint8 [h, w, 3], in place.

    Args:
        masks: uint8 [P, H, W], of any size: each pixel of the picture takes the nearest.
        colours: [P, 3], of the outlines, which are two pixels wide.
        discs: [N, 6]: x and y of the centre, of which the nearest pixel is taken, radius, and R, G, B.
    """
    colours = np.asarray(colours, np.uint8).reshape(-1, 3)
    discs = np.asarray(discs, np.float64).reshape(-1, 6)
    (_native.core() or naive).draw_marks(picture, np.ascontiguousarray(masks), colours, discs, float(_DARK))
