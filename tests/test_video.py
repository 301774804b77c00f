"""Pictures and videos: what is read is upright, in order, on time; what cannot be read is said."""

import gc
import os
import subprocess
import sys
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tpc_fast import _native
from tpc_fast.media.images import load_image, scale
from tpc_fast.media.video import VideoReader, VideoWriter, prefetch
from tpc_fast.naive.pictures import rgb_to_yuv

ARROW = np.zeros((48, 64, 3), np.uint8)  # not symmetric: each quarter is one colour
ARROW[:24, :32], ARROW[:24, 32:], ARROW[24:, :32] = (220, 30, 30), (30, 220, 30), (30, 30, 220)


def clip(count, height=48, width=64):
    """Frames whose grey level tells their number."""
    return [np.full((height, width, 3), 20 + (7 * i) % 200, np.uint8) for i in range(count)]


def numbers(frames):
    return [round((float(f.image.mean()) - 20) / 7) for f in frames]


def encode(path, frames, times=None, rate=30, rotation=0, aspect=None, container=None, **options):
    """Writes a video with PyAV itself; `times` in seconds, `rotation` clockwise."""
    options = {"crf": "10", **options}
    ticks = 1 if path.suffix == ".avi" else 1000  # per frame; AVI has no times, only frames
    with av.open(str(path), "w", format=container, options={"movflags": "+faststart"}) as file:
        stream = file.add_stream("libx264", rate, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, ticks * rate)
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base = Fraction(1, ticks * rate)
            frame.pts = round((i / rate if times is None else times[i]) * ticks * rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


# Pictures


def saved(tmp_path, image, name="picture.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_rgb_file(tmp_path, rng):
    pixels = rng.integers(0, 256, (5, 7, 3), np.uint8)
    rgb, alpha = load_image(saved(tmp_path, Image.fromarray(pixels)))
    assert np.array_equal(rgb, pixels)
    assert alpha is None


def test_grey_file(tmp_path, rng):
    pixels = rng.integers(0, 256, (5, 7), np.uint8)
    rgb, alpha = load_image(str(saved(tmp_path, Image.fromarray(pixels))))
    assert np.array_equal(rgb, np.repeat(pixels[..., None], 3, 2))
    assert alpha is None


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_channel(tmp_path, rng, mode):
    pixels = rng.integers(0, 256, (5, 7, len(mode)), np.uint8)
    rgb, alpha = load_image(saved(tmp_path, Image.fromarray(pixels, mode)))
    assert np.array_equal(alpha, pixels[..., -1])
    assert np.array_equal(rgb[..., 0], pixels[..., 0])


def test_opaque_alpha_says_nothing():
    rgba = np.full((4, 4, 4), 255, np.uint8)
    assert load_image(Image.fromarray(rgba))[1] is None
    assert load_image(rgba)[1] is None


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette([200, 10, 20, 0, 0, 0])
    rgb, alpha = load_image(saved(tmp_path, image, transparency=1))
    assert rgb[0, 0].tolist() == [200, 10, 20]
    assert alpha.tolist() == [[255, 0], [0, 255]]


def test_sixteen_bit_grey_is_scaled(tmp_path):
    levels = np.array([[0, 257, 128 * 257], [65535, 300, 10]], np.uint16)
    rgb, _ = load_image(saved(tmp_path, Image.fromarray(levels)))
    assert rgb[..., 0].tolist() == [[0, 1, 128], [255, 1, 0]]


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    rgb, _ = load_image(saved(tmp_path, image, "red.jpg", quality=95))
    assert abs(rgb.astype(int) - (255, 0, 0)).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    stored_as = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    upright = Image.fromarray(ARROW)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if stored_as is None else upright.transpose(stored_as)
    assert np.array_equal(load_image(saved(tmp_path, stored, exif=exif))[0], ARROW)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (3, 5, 3), (3, 5, 4)])
def test_arrays(rng, shape):
    array = rng.integers(0, 255, shape, np.uint8)
    rgb, alpha = load_image(array)
    assert rgb.shape == (3, 5, 3)
    assert np.array_equal(rgb[..., 0], array if array.ndim == 2 else array[..., 0])
    assert (alpha is None) == (shape[-1] != 4)


def test_sixteen_bit_array():
    assert load_image(np.full((2, 2, 3), 65535, np.uint16))[0].max() == 255


@pytest.mark.torch
def test_tensor():
    import torch

    assert np.array_equal(load_image(torch.from_numpy(ARROW))[0], ARROW)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_in_0_to_1_are_taken(dtype):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(load_image((levels / 255).astype(dtype))[0][..., 0], levels)
    assert np.array_equal(load_image((levels / 255 * 1.001).astype(dtype))[0][..., 0], levels)


@pytest.mark.parametrize("value", [1.01, -0.01, 200.0, np.nan])
def test_other_floats_are_refused(value):
    with pytest.raises(ValueError, match=r"photo must be in 0\.\.1 where it is floats, but is .*float64"):
        load_image(np.full((4, 4, 3), value), "photo")


def test_channels_first_is_refused_with_advice():
    with pytest.raises(ValueError, match="channels last"):
        load_image(np.zeros((3, 40, 50), np.uint8))


def test_empty_array():
    with pytest.raises(ValueError, match=r"reference must have pixels.*\(0, 5, 3\)"):
        load_image(np.zeros((0, 5, 3), np.uint8))


def test_float_picture(tmp_path):
    with pytest.raises(ValueError, match="floats"):
        load_image(saved(tmp_path, Image.fromarray(np.zeros((4, 4), np.float32)), "x.tif"))


def test_missing_picture(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"reference: there is no file .*none\.png"):
        load_image(tmp_path / "none.png")


def test_folder_as_picture(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        load_image(tmp_path)


def test_not_a_picture(tmp_path):
    (tmp_path / "notes.png").write_text("hello")
    with pytest.raises(ValueError, match=r"reference: .*notes\.png cannot be read: it is no picture"):
        load_image(tmp_path / "notes.png")


def test_truncated_picture(tmp_path, rng):
    path = saved(tmp_path, Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"picture\.png cannot be read"):
        load_image(path)


def test_wrong_kind_of_picture():
    with pytest.raises(TypeError, match="reference must be a path, a PIL image or an array, but is int 3"):
        load_image(3)


# Videos from files


def test_file(tmp_path):
    reader = VideoReader(encode(tmp_path / "v.mp4", clip(20)))
    frames = list(reader)
    assert (reader.size, reader.fps, reader.count, reader.warnings) == ((48, 64), 30.0, 20, [])
    assert numbers(frames) == list(range(20))
    assert np.allclose([f.time for f in frames], np.arange(20) / 30)
    assert frames[0].image.dtype == np.uint8


def test_iterates_again(tmp_path):
    reader = VideoReader(encode(tmp_path / "v.mp4", clip(6)))
    first = iter(reader)
    next(first)
    assert numbers(reader) == numbers(reader) == list(range(6))


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(tmp_path, rotation):
    path = encode(tmp_path / "v.mp4", [ARROW] * 3, rotation=rotation)
    with av.open(str(path)) as file:
        turned = np.rot90(ARROW, next(file.decode(video=0)).rotation // 90)
    assert not np.array_equal(turned, ARROW)
    reader = VideoReader(path)
    image = next(iter(reader)).image
    assert image.shape == turned.shape == (*reader.size, 3)
    assert np.abs(image.astype(int) - turned).mean() < 6


def test_variable_frame_rate_keeps_its_times(tmp_path):
    times = [0, 0.1, 0.15, 0.6, 0.62, 1.5]
    reader = VideoReader(encode(tmp_path / "v.mp4", clip(6), times=times))
    assert np.allclose([f.time for f in reader], times, atol=1e-4)
    assert numbers(reader) == list(range(6))


def test_start_time_is_subtracted(tmp_path):
    path = encode(tmp_path / "v.ts", clip(5), times=[9 + i / 30 for i in range(5)], container="mpegts")
    assert np.allclose([f.time for f in VideoReader(path)], np.arange(5) / 30, atol=1e-3)


def test_pixels_become_square(tmp_path):
    reader = VideoReader(encode(tmp_path / "v.mp4", clip(3), aspect=Fraction(3, 2)))
    assert reader.size == (48, 96)


@pytest.mark.parametrize("source", ["file", "rotated file", "pictures"])
def test_frames_are_scaled_and_the_size_is_theirs(tmp_path, source):
    """As they are decoded, after a rotation; `size` is that of the source."""
    frames = [ARROW] * 3
    if source != "pictures":
        frames = encode(tmp_path / "v.mp4", frames, rotation=90 if source == "rotated file" else 0)
    whole = VideoReader(frames)
    reader = VideoReader(frames, scale_to=(20, 30))
    assert reader.size == whole.size
    scaled = [f.image for f in reader]
    assert [image.shape for image in scaled] == [(20, 30, 3)] * 3
    first = next(iter(whole)).image
    for y, x in ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)):  # the middles of the quarters
        small, large = (p[int(y * p.shape[0]), int(x * p.shape[1])].astype(int) for p in (scaled[0], first))
        assert abs(small - large).max() <= 8


def test_given_fps_replaces_times(tmp_path):
    path = encode(tmp_path / "v.mp4", clip(4), times=[0, 0.1, 0.15, 0.6])
    reader = VideoReader(path, fps=10)
    assert [f.time for f in reader] == [0, 0.1, 0.2, 0.3]
    assert reader.fps == 10


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("chosen", [slice(0, 5), slice(33, 41), slice(57, None), slice(3, 50, 9), slice(None)])
def test_chosen_frames(tmp_path, suffix, chosen):
    path = encode(tmp_path / f"v.{suffix}", clip(60), g="25", bf="2")
    every = list(VideoReader(path))
    reader = VideoReader(path, frames=chosen)
    some = list(reader)
    assert len(every) == 60
    assert reader.count in (len(some), None)
    assert np.allclose([f.time for f in some], [f.time for f in every[chosen]], atol=1e-6)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(some, every[chosen], strict=True))
    assert reader.warnings == []


def test_chosen_frames_end_decoding(tmp_path, monkeypatch):
    path = encode(tmp_path / "v.mp4", clip(200), g="20")
    decoded = []
    import tpc_fast.media.video as video

    original = video._decoded
    monkeypatch.setattr(video, "_decoded", lambda *a: (decoded.append(f) or f for f in original(*a)))
    reader = VideoReader(path, frames=slice(150, 155))
    decoded.clear()
    assert len(list(reader)) == 5
    assert len(decoded) <= 20 + 5


def test_one_frame(tmp_path):
    reader = VideoReader(encode(tmp_path / "v.mp4", clip(1)))
    assert numbers(reader) == [0]


def test_more_than_a_thousand_frames(tmp_path):
    reader = VideoReader(encode(tmp_path / "v.mp4", clip(1100, 16, 16), preset="ultrafast"))
    assert reader.count == 1100
    assert sum(1 for _ in reader) == 1100


def test_cut_off_mp4_is_used_and_said(tmp_path, rng):
    noise = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(40)]
    path = encode(tmp_path / "v.mp4", noise, g="5")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader = VideoReader(path)
    frames = list(reader)
    assert 10 <= len(frames) < 40
    assert any(f"{len(frames)} of its 40 frames" in w for w in reader.warnings)
    again = list(reader.warnings)
    list(reader)
    assert reader.warnings == again


def test_cut_off_matroska_is_used_and_said(tmp_path, rng):
    noise = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(60)]
    path = encode(tmp_path / "v.mkv", noise, g="5")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    reader = VideoReader(path)
    assert 5 <= len(list(reader)) < 60
    assert any("cut off" in w for w in reader.warnings)


def test_damage_in_the_middle_is_survived(tmp_path, rng):
    noise = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(40)]
    path = encode(tmp_path / "v.ts", noise, container="mpegts", g="5")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20000] = rng.integers(0, 256, 20000, np.uint8).tobytes()
    path.write_bytes(data)
    reader = VideoReader(path)
    assert 20 <= len(list(reader)) <= 40
    assert any("damaged" in w for w in reader.warnings)


def test_mp4_without_its_index(tmp_path, rng):
    path = encode(tmp_path / "v.mp4", clip(10))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"driving: .*v\.mp4 (is not a video|has no video)"):
        VideoReader(path)


def test_missing_video(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"driving: there is no file or folder .*none\.mp4"):
        VideoReader(tmp_path / "none.mp4")


def test_empty_video(tmp_path):
    (tmp_path / "v.mp4").touch()
    with pytest.raises(ValueError, match="is empty"):
        VideoReader(tmp_path / "v.mp4")


@pytest.mark.parametrize("name", ["v.mp4", "notes.txt"])  # FFmpeg would play a .txt as a film
def test_not_a_video(tmp_path, name):
    (tmp_path / name).write_text("no film\n" * 1000)
    with pytest.raises(ValueError, match=f"driving: .*{name}"):
        VideoReader(tmp_path / name)


def test_sound_without_video(tmp_path):
    path = tmp_path / "sound.m4a"
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("aac", 44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(ValueError, match="has no video in it"):
        VideoReader(path)


def test_choice_beyond_the_end(tmp_path):
    path = encode(tmp_path / "v.mp4", clip(10))
    with pytest.raises(ValueError, match="has 10 frames, none of the chosen ones"):
        VideoReader(path, frames=slice(10, 20))


@pytest.mark.parametrize("frames", [slice(-3, None), slice(5, 2), slice(0, 9, 0), slice(0, 9, -1), slice(0.5, 2)])
def test_senseless_choice(frames):
    with pytest.raises(ValueError, match="frames must"):
        VideoReader(clip(10), frames=frames)


def test_choice_that_is_no_slice():
    with pytest.raises(TypeError, match="frames must be a slice, but is tuple"):
        VideoReader(clip(10), frames=(0, 3))


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_senseless_fps(fps):
    with pytest.raises(ValueError, match="fps must be a positive number"):
        VideoReader(clip(2), fps=fps)


# Videos from pictures


@pytest.mark.parametrize("kind", [np.stack, list, lambda c: [Image.fromarray(f) for f in c]])
def test_pictures(kind):
    reader = VideoReader(kind(clip(5)), fps=25)
    assert (reader.size, reader.fps, reader.count) == ((48, 64), 25.0, 5)
    assert numbers(reader) == numbers(reader) == list(range(5))
    assert [f.time for f in reader] == [i / 25 for i in range(5)]


def test_chosen_pictures():
    reader = VideoReader(clip(20), frames=slice(4, 15, 5))
    assert numbers(reader) == [4, 9, 14]
    assert (reader.count, reader.fps) == (3, 6.0)
    assert [f.time for f in reader] == [4 / 30, 9 / 30, 14 / 30]


def test_iterator_serves_once():
    reader = VideoReader(iter(clip(5)), frames=slice(1, 4))
    assert reader.count is None
    assert numbers(reader) == [1, 2, 3]
    with pytest.raises(ValueError, match="iterator, which can be read only once"):
        iter(reader)


def test_an_iterator_may_fill_one_array_again_and_again():
    buffer = np.empty_like(clip(1)[0])

    class Camera:
        def __iter__(self):
            for image in clip(5):
                buffer[:] = image
                yield buffer

    assert numbers(list(VideoReader(iter(Camera())))) == [0, 1, 2, 3, 4]
    assert numbers(list(VideoReader(Camera()))) == [0, 1, 2, 3, 4]


@pytest.mark.torch
def test_video_tensor():
    import torch

    assert numbers(VideoReader(torch.from_numpy(np.stack(clip(3))))) == [0, 1, 2]


def test_folder_in_natural_order(tmp_path):
    for i, image in enumerate(clip(12)):
        Image.fromarray(image).save(tmp_path / f"f{i}.png")
    (tmp_path / "notes.txt").write_text("x")
    reader = VideoReader(tmp_path)
    assert reader.count == 12
    assert numbers(reader) == list(range(12))


def test_folder_whose_names_have_other_digits(tmp_path):
    for name in ("٣1.png", "1٣.png", "٣.png"):
        Image.fromarray(clip(1)[0]).save(tmp_path / name)
    assert numbers(VideoReader(tmp_path)) == [0, 0, 0]


def test_folder_without_pictures(tmp_path):
    with pytest.raises(ValueError, match="has no pictures"):
        VideoReader(tmp_path)


def test_pictures_of_different_sizes():
    with pytest.raises(ValueError, match="frame 1 is 64 x 50 and those before it are 64 x 48"):
        list(VideoReader([*clip(1), *clip(1, 50)]))


def test_no_pictures():
    with pytest.raises(ValueError, match="driving: the sequence has no frames"):
        VideoReader([])


def test_one_picture_is_no_video():
    with pytest.raises(ValueError, match=r"driving must be \[F, H, W, 3\].*driving\[None\]"):
        VideoReader(ARROW)


def test_float_video():
    frames = np.stack([np.full((8, 8, 3), share) for share in (0, 0.2, 1)])
    assert [frame.image.max() for frame in VideoReader(frames)] == [0, 51, 255]
    with pytest.raises(ValueError, match=r"driving\[0\] must be in 0\.\.1"):
        VideoReader(2 + frames)


def test_wrong_kind_of_video():
    with pytest.raises(TypeError, match="driving must be a path, an array or an iterable"):
        VideoReader(7)


# Writing


def test_written_video(tmp_path):
    path = tmp_path / "v.mp4"
    with VideoWriter(path, 29.97, (48, 64)) as writer:
        for image in clip(10):
            writer.write(image)
    reader = VideoReader(path)
    assert reader.fps == pytest.approx(29.97)
    assert numbers(reader) == list(range(10))
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    assert path.read_bytes().find(b"moov") < path.read_bytes().find(b"mdat")  # plays while it loads
    assert os.listdir(tmp_path) == ["v.mp4"]


def test_written_colours(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", 30, ARROW.shape[:2]) as writer:
        writer.write(ARROW)
    image = next(iter(VideoReader(tmp_path / "v.mp4"))).image
    assert np.abs(image.astype(int) - ARROW).mean() < 5


def test_a_written_video_says_what_its_colours_mean(tmp_path):
    """BT.709 in limited range: 1 in ITU-T H.273 (primaries, transfer, matrix), and FFmpeg's AVCOL_RANGE_MPEG."""
    with VideoWriter(tmp_path / "v.mp4", 30, ARROW.shape[:2]) as writer:
        writer.write(ARROW)
    with av.open(str(tmp_path / "v.mp4")) as file:
        codec = file.streams.video[0].codec_context
        assert (codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range) == (1, 1, 1, 1)


def test_odd_size_is_padded(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", 30, (33, 47)) as writer:
        writer.write(ARROW[:33, :47])
    image = next(iter(VideoReader(tmp_path / "v.mp4"))).image
    assert image.shape == (34, 48, 3)
    assert np.abs(image[:33, :47].astype(int) - ARROW[:33, :47]).mean() < 5


def test_grey_frames_and_scale(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", 30, (40, 60), scale=0.5) as writer:
        writer.write(np.full((40, 60), 90, np.uint8))
    image = next(iter(VideoReader(tmp_path / "v.mp4"))).image
    assert image.shape == (20, 30, 3)
    assert np.abs(image.astype(int) - 90).max() <= 3


@pytest.mark.native
@pytest.mark.parametrize("size", [(16, 130), (15, 129)], ids=str)
@pytest.mark.parametrize("channels", [(), (3,)], ids=str)
def test_converted_before(tmp_path, rng, size, channels):
    """What `convert` makes is the naive twin's; odd sides are repeated. FFmpeg's own, without the core, is near it."""
    picture = scale(rng.integers(0, 256, (2, 4, *channels), np.uint8), size)  # smooth, as chroma is not placed alike
    even = np.pad(picture, [(0, size[0] % 2), (0, size[1] % 2), (0, 0)][: picture.ndim], mode="edge")
    with VideoWriter(tmp_path / "v.mp4", 30, size) as writer:
        frame = writer.convert(picture)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_native, "core", lambda: None)
            other = writer.convert(picture)
        writer.write(frame)
    assert len(list(VideoReader(tmp_path / "v.mp4"))) == 1
    for plane, near, true in zip(frame.planes, other.planes, rgb_to_yuv(even), strict=True):
        plane, near = (np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in (plane, near))
        assert np.abs(plane.astype(int) - true).max() <= 1
        assert np.abs(near.astype(int) - true).mean() <= 1  # swscale makes 127 of no chroma


def test_threads_of_the_encoder(tmp_path):
    """x264 writes its settings into the file."""
    with VideoWriter(tmp_path / "v.mp4", 30, (64, 64), threads=1) as writer:
        writer.write(np.zeros((64, 64), np.uint8))
    assert b" threads=1 " in (tmp_path / "v.mp4").read_bytes()


def test_written_times(tmp_path):
    times = [0, 0.1, 0.5, 0.52]
    with VideoWriter(tmp_path / "v.mp4", 30, (16, 16)) as writer:
        for image, at in zip(clip(4, 16, 16), times, strict=True):
            writer.write(image, at)
    assert np.allclose([f.time for f in VideoReader(tmp_path / "v.mp4")], times, atol=1e-4)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error(tmp_path, error):
    (tmp_path / "v.mp4").write_bytes(b"before")

    def fail():
        with VideoWriter(tmp_path / "v.mp4", 30, (16, 16)) as writer:
            writer.write(clip(1, 16, 16)[0])
            raise error

    with pytest.raises(error):
        fail()
    assert os.listdir(tmp_path) == ["v.mp4"]
    assert (tmp_path / "v.mp4").read_bytes() == b"before"


def test_nothing_is_left_where_a_video_cannot_be_begun_or_named(tmp_path, monkeypatch):
    """x264 refuses a preset that it does not know; a folder has the video's name; a writer is dropped."""
    with pytest.raises(av.FFmpegError), VideoWriter(tmp_path / "v.mp4", 30, (16, 16), preset="none") as writer:
        writer.write(clip(1, 16, 16)[0])
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        VideoWriter(tmp_path / "v.mp4", 30, (16, 16))
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []
    (tmp_path / "v.mp4").mkdir()
    with pytest.raises(IsADirectoryError), VideoWriter(tmp_path / "v.mp4", 30, (16, 16)) as writer:
        writer.write(clip(1, 16, 16)[0])
    assert os.listdir(tmp_path) == ["v.mp4"]
    VideoWriter(tmp_path / "w.mp4", 30, (16, 16)).write(clip(1, 16, 16)[0])
    gc.collect()
    assert os.listdir(tmp_path) == ["v.mp4"]


def test_video_without_frames_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="no frame was written"), VideoWriter(tmp_path / "v.mp4", 30, (16, 16)):
        pass
    assert os.listdir(tmp_path) == []


def test_frame_of_another_size(tmp_path):
    with (
        pytest.raises(ValueError, match=r"image must be uint8 of shape \(16, 16, 3\)"),
        VideoWriter(tmp_path / "v.mp4", 30, (16, 16)) as writer,
    ):
        writer.write(ARROW)


def test_video_in_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        VideoWriter(tmp_path / "none" / "v.mp4", 30, (16, 16))


def test_disk_runs_full(tmp_path):
    """A limit on the size of files fails writes as a full disk does, without needing one."""
    script = """
import resource, sys
import numpy as np
from tpc_fast.media.video import VideoWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
rng = np.random.default_rng(0)
try:
    with VideoWriter(sys.argv[1], 30, (128, 128)) as writer:
        for _ in range(60):
            writer.write(rng.integers(0, 256, (128, 128, 3), np.uint8))
except OSError as error:
    print("refused:", error)
"""
    run = [sys.executable, "-c", script, str(tmp_path / "v.mp4")]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.startswith("refused:"), done.stderr
    assert os.listdir(tmp_path) == []


# Prefetching


@pytest.fixture
def workers():
    """Gives the threads of the test that live; one of an earlier test may wait for the garbage collector."""
    before = threading.enumerate()
    return lambda: [t for t in threading.enumerate() if t.name == "tpc_fast.prefetch" and t not in before]


def test_prefetch_keeps_order(workers):
    assert list(prefetch(range(100), depth=3)) == list(range(100))
    assert workers() == []


def test_prefetch_runs_ahead_but_not_far(workers):
    made = []

    def source():
        for i in range(50):
            made.append(i)
            yield i

    items = prefetch(source(), depth=4)
    next(items)
    deadline = time.monotonic() + 120
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 5  # the one that was taken, and four ahead
    items.close()
    assert workers() == []


def test_prefetch_passes_errors_on(workers):
    def source():
        yield 1
        raise KeyError("broken")

    items = prefetch(source())
    assert next(items) == 1
    with pytest.raises(KeyError, match="broken"):
        next(items)
    assert workers() == []


def test_closing_prefetch_closes_its_source(workers):
    closed = threading.Event()

    def source():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    items = prefetch(source())
    next(items)
    items.close()
    assert closed.is_set()
    assert workers() == []


def test_prefetch_depth():
    with pytest.raises(ValueError, match="depth must be at least 1, but is 0"):
        prefetch([], depth=0)


@pytest.mark.parametrize("name", ["clip.ts", "clip.mpg", "clip.flv", "clip.mkv", "clip.mp4"])
@pytest.mark.parametrize("start", [1, 13, 50, 97])
def test_frames_are_the_chosen_ones_in_every_container(tmp_path, name, start):
    """Some containers seek to a key frame after the place they are told."""
    path = tmp_path / name
    codec = "mpeg2video" if name.endswith("mpg") else "libx264"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 25
        for i in range(100):
            bits = np.array([i >> bit & 1 for bit in range(8)], np.uint8) * 255
            picture = np.broadcast_to(bits.repeat(8)[None, :, None], (48, 64, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    stripes = [frame.image[:, 4::8].mean((0, 2)) > 128 for frame in VideoReader(path, frames=slice(start, start + 3))]
    assert [int(bits @ (1 << np.arange(8))) for bits in stripes] == [start, start + 1, start + 2]


def test_a_picture_is_a_video_of_one_frame(tmp_path, rng):
    picture = rng.integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "one.png")
    reader = VideoReader(tmp_path / "one.png")
    expected = f"driving: {tmp_path / 'one.png'} is a picture: a video of one frame; did you swap photo and video?"
    assert reader.warnings == [expected]
    assert reader.count == 1
    (frame,) = reader
    np.testing.assert_array_equal(frame.image, picture)
