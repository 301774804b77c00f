"""Who is who: driving persons keep their numbers over time, and reference persons get a driving person each.

Keypoints decide: where a person is expected, how large, in what pose. Who was out of sight, or seems to have leapt, is
known by the colours of the torso, too (see `torso_colours`). All points are pixels of the driving
frames, of any size: distances count in person sizes.
"""

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tpc_fast import naive
from tpc_fast.ops import people
from tpc_fast.ops.procrustes import UPPER_BODY
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.appearance import ALIKE, COLOUR_SHARE, COUNT, UNLIKE, colour_distances

REACH, REACH_PER_SECOND = 1.0, 2.0  # person sizes within which a person is expected, and how that grows with a gap
COAST_SECONDS = 1.5  # a person out of sight is expected to slow down with this time constant
VELOCITY_SECONDS = 0.1  # time constant of the smoothed velocity
SIZE_SECONDS = 0.3  # of the smoothed size
OVERLAP, SIZE, GAP = 0.5, 0.5, 0.3  # cost of no overlap, of a size e times as large, of a second out of sight
FORGET_SECONDS = 10.0  # after which somebody whom no reference person follows is forgotten
RELEASE_SECONDS = 1.0  # after which the role of somebody out of sight goes to who is there: a person is held so long
MIN_POINTS, GOOD_POINTS = 2, 4  # of a person who can be followed; of one who is seen well

# Who is unlike is not the same after so long out of sight, or so far from where it is expected (person sizes): within
# these somebody may be covered by another for some frames.
DOUBT_SECONDS, DOUBT_REACH = 0.5, 0.5

METHODS = ("auto", "left-to-right", "columns")
_IMPOSSIBLE = 1e6  # a cost that no sum of possible ones reaches
_PRICES = (REACH, REACH_PER_SECOND, COAST_SECONDS, OVERLAP, SIZE, GAP, _IMPOSSIBLE)  # of naive.pair_costs


def check_match(match):
    """`match` option -> one of METHODS, or pairs ((reference person, driving person), ...).

    Raises:
        ValueError, TypeError: if it is neither, or a person is named twice.
    """
    if isinstance(match, str):
        if match in METHODS:
            return match
        raise ValueError(f"match must be one of {', '.join(METHODS)} or pairs of persons, but is {match!r}")
    try:
        pairs = tuple((int(a), int(b)) for a, b in (match.items() if isinstance(match, dict) else match))
        whole = all(int(n) == n and 0 <= n <= sys.maxsize for pair in pairs for n in pair)
    except (TypeError, ValueError, OverflowError, np.ma.MaskError):
        raise TypeError(f"match must be one of {', '.join(METHODS)} or pairs of persons, but is {match!r}") from None
    if not pairs or not whole or any(len(set(side)) < len(pairs) for side in zip(*pairs, strict=True)):
        raise ValueError(f"match must be pairs of numbers from 0, each person once, but is {match!r}")
    return pairs


def _assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs with the least sum of costs; without those that are impossible."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(cost)
    possible = cost[rows, columns] < _IMPOSSIBLE
    return (rows, columns) if possible.all() else (rows[possible], columns[possible])


class _Known(NamedTuple):
    """Who is known, T persons, as `naive.follow` has it: pixels and seconds."""

    points: np.ndarray  # [T, 17, 2], where each keypoint was, moved along when it is not seen
    known: np.ndarray  # [T, 17], which were ever seen
    velocity: np.ndarray  # [T, 2]
    last: np.ndarray  # [T], when each person was seen
    bounds: np.ndarray  # [T, 5]

    @classmethod
    def nobody(cls) -> "_Known":
        count = coco.COUNT
        return cls(np.zeros((0, count, 2)), np.zeros((0, count), bool), np.zeros((0, 2)), np.zeros(0), np.zeros((0, 5)))


def _centre(bounds: np.ndarray) -> np.ndarray:
    """[N, 2] of bounds [N, 5]."""
    return (bounds[:, :2] - bounds[:, 2:4]) / 2


class IdentityTracker:
    """Numbers driving persons, and knows them again: through crossings, short absences, and when they come back.

    Every known person is expected to go on moving as before. Detections are paired with expected persons so that the
    sum of the distances of keypoints, boxes and sizes is smallest. Left and right labels may be exchanged. A pair
    farther apart than a person can get is not allowed. If nobody is where anybody is expected (a cut), layout and size
    alone decide. Where colours of clothes are known, a person in other colours never takes over a number, and one who
    comes back in the same colours keeps it.

    A new person gets the number of its column in the frame, or if that is in use the next free one.

    Why no library: Norfair (norfair-enough 2.4.3) was tried on 24 clips like those of the tests and the benchmark, at
    30 and at 6 frames a second. Numbers changed 263 and 181 times with its keypoint voting, 34 and 25 times with a mean
    distance. They changed 5 and 19 times with a distance written for this (in person sizes, sides exchanged or not).
    Here they never change, in a fifteenth of the time. Box trackers (ByteTrack) see no pose.
    """

    def __init__(self):
        self._operations = people
        self.reset()

    def reset(self) -> None:
        """Forgets everybody."""
        self.numbers = np.zeros(0, int)  # of the T persons who are known
        self._people = _Known.nobody()
        self._colours = np.zeros((0, COUNT))

    def step(
        self,
        points: np.ndarray,
        seen: np.ndarray,
        time: float,
        keep: Sequence[int] = (),
        colours: np.ndarray | None = None,
    ) -> np.ndarray:
        """The track number of each detected person, [D]. -1: no visible keypoint, or only one and no track that fits.

        Args:
            points: [D, 17, 2] pixels, finite where seen.
            seen: [D, 17] bool.
            time: seconds, increasing.
            keep: numbers of who is not to be forgotten, however long the absence.
            colours: [D, COUNT] of `torso_colours`, NaN where unknown; or None.
        """
        self._forget(time, keep)
        ids = np.full(len(points), -1)
        points, seen = np.ascontiguousarray(points, np.float64), np.ascontiguousarray(seen)
        bounds = self._operations.person_bounds(points, seen, UPPER_BODY.stop)
        shown = [d for d, left in enumerate(bounds[:, 0].tolist()) if left < np.inf]  # few: faster than arrays
        if not shown:
            return ids
        shown = np.array(shown)
        if len(shown) < len(points):
            points, seen, bounds = points[shown], seen[shown], bounds[shown]
        colours = None if colours is None else colours[shown]
        frame = points, seen, bounds, time, coco.MIRRORED, GOOD_POINTS
        found = shown[:0]
        if len(self.numbers):
            apart = None if colours is None else colour_distances(self._colours, colours)
            tracks, found, exchanged = self._pair(frame, apart)
            self._operations.follow(*self._people, *frame, tracks, found, exchanged, VELOCITY_SECONDS, SIZE_SECONDS)
            if apart is not None:
                back, seen_again = self._recognise(apart, tracks, found)
                for t, d in zip(back, seen_again, strict=True):
                    self._put(t, points[d], seen[d], bounds[d], time)
                tracks, found = np.append(tracks, back), np.append(found, seen_again)
                self._learn(colours, apart, tracks, found)
            ids[shown[found]] = self.numbers[tracks]
        if len(found) < len(shown):
            new = np.setdiff1d(np.arange(len(shown)), found)
            for d in new[seen[new].sum(-1) >= MIN_POINTS]:
                known = None if colours is None else colours[d]
                ids[shown[d]] = self._add(int(shown[d]), points[d], seen[d], bounds[d], time, known)
        return ids

    def _pair(self, frame, apart):
        """Indices of known and of seen persons who are the same, and whether sides are exchanged between them."""
        distances, cost = self._operations.pair_costs(*self._people, *frame, _PRICES)
        others = np.zeros(cost.shape, bool)  # who wear something else
        if apart is not None:
            unlike = apart > UNLIKE
            away = (frame[3] - self._people.last > DOUBT_SECONDS)[:, None]
            away = away | (distances.min(-1) > DOUBT_REACH * np.exp(frame[2][:, 4]))
            others = unlike & away
            cost = np.where(others, _IMPOSSIBLE, cost)
        if others.all() or (apart is not None and cost.min() >= _IMPOSSIBLE and (apart < ALIKE).any()):
            tracks = found = np.zeros(0, int)  # colours say who is who, see `_recognise`
        elif cost.size == 1:
            tracks = found = np.zeros(1, int)
        elif cost.min() < _IMPOSSIBLE:
            tracks, found = _assign(cost)
        else:
            bounds = frame[2]
            unit = np.exp(bounds[:, 4].mean())
            both = self._people.bounds, bounds
            tracks, found = _similar_layout(*(np.column_stack([_centre(b) / unit, b[:, 4]]) for b in both))
            same = ~others[tracks, found]
            tracks, found = tracks[same], found[same]
        as_named, exchanged = distances[tracks, found].T
        return tracks, found, exchanged < as_named

    def _recognise(self, apart, tracks, found) -> np.ndarray:
        """[2, N] known and seen persons who are in no pair, and are alike: the most alike first."""
        left = np.where(np.isnan(apart), np.inf, apart)
        left[tracks], left[:, found] = np.inf, np.inf
        pairs = []
        while left.size and left.min() < ALIKE:
            t, d = np.unravel_index(np.argmin(left), left.shape)
            left[t], left[:, d] = np.inf, np.inf
            pairs.append((int(t), int(d)))
        return np.array(pairs, int).reshape(-1, 2).T

    def _put(self, t, points, seen, bounds, time) -> None:
        """A known person is elsewhere, and stands still as far as is known."""
        known = self._people
        known.points[t], known.known[t], known.velocity[t], known.last[t], known.bounds[t] = (
            points,
            seen,
            0,
            time,
            bounds,
        )

    def _learn(self, colours, apart, tracks, found) -> None:
        """Takes the colours of who is seen into the means; not those of who covers somebody."""
        for t, d in zip(tracks, found, strict=True):
            if np.isnan(self._colours[t, 0]):
                self._colours[t] = colours[d]
            elif apart[t, d] <= UNLIKE:
                self._colours[t] += COLOUR_SHARE * (colours[d] - self._colours[t])

    def _forget(self, time, keep) -> None:
        latest = time - FORGET_SECONDS
        if min(self._people.last.tolist(), default=time) < latest:
            stay = (self._people.last >= latest) | np.isin(self.numbers, keep)
            self.numbers, self._people = self.numbers[stay], _Known(*(a[stay] for a in self._people))
            self._colours = self._colours[stay]

    def _add(self, column, points, seen, bounds, time, colours) -> int:
        number = column if column not in self.numbers else int(self.numbers.max()) + 1
        self.numbers = np.append(self.numbers, number)
        row = np.full((1, COUNT), np.nan) if colours is None else colours[None]
        self._colours = np.append(self._colours, row, 0)
        new = _Known(points, seen, np.zeros(2), np.array(time), bounds)
        self._people = _Known(*(np.append(a, b[None], 0) for a, b in zip(self._people, new, strict=True)))
        return number


class PeopleMatcher:
    """Gives every reference person the driving person who plays it, and stays with that choice.

    If who was chosen is out of sight for RELEASE_SECONDS, somebody who is in sight and plays nobody takes over (also
    who comes back as somebody new), until the first choice is seen again. With pairs and "columns" nobody does.

    The choice is made on the first good frame: by `step` on the first in which anybody is seen who is still free, by
    `match_video` on the first that shows as many persons as any. Methods:

    - "auto": the least sum of differences of place in the picture, and of size; a common shift and zoom is taken out. A
      single reference person gets the largest, best seen one.
    - "left-to-right": in the order of the persons' centres, in the photo and in the frame.
    - pairs: (reference person, driving person), numbered by their places in the lists of keypoints; who is in no pair
      has nobody.
    - "columns": person p of the reference is person p of every frame; nobody is tracked.
    """

    def __init__(self, keypoints, scores, size: tuple[int, int], match="auto", threshold: float = coco.SCORE_THRESHOLD):
        """Takes the reference persons.

        Args:
            keypoints: [P, 17, 2] pixels, NaN where missing.
            scores: [P, 17].
            size: (height, width) of the photo.
            match: see `check_match`.
            threshold: keypoints with a lower score are missing.

        Raises:
            ValueError: if `match` names a reference person who is not there.
        """
        self.method, self._threshold = check_match(match), people.float32_threshold(threshold)
        if not isinstance(self.method, str) and (beyond := max(p for p, _ in self.method)) >= len(keypoints):
            raise ValueError(f"match names person {beyond} of the reference, which has {len(keypoints)} (from 0)")
        self._persons = len(keypoints)
        self._operations = people
        self._layout = _layout(*self._usable(keypoints, scores), size)
        self.tracker = IdentityTracker()
        self.reset()

    def reset(self) -> None:
        """Forgets all frames."""
        self.tracker.reset()
        self._last_single = None
        self.chosen = np.full(self._persons, -1)  # the number of each reference person's driving person
        self._first = self.chosen.copy()  # who was chosen first
        self._served = np.full(self._persons, np.nan)  # when whoever was chosen was seen last, seconds
        if not isinstance(self.method, str):
            for p, d in self.method:
                self.chosen[p] = d

    def step(
        self,
        keypoints: np.ndarray,
        scores: np.ndarray,
        size: tuple[int, int],
        time: float,
        colours: np.ndarray | None = None,
    ) -> np.ndarray:
        """Which person of a frame plays each reference person: [P] indices, -1 for nobody.

        Args:
            keypoints: [D, 17, 2] pixels, NaN where missing; any number of persons.
            scores: [D, 17].
            size: (height, width) of the frame.
            time: seconds, increasing.
            colours: [D, COUNT] of `torso_colours`, or None.
        """
        if self._persons == len(keypoints) == 1 and self.chosen[0] == 0 and not len(self.tracker.numbers):
            if (scores >= self._threshold).any():  # one person, and never more: the place is known
                self._last_single = keypoints, scores, time, colours
            return np.zeros(1, int)
        points, seen = self._usable(keypoints, scores)
        ids = self._identify(points, seen, time, colours)
        self._release(ids, time)
        self._choose(ids, points, seen, size)
        return self._places(ids)

    def match_video(self, frames, size: tuple[int, int]) -> np.ndarray:
        """`step` for a whole video, which chooses on the best frame, not the first: [F, P] indices, -1 for nobody.

        Args:
            frames: a (keypoints, scores, time), or (keypoints, scores, time, colours), for every frame, as `step` takes
                them.
            size: (height, width) of the frames.
        """
        usable = [self._usable(keypoints, scores) for keypoints, scores, *_ in frames]
        ids = [self._identify(*u, *frame[2:]) for u, frame in zip(usable, frames, strict=True)]
        good = [min((seen.sum(-1) >= GOOD_POINTS).sum(), self._persons) for _, seen in usable]
        if any(good):
            best = int(np.argmax(good))
            self._choose(ids[best], *usable[best], size)
        places = np.full((len(frames), self._persons), -1)
        for f, (points, seen) in enumerate(usable):
            self._release(ids[f], frames[f][2])
            self._choose(ids[f], points, seen, size)
            places[f] = self._places(ids[f])
        return places

    def _usable(self, keypoints, scores):
        keypoints, scores = (np.ascontiguousarray(array, np.float64) for array in (keypoints, scores))
        return keypoints, self._operations.seen_points(keypoints, scores, self._threshold)

    def _identify(self, points, seen, time, colours=None) -> np.ndarray:
        if self.method == "columns":
            return np.where(seen.sum(-1) >= 1, np.arange(len(points)), -1)
        # As long as nobody was ever seen beside, there is nothing to tell apart.
        if len(points) == 1 and not len(self.tracker.numbers):
            if seen.any():
                self._last_single = points, np.where(seen, np.inf, -np.inf), time, colours
            return np.where(seen.any(-1), 0, -1)
        if self._last_single is not None:
            *alone, then, worn = self._last_single
            self.tracker.step(*self._usable(*alone), then, colours=worn)
            self._last_single = None
        return self.tracker.step(points, seen, time, [*self.chosen, *self._first], colours)

    def _places(self, ids) -> np.ndarray:
        """Where in `ids` [D] each reference person's number is, or -1."""
        numbers = ids.tolist()  # few: faster than arrays
        return np.array([numbers.index(n) if n >= 0 and n in numbers else -1 for n in self.chosen.tolist()])

    def _release(self, ids, time) -> None:
        """Takes roles from who is out of sight for long if somebody else is there, and gives them back."""
        if not isinstance(self.method, str) or self.method == "columns":
            return
        in_sight = set(ids[ids >= 0].tolist())
        free = in_sight.difference(self.chosen.tolist())
        for p, (first, number) in enumerate(zip(self._first.tolist(), self.chosen.tolist(), strict=True)):
            if first != number and first in free:
                self.chosen[p] = number = first
                free.remove(first)
            if number in in_sight:
                self._served[p] = time
            elif free and time - self._served[p] > RELEASE_SECONDS:
                self.chosen[p], self._served[p] = -1, np.nan

    def _choose(self, ids, points, seen, size) -> None:
        """Gives reference persons who have nobody somebody of this frame who is free."""
        if self.method == "columns":
            self.chosen = np.arange(self._persons)
        if not isinstance(self.method, str) or min(self.chosen.tolist()) >= 0:
            return
        (waiting,) = np.nonzero(self.chosen < 0)
        (free,) = np.nonzero((ids >= 0) & ~np.isin(ids, self.chosen))
        if not len(free):
            return
        theirs, ours = _layout(points[free], seen[free], size), self._layout[waiting]
        if self.method == "left-to-right":
            ours, theirs = (np.argsort(layout[:, 0], kind="stable") for layout in (ours, theirs))
            pairs = min(len(ours), len(theirs))
            rows, columns = ours[:pairs], theirs[:pairs]
        elif self._persons == 1:
            rows, columns = [0], [int(np.argmax(theirs[:, 2] + np.log(seen[free].mean(-1))))]
        else:
            rows, columns = _similar_layout(ours, theirs)
        self.chosen[waiting[rows]] = ids[free[columns]]
        self._first = np.where(self._first < 0, self.chosen, self._first)


def _layout(points: np.ndarray, seen: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[P, 3]: the middle of each person's box in shares of width and height, and the log of its size in diagonals."""
    if not len(points):
        return np.zeros((0, 3))
    bounds = naive.person_bounds(points, seen, UPPER_BODY.stop)
    return np.column_stack([_centre(bounds) / (size[1], size[0]), bounds[:, 4] - np.log(np.hypot(*size))])


def _similar_layout(ours: np.ndarray, theirs: np.ndarray):
    """Pairs of rows of two layouts [P, 3] and [D, 3] that differ least, up to a common shift and zoom."""
    weights, shift = np.array([1.0, 0.5, 0.5]), np.zeros(3)
    for _ in range(4):
        pairs = _assign((abs(ours[:, None] + shift - theirs) * weights).sum(-1))
        if len(pairs[0]) < 2:  # one pair would fit anywhere
            break
        before, shift = shift, np.median(theirs[pairs[1]] - ours[pairs[0]], 0)
        if (before == shift).all():
            break
    return pairs
