"""A model that is small enough to come with the package, and trained: it animates drawn figures at 64 x 64 pixels.

Made by `benchmarks/train_puppets.py`. One UNet of diffusers reads noisy latents, body parts and positions; the same
weights, at timestep 0 and without body parts, encode the photo, whose features are appended to keys and values of all
self-attentions, as in the AnimateAnyone family. Motion modules, trained after that on clips, see the frames of a window
together. So it runs in the loops that the large models run in.
"""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, ModelMixin, MotionAdapter, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from torch.nn import functional as F

from tpc_fast.diffusion import checkpoints
from tpc_fast.diffusion.adapter import KeyValueAdapter
from tpc_fast.diffusion.models import tiny
from tpc_fast.diffusion.models.norms import PerFrameUNet
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
DARKEST = 5  # grey levels of the darkest colour that figures and backgrounds have: see `puppet_figures.Looks`
FRAMES = 16  # most of a window: the longest clips that the motion modules were trained on
MOTION = dict(
    block_out_channels=UNET["block_out_channels"], motion_layers_per_block=UNET["layers_per_block"],
    motion_norm_num_groups=UNET["norm_num_groups"], motion_num_attention_heads=2, motion_max_seq_length=FRAMES,
)  # fmt: skip
PACKAGED = "puppets"  # the name of the weights that come with the package
WEIGHTS, MOTION_WEIGHTS = (Path(__file__).with_name(f"puppets{part}.safetensors") for part in ("", "_motion"))


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


def fill_black(pixels: torch.Tensor) -> torch.Tensor:
    """Pictures with black edges, where a calibrated photo does not reach, in the middle colour of what is beside them.

    The model never saw black surroundings, and makes other colours of all that it sees in them.

    Args:
        pixels: [n, 3, H, W] in [-1, 1]; they are left as they are.
    """
    black = pixels.amax(1, keepdim=True) < DARKEST / 127.5 - 1
    hole = F.pad(torch.zeros_like(black[:, :, 1:-1, 1:-1]), (1, 1, 1, 1), value=True) & black
    while not torch.equal(hole, grown := _grown(hole) & black):  # from the edges on, so that black eyes stay
        hole = grown
    blended = _grown(hole)
    beside = _grown(_grown(blended)) & ~blended
    filled = []
    for picture, where, near in zip(pixels, blended[:, 0], beside[:, 0], strict=True):
        if near.any():
            colour = picture[:, near].median(1).values
            picture = torch.where(where, colour[:, None, None], picture)
        filled.append(picture)
    return torch.stack(filled)


def _grown(mask: torch.Tensor) -> torch.Tensor:
    """By a pixel on all sides."""
    return F.max_pool2d(mask.float(), 3, 1, 1) > 0


class PuppetAdapter(KeyValueAdapter):
    """The bank is written once, from latents of the photo with their positions."""

    def canvas(self, size):
        """Sides must be multiples of two tokens, because the UNet halves once; it was trained at 64 x 64."""
        if any(side % (2 * PATCH) for side in size):
            raise ValueError(f"size must be multiples of {2 * PATCH}, as the model needs, but is {size[0]} x {size[1]}")
        return size

    def encode(self, features, timestep, text):
        """As of `KeyValueAdapter`, of pictures whose black edges are filled."""
        vae = self.pipe.vae
        pixels = fill_black(vae.decode(features.to(vae.device, vae.dtype), return_dict=False)[0])
        return super().encode(with_positions(vae.encode(pixels, return_dict=False)[0]), timestep, text)

    def check(self, reference):
        if reference.latent.ndim != 4 or reference.latent.shape[1] != LATENT:
            raise ValueError(f"reference must have latents of {LATENT} channels, but has {reference.latent.shape}")


def motion_ends(unet) -> list[torch.nn.Module]:
    """The last layer of every motion module; with zeros there, the module adds nothing."""
    return [m for name, m in unet.named_modules() if name.endswith("proj_out") and "motion_modules" in name]


def motion_unet(spatial: UNet2DConditionModel, motion: MotionAdapter | None = None) -> PerFrameUNet:
    """The denoiser of videos: the weights of one picture, and motion modules between; None: new ones, that do nothing.

    Norms are those of each frame alone, so that frames of a window may stand at different noise levels.
    """
    unet = PerFrameUNet.from_unet2d(spatial, motion or MotionAdapter(**MOTION), load_weights=False)
    if motion is None:
        for module in motion_ends(unet):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    kept = unet.state_dict() if motion is None else motion.state_dict()
    motion = {name: value for name, value in kept.items() if "motion_modules" in name}
    unet.load_state_dict({**spatial.state_dict(), **motion}, assign=True)
    return unet


class PuppetsPipeline(AnimationPipeline):
    """Animates a drawn figure along a video of body parts (`puppet_figures.draw_poses`).

    Frames share their noise.

    Args:
        vae: a `PatchTransform`.
        unet: a `PerFrameUNet` (`motion_unet`).
        reference_unet: the `UNet2DConditionModel` of the configuration `UNET` that writes the bank.
        scheduler: `puppets_scheduler`, or any other of diffusers.
    """

    kind, model_cpu_offload_seq = PACKAGED, "reference_unet->unet->vae"
    # Steps: more of them change what a frame shows, away from the truth (measured: 1 step 20.4 dB, 4: 20.0, 10: 19.8).
    steps, guidance, window, overlap, noise_period, blocks = 4, 1.0, FRAMES, 4, 1, "full"

    def __init__(self, vae, unet, reference_unet, scheduler):
        super().__init__()
        self._register(vae=vae, unet=unet, reference_unet=reference_unet, scheduler=scheduler)

    @classmethod
    def from_pretrained(cls, model=PACKAGED, base=None, vae=None, torch_dtype=None):
        """As of all models; "puppets" are the weights that come with the package."""
        return super().from_pretrained(WEIGHTS.parent if model == PACKAGED else model, base, vae, torch_dtype)

    @classmethod
    def _load(cls, found, vae, dtype):
        parts = {}
        for make, path in ((_spatial, WEIGHTS), (_motion, MOTION_WEIGHTS)):
            file = found["model"] / path.name
            with torch.device("meta"):
                model = make()
            parts[make] = checkpoints.fill(model, checkpoints.load_state(file), dtype, file)
        vae = torch.nn.Module.to(PatchTransform(), dtype)  # diffusers' own `to` warns without a reason here
        unet = motion_unet(parts[_spatial], parts[_motion]).eval()
        return {"vae": vae, "unet": unet, "reference_unet": parts[_spatial], "scheduler": puppets_scheduler()}

    @property
    def max_window(self) -> int:
        """As many frames as the motion modules take."""
        return self.unet.config.motion_max_seq_length

    def reference_adapter(self, blocks: str | None = None) -> PuppetAdapter:
        """The photo, encoded once."""
        return PuppetAdapter(self, self.unet, self.reference_unet, blocks or self.blocks, "once")

    def _follow(self, pose_video, reference, scale, device):
        video = as_light(check_pose_video(pose_video, reference), device, self.vae.dtype)
        return scale * self.vae.encode(video).latents

    def _text(self, prompt, negative_prompt, embeds, negative_embeds, reference, device):
        if prompt or negative_prompt:
            raise ValueError("prompt must be empty: the model reads the photo instead of text")
        return no_text(2 if self.do_classifier_free_guidance else 1).to(device, self.unet.dtype)

    def _predict(self, part, t, text, follow, reference):
        times = torch.as_tensor(t).cpu()  # of the window, or of each frame
        signal = self.scheduler.alphas_cumprod[times.long()].reshape(-1, 1, 1, 1).to(part)
        frames = with_positions(as_seen(part[0].transpose(0, 1), signal), follow.to(part.dtype)).transpose(0, 1)
        rows = text.repeat_interleave(part.shape[2], 0)
        return self.unet(self._batch(frames[None], len(text)), t, encoder_hidden_states=rows, return_dict=False)[0]


def _spatial() -> UNet2DConditionModel:
    return UNet2DConditionModel(**UNET)


def _motion() -> MotionAdapter:
    return MotionAdapter(**MOTION)


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
        spatial = UNet2DConditionModel(**UNET)
        return {"vae": PatchTransform(), "unet": motion_unet(spatial), "reference_unet": spatial}

    return {**tiny.made(seed, dtype, make), "scheduler": puppets_scheduler()}
