"""The canvas: the output picture, and how a driving frame is laid onto it."""

import dataclasses

import numpy as np

from tpc_fast.media.images import scale

RESIZES = ("pad", "stretch")


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Where the pixels of a picture of `source` (height, width) land on a canvas of `size` (height, width).

    The picture covers whole pixels of the canvas: where it is padded, its sides are rounded to them.

    Attributes:
        size: of the canvas.
        source: of the picture.
        box: (left, top, right, bottom), the canvas pixels that show the picture; right and bottom are excluded.
    """

    size: tuple[int, int]
    source: tuple[int, int]
    box: tuple[int, int, int, int]

    @classmethod
    def fitting(cls, source: tuple[int, int], size: tuple[int, int], resize: str) -> "Canvas":
        """The canvas that shows all of the picture: "pad" keeps its aspect ratio and centres it, "stretch" fills."""
        (h, w), (height, width) = source, size
        if resize == "pad":
            ratio = min(height / h, width / w)
            inner_height, inner_width = max(1, round(h * ratio)), max(1, round(w * ratio))
        else:
            inner_height, inner_width = size
        left, top = (width - inner_width) // 2, (height - inner_height) // 2
        return cls(size, source, (left, top, left + inner_width, top + inner_height))

    def scaled(self, size: tuple[int, int]) -> "Canvas":
        """The same picture on a canvas of another size, to whole pixels."""
        down, across = size[0] / self.size[0], size[1] / self.size[1]
        left, right = (round(side * across) for side in self.box[::2])
        top, bottom = (round(side * down) for side in self.box[1::2])
        return Canvas(size, self.source, (left, top, max(left + 1, right), max(top + 1, bottom)))

    @property
    def matrix(self) -> np.ndarray:
        """[2, 3] float64, picture pixels -> canvas pixels; a picture's edges are half a pixel beyond outer centres."""
        left, top, right, bottom = self.box
        across, down = (right - left) / self.source[1], (bottom - top) / self.source[0]
        return np.array([[across, 0, left + (across - 1) / 2], [0, down, top + (down - 1) / 2]])

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Picture points [..., 2] -> canvas points."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]

    def draw(self, picture: np.ndarray) -> np.ndarray:
        """A picture uint8 [h, w, 3] or [h, w] on the canvas, scaled and antialiased; black where it is padded."""
        left, top, right, bottom = self.box
        inner = scale(picture, (bottom - top, right - left))
        if inner.shape[:2] == self.size:
            return inner
        canvas = np.zeros((*self.size, *picture.shape[2:]), np.uint8)
        canvas[top:bottom, left:right] = inner
        return canvas

    def valid_mask(self) -> np.ndarray:
        """uint8 canvas: 255 where it shows the picture, 0 where it is padding."""
        left, top, right, bottom = self.box
        mask = np.zeros(self.size, np.uint8)
        mask[top:bottom, left:right] = 255
        return mask
