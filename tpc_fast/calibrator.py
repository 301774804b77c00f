"""The main job: a reference photo and a driving video in, calibrated images and masks out.

`Calibrator` takes one frame at a time and knows only the past; `calibrate` takes a whole video. Both find the person,
fit the similarity from the reference to the frame, smooth it, and warp the photo and its person mask with it.
"""

import contextlib
import dataclasses
import importlib.metadata
import logging
import os
import platform
import threading
import time as clock
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tpc_fast import _checks
from tpc_fast._version import __version__
from tpc_fast.calibration import Calibration, faded
from tpc_fast.canvas import FITS, Canvas
from tpc_fast.pose.detection import Detection, Detector
from tpc_fast.pose.detectors import get_detector
from tpc_fast.pose.fitting import FrameFit, PersonFitter, parse_subset
from tpc_fast.pose.keypoints import TORSO
from tpc_fast.pose.smoothing import CausalSmoother, from_track, smooth_offline, to_track
from tpc_fast.pose.storage import (
    Detections,
    StaleDetectionsError,
    fingerprint,
    load_detections,
    pack_mask,
    save_detections,
)
from tpc_fast.pose.tracking import PersonTracker
from tpc_fast.procrustes import Similarity
from tpc_fast.video import VideoReader, load_image, prefetch
from tpc_fast.warp import INTERPOLATIONS, WarpSource

STREAM_SMOOTHINGS = ("none", "causal")
SMOOTHINGS = (*STREAM_SMOOTHINGS, "offline")
DEFAULT_SIZE = 512
FALLBACK_TRUST = 0.3  # weight of a fallback's transform in offline smoothing, of a tracked one's 1

_log = logging.getLogger("tpc_fast")


@dataclasses.dataclass(frozen=True)
class CalibratedFrame:
    """One frame of a stream; P persons.

    Attributes:
        image: uint8 [P, h, w, 3], the reference photo warped onto the canvas.
        mask: uint8 [P, h, w], its person mask, coverage 0..255 (fading where a person is lost).
        pose_mask: uint8 [P, h, w], where the driving person is; None without masks.
        matrix: float32 [P, 2, 3], native pixels of the reference -> pixels of the canvas.
        status: [P] str, see `Calibration`.
        opacity: float32 [P].
        rung, swapped, members, residual, keypoints, scores: as in `Calibration`, without the frame axis.
        time: seconds.
    """

    image: np.ndarray
    mask: np.ndarray
    pose_mask: np.ndarray | None
    matrix: np.ndarray
    status: np.ndarray
    opacity: np.ndarray
    rung: np.ndarray
    swapped: np.ndarray
    members: np.ndarray
    residual: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray
    time: float


class _Reference:
    """The photo with its persons, and where its pixels lie in the space that fits are made in."""

    def __init__(self, source, image, mask, keypoints, scores, canvas: Canvas | None):
        self.path = str(Path(source).resolve()) if isinstance(source, str | os.PathLike) else None
        self.image, self.mask, self.keypoints, self.scores = image, mask, keypoints, scores
        # Squeezing changes the aspect ratio, so the squeezed photo is fitted, as the original does. Otherwise the photo
        # itself is: a similarity takes any scale in.
        self.canvas = canvas

    @property
    def points(self) -> np.ndarray:
        """[P, K, 2] keypoints in the space of the fits."""
        return self.keypoints if self.canvas is None else self.canvas.apply(self.keypoints)

    def matrix(self, similarity: Similarity) -> np.ndarray:
        """[..., 2, 3] float32, native pixels -> canvas, of similarities from the space of the fits."""
        matrix = similarity.matrix
        if self.canvas is not None:
            squeeze = np.vstack([self.canvas.matrix, [0, 0, 1]])
            matrix = matrix @ squeeze
        return matrix.astype(np.float32)


class _Person:
    """One person over time: the fit with its memory, and what is done while nothing can be fitted."""

    def __init__(self, reference: _Reference, index: int, start: Similarity, options: "_Options"):
        points, scores = reference.points[index], reference.scores[index]
        self.fitter = PersonFitter(points, scores, options.subset, options.score_threshold)
        seen = np.isfinite(points).all(-1) & (scores >= options.score_threshold)
        torso = np.zeros_like(seen)
        torso[TORSO] = True
        self.anchor = points[seen & torso if (seen & torso).any() else seen].mean(0)
        self._options = options
        self._start = to_track(start, self.anchor)
        self.reset()

    def reset(self) -> None:
        self.fitter.reset()
        self.smoother = CausalSmoother() if self._options.smooth == "causal" else None
        self.track, self.raw = self._start, self._start
        self.opacity, self._seen, self._before = 0.0, None, None

    def follow(self, fit: FrameFit, time: float) -> str:
        """Takes a frame's fit in; sets track, raw and opacity, and returns the status."""
        options = self._options
        held_before = self._seen is not None and self._before != self._seen
        if fit.similarity is not None:
            self.raw = self.track = to_track(fit.similarity, self.anchor)
            if self.smoother is not None:
                self.track = self.smoother.step(self.raw, time, fit.size, held_before or fit.corrected)
            first, self._seen = self._seen is None, time
            status, wanted = _status(fit), 1.0
        else:
            first = False
            gap = np.inf if self._seen is None else time - self._seen
            status = "held" if gap <= options.hold_seconds else "lost"
            wanted = fading(gap, options.hold_seconds, options.fade_seconds)
        if first or wanted <= self.opacity or options.fade_seconds <= 0:
            self.opacity = wanted
        else:  # who was faded out fades in
            self.opacity = min(wanted, self.opacity + (time - self._before) / options.fade_seconds)
        self._before = time
        return status


def _status(fit: FrameFit) -> str:
    return "tracked" if fit.rung == "subset" and not fit.corrected else "fallback"


def fading(gap, hold_seconds: float, fade_seconds: float):
    """Opacity after `gap` seconds without a fit: 1 while held, then down to 0 within `fade_seconds`."""
    if fade_seconds <= 0:
        return np.where(np.asarray(gap) <= hold_seconds, 1.0, 0.0)[()]
    return np.clip(1 - (np.asarray(gap) - hold_seconds) / fade_seconds, 0.0, 1.0)[()]


@dataclasses.dataclass(frozen=True)
class _Options:
    size: tuple[int, int]
    fit: str
    subset: str
    smooth: str
    score_threshold: float
    interpolation: str
    antialias: bool
    hold_seconds: float
    fade_seconds: float

    @classmethod
    def checked(cls, size, **others) -> "_Options":
        if isinstance(size, int) and not isinstance(size, bool):
            size = (size, size)
        try:
            height, width = size
            valid = all(isinstance(n, int | np.integer) and 16 <= n <= 16384 for n in (height, width))
        except (TypeError, ValueError):
            valid = False
        if not valid:
            raise ValueError(f"size must be an integer or (height, width), each from 16 to 16384, but is {size!r}")
        options = cls((int(height), int(width)), **others)
        for name, allowed in (("fit", FITS), ("interpolation", INTERPOLATIONS)):
            if getattr(options, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, but is {getattr(options, name)!r}")
        parse_subset(options.subset)
        for name, low, high in (
            ("score_threshold", 0, 1),
            ("hold_seconds", 0, np.inf),
            ("fade_seconds", 0, np.inf),
        ):
            value = getattr(options, name)
            if not (isinstance(value, int | float) and low <= value <= high and np.isfinite(value)):
                raise ValueError(f"{name} must be a finite number from {low} to {high}, but is {value!r}")
        return options

    def as_dict(self) -> dict:
        return dataclasses.asdict(self) | {"size": list(self.size)}


class Calibrator:
    """Brings a reference person onto a driving person, frame by frame; causal.

    >>> calibrator = tpc_fast.Calibrator("photo.png")
    >>> for frame in camera:  # uint8 [H, W, 3] RGB
    ...     out = calibrator.step(frame)
    ...     use(out.image, out.mask)

    One thread at a time. Close it, or use it as a context manager, to free the detector early.

    Args:
        reference: path, PIL image, or uint8 array [H, W], [H, W, 3] or [H, W, 4] (an alpha channel is its person mask).
        size: of the canvas, (height, width) or one number for both.
        fit: "pad" keeps the aspect ratio of the driving frames and centres them; "squeeze" fills the canvas with frames
            and reference alike, as the original does.
        subset: which keypoints are fitted: "optimal" (the exact optimal subset), "fixed:N" (the best N), "face" (as the
            released TPC code), "all".
        smooth: "causal" (One-Euro) or "none" (as the paper).
        detector: a name, a `Detector`, or None for the embedded one. It is not made if it is not needed.
        reference_keypoints: [17, 2] or [P, 17, 2] in pixels of the reference, with an optional third column of scores;
            or an .npz or .json file of them. Then the reference is not looked at by a detector.
        reference_mask: uint8 or bool [H, W] or [P, H, W], or a path of a picture. None: alpha channel, or the
            detector's.
        score_threshold: keypoints with a lower score are missing.
        interpolation, antialias: of the warps, see `warp_composite`.
        hold_seconds: how long a person that is not seen is held before it is lost.
        fade_seconds: how long it takes to fade out or in.
        fps: frames per second of `step` calls without a time.

    Raises:
        FileNotFoundError, ValueError, TypeError: for a reference or an option that is not as it must be, or a
            reference in which nobody is found.
        ImportError: if a detector is needed and not installed.

    Attributes:
        warnings: what the user should know.
        tracker: the `PersonTracker` in use, or None while none was needed.
    """

    def __init__(
        self,
        reference,
        *,
        size: int | tuple[int, int] = DEFAULT_SIZE,
        fit: str = "pad",
        subset: str = "optimal",
        smooth: str = "causal",
        detector: str | Detector | None = None,
        reference_keypoints=None,
        reference_mask=None,
        score_threshold: float = 0.3,
        interpolation: str = "cubic",
        antialias: bool = True,
        hold_seconds: float = 1.0,
        fade_seconds: float = 0.5,
        fps: float = 30.0,
    ):
        if smooth not in STREAM_SMOOTHINGS:
            raise ValueError(f"smooth must be one of {', '.join(STREAM_SMOOTHINGS)}, but is {smooth!r}")
        self.options = _Options.checked(
            size,
            fit=fit,
            subset=subset,
            smooth=smooth,
            score_threshold=score_threshold,
            interpolation=interpolation,
            antialias=antialias,
            hold_seconds=hold_seconds,
            fade_seconds=fade_seconds,
        )
        if not (isinstance(fps, int | float) and 0 < fps < np.inf):
            raise ValueError(f"fps must be a positive number, but is {fps!r}")
        self.warnings: list[str] = []
        self.tracker: PersonTracker | None = None
        self._detector, self._own_detector = detector, not isinstance(detector, Detector)
        self._frame_seconds = 1 / fps
        self._closed = False
        self.reference: _Reference | None = None
        try:
            self.reference = self._load_reference(reference, reference_keypoints, reference_mask)
        except BaseException:
            self.close()
            raise
        self._source = WarpSource(self.reference.image, self.reference.mask)
        # Where the reference lies before anybody was seen: in the middle of the canvas.
        middle = Canvas.fitting(self.reference.image.shape[:2], self.options.size, "pad").matrix
        if self.reference.canvas is not None:
            middle = np.eye(2, 3)
        start = Similarity(middle[0, 0], np.eye(2), middle[:, 2])
        self._people = [_Person(self.reference, p, start, self.options) for p in range(len(self.reference.keypoints))]
        self.canvas: Canvas | None = None
        self._time: float | None = None

    def _load_reference(self, reference, given, mask) -> _Reference:
        image, alpha = load_image(reference, "reference")
        shape = image.shape[:2]
        found_mask = None
        if given is not None:
            if not isinstance(given, str | os.PathLike) and np.ndim(given) == 3:
                given = np.asarray(given)[None]  # [P, 17, 2]: one frame
            detections = _given_detections(given, None, "reference_keypoints")
            if len(detections) != 1:
                raise ValueError(f"reference_keypoints must be of one picture, but are of {len(detections)} frames")
            keypoints, scores, found_mask = detections.keypoints[0], detections.scores[0], detections.mask(0)
        else:
            detection = self._get_tracker().find(image)
            if not len(detection):
                raise ValueError(
                    f"reference: no person was found ({self.tracker.tried}): use a photo in which head and shoulders "
                    "are visible, or give reference_keypoints"
                )
            keypoints, scores, found_mask = detection.keypoints, detection.scores, detection.mask
        if mask is not None:
            masks = _given_mask(mask, shape)
        elif alpha is not None and (alpha < 255).any():
            masks = alpha[None]
        elif found_mask is not None:
            masks = found_mask
        else:
            self.warnings.append("reference: no person mask was given or found: the whole photo is the mask")
            masks = np.full((1, *shape), 255, np.uint8)
        if not masks.any():
            self.warnings.append("reference: the person mask is empty")
        if len(masks) != len(keypoints):
            raise ValueError(f"reference_mask must be of {len(keypoints)} person(s), but is of {len(masks)}")
        if len(keypoints) != 1:
            raise ValueError(
                f"reference must show one person (several are not supported yet), but has {len(keypoints)}"
            )
        usable = np.isfinite(keypoints).all(-1) & (scores >= self.options.score_threshold)
        if usable.sum(-1).min() < 2:
            raise ValueError(
                f"reference: {usable.sum()} of {usable.size} keypoints have a score of at least "
                f"{self.options.score_threshold}, but 2 are needed"
            )
        squeeze = Canvas.fitting(shape, self.options.size, "squeeze") if self.options.fit == "squeeze" else None
        return _Reference(reference, image, masks, keypoints.astype(np.float32), scores.astype(np.float32), squeeze)

    def _get_tracker(self) -> PersonTracker:
        if self.tracker is None:
            if self._closed:
                raise ValueError("the calibrator is closed: make another one")
            if self._own_detector:
                self._detector = get_detector(*([] if self._detector is None else [self._detector]))
            self.tracker = PersonTracker(self._detector)
            if self.reference is not None:  # its keypoints were given, so the tracker has not seen it
                reference = self.reference
                self.tracker.choose_crop(reference.keypoints[0], reference.scores[0], reference.image.shape[:2])
        return self.tracker

    def reset(self) -> None:
        """Forgets all frames: the next one begins a new video, of any size."""
        for person in self._people:
            person.reset()
        if self.tracker is not None:
            self.tracker.reset()
        self.canvas = self._time = None

    def close(self) -> None:
        """Frees the detector, if the calibrator made it."""
        if self._own_detector and self.tracker is not None:
            self.tracker.detector.close()
        self.tracker, self._closed = None, True

    def __enter__(self) -> "Calibrator":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def step(self, frame, time: float | None = None, detection: Detection | None = None) -> CalibratedFrame:
        """Calibrates the next frame.

        Args:
            frame: uint8 array [H, W, 3], PIL image or path; all frames between two resets have one size.
            time: seconds, increasing; None: one frame after the one before.
            detection: the persons of the frame, if they are known; None: the detector looks.

        Raises:
            ValueError: for a frame of another size, or a time that does not increase.
        """
        image, _ = load_image(frame, "frame")
        if time is None:
            time = 0.0 if self._time is None else self._time + self._frame_seconds
        keypoints, scores, fits, pose_mask = self._observe(image, time, detection)
        status = [person.follow(fit, time) for person, fit in zip(self._people, fits, strict=True)]
        matrix = self._matrices()
        opacity = np.array([person.opacity for person in self._people], np.float32)
        source = self._source
        if (opacity < 1).any():
            source = WarpSource(self.reference.image, faded(self.reference.mask, opacity))
        warped = source.warp(matrix[None], self.options.size, self.options.interpolation, self.options.antialias)
        return CalibratedFrame(
            image=warped.image[0],
            mask=warped.mask[0],
            pose_mask=pose_mask,
            matrix=matrix,
            status=np.array(status),
            opacity=opacity,
            rung=np.array([fit.rung for fit in fits]),
            swapped=np.array([fit.swapped for fit in fits]),
            members=np.stack([fit.members for fit in fits]),
            residual=np.array([fit.residual for fit in fits], np.float32),
            keypoints=keypoints,
            scores=scores,
            time=time,
        )

    def _matrices(self) -> np.ndarray:
        """[P, 2, 3] of the persons' tracks as they stand."""
        return np.stack([self.reference.matrix(from_track(p.track, p.anchor)) for p in self._people])

    def _observe(self, image, time, detection):
        """Keypoints [P, K, 2] on the canvas, scores [P, K], the persons' fits, and pose masks [P, h, w] or None."""
        if not np.isfinite(time):
            raise ValueError(f"time must be finite, but is {time}")
        if self._time is not None and not time > self._time:
            raise ValueError(f"time must increase, but is {time} after {self._time}")
        if self.canvas is None:
            self.canvas = Canvas.fitting(image.shape[:2], self.options.size, self.options.fit)
        elif image.shape[:2] != self.canvas.source:
            raise ValueError(f"frame must have the size of the first, {self.canvas.source}, but has {image.shape[:2]}")
        if detection is None:
            detection = self._get_tracker().step(image)
        else:
            _check_detection(detection, image.shape[:2])
        self._time = time
        persons = len(self._people)
        keypoints = np.full((persons, *self.reference.keypoints.shape[1:]), np.nan, np.float32)
        scores = np.zeros(keypoints.shape[:-1], np.float32)
        n = min(persons, len(detection))
        keypoints[:n] = self.canvas.apply(detection.keypoints[:n])
        scores[:n] = detection.scores[:n]
        fits = [person.fitter.step(k, s, time) for person, k, s in zip(self._people, keypoints, scores, strict=True)]
        pose_mask = None
        if detection.mask is not None or not len(detection):
            pose_mask = np.zeros((persons, *self.options.size), np.uint8)
            for p in range(n):
                # Binary first, as masks come from a cache or a file: the same pixels every time.
                pose_mask[p] = self.canvas.draw(np.where(detection.mask[p] >= 128, np.uint8(255), np.uint8(0)))
        return keypoints, scores, fits, pose_mask


def calibrate(
    reference,
    driving,
    *,
    smooth: str = "offline",
    frames: slice | None = None,
    driving_keypoints=None,
    driving_masks=None,
    cache: str | os.PathLike | None = None,
    progress: Callable[[int, int | None], object] | None = None,
    **options,
) -> Calibration:
    """Brings a reference person onto the person of a driving video.

    >>> calibration = tpc_fast.calibrate("photo.png", "video.mp4")
    >>> calibration.matrices.shape, calibration.images[0].shape
    ((93, 1, 2, 3), (1, 512, 512, 3))

    Args:
        reference: as for `Calibrator`.
        driving: video file, folder of pictures, uint8 array [F, H, W, 3], or a list of arrays or PIL images.
        smooth: "offline" (zero-phase, over gaps too), "causal", or "none".
        frames: which of the driving frames to use, a slice with ends >= 0 and no step.
        driving_keypoints: [F, 17, 2] or [F, P, 17, 2] in pixels of the driving frames, NaN where missing, with an
            optional third column of scores (give them if there are any: guessed limbs mislead); or an .npz or .json
            file with `keypoints` and, if wanted, `scores` and `masks`. Then no detector looks at the video.
        driving_masks: uint8 or bool [F, H, W] or [F, P, H, W].
        cache: an .npz file that keeps what the detector finds in the video: read if it was made from the same (file
            name, size and time of the video, `frames`, detector and its crop, which the reference decides), else
            replaced.
        progress: called as `progress(done, total)` after every frame; the total may be None.
        options: those of `Calibrator`.

    Raises:
        As `Calibrator`; and ValueError for a video that cannot be read, is empty, or shows nobody.
    """
    started = clock.perf_counter()
    if frames is not None and (not isinstance(frames, slice) or frames.step not in (None, 1)):
        raise ValueError(f"frames must be a slice without a step, but is {frames!r}")
    reader = VideoReader(driving, frames=frames)
    given = None
    if driving_keypoints is not None:
        given = _given_detections(driving_keypoints, driving_masks, "driving_keypoints")
        if given.keypoints.shape[1] != 1:
            raise ValueError(f"driving_keypoints must be of one person, but are of {given.keypoints.shape[1]}")
    elif driving_masks is not None:
        raise ValueError("driving_masks must come with driving_keypoints")
    if smooth not in SMOOTHINGS:
        raise ValueError(f"smooth must be one of {', '.join(SMOOTHINGS)}, but is {smooth!r}")
    if smooth == "offline":  # its solver takes a while to import: it can be had while the detector works
        threading.Thread(target=importlib.import_module, args=("scipy.linalg",), daemon=True).start()
    # Offline smoothing needs the whole track: until then it is kept as it is.
    with Calibrator(reference, smooth="none" if smooth == "offline" else smooth, **options) as calibrator:
        calibrator.options = dataclasses.replace(calibrator.options, smooth=smooth)
        return _calibrate(calibrator, reader, driving, frames, given, cache, progress, started)


def _calibrate(calibrator, reader, driving, frames, given, cache, progress, started) -> Calibration:
    options = calibrator.options
    timings = {"reference": clock.perf_counter() - started, "decode": 0.0, "detect": 0.0, "fit and mask": 0.0}
    made_from = None
    if cache is not None and given is None:
        given, made_from = _read_cache(calibrator, reader, cache, frames)
    from_cache = given is not None and made_from is not None
    keep = cache is not None and not from_cache and made_from is not None

    times, rows, tracks, statuses, opacities, packed, found, bits = [], [], [], [], [], [], [], []
    mark = clock.perf_counter()
    with contextlib.closing(prefetch(reader)) as decoded:
        for frame in decoded:
            index = len(times)
            if given is not None:
                if index >= len(given):
                    raise ValueError(
                        f"driving_keypoints must be of all frames, but are of {len(given)} and the video goes on"
                    )
                if given.size is not None and given.size != frame.image.shape[:2]:
                    raise ValueError(
                        f"driving_masks must have the frames' size {frame.image.shape[:2]}, but have {given.size}"
                    )
                detection = Detection(given.keypoints[index], given.scores[index], given.mask(index))
            else:
                detection = None
            timings["decode"] += clock.perf_counter() - mark
            mark = clock.perf_counter()
            if detection is None:
                detection = calibrator._get_tracker().step(frame.image)
                timings["detect"] += clock.perf_counter() - mark
                mark = clock.perf_counter()
            if keep:
                found.append(dataclasses.replace(detection, mask=None))
                bits.append(None if detection.mask is None else pack_mask(detection.mask))
            # Times of a variable frame rate are kept, but two frames never share one.
            time = frame.time if not times else max(frame.time, times[-1] + 1e-4)
            keypoints, scores, fits, pose_mask = calibrator._observe(frame.image, time, detection)
            status = [person.follow(fit, time) for person, fit in zip(calibrator._people, fits, strict=True)]
            times.append(time)
            rows.append((keypoints, scores, fits))
            statuses.append(status)
            tracks.append([(person.raw, person.track) for person in calibrator._people])
            opacities.append([person.opacity for person in calibrator._people])
            if pose_mask is None:
                pose_mask = np.zeros((len(status), *options.size), np.uint8)
            packed.append(pack_mask(pose_mask))
            timings["fit and mask"] += clock.perf_counter() - mark
            if progress is not None:
                progress(len(times), reader.count)
            mark = clock.perf_counter()
    if given is not None and len(given) != len(times):
        raise ValueError(f"driving_keypoints must be of the {len(times)} frames of the video, but are of {len(given)}")
    if not any(fit.similarity is not None for _, _, fits in rows for fit in fits):
        tried = "the given keypoints do not suffice" if calibrator.tracker is None else calibrator.tracker.tried
        raise ValueError(f"driving: the person could not be fitted in any of the {len(times)} frames ({tried})")
    if keep:
        save_detections(cache, Detections.from_frames(found, bits, calibrator.canvas.source), made_from)

    mark = clock.perf_counter()
    fits = [fits for _, _, fits in rows]
    times, status = np.array(times), np.array(statuses)
    track = np.array(tracks)  # [F, P, raw or smoothed, 4]
    opacity = np.array(opacities)
    if options.smooth == "offline":
        for p in range(len(calibrator._people)):
            column = [row[p] for row in fits]
            track[:, p, 1], status[:, p], opacity[:, p] = _smooth(track[:, p, 0], column, times, options)
    timings["smooth"] = clock.perf_counter() - mark

    matrices = np.stack(
        [
            calibrator.reference.matrix(from_track(track[:, p], person.anchor))
            for p, person in enumerate(calibrator._people)
        ],
        axis=1,
    )
    timings["total"] = clock.perf_counter() - started
    warnings = [*calibrator.warnings, *reader.warnings, *_remarks(status)]
    if given is not None and given.bits is None:
        warnings.append("driving: no masks were given, so the pose masks are empty")
    for warning in warnings:
        _log.warning(warning)
    detector = None if calibrator.tracker is None else calibrator.tracker.detector
    reference = calibrator.reference
    return Calibration(
        size=options.size,
        fps=float(reader.fps),
        times=times,
        matrices=np.ascontiguousarray(matrices[:, :, 1]),
        raw_matrices=np.ascontiguousarray(matrices[:, :, 0]),
        status=status,
        rung=np.array([[fit.rung for fit in row] for row in fits]),
        swapped=np.array([[fit.swapped for fit in row] for row in fits]),
        opacity=opacity.astype(np.float32),
        members=np.array([[fit.members for fit in row] for row in fits]),
        residual=np.array([[fit.residual for fit in row] for row in fits], np.float32),
        keypoints=np.stack([keypoints for keypoints, _, _ in rows]),
        scores=np.stack([scores for _, scores, _ in rows]),
        reference_keypoints=reference.keypoints,
        reference_scores=reference.scores,
        reference_image=reference.image,
        reference_mask=reference.mask,
        packed_pose_masks=np.stack(packed),
        canvas=calibrator.canvas,
        options=options.as_dict(),
        timings=timings,
        warnings=warnings,
        detector=None if detector is None else detector.name,
        versions=_versions(detector),
        reference_path=reference.path,
        driving_path=None if reader.path is None else str(reader.path.resolve()),
        frame_range=(0, None) if frames is None else (frames.start or 0, frames.stop),
        driving=None if reader.path is not None else driving,
    )


def _check_detection(detection: Detection, size: tuple[int, int]) -> None:
    """Raises ValueError for a detection that does not describe one picture of `size`."""
    keypoints, scores, mask = detection.keypoints, detection.scores, detection.mask
    persons = len(keypoints)
    if np.shape(keypoints) != (persons, 17, 2) or np.shape(scores) != (persons, 17):
        raise ValueError(
            f"detection must have keypoints [P, 17, 2] and scores [P, 17], but has {np.shape(keypoints)} and "
            f"{np.shape(scores)}"
        )
    if mask is not None and (np.shape(mask) != (persons, *size) or mask.dtype != np.uint8):
        raise ValueError(f"detection must have a uint8 mask {(persons, *size)}, but has {_checks.describe(mask)}")


def _smooth(raw, fits, times, options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offline: the smoothed track [F, 4], statuses and opacities, for which the future counts as much as the past."""
    trust = np.zeros(len(raw))
    for i, fit in enumerate(fits):
        if fit.similarity is not None:
            noise = fit.residual / (0.1 * fit.size)
            trust[i] = (1.0 if fit.rung == "subset" else FALLBACK_TRUST) / (1 + noise**2)
    (good,) = np.nonzero(trust)
    after = np.searchsorted(good, np.arange(len(raw)))  # the next frame with a fit, itself included
    before = np.maximum(after - 1, 0)
    after = np.minimum(after, len(good) - 1)
    gap = np.minimum(abs(times[good[after]] - times), abs(times - times[good[before]]))
    unseen = np.where(gap <= options.hold_seconds, "held", "lost")
    status = [unseen[i] if fit.similarity is None else _status(fit) for i, fit in enumerate(fits)]
    return smooth_offline(raw, trust, times), np.array(status), fading(gap, options.hold_seconds, options.fade_seconds)


def _read_cache(calibrator, reader, cache, frames):
    """(cached detections or None, the fingerprint to write or None if the video is no file)."""
    if reader.path is None or not reader.path.is_file():
        raise ValueError(
            "cache must go with a driving video that is a file, whose name and time tell whether it is stale"
        )
    cache = Path(cache)
    if cache.suffix.lower() != ".npz" or not cache.parent.is_dir():
        raise ValueError(f"cache must be an .npz file in an existing folder, but is {str(cache)!r}")
    tracker = calibrator._get_tracker()
    made_from = fingerprint(reader.path, tracker.detector.name, tracker.detector.version)
    made_from["crop"] = repr(tracker.crop)  # which the reference decides
    made_from["frames"] = [frames.start, frames.stop] if frames is not None else [None, None]
    if not cache.exists():
        return None, made_from
    try:
        return load_detections(cache, expected=made_from), made_from
    except StaleDetectionsError as error:
        _log.warning("the cache is replaced: %s", error)
        return None, made_from


def _remarks(status) -> list[str]:
    """What the statuses amount to, in words."""
    remarks = []
    for p in range(status.shape[1]):
        person = "" if status.shape[1] == 1 else f" of person {p}"
        for name, what in (
            ("fallback", "use fewer keypoints than a trusted subset has"),
            ("held", "could not be fitted: the transform is carried over"),
            ("lost", "could not be fitted for too long: the person is faded out"),
        ):
            count = int((status[:, p] == name).sum())
            if count:
                remarks.append(f"{count} of {len(status)} frames{person} {what}")
    return remarks


def _versions(detector) -> dict:
    versions = {"tpc_fast": __version__, "python": platform.python_version()}
    for package in ("numpy", "scipy", "av", "pillow"):
        versions[package] = importlib.metadata.version(package)
    if detector is not None:
        versions[detector.name] = detector.version
    return versions


def _given_detections(value, masks, name) -> Detections:
    """Keypoints that somebody gives, as arrays or a file (which may hold masks), with or without a column of scores."""
    if isinstance(value, str | os.PathLike):
        loaded = load_detections(value)
        if masks is None:
            return loaded
        array, scores = loaded.keypoints, loaded.scores
    else:
        array, scores = _checks.to_numpy(value, name), None
        if array.ndim >= 2 and array.shape[-1] == 3:
            array, scores = array[..., :2], array[..., 2]
    if masks is not None and np.ndim(masks) == 3 and array.ndim == 4:  # one person, named only by the keypoints
        masks = np.asarray(masks)[:, None]
    try:
        given = Detections.from_arrays(array, scores, masks)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name}: {error}") from error
    reach = np.nan_to_num(abs(given.keypoints)).max(initial=0)
    if 0 < reach <= 2:
        raise ValueError(f"{name} must be in pixels, but reach only to {reach:.3g}: are they normalised?")
    return given


def _given_mask(value, shape) -> np.ndarray:
    """A reference mask that somebody gives -> uint8 [P, H, W]."""
    if isinstance(value, str | os.PathLike):
        value = load_image(value, "reference_mask")[0].max(-1)
    array = _checks.to_numpy(value, "reference_mask")
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    if array.dtype != np.uint8:
        raise TypeError(f"reference_mask must be uint8 or bool, but is {_checks.describe(value)}")
    if array.ndim not in (2, 3) or array.shape[-2:] != shape:
        raise ValueError(
            f"reference_mask must be [H, W] or [P, H, W] with H, W = {shape}, but is {_checks.describe(value)}"
        )
    return array.reshape(-1, *shape)
