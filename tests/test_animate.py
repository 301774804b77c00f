"""`tpc-fast animate` with tiny random weights: photo + video -> calibrate -> animate -> mp4; refusals, interruption."""

from pathlib import Path

import numpy as np
import pytest
from params import slow
from PIL import Image
from scene import PERSON, scene

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
safetensors = pytest.importorskip("safetensors")

from tpc_fast import Calibration  # noqa: E402
from tpc_fast.cli import animate  # noqa: E402
from tpc_fast.cli.main import main  # noqa: E402
from tpc_fast.diffusion import MagicAnimatePipeline  # noqa: E402
from tpc_fast.diffusion.models.registry import MODELS  # noqa: E402
from tpc_fast.diffusion.resume import Progress  # noqa: E402
from tpc_fast.media.video import VideoReader, VideoWriter  # noqa: E402
from tpc_fast.output.pose_video import pose_pictures  # noqa: E402
from tpc_fast.output.watermark import watermark  # noqa: E402

FRAMES, SIZE, STEPS = 9, (96, 128), 2


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The folder of a calibration, made by the command."""
    return calibrate(tmp_path_factory.mktemp("animate"), SIZE)


def calibrate(folder, size):
    image, mask, driving, keypoints, masks, _ = scene(np.random.default_rng(4), FRAMES)
    Image.fromarray(image).save(folder / "photo.png")
    Image.fromarray(mask).save(folder / "mask.png")
    np.savez(folder / "reference.npz", keypoints=PERSON)
    np.savez(folder / "driving.npz", keypoints=keypoints, masks=masks)
    write(folder / "clip.mp4", driving)
    assert main([
        "calibrate", str(folder / "photo.png"), str(folder / "clip.mp4"), "-o", str(folder / "out"), "-q",
        "--size", f"{size[0]}x{size[1]}", "--no-preview", "--no-report",
        "--reference-keypoints", str(folder / "reference.npz"), "--reference-mask", str(folder / "mask.png"),
        "--driving-keypoints", str(folder / "driving.npz"),
    ]) == 0  # fmt: skip
    return folder / "out"


def write(path, frames, fps=30):
    with VideoWriter(path, fps, frames.shape[1:3]) as video:
        for frame in frames:
            video.write(frame)


def command(calibrated, output, *more):
    return ["animate", str(calibrated), "--model", "tiny-random", "-o", str(output), "--steps", str(STEPS),
            "--window", "6", "--overlap", "2", "--device", "cpu", *more]  # fmt: skip


def frames_of(path):
    return np.stack([frame.image for frame in VideoReader(path)])


@pytest.fixture(scope="module")
def video(calibrated, tmp_path_factory):
    """The video of the plain command."""
    path = tmp_path_factory.mktemp("video") / "out.mp4"
    assert main(command(calibrated, path, "-q")) == 0
    assert [p.name for p in path.parent.iterdir()] == ["out.mp4"]
    return path


@pytest.fixture(scope="module")
def pipe():
    return MagicAnimatePipeline.from_pretrained("tiny-random")


@pytest.fixture
def loaded(monkeypatch, pipe):
    """Loads the weights once for many runs; counts how often they were asked for."""
    asked = []

    def load(*args, **kwargs):
        asked.append(args)
        return pipe

    monkeypatch.setattr(MagicAnimatePipeline, "from_pretrained", load)
    return asked


def test_the_whole_path(calibrated, video):
    frames = frames_of(video)
    assert frames.shape == (FRAMES, *SIZE, 3)
    reader = VideoReader(video)
    assert abs(reader.fps - 30) < 0.1
    band = SIZE[0] // 16
    stripes = watermark(SIZE)[:band, :, :3]
    assert abs(frames[:, :band].astype(int) - stripes).mean() < 40  # marked, above and below
    assert abs(frames[:, -band:].astype(int) - watermark(SIZE)[-band:, :, :3]).mean() < 40
    calibration = Calibration.load(calibrated)
    far = calibration.pose_masks[:].max((0, 1)) == 0
    far[: 3 * band] = far[-3 * band :] = False
    assert far.any()
    photo = np.asarray(Image.open(next((calibrated / "ref_img").iterdir())))
    moved = abs(frames.astype(int) - photo)
    near = calibration.pose_masks[:].min((0, 1)) > 0
    assert np.median(moved[:, near]) > 4 * np.median(moved[:, far])  # persons are generated, the rest is the photo


def test_what_is_said(calibrated, tmp_path, loaded, capsys):
    assert main(command(calibrated, tmp_path / "a.mp4", "--background", "generated")) == 0
    printed = capsys.readouterr()
    assert "weights are small and random" in printed.out
    assert f"{FRAMES} frames in" in printed.out
    for stage in ("read", "load", "encode", "denoise", "decode and write"):
        assert f"{stage} " in printed.out
    assert str(tmp_path / "a.mp4") in printed.out


def test_overwrite(calibrated, video, tmp_path, loaded, capsys):
    path = tmp_path / "out.mp4"
    path.write_text("mine")
    assert main(command(calibrated, path, "-q")) == 1
    assert "exists" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert loaded == []  # refused before any work
    assert main(command(calibrated, path, "-q", "--overwrite")) == 0
    assert np.array_equal(frames_of(path), frames_of(video))


@pytest.mark.parametrize(
    ("stop", "words"), [((1, 1), "window 1 of step 2"),
                        *slow(((0, 1), "window 1 of step 1"), ((1, 0), "step 1"), ((2, 0), "step 2"))]
)  # fmt: skip
def test_an_interrupted_run_goes_on(calibrated, video, tmp_path, loaded, monkeypatch, capsys, stop, words):
    """After any window of any step: the rest is not done again, and the video is the same."""
    path, save, places = tmp_path / "out.mp4", Progress.save, []

    def stops(self, latents, done, windows=0, predicted=None):
        save(self, latents, done, windows, predicted)
        places.append((done, windows))
        if (done, windows) == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "save", stops)
    assert main(command(calibrated, path)) == 130
    said = capsys.readouterr()
    assert f"not written; the same command goes on after {words} of {STEPS}" in said.err
    assert [p.name for p in tmp_path.iterdir()] == [".out.mp4.unfinished"]
    monkeypatch.setattr(
        Progress, "save", lambda self, latents, done, windows=0, predicted=None: places.append((done, windows))
    )
    assert main(command(calibrated, path)) == 0
    assert f"going on after {words} of {STEPS}" in capsys.readouterr().out
    assert places == [place for step in range(STEPS) for place in ((step, 1), (step, 2), (step + 1, 0))]
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert np.array_equal(frames_of(path), frames_of(video))


def test_interrupted_while_writing(calibrated, video, tmp_path, loaded, monkeypatch, capsys):
    path, decode = tmp_path / "out.mp4", MagicAnimatePipeline.decode

    def stops(self, latents):
        yield next(decode(self, latents, 2))
        raise KeyboardInterrupt

    path.write_text("before")
    monkeypatch.setattr(MagicAnimatePipeline, "decode", stops)
    assert main(command(calibrated, path, "--overwrite")) == 130
    assert path.read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.mp4.unfinished", "out.mp4"]
    monkeypatch.setattr(MagicAnimatePipeline, "decode", decode)
    monkeypatch.setattr(MagicAnimatePipeline, "__call__", None)  # must not be needed again
    assert main(command(calibrated, path, "--overwrite")) == 0
    assert np.array_equal(frames_of(path), frames_of(video))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, safetensors.SafetensorError])
def test_latents_that_are_kept_in_part_are_not_kept(tmp_path, monkeypatch, error):
    """What was kept before stays, and nothing is beside it."""
    progress = Progress(tmp_path / "out.mp4", "run")
    progress.save(torch.ones(1, 4, 2, 3, 3), 1)

    def stops(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", stops)
    with pytest.raises(OSError if error is safetensors.SafetensorError else error):
        progress.save(torch.zeros(1, 4, 2, 3, 3), 2)
    assert [p.name for p in tmp_path.iterdir()] == [".out.mp4.unfinished"]
    assert progress.steps == 1
    again = Progress(tmp_path / "out.mp4", "run")
    assert (again.load()[0] == 1).all()
    assert again.steps == 1


def test_another_run_starts_anew(calibrated, video, tmp_path, loaded, capsys):
    path = tmp_path / "out.mp4"
    kept = tmp_path / ".out.mp4.unfinished"
    for content in (b"damaged", None):
        if content is None:
            Progress(path, "another run").save(torch.zeros(1, 4, FRAMES, 12, 16), 1)
        else:
            kept.write_bytes(content)
        path.unlink(missing_ok=True)
        assert main(command(calibrated, path)) == 0
        assert "of another run, or damaged" in capsys.readouterr().out
        assert np.array_equal(frames_of(path), frames_of(video))
        assert not kept.exists()


def test_a_disk_that_runs_full(calibrated, tmp_path, loaded, monkeypatch, capsys):
    import safetensors.torch

    def full(*_):
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    assert main(command(calibrated, tmp_path / "out.mp4", "-q")) == 1
    assert "latents cannot be kept" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_sees_every_input(calibrated, tmp_path):
    def fingerprint(*more, pose=0, folder=calibrated):
        options = animate_options(folder, tmp_path / "out.mp4", *more)
        return animate._fingerprint(options, {"pose": np.full((1, 2, 2, 3), pose, np.uint8)})

    plain = fingerprint()
    assert fingerprint("-q", "--overwrite", "--background", "generated") == plain
    changes = [("--seed", "1"), ("--guidance", "3"), ("--group-size", "2"), ("--mode", "first"), ("--no-closed-loop",),
               ("--prompt", "x"), ("--noise-period", "16"), ("--dtype", "bfloat16"), ("--vae", "other")]  # fmt: skip
    assert len({plain, fingerprint(pose=1), *(fingerprint(*change) for change in changes)}) == 2 + len(changes)


def animate_options(*arguments):
    from tpc_fast.cli.main import _parser

    return _parser().parse_args(command(*arguments))


# Refusals: exit code 1, nothing written


def refused(calibrated, capsys, arguments, *words):
    before = sorted(calibrated.parent.rglob("*"))
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("tpc-fast: error: ")
    for word in words:
        assert word in error
    assert sorted(calibrated.parent.rglob("*")) == before


def test_refusals(calibrated, tmp_path, capsys, loaded):
    refused(calibrated, capsys, command(calibrated / "no", tmp_path / "a.mp4"), "there is no folder")
    refused(calibrated, capsys, command(calibrated, tmp_path / "no" / "a.mp4"), "no folder")
    refused(calibrated, capsys, command(calibrated, tmp_path), "is a folder")
    refused(calibrated, capsys, command(calibrated, tmp_path / "a.mp4", "--pose", "no.mp4"), "pose", "no.mp4")
    refused(calibrated, capsys, command(calibrated, tmp_path / "a.mp4", "--overlap", "6"), "overlap must be")
    refused(calibrated, capsys, command(calibrated, tmp_path / "a.mp4", "--group-size", "0"), "--group-size must be")
    assert list(tmp_path.iterdir()) == []


def test_missing_weights_say_what_belongs_where(calibrated, tmp_path, capsys):
    arguments = command(calibrated, tmp_path / "a.mp4", "--pose", str(calibrated / "pose_video" / "clip.mp4"))
    arguments[3] = str(tmp_path / "weights")
    refused(calibrated, capsys, arguments, "--model must be a folder or a hub id, but there is no folder")
    (tmp_path / "weights" / "MagicAnimate").mkdir(parents=True)
    refused(
        calibrated, capsys, arguments, "these files are missing",
        str(tmp_path / "weights/MagicAnimate/temporal_attention/temporal_attention.ckpt"),
        str(tmp_path / "weights/stable-diffusion-v1-5/unet/config.json"), "hub: zcxu-eric/MagicAnimate",
    )  # fmt: skip
    refused(calibrated, capsys, arguments[:-2], "--pose must be a DensePose video")


# Every model, from a photo and a video to a video


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A calibration of the one size that the small DreamPose takes."""
    return calibrate(tmp_path_factory.mktemp("small"), (80, 64))


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "magic-animate"])
@pytest.mark.slow
def test_every_model_goes_the_whole_path(small, tmp_path, kind, capsys):
    arguments = command(small, tmp_path / "out.mp4")
    arguments[3], arguments[arguments.index("--steps") + 1] = f"tiny-random:{kind}", "2"
    # The segments of wan-animate are 4 n + 1 frames, and go on from one; it groups nothing.
    arguments += ["--window", "5", "--overlap", "1"] if kind == "wan-animate" else ["--group-size", "3"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"model: {kind}" in printed
    assert "weights are small and random" in printed
    frames = frames_of(tmp_path / "out.mp4")
    assert frames.shape == (FRAMES, 80, 64, 3)
    assert frames.std() > 1
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_regions_of_wan_animate(small, tmp_path, capsys):
    arguments = command(small, tmp_path / "out.mp4", "--regions", "-q")
    assert main(arguments) == 1
    assert "--regions must be left out: magic-animate reads regions in any case" in capsys.readouterr().err
    arguments[3] = "tiny-random:wan-animate"
    assert main([*arguments, "--window", "5", "--overlap", "1"]) == 0
    assert frames_of(tmp_path / "out.mp4").shape == (FRAMES, 80, 64, 3)


def test_models_refuse_clearly(calibrated, tmp_path, capsys):
    arguments = command(calibrated, tmp_path / "a.mp4")
    pose = ["--pose", str(calibrated / "pose_video" / "clip.mp4")]

    def of(model, *more):
        return [*arguments[:3], model, *arguments[4:], *more]

    refused(calibrated, capsys, of("tiny-random:dreampose"), "size must be 80 x 64", "but is 96 x 128")
    refused(
        calibrated,
        capsys,
        of("tiny-random:sora"),
        "tiny-random: and one of champ, musepose, animate-anyone, magic-animate",
    )
    refused(calibrated, capsys, of("wan-animate:weights", *pose), "--face must be a video of the driving person's face")
    refused(
        calibrated, capsys, of("wan-animate:weights", *pose, "--face", pose[1]), "weights/model_index.json",
        "transformer/diffusion_pytorch_model*.safetensors", "hub: Wan-AI/Wan2.2-Animate-14B-Diffusers",
    )  # fmt: skip
    refused(
        calibrated, capsys, of("champ:weights"), "--pose must be a folder with depth, normal, semantic_map and dwpose"
    )
    refused(calibrated, capsys, of("champ:weights", *pose), "--pose must be a folder that holds depth.mp4")
    refused(calibrated, capsys, of("disco:weights"), "--pose must be a skeleton")
    refused(calibrated, capsys, of("disco:weights", *pose), "weights/mp_rank_00_model_states.pt", "variations")
    refused(
        calibrated, capsys, of("musepose:weights", *pose), "weights/MusePose/motion_module.pth",
        "weights/sd-image-variations-diffusers/unet/config.json", "weights/image_encoder/config.json",
    )  # fmt: skip
    refused(calibrated, capsys, of(str(tmp_path)), "of no known kind")
    assert list(tmp_path.iterdir()) == []


# The DensePose video


@pytest.fixture
def calibration(calibrated):
    return Calibration.load(calibrated)


def dense_pose(path, calibration):
    return np.stack(list(pose_pictures(path, calibration)))


def gradient(frames, size):
    """Smooth pictures, told apart by their brightness."""
    y, x = np.mgrid[: size[0], : size[1]]
    ramp = np.stack([y * 80 / size[0], x * 80 / size[1], 0 * x], -1)
    return (ramp + np.arange(frames)[:, None, None, None] * 10).astype(np.uint8)


@pytest.mark.parametrize("size", [(120, 160), (60, 80), SIZE])
def test_a_pose_video_of_any_size(calibration, tmp_path, size):
    write(tmp_path / "dense.mp4", gradient(FRAMES, size))
    out = dense_pose(tmp_path / "dense.mp4", calibration)
    assert out.shape == (FRAMES, *SIZE, 3)
    assert abs(out.astype(int) - gradient(FRAMES, SIZE)).mean() < 5


def test_a_padded_canvas_gets_the_colour_of_the_background(tmp_path):
    image, mask, driving, keypoints, masks, _ = scene(np.random.default_rng(5), 6)
    import tpc_fast

    calibration = tpc_fast.calibrate(image, driving, size=(128, 96), reference_keypoints=PERSON, reference_mask=mask,
                                     driving_keypoints=keypoints, driving_masks=masks)  # fmt: skip
    dense = np.full((6, 120, 160, 3), (84, 1, 68), np.uint8)
    dense[:, 30:90, 50:110] = (30, 160, 130)
    write(tmp_path / "dense.mp4", dense)
    out = dense_pose(tmp_path / "dense.mp4", calibration)
    assert out.shape == (6, 128, 96, 3)
    assert abs(out[:, :20].astype(int) - (84, 1, 68)).max() < 6
    inside = out[:, 50:70, 40:56]
    assert abs(inside.astype(int) - (30, 160, 130)).max() < 12
    write(tmp_path / "squeezed.mp4", dense[:, :, :90])  # of the canvas's aspect ratio: as it is
    assert abs(dense_pose(tmp_path / "squeezed.mp4", calibration)[:, 0, 0].astype(int) - (84, 1, 68)).max() < 6


def test_a_pose_video_of_the_whole_driving_video(calibration, tmp_path):
    write(tmp_path / "dense.mp4", gradient(FRAMES + 5, SIZE))
    calibration.frame_range = (3, 3 + FRAMES)
    out = dense_pose(tmp_path / "dense.mp4", calibration)
    assert abs(out.astype(int) - gradient(FRAMES + 5, SIZE)[3 : 3 + FRAMES]).mean() < 5
    write(tmp_path / "cut.mp4", gradient(FRAMES, SIZE))
    assert abs(dense_pose(tmp_path / "cut.mp4", calibration).astype(int) - gradient(FRAMES, SIZE)).mean() < 5


def test_wrong_pose_videos(calibration, tmp_path):
    write(tmp_path / "short.mp4", gradient(FRAMES - 1, SIZE))
    with pytest.raises(ValueError, match=f"as many frames as the calibration, {FRAMES}, but .* has {FRAMES - 1}"):
        dense_pose(tmp_path / "short.mp4", calibration)
    write(tmp_path / "long.mp4", gradient(FRAMES + 1, SIZE))
    with pytest.raises(ValueError, match=f"as many frames as the calibration, {FRAMES}, but .* has more"):
        dense_pose(tmp_path / "long.mp4", calibration)
    write(tmp_path / "wide.mp4", gradient(FRAMES, (60, 140)))
    with pytest.raises(ValueError, match="pose must have the aspect ratio"):
        dense_pose(tmp_path / "wide.mp4", calibration)
