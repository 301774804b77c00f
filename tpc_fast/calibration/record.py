"""The record of a calibration: files that a person can read and edit, and that are checked when they are read."""

import json
import re
from pathlib import Path

import numpy as np

from tpc_fast import _checks
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.files import CALIBRATION_FILE, CALIBRATION_FORMAT
from tpc_fast.media.images import load_image
from tpc_fast.media.png import write_png

STATUSES = ("tracked", "fallback", "held", "lost")
DETERMINED = ("scale", "angle", "position")
FORMAT_VERSION = 2
REFERENCE_FILE, MASKS_FILE = "reference.png", "masks.npz"


def write_record(calibration, folder: Path) -> None:
    """Writes the three files of a Calibration into an existing folder."""
    write_png(folder / REFERENCE_FILE, calibration.reference_image)
    np.savez_compressed(
        folder / MASKS_FILE, reference_mask=calibration.reference_mask, pose_masks=calibration.packed_pose_masks
    )
    text = json.dumps(_to_json(calibration), indent=1, allow_nan=False)
    (folder / CALIBRATION_FILE).write_text(_compact(text) + "\n", encoding="utf-8")


def _to_json(calibration) -> dict:
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
        "reference": {"path": calibration.reference_path, "persons": reference},
        "driving": {
            "path": calibration.driving_path,
            "size": list(calibration.canvas.source),
            "box": list(calibration.canvas.box),
            "frame_range": list(calibration.frame_range),
        },
        "cuts": list(calibration.cuts),
        "detector": calibration.detector,
        "device": calibration.device,
        "segmenter": calibration.segmenter,
        "segmenter_device": calibration.segmenter_device,
        "options": calibration.options,
        "timings": {stage: round(seconds, 4) for stage, seconds in calibration.timings.items()},
        "warnings": calibration.warnings,
        "versions": calibration.versions,
        "frames": frames,
    }


def read_record(folder: Path) -> dict:
    """What `write_record` wrote, as the fields of a Calibration.

    Raises:
        FileNotFoundError: if the folder or a file of it is missing.
        ValueError: if a file is not what it should be; says which and why.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        raise FileNotFoundError(f"folder must hold a {CALIBRATION_FILE}, but {folder} does not")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != CALIBRATION_FORMAT:
        raise ValueError(f"{path} is not a calibration of tpc_fast")
    if data.get("format_version") not in (1, FORMAT_VERSION):
        raise ValueError(
            f"{path} has format version {data.get('format_version')}, but 1 to {FORMAT_VERSION} are read here"
        )
    image, _ = load_image(folder / REFERENCE_FILE)
    try:
        with np.load(folder / MASKS_FILE, allow_pickle=False) as masks:
            reference_mask, packed = masks["reference_mask"], masks["pose_masks"]
    except FileNotFoundError:
        raise FileNotFoundError(f"folder must hold {MASKS_FILE}, but {folder} does not") from None
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{folder / MASKS_FILE} cannot be read: {error}") from error
    try:
        return _fields(data, image, reference_mask, packed)
    except (KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is incomplete or wrong: {type(error).__name__}: {error}") from error


def _fields(data, image, reference_mask, packed) -> dict:
    """The fields of a Calibration, from what its files hold; whatever is wrong raises."""
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
    members = np.zeros((len(people), keypoints.shape[-2]), bool)
    for row, person in zip(members, people, strict=True):
        row[person["members"]] = True
    everybody = list(range(persons))
    order = [frame.get("order", everybody) for frame in data["frames"]]
    if wrong := [i for i, row in enumerate(order) if sorted(row) != everybody]:
        raise ValueError(f"order of frame {wrong[0]} must name the {persons} person(s) once: {order[wrong[0]]}")
    height, width = (int(side) for side in data["size"])
    if packed.shape != (frames, persons, (height * width + 7) // 8):
        raise ValueError(f"pose masks {packed.shape} do not fit {frames} frames of {height} x {width}")
    driving = data["driving"]
    start, stop = driving["frame_range"]
    status = named("status", STATUSES)
    matrices = _checks.finite(collect("matrix", np.float32, 2, 3), "matrix")
    if (flat := np.argwhere(abs(np.linalg.det(matrices[..., :2].astype(np.float64))) < 1e-12)).size:
        raise ValueError(f"matrix of frame {flat[0, 0]}, person {flat[0, 1]} must have an inverse")
    return dict(
        size=(height, width),
        fps=float(data["fps"]),
        times=np.array([frame["time"] for frame in data["frames"]], np.float64),
        matrices=matrices,
        raw_matrices=_checks.finite(collect("raw_matrix", np.float32, 2, 3), "raw_matrix"),
        status=status,
        determined=_determined(people, status.reshape(-1)).reshape(frames, persons, len(DETERMINED)),
        swapped=collect("swapped", bool),
        opacity=np.clip(_checks.finite(collect("opacity", np.float32), "opacity"), 0, 1),
        members=members.reshape(frames, persons, -1),
        residual=collect("residual", np.float32),
        keypoints=keypoints.reshape(frames, persons, -1, 2),
        scores=scores.reshape(frames, persons, -1),
        reference_keypoints=reference_keypoints,
        reference_scores=reference_scores,
        reference_image=image,
        reference_mask=reference_mask,
        packed_pose_masks=packed,
        canvas=Canvas((height, width), tuple(driving["size"]), tuple(driving["box"])),
        options=_options(data["options"]),
        timings=dict(data["timings"]),
        warnings=list(data["warnings"]),
        detector=data["detector"],
        versions=dict(data["versions"]),
        reference_path=data["reference"]["path"],
        driving_path=driving["path"],
        frame_range=(start, stop),
        device=data.get("device"),
        segmenter=data.get("segmenter"),
        segmenter_device=data.get("segmenter_device"),
        order=np.array(order, int).reshape(frames, persons),
        cuts=[int(cut) for cut in data.get("cuts", [])],
        match=[int(p.get("driving", i)) for i, p in enumerate(data["reference"]["persons"])],
    )


def _determined(people, status) -> np.ndarray:
    """[n, 3] of the persons of all frames; format 1 had the statuses alone, whose fallbacks determined the position."""
    rows = np.zeros((len(people), len(DETERMINED)), bool)
    for row, person, word in zip(rows, people, status, strict=True):
        if "determined" in person:
            row[[DETERMINED.index(name) for name in person["determined"]]] = True
        else:
            row[:] = word == "tracked", word == "tracked", word in ("tracked", "fallback")
    return rows


def _options(options: dict) -> dict:
    """Options by today's names: `resize` was `fit`, and "stretch" was "squeeze"."""
    if "fit" not in options:
        return dict(options)
    words = {"squeeze": "stretch"}
    return {"resize" if k == "fit" else k: words.get(v, v) if k == "fit" else v for k, v in options.items()}


def _compact(text: str) -> str:
    """Indented JSON with every innermost list, and lists of these, on one line: a matrix is edited more easily."""
    for _ in range(2):
        text = re.sub(
            r"\[\s+((?:[^\[\]{}\"]|\[[^\[\]\n]*\])*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text
        )
    return text


def _number(value) -> float:
    return float(f"{float(value):.9g}")  # nine digits: a float32 survives the round trip


def _numbers(array) -> list:
    return [[_number(x) for x in row] for row in array]


def _keypoints(keypoints, scores) -> list:
    rows = np.concatenate([keypoints, scores[:, None]], -1)
    return [[_number(x) for x in row] if np.isfinite(row).all() else None for row in rows]


def _from_keypoints(people) -> tuple[np.ndarray, np.ndarray]:
    rows = np.array([[[np.nan, np.nan, 0.0] if k is None else k for k in person] for person in people], np.float32)
    rows = rows.reshape(len(people), -1, 3)
    return rows[..., :2], rows[..., 2]
