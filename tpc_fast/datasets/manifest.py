"""The table that says what to calibrate: CSV, JSON lines or Parquet, read to one row for each clip."""

import json
from pathlib import Path

NEEDED = ("reference", "driving")
SUFFIXES = (".csv", ".jsonl", ".parquet")


def read_manifest(path) -> list[dict]:
    """Rows with `index`, their number from 0.

    Args:
        path: .csv with a line of names, .jsonl with an object a line, or .parquet. Relative paths in it are relative
            to its folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is of another kind, damaged, lacks a column, or has one that results would replace.
    """
    from tpc_fast.datasets.row import GIVEN, RESULTS
    from tpc_fast.media.reading import reading, regular_file

    path = regular_file(path, "manifest")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"manifest must end in {', '.join(SUFFIXES)}, but is {path.name}")
    with reading(f"manifest {path.name} cannot be read"):
        rows = _rows(path)
    names = set().union(*rows) if rows else set()
    if missing := [name for name in NEEDED if name not in names]:
        raise ValueError(f"manifest must have the columns {', '.join(NEEDED)}, but lacks {', '.join(missing)}")
    if taken := sorted(names & ({"index"} | set(RESULTS))):
        raise ValueError(f"manifest must not have the columns of results, but has {', '.join(taken)}")
    files = (*NEEDED, *GIVEN)
    return [
        {"index": i, **{name: _place(row.get(name), path.parent) if name in files else row.get(name) for name in names}}
        for i, row in enumerate(rows)
    ]


def _rows(path: Path) -> list[dict]:
    if path.suffix.lower() == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    import csv

    with path.open(newline="", encoding="utf-8-sig") as file:
        return [dict(row) for row in csv.DictReader(file)]


def _place(value, folder: Path):
    """A path relative to the manifest, from here; URLs, absolute paths and what is no text as they are."""
    if not isinstance(value, str) or not value or "://" in value or Path(value).is_absolute():
        return value
    return str(folder / value)
