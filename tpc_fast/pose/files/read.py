"""Keypoint files of other programs -> COCO-17: recognised by what is in them, not by their names."""

import contextlib
import os
import re
from pathlib import Path

import numpy as np

from tpc_fast._checks import describe
from tpc_fast.media.files import natural_order
from tpc_fast.media.limits import LIMITS
from tpc_fast.media.reading import names_in_npz, read_json, read_npz, reading
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.files import whole_body
from tpc_fast.pose.files.detections import Detections, load_detections
from tpc_fast.pose.files.whole_body import WholeBody

# Where the 17 COCO keypoints are in other orders, by how many keypoints these have.
_OPENPOSE_18 = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]
ORDERS = {
    17: ("COCO-17", list(range(17))),
    18: ("OpenPose 18", _OPENPOSE_18),
    25: ("OpenPose 25", [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11]),
    26: ("Halpe 26", list(range(17))),
    33: ("MediaPipe 33", coco.OF_MEDIAPIPE),
    133: ("COCO-WholeBody 133", list(range(17))),
    134: ("DWPose 134", _OPENPOSE_18),  # 133 and the neck, in OpenPose's order
}
_FIELDS = ("keypoints", "landmarks", "scores", "size", "bodies", "subset")  # of .npz files
KNOWN = ", ".join(name for name, _ in ORDERS.values())


def load_keypoints(
    path: str | os.PathLike, size: tuple[int, int] | None = None, frames: int | None = None
) -> Detections:
    """Reads keypoints that another program wrote, of one picture or a video.

    Recognised are .json files and folders of one .json a frame:

    - OpenPose: `people` with `pose_keypoints_2d` of 18 or 25 points (a file a frame, or a list of frames; ControlNet's
      with `canvas_width` and `canvas_height` too);
    - COCO results or annotations, and AlphaPose: entries with `image_id` and flat `keypoints` of 17 (COCO), 26 (Halpe)
      or 133 (COCO-WholeBody) points;
    - MMPose: `instances` with `keypoints` and `keypoint_scores` a frame, as `MMPoseInferencer` writes them, with or
      without `meta_info`;
    - POSEDATA of Wan-Animate's tools: `pose_metas_original`, or that list alone, of one person;
    - MediaPipe: frames of 33 landmarks with `x`, `y`, `visibility`;

    and .npz files: this package's own (see `load_detections`), `keypoints` or `landmarks` [F, D, K, 2 or 3] of any of
    these K and 134 (DWPose), and DWPose's `bodies` with `subset` of one picture.

    Args:
        path: the file or folder.
        size: (height, width) of the pictures: needed for points from 0 to 1, where the file does not say it.
        frames: how many there must be, if it is known.

    Returns:
        `Detections`: COCO-17 in pixels, scores in 0..1.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if nothing is recognised; says what was seen instead.
    """
    path = Path(path)
    with _reading(path):
        people, given = _read(path, frames)
        if people is not None:
            points, scores, given = _collect(people, size, given, frames, coco.COUNT)
            return Detections.from_arrays(points, scores, size=given)
    return load_detections(path, frames)


def load_whole_body(
    path: str | os.PathLike, size: tuple[int, int] | None = None, frames: int | None = None
) -> WholeBody:
    """Reads keypoints as `load_keypoints` does, with the feet, faces and hands that the file has.

    Args:
        path, size, frames: see `load_keypoints`.

    Returns:
        `WholeBody`: COCO-WholeBody 133 in pixels, NaN where the file has nothing.

    Raises:
        FileNotFoundError, ValueError: see `load_keypoints`.
    """
    path = Path(path)
    with _reading(path):
        people, given = _read(path, frames)
        if people is not None:
            return WholeBody(*_collect(people, size, given, frames, whole_body.COUNT))
    found = load_detections(path, frames)
    return WholeBody.of_bodies(found.keypoints, found.scores, found.size)


def whole_body_of(frames: list, size: tuple[int, int] | None = None, name: str = "keypoints") -> WholeBody:
    """The persons of what other programs hand over in memory.

    Args:
        frames: POSE_KEYPOINT, a list of OpenPose's frames with `people`, or `pose_metas_original` of POSEDATA.
        size: see `load_keypoints`.
        name: of the argument, for messages.

    Raises:
        ValueError: for something else.
    """
    with reading(f"{name} can't be read as keypoints"):
        if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
            raise ValueError(f"it must be a list of one object a frame, but is {_what(frames)}")
        if "keypoints_body" in frames[0]:
            people, given = whole_body.of_posedata(frames)
        elif "people" in frames[0]:
            people, given = _openpose_frames(frames), _canvas(frames[0])
        else:
            raise ValueError(f"its frames must have `people` or `keypoints_body`, but it is {_what(frames)}")
        return WholeBody(*_collect(people, size, given, None, whole_body.COUNT))


@contextlib.contextmanager
def _reading(path: Path):
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    with reading(f"{str(path)!r} can't be read as keypoints"):
        yield


def _read(path: Path, frames):
    """([frame][person] of [K, 3], the size that the file gives); (None, None) for our own format."""
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() == ".npz":
        return _read_npz(path, frames)
    if path.suffix.lower() == ".json":
        return _read_json(path, frames)
    raise ValueError("it must be a folder, or end in .npz or .json")


def _read_folder(path: Path):
    files = sorted(path.glob("*.json"), key=natural_order)
    LIMITS.check("frames", len(files), path.name)
    if not files:
        seen = sorted(file.name for file in path.iterdir())[:3]
        raise ValueError(f"the folder holds no .json file, but {', '.join(seen) or 'nothing'}")
    frames, size = [], None
    for file in files:
        data = read_json(file)
        if not (isinstance(data, dict) and isinstance(data.get("people"), list)):
            raise ValueError(f"{file.name} must be one frame of OpenPose with `people`, but has {_what(data)}")
        frames.append(_openpose(data))
        size = size or _canvas(data)
    return frames, size


def _read_json(path: Path, frames):
    """([frame][person] of [K, 3], the size that the file gives); (None, None) for our own format."""
    data = read_json(path)
    if isinstance(data, dict):
        if "people" in data:
            return _openpose_frames([data]), _canvas(data)
        if isinstance(data.get("annotations"), list):
            names = [image["id"] for image in data.get("images", [])]
            return _by_image(data["annotations"], names or None, frames), None
        if isinstance(data.get("pose_metas_original"), list):
            return whole_body.of_posedata(data["pose_metas_original"])
        if isinstance(data.get("instance_info"), list):
            data = data["instance_info"]
        elif "keypoints" in data and "image_id" not in data:
            return None, None
    if isinstance(data, list) and data:
        first = next((entry for entry in data if entry), None)
        if isinstance(first, dict):
            if "people" in first:
                return _openpose_frames(data), _canvas(first)
            if "keypoints_body" in first:
                return whole_body.of_posedata(data)
            if "instances" in first:
                return [[_instance(one) for one in frame["instances"]] for frame in data], None
            if "keypoint_scores" in first:
                return [[_instance(one) for one in data]], None
            if "image_id" in first and "keypoints" in first:
                return _by_image(data, None, frames), None
        landmarks = _landmarks(data)
        if landmarks is not None:
            return landmarks, None
    raise ValueError(f"it holds {_what(data)}; known are {KNOWN} of OpenPose, COCO, AlphaPose, MMPose, MediaPipe")


def _what(data) -> str:
    if isinstance(data, dict):
        return f"an object with {', '.join(map(repr, list(data)[:6])) or 'nothing'}"
    if isinstance(data, list):
        return f"a list of {len(data)}" + (f", each {_what(data[0])}" if data else "")
    return repr(data)[:40]


def _openpose_frames(frames: list) -> list:
    """[frame][person] of [K, 3]; counted first, as every person takes as much as a whole body."""
    LIMITS.check("unpacked", sum(len(frame["people"]) for frame in frames) * whole_body.COUNT * 3 * 8, "all persons")
    return [_openpose(frame) for frame in frames]


def _openpose(frame: dict) -> list:
    people = []
    for person in frame["people"]:
        body = _triples(person.get("pose_keypoints_2d") or [], "pose_keypoints_2d")
        others = {name: _triples(person.get(name) or [], name) for name in whole_body.OPENPOSE_PARTS}
        if body is not None and len(body) in (18, 25):
            body = whole_body.laid_out(body, others, ORDERS[len(body)][1])
        people.append(body)
    return people


def _canvas(data: dict):
    sides = data.get("canvas_height"), data.get("canvas_width")
    return None if None in sides else (int(sides[0]), int(sides[1]))


def _triples(values, name) -> np.ndarray | None:
    """[K, 3] x, y, score of a flat list; None for an empty one."""
    array = np.array([np.nan if v is None else v for v in values], np.float64)
    if array.ndim != 1 or len(array) % 3:
        raise ValueError(f"{name} must be x, y, score of each point, but has {array.size} numbers")
    return array.reshape(-1, 3) if len(array) else None


def _instance(one: dict) -> np.ndarray:
    points = np.array(one["keypoints"], np.float64).reshape(-1, 2)
    scores = np.array(one.get("keypoint_scores", np.ones(len(points))), np.float64).reshape(-1)
    if len(scores) != len(points):
        raise ValueError(f"an instance has {len(points)} keypoints and {len(scores)} keypoint_scores")
    return np.column_stack([points, scores])


def _by_image(entries, names, frames) -> list:
    """The entries of each frame. Where no list of pictures is at hand, numbers in the picture's names count frames."""
    if names is None:
        names = sorted({entry["image_id"] for entry in entries}, key=lambda n: (_number(n) is None, _number(n), str(n)))
        numbers = [_number(name) for name in names]
        if None not in numbers and names:
            first = int(numbers[0] > 0 if frames is None else numbers[-1] >= frames)  # they count from 0 or 1
            if 0 <= numbers[0] - first and numbers[-1] - first < (frames or 2 * len(names) + 10):
                by_number = dict(zip(numbers, names, strict=True))
                count = frames or numbers[-1] - first + 1
                LIMITS.check("frames", count, "a file of keypoints")
                names = [by_number.get(n, ("nobody", n)) for n in range(first, first + count)]
    people = {name: [] for name in names}
    for entry in entries:
        if entry.get("image_id") not in people:
            raise ValueError(f"image_id {entry.get('image_id')!r} is of no picture")
        points = _triples(entry.get("keypoints") or [], "keypoints")
        if points is not None:
            marks = points[:, 2]
            if np.isin(marks, (0, 1, 2)).all() and (marks == 2).any():  # COCO's marks: missing, hidden, visible
                points[:, 2] /= 2
        people[entry["image_id"]].append(points)
    return list(people.values())


def _number(name) -> int | None:
    digits = re.findall(r"\d+", Path(str(name)).stem)
    return int(digits[-1]) if digits else None


def _landmarks(data) -> list | None:
    """MediaPipe's landmarks, frame by frame: of one person (33 objects), or of a list of persons."""

    def points(person):
        if not (isinstance(person, list) and person and all(isinstance(p, dict) and "x" in p for p in person)):
            return None
        return np.array([(p["x"], p["y"], p.get("visibility", 1.0)) for p in person], np.float64)

    frames = []
    if points(data) is not None:
        data = [data]
    for frame in data:
        if isinstance(frame, dict):
            frame = next((frame[k] for k in ("pose_landmarks", "poseLandmarks", "landmarks") if k in frame), frame)
        if frame is None or frame == []:
            frames.append([])
            continue
        one = points(frame)
        persons = [one] if one is not None else [points(p) for p in frame] if isinstance(frame, list) else [None]
        if any(p is None for p in persons):
            return None
        frames.append(persons)
    return frames


def _read_npz(path: Path, frames):
    fields = read_npz(path, _FIELDS)
    size = tuple(int(n) for n in fields["size"]) if "size" in fields else None
    if "bodies" in fields and "subset" in fields:  # DWPose: all points of all persons, and who has which
        bodies, subset = fields["bodies"].reshape(-1, fields["bodies"].shape[-1]), fields["subset"]
        LIMITS.check("persons", len(subset), "subset")
        people = []
        for row in subset[:, :18].astype(int):
            points = np.full((18, 3), np.nan)
            points[row >= 0, :2] = bodies[row[row >= 0], :2]
            points[:, 2] = row >= 0
            people.append(points)
        return [people], size
    name = next((name for name in ("keypoints", "landmarks") if name in fields), None)
    if name is None:
        found = ", ".join(names_in_npz(path)) or "nothing"
        raise ValueError(f"it must hold `keypoints`, `landmarks`, or `bodies` and `subset`, but has {found}")
    LIMITS.check("unpacked", fields[name].size * 8, name)  # as the numbers that they become
    points = fields[name].astype(np.float64)
    if points.ndim >= 2 and points.shape[-2:] == (coco.COUNT, 2):
        return None, None
    if not 2 <= points.ndim <= 4 or points.shape[-1] < 2:
        raise ValueError(f"{name} must be [F, D, K, 2 or 3], but is {describe(fields[name])}")
    scores = fields.get("scores")
    if scores is None and points.shape[-1] > 2:
        column = points[..., 2 if points.shape[-1] == 3 else 3]  # x, y, score; or MediaPipe's x, y, z, visibility
        scores = column if (np.nan_to_num(column) >= 0).all() and np.nanmax(column, initial=0) <= 1 else None  # or z
    if scores is None:
        scores = np.ones(points.shape[:-1])
    points = np.concatenate([points[..., :2], np.asarray(scores, np.float64).reshape(*points.shape[:-1], 1)], -1)
    points = points[None, None] if points.ndim == 2 else points[:, None] if points.ndim == 3 else points
    return [list(frame) for frame in points], size


def _collect(people: list, size, given_size, frames, count: int):
    """[frame][person] of [K, 3] (None: nobody) -> [F, D, count, 2] in pixels, scores, the size that the file says.

    `size` is that of the pictures, if it is known; a file of another canvas is scaled to it.
    """
    if frames is not None and len(people) != frames:
        raise ValueError(f"it must be of {frames} frame(s), but is of {len(people)}")
    counts = {len(points) for frame in people for points in frame if points is not None}
    if len(counts) > 1 or counts - set(ORDERS):
        raise ValueError(f"its persons have {' or '.join(map(str, sorted(counts)))} points; known are {KNOWN}")
    order = ORDERS[counts.pop()] if counts else ORDERS[coco.COUNT]
    persons = max([1, *(len(frame) for frame in people)])
    LIMITS.check("frames", len(people), "a file of keypoints")
    LIMITS.check("persons", persons, "a frame of keypoints")
    LIMITS.check("unpacked", len(people) * persons * count * 3 * 8, "the array of all keypoints")
    points = np.full((len(people), persons, count, 3), np.nan)
    for f, frame in enumerate(people):
        for d, person in enumerate(frame):
            if person is not None:
                body = person[order[1]]
                points[f, d] = body if count == coco.COUNT else whole_body.of_points(person, body)
    keypoints, scores = points[..., :2], points[..., 2]
    if order[0] == "MediaPipe 33":
        scores = 2 * scores - 1  # guessed limbs have a visibility of up to 0.8, what is seen has more than 0.95
    scores = np.clip(np.nan_to_num(scores), 0, 1)
    keypoints[(scores == 0) & (keypoints == 0).all(-1)] = np.nan  # how a missing point is written
    reach = np.nanmax(abs(keypoints), initial=0)
    if 0 < reach <= 2:
        own = size if given_size is None else given_size
        if own is None:
            raise ValueError(
                f"its points reach from 0 to {reach:.3g}, so they are shares of a picture whose size must be given"
            )
        keypoints = keypoints * (own[1], own[0]) - 0.5
    if None not in (size, given_size) and tuple(size) != tuple(given_size):
        keypoints = (keypoints + 0.5) * (size[1] / given_size[1], size[0] / given_size[0]) - 0.5
        given_size = tuple(size)
    return keypoints, np.where(np.isnan(keypoints).any(-1), 0, scores), given_size
