"""The loop that all models here share: windows, guidance, steps, decoding; a model says what it predicts from what."""

import contextlib
import dataclasses
import functools
import inspect
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from tpc_fast import _checks
from tpc_fast._checks import renamed
from tpc_fast._dispatch import is_torch
from tpc_fast.calibration.result import Calibration
from tpc_fast.diffusion.attach import apply_calibration, remove_calibration
from tpc_fast.diffusion.composite import composite_background
from tpc_fast.diffusion.encoder import bare
from tpc_fast.diffusion.models.load import Published
from tpc_fast.diffusion.models.registry import refuse_options
from tpc_fast.diffusion.models.saved import is_saved, save
from tpc_fast.diffusion.models.saved import load as load_saved
from tpc_fast.diffusion.reference import CalibratedReference, decode_latents
from tpc_fast.diffusion.windows import context_windows, predict_windows
from tpc_fast.media.files import CALIBRATION_FILE
from tpc_fast.ops.propagation import GROUP_SIZE, MODE, PropagationPlan

OUTPUT_TYPES = ("np", "pt", "pil", "latent")


@dataclasses.dataclass
class AnimationOutput(BaseOutput):
    """What a pipeline returns.

    Attributes:
        frames: uint8 [F, H, W, 3], an array or a tensor; or F pictures of PIL; or latents [1, C, F, h, w] for
            `output_type="latent"`.
    """

    frames: np.ndarray | torch.Tensor | list


_used: list = []  # what calls that run keep their state in
_using = threading.Lock()


def _one_at_a_time(call):
    """Refuses calls that would share state with one that runs: they would disturb each other without a word."""

    @functools.wraps(call)
    def alone(self, *args, **options):
        parts = {"pipeline": self, "UNet": bare(self.unet), "scheduler": self.scheduler}
        with _using:
            for name, part in parts.items():
                if any(part is other for other in _used):
                    raise RuntimeError(
                        f"the {name} of the {type(self).__name__} is in use by a call that is still running: wait for "
                        f"that, or give this one a {name} of its own"
                    )
            _used.extend(parts.values())
        try:
            return call(self, *args, **options)
        finally:
            with _using:
                for part in parts.values():
                    del _used[next(i for i, other in enumerate(_used) if other is part)]

    return alone


class AnimationPipeline(Published, DiffusionPipeline):
    """Animates a calibrated reference along a video that says how it moves. Subclasses are models.

    Attributes:
        kind: the key of its record in the registry.
        videos: names of the videos that it follows; `pose_video` is one, or a dict of several.
        steps, guidance, window, overlap, closed_loop, noise_period, blocks: defaults, those of the published code.
        whole_windows: whether the last frame is repeated until windows fill the video exactly; the repetitions are cut
            off again.
        max_window: frames that it takes at once; None if they do not know of each other.
    """

    videos = ("pose",)
    steps, guidance, window, overlap, noise_period, blocks = 25, 7.5, 16, 4, None, "midup"
    closed_loop = whole_windows = False
    max_window = None

    # What a model says

    def reference_adapter(self, blocks: str | None = None):
        """How this model takes a reference: a `ReferenceAdapter`."""
        raise NotImplementedError

    def _follow(self, pose_video, reference: CalibratedReference, scale: float, device) -> torch.Tensor:
        """Checks the driving pictures; one entry per frame of what `_predict` wants of them."""
        raise NotImplementedError

    def _text(self, prompt, negative_prompt, embeds, negative_embeds, reference, device) -> torch.Tensor:
        """[parts, tokens, channels]: what cross-attentions get in every part of a guided batch."""
        raise NotImplementedError

    def _batch(self, part: torch.Tensor, parts: int) -> torch.Tensor:
        """A window [1, C, n, h, w] as the UNet takes it, for all parts of the guidance."""
        return torch.cat([part] * parts)

    def _of_window(self, follow, model_input, t, text, windows, last: int) -> Callable[[int], object]:
        """What `_predict` gets of `follow` at a step, from the number of the window; they come in their order.

        Frames after the last are repetitions of it.
        """
        return lambda number: follow[windows[number].clip(max=last)]

    def _predict(self, part, t, text, follow, reference) -> torch.Tensor:
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
        self._guidance_scale, self._interrupt = self.guidance, False

    @classmethod
    def part_names(cls) -> list[str]:
        """Names of the parts that a pipeline is made of, in the order of its arguments."""
        return list(inspect.signature(cls.__init__).parameters)[1:]

    @classmethod
    def from_pretrained(cls, model, base=None, vae=None, torch_dtype=None):
        """Loads the published files, see `Published.from_pretrained`, or a folder that `save_pretrained` wrote.

        Raises:
            ValueError: besides, for `base` or `vae` with a saved folder, which has all parts.
        """
        if not isinstance(model, str | os.PathLike) or not is_saved(model):
            return super().from_pretrained(model, base, vae, torch_dtype)
        for name, value in (("base", base), ("vae", vae)):
            if value is not None:
                raise ValueError(f"{name} must be left out: {model} was saved with all its parts, but is {value!r}")
        return cls(**load_saved(cls, Path(model), torch_dtype or torch.float32))

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes all parts to a new folder, which `from_pretrained` and `load_pipeline` load again.

        A calibration that is attached is not saved; weights keep their dtype.

        Raises:
            FileExistsError: if there is something at the place.
            TypeError: for a part of a class that could not be loaded again.
        """
        save(self, folder)

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
        self, calibration, group_size: int = GROUP_SIZE, mode: str = MODE, seed: int = 0, batch_size: int = 8
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

    @renamed(condition="pose_video")
    @_one_at_a_time
    @torch.no_grad()
    def __call__(
        self, reference, pose_video, prompt: str = "", negative_prompt: str = "",
        num_inference_steps: int | None = None, guidance_scale: float | tuple | None = None, *,
        window: int | None = None, overlap: int | None = None, closed_loop: bool | None = None,
        group_size: int = GROUP_SIZE, mode: str = MODE, blocks: str | None = None, seed: int = 0, bank_refresh: int = 1,
        strength: float = 1.0, start_step: int = 0, end_step: int | None = None,
        controlnet_conditioning_scale: float = 1.0, eta: float = 0.0, generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None, noise_period: int | None = None, first_step: int = 0,
        first_window: int = 0, predicted: torch.Tensor | None = None, prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None, background=None, dilate: int = 0, output_type: str = "np",
        decode_chunk_size: int = 8, callback_on_step_end: Callable | None = None,
        callback_on_window_end: Callable | None = None, on_window: Callable | None = None, return_dict: bool = True,
    ) -> AnimationOutput:  # fmt: skip
        """Makes a video.

        Args:
            reference: a `CalibratedReference`; or what `encode_reference` takes.
            pose_video: the video that is followed, one picture per frame and of the reference's size: uint8
                [F, H, W, 3], or floating [F, 3, H, W] in [0, 1]; of what, the model says.
            prompt, negative_prompt: for models that read text.
            num_inference_steps: denoising steps; None here and below: the model's default.
            guidance_scale: 1 or less switches guidance, and half of the work, off.
            window, overlap: frames that the UNet sees at once, and how many of them two windows share.
            closed_loop: whether windows go on from the end of the video to its beginning.
            group_size, mode, seed: how many frames share a calibrated image, and whose it is: see `PropagationPlan`.
                The seed is that of the noise, too, where no generator is given.
            blocks: "midup" or "full": which self-attentions read the reference.
            bank_refresh: encode the reference only every so many steps; 1 is exact.
            strength, start_step, end_step: how much the reference counts, and at which steps it is read: see
                `apply_calibration`.
            controlnet_conditioning_scale: weight of the pose video; eta: of DDIM.
            generator: of the noise, and of what the scheduler draws.
            latents: [1, C, F, h, w], noise of variance 1; where a run goes on, what the callback was given before.
            noise_period: the noise repeats after so many frames; 0: never.
            first_step: how many steps were done before. Exact for schedulers that keep nothing between steps, as DDIM.
            first_window, predicted: how many windows of that step were done before, and what the callback was given
                after them.
            prompt_embeds, negative_prompt_embeds: [1, tokens, channels], instead of the prompts.
            background: a picture uint8 [H, W, 3], shown outside of the pose masks; None: all is generated.
            dilate: by how many pixels the masks grow before: see `composite_background`.
            output_type: "np", "pt", "pil", or "latent" for what the denoising leaves, undecoded.
            decode_chunk_size: frames that are decoded at once.
            callback_on_step_end: called as `callback(pipe, step, timestep, {"latents": latents})`.
            callback_on_window_end: called as `callback(pipe, step, done, {"latents": latents, "predicted": sum})` after
                each window of a step but the last, with the latents before the step.
            on_window: called as `on_window(done, total)` after each window. return_dict: False: the frames in a tuple.

        Raises:
            ValueError: for options out of range, and a pose video, latents or background of another shape than the
                reference asks for.
            RuntimeError: while another call uses the pipeline, its UNet or its scheduler, in another thread or a
                callback.
        """
        refuse_options(self.kind, blocks=blocks, closed_loop=closed_loop, noise_period=noise_period)
        _check_output(output_type)
        steps = self.steps if num_inference_steps is None else num_inference_steps
        _check_start(steps, first_step, bank_refresh, latents)
        if not isinstance(reference, CalibratedReference):
            reference = self.encode_reference(reference, group_size, mode, seed)
        device, blocks = self._execution_device, self.blocks if blocks is None else blocks
        windows = self._windows(reference.num_frames, window, overlap, closed_loop)
        self._guidance_scale, self._interrupt = self.guidance if guidance_scale is None else guidance_scale, False
        follow = self._follow(pose_video, reference, controlnet_conditioning_scale, device)
        text = self._text(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, reference, device)
        self.scheduler.set_timesteps(steps, device=device)
        generator = torch.Generator().manual_seed(seed) if generator is None else generator
        options = _step_options(self.scheduler, eta, generator)
        begun = first_step or first_window
        latents = self._latents(latents, reference, int(windows.max()) + 1, noise_period, generator, begun)
        _check_place(first_window, len(windows) if first_step < steps else 1, predicted, latents)
        attached = dict(group_size=group_size, mode=mode, seed=seed, bank_refresh=bank_refresh, strength=strength,
                        start_step=start_step, end_step=end_step)  # fmt: skip
        with self._calibrated(reference, blocks, first_step, attached) as state, self._shared(text, blocks):
            latents = self._denoise(
                latents, text, follow, windows, state, first_step, first_window, predicted, reference, options,
                callback_on_step_end, callback_on_window_end, on_window,
            )  # fmt: skip
        latents = latents[:, :, : reference.num_frames]
        frames = self._output(latents, reference, background, dilate, output_type, decode_chunk_size)
        return AnimationOutput(frames=frames) if return_dict else (frames,)

    @contextlib.contextmanager
    def _calibrated(self, reference, blocks, first_step: int, attached: dict):
        """The state of a reference that the UNet reads from its step `first_step` on, until the block is left."""
        state = apply_calibration(self, reference, self.reference_adapter(blocks), window=None, **attached)
        try:
            state.start(first_step)
            yield state
        finally:
            remove_calibration(self)

    def _windows(self, frames: int, window, overlap, closed_loop) -> np.ndarray:
        """The context windows; None is the model's own. With `whole_windows` they may go beyond the last frame."""
        window, overlap = self.window if window is None else window, self.overlap if overlap is None else overlap
        closed_loop = self.closed_loop if closed_loop is None else closed_loop
        context_windows(frames, window, overlap, closed_loop)  # checks them
        if self.whole_windows:
            frames += -(frames - window) % (window - overlap)
        windows = context_windows(frames, window, overlap, closed_loop)
        if self.max_window is not None and windows.shape[1] > self.max_window:
            raise ValueError(f"window must be at most {self.max_window}, as the motion modules are, but is {window}")
        return windows

    def _latents(self, given, reference, frames, noise_period, generator, going_on) -> torch.Tensor:
        """What denoising goes on from: noise, drawn or given, as the scheduler begins with it; or what it left."""
        size = [side // 2 ** (len(self.vae.config.block_out_channels) - 1) for side in reference.size]
        shape, device = (1, self.vae.config.latent_channels, frames, *size), self._execution_device
        if given is not None and not going_on and given.shape[2:3] == (reference.num_frames,):
            given = given[:, :, np.arange(frames).clip(max=reference.num_frames - 1)]
        if given is not None and tuple(given.shape) != shape:
            raise ValueError(f"latents must be {list(shape)}, but is {_checks.describe(given)}")
        if not going_on or given is None:
            noise = self._noise(shape, noise_period, generator, device) if given is None else given
            given = self._start(noise.to(device, torch.float32), reference)
        return given.to(device, torch.float32)

    def _output(self, latents, reference, background, dilate, output_type: str, chunk_size: int):
        """Latents as the caller wants to have them."""
        if output_type != "latent":
            chunks = self.decode(latents, chunk_size)
            if background is not None:
                chunks = self._composited(chunks, reference, background, dilate)
            latents = torch.cat(list(chunks))
            if output_type != "pt":
                latents = latents.cpu().numpy()
            if output_type == "pil":
                latents = [Image.fromarray(frame) for frame in latents]
        self.maybe_free_model_hooks()
        return latents

    @property
    def interrupt(self) -> bool:
        """Whether the run is to end after this step; a callback sets `_interrupt`, as with diffusers' pipelines."""
        return self._interrupt

    def _denoise(
        self, latents, text, follow, windows, state, first_step, first_window, predicted, reference, options,
        callback, on_sum, on_window,
    ):  # fmt: skip
        timesteps = self.scheduler.timesteps
        total, done = (len(timesteps) - first_step) * len(windows) - first_window, 0
        last = reference.num_frames - 1
        if predicted is not None:
            predicted = predicted.to(latents.device, torch.float32, copy=True)
        for step, t in enumerate(timesteps[first_step:], first_step):
            if self.interrupt:
                break
            model_input = self.scheduler.scale_model_input(latents, t).to(self.unet.dtype)
            self._encode_again(model_input, t, text, windows[:first_window], state)
            numbers = itertools.count(first_window)
            of_window = self._of_window(follow, model_input, t, text, windows, last)

            def predict(window, model_input=model_input, t=t, numbers=numbers, of_window=of_window):
                nonlocal done
                part = model_input[:, :, window]
                with state.covering(window.clip(max=last)):
                    noise = self._predict(part, t, text, of_window(next(numbers)), reference).float()
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

    def _encode_again(self, model_input, t, text, windows, state):
        """Images of windows done before, in the same batches: then the rest of the step is the same, bit by bit."""
        for window in windows:
            with state.covering(window.clip(max=state.plan.num_frames - 1)):
                part = self._batch(model_input[:, :, window], len(text))
                state.open(part, t, text.repeat_interleave(len(window), 0))

    def _noise(self, shape, period, generator, device) -> torch.Tensor:
        frames, period = shape[2], self.noise_period if period is None else period
        if period is not None and (not isinstance(period, int) or period < 0):
            raise ValueError(f"noise_period must be an integer from 0, or None, but is {_checks.describe(period)}")
        period = min(period or frames, frames)
        noise = randn_tensor((*shape[:2], period, *shape[3:]), generator, torch.device(device), torch.float32)
        return noise[:, :, torch.arange(frames, device=noise.device) % period]

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, chunk_size: int = 8) -> Iterator[torch.Tensor]:
        """Decodes latents [1, C, F, h, w], some frames at a time: uint8 [n, H, W, 3] on the device of the decoder."""
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, but is {chunk_size}")
        for part in latents[0].transpose(0, 1).split(chunk_size):
            yield decode_latents(self.vae, part, self._execution_device)

    def _composited(self, chunks, reference, background, dilate):
        background, start = torch.as_tensor(background), 0
        for chunk in chunks:
            masks = reference.pose_masks[:, start : start + len(chunk)].transpose(0, 1).to(chunk.device)
            yield composite_background(chunk, masks, background.to(chunk.device), dilate)
            start += len(chunk)


def _check_output(output_type) -> None:
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, but is {output_type!r}")


def _check_start(steps: int, first_step: int, bank_refresh: int, latents) -> None:
    if isinstance(bank_refresh, bool) or not isinstance(bank_refresh, int) or bank_refresh < 1:
        raise ValueError(f"bank_refresh must be an integer of at least 1, but is {bank_refresh!r}")
    if not 0 <= first_step <= steps or first_step % bank_refresh:
        wanted = f"from 0 to {steps}, a multiple of bank_refresh ({bank_refresh})"
        raise ValueError(f"first_step must be {wanted}, but is {first_step}")
    if first_step and latents is None:
        raise ValueError("latents must be what the callback was given before first_step, but is None")


def _check_place(first_window: int, windows: int, predicted, latents) -> None:
    if not 0 <= first_window < windows:
        raise ValueError(f"first_window must be from 0 to {windows - 1}, but is {first_window}")
    if bool(first_window) != (predicted is not None) or (first_window and predicted.shape != latents.shape):
        wanted = list(latents.shape) if first_window else "None without a first_window"
        raise ValueError(f"predicted must be {wanted}, but is {_checks.describe(predicted)}")


def _step_options(scheduler, eta: float, generator: torch.Generator) -> dict:
    """What of these the scheduler's steps take: generator where they draw noise, as LCM, TCD and ancestral ones do."""
    names = inspect.signature(scheduler.step).parameters
    if eta and "eta" not in names:
        raise ValueError(f"eta must be 0 with {type(scheduler).__name__}, which has none, but is {eta}")
    return {name: value for name, value in (("eta", eta), ("generator", generator)) if name in names}


def check_pose_video(pose_video, reference: CalibratedReference, channels: int = 3, name: str = "pose_video"):
    """A tensor uint8 [F, H, W, 3] or floating [F, channels, H, W], of the reference's frames and size.

    Raises:
        TypeError: for something else than an array or a tensor.
        ValueError: for another shape or dtype.
    """
    if not is_torch(pose_video) and not isinstance(pose_video, np.ndarray):
        raise TypeError(f"{name} must be an array or a tensor, but is {_checks.describe(pose_video)}")
    tensor, frames, size = torch.as_tensor(pose_video), reference.num_frames, reference.size
    floating = tensor.dtype.is_floating_point
    shape = (frames, channels, *size) if floating else (frames, *size, 3)
    if tuple(tensor.shape) != shape or not (floating or tensor.dtype == torch.uint8):
        raise ValueError(
            f"{name} must be uint8 {[frames, *size, 3]} or floating {[frames, channels, *size]}, but is "
            f"{_checks.describe(pose_video)}"
        )
    return tensor


def as_light(pictures: torch.Tensor, device, dtype) -> torch.Tensor:
    """Pictures of `check_pose_video` as [n, channels, H, W] in [0, 1]."""
    pictures = pictures.to(device)
    if pictures.dtype == torch.uint8:
        return pictures.permute(0, 3, 1, 2).to(dtype) / 255
    return pictures.to(dtype)
