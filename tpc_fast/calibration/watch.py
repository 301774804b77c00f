"""The first pass over a video: every frame is looked at, or read from a cache, once."""

import contextlib
import dataclasses
import logging
import os
import time as clock
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tpc_fast.calibration.kept_masks import KeptMasks
from tpc_fast.calibration.session import Seen, Session
from tpc_fast.calibration.small_frames import SmallFrames
from tpc_fast.media.picture_difference import PictureDifference
from tpc_fast.media.video import VideoReader, prefetch
from tpc_fast.pose.detect.detection import Detection
from tpc_fast.pose.files.detections import (
    Detections,
    StaleDetectionsError,
    fingerprint,
    load_detections,
    pack_mask,
    save_detections,
)

_log = logging.getLogger("tpc_fast")


@dataclasses.dataclass
class Watched:
    """What a video shows; F frames.

    Attributes:
        times: [F] float64 seconds, increasing.
        people: F `Seen`, without masks.
        packed: F arrays uint8 [D, bytes], the masks on the canvas as `pack_mask` packs them, each in `KeptMasks` of one
            frame; None: the frame has none.
        differences: [F] how much each picture differs from the one before, see `PictureDifference`; None if not asked.
        small: the frames, small; None if not asked.
    """

    times: np.ndarray
    people: list[Seen]
    packed: list[KeptMasks | None]
    differences: np.ndarray | None
    small: SmallFrames | None


def watch(
    session: Session,
    reader: VideoReader,
    given: Detections | None,
    cache: str | os.PathLike | None,
    frames: slice | None,
    compare: bool,
    timings: dict,
    progress: Callable[[int, int | None], object] | None,
    small: SmallFrames | None = None,
) -> Watched:
    """Looks at all frames of a video.

    Args:
        given: the persons of all frames, if they are known.
        cache, frames: as of `calibrate`.
        compare: whether pictures are compared with those before.
        timings: stage -> seconds, is added to.
        progress: called as `progress(done, total)` after every frame; the total may be None.
        small: gets every frame, small.

    Raises:
        ValueError: if `given` is not of all frames or of another size, or the cache cannot be one.
    """
    cached = made_from = None
    if cache is not None and given is None:
        cached, made_from = _read_cache(session, reader, cache, frames)
    known, name = (given, "driving_keypoints") if cached is None else (cached, "cache")
    kept = [] if made_from is not None and cached is None else None
    times, people, packed, differences = [], [], [], []
    compare_with_before = PictureDifference() if compare else None
    spent = timings | {"decode": 0.0, "detect": 0.0, "mask": 0.0}
    mark = clock.perf_counter()
    reader.small_size = None if small is None else small.size
    with contextlib.ExitStack() as closed:
        read = closed.enter_context(contextlib.closing(iter(reader) if reader.in_memory else prefetch(reader)))
        decoded = _timed(read, spent)
        if known is None:
            looked = session.observer.look_at_all(decoded, reader.count)
        else:
            looked = _known(session, known, name, decoded)
        for frame, detection in closed.enter_context(contextlib.closing(looked)):
            if frame.small is not None and not small.add(frame.small):
                reader.small_size = None
            spent["detect"] += clock.perf_counter() - mark
            mark = clock.perf_counter()
            if kept is not None:
                bits = None if detection.mask is None else pack_mask(detection.mask)
                kept.append((dataclasses.replace(detection, mask=None), bits))
            if compare_with_before is not None:
                differences.append(compare_with_before.step(frame.image))
            # Times of a variable frame rate are kept, but two frames never share one.
            time = frame.time if not times else max(frame.time, times[-1] + 1e-4)
            seen = session.see(frame.image, time, detection)
            times.append(time)
            people.append(seen._replace(masks=None))
            packed.append(None if seen.masks is None else KeptMasks([pack_mask(seen.masks)]))
            spent["mask"] += clock.perf_counter() - mark
            if progress is not None:
                progress(len(times), reader.count)
            mark = clock.perf_counter()
    spent["detect"] -= spent["decode"]  # frames are waited for among the looks
    if known is not None and len(known) != len(times):
        raise ValueError(f"{name} must be of the {len(times)} frames of the video, but is of {len(known)}")
    if kept:
        save_detections(cache, Detections.from_frames(*zip(*kept, strict=True), session.canvas.source), made_from)
    timings.update(spent)
    return Watched(np.array(times), people, packed, np.array(differences) if compare else None, small)


def _timed(frames: Iterator, spent: dict) -> Iterator:
    """The frames; what waiting for them takes is added to `spent`."""
    while True:
        mark = clock.perf_counter()
        frame = next(frames, None)
        spent["decode"] += clock.perf_counter() - mark
        if frame is None:
            return
        yield frame


def _known(session: Session, known: Detections, name: str, frames: Iterator) -> Iterator[tuple[object, Detection]]:
    """All frames with the persons that are known, and the segmenter's masks if they have none."""
    for index, frame in enumerate(frames):
        detection = _of_frame(known, name, index, frame.image.shape[:2])
        yield frame, session.observer.masked(frame.image, detection) if detection.mask is None else detection


def _of_frame(known: Detections, name: str, index: int, size: tuple[int, int]):
    if index >= len(known):
        raise ValueError(f"{name} must be of all frames, but is of {len(known)} and the video goes on")
    if known.size is not None and known.size != size:
        names = name if name == "cache" else "driving_keypoints and driving_masks"
        raise ValueError(f"{names} must have the frames' size {size}, but have {known.size}")
    return known[index]


def _read_cache(session: Session, reader: VideoReader, cache, frames: slice | None):
    """(cached detections or None, the fingerprint to write)."""
    if reader.path is None or not reader.path.is_file():
        raise ValueError(
            "cache must go with a driving video that is a file, whose name and time tell whether it is stale"
        )
    cache = Path(cache)
    if cache.suffix.lower() != ".npz" or not cache.parent.is_dir():
        raise ValueError(f"cache must be an .npz file in an existing folder, but is {str(cache)!r}")
    observer = session.observer
    tracker = observer.get_tracker()
    made_from = fingerprint(reader.path, tracker.detector.name, tracker.detector.version)
    made_from["specs"] = observer.requested  # which hold the files of models
    made_from["segmenter"] = None
    if observer.segmenter is not None:
        made_from["segmenter"] = [observer.segmenter.name, session.options.score_threshold]
    made_from["people"] = getattr(tracker, "people", getattr(tracker.detector, "people", None))
    if (hint := session.options.hint("driving")) is not None:
        made_from["hint"] = str(hint)
    made_from["crop"] = "the video's own, torsos as long as they are"  # once the photo's, then squashed
    made_from["frames"] = [frames.start, frames.stop] if frames is not None else [None, None]
    if cache.exists() and not cache.is_file():
        raise ValueError(f"cache must be an .npz file, but {str(cache)!r} is not a file")
    if not cache.exists():
        return None, made_from
    try:
        return load_detections(cache, expected=made_from), made_from
    except StaleDetectionsError as error:
        _log.warning("the cache is replaced: %s", error)
        return None, made_from
