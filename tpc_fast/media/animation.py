"""Pictures that move: animated WebP and PNG, which FFmpeg does not read as films, or not everywhere."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tpc_fast.media.images import open_picture
from tpc_fast.media.limits import LIMITS
from tpc_fast.media.reading import reading

_SUFFIXES = {".webp", ".png"}
_SHORTEST, _INSTEAD = 0.011, 0.1  # seconds: browsers show frames of 10 ms and less for 100 ms


class Animation:
    """The frames of an animated picture, decoded as they are asked for.

    Attributes:
        times: [F] float64, seconds.
        rate: frames per second, on average.

    Raises:
        ValueError: for more frames than `LIMITS.frames`, or a file that cannot be read.
    """

    def __init__(self, path: Path, frames: int, name: str):
        LIMITS.check("frames", frames, name)
        self._path, self._frames, self._name = path, frames, name
        seconds = []
        with reading(f"{name}: {path} cannot be read"), open_picture(path) as picture:
            for index in range(frames):
                picture.seek(index)
                picture.load()  # durations of WebP are known then
                seconds.append(picture.info.get("duration", 0) / 1000)
        seconds = np.array(seconds)
        seconds[seconds < _SHORTEST] = _INSTEAD
        self.times = np.concatenate([[0.0], np.cumsum(seconds)[:-1]])
        self.rate = float(frames / seconds.sum())

    def __len__(self) -> int:
        return self._frames

    def __iter__(self) -> Iterator[np.ndarray]:
        """Uint8 [H, W, 3] or [H, W, 4] each."""
        with reading(f"{self._name}: {self._path} cannot be read"), open_picture(self._path) as picture:
            for index in range(self._frames):
                picture.seek(index)
                mode = "RGBA" if picture.has_transparency_data else "RGB"
                yield np.asarray(picture.convert(mode))


def animation(path: Path, name: str) -> Animation | None:
    """The animation in a file; None for a picture that stands still, or is of another kind.

    Raises:
        As `Animation`.
    """
    if path.suffix.lower() not in _SUFFIXES:
        return None
    try:
        with open_picture(path) as picture:
            LIMITS.check("pixels", picture.width * picture.height, name)
            frames = getattr(picture, "n_frames", 1)
    except OSError:  # no picture: whoever loads it says so
        return None
    return Animation(path, frames, name) if frames > 1 else None
