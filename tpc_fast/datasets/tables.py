"""Parquet files of unknown origin: plain columns, nothing that is a program."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path

from tpc_fast._extras import INSTALL
from tpc_fast.media.limits import LIMITS
from tpc_fast.media.reading import regular_file

_NAME = b"ARROW:extension:name"  # Arrow's columnar format, "Extension Types"
_FOOTER = 8  # bytes at the end: the length of what stands before them, and PAR1
_BATCH, _FEW = 1 << 16, 64  # rows that are decoded at a time; where texts in lists and objects are copied for each


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
        As `open_table`; ValueError, too, when the columns come to more than `LIMITS.unpacked` bytes.
    """
    pyarrow = arrow()
    with open_table(path) as file:
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        texts = [leaf for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        shared = [leaf.path for leaf in texts if leaf.path == leaf.name]
        groups = range(file.metadata.num_row_groups)
        said = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    LIMITS.check("unpacked", said, Path(path).name)
    total = 0
    with pyarrow.parquet.ParquetFile(path, read_dictionary=shared) as file:
        for batch in file.iter_batches(_BATCH if len(shared) == len(texts) else _FEW):
            columns = []
            for column in batch.columns:
                values, size = _values(column)
                columns.append(values)
                total += size
            LIMITS.check("unpacked", total, Path(path).name)
            for row in zip(*columns, strict=True):
                yield dict(zip(batch.schema.names, row, strict=True))


def _values(column) -> tuple[list, int]:
    """Values, and the bytes that they take."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return column.to_pylist(), column.nbytes
    texts = column.dictionary.to_pylist()
    return [None if i is None else texts[i] for i in column.indices.to_pylist()], column.dictionary.nbytes


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
