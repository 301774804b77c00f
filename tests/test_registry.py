"""One record a model: everything that differs from model to model is read from it, and nothing from words."""

import sys
import types

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from test_animate import FRAMES, calibrate, command, frames_of, write  # noqa: E402

from tpc_fast import _checks  # noqa: E402
from tpc_fast.cli.main import main  # noqa: E402
from tpc_fast.diffusion import load_pipeline  # noqa: E402
from tpc_fast.diffusion.checkpoints import Part  # noqa: E402
from tpc_fast.diffusion.models.load import Published  # noqa: E402
from tpc_fast.diffusion.models.registry import MODELS, Follows, Model, recognise, refuse_options  # noqa: E402
from tpc_fast.diffusion.pipeline import AnimationOutput  # noqa: E402
from tpc_fast.evaluation import animation, clips  # noqa: E402
from tpc_fast.evaluation.run import evaluate  # noqa: E402

SIZE = (48, 64)


class Mirror(Published):
    """What a new model's file holds: it shows the video that it follows."""

    kind, videos, resumable = "mirror", ("pose",), False
    steps, guidance, window, overlap = 1, 1.0, 8, 0

    def __init__(self, gain):
        self.gain = gain

    @classmethod
    def _load(cls, found, vae, dtype):
        return {"gain": float((found["model"] / "gain.txt").read_text())}

    def to(self, device):
        return self

    def encode_reference(self, calibration):
        return calibration

    def __call__(
        self, reference, pose_video, prompt="", negative_prompt="", num_inference_steps=None, guidance_scale=None, *,
        window=None, overlap=None, generator=None, output_type="np", on_window=None, closed_loop=False,
    ):  # fmt: skip
        return AnimationOutput(frames=(torch.from_numpy(pose_video) * self.gain).to(torch.uint8))

    def decode(self, frames):
        yield from frames.split(4)


def tiny_mirror(cls, dtype):
    """What stands beside the class."""
    return {"gain": 0.5}


@pytest.fixture
def mirror(monkeypatch):
    """The one record."""
    module = types.ModuleType("mirror")
    module.Mirror, module.tiny_mirror = Mirror, tiny_mirror
    monkeypatch.setitem(sys.modules, "mirror", module)
    drawn = dict.fromkeys(("group_size", "mode", "seed", "noise_period"), "draws nothing")
    record = Model(
        pipeline="mirror:Mirror", tiny="tiny_mirror", follows=Follows.OPENPOSE, marks=("gain.txt",),
        parts={"model": Part("some/mirror", ".", {"": [("gain.txt",)]})}, refuses={"regions": "has none", **drawn},
    )  # fmt: skip
    monkeypatch.setitem(MODELS, "mirror", record)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    return calibrate(tmp_path_factory.mktemp("record"), SIZE)


def test_a_record_is_all_that_a_model_needs(mirror, calibrated, tmp_path, capsys):
    """Recognised, loaded, made small, animated and evaluated; what it does not take is refused."""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "gain.txt").write_text("1")
    assert recognise(weights) == ("mirror", str(weights))
    assert recognise("some/mirror") == ("mirror", "some/mirror")
    assert load_pipeline(weights).gain == 1
    assert load_pipeline("tiny-random:mirror").gain == 0.5
    (weights / "gain.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"gain\.txt\n.*hub: some/mirror"):
        load_pipeline(f"mirror:{weights}")
    (weights / "gain.txt").write_text("1")

    pose = np.random.default_rng(0).integers(0, 256, (1, 6, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    write(tmp_path / "pose.mp4", pose.repeat(FRAMES, 0))
    arguments = command(calibrated, tmp_path / "out.mp4", "--pose", str(tmp_path / "pose.mp4"), "-q")
    arguments[3] = str(weights)
    for flag, why in (
        (("--group-size", "4"), "group-size must be left out: mirror draws nothing"),
        (("--mode", "first"), "mode must be left out"),
        (("--noise-period", "16"), "noise-period must be left out"),
        (("--regions",), "regions must be left out: mirror has none"),
    ):
        assert main([*arguments, *flag]) == 1
        assert f"error: --{why}" in capsys.readouterr().err
    assert main([*arguments, "--background", "generated", "--closed-loop"]) == 0
    assert abs(frames_of(tmp_path / "out.mp4").astype(int) - frames_of(tmp_path / "pose.mp4")).mean() < 8

    (tmp_path / "clip").mkdir()
    write(tmp_path / "clip" / "driving.mp4", pose.repeat(3, 0))
    clip = clips.find_clips([tmp_path / "clip"])[0]
    with pytest.raises(ValueError, match=r"a folder with pose\.\*.*: mirror follows a skeleton \(OpenPose\) video"):
        animation.followed_files(clip, str(weights))
    with pytest.raises(ValueError, match="group_size must be left out: mirror draws nothing"):
        evaluate([tmp_path / "clip"], tmp_path / "page", model="tiny-random:mirror", group_size=2)
    with pytest.raises(ValueError, match="propagation must be left out: mirror draws nothing"):
        evaluate([tmp_path / "clip"], tmp_path / "page", model="tiny-random:mirror", propagation=(1, 2))


@pytest.mark.parametrize("member", Follows)
def test_words_steer_nothing(mirror, calibrated, tmp_path, monkeypatch, member, capsys):
    """With any other sentence for people, the same files are asked for."""
    import dataclasses

    monkeypatch.setitem(MODELS, "mirror", dataclasses.replace(MODELS["mirror"], follows=member))
    clip = clips.Clip("clip", None, tmp_path / "driving.mp4", {})

    def asked_for():
        with pytest.raises(ValueError, match="must be a folder with") as error:
            animation.followed_files(clip, "mirror:weights")
        refused = main([*command(calibrated, tmp_path / "a.mp4"), "--model", "mirror:weights", "--pose", "a.pt"])
        error = str(error.value).split(" of the driving")[0], refused, "draws DensePose" in capsys.readouterr().err
        return error

    before = asked_for()
    monkeypatch.setattr(member, "_value_", "a DensePose video of DensePose")
    assert asked_for() == before


@pytest.mark.parametrize("kind", MODELS)
def test_records_and_classes_are_of_each_other(kind):
    record = MODELS[kind]
    assert record.load().kind == kind
    assert callable(record.load(record.tiny))
    assert "model" in record.parts


def test_classes_refuse_with_the_reason():
    wan = load_pipeline("tiny-random:wan-animate")
    for option, why in (
        ({"group_size": 4}, "group_size must be left out: wan-animate is shown one calibrated picture per segment"),
        ({"mode": "random"}, "mode must be left out"),
        ({"noise_period": 16}, "noise_period must be left out"),
        ({"closed_loop": True}, "closed_loop must be left out"),
    ):
        with pytest.raises(ValueError, match=why):
            wan(None, {}, **option)
    with pytest.raises(ValueError, match="group_size must be left out"):
        wan.encode_reference(None, group_size=4)
    with pytest.raises(TypeError, match="wan-animate takes no colour"):
        wan(None, {}, colour="red")
    disco = load_pipeline("tiny-random:disco")
    with pytest.raises(ValueError, match="blocks must be left out: disco has its reference as tokens"):
        disco(None, None, blocks="full")
    with pytest.raises(ValueError, match="closed_loop must be left out: disco makes every frame on its own"):
        disco(None, None, closed_loop=True)
    refuse_options("wan-animate", group_size=None, closed_loop=False, base="", window=5)  # not given, or taken


def test_former_keywords_work_for_one_release(calibrated):
    pipe = load_pipeline("tiny-random")
    with (
        pytest.warns(DeprecationWarning, match="condition= is now pose_video="),
        pytest.raises(ValueError, match="pose_video must be"),
    ):
        pipe(calibrated, condition=np.zeros((1, 2, 2, 3), np.uint8))

    @_checks.renamed(old="new")
    def function(new):
        return new

    with pytest.raises(TypeError, match="old is the former name of new"):
        function(new=1, old=2)
    with pytest.warns(DeprecationWarning, match="old= is now new="):
        assert function(old=3) == 3
