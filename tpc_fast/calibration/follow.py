"""From whoever was seen to where the photo's persons are: who plays whom, the track, and how visible everybody is."""

import dataclasses

import numpy as np

from tpc_fast.calibration.fade import SEEN, fade_stream, fade_video
from tpc_fast.calibration.kept_masks import KeptMasks
from tpc_fast.calibration.options import Options
from tpc_fast.calibration.reference import Reference
from tpc_fast.calibration.session import Session, take_rows
from tpc_fast.calibration.watch import Watched
from tpc_fast.media.canvas import Canvas
from tpc_fast.ops.track import MEMBER_WEIGHT, Statuses, Track, estimate_track
from tpc_fast.ops.track_stream import TrackEstimator, TrackStep
from tpc_fast.pose.follow.shots import find_cuts, main_person


@dataclasses.dataclass
class Followed:
    """Where everybody is in a video; F frames, P persons. Fields are those of `Calibration` of the same names."""

    keypoints: np.ndarray
    scores: np.ndarray
    packed_pose_masks: KeptMasks
    matrices: np.ndarray
    raw_matrices: np.ndarray
    status: np.ndarray
    determined: np.ndarray
    swapped: np.ndarray
    opacity: np.ndarray
    members: np.ndarray
    residual: np.ndarray
    order: np.ndarray
    match: list[int]
    cuts: list[int]


def follow(session: Session, watched: Watched) -> Followed:
    """Brings the photo's persons onto those of a video that was watched."""
    options, reference = session.options, session.reference
    cuts = _cuts(watched, options)
    places, match = _match(session, watched, cuts)
    on_canvas = [session.on_canvas(seen, row) for seen, row in zip(watched.people, places, strict=True)]
    keypoints, scores = (np.stack(rows) for rows in zip(*on_canvas, strict=True))
    track, raw = estimate(reference, keypoints, scores, watched.times, options, cuts, shown(session.canvas))
    whole = options.smooth == "offline" or options.motion == "constant"
    fade = fade_video if whole else fade_stream
    status = track.statuses(options.hold_seconds)
    status, opacity = fade(status, watched.times, options.hold_seconds, options.fade_seconds)
    sizes = np.where(np.isin(status, SEEN), track.size, np.nan)
    order = [session.depth.step(*row) for row in zip(keypoints, scores, sizes, strict=True)]
    packed = KeptMasks(_packed(p, row, options.size) for p, row in zip(watched.packed, places, strict=True))
    # Who is never seen lies in the middle of the canvas, as before the first frame of a stream.
    middle, known = reference.middle(options.size).matrix, np.isin(status, SEEN).any(0)[:, None, None]
    matrices, raw_matrices = (np.where(known, one.matrices, middle) for one in (track, raw))
    return Followed(
        keypoints=keypoints,
        scores=scores,
        packed_pose_masks=packed,
        matrices=reference.matrix(matrices),
        raw_matrices=reference.matrix(raw_matrices),
        status=status,
        determined=track.determined,
        swapped=track.side == 1,
        opacity=opacity,
        members=track.weights >= MEMBER_WEIGHT,
        residual=track.residual.astype(np.float32),
        order=np.stack(order),
        match=match,
        cuts=cuts,
    )


def estimate(
    reference: Reference,
    keypoints: np.ndarray,
    scores: np.ndarray,
    times: np.ndarray,
    options: Options,
    cuts=(),
    picture=None,
) -> tuple[Track, Track]:
    """The track as it was asked for, and that of each frame by itself.

    Args:
        keypoints: [F, P, 17, 2] on the canvas, NaN where missing; scores: [F, P, 17]; times: [F] seconds.
        cuts: frames with which new shots begin.
        picture: the edges of what the camera shows, see `shown`; None: unknown.
    """
    known = dict(reference_scores=reference.scores, driving_scores=scores, score_threshold=options.score_threshold)
    problem = dict(subset=options.subset, cuts=cuts, **known)
    raw = estimate_track(reference.points, keypoints, times, per_frame=True, **problem)
    if options.motion == "constant" or options.smooth == "offline":
        how = dict(motion=options.motion, picture=picture)
        return estimate_track(reference.points, keypoints, times, **how, **problem), raw
    if options.smooth == "none":
        return raw, raw
    estimator = stream_estimator(reference, options)
    steps = []
    for i, row in enumerate(zip(keypoints, scores, times.tolist(), strict=True)):
        if i in cuts:
            estimator.reset()
        steps.append(estimator.step(*row, picture))
    names = ("matrix", "side", "information", "weights", "residual", "size", "breaks")
    return Track(*(np.stack([getattr(step, name) for step in steps]) for name in names), times), raw


def shown(canvas: Canvas) -> tuple[float, float, float, float]:
    """The edges (left, top, right, bottom) of what the camera shows, in pixels of the canvas."""
    left, top, right, bottom = canvas.box
    return left - 0.5, top - 0.5, right - 0.5, bottom - 0.5


def stream_estimator(reference: Reference, options: Options, lag: int = 0) -> "TrackEstimator | EachFrame":
    """What follows the photo's persons through a stream, frame by frame; with smooth="none", each frame by itself."""
    known = dict(
        reference_scores=reference.scores,
        score_threshold=options.score_threshold,
        subset=options.subset,
        hold_seconds=options.hold_seconds,
    )
    if options.smooth == "none":
        return EachFrame(reference.points, **known)
    return TrackEstimator(reference.points, lag=lag, **known)


def _cuts(watched: Watched, options: Options) -> list[int]:
    if options.cuts == "auto":
        keypoints, scores = main_person(watched.people, options.score_threshold)
        return find_cuts(keypoints, scores, watched.times, watched.differences, options.score_threshold)
    return [] if options.cuts == "none" else [cut for cut in options.cuts if 0 < cut < len(watched.times)]


def _match(session: Session, watched: Watched, cuts: list[int]) -> tuple[np.ndarray, list[int]]:
    """Who plays whom, shot by shot.

    Returns:
        [F, P] which of the persons seen in a frame plays each person of the photo, -1 for nobody; and [P] the same for
        the first shot that shows anybody, as `Calibration.match` has it.
    """
    matcher, size = session.matcher, session.canvas.source
    places, match = [], None
    for begin, end in zip([0, *cuts], [*cuts, len(watched.times)], strict=True):
        matcher.reset()
        frames = [(*seen[:2], time, seen.colours) for seen, time in zip(watched.people, watched.times, strict=True)][
            begin:end
        ]
        if session.options.smooth == "offline":
            places.append(matcher.match_video(frames, size))
        else:
            places.append(np.stack([matcher.step(*row[:2], size, *row[2:]) for row in frames]))
        if match is None or max(match) < 0:
            match = matcher.chosen.tolist()
    return np.concatenate(places), match


def _packed(packed: KeptMasks | None, places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    nothing = np.zeros((max(places.max(), 0) + 1, -(-size[0] * size[1] // 8)), np.uint8)
    return take_rows(nothing if packed is None else packed[0], places)


class EachFrame:
    """`TrackEstimator`'s methods where each frame is fitted by itself, as the paper does."""

    def __init__(self, reference, *, reference_scores, score_threshold, subset, hold_seconds):
        """Takes arguments of `TrackEstimator`."""
        self._photo, self._hold_seconds = reference, hold_seconds
        self._known = dict(reference_scores=reference_scores, score_threshold=score_threshold, subset=subset)
        self.reset()

    def reset(self) -> None:
        """Forgets the past: the next frame is the first."""
        self._statuses, self._matrix, self._count = Statuses(len(self._photo)), None, 0

    def step(self, keypoints: np.ndarray, scores: np.ndarray, time: float, picture=None) -> TrackStep:
        """The next frame; who cannot be fitted in it stays."""
        track = estimate_track(
            self._photo, keypoints[None], [time], driving_scores=scores[None], per_frame=True, **self._known
        )
        matrix, fitted = track.matrices[0], track.weights[0].any(-1)
        if self._matrix is not None:
            matrix = np.where(fitted[:, None, None], matrix, self._matrix)
        self._matrix, self._count = matrix, self._count + 1
        status = self._statuses.step(track.information[0], time, self._hold_seconds)
        rest = (a[0] for a in (track.side, track.information, track.weights, track.residual, track.size, track.breaks))
        return TrackStep(self._count - 1, time, matrix, *rest, status)

    def flush(self) -> list[TrackStep]:
        """Nothing is waited for."""
        return []
