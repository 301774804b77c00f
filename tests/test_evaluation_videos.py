"""Self-reenactment with a diffusion model of small random weights, from clip to tables; steadiness and propagation."""

import json
import re

import numpy as np
import pytest
from scene import PERSON, scene

pytestmark = [pytest.mark.diffusion, pytest.mark.evaluate, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import tpc_fast  # noqa: E402
from tpc_fast.cli import main  # noqa: E402
from tpc_fast.diffusion import ReferenceEncoder  # noqa: E402
from tpc_fast.evaluation import animation, clips, networks  # noqa: E402
from tpc_fast.evaluation.run import evaluate  # noqa: E402
from tpc_fast.propagation import PropagationPlan  # noqa: E402
from tpc_fast.video import VideoWriter  # noqa: E402

FRAMES, SIZE = 18, (64, 96)
TINY = animation.Model("tiny-random", steps=2, guidance=1.0)


class Inception(torch.nn.Module):
    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return x.float().mean(dim=[2, 3])


class I3D(torch.nn.Module):
    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        return x.mean(dim=[2, 3, 4])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with what stands in for the networks of FID and FVD; the others are missing."""
    folder = tmp_path_factory.mktemp("weights")
    for metric, network in (("fid", Inception()), ("fvd", I3D())):
        torch.jit.script(network).save(folder / networks.WEIGHTS[metric].file)
    return folder


@pytest.fixture
def reenacted(tmp_path, monkeypatch):
    """Two clips of the scene on disk, without references; keypoints and masks are given, as a detector would."""
    _, _, driving, keypoints, masks, _ = scene(np.random.default_rng(4), FRAMES)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with VideoWriter(tmp_path / name / "driving.mp4", 30, driving.shape[1:3]) as video:
            for frame in driving:
                video.write(frame)
    calibrate = tpc_fast.calibrate

    def given(reference, driving, **options):
        options |= dict(reference_keypoints=keypoints[0], reference_mask=masks[0], driving_keypoints=keypoints)
        return calibrate(reference, driving, driving_masks=masks, **options)

    monkeypatch.setattr(clips.tpc_fast, "calibrate", given)
    return tmp_path


def test_self_reenactment_from_clip_to_tables(reenacted, weights):
    out = reenacted / "out"
    assert main([
        "evaluate", str(reenacted / "one"), str(reenacted / "two"), "-o", str(out), "-q", "--size", "64x96",
        "--methods", "none,subset", "--smooth", "none", "--model", "tiny-random", "--steps", "1", "--guidance", "1",
        "--weights", str(weights), "--propagation", "1,3",
    ]) == 0  # fmt: skip
    summary = json.loads((out / "results.json").read_text())
    assert not summary["failures"]
    for name in ("none", "subset"):
        row = summary["aligned"][name]
        for metric in ("l1", "psnr", "ssim"):
            for place in ("", "_foreground", "_background"):
                mean, low, high = row[f"video_{metric}{place}"]
                assert low == mean == high  # both clips are the same
        distances = summary["distributions"][name]
        assert distances["fid"]["samples"] == 2 * (FRAMES - 1)  # one frame is the reference
        assert distances["fvd"]["samples"] == 2
        assert distances["fid"]["value"] > 0
        assert set(distances) == {"fid", "fvd"}
    # Around the person stands the reference, which is a frame of the same video.
    assert summary["aligned"]["subset"]["video_l1_background"][0] < summary["aligned"]["subset"]["video_l1"][0]
    alone, shared = summary["propagation"]["1"], summary["propagation"]["3"]
    assert 0 < shared["bank"][0] < alone["bank"][0]
    assert alone["driving"] == shared["driving"]
    page = (out / "report.html").read_text()
    for words in ("<h2>Videos</h2>", "<h2>Propagation</h2>", "random weights", "FID of 34 samples", "groups of 3"):
        assert words in page
    missing = [networks.WEIGHTS[metric] for metric in ("lpips", "fid_vid")]
    assert all(weights.file in page and weights.source in page for weights in missing)
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower()


def test_a_frame_that_is_the_reference_counts_nowhere(reenacted):
    evaluation = evaluate(
        [reenacted / "one"], reenacted / "out", methods=["none", "subset"], smooth=["none"], size=SIZE, images=True
    )
    for row in evaluation.results[0]["rows"]:
        assert row["frames"]["iou"][0] is None
        assert None not in row["frames"]["iou"][1:]
    assert evaluation.summary["aligned"]["subset"]["iou"][0] > 0.9
    assert np.isfinite(
        evaluation.summary["aligned"]["subset"]["psnr_foreground"][0]
    )  # of equal pictures it is infinite


def test_what_is_missing_is_said_first(reenacted, tmp_path):
    for options, error, match in (
        (dict(propagation=(2,)), ValueError, "propagation needs a model"),
        (dict(model="tiny-random", protocol="synthetic"), ValueError, "model must be given with protocol clips only"),
        (dict(model="tiny-random", propagation=(2,), methods=["none"]), ValueError, "propagation needs a method"),
        (dict(model="tiny-random", propagation=(0,)), ValueError, "group_size must be at least 1, but is 0"),
        (dict(model="tiny-random", mode="last"), ValueError, "mode must be one of random, first, nearest"),
        (dict(model=str(tmp_path / "none")), FileNotFoundError, "MagicAnimate"),
        (dict(weights=tmp_path / "none"), FileNotFoundError, "weights: there is no folder"),
    ):
        with pytest.raises(error, match=match):
            evaluate([reenacted / "one"], reenacted / "out", **options)
    clip = clips.find_clips([reenacted / "one"])[0]
    assert clip.pose is None
    with pytest.raises(ValueError, match=r"clip one must have a DensePose video \(densepose\.\*\)"):
        animation.condition_of(clip, None, animation.Model("pretrained_models"))
    (reenacted / "one" / "densepose.mp4").touch()
    assert clips.find_clips([reenacted / "one"])[0].pose == reenacted / "one" / "densepose.mp4"


def test_unsteadiness_is_a_literal(rng):
    video = np.zeros((3, 2, 2, 3), np.uint8)
    video[1, 0, 0] = 51  # one pixel of four by a fifth, there and back
    assert animation.unsteadiness(video) == pytest.approx(0.05)
    masks = np.zeros((3, 2, 2), np.uint8)
    masks[:, 0] = 255
    assert animation.unsteadiness(video, masks) == pytest.approx(0.1)
    masks[2] = 0  # the second pair has no pixel in common
    assert animation.unsteadiness(video, masks) == pytest.approx(0.1)
    assert np.isnan(animation.unsteadiness(video, masks * 0))
    assert animation.unsteadiness(video[[1, 1, 1]]) == 0
    noise = rng.integers(0, 256, (5, 6, 7, 3), np.uint8)
    assert animation.unsteadiness(noise) == pytest.approx(np.mean(abs(np.diff(noise.astype(float), axis=0))) / 255)
    with pytest.raises(ValueError, match="video must have at least 2 frames, but has 1"):
        animation.unsteadiness(video[:1])
    with pytest.raises(ValueError, match=r"masks must have the shape \(3, 2, 2\), but have \(2, 2\)"):
        animation.unsteadiness(video, masks[0])


@pytest.fixture(scope="module")
def calibration():
    image, mask, driving, keypoints, masks, _ = scene(np.random.default_rng(5), 11)
    given = dict(reference_keypoints=PERSON, reference_mask=mask, driving_keypoints=keypoints)
    return tpc_fast.calibrate(image, driving, driving_masks=masks, size=SIZE, **given)


@pytest.mark.parametrize("mode", ["random", "first"])
def test_the_bank_is_what_the_frames_read(calibration, mode):
    """Beside all frames' entries gathered by the plan, one by one."""
    pipe, model = animation.load_pipeline("tiny-random"), animation.Model("tiny-random", 5, 1.0, mode=mode, seed=3)
    encoder, text = ReferenceEncoder(pipe.appearance_encoder), pipe.encode_prompt("")
    everyone = pipe.encode_reference(calibration, 1, "first").calibrated_latents[0]
    for group_size in (1, 3, 4):
        plan = PropagationPlan(len(calibration), group_size, mode, 3)
        pipe.scheduler.set_timesteps(5)
        expected = []
        for step in (0, 1, 3, 4):
            timestep = pipe.scheduler.timesteps[step]
            with torch.no_grad():
                bank = {k: v.clone() for k, v in encoder(everyone, timestep, text).items()}
            representatives = plan.candidates[plan.representatives(step)]
            for entry in bank.values():
                read = entry[representatives[plan.group_of]]
                expected.append(float((read[1:] - read[:-1]).abs().mean() / entry[representatives].abs().mean()))
        found = animation.bank_unsteadiness(pipe, calibration, model, group_size)
        assert found == pytest.approx(np.mean(expected), rel=1e-4)


def test_propagation_steadies(calibration):
    """Over group sizes 1 to 8 the bank of a moving person changes less and less; one group does not change at all."""
    pipe = animation.load_pipeline("tiny-random")
    sizes = (1, 2, 4, 8, 11)
    found = [animation.bank_unsteadiness(pipe, calibration, TINY, size) for size in sizes]
    print(dict(zip(sizes, found, strict=True)))
    assert found == sorted(found, reverse=True)
    assert found[-1] == 0 < found[-2]
    condition = np.repeat(calibration.pose_masks[:].max(1)[..., None], 3, -1)
    rows = animation.measure_propagation(pipe, calibration, condition, TINY, (1, 8), calibration.images[:][:, 0])
    assert [row["group_size"] for row in rows] == [1, 8]
    assert [row["bank"] for row in rows] == pytest.approx([found[0], found[3]])
    assert all(row["output"] > 0 and row["driving"] > 0 for row in rows)
    again = animation.measure_propagation(pipe, calibration, condition, TINY, (8,))
    assert again[0] == {name: value for name, value in rows[1].items() if not name.startswith("driving")}


def test_videos_are_compared_whole_and_by_mask(rng, tmp_path):
    """With LPIPS, of a backbone of random weights: the same as frame by frame."""
    from test_networks import alexnet_features

    state = {f"features.{key}": value for key, value in alexnet_features().state_dict().items()}
    torch.save(state, tmp_path / networks.WEIGHTS["lpips"].file)
    network = networks.load_network("lpips", tmp_path)
    found, truth = rng.integers(0, 256, (2, 3, 70, 80, 3), np.uint8)
    masks = np.where(rng.random((3, 70, 80)) < 0.5, 255, 0).astype(np.uint8)
    rows = animation.compare_videos(found, truth, masks, network)
    assert set(rows) == {f"{m}{p}" for m in ("l1", "psnr", "ssim", "lpips") for p in ("", "_foreground", "_background")}
    assert rows["lpips_background"][1] == networks.lpips(network, found[1], truth[1], masks[1] < 128)
    assert rows["lpips"][2] == networks.lpips(network, found[2], truth[2])
    perfect = animation.compare_videos(truth, truth, masks, network)
    for name, value in (("l1", 0), ("psnr", np.inf), ("ssim", 1), ("lpips", 0)):
        np.testing.assert_allclose(perfect[name], value)
    assert "lpips" not in animation.compare_videos(found, truth, masks)
