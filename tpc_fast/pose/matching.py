"""Who is who: driving persons keep their numbers over time, and reference persons get a driving person each.

Keypoints alone decide: where a person is expected, how large, in what pose. All points are pixels of the driving
frames, of any size: distances count in person sizes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tpc_fast.pose import keypoints as coco
from tpc_fast.procrustes import UPPER_BODY

REACH, REACH_PER_SECOND = 1.0, 2.0  # person sizes within which a person is expected, and how that grows with a gap
COAST_SECONDS = 1.5  # a person out of sight is expected to slow down with this time constant
VELOCITY_SECONDS = 0.1  # time constant of the smoothed velocity
SIZE_SECONDS = 0.3  # of the smoothed size
OVERLAP, SIZE, GAP = 0.5, 0.5, 0.3  # cost of no overlap, of a size e times as large, of a second out of sight
FORGET_SECONDS = 10.0  # after which somebody whom no reference person follows is forgotten
MIN_POINTS, GOOD_POINTS = 2, 4  # of a person who can be followed; of one who is seen well

METHODS = ("auto", "left-to-right", "columns")
_SIDES = np.stack([np.arange(coco.COUNT), coco.MIRRORED])
_IMPOSSIBLE = 1e6  # a cost that no sum of possible ones reaches


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
        whole = all(int(n) == n and n >= 0 for pair in pairs for n in pair)
    except (TypeError, ValueError):
        raise TypeError(f"match must be one of {', '.join(METHODS)} or pairs of persons, but is {match!r}") from None
    if not pairs or not whole or any(len(set(side)) < len(pairs) for side in zip(*pairs, strict=True)):
        raise ValueError(f"match must be pairs of numbers from 0, each person once, but is {match!r}")
    return pairs


def _assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs with the least sum of costs; without those that are impossible."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(cost)
    possible = cost[rows, columns] < _IMPOSSIBLE
    return rows[possible], columns[possible]


class _Bounds(NamedTuple):
    """Where N persons are, and how large.

    Attributes:
        box: [N, 4] left, top, and minus right and bottom, so that the largest of two is where they overlap.
        area: [N] of the box.
        size: [N] logarithms of what `person_size` gives.
    """

    box: np.ndarray
    area: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, seen: np.ndarray) -> "_Bounds":
        """Of points [N, 17] (complex), one or more of each person seen."""
        sides = np.where(seen, np.stack([points.real, points.imag, -points.real, -points.imag]), np.inf)
        box, body = sides.min(-1), sides[..., UPPER_BODY].min(-1)
        width, height = np.maximum(-(body[:2] + body[2:]), 0)
        size = np.maximum(np.sqrt(width * height), np.maximum(width, height) / 4)
        area = (box[0] + box[2]) * (box[1] + box[3])
        return cls(box.T, area, np.log(np.maximum(size, 1)))

    @property
    def centre(self) -> np.ndarray:
        """[N, 2]."""
        return (self.box[:, :2] - self.box[:, 2:]) / 2


def _overlap(a: _Bounds, b: _Bounds) -> np.ndarray:
    """[A, B] intersection over union."""
    corners = np.maximum(a.box[:, None], b.box)
    width, height = np.moveaxis(np.minimum(corners[..., :2] + corners[..., 2:], 0), -1, 0)
    both = width * height
    return both / np.maximum(a.area[:, None] + b.area - both, 1e-9)


class IdentityTracker:
    """Numbers driving persons, and knows them again: through crossings, short absences, and when they come back.

    Every person is expected to go on as before. Who is seen is paired with who is expected so that the sum of the
    distances of keypoints, boxes and sizes is least, left and right labels exchanged or not, and nobody is farther away
    than one can get. If nobody is where anybody is expected (a cut), layout and size alone decide.

    Who is new gets the number of the own column in the frame, or if that is taken the next free one.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forgets everybody."""
        self.numbers = np.zeros(0, int)  # of the T persons who are known
        # x + iy of where each keypoint was, moved along when it is not seen, and which were ever seen
        self._points, self._known = np.zeros((0, coco.COUNT), complex), np.zeros((0, coco.COUNT), bool)
        self._velocity, self._last = np.zeros(0, complex), np.zeros(0)
        self._bounds = _Bounds(np.zeros((0, 4)), np.zeros(0), np.zeros(0))

    def step(self, points: np.ndarray, seen: np.ndarray, time: float, keep: Sequence[int] = ()) -> np.ndarray:
        """The numbers [D] of the persons of a frame, -1 for who has no keypoint, or one and is not known.

        Args:
            points: [D, 17, 2] pixels, finite where seen.
            seen: [D, 17] bool.
            time: seconds, increasing.
            keep: numbers of who is not to be forgotten, however long the absence.
        """
        self._forget(time, keep)
        ids = np.full(len(points), -1)
        (there,) = np.nonzero(seen.any(-1))
        if len(there) < len(points):
            points, seen = points[there], seen[there]
        if not len(there):
            return ids
        points = np.where(seen, points[..., 0] + 1j * points[..., 1], 0)
        bounds = _Bounds.of(points, seen)
        tracks, found, mirrored = self._pair(points, seen, bounds, time)
        if len(tracks):
            self._update(tracks, points[found], seen[found], _Bounds(*(a[found] for a in bounds)), mirrored, time)
        ids[there[found]] = self.numbers[tracks]
        if len(found) < len(there):
            new = np.setdiff1d(np.arange(len(there)), found)
            for d in new[seen[new].sum(-1) >= MIN_POINTS]:
                ids[there[d]] = self._add(int(there[d]), points[d], seen[d], [a[d] for a in bounds], time)
        return ids

    def _pair(self, points, seen, bounds, time):
        """Indices of known and of seen persons who are the same, and whether sides are exchanged between them."""
        if not len(self.numbers):
            nobody = np.zeros(0, int)
            return nobody, nobody, nobody.astype(bool)
        gap = time - self._last
        shift = self._velocity * (-COAST_SECONDS * np.expm1(gap / -COAST_SECONDS))
        expected, was = self._points + shift[:, None], self._bounds
        moved = np.stack([shift.real, shift.imag, -shift.real, -shift.imag], -1)
        was = was._replace(box=was.box + moved)
        common = self._known[:, None, None] & seen[:, _SIDES]  # [T, D, sides as named or exchanged, 17]
        count = common.sum(-1)
        distances = (abs(expected[:, None, None] - points[:, _SIDES]) * common).sum(-1) / np.maximum(count, 1)
        distance = distances.min(-1)
        if not (some := count.all(-1)).all():  # nothing in common: the boxes' centres must do
            distance = np.where(count > 0, distances, np.inf).min(-1)
            apart = np.hypot(*np.moveaxis(was.centre[:, None] - bounds.centre, -1, 0))
            distance = np.where(some | np.isfinite(distance), distance, apart)
        few = seen.sum(-1) < GOOD_POINTS  # which do not tell a size
        size = np.where(few, was.size[:, None], bounds.size)
        distance = distance / np.exp((was.size[:, None] + size) / 2)
        cost = distance + OVERLAP * (1 - _overlap(was, bounds)) + SIZE * abs(was.size[:, None] - size)
        cost += (GAP * gap)[:, None]
        within = distance <= (REACH + REACH_PER_SECOND * gap)[:, None]
        if cost.size == 1:
            tracks = found = np.zeros(1, int)
        elif within.any():
            tracks, found = _assign(np.where(within, cost, _IMPOSSIBLE))
        else:
            unit = np.exp(bounds.size.mean())
            tracks, found = _similar_layout(*(np.column_stack([b.centre / unit, b.size]) for b in (was, bounds)))
        return tracks, found, distances[tracks, found, 1] < distances[tracks, found, 0]

    def _update(self, tracks, points, seen, bounds, mirrored, time) -> None:
        dt = np.maximum(time - self._last[tracks], 1e-6)
        before, known = self._points[tracks], self._known[tracks]
        if mirrored.any():
            before[mirrored], known[mirrored] = (a[mirrored][:, coco.MIRRORED] for a in (before, known))
        common = known & seen
        count = common.sum(-1)
        moved = ((points - before) * common).sum(-1) / np.maximum(count, 1)
        share = np.where(count > 0, -np.expm1(dt / -VELOCITY_SECONDS), 0.0)
        self._velocity[tracks] += share * (moved / dt - self._velocity[tracks])
        self._points[tracks] = np.where(seen, points, before + moved[:, None])
        self._known[tracks] = known | seen
        self._last[tracks] = time
        box, area, size = self._bounds
        box[tracks], area[tracks] = bounds.box, bounds.area
        told = seen.sum(-1) >= GOOD_POINTS
        size[tracks] -= np.expm1(dt / -SIZE_SECONDS) * told * (bounds.size - size[tracks])

    def _forget(self, time, keep) -> None:
        old = time - self._last > FORGET_SECONDS
        if old.any():
            stay = ~old | np.isin(self.numbers, keep)
            self._bounds = _Bounds(*(a[stay] for a in self._bounds))
            for name in ("numbers", "_points", "_known", "_velocity", "_last"):
                setattr(self, name, getattr(self, name)[stay])

    def _add(self, column, points, seen, bounds, time) -> int:
        number = column if column not in self.numbers else int(self.numbers.max()) + 1
        self._bounds = _Bounds(*(np.append(a, b[None], 0) for a, b in zip(self._bounds, bounds, strict=True)))
        for name, value in (
            ("numbers", number),
            ("_points", points),
            ("_known", seen),
            ("_velocity", 0),
            ("_last", time),
        ):
            setattr(self, name, np.append(getattr(self, name), np.asarray(value)[None], 0))
        return number


class PeopleMatcher:
    """Gives every reference person the driving person who plays it, and stays with that choice.

    The choice is made on the first good frame: by `step` on the first in which anybody is seen who is still free, by
    `match_video` on the first that shows as many persons as any. Methods:

    - "auto": the least sum of differences of place in the picture, and of size; a common shift and zoom is taken out. A
      single reference person gets the largest, best seen one.
    - "left-to-right": in the order of the persons' centres, in the photo and in the frame.
    - pairs: (reference person, driving person), numbered by their places in the lists of keypoints; who is in no pair
      has nobody.
    - "columns": person p of the reference is person p of every frame; nobody is tracked.
    """

    def __init__(self, keypoints, scores, size: tuple[int, int], match="auto", threshold: float = 0.3):
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
        self.method, self._threshold = check_match(match), threshold
        if not isinstance(self.method, str) and (beyond := max(p for p, _ in self.method)) >= len(keypoints):
            raise ValueError(f"match names person {beyond} of the reference, which has {len(keypoints)} (from 0)")
        self._persons = len(keypoints)
        self._layout = _layout(*self._usable(keypoints, scores), size)
        self.tracker = IdentityTracker()
        self.reset()

    def reset(self) -> None:
        """Forgets all frames."""
        self.tracker.reset()
        self._alone = None
        self.chosen = np.full(self._persons, -1)  # the number of each reference person's driving person
        if not isinstance(self.method, str):
            for p, d in self.method:
                self.chosen[p] = d

    def step(self, keypoints: np.ndarray, scores: np.ndarray, size: tuple[int, int], time: float) -> np.ndarray:
        """Which person of a frame plays each reference person: [P] indices, -1 for nobody.

        Args:
            keypoints: [D, 17, 2] pixels, NaN where missing; any number of persons.
            scores: [D, 17].
            size: (height, width) of the frame.
            time: seconds, increasing.
        """
        if self._persons == len(keypoints) == 1 and self.chosen[0] == 0 and not len(self.tracker.numbers):
            if (scores >= self._threshold).any():  # one person, and never more: the place is known
                self._alone = keypoints, scores, time
            return np.zeros(1, int)
        points, seen = self._usable(keypoints, scores)
        ids = self._identify(points, seen, time)
        self._choose(ids, points, seen, size)
        return self._places(ids)

    def match_video(self, frames, size: tuple[int, int]) -> np.ndarray:
        """`step` for a whole video, which chooses on the best frame, not the first: [F, P] indices, -1 for nobody.

        Args:
            frames: a (keypoints, scores, time) for every frame, as `step` takes them.
            size: (height, width) of the frames.
        """
        usable = [self._usable(keypoints, scores) for keypoints, scores, _ in frames]
        ids = [self._identify(*u, frame[2]) for u, frame in zip(usable, frames, strict=True)]
        good = [min((seen.sum(-1) >= GOOD_POINTS).sum(), self._persons) for _, seen in usable]
        if any(good):
            best = int(np.argmax(good))
            self._choose(ids[best], *usable[best], size)
        places = np.full((len(frames), self._persons), -1)
        for f, (points, seen) in enumerate(usable):
            self._choose(ids[f], points, seen, size)
            places[f] = self._places(ids[f])
        return places

    def _usable(self, keypoints, scores):
        seen = np.isfinite(keypoints).all(-1) & (scores >= self._threshold)
        return np.where(seen[..., None], keypoints, 0.0).astype(np.float64), seen

    def _identify(self, points, seen, time) -> np.ndarray:
        if self.method == "columns":
            return np.where(seen.sum(-1) >= 1, np.arange(len(points)), -1)
        # As long as nobody was ever seen beside, there is nothing to tell apart.
        if len(points) == 1 and not len(self.tracker.numbers):
            if seen.any():
                self._alone = np.where(seen[..., None], points, np.nan), seen.astype(float), time
            return np.where(seen.any(-1), 0, -1)
        if self._alone is not None:
            self.tracker.step(*self._usable(*self._alone[:2]), self._alone[2])
            self._alone = None
        return self.tracker.step(points, seen, time, keep=self.chosen)

    def _places(self, ids) -> np.ndarray:
        """Where in `ids` [D] each reference person's number is, or -1."""
        same = (self.chosen[:, None] == ids) & (ids >= 0)
        return np.where(same.any(1), same.argmax(1), -1) if len(ids) else np.full(self._persons, -1)

    def _choose(self, ids, points, seen, size) -> None:
        """Gives reference persons who have nobody somebody of this frame who is free."""
        if self.method == "columns":
            self.chosen = np.arange(self._persons)
        if not isinstance(self.method, str) or (self.chosen >= 0).all():
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


def _layout(points: np.ndarray, seen: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[P, 3]: the middle of each person's box in shares of width and height, and the log of its size in diagonals."""
    if not len(points):
        return np.zeros((0, 3))
    bounds = _Bounds.of(points[..., 0] + 1j * points[..., 1], seen)
    return np.column_stack([bounds.centre / (size[1], size[0]), bounds.size - np.log(np.hypot(*size))])


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
