"""Rows through Ray Data: workers that make an operator once, and call it for each row."""

import gc
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping

from tpc_fast._extras import INSTALL

#: Rows that a worker takes at a time, at most: the engine's own cost per task is some milliseconds.
TASK_ROWS = 16
TASKS_PER_WORKER = 8  # at least, so that no worker waits for another's last task
#: How often a row whose worker died is tried again, alone: a death may be another row's, or of a machine.
RETRIES = 2


def through_ray(
    rows: list[dict],
    operator,
    arguments: Mapping,
    died: Callable[[dict, Exception], dict],
    actors: int | None = None,
    address: str | None = None,
    num_gpus: float | None = 0,
) -> Iterator[dict]:
    """The rows, worked on, in the order in which they are done.

    Args:
        rows: each with the same names, of plain types, and its number as `index`.
        operator: a class; arguments: of it.
        died: what a row becomes whose worker died each time: called with the row and an error.
        actors: workers; None: one for each core, or for each GPU if they need one.
        address: of a Ray cluster; None: this machine.
        num_gpus: that a worker takes; workers share a GPU if it is a fraction; None: 1 if there are any, else 0.

    Raises:
        ImportError: without Ray.
        ValueError: for `actors` or `num_gpus` out of range, or if there are no GPUs.
        ConnectionError: if there is no cluster at `address`.
    """
    if not rows:
        return
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"a table needs Ray: {INSTALL['datasets']}") from error
    if actors is not None and actors < 1:
        raise ValueError(f"actors must be at least 1, but is {actors}")
    if num_gpus is not None and num_gpus < 0:
        raise ValueError(f"num_gpus must be at least 0, but is {num_gpus}")
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        cores = None if address else actors
        ray.init(
            address=address, num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )  # fmt: skip
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the caller has its own progress
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.max_errored_blocks = False, -1
    resources = ray.cluster_resources()
    num_gpus = float("GPU" in resources) if num_gpus is None else num_gpus
    actors = actors or _workers(resources, num_gpus)
    left = {row["index"]: row for row in rows}
    size = max(1, min(TASK_ROWS, len(left) // (actors * TASKS_PER_WORKER)))
    with warnings.catch_warnings():  # until Ray has a name for it
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        dataset = ray.data.from_items(list(left.values()), override_num_blocks=-(-len(left) // size)).map(
            operator,
            fn_constructor_kwargs=dict(arguments),
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(left))),
            num_cpus=1,
            num_gpus=num_gpus or None,
            max_task_retries=0,  # of Ray 2.60, a second death of the same task can leave it waiting for ever
        )
    for row in dataset.iter_rows():
        if left.pop(row["index"], None) is not None:
            yield row
    del dataset
    gc.collect()  # errors of dead workers refer to each other and to the pool, which keeps its GPUs till they are gone
    yield from _alone(list(left.values()), operator, dict(arguments), died, actors, num_gpus)


def _alone(rows: list[dict], operator, arguments: dict, died, actors: int, num_gpus: float) -> Iterator[dict]:
    """Rows whose worker died, or another's behind which they waited: each in a process of its own."""
    import ray

    # No core is asked for, since workers of the pool that were made again may still hold theirs; `actors` is the limit.
    @ray.remote(num_cpus=0, num_gpus=num_gpus or None, max_retries=0, max_calls=1, scheduling_strategy="SPREAD")
    def work(row):
        return operator(**arguments)(row)

    error = RuntimeError("its worker died each time: killed, out of memory, or crashed")
    waiting, running = [(row, RETRIES) for row in reversed(rows)], {}
    while waiting or running:
        while waiting and len(running) < actors:
            row, tries = waiting.pop()
            running[work.remote(row)] = row, tries
        (ready,), _ = ray.wait(list(running))
        row, tries = running.pop(ready)
        try:
            yield ray.get(ready)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError):
            if tries:
                waiting.insert(0, (row, tries - 1))
            else:
                yield died(row, error)


def _workers(resources: Mapping[str, float], num_gpus: float) -> int:
    """As many as there is room for."""
    if num_gpus == 0:
        return max(1, int(resources.get("CPU", 1)))
    workers = min(math.floor(resources.get("GPU", 0) / num_gpus), int(resources.get("CPU", 1)))
    if workers < 1:
        there = f"{resources.get('GPU', 0):g} GPUs"
        raise ValueError(f"num_gpus must be what there is, but is {num_gpus:g}, and Ray sees {there}")
    return workers
