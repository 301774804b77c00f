"""MagicAnimate with small random weights: the whole path without a download, for trying and testing it."""

import torch

CHANNELS, TEXT_CHANNELS, HEADS = (32, 32, 64, 64), 32, 2
MAX_FRAMES = 24  # of the motion modules, as published


def tiny_components(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
    """All models of a MagicAnimatePipeline but the scheduler; the same for the same seed.

    Layers that training starts at zero (of the ControlNet and of the motion modules) are random, too, so that nothing
    is hidden behind them.
    """
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tpc_fast.diffusion.norms import MagicAnimateUNet

    down = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    common = dict(
        block_out_channels=CHANNELS, layers_per_block=1, cross_attention_dim=TEXT_CHANNELS, attention_head_dim=HEADS
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = CLIPTextConfig(
            vocab_size=len(_VOCABULARY), hidden_size=TEXT_CHANNELS, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, bos_token_id=_START, eos_token_id=_END, pad_token_id=_END,
        )  # fmt: skip
        parts = {
            "vae": AutoencoderKL(
                block_out_channels=(32,) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=32,
                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            ),
            "text_encoder": CLIPTextModel(text),
            "tokenizer": _tokenizer(),
            "unet": MagicAnimateUNet(
                block_out_channels=CHANNELS, layers_per_block=1, cross_attention_dim=TEXT_CHANNELS,
                num_attention_heads=HEADS, motion_num_attention_heads=HEADS, motion_max_seq_length=MAX_FRAMES,
                use_motion_mid_block=False,
            ),
            "controlnet": ControlNetModel(
                **common, down_block_types=down, conditioning_embedding_out_channels=(8, 8, 16, 16)
            ),
            "appearance_encoder": UNet2DConditionModel(**common, down_block_types=down, up_block_types=up),
        }  # fmt: skip
        for module in parts.values():
            for weight in module.parameters() if isinstance(module, torch.nn.Module) else ():
                if not weight.any():
                    torch.nn.init.normal_(weight, std=0.05)
            if isinstance(module, torch.nn.Module):
                torch.nn.Module.to(module, dtype).eval()  # diffusers' own `to` warns without a reason here
    return parts


_VOCABULARY = [*(chr(c) for c in range(33, 127)), *(f"{chr(c)}</w>" for c in range(33, 127))]
_VOCABULARY += ["<|startoftext|>", "<|endoftext|>"]
_START, _END = len(_VOCABULARY) - 2, len(_VOCABULARY) - 1


def _tokenizer():
    """CLIP's tokenizer with letters for words."""
    from transformers import CLIPTokenizer

    vocabulary = {token: i for i, token in enumerate(_VOCABULARY)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
