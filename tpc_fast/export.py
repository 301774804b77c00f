"""All files of a calibration: what animation code reads, what can be edited and rendered again, what one looks at."""

import time
from collections.abc import Callable
from pathlib import Path

from tpc_fast.calibration import Calibration
from tpc_fast.layout import LayoutSink, render_into
from tpc_fast.preview import PreviewSink
from tpc_fast.report import frames_to_show, write_report

PREVIEW_FILE, REPORT_FILE = "preview.mp4", "report.html"


def export(
    calibration: Calibration,
    folder: Path,
    fmt: str = "png",
    preview: bool = True,
    report: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Renders every frame once into an existing folder: the layout of `write_layout`, preview, report, calibration.

    Args:
        calibration: what to write; its `timings` and `warnings` are completed.
        folder: an existing, empty folder (see `OutputFolder`).
        fmt: "png", "npz" or "mp4".
        preview: whether to write preview.mp4.
        report: whether to write report.html.
        progress: called as `progress(done, total)` after every frame.

    Raises:
        OSError: if something cannot be written.
        ValueError: for an unknown format.
    """
    started = time.perf_counter()
    layout = LayoutSink(calibration, folder, fmt)
    sinks = [layout]
    seen = None
    if preview or report:
        seen = PreviewSink(calibration, folder / PREVIEW_FILE if preview else None, frames_to_show(calibration))
        sinks.append(seen)
    render_into(calibration, sinks, progress, None if seen is None else seen.panel_size)
    calibration.timings.pop("total", None)
    calibration.timings["render and write"] = time.perf_counter() - started
    calibration.options["format"] = fmt
    if report:
        write_report(calibration, folder / REPORT_FILE, seen)
    calibration.write(folder)
