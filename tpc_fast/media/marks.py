"""Outlines and discs in pictures that a person looks at: by the core, or by its naive twin."""

from collections.abc import Sequence

import numpy as np

from tpc_fast import _native
from tpc_fast.naive import pictures as naive

_DARK = 18  # the rims of discs


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
