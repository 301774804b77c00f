"""Files of strangers: what is read is data in known formats, bounded before it is allocated; errors are ValueErrors."""

import contextlib
import io
import json
import logging
import os
import struct
import sys
import zipfile

import av
import numpy as np
import pytest
from PIL import Image
from test_layout import make_calibration

from tpc_fast import Calibration, _checks
from tpc_fast.cli.main import main
from tpc_fast.cli.terminal import log_messages
from tpc_fast.evaluation.clips import find_clips, folder_name
from tpc_fast.media import limits, png, video
from tpc_fast.media.files import OutputFolder
from tpc_fast.media.images import load_image
from tpc_fast.media.reading import read_npz, reading
from tpc_fast.media.sound import Sound
from tpc_fast.media.video import VideoReader, VideoWriter
from tpc_fast.output.pose_video import dense_arrays
from tpc_fast.pose import load_keypoints
from tpc_fast.pose.files import read as read_files
from tpc_fast.pose.files.detections import load_detections
from tpc_fast.pose.files.given import given_mask, load_masks

READERS = {"keypoints": load_keypoints, "detections": load_detections, "masks": load_masks}


def film(path, sizes=((48, 64),), count=5, codec="libx264", title=None, container=None):
    """A video whose frames have these sizes, one after the other; raw H.264 may change them."""
    parts = []
    for height, width in sizes:
        with av.open(str(path), "w", format=container) as file:
            if title:
                file.metadata["title"] = title
            stream = file.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            ramp = np.add.outer(np.arange(height), np.arange(width))[..., None].repeat(3, -1).astype(np.uint8)
            for _ in range(count):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(ramp, format="rgb24")))
            file.mux(stream.encode(None))
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))
    return path


def bomb(path, name="junk", shape=(1 << 20, 1 << 12), held=1 << 16, **arrays):
    """An .npz file with a field that says it is of 4 GiB, beside real ones."""
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(f"{name}.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.write(bytes(held))
    return path


def display_matrix(path, matrix):
    """Writes (a, b, c, d) into the track header of an MP4 file."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (int(value * 65536) for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


# Formats


def test_a_picture_that_is_a_program_is_not_run(tmp_path, monkeypatch):
    """PostScript named .png: Pillow would hand it to the first `gs` on the path."""
    called = tmp_path / "called"
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch {called}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    photo = tmp_path / "photo.png"
    photo.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ValueError, match=r"reference: .*photo\.png cannot be read: it is no picture of a format"):
        load_image(photo)
    assert not called.exists()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif", "ppm", "gif"])
def test_formats_of_pictures(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.full((8, 9, 3), 200, np.uint8)).save(path)
    assert abs(load_image(path)[0].astype(int) - 200).max() < 4


@pytest.mark.parametrize("name", ["take:2.mp4", "cache:x.mp4", "concat:a|b.mp4", "file:x.mp4", "%03d.mp4", "-i.mp4"])
def test_names_are_names_and_no_addresses(tmp_path, monkeypatch, name):
    film(tmp_path / "plain.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert sum(1 for _ in VideoReader(name)) == 5


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile other.mp4\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 18766 RTP/AVP 96\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period></Period></MPD>',
        "this is no video\n" * 50,
    ],
)
def test_playlists_and_text_are_no_videos(tmp_path, text):
    film(tmp_path / "other.mp4")
    film(tmp_path / "other.ts")
    path = tmp_path / "clip.mp4"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"driving: .*clip\.mp4 (is not a video|has no video)"):
        VideoReader(path)


def test_titles_in_latin_1(tmp_path):
    path = film(tmp_path / "a.avi", codec="mpeg4", title="CafZ")
    path.write_bytes(path.read_bytes().replace(b"CafZ", "Café".encode("latin-1")))
    assert sum(1 for _ in VideoReader(path)) == 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_pipes_and_devices_are_refused_at_once(tmp_path):
    path = tmp_path / "pipe.npz"
    os.mkfifo(path)
    for read in (*READERS.values(), VideoReader, load_image):
        with pytest.raises(ValueError, match=r"pipe\.npz"):
            read(path)
    with pytest.raises(ValueError, match="zero"):
        VideoReader("/dev/zero")


def test_a_change_of_size_is_said(tmp_path):
    reader = VideoReader(film(tmp_path / "c.h264", [(64, 96), (96, 64)], container="h264"))
    assert {frame.image.shape for frame in reader} == {(64, 96, 3)}
    assert any("changes its size in frame 5, from 96 x 64 to 64 x 96" in warning for warning in reader.warnings)


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((1, 0, 0, 1), lambda p: p),
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
        ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
        ((1, 0, 0, -1), lambda p: p[::-1]),
        ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda p: np.rot90(p, 2).swapaxes(0, 1)),
        ((0, 0, 0, 0), lambda p: p),
    ],
)
def test_display_matrices_with_mirrors(tmp_path, matrix, upright):
    """Rows of the matrix say where the axes of the stored picture point on the screen."""
    path = film(tmp_path / "v.mp4", [(32, 64)])
    plain = next(iter(VideoReader(path))).image
    shown = next(iter(VideoReader(display_matrix(path, matrix)))).image
    assert shown.shape == upright(plain).shape
    assert abs(shown.astype(int) - upright(plain)).max() <= 2


# Limits


def test_unpacked_bytes_are_bounded_before_the_first_is_unpacked(tmp_path, monkeypatch):
    keypoints = np.zeros((3, 1, 17, 2), np.float32)
    assert len(load_keypoints(bomb(tmp_path / "a.npz", keypoints=keypoints))) == 3  # nobody asked for the junk
    assert len(load_detections(tmp_path / "a.npz")) == 3
    with pytest.raises(ValueError, match=r"masks\.npy must have 4294967296 bytes by its header, but has"):
        load_masks(bomb(tmp_path / "m.npz", "masks"))
    monkeypatch.setattr(limits.LIMITS, "unpacked", 400)
    with pytest.raises(ValueError, match=r"at most 400 bytes, but has 408: .*TPC_FAST_LIMITS=unpacked=408"):
        load_keypoints(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", a=np.zeros(300, np.uint8), b=np.zeros(300, np.uint8))
    with pytest.raises(ValueError, match="at most 400 bytes"):
        read_npz(tmp_path / "b.npz")


@pytest.mark.slow
def test_a_crowd_in_one_frame_is_not_one_in_all(tmp_path):
    """Half a megabyte of JSON asked for 46 GB: the most persons of any frame, times all frames."""
    path = tmp_path / "a.json"
    path.write_text("[" + '{"people":[]},' * 39999 + '{"people":[' + ",".join(["{}"] * 3000) + "]}]")
    with pytest.raises(ValueError, match="a frame of keypoints must have at most 256 persons, but has 3000"):
        load_keypoints(path)
    path.write_text("[" + '{"people":[]},' * 39999 + '{"people":[' + ",".join(["{}"] * 250) + "]}]")
    with pytest.raises(ValueError, match="the array of all keypoints must have at most 2147483648 bytes"):
        load_keypoints(path)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("depth", [990, 100_000])
def test_deep_json(tmp_path, read, depth):
    for name, text in (("a.json", "{0}{1}"), ("b.json", '{{"keypoints":{0}{1}}}'), ("c.json", '{{"people":{0}{1}}}')):
        (tmp_path / name).write_text(text.format("[" * depth, "]" * depth))
        if read is not load_masks:
            with pytest.raises((ValueError, TypeError), match=name[0]):
                read(tmp_path / name)


def test_pictures_and_frames_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(limits.LIMITS, "pixels", 3000)
    Image.fromarray(np.zeros((60, 60), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"reference.* at most 3000 pixels, but has 3600"):
        load_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"driving: a frame .* at most 3000 pixels, but has 3072"):
        VideoReader(film(tmp_path / "v.mp4"))
    # Smaller at first, larger later: the decoder does not allocate it.
    reader = VideoReader(film(tmp_path / "c.h264", [(48, 48), (400, 400)], container="h264"))
    assert {frame.image.shape for frame in reader} == {(48, 48, 3)}
    assert any("damaged" in warning for warning in reader.warnings)
    monkeypatch.setattr(limits.LIMITS, "pixels", 1 << 27)
    monkeypatch.setattr(limits.LIMITS, "frames", 4)
    with pytest.raises(ValueError, match="driving must have at most 4 frames, but has 5"):
        list(VideoReader(tmp_path / "v.mp4"))


@pytest.mark.parametrize(
    ("pixel", "width"), [((2, 1), 128), ((8, 1), 512), ((9, 1), 64), ((40000, 1), 64), ((1, 60), 64)]
)
def test_pixel_aspects_are_bounded(tmp_path, pixel, width):
    """Eight bytes of a small file could ask for frames of gigabytes."""
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 3
        for _ in range(3):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    at = data.index(b"pasp") + 4
    data[at : at + 8] = struct.pack(">II", *pixel)
    path.write_bytes(data)
    reader = VideoReader(path)
    assert reader.size == (48, width)
    assert len(list(reader)) == 3
    assert any("claims pixels of" in warning for warning in reader.warnings) == (width == 64)


def test_limits_are_raised_by_the_environment(monkeypatch):
    monkeypatch.setenv(limits.VARIABLE, "pixels=5, frames=7")
    found = limits._from_environment()
    assert (found.pixels, found.frames, found.persons) == (5, 7, limits.Limits().persons)
    for wrong in ("pixel=5", "pixels=many", "pixels=-1", "pixels"):
        monkeypatch.setenv(limits.VARIABLE, wrong)
        with pytest.raises(ValueError, match="TPC_FAST_LIMITS must be NAME=NUMBER"):
            limits._from_environment()


# Errors


def good_npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_damaged_archives_are_value_errors(tmp_path, rng, read):
    """Cut off, and with bytes changed: what zipfile, zlib and NumPy raise becomes one thing, with the file's name."""
    path = tmp_path / "x.npz"
    masks = np.zeros((2, 1, 9, 8), np.uint8)
    whole = good_npz(keypoints=rng.random((2, 1, 17, 2)), scores=rng.random((2, 1, 17)), masks=masks, size=[9, 8])
    for trial in range(150):
        data = bytearray(whole)
        if trial % 3 == 0:
            del data[int(rng.integers(len(data))) :]
        else:
            for at in rng.integers(0, len(data), rng.integers(1, 6)):
                data[at] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(ValueError, TypeError):
            read(path)
        del data[len(data) // 2 :]
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"x\.npz"):
            read(path)


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", keypoints=np.array([{}], object), masks=np.array([{}], object))
    for read in READERS.values():
        with pytest.raises(ValueError, match=r"x\.npz.*holds Python objects"):
            read(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "text",
    [
        '{"keypoints": [[1e999, 1]]}',
        f'{{"keypoints": [[{"1" * 400}, 2]]}}',
        f'{{"keypoints": {"9" * 5000}}}',
        "\ufeff[]",
        '[{"image_id": 1, "keypoints": {"a": 1}}]',
        '[{"instances": [{"keypoints": 3}]}]',
        '{"people": [{"pose_keypoints_2d": 5}]}',
        '{"people": [3]}',
        '{"people": [], "canvas_height": 1e400, "canvas_width": 2}',
        '[{"x": 1, "y": {}}]',
        '{"instance_info": [1]}',
        '{"annotations": [{"image_id": [1]}]}',
        '{"annotations": [3], "images": [4]}',
        '{"keypoints": [[0, 0]], "bits": [1]}',
        '{"keypoints": {"0": 1}}',
        '{"keypoints": [[1, 2]], "size": [1e99, "a"]}',
    ],
)
def test_json_of_other_shapes(tmp_path, text):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    for read in (load_keypoints, load_detections):
        with pytest.raises((ValueError, TypeError), match=r"x\.json"):
            read(tmp_path / "x.json")
    (tmp_path / "x.json").write_bytes(b'{"keypoints": "\xff\xfe"}')
    with pytest.raises(ValueError, match=r"x\.json"):
        load_keypoints(tmp_path / "x.json")


@pytest.mark.parametrize(
    "error",
    [
        OverflowError,
        AttributeError,
        struct.error,
        IndexError,
        RuntimeError,
        NotImplementedError,
        zipfile.BadZipFile,
        RecursionError,
        EOFError,
        KeyError,
        TypeError,
        SyntaxError,
    ],
)
def test_what_libraries_raise_becomes_ours(error):
    with pytest.raises(ValueError, match="x can't be read"), reading("x can't be read"):
        raise error("inside")
    with pytest.raises(MemoryError), reading("x"):
        raise MemoryError
    with pytest.raises(FileNotFoundError), reading("x"):
        raise FileNotFoundError


def test_swapped_and_unaligned_arrays(rng):
    values = rng.random((5, 2))
    record = np.zeros(5, [("a", "i1"), ("xy", "<f8", 2)])
    record["xy"] = values
    for array in (values.astype(">f8"), record["xy"]):
        got = _checks.floating(array, "x")
        assert got.dtype == np.float64
        assert got.flags.aligned
        np.testing.assert_array_equal(got, values)


def test_long_png_streams_come_in_several_chunks(monkeypatch, rng):
    picture = rng.integers(0, 256, (61, 70, 3), np.uint8)
    for core in (True, False):
        if not core:
            monkeypatch.setattr(png._native, "core", lambda: None)
        monkeypatch.setattr(png, "_LARGEST_CHUNK", 1000)
        data = png.encode_png(picture)
        assert data.count(b"IDAT") > 10
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), picture)


def test_png_sides(monkeypatch):
    with pytest.raises(ValueError, match=r"array must have sides below 2\^31"):
        png.encode_png(np.broadcast_to(np.uint8(0), (1, 1 << 31)))


# Names


def test_clips_have_folders_of_their_own(tmp_path, monkeypatch):
    for name in ("a b", "a_b", "a+b", "A_b-2"):
        film(tmp_path / f"{name}.mp4")
    names = [folder_name(clip.name).casefold() for clip in find_clips([tmp_path])]
    assert len(set(names)) == 4
    for folder in ("one", "two", "three"):
        (tmp_path / folder).mkdir()
    paths = [film(tmp_path / f) for f in ("one/x.mp4", "two/x.mp4", "three/x-2.mp4")]
    names = [folder_name(clip.name) for clip in find_clips(paths)]
    assert len(set(names)) == 3
    (tmp_path / "inside" / "images").mkdir(parents=True)
    (tmp_path / "inside" / "w").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "inside" / "images" / "1.png")
    monkeypatch.chdir(tmp_path / "inside" / "w")
    assert find_clips([".."])[0].name == "inside"
    for name in ("..", ".", "", "...", "../x", "a/b", ".hidden"):
        made = folder_name(name)
        assert made not in ("", ".", "..")
        assert made[0] != "."
        assert "/" not in made


def test_clip_names_stay_as_they_are(tmp_path):
    assert json.dumps([clip.name for clip in find_clips([film(tmp_path / "my clip.mp4")])]) == '["my clip"]'


# Sound


def test_sound_is_opened_as_films_are(tmp_path, caplog):
    """A playlist would be opened by the name that a calibration gives, and what it names."""
    film(tmp_path / "other.ts")
    playlist = tmp_path / "clip.mp4"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n")
    pipe = tmp_path / "pipe.mp4"
    if hasattr(os, "mkfifo"):
        os.mkfifo(pipe)
    for path in (playlist, pipe):
        with VideoWriter(tmp_path / "out.mp4", 25, (16, 16), sound=Sound(path)) as writer:
            writer.write(np.zeros((16, 16, 3), np.uint8))
        assert f"the sound of {path} could not be read" in caplog.text
        with av.open(str(tmp_path / "out.mp4")) as file:
            assert not file.streams.audio


def test_a_title_in_latin_1_does_not_cost_the_sound(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as file:
        file.metadata["title"] = "CafZ"
        stream = file.add_stream("mp3", 44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"CafZ", "Café".encode("latin-1")))
    with VideoWriter(tmp_path / "out.mp4", 25, (16, 16), sound=Sound(path)) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert len(file.streams.audio) == 1


@pytest.mark.parametrize("kind", ["avc1", "mp4a"])
def test_streams_of_no_known_format(tmp_path, kind):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        seen, heard = file.add_stream("libx264", rate=25), file.add_stream("aac", 16000, layout="mono")
        seen.width = seen.height = 16
        seen.pix_fmt = "yuv420p"
        file.mux(seen.encode(av.VideoFrame(16, 16, "yuv420p")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(heard.encode(frame))
        file.mux(seen.encode(None))
        file.mux(heard.encode(None))
    path.write_bytes(path.read_bytes().replace(kind.encode(), b"zzzz"))
    with VideoWriter(tmp_path / "out.mp4", 25, (16, 16), sound=Sound(path)) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))
    if kind == "avc1":
        with pytest.raises(ValueError, match=r"driving: .*a\.mp4 (is a video in a format that is not known|has no)"):
            VideoReader(path)


# Arrays


def test_arrays_of_densepose_are_bounded(tmp_path, monkeypatch):
    calibration = make_calibration(1)

    def write(shape, held=16):
        with open(tmp_path / "frame_0_densepose.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            file.write(bytes(held))

    write((2, 1 << 30, 1 << 30))
    with pytest.raises(ValueError, match=r"pose: .*frame_0_densepose\.npy cannot be read: .*bytes by its header"):
        dense_arrays(tmp_path, calibration)
    write((2, 0, 5), 0)
    with pytest.raises(ValueError, match=r"must be finite floats \[2, h, w\]"):
        dense_arrays(tmp_path, calibration)
    write((2, 48, 64), 2 * 48 * 64 * 4)
    assert dense_arrays(tmp_path, calibration).shape == (1, 2, 48, 64)
    monkeypatch.setattr(limits.LIMITS, "unpacked", 1 << 10)
    with pytest.raises(ValueError, match="must have at most 1024 bytes"):
        dense_arrays(tmp_path, calibration)
    (tmp_path / "frame_0_densepose.npy").rename(tmp_path / "frame_x_densepose.npy")
    with pytest.raises(ValueError, match="pose must have as many frames"):
        dense_arrays(tmp_path, calibration)


@pytest.mark.parametrize(
    "arrays",
    [
        {"keypoints": np.zeros((40, 1, 17, 2), np.uint8)},
        {"landmarks": np.zeros((40, 33, 3), np.uint8)},
        {"bodies": np.zeros((18, 2)), "subset": np.zeros((300, 18), np.int8)},
    ],
)
def test_small_numbers_count_as_what_they_become(tmp_path, monkeypatch, arrays):
    """Bytes of an archive become float64: of 2 GiB, 16."""
    np.savez(tmp_path / "a.npz", **arrays)
    load_keypoints(tmp_path / "a.npz") if "subset" not in arrays else None
    monkeypatch.setattr(limits.LIMITS, "unpacked", 8000)
    with pytest.raises(ValueError, match=r"must have at most (8000 bytes|256 persons)"):
        load_keypoints(tmp_path / "a.npz")


def test_persons_are_counted_before_their_bodies_are_made(tmp_path, monkeypatch):
    """A person of 60 bytes of JSON becomes a whole body of 3,192."""
    monkeypatch.setattr(limits.LIMITS, "unpacked", 10000)
    made = []
    monkeypatch.setattr(read_files, "_openpose", lambda frame: made.append(frame) or [])
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"people": [{"pose_keypoints_2d": [0] * 54}]}] * 4))
    with pytest.raises(ValueError, match="all persons must have at most 10000 bytes"):
        load_keypoints(path)
    assert not made
    path.write_text(json.dumps([{"width": 9, "height": 8, "keypoints_body": [[0.5, 0.5, 1]] * 20}] * 4))
    with pytest.raises(ValueError, match="all persons must have at most 10000 bytes"):
        load_keypoints(path)


def test_a_record_of_a_calibration_is_bounded(tmp_path, monkeypatch):
    """What is only asked whether it is ours is not read without bound either."""
    make_calibration().save(tmp_path / "out")
    monkeypatch.setattr(limits.LIMITS, "text", (tmp_path / "out" / "calibration.json").stat().st_size - 1)
    with pytest.raises(FileExistsError, match="has no calibration"):
        OutputFolder(tmp_path / "out", overwrite=True).check()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("driving", "frame_range"), [10**400, None], "driving.frame_range must be"),
        (("driving", "frame_range"), [0, 10**30], "driving.frame_range must be"),
        (("cuts",), [10**30], "cuts must be among the"),
        (("cuts",), [-5], "cuts must be among the"),
        (("options", "x"), json.loads("[" * 900 + "]" * 900), "options must be nested at most"),
        (("versions", "x"), json.loads('{"a":' * 500 + "1" + "}" * 500), "versions must be nested at most"),
    ],
)
def test_records_whose_numbers_are_none_of_frames(tmp_path, place, value, message):
    """Such a record made OverflowError of the sound, and RecursionError when it was written again."""
    make_calibration().save(tmp_path / "out")
    path = tmp_path / "out" / "calibration.json"
    record = holder = json.loads(path.read_text())
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = value
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message):
        Calibration.load(tmp_path / "out")


def test_text_of_files_does_not_steer_the_terminal(tmp_path, capsys):
    """Escape sequences and characters that turn the direction are shown, whoever prints them."""
    make_calibration().save(tmp_path / "out")
    path = tmp_path / "out" / "calibration.json"
    record = json.loads(path.read_text()) | {"detector": "x\x1b]0;title\x07", "device": "\u202egnp.exe\r"}
    path.write_text(json.dumps(record))
    assert main(["render", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert not set("\x1b\x07\u202e\r") & set(printed.out), printed.out
    assert r"detector: x\u001b]0;title\u0007 on \u202egnp.exe\u000d" in printed.out


def test_messages_of_the_log_do_not_steer_the_terminal(monkeypatch, capsys):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # as in a process of its own
    log_messages(logging.WARNING)
    logging.getLogger("tpc_fast").warning("%s is damaged", "\x1b[2J.mp4")
    assert capsys.readouterr().err == "\\u001b[2J.mp4 is damaged\n"


def test_without_standard_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["backends"]) == 0


def heard(path, samples: int, rate: float) -> None:
    """A film of silence in a Matroska file, which claims so many samples a second, all in one packet."""
    with av.open(str(path), "w", format="matroska") as file:
        stream = file.add_stream("pcm_u8", 8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, samples), 128, np.uint8), format="u8", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    data = path.read_bytes()
    field = b"\xb5\x88"  # SamplingFrequency, eight bytes
    path.write_bytes(data.replace(field + struct.pack(">d", 8000), field + struct.pack(">d", rate)))


@pytest.mark.parametrize(("samples", "rate"), [(1000, 1.0), (100_000, 1.0), (1000, 1e9)])
def test_sound_that_claims_to_be_long_costs_nothing(tmp_path, caplog, monkeypatch, samples, rate):
    """At one sample a second a kilobyte became 200 MB, and 100 kB were 19 GB; of the last the film was lost."""
    resampled = []
    real = av.AudioResampler

    class Counted:
        def __init__(self, *arguments):
            self._inner = real(*arguments)

        def resample(self, frame):
            resampled.append(frame)
            return self._inner.resample(frame)

    monkeypatch.setattr(av, "AudioResampler", Counted)
    heard(tmp_path / "s.mkv", samples, rate)
    with VideoWriter(tmp_path / "film.mp4", 25, (16, 16), sound=Sound(tmp_path / "s.mkv")) as film:
        film.write(np.zeros((16, 16, 3), np.uint8))
    assert not resampled
    assert "samples in a packet" in caplog.text
    assert sum(1 for _ in VideoReader(tmp_path / "film.mp4")) == 1


def test_frames_that_cannot_be_shown_name_the_file(tmp_path, monkeypatch):
    film(tmp_path / "x.mp4")

    def fails(self, frame):
        raise NotImplementedError("of FFmpeg")

    monkeypatch.setattr(video._ToRgb, "__call__", fails)
    with pytest.raises(ValueError, match=r"driving: frame 0 of .*x.mp4 cannot be shown: NotImplementedError: of FF"):
        VideoReader(tmp_path / "x.mp4")


def test_masks_of_films_are_bounded(tmp_path, monkeypatch):
    """A film of black frames is small, and its masks are as large as any: 8 frames of 48 x 64 bits."""
    film(tmp_path / "m.mp4", count=8)
    monkeypatch.setattr(limits.LIMITS, "unpacked", 8 * 48 * 64 // 8)
    assert load_masks(tmp_path / "m.mp4")[0].shape == (8, 1, 384)
    monkeypatch.setattr(limits.LIMITS, "unpacked", 8 * 48 * 64 // 8 - 1)
    with pytest.raises(ValueError, match=r"m.mp4 must have at most 3071 bytes, but has 3072"):
        load_masks(tmp_path / "m.mp4")


def test_persons_of_masks_are_bounded(tmp_path, monkeypatch):
    """Before any of them is decoded: they are no pictures."""
    for name in ("a.png", "b.png", "c.mp4", "d.mp4"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(limits.LIMITS, "persons", 1)
    with pytest.raises(ValueError, match="reference_mask must have at most 1 persons, but has 4"):
        given_mask(tmp_path, (4, 4))
    with pytest.raises(ValueError, match="must have at most 1 persons, but has 2"):
        load_masks(tmp_path)
