"""A thread of its own for the detector, which never makes the caller wait: of the frames that wait, the newest wins."""

import collections
import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tpc_fast.pose.detect.detection import Detection


class Look(NamedTuple):
    """A frame that was looked at: its picture, its time in seconds, and whoever is in it."""

    image: np.ndarray
    time: float
    detection: Detection


class _State:
    """What both threads share; the caller's side can vanish while the other still looks."""

    def __init__(self):
        self.changed = threading.Condition()
        self.waiting: tuple[np.ndarray, float] | None = None
        self.done: collections.deque = collections.deque()  # a `Look`, or (time, error)
        self.busy = self.closed = False


class Watcher:
    """Looks at frames in a thread of its own.

    `submit` and `take` return at once; `reset` and `close` wait for the look that is under way. The thread begins with
    the first frame and ends with `close`, or when the watcher is no longer used.
    """

    def __init__(self, look: Callable[[np.ndarray], Detection]):
        """Takes what looks at a picture; it is called in one other thread alone."""
        self._look, self._state, self._thread = look, _State(), None
        weakref.finalize(self, _stop, self._state)

    def submit(self, image: np.ndarray, time: float) -> None:
        """The next frame, of which a copy is kept; the one that still waits is dropped.

        Raises:
            ValueError: if this is closed.
        """
        state, image = self._state, image.copy()
        with state.changed:
            if state.closed:
                raise ValueError("the calibrator is closed: make another one")
            state.waiting = image, time
            state.changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(
                target=_run, args=(self._state, self._look), name="tpc_fast detector", daemon=True
            )
            self._thread.start()

    def take(self) -> list[Look]:
        """The frames that were looked at since the last call, in order.

        Raises:
            RuntimeError: if the detector failed on one of them, once for each; the others are given by the next call.
        """
        looks = []
        with self._state.changed:
            done = self._state.done
            while done and isinstance(done[0], Look):
                looks.append(done.popleft())
            if looks or not done:
                return looks
            time, error = done.popleft()
        raise RuntimeError(f"the detector failed on the frame at {time:g} s: {error!r}") from error

    def reset(self) -> None:
        """Forgets the frames before."""
        state = self._state
        with state.changed:
            state.waiting = None
            state.changed.wait_for(lambda: not state.busy)
            state.done.clear()

    def close(self) -> None:
        """Ends the thread."""
        _stop(self._state)
        if self._thread is not None:
            self._thread.join()


def _stop(state: _State) -> None:
    with state.changed:
        state.closed, state.waiting = True, None
        state.changed.notify_all()


def _run(state: _State, look) -> None:
    while True:
        with state.changed:
            state.changed.wait_for(lambda: state.closed or state.waiting is not None)
            if state.closed:
                return
            (image, time), state.waiting, state.busy = state.waiting, None, True
        try:
            result = Look(image, time, look(image))
        except BaseException as error:  # is the caller's
            result = time, error
        with state.changed:
            state.done.append(result)
            state.busy = False
            state.changed.notify_all()
        del image, result
