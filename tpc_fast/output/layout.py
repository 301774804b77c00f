"""Calibrated frames as files, whole or not at all, in the folder layout of the original.

Every frame is rendered once, by `render_into`, and handed to all sinks: the layout here, the preview and
the pictures of the report in `report.py`.
"""

import collections
import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from tpc_fast._native import get_num_threads, work_alone
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.png import write_png
from tpc_fast.media.video import VideoWriter, prefetch

CALIBRATION_FILE = "calibration.json"
CALIBRATION_FORMAT = "tpc_fast.calibration.result"
# What a calibration consists of, in any format.
_OURS = re.compile(
    r"calibration\.json|reference\.png|masks\.npz|report\.html|preview\.mp4|picture\.png|pose_video|ref_img|"
    r"calibrated\.npz|\d+-person_\w+(\.mp4)?"
)
_AHEAD = 4  # frames in memory that wait for a video


class OutputFolder:
    """A folder that appears whole or not at all: `with OutputFolder(path) as folder: ...`.

    A calibration that is replaced goes, whatever else lay in its folder stays. Files go to the folder that it gives, a
    hidden one beside `path`, which gets its name at the end. After an exception that folder is removed, and what was at
    `path` is as it was.

    Args:
        path: the folder to make; its parent must exist.
        overwrite: whether a folder at `path` may be replaced; only one that holds our calibration ever is.

    Raises:
        FileExistsError: if there is something at `path` that may not be replaced.
        FileNotFoundError, NotADirectoryError: if the parent is missing or not a folder.
        OSError: if it cannot be written.
    """

    def __init__(self, path: str | os.PathLike, overwrite: bool = False):
        self.path = Path(os.path.realpath(path))  # a link stays, what it points to is replaced
        self._overwrite = overwrite

    def _check(self):
        parent = self.path.parent
        if not parent.exists():
            raise FileNotFoundError(f"output: there is no folder {parent} to put {self.path.name} into")
        if not parent.is_dir():
            raise NotADirectoryError(f"output: {parent}, to put {self.path.name} into, is not a folder")
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise FileExistsError(f"output: {self.path} is a file: choose another place")
        if not _is_ours(self.path):
            raise FileExistsError(
                f"output: {self.path} exists and has no {CALIBRATION_FILE} of tpc_fast in it, so it is not replaced: "
                "choose another place"
            )
        if not self._overwrite:
            raise FileExistsError(
                f"output: {self.path} exists: choose another place, or overwrite the calibration in it "
                "(--overwrite, overwrite=True)"
            )

    def _beside(self, purpose):
        return self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.{purpose}")

    def __enter__(self) -> Path:
        self._check()
        self._partial = self._beside("partial")
        try:
            self._partial.mkdir()
        except OSError as error:
            message = f"output: cannot write into {self.path.parent}: {error.strerror}"
            raise type(error)(error.errno, message) from error
        return self._partial

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self._check()  # again: what was there may have changed meanwhile
                self._swap()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _swap(self):
        if not self.path.exists():
            self._partial.rename(self.path)
            return
        old = self._beside("old")
        self.path.rename(old)
        try:
            self._partial.rename(self.path)
        except BaseException:
            old.rename(self.path)
            raise
        for entry in old.iterdir():  # what is not ours stays
            if not _OURS.fullmatch(entry.name) and not (self.path / entry.name).exists():
                entry.rename(self.path / entry.name)
        shutil.rmtree(old, ignore_errors=True)


def _is_ours(folder):
    try:
        return json.loads((folder / CALIBRATION_FILE).read_bytes())["format"] == CALIBRATION_FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Workers:
    """Threads with a bounded queue; a context manager that waits for all work at its end.

    The first error of a job is raised by the next `submit` or at the end; jobs that have not begun by then
    are dropped, as they are when the block ends with an exception. A single thread keeps the order of jobs.
    """

    def __init__(self, threads: int, ahead: int):
        self._pool = ThreadPoolExecutor(threads, "tpc_fast.worker")
        self._slots = threading.Semaphore(threads + ahead)
        self._error = None

    def submit(self, job: Callable, *arguments) -> None:
        """Queues `job(*arguments)`; waits while the queue is full."""
        self._slots.acquire()
        if self._error is not None:
            self._slots.release()
            raise self._error
        self._pool.submit(self._run, job, arguments)

    def _run(self, job, arguments):
        try:
            if self._error is None:
                job(*arguments)
        except BaseException as error:
            self._error = error
        finally:
            self._slots.release()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            self._error = error
        self._pool.shutdown()
        if kind is None and self._error is not None:
            raise self._error


class Panels(NamedTuple):
    """What a person looks at, uint8 [h, w, 3] each, smaller than the canvas.

    Attributes:
        driving: the driving frame; the pose masks if it is not at hand.
        calibrated: the calibrated reference, of several persons in their order of depth.
        overlay: the calibrated persons over the dimmed driving frame.
    """

    driving: np.ndarray
    calibrated: np.ndarray
    overlay: np.ndarray


class RenderedFrame(NamedTuple):
    """One frame, all uint8: what sinks get.

    Attributes:
        index: of the frame.
        images: [P, h, w, 3] on the canvas, the calibrated reference.
        masks: [P, h, w], its person.
        pose_masks: [P, h, w], where the driving person is.
        panels: small pictures, or None if they are not wanted.
    """

    index: int
    images: np.ndarray
    masks: np.ndarray
    pose_masks: np.ndarray
    panels: Panels | None


class Sink(Protocol):
    """Takes rendered frames, inside its own context."""

    def __enter__(self): ...

    def prepare(self, frame: RenderedFrame):
        """What of a frame's work needs no order, in the thread that rendered it; its result goes to `write`."""

    def write(self, frame: RenderedFrame, prepared) -> None:
        """The rest, frame by frame in order."""

    def __exit__(self, kind, error, trace): ...


def _rendered_frames(calibration, sinks, panel_size) -> Iterator[tuple[RenderedFrame, list]]:
    """All frames in order and what the sinks prepared of them; made several at a time, a few ahead."""
    threads = max(1, get_num_threads())
    source = prefetch(_driving_frames(calibration, panel_size)) if panel_size else itertools.repeat(None, 0)
    ahead = collections.deque()
    with (
        contextlib.closing(source) if panel_size else contextlib.nullcontext(),
        ThreadPoolExecutor(threads, "tpc_fast.render", initializer=work_alone) as pool,
    ):
        try:
            for index in range(len(calibration.times)):
                ahead.append(pool.submit(_render_frame, calibration, index, sinks, panel_size, next(source, None)))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for job in ahead:
                job.cancel()


def _render_frame(calibration, index, sinks, panel_size, driving) -> tuple[RenderedFrame, list]:
    warped, pose_masks = calibration.render(index), calibration.pose_masks[index]
    panels = _draw_panels(calibration, index, panel_size, pose_masks, driving) if panel_size else None
    frame = RenderedFrame(index, warped.image[0], warped.mask[0], pose_masks, panels)
    return frame, [sink.prepare(frame) for sink in sinks]


def _draw_panels(calibration, index, size, pose_masks, driving) -> Panels:
    if driving is None:
        driving = np.repeat(shrink_masks(pose_masks, size).max(0)[..., None] // 3, 3, -1)
    images, masks, overlay = (a[0] for a in calibration.render(index, size=size, background=driving >> 1))
    order = calibration.order[index]
    calibrated = images[order[0]]
    if len(order) > 1:  # every calibrated image shows all persons of the photo: each is cut out of the own one
        calibrated = calibrated >> 2
        for person in order:
            calibrated = np.where(masks[person][..., None] >= 128, images[person], calibrated)
    return Panels(driving, calibrated, overlay)


def shrink_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks [P, h, w] at another size (height, width), nearest pixels."""
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(size, masks.shape[1:], strict=True))
    return masks[:, rows[:, None], columns]


def _driving_frames(calibration, size):
    try:
        yield from calibration.driving_frames(size)
    except (ValueError, FileNotFoundError) as error:  # the video is gone, its calibration is not
        calibration.warnings.append(f"the preview shows masks instead of driving frames: {error}")


def render_into(
    calibration,
    sinks: Iterable[Sink],
    progress: Callable[[int, int], object] | None = None,
    panel_size: tuple[int, int] | None = None,
) -> None:
    """Renders every frame once and hands it to all sinks.

    Args:
        calibration: the Calibration.
        sinks: what to write.
        progress: called as `progress(done, total)` after every frame.
        panel_size: (height, width) of the panels, if a sink wants them.
    """
    with contextlib.ExitStack() as stack:
        sinks = [stack.enter_context(sink) for sink in sinks]
        with contextlib.closing(_rendered_frames(calibration, sinks, panel_size)) as frames:
            for frame, prepared in frames:
                for sink, part in zip(sinks, prepared, strict=True):
                    sink.write(frame, part)
                if progress is not None:
                    progress(frame.index + 1, len(calibration.times))


class LayoutSink:
    """The folder layout of the original, as a sink; see `write_layout`.

    Its `pose_video` is True for the person masks, False for none, or the pictures uint8 [h, w, 3] of every frame.

    Attributes:
        warnings: in what the files differ from the original's.
    """

    def __init__(self, calibration, folder: str | os.PathLike, fmt: str = "png", pose_video=True):
        if fmt not in _OPENERS:
            raise ValueError(f"fmt must be one of {', '.join(_OPENERS)}, but is {fmt!r}")
        self._calibration, self._folder, self._open = calibration, Path(folder), _OPENERS[fmt]
        self._with_pose_video = pose_video is not False
        self._pose_pictures = None if isinstance(pose_video, bool) else iter(pose_video)
        self.warnings = []
        if pose_video is True:
            self.warnings.append("pose_video shows the person masks: no DensePose was given")

    def __enter__(self) -> "LayoutSink":
        with contextlib.ExitStack() as stack:
            _write_reference(self._calibration, self._folder)
            self._pose_video = None
            if self._with_pose_video:
                path = self._folder / "pose_video" / f"{_stem(self._calibration.driving_path, 'driving')}.mp4"
                self._pose_video = stack.enter_context(_video(self._calibration, path))
            self._prepare, self._write = self._open(self._calibration, self._folder, stack)
            self._queue = stack.enter_context(Workers(1, _AHEAD))
            self._stack = stack.pop_all()
        return self

    def prepare(self, frame: RenderedFrame) -> None:
        """Writes the pictures of a frame."""
        self._prepare(frame)

    def write(self, frame: RenderedFrame, prepared) -> None:
        """Queues what goes into videos or an archive."""
        if self._pose_video is not None:
            time = _time(self._calibration, frame.index)
            drawn = frame.pose_masks.max(axis=0) if self._pose_pictures is None else next(self._pose_pictures)
            self._queue.submit(self._pose_video.write, drawn, time)
        self._write(frame)

    def __exit__(self, kind, error, trace) -> None:
        self._stack.__exit__(kind, error, trace)


def write_layout(
    calibration,
    folder: str | os.PathLike,
    fmt: str = "png",
    progress: Callable[[int, int], object] | None = None,
) -> list[str]:
    """Writes the calibrated frames as the original does, which is what animation code reads.

    - `{p}-person_cal_ref_img/000.png`: the calibrated reference of each frame, for persons p from 0.
    - `{p}-person_cal_ref_mask_img/000.png`, `{p}-person_pose_mask_img/000.png`: masks, three equal channels.
    - `{p}-person_ref_mask_img/ref.png`, `ref_img/{REF}.PNG`: the reference, fitted to the canvas.
    - `pose_video/{POSE}.mp4`: the person masks of the driving video.

    Frames have three digits, or five if there are more than 1000, so that names sort as numbers do.
    With `fmt` "npz", the frames are instead in `calibrated.npz`: images [F, P, h, w, 3], masks and pose_masks
    [F, P, h, w], uint8. With "mp4", they are in one video per folder, named like it (lossy).

    Args:
        calibration: the Calibration.
        folder: an existing folder, as `OutputFolder` gives it.
        fmt: "png", "npz" or "mp4".
        progress: called as `progress(done, total)` after every frame.

    Returns:
        In what the files differ from the original's, in words.
    """
    sink = LayoutSink(calibration, folder, fmt)
    render_into(calibration, [sink], progress)
    return sink.warnings


# What a person's files of each frame are called, and where they are in a RenderedFrame.
_KINDS = {"cal_ref_img": "images", "cal_ref_mask_img": "masks", "pose_mask_img": "pose_masks"}


def _pictures(frame):
    """The pictures of a frame with the names that their folder or video has."""
    for kind, field in _KINDS.items():
        for person, picture in enumerate(getattr(frame, field)):
            yield f"{person}-person_{kind}", picture


def _names(calibration):
    return [f"{person}-person_{kind}" for kind in _KINDS for person in range(calibration.matrices.shape[1])]


# Each opens what frames are written to, and returns `prepare` and `write` of a sink.


def _open_png(calibration, folder, stack):
    for name in _names(calibration):
        (folder / name).mkdir()
    digits = 3 if len(calibration.times) <= 1000 else 5

    def prepare(frame):
        for name, picture in _pictures(frame):
            write_png(folder / name / f"{frame.index:0{digits}d}.png", picture, rgb=True)

    return prepare, _nothing


def _nothing(frame):
    return None


def _open_mp4(calibration, folder, stack):
    videos = {name: stack.enter_context(_video(calibration, folder / f"{name}.mp4")) for name in _names(calibration)}
    workers = stack.enter_context(Workers(1, _AHEAD * len(videos)))

    def write(frame):
        for name, picture in _pictures(frame):
            workers.submit(videos[name].write, picture, _time(calibration, frame.index))

    return _nothing, write


def _open_npz(calibration, folder, stack):
    """Streams the images into the archive, and the masks into files that are packed into it at the end."""
    frames, persons = calibration.matrices.shape[:2]
    shape = frames, persons, *calibration.size
    archive = stack.enter_context(zipfile.ZipFile(folder / "calibrated.npz", "w"))
    masks = {n: stack.enter_context(tempfile.TemporaryFile(dir=folder)) for n in ("masks", "pose_masks")}

    def pack(kind, *_):
        images.close()
        for name, file in masks.items() if kind is None else ():
            file.seek(0)
            with _entry(archive, name, shape, zipfile.ZIP_DEFLATED) as entry:
                shutil.copyfileobj(file, entry, 1 << 20)

    images = _entry(archive, "images", (*shape, 3), zipfile.ZIP_STORED)
    stack.push(pack)
    workers = stack.enter_context(Workers(1, _AHEAD))

    def write_now(frame):
        images.write(np.ascontiguousarray(frame.images))
        for name, file in masks.items():
            file.write(np.ascontiguousarray(getattr(frame, name)))

    return _nothing, lambda frame: workers.submit(write_now, frame)


def _entry(archive, name, shape, compression):
    """An open uint8 array in a zip archive, its header written."""
    info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
    info.compress_type, info._compresslevel = compression, 1
    entry = archive.open(info, "w", force_zip64=True)
    np.lib.format.write_array_header_1_0(entry, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return entry


_OPENERS = {"png": _open_png, "npz": _open_npz, "mp4": _open_mp4}
FORMATS = tuple(_OPENERS)


def _video(calibration, path):
    path.parent.mkdir(exist_ok=True)
    return VideoWriter(path, calibration.fps, calibration.size, preset="ultrafast")


def _time(calibration, index):
    return float(calibration.times[index] - calibration.times[0])


def _stem(path, default):
    return Path(path).stem if path else default


def _write_reference(calibration, folder):
    """The reference and its masks, laid onto the canvas as a driving frame would be."""
    photo = calibration.reference_image
    canvas = Canvas.fitting(photo.shape[:2], calibration.size, calibration.options.get("fit", "pad"))
    for person, mask in enumerate(calibration.reference_mask):
        path = folder / f"{person}-person_ref_mask_img" / "ref.png"
        path.parent.mkdir()
        write_png(path, canvas.draw(mask), rgb=True)
    path = folder / "ref_img" / f"{_stem(calibration.reference_path, 'reference')}.PNG"
    path.parent.mkdir()
    write_png(path, canvas.draw(photo))
