"""What a run has done so far: small Parquet files beside the output, each whole; and the table that they become."""

import contextlib
import functools
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from tpc_fast.datasets.manifest import NEEDED
from tpc_fast.datasets.row import GIVEN, OK, RESULTS
from tpc_fast.datasets.tables import arrow, open_table
from tpc_fast.media.files import one_writer, whole_file
from tpc_fast.media.reading import reading

#: Rows of a group of the final table: what a training worker reads to get one of them (0.1 MB each, docs/scale.md).
GROUP_ROWS = 16
FOLDER_PARTS = 1000  # parts of a folder: each that is written looks through its folder for abandoned files
_OPEN_GROUPS = 32  # kept in memory while rows are put in order; those of one time lie together
_SETTINGS = b"tpc_fast"  # of a file's metadata: what all rows were made with, as JSON
_INPUTS = (*NEEDED, *GIVEN, "options")  # the columns that a result depends on


class Parts:
    """The parts of one output, which nobody else writes meanwhile: `with Parts(output, rows, settings) as parts: ...`.

    Of each row the newest counts: a part's, then NAME.parquet's, then NAME.failed.parquet's.

    Args:
        output: the final file, NAME.parquet; NAME.failed.parquet gets the rows that failed.
        rows: of the manifest, by number. What they have besides results is as the manifest has it now.
        settings: what all rows are made with, plain values. They are kept in the files.

    Raises:
        FileNotFoundError, NotADirectoryError: if the output's folder is missing.
        FileExistsError: if another process is writing there.
        OSError: if it cannot be written.
        ValueError: for an output of another name; if its rows were made with other settings, or from other files or
            options than the manifest names.
    """

    def __init__(self, output, rows: list[dict], settings: Mapping | None = None):
        self.output, self._rows = Path(output), rows
        if self.output.suffix.lower() != ".parquet":
            raise ValueError(f"output must end in .parquet, but is {self.output.name}")
        self.failed = self.output.with_suffix(".failed.parquet")
        self.folder = self.output.with_name(f".{self.output.name}.parts")
        self._settings = json.loads(json.dumps(dict(settings or {}), default=str))  # as it is read again
        self._schema = _schema(rows, self._settings)

    def __enter__(self) -> "Parts":
        parent = self.output.parent
        if not parent.exists():
            raise FileNotFoundError(f"output: there is no folder {parent} to put {self.output.name} into")
        if not parent.is_dir():
            raise NotADirectoryError(f"output: {parent}, to put {self.output.name} into, is not a folder")
        if self.output.is_dir():
            raise FileExistsError(f"output: {self.output} is a folder: choose another place")
        with contextlib.ExitStack() as stack:
            stack.enter_context(one_writer(self.output))
            try:
                self.folder.mkdir(exist_ok=True)  # now, not when the first rows are done
            except OSError as error:
                raise type(error)(error.errno, f"output: cannot write into {parent}: {error.strerror}") from error
            stack.callback(_remove_empty, self.folder)
            self._changed = False  # whether the manifest's other columns are not what they were
            for path in self._paths():
                self._check(path)
            self._next = 1 + max((int(path.stem) for path in self._parts()), default=-1)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    def done(self, retry_failed: bool = False) -> set[int]:
        """The numbers of the rows that need not be done again: those of earlier runs, whole or killed.

        Args:
            retry_failed: whether those that failed count as not done.
        """
        numbers, _, good = self._newest()
        return set(numbers[good].tolist() if retry_failed else numbers.tolist())

    def add(self, rows: list[dict]) -> None:
        """Writes rows, of which the results count, as a part."""
        rows = [self._rows[row["index"]] | {name: row[name] for name in RESULTS} for row in rows]
        folder = self.folder / f"{self._next // FOLDER_PARTS:05d}"
        folder.mkdir(exist_ok=True)
        _write(folder / f"{self._next:08d}.parquet", [rows], self._schema)
        self._next += 1

    def finish(self) -> tuple[int, int]:
        """Makes the two tables of all parts, and removes these; the numbers of good and failed rows."""
        _, places, good = self._newest()
        files = [_open(path) for path in self._paths()]  # as they are now: writing the first changes them
        if self._parts() or self._changed or not self.output.exists():
            failed = places[~good]
            _write(self.output, _grouped(self._read(files, places[good])), self._schema)
            if len(failed):
                _write(self.failed, _grouped(self._read(files, failed)), self._schema)
            else:
                self.failed.unlink(missing_ok=True)
            shutil.rmtree(self.folder)
        return int(good.sum()), int((~good).sum())

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("*/[0-9]*.parquet"))

    def _paths(self) -> list[Path]:
        """From the oldest to the newest."""
        return [path for path in (self.failed, self.output) if path.exists()] + self._parts()

    def _check(self, path: Path) -> None:
        """Raises if what is there does not belong to this run."""
        file = _open(path)
        text = (file.schema_arrow.metadata or {}).get(_SETTINGS)
        if text is None:
            raise ValueError(f"output: {path} is no table of `batch`: choose another place")
        before, now = json.loads(text), self._settings
        if differing := [name for name in before | now if before.get(name) != now.get(name)]:
            said = ", ".join(f"{name} {before.get(name)!r}, not {now.get(name)!r}" for name in differing)
            raise ValueError(f"output: the rows of {self.output} were made with {said}: choose another place")
        names = [name for name in file.schema_arrow.names if name not in RESULTS]
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group, names).to_pylist():
                if difference := _difference(row, self._rows):
                    another = f"{self.output} is of another manifest: {difference}"
                    raise ValueError(f"output: {another}: choose another place")
                self._changed |= row != self._rows[row["index"]]

    def _newest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows that are done, by number: their numbers [n]; where they are, [n, 3]: path, row group, row in it;
        and which are good [n]."""
        numbers, places, good = [np.empty(0, np.int64)], [np.empty((0, 3), np.int64)], [np.empty(0, bool)]
        for p, path in enumerate(self._paths()):
            file = _open(path)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, ["index", "status"])
                numbers.append(table["index"].to_numpy())
                places.append(np.stack(np.broadcast_arrays(p, group, np.arange(len(table))), -1))
                good.append(np.array(table["status"].to_pylist(), object) == OK)
        numbers, places, good = (np.concatenate(parts)[::-1] for parts in (numbers, places, good))
        found, newest = np.unique(numbers, return_index=True)  # the first: the newest is in front
        return found, places[newest], good[newest]

    def _read(self, files: list, places: np.ndarray) -> Iterator[dict]:
        """Rows with their results, and the rest as the manifest has it."""

        @functools.lru_cache(_OPEN_GROUPS)
        def read(path, group):
            return files[path].read_row_group(group, ["index", *RESULTS]).to_pylist()

        for path, group, i in places.tolist():
            row = read(path, group)[i]
            yield {**self._rows[row["index"]], **row}


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _difference(row: dict, rows: list[dict]) -> str:
    """What a row that is done was made from, and the manifest's row is not; empty."""
    number = row["index"]
    if number >= len(rows):
        return f"it has a row {number}, the manifest {len(rows)} rows"
    for name in _INPUTS:
        before, now = row.get(name) or None, rows[number].get(name) or None
        if before != now:
            return f"{name} of row {number} is {before}, in the manifest {now}"
    return ""


def _grouped(rows: Iterable[dict]) -> Iterator[list[dict]]:
    rows = iter(rows)
    while group := list(itertools.islice(rows, GROUP_ROWS)):
        yield group


def _open(path: Path):
    with reading(f"output: {path} cannot be read"):
        return open_table(path)


def _write(path: Path, groups: Iterable[list[dict]], schema) -> None:
    """Writes rows as a Parquet file, whole or not at all."""
    pa = arrow()
    with whole_file(path) as partial, pa.parquet.ParquetWriter(partial, schema) as writer:
        for rows in groups:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _schema(rows: list[dict], settings: dict):
    """Of results: their own types. Of what the manifest has: that of its first value, see `read_manifest`."""
    pa = arrow()
    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bytes: pa.binary(), bool: pa.bool_()}
    fields = [("index", pa.int64())]
    for name in rows[0] if rows else ():
        if name != "index" and name not in RESULTS:
            first = next((row[name] for row in rows if row[name] is not None), "")
            fields.append((name, types[type(first)]))
    fields += [(name, types[kind]) for name, (kind, _) in RESULTS.items()]
    return pa.schema(fields, {_SETTINGS: json.dumps(settings).encode()})
