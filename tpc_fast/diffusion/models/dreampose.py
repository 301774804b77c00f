"""DreamPose: frame by frame; the reference is 50 tokens, the motion five DensePose frames beside the latents."""

import re

import numpy as np
import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin, PNDMScheduler, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from tpc_fast.diffusion import checkpoints
from tpc_fast.diffusion.models import tiny
from tpc_fast.diffusion.models.clip import clip_pixels
from tpc_fast.diffusion.models.image_model import ImageModelPipeline, ImageTokenAdapter, pndm
from tpc_fast.diffusion.pipeline import as_light, check_pose_video

# Of the whole CLIP, which is what is published, the image encoder alone is used.
CLIP_BESIDE = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
NEIGHBOURS = (-2, -1, 0, 1, 2)  # frames whose DensePose is seen


class EmbeddingAdapter(ModelMixin, ConfigMixin):
    """Tokens of a picture from CLIP's, and four more from its latents.

    Args:
        latent_tokens: numbers in a channel of the latents, after they were halved.
        channels: of the tokens.
        tokens: of CLIP.
    """

    @register_to_config
    def __init__(self, latent_tokens: int = 1280, channels: int = 768, tokens: int = 50):
        super().__init__()
        self.vae2clip = nn.Linear(latent_tokens, channels)
        self.linear1 = nn.Linear(tokens + 4, tokens)

    def forward(self, clip: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """[n, tokens, channels], and [n, 4, h, w] -> [n, tokens, channels]."""
        of_latents = self.vae2clip(F.max_pool2d(latents, 2).flatten(2))
        return self.linear1(torch.cat([clip, of_latents], 1).transpose(1, 2)).transpose(1, 2)


class DreamPosePipeline(ImageModelPipeline):
    """Animates a calibrated reference along DensePose's u and v, 640 x 512 pixels.

    `pose_video` is uint8 with u in red and v in green, or floating [F, 2, H, W] in [0, 1], as the original's `.npy`
    files hold them (`tpc_fast.output.pose_video.followed_videos` reads their folder). As published, every frame that
    comes out is stretched between its own minimum and maximum; set `stretch` to False for what was decoded. The scale
    of the guidance is a pair, of the reference and of the pose; 1 or less switches it off.

    Loaded from a folder with `unet_epoch_N.pth`, `adapter_N.pth` and `checkpoint-N/`, and `clip-vit-base-patch32/`
    beside or in it, or given as `base`; `vae` may be a file of a fine-tuned autoencoder instead of that of
    `checkpoint-N/`.

    Args:
        vae: the autoencoder.
        image_encoder: a `CLIPVisionModel`.
        embedding: the `EmbeddingAdapter`.
        unet: a `UNet2DConditionModel` that takes 14 channels.
        scheduler: PNDM as published, or any other of diffusers.
    """

    kind, model_cpu_offload_seq = "dreampose", "image_encoder->embedding->unet->vae"
    steps, guidance, noise_period = 100, (8.0, 3.0), 1
    stretch = True

    def __init__(self, vae, image_encoder, embedding, unet, scheduler):
        super().__init__()
        self._register(vae=vae, image_encoder=image_encoder, embedding=embedding, unet=unet, scheduler=scheduler)

    @classmethod
    def _load(cls, found, vae, dtype):
        return _load(found, vae, dtype)

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the run has unconditional parts."""
        return isinstance(self._guidance_scale, tuple | list) or self._guidance_scale > 1

    def reference_adapter(self, blocks=None) -> "DreamPoseAdapter":
        """The reference is tokens, which all cross-attentions read."""
        return DreamPoseAdapter(self, {"unet": self.unet})

    def _follow(self, pose_video, reference, scale, device):
        light = as_light(check_pose_video(pose_video, reference, 2), device, self.unet.dtype)[:, :2]
        frames = len(light)
        seen = [[f + d if 0 <= f + d < frames else f for d in NEIGHBOURS] for f in range(frames)]
        size = [side // 2 ** (len(self.vae.config.block_out_channels) - 1) for side in reference.size]
        poses = F.interpolate(scale * (2 * light - 1), size)
        return poses[torch.tensor(seen, device=poses.device)].flatten(1, 2)

    def decode(self, latents, chunk_size: int = 8):
        """As `AnimationPipeline.decode`; each frame stretched, as the original's script does before it saves it."""
        for frames in super().decode(latents, chunk_size):
            yield stretched(frames) if self.stretch else frames

    def _start(self, noise, reference):
        latent = reference.extras.get("latent")
        if latent is None:
            raise ValueError("reference must have extras['latent'], the photo's latents, which the video starts with")
        latent = latent.to(noise)[:, :, None].expand_as(noise)
        return self.scheduler.add_noise(latent, noise, self.scheduler.timesteps[:1])

    def _predict_frames(self, frames, parts, t, text, follow, reference):
        none = torch.zeros_like(follow)
        poses = torch.cat([none, follow, none] if parts == 3 else [follow])
        sample = torch.cat([frames, poses.to(frames.dtype)], 1)
        return self.unet(sample, t, encoder_hidden_states=text, return_dict=False)[0]

    def _guide(self, noise):
        if len(noise) == 1:
            return noise
        scale = self._guidance_scale
        of_image, of_pose = scale if isinstance(scale, tuple | list) else (scale, scale)
        null, both, image = noise.chunk(3)
        return null + of_image * (image - null) + of_pose * (both - image)


def stretched(frames: torch.Tensor) -> torch.Tensor:
    """uint8 [n, H, W, 3] -> the same, each from 0 to 255 over all its channels, rounded down; one colour is black."""
    flat = frames.flatten(1)
    least, most = flat.amin(1)[:, None, None, None], flat.amax(1)[:, None, None, None]
    return (255 * ((frames - least).double() / (most - least).clamp(min=1))).to(torch.uint8)


class DreamPoseAdapter(ImageTokenAdapter):
    """Of DreamPose: CLIP's hidden states and latents together are the tokens. The autoencoder gets pixels 0..255.

    Latents are drawn from the autoencoder's distribution, as published; with the same noise for all pictures, so that
    equal ones have equal tokens, whatever they are encoded with.
    """

    parts = 3

    def __init__(self, pipe, readers):
        super().__init__(pipe, readers)
        self.vae.sample = True

    def canvas(self, size):
        """The one size whose latents the adapter takes: published 640 x 512."""
        unit = round((self.pipe.embedding.vae2clip.in_features / 20) ** 0.5)
        wanted = (80 * unit, 64 * unit)
        if tuple(size) != wanted:
            said = f"{wanted[0]} x {wanted[1]} (height x width), as the model takes it"
            raise ValueError(f"size must be {said}, but is {size[0]} x {size[1]}")
        return wanted

    @torch.no_grad()
    def prepare(self, images, masks):
        """Tokens [n, L, d]."""
        pipe = self.pipe
        clip = pipe.image_encoder(clip_pixels(images, pipe.image_encoder, crop=True)).last_hidden_state
        pixels = torch.from_numpy(images).to(pipe.vae.device, pipe.vae.dtype).permute(0, 3, 1, 2)
        return pipe.embedding(clip, self.vae.encode(pixels))

    def photo(self, image, masks):
        """null: tokens of a black picture (width and height exchanged, as published); latent: of the photo."""
        black = np.zeros_like(image).swapaxes(0, 1)[None].copy()
        return {"null": self.prepare(black, None), "latent": self.vae.prepare(image[None])}


def embedding_adapter(state: dict, source="the checkpoint", dtype=None) -> EmbeddingAdapter:
    """From `adapter_N.pth`."""
    sizes = [state[key].shape for key in ("vae2clip.weight", "linear1.weight") if key in state]
    with torch.device("meta"):
        model = EmbeddingAdapter(sizes[0][1], sizes[0][0], sizes[1][0]) if len(sizes) == 2 else EmbeddingAdapter()
    return checkpoints.fill(model, state, dtype or torch.float32, source)


def dreampose_unet(config, state: dict, source="the checkpoint", dtype=None) -> UNet2DConditionModel:
    """Stable Diffusion 1.4's UNet with ten more channels, from `unet_epoch_N.pth`."""
    model = checkpoints.without_memory(UNet2DConditionModel, config, in_channels=4 + 2 * len(NEIGHBOURS))
    return checkpoints.fill(model, state, dtype or torch.float32, source)


def _load(found: dict, vae, dtype: torch.dtype) -> dict:
    from transformers import CLIPVisionModel

    folder = found["model"]

    def newest(pattern):
        return max(folder.glob(pattern), key=lambda path: int(re.findall(r"\d+", path.stem)[-1]))

    unet, adapter, saved = newest("unet_epoch_*.pth"), newest("adapter_*.pth"), newest("checkpoint-*")
    if vae is None:
        vae = checkpoints.load_pretrained(AutoencoderKL, saved / "vae", dtype)
    else:
        model, path = checkpoints.without_memory(AutoencoderKL, saved / "vae"), checkpoints.Path(vae)
        vae = checkpoints.fill(model, checkpoints.new_attention_names(_state(path)), dtype, path)
    scheduler = pndm()
    if (saved / "scheduler" / "scheduler_config.json").is_file():
        scheduler = PNDMScheduler.from_pretrained(str(saved / "scheduler"), local_files_only=True)
    return {
        "unet": dreampose_unet(saved / "unet", _state(unet), unet, dtype),
        "embedding": embedding_adapter(_state(adapter), adapter, dtype),
        "image_encoder": checkpoints.load_pretrained(CLIPVisionModel, found["base"], dtype, beside=CLIP_BESIDE),
        "vae": vae,
        "scheduler": scheduler,
    }


def _state(path) -> dict:
    """Without the names that training on several devices puts before all others."""
    return {key.removeprefix("module."): tensor for key, tensor in checkpoints.load_state(path).items()}


def tiny_dreampose(cls, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
    """All parts of a DreamPosePipeline, small and random; pictures are 80 x 64 pixels."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    clip = CLIPVisionConfig(
        hidden_size=tiny.TEXT_CHANNELS, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16,
        patch_size=8,
    )  # fmt: skip

    def make():
        return {
            "vae": tiny.vae(),
            "image_encoder": CLIPVisionModel(clip),
            "embedding": EmbeddingAdapter(20, tiny.TEXT_CHANNELS, 5),
            "unet": UNet2DConditionModel(**tiny.UNET, in_channels=14),
        }

    return {**tiny.made(seed, dtype, make), "scheduler": pndm()}
