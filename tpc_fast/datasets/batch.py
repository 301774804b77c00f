"""A whole table through Ray Data, on this machine or a cluster; goes on where it was interrupted."""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from tpc_fast.datasets.manifest import read_manifest
from tpc_fast.datasets.operators import CalibrateRow
from tpc_fast.datasets.page import write_page
from tpc_fast.datasets.parts import Parts

#: A part is written when so many rows are waiting, or so many seconds have passed: what a killed run does again.
PART_ROWS, PART_SECONDS = 64, 10.0
#: Rows that a worker takes at a time, at most: the table's own cost per task is some milliseconds.
TASK_ROWS = 16
TASKS_PER_WORKER = 8  # at least, so that no worker waits for another's last task


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
            killed, are not done again.
        actors: workers, of one thread each; None: as many as there are cores.
        address: of a Ray cluster; None: this machine.
        detector, options, within: of `CalibrateRow`.
        retry_failed: whether rows that failed are tried again.
        page: whether to write the summary.
        progress: called as `progress(done, total)` with the rows of this run.
        operator: the class that does the work, for other work on the same engine.

    Raises:
        ImportError: without Ray.
        ValueError, OSError: for a manifest or output that is not as it must be. Rows raise nothing.
    """
    started, parts = time.monotonic(), Parts(output)
    rows = read_manifest(manifest)
    known = parts.done(retry_failed)
    pending = [row for row in rows if row["index"] not in known]
    if pending:
        waiting, since = [], time.monotonic()
        made = dict(detector=detector, options=options or {})
        if within is not None:
            made["within"] = os.path.abspath(within)
        for count, row in enumerate(_through_ray(pending, operator, made, actors, address), 1):
            waiting.append(row)
            if len(waiting) >= PART_ROWS or time.monotonic() - since > PART_SECONDS or count == len(pending):
                parts.add(waiting)
                waiting, since = [], time.monotonic()
            if progress is not None:
                progress(count, len(pending))
    elif not parts.folder.exists():
        parts.add([])
    good, failed = parts.finish()
    if page:
        write_page(parts.output, parts.failed)
    return Done(good, failed, len(pending), time.monotonic() - started)


def _through_ray(rows: list[dict], operator, arguments: dict, actors: int | None, address: str | None):
    """The rows, worked on, in the order in which they are done."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('batch needs Ray: pip install "ray[data]>=2.50" pyarrow fsspec') from error
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        ray.init(address=address, num_cpus=None if address else actors, include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    actors = actors or int(ray.cluster_resources().get("CPU", 1))
    size = max(1, min(TASK_ROWS, len(rows) // (actors * TASKS_PER_WORKER)))
    names = {name for row in rows for name in row}
    table = [{name: row.get(name) for name in names} for row in rows]
    dataset = ray.data.from_items(table, override_num_blocks=-(-len(table) // size)).map(
        operator,
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1,
    )
    yield from dataset.iter_rows()
