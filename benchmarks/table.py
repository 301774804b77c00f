"""Condenses a benchmark run and makes the README's table of it.

    pytest benchmarks --benchmark-json run.json && python benchmarks/table.py run.json
    python benchmarks/table.py            # the README's table again, from the committed results

Writes benchmarks/results/cpu.json (medians and 20/80 percentiles with processor, versions and date) and the part of
README.md between the markers.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "cpu.json"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PACKAGES = ("numpy", "torch", "opencv-contrib-python", "kornia", "roma", "mediapipe", "av")


def condense(run: dict) -> dict:
    """A pytest-benchmark file -> what is worth keeping."""
    rows = []
    for bench in run["benchmarks"]:
        if "member" not in bench["extra_info"]:
            continue
        seconds = np.array(bench["stats"]["data"])
        facts = dict(bench["extra_info"])
        rows.append(
            {
                "work": bench["group"],
                "member": facts.pop("member"),
                "items": facts.pop("items"),
                "seconds": float(np.median(seconds)),
                "seconds_20": float(np.percentile(seconds, 20)),
                "seconds_80": float(np.percentile(seconds, 80)),
                "rounds": len(seconds),
                **facts,
            }
        )
    return {
        "date": run["datetime"][:10],
        "machine": run["machine_info"],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "rows": rows,
    }


def markdown(results: dict) -> str:
    """The table: per work, tpc_fast first, then how much slower the peers are for the same number of items."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['simd']}"
    lines = [
        f"One run on {where}; {results['date']}; {versions}. Medians (20th to 80th percentile).",
        "",
        "| work | by | time | ratio |",
        "|---|---|---|---|",
    ]
    for work in dict.fromkeys(row["work"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["work"] == work]
        ours = next(row for row in rows if row["member"] == "tpc_fast")
        rows.sort(key=lambda row: (row is not ours, -row["seconds"] / row["items"]))
        for row in rows:
            same_work = ours["items"] / row["items"]
            ratio = row["seconds"] * same_work / ours["seconds"]
            time = duration(row["seconds"] * same_work)
            if row["items"] == ours["items"]:
                time += f" ({duration(row['seconds_20'])} to {duration(row['seconds_80'])})"
            if "shares" in row:
                time += f"; {np.median(row['shares']):.2f}x of its detector passes"
            name = f"**{row['member']}**" if row is ours else row["member"]
            lines.append(
                f"| {work if row is ours else ''} | {name} | {time} | {'' if row is ours else f'{ratio:,.3g}x'} |"
            )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Three digits with a unit that fits."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:,.3g} {unit}" if seconds * factor < 1000 else f"{seconds * factor:,.0f} {unit}"
    raise AssertionError


def write_readme(table: str) -> None:
    """Replaces the part of the README between the markers."""
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def main() -> None:
    if len(sys.argv) > 1:
        results = condense(json.loads(Path(sys.argv[1]).read_text()))
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    table = markdown(json.loads(RESULTS.read_text()))
    print(table)
    write_readme(table)


if __name__ == "__main__":
    main()
