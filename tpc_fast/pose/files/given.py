"""Keypoints and masks that somebody gives instead of a detector, checked."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from tpc_fast import _checks
from tpc_fast.media.images import load_image
from tpc_fast.media.limits import LIMITS
from tpc_fast.media.reading import names_in_npz, read_npz, reading
from tpc_fast.media.video import VideoReader
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.bones import bones_of, squared_distances
from tpc_fast.pose.detect.detection import Detection
from tpc_fast.pose.files.detections import Detections, pack_mask
from tpc_fast.pose.files.read import load_keypoints

VIDEOS = (".mp4", ".mkv", ".mov", ".avi", ".webm")
_SQUARE = 8  # `split_mask` decides on squares of 64 pixels, then of 8, then on pixels


def given_detections(value, masks, name, size=None) -> Detections:
    """Keypoints that somebody gives, as arrays or a file (which may hold masks), with or without a column of scores.

    Args:
        value: as `calibrate` takes it; files as `load_keypoints` reads them.
        masks: of the same persons, or None.
        name: of the argument, for messages.
        size: (height, width) of the pictures, for files that hold shares of it.
    """
    if isinstance(value, str | os.PathLike):
        loaded = load_keypoints(value, size)
        if masks is None:
            return loaded
        array, scores = loaded.keypoints, loaded.scores
    else:
        array, scores = _checks.to_numpy(value, name), None
        if array.ndim >= 2 and array.shape[-1] == 3:
            array, scores = array[..., :2], array[..., 2]
    from_files = isinstance(masks, str | os.PathLike)
    if from_files:
        bits, size = load_masks(masks)
        masks = None
    if masks is not None and np.ndim(masks) == 3 and array.ndim == 4:  # one person, named only by the keypoints
        masks = np.asarray(masks)[:, None]
    try:
        given = Detections.from_arrays(array, scores, masks)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name}: {error}") from error
    if from_files:
        if len(bits) != len(given) or bits.shape[1] != given.keypoints.shape[1]:
            raise ValueError(
                f"{name.replace('keypoints', 'masks')} must be of {len(given)} frames with {given.keypoints.shape[1]} "
                f"person(s) as the keypoints, but are of {len(bits)} with {bits.shape[1]}"
            )
        given = dataclasses.replace(given, size=size, bits=bits)
    reach = np.nan_to_num(abs(given.keypoints)).max(initial=0)
    if 0 < reach <= 2:
        raise ValueError(f"{name} must be in pixels, but reach only to {reach:.3g}: are they normalised?")
    return given


def load_masks(path: str | os.PathLike) -> tuple[np.ndarray, tuple[int, int]]:
    """Masks of a video from files, white on black.

    Args:
        path: a video or a folder of pictures of one person; a folder with one of these for each person; or an .npz file
            with `masks` [F, H, W] or [F, D, H, W], uint8 or bool.

    Returns:
        Packed masks uint8 [F, D, bytes] as in `Detections`, and (height, width).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError, TypeError: if it holds something else.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    if path.suffix.lower() == ".npz":
        with reading(f"{str(path)!r} can't be read as masks"):
            fields = read_npz(path, ("masks",))
            if "masks" not in fields:
                raise ValueError(f"it must hold 'masks', but holds {names_in_npz(path)}")
            masks = fields["masks"]
        if masks.dtype not in (np.uint8, np.bool_) or masks.ndim not in (3, 4):
            raise ValueError(f"{str(path)!r}: masks must be uint8 or bool [F, (D,) H, W], but are {masks.dtype}")
        if 0 in masks.shape:
            raise ValueError(f"{str(path)!r}: masks must not be empty, but are {list(masks.shape)}")
        masks = masks[:, None] if masks.ndim == 3 else masks
        return pack_mask(masks), masks.shape[-2:]
    parts = [path]
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.is_dir() or p.suffix.lower() in VIDEOS)
        parts = inside or parts
    LIMITS.check("persons", len(parts), str(path))
    persons, sizes, total = [], set(), 0
    for part in parts:
        reader = VideoReader(part)
        persons.append([])
        for frame in reader:
            persons[-1].append(pack_mask(frame.image.max(-1)))
            total += persons[-1][-1].nbytes
            LIMITS.check("unpacked", total, str(path))
        sizes.add(reader.size)
        if len(sizes) > 1 or len(persons[-1]) != len(persons[0]):
            raise ValueError(f"{str(path)!r}: masks must have one size and number of frames, but {part.name} differs")
    return np.stack(persons, 1), sizes.pop()


def given_mask(value, shape) -> np.ndarray:
    """A reference mask that somebody gives -> uint8 [P, H, W]; a folder holds a picture of each person's."""
    if isinstance(value, str | os.PathLike) and os.path.isdir(value):
        pictures = sorted(p for p in Path(value).iterdir() if p.is_file())
        if not pictures:
            raise ValueError(f"reference_mask must be a picture or a folder of them, but {str(value)!r} is empty")
        LIMITS.check("persons", len(pictures), "reference_mask")
        value = np.concatenate([given_mask(picture, shape) for picture in pictures])
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

    The result is exact, though only pixels near the border between two persons are measured one by one. A distance
    changes by no more than the way from one pixel to another. So a whole square belongs to the person to whom its
    centre is nearer by more than the square's diagonal.

    Args:
        mask: coverage.
        keypoints: [P, 17, 2] pixels.
        usable: [P, 17] bool, two or more of each person.
    """
    height, width = mask.shape
    side = _SQUARE**2
    nearest = np.full((-(-height // side), -(-width // side)), -1, np.int8)  # -1: not decided
    bones = [bones_of(points, seen) for points, seen in zip(keypoints.astype(np.float32), usable, strict=True)]
    while True:
        undecided = nearest < 0
        if side == 1:
            nearest, undecided = nearest[:height, :width], undecided[:height, :width] & (mask > 0)
        y, x = np.nonzero(undecided)
        centres = np.stack([x, y], -1).astype(np.float32) * side + np.float32((side - 1) / 2)
        nearest[y, x] = _nearest(centres, bones, np.sqrt(2) * (side - 1))
        if side == 1:
            return np.stack([mask * (nearest == p) for p in range(len(keypoints))])
        side //= _SQUARE
        nearest = nearest.repeat(_SQUARE, 0).repeat(_SQUARE, 1)


def _nearest(places: np.ndarray, bones: list, margin: float) -> np.ndarray:
    """[N], to whose bones each of `places` [N, 2] is nearest; -1 if to no one's by more than `margin`."""
    distances = np.stack([squared_distances(places, person) for person in bones])
    owner = np.argmin(distances, 0)
    if margin and len(bones) > 1:
        first, second = np.sqrt(np.partition(distances, 1, 0)[:2])
        owner[second - first <= margin * 1.001 + 1e-2] = -1  # float32 rounds
    return owner


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
