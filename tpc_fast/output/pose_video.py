"""The pictures that models follow: DensePose, from a video or drawn by a TorchScript file, skeletons, faces."""

import math
import os
from collections.abc import Iterator

import numpy as np

from tpc_fast.media.canvas import Canvas
from tpc_fast.media.video import VideoReader
from tpc_fast.pose.masks.densepose import DensePose, is_model


def followed_videos(paths: dict[str, str | os.PathLike], calibration, device: str | None = None) -> dict:
    """The videos that a model follows, for every frame of a calibration.

    Args:
        paths: name of the video -> what `pose_pictures` takes; but "face" is a video of any size, and stays as it is.
        calibration, device: see `pose_pictures`.

    Returns:
        Name -> uint8 [F, h, w, 3].

    Raises:
        FileNotFoundError, ValueError: see `pose_pictures`.
    """
    videos = {}
    for name, path in paths.items():
        if name == "face":
            reader = VideoReader(path, name, frames=_covered(path, name, calibration))
            videos[name] = np.stack([frame.image for frame in reader])
        else:
            videos[name] = np.stack(list(pose_pictures(path, calibration, device)))
    return videos


def stand_ins(names, calibration) -> dict[str, np.ndarray]:
    """Person masks in place of the videos of these names, for models of random weights: name -> uint8 [F, h, w, 3]."""
    return dict.fromkeys(names, np.repeat(calibration.pose_masks[:].max(1)[..., None], 3, -1))


def pose_pictures(path: str | os.PathLike, calibration, device: str | None = None) -> Iterator[np.ndarray]:
    """DensePose of every frame of a calibration, uint8 [h, w, 3] on its canvas.

    Args:
        path: a DensePose video, which may be of the canvas's size, or show the driving video at any size: where the
            canvas is padded, it gets the colour of the video's first pixel, DensePose's background. It may have the
            frames of the calibration only, or all of the driving video. Or a TorchScript file (.torchscript, .ts, .pt,
            .jit; see `tpc_fast.pose.masks.densepose`), which then looks at the driving video.
        calibration: the Calibration.
        device: of torch, for a TorchScript file; None: cuda if there is one.

    Raises:
        FileNotFoundError, ValueError: for a file that is not there or can't be read; a video of another number of
            frames, or of another aspect ratio.
    """
    if is_model(path):
        model = DensePose(path, device)
        for frame in calibration.driving_frames():
            yield model.draw(frame)
        return
    canvas = calibration.canvas
    whole = VideoReader(path, "pose")
    if _same_shape(whole.size, canvas.size) and not _same_shape(canvas.source, canvas.size):
        canvas = Canvas.fitting(whole.size, canvas.size, "stretch")
    elif not _same_shape(whole.size, canvas.source):
        raise ValueError(
            f"pose must have the aspect ratio of the driving video, (height, width) {canvas.source}, or of the canvas, "
            f"{canvas.size}, but {path} is {whole.size}"
        )
    left, top, right, bottom = canvas.box
    background = None
    covered = _covered(path, "pose", calibration)
    for frame in VideoReader(path, "pose", frames=covered, scale_to=(bottom - top, right - left)):
        if background is None:
            background = frame.image[0, 0].copy()
        picture = np.empty((*canvas.size, 3), np.uint8)
        picture[:] = background
        picture[top:bottom, left:right] = frame.image
        yield picture


def _covered(path, name: str, calibration) -> slice:
    """Which frames of a video are those of the calibration: all, or those that it used of the whole driving video."""
    frames, (start, stop) = len(calibration), calibration.frame_range
    end = start + frames + (stop is None)  # one more tells that there are too many
    count = sum(1 for _ in VideoReader(path, name, frames=slice(0, end)))
    skipped = 0 if count == frames else start
    if count - skipped != frames:
        asked = f"{frames}" if not start else f"{frames}, or {start + frames} with those before the first"
        found = f"{max(count - skipped, 0)}" if count - skipped < frames else "more"
        raise ValueError(f"{name} must have as many frames as the calibration, {asked}, but {path} has {found}")
    return slice(skipped, count)


def _same_shape(size, other) -> bool:
    return abs(math.log(size[0] * other[1] / (size[1] * other[0]))) < 0.02
