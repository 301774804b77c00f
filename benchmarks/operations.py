"""Makes benchmarks/results/operations.md of a run of test_operations.py.

    pytest benchmarks/test_operations.py --benchmark-json run.json && python benchmarks/operations.py run.json

`--noisy` says in the table that other work ran on the machine, and the figures are to be made again.
"""

import json
import sys
from pathlib import Path

from table import by_work, condense, duration, heading

OUTPUT = Path(__file__).parent / "results" / "operations.md"
PACKAGES = ("tpc-fast", "numpy", "torch")
COPY = "copy of 64 MiB"


def rows_of(results: dict) -> list[str]:
    """The table's lines: one for every work and member, the time of a call, and what it moves."""
    works = by_work(results)
    (copy,) = works[COPY].values()
    most = copy["bytes"] / copy["seconds"]
    lines = [
        f"A copy moves {most / 1e9:.1f} GB/s, read and written. GB/s: what must be written (of fits: and read).",
        "",
        "| work | by | time | per fit or frame | ratio | GB/s | share of a copy |",
        "|---|---|---|---|---|---|---|",
    ]
    for work, members in works.items():
        if work == COPY:
            continue
        ours = members["tpc_fast"]["seconds"] / members["tpc_fast"]["items"]
        for name, row in sorted(members.items(), key=lambda one: one[1]["seconds"] / one[1]["items"]):
            one = row["seconds"] / row["items"]
            speed = row["bytes"] / row["seconds"]
            calls = row["items"] / row["batch"]
            lines.append(
                f"| {work} | {name} | {duration(row['seconds'] / calls)} | {duration(one)} | {one / ours:.1f} | "
                f"{speed / 1e9:.2f} | {speed / most:.0%} |"
            )
    return lines


def main(path: str, noisy: bool) -> None:
    run = json.loads(Path(path).read_text(encoding="utf-8"))
    results = condense(run, run["benchmarks"], PACKAGES)
    note = "**Other work ran on this machine meanwhile: to be made again on a quiet one.**\n\n" if noisy else ""
    text = "\n".join(["# Operations beside their peers", "", f"{note}{heading(results)} Medians.", *rows_of(results)])
    OUTPUT.write_text(text + "\n", encoding="utf-8")
    print(OUTPUT)


if __name__ == "__main__":
    main(sys.argv[1], "--noisy" in sys.argv[2:])
