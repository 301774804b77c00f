"""The live view: frames of a visitor's camera in, the photo's persons over them out."""

import threading
import time
from pathlib import Path

import numpy as np

from tpc_fast.app.work import explain
from tpc_fast.calibration.stream import Calibrator
from tpc_fast.output.live_view import beside, over

VIEWS = ("over the camera", "beside it", "alone")
_APART = 1e-4  # seconds between two frames, at least
_SIZE = 384  # of the canvas, pixels: what a page shows of a camera


class Live:
    """One visitor's stream.

    Args:
        photo: the file.
        size: of the canvas.
    """

    def __init__(self, photo: Path, size: int = _SIZE, **options):
        self._calibrator = Calibrator(photo, size=size, **options)
        self._lock = threading.Lock()
        self._shape, self._last, self._began = None, -1.0, time.perf_counter()
        self.used = time.monotonic()

    def step(self, frame: np.ndarray, view: str = VIEWS[0]) -> np.ndarray:
        """What to show of a frame uint8 [H, W, 3]; uint8 [h, w, 3].

        Raises:
            ValueError: for a view that is none of `VIEWS`.
        """
        if view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}, but is {view!r}")
        with self._lock:
            self.used = time.monotonic()
            if self._shape not in (None, frame.shape[:2]):  # the camera was turned, or is another
                self._calibrator.reset()
                self._last = -1.0
            self._shape = frame.shape[:2]
            self._last = max(time.perf_counter() - self._began, self._last + _APART)
            found = self._calibrator.step(frame, self._last)
            camera = self._calibrator.canvas.draw(frame)
        if view == VIEWS[2]:
            return over(np.zeros_like(camera), found.image, found.mask, found.order)
        if view == VIEWS[1]:
            return beside(camera, over(np.zeros_like(camera), found.image, found.mask, found.order))
        return over(camera, found.image, found.mask, found.order)

    def close(self) -> None:
        """Frees the detector."""
        with self._lock:
            self._calibrator.close()


class Lives:
    """The live views of all visitors, one each.

    Args:
        most: how many there may be at a time; the one that was not used for the longest time makes room.
    """

    def __init__(self, most: int = 2):
        self.most = most
        self._views: dict[str, tuple[Path, Live]] = {}
        self._lock = threading.Lock()

    def step(self, visitor: str, photo: Path, frame: np.ndarray, view: str) -> np.ndarray:
        """As `Live.step`, of the visitor's view of a photo, which is made if there is none.

        Raises:
            As `Calibrator`, for a photo in which nobody is found.
        """
        with self._lock:
            known, live = self._views.get(visitor, (None, None))
            if known != photo:
                if live is not None:
                    del self._views[visitor]
                    live.close()
                if len(self._views) >= self.most:
                    oldest = min(self._views, key=lambda one: self._views[one][1].used)
                    self._views.pop(oldest)[1].close()
                live = Live(photo)
                self._views[visitor] = photo, live
        return live.step(frame, view)

    def explain(self, error: Exception, photo: Path) -> str:
        """An error in words that name no folder of this machine."""
        return explain(error, photo.parent)

    def leave(self, visitor: str) -> None:
        """Ends a visitor's view."""
        with self._lock:
            _, live = self._views.pop(visitor, (None, None))
        if live is not None:
            live.close()

    def close(self) -> None:
        """Ends all."""
        for visitor in list(self._views):
            self.leave(visitor)
