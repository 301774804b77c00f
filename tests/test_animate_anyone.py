"""The AnimateAnyone family: against the originals' tensors, and by laws, on small random weights."""

import contextlib

import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import golden_models  # noqa: E402
from golden_models import assert_equals_golden, needs_golden  # noqa: E402

from tpc_fast.diffusion import apply_calibration, remove_calibration  # noqa: E402
from tpc_fast.diffusion.models.animate_anyone import (  # noqa: E402
    AnimateAnyonePipeline,
    family_guide,
    family_reference_unet,
    family_scheduler,
    family_unet,
)
from tpc_fast.diffusion.models.pose_encoders import Guides  # noqa: E402

# The original


def originals(version: int):
    """Moore-AnimateAnyone's tensors, and our pipeline with its weights."""
    from diffusers import AutoencoderKL

    config = dict(golden_models.SIZES, cross_attention_dim=24, down_block_types=golden_models.DOWN,
                  up_block_types=golden_models.UP)  # fmt: skip
    weights = {
        name: golden_models.tensors(f"animate_anyone_{name}")
        for name in ("denoising_unet", "reference_unet", "pose_guider")
    }
    denoiser = weights["denoising_unet"]
    if version == 1:  # made with the same file, without what the first version has not
        denoiser = {k: v for k, v in denoiser.items() if "mid_block.motion" not in k and "pos_encoder" not in k}
    vae = AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
                        up_block_types=("UpDecoderBlock2D",) * 4)  # fmt: skip
    pipe = AnimateAnyonePipeline(
        vae, None, family_unet(config, denoiser, heads=4, frames={1: 24, 2: 32}[version]),
        family_reference_unet(config, weights["reference_unet"]),
        Guides.of({"pose": family_guide(32, weights["pose_guider"], attentive=False)}),
        family_scheduler(second=version == 2),
    )  # fmt: skip
    return pipe, golden_models.tensors(f"animate_anyone_v{version}_step")


@pytest.fixture(scope="module", params=[2, 1])
def golden(request):
    """Both versions; the tensors of the first are not published with the others."""
    name = f"animate_anyone_v{request.param}_step"
    if not (golden_models.FOLDER / f"{name}.safetensors").exists():
        pytest.skip(f"the original's tensors are not at {golden_models.FOLDER / name}.safetensors")
    return originals(request.param)


@contextlib.contextmanager
def calibrated(pipe, *arguments, **options):
    state = apply_calibration(pipe, *arguments, **options)
    try:
        yield state
    finally:
        remove_calibration(pipe)


def predict(pipe, tensors, guided=True, pose=True):
    pipe._guidance_scale = 3.5 if guided else 1.0
    condition = tensors["pose_fea"][0].transpose(0, 1) * pose
    text = tensors["clip_embed"][0 if guided else 1 :]
    with torch.no_grad():
        return pipe._predict(tensors["latents"], tensors["timestep"], text, condition, None)


@needs_golden
def test_the_guide_is_the_original(golden):
    pipe, tensors = golden
    video = tensors["pose_image_u8"][0].permute(1, 2, 3, 0)
    alone = golden_models.nobody(8, tensors["ref_latent"], (192, 128))
    with torch.no_grad():
        features = pipe._follow(video, alone, 1.0, "cpu")
    assert_equals_golden(features.transpose(0, 1)[None], tensors["pose_fea"])


@needs_golden
def test_plain_predictions_are_the_original(golden):
    pipe, tensors = golden
    assert_equals_golden(predict(pipe, tensors, pose=False), tensors["pred_plain_nopose"])
    assert_equals_golden(predict(pipe, tensors), tensors["pred_plain"])


@needs_golden
def test_the_reference_is_the_original(golden):
    """Its bank, with guidance and without; encoded once, at timestep 0."""
    pipe, tensors = golden
    bank = pipe.reference_adapter().encode(tensors["ref_latent"], 1, tensors["clip_embed"][1:])
    assert len(bank) == 16
    for name, hidden in bank.items():
        assert_equals_golden(hidden.detach(), tensors[f"bank_cond.{name.removesuffix('.attn1')}"])
    with calibrated(pipe, golden_models.nobody(8, tensors["ref_latent"], (192, 128))):
        assert_equals_golden(predict(pipe, tensors), tensors["pred_reference"])
        assert_equals_golden(predict(pipe, tensors, guided=False), tensors["pred_reference_nocfg"])


@needs_golden
def test_calibrated_predictions_are_the_original(golden):
    """The target is the original's network with a dense mask; two persons, who overlap."""
    pipe, tensors = golden
    reference = golden_models.reference(
        tensors, tensors["ref_latent"], tensors["cal_latents"], tensors["pose_masks"],
        calibrated=tensors["cal_masks"], reference=tensors["ref_masks"],
    )  # fmt: skip
    with calibrated(pipe, reference, group_size=1):
        ours = predict(pipe, tensors)
    assert_equals_golden(ours, tensors["pred_calibrated"])
    assert (ours - tensors["pred_reference"]).abs().max() > 0.1 * ours.std()  # the test can fail


@needs_golden
def test_the_scheduler_is_the_original(golden):
    pipe, tensors = golden
    scheduler = pipe.scheduler
    scheduler.set_timesteps(30)
    assert torch.equal(scheduler.timesteps, tensors["scheduler_timesteps_30"])
    # A product of 1000 factors below 1, each rounded to eps / 2, in an order that torch may choose: as the square root.
    alphas = tensors["scheduler_alphas_cumprod"]
    atol = len(alphas) ** 0.5 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(scheduler.alphas_cumprod, alphas, rtol=0, atol=atol)
    pipe._guidance_scale = 3.5
    noise = pipe._guide(tensors["pred_reference"])
    step = scheduler.step(noise, tensors["scheduler_timestep"], tensors["latents"]).prev_sample
    assert_equals_golden(step, tensors["latents_next"])


def test_versions_are_told_apart():
    """The first has no motion in the mid block and joint norms; positions are made where a file has none."""
    from tpc_fast.diffusion.models.norms import MagicAnimateUNet, PerFrameUNet

    second = AnimateAnyonePipeline.from_pretrained("tiny-random")
    assert type(second.unet) is PerFrameUNet
    assert second.scheduler.config.prediction_type == "v_prediction"
    assert family_scheduler(second=False).config.prediction_type == "epsilon"
    state = {k: v for k, v in second.unet.state_dict().items() if "mid_block.motion" not in k and "pos_embed" not in k}
    first = family_unet(dict(second.reference_unet.config), state, heads=8, frames=24)
    assert type(first) is MagicAnimateUNet
    assert first.config.motion_max_seq_length == 24
    assert not first.config.use_motion_mid_block
    table = first.down_blocks[0].motion_modules[0].transformer_blocks[0].pos_embed.pe
    whole = second.unet.down_blocks[0].motion_modules[0].transformer_blocks[0].pos_embed.pe
    assert torch.allclose(table, whole[:, :24])
    with pytest.raises(ValueError, match="must hold tables of positions"):
        family_unet(dict(second.reference_unet.config), state, heads=8)


champ = golden_models.FOLDER / "champ_guidance.safetensors"


@pytest.mark.skipif(not champ.exists(), reason=f"Champ's tensors are not at {champ}")
def test_the_guides_of_champ_are_the_original():
    tensors, names = golden_models.tensors("champ_guidance"), ("depth", "normal")
    guides = {}
    for name in names:
        prefix = f"sd_{name}."
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        guides[name] = family_guide(32, state, attentive=True)
    videos = {name: video.transpose(0, 1).float() / 255
              for name, video in zip(names, tensors["guidance_u8"], strict=True)}  # fmt: skip
    with torch.no_grad():
        for name in names:
            assert_equals_golden(guides[name](videos[name]).transpose(0, 1)[None], tensors[f"feature_{name}"])
        assert_equals_golden(Guides.of(guides)(videos).transpose(0, 1)[None], tensors["guidance_fea"])


def test_a_guide_of_champ(rng):
    """By its definition; of six attentions, and one more, the file's last of the six is used, the rest is dead."""
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
    from diffusers.models.transformers.transformer_2d import Transformer2DModel
    from torch.nn import functional as F

    plain = ControlNetConditioningEmbedding(32, block_out_channels=(16, 32, 32, 64))
    torch.nn.init.normal_(plain.conv_out.weight, std=0.05)
    attention = Transformer2DModel(8, 8, 64, norm_num_groups=32)
    state = {**plain.state_dict(), **{f"attentions.5.{k}": v for k, v in attention.state_dict().items()}}
    dead = {"attentions.0.norm.weight": torch.ones(3), "guidance_attention.proj_in.bias": torch.ones(3)}
    guide = family_guide(32, {**state, **dead}, attentive=True)
    picture = torch.from_numpy(rng.random((2, 3, 64, 48))).float()
    with torch.no_grad():
        features = F.silu(plain.conv_in(picture))
        for block in plain.blocks:
            features = F.silu(block(features))
        wanted = plain.conv_out(attention(features).sample)
        torch.testing.assert_close(guide(picture), wanted)
        torch.testing.assert_close(Guides.of({"a": guide, "b": guide})({"a": picture, "b": picture}), 2 * wanted)
    with pytest.raises(ValueError, match=r"without a place: attentions\.6"):
        family_guide(32, {**state, "attentions.6.norm.weight": torch.ones(3)}, attentive=True)
    del state["attentions.5.proj_in.bias"]
    with pytest.raises(ValueError, match=r"missing: attention\.proj_in\.bias"):
        family_guide(32, state, attentive=True)
