"""What a model predicts of frames that stand at different timesteps; unmodified UNets take one timestep for a video."""

import inspect
from typing import NamedTuple

import torch
from diffusers import ControlNetModel, UNetMotionModel

from tpc_fast.diffusion.models.control import condition_features, encoded_conditions
from tpc_fast.diffusion.pipeline import AnimationPipeline

_FORWARD = tuple(inspect.signature(UNetMotionModel.forward).parameters)[1:]


class FrameTimes:
    """Gives each frame of a UNetMotionModel a timestep of its own, if it is called with [n] of them for n frames.

    By torch's forward hooks: one in front of the UNet, which goes on with a single timestep, and one in front of each
    of its blocks, which replaces the embedding of that by those of the frames. Other calls are as before; but not in
    another thread at the same time: make it after the hook that refuses those.
    """

    def __init__(self, unet: UNetMotionModel):
        self._unet, self._times, self._embedded = unet, None, None
        blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
        self._handles = [
            unet.register_forward_pre_hook(self._before, with_kwargs=True),
            *(block.register_forward_pre_hook(self._embed, with_kwargs=True) for block in blocks if block is not None),
        ]

    def remove(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()

    def __reduce__(self):
        return _no_times, ()  # of a copy of the model

    def _before(self, unet, args, kwargs):
        named = dict(zip(_FORWARD, args, strict=False)) | kwargs
        times = named.get("timestep")
        self._times = self._embedded = None
        if self._unet is None or not torch.is_tensor(times) or times.ndim != 1:
            return None
        batch, _, frames = named["sample"].shape[:3]
        if len(times) != frames:
            return None
        self._times = times.repeat(batch)
        return (), named | {"timestep": times[0]}

    def _embed(self, block, args, kwargs):
        if self._times is None:
            return None
        if self._embedded is None:  # here the weights are where they are needed, offloaded or not
            unet, times = self._unet, self._times
            self._embedded = unet.time_embedding(unet.time_proj(times).to(unet.dtype))
        if "temb" in kwargs:
            return args, kwargs | {"temb": self._embedded}
        return (args[0], self._embedded, *args[2:]), kwargs


def _no_times() -> FrameTimes:
    none = FrameTimes.__new__(FrameTimes)
    none._unet, none._times, none._handles = None, None, []
    return none


class ChunkShape(NamedTuple):
    """As much of a `CalibratedReference` as pipelines ask when they look at what is followed."""

    num_frames: int
    size: tuple[int, int]
    extras: dict


class OwnModel:
    """A pipeline of this library.

    Args:
        pipe: an `AnimationPipeline`.
        options: scale: of what is followed; blocks: that read.
    """

    def __init__(self, pipe: AnimationPipeline, scale: float, blocks: str | None):
        self.pipe, self._scale, self._blocks = pipe, scale, blocks or pipe.blocks
        self.videos = pipe.videos

    def text(self, guidance, extras, prompts, embeds) -> torch.Tensor:
        """[1 or 2, tokens, channels]: the unconditional part if there is guidance, the conditional one."""
        pipe = self.pipe
        before, pipe._guidance_scale = pipe._guidance_scale, guidance
        try:
            shape = ChunkShape(1, (1, 1), extras)
            return pipe._text(*prompts, *embeds, shape, pipe._execution_device)
        finally:
            pipe._guidance_scale = before

    def follow(self, pictures: dict, size) -> torch.Tensor:
        """Pictures that are followed, name -> [n, ...], as `predict` takes them: [n, ...] on the device."""
        device, count = self.pipe._execution_device, len(next(iter(pictures.values())))
        followed = pictures if len(self.videos) > 1 else pictures[self.videos[0]]
        return self.pipe._follow(followed, ChunkShape(count, size, {}), self._scale, device).to(device)

    def predict(self, latents, times, text, follow) -> torch.Tensor:
        """[parts, C, n, h, w] of latents [1, C, n, h, w] at timesteps [n]."""
        pipe = self.pipe
        with pipe._shared(text, self._blocks):
            return pipe._predict(latents, times, text, follow, None)


class AnimateDiffModel:
    """A pipeline of diffusers with a UNetMotionModel, with a ControlNet or without."""

    def __init__(self, pipe, scale: float, blocks: str | None):
        self.pipe, self._scale = pipe, scale
        self._controlnet = getattr(pipe, "controlnet", None)
        if self._controlnet is not None and not isinstance(self._controlnet, ControlNetModel):
            raise TypeError(f"pipe must have one ControlNetModel, but has a {type(self._controlnet).__name__}")
        self.videos = () if self._controlnet is None else ("pose",)

    def text(self, guidance, extras, prompts, embeds) -> torch.Tensor:
        """As of `OwnModel`."""
        prompt, negative = prompts if embeds[0] is None else (None, None)
        positive, negative = self.pipe.encode_prompt(
            prompt, self.pipe._execution_device, 1, guidance > 1, negative,
            prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1],
        )  # fmt: skip
        return torch.cat([negative, positive] if guidance > 1 else [positive]).to(self.pipe.unet.dtype)

    def follow(self, pictures: dict, size) -> torch.Tensor | None:
        """As of `OwnModel`; None without a ControlNet."""
        if self._controlnet is None:
            return None
        return condition_features(self._controlnet, torch.as_tensor(pictures["pose"]), self.pipe._execution_device)

    def predict(self, latents, times, text, follow) -> torch.Tensor:
        """As of `OwnModel`."""
        unet, parts, frames = self.pipe.unet, len(text), latents.shape[2]
        text, batch, residuals = text.repeat_interleave(frames, 0), torch.cat([latents] * parts), {}
        if follow is not None:
            pictures = batch.transpose(1, 2).flatten(0, 1).to(self._controlnet.dtype)
            with encoded_conditions(self._controlnet):
                down, mid = self._controlnet(
                    pictures, times.repeat(parts), encoder_hidden_states=text.to(pictures.dtype),
                    controlnet_cond=follow.repeat(parts, 1, 1, 1), conditioning_scale=self._scale, return_dict=False,
                )  # fmt: skip
            down = [residual.to(batch.dtype) for residual in down]
            residuals = dict(down_block_additional_residuals=down, mid_block_additional_residual=mid.to(batch.dtype))
        return unet(batch, times, encoder_hidden_states=text, return_dict=False, **residuals)[0]


def model_of(pipe, scale: float, blocks: str | None) -> OwnModel | AnimateDiffModel:
    """How a pipeline predicts.

    Raises:
        TypeError: for one without a UNetMotionModel.
    """
    unet = getattr(getattr(pipe, "unet", None), "_orig_mod", getattr(pipe, "unet", None))
    if not isinstance(unet, UNetMotionModel):
        raise TypeError(f"pipe must have a UNetMotionModel, but {type(pipe).__name__} has {type(unet).__name__}")
    return (OwnModel if isinstance(pipe, AnimationPipeline) else AnimateDiffModel)(pipe, scale, blocks)
