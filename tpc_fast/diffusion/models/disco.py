"""DisCo's image model: frame by frame; foreground as tokens, background and skeleton by two ControlNets."""

import functools

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ConfigMixin,
    ControlNetModel,
    ModelMixin,
    MultiControlNetModel,
    UNet2DConditionModel,
)
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import nn

from tpc_fast.diffusion import checkpoints
from tpc_fast.diffusion.models import tiny
from tpc_fast.diffusion.models.clip import clip_pixels
from tpc_fast.diffusion.models.control import condition_features, encoded_conditions
from tpc_fast.diffusion.models.image_model import ImageModelPipeline, ImageTokenAdapter, ddim
from tpc_fast.diffusion.pipeline import check_pose_video

PREFIXES = ("unet.", "controlnet.nets.0.", "controlnet.nets.1.", "refer_clip_proj.", "vae.", "clip_image_encoder.")


class LatentEmbedding(nn.Module):
    """The condition embedding of the ControlNet that sees the background: its condition are latents."""

    def __init__(self, channels: int, latent_channels: int = 4):
        super().__init__()
        self.conv_in = nn.Conv2d(latent_channels, channels, 3, padding=1)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """[n, 4, h, w] -> [n, channels, h, w]."""
        return self.conv_in(latents)


class LatentControlNet(ControlNetModel):
    """The ControlNet that sees the background; its configuration is that of the other."""

    @functools.wraps(ControlNetModel.__init__)  # diffusers reads the configuration's names from the signature
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.controlnet_cond_embedding = LatentEmbedding(self.config.block_out_channels[0])


class TokenProjection(ModelMixin, ConfigMixin):
    """What makes CLIP's tokens as wide as cross-attentions take them."""

    @register_to_config
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs]."""
        return self.linear(tokens)


class DisCoPipeline(ImageModelPipeline):
    """Animates a calibrated reference along a skeleton video (OpenPose); the background stays that of the photo.

    Loaded from a folder with `mp_rank_00_model_states.pt`, and `sd-image-variations-diffusers/` beside or in it, or
    given as `base`: only its configurations are read. The video model is refused.

    Args:
        vae: the autoencoder.
        image_encoder: a `CLIPVisionModelWithProjection`.
        projection: of its tokens, a `TokenProjection`.
        unet: a `UNet2DConditionModel`.
        controlnet: a `MultiControlNetModel` of two: skeleton, background.
        scheduler: DDIM as the published evaluation has it, or any other of diffusers.

    Attributes:
        null: of the unconditional part: "picture", tokens of a black picture, as checkpoints that were trained with
            classifier-free guidance (`drop_ref`) have it; or "zero", zero tokens: `DisCoPlainPipeline`.
    """

    null = "picture"
    kind, model_cpu_offload_seq = "disco", "image_encoder->projection->unet->vae"
    steps, guidance = 50, 1.5

    def __init__(self, vae, image_encoder, projection, unet, controlnet, scheduler):
        super().__init__()
        self._register(
            vae=vae,
            image_encoder=image_encoder,
            projection=projection,
            unet=unet,
            controlnet=controlnet,
            scheduler=scheduler,
        )

    @classmethod
    def _load(cls, found, vae, dtype):
        return {**_load(found, dtype), "scheduler": ddim()}

    def reference_adapter(self, blocks=None) -> "DisCoAdapter":
        """The reference is tokens, which the cross-attentions of the UNet and of both ControlNets read."""
        nets = {f"controlnet.nets.{i}": net for i, net in enumerate(self.controlnet.nets)}
        return DisCoAdapter(self, {**nets, "unet": self.unet})

    def _follow(self, pose_video, reference, scale, device):
        self._scale = scale
        return condition_features(self.controlnet.nets[0], check_pose_video(pose_video, reference), device)

    def _predict_frames(self, frames, parts, t, text, follow, reference):
        background = reference.extras.get("background")
        if background is None:
            raise ValueError("reference must have extras['background'], the latents of the photo without its persons")
        pose = follow.to(frames).repeat(parts, 1, 1, 1)
        background = background.to(frames).expand(len(frames), -1, -1, -1)
        with encoded_conditions(self.controlnet.nets[0]):
            down, mid = self.controlnet(frames, t, text, [pose, background], [self._scale, 1.0], return_dict=False)
        return self.unet(
            frames,
            t,
            encoder_hidden_states=text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]


class DisCoPlainPipeline(DisCoPipeline):
    """DisCo from the checkpoints that were trained without classifier-free guidance, with zero tokens and scale 3.

    Their files are named alike and hold the same weights by name, so nothing tells them apart: the kind must be given,
    as in "disco-no-cfg:FOLDER".
    """

    kind, null, guidance = "disco-no-cfg", "zero", 3.0


class DisCoAdapter(ImageTokenAdapter):
    """Of DisCo: projected CLIP tokens of the persons alone, everything around them zero."""

    @torch.no_grad()
    def prepare(self, images, masks):
        """Tokens [n, L, d]."""
        encoder = self.pipe.image_encoder
        side = encoder.config.image_size
        small = [np.asarray(Image.fromarray(m).resize((side, side), Image.Resampling.BICUBIC)) for m in masks]
        small = torch.from_numpy(np.stack(small)).to(encoder.device, encoder.dtype) / 255
        return self._tokens(clip_pixels(images, encoder) * small[:, None])

    def _tokens(self, pixels):
        encoder = self.pipe.image_encoder
        hidden = encoder.vision_model.post_layernorm(encoder(pixels).last_hidden_state)
        return self.pipe.projection(hidden)

    @torch.no_grad()
    def photo(self, image, masks):
        """null: tokens of no reference; background: latents of the photo with zeros where its persons are."""
        encoder, vae = self.pipe.image_encoder, self.pipe.vae
        nothing = torch.zeros(1, 3, *[encoder.config.image_size] * 2, device=encoder.device, dtype=encoder.dtype)
        seen = torch.from_numpy(1 - masks.max(0) / 255).to(vae.device, vae.dtype)
        pixels = torch.from_numpy(image).to(vae.device, vae.dtype).permute(2, 0, 1)[None] / 127.5 - 1
        null = self._tokens(nothing)
        null = torch.zeros_like(null) if self.pipe.null == "zero" else null
        return {"null": null, "background": self.vae.encode(pixels * seen)}


def disco_models(config, state: dict, source="the checkpoint", dtype=None) -> tuple:
    """UNet and both ControlNets of the image model.

    Args:
        config: of the `UNet2DConditionModel`, or its folder.
        state: `unet.`, `controlnet.nets.0.` and `controlnet.nets.1.`, with these names.
        source, dtype: see `checkpoints.fill`.

    Raises:
        ValueError: for weights of the video model, and as `checkpoints.fill`.
    """
    temporal = [key for key in state if "tem_conv" in key or "tem_norm" in key]
    if temporal:
        raise ValueError(
            f"{source} must be DisCo's image model, but is the video model: its residual blocks have layers over time, "
            f"which no UNet of diffusers has ({temporal[0]})"
        )
    dtype = dtype or torch.float32
    parts = {prefix: checkpoints.under(state, prefix) for prefix in PREFIXES[:3]}
    foreign = [key for key in state if not key.startswith(PREFIXES[:3])]
    if foreign:
        raise ValueError(f"{source} must hold {', '.join(PREFIXES[:3])}, but also holds {foreign[0]}")
    unet = checkpoints.without_memory(UNet2DConditionModel, config)
    nets = []
    for i, prefix in enumerate(PREFIXES[1:3]):
        layers = ("conv_in.weight", "blocks.1.weight", "blocks.3.weight", "blocks.5.weight")
        keys = [f"controlnet_cond_embedding.{layer}" for layer in layers]
        widths = tuple(parts[prefix][key].shape[0] for key in keys if key in parts[prefix])
        widths = widths if len(widths) == 4 else (16, 32, 96, 256)
        cls = LatentControlNet if i == 1 else ControlNetModel
        net = checkpoints.without_memory(cls, dict(unet.config), conditioning_embedding_out_channels=widths)
        nets.append(checkpoints.fill(net, parts[prefix], dtype, f"{source}, {prefix}"))
    return checkpoints.fill(unet, parts["unet."], dtype, f"{source}, unet."), MultiControlNetModel(nets).eval()


def _load(found: dict, dtype: torch.dtype) -> dict:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    path, base = found["model"] / "mp_rank_00_model_states.pt", found["base"]
    state = checkpoints.load_state(path)
    nets = {key: tensor for key, tensor in state.items() if not key.startswith(PREFIXES[3:])}
    unet, controlnet = disco_models(base / "unet", nets, path, dtype)
    vae = checkpoints.without_memory(AutoencoderKL, base / "vae")
    vae_state = checkpoints.new_attention_names(checkpoints.under(state, "vae."))
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(str(base / "image_encoder")))
    clip = checkpoints.under(state, "clip_image_encoder.")
    clip.pop("vision_model.embeddings.position_ids", None)  # which are counted, not learnt
    encoder = checkpoints.fill(encoder, clip, dtype, f"{path}, clip_image_encoder.")
    linear = encoder.visual_projection  # which the projection starts from; some checkpoints have no other
    learnt = checkpoints.under(state, "refer_clip_proj.") or linear.state_dict()
    with torch.device("meta"):
        projection = TokenProjection(linear.in_features, linear.out_features)
    learnt = {f"linear.{key}": tensor for key, tensor in learnt.items()}
    projection = checkpoints.fill(projection, learnt, dtype, f"{path}, refer_clip_proj.")
    return {
        "unet": unet,
        "controlnet": controlnet,
        "vae": checkpoints.fill(vae, vae_state, dtype, f"{path}, vae."),
        "image_encoder": encoder,
        "projection": projection,
    }


def tiny_disco(cls, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
    """All parts of a DisCoPipeline, small and random."""
    controlnet = {key: value for key, value in tiny.UNET.items() if key != "up_block_types"}

    def make():
        nets = [
            cls(**controlnet, conditioning_embedding_out_channels=tiny.GUIDE)
            for cls in (ControlNetModel, LatentControlNet)
        ]
        return {
            "vae": tiny.vae(),
            "image_encoder": tiny.image_encoder(hidden=24),
            "projection": TokenProjection(24, tiny.TEXT_CHANNELS),
            "unet": UNet2DConditionModel(**tiny.UNET),
            "controlnet": MultiControlNetModel(nets),
        }

    return {**tiny.made(seed, dtype, make), "scheduler": ddim()}
