"""All files of a calibration: what animation code reads, what can be edited and rendered again, what one looks at."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from tpc_fast.calibration.record import write_arrays, write_json
from tpc_fast.calibration.result import Calibration
from tpc_fast.output.layout import LayoutSink
from tpc_fast.output.pose_video import pose_pictures
from tpc_fast.output.preview import PreviewSink
from tpc_fast.output.render import Workers, render_into
from tpc_fast.output.report import frames_to_show, write_report
from tpc_fast.pose.masks.densepose import is_model

PREVIEW_FILE, REPORT_FILE = "preview.mp4", "report.html"
NO_POSE = "none"


def export(
    calibration: Calibration,
    folder: Path,
    fmt: str = "png",
    preview: bool = True,
    report: bool = True,
    pose: str | os.PathLike | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Renders every frame once into an existing folder: the layout of `write_layout`, preview, report, calibration.

    Args:
        calibration: what to write; its `timings` and `warnings` are completed.
        folder: an existing, empty folder (see `OutputFolder`).
        fmt: "png", "npz" or "mp4".
        preview: whether to write preview.mp4.
        report: whether to write report.html.
        pose: DensePose of the driving video, for pose_video (see `pose_pictures`); "none": the person masks; None: the
            video that was given the time before, or else the person masks.
        progress: called as `progress(done, total)` after every frame.

    Raises:
        OSError: if something cannot be written.
        ValueError: for an unknown format; if the time before a program drew the pose, and none is given now: a file of
            data, which a calibration is, must not name a program to be run.
    """
    started = time.perf_counter()
    if pose == NO_POSE:
        calibration.options.pop("pose", None)
    elif pose is not None:
        calibration.options["pose"] = str(Path(pose).resolve())
    elif is_model(earlier := str(calibration.options.get("pose") or "")):
        raise ValueError(
            f"pose must be given again, since {Path(earlier).name}, which drew it the time before, is a program, and a "
            f"calibration must not name one: --pose FILE, or --pose {NO_POSE} for the person masks"
        )
    pose, notes = calibration.options.get("pose"), []
    if pose is not None and not Path(pose).exists():
        pose, notes = None, [f"the DensePose file {pose} is gone"]
    layout = LayoutSink(calibration, folder, fmt, True if pose is None else pose_pictures(pose, calibration))
    notes += layout.warnings
    calibration.warnings += [note for note in notes if note not in calibration.warnings]
    sinks = [layout]
    seen = None
    if preview or report:
        seen = PreviewSink(calibration, folder / PREVIEW_FILE if preview else None, frames_to_show(calibration))
        sinks.append(seen)
    with Workers(1, 1) as beside:
        beside.submit(write_arrays, calibration, folder)
        render_into(calibration, sinks, progress, None if seen is None else seen.panel_size)
    calibration.timings.pop("total", None)
    calibration.timings["render and write"] = time.perf_counter() - started
    calibration.options["format"] = fmt
    if report:
        write_report(calibration, folder / REPORT_FILE, seen)
    write_json(calibration, folder)
