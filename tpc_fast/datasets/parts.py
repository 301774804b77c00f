"""What a run has done so far: small Parquet files beside the output, each whole; and the table that they become."""

import functools
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from tpc_fast.datasets.row import OK, RESULTS
from tpc_fast.datasets.tables import open_table
from tpc_fast.media.files import whole_file

#: Rows of a group of the final table: what a training worker reads to get one of them (some tens of kB each).
GROUP_ROWS = 16
_OPEN_PARTS = 8  # kept in memory while parts are put in order; those of one time lie together


class Parts:
    """The parts of one output.

    Args:
        output: the final file, NAME.parquet; NAME.failed.parquet gets the rows that failed.
    """

    def __init__(self, output):
        self.output = Path(output)
        if self.output.suffix.lower() != ".parquet":
            raise ValueError(f"output must end in .parquet, but is {self.output.name}")
        self.failed = self.output.with_suffix(".failed.parquet")
        self.folder = self.output.with_name(f".{self.output.name}.parts")

    def done(self, retry_failed: bool) -> set[int]:
        """The numbers of the rows that need not be done again: those of earlier runs, whole or killed."""
        self._take_apart(retry_failed)
        found = set()
        for path in self._paths():
            rows = _read(path, ["index", "status"]).to_pylist()
            found |= {row["index"] for row in rows if not (retry_failed and row["status"] != OK)}
        return found

    def add(self, rows: list[dict]) -> None:
        """Writes rows as a part."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(path.stem) for path in self._paths()), default=-1)
        _write(self.folder / f"{number:08d}.parquet", [rows])

    def finish(self) -> tuple[int, int]:
        """Makes the two tables of all parts, and removes these; the numbers of good and failed rows."""
        counts = [0, 0]
        schema = _common([open_table(path).schema_arrow for path in self._paths()])
        for k, (path, wanted) in enumerate(((self.output, True), (self.failed, False))):
            groups = _grouped(row for row in self._in_order() if (row["status"] == OK) == wanted)
            first = next(groups, None)
            if first is None and not wanted:
                path.unlink(missing_ok=True)
                continue
            counts[k] = _write(path, itertools.chain([first or []], groups), schema)
        shutil.rmtree(self.folder)
        return counts[0], counts[1]

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*[0-9].parquet"))

    def _take_apart(self, retry_failed: bool) -> None:
        """A finished run becomes parts again, if there is anything to add to it."""
        if self.folder.exists() or not self.output.exists():
            return
        partial = self.folder.with_name(self.folder.name + ".new")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for number, path in enumerate(p for p in (self.output, self.failed) if p.exists()):
            shutil.copyfile(path, partial / f"{number:08d}.parquet")
        partial.rename(self.folder)

    def _in_order(self) -> Iterator[dict]:
        """Every row once, the newest of each number, by number."""
        places = {}
        for path in self._paths():
            for i, number in enumerate(_read(path, ["index"])["index"].to_pylist()):
                places[number] = (path, i)
        read = functools.lru_cache(_OPEN_PARTS)(_read)
        for _, (path, i) in sorted(places.items()):
            yield read(path).slice(i, 1).to_pylist()[0]


def _grouped(rows: Iterable[dict]) -> Iterator[list[dict]]:
    rows = iter(rows)
    while group := list(itertools.islice(rows, GROUP_ROWS)):
        yield group


def _read(path: Path, columns=None):
    return open_table(path).read(columns)


def _write(path: Path, groups: Iterable[list[dict]], schema=None) -> int:
    """Writes rows as a Parquet file, whole or not at all; how many. The schema is that of the first group, or given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count, writer = 0, None
    with whole_file(path) as partial:
        for rows in groups:
            rows = [{name: _plain(value) for name, value in row.items()} for row in rows]
            if writer is None:
                schema = _schema(rows) if schema is None else schema
                texts = {field.name for field in schema if pa.types.is_string(field.type)}
                writer = pq.ParquetWriter(partial, schema)
            rows = [{name: _text(value) if name in texts else value for name, value in row.items()} for row in rows]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
        writer.close()
    return count


def _text(value):
    return value if value is None or isinstance(value, str) else str(value)


def _common(schemas: list):
    """What rows of all these fit into: where columns differ, text. A column without any value in it fits all."""
    import pyarrow as pa

    kinds = {}
    for schema in schemas:
        for field in schema:
            known = kinds.get(field.name, pa.null())
            if pa.types.is_null(known):
                kinds[field.name] = field.type
            elif known != field.type and not pa.types.is_null(field.type):
                kinds[field.name] = pa.string()
    kinds = {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in kinds.items()}
    more = sorted(set(kinds) - {"index"} - set(RESULTS))
    return pa.schema([(name, kinds[name]) for name in ("index", *more, *RESULTS)])


def _plain(value):
    return json.dumps(value) if isinstance(value, dict | list) else value


def _schema(rows: list[dict]):
    """Of results: their own types. Of what the manifest had: text, or what numbers are."""
    import pyarrow as pa

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bytes: pa.binary(), bool: pa.bool_()}
    fields = [("index", pa.int64())]
    for name in sorted(set().union(*rows) - {"index"} - set(RESULTS)):
        kinds = {type(row.get(name)) for row in rows} - {type(None)}
        one = types.get(kinds.pop(), pa.string()) if len(kinds) == 1 else pa.string() if kinds else pa.null()
        fields.append((name, one))
    fields += [(name, types[kind]) for name, (kind, _) in RESULTS.items()]
    return pa.schema(fields)
