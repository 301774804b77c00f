"""A picture seen through an affine view, as networks want it: bilinear, with its borders repeated or black.

Pixel centres are at integer coordinates, (0, 0) is the centre of the top left pixel, x right, y down. Sizes are
(height, width).
"""

import operator

import numpy as np

from tpc_fast import _dispatch, _native, naive
from tpc_fast._checks import describe

BORDERS = ("repeat", "black")
MAX_COORDINATE = 1e15  # beyond it float64 no longer resolves pixels


def resample(
    image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], border: str = "repeat", shrink: int = 1,
    backend: str | None = None,
) -> np.ndarray:  # fmt: skip
    """What a view shows of a picture.

    Args:
        image: uint8 [H, W] or [H, W, C], C = 1 or 3, not empty.
        matrix: [2, 3], picture pixels -> output pixels, invertible.
        size: of the output.
        border: what lies outside the picture: "repeat" (its outermost pixels) or "black".
        shrink: the picture is averaged over squares of so many pixels first (what is left over at the right and the
            bottom is dropped), against aliasing; at least 1, at most the picture's shorter side.
        backend: "cpu" or "naive"; None: what there is.

    Returns:
        uint8 [h, w] or [h, w, C], within one level of `naive.resample`.

    Raises:
        TypeError, ValueError: for arguments that are not such.
        RuntimeError: if the backend cannot be had.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise TypeError(f"image must be a uint8 array, but is {describe(image)}")
    if image.ndim not in (2, 3) or 0 in image.shape or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"image must be [H, W] or [H, W, C], C = 1 or 3, no side of 0, but is {describe(image)}")
    if border not in BORDERS:
        raise ValueError(f"border must be one of {', '.join(BORDERS)}, but is {border!r}")
    try:
        height, width = (operator.index(side) for side in size)
        factor = operator.index(shrink)
    except TypeError as error:
        raise TypeError(f"size and shrink must be integers, but are {size!r} and {shrink!r}") from error
    if height < 0 or width < 0:
        raise ValueError(f"size must be (height, width), not negative, but is {size!r}")
    if not 1 <= factor <= min(image.shape[:2]):
        raise ValueError(f"shrink must be from 1 to image's shorter side, {min(image.shape[:2])}, but is {shrink}")
    inverse = _inverse(matrix)
    backend = _dispatch.resolve(image, backend)
    if backend == "triton":
        raise ValueError("backend must be cpu or naive for `resample`, but is 'triton'")
    function = naive.resample if backend == "naive" else _native.core().resample
    pixels = np.ascontiguousarray(image if image.ndim == 3 else image[..., None])
    seen = function(pixels, inverse, height, width, factor, border == "repeat")
    return seen if image.ndim == 3 else seen[..., 0]


def _inverse(matrix) -> np.ndarray:
    """float64 [2, 3], output pixels -> picture pixels."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (2, 3):
        raise ValueError(f"matrix must be [2, 3], but is {describe(matrix)}")
    (a, b, tx), (c, d, ty) = matrix
    with np.errstate(all="ignore"):  # NaN and infinity fail the comparisons
        inverse = np.array([[d, -b, b * ty - d * tx], [-c, a, c * tx - a * ty]]) / (a * d - b * c)
    if not (np.abs(inverse) <= MAX_COORDINATE).all():
        raise ValueError(f"matrix must be finite and have an inverse with entries up to 1e15, but is {matrix.tolist()}")
    return inverse
