"""Small driving frames are those that a second decoding gives, and none of a video that is too long."""

import pickle

import numpy as np
import pytest
from PIL import Image

import tpc_fast
from tpc_fast.calibration import small_frames
from tpc_fast.calibration.small_frames import SmallFrames, preview_size
from tpc_fast.media.video import VideoReader, VideoWriter
from tpc_fast.output.export import export

FRAMES = 5


@pytest.fixture
def video(tmp_path, rng):
    """A film of smooth noise, 46 x 62."""
    small = rng.integers(0, 256, (FRAMES, 6, 8, 3), dtype=np.uint8)
    with VideoWriter(tmp_path / "v.mp4", 25, (46, 62)) as writer:
        for picture in small:
            writer.write(np.asarray(Image.fromarray(picture).resize((62, 46))))
    return tmp_path / "v.mp4"


def calibrated(video, rng, size, **options):
    photo = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)
    points = rng.uniform(2, 28, (1, 17, 2))
    return tpc_fast.calibrate(
        photo, video, reference_keypoints=points, reference_mask=photo[None, ..., 0],
        driving_keypoints=np.repeat(points, FRAMES, 0), size=size, **options,
    )  # fmt: skip


@pytest.mark.parametrize("size", [(300, 402), (300, 200), (514, 90), (31, 33)])  # wide, padded either way, not shrunken
@pytest.mark.parametrize("resize", ["pad", "stretch"])
def test_they_are_what_is_decoded_again(video, rng, size, resize):
    kept = calibrated(video, rng, size, resize=resize, keep_small=True)
    again = calibrated(video, rng, size, resize=resize)
    assert again.small_frames is None
    shown = preview_size(size)
    frames = [list(one.driving_frames(shown)) for one in (kept, again)]
    assert len(frames[0]) == FRAMES
    assert np.array_equal(*frames)
    assert frames[0][0].shape == (*shown, 3)
    assert np.array_equal(next(kept.driving_frames()), next(again.driving_frames()))  # at another size: decoded


def test_pictures_of_a_folder(tmp_path, rng):
    for i in range(FRAMES):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    kept, again = (calibrated(tmp_path, rng, (300, 300), keep_small=keep) for keep in (True, False))
    assert np.array_equal(*(list(one.driving_frames(preview_size((300, 300)))) for one in (kept, again)))


def test_files_need_no_second_decoding(video, rng, tmp_path):
    calibration = calibrated(video, rng, (64, 64), keep_small=True)
    video.unlink()
    (tmp_path / "out").mkdir()
    export(calibration, tmp_path / "out")
    assert not any("preview" in warning for warning in calibration.warnings)


def test_none_of_a_long_video(video, rng, monkeypatch):
    size = preview_size((64, 64))
    monkeypatch.setattr(small_frames, "MOST_BYTES", 3 * 3 * 64 * 64)
    calibration = calibrated(video, rng, (64, 64), resize="stretch", keep_small=True)
    assert calibration.small_frames.all(size, FRAMES) is None
    assert len(list(calibration.driving_frames(size))) == FRAMES


def test_bound(monkeypatch):
    monkeypatch.setattr(small_frames, "MOST_BYTES", 2 * 12)
    frames, picture = SmallFrames((2, 2)), np.zeros((2, 2, 3), np.uint8)
    assert frames.add(picture)
    assert frames.add(picture)
    assert len(frames.all((2, 2), 2)) == 2
    assert frames.all((2, 2), 3) is None
    assert frames.all((2, 3), 2) is None
    assert not frames.add(picture)
    assert frames.all((2, 2), 3) is None


def test_a_reader_stops_making_them(video):
    reader = VideoReader(video)
    reader.small_size = 23, 31
    seen = []
    for frame in reader:
        seen.append(None if frame.small is None else frame.small.shape)
        reader.small_size = None
    assert seen == [(23, 31, 3)] + [None] * (FRAMES - 1)


def test_they_stay_behind(video, rng):
    """In a pickle, and where frames are left out."""
    calibration = calibrated(video, rng, (64, 64), keep_small=True)
    assert calibration.small_frames is not None
    assert pickle.loads(pickle.dumps(calibration)).small_frames is None
    assert calibration.every(2).small_frames is None
