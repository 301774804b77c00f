"""The main job on a whole video: every frame is looked at, then the track is estimated with all of them in view."""

import functools
import importlib.metadata
import logging
import os
import platform
import time as clock
from collections.abc import Callable

import numpy as np

from tpc_fast._checks import describe
from tpc_fast._version import __version__
from tpc_fast.calibration.follow import Followed, follow, shown
from tpc_fast.calibration.remarks import remarks
from tpc_fast.calibration.result import Calibration
from tpc_fast.calibration.session import Session
from tpc_fast.calibration.small_frames import SmallFrames, preview_size
from tpc_fast.calibration.watch import watch
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.fetch import LocalCopy, fetched
from tpc_fast.media.video import VideoReader
from tpc_fast.pose.files.detections import Detections
from tpc_fast.pose.files.given import given_detections

_log = logging.getLogger("tpc_fast")


def calibrate(
    reference,
    driving,
    *,
    smooth: str = "offline",
    motion: str = "frame",
    cuts="auto",
    frames: slice | None = None,
    fps: float | None = None,
    driving_keypoints=None,
    driving_masks=None,
    cache: str | os.PathLike | None = None,
    keep_small: bool = False,
    progress: Callable[[int, int | None], object] | None = None,
    **options,
) -> Calibration:
    """Brings the persons of a reference onto those of a driving video.

    Examples:
        >>> tpc_fast.calibrate("photo.png", "video.mp4").matrices.shape
        (93, 1, 2, 3)

    Args:
        reference: as for `Calibrator`.
        driving: video file, folder of pictures, uint8 array [F, H, W, 3], or a list of arrays or PIL images; or an
            address, bytes or an open file, as `reference` may be.
        smooth: "offline" (one estimate of the whole track, see `tpc_fast.ops.track`), "causal" (the same over a window
            of the past), or "none" (each frame by itself, as the paper).
        motion: "frame", or "constant": one transform for each shot, the one that explains the most of all its frames.
        cuts: where new shots begin: "auto" (found by jumps of keypoints and pictures), "none", or the numbers of the
            frames that begin one. Each shot is matched and estimated by itself.
        frames: which of the driving frames to use, a slice with ends >= 0 and no step.
        fps: frames per second of a driving video without times (30 if None); replaces the times of a file.
        driving_keypoints: [F, 17, 2] or [F, D, 17, 2] in pixels of the driving frames, or a file (see
            `tpc_fast.pose.load_keypoints`; an .npz may hold `masks`). NaN is a missing keypoint. A third column holds
            scores: give them if you have them, since guessed limbs mislead. The D persons may change their order from
            frame to frame; a row without any keypoint is nobody. No detector looks at the video.
        driving_masks: uint8 or bool [F, H, W] or [F, D, H, W]; or a video, a folder of pictures, a folder with one of
            these for each person, or an .npz file with `masks`.
        cache: an .npz file that keeps what the detector finds in the video: read if it was made from the same (file
            name, size and time of the video, `frames`, detector, segmenter), else replaced.
        keep_small: whether the driving frames stay in memory as small as previews show them, up to 64 MB; else `export`
            decodes the video again.
        progress: called as `progress(done, total)` after every frame; the total may be None.
        options: those of `Calibrator`, except `device` and `dtype` (`Calibration.render` takes a dtype), `detect_every`
            and `asynchronous` (every frame is looked at). With `smooth="offline"` persons are matched on the first of
            the frames that show the most of them, else on the first that shows any.

    Raises:
        FileNotFoundError, TypeError: as `Calibrator`; for options that `calibrate` does not take.
        ValueError: as `Calibrator`; for a video that cannot be read, is empty, or shows nobody.
    """
    started = clock.perf_counter()
    _check(frames, progress, options)
    driving = fetched(driving, "driving")
    reader = VideoReader(driving, frames=frames, fps=fps)
    given = _given(driving_keypoints, driving_masks, reader.size, options)
    with Session(reference, smooth=smooth, motion=motion, cuts=cuts, **options) as session:
        timings = {"reference": clock.perf_counter() - started}
        compare = session.options.cuts == "auto"
        small = _small_frames(session, reader) if keep_small else None
        watched = watch(session, reader, given, cache, frames, compare, timings, progress, small)
        mark = clock.perf_counter()
        followed = follow(session, watched)
        timings["fit"] = clock.perf_counter() - mark
        if not followed.determined.any():
            tracker = session.observer.tracker
            tried = "the given keypoints do not suffice" if tracker is None else tracker.tried
            raise ValueError(
                f"driving: the person could not be fitted in any of the {len(watched.times)} frames ({tried})"
            )
        timings["total"] = clock.perf_counter() - started
        warnings = [*session.warnings, *reader.warnings, *_remarks(session, followed, watched.times)]
        warnings += _remarks_on_masks(session.observer, given, watched)
        for warning in warnings:
            _log.warning(warning)
        return _calibration(session, reader, watched, followed, driving, frames, timings, warnings)


def _given(keypoints, masks, size: tuple[int, int], options: dict) -> Detections | None:
    """The persons of all frames, if the caller knows them."""
    if keypoints is None:
        if masks is not None:
            raise ValueError("driving_masks must come with driving_keypoints")
        return None
    for name in ("driving_box", "driving_point"):
        if options.get(name) is not None:
            raise ValueError(f"{name} must not go with driving_keypoints, which say where the person is")
    return given_detections(keypoints, masks, "driving_keypoints", size)


def _small_frames(session: Session, reader: VideoReader) -> SmallFrames:
    """Empty, of the size that previews show the driving frames in."""
    size = session.options.size
    left, top, right, bottom = Canvas.fitting(reader.size, size, session.options.resize).scaled(preview_size(size)).box
    return SmallFrames((bottom - top, right - left))


def _check(frames, progress, options) -> None:
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be a function or None, but is {describe(progress)}")
    if frames is not None and (not isinstance(frames, slice) or frames.step not in (None, 1)):
        raise ValueError(f"frames must be a slice without a step, but is {frames!r}")
    for name in ("device", "dtype"):
        if name in options:
            raise TypeError(f"{name} is an option of Calibrator, not of calibrate, which renders on the CPU on demand")
    for name in ("detect_every", "asynchronous"):
        if name in options:
            raise TypeError(f"{name} is an option of Calibrator, not of calibrate, which looks at every frame")


def _calibration(session: Session, reader, watched, followed: Followed, driving, frames, timings, warnings):
    """The result of a session that has seen and followed a whole video."""
    copied = isinstance(driving, LocalCopy)
    photo, detector, segmenter = session.reference, session.observer.detector, session.observer.segmenter
    return Calibration(
        size=session.options.size,
        fps=float(reader.fps),
        times=watched.times,
        reference_keypoints=photo.keypoints,
        reference_scores=photo.scores,
        reference_image=photo.image,
        reference_mask=photo.mask,
        canvas=session.canvas,
        options=session.options.as_dict(),
        timings=timings,
        warnings=warnings,
        detector=None if detector is None else detector.name,
        versions=_versions(detector),
        reference_path=photo.path,
        reference_sha256=photo.sha256,
        driving_path=None if reader.path is None or copied else str(reader.path.resolve()),
        frame_range=(0, None) if frames is None else (frames.start or 0, frames.stop),
        driving=None if reader.path is not None and not copied else driving,
        device=getattr(detector, "device", None),
        segmenter=getattr(segmenter, "name", None),
        segmenter_device=getattr(segmenter, "device", None),
        small_frames=watched.small,
        **vars(followed),
    )


def _remarks_on_masks(observer, given, watched) -> list[str]:
    if given is not None and given.bits is None and observer.segmenter is None:
        return ["driving: no masks were given, so the pose masks are empty"]
    if not any(mask is not None and mask.shape[1] for mask in watched.packed):
        return [f"driving: {observer.detector.name} finds no masks, so the pose masks are empty"]
    return []


def _remarks(session: Session, followed: Followed, times) -> list[str]:
    reference, threshold = session.reference, session.options.score_threshold
    points = np.where((reference.scores >= threshold)[..., None], reference.keypoints, np.nan)
    keypoints = np.where((followed.scores >= threshold)[..., None], followed.keypoints, np.nan)
    edges = None if session.options.smooth == "none" else shown(session.canvas)  # fits by frame take all that is seen
    track = followed.status, followed.matrices, followed.swapped, followed.match
    return remarks(*track, times, points, keypoints, edges)


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
