"""Keypoints and masks that somebody gives instead of a detector, checked."""

import os

import numpy as np

from tpc_fast import _checks
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detection import Detection
from tpc_fast.pose.storage import Detections, load_detections
from tpc_fast.video import load_image


def given_detections(value, masks, name) -> Detections:
    """Keypoints that somebody gives, as arrays or a file (which may hold masks), with or without a column of scores."""
    if isinstance(value, str | os.PathLike):
        loaded = load_detections(value)
        if masks is None:
            return loaded
        array, scores = loaded.keypoints, loaded.scores
    else:
        array, scores = _checks.to_numpy(value, name), None
        if array.ndim >= 2 and array.shape[-1] == 3:
            array, scores = array[..., :2], array[..., 2]
    if masks is not None and np.ndim(masks) == 3 and array.ndim == 4:  # one person, named only by the keypoints
        masks = np.asarray(masks)[:, None]
    try:
        given = Detections.from_arrays(array, scores, masks)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name}: {error}") from error
    reach = np.nan_to_num(abs(given.keypoints)).max(initial=0)
    if 0 < reach <= 2:
        raise ValueError(f"{name} must be in pixels, but reach only to {reach:.3g}: are they normalised?")
    return given


def given_mask(value, shape) -> np.ndarray:
    """A reference mask that somebody gives -> uint8 [P, H, W]."""
    if isinstance(value, str | os.PathLike):
        value = load_image(value, "reference_mask")[0].max(-1)
    array = _checks.to_numpy(value, "reference_mask")
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    if array.dtype != np.uint8:
        raise TypeError(f"reference_mask must be uint8 or bool, but is {_checks.describe(value)}")
    if array.ndim not in (2, 3) or array.shape[-2:] != shape:
        raise ValueError(
            f"reference_mask must be [H, W] or [P, H, W] with H, W = {shape}, but is {_checks.describe(value)}"
        )
    return array.reshape(-1, *shape)


def split_mask(mask: np.ndarray, keypoints: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """One mask uint8 [H, W] of several persons -> [P, H, W]: every pixel goes to the person whose bones are nearest.

    Args:
        mask: coverage.
        keypoints: [P, 17, 2] pixels.
        usable: [P, 17] bool, two or more of each person.
    """
    y, x = np.nonzero(mask)
    pixels = np.stack([x, y], -1).astype(np.float32)
    distances = []
    for points, seen in zip(keypoints.astype(np.float32), usable, strict=True):
        nearest = np.full(len(pixels), np.inf, np.float32)
        bones = [bone for bone in coco.BONES if seen[list(bone)].all()]
        for a, b in [*bones, *((k, k) for k in np.flatnonzero(seen))]:
            along = points[b] - points[a]
            share = np.clip((pixels - points[a]) @ along / max(along @ along, 1e-6), 0, 1)
            np.minimum(nearest, ((pixels - points[a] - share[:, None] * along) ** 2).sum(-1), out=nearest)
        distances.append(nearest)
    masks = np.zeros((len(keypoints), *mask.shape), np.uint8)
    masks[np.argmin(distances, 0), y, x] = mask[y, x]
    return masks


def check_detection(detection: Detection, size: tuple[int, int]) -> None:
    """Raises ValueError for a detection that does not describe one picture of `size`."""
    keypoints, scores, mask = detection.keypoints, detection.scores, detection.mask
    persons = len(keypoints)
    if np.shape(keypoints) != (persons, coco.COUNT, 2) or np.shape(scores) != (persons, coco.COUNT):
        raise ValueError(
            f"detection must have keypoints [P, 17, 2] and scores [P, 17], but has {np.shape(keypoints)} and "
            f"{np.shape(scores)}"
        )
    if mask is not None and (np.shape(mask) != (persons, *size) or mask.dtype != np.uint8):
        raise ValueError(f"detection must have a uint8 mask {(persons, *size)}, but has {_checks.describe(mask)}")
