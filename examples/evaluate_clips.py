"""Compares two alignments on clips of your own, and prints the table.

python examples/evaluate_clips.py CLIPS OUT
"""

import csv
import sys
from pathlib import Path

from tpc_fast.cli.main import main

clips, out = sys.argv[1:]
failed = main(
    ["evaluate", clips, "--methods", "face,subset", "--smooth", "none,offline", "--no-pictures", "-q", "-o", out]
)
with open(Path(out) / "results.csv", newline="") as file:
    for row in csv.DictReader(file):
        print(row["clip"], row["method"], row["smooth"], row.get("iou", ""))
sys.exit(failed)
