"""A whole table through Ray Data, on this machine or a cluster; goes on where it was interrupted."""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from tpc_fast.datasets.engine import through_ray
from tpc_fast.datasets.manifest import read_manifest
from tpc_fast.datasets.operators import CalibrateRow, needs_detector
from tpc_fast.datasets.page import write_page
from tpc_fast.datasets.parts import Parts
from tpc_fast.datasets.row import failed_row
from tpc_fast.pose.detect.registry import get_detector

#: A part is written when so many rows are waiting, or so many seconds have passed: what a killed run does again.
PART_ROWS, PART_SECONDS = 64, 10.0


class Done(NamedTuple):
    """What a run came to: rows that are good and that failed, in all; how many of them this run did; its seconds."""

    good: int
    failed: int
    rows: int
    seconds: float


def calibrate_table(
    manifest,
    output,
    *,
    actors: int | None = None,
    address: str | None = None,
    detector: str | None = None,
    options: dict | None = None,
    within: str | os.PathLike | None = None,
    retry_failed: bool = False,
    page: bool = True,
    progress: Callable[[int, int], object] | None = None,
    operator=CalibrateRow,
) -> Done:
    """Calibrates every row of a manifest into a Parquet file.

    Args:
        manifest: see `read_manifest`.
        output: NAME.parquet, the good rows with the columns of `tpc_fast.datasets.row.RESULTS`; beside it come
            NAME.failed.parquet, the rows that failed, and NAME.html, a summary. Rows that an earlier run did, whole or
            killed, are not done again: the manifest may have grown since, and its other columns may have changed.
        actors: workers, of one thread each; None: as many as there are cores.
        address: of a Ray cluster; None: this machine.
        detector, options, within: of `CalibrateRow`.
        retry_failed: whether rows that failed are tried again.
        page: whether to write the summary.
        progress: called as `progress(done, total)` with the rows of this run.
        operator: the class that does the work, made as `operator(detector=..., options=...)`; its rows must have the
            columns of `RESULTS`.

    Raises:
        ImportError: without Ray, or without the detector's package.
        FileExistsError: if another process is writing this output.
        ValueError, OSError: for a manifest or output that is not as it must be, and an output of another manifest or
            other options. Rows raise nothing: one whose worker dies is tried again, alone, and then has failed.
    """
    started, rows = time.monotonic(), read_manifest(manifest)
    made = {"detector": detector, "options": options or {}}
    with Parts(output, rows, made) as parts:
        place = {} if within is None else {"within": os.path.abspath(within)}  # changes no row that is good
        known = parts.done(retry_failed)
        pending = [row for row in rows if row["index"] not in known]
        if operator is CalibrateRow and address is None and any(map(needs_detector, pending)):
            get_detector(detector)  # what it lacks is one error, not one for each row; its networks are fetched once
        waiting, since = [], time.monotonic()
        try:
            for count, row in enumerate(through_ray(pending, operator, made | place, failed_row, actors, address), 1):
                waiting.append(row)
                if len(waiting) >= PART_ROWS or time.monotonic() - since > PART_SECONDS:
                    parts.add(waiting)
                    waiting, since = [], time.monotonic()
                if progress is not None:
                    progress(count, len(pending))
        finally:  # Ctrl-C loses nothing that is done
            if waiting:
                parts.add(waiting)
        good, failed = parts.finish()
        if page:
            write_page(parts.output, parts.failed)
    return Done(good, failed, len(pending), time.monotonic() - started)
