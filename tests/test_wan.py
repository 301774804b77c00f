"""Per-segment references of WanAnimatePipeline, on tiny random weights."""

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from tpc_fast.diffusion.wan import apply_segment_references, remove_segment_references, segments  # noqa: E402

SIZE, LENGTH, FRAMES = 32, 5, 13  # segments of 5 frames, one of them shared: three segments


@pytest.fixture(scope="module")
def pipe():
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        WanAnimatePipeline,
        WanAnimateTransformer3DModel,
    )
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                           temperal_downsample=[False, True, True])  # fmt: skip
    transformer = WanAnimateTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=32, ffn_dim=32, num_layers=2, image_dim=8,
        rope_max_seq_len=32, motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16}, motion_encoder_size=16,
        motion_style_dim=8, motion_dim=4, motion_encoder_dim=16, face_encoder_hidden_dim=16, face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    )  # fmt: skip
    encoder = CLIPVisionModel(CLIPVisionConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=2,
                                               num_attention_heads=2, image_size=16, patch_size=8))  # fmt: skip
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    pipe = WanAnimatePipeline(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        image_processor=processor, image_encoder=encoder, transformer=transformer,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def run(pipe, image, frames=FRAMES, guidance=1.0):
    video = [picture(100 + i) for i in range(frames)]
    return pipe(
        image, video, [frame.resize((16, 16)) for frame in video], prompt_embeds=torch.zeros(1, 4, 32),
        guidance_scale=guidance, negative_prompt_embeds=torch.ones(1, 4, 32), height=SIZE, width=SIZE,
        segment_frame_length=LENGTH, num_inference_steps=1, output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).frames[0]  # fmt: skip


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_every_segment_sees_its_reference(pipe, guidance):
    """As if the pipeline had been given that picture; the segments before it are then the same, too."""
    plain = {seed: run(pipe, picture(seed), guidance=guidance) for seed in (1, 2)}
    assert not torch.equal(plain[1], plain[2])
    apply_segment_references(pipe, [picture(1), picture(2)])  # the second serves the third segment, too
    mixed = run(pipe, picture(9), guidance=guidance)
    again = run(pipe, picture(8), guidance=guidance)
    remove_segment_references(pipe)
    assert torch.equal(mixed, again)  # `image` plays no part, and a run starts with the first reference again
    assert torch.equal(mixed[:5], plain[1][:5])
    assert not torch.equal(mixed[5:9], plain[1][5:9])
    assert not torch.equal(mixed[5:9], plain[2][5:9])  # it goes on from another first segment
    apply_segment_references(pipe, [picture(1)] * 3)
    same = run(pipe, picture(1), guidance=guidance)
    remove_segment_references(pipe)
    assert torch.equal(same, plain[1])
    assert torch.equal(run(pipe, picture(1), guidance=guidance), plain[1])


def test_the_transformer_gets_latents_and_tokens_of_the_segment(pipe):
    seen = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((kwargs["hidden_states"], kwargs["encoder_hidden_states_image"])),
        with_kwargs=True,
    )
    explicit = {}
    for seed in (1, 2, 3):
        run(pipe, picture(seed), frames=LENGTH)
        explicit[seed] = seen.pop()
    handle.remove()
    recorded, tokens = [], []
    handles = [
        pipe.transformer.rope.register_forward_pre_hook(lambda module, args: recorded.append(args[0])),
        pipe.transformer.condition_embedder.register_forward_pre_hook(lambda module, args: tokens.append(args[2])),
    ]
    apply_segment_references(pipe, [picture(1), picture(2), picture(3)])
    run(pipe, picture(9))
    remove_segment_references(pipe)
    for handle in handles:
        handle.remove()
    assert len(recorded) == len(tokens) == 3
    for states, image, seed in zip(recorded, tokens, (1, 2, 3), strict=True):
        assert torch.equal(states[:, 20:, :1], explicit[seed][0][:, 20:, :1])
        assert torch.equal(states[:, 16:20, :1], torch.ones_like(states[:, 16:20, :1]))
        assert torch.equal(image, explicit[seed][1])


def test_refusals(pipe):
    with pytest.raises(TypeError, match="WanAnimatePipeline"):
        apply_segment_references(object(), [picture(1)])
    with pytest.raises(ValueError, match="images must be"):
        apply_segment_references(pipe, [])
    apply_segment_references(pipe, [picture(1)])
    with pytest.raises(ValueError, match="already"):
        apply_segment_references(pipe, [picture(1)])
    remove_segment_references(pipe)
    remove_segment_references(pipe)


def test_segments():
    assert segments(13, 5, 1) == [slice(0, 5), slice(4, 9), slice(8, 13)]
    assert segments(12, 5, 1)[-1] == slice(8, 12)
    assert segments(1) == [slice(0, 1)]
    assert segments(153) == [slice(0, 77), slice(76, 153)]
    with pytest.raises(ValueError, match="num_frames"):
        segments(0)
