"""One row of a data set: a photo and a video in, a calibration with its quality out. It never raises."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tpc_fast.calibration.packed import pack, unpack
from tpc_fast.calibration.result import Calibration
from tpc_fast.calibration.summary import summarise
from tpc_fast.calibration.video import calibrate
from tpc_fast.evaluation.track_measures import area_jumps
from tpc_fast.media.fetch import fetched, is_address
from tpc_fast.media.images import load_image

OK, FAILED = "ok", "failed"
GIVEN = ("reference_keypoints", "reference_mask", "driving_keypoints", "driving_masks")
#: The columns that name files: those, and for `AnimateRow` what the model follows.
FILES = ("reference", "driving", *GIVEN, "pose", "face")
#: Options that a row may bring, as JSON in its column `options`. None of them names a program or a network.
ROW_OPTIONS = ("size", "resize", "subset", "smooth", "motion", "match", "depth", "score_threshold", "frames")
#: What a row gets: name -> (type, meaning). Figures are of the first person; NaN where nothing tells.
RESULTS = {
    "status": (str, '"ok" or "failed"'),
    "error": (str, "why it failed, in one line; empty"),
    "frames": (int, "of the video that were used"),
    "persons": (int, "of the photo"),
    "tracked": (float, "share of frames and persons whose own keypoints determine scale, angle and position"),
    "head": (float, "95th percentile of the offset of the head, in head sizes"),
    "torso": (float, "95th percentile of the offset of the torso, in head sizes"),
    "scale": (float, "median, canvas pixels per photo pixel"),
    "scale_range": (float, "largest over smallest scale"),
    "angle": (float, "median, degrees, clockwise"),
    "mask_jumps": (float, "share of frames whose pose mask's area differs by more than a quarter from the one before"),
    "seconds": (float, "that it took"),
    "record": (bytes, "the calibration, see `calibration_of`"),
}


def calibrate_row(row: Mapping, detector=None, within=None, **options) -> dict:
    """Calibrates one row.

    Args:
        row: `reference` and `driving`, paths or addresses; optional `reference_keypoints`, `reference_mask`,
            `driving_keypoints`, `driving_masks`, paths; and `options`, a JSON object of some of `ROW_OPTIONS`
            (`frames` as [first, end]). Other columns are handed on.
        detector: see `Calibrator`; one that is made once, for many rows, saves seconds a row.
        within: a folder, for rows of strangers: one that names an address, or a file elsewhere, fails. None: rows may
            name what a command line may.
        options: of `tpc_fast.calibrate`, for all rows; a row's own win.

    Returns:
        The row with the columns of `RESULTS`. A row that fails has its `error`, and no `record`.
    """
    started = time.perf_counter()
    try:
        result = {**row, "status": OK, "error": "", **_measured(_calibrate(row, detector, within, options))}
    except Exception as error:
        result = failed_row(row, error)
    return result | {"seconds": time.perf_counter() - started}


def failed_row(row: Mapping, error: BaseException) -> dict:
    """What a row becomes that failed."""
    nothing = dict.fromkeys(RESULTS) | {name: np.nan for name, (kind, _) in RESULTS.items() if kind is float}
    return {**row, **nothing, "status": FAILED, "error": one_line(error), "frames": 0, "persons": 0, "seconds": 0.0}


def one_line(error: BaseException) -> str:
    """An error's kind and words, without line breaks, and with nothing that a table cannot hold."""
    return " ".join(f"{type(error).__name__}: {error}".split()).encode("utf-8", "backslashreplace").decode()


def calibration_of(row: Mapping, within=None) -> Calibration:
    """The calibration of a row that is "ok"; the photo is read again, and the video when its frames are wanted.

    Args:
        row: of a table.
        within: see `calibrate_row`.

    Raises:
        ValueError: if the row failed, its record or photo is not what it was, or its files are not `within`.
        FileNotFoundError: if the photo is gone.
    """
    if not row.get("record"):
        raise ValueError(f"row has no record: {row.get('error') or 'it was not calibrated'}")
    _check_within(row, within)
    image, _ = load_image(fetched(row["reference"], "reference"))
    driving = None if is_address(row["driving"]) else row["driving"]
    return unpack(row["record"], image, driving)


def _check_within(row: Mapping, folder) -> None:
    if folder is None:
        return
    root = Path(folder).resolve()
    for name in FILES:
        value = row.get(name)
        if not isinstance(value, str) or not value:
            continue
        if is_address(value) or not Path(value).resolve().is_relative_to(root):
            raise ValueError(f"{name} must lie within {root}, but is {value}")
        for link in _links(value):
            if not link.resolve().is_relative_to(root):
                raise ValueError(f"{name} must lie within {root}, but {link} leads out of it")


def _links(folder: str) -> Iterator[Path]:
    """What in a folder lies elsewhere: links, which archives of strangers may hold."""
    for place, folders, files in os.walk(folder):
        for path in (os.path.join(place, name) for name in (*folders, *files)):
            if os.path.islink(path):
                yield Path(path)


def _calibrate(row: Mapping, detector, within, options: dict) -> Calibration:
    for name in ("reference", "driving"):
        if not row.get(name):
            raise ValueError(f"{name} must be a path or URL, but is {row.get(name)!r}")
    _check_within(row, within)
    own = _own_options(row.get("options"))
    given = {name: row[name] for name in GIVEN if row.get(name)}
    return calibrate(row["reference"], row["driving"], detector=detector, **{**options, **own, **given})


def _own_options(text) -> dict:
    if not text:
        return {}
    own = json.loads(text) if isinstance(text, str) else text
    if not isinstance(own, Mapping) or (unknown := sorted(set(own) - set(ROW_OPTIONS))):
        what = f"has {', '.join(unknown)}" if isinstance(own, Mapping) else f"is {text!r}"
        raise ValueError(f"options must be an object of some of {', '.join(ROW_OPTIONS)}, but {what}")
    own = dict(own)
    if own.get("frames") is not None:
        own["frames"] = slice(*own["frames"])
    if isinstance(own.get("size"), list):
        own["size"] = tuple(own["size"])
    return own


def _measured(calibration: Calibration) -> dict:
    first = summarise(calibration)[0]
    return {
        "frames": len(calibration),
        "persons": calibration.persons,
        "tracked": float((calibration.status == "tracked").mean()),
        "head": first.head[1],
        "torso": first.torso[1],
        "scale": first.scale[1],
        "scale_range": first.scale[2] / first.scale[0],
        "angle": first.angle[1],
        "mask_jumps": area_jumps(masks[0] for masks in calibration.pose_masks),
        "record": pack(calibration),
    }
