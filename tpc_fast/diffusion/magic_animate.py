"""MagicAnimate with calibrated references, on diffusers' own schedulers, autoencoder, ControlNet and motion UNet."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from tpc_fast import _checks
from tpc_fast._dispatch import is_torch
from tpc_fast.calibration import Calibration
from tpc_fast.diffusion import checkpoints
from tpc_fast.diffusion.apply import apply_calibration, remove_calibration
from tpc_fast.diffusion.composite import composite_background
from tpc_fast.diffusion.halves import share_down_path
from tpc_fast.diffusion.reference import CalibratedReference
from tpc_fast.diffusion.windows import context_windows, predict_windows
from tpc_fast.layout import CALIBRATION_FILE
from tpc_fast.propagation import PropagationPlan

TINY_RANDOM = "tiny-random"
STEPS, GUIDANCE = 25, 7.5  # the original's defaults


@dataclasses.dataclass
class MagicAnimateOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        frames: uint8 [F, H, W, 3], an array or a tensor; or latents [1, C, F, h, w] for `output_type="latent"`.
    """

    frames: np.ndarray | torch.Tensor


class MagicAnimatePipeline(DiffusionPipeline):
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
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            appearance_encoder=appearance_encoder,
            scheduler=scheduler,
        )
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self._guidance_scale = GUIDANCE

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
            from tpc_fast.diffusion.tiny import tiny_components

            parts = tiny_components(torch_dtype or torch.float32)
        else:
            parts = _load(checkpoints.find_checkpoints(model, base, vae), torch_dtype or torch.float32)
        return cls(**parts, scheduler=original_scheduler())

    @property
    def guidance_scale(self) -> float:
        """Of the run."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the run has an unconditional half."""
        return self._guidance_scale > 1

    def encode_reference(
        self, calibration, group_size: int = 4, mode: str = "random", seed: int = 0, batch_size: int = 8
    ) -> CalibratedReference:
        """Renders and encodes what a run with these options can read of a calibration.

        Args:
            calibration: a `Calibration`, the folder that it was saved in, or a folder in the original's layout.
            group_size, mode, seed: of the `PropagationPlan`.
            batch_size: images that go through the autoencoder at once.
        """
        if isinstance(calibration, str | os.PathLike):
            if not (Path(calibration) / CALIBRATION_FILE).is_file():
                return CalibratedReference.from_layout(calibration, self.vae, batch_size=batch_size)
            calibration = Calibration.load(calibration)
        plan = PropagationPlan(len(calibration), group_size, mode, seed)
        return CalibratedReference.from_calibration(calibration, self.vae, plan, batch_size=batch_size)

    @torch.no_grad()
    def __call__(
        self,
        reference,
        condition,
        prompt: str = "",
        negative_prompt: str = "",
        num_inference_steps: int = STEPS,
        guidance_scale: float = GUIDANCE,
        *,
        window: int = 16,
        overlap: int = 4,
        closed_loop: bool = False,
        group_size: int = 4,
        mode: str = "random",
        blocks: str = "midup",
        seed: int = 0,
        bank_refresh: int = 1,
        controlnet_conditioning_scale: float = 1.0,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        noise_period: int | None = None,
        first_step: int = 0,
        first_window: int = 0,
        predicted: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        background=None,
        output_type: str = "np",
        decode_chunk_size: int = 8,
        callback_on_step_end: Callable | None = None,
        callback_on_window_end: Callable | None = None,
        on_window: Callable[[int, int], object] | None = None,
    ) -> MagicAnimateOutput:
        """Makes a video.

        Args:
            reference: a `CalibratedReference`; or what `encode_reference` takes.
            condition: the DensePose video, one picture per frame and of the reference's size: uint8 [F, H, W, 3], or
                floating [F, 3, H, W] in [0, 1].
            prompt, negative_prompt: empty in the original.
            num_inference_steps: denoising steps.
            guidance_scale: 1 or less switches guidance, and half of the work, off.
            window, overlap: frames that the UNet sees at once, and how many of them two windows share.
            closed_loop: whether windows go on from the end of the video to its beginning (the original).
            group_size, mode, seed: how many frames share a calibrated image, and whose it is: see `PropagationPlan`.
            blocks: "midup" or "full": which self-attentions read the reference.
            bank_refresh: encode the reference only every so many steps; 1 is exact.
            controlnet_conditioning_scale: weight of the DensePose condition.
            eta: of DDIM.
            generator: of the noise, and of eta.
            latents: [1, C, F, h, w], the noise; or, from `first_step` on, what the callback was given before.
            noise_period: the noise repeats after so many frames (the original: 16); None for noise of its own for
                every frame.
            first_step: how many steps were done before. Exact for schedulers that keep nothing between steps, as DDIM.
            first_window, predicted: how many windows of that step were done before, and what the callback was given
                after them.
            prompt_embeds, negative_prompt_embeds: [1, tokens, channels], instead of the prompts.
            background: a picture [H, W, 3] uint8, shown outside of the (dilated) pose masks; None to keep all that was
                generated.
            output_type: "np", "pt", or "latent" for what the denoising leaves, undecoded.
            decode_chunk_size: frames that are decoded at once.
            callback_on_step_end: called as `callback(pipe, step, timestep, {"latents": latents})`.
            callback_on_window_end: called as `callback(pipe, step, done, {"latents": latents, "predicted": sum})` after
                each window of a step but the last, with the latents before the step.
            on_window: called as `on_window(done, total)` after each window of each step.

        Raises:
            ValueError: for options out of range, and a condition, latents or background of another shape than the
                reference asks for.
        """
        if output_type not in ("np", "pt", "latent"):
            raise ValueError(f'output_type must be "np", "pt" or "latent", but is {output_type!r}')
        if not 0 <= first_step <= num_inference_steps or first_step % bank_refresh:
            wanted = f"from 0 to {num_inference_steps}, a multiple of bank_refresh ({bank_refresh})"
            raise ValueError(f"first_step must be {wanted}, but is {first_step}")
        if first_step and latents is None:
            raise ValueError("latents must be what the callback was given before first_step, but is None")
        if not isinstance(reference, CalibratedReference):
            reference = self.encode_reference(reference, group_size, mode, seed)
        device, frames = self._execution_device, reference.num_frames
        condition = _check_condition(condition, frames, reference.size)
        windows = context_windows(frames, window, overlap, closed_loop)
        longest = self.unet.config.motion_max_seq_length
        if windows.shape[1] > longest:
            raise ValueError(f"window must be at most {longest}, as the motion modules are, but is {window}")
        self._guidance_scale = guidance_scale
        text = self._text(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, device)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        shape = (1, self.unet.config.in_channels, frames, *reference.latent.shape[-2:])
        if latents is None:
            latents = self._noise(shape, noise_period, generator, device)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents must be {list(shape)}, but is {_checks.describe(latents)}")
        latents = latents.to(device, torch.float32)
        last = len(windows) - 1 if first_step < num_inference_steps else 0
        if not 0 <= first_window <= last:
            raise ValueError(f"first_window must be from 0 to {last}, but is {first_window}")
        if bool(first_window) != (predicted is not None) or (first_window and tuple(predicted.shape) != shape):
            wanted = list(shape) if first_window else "None without a first_window"
            raise ValueError(f"predicted must be {wanted}, but is {_checks.describe(predicted)}")
        state = apply_calibration(
            self,
            reference,
            group_size=group_size,
            mode=mode,
            blocks=blocks,
            seed=seed,
            bank_refresh=bank_refresh,
            window=None,
        )
        alike = len(text) == 2 and torch.equal(text[0], text[1]) and blocks == "midup"
        try:
            state.start(first_step)
            with share_down_path(self.unet) if alike else contextlib.nullcontext():
                latents = self._denoise(
                    latents, text, condition, windows, state, first_step, first_window, predicted,
                    controlnet_conditioning_scale,
                    {"eta": eta, "generator": generator} if isinstance(self.scheduler, DDIMScheduler) else {},
                    callback_on_step_end, callback_on_window_end, on_window,
                )  # fmt: skip
        finally:
            remove_calibration(self)
        if output_type != "latent":
            chunks = self.decode(latents, decode_chunk_size)
            if background is not None:
                chunks = self._composited(chunks, reference, background)
            latents = torch.cat(list(chunks))
            latents = latents if output_type == "pt" else latents.cpu().numpy()
        self.maybe_free_model_hooks()
        return MagicAnimateOutput(frames=latents)

    def _denoise(
        self, latents, text, condition, windows, state, first_step, first_window, predicted, scale, options, callback,
        on_sum, on_window,
    ):  # fmt: skip
        timesteps = self.scheduler.timesteps
        halves = len(text)
        total, done = (len(timesteps) - first_step) * len(windows) - first_window, 0
        if predicted is not None:
            predicted = predicted.to(latents.device, torch.float32, copy=True)
        for step, t in enumerate(timesteps[first_step:], first_step):
            model_input = self.scheduler.scale_model_input(latents, t).to(self.unet.dtype)

            # Images of windows done before are encoded in the same batches again: then the rest is the same, bit by bit
            for window in windows[:first_window]:
                with state.covering(window):
                    part = torch.cat([model_input[:, :, window]] * halves)
                    state.open(part, t, text.repeat_interleave(len(window), 0))

            def predict(window, model_input=model_input, t=t):
                nonlocal done
                part = model_input[:, :, window]
                residuals = self._control(part, t, text[-1:], condition[window], scale)
                residuals = [torch.cat([residual] * halves) for residual in residuals]
                with state.covering(window):
                    noise = self.unet(
                        torch.cat([part] * halves),
                        t,
                        encoder_hidden_states=text.repeat_interleave(len(window), 0),
                        down_block_additional_residuals=residuals[:-1],
                        mid_block_additional_residual=residuals[-1],
                        return_dict=False,
                    )[0].float()
                done += 1
                if on_window is not None:
                    on_window(done, total)
                if halves == 1:
                    return noise
                unconditional, conditional = noise.chunk(2)
                return unconditional + self._guidance_scale * (conditional - unconditional)

            def keep(done, predicted, step=step, latents=latents):
                on_sum(self, step, done, {"latents": latents, "predicted": predicted.clone()})

            noise = predict_windows(
                predict, windows, latents.shape[2], first_window, predicted, None if on_sum is None else keep
            )
            first_window, predicted = 0, None
            latents = self.scheduler.step(noise, t, latents, **options).prev_sample
            if callback is not None:
                returned = callback(self, step, t, {"latents": latents}) or {}
                latents = returned.get("latents", latents)
        return latents

    def _control(self, part, t, text, condition, scale) -> list[torch.Tensor]:
        """Residuals of the ControlNet for a window [1, C, n, h, w]: of the down blocks, then of the mid block.

        As in the original, it gets the conditional text only, and both halves of the guidance share what it returns.
        """
        frames = part[0].transpose(0, 1).to(self.controlnet.dtype)
        condition = condition.to(frames.device)
        if condition.dtype == torch.uint8:
            condition = condition.permute(0, 3, 1, 2).to(frames.dtype) / 255
        down, mid = self.controlnet(
            frames,
            t,
            encoder_hidden_states=text.expand(len(frames), -1, -1).to(frames.dtype),
            controlnet_cond=condition.to(frames.dtype),
            conditioning_scale=scale,
            return_dict=False,
        )
        return [residual.to(part.dtype) for residual in (*down, mid)]

    def _text(self, prompt, negative_prompt, embeds, negative_embeds, device) -> torch.Tensor:
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

    def _noise(self, shape, period, generator, device) -> torch.Tensor:
        frames = shape[2]
        if period is not None and (not isinstance(period, int) or period < 1):
            raise ValueError(f"noise_period must be an integer from 1, or None, but is {_checks.describe(period)}")
        period = min(period or frames, frames)
        noise = randn_tensor((*shape[:2], period, *shape[3:]), generator, torch.device(device), torch.float32)
        return noise[:, :, torch.arange(frames, device=noise.device) % period] * self.scheduler.init_noise_sigma

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, chunk_size: int = 8) -> Iterator[torch.Tensor]:
        """Decodes latents [1, C, F, h, w], some frames at a time: uint8 [n, H, W, 3] on the device of the decoder."""
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, but is {chunk_size}")
        for part in latents[0].transpose(0, 1).split(chunk_size):
            part = part.to(self._execution_device, self.vae.dtype) / self.vae.config.scaling_factor
            images = self.vae.decode(part, return_dict=False)[0]
            yield ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def _composited(self, chunks, reference, background):
        background, start = torch.as_tensor(background), 0
        for chunk in chunks:
            masks = reference.pose_masks[:, start : start + len(chunk)].transpose(0, 1).to(chunk.device)
            yield composite_background(chunk, masks, background.to(chunk.device))
            start += len(chunk)


def original_scheduler() -> DDIMScheduler:
    """DDIM as MagicAnimate was trained and published with."""
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", steps_offset=1, clip_sample=False)


def _load(found: checkpoints.Checkpoints, dtype: torch.dtype) -> dict:
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    def load(model, folder, may_miss=()):
        return checkpoints.load_pretrained(model, folder, dtype, may_miss)

    motion, encoder = checkpoints.load_state(found.motion), found.model / "appearance_encoder"
    unused = checkpoints.unused_by_encoder(UNet2DConditionModel.load_config(str(encoder)))
    return {
        "unet": checkpoints.motion_unet(load(UNet2DConditionModel, found.base / "unet"), motion, source=found.motion),
        "appearance_encoder": load(UNet2DConditionModel, encoder, unused),
        "controlnet": load(ControlNetModel, found.model / "densepose_controlnet"),
        "vae": load(AutoencoderKL, found.vae),
        "text_encoder": load(CLIPTextModel, found.base / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(str(found.base / "tokenizer"), local_files_only=True),
    }


def _check_condition(condition, frames, size) -> torch.Tensor:
    """A tensor uint8 [F, H, W, 3] or floating [F, 3, H, W]."""
    if not is_torch(condition) and not isinstance(condition, np.ndarray):
        raise TypeError(f"condition must be an array or a tensor, but is {_checks.describe(condition)}")
    tensor = torch.as_tensor(condition)
    floating = tensor.dtype.is_floating_point
    shape = (frames, 3, *size) if floating else (frames, *size, 3)
    if tuple(tensor.shape) != shape or not (floating or tensor.dtype == torch.uint8):
        raise ValueError(
            f"condition must be uint8 {[frames, *size, 3]} or floating {[frames, 3, *size]}, but is "
            f"{_checks.describe(condition)}"
        )
    return tensor
