"""What is evaluated: clips on disk, and what is seen in them."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np

from tpc_fast import _checks
from tpc_fast._lazy import lazy
from tpc_fast._version import __version__
from tpc_fast.calibration.result import Calibration
from tpc_fast.calibration.video import calibrate
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.files import CALIBRATION_FILE
from tpc_fast.media.images import scale
from tpc_fast.media.reading import read_json, reading
from tpc_fast.media.video import VideoReader
from tpc_fast.pose.files.detections import fingerprint, pack_mask, unpack_mask

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
DETECTIONS = "detections"  # folder of a clip's calibration
_SETTINGS = "evaluation"  # in the options of a saved calibration: what it was made from

__getattr__, __dir__ = lazy(__name__, {})  # what stands in evaluation/synthetic.py now


@dataclasses.dataclass(frozen=True)
class Clip:
    """A reference and a driving video.

    Attributes:
        name: of the clip, unique in a run.
        driving: video file or folder of pictures; None for the synthetic clip.
        reference: picture; None for self-reenactment, whose reference is a frame of the video.
        reference_mask: picture, or None: the detector's.
        driving_masks: folder of pictures, one a frame, or None: the detector's.
        published: .json of a published alignment: a list of objects with `matrix`, forward 2x3 of a frame, pixels of
            the reference -> pixels of the driving frame.
        videos: name -> file, all others of the clip's folder: what models follow is among them.
    """

    name: str
    driving: Path | None
    reference: Path | None = None
    reference_mask: Path | None = None
    driving_masks: Path | None = None
    published: Path | None = None
    videos: dict[str, Path] = dataclasses.field(default_factory=dict)


def find_clips(paths) -> list[Clip]:
    """The clips at paths, each of which is one of

    - a video file: self-reenactment;
    - a folder with `reference.*` and `driving.*` (a video or a folder of pictures), optionally `reference_mask.*`,
      `driving_mask/` and one `*matrices.json`;
    - a folder with `driving.*` and no reference, optionally `driving_mask/`: self-reenactment;
    - a folder with `images/`, optionally `masks/` (as the TikTok data set has them): self-reenactment;
    - a folder of pictures (as the frames of the TED-talks data set): self-reenactment;
    - a folder of any of these.

    To evaluate a model, a clip's folder also holds the videos that the model follows, as `tpc-fast animate` takes them.
    MagicAnimate and DreamPose: `densepose.*`, drawn as the model was trained with. Champ: `depth.*`, `normal.*`,
    `semantic_map.*`, `dwpose.*`. The others: `pose.*`, a skeleton; Wan-Animate also `face.*`.

    Raises:
        FileNotFoundError: for a path that does not exist.
        ValueError: for one in which there is no clip.
    """
    clips = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"clips: there is no {path}")
        found = _clip_at(path)
        inside = [found] if found else [_clip_at(p) for p in sorted(path.iterdir())] if path.is_dir() else []
        inside = [clip for clip in inside if clip is not None]
        if not inside:
            raise ValueError(
                f"clips: {path} must be a video, a folder with reference.* and driving.*, with images/, of pictures, "
                "or of such folders and videos"
            )
        clips += inside
    taken: set[str] = set()
    for i, clip in enumerate(clips):
        name = first = clip.name
        for number in itertools.count(2):
            if folder_name(name).casefold() not in taken:
                break
            name = f"{first}-{number}"
        taken.add(folder_name(name).casefold())
        clips[i] = dataclasses.replace(clip, name=name)
    return clips


def folder_name(name: str) -> str:
    """What the folder of a clip of this name is called: never a way out of the folder that it lies in."""
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "clip"


def _clip_at(path: Path) -> Clip | None:
    if path.is_file():
        return Clip(path.stem, path) if path.suffix.lower() in VIDEOS else None
    driving, reference = _one(path, "driving", VIDEOS, True), _one(path, "reference", PICTURES)
    videos = {p.stem: p for p in sorted(path.iterdir()) if p.suffix.lower() in VIDEOS and p != driving}
    if driving:
        masks = path / "driving_mask"
        published = sorted(path.glob("*matrices.json"))
        return Clip(
            path.resolve().name,
            driving,
            reference,
            _one(path, "reference_mask", PICTURES),
            masks if masks.is_dir() else None,
            published[0] if published and reference else None,
            videos,
        )
    if (path / "images").is_dir():
        masks = path / "masks"
        return Clip(
            path.resolve().name, path / "images", driving_masks=masks if masks.is_dir() else None, videos=videos
        )
    if any(p.suffix.lower() in PICTURES for p in path.iterdir()):
        return Clip(path.resolve().name, path, videos=videos)
    return None


def _one(folder: Path, stem: str, suffixes, or_folder: bool = False) -> Path | None:
    for path in sorted(folder.glob(f"{stem}.*")):
        if path.suffix.lower() in suffixes:
            return path
    return folder / stem if or_folder and (folder / stem).is_dir() else None


@dataclasses.dataclass(frozen=True)
class Observed:
    """A clip as it was seen: F frames, one person. All that an alignment needs, and what it is measured against.

    Attributes:
        name: of the clip.
        size: (height, width) of the canvas.
        times: [F] seconds.
        reference_image, reference_mask: uint8 [H, W, 3], [H, W].
        reference_keypoints, reference_scores: float32 [17, 2] in pixels of the reference, [17].
        keypoints, scores: float32 [F, 17, 2] in pixels of the canvas, [F, 17].
        packed_pose_masks: uint8 [F, bytes].
        canvas: how driving frames are laid onto the canvas.
        published: [F, 2, 3], a published alignment, reference -> canvas; or None.
        truth: [F, 2, 3], the true one; or None.
        expected: [F, 2, 3] for each variant by name, what its alignment should be because the one of the reference as
            it was is known; or None.
        driving: video file or folder; frames: which of its frames.
        reference_frame: which of the frames the reference is, and says nothing about an alignment; or None.
        in_frame: share of the reference's keypoints that its picture shows; less than 1 for a misaligned one that is
            cut off.
        warnings: what the user should know.
    """

    name: str
    size: tuple[int, int]
    times: np.ndarray
    reference_image: np.ndarray
    reference_mask: np.ndarray
    reference_keypoints: np.ndarray
    reference_scores: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray
    packed_pose_masks: np.ndarray
    canvas: Canvas
    driving: Path
    frames: slice | None = None
    published: np.ndarray | None = None
    truth: np.ndarray | None = None
    expected: dict | None = None
    reference_frame: int | None = None
    in_frame: float = 1.0
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.times)

    def pose_masks(self, frames: slice) -> np.ndarray:
        """uint8 [n, h, w], 0 or 255."""
        return unpack_mask(self.packed_pose_masks[frames], self.size)


def observe(clip: Clip, folder: Path, *, size=512, frames=None, reference_frame=0, detector=None, progress=None):
    """Looks at a clip, or reads what an earlier run saw from `folder`, where it is kept.

    Args:
        clip: the clip.
        folder: where to keep the detections; made if need be.
        size, frames, detector, progress: as in `tpc_fast.calibrate`.
        reference_frame: of self-reenactment, counted in the frames that are used.

    Returns:
        Observed.

    Raises:
        As `tpc_fast.calibrate`; and ValueError for masks or matrices that do not fit the video.
    """
    made_from = _made_from(clip, size, frames, reference_frame, detector)
    calibration = None
    if (folder / CALIBRATION_FILE).exists():
        calibration = Calibration.load(folder)
        if calibration.options.get(_SETTINGS) != made_from:
            calibration = None
    if calibration is None:
        reference = clip.reference
        if reference is None:
            reference = _frame(clip.driving, frames, reference_frame)
        calibration = calibrate(
            reference,
            clip.driving,
            smooth="none",
            size=size,
            frames=frames,
            detector=detector,
            reference_mask=_self_mask(clip, frames, reference_frame),
            progress=progress,
        )
        calibration.options[_SETTINGS] = made_from
        folder.parent.mkdir(parents=True, exist_ok=True)
        calibration.save(folder, overwrite=True)
    count, packed = len(calibration), calibration.packed_pose_masks[:, 0]
    if clip.driving_masks is not None:
        packed = _given_masks(clip, frames, calibration.canvas, count)
    published = None
    if clip.published is not None:
        published = _published(clip.published, frames, count)
        square = np.vstack([calibration.canvas.matrix, [0, 0, 1]])
        published = (square @ np.concatenate([published, np.tile([[[0, 0, 1]]], (count, 1, 1))], 1))[:, :2]
    return Observed(
        clip.name,
        calibration.size,
        calibration.times,
        calibration.reference_image,
        calibration.reference_mask[0],
        calibration.reference_keypoints[0],
        calibration.reference_scores[0],
        calibration.keypoints[:, 0],
        calibration.scores[:, 0],
        packed,
        calibration.canvas,
        clip.driving,
        frames,
        published,
        reference_frame=None if clip.reference is not None else reference_frame,
        warnings=tuple(w for w in calibration.warnings if not w.split()[0].isdigit()),
    )


def _made_from(clip, size, frames, reference_frame, detector) -> dict:
    """What the detections of a clip depend on, as JSON reads it back."""
    paths = [path for path in (clip.driving, clip.reference, clip.reference_mask) if path is not None]
    made_from = {
        "files": [fingerprint(path, str(detector), __version__) for path in paths],
        "size": np.atleast_1d(size).tolist(),
        "frames": None if frames is None else [frames.start, frames.stop],
        "reference_frame": None if clip.reference else reference_frame,
        "driving_masks": clip.driving_masks is not None,
    }
    return json.loads(json.dumps(made_from))


def _frame(driving: Path, frames: slice | None, index: int) -> np.ndarray:
    start = (frames.start or 0) if frames is not None else 0
    return next(iter(VideoReader(driving, frames=slice(start + index, start + index + 1)))).image


def _self_mask(clip: Clip, frames, reference_frame):
    if clip.reference is not None or clip.driving_masks is None:
        return clip.reference_mask
    return _frame(clip.driving_masks, frames, reference_frame).max(-1)


def _given_masks(clip, frames, canvas, count) -> np.ndarray:
    masks = [f.image.max(-1) for f in VideoReader(clip.driving_masks, frames=frames)]
    if len(masks) != count:
        raise ValueError(f"{clip.driving_masks} must hold {count} masks, one a frame, but holds {len(masks)}")
    return np.stack([pack_mask(canvas.draw(scale(mask, canvas.source))) for mask in masks])


def _published(path: Path, frames, count) -> np.ndarray:
    with reading(f"{path} must be a list of objects with a `matrix`"):
        matrices = np.array([entry["matrix"] for entry in read_json(path)], np.float64)
    if matrices.ndim != 3 or matrices.shape[1:] != (2, 3):
        raise ValueError(f"{path} must hold 2x3 matrices, but holds {_checks.describe(matrices)}")
    matrices = matrices[slice(None) if frames is None else frames]
    if len(matrices) != count:
        raise ValueError(f"{path} must hold {count} matrices, one a frame, but holds {len(matrices)}")
    return _checks.finite(matrices, str(path))
