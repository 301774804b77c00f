"""The mark on videos of small random weights, which show nothing but that the path works."""

import numpy as np

_STRIPE = np.array([[230, 120, 0], [20, 20, 20]], np.uint8)


def watermark(size: tuple[int, int]) -> np.ndarray:
    """Warning stripes above and below, and words if there is room.

    Args:
        size: (height, width) in pixels.

    Returns:
        uint8 [h, w, 4], RGB and alpha: 0 where nothing is drawn.
    """
    from PIL import Image, ImageDraw

    height, width = size
    mark = np.zeros((height, width, 4), np.uint8)
    band = max(3, height // 16)
    y, x = np.mgrid[:height, :width]
    mark[..., :3] = _STRIPE[(x + y) // band % 2]
    mark[:band, :, 3] = mark[-band:, :, 3] = 255
    picture = Image.fromarray(mark)
    pen, words, place = ImageDraw.Draw(picture), "RANDOM WEIGHTS", (width // 2, band + 4)
    left, top, right, bottom = pen.textbbox(place, words, anchor="ma")
    pen.rectangle((left - 3, top - 3, right + 3, bottom + 3), (20, 20, 20, 255))
    pen.text(place, words, (255, 150, 20, 255), anchor="ma")
    return np.asarray(picture)
