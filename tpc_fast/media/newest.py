"""Live sources: the newest frame wins, and those that nobody had time for are dropped, never queued."""

import threading
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tpc_fast.media.video import VideoFrame

_LEAVE_SECONDS = 1.0  # how long a source that blocks is waited for at the end; its thread dies with the process


class LiveFrame(NamedTuple):
    """A frame of a live source.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        time: seconds, of the source.
        arrived: when it came, by `time.perf_counter`.
    """

    image: np.ndarray
    time: float
    arrived: float


class NewestFrame:
    """Runs through a source in a thread of its own, and keeps the newest frame only; a context manager.

    Args:
        frames: what gives `VideoFrame`s as they come: a `Camera`, or `paced(VideoReader(...))`.

    Attributes:
        dropped: how many frames came and were replaced by newer ones before anybody took them.
    """

    def __init__(self, frames: Iterable[VideoFrame]):
        self.dropped, self._frames = 0, frames
        self._newest, self._error, self._ended = None, None, False
        self._changed, self._stop = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tpc_fast.newest", daemon=True)
        self._thread.start()

    def _run(self):
        try:
            for frame in self._frames:
                if self._stop.is_set():
                    break
                with self._changed:
                    self.dropped += self._newest is not None
                    self._newest = LiveFrame(frame.image, frame.time, time.perf_counter())
                    self._changed.notify()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def take(self, timeout: float | None = None) -> LiveFrame | None:
        """The newest frame that was not taken yet; None if none comes within so many seconds.

        Raises:
            EOFError: when the source has ended, and its last frame was taken.
            Exception: what the source raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended, timeout)
            frame, self._newest = self._newest, None
            if frame is None and self._ended:
                if self._error is not None:
                    raise self._error
                raise EOFError("the source has ended")
        return frame

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join(_LEAVE_SECONDS)

    def __enter__(self) -> "NewestFrame":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def paced(frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    """The frames of a file at the times at which a camera would have given them."""
    started = first = None
    for frame in frames:
        now = time.perf_counter()
        if started is None:
            started, first = now, frame.time
        time.sleep(max(0.0, frame.time - first - (now - started)))
        yield frame
