"""How much a frame differs from the one before, and whether that is a hard cut, as far as pictures tell.

PySceneDetect does this well, but needs OpenCV, and opens the video itself (a second decoding); what it compares
(`ContentDetector`: mean difference of hue, saturation and luma) is twenty lines.
"""

import collections
import dataclasses

import numpy as np

from tpc_fast import _checks

GRID = 16  # a picture is compared as so many times as many cells: where things are, but not small motion
BINS = 32  # of the histogram of brightness
_EDGES = np.linspace(-128, 128, BINS + 1)[1:-1]  # between them; what lies beyond the ends is in the outermost
# A cut differs 4 times as much as is usual around it (PySceneDetect's AdaptiveDetector: 3) and by a tenth at least (its
# ContentDetector: 27 of 255); where it differs 10 times as much, keypoints need not confirm it.
TIMES_USUAL, TIMES_SURE, AROUND_SECONDS = 4.0, 10.0, 0.5
AROUND_FRAMES = 12  # before a frame of a stream, whose rate is not known: so long at 24 a second
PICTURE_LEAST = 0.10


@dataclasses.dataclass
class PictureDifference:
    """How much a frame's picture differs from the one before, one frame at a time.

    Half is the mean difference of 16 x 16 cells of brightness (1: half the range), half the distance of the histograms
    of brightness. Both after the means are taken away: a flash is no cut. Reads 4096 pixels of a picture of any size.
    """

    _before: tuple[np.ndarray, np.ndarray] | None = None  # cells without their mean, and their histogram

    def step(self, frame: np.ndarray) -> float:
        """Takes a frame, uint8 [H, W, 3] or [H, W]; returns its difference in 0..1, 0 for the first.

        Raises:
            TypeError, ValueError: for anything else.
        """
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
            raise TypeError(f"frame must be a uint8 array, but is {_checks.describe(frame)}")
        if frame.ndim not in (2, 3) or (frame.ndim == 3 and frame.shape[2] != 3) or frame.size == 0:
            raise ValueError(f"frame must be [H, W, 3] or [H, W], but is {_checks.describe(frame)}")
        cells = _brightness(frame)
        cells = cells - cells.mean()
        counts = np.bincount(np.searchsorted(_EDGES, cells.ravel(), "right"), minlength=BINS)
        before, self._before = self._before, (cells, counts / cells.size)
        if before is None:
            return 0.0
        layout = np.abs(cells - before[0]).mean() / 128
        change = np.abs(np.cumsum(self._before[1] - before[1])).mean()
        return float(min(layout / 2 + change / 2, 1.0))

    def reset(self) -> None:
        """Forgets the last frame."""
        self._before = None


def stands_out(difference: float, others: np.ndarray, times_usual: float = TIMES_USUAL) -> bool:
    """Whether a picture differs from the one before as none of the `others` around it does."""
    usual = np.median(others) if len(others) else 0.0
    return bool(difference >= max(PICTURE_LEAST, times_usual * usual) and not (others > difference).any())


class CutWatch:
    """The picture's part of `find_cuts` for a stream, in which the frames after are not known yet.

    It suffices where whoever was followed is gone: there keypoints need not confirm a cut.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forgets all frames."""
        self._difference = PictureDifference()
        self._others: collections.deque[float] = collections.deque(maxlen=AROUND_FRAMES)
        self._shape: tuple[int, ...] | None = None

    def step(self, frame: np.ndarray) -> bool:
        """Takes a frame, as `PictureDifference.step` does; returns whether a new shot begins with it."""
        if self._shape != frame.shape:
            self.reset()
            self._shape = frame.shape
            self._difference.step(frame)
            return False
        difference, others = self._difference.step(frame), np.array(self._others)
        self._others.append(difference)
        return stands_out(difference, others)


def _brightness(frame: np.ndarray) -> np.ndarray:
    """Mean luma [GRID, GRID] of cells, of every eighth pixel or so: a cut is seen in a few thousand of them."""
    height, width = frame.shape[:2]
    rows, columns = (
        np.arange(n) * size // n for n, size in ((min(height, 4 * GRID), height), (min(width, 4 * GRID), width))
    )
    some = frame.take(rows, 0).take(columns, 1).astype(np.float32)  # a third of the time of both at once
    luma = some @ np.array([0.299, 0.587, 0.114], np.float32) if some.ndim == 3 else some  # BT.601
    edges = [np.arange(GRID) * n // GRID for n in luma.shape]
    sums = np.add.reduceat(np.add.reduceat(luma, edges[0], 0), edges[1], 1)
    counts = [np.maximum(np.diff([*e, n]), 1) for e, n in zip(edges, luma.shape, strict=True)]
    return sums / np.outer(*counts)
