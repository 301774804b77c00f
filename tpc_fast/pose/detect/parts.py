"""Parts of a picture in which people are looked for: turned by quarters, and in squares."""

import numpy as np

from tpc_fast.ops.procrustes import Similarity
from tpc_fast.ops.resample import resample

SMALLER = 0.6  # side of the smaller squares, of the picture's shorter side
_SEARCH_SIDE = 1024  # pixels; detectors shrink what they search anyway
_TALL = 1.2  # a picture with longer sides than this in proportion is not seen whole in one square


def rolled(image: np.ndarray, degrees: int) -> tuple[np.ndarray, Similarity]:
    """A copy turned counter-clockwise, shrunk if large, and the map from the picture's pixels to its pixels."""
    height, width = image.shape[:2]
    scale = min(1.0, _SEARCH_SIDE / max(height, width))
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    if scale < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        shift = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2]) - scale * centre
        matrix = np.column_stack([scale * np.eye(2), shift])
        image = resample(image, matrix, size, shrink=max(1, min(int(1 / scale), height, width)))
    turned = np.ascontiguousarray(np.rot90(image, degrees // 90))
    angle = -np.radians(degrees)
    rotation = np.rint([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = np.array([(turned.shape[1] - 1) / 2, (turned.shape[0] - 1) / 2])
    return turned, Similarity(np.float64(scale), rotation, target - scale * rotation @ centre)


def squares(height: int, width: int) -> list[tuple[int, int, int]]:
    """(left, top, side) of where people are looked for: the whole, squares along its longer side, and smaller ones."""
    found = [(0, 0, max(height, width))]
    short = min(height, width)
    for side in (short, round(SMALLER * short)):
        if max(height, width) < _TALL * side:
            continue  # as good as the whole
        # Half of each is in the next.
        rows, columns = (np.linspace(0, n - side, -(-2 * n // side) - 1).round().astype(int) for n in (height, width))
        found += [(int(left), int(top), side) for top in rows for left in columns]
    return found


def square_around(points: np.ndarray, wider: float, size: tuple[int, int]) -> tuple[int, int, int] | None:
    """(left, top, side) of a square that holds points [N, 2], `wider` times as large as they reach, as far as the
    picture of `size` (H, W) goes; None if that is next to nothing."""
    low, high = points.min(0), points.max(0)
    side = int(np.ceil(wider * max(high - low)))
    left, top = (max(0, int(v)) for v in np.floor((low + high - side) / 2))
    side_here = min(side, max(size[0] - top, size[1] - left))
    if min(size[0] - top, size[1] - left, side_here) < 16:
        return None
    return left, top, side_here
