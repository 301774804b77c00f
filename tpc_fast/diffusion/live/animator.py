"""Frames in, animated frames out: a diffusion model on a stream, with a window that stands diagonally in noise levels.

The scheme is that of FIFO-Diffusion (Kim et al., NeurIPS 2024), StreamDiffusion (Kodaira et al., 2023) and PersonaLive.
Chunks of frames form a queue. Each chunk is one denoising level ahead of the chunk behind it. One call of the UNet
denoises all chunks by one level, which finishes the first.
"""

import collections
import dataclasses
import functools
import math
import threading

import numpy as np
import torch

from tpc_fast import _checks
from tpc_fast.calibration.stream import CalibratedFrame, Calibrator
from tpc_fast.diffusion.attach import adapter_of, install
from tpc_fast.diffusion.encoder import bare
from tpc_fast.diffusion.live.bank import LiveBank, Photo
from tpc_fast.diffusion.live.frames import LiveFrame, on_canvas, stack_pictures
from tpc_fast.diffusion.live.predict import FrameTimes, model_of
from tpc_fast.diffusion.live.steps import LevelSteps, generator_of
from tpc_fast.diffusion.reference import VaeEncoder
from tpc_fast.diffusion.state import token_grids
from tpc_fast.ops.attention_stream import RegionStream
from tpc_fast.ops.propagation import PropagationStream

OUTPUT_TYPES = ("np", "pt")


@dataclasses.dataclass
class _Chunk:
    """n frames in the window.

    Attributes:
        number: in the stream, from 0.
        count: how many of its frames are asked for; the others fill up the last one.
        slot: of the ring.
        level: how many denoising steps are done.
        latents: [1, C, n, h, w].
        follow: as the model's `predict` takes it.
        images: [P, u, C, h, w], latents of the calibrated images that may represent a group.
        generator: of its noise.
        encoded: for each group, (candidate, level at which it was encoded) in the ring.
    """

    number: int
    count: int
    slot: int
    latents: torch.Tensor
    follow: torch.Tensor | None
    images: torch.Tensor
    generator: torch.Generator
    encoded: list
    level: int = 0


def _in_turn(method):
    """Of calls in several threads one after the other."""

    @functools.wraps(method)
    def alone(self, *args, **options):
        with self._turn:
            return method(self, *args, **options)

    return alone


class LiveAnimator:
    """Animates a photo along a stream of frames; causal, of constant memory, repeatable by its seed.

    Examples:
        >>> calibrator = tpc_fast.Calibrator("photo.png")
        >>> with LiveAnimator(load_pipeline("weights"), calibrator) as live:
        ...     for frame in camera:  # uint8 [H, W, 3] RGB
        ...         frames = live.push(calibrator.step(frame))
        ...         if frames is not None:
        ...             show(frames)  # uint8 [n, H, W, 3]

    Frames are taken `chunk` at a time. With the default lag the window holds `levels` chunks, each at another noise
    level. A full chunk enters at the noisiest level. One call of the UNet denoises all chunks by one level, and the
    oldest chunk leaves the window. The photo is encoded once, or once per level for models whose encoder runs at every
    step. So is one calibrated image for each person and group of frames. Their keys and values stay in a ring buffer
    while their frames are in the window. A frame that comes out never depends on frames that came after its chunk left
    the window. The seed and the number of a chunk decide its noise.

    The pipeline cannot be called otherwise until `close`, which leaves it as it was; use it as a context manager. Calls
    in several threads wait for each other. The photo is read with the weights that there are now: load a LoRA before.

    Args:
        pipe: a pipeline of this library whose self-attentions read the photo (MagicAnimate, AnimateAnyone, Champ,
            MusePose), or an AnimateDiff pipeline of diffusers, with a ControlNet or without.
        photo: the `Calibrator` that frames come from, with its photo, persons and size; or a picture: path, PIL image
            or uint8 [H, W, 3], which is laid onto a canvas of `size`.
        masks: uint8 [P, H, W], the persons of a picture; they go with it only.
        encoder: see `apply_calibration`; AnimateDiff pipelines need a `ReferenceEncoder`.
        chunk: frames that enter and leave at once.
        levels: denoising steps. Few suffice with a model and a scheduler made for it (LCM, TCD).
        window: how many frames the UNet sees at once, a multiple of `chunk`: those that are being denoised, and, as far
            as it is longer, frames that are done, which motion modules go on from. None: the former only.
        lag: how many frames come in between a chunk and its result: `chunk` times a number whose successor divides
            `levels`. With 0 a chunk is denoised at once, alone or with what is done: `levels` calls of the UNet. None:
            `chunk * (levels - 1)`: one call.
        size: (height, width) of the canvas of a picture; None: its own, padded to what the autoencoder takes.
        guidance_scale: 1 or less: none, which is half of the work.
        scheduler: DDIM, LCM or TCD; None: the pipeline's. It is copied.
        eta: how much noise DDIM and TCD add; None: as they do by themselves (0, 0.3).
        vae: a smaller autoencoder (`AutoencoderTiny`) in place of the pipeline's; on the same device.
        group_size: frames that share a calibrated image, a divisor of `chunk`; None: all of a chunk.
        mode, seed: see `PropagationPlan`; the seed is that of the noise, too.
        bank_refresh: images are encoded anew at every so many levels only; 1 is exact. Models whose encoder runs once
            do not ask for it.
        blocks: "midup" or "full": which self-attentions read; None: as the model has it.
        prompt, negative_prompt, prompt_embeds, negative_prompt_embeds: for models that read text.
        controlnet_conditioning_scale: weight of what is followed.
        output_type: "np", or "pt" for tensors on the device.

    Attributes:
        videos: names of the pictures that the model follows.
        size, chunk, levels, window, lag: as above, in frames and pixels.

    Raises:
        TypeError: for a pipeline without a UNetMotionModel, and arguments of other types.
        ValueError: for options out of range, a model that reads its reference otherwise, another scheduler, a size that
            the autoencoder cannot take, and a pipeline that has a calibration already.
    """

    def __init__(
        self, pipe, photo, masks=None, *, encoder=None, chunk: int = 4, levels: int = 4, window: int | None = None,
        lag: int | None = None, size: tuple[int, int] | None = None, guidance_scale: float = 1.0, scheduler=None,
        eta: float | None = None,
        vae=None, group_size: int | None = None, mode: str = "nearest", seed: int = 0, bank_refresh: int = 1,
        blocks: str | None = None, prompt: str = "", negative_prompt: str = "", prompt_embeds=None,
        negative_prompt_embeds=None, controlnet_conditioning_scale: float = 1.0, output_type: str = "np",
    ):  # fmt: skip
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, but is {output_type!r}")
        for name, value in (("chunk", chunk), ("levels", levels), ("bank_refresh", bank_refresh)):
            _check_count(name, value)
        if not isinstance(guidance_scale, int | float) or not math.isfinite(guidance_scale):
            raise ValueError(f"guidance_scale must be a finite number, but is {guidance_scale!r}")
        if vae is not None and not hasattr(vae, "config"):
            raise TypeError(f"vae must be an autoencoder of diffusers, but is {_checks.describe(vae)}")
        self._model = model_of(pipe, controlnet_conditioning_scale, blocks)
        self.videos, self._pipe, self._unet = self._model.videos, pipe, bare(pipe.unet)
        self.chunk, self.levels, self._guidance, self._output = chunk, levels, float(guidance_scale), output_type
        self._set_window(window, lag)
        self._propagation = PropagationStream(_group_size(group_size, chunk), mode, seed)
        self._seed, self._refresh = seed, bank_refresh
        adapter = adapter_of(pipe, self._unet, encoder, blocks)
        if adapter.kind != "kv":
            raise ValueError(
                f"pipe must append the photo to its self-attentions, but {type(pipe).__name__} reads it otherwise"
            )
        self._once = adapter.refresh == "once"
        self._calibrator = photo if isinstance(photo, Calibrator) else None
        self._vae, self._device = VaeEncoder(pipe.vae if vae is None else vae), pipe._execution_device
        scales = [VaeEncoder(pipe.vae).scale, self._vae.scale]
        if scales[0] != scales[1]:
            raise ValueError(f"vae must scale by {scales[0]}, as the pipeline's does, but scales by {scales[1]}")
        self._steps = LevelSteps(pipe.scheduler if scheduler is None else scheduler, levels, self._device, eta)
        with torch.no_grad():
            self._prepare(adapter, photo, masks, size, (prompt, negative_prompt),
                          (prompt_embeds, negative_prompt_embeds))  # fmt: skip
        self._remove, self._turn = install(adapter, self._bank), threading.RLock()
        self._times = FrameTimes(self._unet)
        self.reset()

    def _set_window(self, window, lag) -> None:
        """How many chunks there are of what kind, and how many calls a push makes."""
        chunk, levels = self.chunk, self.levels
        self.lag = chunk * (levels - 1) if lag is None else lag
        possible = [chunk * (n - 1) for n in range(1, levels + 1) if levels % n == 0]
        if self.lag not in possible or isinstance(lag, bool):
            raise ValueError(
                f"lag must be one of {', '.join(map(str, possible))} with a chunk of {chunk} frames and {levels} "
                f"levels, but is {lag!r}"
            )
        self._active = self.lag // chunk + 1
        self._calls = levels // self._active
        least, longest = chunk * self._active, self._unet.config.motion_max_seq_length
        self.window = least if window is None else window
        whole = isinstance(self.window, int) and not isinstance(self.window, bool)
        if not whole or self.window % chunk or not least <= self.window <= longest:
            raise ValueError(
                f"window must be a multiple of {chunk} from {least}, which are denoised at once, to {longest}, which "
                f"motion modules take, but is {self.window!r}"
            )
        self._done_kept = self.window // chunk - self._active

    def _prepare(self, adapter, photo, masks, size, prompts, embeds) -> None:
        """The photo: on the canvas, in the bank."""
        image, masks, valid, self.size = on_canvas(photo, masks, size, self._vae.scale)
        adapter.canvas(self.size)
        self.persons = len(masks)
        latent = self._encode(torch.tensor(image)[None])
        valid = torch.from_numpy(valid).to(self._device)
        self._photo = Photo(latent, torch.tensor(masks).to(self._device), valid)
        extras = adapter.photo(image, masks)
        self._text = self._model.text(self._guidance, extras, prompts, embeds)
        groups, slots = self.chunk // self._propagation.group_size, self.window // self.chunk
        self._groups, self._candidates = groups, len(self._propagation.candidates)
        encoded_at = [0] if self._once else list(range(0, self.levels, self._refresh))
        self._photo_rows = {level: row for row, level in enumerate(encoded_at)}
        self._bank = LiveBank(adapter, self._photo, self._text[-1:], len(encoded_at) + slots * groups * self.persons)
        for level, row in self._photo_rows.items():
            self._bank.write(latent, self._steps.timesteps[level], [row])
        grids = list(token_grids(latent.shape[-2:]).values())[: len(self._unet.down_blocks)]
        self._regions = RegionStream(
            self._photo.masks, grids, slots, self.chunk, groups * self._candidates, self._photo.valid
        )
        self._photo_seen = self._photo.masks.clone()  # what stands in for a calibrated image in which nobody is
        self._photo_seen[self._photo_seen.flatten(1).amax(1) == 0] = 255  # nobody is marked: all of it

    # The stream

    @_in_turn
    def reset(self) -> None:
        """Forgets all frames: the next one begins a new stream, with the noise of the first."""
        self._waiting: list[LiveFrame] = []
        self._chunks: collections.deque[_Chunk] = collections.deque()  # the oldest first
        self._number = 0

    @_in_turn
    def close(self) -> None:
        """Leaves the pipeline as it was; again and again is the same."""
        if self._remove is not None:
            self._remove()
            self._times.remove()
            self._remove = None

    def __enter__(self) -> "LiveAnimator":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @_in_turn
    @torch.no_grad()
    def push(self, frame, pose_masks=None, calibrated=None, masks=None, *, pose=None):
        """Takes a frame; returns the chunk that is done, or None.

        Args:
            frame: a `CalibratedFrame` of `Calibrator.step`; None, which that returns while it lags, does nothing. Or
                the picture that the model follows at this frame, on the canvas: uint8 [H, W, 3], or floating [3, H, W]
                in [0, 1]; name -> picture for a model that follows several; None for one that follows none.
            pose_masks: uint8 [P, H, W], where the driving persons are.
            calibrated: uint8 [P, H, W, 3], or floating [P, 3, H, W] in [-1, 1]: the calibrated images.
            masks: uint8 [P, H, W], the persons in them. Where one is empty, the photo itself is read.
                Masks may be bool, or floating in [0, 1]; all may be arrays or tensors.
            pose: with a CalibratedFrame: the picture, or pictures, that the model follows.

        Returns:
            uint8 [chunk, H, W, 3], the frames from `lag` + `chunk` - 1 frames before this one on; or None.

        Raises:
            TypeError, ValueError: for arguments that do not fit. After these, and any other error, the stream goes on
                as if this frame had not come; after an error in the model it begins anew.
            RuntimeError: after `close`.
        """
        if self._remove is None:
            raise RuntimeError("the LiveAnimator is closed")
        if frame is None and pose_masks is None and pose is None:
            return None
        if isinstance(frame, CalibratedFrame):
            given = pose_masks, calibrated, masks
            if any(part is not None for part in given):
                raise TypeError(
                    "pose_masks, calibrated and masks must be left out with a CalibratedFrame, which has them"
                )
            frame, pose_masks, calibrated, masks = pose, frame.pose_mask, frame.image, frame.mask
        elif pose is not None:
            raise TypeError("pose must be left out without a CalibratedFrame: it is the first argument")
        canvas = None if self._calibrator is None else self._calibrator.canvas
        if self._waiting and canvas != self._waiting[0].canvas:
            raise ValueError(
                "frame must lie on its canvas as those before it do, but the Calibrator began a video of another size: "
                "flush() or reset() where it does"
            )
        self._waiting.append(
            LiveFrame.checked(frame, pose_masks, calibrated, masks, self.videos, self.persons, self.size, canvas)
        )
        if len(self._waiting) < self.chunk:
            return None
        return self._run(self._enter)

    @_in_turn
    @torch.no_grad()
    def flush(self):
        """The frames that are still in the window, at the end of a stream; the next one begins a new stream.

        A last chunk that is not full is filled up with its last frame.

        Returns:
            uint8 [n, H, W, 3], or None if there is nothing.
        """
        if self._remove is None:
            raise RuntimeError("the LiveAnimator is closed")
        done = []
        try:
            if self._waiting:
                count = len(self._waiting)
                self._waiting += [self._waiting[-1]] * (self.chunk - count)
                done.append(self._run(lambda: self._enter(count)))
            while any(chunk.level < self.levels for chunk in self._chunks):
                done.append(self._run(lambda: None))
        finally:
            self.reset()
        done = [frames for frames in done if frames is not None]
        if not done:
            return None
        return torch.cat(done) if self._output == "pt" else np.concatenate(done)

    def _run(self, enter):
        """A push of a chunk, or none: frames that leave."""
        try:
            enter()
            for _ in range(self._calls):
                self._denoise()
            return self._leave()
        except BaseException:
            self.reset()  # half of a push may be done
            raise
        finally:
            self._bank.end()

    def _enter(self, count: int | None = None) -> None:
        """The frames that wait become a chunk at the noisiest level."""
        frames, slot = self._waiting, self._number % (self.window // self.chunk)
        self._waiting = []
        drawn = [
            frames[group * self._propagation.group_size + candidate]
            for group in range(self._groups)
            for candidate in self._propagation.candidates
        ]
        images = torch.stack([self._pixels(frame.images) for frame in drawn], 1).flatten(0, 1)
        images = self._encode(images).unflatten(0, (self.persons, len(drawn)))
        pose = torch.stack([frame.pose_masks for frame in frames], 1).to(self._device)
        masks = torch.stack([frame.masks for frame in drawn], 1).to(self._device)
        empty = (masks.flatten(2).amax(2) == 0)[..., None, None]
        masks = torch.where(empty, self._photo_seen[:, None], masks)
        images = torch.where(empty[..., None], self._photo.latent, images)
        valid = None
        if frames[0].canvas is not None:
            valid = torch.from_numpy(frames[0].canvas.valid_mask()).to(self._device)
        self._regions.write(slot, pose, masks, valid)
        follow = None
        if self.videos:
            follow = self._model.follow(
                stack_pictures([frame.pose for frame in frames], self.videos, self.size), self.size
            )
        generator = generator_of(self._seed, self._number)
        latents = self._steps.noise(
            (1, self._photo.latent.shape[1], self.chunk, *self._photo.latent.shape[2:]), generator
        )
        self._chunks.append(
            _Chunk(
                number=self._number,
                count=self.chunk if count is None else count,
                slot=slot,
                latents=latents,
                follow=follow,
                images=images,
                generator=generator,
                encoded=[None] * self._groups,
            )
        )
        self._number += 1

    def _denoise(self) -> None:
        """One call of the UNet: every chunk that is not done gets one level further."""
        if bare(self._pipe.unet) is not self._unet:
            raise RuntimeError(
                "pipe.unet was replaced after the LiveAnimator was made, and the new one does not read the photo: "
                "close() this one and make another"
            )
        chunks, steps = list(self._chunks), self._steps
        self._refresh_bank(chunks)
        frames, text = self.chunk * len(chunks), self._text
        cond = slice(frames * (len(text) - 1), frames * len(text))
        self._bank.reading(self._select(chunks), cond)
        latents = torch.cat([chunk.latents for chunk in chunks], 2)
        clean = torch.zeros((), dtype=steps.timesteps.dtype, device=self._device)
        times = torch.stack([clean if c.level == self.levels else steps.timesteps[c.level] for c in chunks])
        times = times.repeat_interleave(self.chunk, output_size=frames)
        follow = torch.cat([chunk.follow for chunk in chunks]) if self.videos else None
        noise = self._model.predict(latents.to(self._unet.dtype), times, text, follow).float()
        if len(noise) > 1:
            unconditional, conditional = noise.chunk(2)
            noise = unconditional + self._guidance * (conditional - unconditional)
        for chunk, part in zip(chunks, noise.split(self.chunk, 2), strict=True):
            if chunk.level < self.levels:
                chunk.latents = steps.step(part, chunk.level, chunk.latents, chunk.generator)
                chunk.level += 1

    def _leave(self):
        """The frames of the chunk that has just become done, decoded."""
        oldest = [chunk for chunk in self._chunks if chunk.level == self.levels][-1:]
        if not oldest or oldest[0].count == 0:
            return None
        chunk = oldest[0]
        images = self._vae.decode(chunk.latents[0].transpose(0, 1)[: chunk.count])
        chunk.count = 0  # it has left; what stays of it is for the motion modules
        while sum(c.level == self.levels for c in self._chunks) > self._done_kept:
            self._chunks.popleft()
        return images if self._output == "pt" else images.cpu().numpy()

    # The ring

    def _encoded_level(self, chunk: _Chunk) -> int:
        """At which level the images that it reads now are encoded: all of a bank at one, as in a pipeline."""
        level = min(chunk.level, self.levels - 1)
        return level - level % self._refresh

    def _representatives(self, chunk: _Chunk) -> list[int]:
        """For each group, which of its candidates is read at this level."""
        level, first = self._encoded_level(chunk), chunk.number * self._groups
        return [self._propagation.representative(first + group, level) for group in range(self._groups)]

    def _row(self, slot: int, group: int, person: int) -> int:
        return len(self._photo_rows) + (slot * self._groups + group) * self.persons + person

    def _refresh_bank(self, chunks) -> None:
        """Encodes what the chunks read now and the ring does not hold yet, all at once."""
        latents, levels, rows = [], [], []
        for chunk in chunks:
            level = self._encoded_level(chunk)
            for group, candidate in enumerate(self._representatives(chunk)):
                encoded = candidate, 0 if self._once else level
                if chunk.encoded[group] != encoded:
                    chunk.encoded[group] = encoded
                    latents.append(chunk.images[:, group * self._candidates + candidate])
                    levels += [level] * self.persons
                    rows += [self._row(chunk.slot, group, person) for person in range(self.persons)]
        if rows:
            self._bank.write(torch.cat(latents), self._steps.timesteps[levels], rows)

    def _select(self, chunks):
        """Which image every frame reads."""
        groups = np.arange(self.chunk) // self._propagation.group_size
        drawn = np.array([self._representatives(chunk) for chunk in chunks])
        candidates = groups * self._candidates + drawn[:, groups]
        slots = np.array([chunk.slot for chunk in chunks])
        persons = np.arange(self.persons)[:, None, None]
        rows = self._row(slots[None, :, None], groups[None, None], persons)
        photo = [self._photo_rows[0 if self._once else self._encoded_level(chunk)] for chunk in chunks]
        photo = np.repeat(np.array(photo)[:, None], self.chunk, 1)
        return self._regions.select(slots, candidates, rows, photo)

    # Pictures

    def _pixels(self, images: torch.Tensor) -> torch.Tensor:
        """[n, 3, H, W] in [-1, 1], of the autoencoder's dtype, from what `push` takes."""
        vae = self._vae.vae
        images = images.to(vae.device)
        if images.dtype == torch.uint8:
            return images.permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
        return images.to(vae.dtype)

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents [n, C, h, w] of pictures, or of their pixels."""
        return self._vae.encode(self._pixels(images)).to(self._device)


def _check_count(name, value) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, but is {value!r}")


def _group_size(group_size, chunk: int) -> int:
    if group_size is None:
        return chunk
    _check_count("group_size", group_size)
    if chunk % group_size:
        raise ValueError(f"group_size must divide chunk ({chunk}), but is {group_size}")
    return group_size
