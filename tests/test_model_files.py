"""Loading the published files of the other models, made here from small random weights: names, every key, damage."""

import json

import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from test_checkpoints import original_state  # noqa: E402

from tpc_fast.diffusion import load_pipeline  # noqa: E402

# Kind -> the model's own folder, the folder of the base's configuration.
FAMILY = {
    "animate-anyone": (".", "stable-diffusion-v1-5"),
    "champ": ("champ", "stable-diffusion-v1-5"),
    "musepose": ("MusePose", "sd-image-variations-diffusers"),
}


def configuration(model, folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(model.config)))


def publish_family(kind, root):
    pipe, (own, base) = load_pipeline(f"tiny-random:{kind}"), FAMILY[kind]
    folder = root / own
    folder.mkdir(exist_ok=True)
    spatial = {key: tensor for key, tensor in pipe.unet.state_dict().items() if "motion_modules" not in key}
    torch.save(spatial, folder / "denoising_unet.pth")
    torch.save(original_state(pipe.unet), folder / "motion_module.pth")
    reference = pipe.reference_unet.state_dict()
    for key in ("conv_norm_out.weight", "conv_norm_out.bias", "conv_out.weight", "conv_out.bias"):
        reference.pop(key)
    torch.save(reference, folder / "reference_unet.pth")
    for name, encoder in pipe.guides.encoders.items():
        state = {key.replace("attention.", "attentions.5."): tensor for key, tensor in encoder.state_dict().items()}
        if kind == "champ":
            state["guidance_attention.norm.weight"] = torch.ones(2)  # dead, but in the files
        torch.save(state, folder / pipe.file_of_video.format(name))
    configuration(pipe.reference_unet, root / base / "unet")
    pipe.image_encoder.save_pretrained(root / "image_encoder")
    pipe.vae.save_pretrained(root / "sd-vae-ft-mse")
    return pipe, folder


def publish_dreampose(root):
    pipe = load_pipeline("tiny-random:dreampose")
    for name, model in (("unet_epoch_20", pipe.unet), ("adapter_20", pipe.embedding)):
        torch.save({f"module.{key}": tensor for key, tensor in model.state_dict().items()}, root / f"{name}.pth")
    configuration(pipe.unet, root / "checkpoint-20" / "unet")
    pipe.vae.save_pretrained(root / "checkpoint-20" / "vae")
    pipe.scheduler.save_pretrained(root / "checkpoint-20" / "scheduler")
    save_whole_clip(pipe.image_encoder, root / "clip-vit-base-patch32")
    return pipe, root


def save_whole_clip(vision, folder):
    """As openai/clip-vit-base-patch32 is published: text and image encoder in one file, positions counted in it."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig

    text = CLIPTextConfig(vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                          num_attention_heads=2, bos_token_id=97, eos_token_id=98)  # fmt: skip
    whole = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.config.to_dict(), projection_dim=16))
    own = {key if key.startswith("vision_model.") else f"vision_model.{key}": tensor
           for key, tensor in vision.state_dict().items()}  # fmt: skip
    state = {**whole.state_dict(), **own}
    assert state.keys() == whole.state_dict().keys()
    tokens = (vision.config.image_size // vision.config.patch_size) ** 2 + 1
    state["vision_model.embeddings.position_ids"] = torch.arange(tokens)[None]
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    whole.config.save_pretrained(folder)
    torch.save(state, folder / "pytorch_model.bin")


def publish_disco(root):
    pipe = load_pipeline("tiny-random:disco")
    parts = {"unet.": pipe.unet, "controlnet.": pipe.controlnet, "vae.": pipe.vae,
             "clip_image_encoder.": pipe.image_encoder}  # fmt: skip
    state = {f"{prefix}{key}": tensor for prefix, part in parts.items() for key, tensor in part.state_dict().items()}
    state["refer_clip_proj.weight"] = pipe.projection.linear.weight.detach()
    torch.save({"module": state}, root / "mp_rank_00_model_states.pt")
    base = root / "sd-image-variations-diffusers"
    for name, model in (("unet", pipe.unet), ("vae", pipe.vae)):
        configuration(model, base / name)
    pipe.image_encoder.config.save_pretrained(base / "image_encoder")
    return pipe, root


def publish(kind, root):
    """The pipeline, and the folder of its own files."""
    if kind in FAMILY:
        return publish_family(kind, root)
    return {"dreampose": publish_dreampose, "disco": publish_disco}[kind](root)


@pytest.mark.parametrize("kind", [*FAMILY, "dreampose", "disco"])
def test_everything_finds_its_place(kind, tmp_path):
    pipe, _ = publish(kind, tmp_path)
    loaded = load_pipeline(tmp_path)  # its kind is recognised
    assert type(loaded) is type(pipe)
    unused = ("conv_norm_out.", "conv_out.") if kind in FAMILY else ()
    for name, model in pipe.components.items():
        if not isinstance(model, torch.nn.Module):
            continue
        ours, theirs = getattr(loaded, name).state_dict(), model.state_dict()
        assert ours.keys() == theirs.keys(), name
        for key in ours:
            if name != "reference_unet" or not key.startswith(unused):
                assert torch.equal(ours[key], theirs[key]), (name, key)
        assert not getattr(loaded, name).training
    assert type(loaded.scheduler) is type(pipe.scheduler)
    loaded.scheduler.set_timesteps(7)
    pipe.scheduler.set_timesteps(7)
    assert torch.equal(loaded.scheduler.timesteps, pipe.scheduler.timesteps)
    assert torch.equal(loaded.scheduler.alphas_cumprod, pipe.scheduler.alphas_cumprod)


def change(path, function):
    state = torch.load(path, weights_only=True)
    function(state)
    torch.save(state, path)


FILES = {
    "animate-anyone": ("reference_unet.pth", "pose_guider.pth", "denoising_unet.pth"),
    "dreampose": ("unet_epoch_20.pth", "adapter_20.pth"), "disco": ("mp_rank_00_model_states.pt",),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.slow
def test_files_that_are_wrong(kind, tmp_path):
    """Missing and foreign keys are named; code in a pickle is not run; what is missing is listed."""
    _, folder = publish(kind, tmp_path)

    class Bomb:
        def __reduce__(self):
            return (tmp_path / "exploded").touch, ()

    for name in FILES[kind]:
        path, whole = folder / name, (folder / name).read_bytes()
        inside = (lambda state: state["module"]) if kind == "disco" else (lambda state: state)
        key = min(k for k in inside(torch.load(path, weights_only=True)) if k.endswith(".weight"))
        change(path, lambda state, key=key, inside=inside: inside(state).pop(key))
        with pytest.raises(ValueError, match="missing: "):
            load_pipeline(tmp_path)
        path.write_bytes(whole)
        change(path, lambda state, inside=inside: inside(state).update({"unet.foreign": torch.ones(1)}))
        with pytest.raises(ValueError, match=r"without a place: .*foreign"):
            load_pipeline(tmp_path)
        torch.save({"state_dict": Bomb()}, path)
        with pytest.raises(ValueError, match="cannot be read"):
            load_pipeline(tmp_path)
        assert not (tmp_path / "exploded").exists()
        path.unlink()
        with pytest.raises(FileNotFoundError, match=r"these files are missing:(?s:.*)" + name[:7]):
            load_pipeline(f"{kind}:{tmp_path}")
        path.write_bytes(whole)


def test_another_models_weights_are_refused(tmp_path):
    """A reference UNet where the denoiser should be: it ends too early, and has no norm and layer for an output."""
    _, folder = publish("animate-anyone", tmp_path)
    (folder / "denoising_unet.pth").write_bytes((folder / "reference_unet.pth").read_bytes())
    with pytest.raises(ValueError, match=r"missing: conv_norm_out\.bias"):
        load_pipeline(tmp_path)


def test_a_fine_tuned_autoencoder_of_dreampose(tmp_path):
    """With the attention's names of old diffusers, and the prefix of training on several devices."""
    pipe, _ = publish("dreampose", tmp_path)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, tensor in pipe.vae.state_dict().items():
        for new, old in names.items():
            key = key.replace(f".{new}.", f".{old}.")
        state[f"module.{key}"] = tensor + 1
    assert any(".query." in key for key in state)
    torch.save(state, tmp_path / "vae.pth")
    loaded = load_pipeline(tmp_path, vae=tmp_path / "vae.pth")
    before = pipe.vae.state_dict()
    for key, tensor in loaded.vae.state_dict().items():
        assert torch.equal(tensor, before[key] + 1)
    with pytest.raises(ValueError, match="vae must be left out"):
        load_pipeline("tiny-random:disco", vae="x")
