"""What the pages of a Parquet file come to when they are decoded, by their own headers.

What its footer says of that may be a lie, and it says nothing of numbers that repeat: a run of a thousand million of
them is a few bytes. Headers do not lie: a page that is not as large as its header says is refused by pyarrow. Both are
Thrift's compact protocol (apache/thrift, doc/specs/thrift-compact-protocol.md); their fields are in parquet.thrift of
apache/parquet-format. Where columns lie is read here, too: of a damaged footer, pyarrow's `RowGroupMetaData.column`
ends the process.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_TRUE, _FALSE, _BYTE, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12
# Fields and their types: of a page's header, and of one of data;
_UNPACKED, _PACKED, _DATA, _DATA_2, _COUNT = (2, _I32), (3, _I32), (5, _STRUCT), (8, _STRUCT), (1, _I32)
# of the footer, of a row group, of a column in it and of its description.
_GROUPS, _COLUMNS, _ROWS, _DESCRIPTION = (4, _LIST), (1, _LIST), (3, _I64), (3, _STRUCT)
_VALUES, _LENGTH, _PAGES, _DICTIONARY = (5, _I64), (7, _I64), (9, _I64), (11, _I64)
_DEPTH = 16  # of structures and lists in each other: footers have eight
_FIRST, _LONGEST = 1 << 10, 1 << 24  # bytes: of most headers, and of those that pyarrow takes
_PADDING = 100  # bytes that pyarrow reads beyond a column, as some writers said too few (PARQUET-816)


class Column(NamedTuple):
    """Where the pages of a column in a row group lie, in bytes of the file, and how many values they hold."""

    start: int
    end: int
    values: int


class Group(NamedTuple):
    """A row group."""

    rows: int
    columns: list[Column]


class Decoded(NamedTuple):
    """Of the pages of a column in a row group: their bytes, and how many values they hold."""

    bytes: int
    values: int


def groups_of(footer: bytes) -> list[Group]:
    """The row groups of a Parquet file.

    Args:
        footer: the description at its end.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        found = _Compact(footer).struct()
        return [Group(group[_ROWS], [_column(one) for one in group[_COLUMNS]]) for group in found[_GROUPS]]
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError("its description of row groups is damaged") from error


def _column(chunk: dict) -> Column:
    said = chunk[_DESCRIPTION]
    start = min(said[_PAGES], said.get(_DICTIONARY, said[_PAGES]))
    if start < 0 or said[_LENGTH] < 0:
        raise ValueError(f"a column has {said[_LENGTH]} bytes from byte {start} on")
    return Column(start, start + said[_LENGTH] + _PADDING, said[_VALUES])


def decoded_pages(file: BinaryIO, column: Column) -> Decoded:
    """What a column of a Parquet file, open, comes to.

    Raises:
        ValueError: for a header that is damaged.
    """
    total = values = 0
    for unpacked, count in _headers(file, column.start, column.end):
        total, values = total + unpacked, values + count
        if values >= column.values:  # pyarrow reads no further
            break
    return Decoded(total, values)


def _headers(file: BinaryIO, place: int, end: int) -> Iterator[tuple[int, int]]:
    """Bytes and values of each page from a place on."""
    while place < end:
        header = _header(file, place)
        if header is None:
            return
        fields, length = header
        unpacked, packed = fields.get(_UNPACKED, -1), fields.get(_PACKED, -1)
        if min(unpacked, packed) < 0:
            raise ValueError(f"the page at byte {place} has no sizes")
        yield unpacked, sum(fields.get(kind, {}).get(_COUNT, 0) for kind in (_DATA, _DATA_2))
        place += length + packed


def _header(file: BinaryIO, place: int) -> tuple[dict, int] | None:
    """The fields of a page's header and its length; None at the end of the file."""
    size = _FIRST
    while True:
        file.seek(place)
        data = file.read(size)
        try:
            reader = _Compact(data)
            return reader.struct(), reader.place
        except IndexError:  # it is longer, or the file ends
            if len(data) < size:
                return None
            if size >= _LONGEST:
                raise ValueError(f"the page at byte {place} has a header of more than {_LONGEST} bytes") from None
            size *= 8


class _Compact:
    """Reads Thrift's compact protocol: whole numbers, structures, lists of these; what else there is, it passes over.

    Raises:
        IndexError: where the data end.
        ValueError: for a type that there is not, and structures or lists in each other without end.
    """

    def __init__(self, data: bytes):
        self._data, self.place = data, 0

    def struct(self, depth: int = 0) -> dict:
        """(number of the field, its type) -> whole number, structure, or list of structures.

        By type, too, as readers pass over a field of another type than they look for, whose number is taken.
        """
        found, number = {}, 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            value = self._value(head & 15, depth)
            if value is not None:
                found[number, head & 15] = value
        return found

    def _byte(self) -> int:
        self.place += 1
        return self._data[self.place - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a description has a number of more than 64 bits")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, count: int) -> None:
        self.place += count
        if self.place > len(self._data):
            raise IndexError

    def _value(self, kind: int, depth: int, element: bool = False):
        if depth > _DEPTH:
            raise ValueError("a description is nested too deeply")
        if kind in (_TRUE, _FALSE):
            if element:  # else the type is the value
                self._skip(1)
        elif kind == _BYTE:
            self._skip(1)
        elif _BYTE < kind <= _I64:
            return self._signed()
        elif kind == _DOUBLE:
            self._skip(8)
        elif kind == _BINARY:
            self._skip(self._unsigned())
        elif kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            values = [self._value(head & 15, depth + 1, True) for _ in range(count)]
            return values if head & 15 == _STRUCT else None
        elif kind == _MAP:
            if count := self._unsigned():
                kinds = self._byte()
                for _ in range(count):
                    self._value(kinds >> 4, depth + 1, True)
                    self._value(kinds & 15, depth + 1, True)
        elif kind == _STRUCT:
            return self.struct(depth + 1)
        else:
            raise ValueError(f"a description has a field of type {kind}, which there is not")
        return None
