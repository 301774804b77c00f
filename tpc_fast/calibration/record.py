"""The record of a calibration: files that a person can read and edit, and that are checked when they are read."""

import os
import re
import sys
import zipfile
from pathlib import Path

import numpy as np

from tpc_fast import _checks
from tpc_fast.calibration.kept_masks import KeptMasks
from tpc_fast.calibration.private import PATHS, Private
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.files import CALIBRATION_FILE, CALIBRATION_FORMAT, WRITTEN, listed_files
from tpc_fast.media.images import load_image
from tpc_fast.media.json_text import to_text
from tpc_fast.media.limits import LIMITS
from tpc_fast.media.png import write_png
from tpc_fast.media.reading import read_json, read_npz, reading
from tpc_fast.media.video import MAX_SECONDS
from tpc_fast.ops.warp import MAX_COORDINATE, sane_matrices
from tpc_fast.pose.keypoints import COUNT

STATUSES = ("tracked", "fallback", "held", "lost")
DETERMINED = ("scale", "angle", "position")
FORMAT_VERSION = 2
REFERENCE_FILE, MASKS_FILE = "reference.png", "masks.npz"


def write_record(calibration, folder: Path) -> None:
    """Writes the three files of a Calibration into an existing folder."""
    write_arrays(calibration, folder)
    write_json(calibration, folder)


def write_arrays(calibration, folder: Path) -> None:
    """Writes photo and masks, which rendering changes nothing of."""
    write_png(folder / REFERENCE_FILE, calibration.reference_image)
    write_masks(calibration, folder / MASKS_FILE, fast=True)


def write_json(calibration, folder: Path) -> None:
    """Writes calibration.json, which lists all other files in the folder: it comes last."""
    record = to_json(calibration, folder)
    record[WRITTEN] = listed_files(folder, (CALIBRATION_FILE,))
    (folder / CALIBRATION_FILE).write_text(to_text(record) + "\n", encoding="utf-8")


def write_masks(calibration, path, fast: bool = False) -> None:
    """Writes the masks into an .npz file, a path or open, as `numpy.savez_compressed` does, but frame by frame.

    `fast` takes a tenth of the time, and three tenths more bytes: 1.7 thousand a mask of the sample instead of 1.3.
    """
    from isal import isal_zlib

    poses = calibration.packed_pose_masks
    arrays = {"reference_mask": (calibration.reference_mask.shape, [calibration.reference_mask])}
    arrays["pose_masks"] = poses.shape, poses
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, parts) in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                if fast:  # zipfile knows one compressor only
                    file._compressor = isal_zlib.compressobj(2, isal_zlib.DEFLATED, -15)  # no header
                header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
                np.lib.format.write_array_header_1_0(file, header)
                for part in parts:
                    file.write(np.ascontiguousarray(part))


def to_json(calibration, folder: Path | None) -> dict:
    """What calibration.json holds; files are named relative to the folder, by their names alone if it is None."""
    private = Private(calibration, folder)
    frames = []
    for i, time in enumerate(calibration.times):
        people = []
        for p in range(calibration.persons):
            people.append(
                {
                    "status": str(calibration.status[i, p]),
                    "determined": [DETERMINED[n] for n in np.flatnonzero(calibration.determined[i, p])],
                    "swapped": bool(calibration.swapped[i, p]),
                    "opacity": _number(calibration.opacity[i, p]),
                    "matrix": _numbers(calibration.matrices[i, p]),
                    "raw_matrix": _numbers(calibration.raw_matrices[i, p]),
                    "members": [int(k) for k in np.nonzero(calibration.members[i, p])[0]],
                    "residual": _number(calibration.residual[i, p]),
                    "keypoints": _keypoints(calibration.keypoints[i, p], calibration.scores[i, p]),
                }
            )
        frames.append({"time": float(time), "order": [int(p) for p in calibration.order[i]], "persons": people})
    reference = [
        {"driving": int(d), "keypoints": _keypoints(k, s)}
        for d, k, s in zip(
            calibration.match, calibration.reference_keypoints, calibration.reference_scores, strict=True
        )
    ]
    return {
        "format": CALIBRATION_FORMAT,
        "format_version": FORMAT_VERSION,
        "note": "matrix: native pixels of the reference -> pixels of the canvas, pixel centres at integers; "
        "keypoints: x, y, score (null: missing). `matrix`, `opacity` and `order` (back to front) may be "
        "edited: `tpc-fast render` renders them. The rest is a record.",
        "size": list(calibration.size),
        "fps": calibration.fps,
        "reference": {
            "path": private.path(calibration.reference_path),
            "sha256": calibration.reference_sha256,
            "persons": reference,
        },
        "driving": {
            "path": private.path(calibration.driving_path),
            "size": list(calibration.canvas.source),
            "box": list(calibration.canvas.box),
            "frame_range": list(calibration.frame_range),
        },
        "cuts": list(calibration.cuts),
        "detector": private.text(calibration.detector),
        "device": calibration.device,
        "segmenter": private.text(calibration.segmenter),
        "segmenter_device": calibration.segmenter_device,
        "options": private.options(calibration.options),
        "timings": {stage: round(seconds, 4) for stage, seconds in calibration.timings.items()},
        "warnings": [private.text(warning) for warning in calibration.warnings],
        "versions": calibration.versions,
        "frames": frames,
    }


def read_record(folder: Path, image: np.ndarray | None = None) -> dict:
    """What `write_record` wrote, as the fields of a Calibration.

    Args:
        folder: where it is.
        image: the photo, uint8 [H, W, 3], where it does not lie in the folder.

    Raises:
        FileNotFoundError: if the folder or a file of it is missing.
        ValueError: if a file is not what it should be; says which and why.
    """
    path = folder / CALIBRATION_FILE
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {folder}")
    if not path.is_file():
        raise FileNotFoundError(f"folder must hold a {CALIBRATION_FILE}, but {folder} does not")
    with reading(f"{path} cannot be read"):
        data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != CALIBRATION_FORMAT:
        raise ValueError(f"{path} is not a calibration of tpc_fast")
    if data.get("format_version") not in (1, FORMAT_VERSION):
        raise ValueError(
            f"{path} has format version {data.get('format_version')}, but 1 to {FORMAT_VERSION} are read here"
        )
    if image is None:
        image, _ = load_image(folder / REFERENCE_FILE)
    if not (folder / MASKS_FILE).is_file():
        raise FileNotFoundError(f"folder must hold {MASKS_FILE}, but {folder} does not")
    with reading(f"{folder / MASKS_FILE} cannot be read"):
        masks = read_npz(folder / MASKS_FILE, ("reference_mask", "pose_masks"))
        reference_mask, packed = (_bytes(masks, name) for name in ("reference_mask", "pose_masks"))
    with reading(f"{path} is incomplete or wrong"):
        return _fields(data, image, reference_mask, packed, folder)


def _bytes(masks: dict, name: str) -> np.ndarray:
    if name not in masks or masks[name].dtype != np.uint8 or masks[name].ndim != 3:
        found = _checks.describe(masks[name]) if name in masks else "missing"
        raise ValueError(f"{name} must be uint8 of three axes, but is {found}")
    return masks[name]


def _fields(data, image, reference_mask, packed, folder) -> dict:
    """The fields of a Calibration, from what its files hold; whatever is wrong raises."""
    for name, kind in _KINDS.items():
        if not isinstance(data.get(name), kind):
            raise ValueError(f"{name} must be {_NAMES[kind]}, but is {_checks.describe(data.get(name))}")
    if not data["frames"]:
        raise ValueError("frames must be at least one, but there are none")
    frames, persons = len(data["frames"]), len(data["reference"]["persons"])
    people = [person for frame in data["frames"] for person in frame["persons"]]
    if len(people) != frames * persons or reference_mask.shape != (persons, *image.shape[:2]):
        raise ValueError(f"{frames} frames of {persons} persons and masks {reference_mask.shape} do not fit together")

    def collect(name, dtype, *shape):
        rows = [person[name] for person in people]
        for i, row in enumerate(rows):
            if np.shape(row) != shape:
                raise ValueError(f"{name} of frame {i // persons}, person {i % persons} must be {list(shape)}: {row}")
        return np.array(rows, dtype).reshape(frames, persons, *shape)

    def named(name, allowed):
        values = collect(name, str)
        for (i, p), value in np.ndenumerate(values):
            if value not in allowed:
                raise ValueError(
                    f"{name} of frame {i}, person {p} must be one of {', '.join(allowed)}, but is {value!r}"
                )
        return values

    keypoints, scores = _from_keypoints([person["keypoints"] for person in people])
    reference_keypoints, reference_scores = _from_keypoints([p["keypoints"] for p in data["reference"]["persons"]])
    if keypoints.shape[1:] != (COUNT, 2) or reference_keypoints.shape[1:] != (COUNT, 2):
        raise ValueError(f"keypoints must be {COUNT} for each person")
    members = _members(people, persons)
    height, width = _size(data["size"], "size")
    if packed.shape != (frames, persons, (height * width + 7) // 8):
        raise ValueError(f"pose masks {packed.shape} do not fit {frames} frames of {height} x {width}")
    driving = data["driving"]
    source, box, frame_range = _frames_of(driving, height, width)
    times, fps = _clock(data)
    residual = _checks.finite(collect("residual", np.float32), "residual")
    if (residual < 0).any():
        raise ValueError(f"residual must be at least 0, but is {residual.min()}")
    matrices = {name: _matrices(collect(name, np.float64, 2, 3), name) for name in ("matrix", "raw_matrix")}
    status = named("status", STATUSES)
    return dict(
        size=(height, width),
        fps=fps,
        times=times,
        matrices=matrices["matrix"],
        raw_matrices=matrices["raw_matrix"],
        status=status,
        determined=_determined(people, status.reshape(-1)).reshape(frames, persons, len(DETERMINED)),
        swapped=collect("swapped", bool),
        opacity=np.clip(_checks.finite(collect("opacity", np.float32), "opacity"), 0, 1),
        members=members.reshape(frames, persons, -1),
        residual=residual,
        keypoints=keypoints.reshape(frames, persons, -1, 2),
        scores=scores.reshape(frames, persons, -1),
        reference_keypoints=reference_keypoints,
        reference_scores=reference_scores,
        reference_image=image,
        reference_mask=reference_mask,
        packed_pose_masks=KeptMasks(packed),
        canvas=Canvas((height, width), source, box),
        options=_options(_with_paths(_shallow(data["options"], "options"), folder)),
        timings={stage: _finite(seconds, f"timings of {stage!r}") for stage, seconds in data["timings"].items()},
        warnings=[_text(warning, "warnings") for warning in data["warnings"]],
        detector=_text(data["detector"], "detector"),
        versions=_shallow(data["versions"], "versions"),
        reference_path=_path(data["reference"]["path"], "reference.path", folder),
        reference_sha256=_digest(data["reference"].get("sha256"), "reference.sha256"),
        driving_path=_path(driving["path"], "driving.path", folder),
        frame_range=frame_range,
        device=_text(data.get("device"), "device"),
        segmenter=_text(data.get("segmenter"), "segmenter"),
        segmenter_device=_text(data.get("segmenter_device"), "segmenter_device"),
        order=_order(data, persons).reshape(frames, persons),
        cuts=_cuts(data),
        match=_match(data),
    )


def _order(data: dict, persons: int) -> np.ndarray:
    """[F, P] int, the persons of each frame from back to front."""
    everybody = list(range(persons))
    order = [frame.get("order", everybody) for frame in data["frames"]]
    if wrong := [i for i, row in enumerate(order) if sorted(row) != everybody]:
        raise ValueError(f"order of frame {wrong[0]} must name the {persons} person(s) once: {order[wrong[0]]}")
    return np.array(order, int)


def _cuts(data: dict) -> list[int]:
    cuts, frames = data.get("cuts", []), len(data["frames"])
    cuts = list(_integers(cuts, "cuts", len(cuts) if isinstance(cuts, list) else 0))
    if not all(0 <= cut < frames for cut in cuts):
        raise ValueError(f"cuts must be among the {frames} frames, but are {_checks.describe(cuts)}")
    return cuts


def _match(data: dict) -> list[int]:
    """The driving person of each of the reference's."""
    match = [p.get("driving", i) for i, p in enumerate(data["reference"]["persons"])]
    if not all(type(m) is int for m in match):
        raise ValueError(f"driving of the reference's persons must be numbers, but is {match}")
    return match


def _members(people, persons: int) -> np.ndarray:
    """[n, K] of the persons of all frames."""
    members = np.zeros((len(people), COUNT), bool)
    for i, (row, person) in enumerate(zip(members, people, strict=True)):
        chosen = person["members"]
        if not isinstance(chosen, list) or not all(type(k) is int and 0 <= k < COUNT for k in chosen):
            raise ValueError(
                f"members of frame {i // persons}, person {i % persons} must be numbers of keypoints from 0 to "
                f"{COUNT - 1}, but are {_checks.describe(chosen)}"
            )
        row[chosen] = True
    return members


def _frames_of(driving: dict, height: int, width: int):
    """Size of the driving frames, their box on the canvas, and (first, end) of those that were used."""
    source, box = _size(driving["size"], "driving.size"), _integers(driving["box"], "driving.box", 4)
    if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise ValueError(f"driving.box must be (left, top, right, bottom) on the canvas, but is {list(box)}")
    start, stop = driving["frame_range"]
    numbers = type(start) is int and (stop is None or type(stop) is int)
    if not numbers or not 0 <= start < (start + 1 if stop is None else stop) <= sys.maxsize:
        raise ValueError(f"driving.frame_range must be (first, end or null), but is {driving['frame_range']}")
    return source, box, (start, stop)


def _clock(data: dict) -> tuple[np.ndarray, float]:
    """Times [F] and frames per second."""
    times = np.array([_finite(frame["time"], f"time of frame {i}") for i, frame in enumerate(data["frames"])])
    if (abs(times) > MAX_SECONDS).any():
        raise ValueError(f"times must be at most {MAX_SECONDS:g} seconds, but reach {abs(times).max():g}")
    if (np.diff(times) < 0).any():
        raise ValueError(f"times must not decrease, but do after frame {int((np.diff(times) < 0).argmax())}")
    fps = _finite(data["fps"], "fps")
    if not 0 < fps <= MAX_FPS:
        raise ValueError(f"fps must be above 0 and at most {MAX_FPS}, but is {fps}")
    return times, fps


def _matrices(values: np.ndarray, name: str) -> np.ndarray:
    """Float32 matrices [F, P, 2, 3] that can be rendered."""
    _checks.finite(values, name)
    matrices = values.astype(np.float32)
    if not (good := sane_matrices(matrices.astype(np.float64))).all():
        frame, person = np.argwhere(~good)[0]
        raise ValueError(
            f"{name} of frame {frame}, person {person} must have an inverse, and entries up to {MAX_COORDINATE:g}"
        )
    return matrices


def _determined(people, status) -> np.ndarray:
    """[n, 3] of the persons of all frames; format 1 had the statuses alone, whose fallbacks determined the position."""
    rows = np.zeros((len(people), len(DETERMINED)), bool)
    for row, person, word in zip(rows, people, status, strict=True):
        if "determined" in person:
            row[[DETERMINED.index(name) for name in person["determined"]]] = True
        else:
            row[:] = word == "tracked", word == "tracked", word in ("tracked", "fallback")
    return rows


def _shallow(values: dict, name: str) -> dict:
    """The same, unless it is nested too deeply to be written again."""
    depth, level = 0, [values]
    while level := [
        inner
        for one in level
        for inner in (one.values() if isinstance(one, dict) else one)
        if isinstance(inner, dict | list)
    ]:
        depth += 1
        if depth > _DEPTH:
            raise ValueError(f"{name} must be nested at most {_DEPTH} deep, but are nested deeper")
    return values


def _options(options: dict) -> dict:
    """Options by today's names: `resize` was `fit`, and "stretch" was "squeeze"."""
    if "fit" not in options:
        return dict(options)
    words = {"squeeze": "stretch"}
    return {"resize" if k == "fit" else k: words.get(v, v) if k == "fit" else v for k, v in options.items()}


_KINDS = dict(
    size=list, fps=(int, float), reference=dict, driving=dict, options=dict, timings=dict, warnings=list, versions=dict,
    frames=list,
)  # fmt: skip
_NAMES = {list: "a list", dict: "an object", (int, float): "a number"}
MAX_FPS = 1e6
_DEPTH = 32  # of what is kept as it is; what writes it takes two calls a level, and Python ends at a thousand


def _finite(value, name: str) -> float:
    if not _checks.is_finite(value):
        raise ValueError(f"{name} must be a finite number, but is {_checks.describe(value)}")
    return float(value)


def _integers(values, name: str, count: int) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) != count or not all(type(v) is int for v in values):
        raise ValueError(f"{name} must be {count} integers, but is {_checks.describe(values)}")
    return tuple(values)


def _size(values, name: str) -> tuple[int, int]:
    height, width = _integers(values, name, 2)
    if min(height, width) < 1:
        raise ValueError(f"{name} must be (height, width), each at least 1, but is {values}")
    LIMITS.check("pixels", height * width, name)
    return height, width


def _text(value, name: str) -> str | None:
    if not (value is None or isinstance(value, str)):
        raise ValueError(f"{name} must be text, but is {_checks.describe(value)}")
    return value


def _digest(value, name: str) -> str | None:
    if value is not None and not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
        raise ValueError(f"{name} must be 64 hexadecimal digits or null, but is {_checks.describe(value)}")
    return value


def _path(value, name: str, folder: Path) -> str | None:
    """A file that a record names: relative to the folder that the record lies in; absolute in older ones."""
    text = _text(value, name)
    if text is None:
        return None
    try:
        named = "\0" not in text and os.fsencode(text)
    except UnicodeEncodeError:  # half a character
        named = False
    if named is False:
        raise ValueError(f"{name} must be the name of a file, but is {text!r}")
    return os.path.normpath(os.path.join(os.path.realpath(folder), text))


def _with_paths(options: dict, folder: Path) -> dict:
    _text(options.get("pose"), "options.pose")
    return {
        name: _path(value, f"options.{name}", folder) if name in PATHS and isinstance(value, str) else value
        for name, value in options.items()
    }


def _number(value) -> float:
    return float(f"{float(value):.9g}")  # nine digits: a float32 survives the round trip


def _numbers(array) -> list:
    return [
        [_number(x) for x in row] for row in array.tolist()
    ]  # a list: NumPy's numbers one by one take twice as long


def _keypoints(keypoints, scores) -> list:
    rows = np.concatenate([keypoints, scores[:, None]], -1)
    seen = np.isfinite(rows).all(-1).tolist()
    return [row if one else None for row, one in zip(_numbers(rows), seen, strict=True)]


def _from_keypoints(people) -> tuple[np.ndarray, np.ndarray]:
    rows = np.array([[[np.nan, np.nan, 0.0] if k is None else k for k in person] for person in people], np.float32)
    rows = rows.reshape(len(people), -1, 3)
    if np.isinf(rows).any() or not ((rows[..., 2] >= 0) & (rows[..., 2] <= 1)).all():
        raise ValueError("keypoints must be finite, with scores from 0 to 1")
    return rows[..., :2], rows[..., 2]
