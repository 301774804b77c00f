"""DreamPose and DisCo: against the originals' tensors."""

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import golden_models  # noqa: E402
from golden_models import DOWN, SIZES, UP, assert_equals_golden, needs_golden  # noqa: E402

from tpc_fast.diffusion import DisCoPipeline, DreamPosePipeline, apply_calibration, remove_calibration  # noqa: E402
from tpc_fast.diffusion.models.control import condition_features  # noqa: E402
from tpc_fast.diffusion.models.disco import disco_models  # noqa: E402
from tpc_fast.diffusion.models.dreampose import dreampose_unet, embedding_adapter  # noqa: E402
from tpc_fast.diffusion.models.image_model import pndm  # noqa: E402

CONFIG = dict(SIZES, down_block_types=DOWN, up_block_types=UP)


def predict(pipe, tensors, text, condition, reference=None, calibrate=False):
    """One prediction: as the originals have it, [parts * n, C, h, w]; and as ours, [parts, C, n, h, w]."""
    latents = tensors["latents"].transpose(0, 1)[None]
    if calibrate:
        apply_calibration(pipe, reference, group_size=1)
    try:
        with torch.no_grad():
            noise = pipe._predict(latents, tensors["timestep"], text, condition, reference)
    finally:
        if calibrate:
            remove_calibration(pipe)
    return noise.transpose(1, 2).flatten(0, 1), noise


# DreamPose


@pytest.fixture(scope="module")
def dreampose():
    """The original's tensors, and our pipeline with its weights; its poses at the size of the latents."""
    from diffusers import AutoencoderKL

    if not golden_models.FOLDER.exists():
        pytest.skip(f"the originals' tensors are not at {golden_models.FOLDER}")
    tensors = golden_models.tensors("dreampose_step")
    pipe = DreamPosePipeline(
        AutoencoderKL(), None, embedding_adapter(golden_models.tensors("dreampose_adapter")),
        dreampose_unet(dict(CONFIG, cross_attention_dim=768), golden_models.tensors("dreampose_unet")), pndm(),
    )  # fmt: skip
    pipe._guidance_scale = (8.0, 3.0)
    tensors["pose"] = torch.nn.functional.interpolate(tensors["pose"], (80, 64))
    return pipe, tensors


@needs_golden
def test_tokens_of_dreampose_are_the_original(dreampose):
    pipe, tensors = dreampose
    with torch.no_grad():
        for kind in ("", "_uncond", "_cal"):
            ours = pipe.embedding(tensors[f"clip{kind}"], tensors[f"vae{kind}"])
            assert_equals_golden(ours, tensors[f"tokens{kind}"])


@needs_golden
@pytest.mark.slow
def test_dreampose_is_the_original(dreampose):
    """Plain, guided and the schedulers' steps; calibrated: the target is the original's network with a dense mask."""
    from diffusers import DDIMScheduler

    pipe, tensors = dreampose
    text = torch.cat([tensors["tokens_uncond"], tensors["tokens"], tensors["tokens"]])
    plain, noise = predict(pipe, tensors, text, tensors["pose"])
    assert_equals_golden(plain, tensors["pred"])
    assert_equals_golden(pipe._guide(noise)[0].transpose(0, 1), tensors["guided"])
    ddim = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    ddim.set_timesteps(100)
    step = ddim.step(tensors["guided"], tensors["scheduler_timestep"], tensors["latents"]).prev_sample
    assert_equals_golden(step, tensors["ddim_next"])
    scheduler = pndm()
    scheduler.set_timesteps(100)
    assert torch.equal(scheduler.timesteps, tensors["pndm_timesteps_100"])
    step = scheduler.step(tensors["guided"], scheduler.timesteps[0], tensors["latents"]).prev_sample
    assert_equals_golden(step, tensors["pndm_next_first"])

    pose = torch.from_numpy(np.unpackbits(tensors["pose_masks_packed"].numpy(), axis=-1))
    reference = golden_models.reference(tensors, tensors["tokens"], tensors["tokens_cal"], pose)
    ours, _ = predict(pipe, tensors, text, tensors["pose"], reference, calibrate=True)
    assert_equals_golden(ours, tensors["pred_calibrated"])
    assert_equals_golden(ours[:2], plain[:2])  # of no reference
    assert (ours[2:] - plain[2:]).abs().max() > 0.1 * plain.std()  # the test can fail


# DisCo


@pytest.fixture(scope="module")
def disco():
    """The original's tensors, and our pipeline with its weights."""
    from diffusers import AutoencoderKL

    if not golden_models.FOLDER.exists():
        pytest.skip(f"the originals' tensors are not at {golden_models.FOLDER}")
    unet, controlnet = disco_models(dict(CONFIG, cross_attention_dim=24), golden_models.tensors("disco_weights"))
    pipe = DisCoPipeline(AutoencoderKL(), None, None, unet, controlnet, pndm())
    pipe._guidance_scale, pipe._scale = 1.5, 1.0
    return pipe, golden_models.tensors("disco_step")


@needs_golden
def test_disco_is_the_original(disco):
    pipe, tensors = disco
    text = torch.cat([tensors["tokens_uncond"], tensors["tokens"]])
    pose = condition_features(pipe.controlnet.nets[0], tensors["pose_image_u8"].permute(0, 2, 3, 1), "cpu")
    reference = golden_models.reference(tensors, tensors["tokens"], tensors["tokens_cal"], tensors["pose_masks"])
    reference.extras["background"] = tensors["background_latent"]
    residuals = []
    handle = pipe.controlnet.register_forward_hook(lambda module, args, out: residuals.append(out))
    plain, noise = predict(pipe, tensors, text, pose, reference)
    handle.remove()
    ((down, mid),) = residuals
    for i, residual in enumerate(down):
        assert_equals_golden(residual[[0, 4]], tensors[f"controlnet_down.{i}"])
    assert_equals_golden(mid[[0, 4]], tensors["controlnet_mid"])
    assert_equals_golden(plain, tensors["pred"])
    assert_equals_golden(pipe._guide(noise)[0].transpose(0, 1), tensors["guided"])
    ours, _ = predict(pipe, tensors, text, pose, reference, calibrate=True)
    assert_equals_golden(ours, tensors["pred_calibrated"])
    assert_equals_golden(ours[:4], plain[:4])
    assert (ours[4:] - plain[4:]).abs().max() > 0.1 * plain.std()


@needs_golden
def test_the_video_model_of_disco_is_refused():
    state = golden_models.tensors("disco_weights")
    state["unet.down_blocks.0.resnets.0.tem_conv.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"image model, but is the video model: .*layers over time.*tem_conv"):
        disco_models(dict(CONFIG, cross_attention_dim=24), state)
