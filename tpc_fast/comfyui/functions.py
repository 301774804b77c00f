"""What the nodes do, in plain functions of batches as ComfyUI has them: float32 [B, H, W, C] and [B, H, W] in 0..1."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tpc_fast.calibration.options import parse_depth, parse_match
from tpc_fast.calibration.proportions import BOUNDS
from tpc_fast.calibration.result import Calibration
from tpc_fast.calibration.skeletons import move_skeletons
from tpc_fast.calibration.summary import describe, summarise
from tpc_fast.calibration.video import calibrate as calibrate_video
from tpc_fast.output.skeletons import pose_frames
from tpc_fast.pose.detect.registry import check_plain
from tpc_fast.pose.files.read import whole_body_of
from tpc_fast.pose.files.whole_body import WholeBody, openpose_frames, posedata

#: The colours by which ComfyUI's WanSCAILToVideo tells persons apart, person by person.
PALETTE = ((0, 0, 255), (255, 0, 0), (0, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 0))
#: What is around the persons, in the photo's mask and in the video's: to the model, white is what it may show.
BACKGROUNDS = {"animation": (255, 0), "replacement": (0, 255)}
PERSON = 128  # coverage from which a pixel is a person's
_SHOWN = 3  # frames in the picture of `inspect`

Progress = Callable[[int, int | None], object]


class Calibrated(NamedTuple):
    """What a calibration gives to other nodes: float32 in 0..1.

    Attributes:
        image: [F, h, w, 3], the photo as each frame needs it, of the first person.
        mask: [F, h, w], where the photo's persons are in it.
        pose_mask: [F, h, w], where the driving persons are.
        composite: [F, h, w, 3], the persons alone over black.
    """

    image: np.ndarray
    mask: np.ndarray
    pose_mask: np.ndarray
    composite: np.ndarray


def calibrate(
    reference, driving, fps: float, reference_mask=None, reference_pose=None, driving_pose=None, driving_mask=None,
    progress: Progress | None = None, **options,
) -> Calibration:  # fmt: skip
    """Calibrates a batch's first picture to all pictures of another.

    Args:
        reference: [B, H, W, 3 or 4]; the first is the photo.
        driving: [F, H, W, 3 or 4].
        fps: of `driving`.
        reference_mask: [B, H, W]; the first is the person mask of the photo.
        reference_pose, driving_pose: POSE_KEYPOINT; then no detector looks.
        driving_mask: [F, H, W] of one person; needs `driving_pose`.
        progress: called as `progress(done, total)` after every frame; what it raises ends the job.
        options: of `tpc_fast.calibrate`.

    Raises:
        TypeError, ValueError: as `tpc_fast.calibrate`; a message names the argument.
    """
    given = {}
    for name, pose, pictures in (
        ("reference_keypoints", reference_pose, reference), ("driving_keypoints", driving_pose, driving),
    ):  # fmt: skip
        if pose is not None:
            people = whole_body_of(pose, tuple(pictures.shape[1:3]), name)
            given[name] = np.concatenate([people.keypoints, people.scores[..., None]], -1)[:, :, :17]
            if name == "reference_keypoints":
                given[name] = given[name][0]
    if reference_mask is not None:
        given["reference_mask"] = _bits(reference_mask[0])
    if driving_mask is not None:
        given["driving_masks"] = _bits(driving_mask)
    photo = _array(reference[0])
    return calibrate_video(photo, _array(driving), fps=fps, progress=progress, **given, **options)


def rendered(calibration: Calibration, progress: Progress | None = None) -> Calibrated:
    """Renders every frame, one at a time into the batches that are returned."""
    frames, size = len(calibration), calibration.size
    found = Calibrated(*(np.empty((frames, *size, *last), np.float32) for last in ((3,), (), (), (3,))))
    for i in range(frames):
        warped = calibration.render(i, background=0)
        found.image[i] = warped.image[0, 0]
        found.mask[i] = warped.mask[0].max(0)
        found.composite[i] = warped.composite[0]
        found.pose_mask[i] = calibration.pose_masks[i].max(0)
        for batch in found:
            batch[i] /= 255
        if progress is not None:
            progress(i + 1, frames)
    return found


def report(calibration: Calibration) -> str:
    """How far photo and video are apart, person by person, and what to look at."""
    lines = []
    for summary in summarise(calibration):
        lines.append(f"person {summary.person}")
        lines += [f"  {title}: {text}" for title, text in describe(summary).items()]
    return "\n".join([*lines, *(f"look at: {warning}" for warning in calibration.warnings)])


def inspect(calibration: Calibration) -> np.ndarray:
    """A picture [1, 3 h, n w, 3]: frames of the video, the photo laid beside as it is, the photo calibrated to them."""
    wanted = np.unique(np.linspace(0, len(calibration) - 1, _SHOWN).round().astype(int)).tolist()
    try:
        driving = {i: frame for i, frame in enumerate(calibration.driving_frames()) if i in wanted}
    except ValueError:  # a calibration that was loaded has no video: its persons' places are shown
        driving = {i: np.repeat(calibration.pose_masks[i].max(0)[..., None], 3, -1) for i in wanted}
    plain = calibration.reference_canvas.draw(calibration.reference_image)
    columns = [np.concatenate([driving[i], plain, calibration.images[i][0]]) for i in wanted]
    return np.concatenate(columns, 1)[None].astype(np.float32) / 255


def identity_masks(
    calibration: Calibration, purpose: str = "animation", progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The persons of photo and video in the same colours, as WanSCAILToVideo binds them.

    Args:
        calibration: of up to six persons.
        purpose: "animation" (white around the photo's persons, black around the video's: the photo's scene moves) or
            "replacement" (the other way round: the video's scene stays), as core's own node for such masks has it.
        progress: as for `rendered`.

    Returns:
        [1, h, w, 3] of the photo laid on the canvas, and [F, h, w, 3] of the video; who stands in front covers others.

    Raises:
        ValueError: for another purpose, or more persons than colours.
    """
    if purpose not in BACKGROUNDS:
        raise ValueError(f"purpose must be one of {', '.join(BACKGROUNDS)}, but is {purpose!r}")
    if calibration.persons > len(PALETTE):
        raise ValueError(f"calibration must be of at most {len(PALETTE)} persons, but is of {calibration.persons}")
    (still, moving), frames = BACKGROUNDS[purpose], len(calibration)
    canvas = calibration.reference_canvas
    photo = _coloured([canvas.draw(mask) for mask in calibration.reference_mask], calibration.order[0], still)[None]
    video = np.empty((frames, *calibration.size, 3), np.float32)
    for i in range(frames):
        video[i] = _coloured(calibration.pose_masks[i], calibration.order[i], moving)
        if progress is not None:
            progress(i + 1, frames)
    return photo, video


def on_canvas(calibration: Calibration, progress: Progress | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Photo and video as they are, laid on the canvas on which masks and poses are.

    Returns:
        [1, h, w, 3] and [F, h, w, 3].

    Raises:
        ValueError: if the video is not at hand, as after `Calibration.load` of one that came from a batch.
    """
    photo = calibration.reference_canvas.draw(calibration.reference_image)[None].astype(np.float32) / 255
    video = np.empty((len(calibration), *calibration.size, 3), np.float32)
    for i, frame in enumerate(calibration.driving_frames()):
        video[i] = frame
        video[i] /= 255
        if progress is not None:
            progress(i + 1, len(calibration))
    return photo, video


def choices(detector: str | None, match: str | None, depth: str | None) -> dict:
    """Who is looked for, who plays whom, and who stands in front, as people write it, as options of `calibrate`.

    Text that is empty is left to the library.

    Raises:
        ValueError: for a detector that names a file or an address: a workflow is data, a network a program.
    """
    if detector:
        check_plain(detector)
    options = {"detector": detector, "match": match and parse_match(match), "depth": depth and parse_depth(depth)}
    return {name: value for name, value in options.items() if value}


def _coloured(masks, order, ground: int) -> np.ndarray:
    picture = np.full((*masks[0].shape, 3), ground / 255, np.float32)
    for person in order:
        picture[masks[person] >= PERSON] = np.array(PALETTE[person], np.float32) / 255
    return picture


class Retargeted(NamedTuple):
    """Skeletons for other nodes.

    Attributes:
        pose_keypoint: POSE_KEYPOINT.
        posedata: POSEDATA, of the first person.
        picture: [F, h, w, 3], the skeletons drawn.
        photo: [1, h, w, 3], the photo on the same canvas.
        text: what falls outside the picture.
    """

    pose_keypoint: list
    posedata: dict
    picture: np.ndarray
    photo: np.ndarray
    text: str


def retarget(
    calibration: Calibration, pose_keypoint=None, pose_data=None, mode: str = "constant", bounds=BOUNDS,
    reframe: bool = False, progress: Progress | None = None,
) -> Retargeted:  # fmt: skip
    """The driving skeletons with the place and the proportions of the photo's persons.

    Args:
        calibration: of photo and video.
        pose_keypoint: POSE_KEYPOINT of the video that it was made of, with hands and faces.
        pose_data: or its POSEDATA. Without either, the calibration's own bodies are moved.
        mode, bounds, reframe: see `move_skeletons`.
        progress: as for `rendered`.

    Raises:
        ValueError: for both, and as `move_skeletons`.
    """
    if pose_keypoint is not None and pose_data is not None:
        raise ValueError("pose_keypoint must not go with pose_data: give one of them")
    whole, source = None, calibration.canvas.source
    if pose_keypoint is not None:
        whole = whole_body_of(pose_keypoint, source, "pose_keypoint")
    elif pose_data is not None:
        metas = pose_data.get("pose_metas_original") if isinstance(pose_data, dict) else None
        whole = whole_body_of(metas, source, "pose_data")
    moved = move_skeletons(calibration, whole, mode, bounds, reframe)
    frames = len(calibration)
    picture = np.empty((frames, *calibration.size, 3), np.float32)
    for i, drawn in enumerate(pose_frames(moved)):
        picture[i] = drawn
        picture[i] /= 255
        if progress is not None:
            progress(i + 1, frames)
    photo = moved.photo[None].astype(np.float32) / 255
    return Retargeted(openpose_frames(moved.people), _posedata(moved.people), picture, photo, "\n".join(moved.outside))


def _posedata(people: WholeBody) -> dict:
    data = posedata(people)
    return data | {"pose_metas": [PoseMeta.of(meta) for meta in data["pose_metas_original"]]}


class PoseMeta:
    """The fields that nodes which draw POSEDATA read of a frame: points in pixels, [K, 2], and scores, [K]."""

    @classmethod
    def of(cls, meta: dict) -> "PoseMeta":
        found = cls()
        found.width, found.height, found.image_id = meta["width"], meta["height"], ""
        for ours, theirs in (("body", "body"), ("lhand", "left_hand"), ("rhand", "right_hand"), ("face", "face")):
            points = meta[f"keypoints_{theirs}"]
            setattr(found, f"kps_{ours}", points[:, :2] * (found.width, found.height))
            setattr(found, f"kps_{ours}_p", points[:, 2].copy())
        return found


def inside(root, name: str) -> Path:
    """The folder `name` within `root`.

    Raises:
        ValueError: for a name that leads out of it, or to it.
    """
    root = Path(root).resolve()
    path = (root / name).resolve()
    if path == root or not path.is_relative_to(root):
        raise ValueError(f"name must be of a folder within {root}, but is {name!r}")
    return path


def load(root, name: str, *others) -> Calibration:
    """The calibration in the folder `name` within `root`, without a video or photo that lies elsewhere.

    Whoever may put files there could name any video of this machine in calibration.json, and have it shown.

    Args:
        root: ComfyUI's output folder.
        name: the folder in it.
        others: ComfyUI's other folders, whose files it may name.

    Raises:
        ValueError: as `inside` and `Calibration.load`.
    """
    calibration = Calibration.load(inside(root, name))
    allowed = [Path(folder).resolve() for folder in (root, *others)]
    for what in ("reference_path", "driving_path"):
        path = getattr(calibration, what)
        if path is not None and not any(Path(path).resolve().is_relative_to(folder) for folder in allowed):
            setattr(calibration, what, None)
    return calibration


def _array(batch) -> np.ndarray:
    """A NumPy view of a batch on the CPU, without the alpha channel."""
    array = batch.detach().cpu().numpy() if hasattr(batch, "detach") else np.asarray(batch)
    return array[..., :3]


def _bits(mask) -> np.ndarray:
    """A mask of 0..1 as bool."""
    array = mask.detach().cpu().numpy() if hasattr(mask, "detach") else np.asarray(mask)
    return array >= 0.5
