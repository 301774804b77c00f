"""The small trained model: its parts, its training, and that it runs through the loop of the large ones."""

import dataclasses
import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tpc_fast.diffusion import apply_calibration, remove_calibration  # noqa: E402
from tpc_fast.diffusion.live.predict import FrameTimes  # noqa: E402
from tpc_fast.diffusion.models import puppets  # noqa: E402
from tpc_fast.diffusion.models.puppet_figures import draw_clips  # noqa: E402
from tpc_fast.evaluation import puppets_clips  # noqa: E402
from tpc_fast.evaluation.puppets import (  # noqa: E402
    ABLATIONS,
    Cell,
    ablations,
    calibrate_scene,
    draw_scene,
    generate,
    nobody,
    sensitivity,
)
from tpc_fast.evaluation.puppets_protocol import evaluate_puppets  # noqa: E402

ALIGNED = 19.64  # dB; measured: 19.94
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "train_puppets.py"


@pytest.fixture(scope="module")
def training():
    spec = importlib.util.spec_from_file_location("train_puppets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_patch_transform_keeps_lengths():
    """Orthonormal: noise and errors are as large in latents as in pixels; and it can be undone."""
    transform = puppets.PatchTransform()
    pixels = torch.randn(3, 3, 24, 16, generator=torch.Generator().manual_seed(0))
    latents = transform.encode(pixels).latents
    assert latents.shape == (3, transform.config.latent_channels, 6, 4)
    torch.testing.assert_close(latents.square().sum(), pixels.square().sum())
    torch.testing.assert_close(transform.decode(latents).sample, pixels)
    flat = transform.encode(torch.ones(1, 3, 8, 8)).latents
    assert (flat.abs() > 1e-5).sum(1).eq(3).all()  # one number a colour


def test_positions_tell_all_tokens_apart():
    places = puppets.positions((6, 4)).flatten(1).T
    assert len(torch.unique(places.round(decimals=4), dim=0)) == 24


def test_black_edges_are_filled_as_a_flood_fills_them(rng):
    """Against a flood, pixel by pixel, on pictures turned into black; black eyes stay."""
    y, x = np.mgrid[:40, :32]
    for _ in range(20):
        angle, reach = rng.uniform(0, np.pi), rng.uniform(8, 22)
        shown = np.maximum(*np.abs(np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
                                   @ [x.ravel() - 15, y.ravel() - 20])).reshape(x.shape) < reach  # fmt: skip
        colour = rng.uniform(-0.9, 0.9, 3)
        picture = np.where(shown, colour[:, None, None], -1.0)
        picture[:, 18:21, 12:14] = -1  # an eye
        hole = np.zeros(x.shape, bool)
        todo = [(i, j) for i in range(40) for j in range(32) if i in (0, 39) or j in (0, 31)]
        while todo:
            at = todo.pop()
            if 0 <= at[0] < 40 and 0 <= at[1] < 32 and not shown[at] and not hole[at]:
                hole[at] = True
                todo += [(at[0] + i, at[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        found = puppets.fill_black(torch.tensor(picture)[None])[0].numpy()
        np.testing.assert_array_equal(found[:, hole], np.repeat(colour[:, None], hole.sum(), 1))
        np.testing.assert_array_equal(found[:, ~hole], picture[:, ~hole])
    whole = torch.rand(2, 3, 8, 8) * 1.9 - 0.9
    torch.testing.assert_close(puppets.fill_black(whole), whole, rtol=0, atol=0)
    torch.testing.assert_close(puppets.fill_black(-torch.ones(1, 3, 8, 8)), -torch.ones(1, 3, 8, 8), rtol=0, atol=0)


def test_clips_move_evenly_and_their_photos_jitter(rng):
    for jitter, photos in ((0.0, 4), (1.0, 4), (1.0, 1)):
        clips = draw_clips(rng, 2, 8, photos, (64, 64), jitter)
        assert clips.target.shape == clips.pose.shape == (16, 3, 64, 64)
        assert clips.mask.shape == (16, 64, 64)
        assert clips.reference.shape == (2 * photos, 3, 64, 64)
        same = np.abs(clips.reference.reshape(2, photos, -1) - clips.reference.reshape(2, photos, -1)[:, :1]).max(
            (1, 2)
        )
        assert (same == 0).all() if jitter == 0 or photos == 1 else (same > 0.02).all()
        target = clips.target.reshape(2, 8, -1)
        ends, steps = np.abs(target[:, -1] - target[:, 0]).mean(1), np.abs(np.diff(target, axis=1)).mean(2)
        assert (steps.sum(1) > 0.9 * ends).all()
        assert (steps.max(1) < 4 * steps.mean(1)).all()
    assert draw_clips(rng, 1, 1, 1, (64, 64)).target.shape == (1, 3, 64, 64)


def test_training_reads_the_photo_as_the_library_does(training):
    """The same prediction from the script's attention and from the loop with an uncalibrated photo, for both stages.

    New motion modules do nothing, so single frames of the first stage are what the loop makes with them.
    """
    scene = draw_scene(0, frames=4)
    frames = training.Trainee(seed=3)
    clips = training.MotionTrainee(frames.unet.state_dict(), seed=4)
    noisy = torch.randn(4, puppets.LATENT, puppets.GRID, puppets.GRID, generator=torch.Generator().manual_seed(0))
    pose = frames.transform.encode(torch.from_numpy(scene.pose)).latents
    for spread, times in ((0, torch.tensor(700)), (0.3, torch.tensor([99, 499, 499, 999]))):
        with torch.no_grad():
            for name, value in clips.parameters.items():
                if "proj_out" in name:
                    value.copy_(spread * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
            unet = puppets.motion_unet(puppets.UNet2DConditionModel(**puppets.UNET))
            unet.load_state_dict(clips.unet.state_dict())
            reader = puppets.UNet2DConditionModel(**puppets.UNET)
            reader.load_state_dict(frames.unet.state_dict())
            pipe = puppets.PuppetsPipeline(frames.transform, unet, reader, puppets.puppets_scheduler())
            reference = nobody(pipe.encode_reference(calibrate_scene(scene), 1, "first"))
            if spread:
                wanted, alone = (clips(noisy, times, pose, x) for x in (reference.latent, torch.zeros_like(pose[:1])))
            else:
                wanted, alone = (frames(noisy, times, pose, photo) for photo in (reference.latent, None))
            pipe.scheduler.set_timesteps(4)
            state = apply_calibration(
                pipe, reference, pipe.reference_adapter(), group_size=1, window=None, guidance=False
            )
            hooks = FrameTimes(pipe.unet)
            found = pipe._predict(noisy.transpose(0, 1)[None], times, puppets.no_text(), pose, reference)
            hooks.remove()
            remove_calibration(pipe)
        assert state.encoded == 1
        torch.testing.assert_close(found[0].transpose(0, 1), wanted, rtol=0, atol=1e-4 * float(wanted.std()))
        assert (wanted - alone).abs().max() > 1e-2 * wanted.std()


def test_live_and_video_are_one_model():
    """At one step nothing but the photo and the pose is seen: the stream gives the frames of the video's windows."""
    parts = puppets.tiny_puppets(puppets.PuppetsPipeline, seed=1)
    pipe = puppets.PuppetsPipeline(**parts)
    scene = draw_scene(2, angle=2.0, scale=0.8, frames=8, noise=1.0)
    calibration = calibrate_scene(scene)
    options = dict(num_inference_steps=1, window=4, overlap=0, group_size=2, mode="first")
    video = generate(pipe, calibration, scene.pose, **options)
    live = puppets_clips.live(pipe, calibration, scene.pose, chunk=4, levels=1, group_size=2, mode="first")
    assert np.abs(video.astype(int) - live).max() <= 1
    with puppets_clips.without_motion(pipe.unet):
        still = generate(pipe, calibration, scene.pose, **options)
    assert (still != video).any()
    np.testing.assert_array_equal(generate(pipe, calibration, scene.pose, **options), video)


def test_flicker_is_of_what_changes(rng):
    scene = draw_scene(3, frames=5)
    far = np.clip(scene.frames, 20, 235).astype(int)
    scene = dataclasses.replace(scene, frames=far.astype(np.uint8))
    assert puppets_clips.flicker(scene.frames, scene) == 0
    constant = (far + rng.integers(-20, 20, far.shape[1:])).astype(np.uint8)
    assert puppets_clips.flicker(constant, scene) == 0
    swinging = (far + np.array([3, -3, 3, -3, 3])[:, None, None, None]).astype(np.uint8)
    assert puppets_clips.flicker(swinging, scene) == pytest.approx(6)
    outside = np.where(scene.masks[..., None].max(0) >= 128, far, 0).astype(np.uint8)
    assert puppets_clips.flicker(outside, scene) == 0


def test_random_weights_go_the_whole_path():
    pipe = puppets.PuppetsPipeline(**puppets.tiny_puppets(puppets.PuppetsPipeline))
    scene = draw_scene(1, angle=1.0, scale=0.7, frames=2)
    made = [generate(pipe, calibrate_scene(scene), scene.pose, way, num_inference_steps=2)
            for way in ("plain", "photo", "calibrated")]  # fmt: skip
    assert all(frames.shape == scene.frames.shape and frames.dtype == np.uint8 for frames in made)
    assert all((a != b).any() for a, b in itertools.pairwise(made))
    with pytest.raises(ValueError, match="way must be one of plain, photo, calibrated, but is 'upside down'"):
        generate(pipe, None, scene.pose, "upside down")


def twelve_steps(optimizer, loss_now):
    """The loss before each step."""
    losses = []
    for _ in range(12):
        loss = loss_now()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
def test_steps_lower_the_loss_on_one_batch(training):
    """The same pictures and noise again and again: twelve steps take a third off the loss."""
    trainee = training.Trainee(seed=0)
    task = training.Task(trainee, 2, 2)
    optimizer = torch.optim.AdamW(trainee.unet.parameters(), 1e-3)
    losses = twelve_steps(optimizer, lambda: task.loss(np.random.default_rng(0), 0.0))
    assert losses[-1] < 0.67 * losses[0]


@pytest.mark.slow
def test_training_goes_on_where_it_was(training, tmp_path, monkeypatch):
    """Interrupted after each step, the same weights come out as without; they fit the model."""
    monkeypatch.setattr(training, "CHECK", 2)
    monkeypatch.setattr(training, "CHECK_CLIPS", 1)
    for folder, minutes, times in (("whole", "99", 1), ("parts", "0", 3)):
        for _ in range(times):
            options = training.parse([str(tmp_path / folder), "--steps", "2", "--motion-steps", "2", "--minutes",
                                      minutes, "--figures", "1", "--targets", "1", "--every", "10", "--export",
                                      str(tmp_path / "weights")])  # fmt: skip
            training.train(options)
    for stage in ("frames", "motion"):
        whole, parts = (torch.load(tmp_path / name / f"{stage}.pt") for name in ("whole", "parts"))
        assert whole["step"] == parts["step"] == 2
        for one, other in zip(whole["weights"], parts["weights"], strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-5)
    training.export(options)
    assert sum(file.stat().st_size for file in (tmp_path / "weights").iterdir()) < 8e6
    pipe = puppets.PuppetsPipeline.from_pretrained(str(tmp_path / "weights"))
    assert next(pipe.unet.parameters()).dtype == torch.float32
    last = [module.weight for module in puppets.motion_ends(pipe.unet)]
    assert len(last) == 7
    assert all(weight.any() for weight in last)  # trained, and loaded


@pytest.mark.slow
def test_steps_on_clips_lower_their_loss_and_leave_single_frames_alone(training):
    """The same clips and noise again and again, at several noise levels."""
    frames = training.Trainee(seed=0)
    trainee = training.MotionTrainee(frames.unet.state_dict())
    task = training.MotionTask(trainee, 8)
    optimizer = torch.optim.AdamW(trainee.parameters.values(), 5e-3)
    losses = twelve_steps(optimizer, lambda: task.loss(np.random.default_rng(1), 8))
    assert losses[-1] < 0.9 * losses[0]
    after = trainee.unet.state_dict()
    for name, value in frames.unet.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)


def test_the_protocol_draws_its_own_clips(tmp_path, capsys):
    from tpc_fast.cli.main import main

    arguments = ["evaluate", "--protocol", "puppets", "-o", str(tmp_path / "out")]
    assert main([*arguments, "clip.mp4"]) == 1
    assert "clips must be left out: the protocol puppets draws its own" in capsys.readouterr().err


@pytest.mark.slow
def test_a_drawn_figure_is_animated_by_the_command(tmp_path, capsys):
    """From a photo that is turned to a video, with the weights that come with the package."""
    from tpc_fast.cli.main import main
    from tpc_fast.media.video import VideoReader

    calibrate_scene(draw_scene(7, angle=np.pi / 2)).save(tmp_path / "out")
    arguments = ["animate", str(tmp_path / "out"), "--model", "puppets", "-o", str(tmp_path / "puppet.mp4")]
    assert main([*arguments, "--background", "generated", "--device", "cpu"]) == 0
    assert "random" not in capsys.readouterr().out
    assert np.stack([frame.image for frame in VideoReader(tmp_path / "puppet.mp4")]).shape == (4, 64, 64, 3)


@pytest.mark.slow
def test_calibration_gives_back_what_a_turned_photo_costs():
    """The paper's claim, on trained weights: any mistake in the loop costs decibels here."""
    pipe = puppets.PuppetsPipeline.from_pretrained()
    cells = [Cell(), Cell(np.pi / 2), Cell(scale=0.5), Cell(scale=1.2)]
    turned = sensitivity(pipe, cells, count=4, ways=("plain", "calibrated"))
    psnr = {(round(np.degrees(row["angle"])), row["scale"], row["way"]): np.mean(row["psnr"]) for row in turned}
    aligned = psnr[0, 1.0, "plain"]
    assert aligned > ALIGNED
    for cell in ((0, 1.0), (90, 1.0), (0, 0.5), (0, 1.2)):  # the last has black edges
        assert psnr[*cell, "calibrated"] > aligned - 0.3
    assert psnr[90, 1.0, "plain"] < aligned - 6  # measured: 7.1
    assert psnr[0, 0.5, "plain"] < aligned - 6  # measured: 9.7


@pytest.mark.slow
def test_with_noisy_keypoints_the_choice_of_points_counts():
    """Face points are too near to each other; the subset leaves the wrong ones out."""
    pipe = puppets.PuppetsPipeline.from_pretrained()
    rows = ablations(pipe, [Cell(np.pi / 4, 0.7, noise=1.0)], count=4)
    psnr = {row["way"]: np.mean(row["psnr"]) for row in rows}
    assert psnr["face points"] < psnr["all points"] - 2  # measured: 5.8
    assert psnr["translation"] < psnr["all points"] - 2  # measured: 6.8
    assert psnr["optimal subset"] > psnr["all points"] + 0.1  # measured: 0.46


@pytest.mark.slow
def test_motion_modules_and_propagation_steady_clips():
    pipe, setting = puppets.PuppetsPipeline.from_pretrained(), puppets_clips.Setting
    settings = [setting(group_size=4, mode="nearest", motion=motion, live=True) for motion in (True, False)]
    settings += [setting(), setting(group_size=8, mode="nearest")]
    rows = puppets_clips.consistency(pipe, 2, settings=settings)
    live, still, each, shared = (np.mean(row["flicker"]) for row in rows)
    assert live < still - 0.3  # grey levels; measured: 1.2
    assert np.mean(rows[0]["psnr"]) > np.mean(rows[1]["psnr"])  # measured: 0.21 dB more
    assert shared < each - 1.5  # measured: 3.4


@pytest.mark.slow
def test_the_protocol_writes_all_its_parts(tmp_path, monkeypatch, capsys):
    from tpc_fast.cli.main import main

    monkeypatch.setattr(puppets_clips, "SETTINGS", puppets_clips.SETTINGS[:1])
    monkeypatch.setattr(evaluate_puppets, "__defaults__", ("puppets", 1, (0.7,), 1, 1000, None))  # one figure
    out = tmp_path / "out"
    assert main(["evaluate", "--protocol", "puppets", "-o", str(out), "--rotations", "1", "--scales", "0.7"]) == 0
    printed = capsys.readouterr().out
    assert (out / "results.txt").read_text() in printed
    results = json.loads((out / "results.json").read_text())
    assert {row["way"] for row in results["pictures"]} == {"plain", "photo", "calibrated", *ABLATIONS}
    assert {(row["size"], row["scale"]) for row in results["pictures"]} >= {(1.0, 0.7), (0.5, 2.0)}
    (clip,) = results["clips"]
    assert len(clip["flicker"]) == len(clip["psnr"]) == 1
    assert (out / "figures.png").is_file()
