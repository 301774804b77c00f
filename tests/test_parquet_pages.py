"""What a table of a stranger comes to, counted before it is decoded: by the headers of its pages."""

import contextlib
import io

import numpy as np
import pytest

from tpc_fast.datasets.manifest import read_manifest
from tpc_fast.datasets.pages import Column, decoded_pages, groups_of
from tpc_fast.datasets.tables import _footer, rows_of
from tpc_fast.media import limits

pa = pytest.importorskip("pyarrow", reason="pyarrow comes with extra 'datasets'")
pq = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.datasets


def table_of(rng, rows: int):
    """Columns of every kind that a manifest may have, with values that are missing."""

    def some(make):
        return [make() if rng.random() < 0.9 else None for _ in range(rows)]

    columns = {
        "reference": some(lambda: f"{rng.integers(7)}.png"), "driving": some(lambda: f"{rng.integers(10**9)}.mp4"),
        "x": some(rng.normal), "is": some(lambda: bool(rng.integers(2))), "raw": some(lambda: rng.bytes(3)),
        "list": some(lambda: [1.0] * int(rng.integers(4))), "texts": some(lambda: ["é" * int(rng.integers(9))] * 2),
        "object": some(lambda: {"size": int(rng.integers(5)), "name": "q" * int(rng.integers(4))}),
        "objects": some(lambda: [{"a": "z", "b": None}]),
    }  # fmt: skip
    table = pa.table(columns)
    pairs = pa.array([[("key", "v" * 3)]] * rows, pa.map_(pa.string(), pa.string()))
    return table.append_column("map", pairs)


def test_rows_and_headers_of_random_tables(tmp_path, rng):
    """The rows are pyarrow's own; pages hold as many values as their column, and as many bytes as it says."""
    for rows in (1, 5, 100):
        options = dict(
            compression=str(rng.choice(["none", "snappy", "gzip", "zstd", "brotli", "lz4"])),
            use_dictionary=bool(rng.integers(2)), data_page_version=str(rng.choice(["1.0", "2.0"])),
            row_group_size=int(rng.choice([1, 7, 5000])), data_page_size=int(rng.choice([16, 300, 1 << 20])),
            write_statistics=bool(rng.integers(2)), write_page_checksum=bool(rng.integers(2)),
        )  # fmt: skip
        table, path = table_of(rng, rows), tmp_path / f"{rows}.parquet"
        pq.write_table(table, path, **options)
        assert list(rows_of(path)) == table.to_pylist(), options
        said = pq.read_metadata(path)
        groups = groups_of(_footer(path))
        assert [group.rows for group in groups] == [said.row_group(g).num_rows for g in range(said.num_row_groups)]
        with open(path, "rb") as file:
            for number, column in enumerate(groups[0].columns):
                chunk, found = said.row_group(0).column(number), decoded_pages(file, column)
                assert found.values == chunk.num_values, options
                assert 0 < found.bytes <= chunk.total_uncompressed_size, options  # which counts the headers, too


def lied(data: bytes, honest: int) -> bytes:
    """Its footer says of a large number that it is a small one, in as many bytes (Thrift's varints)."""

    def varint(value):
        found = b""
        while value >= 128:
            found, value = found + bytes([value & 127 | 128]), value >> 7
        return found + bytes([value])

    true = varint(honest << 1)
    low = varint(1 << 7 * (len(true) - 1))
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    assert len(low) == len(true)
    assert true in data[footer:]
    return data[:footer] + data[footer:].replace(true, low)


def test_a_footer_that_lies_is_not_believed(tmp_path, monkeypatch):
    """Texts of 256 KiB each, in some kilobytes, of which the footer says that they are small."""
    texts = [f"{i}" + "x" * (1 << 18) for i in range(12)]
    table = pa.table({"reference": ["a"] * 12, "driving": ["b"] * 12, "note": texts})
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", use_dictionary=False)
    group = pq.read_metadata(file).row_group(0)
    data = lied(file.getvalue(), group.total_byte_size)
    data = lied(data, group.column(2).total_uncompressed_size)
    (tmp_path / "m.parquet").write_bytes(data)
    assert pq.read_metadata(tmp_path / "m.parquet").row_group(0).total_byte_size < 1 << 21 < 12 << 18
    assert len(read_manifest(tmp_path / "m.parquet")) == 12
    monkeypatch.setattr(limits.LIMITS, "unpacked", 1 << 21)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("it is decoded"))
    with pytest.raises(ValueError, match=r"m.parquet must have at most 2097152 bytes"):
        read_manifest(tmp_path / "m.parquet")


@pytest.mark.parametrize("what", ["rows", "numbers", "texts"])
def test_what_repeats_is_counted(tmp_path, monkeypatch, what):
    """A run of equal rows, numbers or texts is a few bytes in the file, and whole objects in Python."""
    count = 300_000
    names = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(count if what == "rows" else 1, np.int32)), pa.array(["a"])
    )
    columns = {"reference": names, "driving": names}
    ends = pa.array([0, count], pa.int32())
    if what == "numbers":
        columns["list"] = pa.ListArray.from_arrays(ends, pa.array(np.zeros(count, np.int8)))
    if what == "texts":
        texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["x" * 10_000]))
        columns["list"] = pa.ListArray.from_arrays(ends, texts)
        monkeypatch.setattr(limits.LIMITS, "unpacked", 1 << 30)
    else:
        monkeypatch.setattr(limits.LIMITS, "unpacked", 1 << 23)
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    assert (tmp_path / "m.parquet").stat().st_size < 20_000
    with pytest.raises(ValueError, match=r"m.parquet must have at most \d+ bytes, but has"):
        list(rows_of(tmp_path / "m.parquet"))


COLUMN = Column(0, 1000, 5)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\x15\x00\x15\x02\x00", "has no sizes"),  # its type and one size
        (b"\x15\x00\x15\x01\x15\x02\x00", "has no sizes"),  # -1 bytes
        (b"\x1d" + bytes(20), "type 13, which there is not"),
        (b"\x1c" * 40, "nested too deeply"),  # structures in structures
        (b"\x19" * 2000, "nested too deeply"),  # lists in lists
        (b"\x15" + b"\xff" * 20, "more than 64 bits"),
    ],
)
def test_headers_that_are_damaged(header, message):
    with pytest.raises(ValueError, match=message):
        decoded_pages(io.BytesIO(header + bytes(50)), COLUMN)


def test_a_header_without_end(monkeypatch):
    monkeypatch.setattr("tpc_fast.datasets.pages._LONGEST", 1 << 12)
    long = b"\x18\xff\xff\x03"  # a text of 65,535 bytes
    with pytest.raises(ValueError, match="a header of more than 4096 bytes"):
        decoded_pages(io.BytesIO(long + bytes(1 << 17)), COLUMN)
    assert decoded_pages(io.BytesIO(long), COLUMN) == (0, 0)  # the file ends


def test_a_damaged_footer_does_not_end_the_process(tmp_path):
    """Of a column whose statistics are damaged pyarrow throws through Python, which aborts: nobody asks it for one."""
    pq.write_table(pa.table({"reference": ["a"] * 3, "driving": ["b"] * 3, "n": [1, 2, 3]}), tmp_path / "m.parquet")
    whole = (tmp_path / "m.parquet").read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    for place in range(len(whole) - 8 - length, len(whole) - 8, 7):
        for change in (1, 16):
            damaged = bytearray(whole)
            damaged[place] ^= change
            (tmp_path / "m.parquet").write_bytes(damaged)
            with contextlib.suppress(ValueError):
                read_manifest(tmp_path / "m.parquet")
    with pytest.raises(ValueError, match="description of row groups is damaged"):
        groups_of(whole[-8 - length : -8 - length // 2])
    with pytest.raises(ValueError, match="description of row groups is damaged"):
        groups_of(b"\x49\x15\x02\x00")  # a list of numbers in their place
