"""Makes benchmarks/results/operations.md: runs test_operations.py (five minutes on two quiet cores), or takes a run.

    python benchmarks/operations.py
    pytest benchmarks/test_operations.py --benchmark-json run.json && python benchmarks/operations.py run.json

`--noisy` says in the table that other work ran on the machine, and the figures are to be made again.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from table import by_work, condense, duration, heading

OUTPUT = Path(__file__).parent / "results" / "operations.md"
PACKAGES = ("tpc-fast", "numpy", "torch", "opencv-contrib-python", "kornia", "roma", "scikit-image")
COPY, TAPS, PAGES = "copy of 64 MiB", "taps: ", "pages of 93 x 512 x 512"
LOW = 0.5  # of a copy: a row of ours below it is explained


def rows_of(results: dict) -> list[str]:
    """The table's lines: one for every work and member, the time of a call, and what it moves."""
    works = by_work(results)
    copies = {name: row["bytes"] / row["seconds"] for name, row in works[COPY].items()}
    most = max(copies.values())
    said = " and ".join(f"{speed / 1e9:.1f} GB/s ({name})" for name, speed in copies.items())
    lines = [
        f"A copy moves {said}, read and written; shares are of the faster. GB/s: what must be read and written, once.",
        "A peer that takes one frame or fit after the other, or gigabytes, is timed on some of them: so many of all.",
        "",
        "| work | by | time | per fit or frame | ratio | GB/s | share of a copy |",
        "|---|---|---|---|---|---|---|",
    ]
    for work, members in works.items():
        if work in (COPY, PAGES) or work.startswith(TAPS):
            continue
        ours = per_item(members["tpc_fast"])
        for name, row in sorted(members.items(), key=lambda one: per_item(one[1])):
            speed = row["bytes"] / row["seconds"]
            calls = row["items"] / row["batch"]
            lines.append(
                f"| {work} | {name}{part(row)} | {duration(row['seconds'] / calls)} | {duration(per_item(row))} | "
                f"{per_item(row) / ours:.1f} | {speed / 1e9:.2f} | {speed / most:.0%} |"
            )
    return [*lines, "", *reasons(works, most)]


def per_item(row: dict) -> float:
    """Seconds of a fit or frame."""
    return row["seconds"] / row["items"]


def part(row: dict) -> str:
    """How many of all a peer did, and why, if it did not do all."""
    if row.get("of", row["batch"]) == row["batch"]:
        return ""
    why = f", all need {row['needs'] / 1e9:.0f} GB" if row.get("needs", 0) > 2e9 else ""
    return f" ({row['batch']:,} of {row['of']:,}{why})"


def reasons(works: dict, most: float) -> list[str]:
    """Why rows of ours move less than half of what a copy does, with this run's figures."""
    taps = {name.split(", ")[1]: row for name, row in works.get(TAPS + "warp of 1 x 512 x 512", {}).items()}
    ours = {work: members["tpc_fast"] for work, members in works.items() if "tpc_fast" in members}
    fits = {row["batch"]: row for work, row in ours.items() if work.startswith("fit of")}
    low = [work for work, row in ours.items() if share(row, most) < LOW]
    if not low:
        return ["Every row of tpc_fast moves half of what a copy does, or more."]
    lines = ["## Where the share is under half", "", "Rows of `tpc_fast`: " + "; ".join(low) + "."]
    if {1, 10_000} <= fits.keys() and any(work.startswith("fit") for work in low):
        call, bare = per_item(fits[1]), per_item(fits[10_000])
        lines += [
            "",
            f"- **Few fits.** A fit among 10,000 takes {duration(bare)}, a single one {duration(call)}: "
            f"{1 - bare / call:.0%} of it are the call, five arrays and the result that holds them. "
            "None of this depends on the number of bytes, and many fits in one call share it.",
        ]
    if len(taps) == 3 and any(work.startswith("warp") for work in low):
        times = {name: row["seconds"] / row["items"] for name, row in taps.items()}
        pixel = {name: 1e9 * seconds / (512 * 512) for name, seconds in times.items()}
        said = ", ".join(
            f"{duration(times[name])} with {count} ({pixel[name]:.2f} ns a pixel, "
            f"{share(taps[name], most):.0%} of a copy)"
            for name, count in (("nearest", "one tap"), ("bilinear", "four taps"), ("cubic", "sixteen"))
        )
        lines += [
            "",
            "- **Warps.** They compute, they do not wait for memory. A cubic pixel is written as four bytes, and read "
            "as 16 taps of four channels: 64 multiply-adds after 64 bytes from the first-level cache. With the same "
            f"bytes from and to memory, one frame of 512 x 512 takes {said}. So at least "
            f"{1 - times['nearest'] / times['cubic']:.0%} of a cubic warp are its taps.",
        ]
    if PAGES in works and any(work.startswith("warp of 93") for work in low):
        new, old = (works[PAGES][name]["seconds"] for name in ("new memory", "memory that was written before"))
        whole = ours["warp of 93 x 512 x 512, image and mask, cubic"]["seconds"]
        lines += [
            "",
            "- **New memory.** A copy writes into pages that it has; a warp returns new arrays, whose pages the system "
            f"first fills with zeros. For 93 frames of 512 x 512 that adds {duration(max(new - old, 0))}, "
            f"{max(new - old, 0) / whole:.0%} of their warp.",
        ]
    return lines


def share(row: dict, most: float) -> float:
    """Of a copy's bytes per second."""
    return row["bytes"] / row["seconds"] / most


def measured() -> dict:
    """A run of the benchmarks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        tests = Path(__file__).with_name("test_operations.py")
        command = [sys.executable, "-m", "pytest", "-q", str(tests), "--benchmark-json", str(path)]
        subprocess.run([*command, "--benchmark-disable-gc", "-p", "no:cacheprovider"], check=True, stdout=sys.stderr)
        return json.loads(path.read_text(encoding="utf-8"))


def main(paths: list[str], noisy: bool) -> None:
    run = json.loads(Path(paths[0]).read_text(encoding="utf-8")) if paths else measured()
    results = condense(run, run["benchmarks"], PACKAGES)
    note = "**Other work ran on this machine meanwhile: to be made again on a quiet one.**\n\n" if noisy else ""
    text = "\n".join(["# Operations beside their peers", "", f"{note}{heading(results)} Medians.", *rows_of(results)])
    OUTPUT.write_text(text + "\n", encoding="utf-8")
    print(OUTPUT)


if __name__ == "__main__":
    main([a for a in sys.argv[1:] if not a.startswith("-")], "--noisy" in sys.argv[1:])
