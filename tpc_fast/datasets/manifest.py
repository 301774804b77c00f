"""The table that says what to calibrate: CSV, JSON lines or Parquet, read to one row for each clip."""

import json
from collections.abc import Collection
from pathlib import Path

from tpc_fast._checks import describe
from tpc_fast.media.limits import LIMITS

NEEDED = ("reference", "driving")
SUFFIXES = (".csv", ".jsonl", ".parquet")
_LARGEST = 2**63 - 1  # what a column of integers holds


def read_manifest(path) -> list[dict]:
    """Rows with `index`, their number from 0.

    Args:
        path: .csv with a line of names, .jsonl with an object a line, or .parquet; text is UTF-8. Relative paths in it
            are relative to its folder, and become absolute. A column has values of one type: where they are mixed,
            they become text.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is of another kind, damaged, empty, or larger than `LIMITS` allow, lacks a column, has one
            twice, or one that results would replace.
    """
    from tpc_fast.datasets.row import FILES, RESULTS
    from tpc_fast.media.reading import reading, regular_file

    path = regular_file(path, "manifest")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"manifest must end in {', '.join(SUFFIXES)}, but is {path.name}")
    with reading(f"manifest {path.name} cannot be read"):
        names, rows = _read(path)
        for number, row in enumerate(rows):
            if None in row:  # as csv calls what has no name
                raise ValueError(f"row {number} has more values than there are columns: {row[None]}")
    if missing := [name for name in NEEDED if name not in names]:
        raise ValueError(f"manifest must have the columns {', '.join(NEEDED)}, but lacks {', '.join(missing)}")
    if taken := sorted(set(names) & ({"index"} | set(RESULTS))):
        raise ValueError(f"manifest must not have the columns of results, but has {', '.join(taken)}")
    if not rows:
        raise ValueError(f"manifest must have rows, but {path.name} has none")
    folder, made = path.parent.absolute(), [{"index": i} for i in range(len(rows))]
    for name in names:
        values = [_storable(row.get(name)) for row in rows]
        if name in FILES:
            values = [_place(value, folder) for value in values]
        for row, value in zip(made, of_one_type(values), strict=True):
            row[name] = value
    return made


def of_one_type(values: list) -> list:
    """The values of a column as Parquet keeps them: all of one plain type; text where they are not."""
    kinds = {type(value) for value in values} - {type(None)}
    if str in kinds:  # pandas says NaN for a text that is missing
        values = [None if value != value else value for value in values]
        kinds = {type(value) for value in values} - {type(None)}
    large = any(isinstance(value, int) and abs(value) > _LARGEST for value in values)
    if kinds == {int, float} and not large:
        return [value if value is None else float(value) for value in values]
    if kinds <= {str} or (len(kinds) == 1 and kinds <= {int, float, bool, bytes} and not large):
        return values
    return [value if value is None or isinstance(value, str) else _text(value) for value in values]


def _text(value) -> str:
    if isinstance(value, dict | list):
        return _storable(json.dumps(value, default=str, ensure_ascii=False))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _storable(value):
    """Half a character, which JSON can name and tables cannot hold, is shown as its number."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _read(path: Path) -> tuple[Collection[str], list[dict]]:
    """The names of the columns, and the rows."""
    if path.suffix.lower() == ".parquet":
        from tpc_fast.datasets.tables import open_table, rows_of

        return _once(open_table(path).schema_arrow.names), list(rows_of(path))
    LIMITS.check("text", path.stat().st_size, path.name)
    if path.suffix.lower() == ".jsonl":
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not `splitlines`: texts may have other line ends
        rows = [json.loads(line) for line in lines if line.strip()]
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise ValueError(f"row {number} must be an object, but is {describe(row)}")
        return list(dict.fromkeys(name for row in rows for name in row)), rows
    import csv

    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        return _once(reader.fieldnames or []), list(reader)


def _once(names: list[str]) -> list[str]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"it has more than one column {', '.join(twice)}")
    return names


def _place(value, folder: Path):
    """A path, relative to the manifest, from anywhere; URLs and absolute paths as they are; None for no value."""
    if value is None or value != value or value == "":  # pandas writes NaN
        return None
    if not isinstance(value, str) or "://" in value or Path(value).is_absolute():
        return value
    return str(folder / value)
