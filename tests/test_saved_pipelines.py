"""Pipelines of this library that are saved as a whole and loaded again."""

import json

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import LCMScheduler  # noqa: E402
from params import slow  # noqa: E402

from tpc_fast.diffusion import load_pipeline  # noqa: E402
from tpc_fast.diffusion.models.registry import recognise  # noqa: E402

KINDS = ["magic-animate", "disco", *slow("animate-anyone", "champ", "musepose", "dreampose", "disco-no-cfg")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(pipeline, folder) by kind, made on first use."""
    made = {}

    def of(kind):
        if kind not in made:
            pipe = load_pipeline(f"tiny-random:{kind}")
            folder = tmp_path_factory.mktemp("saved") / kind
            pipe.save_pretrained(folder)
            made[kind] = pipe, folder
        return made[kind]

    return of


def weights(pipe):
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded(saved, kind):
    pipe, folder = saved(kind)
    assert recognise(folder) == (kind, str(folder))
    again = load_pipeline(folder)
    assert type(again) is type(pipe)
    for name, part in pipe.components.items():
        assert type(again.components[name]) is type(part), name
        assert again.components[name] is not part
    before, after = weights(pipe), weights(again)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert torch.equal(after[key], tensor), key
    configs = [{k: v for k, v in p.scheduler.config.items() if not k.startswith("_")} for p in (again, pipe)]
    assert configs[0] == configs[1]
    assert not any(module.training for module in again.unet.modules())
    half = type(pipe).from_pretrained(folder, torch_dtype=torch.float16)
    assert half.unet.dtype == half.vae.dtype == torch.float16


def test_the_video_is_the_same(saved, tmp_path):
    """With another scheduler than the model's, and while a calibration is attached."""
    import tiny

    from tpc_fast.diffusion import apply_calibration

    pipe, _ = saved("magic-animate")
    own, pipe.scheduler = pipe.scheduler, LCMScheduler.from_config(pipe.scheduler.config)
    rng, size = np.random.default_rng(0), (32, 32)
    given = tiny.calibrated_reference(rng, frames=2, latent=(4, 4))
    masks = [torch.from_numpy(tiny.boxes(rng, *n, size=size)) for n in ((1, 2), (1, 2), (1,))]
    given = type(given)(given.latent, given.calibrated_latents, *masks)
    video, options = rng.integers(0, 256, (2, *size, 3), np.uint8), dict(num_inference_steps=2, seed=3)
    expected = pipe(given, video, **options).frames
    apply_calibration(pipe, given)
    pipe.save_pretrained(tmp_path / "attached")
    pipe.scheduler = own
    again = load_pipeline(tmp_path / "attached")
    assert type(again.scheduler) is LCMScheduler
    assert not hasattr(again.unet, "_tpc_fast_calibration")
    got = again(given, video, **options).frames  # memory that lies otherwise may choose other kernels
    np.testing.assert_allclose(got.astype(int), expected, rtol=0, atol=1)


def test_nothing_is_replaced_or_half_there(saved, tmp_path, monkeypatch):
    pipe, folder = saved("animate-anyone")
    with pytest.raises(FileExistsError, match="exists"):
        pipe.save_pretrained(folder)
    monkeypatch.setattr(type(pipe.vae), "save_pretrained", lambda *a, **k: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        pipe.save_pretrained(tmp_path / "new")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    other = load_pipeline("tiny-random:animate-anyone")
    other.register_modules(vae=torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"vae must be one of .* to be saved, but is a Linear"):
        other.save_pretrained(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def copy(saved, tmp_path):
    """A folder that can be damaged."""
    import shutil

    return shutil.copytree(saved("animate-anyone")[1], tmp_path / "copy")


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae": ["Popen"]}, "vae must be one of .*, but is to be a Popen"),
        ({"vae": None}, "must name the classes of vae, but has None"),
        ({"vae": [3]}, r"must name the classes of vae, but has \[3\]"),
        ({"scheduler": ["DiffusionPipeline"]}, "scheduler must be a scheduler of diffusers, but is to be a 'Diff"),
        ({"scheduler": 7}, "scheduler must be a scheduler of diffusers, but is to be a 7"),
        ({"unet": ["AutoencoderKL"]}, "unet cannot be loaded|unet must hold exactly"),
        ({"_class_name": "Nobody"}, "must be of a .*, but is of a Nobody"),
    ],
)
def test_an_index_of_something_else(copy, changes, message):
    rewrite(copy / "model_index.json", **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_pipeline(copy)


def test_damaged_and_missing_parts(copy):
    from tpc_fast.diffusion.models.animate_anyone import ChampPipeline

    with pytest.raises(ValueError, match=r"must be a saved ChampPipeline, but .* holds a AnimateAnyonePipeline"):
        ChampPipeline.from_pretrained(copy)
    with pytest.raises(ValueError, match=r"vae must be left out: .* was saved with all its parts"):
        load_pipeline(copy, vae="elsewhere")
    weights = copy / "guides" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="guides cannot be loaded"):
        load_pipeline(copy)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"these files are missing: .*guides.diffusion_pytorch_model"):
        load_pipeline(copy)
    weights.write_bytes(whole)
    (copy / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(ValueError, match="scheduler_config"):
        load_pipeline(copy)
