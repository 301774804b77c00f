"""The estimate of `tpc_fast.ops.track` for streams: with every frame, a window of the past is estimated again.

What lies further back than the window becomes a prior of its first frames: the Schur complement. So memory and time
per frame are constant. The best path is searched over the whole window. This corrects a wrong first frame, a cut, or a
person who comes back elsewhere, once the new frames are worth more than a break (about three of them).
"""

import collections
import dataclasses
import math

import numpy as np

from tpc_fast import _checks, _native
from tpc_fast._dispatch import is_torch
from tpc_fast.naive import track_stream as naive_track_stream
from tpc_fast.ops.coco import SCORE_THRESHOLD
from tpc_fast.ops.procrustes import Array
from tpc_fast.ops.track import (
    EVERYWHERE,
    TORSO_SECONDS,
    Photo,
    Rates,
    Statuses,
    _backend,
    _edges,
    _keypoints,
    _threshold,
    native_photos,
    native_settings,
    of_head,
    settings_of,
    shows_torso,
)  # fmt: skip

MAX_LAG = 60  # frames: a second or two; it lies within the window


@dataclasses.dataclass(frozen=True)
class TrackStep:
    """The estimate of one frame of a stream. Without a P axis in, there is none here.

    Attributes:
        frame: its number since the start, or the last reset; time: its time.
        matrix: [P, 2, 3]; side: [P]; information: [P, 3]; weights: [P, K]; residual, size: [P]; see `Track`. (Of torsos
            within `TORSO_SECONDS`, a stream knows those before.)
        breaks: [P] bool, whether the person is somewhere else than in the estimate before (a cut, a corrected mistake).
        status: [P] of strings, see `Track.statuses`.
    """

    frame: int
    time: float
    matrix: Array
    side: Array
    information: Array
    weights: Array
    residual: Array
    size: Array
    breaks: Array
    status: np.ndarray


class TrackEstimator:
    """Estimates the track of one or several persons frame after frame, in constant memory; deterministic."""

    def __init__(
        self,
        reference: Array,
        *,
        reference_scores: Array | None = None,
        score_threshold: float = SCORE_THRESHOLD,
        rates: Rates | None = None,
        subset: str = "optimal",
        lag: int = 0,
        hold_seconds: float = 1.0,
        backend: str | None = None,
    ):
        """Takes the photo's persons.

        Args:
            reference, reference_scores, score_threshold, rates, subset, backend: as in `estimate_track`.
            lag: by how many frames an estimate comes later: it takes these frames into account, and is steadier.
            hold_seconds: see `Track.statuses`.

        Raises:
            TypeError, ValueError, RuntimeError: as `estimate_track`; a lag that is not an integer from 0 to 60.
        """
        if isinstance(lag, bool) or not isinstance(lag, int) or not 0 <= lag <= MAX_LAG:
            raise ValueError(f"lag must be an integer from 0 to {MAX_LAG}, but is {lag!r}")
        if not isinstance(hold_seconds, int | float) or not hold_seconds >= 0:
            raise ValueError(f"hold_seconds must be a number >= 0, but is {hold_seconds!r}")
        self.settings, self.threshold = settings_of(subset), _threshold(score_threshold)
        self.rates = rates if rates is not None else Rates()
        if not isinstance(self.rates, Rates):
            raise TypeError(f"rates must be a Rates, but is {_checks.describe(rates)}")
        backend = _backend(reference, backend)
        x, scores, seen = _keypoints(
            reference, reference_scores, "reference", "[P, K, 2] or [K, 2]", (2, 3), reference, self.threshold
        )
        self.lag, self.hold_seconds, self._single, self._first = lag, hold_seconds, x.ndim == 2, reference
        if self._single:
            x, scores, seen = x[None], scores[None], seen[None]
        self.photos = [Photo.of(*row, self.settings) for row in zip(x, scores, seen, strict=True)]
        if backend == "cpu":
            settings = native_settings(self.settings, self.rates)
            self._streams = _native.core().TrackStreams(settings, *native_photos(self.photos), lag)
        else:
            self._streams = naive_track_stream.Streams(self.photos, self.settings, self.rates, lag)
        self.reset()

    def reset(self) -> None:
        """Forgets the past: the next frame is the first."""
        self._streams.reset()
        self._states, self._time, self._count = Statuses(len(self.photos)), -math.inf, 0
        self._torso_time = np.full(len(self.photos), -math.inf)  # when one was seen last
        self._times: collections.deque[float] = collections.deque(maxlen=self.lag + 1)  # of the last frames

    def step(self, keypoints: Array, scores: Array | None, time: float, picture=None) -> TrackStep | None:
        """Takes the next frame.

        Args:
            keypoints: [P, K, 2] (or [K, 2]) pixels of the frame, NaN where missing; scores: [P, K], ones if None.
            time: seconds, not before that of the frame before.
            picture: the edges of what the camera shows, see `estimate_track`; None: unknown.

        Returns:
            The estimate of the frame `lag` before this one; None as long as there is none.

        Raises:
            TypeError, ValueError: as `estimate_track`.
        """
        dims, shape = (2, "[K, 2]") if self._single else (3, "[P, K, 2]")
        y, ys, seen = _keypoints(keypoints, scores, "keypoints", shape, (dims,), self._first, self.threshold)
        if self._single:
            y, ys, seen = y[None], ys[None], seen[None]
        if len(y) != len(self.photos):
            raise ValueError(
                f"keypoints must have the {len(self.photos)} persons of reference, but is {_checks.describe(keypoints)}"
            )
        if not _checks.is_finite(time):
            raise ValueError(f"time must be a finite number of seconds, but is {time!r}")
        if time < self._time:
            raise ValueError(f"time must not decrease, but goes from {self._time} to {time}")
        edges = _edges(picture) or EVERYWHERE
        self._time, self._count = float(time), self._count + 1
        self._times.append(self._time)
        found = self._streams.step(self._time, y, ys, seen, edges)
        return self._read(found, self.lag) if self._count > self.lag else None

    def flush(self) -> list[TrackStep]:
        """The estimates of the last `lag` frames, at the end of a stream."""
        backs = range(min(self.lag, self._count) - 1, -1, -1)
        return [self._read(self._streams.at(back), back) for back in backs]

    def _read(self, found, back: int) -> TrackStep:
        side, breaks, size, residual, _, information, robust, matrix = found
        time = self._times[-1 - back]
        self._torso_time[shows_torso(robust)] = time
        information = of_head(information, robust, time - self._torso_time <= TORSO_SECONDS)
        status = self._states.step(information, time, self.hold_seconds)
        arrays = (matrix, side, information, robust, residual, size, breaks)
        if self._single:
            arrays, status = [array[0] for array in arrays], status[0]
        if is_torch(self._first):
            arrays = [_checks.like(np.asarray(array), self._first) for array in arrays]
        return TrackStep(self._count - 1 - back, time, *arrays, status)
