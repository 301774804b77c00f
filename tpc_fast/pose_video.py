"""The pictures that MagicAnimate's ControlNet follows: DensePose, from a video or drawn by a TorchScript file."""

import math
import os
from collections.abc import Iterator

import numpy as np

from tpc_fast.canvas import Canvas
from tpc_fast.pose.densepose import DensePose, is_model
from tpc_fast.video import VideoReader


def pose_pictures(path: str | os.PathLike, calibration, device: str | None = None) -> Iterator[np.ndarray]:
    """DensePose of every frame of a calibration, uint8 [h, w, 3] on its canvas.

    Args:
        path: a DensePose video, which may be of the canvas's size, or show the driving video at any size: where the
            canvas is padded, it gets the colour of the video's first pixel, DensePose's background. It may have the
            frames of the calibration only, or all of the driving video. Or a TorchScript file (.torchscript, .ts, .pt,
            .jit; see `tpc_fast.pose.densepose`), which then looks at the driving video.
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
    canvas, frames = calibration.canvas, len(calibration)
    whole = VideoReader(path, "pose")
    if _same_shape(whole.size, canvas.size) and not _same_shape(canvas.source, canvas.size):
        canvas = Canvas.fitting(whole.size, canvas.size, "squeeze")
    elif not _same_shape(whole.size, canvas.source):
        raise ValueError(
            f"pose must have the aspect ratio of the driving video, (height, width) {canvas.source}, or of the canvas, "
            f"{canvas.size}, but {path} is {whole.size}"
        )
    left, top, right, bottom = canvas.box
    start, stop = calibration.frame_range
    end = start + frames + (stop is None)  # one more tells that there are too many
    count = sum(1 for _ in VideoReader(path, "pose", frames=slice(0, end)))
    skipped = 0 if count == frames else start
    if count - skipped != frames:
        asked = f"{frames}" if not start else f"{frames}, or {start + frames} with those before the first"
        found = f"{max(count - skipped, 0)}" if count - skipped < frames else "more"
        raise ValueError(f"pose must have as many frames as the calibration, {asked}, but {path} has {found}")
    background = None
    reader = VideoReader(path, "pose", frames=slice(0, count), scale_to=(bottom - top, right - left))
    for index, frame in enumerate(reader):
        if index < skipped:
            continue
        if background is None:
            background = frame.image[0, 0].copy()
        picture = np.empty((*canvas.size, 3), np.uint8)
        picture[:] = background
        picture[top:bottom, left:right] = frame.image
        yield picture


def _same_shape(size, other) -> bool:
    return abs(math.log(size[0] * other[1] / (size[1] * other[0]))) < 0.02
