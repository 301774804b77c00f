"""Loading checkpoints in the published layout, made here from small random weights."""

import fnmatch
import json
import re
import shutil

import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from safetensors.torch import load_file, save_file  # noqa: E402

from tpc_fast.diffusion import MagicAnimatePipeline, checkpoints  # noqa: E402
from tpc_fast.diffusion.models.tiny import HEADS  # noqa: E402

# What the hub has under the names that MagicAnimate is loaded from, as far as it matters here; and what is needed.
PUBLISHED = {
    "zcxu-eric/MagicAnimate": [
        "README.md", "appearance_encoder/config.json", "appearance_encoder/diffusion_pytorch_model.safetensors",
        "densepose_controlnet/config.json", "densepose_controlnet/diffusion_pytorch_model.safetensors",
        "temporal_attention/temporal_attention.ckpt",
    ],
    "stable-diffusion-v1-5/stable-diffusion-v1-5": [
        "model_index.json", "safety_checker/config.json", "safety_checker/model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors", "text_encoder/model.safetensors", "text_encoder/pytorch_model.bin",
        "tokenizer/merges.txt", "tokenizer/vocab.json", "unet/config.json", "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.safetensors", "v1-5-pruned.ckpt",
    ],
    "stabilityai/sd-vae-ft-mse": [
        "config.json", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors",
    ],
}  # fmt: skip
WANTED = {
    "zcxu-eric/MagicAnimate": PUBLISHED["zcxu-eric/MagicAnimate"][1:],
    "stable-diffusion-v1-5/stable-diffusion-v1-5": [
        "text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/merges.txt", "tokenizer/vocab.json",
        "unet/config.json",
    ],
    "stabilityai/sd-vae-ft-mse": ["config.json", "diffusion_pytorch_model.safetensors"],
}  # fmt: skip

# How the original names what UNetMotionModel calls ...
ORIGINAL = [
    (r"motion_modules\.(\d+)\.", r"motion_modules.\1.temporal_transformer."),
    (r"\.attn1\.", ".attention_blocks.0."),
    (r"\.attn2\.", ".attention_blocks.1."),
    (r"\.norm1\.", ".norms.0."),
    (r"\.norm2\.", ".norms.1."),
    (r"\.norm3\.", ".ff_norm."),
]


def original_state(unet) -> dict:
    """The motion modules of a UNet under the original's names."""
    state = {}
    for key, tensor in unet.state_dict().items():
        if "motion_modules" not in key:
            continue
        for pattern, name in ORIGINAL:
            key = re.sub(pattern, name, key)
        if key.endswith(".pos_embed.pe"):
            for i in (0, 1):
                state[key.replace("pos_embed.pe", f"attention_blocks.{i}.pos_encoder.pe")] = tensor.clone()
        else:
            state[key] = tensor
    return state


@pytest.fixture(scope="module")
def pipe():
    return MagicAnimatePipeline.from_pretrained("tiny-random")


@pytest.fixture(scope="module")
def published(pipe, tmp_path_factory):
    """The folders as the original's README lays them out; some weights as .bin, some as safetensors."""
    from diffusers import UNet2DConditionModel

    root = tmp_path_factory.mktemp("pretrained_models")
    base, magic = root / "stable-diffusion-v1-5", root / "MagicAnimate"
    pipe.text_encoder.save_pretrained(base / "text_encoder")
    pipe.tokenizer.save_pretrained(base / "tokenizer")
    (base / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    vocabulary = json.dumps(pipe.tokenizer.get_vocab())
    (base / "tokenizer" / "vocab.json").write_text(vocabulary)
    base_unet = UNet2DConditionModel.from_config(pipe.appearance_encoder.config)
    spatial = {key: value for key, value in pipe.unet.state_dict().items() if "motion_modules" not in key}
    base_unet.load_state_dict(spatial)
    base_unet.save_pretrained(base / "unet", safe_serialization=False)
    pipe.vae.save_pretrained(root / "sd-vae-ft-mse")
    pipe.controlnet.save_pretrained(magic / "densepose_controlnet")
    pipe.appearance_encoder.save_pretrained(magic / "appearance_encoder")
    weights = magic / "appearance_encoder" / "diffusion_pytorch_model.safetensors"
    unused = checkpoints.unused_by_encoder(pipe.appearance_encoder.config)
    save_file({key: value for key, value in load_file(weights).items() if not key.startswith(unused)}, weights)
    (magic / "temporal_attention").mkdir()
    state = {f"module.{key}": value for key, value in original_state(pipe.unet).items()}
    torch.save(
        {"epoch": 1, "global_step": 2, "state_dict": state}, magic / "temporal_attention" / "temporal_attention.ckpt"
    )
    return root


@pytest.fixture
def copy(published, tmp_path, monkeypatch):
    """A copy to damage; the published heads of the motion modules are 8, here they are fewer."""
    monkeypatch.setattr(checkpoints.motion_unet, "__defaults__", (HEADS, "the checkpoint"))
    shutil.copytree(published, tmp_path / "pretrained_models")
    return tmp_path / "pretrained_models"


def assert_same(loaded, pipe):
    for name in ("vae", "text_encoder", "unet", "controlnet"):
        ours, theirs = getattr(loaded, name).state_dict(), getattr(pipe, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
        assert not getattr(loaded, name).training
    unused = checkpoints.unused_by_encoder(pipe.appearance_encoder.config)
    theirs = pipe.appearance_encoder.state_dict()
    for key, value in loaded.appearance_encoder.state_dict().items():
        if key.startswith(unused):
            assert not value.any()
        else:
            assert torch.equal(value, theirs[key])
    assert torch.equal(loaded.encode_prompt("A dancer"), pipe.encode_prompt("A dancer"))
    assert loaded.unet.config.motion_max_seq_length == pipe.unet.config.motion_max_seq_length


def test_everything_finds_its_place(copy, pipe):
    assert_same(MagicAnimatePipeline.from_pretrained(copy), pipe)


def test_other_places(copy, pipe, tmp_path):
    """The MagicAnimate folder itself, its neighbours elsewhere, the motion file beside the folders."""
    magic = (copy / "MagicAnimate").rename(tmp_path / "magic")
    (magic / "temporal_attention" / "temporal_attention.ckpt").rename(magic / "temporal_attention.ckpt")
    loaded = MagicAnimatePipeline.from_pretrained(
        str(magic), base=copy / "stable-diffusion-v1-5", vae=str(copy / "sd-vae-ft-mse"), torch_dtype=torch.float16
    )
    for name in ("vae", "unet", "text_encoder", "controlnet", "appearance_encoder"):
        model = getattr(loaded, name)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}, name
    assert torch.equal(loaded.unet.conv_in.weight, pipe.unet.conv_in.weight.half())


@pytest.mark.slow
def test_names_of_older_versions(copy, pipe):
    """As Stable Diffusion's text encoder and the autoencoder were published."""
    path = copy / "stable-diffusion-v1-5" / "text_encoder" / "model.safetensors"
    state = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(path).items()}
    path.unlink()
    torch.save(
        {**state, "text_model.embeddings.position_ids": torch.arange(77)[None]}, path.parent / "pytorch_model.bin"
    )
    path = copy / "sd-vae-ft-mse" / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = load_file(path)
    for new, name in old.items():
        state = {key.replace(new, name): value for key, value in state.items()}
    save_file(state, path)
    assert_same(MagicAnimatePipeline.from_pretrained(copy), pipe)


def test_a_checkpoint_of_the_whole_unet_replaces_the_base(copy, pipe):
    state = original_state(pipe.unet)
    state["conv_in.weight"] = torch.full_like(pipe.unet.conv_in.weight, 7)
    torch.save(state, copy / "MagicAnimate" / "temporal_attention" / "temporal_attention.ckpt")
    assert (MagicAnimatePipeline.from_pretrained(copy).unet.conv_in.weight == 7).all()


def test_missing_files_are_listed(copy):
    (copy / "MagicAnimate" / "temporal_attention" / "temporal_attention.ckpt").unlink()
    (copy / "stable-diffusion-v1-5" / "unet" / "config.json").unlink()
    shutil.rmtree(copy / "sd-vae-ft-mse")
    with pytest.raises(FileNotFoundError) as error:
        MagicAnimatePipeline.from_pretrained(copy)
    lines = str(error.value).splitlines()
    assert lines[0] == "model (magic-animate): these files are missing:"
    assert [line.strip().replace(str(copy) + "/", "") for line in lines[1:-1]] == [
        "MagicAnimate/temporal_attention/temporal_attention.ckpt or MagicAnimate/temporal_attention.ckpt",
        "stable-diffusion-v1-5/unet/config.json",
        "sd-vae-ft-mse/config.json",
        "sd-vae-ft-mse/diffusion_pytorch_model.safetensors or diffusion_pytorch_model.bin",
    ]
    assert "zcxu-eric/MagicAnimate" in lines[-1]


def test_no_folder_at_all(tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"(?s)these files are missing.*MagicAnimate/appearance_encoder/config\.json"
    ):
        MagicAnimatePipeline.from_pretrained(tmp_path / "nowhere")
    for name in ("snapshot_download", "list_repo_files"):
        monkeypatch.setattr(f"huggingface_hub.{name}", lambda *_, **__: (_ for _ in ()).throw(OSError("no net")))
    with pytest.raises(FileNotFoundError, match=r"(?s)model: some/where .*no net.*temporal_attention\.ckpt"):
        MagicAnimatePipeline.from_pretrained("some/where")
    with pytest.raises(TypeError, match="model must be"):
        MagicAnimatePipeline.from_pretrained(3)


def test_hub_ids_are_downloaded_without_what_is_not_needed(copy, pipe, monkeypatch):
    asked = {}

    def download(name, allow_patterns):
        asked[name] = allow_patterns
        places = {"zcxu-eric/MagicAnimate": "MagicAnimate", "stabilityai/sd-vae-ft-mse": "sd-vae-ft-mse"}
        return str(copy / places.get(name, "stable-diffusion-v1-5"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", PUBLISHED.get)
    assert_same(MagicAnimatePipeline.from_pretrained("zcxu-eric/MagicAnimate"), pipe)
    taken = {name: [file for file in PUBLISHED[name] if any(fnmatch.fnmatch(file, p) for p in patterns)]
             for name, patterns in asked.items()}  # fmt: skip
    assert taken == {name: WANTED[name] for name in PUBLISHED}


def test_a_hub_that_cannot_be_asked_leaves_what_was_downloaded_before(copy, pipe, monkeypatch):
    """Then all alternatives are named: nothing new comes of it."""
    magic = "zcxu-eric/MagicAnimate"

    def download(name, allow_patterns):
        assert (name != magic) or "appearance_encoder/diffusion_pytorch_model.bin" in allow_patterns
        return str(copy / {magic: "MagicAnimate", "stabilityai/sd-vae-ft-mse": "sd-vae-ft-mse"}.get(
            name, "stable-diffusion-v1-5"))  # fmt: skip

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: (_ for _ in ()).throw(OSError("no net")))
    assert_same(MagicAnimatePipeline.from_pretrained(magic), pipe)


def test_the_published_motion_file_holds_the_whole_unet(copy, pipe):
    """Then of the base's UNet only the configuration is needed; else its weights are asked for."""
    (copy / "stable-diffusion-v1-5" / "unet" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"does not hold the whole UNet.*unet/diffusion_pytorch_model"):
        MagicAnimatePipeline.from_pretrained(copy)
    spatial = {key: value for key, value in pipe.unet.state_dict().items() if "motion_modules" not in key}
    change_motion(copy, lambda state: state.update({f"module.{key}": value for key, value in spatial.items()}))
    assert_same(MagicAnimatePipeline.from_pretrained(copy), pipe)


def change_motion(copy, change):
    path = copy / "MagicAnimate" / "temporal_attention" / "temporal_attention.ckpt"
    data = torch.load(path, weights_only=True)
    change(data["state_dict"])
    torch.save(data, path)


def test_a_foreign_key(copy):
    change_motion(copy, lambda state: state.update({"module.foreign.weight": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"temporal_attention\.ckpt .* without a place: foreign\.weight"):
        MagicAnimatePipeline.from_pretrained(copy)


def test_a_missing_key(copy):
    key = "module.down_blocks.0.motion_modules.0.temporal_transformer.proj_out.bias"
    change_motion(copy, lambda state: state.pop(key))
    with pytest.raises(ValueError, match=r"missing: down_blocks\.0\.motion_modules\.0\.proj_out\.bias"):
        MagicAnimatePipeline.from_pretrained(copy)


def test_a_key_of_another_shape(copy):
    key = "module.down_blocks.0.motion_modules.0.temporal_transformer.proj_out.bias"
    change_motion(copy, lambda state: state.update({key: torch.zeros(3)}))
    with pytest.raises(ValueError, match=r"proj_out\.bias must be \[32\], but is \[3\]"):
        MagicAnimatePipeline.from_pretrained(copy)


def test_positions_that_are_none(copy):
    def change(state):
        key = next(key for key in state if key.endswith(".pe"))
        state[key] = torch.zeros_like(state[key])

    change_motion(copy, change)
    with pytest.raises(ValueError, match="must be a table of sines and cosines"):
        MagicAnimatePipeline.from_pretrained(copy)


def test_no_motion_modules(copy):
    change_motion(copy, lambda state: state.clear())
    with pytest.raises(ValueError, match="must hold motion modules"):
        MagicAnimatePipeline.from_pretrained(copy)


FOLDERS = {
    "MagicAnimate/densepose_controlnet": "ControlNetModel",
    "MagicAnimate/appearance_encoder": "UNet2DConditionModel",
    "stable-diffusion-v1-5/unet": "UNet2DConditionModel",
    "stable-diffusion-v1-5/text_encoder": "CLIPTextModel",
    "sd-vae-ft-mse": "AutoencoderKL",
}


def load(copy, folder, pipe):
    """One model, as the pipeline loads it."""
    import diffusers
    import transformers

    cls = getattr(transformers if "text" in folder else diffusers, FOLDERS[folder])
    unused = checkpoints.unused_by_encoder(pipe.appearance_encoder.config) if "encoder" in folder else ()
    return checkpoints.load_pretrained(cls, copy / folder, torch.float32, unused)


def weights_of(copy, folder):
    (path,) = (path for path in (copy / folder).iterdir() if path.name != "config.json")
    return path


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_with_other_keys(copy, folder, pipe):
    path = weights_of(copy, folder)
    state = checkpoints.load_state(path)
    save = save_file if path.suffix == ".safetensors" else torch.save
    save({**state, "foreign": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=rf"{folder} .* without a place: foreign"):
        load(copy, folder, pipe)
    first = min(key for key in state if key.endswith(".weight"))
    save({key: value for key, value in state.items() if key != first}, path)
    with pytest.raises(ValueError, match=rf"{folder} .* missing: .*{re.escape(first)}"):
        load(copy, folder, pipe)


@pytest.mark.parametrize("folder", FOLDERS)
def test_truncated_files_and_pointers(copy, folder, pipe):
    path, config = weights_of(copy, folder), copy / folder / "config.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{folder} cannot be loaded: "):
        load(copy, folder, pipe)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(ValueError, match=rf"{folder} cannot be loaded \(.*git lfs pull"):
        load(copy, folder, pipe)
    config.write_text(config.read_text()[:20])
    with pytest.raises(ValueError, match=rf"{folder}/config\.json is not JSON"):
        load(copy, folder, pipe)


def test_a_truncated_motion_file(copy):
    path = copy / "MagicAnimate" / "temporal_attention" / "temporal_attention.ckpt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"temporal_attention\.ckpt cannot be read"):
        MagicAnimatePipeline.from_pretrained(copy)


def test_pickles_run_no_code(copy, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "exploded").touch, ()

    torch.save({"state_dict": Bomb()}, copy / "MagicAnimate" / "temporal_attention" / "temporal_attention.ckpt")
    with pytest.raises(ValueError, match=r"temporal_attention\.ckpt cannot be read"):
        MagicAnimatePipeline.from_pretrained(copy)
    assert not (tmp_path / "exploded").exists()


def test_something_else_than_tensors(tmp_path):
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="must hold named tensors"):
        checkpoints.load_state(tmp_path / "list.ckpt")
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert torch.equal(checkpoints.load_state(tmp_path / "a.safetensors")["a"], torch.ones(2))
