"""PNG files: whatever the pixels, other decoders read them back; the core at every SIMD level, and igzip without it."""

import io
import os
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tpc_fast import _native
from tpc_fast.media.png import encode_png, write_png


def decode(file: bytes) -> np.ndarray:
    """By libpng, and the checksums of the pixels by zlib (libpng may let them pass)."""
    start = file.index(b"IDAT")
    end = start + 4 + int.from_bytes(file[start - 4 : start], "big")
    zlib.decompress(file[start + 4 : end])
    assert int.from_bytes(file[end : end + 4], "big") == zlib.crc32(file[start:end])
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image)


def as_rgb(picture: np.ndarray) -> np.ndarray:
    return np.repeat(picture[..., None], 3, 2)


@pytest.fixture
def without_core(monkeypatch):
    monkeypatch.setattr(_native, "core", lambda: None)


def pictures_of_all_kinds(rng):
    """Noise, steps, flat areas, masks; rows around the lengths at which runs and pieces end."""
    for height, width in ((1, 1), (1, 700), (130, 1), (65, 86), (3, 683), (70, 2050), (200, 31)):
        shape = height, width, 3
        noise = rng.integers(0, 256, shape, np.uint8)
        yield noise
        yield np.cumsum(rng.integers(-3, 4, shape), 1).astype(np.uint8)
        yield np.where(rng.random((height, width, 1)) < 0.97, 0, noise).astype(np.uint8)
        yield np.full(shape, rng.integers(0, 256), np.uint8)
        inside = np.hypot(*np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]) < rng.random()
        yield np.where(inside[..., None], noise, 0).astype(np.uint8)
        yield np.where(inside[..., None], 255, 0).astype(np.uint8).repeat(3, 2)
        yield noise * (np.arange(height) % 3 == 1)[:, None, None]


def test_every_simd_level(simd, rng):
    for picture in pictures_of_all_kinds(rng):
        assert np.array_equal(decode(encode_png(picture)), picture)
        grey = np.ascontiguousarray(picture[..., 0])
        assert np.array_equal(decode(encode_png(grey)), grey)
        assert np.array_equal(decode(encode_png(grey, rgb=True)), as_rgb(grey))


def test_levels_agree(rng):
    """The bytes of a file do not depend on the processor."""
    core = _native.core()
    if core is None:
        pytest.skip("no compiled core")
    for picture in pictures_of_all_kinds(rng):
        files = set()
        for level in core.simd_levels():
            core.force_simd(level)
            files.add(encode_png(picture))
        assert len(files) == 1


def test_without_the_core(without_core, rng):
    for picture in pictures_of_all_kinds(rng):
        assert np.array_equal(decode(encode_png(picture)), picture)
        assert np.array_equal(decode(encode_png(picture[..., 0])), picture[..., 0])
        assert np.array_equal(decode(encode_png(picture[..., 0], rgb=True)), as_rgb(picture[..., 0]))


@given(
    picture=st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([(), (3,)])).flatmap(
        lambda s: arrays(np.uint8, (s[0], s[1], *s[2]))
    ),
    rgb=st.booleans(),
)
def test_round_trip(picture, rgb):
    expected = as_rgb(picture) if rgb and picture.ndim == 2 else picture
    assert np.array_equal(decode(encode_png(picture, rgb)), expected)


@pytest.mark.native
def test_rows_unlike_the_sampled_ones(rng):
    """Codes are made from some rows: pictures whose other rows are of rare values get long, and still fit."""
    core = _native.core()
    picture = np.zeros((640, 300), np.uint8)
    picture[np.arange(640) % 10 != 0] = rng.integers(1, 256, (576, 300))
    stream, size = core.deflate_picture(picture, True)
    assert picture.size * 3 < size <= len(stream) - 8
    assert np.array_equal(decode(encode_png(picture, rgb=True)), as_rgb(picture))


def test_a_view_is_written_as_it_looks(tmp_path, rng):
    picture = rng.integers(0, 256, (30, 40, 4), np.uint8)[::2, ::-1, :3]
    write_png(tmp_path / "p.png", picture)
    assert np.array_equal(decode((tmp_path / "p.png").read_bytes()), picture)


def test_what_the_system_takes_in_parts_is_written_whole(tmp_path, monkeypatch, rng):
    picture, write = rng.integers(0, 256, (30, 40, 3), np.uint8), os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:1000]))
    (tmp_path / "p.png").write_bytes(bytes(10_000))  # longer than the picture
    write_png(tmp_path / "p.png", picture)
    assert (tmp_path / "p.png").read_bytes() == encode_png(picture)


def test_a_picture_that_cannot_be_written_says_where(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        write_png(tmp_path / "none" / "p.png", np.zeros((2, 2), np.uint8))
    assert str(error.value.filename) == str(tmp_path / "none" / "p.png")


def test_large_noise(rng):
    picture = rng.integers(0, 256, (700, 900, 3), np.uint8)  # deflating can only make it longer
    file = encode_png(picture)
    assert np.array_equal(decode(file), picture)
    assert len(file) < 1.03 * picture.size


def test_files_are_small():
    mask = np.zeros((512, 512), np.uint8)
    mask[100:400, 150:350] = 255
    assert len(encode_png(mask, rgb=True)) < 5000
    ramp = np.add.outer(np.arange(256), np.arange(256)).astype(np.uint8)
    assert len(encode_png(ramp)) < 0.2 * ramp.size


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 4, 1), (4,)])
def test_shape(shape):
    with pytest.raises(ValueError, match=r"array must be uint8 \[H, W\] or \[H, W, 3\]"):
        encode_png(np.zeros(shape, np.uint8))


def test_dtype():
    with pytest.raises(ValueError, match=r"array must be uint8.*float64"):
        encode_png(np.zeros((4, 4)))


def test_empty():
    with pytest.raises(ValueError, match="array must have pixels"):
        encode_png(np.zeros((0, 4), np.uint8))
