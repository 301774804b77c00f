"""Whether the person in a frame of a video can be the one who was seen in a frame before."""

import collections

import numpy as np

from tpc_fast.ops.track import STANDING
from tpc_fast.pose import keypoints as coco

# Person sizes by which somebody may be elsewhere after a frame, and after every frame more without being seen; by what
# factor the size may have changed.
REACH, REACH_PER_FRAME, GROWTH = 1.5, 0.1, 1.6
# How far people get within a frame of 24 a second at most, in person sizes and log of size: the fastest run moves them
# by a quarter.
STEP = 0.35
# Of so many frames in which the person was seen the median size counts: the frames before a loss are those in which
# keypoints drift.
SIZES = 15
# A change that is taken back within fewer frames was the network's mistake: in five of 32 public pairs it saw a person
# in place, but half as large, for one or two frames.
LASTS = 4
_PLACE = [*coco.FACE, *coco.TORSO]  # limbs move
_IN_FACE = np.isin(np.arange(coco.COUNT), coco.FACE)
# Pairs of these, and how far apart they are in somebody who stands, in person sizes.
_FROM, _TO = np.array(_PLACE)[np.array(np.triu_indices(len(_PLACE), 1))]
_LENGTHS = abs(STANDING[_FROM] - STANDING[_TO])


class LastSeen:
    """Where one person was seen last, how large of late, and how many frames ago.

    Attributes:
        gap: frames since then, 1 for the next; None if nobody was ever seen.
    """

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        """Nobody was ever seen."""
        self.gap: int | None = None
        self._centre: np.ndarray | None = None
        self._last: tuple[np.ndarray, np.ndarray] | None = None  # all keypoints, and their scores
        self._sizes: collections.deque[float] = collections.deque(maxlen=SIZES)

    @property
    def keypoints(self) -> np.ndarray | None:
        """[N, 2] pixels, those that were seen then; None if nobody was ever seen."""
        if self._last is None:
            return None
        keypoints, scores = self._last
        return keypoints[_seen(keypoints, scores)]

    def wait(self, frames: int) -> None:
        """So many frames pass in which nobody looks."""
        if self.gap is not None:
            self.gap += frames

    def fits(self, keypoints: np.ndarray, scores: np.ndarray) -> bool:
        """Whether [17, 2] with scores [17] can be the same person now; so can be whom too little is seen of to tell."""
        seen = _where(keypoints, scores)
        if self.gap is None or seen is None:
            return True
        centre, size = seen
        reach = REACH + REACH_PER_FRAME * (self.gap - 1)
        usual = np.median(self._sizes)
        away = np.hypot(*(centre - self._centre)) / usual
        return bool(away <= reach and abs(np.log(size / usual)) <= np.log(GROWTH) * (1 + (self.gap - 1) / 30))

    def continues(self, keypoints: np.ndarray, scores: np.ndarray) -> bool:
        """Whether [17, 2] with scores [17] is where the person of the frame before was, and as large, or the face is.

        Who bends, or jumps, becomes half as large as usual (`fits` says no), but not within a frame. Where the picture
        ends below the chin, shoulders that are guessed for some frames make the person half as large, but not the face.
        """
        seen = _where(keypoints, scores)
        if self.gap != 1 or seen is None:
            return False
        if _change((self._centre, self._sizes[-1]), seen) <= STEP:
            return True
        before, now = _face(*self._last), _face(keypoints, scores)
        return before is not None and now is not None and _change(before, now) <= STEP

    def step(self, keypoints: np.ndarray, scores: np.ndarray) -> None:
        """The next frame: the person [17, 2], NaN where missing, with scores [17], or [0, 17, 2] and [0, 17]."""
        seen = _where(keypoints, scores) if len(scores) else None
        if seen is not None:
            # Copies: a caller may fill the same arrays again.
            self._centre, self.gap, self._last = seen[0], 1, (keypoints.copy(), scores.copy())
            self._sizes.append(seen[1])
        elif self.gap is not None:
            self.gap += 1


class PersonChanges:
    """From which frames on somebody else is seen, or the same person elsewhere, where one person is followed.

    A change is told when it has lasted for `LASTS` frames.
    """

    def __init__(self):
        self._last = LastSeen()
        self._before: LastSeen | None = None  # who was seen before a change that may still be a mistake
        self._changed = 0  # the frame of that change

    def step(self, frame: int, keypoints: np.ndarray, scores: np.ndarray) -> int | None:
        """The next frame, else as `LastSeen.step`: the number of the frame of a change that is told now, or None."""
        there, told = len(scores) > 0, None
        if self._before is not None:
            if there and _where(keypoints, scores) is not None and self._before.fits(keypoints, scores):
                self._last, self._before = self._before, None
            elif frame - self._changed >= LASTS:
                told, self._before = self._changed, None
            else:
                self._before.step(keypoints[:0], scores[:0])
        if there and not (self._last.fits(keypoints, scores) or self._last.continues(keypoints, scores)):
            if self._before is None:
                self._before, self._changed = self._last, frame
                self._before.step(keypoints[:0], scores[:0])
            self._last = LastSeen()  # from here on this one is compared with
        self._last.step(keypoints, scores)
        return told


def _seen(keypoints, scores) -> np.ndarray:
    return np.isfinite(keypoints).all(-1) & (scores >= coco.SCORE_THRESHOLD)


def _where(keypoints, scores) -> tuple[np.ndarray, float] | None:
    """The middle of head and torso, and the person's size, in pixels; None if too little is seen."""
    seen = _seen(keypoints, scores)
    place = [k for k in _PLACE if seen[k]]
    if len(place) < 3:
        return None
    size = _size(keypoints, seen)
    return (keypoints[place].mean(0), size) if size > 0 else None


def _face(keypoints, scores) -> tuple[np.ndarray, float] | None:
    """`_where` by the face alone."""
    return _where(keypoints, np.where(_IN_FACE, scores, 0))


def _change(before: tuple[np.ndarray, float], now: tuple[np.ndarray, float]) -> float:
    """Person sizes moved, and log of size."""
    return float(np.hypot(*(now[0] - before[0])) / before[1] + abs(np.log(now[1] / before[1])))


def _size(keypoints, seen) -> float:
    """How many times as large as a standing person of size 1: the median of the pairs' ratios, weighted by length.

    As the track measures it (`naive.track.pair_ratio`). A box around the upper body is no measure: it grows with arms
    that are spread, and shrinks to a third of its area in profile.
    """
    apart = keypoints[_FROM] - keypoints[_TO]
    both = seen[_FROM] & seen[_TO]
    ratios, lengths = np.sqrt((apart[both].astype(np.float64) ** 2).sum(-1)) / _LENGTHS[both], _LENGTHS[both]
    order = np.argsort(ratios)
    total = np.cumsum(lengths[order])
    return float(ratios[order[np.searchsorted(total, total[-1] / 2)]])
