"""What the pages of a Parquet file come to when they are decoded, by their own headers.

What its footer says of that may be a lie, and it says nothing of numbers that repeat: a run of a thousand million of
them is a few bytes. Headers do not lie: a page that is not as large as its header says is refused by pyarrow. They are
Thrift's compact protocol (apache/thrift, doc/specs/thrift-compact-protocol.md); their fields are in parquet.thrift of
apache/parquet-format.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_TRUE, _FALSE, _BYTE, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 6, 7, 8, 9, 10, 11, 12
_UNPACKED, _PACKED, _DATA, _DATA_2, _COUNT = 2, 3, 5, 8, 1  # fields of a page's header, and of one of data
_DEPTH = 8  # of structures in each other: headers have three
_FIRST, _LONGEST = 1 << 10, 1 << 24  # bytes: of most headers, and of those that pyarrow takes
_PADDING = 100  # bytes that pyarrow reads beyond a column, as some writers said too few (PARQUET-816)


class Decoded(NamedTuple):
    """Of the pages of a column in a row group: their bytes, and how many values they hold."""

    bytes: int
    values: int


def decoded_pages(file: BinaryIO, chunk) -> Decoded:
    """What a column comes to.

    Args:
        file: the Parquet file, open.
        chunk: pyarrow's metadata of a column in a row group.

    Raises:
        ValueError: for a header that is damaged.
    """
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
        starts.append(chunk.dictionary_page_offset)
    end = min(starts) + chunk.total_compressed_size + _PADDING
    total = values = 0
    for unpacked, count in _headers(file, min(starts), end):
        total, values = total + unpacked, values + count
        if values >= chunk.num_values:  # pyarrow reads no further
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
    """Reads Thrift's compact protocol: whole numbers and structures of them; what else there is, it passes over.

    Raises:
        IndexError: where the data end.
        ValueError: for a type that there is not, and structures in structures without end.
    """

    def __init__(self, data: bytes):
        self._data, self.place = data, 0

    def struct(self, depth: int = 0) -> dict:
        """Number of the field -> whole number or structure."""
        if depth > _DEPTH:
            raise ValueError("the header of a page is nested too deeply")
        found, number = {}, 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            value = self._value(head & 15, depth)
            if isinstance(value, int | dict):
                found[number] = value
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
                raise ValueError("the header of a page has a number of more than 64 bits")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, count: int) -> None:
        self.place += count
        if self.place > len(self._data):
            raise IndexError

    def _value(self, kind: int, depth: int, element: bool = False):
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
            for _ in range(head >> 4 if head >> 4 < 15 else self._unsigned()):
                self._value(head & 15, depth + 1, True)
        elif kind == _MAP:
            if count := self._unsigned():
                kinds = self._byte()
                for _ in range(count):
                    self._value(kinds >> 4, depth + 1, True)
                    self._value(kinds & 15, depth + 1, True)
        elif kind == _STRUCT:
            return self.struct(depth + 1)
        else:
            raise ValueError(f"the header of a page has a field of type {kind}, which there is not")
        return None
