"""The sound of the driving video in the videos that are written."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from scene import PERSON, reference

from tpc_fast import calibrate
from tpc_fast.cli import live
from tpc_fast.media.sound import Sound
from tpc_fast.media.video import VideoReader, VideoWriter
from tpc_fast.output.export import export

RATE, SECONDS = 44100, 2


@pytest.fixture
def spoken(tmp_path):
    """A video of two seconds: silence, and a tone of 440 Hz from the end of the first second on."""
    path = tmp_path / "spoken.mp4"
    time = np.arange(RATE * SECONDS) / RATE
    wave = np.where(time < 1, 0, 0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", 10), container.add_stream("aac", RATE, layout="mono")
        video.width = video.height = 32
        for _ in range(10 * SECONDS):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


def _heard(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def _write(path, frames, sound):
    with VideoWriter(path, 10, (32, 32), sound=sound) as writer:
        for _ in range(frames):
            writer.write(np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize(("start", "frames", "tone"), [(0.0, 20, 1.0), (0.5, 12, 0.5), (0.0, 40, 1.0)])
def test_sound_stays_where_it_was_and_ends_with_the_pictures(spoken, tmp_path, start, frames, tone):
    _write(tmp_path / "out.mp4", frames, Sound(spoken, start))
    wave = _heard(tmp_path / "out.mp4")
    assert abs(len(wave) / RATE - min(frames / 10, SECONDS - start)) < 0.1
    assert abs(np.flatnonzero(abs(wave) > 0.1)[0] / RATE - tone) < 0.06
    assert len(list(VideoReader(tmp_path / "out.mp4"))) == frames


def test_a_silent_source_gives_no_track(spoken, tmp_path):
    _write(tmp_path / "silent.mp4", 5, None)
    _write(tmp_path / "out.mp4", 5, Sound(tmp_path / "silent.mp4"))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio


def test_sound_that_cannot_be_read_does_not_cost_the_pictures(spoken, tmp_path, caplog):
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no video")
    _write(tmp_path / "out.mp4", 5, Sound(damaged))
    assert len(list(VideoReader(tmp_path / "out.mp4"))) == 5
    assert "the sound of" in caplog.text


def test_sample_rates_that_aac_lacks_are_changed(tmp_path):
    path = tmp_path / "tone.wav"
    wave = (8000 * np.sin(2 * np.pi * 440 * np.arange(6000) / 6000)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", 6000, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.rate, frame.pts = 6000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    _write(tmp_path / "out.mp4", 10, Sound(path))
    wave = _heard(tmp_path / "out.mp4")
    assert abs(len(wave) / 48000 - 1) < 0.1
    assert abs(wave).max() > 0.1


def test_the_commands_keep_it(spoken, tmp_path):
    from PIL import Image
    from scene import PERSON

    from tpc_fast.cli.main import main

    Image.fromarray(np.zeros((104, 80, 3), np.uint8)).save(tmp_path / "photo.png")
    np.savez(tmp_path / "photo.npz", keypoints=PERSON[None])
    np.savez(tmp_path / "video.npz", keypoints=np.repeat(0.3 * PERSON[None], 20, 0))
    given = [str(tmp_path / "photo.png"), str(spoken), "--size", "64", "-q", "--reference-keypoints",
             str(tmp_path / "photo.npz"), "--driving-keypoints", str(tmp_path / "video.npz")]  # fmt: skip
    assert main(["calibrate", *given, "-o", str(tmp_path / "out"), "--no-report"]) == 0
    np.savez(tmp_path / "video.npz", keypoints=np.repeat(0.3 * PERSON[None], 15, 0))  # of the frames that are used
    assert main(["retarget", *given, "-o", str(tmp_path / "moved"), "--frames", "5:20"]) == 0
    for path, tone in ((tmp_path / "out" / "preview.mp4", 1.0), (tmp_path / "moved" / "pose.mp4", 0.5)):
        assert abs(np.flatnonzero(abs(_heard(path)) > 0.1)[0] / RATE - tone) < 0.06


def test_every_video_of_a_calibration_is_heard(spoken, tmp_path, rng):
    """The layout in videos, the pose video, the preview."""
    image, mask = reference(rng)
    calibration = calibrate(
        image, spoken, size=32, smooth="none", reference_keypoints=PERSON, reference_mask=mask,
        driving_keypoints=np.tile(PERSON * 0.3, (10 * SECONDS, 1, 1)),
    )  # fmt: skip
    export(calibration, tmp_path, "mp4", report=False)
    videos = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mp4") if path != spoken)
    assert videos == [
        "0-person_cal_ref_img.mp4", "0-person_cal_ref_mask_img.mp4", "0-person_pose_mask_img.mp4",
        "pose_video/spoken.mp4", "preview.mp4",
    ]  # fmt: skip
    for name in videos:
        wave = _heard(tmp_path / name)
        assert abs(np.flatnonzero(abs(wave) > 0.1)[0] / RATE - 1) < 0.06


def test_a_recording_of_a_video_is_heard(spoken, tmp_path):
    """`tpc-fast live --video FILE --record OUT`; a camera's has no sound."""
    for video, name in ((spoken, "out.mp4"), (None, "silent.mp4")):
        options, calibrator = SimpleNamespace(record=tmp_path / name, video=video), SimpleNamespace(size=(32, 32))
        with live._recording(options, 10, calibrator, None) as write:
            for i in range(20):
                write(np.zeros((32, 32, 3), np.uint8), i / 10)
    assert abs(np.flatnonzero(abs(_heard(tmp_path / "out.mp4")) > 0.1)[0] / RATE - 1) < 0.06
    with av.open(str(tmp_path / "silent.mp4")) as container:
        assert not container.streams.audio
