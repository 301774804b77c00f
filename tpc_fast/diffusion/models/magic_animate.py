"""MagicAnimate with calibrated references, on diffusers' own schedulers, autoencoder, ControlNet and motion UNet."""

import contextlib

import torch
from diffusers import DDIMScheduler

from tpc_fast import _checks
from tpc_fast.diffusion import checkpoints
from tpc_fast.diffusion.adapter import KeyValueAdapter
from tpc_fast.diffusion.models.shared_half import share_down_path
from tpc_fast.diffusion.pipeline import AnimationPipeline, as_light, check_condition

TINY_RANDOM = "tiny-random"


class MagicAnimatePipeline(AnimationPipeline):
    """Animates a calibrated reference along a DensePose video.

    Args:
        vae, text_encoder, tokenizer: of Stable Diffusion 1.5.
        unet: a `MagicAnimateUNet`, with motion modules.
        controlnet: its condition is a DensePose video.
        appearance_encoder: the `UNet2DConditionModel` that writes the bank.
        scheduler: DDIM as the original has it (`original_scheduler()`), or any other of diffusers.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"

    def __init__(self, vae, text_encoder, tokenizer, unet, controlnet, appearance_encoder, scheduler):
        super().__init__()
        self._register(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            appearance_encoder=appearance_encoder,
            scheduler=scheduler,
        )

    @classmethod
    def from_pretrained(cls, model, base=None, vae=None, torch_dtype=None) -> "MagicAnimatePipeline":
        """Loads the published checkpoints; every key must find its place.

        Args:
            model: a folder with `MagicAnimate/`, `stable-diffusion-v1-5/` and `sd-vae-ft-mse/`; or the MagicAnimate
                folder (`appearance_encoder/`, `densepose_controlnet/`, `temporal_attention/temporal_attention.ckpt`);
                or a hub id ("zcxu-eric/MagicAnimate"); or "tiny-random" for small random weights, which need no
                files and animate nothing, but go the whole way.
            base: folder or hub id of Stable Diffusion 1.5, if it is not where `model` has it.
            vae: folder or hub id of the autoencoder, likewise.
            torch_dtype: of the weights; float32 by default.

        Raises:
            FileNotFoundError: lists the files that are missing, and where each belongs.
            ValueError: if a file is damaged, or holds other weights than the model has; names them.
        """
        if model == TINY_RANDOM:
            from tpc_fast.diffusion.models.tiny import tiny_components

            parts = tiny_components(torch_dtype or torch.float32)
        else:
            parts = _load(checkpoints.find_checkpoints(model, base, vae), torch_dtype or torch.float32)
        return cls(**parts, scheduler=original_scheduler())

    @property
    def max_window(self) -> int:
        """As many frames as the motion modules take."""
        return self.unet.config.motion_max_seq_length

    def reference_adapter(self, blocks: str | None = None) -> KeyValueAdapter:
        """Its appearance encoder writes the bank at every step."""
        return KeyValueAdapter(self, self.unet, self.appearance_encoder, blocks or self.blocks)

    def _follow(self, condition, reference, scale, device):
        self._scale = scale
        return check_condition(condition, reference)

    def _shared(self, text, blocks):
        alike = len(text) == 2 and torch.equal(text[0], text[1]) and blocks == "midup"
        return share_down_path(self.unet) if alike else contextlib.nullcontext()

    def _predict(self, part, t, text, condition, reference):
        halves = len(text)
        residuals = self._control(part, t, text[-1:], condition, self._scale)
        residuals = [torch.cat([residual] * halves) for residual in residuals]
        return self.unet(
            self._batch(part, halves),
            t,
            encoder_hidden_states=text.repeat_interleave(part.shape[2], 0),
            down_block_additional_residuals=residuals[:-1],
            mid_block_additional_residual=residuals[-1],
            return_dict=False,
        )[0]

    def _control(self, part, t, text, condition, scale) -> list[torch.Tensor]:
        """Residuals of the ControlNet for a window [1, C, n, h, w]: of the down blocks, then of the mid block.

        As in the original, it gets the conditional text only, and both halves of the guidance share what it returns.
        """
        frames = part[0].transpose(0, 1).to(self.controlnet.dtype)
        down, mid = self.controlnet(
            frames,
            t,
            encoder_hidden_states=text.expand(len(frames), -1, -1).to(frames.dtype),
            controlnet_cond=as_light(condition, frames.device, frames.dtype),
            conditioning_scale=scale,
            return_dict=False,
        )
        return [residual.to(part.dtype) for residual in (*down, mid)]

    def _text(self, prompt, negative_prompt, embeds, negative_embeds, reference, device) -> torch.Tensor:
        """[1 or 2, tokens, channels]: unconditional if there is guidance, conditional."""
        prompts = [(prompt, embeds)]
        if self.do_classifier_free_guidance:
            prompts.insert(0, (negative_prompt, negative_embeds))
        parts = [self.encode_prompt(text, device) if given is None else given for text, given in prompts]
        for name, part in zip(("prompt_embeds", "negative_prompt_embeds"), reversed(parts), strict=False):
            if part.ndim != 3 or len(part) != 1 or part.shape != parts[-1].shape:
                raise ValueError(f"{name} must be [1, tokens, channels], both alike, but is {_checks.describe(part)}")
        return torch.cat(parts).to(device, self.unet.dtype)

    def encode_prompt(self, prompt: str, device=None) -> torch.Tensor:
        """[1, tokens, channels] of a prompt."""
        if not isinstance(prompt, str):
            raise TypeError(f"prompt must be a string, but is {_checks.describe(prompt)}")
        tokens = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return self.text_encoder(tokens.input_ids.to(device or self._execution_device))[0]


def original_scheduler() -> DDIMScheduler:
    """DDIM as MagicAnimate was trained and published with."""
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", steps_offset=1, clip_sample=False)


def _load(found: dict, dtype: torch.dtype) -> dict:
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    def load(model, folder, may_miss=()):
        return checkpoints.load_pretrained(model, folder, dtype, may_miss)

    model, base = found["model"], found["base"]
    motion, encoder = checkpoints.motion_file(model), model / "appearance_encoder"
    unused = checkpoints.unused_by_encoder(UNet2DConditionModel.load_config(str(encoder)))
    unet = load(UNet2DConditionModel, base / "unet")
    return {
        "unet": checkpoints.motion_unet(unet, checkpoints.load_state(motion), source=motion),
        "appearance_encoder": load(UNet2DConditionModel, encoder, unused),
        "controlnet": load(ControlNetModel, model / "densepose_controlnet"),
        "vae": load(AutoencoderKL, found["vae"]),
        "text_encoder": load(CLIPTextModel, base / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(str(base / "tokenizer"), local_files_only=True),
    }
