"""Parts of models with small random weights: the whole path without a download, for trying and testing it."""

import torch

CHANNELS, TEXT_CHANNELS, HEADS = (32, 32, 64, 64), 32, 2
MAX_FRAMES = 24  # of the motion modules, as published
DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
UNET = dict(
    block_out_channels=CHANNELS, layers_per_block=1, cross_attention_dim=TEXT_CHANNELS, attention_head_dim=HEADS,
    down_block_types=DOWN, up_block_types=UP,
)  # fmt: skip
GUIDE = (8, 8, 16, 32)  # channels of what encodes the pose video


def made(seed: int, dtype: torch.dtype, make) -> dict:
    """What `make` returns, the same for the same seed.

    Layers that training starts at zero (of a ControlNet and of motion modules) are random, too, so that nothing is
    hidden behind them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = make()
        for module in parts.values():
            for weight in module.parameters() if isinstance(module, torch.nn.Module) else ():
                if not weight.any():
                    torch.nn.init.normal_(weight, std=0.05)
            if isinstance(module, torch.nn.Module):
                torch.nn.Module.to(module, dtype).eval()  # diffusers' own `to` warns without a reason here
    return parts


def vae():
    """An autoencoder that halves three times."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32,) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


def motion_unet(cls, frames: int = MAX_FRAMES, motion_heads: int = HEADS, mid: bool = False):
    """A motion UNet of a class."""
    return cls(
        block_out_channels=CHANNELS, layers_per_block=1, cross_attention_dim=TEXT_CHANNELS, num_attention_heads=HEADS,
        motion_num_attention_heads=motion_heads, motion_max_seq_length=frames, use_motion_mid_block=mid,
    )  # fmt: skip


def image_encoder(projection: int = TEXT_CHANNELS, hidden: int = 16, patches: int = 2):
    """CLIP's."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=hidden, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8 * patches,
        patch_size=8, projection_dim=projection,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config)
