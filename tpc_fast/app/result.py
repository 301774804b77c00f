"""What the page shows of a calibration that is done."""

import functools
from pathlib import Path

import numpy as np

from tpc_fast.app.request import Request
from tpc_fast.app.work import ARCHIVE, OUT, REQUEST_FILE
from tpc_fast.calibration.result import Calibration
from tpc_fast.calibration.summary import describe, summarise
from tpc_fast.media.files import CALIBRATION_FILE
from tpc_fast.media.video import VideoReader
from tpc_fast.output.export import PREVIEW_FILE, REPORT_FILE
from tpc_fast.output.html import escape, pairs_table
from tpc_fast.output.preview import person_colour


def files(folder: Path) -> list[Path]:
    """What a visitor may take along: everything packed, and the files that one looks at."""
    out = folder / OUT
    wanted = [folder / ARCHIVE, out / PREVIEW_FILE, out / REPORT_FILE, out / CALIBRATION_FILE]
    return [path for path in wanted if path.exists()]


def preview(folder: Path) -> Path:
    """The video to watch."""
    return folder / OUT / PREVIEW_FILE


def report(folder: Path) -> Path:
    """The report, a page of its own."""
    return folder / OUT / REPORT_FILE


def load(folder: Path) -> Calibration:
    """The calibration in a job's folder, with its driving video."""
    return _load(folder, _made(folder))


def _made(folder: Path) -> int:
    """Tells a calibration from the one before in the same folder."""
    return (folder / OUT / CALIBRATION_FILE).stat().st_mtime_ns


@functools.lru_cache(maxsize=2)
def _load(folder: Path, made: int) -> Calibration:
    calibration = Calibration.load(folder / OUT)
    calibration.driving_path = str(folder / Request.read(folder / REQUEST_FILE).video)  # the record names no folder
    return calibration


def compare(folder: Path, frame: int) -> tuple[Path, Path]:
    """Pictures of one frame: of the video, and with the photo's persons in it; in files.

    Args:
        folder: of the job.
        frame: from 0; beyond the ends it is the nearest.
    """
    from PIL import Image

    calibration = load(folder)
    frame = int(np.clip(frame, 0, len(calibration) - 1))
    start = calibration.frame_range[0] + frame
    reader = VideoReader(calibration.driving_path, frames=slice(start, start + 1))
    before = calibration.canvas.draw(next(iter(reader)).image)
    after = calibration.render(frame, background=before).composite[0]
    made = _made(folder)
    paths = []
    for name, picture in (("before", before), ("after", after)):
        path = folder / f"{name}-{frame}-{made}.jpg"
        if not path.exists():
            Image.fromarray(picture).save(path, "JPEG", quality=95, subsampling=0)
        paths.append(path)
    return paths[0], paths[1]


def summary(calibration: Calibration) -> str:
    """How well it went, as HTML: a sentence, what to look at, and a table for each person."""
    frames = len(calibration)
    tracked = int((calibration.status == "tracked").all(1).sum())
    good = tracked >= 0.9 * frames
    verdict = f"{tracked} of {frames} frames tracked"
    lines = [f'<p class="tpc-verdict {"good" if good else "look"}">{verdict}</p>']
    if calibration.warnings:
        items = "".join(f"<li>{escape(warning)}</li>" for warning in calibration.warnings)
        lines.append(f'<details class="tpc-warnings"><summary>Worth a look: {len(calibration.warnings)}</summary>'
                     f"<ul>{items}</ul></details>")  # fmt: skip
    for one in summarise(calibration):
        colour = "rgb({}, {}, {})".format(*person_colour(one.person))
        name = f'<i style="background:{colour}"></i> Person {one.person}'
        lines.append(f'<details class="tpc-person"><summary>{name}</summary>{pairs_table(describe(one))}</details>')
    return "".join(lines)
