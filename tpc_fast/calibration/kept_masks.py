"""Masks of a long video in little memory: deflated frame by frame, an array to whoever reads them."""

from collections.abc import Iterable

import numpy as np

_LEVEL = (
    1  # of igzip: 33 kB of a frame of 512 x 512 become 1 in 20 us, as zlib's takes 100; 3 takes 140 for a tenth less
)


class KeptMasks:
    """Bits of masks uint8 [F, P, bytes], as `numpy.packbits` makes them.

    It is indexed as the array is, by frames first, and gives arrays; `numpy.asarray` makes the whole of it.

    Args:
        frames: an array [P, bytes] for each frame.
    """

    dtype, ndim = np.dtype(np.uint8), 3

    def __init__(self, frames: Iterable[np.ndarray]):
        from isal import isal_zlib

        self._frames, self._frame_shape = [], (0, 0)
        for frame in frames:
            self._frame_shape = frame.shape
            self._frames.append(isal_zlib.compress(np.ascontiguousarray(frame), _LEVEL))

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self), *self._frame_shape

    def __len__(self) -> int:
        return len(self._frames)

    def _frame(self, index: int) -> np.ndarray:
        from isal import isal_zlib

        return np.frombuffer(bytearray(isal_zlib.decompress(self._frames[index])), np.uint8).reshape(self._frame_shape)

    def __getitem__(self, index) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        chosen = np.arange(len(self))[first]
        frames = np.empty((chosen.size, *self._frame_shape), np.uint8)
        for place, frame in zip(frames, chosen.flat, strict=True):
            place[:] = self._frame(frame)
        frames = frames.reshape(*chosen.shape, *self._frame_shape)
        return frames[(slice(None),) * chosen.ndim + tuple(rest)]

    def __iter__(self):
        return map(self._frame, range(len(self)))

    def every(self, step: int) -> "KeptMasks":
        """Of every `step`-th frame alone."""
        taken = KeptMasks(())
        taken._frames, taken._frame_shape = self._frames[::step], self._frame_shape
        return taken

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:].astype(dtype or np.uint8, copy=False)
