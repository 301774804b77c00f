"""Makes docs/scale.md from benchmarks/results/batch.json and scale.json: what 1e5, 1e7 and 1e9 clips cost.

python benchmarks/scale_page.py
"""

import json
import math
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
CLIPS, NODES, CORES, SLICE = (1e5, 1e7, 1e9), (1, 10, 100), 64, 1e6
DRIVER = 64e9  # bytes of memory of the machine that drives

ADVICE = """## What to do about it

Up to 1e6 rows: one command. Beyond that, cut the manifest into slices, each with its own table, and let as many run at
once as the cores need:

```text
split -l 1000000 --additional-suffix .jsonl manifest.jsonl slice-
for s in slice-*.jsonl; do tpc-fast batch $s -o ${s%.jsonl}.parquet --address HOST:PORT; done
```
"""
OWN = """In your own pipeline, `read_parquet(...).map(CalibrateRow, ...).write_parquet(...)` (see
[data sets](guides/datasets.md#a-cluster)) passes no row through the driver and writes many files. It does not go on
where it stopped.
"""
NONE = """# Scale

Not measured yet. `python benchmarks/bench_batch.py`, then `python benchmarks/scale.py` (up to 1e6 rows through the real
engine), then `python benchmarks/scale_page.py` say here what 1e5, 1e7 and 1e9 clips cost, and where one run ends.
"""
TEXT = """# Scale

What `tpc-fast batch` costs for many clips, and where it ends. `python benchmarks/scale_page.py` makes this page from
two measurements on {processor}, {cores} cores:

- {rows} clips of {frames} frames at 512 x 512 (`python benchmarks/bench_batch.py`, {rows_date});
- up to {most:,} rows through the real engine, with recorded times in place of the detector
  (`python benchmarks/scale.py`, {date}).

All larger numbers are computed from these.

## One row

| | measured |
|---|---|
| a worker (one thread): processor time for {frames} frames; it grows with the number of frames | {row_seconds} |
| its record: matrices, keypoints, masks | {record} |
| start until the first row is done, once | {start} |
| memory of a worker at most, what it shares included | {worker} |
| engine: wall time, two workers and the driver on {cores} cores | {engine_seconds} |
| driver: processor time | {driver_seconds} |
| driver: memory | {driver} |

## What clips cost

With nodes of {node} cores, and a worker on each core. One run keeps {busy:,.0f} cores busy; more cores need several
runs at once, each with a slice of the manifest. Photos and videos need space and a network on top.

{costs}

## What was simulated

{simulated}

{most:,} rows stand for {hours:,.0f} core hours. A Parquet file ends with a list of its groups of 16 rows; who opens the
file reads the list ({open} at {most:,} rows).

## Where one run ends

{limits}

- **Memory of the driver** ends first. {memory} hold a manifest of {fit} rows. Photos, videos and masks never come
  there, and of records only those of the next part.
- **Pace of the engine.** {rate:,.0f} rows a second, where workers and driver shared {cores} cores. With {row_seconds}
  of work in a row, that keeps {busy:,.0f} cores busy.
- **Object store.** It holds the blocks of the manifest, and results until the driver takes them. Ray moves to disk what
  does not fit.
- **Files.** A part has 64 rows, or what is done in ten seconds if that is less. At the end parts become one table.

{advice}

A slice takes {slice_driver} of the driver's memory, {slice_records} of records, and {slice_files:,.0f} files while it
runs. Each slice goes on by itself after a kill. Training reads them together:
`CalibratedClips(["slice-aa.parquet", "slice-ab.parquet"])`. 1e9 clips are {slices:,.0f} slices and {billion:,.0f} core
hours: measure one slice of your own clips first.

{own}
"""


def page() -> str:
    """The page."""
    places = [RESULTS / name for name in ("batch.json", "scale.json")]
    if not all(place.exists() for place in places):
        return "\n".join([NONE, ADVICE, OWN])
    batch, scale = (json.loads(place.read_text()) for place in places)
    runs = sorted(scale["runs"], key=lambda run: run["rows"])
    one = per_row(batch, runs)
    start = batch["members"]["tpc-fast batch, 2 workers"]["start_seconds"]
    return TEXT.format(
        processor=batch["processor"], cores=batch["cores"], rows=batch["rows"], frames=batch["frames"],
        rows_date=batch["date"], date=scale["date"], most=runs[-1]["rows"], node=CORES, start=span(start),
        worker=size(batch["members"]["tpc-fast batch, 2 workers"]["worker_bytes"]),
        row_seconds=span(one["seconds"]), record=size(one["record"]), engine_seconds=span(one["engine"]),
        driver_seconds=span(one["driver_seconds"]), driver=size(one["driver"]), costs=costs(one, start),
        simulated=simulated(runs), hours=runs[-1]["summed_seconds"] / 3600, open=span(runs[-1]["open_seconds"]),
        limits=limits(one), memory=size(DRIVER), fit=power(DRIVER / one["driver"]), rate=1 / one["engine"],
        busy=one["seconds"] / one["engine"], slice_driver=size(SLICE * one["driver"]),
        slice_records=size(SLICE * one["record"]), slice_files=SLICE * one["files"], slices=1e9 / SLICE,
        billion=1e9 * one["seconds"] / 3600, advice=ADVICE.rstrip(), own=OWN.rstrip(),
    )  # fmt: skip


def per_row(batch: dict, runs: list[dict]) -> dict[str, float]:
    """What a row takes: measured, or by how much the largest run took more than the one before."""
    names = {
        "driver": "driver_bytes", "shared": "shared_bytes", "footer": "footer_bytes", "engine": "rows_seconds",
        "driver_seconds": "driver_cpu_seconds", "finish": "finish_seconds", "files": "files",
    }  # fmt: skip
    small, large = runs[-2:]
    rows = large["rows"] - small["rows"]
    return {name: max(large[key] - small[key], 0) / rows for name, key in names.items()} | {
        "seconds": sum(batch["row_seconds"]) / len(batch["row_seconds"]),
        "record": batch["record_bytes"],
    }


def costs(one: dict, start: float) -> str:
    """Hours, days and bytes."""
    nodes = " | ".join(f"{n} node{'s' * (n > 1)}{_at_once(one, n)}" for n in NODES)
    rows = [["clips", "core hours", nodes, "records"], ["---"] * (3 + len(NODES))]
    for clips in CLIPS:
        seconds = clips * one["seconds"]
        times = " | ".join(span(seconds / (n * CORES) + start) for n in NODES)
        rows.append([power(clips), f"{seconds / 3600:,.0f}", times, size(clips * one["record"])])
    return markdown(rows)


def _at_once(one: dict, nodes: int) -> str:
    """How many runs keep so many nodes busy, if one does not."""
    runs = math.ceil(nodes * CORES * one["engine"] / one["seconds"])
    return f", {runs} runs at once" if runs > 1 else ""


def simulated(runs: list[dict]) -> str:
    """What the runs took."""
    rows = [
        ["rows", "rows a second", "start", "putting in order", "driver: memory", "driver: processor time",
         "object store", "files of parts", "end of the table's file"],
        ["---"] * 9,
    ]  # fmt: skip
    for run in runs:
        rows.append(
            [f"{run['rows']:,}", f"{run['rows'] / run['rows_seconds']:,.0f}", span(run["start_seconds"]),
             span(run["finish_seconds"]), size(run["driver_bytes"]), span(run["driver_cpu_seconds"]),
             size(run["shared_bytes"]), f"{run['files']:,}", size(run["footer_bytes"])]
        )  # fmt: skip
    return markdown(rows)


def limits(one: dict) -> str:
    """What grows with the rows of one run."""
    rows = [["what grows", "one row", *map(power, CLIPS)], ["---"] * (2 + len(CLIPS))]
    for name, value, form in (
        ("driver: the manifest in memory", one["driver"], size),
        ("object store: blocks of the manifest", one["shared"], size),
        ("files of parts while it runs", one["files"], lambda count: f"{count:,.0f}" if count >= 1 else f"{count:.3f}"),
        ("end of the table's file", one["footer"], size),
        ("disk: parts, and the table that is made of them", 2 * one["record"], size),
        ("putting in order, one core", one["finish"], span),
    ):
        rows.append([name, form(value), *(form(value * clips) for clips in CLIPS)])
    return markdown(rows)


def markdown(rows: list[list[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def size(count: float) -> str:
    """Bytes, with a unit that fits."""
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def span(seconds: float) -> str:
    """Seconds, with a unit that fits."""
    for unit, factor in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1e3 * seconds:.2g} ms"


def power(count: float) -> str:
    """A large number: 1e5."""
    exponent = math.floor(math.log10(count) + 1e-9)
    return f"{count / 10**exponent:.2g}e{exponent}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))
