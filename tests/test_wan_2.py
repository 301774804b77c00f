"""Per-segment references of Wan-Animate-2's modular pipeline, on a tiny random transformer: no published weights."""

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers.modular_pipelines.wan_animate_2")

from PIL import Image  # noqa: E402

from tpc_fast.diffusion import apply_segment_references_2, remove_segment_references_2  # noqa: E402

SIZE, LENGTH, FRAMES = 32, 5, 9  # two segments of 5 frames, one of them shared


@pytest.fixture(scope="module")
def pipe():
    import diffusers.models.transformers.transformer_wan_animate_2 as module
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanAnimate2Transformer3DModel
    from diffusers.modular_pipelines.wan_animate_2.modular_blocks_wan_animate_2 import WanAnimate2Blocks
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    transformer = WanAnimate2Transformer3DModel(
        dim=24, ffn_dim=32, freq_dim=16, text_dim=32, text_len=16, num_heads=2, num_layers=2
    )
    vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                           temperal_downsample=[False, True, True])  # fmt: skip
    encoder = CLIPVisionModel(CLIPVisionConfig(hidden_size=1280, intermediate_size=16, num_hidden_layers=2,
                                               num_attention_heads=2, image_size=224, patch_size=112))  # fmt: skip
    # A pixel stands for its patch: kernels of 112 pixels took half of the time of a run.
    encoder.embeddings.patch_embedding = torch.nn.Conv2d(3, 1280, 1, stride=112, bias=False)
    for weight in transformer.parameters():  # so that what attention sees matters
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.6 * weight[0].numel() ** -0.5)
    blocks = WanAnimate2Blocks()
    blocks.sub_blocks.pop("text_encoder")
    pipe = blocks.init_pipeline()
    pipe.update_components(
        transformer=transformer.eval(), vae=vae.eval(), image_encoder=encoder.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )  # fmt: skip
    make = module.create_block_mask
    with pytest.MonkeyPatch.context() as patch:  # compiling takes minutes
        patch.setattr(module, "create_block_mask", lambda *args, _compile=False, **options: make(*args, **options))
        yield pipe


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8))


def run(pipe, image):
    text = {name: torch.zeros(1, 16, 32) for name in ("prompt_embeds", "negative_prompt_embeds", "prompt_ref_embeds")}
    return pipe(
        image=image, driving_video=[picture(100 + i) for i in range(FRAMES)], height=SIZE, width=SIZE,
        segment_frame_length=LENGTH, num_inference_steps=1, generator=torch.Generator().manual_seed(0),
        output_type="np", output="videos", **text,
    )[0]  # fmt: skip


@pytest.mark.slow
def test_every_segment_sees_its_own_picture(pipe):
    """The photo for every segment changes nothing; another one changes its segment; afterwards all is as before."""
    photo, other = picture(0), picture(1)
    plain = run(pipe, photo)
    assert plain.shape == (FRAMES, SIZE, SIZE, 3)
    apply_segment_references_2(pipe, [photo])
    with pytest.raises(ValueError, match="pipe has segment references already"):
        apply_segment_references_2(pipe, [photo])
    assert np.array_equal(run(pipe, photo), plain)
    remove_segment_references_2(pipe)
    apply_segment_references_2(pipe, [photo, other])
    found = run(pipe, photo)
    assert np.array_equal(found[:LENGTH], plain[:LENGTH])
    assert abs(found[LENGTH:] - plain[LENGTH:]).max() > 1e-3
    remove_segment_references_2(pipe)
    assert np.array_equal(run(pipe, photo), plain)
    remove_segment_references_2(pipe)


def test_what_is_refused(pipe):
    with pytest.raises(ValueError, match="images must be one picture per segment, but is empty"):
        apply_segment_references_2(pipe, [])
    with pytest.raises(TypeError, match="pipe must be a WanAnimate2ModularPipeline, but is object"):
        apply_segment_references_2(object(), [picture(0)])
