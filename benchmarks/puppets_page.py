"""Makes the tables of docs/models/puppets.md of what the evaluation measured.

    tpc-fast evaluate --protocol puppets -o EVALUATION && python benchmarks/puppets_page.py EVALUATION
    python benchmarks/puppets_page.py            # the tables again, from the committed results

Writes benchmarks/results/puppets.json, and the parts of the page between the markers. The sentences around them are by
hand.
"""

import json
import sys
from pathlib import Path

import numpy as np
import table

from tpc_fast.evaluation.puppets import SMALL, WAYS, interval

FILE, PAGE = table.RESULTS / "puppets.json", table.PAGE.parent / "models" / "puppets.md"
SHOWN = ("plain", "calibrated")  # by SSIM and ST-LPIPS, too
COLUMNS = ("plain", "calibrated photo in its place", "calibrated", "SSIM: plain, calibrated", "ST-LPIPS: the same two")
# What is shown: angle in degrees, scale, name.
TURNED = (
    (0, 1.0, "composed as the frame"), (30, 1.0, "turned by 30 degrees"), (60, 1.0, "turned by 60 degrees"),
    (90, 1.0, "turned by 90 degrees"), (-180, 1.0, "turned by 180 degrees"), (0, 0.7, "0.7 times as large"),
    (0, 0.5, "0.5 times"), (0, 0.35, "0.35 times"), (0, 1.2, "1.2 times"), (0, 1.4, "1.4 times, cut by its picture"),
    (0, 2.0, "2 times, cut by its picture"),
)  # fmt: skip
WHOLE = (
    (0, 1.0, "composed as the frame"), (0, 1.4, "1.4 times as large, whole"), (0, 2.0, "2 times as large, whole"),
)  # fmt: skip
POINTS = ("face points", "all points", "optimal subset", "affine", "translation", "linear")
MODES = {"random": "of one at random", "first": "of the first", "nearest": "of the nearest"}


def condense(results: dict) -> dict:
    """With four decimals: fewer would make means that lie between two numbers of the tables."""
    metrics = "psnr", "flicker", "ssim", "stlpips"

    def short(row):
        return {k: [round(x, 4) for x in v] if k in metrics else v for k, v in row.items()}

    return {name: [short(row) for row in rows] for name, rows in results.items()}


def decibels(row: dict) -> str:
    mean, low, high = interval(row["psnr"])
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def pictures(results: dict, size: float, shown, head: str) -> str:
    """What a turned or scaled photo costs, and what calibration gives back."""
    rows = {(round(np.degrees(r["angle"])), r["scale"], r["way"]): r for r in results["pictures"]
            if r["size"] == size and r["way"] in WAYS}  # fmt: skip
    lines = [f"| {head} | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for *cell, name in shown:
        ways = {way: rows[*cell, way] for way in WAYS}
        more = [", ".join(f"{np.mean(ways[way][metric]):.3f}" for way in SHOWN) for metric in ("ssim", "stlpips")]
        found = [decibels(ways[way]) for way in ("plain", "photo", "calibrated")]
        lines.append(f"| {name} | " + " | ".join(found + more) + " |")
    return "\n".join(lines)


def keypoints(results: dict) -> str:
    """Ways of fitting, with exact and noisy keypoints."""
    lines = ["| keypoints | " + " | ".join(POINTS) + " |", "|---" * (len(POINTS) + 1) + "|"]
    for noisy, name in ((False, "exact"), (True, "noisy")):
        rows = {row["way"]: row for row in results["pictures"] if row["way"] in POINTS and (row["noise"] > 0) == noisy}
        lines.append(f"| {name} | " + " | ".join(decibels(rows[way]) for way in POINTS) + " |")
    return "\n".join(lines)


def steadiness(results: dict) -> str:
    """Flicker and PSNR with motion modules and without."""
    found = {}
    for row in results["clips"]:
        if row["noise"] == 0:
            name = "exact keypoints, a calibrated photo for each frame"
        elif row["live"]:
            name = f"live, for {row['group_size']} frames, {MODES[row['mode']]}"
        elif row["group_size"] == 1:
            name = "noisy keypoints, for each frame"
        else:
            name = f"for {row['group_size']} frames, {MODES[row['mode']]}"
        text = f"{np.mean(row['flicker']):.2f} / {np.mean(row['psnr']):.2f}"
        found.setdefault(name, {})[row["motion"]] = text
    lines = ["| | motion modules | without them |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {cells[True]} | {cells.get(False, '')} |" for name, cells in found.items()])


def tables(results: dict) -> dict[str, str]:
    """Marker on the page -> table."""
    return {
        "turned": pictures(results, 1.0, TURNED, "the photo"),
        "whole": pictures(results, SMALL, WHOLE, "figures half as large as those of the training; the photo"),
        "keypoints": keypoints(results),
        "steadiness": steadiness(results),
    }


def main() -> None:
    if len(sys.argv) > 1:
        results = condense(json.loads((Path(sys.argv[1]) / "results.json").read_text()))
        lines = [f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in results.items()]
        FILE.write_text("{" + ",\n".join(lines) + "}\n")
    for mark, text in tables(json.loads(FILE.read_text())).items():
        table.write_part(PAGE, mark, text)


if __name__ == "__main__":
    main()
