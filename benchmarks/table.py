"""Condenses a benchmark run, and makes the tables of docs/measured.md and the README's summary of it.

    pytest benchmarks --benchmark-json run.json && python benchmarks/table.py run.json
    pytest benchmarks/bench_*.py --benchmark-json run.json && python benchmarks/table.py run.json  # diffusion only
    python benchmarks/table.py            # the tables again, from the committed results

The table of a GPU is made of the newest benchmarks/results/gpu-CARD.json, which `device.py` writes.

Writes benchmarks/results/cpu.json and animate.json (medians and 20/80 percentiles with processor, versions and date;
what was not run stays as it was) and the parts of docs/measured.md and README.md between the markers. How well it
works is in benchmarks/results/quality.json, by hand, from what the commands that it names print.
"""

import dataclasses
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
PAGE = Path(__file__).parents[1] / "docs" / "measured.md"
PEERS = ("the original's scheme", "the original's scheme, fused", "no reference at all")


def condense(run: dict, benchmarks: list, packages) -> dict:
    """Some benchmarks of a pytest-benchmark file -> what is worth keeping."""
    rows = []
    for bench in benchmarks:
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
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "rows": rows,
    }


def heading(results: dict) -> str:
    """Where and when."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['simd']}"
    return f"One run on {where}; {results['date']}; {versions}."


def by_work(results: dict) -> dict[str, dict[str, dict]]:
    """Work -> who did it -> the row."""
    works = {}
    for row in results["rows"]:
        works.setdefault(row["work"], {})[row["member"]] = row
    return works


def jobs(results: dict) -> str:
    """Per work, tpc_fast first, then how much slower the peers are for the same number of items."""
    lines = [
        f"{heading(results)} Medians (20th to 80th percentile).",
        "",
        "| work | by | time | ratio |",
        "|---|---|---|---|",
    ]
    for work, members in by_work(results).items():
        ours = members["tpc_fast"]
        for row in sorted(members.values(), key=lambda row: (row is not ours, -row["seconds"] / row["items"])):
            time = duration(row["seconds"] * ours["items"] / row["items"])
            if row["items"] == ours["items"]:
                time += f" ({duration(row['seconds_20'])} to {duration(row['seconds_80'])})"
            if "shares" in row:
                time += f"; {np.median(row['shares']):.2f}x of its detector passes"
            name = f"**{row['member']}**" if row is ours else row["member"]
            ratio = "" if row is ours else f"{times(row, ours):,.3g}x"
            lines.append(f"| {work if row is ours else ''} | {name} | {time} | {ratio} |")
    return "\n".join(lines)


def animate(results: dict) -> str:
    """Attention, steps, memory: what tpc_fast takes, with its error, and how many times that the peers take."""
    attention, steps, memory, ratios = [], [], [], []

    def line(work, ours, peers):
        said = (f"{peers[name]:.2f}x" if name in peers else "" for name in PEERS)
        return f"| {work} | {ours} | {' | '.join(said)} |"

    for work, members in by_work(results).items():
        ours = members["tpc_fast"]
        peers = {name: times(members[name], ours) for name in PEERS if name in members}
        said = line(work, f"{duration(ours['seconds'])} ({error(ours)})", peers)
        if "peak_bytes" not in ours:
            attention.append(said)
            ratios.append(peers)
            continue
        steps.append(said)
        for name, row in members.items():
            if name in ("tpc_fast", *PEERS):
                continue
            took = duration(row["seconds"] * ours["items"] / row["items"])
            steps.append(line(f"the same with {name.removeprefix('tpc_fast, ')}", f"{took} ({error(row)})", {}))
        peaks = {name: members[name]["peak_bytes"] / ours["peak_bytes"] for name in peers}
        memory.append(line(f"peak memory of {work}", f"{ours['peak_bytes'] / 1e6:,.0f} MB", peaks))
    if ratios:
        medians = {name: float(np.median([each[name] for each in ratios])) for name in PEERS}
        attention.append(line(f"**median of these {len(ratios)}**", "", medians))
    return "\n".join(
        [
            f"{heading(results)} Medians.",
            "",
            f"| work | tpc_fast (error) | {' | '.join(PEERS)} |",
            "|---" * (2 + len(PEERS)) + "|",
            *attention,
            *steps,
            *memory,
        ]
    )


def gpu(results: dict) -> str:
    """Goals beside what was measured on a GPU, then every work: ours, and how many times that its peers take."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [f"One run on {results['gpu']}, driver {results['driver']}; {results['date']}; {versions}. Medians.", ""]
    lines += ["| goal | wanted | measured |", "|---|---|---|"]
    for goal in results["goals"]:
        got = (
            "not measured"
            if goal["measured"] is None
            else f"{goal['measured']:.3g}{'' if goal['met'] else ' (missed)'}"
        )
        lines.append(f"| {goal['goal']} | {'at most' if goal['most'] else 'at least'} {goal['limit']:g} | {got} |")
    lines += ["", "| work | by | time | ratio |", "|---|---|---|---|"]
    measured = [row for row in results["rows"] if "us" in row]
    for work, members in by_work({"rows": [row | {"seconds": row["us"] / 1e6} for row in measured]}).items():
        ours = members.get("tpc_fast")
        for row in members.values() if ours else ():
            name = f"**{row['member']}**" if row is ours else row["member"]
            time = duration(row["seconds"] * ours["items"] / row["items"])
            if "error" in row:
                time += f" (error {row['error']:.0e})"
            ratio = "" if row is ours else f"{times(row, ours):,.3g}x"
            lines.append(f"| {work if row is ours else ''} | {name} | {time} | {ratio} |")
    return "\n".join(lines)


def times(row: dict, ours: dict) -> float:
    """How many times longer a row takes than ours, for the same number of items."""
    return row["seconds"] / row["items"] * ours["items"] / ours["seconds"]


def error(row: dict) -> str:
    """The error that a row was found to have before it was measured."""
    if "max_error" in row:
        return f"{row['max_error']:.0e}"
    return f"{row['max_error_in_std']:.1e} std"


def duration(seconds: float) -> str:
    """Three digits with a unit that fits."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:,.3g} {unit}" if seconds * factor < 1000 else f"{seconds * factor:,.0f} {unit}"
    raise AssertionError


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of the page.

    Attributes:
        results: file of its numbers. mark: of its place in the page. packages: whose versions matter.
        markdown: from the numbers to the table.
    """

    results: Path
    mark: str
    packages: tuple[str, ...]
    markdown: Callable[[dict], str]


JOBS = Table(
    RESULTS / "cpu.json", "measured",
    ("numpy", "torch", "opencv-contrib-python", "kornia", "roma", "mediapipe", "av"), jobs,
)  # fmt: skip
ANIMATE = Table(RESULTS / "animate.json", "animate", ("torch", "diffusers"), animate)


# The README's rows of speed: what they are called there, the work, and compared with whom.
SHOWN = (
    ("whole job, 93 frames, with files", JOBS, "whole job, 93 frames, detector included", "MediaPipe Pose as it comes"),
    ("93 frames, keypoints to files", JOBS, "93 frames, keypoints to the original's PNG files", "the original's stage"),
    ("10,000 fits of 17 points", JOBS, "fit of 10,000 x 17 points", "roma"),
    (
        "warp of 93 frames, image and mask",
        JOBS,
        "warp of 93 frames 512x512, image and mask, cubic",
        "cv2.warpPerspective, image and mask (the original)",
    ),
    ("a guided diffusion step, 8 frames", ANIMATE, "one guided step of 8 frames, 1 person", PEERS[1]),
)


def summary(quality: list[dict]) -> str:
    """The README's table: how well, how fast, compared with what."""
    lines = ["| | tpc_fast | compared with |", "|---|---|---|"]
    lines += [f"| {row['what']} | {row['tpc_fast']} | {row['beside']} |" for row in quality]
    for name, table, work, peer in SHOWN:
        rows = by_work(json.loads(table.results.read_text())).get(work, {}) if table.results.exists() else {}
        if "tpc_fast" in rows and peer in rows:
            ours = rows["tpc_fast"]
            took = duration(rows[peer]["seconds"] * ours["items"] / rows[peer]["items"])
            lines.append(f"| {name} | {duration(ours['seconds'])} | {took}, {peer} |")
    return "\n".join(lines)


def write_part(path: Path, mark: str, table: str) -> None:
    """Replaces the part of a page between the markers."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, rest = path.read_text().split(begin)
    _, after = rest.split(end)
    path.write_text(f"{before}{begin}\n{table}\n{end}{after}")


def main() -> None:
    if len(sys.argv) > 1:
        run = json.loads(Path(sys.argv[1]).read_text())
        measured = [bench for bench in run["benchmarks"] if "member" in bench["extra_info"]]
        measured = [bench for bench in measured if "test_operations" not in bench["fullname"]]  # operations.py
        for table in (JOBS, ANIMATE):
            diffusion = table is ANIMATE
            own = [bench for bench in measured if ("/bench_" in bench["fullname"]) == diffusion]
            if own:
                table.results.parent.mkdir(exist_ok=True)
                table.results.write_text(json.dumps(condense(run, own, table.packages), indent=1) + "\n")
    on_gpus = sorted(RESULTS.glob("gpu-*.json"), key=lambda path: json.loads(path.read_text())["date"])
    latest = [Table(on_gpus[-1], "gpu", (), gpu)] if on_gpus else []
    for table in (JOBS, ANIMATE, *latest):
        if table.results.exists():
            text = table.markdown(json.loads(table.results.read_text()))
            print(text, end="\n\n")
            write_part(PAGE, table.mark, text)
    write_part(README, "summary", summary(json.loads((RESULTS / "quality.json").read_text())))


if __name__ == "__main__":
    main()
