"""The table that says what to calibrate: CSV, JSON lines or Parquet, read to one row for each clip."""

import json
from pathlib import Path

from tpc_fast._checks import describe
from tpc_fast.media.limits import LIMITS

NEEDED = ("reference", "driving")
SUFFIXES = (".csv", ".jsonl", ".parquet")


def read_manifest(path) -> list[dict]:
    """Rows with `index`, their number from 0.

    Args:
        path: .csv with a line of names, .jsonl with an object a line, or .parquet. Relative paths in it are relative
            to its folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is of another kind, damaged, larger than `LIMITS` allow, lacks a column, or has one that
            results would replace.
    """
    from tpc_fast.datasets.row import GIVEN, RESULTS
    from tpc_fast.media.reading import reading, regular_file

    path = regular_file(path, "manifest")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"manifest must end in {', '.join(SUFFIXES)}, but is {path.name}")
    with reading(f"manifest {path.name} cannot be read"):
        rows = _rows(path)
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise ValueError(f"row {number} must be an object, but is {describe(row)}")
            if None in row:  # as csv calls what has no name
                raise ValueError(f"row {number} has more values than there are columns: {row[None]}")
    names = set().union(*rows) if rows else set()
    if missing := [name for name in NEEDED if name not in names]:
        raise ValueError(f"manifest must have the columns {', '.join(NEEDED)}, but lacks {', '.join(missing)}")
    if taken := sorted(names & ({"index"} | set(RESULTS))):
        raise ValueError(f"manifest must not have the columns of results, but has {', '.join(taken)}")
    files = (*NEEDED, *GIVEN)
    columns = {name: [_storable(row.get(name)) for row in rows] for name in names}
    for name, values in columns.items():
        if name in files:
            columns[name] = [_place(value, path.parent) for value in values]
        else:
            columns[name] = _of_one_kind(values)
    return [{"index": i, **{name: columns[name][i] for name in names}} for i in range(len(rows))]


def _rows(path: Path) -> list:
    if path.suffix.lower() == ".parquet":
        from tpc_fast.datasets.tables import rows_of

        return list(rows_of(path))
    LIMITS.check("text", path.stat().st_size, path.name)
    if path.suffix.lower() == ".jsonl":
        lines = path.read_text(encoding="utf-8").split("\n")  # not `splitlines`: strings may have other line ends
        return [json.loads(line) for line in lines if line.strip()]
    import csv

    with path.open(newline="", encoding="utf-8-sig") as file:
        return [dict(row) for row in csv.DictReader(file)]


def _storable(value):
    """Half a character, which JSON can name and tables cannot hold, is shown as its number."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _of_one_kind(values: list) -> list:
    """The values of a column as a table can hold them: all true or false, all numbers, all bytes, or all text."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds in ({bool}, {bytes}, {str}, {float}) or (kinds == {int} and all(map(_fits, values))):
        return values
    if kinds == {int, float} and all(map(_fits, values)):
        return [None if value is None else float(value) for value in values]
    return [value if value is None or isinstance(value, str) else _storable(_text(value)) for value in values]


def _fits(value) -> bool:
    """Whether it is no integer beyond 64 bits."""
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _text(value) -> str:
    return json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _place(value, folder: Path):
    """A path relative to the manifest, from here; URLs, absolute paths and what is no text as they are."""
    if not isinstance(value, str) or not value or "://" in value or Path(value).is_absolute():
        return value
    return str(folder / value)
