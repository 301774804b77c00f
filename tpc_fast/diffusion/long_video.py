"""Videos longer than the motion modules take, with any AnimateDiff pipeline of diffusers: its UNet sees windows."""

import torch
from diffusers import UNetMotionModel
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.models.unets.unet_motion_model import UNetMotionOutput

from tpc_fast.diffusion.windows import context_windows, predict_windows

HOOK = "tpc_fast_windows"
_FORWARD = ("sample", "timestep", "encoder_hidden_states")  # what pipelines pass by position


class _Windows(ModelHook):
    """Calls the UNet once per window, and averages."""

    def __init__(self, window, overlap, closed_loop, state):
        super().__init__()
        self.window, self.overlap, self.closed_loop, self.state = window, overlap, closed_loop, state

    def new_forward(self, module, *args, **kwargs):
        kwargs |= dict(zip(_FORWARD, args, strict=False))
        sample, frames = kwargs["sample"], kwargs["sample"].shape[2]
        if frames <= self.window:
            return self.fn_ref.original_forward(**kwargs)
        return_dict = kwargs.pop("return_dict", True)
        windows = context_windows(frames, self.window, self.overlap, self.closed_loop)
        covered = None if self.state is None else self.state.frames

        def predict(window):
            index = torch.from_numpy(window).to(sample.device)
            part = {**kwargs, "sample": sample.index_select(2, index), "return_dict": False}
            for name in ("encoder_hidden_states", "down_block_additional_residuals", "mid_block_additional_residual"):
                if part.get(name) is not None:
                    part[name] = _select(part[name], index, len(sample), frames)
            if self.state is None:
                return module(**part)[0]
            with self.state.covering(window if covered is None else covered[window]):
                return module(**part)[0]

        out = predict_windows(predict, windows, frames)
        return UNetMotionOutput(sample=out) if return_dict else (out,)


def _select(value, index, batch, frames):
    """The frames `index` of tensors [batch * frames, ...]; what has no frames, and None, stay."""
    if isinstance(value, tuple | list):
        return type(value)(_select(part, index, batch, frames) for part in value)
    if len(value) != batch * frames:
        return value
    return value.unflatten(0, (batch, frames)).index_select(1, index).flatten(0, 1)


def apply_windows(pipe, window: int = 16, overlap: int = 4, closed_loop: bool = False, state=None) -> None:
    """Lets an AnimateDiff pipeline make longer videos, until `remove_windows`; short ones go through as before.

    Args:
        pipe: a pipeline with a `UNetMotionModel` (AnimateDiff, with ControlNet or without); call it with as many
            frames as wanted.
        window, overlap, closed_loop: see `context_windows`.
        state: what `apply_calibration` returned, if the pipeline has a calibration: then each window reads its frames.

    Raises:
        TypeError: for a pipeline without such a UNet.
        ValueError: for options out of range, a window longer than the motion modules take, windows that are there
            already, and FreeNoise, which makes windows of its own.
    """
    unet = _unet(pipe)
    context_windows(1, window, overlap, closed_loop)  # checks them
    if window > unet.config.motion_max_seq_length:
        raise ValueError(f"window must be at most {unet.config.motion_max_seq_length}, as the motion modules are")
    if getattr(pipe, "free_noise_enabled", False):
        raise ValueError("pipe must not have FreeNoise enabled, which makes windows of its own: disable_free_noise()")
    registry = HookRegistry.check_if_exists_or_initialize(unet)
    if registry.get_hook(HOOK) is not None:
        raise ValueError("pipe has windows already: remove_windows(pipe) first")
    registry.register_hook(_Windows(window, overlap, closed_loop, state), HOOK)


def remove_windows(pipe) -> None:
    """Undoes `apply_windows`; does nothing where it was not applied."""
    registry = HookRegistry.check_if_exists_or_initialize(_unet(pipe))
    if registry.get_hook(HOOK) is not None:
        registry.remove_hook(HOOK, recurse=False)


def _unet(pipe) -> UNetMotionModel:
    unet = getattr(pipe, "unet", None)
    unet = getattr(unet, "_orig_mod", unet)  # of torch.compile
    if not isinstance(unet, UNetMotionModel):
        raise TypeError(f"pipe must have a UNetMotionModel, but {type(pipe).__name__} has {type(unet).__name__}")
    return unet
