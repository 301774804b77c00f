"""What a table of many clips costs the engine, its driver and its files: a simulation.

    python benchmarks/scale.py [10000 100000 1000000]

It runs `tpc-fast batch` on manifests of so many rows through the real engine on two workers. Only `CalibrateRow` is
replaced, by a class that adds up the seconds that real rows took (benchmarks/results/batch.json) instead of taking
them, and gives an empty record. Each size runs in a process of its own. Writes benchmarks/results/scale.json, of which
`scale_page.py` makes docs/scale.md.
"""

import argparse
import datetime
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from processes import family_of, peak_bytes, usage

RESULTS = Path(__file__).parent / "results" / "scale.json"
BATCH = Path(__file__).parent / "results" / "batch.json"
ACTORS = 2


# The simulation


class RecordedRow:
    """In place of `CalibrateRow`: a row "took" what a real one took, and has no record.

    Args:
        detector: is ignored.
        options: `seconds`, of real rows.
    """

    def __init__(self, detector=None, options=None):
        from tpc_fast.datasets.row import OK, failed_row

        self._nothing, self._seconds = failed_row({}, ValueError()) | {"status": OK, "error": ""}, options["seconds"]

    def __call__(self, row: dict) -> dict:
        """The row with the columns of a good one."""
        seconds = self._seconds[row["index"] % len(self._seconds)]
        return {**row, **self._nothing, "head": seconds / 10, "seconds": seconds, "record": b""}


def simulate(rows: int) -> dict:
    """In a process of its own: a table of so many rows, and what that used."""
    import pyarrow.parquet as pq

    from tpc_fast.datasets import calibrate_table

    seconds = json.loads(BATCH.read_text())["row_seconds"]
    seen, shared, ended = {}, Peak("/dev/shm"), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "manifest.csv").open("w") as file:
            file.write("reference,driving,caption\n")
            file.writelines(f"photos/{i:010d}.jpg,videos/{i:010d}.mp4,clip number {i}\n" for i in range(rows))
        output, files = folder / "clips.parquet", 0

        def progress(done, total):
            nonlocal files
            if done == total:
                seen.update(usage(family_of(os.getpid())))
                files = len(list((folder / ".clips.parquet.parts").rglob("*.parquet"))) + 1
                ended["rows"], ended["driver"] = time.perf_counter(), time.process_time()
            elif done == 1:
                ended["first"] = time.perf_counter()

        started = time.perf_counter()
        with shared:
            done = calibrate_table(
                folder / "manifest.csv", output, actors=ACTORS, options={"seconds": seconds}, page=False,
                progress=progress, operator=RecordedRow,
            )  # fmt: skip
        finished = time.perf_counter()
        assert (done.good, done.failed) == (rows, 0)
        table = pq.ParquetFile(output)
        total = float(table.read(["seconds"])["seconds"].to_numpy().sum())
        expected = math.fsum(seconds[i % len(seconds)] for i in range(rows))
        assert abs(total - expected) < 1e-6 * expected
        opened = time.perf_counter()
        table = pq.ParquetFile(output)
        opened = time.perf_counter() - opened
        size = output.stat().st_size
        return {
            "rows": rows, "summed_seconds": total, "start_seconds": ended["first"] - started,
            "rows_seconds": ended["rows"] - ended["first"], "finish_seconds": finished - ended["rows"],
            "driver_cpu_seconds": time.process_time(), "driver_cpu_seconds_of_rows": ended["driver"],
            "cpu_seconds": sum(used["cpu"] for used in seen.values()), "driver_bytes": peak_bytes(os.getpid()),
            "shared_bytes": shared.bytes, "files": files, "table_bytes": size,
            "footer_bytes": table.metadata.serialized_size, "open_seconds": opened,
        }  # fmt: skip


class Peak:
    """`with Peak(folder) as peak: ...`: by how many bytes its file system grew at most, looked at each second."""

    def __init__(self, folder: str):
        self._folder, self._over, self.bytes = folder, threading.Event(), 0

    def _used(self) -> int:
        found = os.statvfs(self._folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def __enter__(self):
        before = self._used()

        def watch():
            while not self._over.wait(1):
                self.bytes = max(self.bytes, self._used() - before)

        threading.Thread(target=watch, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._over.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(simulate(options.one)))
        return
    runs = []
    for rows in options.rows:
        run = subprocess.run(
            [sys.executable, __file__, "--one", str(rows)], check=True, stdout=subprocess.PIPE, text=True
        )
        runs.append(json.loads(run.stdout.splitlines()[-1]))
        print(json.dumps(runs[-1]), flush=True)
        made = {"date": datetime.date.today().isoformat(), "runs": runs}
        RESULTS.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
