"""Photos of phones and large cameras, and pictures that move."""

import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from tpc_fast.media import images
from tpc_fast.media.images import load_image
from tpc_fast.media.limits import LIMITS
from tpc_fast.media.video import VideoReader

PHOTO = np.random.default_rng(3).integers(0, 256, (12, 16, 3), np.uint8).repeat(4, 0).repeat(4, 1)


def test_avif(tmp_path):
    Image.init()
    if "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow has no AVIF")
    Image.fromarray(PHOTO).save(tmp_path / "photo.jpg", "AVIF", quality=100, subsampling="4:4:4")
    assert_allclose(load_image(tmp_path / "photo.jpg")[0].astype(int), PHOTO, atol=6)


def test_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="extra 'heic' is not installed")
    heif.from_pillow(Image.fromarray(PHOTO)).save(tmp_path / "photo.heic", quality=-1)
    found, alpha = load_image(tmp_path / "photo.heic")
    assert_allclose(found.astype(int), PHOTO, atol=40)
    assert np.abs(found.astype(int) - PHOTO).mean() < 6  # colours at half the size
    assert alpha is None
    (tmp_path / "folder").mkdir()
    (tmp_path / "photo.heic").rename(tmp_path / "folder" / "0.heic")
    assert VideoReader(tmp_path / "folder").size == PHOTO.shape[:2]


def test_heic_without_what_reads_it(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    with pytest.raises(ValueError, match=r'HEIC picture, which needs pillow-heif: pip install "pillow-heif>=1"'):
        load_image(tmp_path / "photo.heic")
    monkeypatch.setattr(Image, "OPEN", {k: v for k, v in Image.OPEN.items() if k != "AVIF"})
    monkeypatch.setattr(Image, "init", lambda: True)
    (tmp_path / "photo.avif").write_bytes(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(64))
    with pytest.raises(ValueError, match=r"AVIF picture, which needs Pillow 11\.3 or later"):
        load_image(tmp_path / "photo.avif")
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    assert load_image(tmp_path / "photo.png")[0].shape == PHOTO.shape


def test_our_bound_of_pixels_is_the_one_that_counts(tmp_path, monkeypatch):
    assert LIMITS.pixels >= 200_000_000
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert load_image(tmp_path / "photo.png")[0].shape == PHOTO.shape
    assert Image.MAX_IMAGE_PIXELS == 10
    monkeypatch.setattr(LIMITS, "pixels", 100)
    with pytest.raises(
        ValueError, match=r"must have at most 100 pixels, but has 3072: .*raise the limit by TPC_FAST_L"
    ):
        load_image(tmp_path / "photo.png")


def test_pillows_bound_is_back_whoever_opens_what_at_once(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    before = Image.MAX_IMAGE_PIXELS
    threads = [threading.Thread(target=lambda: [load_image(tmp_path / "photo.png") for _ in range(20)]) for _ in "123"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Image.MAX_IMAGE_PIXELS == before


@pytest.mark.slow
def test_a_photo_of_200_megapixels(tmp_path):
    Image.new("L", (16384, 12288), 77).save(tmp_path / "photo.jpg")
    picture = load_image(tmp_path / "photo.jpg")[0]
    assert picture.shape == (12288, 16384, 3)
    assert picture[-1, -1].tolist() == [77] * 3


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_an_animation_is_a_video(tmp_path, suffix):
    frames = [np.roll(PHOTO, 4 * i, 1) for i in range(5)]
    times = [40, 80, 40, 0, 120]  # milliseconds
    first, *others = [Image.fromarray(frame) for frame in frames]
    path, lossless = tmp_path / f"film.{suffix}", {"lossless": True} if suffix == "webp" else {}
    first.save(path, save_all=True, append_images=others, duration=times, **lossless)
    reader = VideoReader(path)
    assert reader.count == 5
    assert reader.size == PHOTO.shape[:2]
    assert reader.warnings == []
    found = list(reader)
    assert [(f.image == frame).all() for f, frame in zip(found, frames, strict=True)] == [True] * 5
    assert_allclose([f.time for f in found], [0, 0.04, 0.12, 0.16, 0.26], atol=2e-3)
    assert reader.fps == pytest.approx(5 / 0.38, rel=1e-2)
    assert [f.time for f in VideoReader(path, fps=10)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    part = list(VideoReader(path, frames=slice(2, 4)))
    assert [f.time for f in part] == [f.time for f in found[2:4]]
    assert (part[0].image == frames[2]).all()


def test_too_many_frames_of_an_animation(tmp_path, monkeypatch):
    first, *others = [Image.fromarray(np.roll(PHOTO, 4 * i, 1)) for i in range(3)]
    first.save(tmp_path / "film.webp", save_all=True, append_images=others)
    monkeypatch.setattr(LIMITS, "frames", 2)
    with pytest.raises(ValueError, match="must have at most 2 frames, but has 3"):
        VideoReader(tmp_path / "film.webp")


def test_a_picture_that_stands_still_is_a_video_of_one_frame(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.webp")
    reader = VideoReader(tmp_path / "photo.webp")
    assert reader.count == 1
    assert "is a picture: a video of one frame" in reader.warnings[0]
    (tmp_path / "no.webp").write_text("no picture")
    with pytest.raises(ValueError, match="no picture of a format that is read here"):
        VideoReader(tmp_path / "no.webp")


def test_formats_are_named():
    assert {"AVIF", "HEIF"} <= set(images.FORMATS)
