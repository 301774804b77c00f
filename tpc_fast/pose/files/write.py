"""COCO-17 keypoints as files that other programs read: the way back of `formats.py`."""

import json
import os
from pathlib import Path

import numpy as np

from tpc_fast.media.files import whole_file
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.files.detections import Detections
from tpc_fast.pose.files.read import ORDERS

# How many points, and in what kind of file.
FORMATS = {
    "openpose-18": (18, "openpose"),
    "openpose-25": (25, "openpose"),
    "coco-17": (17, "coco"),
    "halpe-26": (26, "coco"),
    "wholebody-133": (133, "coco"),
    "mmpose": (17, "mmpose"),
    "mediapipe": (33, "landmarks"),
    "dwpose": (134, "npz"),
}
# Points between two of COCO's: necks and middles of hips.
_MIDDLES = {
    18: {1: coco.SHOULDERS},
    25: {1: coco.SHOULDERS, 8: coco.HIPS},
    26: {18: coco.SHOULDERS, 19: coco.HIPS},
    134: {1: coco.SHOULDERS},
}


def save_keypoints(
    path: str | os.PathLike,
    keypoints,
    scores=None,
    format: str = "openpose-18",
    size: tuple[int, int] | None = None,
) -> None:
    """Writes keypoints of a video as another program would, whole or not at all; `load_keypoints` reads them back.

    Points that COCO-17 does not have are missing, except necks and middles of the hips, which lie between two.

    Args:
        path: the file, .json (for "dwpose" .npz); one that exists is replaced.
        keypoints: [F, 17, 2] or [F, D, 17, 2], xy in pixels, NaN = missing: a calibration's, or of its `retarget`.
        scores: [F, 17] or [F, D, 17] in 0..1; None for ones.
        format: "openpose-18" or "openpose-25": a list of frames with `people`, as ControlNet's tools exchange it;
            "coco-17", "halpe-26" (AlphaPose) or "wholebody-133": COCO results, image_id counts frames from 0;
            "mmpose": as `MMPoseInferencer` writes it; "mediapipe": 33 landmarks, as shares of the picture; "dwpose":
            `keypoints` [F, D, 134, 3].
        size: (height, width) of the pictures; "mediapipe" needs it, OpenPose's get it as canvas.

    Raises:
        ValueError: for another format or suffix, keypoints or scores that are not as they must be, or a missing size.
        OSError: if it cannot be written.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, but is {format!r}")
    count, kind = FORMATS[format]
    path, suffix = Path(path), ".npz" if kind == "npz" else ".json"
    if path.suffix.lower() != suffix:
        raise ValueError(f"path must end in {suffix} for {format}, but is {str(path)!r}")
    given = Detections.from_arrays(keypoints, scores, size=size)
    if kind == "landmarks" and given.size is None:
        raise ValueError("size must be given for mediapipe, whose points are shares of the picture")
    points = _laid_out(given, count)
    with whole_file(path) as partial, open(partial, "wb") as file:
        if kind == "npz":
            np.savez_compressed(file, keypoints=points)
        else:
            frames = [[person for person in frame if (person[:, 2] > 0).any()] for frame in points]
            file.write(json.dumps(_WRITERS[kind](frames, given.size)).encode())


def _laid_out(given: Detections, count: int) -> np.ndarray:
    """[F, D, count, 3]: x, y, score, all 0 where missing."""
    known = np.concatenate([given.keypoints, given.scores[..., None]], -1).astype(np.float64)
    known[np.isnan(known).any(-1)] = 0
    points = np.zeros((*known.shape[:2], count, 3))
    points[..., ORDERS[count][1], :] = known
    for place, pair in _MIDDLES.get(count, {}).items():
        both = known[..., pair, :]
        middle = np.concatenate([both[..., :2].mean(-2), both[..., 2:].min(-2)], -1)
        points[..., place, :] = np.where(middle[..., 2:] > 0, middle, 0)
    return points


def _flat(person) -> list[float]:
    return person.round(4).ravel().tolist()


def _openpose(frames, size):
    canvas = {} if size is None else {"canvas_height": size[0], "canvas_width": size[1]}
    return [{"people": [{"pose_keypoints_2d": _flat(p)} for p in persons], **canvas} for persons in frames]


def _coco(frames, size):
    return [
        {"image_id": index, "category_id": 1, "keypoints": _flat(p), "score": round(float(p[:, 2].mean()), 4)}
        for index, persons in enumerate(frames)
        for p in persons
    ]


def _mmpose(frames, size):
    return [
        {
            "frame_id": index,
            "instances": [
                {"keypoints": p[:, :2].round(4).tolist(), "keypoint_scores": p[:, 2].round(4).tolist()} for p in persons
            ],
        }
        for index, persons in enumerate(frames)
    ]


def _landmarks(frames, size):
    """Shares of the picture; what is seen has a visibility from a half on, as `load_keypoints` reads it."""
    listed = []
    for persons in frames:
        rows = []
        for p in persons:
            seen = p[:, 2:] > 0
            shares = np.where(seen, (p[:, :2] + 0.5) / size[::-1], 0).round(7).tolist()
            visible = np.where(seen[:, 0], (1 + p[:, 2]) / 2, 0).round(4).tolist()
            rows.append([{"x": x, "y": y, "visibility": v} for (x, y), v in zip(shares, visible, strict=True)])
        listed.append(rows)
    return listed


_WRITERS = {"openpose": _openpose, "coco": _coco, "mmpose": _mmpose, "landmarks": _landmarks}
