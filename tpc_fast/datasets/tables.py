"""Parquet files of unknown origin: plain columns, nothing that is a program."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tpc_fast._extras import INSTALL
from tpc_fast.datasets.pages import decoded_pages, groups_of
from tpc_fast.media.limits import LIMITS
from tpc_fast.media.reading import regular_file

_NAME = b"ARROW:extension:name"  # Arrow's columnar format, "Extension Types"
_FOOTER = 8  # bytes at the end: the length of what stands before them, and PAR1
# Bytes in Python, as `sys.getsizeof` gives them: a row is a dictionary, with a place for each column; a value is a
# number and its place.
_ROW, _CELL, _VALUE = 128, 32, 32


def arrow():
    """The module pyarrow, with its `parquet`.

    Raises:
        ImportError: without it; says how to get it.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"a table needs PyArrow: {INSTALL['datasets']}") from error
    return pyarrow


def open_table(path: str | os.PathLike):
    """pyarrow's ParquetFile of a file whose columns are of Parquet's own types.

    Extension types are made by whoever registered their name in this process; Ray's unpickle what the file holds. They
    are looked for before pyarrow sees the file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for one with extension types. What else damage makes pyarrow raise is for `reading` to name.
    """
    pyarrow = arrow()
    path = regular_file(path)
    footer = _footer(path)
    if any(text in footer for text in _ENCODED):
        raise ValueError(f"{path.name} has columns of extension types, which are not read: they may run programs")
    return pyarrow.parquet.ParquetFile(path)


def rows_of(path: str | os.PathLike) -> Iterator[dict]:
    """The rows of a Parquet file; a text that many rows share is kept once, as in the file.

    Raises:
        As `open_table`; ValueError, too, when the rows come to more than `LIMITS.unpacked` bytes.
    """
    pyarrow = arrow()
    path = Path(path)
    with open_table(path) as file:
        texts = [file.schema.column(i).path for i in range(len(file.schema))]
        texts = [name for i, name in enumerate(texts) if file.schema.column(i).physical_type == "BYTE_ARRAY"]
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        _check_size(path)
    total = 0
    with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
        for group, size in enumerate(sizes):  # as wholes, in which a text is there once; pyarrow cannot join groups
            for batch in file.iter_batches(max(1, size), row_groups=[group]):
                total += sum(map(_bytes_of_texts, batch.columns))
                LIMITS.check("unpacked", total, path.name)
                columns = [_values(column) for column in batch.columns]
                for row in zip(*columns, strict=True):
                    yield dict(zip(batch.schema.names, row, strict=True))


def _check_size(path: Path) -> None:
    """Counts what the rows of a file come to, before anything of them is decoded.

    Raises:
        ValueError: when that is more than `LIMITS.unpacked` allows.
    """
    total = 0
    with open(path, "rb") as file:
        for group in groups_of(_footer(path)):
            total += group.rows * (_ROW + _CELL * len(group.columns))
            LIMITS.check("unpacked", total, path.name)
            for column in group.columns:
                found = decoded_pages(file, column)
                total += found.bytes + found.values * _VALUE
                LIMITS.check("unpacked", total, path.name)


def _bytes_of_texts(column) -> int:
    """Within lists and objects each counts as often as it is there: Python has them apart."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        return column.dictionary.nbytes
    waiting, total = [column], 0
    while waiting:
        array = waiting.pop()
        if pa.types.is_dictionary(array.type):
            lengths = np.array([len(text or "") for text in array.dictionary.to_pylist()] or [0], np.int64)
            indices = array.indices.drop_null().to_numpy()
            total += int(lengths[indices].sum())
        elif pa.types.is_struct(array.type):
            waiting += array.flatten()
        elif pa.types.is_map(array.type):
            waiting += [array.keys, array.items]
        elif pa.types.is_nested(array.type):
            waiting.append(array.flatten())
    return total


def _values(column) -> list:
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return column.to_pylist()
    texts = column.dictionary.to_pylist()
    return [None if i is None else texts[i] for i in column.indices.to_pylist()]


def _footer(path: Path) -> bytes:
    """What stands at the end of a Parquet file: the description of its columns, Arrow's as base64 in it."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(size - _FOOTER, 0))
        length = int.from_bytes(file.read(4), "little") + _FOOTER
        LIMITS.check("text", min(length, size), path.name)
        file.seek(max(size - length, 0))
        return file.read()


def _base64_of_part(part: bytes) -> set[bytes]:
    """What the base64 of any text with this in it has in it: it may begin at three places of a group of three bytes."""
    found = set()
    for before in range(3):
        text, end = base64.b64encode(bytes(before) + part), (before + len(part)) % 3
        first = (0, 2, 3)[before]  # digits of what stands before, and of both
        found.add(text[first : len(text) - (0, 3, 2)[end]])
    return found


_ENCODED = _base64_of_part(_NAME)
