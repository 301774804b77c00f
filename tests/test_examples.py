"""Every program in examples/ runs, as it would for a user, on a short clip whose truth is known."""

import contextlib
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from tpc_fast.media.video import VideoReader

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = [pytest.mark.demo, pytest.mark.slow]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Paths of a photo, and of twelve frames in which a known camera films it."""
    from tpc_fast import demo
    from tpc_fast.media.png import write_png

    folder = tmp_path_factory.mktemp("examples")
    photo = demo.load_photo()
    write_png(folder / "photo.png", photo)
    demo.write_clip(photo, folder / "video.mp4", demo.camera_path(96)[20:32])
    return str(folder / "photo.png"), str(folder / "video.mp4")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a program with arguments; what it printed."""

    def call(name: str, *arguments) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with contextlib.suppress(SystemExit):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return call


def test_calibrate_a_clip(run, clip, tmp_path):
    said = run("calibrate_a_clip.py", *clip, tmp_path / "out")
    assert "of 12 frames are tracked" in said
    assert {"calibration.json", "first.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_stream(run, clip):
    lines = run("stream.py", *clip).splitlines()
    assert len(lines) == 12
    assert sum("seen 0.00 s ago" in line for line in lines) == 6
    assert all("tracked" in line for line in lines)


def test_several_people(run, tmp_path, clip):
    """The photo of one beside itself."""
    from tpc_fast.media.images import load_image
    from tpc_fast.media.png import write_png
    from tpc_fast.media.video import VideoWriter

    image, _ = load_image(clip[0])
    two = np.concatenate([image, image], 1)
    height, width = (n - n % 2 for n in two.shape[:2])
    write_png(tmp_path / "two.png", two)
    with VideoWriter(tmp_path / "two.mp4", 24, (height, width)) as writer:
        for _ in range(3):
            writer.write(np.ascontiguousarray(two[:height, :width]))
    said = run("several_people.py", tmp_path / "two.png", tmp_path / "two.mp4", "0:1,1:0")
    assert "person 0 of the photo is played by driving person 1: 100% tracked" in said
    assert "person 1 of the photo is played by driving person 0: 100% tracked" in said


def test_own_keypoints(run, clip, tmp_path):
    import tpc_fast
    from tpc_fast.pose import save_keypoints

    known = tpc_fast.calibrate(*clip)
    canvas = known.canvas
    driving = (known.keypoints - np.array(canvas.matrix[:, 2])) / canvas.matrix[0, 0]
    save_keypoints(tmp_path / "photo.json", known.reference_keypoints[None], known.reference_scores[None])
    save_keypoints(tmp_path / "video.json", driving, known.scores)
    said = run("own_keypoints.py", *clip, tmp_path / "photo.json", tmp_path / "video.json")
    assert "100% of 12 frames are tracked" in said


def test_own_detector(run, clip):
    assert re.search(r"doubtful: (9\d|100)% of 12 frames", run("own_detector.py", *clip))


@pytest.mark.diffusion
def test_animatediff_reference(run, clip, tmp_path):
    """With small random weights in the published layout."""
    import tiny
    from diffusers import MotionAdapter, StableDiffusionPipeline

    from tpc_fast.diffusion import MagicAnimatePipeline

    parts = MagicAnimatePipeline.from_pretrained("tiny-random")
    pipe = StableDiffusionPipeline(
        vae=tiny.vae(),
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=tiny.unet2d(cross_attention_dim=parts.text_encoder.config.hidden_size),
        scheduler=parts.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    base, motion = tmp_path / "base", tmp_path / "motion"
    pipe.save_pretrained(base)
    MotionAdapter(
        block_out_channels=pipe.unet.config.block_out_channels,
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
        use_motion_mid_block=False,
    ).save_pretrained(motion)
    run("animatediff_reference.py", *clip, base, motion, tmp_path / "out.mp4")
    frames = [frame.image for frame in VideoReader(tmp_path / "out.mp4")]
    assert len(frames) == 12
    assert np.std(frames) > 1


@pytest.mark.torch
def test_batch_fits(run):
    said = run("batch_fits.py")
    assert "scale 0.7000, angle 30.00 degrees" in said
    assert "wrists are left out in 100% of the searches" in said


@pytest.mark.torch
def test_training_data(run, clip, tmp_path):
    import tpc_fast

    tpc_fast.calibrate(*clip, size=64).save(tmp_path / "one")
    lines = run("training_data.py", tmp_path / "one").splitlines()
    assert lines == ["image (4, 3, 64, 64) mask (4, 64, 64) matrix (4, 2, 3)"] * 3


def test_evaluate_clips(run, clip, tmp_path):
    said = run("evaluate_clips.py", clip[1], tmp_path / "out")
    assert {line.split()[1] for line in said.splitlines()} == {"face", "subset"}


@pytest.mark.diffusion
def test_puppets(run, tmp_path):
    said = run("puppets.py", tmp_path / "out")
    assert "100% of 16 frames are tracked" in said
    assert (tmp_path / "out" / "calibration.json").is_file()


@pytest.mark.diffusion
def test_puppets_live(run, tmp_path):
    said = run("puppets_live.py", tmp_path / "out.mp4", 8)
    assert re.search(r"^8 frames, \d+\.\d a second$", said, re.MULTILINE)
    assert sum(1 for _ in VideoReader(tmp_path / "out.mp4")) == 8


def test_every_example_is_run():
    here = set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text()))
    assert {path.name for path in EXAMPLES.glob("*.py")} == here | {"live.py"}  # which test_live_command.py runs


@pytest.mark.native
@pytest.mark.torch
def test_train_through_warp(run):
    """5 s of CPU: the network's convolutions."""
    lines = re.findall(
        r"loss ([\d.]+), off by ([\d.]+) of log scale, ([\d.]+) rad, ([\d.]+) px", run("train_through_warp.py", 151)
    )
    first, last = ([float(n) for n in line] for line in (lines[0], lines[-1]))
    assert last[0] < first[0] / 20
    assert last[2] < first[2] / 3  # the angle, which the loss knows from the pictures alone
    assert last[3] < first[3] / 4
