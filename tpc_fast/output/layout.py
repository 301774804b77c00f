"""Calibrated frames as files, in the folder layout of the original."""

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tpc_fast.media.png import write_png
from tpc_fast.media.video import VideoWriter
from tpc_fast.output.render import RenderedFrame, Workers, render_into

_AHEAD = 4  # frames in memory that wait for a video


class LayoutSink:
    """The folder layout of the original, as a sink; see `write_layout`.

    Its `pose_video` is True for the person masks, False for none, or the pictures uint8 [h, w, 3] of every frame.

    Attributes:
        warnings: in what the files differ from the original's.
    """

    def __init__(self, calibration, folder: str | os.PathLike, fmt: str = "png", pose_video=True):
        if not isinstance(fmt, str) or fmt not in _OPENERS:
            raise ValueError(f"fmt must be one of {', '.join(_OPENERS)}, but is {fmt!r}")
        self._calibration, self._folder, self._open = calibration, Path(folder), _OPENERS[fmt]
        self._with_pose_video = pose_video is not False
        self._pose_pictures = None if isinstance(pose_video, bool) else iter(pose_video)
        self.warnings = []
        if pose_video is True:
            self.warnings.append("pose_video shows person masks: if your model follows DensePose, give --pose FILE")

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

    def prepare(self, frame: RenderedFrame):
        """Writes the pictures of a frame; returns its person masks as the video's encoder takes them."""
        self._prepare(frame)
        if self._pose_video is None or self._pose_pictures is not None:
            return None
        masks = frame.pose_masks
        return self._pose_video.convert(masks[0] if len(masks) == 1 else masks.max(axis=0))

    def write(self, frame: RenderedFrame, prepared) -> None:
        """Queues what goes into videos or an archive."""
        if self._pose_video is not None:
            time = _time(self._calibration, frame.index)
            drawn = prepared if self._pose_pictures is None else next(self._pose_pictures)
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
    return VideoWriter(path, calibration.fps, calibration.size, preset="ultrafast", sound=calibration.sound, threads=1)


def _time(calibration, index):
    return float(calibration.times[index] - calibration.times[0])


def _stem(path, default):
    return Path(path).stem if path else default


def _write_reference(calibration, folder):
    """The reference and its masks, laid onto the canvas as a driving frame would be."""
    photo = calibration.reference_image
    canvas = calibration.reference_canvas
    for person, mask in enumerate(calibration.reference_mask):
        path = folder / f"{person}-person_ref_mask_img" / "ref.png"
        path.parent.mkdir()
        write_png(path, canvas.draw(mask), rgb=True)
    path = folder / "ref_img" / f"{_stem(calibration.reference_path, 'reference')}.PNG"
    path.parent.mkdir()
    write_png(path, canvas.draw(photo))
