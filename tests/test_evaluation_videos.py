"""Self-reenactment with a diffusion model of small random weights, from clip to tables; steadiness and propagation."""

import json
import re

import numpy as np
import pytest
from params import slow
from scene import PERSON, scene

pytestmark = [pytest.mark.diffusion, pytest.mark.evaluate, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import tpc_fast  # noqa: E402
from tpc_fast.cli.main import main  # noqa: E402
from tpc_fast.diffusion import ReferenceEncoder  # noqa: E402
from tpc_fast.diffusion.models.registry import MODELS, pipeline_class  # noqa: E402
from tpc_fast.diffusion.pipeline import AnimationOutput  # noqa: E402
from tpc_fast.evaluation import animation, clips, networks, run  # noqa: E402
from tpc_fast.evaluation.run import evaluate  # noqa: E402
from tpc_fast.media.png import write_png  # noqa: E402
from tpc_fast.media.video import VideoWriter  # noqa: E402
from tpc_fast.ops.propagation import PropagationPlan  # noqa: E402

FRAMES, SIZE = 18, (80, 64)  # the one size of the small DreamPose
FEW = 3  # frames of a clip for every kind of model
#: The files in a clip's folder that a model follows.
FILES = {
    "magic-animate": ("densepose",), "animate-anyone": ("pose",), "musepose": ("pose",), "dreampose": ("densepose",),
    "disco": ("pose",), "disco-no-cfg": ("pose",), "champ": ("depth", "normal", "semantic_map", "dwpose"),
    "wan-animate": ("pose", "face"), "puppets": ("pose",),
}  # fmt: skip
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


def write(path, frames):
    with VideoWriter(path, 30, frames.shape[1:3]) as video:
        for frame in frames:
            video.write(frame)


def detect(monkeypatch, keypoints, masks):
    """These are seen in every video; and in its first frame, which is the reference."""
    calibrate = tpc_fast.calibrate

    def given(reference, driving, **options):
        options |= dict(reference_keypoints=keypoints[0], reference_mask=masks[0], driving_keypoints=keypoints)
        return calibrate(reference, driving, driving_masks=masks, **options)

    monkeypatch.setattr(clips, "calibrate", given)


@pytest.fixture
def reenacted(tmp_path, monkeypatch):
    """Two clips of the scene on disk, without references."""
    _, _, driving, keypoints, masks, _ = scene(np.random.default_rng(4), FRAMES)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "driving.mp4", driving)
    detect(monkeypatch, keypoints, masks)
    return tmp_path


@pytest.fixture
def few(tmp_path, monkeypatch):
    """A clip of few frames."""
    _, _, driving, keypoints, masks, _ = scene(np.random.default_rng(4), FEW)
    (tmp_path / "clip").mkdir()
    write(tmp_path / "clip" / "driving.mp4", driving)
    detect(monkeypatch, keypoints, masks)
    return tmp_path / "clip"


@pytest.mark.slow
def test_self_reenactment_from_clip_to_tables(reenacted, weights):
    out = reenacted / "out"
    assert main([
        "evaluate", str(reenacted / "one"), str(reenacted / "two"), "-o", str(out), "-q", "--size", "80x64",
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


@pytest.mark.parametrize("kind", ["disco", *slow(*(kind for kind in MODELS if kind != "disco"))])
def test_every_model_is_evaluated(few, kind, monkeypatch, capsys):
    """From a clip with the videos that the model follows; steps and guidance are its own."""
    model, out = pipeline_class(kind), few.parent / "out"
    monkeypatch.setattr(model, "steps", 1)
    if kind == "wan-animate":
        monkeypatch.setattr(model, "window", 5)
    for i, stem in enumerate(FILES[kind]):
        write(few / f"{stem}.mp4", np.full((FEW, 32, 32, 3) if stem == "face" else (FEW, 60, 80, 3), 40 * i, np.uint8))
    arguments = ["evaluate", str(few), "-o", str(out), "-q", "--size", "80x64", "--methods", "subset",
                 "--smooth", "none", "--no-pictures", "--model", f"tiny-random:{kind}"]  # fmt: skip
    propagates = kind != "wan-animate"
    assert main(arguments + ["--propagation", f"1,{FEW}"] * propagates) == 0
    summary, page = json.loads((out / "results.json").read_text()), (out / "report.html").read_text()
    assert not summary["failures"]
    settings = summary["settings"]
    own = list(model.guidance) if isinstance(model.guidance, tuple) else model.guidance
    assert (settings["model"], settings["steps"], settings["guidance"]) == (f"{kind}:tiny-random", 1, own)
    for words in (f"what {kind}:tiny-random makes", "random weights", f"<td>guidance</td><td>{model.guidance}</td>"):
        assert words in page
    made_from = json.loads((out / "clips" / "clip" / "result.json").read_text())["made_from"]
    assert {file["file"] for file in made_from["clip"] if file} == {f"{s}.mp4" for s in ("driving", *FILES[kind])}
    row = summary["aligned"]["subset"]
    assert all(np.isfinite(row[f"video_{metric}"][0]) for metric in ("l1", "psnr", "ssim"))
    assert 0.02 < row["video_l1_foreground"][0] < 1
    if propagates:
        alone, together = summary["propagation"]["1"], summary["propagation"][str(FEW)]
        assert alone["bank"][0] > 0 == together["bank"][0]
        assert together["output"][0] > 0
    else:
        assert main([*arguments, "--propagation", "1,2"]) == 1
        assert "propagation must be left out: wan-animate" in capsys.readouterr().err


def test_the_truth_is_perfect(tmp_path, monkeypatch):
    """A model that returns the driving frames, of a clip that stands still."""
    _, _, driving, keypoints, masks, _ = scene(np.random.default_rng(4), 1)
    (tmp_path / "clip" / "driving").mkdir(parents=True)
    for i in range(3):
        write_png(tmp_path / "clip" / "driving" / f"{i}.png", driving[0])
    detect(monkeypatch, np.repeat(keypoints, 3, 0), np.repeat(masks, 3, 0))

    class Truth:
        videos = ("pose",)

        def __call__(self, calibration, condition, **options):
            assert condition.shape == (3, 120, 160, 3)
            return AnimationOutput(torch.from_numpy(driving).repeat(3, 1, 1, 1))

        def decode(self, frames):
            yield from frames.split(2)

    for module in (animation, run):
        monkeypatch.setattr(module, "load_pipeline", lambda *_: Truth())
    evaluation = evaluate([tmp_path / "clip"], tmp_path / "out", methods=["all"], smooth=["none"], size=(120, 160),
                          model="tiny-random", pictures=False)  # fmt: skip
    row = evaluation.summary["aligned"]["all"]
    for place in ("", "_foreground", "_background"):
        assert row[f"video_l1{place}"][0] == 0
        assert row[f"video_ssim{place}"][0] == pytest.approx(1)
        assert row[f"video_psnr{place}"][0] is None  # infinite


@pytest.mark.parametrize("kind", MODELS)
def test_what_a_model_follows_lies_beside_the_clip(few, kind):
    model, stems = pipeline_class(kind), FILES[kind]
    clip = clips.find_clips([few])[0]
    shown = "DensePose" if stems == ("densepose",) else "skeleton" if "pose" in stems else "a folder with depth, normal"
    missing = ", ".join(rf"{stem}\.\*" for stem in stems)
    with pytest.raises(ValueError, match=rf"clip clip must be a folder with {missing}, .*{kind} follows .*{shown}"):
        animation.followed_files(clip, f"{kind}:weights")
    assert animation.followed_files(clip, f"tiny-random:{kind}") == {}
    for stem in stems[:-1]:
        (few / f"{stem}.mp4").touch()
        with pytest.raises(ValueError, match=rf"must be a folder with .*{stems[-1]}\.\*, of the driving video"):
            animation.followed_files(clips.find_clips([few])[0], f"{kind}:weights")
    for i, stem in enumerate(stems):
        write(few / f"{stem}.mp4", np.full((FEW, 36, 36, 3) if stem == "face" else (FEW, 60, 80, 3), 40 * i, np.uint8))
    files = animation.followed_files(clips.find_clips([few])[0], f"{kind}:weights")
    assert files == {name: few / f"{stem}.mp4" for name, stem in zip(model.videos, stems, strict=True)}
    calibration = clips.calibrate(np.zeros((120, 160, 3), np.uint8), few / "driving.mp4", size=SIZE)
    condition = animation.pose_videos_of(model, files, calibration)
    condition = condition if isinstance(condition, dict) else {model.videos[0]: condition}
    assert list(condition) == list(model.videos)
    for i, (name, video) in enumerate(condition.items()):
        assert video.shape == (FEW, *((36, 36) if name == "face" else SIZE), 3)
        assert abs(video.astype(int) - 40 * i).max() < 6
    write(few / f"{stems[-1]}.mp4", np.zeros((FEW - 1, 60, 80, 3), np.uint8))
    with pytest.raises(ValueError, match=rf"as many frames as the calibration, {FEW}, but .* has {FEW - 1}"):
        animation.pose_videos_of(model, files, calibration)


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


@pytest.mark.slow
def test_what_is_missing_is_said_first(reenacted, tmp_path):
    for options, error, match in (
        (dict(propagation=(2,)), ValueError, "propagation needs a model"),
        (dict(model="tiny-random", protocol="synthetic"), ValueError, "model must be given with protocol clips only"),
        (dict(model="tiny-random", propagation=(2,), methods=["none"]), ValueError, "propagation needs a method"),
        (dict(model="tiny-random", propagation=(0,)), ValueError, "group_size must be at least 1, but is 0"),
        (dict(model="tiny-random", mode="last"), ValueError, "mode must be one of random, first, nearest"),
        (dict(model=str(tmp_path / "none")), FileNotFoundError, "model must be a folder or a hub id"),
        (dict(model="champ:none", base="else/where"), FileNotFoundError, "else/where/unet/config.json"),
        (dict(model="tiny-random:disco", vae="x"), ValueError, "vae must be left out"),
        (dict(weights=tmp_path / "none"), FileNotFoundError, "weights: there is no folder"),
    ):
        with pytest.raises(error, match=match):
            evaluate([reenacted / "one"], reenacted / "out", **options)


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


def bank(pipe, reference, timestep):
    """All frames' entries, as each way of reading a reference defines them."""
    images = reference.calibrated_latents[0]
    if "reference_unet" in pipe.components:
        return ReferenceEncoder(pipe.reference_unet, "full")(images, 0, reference.extras["tokens"])
    if "appearance_encoder" in pipe.components:
        return ReferenceEncoder(pipe.appearance_encoder)(images, timestep, pipe.encode_prompt(""))
    return {"tokens": images}


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("magic-animate", "random"), ("magic-animate", "first"), ("animate-anyone", "random"), ("dreampose", "random")],
)
@pytest.mark.slow
def test_the_bank_is_what_the_frames_read(calibration, kind, mode):
    """Beside all frames' entries gathered by the plan, one by one."""
    model = animation.Model(f"tiny-random:{kind}", 5, 1.0, mode=mode, seed=3)
    pipe = animation.load_pipeline(model.name)
    everyone = pipe.encode_reference(calibration, 1, "first")
    pipe.scheduler.set_timesteps(5)
    steps, timesteps = (0, 1, 3, 4), pipe.scheduler.timesteps
    with torch.no_grad():
        banks = {step: bank(pipe, everyone, timesteps[step]) for step in steps}
    for group_size in (1, 4):
        plan, expected = PropagationPlan(len(calibration), group_size, mode, 3), []
        for step in steps:
            representatives = plan.candidates[plan.representatives(step)]
            for entry in banks[step].values():
                read = entry[representatives[plan.group_of]]
                expected.append(float((read[1:] - read[:-1]).abs().mean() / entry[representatives].abs().mean()))
        found = animation.bank_unsteadiness(pipe, calibration, model, group_size)
        assert found == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.slow
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
