"""The AnimateAnyone family: Moore-AnimateAnyone, Champ, MusePose; what tells them apart is a few constants."""

import re

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

from tpc_fast import _checks
from tpc_fast.diffusion import checkpoints
from tpc_fast.diffusion.adapter import KeyValueAdapter
from tpc_fast.diffusion.models import tiny
from tpc_fast.diffusion.models.clip import clip_pixels
from tpc_fast.diffusion.models.norms import MagicAnimateUNet, PerFrameUNet
from tpc_fast.diffusion.models.pose_encoders import AttentiveEmbedding, Guides
from tpc_fast.diffusion.models.registry import CHAMP_GUIDES
from tpc_fast.diffusion.pipeline import AnimationPipeline, as_light, check_pose_video

CHANNELS = (16, 32, 96, 256)  # of the guides


class AnimateAnyonePipeline(AnimationPipeline):
    """Animates a calibrated reference along a skeleton video.

    `pose_video` is one video, or a dict of as many as the member of the family follows. Loaded from a folder as the
    original's README lays it out, or from a hub id; of `base`, the UNet that it was made from, only the configuration
    is read.

    Args:
        vae: the autoencoder.
        image_encoder: a `CLIPVisionModelWithProjection`; its embedding of the photo is what cross-attentions get.
        unet: a `PerFrameUNet`; of the first version, whose norms are joint, a `MagicAnimateUNet`.
        reference_unet: the `UNet2DConditionModel` that writes the bank, once.
        guides: the encoders of what is followed.
        scheduler: DDIM as the model has it (`family_scheduler`), or any other of diffusers.
    """

    kind, file_of_video = "animate-anyone", "{}_guider.pth"
    steps, guidance, window, blocks, beta_schedule = 30, 3.5, 24, "full", "linear"
    attentive, closed_loop = False, True
    model_cpu_offload_seq = "image_encoder->guides->unet->vae"

    def __init__(self, vae, image_encoder, unet, reference_unet, guides, scheduler):
        super().__init__()
        self._register(
            vae=vae,
            image_encoder=image_encoder,
            unet=unet,
            reference_unet=reference_unet,
            guides=guides,
            scheduler=scheduler,
        )

    @classmethod
    def _load(cls, found, vae, dtype):
        parts = _load(found, cls, dtype)
        second = isinstance(parts["unet"], PerFrameUNet) and not isinstance(parts["unet"], MagicAnimateUNet)
        return {**parts, "scheduler": family_scheduler(second, cls.beta_schedule)}

    @classmethod
    def guide_files(cls) -> dict[str, str]:
        """Video that is followed -> file of its encoder."""
        return {name: cls.file_of_video.format(name) for name in cls.videos}

    @property
    def max_window(self) -> int:
        """As many frames as the motion modules take."""
        return self.unet.config.motion_max_seq_length

    def reference_adapter(self, blocks: str | None = None) -> "AnimateAnyoneAdapter":
        """The reference UNet writes the bank once."""
        return AnimateAnyoneAdapter(self, self.unet, self.reference_unet, blocks or self.blocks, "once")

    def _follow(self, pose_video, reference, scale, device):
        names = list(self.guides.encoders)
        videos = pose_video if isinstance(pose_video, dict) else {names[0]: pose_video}
        if set(videos) != set(names):
            raise ValueError(f"pose_video must have the videos {', '.join(names)}, but has {', '.join(sorted(videos))}")
        checked = {
            name: check_pose_video(video, reference, name=f"pose_video {name}") for name, video in videos.items()
        }
        features = []
        for start in range(0, reference.num_frames, 8):  # the full size: not all at once
            part = {
                name: as_light(video[start : start + 8], device, self.guides.dtype) for name, video in checked.items()
            }
            features.append(self.guides(part))
        return scale * torch.cat(features)

    def _text(self, prompt, negative_prompt, embeds, negative_embeds, reference, device):
        if prompt or negative_prompt:
            raise ValueError("prompt must be empty: the model reads the photo instead of text")
        embeds = reference.extras.get("tokens") if embeds is None else embeds
        if embeds is None:
            raise ValueError("reference must have extras['tokens'], the photo's CLIP embedding [1, 1, channels]")
        if embeds.ndim != 3 or len(embeds) != 1:
            raise ValueError(f"prompt_embeds must be [1, tokens, channels], but is {_checks.describe(embeds)}")
        parts = [embeds]
        if self.do_classifier_free_guidance:
            parts.insert(0, torch.zeros_like(embeds) if negative_embeds is None else negative_embeds)
        return torch.cat(parts).to(device, self.unet.dtype)

    def _predict(self, part, t, text, follow, reference):
        def add(module, args, features):
            return features + follow.to(features.dtype).repeat(len(text), 1, 1, 1)

        handle = self.unet.conv_in.register_forward_hook(add)
        try:
            return self.unet(
                self._batch(part, len(text)),
                t,
                encoder_hidden_states=text.repeat_interleave(part.shape[2], 0),
                return_dict=False,
            )[0]
        finally:
            handle.remove()


class ChampPipeline(AnimateAnyonePipeline):
    """Champ follows four videos, each with an encoder that attends to itself."""

    kind, videos, file_of_video = "champ", CHAMP_GUIDES, "guidance_encoder_{}.pth"
    steps, attentive = 20, True


class MusePosePipeline(AnimateAnyonePipeline):
    """MusePose takes longer windows, which do not close a loop and fill the video exactly, and other noise levels.

    The published script makes every second frame only (`--skip 1`): `tpc-fast animate --skip`.
    """

    kind, steps, window, beta_schedule = "musepose", 20, 48, "scaled_linear"
    closed_loop, whole_windows = False, True


class AnimateAnyoneAdapter(KeyValueAdapter):
    """Of the family: besides the bank, cross-attentions get an embedding of the photo."""

    @torch.no_grad()
    def photo(self, image, masks):
        """tokens: CLIP's projected embedding, [1, 1, channels]."""
        encoder = self.pipe.image_encoder
        return {"tokens": encoder(clip_pixels(image[None], encoder)).image_embeds[:, None]}


def family_scheduler(second: bool = True, beta_schedule: str = "linear") -> DDIMScheduler:
    """DDIM as the family was published with; of the first version of AnimateAnyone if not `second`."""
    options = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule=beta_schedule, steps_offset=1,
        clip_sample=False, **(options if second else {}),
    )  # fmt: skip


def family_unet(
    config, state: dict, heads: int = checkpoints.MOTION_HEADS, source="the checkpoint", dtype=None, frames=None
):
    """The denoiser from the weights of `denoising_unet.pth` and `motion_module.pth` together.

    The first version has no motion module in the mid block, and joint norms.

    Args:
        config: of the `UNet2DConditionModel` that it was made from, or its folder.
        state, heads, source, frames: see `checkpoints.motion_unet`.
        dtype: of the weights in memory; float32 by default.
    """
    second = any(key.startswith("mid_block.motion_modules") for key in state)
    base = checkpoints.without_memory(UNet2DConditionModel, config).to(dtype or torch.float32)
    cls = PerFrameUNet if second else MagicAnimateUNet
    return checkpoints.motion_unet(base, state, heads, source, cls=cls, frames=frames)


def family_reference_unet(config, state: dict, source="the checkpoint", dtype=None):
    """The reference UNet, which ends before the output's norm."""
    model = checkpoints.without_memory(UNet2DConditionModel, config)
    return checkpoints.fill(model, state, dtype or torch.float32, source, ("conv_norm_out.", "conv_out."))


def family_guide(channels: int, state: dict, attentive: bool, source="the checkpoint", dtype=None):
    """An encoder of `Guides` from its file; of Champ's attentions only the last one is used.

    Args:
        channels: of the denoiser's first features.
        state, source, dtype: see `checkpoints.fill`.
        attentive: whether it is one of Champ's.
    """
    layers = ("conv_in.weight", "blocks.1.weight", "blocks.3.weight", "blocks.5.weight")
    widths = tuple(state[key].shape[0] if key in state else width for key, width in zip(layers, CHANNELS, strict=True))
    with torch.device("meta"):
        cls = AttentiveEmbedding if attentive else ControlNetConditioningEmbedding
        model = cls(channels, block_out_channels=widths)
    if attentive:
        dead = (*(f"attentions.{i}." for i in range(5)), "guidance_attention.")
        state = {
            re.sub(r"^attentions\.5\.", "attention.", key): tensor
            for key, tensor in state.items()
            if not key.startswith(dead)
        }
    return checkpoints.fill(model, state, dtype or torch.float32, source)


def _load(found: dict, cls, dtype: torch.dtype) -> dict:
    from diffusers import AutoencoderKL
    from transformers import CLIPVisionModelWithProjection

    folder, config = found["model"], found["base"] / "unet"

    def state(name):
        return checkpoints.load_state(folder / name)

    weights = {**state("motion_module.pth"), **state("denoising_unet.pth")}
    unet = family_unet(config, weights, source=folder, dtype=dtype)
    channels = unet.config.block_out_channels[0]
    guides = {
        name: family_guide(channels, state(file), cls.attentive, folder / file, dtype)
        for name, file in cls.guide_files().items()
    }
    reference = family_reference_unet(config, state("reference_unet.pth"), folder / "reference_unet.pth", dtype)
    encoder = found["image_encoder"] / "image_encoder"
    return {
        "unet": unet,
        "reference_unet": reference,
        "guides": Guides.of(guides).eval(),
        "image_encoder": checkpoints.load_pretrained(CLIPVisionModelWithProjection, encoder, dtype),
        "vae": checkpoints.load_pretrained(AutoencoderKL, found["vae"], dtype),
    }


def tiny_animate_anyone(cls, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
    """All parts of an AnimateAnyonePipeline or of a subclass, small and random."""
    guide = AttentiveEmbedding if cls.attentive else ControlNetConditioningEmbedding

    def make():
        return {
            "vae": tiny.vae(),
            "image_encoder": tiny.image_encoder(),
            "unet": tiny.motion_unet(PerFrameUNet, 128 if cls.kind == "musepose" else 32, 8, mid=True),
            "reference_unet": UNet2DConditionModel(**tiny.UNET),
            "guides": Guides.of({name: guide(tiny.CHANNELS[0], block_out_channels=tiny.GUIDE) for name in cls.videos}),
        }

    return {**tiny.made(seed, dtype, make), "scheduler": family_scheduler(True, cls.beta_schedule)}
