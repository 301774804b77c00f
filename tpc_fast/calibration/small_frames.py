"""Small driving frames, kept while a video is watched, so that it need not be decoded again for a preview."""

import numpy as np

PREVIEW_HEIGHT = 256  # of previews and of the report's pictures, at most: a quarter of the time that 512 takes
MOST_BYTES = 64 << 20  # of all frames: 11 s of squares at 30 a second; longer videos are decoded again


def preview_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a canvas as previews show it."""
    height, width = size
    scale = min(1.0, PREVIEW_HEIGHT / height)
    return round(height * scale), max(1, round(width * scale))


class SmallFrames:
    """The frames of a video at a small size: all of them, or none if they would take more than `MOST_BYTES`.

    Args:
        size: (height, width) of every frame.
    """

    def __init__(self, size: tuple[int, int]):
        self.size = size
        self._frames: list[np.ndarray] | None = []

    def add(self, frame: np.ndarray) -> bool:
        """Takes the next frame, uint8 [h, w, 3]; False if there are too many, and none are kept."""
        if self._frames is not None:
            self._frames.append(frame)
            if len(self._frames) * frame.nbytes > MOST_BYTES:
                self._frames = None
        return self._frames is not None

    def all(self, size: tuple[int, int], count: int) -> list[np.ndarray] | None:
        """All frames, if they are so many of that size."""
        frames = self._frames
        return frames if frames is not None and self.size == size and len(frames) == count else None
