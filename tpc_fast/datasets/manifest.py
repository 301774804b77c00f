"""The table that says what to calibrate: CSV, JSON lines or Parquet, read to one row for each clip."""

import json
from collections.abc import Collection
from pathlib import Path

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
        ValueError: if it is of another kind, damaged or empty, lacks a column, has one twice, or one that results would
            replace.
    """
    from tpc_fast.datasets.row import FILES, RESULTS
    from tpc_fast.media.reading import reading, regular_file

    path = regular_file(path, "manifest")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"manifest must end in {', '.join(SUFFIXES)}, but is {path.name}")
    with reading(f"manifest {path.name} cannot be read"):
        names, rows = _read(path)
    if missing := [name for name in NEEDED if name not in names]:
        raise ValueError(f"manifest must have the columns {', '.join(NEEDED)}, but lacks {', '.join(missing)}")
    if taken := sorted(set(names) & ({"index"} | set(RESULTS))):
        raise ValueError(f"manifest must not have the columns of results, but has {', '.join(taken)}")
    if not rows:
        raise ValueError(f"manifest must have rows, but {path.name} has none")
    folder, made = path.parent.absolute(), [{"index": i} for i in range(len(rows))]
    for name in names:
        values = [row.get(name) for row in rows]
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
    if kinds == {int, float}:
        return [value if value is None else float(value) for value in values]
    if kinds <= {str} or (len(kinds) == 1 and kinds <= {int, float, bool, bytes}):
        if kinds != {int} or all(value is None or abs(value) <= _LARGEST for value in values):
            return values
    return [value if value is None or isinstance(value, str) else _text(value) for value in values]


def _text(value) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else json.dumps(value, default=str)


def _read(path: Path) -> tuple[Collection[str], list[dict]]:
    """The names of the columns, and the rows."""
    if path.suffix.lower() == ".jsonl":
        rows = [_object(line, i) for i, line in enumerate(_lines(path), 1) if line.strip()]
        return list(dict.fromkeys(name for row in rows for name in row)), rows
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
        return _once(table.column_names), table.to_pylist()
    import csv

    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        names, rows = _once(reader.fieldnames or []), []
        for row in reader:
            if None in row:
                raise ValueError(f"line {reader.line_num} has more values than the first line has names")
            rows.append(row)
    return names, rows


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig").split("\n")  # splitlines() would part texts at U+2028, too


def _object(line: str, number: int) -> dict:
    try:
        row = json.loads(line)
        line.encode()
        json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # half of a surrogate pair, too, which no table can hold
        raise ValueError(f"line {number}: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} must be an object, but is {line.strip()[:40]}")
    return row


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
