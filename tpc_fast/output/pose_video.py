"""The pictures that models follow: DensePose, from a video or drawn by a TorchScript file, skeletons, faces."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tpc_fast._checks import describe
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.files import natural_order
from tpc_fast.media.reading import read_npy, reading
from tpc_fast.media.video import VideoReader
from tpc_fast.pose.masks.densepose import DensePose, is_model

_ARRAY = re.compile(r"frame_[0-9]+_densepose\.npy")


def followed_paths(names, pose, face=None) -> dict[str, str | os.PathLike]:
    """Where the videos are that a model follows, for `followed_videos`.

    Args:
        names: of the videos.
        pose: the video that is followed; of models that follow several of one size, a folder that holds them.
        face: a video of the driving person's face, for models that follow it, too.

    Raises:
        FileNotFoundError, ValueError: if one is missing.
    """
    if names[0] != "pose":
        return {name: _video_in(pose, name) for name in names}
    if "face" not in names:
        return {"pose": pose}
    if face is None:
        raise ValueError("face must be a video of the driving person's face, but is missing")
    return {"pose": pose, "face": face}


def _video_in(folder, name: str) -> Path:
    """The video of that name in a folder, or the folder of that name with a picture for every frame."""
    found = [path for path in [Path(folder) / name] if path.is_dir()] + sorted(Path(folder).glob(f"{name}.*"))
    if not found:
        raise FileNotFoundError(
            f"pose must be a folder that holds {name}.mp4, or pictures in a folder {name}, but {folder} does not"
        )
    return found[0]


def followed_videos(paths: dict[str, str | os.PathLike], calibration, device: str | None = None) -> dict:
    """The videos that a model follows, for every frame of a calibration.

    Args:
        paths: name of the video -> what `pose_pictures` takes; but "face" is a video of any size, and stays as it is.
            A folder of DreamPose's `frame_N_densepose.npy` is read by `dense_arrays`. A "semantic_map" beside a folder
            "mask" of pictures of the same names, as Champ's motions are published, is black outside of the masks.
        calibration, device: see `pose_pictures`.

    Returns:
        Name -> uint8 [F, h, w, 3], or of `.npy` files float32 [F, 2, h, w].

    Raises:
        FileNotFoundError, ValueError: see `pose_pictures`.
    """
    videos = {}
    for name, path in paths.items():
        if name == "face":
            reader = VideoReader(path, name, frames=_covered(path, name, calibration))
            videos[name] = np.stack([frame.image for frame in reader])
        elif _is_arrays(path):
            videos[name] = dense_arrays(path, calibration)
        else:
            videos[name] = np.stack(list(pose_pictures(path, calibration, device)))
        masks = Path(path).parent / "mask"
        if name == "semantic_map" and masks.is_dir():
            seen = np.stack(list(pose_pictures(masks, calibration, device)))
            videos[name] = np.where(seen > 0, videos[name], 0)
    return videos


def _is_arrays(path) -> bool:
    return os.path.isdir(path) and any(_ARRAY.fullmatch(file.name) for file in Path(path).iterdir())


def dense_arrays(folder: str | os.PathLike, calibration) -> np.ndarray:
    """DensePose's u and v of every frame of a calibration, as DreamPose's files `frame_N_densepose.npy` hold them.

    Args:
        folder: with a file [2, h, w] in [0, 1] per frame, of the driving video or of the canvas, in the order of their
            numbers; as many as the calibration has frames, or all of the driving video.
        calibration: the Calibration.

    Returns:
        float32 [F, 2, height, width] on the canvas, bilinear, 0 where it is padded.

    Raises:
        ValueError: for a file of another kind or aspect ratio, and another number of files.
    """
    paths = sorted((path for path in Path(folder).iterdir() if _ARRAY.fullmatch(path.name)), key=natural_order)
    paths = paths[_part(len(paths), "pose", folder, calibration)]
    canvas, frames = calibration.canvas, np.zeros((len(paths), 2, *calibration.size), np.float32)
    for frame, path in zip(frames, paths, strict=True):
        with reading(f"pose: {path} cannot be read"):
            dense = read_npy(path)
        wrong = dense.ndim != 3 or dense.shape[0] != 2 or 0 in dense.shape
        if wrong or dense.dtype.kind != "f" or not np.isfinite(dense).all():
            raise ValueError(f"pose: {path} must be finite floats [2, h, w], but is {describe(dense)}")
        left, top, right, bottom = canvas.box
        if not _same_shape(dense.shape[1:], canvas.source):
            if not _same_shape(dense.shape[1:], canvas.size):
                raise ValueError(
                    f"pose must have the aspect ratio of the driving video, (height, width) {canvas.source}, or of the "
                    f"canvas, {canvas.size}, but {path} is {dense.shape[1:]}"
                )
            left, top, right, bottom = 0, 0, canvas.size[1], canvas.size[0]
        size = right - left, bottom - top
        for channel, values in zip(frame, dense.astype(np.float32), strict=True):
            picture = Image.fromarray(values).resize(size, Image.Resampling.BILINEAR, reducing_gap=None)
            channel[top:bottom, left:right] = np.asarray(picture)
    return frames


def own_videos(model: str, kind: str, calibration) -> dict[str, np.ndarray] | None:
    """What a model can follow without a video of it: name -> uint8 [F, h, w, 3]; None if it needs one.

    Body parts are drawn from the keypoints; small random weights follow person masks.

    Args:
        model: as the user named it; kind: of the model.
        calibration: of whose frames they are.
    """
    from tpc_fast.diffusion.models.registry import MODELS, Follows, is_tiny, pipeline_class

    if MODELS[kind].follows is Follows.PARTS:
        return {"pose": body_parts(calibration.keypoints[:, 0], calibration.scores[:, 0], calibration.size)}
    return stand_ins(pipeline_class(kind).videos, calibration) if is_tiny(model) else None


def stand_ins(names, calibration) -> dict[str, np.ndarray]:
    """Person masks in place of the videos of these names, for models of random weights: name -> uint8 [F, h, w, 3]."""
    return dict.fromkeys(names, np.repeat(calibration.pose_masks[:].max(1)[..., None], 3, -1))


def body_parts(keypoints: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What the puppets follow, from keypoints; black for frames that lack one.

    Args:
        keypoints: [F, 17, 2] in pixels of the canvas, NaN where missing; scores: [F, 17].
        size: (height, width) of the canvas.

    Returns:
        uint8 [F, height, width, 3].
    """
    from tpc_fast.diffusion.models.puppet_figures import draw_poses
    from tpc_fast.ops.coco import SCORE_THRESHOLD

    whole = (np.isfinite(keypoints).all(-1) & (scores >= SCORE_THRESHOLD)).all(-1)
    frames = np.zeros((len(keypoints), *size, 3), np.uint8)
    frames[whole] = np.rint(draw_poses(keypoints[whole], size).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    return frames


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
    return _part(sum(1 for _ in VideoReader(path, name, frames=slice(0, end))), name, path, calibration)


def _part(count: int, name: str, path, calibration) -> slice:
    frames, start = len(calibration), calibration.frame_range[0]
    skipped = 0 if count == frames else start
    if count - skipped != frames:
        asked = f"{frames}" if not start else f"{frames}, or {start + frames} with those before the first"
        found = f"{max(count - skipped, 0)}" if count - skipped < frames else "more"
        raise ValueError(f"{name} must have as many frames as the calibration, {asked}, but {path} has {found}")
    return slice(skipped, count)


def _same_shape(size, other) -> bool:
    return abs(math.log(size[0] * other[1] / (size[1] * other[0]))) < 0.02
