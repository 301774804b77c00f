"""The loop that all models here share: windows, guidance, steps, decoding; a model says what it predicts from what."""

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
from tpc_fast.calibration.result import Calibration
from tpc_fast.diffusion.attach import apply_calibration, remove_calibration
from tpc_fast.diffusion.composite import composite_background
from tpc_fast.diffusion.reference import CalibratedReference
from tpc_fast.diffusion.windows import context_windows, predict_windows
from tpc_fast.media.files import CALIBRATION_FILE
from tpc_fast.ops.propagation import PropagationPlan


@dataclasses.dataclass
class AnimationOutput(BaseOutput):
    """What a pipeline returns.

    Attributes:
        frames: uint8 [F, H, W, 3], an array or a tensor; or latents [1, C, F, h, w] for `output_type="latent"`.
    """

    frames: np.ndarray | torch.Tensor


class AnimationPipeline(DiffusionPipeline):
    """Animates a calibrated reference along a video that says how it moves. Subclasses are models.

    Attributes:
        videos: names of the videos that it follows; the condition is one, or a dict of several.
        follows: what they show, in words.
        steps, guidance, window, overlap, noise_period, blocks: defaults, as the model was published with.
        max_window: frames that it takes at once; None if they do not know of each other.
    """

    videos, follows = ("pose",), "a DensePose video"
    steps, guidance, window, overlap, noise_period, blocks = 25, 7.5, 16, 4, None, "midup"
    max_window = None

    # What a model says

    def reference_adapter(self, blocks: str | None = None):
        """How this model takes a reference: a `ReferenceAdapter`."""
        raise NotImplementedError

    def _follow(self, condition, reference: CalibratedReference, scale: float, device) -> torch.Tensor:
        """Checks the driving pictures; one entry per frame of what `_predict` wants of them."""
        raise NotImplementedError

    def _text(self, prompt, negative_prompt, embeds, negative_embeds, reference, device) -> torch.Tensor:
        """[parts, tokens, channels]: what cross-attentions get in every part of a guided batch."""
        raise NotImplementedError

    def _batch(self, part: torch.Tensor, parts: int) -> torch.Tensor:
        """A window [1, C, n, h, w] as the UNet takes it, for all parts of the guidance."""
        return torch.cat([part] * parts)

    def _predict(self, part, t, text, condition, reference) -> torch.Tensor:
        """What the model predicts for a window [1, C, n, h, w]: [parts, C, n, h, w]."""
        raise NotImplementedError

    def _guide(self, noise: torch.Tensor) -> torch.Tensor:
        """All parts of a prediction in one: [parts, C, n, h, w] -> [1, C, n, h, w]."""
        if len(noise) == 1:
            return noise
        unconditional, conditional = noise.chunk(2)
        return unconditional + self._guidance_scale * (conditional - unconditional)

    def _start(self, noise: torch.Tensor, reference: CalibratedReference) -> torch.Tensor:
        """The latents that denoising starts with."""
        return noise * self.scheduler.init_noise_sigma

    def _shared(self, text, blocks):
        """A context in which guided parts share work."""
        return contextlib.nullcontext()

    # What is common

    @torch.no_grad()
    def conditional_text(self, reference: CalibratedReference) -> torch.Tensor:
        """[1, tokens, channels]: what the rows that read the reference get in cross-attention, without a prompt."""
        return self._text("", "", None, None, reference, self._execution_device)[-1:]

    def _register(self, **modules):
        self.register_modules(**modules)
        self._guidance_scale = self.guidance

    @property
    def guidance_scale(self) -> float:
        """Of the run."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the run has an unconditional part."""
        return self._guidance_scale > 1

    @property
    def resumable(self) -> bool:
        """Whether a run can go on from any step: not where the scheduler keeps something between steps."""
        return isinstance(self.scheduler, DDIMScheduler)

    def encode_reference(
        self, calibration, group_size: int = 4, mode: str = "random", seed: int = 0, batch_size: int = 8
    ) -> CalibratedReference:
        """Renders and encodes what a run with these options can read of a calibration.

        Args:
            calibration: a `Calibration`, the folder that it was saved in, or a folder in the original's layout.
            group_size, mode, seed: of the `PropagationPlan`.
            batch_size: images that go through the autoencoder at once.
        """
        adapter = self.reference_adapter()
        if isinstance(calibration, str | os.PathLike):
            if not (Path(calibration) / CALIBRATION_FILE).is_file():
                return CalibratedReference.from_layout(calibration, adapter, batch_size=batch_size)
            calibration = Calibration.load(calibration)
        plan = PropagationPlan(len(calibration), group_size, mode, seed)
        return CalibratedReference.from_calibration(calibration, adapter, plan, batch_size=batch_size)

    @torch.no_grad()
    def __call__(
        self,
        reference,
        condition,
        prompt: str = "",
        negative_prompt: str = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        *,
        window: int | None = None,
        overlap: int | None = None,
        closed_loop: bool = False,
        group_size: int = 4,
        mode: str = "random",
        blocks: str | None = None,
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
    ) -> AnimationOutput:
        """Makes a video.

        Args:
            reference: a `CalibratedReference`; or what `encode_reference` takes.
            condition: the video that is followed, one picture per frame and of the reference's size: uint8
                [F, H, W, 3], or floating [F, 3, H, W] in [0, 1]; of what, the model says.
            prompt, negative_prompt: for models that read text.
            num_inference_steps: denoising steps; None for the model's default.
            guidance_scale: 1 or less switches guidance, and half of the work, off; None for the model's default.
            window, overlap: frames that the UNet sees at once, and how many of them two windows share; None for the
                model's default.
            closed_loop: whether windows go on from the end of the video to its beginning (the original).
            group_size, mode, seed: how many frames share a calibrated image, and whose it is: see `PropagationPlan`.
            blocks: "midup" or "full": which self-attentions read the reference; None for the model's default.
            bank_refresh: encode the reference only every so many steps; 1 is exact.
            controlnet_conditioning_scale: weight of the condition.
            eta: of DDIM.
            generator: of the noise, and of eta.
            latents: [1, C, F, h, w], the noise; or, from `first_step` on, what the callback was given before.
            noise_period: the noise repeats after so many frames (the original: 16); None for noise of its own for
                every frame, or what the model was published with.
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
        num_inference_steps = self.steps if num_inference_steps is None else num_inference_steps
        window, overlap = self.window if window is None else window, self.overlap if overlap is None else overlap
        blocks = self.blocks if blocks is None else blocks
        if not 0 <= first_step <= num_inference_steps or first_step % bank_refresh:
            wanted = f"from 0 to {num_inference_steps}, a multiple of bank_refresh ({bank_refresh})"
            raise ValueError(f"first_step must be {wanted}, but is {first_step}")
        if first_step and latents is None:
            raise ValueError("latents must be what the callback was given before first_step, but is None")
        if not isinstance(reference, CalibratedReference):
            reference = self.encode_reference(reference, group_size, mode, seed)
        device, frames = self._execution_device, reference.num_frames
        windows = context_windows(frames, window, overlap, closed_loop)
        if self.max_window is not None and windows.shape[1] > self.max_window:
            raise ValueError(f"window must be at most {self.max_window}, as the motion modules are, but is {window}")
        self._guidance_scale = self.guidance if guidance_scale is None else guidance_scale
        condition = self._follow(condition, reference, controlnet_conditioning_scale, device)
        text = self._text(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, reference, device)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        size = [side // 2 ** (len(self.vae.config.block_out_channels) - 1) for side in reference.size]
        shape = (1, self.vae.config.latent_channels, frames, *size)
        if latents is None:
            latents = self._start(self._noise(shape, noise_period, generator, device), reference)
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
            self.reference_adapter(blocks),
            group_size=group_size,
            mode=mode,
            seed=seed,
            bank_refresh=bank_refresh,
            window=None,
        )
        try:
            state.start(first_step)
            with self._shared(text, blocks):
                latents = self._denoise(
                    latents, text, condition, windows, state, first_step, first_window, predicted, reference,
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
        return AnimationOutput(frames=latents)

    def _denoise(
        self, latents, text, condition, windows, state, first_step, first_window, predicted, reference, options,
        callback, on_sum, on_window,
    ):  # fmt: skip
        timesteps = self.scheduler.timesteps
        total, done = (len(timesteps) - first_step) * len(windows) - first_window, 0
        if predicted is not None:
            predicted = predicted.to(latents.device, torch.float32, copy=True)
        for step, t in enumerate(timesteps[first_step:], first_step):
            model_input = self.scheduler.scale_model_input(latents, t).to(self.unet.dtype)

            # Images of windows done before are encoded in the same batches again: then the rest is the same, bit by bit
            for window in windows[:first_window]:
                with state.covering(window):
                    part = self._batch(model_input[:, :, window], len(text))
                    state.open(part, t, text.repeat_interleave(len(window), 0))

            def predict(window, model_input=model_input, t=t):
                nonlocal done
                with state.covering(window):
                    noise = self._predict(model_input[:, :, window], t, text, condition[window], reference).float()
                done += 1
                if on_window is not None:
                    on_window(done, total)
                return self._guide(noise)

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

    def _noise(self, shape, period, generator, device) -> torch.Tensor:
        frames, period = shape[2], self.noise_period if period is None else period
        if period is not None and (not isinstance(period, int) or period < 1):
            raise ValueError(f"noise_period must be an integer from 1, or None, but is {_checks.describe(period)}")
        period = min(period or frames, frames)
        noise = randn_tensor((*shape[:2], period, *shape[3:]), generator, torch.device(device), torch.float32)
        return noise[:, :, torch.arange(frames, device=noise.device) % period]

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


def check_condition(condition, reference: CalibratedReference, channels: int = 3, name: str = "condition"):
    """A tensor uint8 [F, H, W, 3] or floating [F, channels, H, W], of the reference's frames and size.

    Raises:
        TypeError: for something else than an array or a tensor.
        ValueError: for another shape or dtype.
    """
    if not is_torch(condition) and not isinstance(condition, np.ndarray):
        raise TypeError(f"{name} must be an array or a tensor, but is {_checks.describe(condition)}")
    tensor, frames, size = torch.as_tensor(condition), reference.num_frames, reference.size
    floating = tensor.dtype.is_floating_point
    shape = (frames, channels, *size) if floating else (frames, *size, 3)
    if tuple(tensor.shape) != shape or not (floating or tensor.dtype == torch.uint8):
        raise ValueError(
            f"{name} must be uint8 {[frames, *size, 3]} or floating {[frames, channels, *size]}, but is "
            f"{_checks.describe(condition)}"
        )
    return tensor


def as_light(pictures: torch.Tensor, device, dtype) -> torch.Tensor:
    """Pictures of `check_condition` as [n, channels, H, W] in [0, 1]."""
    pictures = pictures.to(device)
    if pictures.dtype == torch.uint8:
        return pictures.permute(0, 3, 1, 2).to(dtype) / 255
    return pictures.to(dtype)
