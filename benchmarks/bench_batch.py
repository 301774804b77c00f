"""`tpc-fast batch` with two workers beside one process in a loop: rows a second, processor time, memory, equal tables.

    python benchmarks/bench_batch.py [--rows 24] [--frames 48] [--rounds 3]

Needs the extras `demo,datasets`. The rows are films of the demo's photo along its camera path, each from another
frame on, at 512 x 512. Every member works in a process of its own, in turns. "Two processes" are two plain loops with
half of the rows each, without an engine: what the machine has for two at a time.

"With start-up" is from the start of the process to the end of its table. "Without" begins when the first row is done,
and does not count the first row of any worker: for the engine an underestimate, by up to one row.
`row_seconds` are the processor seconds of single rows in the loop, which other work on the machine hardly changes.
Prints a table and writes benchmarks/results/batch.json.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from processes import family_of, peak_bytes, usage

RESULTS = Path(__file__).parent / "results" / "batch.json"
CLIPS, SIZE, ACTORS = 4, 512, 2
LOOP, ENGINE, HALVES = "one process in a loop", "tpc-fast batch, 2 workers", "two processes, half of the rows each"


def write_rows(folder: Path, rows: int, frames: int) -> Path:
    """Photo, films and a manifest of them."""
    from tpc_fast import demo
    from tpc_fast.media.png import write_png

    write_png(folder / "photo.png", demo.load_photo())
    path = demo.camera_path(2 * frames)
    for k in range(CLIPS):
        shown = np.roll(np.arange(2 * frames), -k * frames // 2)[:frames]
        demo.write_clip(demo.load_photo(), folder / f"{k}.mp4", path[shown])
    manifest = folder / "manifest.jsonl"
    lines = [json.dumps({"reference": "photo.png", "driving": f"{i % CLIPS}.mp4"}) for i in range(rows)]
    manifest.write_text("\n".join(lines))
    return manifest


def loop(manifest: Path, output: Path, share: slice, spent: list) -> list[float]:
    """Rows one after the other; when each was done. `spent` gets the processor time of each."""
    from tpc_fast.datasets import CalibrateRow
    from tpc_fast.datasets.manifest import read_manifest
    from tpc_fast.datasets.parts import Parts

    rows, made, times = read_manifest(manifest), [], []
    operator = CalibrateRow(options={"size": SIZE})
    with Parts(output, rows) as parts:
        for row in rows[share]:
            before = time.process_time()
            made.append(operator(row))
            spent.append(time.process_time() - before)
            times.append(time.time())
        parts.add(made)
        parts.finish()
    return times


def engine(manifest: Path, output: Path, seen: dict) -> list[float]:
    """Rows through Ray; when each came back. `seen` gets what all its processes used, while they are there."""
    from tpc_fast.datasets import calibrate_table

    times = []

    def progress(done, total):
        times.append(time.time())
        if done == total:
            seen.update(usage(family_of(os.getpid())))

    calibrate_table(manifest, output, actors=ACTORS, options={"size": SIZE}, page=False, progress=progress)
    return times


def member(name: str, manifest: Path, output: Path, rows: int) -> dict:
    """In a process of its own: does the work of one member, and says what it took."""
    shares = {"loop": slice(None), "half-0": slice(0, rows // 2), "half-1": slice(rows // 2, None)}
    family, spent = {}, []
    if name == "engine":
        times = engine(manifest, output, family)
    else:
        times = loop(manifest, output, shares[name], spent)
    own = peak_bytes(os.getpid())
    workers = [used["bytes"] for used in family.values() if "MapWorker" in used["name"]]
    return {
        "times": times, "end": time.time(), "row_seconds": spent,
        "cpu": time.process_time() + sum(used["cpu"] for process, used in family.items() if process != os.getpid()),
        "worker_bytes": max(workers, default=own), "driver_bytes": own,
    }  # fmt: skip


def measure(names: list[str], manifest: Path, folder: Path, rows: int) -> list[dict]:
    """Runs members beside one another; what each spent, and when it was started."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    running, started = [], time.time()
    for name in names:
        command = [sys.executable, __file__, "--member", name, "--rows", str(rows)]
        command += ["--manifest", str(manifest), "--output", str(folder / f"{name}.parquet")]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    spent = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    return [one | {"started": started} for one in spent]


def equal(a: Path, b: Path) -> bool:
    """Whether two tables have the same rows; the seconds that they took apart."""
    import pyarrow.parquet as pq

    first, second = (pq.read_table(path).drop_columns(["seconds"]) for path in (a, b))
    return repr(first.to_pylist()) == repr(second.to_pylist())  # NaN equals NaN


def one_round(manifest: Path, folder: Path, rows: int) -> dict[str, dict]:
    """Every member once: rows a second with start-up and without, processor time a row, memory."""
    made = {}
    for name, members in ((LOOP, ["loop"]), (ENGINE, ["engine"]), (HALVES, ["half-0", "half-1"])):
        for path in folder.glob("*.parquet"):
            if path.stem in members:
                path.unlink()
        spent = measure(members, manifest, folder, rows)
        first, last = min(s["times"][0] for s in spent), max(s["times"][-1] for s in spent)
        workers = ACTORS if members == ["engine"] else len(members)
        made[name] = {
            "with_start": rows / (max(s["end"] for s in spent) - spent[0]["started"]),
            "without_start": (rows - workers) / (last - first),
            "start_seconds": first - spent[0]["started"],
            "cpu_seconds_per_row": sum(s["cpu"] for s in spent) / rows,
            "worker_bytes": max(s["worker_bytes"] for s in spent),
            "driver_bytes": max(s["driver_bytes"] for s in spent),
            "row_seconds": [seconds for s in spent for seconds in s["row_seconds"][1:]],  # the first makes the detector
        }
    return made


def stored(table: Path) -> dict:
    """What a table's rows take."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(table)
    rows = file.read()
    return {
        "row_bytes": table.stat().st_size / len(rows),
        "record_bytes": float(np.mean([len(record) for record in rows["record"].to_pylist()])),
        "good": len(rows),
    }


def table_of(results: dict) -> str:
    """The table in Markdown."""
    lines = [
        f"{results['rows']} rows of {results['frames']} frames, {results['rounds']} rounds, on {results['processor']}, "
        f"{results['cores']} cores; {results['date']}; Ray {results['versions']['ray']}. Medians; ratios are of one "
        "round.",
        "",
        "| | rows a second, without start-up | ratio | with start-up | ratio | CPU seconds a row | memory a worker |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, m in results["members"].items():
        lines.append(
            f"| {name} | {m['without_start']:.3f} | {m['without_start_ratio']:.2f}x | {m['with_start']:.3f} | "
            f"{m['with_start_ratio']:.2f}x | {m['cpu_seconds_per_row']:.2f} | {m['worker_bytes'] / 1e9:.2f} GB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 24), ("frames", 48), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name in ("member", "manifest", "output"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.member:
        print(json.dumps(member(options.member, Path(options.manifest), Path(options.output), options.rows)))
        return
    from conftest import cpu_name

    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_rows(folder, options.rows, options.frames)
        for _ in range(options.rounds):
            rounds.append(one_round(manifest, folder, options.rows))
            if not equal(folder / "loop.parquet", folder / "engine.parquet"):
                raise SystemExit("the tables of loop and engine differ")
        facts = stored(folder / "engine.parquet")
    if facts["good"] != options.rows:
        raise SystemExit(f"only {facts['good']} of {options.rows} rows are good")
    members, row_seconds = {}, np.median([r[LOOP]["row_seconds"] for r in rounds], 0).tolist()
    for name in rounds[0]:
        keys = [key for key in rounds[0][name] if key != "row_seconds"]
        members[name] = {key: float(np.median([r[name][key] for r in rounds])) for key in keys}
        for key in ("with_start", "without_start"):
            ratios = [r[name][key] / r[LOOP][key] for r in rounds]
            members[name] |= {f"{key}_ratio": float(np.median(ratios)), f"{key}_ratios": ratios}
    results = {
        "date": datetime.date.today().isoformat(), "processor": cpu_name(), "cores": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in ("ray", "pyarrow", "numpy")},
        "rows": options.rows, "frames": options.frames, "rounds": options.rounds, "equal": True,
        "members": members, "row_seconds": row_seconds, **facts,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table_of(results))


if __name__ == "__main__":
    main()
