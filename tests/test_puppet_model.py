"""The small trained model: its parts, its training, and that it runs through the loop of the large ones."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tpc_fast.diffusion import apply_calibration, remove_calibration  # noqa: E402
from tpc_fast.diffusion.models import puppets  # noqa: E402
from tpc_fast.evaluation.puppets import calibrate_scene, draw_scene, generate, nobody, sensitivity  # noqa: E402

ALIGNED = 18.9  # dB; measured: 19.17
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


def test_training_reads_the_photo_as_the_library_does(training):
    """The same prediction from the script's attention and from the loop with an uncalibrated photo."""
    scene = draw_scene(0, frames=2)
    trainee = training.Trainee(seed=3)
    pipe = puppets.PuppetsPipeline(trainee.transform, puppets.UNet2DConditionModel(**puppets.UNET),
                                   puppets.puppets_scheduler())  # fmt: skip
    pipe.unet.load_state_dict(trainee.unet.state_dict())
    reference = nobody(pipe.encode_reference(calibrate_scene(scene), 1, "first"))
    noisy = torch.randn(2, puppets.LATENT, puppets.GRID, puppets.GRID, generator=torch.Generator().manual_seed(0))
    t, pose = torch.tensor(700), trainee.transform.encode(torch.from_numpy(scene.pose)).latents
    with torch.no_grad():
        wanted, alone = (trainee(noisy, t, pose, photo) for photo in (reference.latent, None))
        pipe.scheduler.set_timesteps(4)
        state = apply_calibration(pipe, reference, pipe.reference_adapter(), group_size=1, window=None, guidance=False)
        found = pipe._predict(noisy.transpose(0, 1)[None], t, puppets.no_text(), pose, reference)
        remove_calibration(pipe)
    assert state.encoded == 1
    torch.testing.assert_close(found[0].transpose(0, 1), wanted, rtol=0, atol=1e-4 * float(wanted.std()))
    assert (wanted - alone).abs().max() > 1e-2 * wanted.std()


def test_random_weights_go_the_whole_path():
    pipe = puppets.PuppetsPipeline(**puppets.tiny_puppets(puppets.PuppetsPipeline))
    scene = draw_scene(1, angle=1.0, scale=0.7, frames=2)
    made = [generate(pipe, calibrate_scene(scene), scene.pose, way, num_inference_steps=2)
            for way in ("plain", "photo", "calibrated")]  # fmt: skip
    assert all(frames.shape == scene.frames.shape and frames.dtype == np.uint8 for frames in made)
    assert all((a != b).any() for a, b in itertools.pairwise(made))
    with pytest.raises(ValueError, match="way must be one of plain, photo, calibrated, but is 'upside down'"):
        generate(pipe, None, scene.pose, "upside down")


@pytest.mark.slow
def test_steps_lower_the_loss_on_one_batch(training):
    """The same pictures and noise again and again: twelve steps take a third off the loss."""
    trainee = training.Trainee(seed=0)
    task = training.Task(trainee, 2, 2)
    optimizer = torch.optim.AdamW(trainee.unet.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss = task.loss(np.random.default_rng(0), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.67 * losses[0]


@pytest.mark.slow
def test_training_goes_on_where_it_was(training, tmp_path):
    """Interrupted after each step, the same weights come out as without; they fit the model."""
    for folder, minutes, times in (("whole", "99", 1), ("parts", "0", 3)):
        for _ in range(times):
            training.train(training.parse([str(tmp_path / folder), "--steps", "3", "--minutes", minutes, "--figures",
                                           "1", "--targets", "1", "--every", "10", "--rate", "1e-3"]))  # fmt: skip
    whole, parts = (torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 3
    for name, weight in whole["unet"].items():
        torch.testing.assert_close(parts["unet"][name], weight, rtol=0, atol=1e-5)
    file = tmp_path / "puppets.safetensors"
    training.export(tmp_path / "whole", file)
    assert file.stat().st_size < 8e6
    pipe = puppets.PuppetsPipeline.from_pretrained(str(tmp_path))
    assert next(pipe.unet.parameters()).dtype == torch.float32


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
    turned = sensitivity(pipe, [0.0, np.pi / 2], [0.5], count=4, ways=("plain", "calibrated"))
    psnr = {(round(np.degrees(row["angle"])), row["scale"], row["way"]): np.mean(row["psnr"]) for row in turned}
    aligned = psnr[0, 1.0, "plain"]
    assert aligned > ALIGNED
    for cell in ((0, 1.0), (90, 1.0), (0, 0.5)):
        assert psnr[*cell, "calibrated"] > aligned - 0.3
    assert psnr[90, 1.0, "plain"] < aligned - 6  # measured: 7.6
    assert psnr[0, 0.5, "plain"] < aligned - 6  # measured: 9.1
