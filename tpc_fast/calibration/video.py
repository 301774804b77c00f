"""The main job on a whole video: it is looked at frame by frame, then smoothed with the future in view."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import logging
import os
import platform
import threading
import time as clock
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tpc_fast._version import __version__
from tpc_fast.calibration.person import fading, picked, status_of
from tpc_fast.calibration.result import Calibration
from tpc_fast.calibration.stream import SMOOTHINGS as STREAM_SMOOTHINGS
from tpc_fast.calibration.stream import Calibrator
from tpc_fast.media.video import VideoReader, prefetch
from tpc_fast.pose.files.detections import (
    Detections,
    StaleDetectionsError,
    fingerprint,
    load_detections,
    pack_mask,
    save_detections,
)
from tpc_fast.pose.files.given import given_detections
from tpc_fast.pose.follow.smoothing import from_track, smooth_offline

SMOOTHINGS = (*STREAM_SMOOTHINGS, "offline")
FALLBACK_TRUST = 0.3  # weight of a fallback's transform in smoothing, of a tracked one's 1

_log = logging.getLogger("tpc_fast")


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
    """Brings the persons of a reference onto those of a driving video.

    >>> calibration = tpc_fast.calibrate("photo.png", "video.mp4")
    >>> calibration.matrices.shape, calibration.images[0].shape
    ((93, 1, 2, 3), (1, 512, 512, 3))

    Args:
        reference: as for `Calibrator`.
        driving: video file, folder of pictures, uint8 array [F, H, W, 3], or a list of arrays or PIL images.
        smooth: "offline" (zero-phase, over gaps too), "causal", or "none".
        frames: which of the driving frames to use, a slice with ends >= 0 and no step.
        driving_keypoints: [F, 17, 2] or [F, D, 17, 2] in pixels of the driving frames, NaN where missing (any number of
            persons D, in any order from frame to frame; a row that is all missing is nobody), with an optional third
            column of scores (give them if there are any: guessed limbs mislead); or a file
            (see `tpc_fast.pose.load_keypoints`; an .npz may hold `masks`). Then no detector looks at the video.
        driving_masks: uint8 or bool [F, H, W] or [F, D, H, W]; or a video, a folder of pictures, a folder with one of
            these for each person, or an .npz file with `masks`.
        cache: an .npz file that keeps what the detector finds in the video: read if it was made from the same (file
            name, size and time of the video, `frames`, detector and its crop, which the reference decides, segmenter),
            else replaced.
        progress: called as `progress(done, total)` after every frame; the total may be None.
        options: those of `Calibrator`, but `device` and `dtype`: what is rendered later says its own. With
            `smooth="offline"` persons are matched on the first of the frames that show the most of them, else on the
            first that shows any.

    Raises:
        As `Calibrator`; TypeError for `device` or `dtype`; ValueError for a video that cannot be read, is empty, or
            shows nobody.
    """
    started = clock.perf_counter()
    if frames is not None and (not isinstance(frames, slice) or frames.step not in (None, 1)):
        raise ValueError(f"frames must be a slice without a step, but is {frames!r}")
    for name in ("device", "dtype"):
        if name in options:
            raise TypeError(f"{name} is an option of Calibrator, not of calibrate, which renders on the CPU on demand")
    reader = VideoReader(driving, frames=frames)
    given = None
    if driving_keypoints is not None:
        given = given_detections(driving_keypoints, driving_masks, "driving_keypoints", reader.size)
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

    times, people, packed, found, bits = [], [], [], [], []
    mark = clock.perf_counter()
    with contextlib.closing(iter(reader) if reader.in_memory else prefetch(reader)) as decoded:
        for frame in decoded:
            index = len(times)
            if given is not None:
                if index >= len(given):
                    raise ValueError(
                        f"driving_keypoints must be of all frames, but are of {len(given)} and the video goes on"
                    )
                if given.size is not None and given.size != frame.image.shape[:2]:
                    raise ValueError(
                        f"driving_keypoints and driving_masks must have the frames' size {frame.image.shape[:2]}, "
                        f"but have {given.size}"
                    )
                detection = given[index]
            else:
                detection = None
            timings["decode"] += clock.perf_counter() - mark
            mark = clock.perf_counter()
            if detection is None:
                detection = calibrator.look(frame.image)
            elif detection.mask is None:
                detection = calibrator.masked(frame.image, detection)
            timings["detect"] += clock.perf_counter() - mark
            mark = clock.perf_counter()
            if keep:
                found.append(dataclasses.replace(detection, mask=None))
                bits.append(None if detection.mask is None else pack_mask(detection.mask))
            # Times of a variable frame rate are kept, but two frames never share one.
            time = frame.time if not times else max(frame.time, times[-1] + 1e-4)
            seen = calibrator.see(frame.image, time, detection)
            times.append(time)
            people.append(seen._replace(masks=None))
            packed.append(None if seen.masks is None else pack_mask(seen.masks))
            timings["fit and mask"] += clock.perf_counter() - mark
            if progress is not None:
                progress(len(times), reader.count)
            mark = clock.perf_counter()
    if given is not None and len(given) != len(times):
        raise ValueError(f"driving_keypoints must be of the {len(times)} frames of the video, but are of {len(given)}")
    if keep:
        save_detections(cache, Detections.from_frames(found, bits, calibrator.canvas.source), made_from)

    mark = clock.perf_counter()
    masked = any(mask is not None and len(mask) for mask in packed)
    places = _match(calibrator.matcher, people, times, calibrator.canvas.source, options.smooth)
    rows, tracks, statuses, opacities = [], [], [], []
    for i, (seen, time) in enumerate(zip(people, times, strict=True)):
        rows.append(calibrator.fit(seen, places[i], time))
        statuses.append([p.follow(fit, time) for p, fit in zip(calibrator.people, rows[-1][2], strict=True)])
        tracks.append([(person.raw, person.track) for person in calibrator.people])
        opacities.append([person.opacity for person in calibrator.people])
        nothing = np.zeros((len(seen.keypoints), -(-options.size[0] * options.size[1] // 8)), np.uint8)
        packed[i] = picked(nothing if packed[i] is None else packed[i], places[i])
    fits = [fits for _, _, fits, _ in rows]
    if not any(fit.similarity is not None for row in fits for fit in row):
        tried = "the given keypoints do not suffice" if calibrator.tracker is None else calibrator.tracker.tried
        raise ValueError(f"driving: the person could not be fitted in any of the {len(times)} frames ({tried})")
    timings["fit and mask"] += clock.perf_counter() - mark

    mark = clock.perf_counter()
    times, status = np.array(times), np.array(statuses)
    track = np.array(tracks)  # [F, P, raw or smoothed, 4]
    opacity = np.array(opacities)
    if options.smooth == "offline":
        for p in range(len(calibrator.people)):
            column = [row[p] for row in fits]
            track[:, p, 1], status[:, p], opacity[:, p] = smooth_track(track[:, p, 0], column, times, options)
    timings["smooth"] = clock.perf_counter() - mark

    matrices = np.stack(
        [
            calibrator.reference.matrix(from_track(track[:, p], person.anchor))
            for p, person in enumerate(calibrator.people)
        ],
        axis=1,
    )
    timings["total"] = clock.perf_counter() - started
    warnings = [*calibrator.warnings, *reader.warnings, *_remarks(status, calibrator.matcher.chosen)]
    if given is not None and given.bits is None and calibrator.segmenter is None:
        warnings.append("driving: no masks were given, so the pose masks are empty")
    elif not masked:
        warnings.append(f"driving: {calibrator.tracker.detector.name} finds no masks, so the pose masks are empty")
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
        keypoints=np.stack([row[0] for row in rows]),
        scores=np.stack([row[1] for row in rows]),
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
        order=np.stack([row[3] for row in rows]),
        match=calibrator.matcher.chosen.tolist(),
        device=getattr(detector, "device", None),
        segmenter=getattr(calibrator.segmenter, "name", None),
        segmenter_device=getattr(calibrator.segmenter, "device", None),
    )


def _match(matcher, people, times, size, smooth) -> np.ndarray:
    """[F, P] which of the persons seen in a frame plays each reference person, -1 for nobody."""
    if smooth == "offline":
        return matcher.match_video([(*seen[:2], time) for seen, time in zip(people, times, strict=True)], size)
    return np.stack([matcher.step(*seen[:2], size, time) for seen, time in zip(people, times, strict=True)])


def smooth_track(raw, fits, times, options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offline: the smoothed track [F, 4], statuses and opacities, for which the future counts as much as the past."""
    trust = np.zeros(len(raw))
    for i, fit in enumerate(fits):
        if fit.similarity is not None:
            noise = fit.residual / (0.1 * fit.size)
            trust[i] = (1.0 if fit.rung == "subset" else FALLBACK_TRUST) / (1 + noise**2)
    (good,) = np.nonzero(trust)
    if not len(good):  # nobody plays this person
        return raw, np.full(len(raw), "lost"), np.zeros(len(raw))
    after = np.searchsorted(good, np.arange(len(raw)))  # the next frame with a fit, itself included
    before = np.maximum(after - 1, 0)
    after = np.minimum(after, len(good) - 1)
    gap = np.minimum(abs(times[good[after]] - times), abs(times - times[good[before]]))
    unseen = np.where(gap <= options.hold_seconds, "held", "lost")
    status = [unseen[i] if fit.similarity is None else status_of(fit) for i, fit in enumerate(fits)]
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
    tracker = calibrator.get_tracker()
    made_from = fingerprint(reader.path, tracker.detector.name, tracker.detector.version)
    made_from["specs"] = calibrator.specs  # which hold the files of models
    made_from["segmenter"] = None
    if calibrator.segmenter is not None:
        made_from["segmenter"] = [calibrator.segmenter.name, calibrator.options.score_threshold]
    made_from["people"] = getattr(tracker.detector, "people", None)
    made_from["crop"] = repr(tracker.crop)  # which the reference decides
    made_from["frames"] = [frames.start, frames.stop] if frames is not None else [None, None]
    if not cache.exists():
        return None, made_from
    try:
        return load_detections(cache, expected=made_from), made_from
    except StaleDetectionsError as error:
        _log.warning("the cache is replaced: %s", error)
        return None, made_from


def _remarks(status, chosen) -> list[str]:
    """What the statuses amount to, in words."""
    remarks = []
    for p in range(status.shape[1]):
        if chosen[p] < 0:
            remarks.append(f"nobody in the driving video plays person {p} of the reference")
            continue
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
    versions = dict(installed_versions())
    if detector is not None:
        versions[detector.name] = detector.version
    return versions


@functools.cache
def installed_versions() -> dict:
    packages = ("numpy", "scipy", "av", "pillow")
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {"tpc_fast": __version__, "python": platform.python_version(), **versions}
