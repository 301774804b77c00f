"""Whole bodies: COCO-WholeBody's 133 points, and where they are in what other programs write."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tpc_fast.media.files import whole_file
from tpc_fast.media.limits import LIMITS
from tpc_fast.pose import keypoints as coco

COUNT = 133
FEET, FACE, LEFT_HAND, RIGHT_HAND = slice(17, 23), slice(23, 91), slice(91, 112), slice(112, 133)
#: Field of OpenPose's JSON beside the body -> where its points go. Its face has two pupils more; its feet are
#: ControlNet's, as DWPose writes them: big toe, small toe, heel, left then right, as here.
OPENPOSE_PARTS = {
    "face_keypoints_2d": FACE,
    "hand_left_keypoints_2d": LEFT_HAND,
    "hand_right_keypoints_2d": RIGHT_HAND,
    "foot_keypoints_2d": FEET,
}
_OPENPOSE_FACE = 70
# Feet in bodies of other programs: by how many points, (ours, theirs).
_FEET_OF = {
    25: ((17, 19), (18, 20), (19, 21), (20, 22), (21, 23), (22, 24)),  # OpenPose: toes and heel, left then right
    26: ((17, 20), (18, 22), (19, 24), (20, 21), (21, 23), (22, 25)),  # Halpe: big toes, small toes, heels
    33: ((19, 29), (22, 30), (17, 31), (20, 32)),  # MediaPipe: heels, foot indices
}
# OpenPose's 18 by COCO's numbers; None is the neck, between the shoulders.
_OPENPOSE_18 = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
# Where COCO's 17 are in OpenPose's 18.
_BODY_OF_18 = [_OPENPOSE_18.index(k) for k in range(coco.COUNT)]


class WholeBody(NamedTuple):
    """Persons with feet, faces and hands.

    Attributes:
        keypoints: [F, D, 133, 2], xy in pixels, the order of COCO-WholeBody, NaN = missing.
        scores: [F, D, 133] in 0..1, 0 where missing.
        size: (height, width) of the pictures, or None.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    size: tuple[int, int] | None = None

    @classmethod
    def of_bodies(cls, keypoints, scores, size=None) -> "WholeBody":
        """Of [F, D, 17, 2] and [F, D, 17]: nothing else is known."""
        lead = keypoints.shape[:2]
        points = np.full((*lead, COUNT, 2), np.nan)
        points[..., : coco.COUNT, :] = keypoints
        return cls(points, np.concatenate([scores, np.zeros((*lead, COUNT - coco.COUNT))], -1), size)


def of_points(person: np.ndarray, body: np.ndarray) -> np.ndarray:
    """[133, 3] of a person [K, 3] of any known order, whose COCO points are `body` [17, 3]; NaN where it has none."""
    found = np.full((COUNT, 3), np.nan)
    if len(person) == COUNT:
        return person
    found[: coco.COUNT] = body
    if len(person) == COUNT + 1:  # DWPose's, with a neck
        found[coco.COUNT :] = person[coco.COUNT + 1 :]
    for ours, theirs in _FEET_OF.get(len(person), ()):
        found[ours] = person[theirs]
    return found


def laid_out(body: np.ndarray, others: dict, order: list[int]) -> np.ndarray:
    """[133, 3] of OpenPose's parts: a body of 18 or 25, and `OPENPOSE_PARTS`, None where missing."""
    found = of_points(body, body[order])
    for name, places in OPENPOSE_PARTS.items():
        part = others[name]
        if part is not None:
            count = places.stop - places.start
            if len(part) != count and not (places == FACE and len(part) == _OPENPOSE_FACE):
                raise ValueError(f"{name} must be of {count} points, but is of {len(part)}")
            found[places] = part[:count]
    return found


def of_posedata(metas: list):
    """([frame][person] of [133, 3], size) of POSEDATA's `pose_metas_original`: shares of the picture, one person."""
    LIMITS.check("unpacked", len(metas) * COUNT * 3 * 8, "all persons")
    size = None
    frames = []
    for meta in metas:
        size = size or (int(meta["height"]), int(meta["width"]))
        parts = {}
        for name, count in (("body", 20), ("left_hand", 21), ("right_hand", 21), ("face", 69)):
            part = meta.get(f"keypoints_{name}")
            part = np.zeros((count, 3)) if part is None else np.array(part, np.float64)
            if part.shape != (count, 3):
                raise ValueError(f"keypoints_{name} must be [{count}, 3], but is {list(part.shape)}")
            parts[name] = part
        found = np.full((COUNT, 3), np.nan)
        found[: coco.COUNT] = parts["body"][_BODY_OF_18]
        found[17], found[20] = parts["body"][18:]
        found[FACE], found[LEFT_HAND], found[RIGHT_HAND] = parts["face"][1:], parts["left_hand"], parts["right_hand"]
        found[:, :2] = found[:, :2] * (meta["width"], meta["height"]) - 0.5
        found[~(found[:, 2] > 0)] = 0
        frames.append([found])
    return frames, size


def save_openpose(path: str | os.PathLike, people: WholeBody) -> None:
    """Writes a list of frames with `people`, as ControlNet's tools exchange it (POSE_KEYPOINT), with hands and face."""
    _write_json(path, openpose_frames(people))


def openpose_frames(people: WholeBody) -> list[dict]:
    """POSE_KEYPOINT: for each frame `people`, each with body 18, feet 6, face 70 and hands 21, flat, 0 = missing."""
    frames, canvas = [], {"canvas_height": int(people.size[0]), "canvas_width": int(people.size[1])}
    for persons in _triples(people):
        listed = []
        for person in persons:
            if not (person[:, 2] > 0).any():
                continue
            parts = {"pose_keypoints_2d": body_18(person)}
            parts |= {name: person[places] for name, places in OPENPOSE_PARTS.items()}
            parts["face_keypoints_2d"] = np.concatenate([person[FACE], np.zeros((2, 3))])
            listed.append({name: part.round(4).ravel().tolist() for name, part in parts.items()})
        frames.append({"people": listed, **canvas})
    return frames


def save_dwpose(path: str | os.PathLike, people: WholeBody) -> None:
    """Writes `keypoints` [F, D, 134, 3] in DWPose's order, 0 = missing, and `size` into an .npz file."""
    points = _triples(people)
    body = np.stack([[body_18(person) for person in persons] for persons in points])
    with whole_file(Path(path)) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, keypoints=np.concatenate([body, points[..., coco.COUNT :, :]], -2), size=people.size)


def save_posedata(path: str | os.PathLike, people: WholeBody, person: int = 0) -> None:
    """Writes one person as `posedata` gives it into a .json file."""
    _write_json(path, posedata(people, person, list))


def posedata(people: WholeBody, person: int = 0, kind=np.asarray) -> dict:
    """POSEDATA of Wan-Animate's tools: {"pose_metas_original": one a frame}, shares of the picture and a score.

    Each has `width`, `height`, `keypoints_body` [20, 3] (OpenPose's 18 and the big toes), `keypoints_left_hand` and
    `keypoints_right_hand` [21, 3], `keypoints_face` [69, 3] (the last point of the feet before the 68 of the face).
    """
    metas, (height, width) = [], people.size
    for points in _triples(people)[:, person]:
        parts = {
            "body": np.concatenate([body_18(points), points[[17, 20]]]),
            "left_hand": points[LEFT_HAND],
            "right_hand": points[RIGHT_HAND],
            "face": points[FACE.start - 1 : FACE.stop],
        }
        meta = {"width": int(width), "height": int(height)}
        for name, part in parts.items():
            seen = part[:, 2:] > 0
            shares = np.where(seen, (part[:, :2] + 0.5) / (width, height), 0)
            array = np.concatenate([shares, part[:, 2:]], -1).astype(np.float32)
            meta[f"keypoints_{name}"] = array.round(6).tolist() if kind is list else kind(array)
        metas.append(meta)
    return {"pose_metas_original": metas}


def body_18(person: np.ndarray) -> np.ndarray:
    """OpenPose's 18 of a person [K, 3], the neck between the shoulders; 0 = missing."""
    both = person[coco.SHOULDERS]
    neck = np.concatenate([both[:, :2].mean(0), both[:, 2:].min(0)]) if (both[:, 2] > 0).all() else np.zeros(3)
    return np.stack([neck if k is None else person[k] for k in _OPENPOSE_18])


def _triples(people: WholeBody) -> np.ndarray:
    """[F, D, 133, 3]: x, y, score, all 0 where missing."""
    found = np.concatenate([people.keypoints, people.scores[..., None]], -1).astype(np.float64)
    found[np.isnan(found).any(-1) | ~(found[..., 2] > 0)] = 0
    return found


def _write_json(path, data) -> None:
    with whole_file(Path(path)) as partial:
        partial.write_text(json.dumps(data), encoding="utf-8")
