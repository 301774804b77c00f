"""Models of single images whose reference is tokens: they make every frame on its own."""

import torch
from diffusers import DDIMScheduler, PNDMScheduler

from tpc_fast import _checks
from tpc_fast.diffusion.adapter import TokenAdapter
from tpc_fast.diffusion.pipeline import AnimationPipeline
from tpc_fast.diffusion.reference import VaeEncoder


class ImageTokenAdapter(TokenAdapter):
    """Tokens of a pipeline with a VAE; see `TokenAdapter`."""

    def __init__(self, pipe, readers):
        super().__init__(readers)
        self.pipe, self.vae = pipe, VaeEncoder(pipe.vae)

    def canvas(self, size):
        """Sides must be multiples of what the VAE scales by."""
        return self.vae.canvas(size)


class ImageModelPipeline(AnimationPipeline):
    """What DreamPose and DisCo have in common; their adapters' `photo` has "null", the tokens of no reference."""

    window, overlap = 8, 0  # frames do not know of each other

    def _text(self, prompt, negative_prompt, embeds, negative_embeds, reference, device):
        if prompt or negative_prompt:
            raise ValueError("prompt must be empty: the model reads the photo instead of text")
        embeds = reference.latent if embeds is None else embeds
        parts = [embeds]
        if self.do_classifier_free_guidance:
            null = reference.extras.get("null") if negative_embeds is None else negative_embeds
            if null is None:
                raise ValueError("reference must have extras['null'], the tokens of no reference [1, tokens, channels]")
            parts = [null] + (self.reference_adapter().parts - 1) * parts
        for part in parts:
            if part.ndim != 3 or part.shape != parts[-1].shape or len(part) != 1:
                raise ValueError(f"prompt_embeds must be [1, tokens, channels], but is {_checks.describe(part)}")
        return torch.cat(parts).to(device, self.unet.dtype)

    def _batch(self, part, parts):
        return part[0].transpose(0, 1).repeat(parts, 1, 1, 1)

    def _predict(self, part, t, text, follow, reference):
        parts, frames = len(text), part.shape[2]
        rows = text.repeat_interleave(frames, 0)
        noise = self._predict_frames(self._batch(part, parts), parts, t, rows, follow, reference)
        return noise.unflatten(0, (parts, frames)).transpose(1, 2)

    def _predict_frames(self, frames, parts, t, text, follow, reference) -> torch.Tensor:
        """[parts * n, C, h, w], and [parts * n, tokens, channels] -> [parts * n, C, h, w]."""
        raise NotImplementedError


# Of Stable Diffusion, from whose configuration file both schedulers of these models are made.
_LEVELS = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False
)


def pndm() -> PNDMScheduler:
    """As DreamPose was published with."""
    return PNDMScheduler(**_LEVELS, skip_prk_steps=True)


def ddim() -> DDIMScheduler:
    """As DisCo's published evaluation has it by default."""
    return DDIMScheduler(**_LEVELS, clip_sample=False)
