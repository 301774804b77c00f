"""The persons of a stream on a device: `Person`, with its fitter and smoother, for all of them at once.

The rules, and why they are so, stand in pose/follow/fitting.py, smoothing.py and calibration/person.py; what differs
here is the form. Everything is a torch operation or a registered kernel, nothing waits for the device, shapes do not
change, and where the host would branch both sides are computed and one is taken. The memory lies in tensors that are written in
place, so that a step can be captured in a CUDA graph and replayed.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import torch

from tpc_fast.calibration.person import Options, Person
from tpc_fast.ops.procrustes import COCO_SIGMAS, TOLERANCE_SIGMAS, fit_similarity, person_size, search_subset
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.follow import fitting
from tpc_fast.pose.follow.depth import order_by_depth
from tpc_fast.pose.follow.smoothing import CausalSmoother

STATUSES = ("tracked", "fallback", "held", "lost")
RUNGS = ("subset", *(rung.name for rung in fitting.LADDER), "position", "hold")

Tensor = torch.Tensor


class Followed(NamedTuple):
    """What a step says of P persons; numbers of `STATUSES` and `RUNGS`, else as in `CalibratedFrame`."""

    matrix: Tensor
    status: Tensor
    opacity: Tensor
    rung: Tensor
    swapped: Tensor
    members: Tensor
    residual: Tensor
    order: Tensor


@dataclasses.dataclass
class _Memory:
    """Float64, bool or int64 tensors [P, ...] with the values that stand for nothing.

    Attributes:
        known: whether there was a fit of scale and angle; matrix [2, 3], members [17], size, fitted (its time) are its.
        side: whether sides were exchanged in the last optimal subset, at time `trusted`; doubted: since when.
        ever, last_fit, before: whether anything was fitted, when it was last, and the time of the frame before.
        track [4], opacity: what is shown.
        value [4], speed [4], filtered (time), output [4], offset [4], returned (time): of the One-Euro filter.
        feet, tall, ahead [P]: of the order in depth.
    """

    known: Any = False
    matrix: Any = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    members: Any = (False,) * coco.COUNT
    size: Any = 1.0
    fitted: Any = 0.0
    side: Any = False
    trusted: Any = -math.inf
    doubted: Any = math.inf
    ever: Any = False
    last_fit: Any = 0.0
    before: Any = 0.0
    track: Any = (0.0,) * 4
    opacity: Any = 0.0
    value: Any = (0.0,) * 4
    speed: Any = (0.0,) * 4
    filtered: Any = 0.0
    output: Any = (0.0,) * 4
    offset: Any = (0.0,) * 4
    returned: Any = -math.inf
    feet: Any = math.nan
    tall: Any = math.nan
    ahead: Any = None

    def write(self, other: "_Memory") -> None:
        """Takes the other's values into these tensors."""
        for name, own in vars(self).items():
            own.copy_(getattr(other, name))


class _Found(NamedTuple):
    """A fit for each person: whether sides are exchanged, whether it is good, [.., 2, 3], [.., 17], pixels, J."""

    side: Tensor
    good: Tensor
    matrix: Tensor
    members: Tensor
    residual: Tensor
    value: Tensor


class ResidentPeople:
    """All persons of a reference over time, on `device`."""

    def __init__(self, people: list[Person], squeeze: np.ndarray | None, options: Options, depth, device):
        """Takes the persons as they are on the host.

        Args:
            people: their references, filters and starting places.
            squeeze: [2, 3], photo -> space of the fits, where they differ; scales and shifts only.
            options: of the calibrator.
            depth: [P] the persons from back to front; None to tell by feet and size.
            device: where all of it is to be.
        """

        def upload(array):
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        fitters = [person.fitter for person in people]
        self.options, self._device, self._persons = options, device, len(people)
        self._criterion, self._enough = fitters[0].criterion, fitters[0].enough
        self._sides = upload(np.nan_to_num(np.stack([f.sides for f in fitters])))
        self._seen = upload(np.stack([f.seen for f in fitters]))
        self._weights = upload(np.nan_to_num(np.stack([f.weights for f in fitters])))
        self._anchor = upload(np.stack([person.anchor for person in people]).astype(np.float64))
        self._start = upload(np.stack([person.start for person in people]))
        self._sigma = upload(TOLERANCE_SIGMAS * COCO_SIGMAS)
        self._core = upload(fitting.CORE)
        self._remembered = upload(np.array([1.0, 0.0, 1.0])[:, None, None])  # of the three searches, see _searched
        rungs = fitters[0].rungs
        self._rung_numbers = [RUNGS.index(rung.name) for rung in rungs]
        self._rung_parts = upload(np.stack([rung.part for rung in rungs]))
        self._rung_points = upload(np.array([rung.least for rung in rungs]))
        self._squeeze = None if squeeze is None else upload(np.stack([squeeze.diagonal(), squeeze[:, 2]]))
        single = np.arange(self._persons) if depth is None and self._persons == 1 else depth
        self._order = None if single is None else upload(np.asarray(single))
        self._filter = CausalSmoother() if options.smooth == "causal" else None
        self._memory = self._fresh()

    def reset(self) -> None:
        """Forgets all frames."""
        self._memory.write(self._fresh())

    def _fresh(self) -> _Memory:
        memory = _Memory(ahead=(0.0,) * self._persons)
        for name, value in vars(memory).items():
            kind = torch.bool if np.asarray(value).dtype == bool else torch.float64
            rows = torch.tensor(value, dtype=kind, device=self._device).repeat(
                self._persons, *[1] * np.asarray(value).ndim
            )
            setattr(memory, name, rows)
        memory.track = self._start.clone()
        return memory

    def step(self, keypoints: Tensor, scores: Tensor, time: Tensor) -> Followed:
        """One frame.

        Args:
            keypoints: float32 [P, 17, 2] canvas pixels, NaN where missing; scores: float32 [P, 17].
            time: float64 [], seconds, increasing.
        """
        old, new = self._memory, dataclasses.replace(self._memory)
        points, weights = keypoints.double(), scores.double()
        done, fine, found, matrix, rung, corrected = self._fit(old, new, points, weights, time)
        fitted = done | fine
        self._follow(old, new, fitted, matrix, corrected, time)

        status = torch.where((rung == 0) & ~corrected, 0, 1)
        gap = torch.where(old.ever, time - old.last_fit, math.inf)
        status = torch.where(fitted, status, torch.where(gap <= self.options.hold_seconds, 2, 3))
        order = self._order
        if order is None:
            sizes = torch.where(fitted, new.size, math.nan)
            depth = old.feet, old.tall, old.ahead, points, weights, sizes, self.options.score_threshold
            new.feet, new.tall, new.ahead, order = order_by_depth(*depth)
        self._memory.write(new)
        return Followed(
            matrix=self._shown(new.track),
            status=status,
            opacity=new.opacity.float(),
            rung=rung,
            swapped=found.side & fitted,
            members=found.members & fitted[:, None],
            residual=torch.where(fitted, found.residual, 0.0).float(),
            order=order,
        )

    def _fit(self, old: _Memory, new: _Memory, points: Tensor, scores: Tensor, time: Tensor):
        """`PersonFitter.step`.

        Returns:
            Where scale and angle were fitted, where only the position was, what was found, the transforms, the numbers
            of the rungs, and where the transform jumps because the one before was a mistake.
        """
        seen = points.isfinite().all(-1) & (scores >= self.options.score_threshold)
        common = seen[:, None] & self._seen
        some = common.sum(-1).amax(-1) >= 2
        reference = torch.where(common[..., None], self._sides, 0.0)
        frame = torch.where(common[..., None], points[:, None], 0.0)
        sizes = person_size(frame, common)
        size = torch.where(common[:, 0].any(-1), sizes[:, 0], sizes[:, 1])
        dt = (time - old.fitted).clip(1e-3)
        before, share = old.size.log(), 1 - torch.exp(-dt / fitting.SIZE_SECONDS)
        size = torch.where(old.known, torch.exp(before + (size.log() - before) * share), size)
        weights = torch.where(common, torch.minimum(self._weights, scores[:, None]), 0.0)
        tolerance = self._sigma * size[:, None]

        remembered, fresh, plain = self._searched(old, reference, frame, common, weights, tolerance, dt)
        plain = plain._replace(good=plain.good & _within_reach(plain.matrix, old.matrix, dt))
        now = _where(~remembered.good & old.known, plain, remembered)
        corrected = torch.zeros_like(some)
        if self._criterion[0] == "truncated":
            corrected = self._corrected(old, new, now, fresh, reference, frame, common, tolerance, some, time)
            now = _where(corrected, fresh, now)
        side = old.side & (time - old.trusted <= fitting.TRUST_SECONDS)
        ladder, rung = self._ladder(old, side, reference, frame, common, weights, dt)
        rung = torch.where(now.good, 0, rung)
        now = _where(now.good, now, ladder)
        done = now.good & some

        matrix, position, fine = self._position(old, side, common, points, scores)
        fine &= ~done
        matrix = _where(done, now.matrix, matrix)
        new.matrix = _where(done | fine, matrix, old.matrix)
        new.members = _where(done, now.members, old.members)
        new.size = torch.where(done, size, old.size)
        new.fitted = torch.where(done, time, old.fitted)
        new.known = old.known | done
        subset = done & (rung == 0)
        new.side = torch.where(subset, now.side, old.side)
        new.trusted = torch.where(subset, time, old.trusted)
        rung = torch.where(done, rung, torch.where(fine, RUNGS.index("position"), RUNGS.index("hold")))
        return done, fine, _where(done, now, position), matrix, rung, corrected

    def _searched(self, old: _Memory, reference, frame, common, weights, tolerance, dt):
        """The searches with memory, without any, and with that of the members only; sides are those that win."""
        start = fit_similarity(reference[:, 0], frame[:, 0], weights[:, 0])
        previous = _where(old.known, old.matrix, start.matrix * start.ok[:, None, None])
        near = (fitting.INERTIA_SECONDS / dt).clip(max=1.0)
        inertia = fitting.INERTIA * fitting.INERTIA_SECONDS / dt * near
        inertia = torch.where(old.known, inertia, fitting.INERTIA)
        nothing = torch.zeros_like(inertia)
        prior = torch.where(old.members, fitting.PRIOR, -fitting.PRIOR) * old.known[:, None]
        criterion, size = self._criterion
        found = search_subset(
            reference[:, None],
            frame[:, None],
            tolerance=tolerance[:, None, None],
            valid=common[:, None],
            weights=weights[:, None],
            prior=prior[:, None, None] * self._remembered,
            previous=previous[:, None, None],
            inertia=torch.stack([inertia, nothing, nothing], -1)[..., None],
            criterion=criterion,
            min_points=self._enough,
            size=size,
        )
        any_members, value = found.members.any(-1), found.value
        margin = torch.where(any_members[..., 0], fitting.SIDES_MARGIN, -math.inf)
        side = any_members[..., 1] & (value[..., 1] > value[..., 0] + margin)

        def won(array):
            return _where(side, array[:, :, 1], array[:, :, 0])

        best = _Found(side, ~won(found.weak), *map(won, (found.fit.matrix, found.members, found.fit.residual, value)))
        return (_Found(*(array[:, i] for array in best)) for i in range(3))

    def _corrected(self, old, new, now, fresh, reference, frame, common, tolerance, some, time):
        """`PersonFitter._correction`: where `fresh` is to be taken instead of `now`."""
        x, y, there = (_where(now.side, a[:, 1], a[:, 0]) for a in (reference, frame, common))
        count = there.sum(-1)
        error = (_moved(now.matrix, x) - y) / tolerance[..., None]
        share = ((1 - (error * error).sum(-1)).clip(0.0) * there).sum(-1) / count
        share = torch.where(now.good, share, 0.0)
        sure = fresh.good & (fresh.value >= (share + fitting.MORE_SHARE).clip(fitting.FOUND_SHARE) * count)
        since = torch.where(sure, torch.minimum(old.doubted, time), math.inf)
        asked = old.known & some
        corrected = asked & sure & (time - since >= fitting.DOUBT_SECONDS)
        new.doubted = torch.where(asked, torch.where(corrected, math.inf, since), old.doubted)
        return corrected

    def _ladder(self, old: _Memory, side, reference, frame, common, weights, dt):
        """`PersonFitter._ladder`: the first rung whose fit is within reach, and its number."""
        x, y, there, w = (_where(side, a[:, 1], a[:, 0]) for a in (reference, frame, common, weights))
        members = there[:, None] & self._rung_parts
        fit = fit_similarity(x[:, None], y[:, None], w[:, None] * members)
        near = _within_reach(fit.matrix, old.matrix[:, None], dt[:, None], math.pi / 2)
        good = fit.ok & (members.sum(-1) >= self._rung_points) & (near | ~old.known[:, None])
        rungs = [
            _Found(side, good[:, i], fit.matrix[:, i], members[:, i], fit.residual[:, i], dt)  # J is not asked for
            for i in range(len(self._rung_numbers))
        ]
        chosen, rung = rungs[-1], torch.full_like(dt, self._rung_numbers[-1], dtype=torch.int64)
        for better, number in zip(rungs[-2::-1], self._rung_numbers[-2::-1], strict=True):
            rung = torch.where(better.good, number, rung)
            chosen = _where(better.good, better, chosen)
        return chosen, rung

    def _position(self, old: _Memory, side, common, points, scores):
        """`PersonFitter._position`: the transforms, what was found, and where that is of use."""
        x, there, w = (_where(side, a[:, 1], a[:, 0]) for a in (self._sides, common, self._weights))
        w = torch.minimum(w, scores)
        members = there & self._core & (w > 0)
        w = torch.where(members, w, 0.0)[..., None]
        total = w.sum((-2, -1))
        moved = torch.where(members[..., None], points - _moved(old.matrix, x), 0.0)
        shift = (w * moved).sum(-2) / total[:, None]
        residual = ((w * (moved - shift[:, None]) ** 2).sum((-2, -1)) / total).sqrt()
        fine = old.known & (residual <= fitting.MAX_ASIDE * old.size)  # not so where nothing is seen: NaN
        matrix = torch.cat([old.matrix[..., :2], old.matrix[..., 2:] + shift[..., None]], -1)
        return matrix, _Found(side, fine, matrix, members, residual, residual), fine

    def _follow(self, old: _Memory, new: _Memory, fitted, matrix, corrected, time) -> None:
        """`Person.follow`: the track and the opacity."""
        options = self.options
        linear = matrix[:, :, 0]
        scale, angle = torch.linalg.vector_norm(linear, dim=-1), torch.atan2(linear[:, 1], linear[:, 0])
        position = _moved(matrix, self._anchor[:, None])[:, 0]
        track = torch.cat([scale.log()[:, None], angle[:, None], position], -1)
        if self._filter is not None:
            returning = old.ever & ((old.before != old.last_fit) | corrected)
            track = self._smoothed(old, new, track, fitted, returning, time)
        new.track = _where(fitted, track, old.track)

        gap = torch.where(old.ever, time - old.last_fit, math.inf)
        if options.fade_seconds > 0:
            faded = (1 - (gap - options.hold_seconds) / options.fade_seconds).clip(0.0, 1.0)
        else:
            faded = torch.where(gap <= options.hold_seconds, 1.0, 0.0).double()
        wanted = torch.where(fitted, 1.0, faded)
        at_once = (fitted & ~old.ever) | (wanted <= old.opacity)
        if options.fade_seconds > 0:
            slowly = torch.minimum(wanted, old.opacity + (time - old.before) / options.fade_seconds)
            wanted = torch.where(at_once, wanted, slowly)
        new.opacity = wanted
        new.ever = old.ever | fitted
        new.last_fit = torch.where(fitted, time, old.last_fit)
        new.before = time.expand(self._persons)

    def _smoothed(self, old: _Memory, new: _Memory, track, fitted, returning, time) -> Tensor:
        """`CausalSmoother.step`."""
        one_euro = self._filter
        turns = torch.round((old.value[:, 1] - track[:, 1]) / (2 * math.pi))
        turned = track[:, 1] + 2 * math.pi * torch.where(old.ever, turns, 0.0)
        track = torch.cat([track[:, :1], turned[:, None], track[:, 2:]], -1)
        dt = (time - old.filtered).clip(1e-6)[:, None]

        def share(cutoff):
            return 1 / (1 + 1 / (2 * math.pi * cutoff * dt))

        pixels = new.size[:, None].expand(-1, 2)
        units = torch.cat([torch.ones_like(pixels), pixels], -1)
        speed = old.speed + share(one_euro.speed_cutoff_hz) * ((track - old.value) / dt - old.speed)
        cutoff = one_euro.min_cutoff_hz + one_euro.beta * speed.abs() / units
        value = old.value + share(cutoff) * (track - old.value)
        anew = returning | ~old.ever
        value, speed = _where(anew, track, value), _where(anew, torch.zeros_like(speed), speed)
        offset = _where(returning, old.output - track, old.offset)
        returned = torch.where(returning, time, old.returned)
        p = ((time - returned) / one_euro.ease_seconds).clip(0.0, 1.0)
        output = value + offset * (1 - p * p * (3 - 2 * p))[:, None]
        for name, now in (("value", value), ("speed", speed), ("offset", offset), ("output", output)):
            setattr(new, name, _where(fitted, now, getattr(old, name)))
        new.returned = torch.where(fitted, returned, old.returned)
        new.filtered = torch.where(fitted, time, old.filtered)
        return output

    def _shown(self, track: Tensor) -> Tensor:
        """`Reference.matrix` of tracks [P, 4]: float32 [P, 2, 3], native pixels -> canvas."""
        scale, cos, sin = track[:, 0].exp(), track[:, 1].cos(), track[:, 1].sin()
        linear = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2) * scale[:, None, None]
        shift = track[:, 2:] - (linear * self._anchor[:, None]).sum(-1)
        if self._squeeze is not None:
            shift = shift + (linear * self._squeeze[1]).sum(-1)
            linear = linear * self._squeeze[0]
        return torch.cat([linear, shift[..., None]], -1).float()


def _where(which: Tensor, a, b):
    """Rows of `a` where `which`, else of `b`: tensors of more dimensions, or tuples of them."""
    if isinstance(a, tuple):
        return type(a)(*(_where(which, x, y) for x, y in zip(a, b, strict=True)))
    return torch.where(which.reshape(*which.shape, *[1] * (a.ndim - which.ndim)), a, b)


def _moved(matrix: Tensor, points: Tensor) -> Tensor:
    """Points [..., N, 2] moved by matrices [..., 2, 3]."""
    x, y = points[..., :1], points[..., 1:]
    a, b, t = (matrix[..., None, :, i] for i in range(3))
    return x * a + y * b + t


def _within_reach(matrix: Tensor, previous: Tensor, dt: Tensor, most: float = math.pi) -> Tensor:
    """`PersonFitter._within_reach` of matrices [..., 2, 3]."""
    (a, b), (c, d) = (m[..., :, 0].unbind(-1) for m in (matrix, previous))
    change = (torch.hypot(a, b) / torch.hypot(c, d)).log().abs()
    angle = torch.atan2(b * c - a * d, a * c + b * d).abs()
    near = change <= fitting.MAX_LOG_SCALE + fitting.MAX_LOG_SCALE_PER_SECOND * dt
    return near & (angle <= (fitting.MAX_ANGLE + fitting.MAX_ANGLE_PER_SECOND * dt).clip(max=most))
