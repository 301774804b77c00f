"""The models with small random weights: the whole path without a download, for trying and testing it."""

import torch

CHANNELS, TEXT_CHANNELS, HEADS = (32, 32, 64, 64), 32, 2
MAX_FRAMES = 24  # of the motion modules, as published
DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
UNET = dict(
    block_out_channels=CHANNELS, layers_per_block=1, cross_attention_dim=TEXT_CHANNELS, attention_head_dim=HEADS,
    down_block_types=DOWN, up_block_types=UP,
)  # fmt: skip
GUIDE = (8, 8, 16, 32)  # channels of what encodes a condition


def _made(seed: int, dtype: torch.dtype, make) -> dict:
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


def _vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32,) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


def _motion_unet(cls, frames: int = MAX_FRAMES, motion_heads: int = HEADS, mid: bool = False):
    return cls(
        block_out_channels=CHANNELS, layers_per_block=1, cross_attention_dim=TEXT_CHANNELS, num_attention_heads=HEADS,
        motion_num_attention_heads=motion_heads, motion_max_seq_length=frames, use_motion_mid_block=mid,
    )  # fmt: skip


def _image_encoder(projection: int = TEXT_CHANNELS, hidden: int = 16, patches: int = 2):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=hidden, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8 * patches,
        patch_size=8, projection_dim=projection,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config)


def tiny_animate_anyone(cls, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
    """All models of an AnimateAnyonePipeline, or of a subclass, but the scheduler."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

    from tpc_fast.diffusion.models.norms import PerFrameUNet
    from tpc_fast.diffusion.models.pose_encoders import AttentiveEmbedding, Guides

    guide = AttentiveEmbedding if cls.attentive else ControlNetConditioningEmbedding

    def make():
        return {
            "vae": _vae(),
            "image_encoder": _image_encoder(),
            "unet": _motion_unet(PerFrameUNet, 128 if cls.kind == "musepose" else 32, 8, mid=True),
            "reference_unet": UNet2DConditionModel(**UNET),
            "guides": Guides({name: guide(CHANNELS[0], block_out_channels=GUIDE) for name in cls.videos}),
        }

    return _made(seed, dtype, make)


def tiny_dreampose(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
    """All models of a DreamPosePipeline but the scheduler; pictures are 80 x 64 pixels."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from tpc_fast.diffusion.models.dreampose import EmbeddingAdapter

    clip = CLIPVisionConfig(
        hidden_size=TEXT_CHANNELS, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16,
        patch_size=8,
    )  # fmt: skip

    def make():
        return {
            "vae": _vae(),
            "image_encoder": CLIPVisionModel(clip),
            "embedding": EmbeddingAdapter(20, TEXT_CHANNELS, 5),
            "unet": UNet2DConditionModel(**UNET, in_channels=14),
        }

    return _made(seed, dtype, make)


def tiny_disco(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
    """All models of a DisCoPipeline but the scheduler."""
    from diffusers import ControlNetModel, MultiControlNetModel, UNet2DConditionModel

    from tpc_fast.diffusion.models.disco import LatentEmbedding, TokenProjection

    controlnet = {key: value for key, value in UNET.items() if key != "up_block_types"}

    def make():
        nets = [ControlNetModel(**controlnet, conditioning_embedding_out_channels=GUIDE) for _ in range(2)]
        nets[1].controlnet_cond_embedding = LatentEmbedding(CHANNELS[0])
        return {
            "vae": _vae(),
            "image_encoder": _image_encoder(hidden=24),
            "projection": TokenProjection(24, TEXT_CHANNELS),
            "unet": UNet2DConditionModel(**UNET),
            "controlnet": MultiControlNetModel(nets),
        }

    return _made(seed, dtype, make)


def tiny_wan(dtype: torch.dtype = torch.float32, seed: int = 0):
    """A WanAnimatePipeline without a text encoder: call it with prompt embeddings of 32 channels."""
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        WanAnimatePipeline,
        WanAnimateTransformer3DModel,
    )
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    def make():
        parts = {
            "vae": AutoencoderKLWan(
                base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                temperal_downsample=[False, True, True],
            ),
            "transformer": WanAnimateTransformer3DModel(
                num_attention_heads=2, attention_head_dim=12, text_dim=32, ffn_dim=32, num_layers=2, image_dim=8,
                rope_max_seq_len=32, motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16}, motion_encoder_size=16,
                motion_style_dim=8, motion_dim=4, motion_encoder_dim=16, face_encoder_hidden_dim=16,
                face_encoder_num_heads=2, inject_face_latents_blocks=2,
            ),
            "image_encoder": CLIPVisionModel(
                CLIPVisionConfig(
                    hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16,
                    patch_size=8,
                )
            ),
        }  # fmt: skip
        for weight in parts["transformer"].parameters():  # so that what attention sees matters
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.6 * weight[0].numel() ** -0.5)
        return parts

    return WanAnimatePipeline(
        **_made(seed, dtype, make), tokenizer=None, text_encoder=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    )  # fmt: skip


def tiny_components(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
    """All models of a MagicAnimatePipeline but the scheduler; the same for the same seed."""
    from diffusers import ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tpc_fast.diffusion.models.norms import MagicAnimateUNet

    text = CLIPTextConfig(
        vocab_size=len(_VOCABULARY), hidden_size=TEXT_CHANNELS, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=_START, eos_token_id=_END, pad_token_id=_END,
    )  # fmt: skip
    controlnet = {key: value for key, value in UNET.items() if key != "up_block_types"}

    def make():
        return {
            "vae": _vae(),
            "text_encoder": CLIPTextModel(text),
            "tokenizer": _tokenizer(),
            "unet": _motion_unet(MagicAnimateUNet),
            "controlnet": ControlNetModel(**controlnet, conditioning_embedding_out_channels=(8, 8, 16, 16)),
            "appearance_encoder": UNet2DConditionModel(**UNET),
        }

    return _made(seed, dtype, make)


_VOCABULARY = [*(chr(c) for c in range(33, 127)), *(f"{chr(c)}</w>" for c in range(33, 127))]
_VOCABULARY += ["<|startoftext|>", "<|endoftext|>"]
_START, _END = len(_VOCABULARY) - 2, len(_VOCABULARY) - 1


def _tokenizer():
    """CLIP's tokenizer with letters for words."""
    from transformers import CLIPTokenizer

    vocabulary = {token: i for i, token in enumerate(_VOCABULARY)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
