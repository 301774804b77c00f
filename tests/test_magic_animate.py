"""MagicAnimate as a whole: against the original's tensors, and by laws, on small random weights."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from scene import PERSON, scene  # noqa: E402

import tpc_fast  # noqa: E402
from tpc_fast.diffusion import (  # noqa: E402
    CalibratedReference,
    MagicAnimatePipeline,
    apply_calibration,
    remove_calibration,
)
from tpc_fast.diffusion.composite import composite_background  # noqa: E402
from tpc_fast.diffusion.models.norms import JointGroupNorm, MagicAnimateUNet, PerFrameGroupNorm  # noqa: E402
from tpc_fast.output.layout import write_layout  # noqa: E402

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "diffusion"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason=f"the original's tensors are not at {GOLDEN}")


# The original


@pytest.fixture(scope="module")
def golden():
    """The released code's tensors, and our pipeline with its weights."""
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from safetensors.torch import load_file

    from tpc_fast.diffusion.checkpoints import motion_unet, unused_by_encoder
    from tpc_fast.diffusion.models.magic_animate import original_scheduler

    def weights(name):
        return {key: value.float() for key, value in load_file(GOLDEN / f"weights_{name}.safetensors").items()}

    down = {"down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)}
    both = {**down, "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3}
    sizes = dict(block_out_channels=(32, 64, 128, 128), layers_per_block=2, cross_attention_dim=24,
                 attention_head_dim=2)  # fmt: skip
    unet = motion_unet(UNet2DConditionModel(**sizes, **both), weights("unet3d"), heads=4)
    controlnet = ControlNetModel(**sizes, **down, conditioning_embedding_out_channels=(8, 8, 16, 16))
    controlnet.load_state_dict(weights("controlnet"))
    encoder = UNet2DConditionModel(**sizes, **both)
    missing, unexpected = encoder.load_state_dict(weights("appearance_encoder"), strict=False)
    assert unexpected == []
    assert len(missing) == 24
    assert all(key.startswith(unused_by_encoder(encoder.config)) for key in missing)
    vae = AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
                        up_block_types=("UpDecoderBlock2D",) * 4)  # fmt: skip
    pipe = MagicAnimatePipeline(vae, None, None, unet, controlnet, encoder, original_scheduler())
    return pipe, load_file(GOLDEN / "pipeline_p2.safetensors")


def masks(tensors, name, *shape):
    bits = np.unpackbits(tensors[f"{name}_packed"].numpy(), axis=-1)
    return torch.from_numpy(bits.reshape(*shape, 128, 128) * 255)


def run_golden(golden, reference):
    """Final latents, and what the scheduler was given at each step."""
    pipe, tensors = golden
    step, noise = pipe.scheduler.step, []
    pipe.scheduler.step = lambda pred, *args, **kwargs: noise.append(pred) or step(pred, *args, **kwargs)
    try:
        result = pipe(
            reference, tensors["controlnet_cond"], num_inference_steps=2, guidance_scale=7.5, closed_loop=True,
            mode="first", latents=tensors["latents_init"], prompt_embeds=tensors["text"][1:],
            negative_prompt_embeds=tensors["text"][:1], output_type="latent",
        )  # fmt: skip
    finally:
        del pipe.scheduler.step
    return result.frames, noise


def assert_equals_golden(tensors, name, ours):
    theirs = tensors[name]
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.std()


def two_persons(tensors, frames=32):
    """20 frames padded to 32."""
    return CalibratedReference(
        tensors["ref_latent"], tensors["cal_latents"].view(2, frames, 4, 16, 16),
        masks(tensors, "pose_mask", 2, frames), masks(tensors, "cal_mask", 2, frames), masks(tensors, "ref_mask", 2),
    )  # fmt: skip


@needs_golden
def test_the_whole_pipeline_is_the_original(golden):
    """Two persons, three windows in a closed loop, two steps."""
    _, tensors = golden
    latents, noise = run_golden(golden, two_persons(tensors))
    for step in range(2):
        assert_equals_golden(tensors, f"noise_pred_aligned.{step}", noise[step])
    assert_equals_golden(tensors, "latents_final_aligned", latents)
    assert (latents - tensors["latents_final_original"]).abs().max() > 1e-2  # the two differ: the test can fail


@needs_golden
@pytest.mark.slow
def test_an_unmodified_pipeline_of_diffusers_is_the_original(golden):
    """AnimateDiffControlNetPipeline with windows and calibration attached, and the same models."""
    from diffusers import AnimateDiffControlNetPipeline
    from PIL import Image

    ours, tensors = golden
    pipe = AnimateDiffControlNetPipeline(ours.vae, None, None, ours.unet, None, ours.controlnet, ours.scheduler)
    pipe.set_progress_bar_config(disable=True)

    def conditional_text(module, args, kwargs):  # what the original's ControlNet gets, in both halves
        text = kwargs["encoder_hidden_states"]
        return args, kwargs | {"encoder_hidden_states": text[len(text) // 2 :].repeat(2, 1, 1)}

    handle = ours.controlnet.register_forward_pre_hook(conditional_text, with_kwargs=True)
    state = apply_calibration(
        pipe, two_persons(tensors), ours.appearance_encoder, mode="first", window=16, overlap=4, closed_loop=True
    )
    try:
        latents = pipe(
            conditioning_frames=[Image.fromarray(frame.numpy()) for frame in tensors["controlnet_cond"]],
            num_frames=32, height=128, width=128, num_inference_steps=2, guidance_scale=7.5,
            latents=tensors["latents_init"], prompt_embeds=tensors["text"][1:],
            negative_prompt_embeds=tensors["text"][:1], output_type="latent",
        ).frames  # fmt: skip
    finally:
        remove_calibration(pipe)
        handle.remove()
    assert_equals_golden(tensors, "latents_final_aligned", latents)
    assert state.encoded == 2 * (1 + 2 * 8)  # not 2 x 260


@needs_golden
@pytest.mark.slow
def test_without_calibration_it_is_the_original_too(golden):
    """The reference alone: what MagicAnimate does without TPC."""
    _, tensors = golden
    nobody = torch.zeros(0, 32, 128, 128)
    reference = CalibratedReference(tensors["ref_latent"], torch.zeros(0, 32, 4, 16, 16), nobody, nobody, nobody[:, 0])
    latents, _ = run_golden(golden, reference)
    assert_equals_golden(tensors, "latents_final_ref_only", latents)


# Norms


def test_joint_norm_is_over_frames(rng):
    x = torch.from_numpy(rng.normal(2, 3, (2 * 5, 8, 3, 4)) * rng.random((10, 1, 1, 1))).float()
    norm = torch.nn.GroupNorm(4, 8)
    torch.nn.init.normal_(norm.weight)
    joint = JointGroupNorm(norm, type("Video", (), {"frames": 5}))
    videos = x.double().view(2, 5, 4, 2, 3, 4)
    mean, variance = videos.mean((1, 3, 4, 5), keepdim=True), videos.var((1, 3, 4, 5), keepdim=True, correction=0)
    wanted = ((videos - mean) / (variance + norm.eps).sqrt()).view(10, 8, 3, 4)
    wanted = wanted * norm.weight.double().view(-1, 1, 1) + norm.bias.double().view(-1, 1, 1)
    assert torch.allclose(joint(x).double(), wanted, atol=1e-5)
    assert joint.weight is norm.weight
    video = x.view(2, 5, 8, 3, 4).transpose(1, 2)
    per_frame = PerFrameGroupNorm(norm)(video).transpose(1, 2).reshape_as(x)
    assert torch.allclose(per_frame, norm(x), atol=1e-6)


def test_the_unet_has_each_norm_in_its_place():
    unet = MagicAnimatePipeline.from_pretrained("tiny-random").unet
    for name, norm in unet.named_modules():
        if isinstance(norm, torch.nn.GroupNorm):
            kind = (
                PerFrameGroupNorm if ".motion_modules." in name
                else torch.nn.GroupNorm if ".attentions." in name else JointGroupNorm
            )  # fmt: skip
            assert type(norm) is kind, name
    assert isinstance(unet.conv_norm_out, JointGroupNorm)
    again = MagicAnimateUNet.from_config(unet.config)
    assert again.config == unet.config
    again.load_state_dict(unet.state_dict())


# The pipeline by its laws

FRAMES, SIZE = 10, (48, 64)


@pytest.fixture(scope="module")
def pipe():
    pipe = MagicAnimatePipeline.from_pretrained("tiny-random")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def calibration():
    image, mask, driving, keypoints, masks, _ = scene(np.random.default_rng(1), FRAMES)
    return tpc_fast.calibrate(image, driving, size=SIZE, reference_keypoints=PERSON, reference_mask=mask,
                              driving_keypoints=keypoints, driving_masks=masks)  # fmt: skip


@pytest.fixture(scope="module")
def dense():
    return np.random.default_rng(2).integers(0, 256, (FRAMES, *SIZE, 3), np.uint8)


def animate(pipe, calibration, dense, seed=0, **options):
    options = {"num_inference_steps": 2, "window": 6, "overlap": 2, **options}
    return pipe(calibration, dense, generator=torch.Generator().manual_seed(seed), **options).frames


@pytest.fixture(scope="module")
def video(pipe, calibration, dense):
    return animate(pipe, calibration, dense)


def test_a_video_comes_out(pipe, calibration, dense, video):
    assert video.shape == (FRAMES, *SIZE, 3)
    assert video.dtype == np.uint8
    assert video.std() > 1
    assert not hasattr(pipe.unet, "_tpc_fast_calibration")  # nothing of the run stays attached
    assert np.array_equal(animate(pipe, calibration, dense), video)
    light = torch.from_numpy(dense).permute(0, 3, 1, 2).float() / 255
    assert np.array_equal(animate(pipe, calibration, light, output_type="pt").numpy(), video)


@pytest.mark.slow
def test_folders_serve_as_well(pipe, calibration, dense, video, tmp_path):
    calibration.save(tmp_path / "ours")
    assert np.array_equal(animate(pipe, calibration, dense), video)
    assert np.array_equal(animate(pipe, tmp_path / "ours", dense), video)
    (tmp_path / "theirs").mkdir()
    write_layout(calibration, tmp_path / "theirs")
    assert animate(pipe, str(tmp_path / "theirs"), dense, num_inference_steps=1).shape == video.shape


@pytest.mark.slow
def test_every_input_matters(pipe, calibration, dense, video):
    one = {"num_inference_steps": 1, "output_type": "latent"}
    plain = animate(pipe, calibration, dense, **one)
    assert not torch.equal(animate(pipe, calibration, 255 - dense, **one), plain)
    for change in ({"seed": 1}, {"guidance_scale": 2}, {"group_size": 3}, {"blocks": "full"}, {"mode": "first"},
                   {"closed_loop": False}, {"noise_period": 4}, {"prompt": "a dancer"}, {"overlap": 3},
                   {"controlnet_conditioning_scale": 0.5}):  # fmt: skip
        assert not torch.equal(animate(pipe, calibration, dense, **one, **change), plain), change
    for change in ({"bank_refresh": 2}, {"eta": 0.5}):  # matter from the second step on
        assert not np.array_equal(animate(pipe, calibration, dense, **change), video), change


def test_a_run_goes_on_where_it_was(pipe, calibration, dense, video):
    """What the callback was given, continued, is the whole run, bit by bit."""
    kept, parts = {}, {}
    animate(
        pipe, calibration, dense, on_window=lambda done, total: parts.setdefault("seen", []).append((done, total)),
        callback_on_step_end=lambda _, step, t, state: kept.update({step: state["latents"]}),
        callback_on_window_end=lambda _, step, done, state: parts.update({(step, done): state}),
    )  # fmt: skip
    assert sorted(kept) == [0, 1]
    for done in (1, 2):
        rest = animate(pipe, calibration, dense, latents=kept[done - 1], first_step=done, output_type="latent")
        assert torch.equal(rest, kept[1])
    assert [key for key in parts if key != "seen"] == [(0, 1), (0, 2), (1, 1), (1, 2)]  # three windows, in a loop
    assert parts["seen"] == [(i, 6) for i in range(1, 7)]
    for step, done in ((0, 1), (0, 2), (1, 1), (1, 2)):
        seen = []
        state = dict(parts[step, done])
        rest = animate(pipe, calibration, dense, first_step=step, first_window=done, output_type="latent",
                       on_window=lambda *count, seen=seen: seen.append(count), **state)  # fmt: skip
        assert torch.equal(rest, kept[1])
        left = 6 - 3 * step - done
        assert seen == [(i + 1, left) for i in range(left)]
        assert torch.equal(state["predicted"], parts[step, done]["predicted"])
    decoded = np.concatenate(list(pipe.decode(kept[1], 3)))
    assert abs(decoded.astype(int) - video).max() <= 1  # chunks of another size round differently


@pytest.mark.parametrize("offload", ["enable_model_cpu_offload", "enable_group_offload"])
@pytest.mark.slow
def test_offload(calibration, dense, video, offload):
    """To the CPU itself, by all the machinery; run twice."""
    pipe, cpu = MagicAnimatePipeline.from_pretrained("tiny-random"), torch.device("cpu")
    options = {"device": cpu} if "model" in offload else {"onload_device": cpu, "offload_type": "leaf_level"}
    getattr(pipe, offload)(**options)
    for _ in range(2):
        assert np.array_equal(animate(pipe, calibration, dense), video)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.slow
def test_half_precision(calibration, dense, dtype):
    """Models run in that precision, what goes on from step to step stays in float32."""
    half = MagicAnimatePipeline.from_pretrained("tiny-random", torch_dtype=dtype)
    latents = animate(half, calibration, dense, num_inference_steps=1, output_type="latent")
    assert latents.dtype == torch.float32
    assert latents.isfinite().all()
    assert {p.dtype for model in (half.unet, half.vae, half.controlnet) for p in model.parameters()} == {dtype}
    assert next(half.decode(latents)).dtype == torch.uint8


def test_guidance_off_has_one_half(pipe, calibration, dense):
    batches = []
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    animate(pipe, calibration, dense, guidance_scale=1.0, num_inference_steps=1)
    animate(pipe, calibration, dense, guidance_scale=1.1, num_inference_steps=1)
    handle.remove()
    assert batches == [1, 1, 1, 2, 2, 2]  # the windows close the loop


def test_equal_halves_share_the_down_path(pipe, calibration, dense, monkeypatch):
    """With one text for both halves; the same latents, up to rounding, from half the work before the reference."""
    from tpc_fast.diffusion.models import magic_animate

    rows = []
    handles = [
        block.resnets[0].norm1.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
        for block in (pipe.unet.down_blocks[0], pipe.unet.mid_block)
    ]
    options = {"num_inference_steps": 1, "window": 16, "output_type": "latent"}
    shared = animate(pipe, calibration, dense, **options)
    animate(pipe, calibration, dense, prompt="a dancer", **options)
    animate(pipe, calibration, dense, blocks="full", **options)
    monkeypatch.setattr(magic_animate, "share_down_path", contextlib.nullcontext)
    whole = animate(pipe, calibration, dense, **options)
    for handle in handles:
        handle.remove()
    assert rows == [10, 20, 20, 20, 20, 20, 20, 20]
    assert torch.allclose(shared, whole, atol=1e-4 * whole.std())


def test_windows_count_and_the_noise_repeats(pipe, calibration, dense):
    seen = []
    animate(pipe, calibration, dense, num_inference_steps=2, on_window=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]
    noise = pipe._noise((1, 4, 10, 2, 2), 4, torch.Generator().manual_seed(0), "cpu")
    assert torch.equal(noise[:, :, :4], noise[:, :, 4:8])
    assert not torch.equal(noise[:, :, :2], noise[:, :, 2:4])


def test_background_is_the_composite(pipe, calibration, dense, video):
    ground = np.random.default_rng(3).integers(0, 256, (*SIZE, 3), np.uint8)
    out = animate(pipe, calibration, dense, background=ground, decode_chunk_size=8)
    assert np.array_equal(out, composite_background(video, calibration.pose_masks[:], ground))


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "UniPCMultistepScheduler", "LCMScheduler"])
@pytest.mark.slow
def test_other_schedulers(pipe, calibration, dense, scheduler, video):
    import diffusers

    original = pipe.scheduler
    pipe.scheduler = getattr(diffusers, scheduler).from_config(original.config)
    try:
        out = animate(pipe, calibration, dense)
    finally:
        pipe.scheduler = original
    assert out.shape == video.shape
    assert not np.array_equal(out, video)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"output_type": "gif"}, "output_type"), ({"first_step": 3}, "first_step"), ({"first_step": 1}, "latents"),
        ({"window": 25, "overlap": 4}, None), ({"overlap": 6}, "overlap"), ({"noise_period": -1}, "noise_period"),
        ({"latents": torch.zeros(1, 4, 3, 6, 8)}, "latents"), ({"first_window": 3}, "first_window"),
        ({"first_window": 1}, "predicted"), ({"predicted": torch.zeros(1, 4, 10, 6, 8)}, "predicted"),
        ({"first_window": 1, "predicted": torch.zeros(1, 4, 9, 6, 8)}, "predicted"),
        ({"background": np.zeros((4, 4, 3), np.uint8)}, "background"),
        ({"prompt_embeds": torch.zeros(2, 77, 32)}, "prompt_embeds"), ({"group_size": 0}, "group_size"),
    ],
)  # fmt: skip
def test_refusals(pipe, calibration, dense, options, word):
    if word is None:  # a window longer than the video is the whole video, whatever the motion modules can take
        assert animate(pipe, calibration, dense, num_inference_steps=1, **options).shape == dense.shape
        return
    with pytest.raises(ValueError, match=f"^{word} must be"):
        animate(pipe, calibration, dense, **options)
    assert not hasattr(pipe.unet, "_tpc_fast_calibration")


def test_wrong_conditions(pipe, calibration, dense):
    for wrong in (dense[:3], dense[:, :40], dense.astype(np.int64)):
        with pytest.raises(ValueError, match=r"^pose_video must be"):
            animate(pipe, calibration, wrong)
    with pytest.raises(TypeError, match="pose_video must be"):
        animate(pipe, calibration, "video.mp4")


def test_windows_longer_than_the_motion_modules(pipe, dense):
    frames = 30
    nobody = torch.zeros(0, frames, *SIZE)
    reference = CalibratedReference(
        torch.zeros(1, 4, 6, 8), torch.zeros(0, frames, 4, 6, 8), nobody, nobody, nobody[:, 0]
    )
    with pytest.raises(ValueError, match="window must be at most 24"):
        pipe(reference, np.resize(dense, (frames, *SIZE, 3)), window=26)
