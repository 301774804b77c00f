"""From keypoints to a similarity, frame by frame: the optimal subset with memory, and the ladder below it."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from tpc_fast import _dispatch, naive
from tpc_fast.ops.people import lowest, operations
from tpc_fast.ops.procrustes import UPPER_BODY, Similarity, default_tolerance, fit_similarity, search_rows
from tpc_fast.pose import keypoints as coco


class Rung(NamedTuple):
    """A part of the body that is fitted where no subset can be.

    Attributes:
        name: "torso", "shoulders", "face".
        part: [17] bool, its keypoints.
        least: how many of them it takes.
    """

    name: str
    part: np.ndarray
    least: int


LADDER = tuple(
    Rung(name, np.isin(np.arange(coco.COUNT), part), least)
    for name, part, least in (("torso", coco.TORSO, 3), ("shoulders", coco.SHOULDERS, 2), ("face", coco.FACE, 2))
)

PRIOR = 0.25  # reward for staying in, or out of, the subset
INERTIA, INERTIA_SECONDS = 160.0, 0.13  # the price of a whole change of transform, between frames so far apart
TRUST_SECONDS = 1.0  # how long the side of the last optimal subset counts
# A fit is an old mistake if for so long another explains nearly all points, and so many more of them (shares of J).
FOUND_SHARE, MORE_SHARE, DOUBT_SECONDS = 0.75, 0.3, 0.3
SIDES_MARGIN = 0.5  # J that exchanged sides must gain
SIZE_SECONDS = 0.5  # time constant of the smoothed person size
MAX_LOG_SCALE, MAX_LOG_SCALE_PER_SECOND = 0.1, 1.0  # how far a rung may be from the last good transform
MAX_ANGLE, MAX_ANGLE_PER_SECOND = 0.2, 3.0  # radians
MAX_ASIDE = 0.5  # person sizes by which points may lie beside a transform of which only the position is fitted
CORE = np.isin(np.arange(coco.COUNT), [*coco.FACE, *coco.TORSO])  # they tell where a person is: limbs move

SUBSETS = ("optimal", "face", "all")  # and "fixed:N"


def parse_subset(subset: str) -> tuple[str, int | None]:
    """`subset` option -> (criterion, size) of `search_subset`.

    Raises:
        ValueError: if it is none of optimal, face, all, fixed:N with N from 4 to 17.
    """
    if subset in SUBSETS:
        return ("truncated" if subset == "optimal" else subset), None
    kind, _, number = str(subset).partition(":")
    if kind == "fixed" and number.isdigit() and 4 <= int(number) <= coco.COUNT:
        return "fixed", int(number)
    raise ValueError(f"subset must be optimal, face, all or fixed:N with N from 4 to 17, but is {subset!r}")


@dataclasses.dataclass(frozen=True)
class FrameFit:
    """One frame's similarity.

    Attributes:
        similarity: reference -> canvas, or None where nothing could be fitted.
        rung: "subset", "torso", "shoulders", "face", "position" (scale and angle are held), or "hold" for none.
        members: [17] bool, the driving keypoints that were used.
        residual: weighted rms of the members in canvas pixels.
        swapped: whether left and right of the reference were exchanged.
        corrected: whether the transform jumps here, because the one before was a mistake.
        size: the driving person's size in canvas pixels, smoothed over time.
    """

    similarity: Similarity | None
    rung: str
    members: np.ndarray
    residual: float
    swapped: bool
    size: float
    corrected: bool = False


class _Frame(NamedTuple):
    """One person in one frame, beside the reference as it is seen and with sides exchanged.

    Attributes:
        keypoints: [17, 2] pixels, NaN where missing; scores: [17].
        common: [2, 17] bool; counts: [2], of common keypoints; sizes: [2], the person's by them, pixels.
        size: by the first that shows anything, smoothed over time.
        time: seconds; dt: since the last scale and angle, or None.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    common: np.ndarray
    counts: list[int]
    sizes: np.ndarray
    size: float
    time: float
    dt: float | None


class _Pairs(NamedTuple):
    """The points of the reference, as it is seen and with sides exchanged, beside those of one frame.

    Attributes:
        reference, frame: [2, 17, 2] float64, zero where not common.
        common: [2, 17] bool.
        weights: [2, 17], zero where not common.
        sizes: [2], of the driving person in this frame, pixels.
        tolerance: [2, 17], pixels.
    """

    reference: np.ndarray
    frame: np.ndarray
    common: np.ndarray
    weights: np.ndarray
    sizes: np.ndarray
    tolerance: np.ndarray


def _inertia(dt: float | None) -> float:
    """In proportion to the frame rate; over a gap, within which much may change, it fades with the gap's square."""
    if dt is None:
        return INERTIA
    return INERTIA * INERTIA_SECONDS / dt * min(1.0, INERTIA_SECONDS / dt)


def _reach(dt: float, most: float = math.pi) -> tuple[float, float]:
    """By how much log scale and angle may change within `dt` seconds; the angle by no more than `most`."""
    return MAX_LOG_SCALE + MAX_LOG_SCALE_PER_SECOND * dt, min(MAX_ANGLE + MAX_ANGLE_PER_SECOND * dt, most)


class PersonFitter:
    """Fits one person frame after frame; remembers the transform, the members and the size of the frame before.

    Attributes:
        sides, seen, weights: keypoints [2, 17, 2] of the reference, as it is and with left and right exchanged, NaN
            where missing; which are there [2, 17]; their scores [2, 17].
        criterion, enough: what is searched, (criterion, size) of `search_subset`, and its `min_points`.
        rungs: of the ladder below it.
        threshold: keypoints with a lower score are missing.
    """

    def __init__(self, keypoints: np.ndarray, scores: np.ndarray, subset: str = "optimal", threshold: float = 0.3):
        """Takes the reference person.

        Args:
            keypoints: [17, 2] pixels, NaN where missing.
            scores: [17].
            subset: see `parse_subset`.
            threshold: keypoints with a lower score are missing.
        """
        self.criterion = parse_subset(subset)
        self.enough = 3 if subset == "face" else 4  # points of a subset that is not weak
        self.rungs = LADDER[-1:] if subset == "face" else LADDER
        self._parts, self._least = np.stack([r.part for r in self.rungs]), np.array([r.least for r in self.rungs])
        self.threshold = lowest(threshold)
        seen = np.isfinite(keypoints).all(-1) & (scores >= self.threshold)
        points = np.where(seen[:, None], keypoints, np.nan).astype(np.float64)
        self.sides = np.stack([points, points[coco.MIRRORED]])
        self.seen = np.stack([seen, seen[coco.MIRRORED]])
        self.weights = np.stack([scores, scores[coco.MIRRORED]]).astype(np.float64)
        self._backend = _dispatch.resolve(points, None)
        self._operations = operations()
        self.reset()

    def reset(self) -> None:
        """Forgets the past."""
        self._previous: Similarity | None = None
        self._members: np.ndarray | None = None
        self._side = 0  # of the reference: 0 as seen, 1 with left and right exchanged
        self._size = self._time = self._trusted = self._doubted = None

    def step(self, keypoints: np.ndarray, scores: np.ndarray, time: float) -> FrameFit:
        """Fits a frame's keypoints [17, 2] (canvas pixels, NaN where missing) with scores [17] at `time` (seconds)."""
        keypoints, scores = (np.ascontiguousarray(array, np.float64) for array in (keypoints, scores))
        common, counts, sizes = self._operations.common_points(
            keypoints, scores, self.threshold, self.seen, UPPER_BODY.stop
        )
        dt = max(time - self._time, 1e-3) if self._time is not None else None
        size = float(sizes[0] if counts[0] else sizes[1])
        if self._size is not None:
            size = self._size * (size / self._size) ** -math.expm1(-dt / SIZE_SECONDS)
        frame = _Frame(keypoints, scores, common, counts, sizes, size, time, dt)
        most = max(counts)
        fit = None
        if most >= self.enough:
            fit = self._subset(frame)
        elif most >= 2:
            self._doubted = None  # of so few points every subset is weak
        return fit or self._part(frame) or self._position(frame) or self._none()

    def _subset(self, frame: _Frame) -> FrameFit | None:
        """By the optimal subset."""
        common, dt, time = frame.common, frame.dt, frame.time
        reference, points = (np.where(common[..., None], p, 0.0) for p in (self.sides, frame.keypoints))
        weights = np.where(common, np.minimum(self.weights, frame.scores), 0.0)
        tolerance = default_tolerance(np.array([frame.size, frame.size]))
        pairs = _Pairs(reference, points, common, weights, frame.sizes, tolerance)
        # With memory, and without: memory may be wrong. Two searches cost little more than one.
        doubts = dt is not None and self.criterion[0] == "truncated"
        searches = self._search(pairs, [(_inertia(dt), True)] + [(0.0, False)] * doubts)
        side, similarity, members, residual, _ = searches[0]
        if similarity is None and dt is not None:
            # Inertia may leave only the points that hardly move to a person who moves fast.
            side, similarity, members, residual, _ = self._search(pairs, [(0.0, True)])[0]
            if similarity is not None and not naive.within_reach(
                similarity.scale, similarity.rotation, self._previous.scale, self._previous.rotation, _reach(dt)
            ):
                similarity = None
        better = self._correction(pairs, side, similarity, searches[1], time) if doubts else None
        if better is not None:
            side, similarity, members, residual = better
        if similarity is None:
            return None
        self._remember(frame, similarity, members)
        self._side, self._trusted = side, time
        return FrameFit(similarity, "subset", members, residual, side == 1, frame.size, better is not None)

    def _part(self, frame: _Frame) -> FrameFit | None:
        """By the first part of the body whose fit is within reach of the last good one."""
        side, held = self._trusted_side(frame.time), self._previous
        if frame.counts[side] < 2:
            return None
        # However long ago the last fit was, a few points never turn a person over.
        before = (
            (0.0, np.eye(2), (0, 0)) if held is None else (held.scale, held.rotation, _reach(frame.dt, math.pi / 2))
        )
        found = self._operations.fit_rungs(*self._pair(frame, side), self._parts, self._least, *before)
        if found is None:
            return None
        rung, scale, rotation, translation, residual, members = found
        similarity = Similarity(np.float64(scale), rotation, translation)
        self._remember(frame, similarity, members)
        return FrameFit(similarity, self.rungs[rung].name, members, residual, side == 1, frame.size)

    def _position(self, frame: _Frame) -> FrameFit | None:
        """Scale and angle held, the position from what is seen of face and torso; None without any, or a past."""
        held = self._previous
        if held is None:
            return None
        side = self._trusted_side(frame.time)
        shift, residual, members = self._operations.held_shift(
            *self._pair(frame, side), CORE, held.scale, held.rotation, held.translation
        )
        if not residual <= MAX_ASIDE * self._size:
            return None
        # The time of the last scale and angle stays: how far the next ones may be from them counts from there.
        self._previous = Similarity(held.scale, held.rotation, held.translation + shift)
        return FrameFit(self._previous, "position", members, residual, side == 1, self._size)

    def _pair(self, frame: _Frame, side: int) -> tuple[np.ndarray, ...]:
        return self.sides[side], self.weights[side], frame.keypoints, frame.scores, frame.common[side]

    def _remember(self, frame: _Frame, similarity: Similarity, members: np.ndarray) -> None:
        self._previous, self._members, self._size, self._time = similarity, members, frame.size, frame.time

    def _trusted_side(self, time: float) -> int:
        """Of the last optimal subset: a few points cannot tell."""
        return self._side if self._trusted is not None and time - self._trusted <= TRUST_SECONDS else 0

    def _none(self) -> FrameFit:
        return FrameFit(None, "hold", np.zeros(coco.COUNT, bool), 0.0, False, self._size or 1.0)

    def _correction(self, pairs, side, similarity, fresh, time):
        """What to take instead of a fit (None for none) that memory holds against almost all points: `fresh`, or None.

        Inertia keeps the choice of a turning person steady, but after a cut, or a wrong first frame, it would never let
        go of the few points that happen to agree.
        """
        common = pairs.common[side]
        count = common.sum()
        share = 0.0
        if similarity is not None:
            error = (similarity.apply(pairs.reference[side]) - pairs.frame[side]) / pairs.tolerance[side, :, None]
            share = (np.maximum(1 - (error**2).sum(-1), 0) * common).sum() / count
        if fresh[1] is None or fresh[4] < max(FOUND_SHARE, share + MORE_SHARE) * count:
            self._doubted = None
            return None
        if self._doubted is None:
            self._doubted = time
        if time - self._doubted < DOUBT_SECONDS:
            return None
        self._doubted = None
        return fresh[:4]

    def _search(self, pairs, asked):
        """For each (inertia, whether membership is remembered): side, similarity, members, residual, J.

        The side of the reference is the one that explains more (0 as seen, 1 exchanged), the similarity None if weak.
        """
        previous = self._previous
        if previous is None:
            # As the reference is seen, for both sides: exchanged, all points together may stand on their head.
            start = fit_similarity(pairs.reference[0], pairs.frame[0], pairs.weights[0])
            previous = start if start.ok else None
        a = 0.0 if previous is None else previous.scale * complex(*previous.rotation[:, 0])
        prior = np.zeros((2 * len(asked), coco.COUNT))
        if self._members is not None:
            prior += np.where(self._members, PRIOR, -PRIOR) * np.repeat([kept for _, kept in asked], 2)[:, None]
        criterion, size = self.criterion
        reference, frame, common, weights, sizes, tolerance = (np.concatenate([part] * len(asked)) for part in pairs)
        fit, members, value, weak = search_rows(
            reference, frame, tolerance, common, weights, prior, np.full(len(prior), a, np.complex128),
            np.repeat([inertia for inertia, _ in asked], 2), sizes, criterion, self.enough, size, self._backend,
            np.float64,
        )  # fmt: skip
        found = []
        for n in range(0, len(prior), 2):
            margin = SIDES_MARGIN if members[n].any() else -np.inf
            side = int(members[n + 1].any() and value[n + 1] > value[n] + margin)
            n += side
            similarity = None if weak[n] else Similarity(fit.scale[n], fit.rotation[n], fit.translation[n])
            found.append((side, similarity, members[n], float(fit.residual[n]), float(value[n])))
        return found
