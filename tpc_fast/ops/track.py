"""One estimate of where people are in every frame of a clip, instead of a fit per frame and rules around it.

The model. In every frame a similarity lays the photo's person into the picture. Its state is (log of the person's size,
direction of the body, place of an anchor in the torso). The states of all frames are estimated together (maximum a
posteriori). The photo's keypoints must fall onto the frame's, by a robust error that ignores limbs that moved, and
mistakes; and size, angle and place must not change faster than `Rates` say. The less a frame shows, the more its
neighbours decide. Smoothing, partly visible persons and persons who are not seen need no rules: the one cost covers
them.

1. *Candidates.* For every frame, as the photo shows the person and with left and right exchanged (a back view): the
   exact optimal subset (`search_subset`), and fits of face and torso, face and shoulders, torso, face, everything.
2. *Path.* The best sequence of candidates (Viterbi): each is worth what it explains, a change between frames costs, and
   frames may be passed over. Where even the best path jumps as nobody can move, the track breaks: a cut.
3. *Refinement.* Iteratively reweighted least squares over all frames (Geman-McClure), banded solves. And
   again without the keypoints that it puts beyond the picture: detectors guess them, most often somewhere inside.

Units: pixels, seconds, radians; log scale is the natural logarithm; "person sizes" are the root of the upper body's
box, 0.32 of a standing person's height. The specification is `tpc_fast/naive/track.py`, its compiled twin
`csrc/track.cpp`.
"""

import dataclasses
import itertools
import math

import numpy as np

from tpc_fast import _checks, _dispatch, _native
from tpc_fast.naive import track as naive_track
from tpc_fast.ops.coco import (
    ANKLES,
    COUNT,
    EARS,
    ELBOWS,
    EYES,
    FACE,
    HIPS,
    KNEES,
    MIRRORED,
    SCORE_THRESHOLD,
    SHOULDERS,
    WRISTS,
)
from tpc_fast.ops.procrustes import COCO_SIGMAS, TOLERANCE_SIGMAS, Array, search_rows

MOTIONS, STATUSES = ("frame", "constant"), ("tracked", "fallback", "held", "lost")
UNKNOWN_SIZE = 100.0  # pixels, of who shows a keypoint in the photo, or none: nothing says more
EVERYWHERE = (-math.inf, -math.inf, math.inf, math.inf)  # the picture, if its edges are not known
FAR = 1e5  # pixels: no picture is as large (JPEG ends at 65,535), so that a coordinate beyond is no keypoint
MEMBER_WEIGHT = 0.25  # what the robust error, 1 / (1 + r^2)^2, leaves of a keypoint that is off by its tolerance
# COCO's sigmas let a face tell a person's log scale to 0.27 and the angle to 0.20 radians. A head without a torso needs
# only its own. In twenty public pairs that show both, nose, eyes and ears, fitted by themselves frame by frame, follow
# the track's log scale, but for a constant, to 0.01 to 0.12, and its angle to 0.01 to 0.11 (benchmarks/heads.py; the
# table is in benchmarks/results/real-clips.md). Four times the information makes the sigmas 0.14 and 0.10.
HEAD_ALONE = 4.0
# A head counts as part of a person while the torso was in sight so lately (a choice: as long as a place is held, see
# `Track.statuses`).
TORSO_SECONDS = 1.0


def _part(*names) -> np.ndarray:
    return np.isin(np.arange(COUNT), [k for part in names for k in part])


def _standing_person() -> np.ndarray:
    """A person from the front, complex [K], in person sizes: what a photo's size is read off.

    Source: Drillis and Contini, "Body segment parameters", 1966 (figure 4.1 of Winter, "Biomechanics and motor control
    of human movement"). Heights above the ground, in body heights: eyes 0.936, shoulders 0.818, elbows 0.630, hips
    0.530, wrists 0.485, knees 0.285, ankles 0.039. Widths: shoulders 0.259, hips 0.191. The source has no widths of the
    face: here pupils are 63 mm and ears 150 mm apart, of a body of 1.75 m. Size 1 is the square root of the area of the
    box from shoulders to hips and eyes.
    """
    x = np.array([0.0, 0.018, 0.043, 0.1295, 0.1295, 0.1295, 0.0955, 0.0955, 0.0955])
    y = np.array([0.92, 0.936, 0.93, 0.818, 0.63, 0.485, 0.53, 0.285, 0.039])
    nose, rest = x[:1] - 1j * y[:1], np.stack([x[1:] - 1j * y[1:], -x[1:] - 1j * y[1:]], -1)
    return np.concatenate([nose, rest.reshape(-1)]) / math.sqrt(0.259 * (0.936 - 0.53))


STANDING = _standing_person()


@dataclasses.dataclass(frozen=True)
class Rates:
    """How fast people move: standard deviations of what a track does within a second, and of its acceleration.

    The change within dt seconds costs d^2 / (rate^2 dt), a random walk; the acceleration a costs a^2 dt / (its rate)^2.
    Larger follows more closely, smaller is steadier. The walk keeps people where they are while nothing is seen, and is
    as wide as ordinary motion is fast, since it pulls every motion towards rest; what damps jitter is the acceleration.

    Attributes:
        log_scale: per second; 1: who runs, as below, towards a camera 3.4 m away.
        angle: radians per second; 2.4: half a turn of the picture in 1.3 s.
        position: person sizes per second; 6: 3.4 m/s, a run.
        log_scale_acceleration, angle_acceleration, position_acceleration: the same, per second^1.5: what it takes to
            get to these speeds within 1 s (a start, or that of a zoom) for the scale, and within 1/6 s (a push) for
            the others.
    """

    log_scale: float = 1.0
    angle: float = 2.4
    position: float = 6.0
    log_scale_acceleration: float = 1.0
    angle_acceleration: float = 6.0
    position_acceleration: float = 15.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"rates.{field.name} must be a number > 0, but is {value!r}")

    def times(self, factor: float) -> "Rates":
        """All of them `factor` times as large."""
        return Rates(*(factor * value for value in dataclasses.astuple(self)))

    @property
    def walk(self) -> tuple[float, ...]:
        """Of (log scale, angle, x, y)."""
        return self.log_scale, self.angle, self.position, self.position

    @property
    def acceleration(self) -> tuple[float, ...]:
        """Of (log scale, angle, x, y)."""
        return (self.log_scale_acceleration, self.angle_acceleration, *2 * (self.position_acceleration,))


FACE_WEIGHT = 0.6  # five points that move as one, with the head
# How far limbs swing about shoulders and hips, standard deviations. Elbows and wrists: medians over the public pairs of
# photo and clip (benchmarks/limbs.py; the table is in benchmarks/results/real-clips.md). Legs: those of a walk; there,
# who stands in both moves them less, and who sits in one of the two far more.
SWINGS = (
    (ELBOWS, SHOULDERS, math.radians(35)), (WRISTS, SHOULDERS, math.radians(62)),
    (KNEES, HIPS, math.radians(20)), (ANKLES, HIPS, math.radians(20)),
)  # fmt: skip


# Hips that a photo does not show: in 32 public photos that do, seen from head and shoulders alone, their middle lies as
# many times as far from the shoulders as STANDING says (a detector's shoulders are joints, and narrower), and around
# that with so large a spread, in person sizes (medians; the photos are named in benchmarks/results/real-clips.md).
ASSUMED_TORSO, ASSUMED_SPREAD = 1.065, 0.09
# So each counts sigma^2 / (sigma^2 + 2 spread^2) of what a seen one does: both are wrong by the same.
ASSUMED_HIPS = float(1 / (1 + 2 * (ASSUMED_SPREAD / COCO_SIGMAS[HIPS[0]]) ** 2))


def _weights() -> np.ndarray:
    """What keypoints count: 1 in the torso; limbs move, they only confirm.

    A limb's end at distance d swings by SWINGS d about where the photo's pose has it, which adds to a noise of sigma:
    it says sigma^2 / (sigma^2 + (SWINGS d)^2) of what it would at rest. Elbows 0.04, wrists 0.003, knees 0.10, ankles
    0.03. More makes who swings the arms too small: an arm that is not in the photo's pose is mostly foreshortened.
    """
    weights = np.ones(COUNT)
    weights[FACE] = FACE_WEIGHT
    for ends, roots, swing in SWINGS:
        reach = swing * abs(STANDING[ends] - STANDING[roots])
        weights[ends] = COCO_SIGMAS[ends] ** 2 / (COCO_SIGMAS[ends] ** 2 + reach**2)
    return weights


@dataclasses.dataclass(frozen=True)
class Settings:
    """The constants of the model. Each has a reason; none was searched for on the tracks it is judged by.

    Attributes:
        tolerance: [K], of keypoints in person sizes: three of COCO's sigmas (cocoeval.py), as in `search_subset`.
        part_weights: [K]; see `_weights`.
        across: across the body tolerances are so many times as large: a turn narrows people, it does not shorten them.
        correlation_seconds: frames closer together make the same mistakes again: of such, a frame counts the share.
        least_weight: that it counts at least (repeated times).
        size_seconds, size_frames: person sizes are medians over so much to both sides, each frame's weighted by the
            lengths that it rests on.
        candidate_parts: bool [R, K], what is fitted beside the subset; the last one with two keypoints, others with 3.
        assume_hips: whether a photo of head and shoulders gets hips, see `_with_hips`.
        search, search_least, search_size: whether subsets are searched, with how many points, of which size (0: any).
        misfit: a candidate that makes the person so many times smaller or larger than its size is none.
        upright: what two points must pay for a person who stands on the head, who would fit as well.
        path_log_scale, path_angle, path_position: a change d within dt costs d / (first dt + second): what people do at
            their fastest, and what two fits of the same person differ by.
        path_side: what it costs that left and right are exchanged.
        path_break: what a change costs at most; then the track breaks. Two whole frames' worth of keypoints: one bad
            frame, which pays twice, cannot take the track along, and three new ones win over any past.
        path_frames: of frames with candidates, how many at most are passed over.
        iterations, converged: at most so many; done when no state moves by more (log scale, radians, person sizes).
        candidate_weight: what pulls each frame to its candidate of the path: a thousandth of what determines a state
            (`determined`, in tolerances), too little to be seen, and enough beside rounding: what no keypoint
            determines is held by nothing else.
        ridge: added to the diagonal of each solve, so that what nothing determines stays.
        least_seconds: between frames, at least (times may repeat).
        window_seconds, window_frames, warm_iterations: of a stream: how much of the past is estimated again each step,
            and with how many iterations if the path goes on as it was.
        determined: standard deviations of log scale, angle (radians) and position (person sizes) up to which a frame's
            own keypoints determine them.
    """

    tolerance: np.ndarray = dataclasses.field(default_factory=lambda: TOLERANCE_SIGMAS * COCO_SIGMAS)
    tolerance_sigmas: float = TOLERANCE_SIGMAS
    part_weights: np.ndarray = dataclasses.field(default_factory=_weights)
    across: float = 1.6
    correlation_seconds: float = 1 / 24
    least_weight: float = 0.01
    size_seconds: float = 0.5
    size_frames: int = 15
    size_parts: tuple = (_part(FACE, SHOULDERS, HIPS), np.ones(COUNT, bool))
    candidate_parts: tuple = (
        _part(FACE, SHOULDERS, HIPS), _part(FACE, SHOULDERS), _part(SHOULDERS, HIPS), _part(FACE), np.ones(COUNT, bool)
    )  # fmt: skip
    assume_hips: bool = True
    search: bool = True
    search_least: int = 4
    search_size: int = 0
    misfit: float = 20.0
    upright: float = 0.5
    path_log_scale: tuple = (0.5, 0.05)
    path_angle: tuple = (2.5, 0.08)
    path_position: tuple = (5.0, 0.15)
    path_side: float = 2.5
    path_break: float = 12.0
    path_frames: int = 32
    robust: bool = True
    iterations: int = 60
    converged: float = 1e-5
    candidate_weight: float = 1e-3 / 0.2**2 / TOLERANCE_SIGMAS**2
    ridge: float = 1e-6
    least_seconds: float = 1 / 240
    window_seconds: float = 1.0
    window_frames: int = 64
    warm_iterations: int = 4
    determined: tuple = (0.2, 0.2, 0.2)


def parse_subset(subset: str) -> tuple[str, int | None]:
    """`subset` option -> (criterion, size) of `search_subset`.

    Raises:
        ValueError: if it is none of optimal, face, all, fixed:N with N from 4 to 17.
    """
    if subset in ("optimal", "face", "all"):
        return ("truncated" if subset == "optimal" else subset), None
    kind, _, number = str(subset).partition(":")
    if kind == "fixed" and number.isdigit() and 4 <= int(number) <= COUNT:
        return "fixed", int(number)
    raise ValueError(f"subset must be optimal, face, all or fixed:N with N from 4 to {COUNT}, but is {subset!r}")


def settings_of(subset: str) -> Settings:
    """The model for a `subset`, see `parse_subset`."""
    criterion, size = parse_subset(subset)
    if criterion == "face":
        return Settings(
            part_weights=_part(FACE).astype(float), candidate_parts=(_part(FACE),), search=False, assume_hips=False
        )
    if criterion == "all":
        return Settings(
            part_weights=np.ones(COUNT),
            candidate_parts=(np.ones(COUNT, bool),),
            search=False,
            robust=False,
            assume_hips=False,
        )
    if criterion == "fixed":
        return Settings(candidate_parts=(), search_least=size, search_size=size, assume_hips=False)
    return Settings()


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo's person in its own coordinates: origin at the anchor, real axis along the body, size 1.

    Attributes:
        sides: complex [2, K], as it is and with left and right exchanged; zero where not seen.
        scores: [2, K]; seen: bool [2, K].
        assumed: bool [K], keypoints that are `seen` because they were assumed, see `_with_hips`.
        anchor: complex, the centre of face and torso in pixels of the photo; axis: complex, of length 1.
        size: pixels; angle: of the axis, radians.
    """

    sides: np.ndarray
    scores: np.ndarray
    seen: np.ndarray
    assumed: np.ndarray
    anchor: complex
    axis: complex
    size: float
    angle: float

    @classmethod
    def of(cls, keypoints: np.ndarray, scores: np.ndarray, seen: np.ndarray, settings: Settings) -> "Photo":
        """Of keypoints [K, 2] with scores [K], of which some are seen."""
        x = np.where(seen, keypoints[:, 0] + 1j * keypoints[:, 1], 0)
        core = [k for k in FACE + SHOULDERS + HIPS if seen[k]] or np.flatnonzero(seen)
        anchor = x[core].mean() if len(core) else 0j
        size, _ = naive_track.pair_ratio(STANDING, x, seen, settings.size_parts)
        size = float(size) if size > 0 else UNKNOWN_SIZE
        face, shoulders, hips = ([k for k in part if seen[k]] for part in (FACE, SHOULDERS, HIPS))
        axis = -1j  # up
        if hips and face + shoulders:
            axis = x[face + shoulders].mean() - x[hips].mean()
        elif face and len(shoulders) == 2:
            axis = x[face].mean() - x[shoulders].mean()
        axis = axis / abs(axis) if abs(axis) > 1e-6 * size else -1j
        assumed = np.zeros(COUNT, bool)
        if settings.assume_hips:
            x, scores, seen, assumed = _with_hips(x, scores, seen, size)
        own = np.where(seen, (x - anchor) / (axis * size), 0)
        sides, scores, seen = (np.stack([a, a[MIRRORED]]) for a in (own, np.where(seen, scores, 0.0), seen))
        return cls(sides, scores, seen, assumed, complex(anchor), complex(axis), size, float(np.angle(axis)))

    def matrices(self, states: np.ndarray) -> np.ndarray:
        """States [..., 4] as [..., 2, 3]: photo pixels -> pixels of the frame."""
        a = np.exp(states[..., 0] + 1j * states[..., 1]) / (self.axis * self.size)
        b = states[..., 2] + 1j * states[..., 3] - a * self.anchor
        return np.stack([np.stack([a.real, -a.imag, b.real], -1), np.stack([a.imag, a.real, b.imag], -1)], -2)


def _with_hips(x, scores, seen, size):
    """A photo of head and shoulders with hips where those of a standing person are: x, scores, seen, which are assumed.

    Head and shoulders alone say badly which way the body points, and how large it is: a head turns and nods. The hips
    lie on the line from the middle of the ears, which hardly moves as a head turns, through that of the shoulders.
    """
    assumed, face = np.zeros(COUNT, bool), [k for k in FACE if seen[k]]
    if not (face and seen[SHOULDERS].all()) or seen[HIPS].any():
        return x, scores, seen, assumed
    shoulders = x[SHOULDERS].mean()
    head = next((pair for pair in (EARS, EYES) if seen[pair].all()), face)
    up = x[head].mean() - shoulders
    if abs(up) <= 1e-6 * size:
        return x, scores, seen, assumed
    x, scores, seen = x.copy(), scores.copy(), seen.copy()
    hips = STANDING[HIPS] - STANDING[SHOULDERS].mean()
    x[HIPS] = shoulders + 1j * up / abs(up) * size * (hips.real + 1j * ASSUMED_TORSO * hips.imag)
    assumed[HIPS] = seen[HIPS] = True
    scores[HIPS] = ASSUMED_HIPS
    return x, scores, seen, assumed


@dataclasses.dataclass(frozen=True)
class Track:
    """Where people are in every frame. Without a P axis in, there is none here.

    Attributes:
        matrices: [F, P, 2, 3] float64, photo pixels -> pixels of the frame; always finite similarities. A person who
            is not seen is where the neighbouring frames say; one who is never seen lies as in the photo.
        side: [F, P] int64, 0 as the photo shows the person, 1 with left and right exchanged (a back view, or a detector
            that has swapped sides).
        information: [F, P, 3], what a frame's own keypoints say: precisions (inverse variances, if a keypoint's noise
            has COCO's sigma) of log scale, angle, and position (person sizes, given the other two); 0 for nothing.
            Of a head whose torso is not in sight within `TORSO_SECONDS`, `HEAD_ALONE` times as much.
        weights: [F, P, K] in [0, 1], what the robust error leaves of each keypoint: 1 fits, 0 does not or is missing.
        residual: [F, P], weighted rms of the keypoints in pixels of the frame; 0 without any.
        size: [F, P], the person's size in pixels.
        breaks: [F, P] bool, whether the person was somewhere else in the frame before (a cut, or the person came back).
        times: [F] seconds.
    """

    matrices: Array
    side: Array
    information: Array
    weights: Array
    residual: Array
    size: Array
    breaks: Array
    times: Array

    @property
    def determined(self) -> np.ndarray:
        """bool [F, P, 3] (NumPy): whether the frame's own keypoints determine log scale, angle and position."""
        return determined(self.information)

    def statuses(self, hold_seconds: float = 1.0) -> np.ndarray:
        """What each frame's own keypoints determine, [F, P] of strings (NumPy).

        "tracked": scale, angle and position; "fallback": the position, but not both of the others; "held": not the
        position, for no longer than `hold_seconds`; "lost": for longer, or from the start.

        Raises:
            ValueError: if hold_seconds is not a number >= 0.
        """
        if not isinstance(hold_seconds, int | float) or not hold_seconds >= 0:
            raise ValueError(f"hold_seconds must be a number >= 0, but is {hold_seconds!r}")
        rows = np.asarray(self.information)
        times = np.asarray(self.times)
        states = Statuses(math.prod(rows.shape[1:-1]))
        flat = rows.reshape(len(rows), math.prod(rows.shape[1:-1]), 3)
        out = [states.step(now, time, hold_seconds) for now, time in zip(flat, times.tolist(), strict=True)]
        return np.array(out, dtype="<U8").reshape(rows.shape[:-1])


DETERMINED = 1 / np.square(Settings.determined)


def determined(information) -> np.ndarray:
    """bool [..., 3]: whether information [..., 3] determines log scale, angle and position."""
    return np.asarray(information) >= DETERMINED


def shows_torso(weights: np.ndarray) -> np.ndarray:
    """bool [...]: whether a shoulder or a hip is in sight, by robust weights [..., K].

    They are 0 only of what is missing, or was guessed as it lies beyond the picture (per frame also of what does not
    fit). What is in sight and does not fit still pulls at the estimate: it is not the head alone that is aligned.
    """
    return (weights[..., [*SHOULDERS, *HIPS]] > 0).any(-1)


def torso_at_hand(shown: np.ndarray, times: np.ndarray) -> np.ndarray:
    """bool [..., F]: whether a torso is seen within `TORSO_SECONDS`, by `shown` [..., F] and times [F]."""
    before = np.maximum.accumulate(np.where(shown, times, -math.inf), -1)  # when one was seen last, and is seen next
    after = np.minimum.accumulate(np.where(shown, times, math.inf)[..., ::-1], -1)[..., ::-1]
    return (times - before <= TORSO_SECONDS) | (after - times <= TORSO_SECONDS)


def of_head(information: np.ndarray, weights: np.ndarray, torso: np.ndarray) -> np.ndarray:
    """Information [..., 3] of frames with robust weights [..., K]: that of a head alone counts more, see `HEAD_ALONE`.

    `torso` [...] tells whether one is at hand.
    """
    alone = ~torso & (weights[..., FACE] >= MEMBER_WEIGHT).any(-1)
    return np.where(alone[..., None], HEAD_ALONE * information, information)


class Statuses:
    """Statuses, frame after frame; see `Track.statuses`."""

    def __init__(self, persons: int):
        self.seen = [-math.inf] * persons

    def step(self, information: np.ndarray, time: float, hold_seconds: float) -> np.ndarray:
        """Of information [P, 3]: [P]. Plain loops: there are few persons, and a call of NumPy costs more than one."""
        out = []
        for p, (scale, angle, position) in enumerate(determined(information).tolist()):
            if position:
                self.seen[p] = time
                out.append("tracked" if scale and angle else "fallback")
            else:
                out.append("held" if time - self.seen[p] <= hold_seconds else "lost")
        return np.array(out, "<U8")


def _threshold(value) -> float:
    if not _checks.is_finite(value):
        raise ValueError(f"score_threshold must be a finite number, but is {value!r}")
    return min(float(value), float(np.float32(value)))  # a float32 score may be the threshold rounded


def _keypoints(points, scores, name: str, shape: str, dims: tuple[int, ...], first, threshold: float):
    """Points [..., K, 2] with scores -> float64 points, zero where not seen; scores; seen."""
    _checks.one_kind(**{"reference": first, name: points})
    array = _checks.floating(points, name).astype(np.float64)
    if array.ndim not in dims or array.shape[-2:] != (COUNT, 2):
        raise ValueError(f"{name} must be {shape}, K = {COUNT} COCO keypoints, but is {_checks.describe(points)}")
    if scores is None:
        given = np.ones(array.shape[:-1])
    else:
        given = _checks.floating(scores, f"{name}_scores").astype(np.float64)
        if given.shape != array.shape[:-1]:
            raise ValueError(
                f"{name}_scores must be {list(array.shape[:-1])} like {name}, but is {_checks.describe(scores)}"
            )
    with np.errstate(invalid="ignore"):
        seen = (abs(array) <= FAR).all(-1) & (given >= threshold)
    return np.where(seen[..., None], array, 0.0), np.where(seen, np.clip(given, 0, 1), 0.0), seen


def _times(times, count: int) -> np.ndarray:
    array = _checks.finite(_checks.floating(times, "times").astype(np.float64), "times")
    if array.shape != (count,):
        raise ValueError(f"times must be [{count}], one per frame, but is {_checks.describe(times)}")
    if (np.diff(array) < 0).any():
        at = int(np.flatnonzero(np.diff(array) < 0)[0])
        raise ValueError(f"times must not decrease, but go from {array[at]} to {array[at + 1]} after frame {at}")
    return array


def _checked(rates: Rates | None, motion: str) -> Rates:
    rates = rates if rates is not None else Rates()
    if not isinstance(rates, Rates):
        raise TypeError(f"rates must be a Rates, but is {_checks.describe(rates)}")
    if motion not in MOTIONS:
        raise ValueError(f"motion must be one of {', '.join(MOTIONS)}, but is {motion!r}")
    return rates


def _edges(picture) -> tuple[float, float, float, float] | None:
    if picture is None:
        return None
    try:
        edges = tuple(float(edge) for edge in picture)
    except (TypeError, ValueError):
        raise TypeError(f"picture must be (left, top, right, bottom), but is {_checks.describe(picture)}") from None
    if len(edges) != 4 or not (edges[0] < edges[2] and edges[1] < edges[3]):
        raise ValueError(f"picture must be (left, top, right, bottom), left < right, top < bottom, but is {picture!r}")
    return edges


def _shots(cuts, count: int) -> list[slice]:
    """The shots between cuts, the frames with which a new one begins."""
    try:
        starts = sorted({int(cut) for cut in cuts})
        exact = all(int(cut) == cut for cut in cuts)
    except (TypeError, ValueError, OverflowError, np.ma.MaskError):
        raise TypeError(f"cuts must be frame numbers, but is {_checks.describe(cuts)}") from None
    if not exact or (starts and not 0 <= starts[0] <= starts[-1] <= count):
        raise ValueError(f"cuts must be frame numbers from 0 to {count}, but are {list(cuts)}")
    edges = [0, *(cut for cut in starts if 0 < cut < count), count]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def native_settings(settings: Settings, rates: Rates):
    """Settings as the compiled core takes them."""
    out = _native.core().TrackSettings()
    for field in dataclasses.fields(settings):
        if field.name in ("determined", "assume_hips"):
            continue
        value = getattr(settings, field.name)
        setattr(out, field.name, [list(part) for part in value] if field.name.endswith("_parts") else value)
    out.walk, out.acceleration = rates.walk, rates.acceleration
    return out


def native_photos(photos: list[Photo]) -> tuple[np.ndarray, ...]:
    """Photos as the compiled core takes them: sides, scores, seen, assumed, body."""
    sides = np.array([naive_track.xy(p.sides) for p in photos]).reshape(-1, 2, COUNT, 2)
    scores = np.array([p.scores for p in photos], np.float64).reshape(-1, 2, COUNT)
    seen = np.array([p.seen for p in photos], bool).reshape(-1, 2, COUNT)
    assumed = np.array([p.assumed for p in photos], bool).reshape(-1, COUNT)
    body = np.array([[p.angle, p.size, p.anchor.real, p.anchor.imag] for p in photos], np.float64).reshape(-1, 4)
    return sides, scores, seen, assumed, body


def _estimate(photos, points, scores, seen, times, settings, rates, picture, backend):
    """Of persons [P, F, K, ...] in one shot: sizes, side, breaks [P, F], states [P, F, 4], robust weights [P, F, K],
    information [P, F, 3]."""
    if backend == "cpu":
        core, s = _native.core(), native_settings(settings, rates)
        problem = (s, *native_photos(photos), times, points, scores, seen)
        sizes, weights, rows, counts = core.track_candidates(*problem)
        chosen, breaks = core.track_path(s, times, sizes, rows, counts)
        side, states, robust, information, _ = core.track_refine(
            *problem, sizes, weights, rows, chosen, breaks, picture or EVERYWHERE
        )
        return sizes, side, breaks, states, robust, information
    found = [
        naive_track.estimate(photo, p[..., 0] + 1j * p[..., 1], q, has, times, settings, rates, picture)
        for photo, p, q, has in zip(photos, points, scores, seen, strict=True)
    ]
    tails = ((), (), (), (4,), (COUNT,), (3,))
    types = (float, np.int64, bool, float, float, float)
    return tuple(
        np.array([f[i] for f in found], types[i]).reshape(len(photos), len(times), *tails[i]) for i in range(6)
    )


def estimate_track(
    reference: Array,
    driving: Array,
    times: Array,
    *,
    reference_scores: Array | None = None,
    driving_scores: Array | None = None,
    score_threshold: float = SCORE_THRESHOLD,
    rates: Rates | None = None,
    motion: str = "frame",
    subset: str = "optimal",
    per_frame: bool = False,
    cuts=(),
    picture: tuple[float, float, float, float] | None = None,
    backend: str | None = None,
) -> Track:
    """Estimates where the persons of a photo are in every frame of a clip. The module's docstring has the method.

    Persons are independent of each other. Scaling, turning or moving the frames' keypoints, or the photo's, changes the
    matrices accordingly; the clip backwards gives the same track backwards.

    Args:
        reference: [P, K, 2] or, of one person, [K, 2]: COCO keypoints (K = 17) of the photo, xy in its pixels; NaN or
            infinite where missing; so are coordinates beyond 100,000 pixels.
        driving: [F, P, K, 2] or [F, K, 2]: the same persons' keypoints in pixels of the frames.
        times: [F] seconds, never decreasing.
        reference_scores, driving_scores: [P, K] and [F, P, K] (or without P); ones if None. A keypoint whose score is
            NaN or below `score_threshold` is missing.
        rates: how fast people move; `Rates()` if None.
        motion: "frame", or "constant": one similarity for the clip (for each shot of it), the one that explains the
            most of all frames' keypoints, robustly.
        subset: which keypoints count: "optimal" as the module says; "face": nose, eyes and ears only; "all": all with
            the same weight, by plain least squares; "fixed:N": candidates are the best subsets of N keypoints.
        per_frame: each frame by itself, without memory or smoothing, as the paper: the fit of the subset itself (its
            robust weights are its members). A frame without a fit repeats the one before.
        cuts: the first frames of new shots; each shot is estimated by itself; see
            `tpc_fast.pose.follow.shots.find_cuts`.
        picture: (left, top, right, bottom), the edges of what the camera shows, in pixels of the frame. A keypoint that
            the track puts beyond them was guessed, and does not count. None: unknown. Not with per_frame or "constant".
        backend: None, "cpu" or "naive".

    Returns:
        Track, of the kind of arrays (NumPy, torch CPU tensors) that `reference` is.

    Raises:
        TypeError: arrays that are not numeric, of different kinds, or on a GPU.
        ValueError: shapes that do not fit, times that decrease, an option that is not known.
        RuntimeError: a backend that cannot be had.
    """
    rates = _checked(rates, motion)
    settings, threshold, picture = settings_of(subset), _threshold(score_threshold), _edges(picture)
    backend = _backend(reference, backend)
    shape = "[P, K, 2] or [K, 2]"
    x, xs, x_seen = _keypoints(reference, reference_scores, "reference", shape, (2, 3), reference, threshold)
    shape = "[F, P, K, 2]" if x.ndim == 3 else "[F, K, 2]"
    y, ys, y_seen = _keypoints(driving, driving_scores, "driving", shape, (x.ndim + 1,), reference, threshold)
    if x.ndim == 3 and y.shape[1] != len(x):
        raise ValueError(f"driving must have the {len(x)} persons of reference, but is {_checks.describe(driving)}")
    times = _times(times, len(y))
    single = x.ndim == 2
    if single:
        x, xs, x_seen, y, ys, y_seen = x[None], xs[None], x_seen[None], y[:, None], ys[:, None], y_seen[:, None]
    photo_settings = dataclasses.replace(settings, assume_hips=settings.assume_hips and not per_frame)
    photos = [Photo.of(*row, photo_settings) for row in zip(x, xs, x_seen, strict=True)]
    y, ys, y_seen = (np.ascontiguousarray(a.swapaxes(0, 1)) for a in (y, ys, y_seen))  # persons first

    problem = photos, y, ys, y_seen
    estimate = _each_shot(*problem, times, cuts, picture, settings, rates, motion, subset, per_frame, backend)
    sizes, side, breaks, states, robust, information = estimate
    residual = _residuals(*problem, side, states, robust, settings)
    matrices = [photo.matrices(s) for photo, s in zip(photos, states, strict=True)]
    matrices = np.array(matrices).reshape(len(photos), len(times), 2, 3)

    def out(array):
        array = np.ascontiguousarray(array.swapaxes(0, 1))
        return _checks.like(array[:, 0] if single else array, reference)

    arrays = (out(a) for a in (matrices, side, information, robust, residual, sizes, breaks))
    return Track(*arrays, _checks.like(times, reference))


def _each_shot(
    photos, points, scores, seen, times, cuts, picture, settings, rates, motion, subset, per_frame, backend
):  # fmt: skip
    """What `_estimate` returns, of all shots one after the other."""
    parts = []
    for shot in _shots(cuts, len(times)):
        problem = [np.ascontiguousarray(a[:, shot]) for a in (points, scores, seen)]
        if per_frame:
            part = _each_frame(photos, *problem, times[shot], settings, subset, backend)
        else:
            part = _estimate(photos, *problem, times[shot], settings, rates, picture, backend)
        *rest, robust, information = part
        torso = shows_torso(robust) if per_frame else torso_at_hand(shows_torso(robust), times[shot])
        part = *rest, robust, of_head(information, robust, torso)
        if motion == "constant":  # its own weights do not know the picture's edges
            part = _constant(photos, *problem, part, settings)
        part[2][:, :1] |= shot.start > 0
        parts.append(part)
    return (np.concatenate(part, 1) for part in zip(*parts, strict=True))


def _residuals(photos, points, scores, seen, side, states, robust, settings) -> np.ndarray:
    """[P, F] pixels."""
    each = zip(photos, points, scores, seen, side, states, robust, strict=True)
    found = [
        naive_track.residuals(photo, p[..., 0] + 1j * p[..., 1], q, has, *rest, settings)
        for photo, p, q, has, *rest in each
    ]
    return np.array(found).reshape(side.shape)


def _backend(array, backend: str | None) -> str:
    backend = _dispatch.resolve(array, backend) if backend != "triton" else backend
    if backend == "triton":
        raise TypeError("tracks are estimated on the CPU: pass NumPy arrays or CPU tensors, backend None, cpu or naive")
    return backend


def _each_frame(photos, points, scores, seen, times, settings, subset, backend):
    """What `_estimate` returns, of each frame by itself: the paper's fit."""
    persons, frames = seen.shape[:2]
    criterion, size = parse_subset(subset)
    sizes, side = np.ones((persons, frames)), np.zeros((persons, frames), np.int64)
    states, robust = np.zeros((persons, frames, 4)), np.zeros((persons, frames, COUNT))
    information = np.zeros((persons, frames, 3))
    for p, photo in enumerate(photos):
        target = points[p, ..., 0] + 1j * points[p, ..., 1]
        common = seen[p][:, None] & photo.seen  # [F, 2, K]
        sizes[p] = naive_track.person_sizes(photo, target, common[:, 0], times, settings)
        rows = []
        for s in (0, 1):
            both = np.ascontiguousarray(common[:, s])
            x, y = (naive_track.xy(np.where(both, a, 0)) for a in (photo.sides[s], target))
            weights = np.where(both, np.minimum(photo.scores[s], scores[p]), 0.0)
            zero = np.zeros((frames, COUNT))
            fit, members, value, weak = search_rows(
                x, y, settings.tolerance * sizes[p][:, None], both, weights, zero, np.zeros(frames, complex),
                np.zeros(frames), sizes[p], criterion, 3 if subset == "face" else 4, size, backend, np.float64
            )  # fmt: skip
            rows.append((np.where(weak, -np.inf, value), fit, members))
        side[p] = rows[1][0] > rows[0][0] + 0.5  # a whole half keypoint more: else as the photo is
        last = np.array([math.log(photo.size), photo.angle, 0, 0])
        fits = []
        for f in range(frames):
            value, fit, members = rows[side[p, f]]
            if np.isfinite(value[f]):
                last = np.array([np.log(fit.scale[f]), fit.angle[f], *fit.translation[f]])
                robust[p, f] = members[f]
                fits.append(f)
            states[p, f] = last
        if fits:
            states[p, : fits[0]] = states[p, fits[0]]
        w = settings.part_weights * np.minimum(photo.scores[side[p]], scores[p])
        information[p] = naive_track.information(photo.sides[side[p]], w, robust[p], settings)
    return sizes, side, np.zeros((persons, frames), bool), states, robust, information


def _constant(photos, points, scores, seen, estimate, settings):
    """`_estimate`'s result with one state for all frames."""
    sizes, side, breaks, states, _, information = estimate
    robust = np.zeros((*sizes.shape, COUNT))
    states, information = states.copy(), information.copy()
    for p, photo in enumerate(photos):
        target = points[p, ..., 0] + 1j * points[p, ..., 1]
        states[p], robust[p] = naive_track.constant(
            photo, target, scores[p], seen[p], side[p], states[p], sizes[p], information[p], settings
        )
    return sizes, side, np.zeros_like(breaks), states, robust, information
