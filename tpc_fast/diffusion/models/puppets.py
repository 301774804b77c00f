"""A model that is small enough to come with the package, and trained: it animates drawn figures at 64 x 64 pixels.

Made by `benchmarks/train_puppets.py`. One UNet of diffusers reads noisy latents, body parts and positions; the same
UNet, at timestep 0 and without body parts, encodes the photo, whose features are appended to keys and values of all
self-attentions, as in the AnimateAnyone family. So it runs in the loop that the large models run in.
"""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from torch.nn import functional as F

from tpc_fast.diffusion import checkpoints
from tpc_fast.diffusion.adapter import KeyValueAdapter
from tpc_fast.diffusion.encoder import ReferenceEncoder
from tpc_fast.diffusion.models import tiny
from tpc_fast.diffusion.pipeline import AnimationPipeline, as_light, check_pose_video

SIZE, PATCH = 64, 4  # pixels: of a side, and of a token's side
GRID, LATENT = SIZE // PATCH, 3 * PATCH**2
WAVES, POSITION_GAIN = (1, 2, 4), 3.0  # half waves across the picture; as loud as the noise of 48 channels
POSITIONS, TEXT = 4 * len(WAVES), 8
UNET = dict(
    sample_size=GRID, in_channels=2 * LATENT + POSITIONS, out_channels=LATENT, block_out_channels=(48, 80),
    layers_per_block=1, norm_num_groups=16, cross_attention_dim=TEXT, attention_head_dim=(2, 2),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D",) * 2,
)  # fmt: skip
PACKAGED = "puppets"  # the name of the weights that come with the package
WEIGHTS = Path(__file__).with_name("puppets.safetensors")


class PatchTransform(ModelMixin, ConfigMixin):
    """In the place of an autoencoder: the orthonormal cosine transform (DCT-II) of each patch of each colour.

    Noise and errors are as large in the latents as in the pixels, which lie in [-1, 1].
    """

    @register_to_config
    def __init__(self, patch: int = PATCH):
        super().__init__()
        # What a pipeline asks an autoencoder: it halves once less than it has entries.
        halvings = patch.bit_length() - 1
        self.register_to_config(
            block_out_channels=(1,) * (halvings + 1), latent_channels=3 * patch**2, scaling_factor=1.0
        )
        place, wave = torch.arange(patch) + 0.5, torch.arange(patch)[:, None]
        waves = torch.cos(torch.pi * wave * place / patch) * (2 / patch) ** 0.5
        waves[0] /= 2**0.5
        planes = torch.einsum("ay,bx->abyx", waves, waves).flatten(0, 1)  # [p * p, p, p]
        basis = torch.zeros(patch**2, 3, 3, patch, patch)
        for colour in range(3):
            basis[:, colour, colour] = planes
        self.register_buffer("basis", basis.flatten(0, 1), persistent=False)

    def encode(self, pixels: torch.Tensor, return_dict: bool = True):
        """[n, 3, H, W] -> [n, 3 * patch * patch, H / patch, W / patch]."""
        latents = F.conv2d(pixels, self.basis, stride=self.config.patch)
        return AutoencoderTinyOutput(latents=latents) if return_dict else (latents,)

    def decode(self, latents: torch.Tensor, return_dict: bool = True):
        """The inverse."""
        pixels = F.conv_transpose2d(latents, self.basis, stride=self.config.patch)
        return DecoderOutput(sample=pixels) if return_dict else (pixels,)


def positions(grid: tuple[int, int] = (GRID, GRID)) -> torch.Tensor:
    """Where tokens are: sines and cosines of x and y, [channels, h, w]."""
    planes = []
    for axis, side in enumerate(grid):
        at = (torch.arange(side) + 0.5) / side * torch.pi
        phases = torch.tensor(WAVES)[:, None] * at
        values = torch.cat([phases.cos(), phases.sin()])
        values = values[:, :, None] if axis == 0 else values[:, None, :]
        planes.append(values.expand(-1, *grid))
    return POSITION_GAIN * torch.cat(planes)


def with_positions(latents: torch.Tensor, pose: torch.Tensor | None = None) -> torch.Tensor:
    """What the UNet takes: [n, C, h, w], body parts [n, C, h, w] (None: the photo, which has none), positions."""
    if pose is None:
        pose = torch.zeros_like(latents)
    place = positions(latents.shape[-2:]).to(latents).expand(len(latents), -1, -1, -1)
    return torch.cat([latents, pose, place], 1)


def as_seen(noisy: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """Noisy latents as the UNet takes them: scaled by the root of the share of signal (`alphas_cumprod`) in them.

    That is the best linear guess at latents of variance 1 without noise. Where there is no signal it is 0, so that
    there the photo and the body parts are all that the UNet sees.
    """
    return signal**0.5 * noisy


class PuppetAdapter(KeyValueAdapter):
    """The bank is written once, from latents of the photo with their positions."""

    def canvas(self, size):
        """Sides must be multiples of two tokens, because the UNet halves once; it was trained at 64 x 64."""
        if any(side % (2 * PATCH) for side in size):
            raise ValueError(f"size must be multiples of {2 * PATCH}, as the model needs, but is {size[0]} x {size[1]}")
        return size

    def encode(self, features, timestep, text):
        return super().encode(with_positions(features), timestep, text)

    def check(self, reference):
        if reference.latent.ndim != 4 or reference.latent.shape[1] != LATENT:
            raise ValueError(f"reference must have latents of {LATENT} channels, but has {reference.latent.shape}")


class PuppetsPipeline(AnimationPipeline):
    """Animates a drawn figure along a video of body parts (`puppet_figures.draw_poses`).

    Frames do not know of each other, and share their noise.

    Args:
        vae: a `PatchTransform`.
        unet: a `UNet2DConditionModel` of the configuration `UNET`.
        scheduler: `puppets_scheduler`, or any other of diffusers.
    """

    kind, model_cpu_offload_seq = PACKAGED, "unet->vae"
    steps, guidance, window, overlap, noise_period, blocks = 10, 1.0, 32, 0, 1, "full"

    def __init__(self, vae, unet, scheduler):
        super().__init__()
        self._register(vae=vae, unet=unet, scheduler=scheduler)
        self._encoders = {}  # of the same weights, made before anything is attached to the UNet

    @classmethod
    def from_pretrained(cls, model=PACKAGED, base=None, vae=None, torch_dtype=None):
        """As of all models; "puppets" are the weights that come with the package."""
        return super().from_pretrained(WEIGHTS.parent if model == PACKAGED else model, base, vae, torch_dtype)

    @classmethod
    def _load(cls, found, vae, dtype):
        file = found["model"] / WEIGHTS.name
        with torch.device("meta"):
            unet = UNet2DConditionModel(**UNET)
        unet = checkpoints.fill(unet, checkpoints.load_state(file), dtype, file)
        vae = torch.nn.Module.to(PatchTransform(), dtype)  # diffusers' own `to` warns without a reason here
        return {"vae": vae, "unet": unet, "scheduler": puppets_scheduler()}

    def reference_adapter(self, blocks: str | None = None) -> PuppetAdapter:
        """The photo, encoded once."""
        blocks = blocks or self.blocks
        if blocks not in self._encoders:
            self._encoders[blocks] = ReferenceEncoder(self.unet, blocks)
        return PuppetAdapter(self, self.unet, self._encoders[blocks], blocks, "once")

    def _follow(self, pose_video, reference, scale, device):
        video = as_light(check_pose_video(pose_video, reference), device, self.vae.dtype)
        return scale * self.vae.encode(video).latents

    def _text(self, prompt, negative_prompt, embeds, negative_embeds, reference, device):
        if prompt or negative_prompt:
            raise ValueError("prompt must be empty: the model reads the photo instead of text")
        return no_text(2 if self.do_classifier_free_guidance else 1).to(device, self.unet.dtype)

    def _predict(self, part, t, text, follow, reference):
        noisy = as_seen(part[0].transpose(0, 1), self.scheduler.alphas_cumprod[int(t)].to(part))
        frames = with_positions(noisy, follow.to(part.dtype)).repeat(len(text), 1, 1, 1)
        rows = text.repeat_interleave(part.shape[2], 0)
        found = self.unet(frames, t, encoder_hidden_states=rows, return_dict=False)[0]
        return found.unflatten(0, (len(text), -1)).transpose(1, 2)


def no_text(count: int = 1) -> torch.Tensor:
    """What cross-attentions get: nothing, [count, 1, channels]."""
    return torch.zeros(count, 1, TEXT)


def puppets_scheduler() -> DDIMScheduler:
    """The model says what is seen without noise; at the first step it sees nothing but noise."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        prediction_type="sample", rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip


def tiny_puppets(cls, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
    """All parts of a PuppetsPipeline, random."""

    def make():
        return {"vae": PatchTransform(), "unet": UNet2DConditionModel(**UNET)}

    return {**tiny.made(seed, dtype, make), "scheduler": puppets_scheduler()}
