"""Tiny random diffusion models and references that the tests of tpc_fast.diffusion share."""

import numpy as np
import torch

from tpc_fast.diffusion.reference import CalibratedReference

CHANNELS = (32, 64)
TEXT = 24
COMMON = dict(block_out_channels=CHANNELS, layers_per_block=1, cross_attention_dim=TEXT, norm_num_groups=8)
DOWN, UP = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


def randomised(module, seed=0):
    """No zeros that hide anything: every parameter is random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.add_(0.1 * noise)
    return module.eval()


def unet2d(seed=0, **changes):
    """A UNet2DConditionModel."""
    from diffusers import UNet2DConditionModel

    config = COMMON | dict(attention_head_dim=2, sample_size=8, down_block_types=DOWN, up_block_types=UP) | changes
    return randomised(UNet2DConditionModel(**config), seed)


def motion_unet(seed=0, **changes):
    """A UNetMotionModel of the same spatial architecture."""
    from diffusers import UNetMotionModel

    names = [tuple(name.replace("2D", "Motion") for name in x) for x in (DOWN, UP)]
    config = COMMON | dict(
        num_attention_heads=2, sample_size=8, down_block_types=names[0], up_block_types=names[1],
        motion_num_attention_heads=2, motion_max_seq_length=24,
    ) | changes  # fmt: skip
    return randomised(UNetMotionModel(**config), seed)


def vae(seed=0):
    """An AutoencoderKL that halves twice."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=4, latent_channels=4, sample_size=32,
    )  # fmt: skip
    return randomised(model, seed)


def animatediff(seed=0, unet=None, scheduler=None, **changes):
    """An AnimateDiffPipeline without a text encoder: call it with prompt embeddings (`embeddings`)."""
    from diffusers import AnimateDiffPipeline, DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False) if scheduler is None else scheduler
    pipe = AnimateDiffPipeline(
        vae=vae(), text_encoder=None, tokenizer=None, unet=motion_unet(seed, **changes) if unet is None else unet,
        motion_adapter=None, scheduler=scheduler,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion(seed=0, scheduler=None, **changes):
    """A StableDiffusionPipeline without a text encoder."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    scheduler = DDIMScheduler(clip_sample=False) if scheduler is None else scheduler
    pipe = StableDiffusionPipeline(
        vae=vae(), text_encoder=None, tokenizer=None, unet=unet2d(seed, **changes), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embeddings(seed=0):
    """What the pipelines take instead of prompts."""
    generator = torch.Generator().manual_seed(seed)
    return dict(
        prompt_embeds=torch.randn(1, 7, TEXT, generator=generator),
        negative_prompt_embeds=torch.randn(1, 7, TEXT, generator=generator),
    )


def boxes(rng, *shape, size):
    """Person masks [*shape, H, W] uint8 0 or 255: a rectangle each."""
    masks = np.zeros((*shape, *size), np.uint8)
    for mask in masks.reshape(-1, *size):
        top, left = (int(rng.uniform(0, 0.4) * side) for side in size)
        mask[top : top + size[0] // 2, left : left + size[1] // 2] = 255
    return masks


def calibrated_reference(rng, persons=1, frames=6, latent=(8, 8), candidates=None):
    """A random CalibratedReference whose pixels are four times its latents."""
    size = tuple(4 * side for side in latent)
    count = frames if candidates is None else len(candidates)
    return CalibratedReference(
        latent=torch.from_numpy(rng.normal(size=(1, 4, *latent))).float(),
        calibrated_latents=torch.from_numpy(rng.normal(size=(persons, count, 4, *latent))).float(),
        pose_masks=torch.from_numpy(boxes(rng, persons, frames, size=size)),
        calibrated_masks=torch.from_numpy(boxes(rng, persons, count, size=size)),
        reference_masks=torch.from_numpy(boxes(rng, persons, size=size)),
        candidates=candidates,
    )
