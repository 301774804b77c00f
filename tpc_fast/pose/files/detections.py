"""Detections of a whole video or photo, found or given: checked, kept small, and kept in a file."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tpc_fast._checks import describe, to_numpy
from tpc_fast.media.files import whole_file
from tpc_fast.media.limits import LIMITS
from tpc_fast.media.reading import names_in_npz, read_json, read_npz, reading
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.detection import Detection

_FIELDS = ("keypoints", "scores", "masks", "size", "bits", "fingerprint")
_FORMAT = 1  # of the files; part of the fingerprint


class StaleDetectionsError(ValueError):
    """A file of detections was made from something else than is asked for."""


@dataclasses.dataclass(frozen=True)
class Detections:
    """The persons of F frames; masks are kept as bits and unpacked one frame at a time.

    Attributes:
        keypoints: float32 [F, P, 17, 2], xy in pixels, COCO order, NaN = missing.
        scores: float32 [F, P, 17] in 0..1, 0 where missing.
        size: (height, width) of the frames, or None if unknown.
        bits: uint8 [F, P, ceil(H * W / 8)], the masks as `np.packbits` gives them, or None.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    size: tuple[int, int] | None = None
    bits: np.ndarray | None = None

    @classmethod
    def from_arrays(cls, keypoints, scores=None, masks=None, size=None, frames=None) -> "Detections":
        """Checks and completes arrays that somebody gives.

        Args:
            keypoints: [F, P, 17, 2], [F, 17, 2] or [17, 2], numbers; NaN = missing.
            scores: likewise without the last axis, 0..1; None: 1 where the keypoint is there.
            masks: [F, P, H, W], [F, H, W] or [H, W] (as many leading axes as the keypoints have), bool, or
            uint8 of
                which 128 and more is person.
            size: (height, width) of the frames; needed only if there are no masks to tell.
            frames: how many frames there must be.

        Raises:
            TypeError: something that is not an array of numbers.
            ValueError: shapes that do not fit, infinite keypoints, scores outside 0..1.
        """
        points = to_numpy(keypoints, "keypoints").astype(np.float32)
        if not 2 <= points.ndim <= 4 or points.shape[-2:] != (coco.COUNT, 2):
            raise ValueError(
                "keypoints must be [F, P, 17, 2], [F, 17, 2] or [17, 2] (17 COCO keypoints), but are "
                + describe(keypoints)
            )
        if np.isinf(points).any():
            raise ValueError("keypoints must be finite, or NaN where missing, but some are infinite")
        lead = points.shape[:-2]
        if points.ndim == 4:
            LIMITS.check("persons", lead[1], "keypoints")
        missing = np.isnan(points).any(-1)
        if scores is None:
            values = np.ones(missing.shape, np.float32)
        else:
            values = to_numpy(scores, "scores").astype(np.float32)
            if values.shape != missing.shape:
                wanted = list(missing.shape)
                raise ValueError(f"scores must be {wanted} like the keypoints, but are {describe(scores)}")
            if not ((values[~missing] >= 0) & (values[~missing] <= 1)).all():
                raise ValueError("scores must be in 0..1 where there are keypoints")
        values = np.where(missing, 0, values).astype(np.float32)
        if frames is not None and (lead[0] if lead else 1) != frames:
            raise ValueError(f"keypoints must be given for {frames} frame(s), but are {describe(keypoints)}")
        bits = None
        if masks is not None:
            array = to_numpy(masks, "masks")
            if array.dtype not in (np.uint8, np.bool_):
                raise TypeError(f"masks must be uint8 or bool, but are {describe(masks)}")
            if array.shape[:-2] != lead or array.ndim < 2 or 0 in array.shape[-2:]:
                wanted = ", ".join(map(str, [*lead, "H", "W"]))
                raise ValueError(f"masks must be [{wanted}] like the keypoints, but are {describe(masks)}")
            if size is not None and tuple(size) != array.shape[-2:]:
                raise ValueError(f"masks must have the size {tuple(size)}, but are {describe(masks)}")
            size = array.shape[-2:]
            array = _with_axes(array, 4)
            bits = np.empty((*array.shape[:2], -(-size[0] * size[1] // 8)), np.uint8)
            for packed, frame in zip(bits, array, strict=True):  # one by one, in memory that is used again
                packed[:] = pack_mask(frame)
        if size is not None:
            size = _checked_size(size)
        return cls(_with_axes(points, 4), _with_axes(values, 3), size, bits)

    @classmethod
    def from_frames(
        cls, frames: Sequence[Detection], bits: Sequence[np.ndarray | None], size: tuple[int, int]
    ) -> "Detections":
        """Collects what a tracker found in a video.

        Args:
            frames: one `Detection` a frame; a mask that it still holds is not read.
            bits: for each frame its packed masks [P, ceil(H * W / 8)] (see `pack_mask`), or None if they are
            empty.
            size: (height, width).
        """
        size = _checked_size(size)
        persons = max([1, *(len(d) for d in frames)])
        points = np.full((len(frames), persons, coco.COUNT, 2), np.nan, np.float32)
        scores = np.zeros((len(frames), persons, coco.COUNT), np.float32)
        packed = np.zeros((len(frames), persons, -(-size[0] * size[1] // 8)), np.uint8)
        for f, (detection, row) in enumerate(zip(frames, bits, strict=True)):
            points[f, : len(detection)] = detection.keypoints
            scores[f, : len(detection)] = detection.scores
            if row is not None:
                packed[f, : len(row)] = row
        return cls(points, scores, size, packed)

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.keypoints)

    def __getitem__(self, frame: int) -> Detection:
        """The persons of a frame, its masks unpacked."""
        return Detection(self.keypoints[frame], self.scores[frame], self.mask(frame))

    def mask(self, frame: int) -> np.ndarray | None:
        """uint8 [P, H, W], 0 or 255, or None if there are no masks."""
        return None if self.bits is None else unpack_mask(self.bits[frame], self.size)


def pack_mask(mask: np.ndarray) -> np.ndarray:
    """Masks [..., H, W], bool or uint8 (128 and more is person), as bits [..., ceil(H * W / 8)]."""
    inside = mask if mask.dtype == np.bool_ else mask >= 128
    return np.packbits(inside.reshape(*mask.shape[:-2], mask.shape[-2] * mask.shape[-1]), axis=-1)


def unpack_mask(bits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The inverse of `pack_mask`: uint8 [..., H, W], 0 or 255."""
    flat = np.unpackbits(bits, axis=-1, count=size[0] * size[1])
    np.negative(flat, out=flat)  # 1 becomes 255
    return flat.reshape(*bits.shape[:-1], *size)


def fingerprint(path: str | os.PathLike, detector: str, version: str) -> dict:
    """What a file of detections depends on: the picture or video file, and what looked at it.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    status = os.stat(path)
    return {
        "file": Path(path).name,
        "bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "detector": detector,
        "version": version,
        "format": _FORMAT,
    }


def save_detections(path: str | os.PathLike, detections: Detections, fingerprint: dict | None = None) -> None:
    """Writes detections to a file, whole or not at all: .npz, or .json (then without masks, NaN as null).

    Raises:
        ValueError: another suffix; masks for .json.
    """
    path = Path(path)
    _check_suffix(path)
    if path.suffix.lower() == ".json" and detections.bits is not None:
        raise ValueError(f"path must end in .npz, since there are masks, but is {str(path)!r}")
    with whole_file(path) as partial, open(partial, "wb") as file:
        if path.suffix.lower() == ".json":
            file.write(_to_json(detections, fingerprint).encode())
        else:
            np.savez_compressed(file, **_to_npz(detections, fingerprint))


def load_detections(path: str | os.PathLike, frames: int | None = None, expected: dict | None = None) -> Detections:
    """Reads a file of `save_detections`, or one made by hand with the same names.

    An .npz holds `keypoints` and, if wanted, `scores`, `masks` and `size`; a .json object the same without
    masks. Shapes as in `Detections.from_arrays`.

    Args:
        path: the file, .npz or .json.
        frames: how many frames there must be.
        expected: the `fingerprint` that the file must have.

    Raises:
        FileNotFoundError: if there is no such file.
        StaleDetectionsError: if the fingerprint differs; says in what. Or if the file is damaged and had one.
        FileExistsError: if one is expected, and the file cannot be read or shows none.
        ValueError, TypeError: a file that can't be read or holds something else; says what.
    """
    path = Path(path)
    _check_suffix(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    if not path.is_file():
        raise ValueError(f"path must be a file, but {str(path)!r} is not one")
    try:
        with reading(f"{str(path)!r} can't be read as detections"):
            fields = _read_json(path) if path.suffix.lower() == ".json" else _read_npz(path)
    except ValueError as error:
        if expected is None:
            raise
        if _is_ours(path):
            raise StaleDetectionsError(str(error)) from error
        raise FileExistsError(
            f"{error}; it may not have been kept here, so it is not replaced: choose another"
        ) from None
    if "keypoints" not in fields:
        found = sorted(fields if path.suffix.lower() == ".json" else names_in_npz(path))
        raise ValueError(f"{str(path)!r} must hold 'keypoints', but holds {found or 'nothing'}")
    if expected is not None:
        if "fingerprint" not in fields:
            raise FileExistsError(f"{str(path)!r} is no file that was kept here, so it is not replaced: choose another")
        made = fields.get("fingerprint")
        made = made if isinstance(made, dict) else {}
        wrong = [f"{k} is {made.get(k)!r}, not {v!r}" for k, v in expected.items() if made.get(k) != v]
        if wrong:
            raise StaleDetectionsError(f"{str(path)!r} was made from something else: {'; '.join(wrong)}")
    try:
        loaded = Detections.from_arrays(
            fields["keypoints"], fields.get("scores"), fields.get("masks"), fields.get("size"), frames
        )
        if fields.get("bits") is None:
            return loaded
        if loaded.size is None:
            raise ValueError("size must be given beside bits")
        wanted = (*loaded.scores.shape[:2], -(-loaded.size[0] * loaded.size[1] // 8))
        if fields["bits"].shape != wanted or fields["bits"].dtype != np.uint8:
            raise ValueError(f"bits must be uint8 {list(wanted)}, but are {describe(fields['bits'])}")
        return dataclasses.replace(loaded, bits=fields["bits"])
    except (ValueError, TypeError) as error:
        # With its fingerprint right, the file was written here and then damaged.
        kind = type(error) if expected is None else StaleDetectionsError
        raise kind(f"{str(path)!r}: {error}") from error


def _is_ours(path: Path) -> bool:
    """Whether a damaged file may be replaced: it is empty, or was written here.

    A file that was written here has the name of its fingerprint at its beginning (`_to_npz`) and in the table of
    contents at its end. Damage may have taken one of the two.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(64)
        file.seek(max(0, size - 1024))  # the table of six members, of 46 bytes and a name each
        return size == 0 or b"fingerprint.npy" in head + file.read()


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in (".npz", ".json"):
        raise ValueError(f"path must end in .npz or .json, but is {str(path)!r}")


def _checked_size(size) -> tuple[int, int]:
    array = to_numpy(size, "size")
    if array.shape != (2,) or array.dtype.kind not in "iu" or (array < 1).any():
        raise ValueError(f"size must be (height, width), two positive integers, but is {describe(size)}")
    return int(array[0]), int(array[1])


def _with_axes(array: np.ndarray, ndim: int) -> np.ndarray:
    """Adds the frame axis in front and the person axis behind it, if they are missing."""
    if array.ndim == ndim - 2:
        array = array[None]
    return array[:, None] if array.ndim == ndim - 1 else array


def _to_npz(detections: Detections, made_from: dict | None) -> dict:
    fields = {} if made_from is None else {"fingerprint": np.array(json.dumps(made_from))}  # first, for `_is_ours`
    fields |= {"keypoints": detections.keypoints, "scores": detections.scores}
    if detections.size is not None:
        fields["size"] = np.array(detections.size)
    if detections.bits is not None:
        fields["bits"] = detections.bits
    return fields


def _read_npz(path: Path) -> dict:
    fields = read_npz(path, _FIELDS)
    for name in fields.keys() & {"keypoints", "scores"}:
        LIMITS.check("unpacked", fields[name].size * 8, name)  # as the numbers that they become
    if "fingerprint" in fields:
        fields["fingerprint"] = json.loads(str(fields["fingerprint"]))
    return fields


def _to_json(detections: Detections, made_from: dict | None) -> str:
    points = detections.keypoints.astype(object)
    points[np.isnan(detections.keypoints)] = None
    fields = {"keypoints": points.tolist(), "scores": detections.scores.tolist()}
    if detections.size is not None:
        fields["size"] = list(detections.size)
    if made_from is not None:
        fields["fingerprint"] = made_from
    return json.dumps(fields)


def _read_json(path: Path) -> dict:
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise ValueError("it must hold one object")
    for name in ("keypoints", "scores"):
        if fields.get(name) is not None:
            fields[name] = np.array(fields[name], np.float64)  # null becomes NaN
    fields.pop("bits", None)  # .npz files have these
    return fields
