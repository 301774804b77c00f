"""Context windows over the frames of a latent video that is longer than what a motion module takes at once.

`context_windows` cuts, `predict_windows` averages; `apply_windows` lets any AnimateDiff pipeline of diffusers do both.
"""

import inspect
from collections.abc import Callable

import numpy as np
import torch
from diffusers import UNetMotionModel

from tpc_fast._checks import describe

_ATTRIBUTE = "_tpc_fast_windows"
_FORWARD = tuple(inspect.signature(UNetMotionModel.forward).parameters)[1:]
_OUTSIDE = torch.compiler.disable(
    reason="a video of several windows is no single graph: call torch.compile before apply_calibration or apply_windows"
)
_INDICES_KEPT = 1024  # windows of a few frames each
_PER_FRAME = ("encoder_hidden_states", "down_block_additional_residuals", "mid_block_additional_residual")


def context_windows(frames: int, window: int = 16, overlap: int = 4, closed_loop: bool = False) -> np.ndarray:
    """Cuts a video into windows of equal length that overlap and together cover every frame.

    Windows start every `window - overlap` frames. The last one is moved back to end with the video, so that it overlaps
    more; with `closed_loop` it goes on at the video's beginning instead (as the uniform scheduler of AnimateDiff and
    MagicAnimate does), which suits a video that repeats.

    Args:
        frames: of the video.
        window: frames of a window. A shorter video is one window of all its frames.
        overlap: frames that two windows share, fewer than `window`.
        closed_loop: whether the last frame comes before the first.

    Returns:
        int64 [W, min(window, frames)]: the frames of each window, in its order.

    Raises:
        ValueError: if an argument is out of range.
    """
    for name, value, least in (("frames", frames, 1), ("window", window, 1), ("overlap", overlap, 0)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer from {least}, but is {describe(value)}")
    if overlap >= window:
        raise ValueError(f"overlap must be smaller than window ({window}), but is {overlap}")
    if frames <= window:
        return np.arange(frames)[None]
    stride = window - overlap
    if closed_loop:
        starts = np.arange(0, frames, stride)
    else:
        starts = np.minimum(np.arange(0, frames - overlap, stride), frames - window)
    return (starts[:, None] + np.arange(window)) % frames


def predict_windows(
    predict: Callable[[np.ndarray], object],
    windows: np.ndarray,
    frames: int,
    done: int = 0,
    total=None,
    on_sum: Callable[[int, object], object] | None = None,
):
    """Predicts every window and averages where windows overlap.

    Args:
        predict: from the frames of a window, int64 [n], to a tensor [B, C, n, h, w].
        windows: as `context_windows` gives them.
        frames: of the video.
        done: how many windows were predicted before; `total`: their sum, as `on_sum` was given it.
        on_sum: called as `on_sum(done, total)` after each window but the last, the sum float32 [B, C, F, h, w].

    Returns:
        A tensor [B, C, F, h, w] of the dtype and on the device of the predictions; sums are taken in float32.
    """
    if len(windows) == 1 and np.array_equal(windows[0], np.arange(frames)):
        return predict(windows[0])
    for number, window in enumerate(windows[done:], done + 1):
        part = predict(window)
        if total is None:
            shape = (*part.shape[:2], frames, *part.shape[3:])
            total = torch.zeros(shape, dtype=torch.float32, device=part.device)
        total.index_add_(2, torch.as_tensor(window, device=part.device), part.to(total.dtype))
        if on_sum is not None and number < len(windows):
            on_sum(number, total)
    count = np.bincount(windows.ravel(), minlength=frames)
    return (total / torch.as_tensor(count, device=total.device).view(-1, 1, 1)).to(part.dtype)


class _Windows:
    """Makes one call of a UNet into one per window, and averages.

    By torch's own forward hooks, which CPU offload cannot lose (it replaces `forward` again and again): the call itself
    becomes that of the first window, and the hook after it makes the others. No graph can hold that: on a UNet that is
    compiled the hooks are on the wrapper of torch.compile, and every window is a call of the same graph.
    """

    def __init__(self, pipe, module, window, overlap, closed_loop, state):
        self._pipe, self._options, self._state = pipe, (window, overlap, closed_loop), state
        self._call = None  # arguments and windows of the call that is being cut
        self._calling = False  # for a further window
        self._indices: dict[tuple, torch.Tensor] = {}
        self._handles = [
            module.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True),
            module.register_forward_hook(self._after, always_call=True),
        ]

    def __reduce__(self):
        return _no_windows, ()  # of a copy of the model

    @property
    def there(self) -> bool:
        """Not in a copy of the model."""
        return self._pipe is not None

    def remove(self):
        for handle in self._handles:
            handle.remove()

    def _before(self, unet, args, kwargs):
        if self._calling or self._pipe is None:
            return None
        arguments = dict(zip(_FORWARD, args, strict=False)) | kwargs
        if self._call is None and arguments["sample"].shape[2] <= self._options[0]:
            return None  # here a graph that is being made of the UNet must not break
        return self._first(arguments)

    def _after(self, unet, args, output):
        return None if self._calling or self._call is None else self._others(output)

    @_OUTSIDE
    def _first(self, arguments):
        self._end()  # of a call that was interrupted: Ctrl-C passes by hooks
        frames = arguments["sample"].shape[2]
        if frames <= self._options[0] or getattr(self._pipe, "free_noise_enabled", False):
            return None
        windows = context_windows(frames, *self._options)
        self._call = arguments, windows
        return (), self._part(windows[0])

    @_OUTSIDE
    def _others(self, output):
        arguments, windows = self._call
        first = [output]

        def predict(window):
            return (first.pop() if first else self._pipe.unet(**self._part(window)))[0]

        self._calling = True
        try:
            if output is None:  # it failed
                return None
            out = predict_windows(predict, windows, arguments["sample"].shape[2])
        finally:
            self._end()
        return (out,) if isinstance(output, tuple) else type(output)(sample=out)

    def _end(self):
        self._call, self._calling = None, False
        if self._state is not None:
            self._state.part = None

    def _part(self, window):
        """The arguments of a window's call; the state is told which frames it covers."""
        arguments, _ = self._call
        batch, _, frames = arguments["sample"].shape[:3]
        index = self._index(window, arguments["sample"].device)
        part = arguments | {"sample": arguments["sample"].index_select(2, index)}
        for name in _PER_FRAME:
            if part.get(name) is not None:
                part[name] = _select(part[name], index, batch, frames)
        if self._state is not None:
            self._state.part = window
        return part

    def _index(self, window, device) -> torch.Tensor:
        """Uploaded once, so that a call that is made again can be captured."""
        key = window.tobytes(), device
        if key not in self._indices:
            if len(self._indices) >= _INDICES_KEPT:
                self._indices.clear()
            self._indices[key] = torch.from_numpy(window).to(device)
        return self._indices[key]


def _no_windows() -> None:
    none = _Windows.__new__(_Windows)
    none._pipe = none._state = none._call = None
    none._handles, none._calling = [], False
    return none


def _select(value, index, batch, frames):
    """The frames `index` of tensors [batch * frames, ...]; what has no frames, and None, stay."""
    if isinstance(value, tuple | list):
        return type(value)(_select(part, index, batch, frames) for part in value)
    if len(value) != batch * frames:
        return value
    return value.unflatten(0, (batch, frames)).index_select(1, index).flatten(0, 1)


def apply_windows(pipe, window: int = 16, overlap: int = 4, closed_loop: bool = False, state=None) -> None:
    """Lets an AnimateDiff pipeline make longer videos, until `remove_windows`; short ones go through as before.

    While FreeNoise is enabled, which makes windows of its own, these rest.

    Args:
        pipe: a pipeline with a `UNetMotionModel` (AnimateDiff, with ControlNet or without); call it with as many
            frames as wanted.
        window, overlap, closed_loop: see `context_windows`.
        state: what `apply_calibration` returned, if the pipeline has a calibration: then each window reads its frames.
            (`apply_calibration` does all this by itself, but for `window=None`.)

    Raises:
        TypeError: for a pipeline without such a UNet.
        ValueError: for options out of range, a window longer than the motion modules take (but a calibration that is
            not longer either is one window), and windows that are there already.
    """
    unet = _unet(pipe)
    context_windows(1, window, overlap, closed_loop)  # checks them
    longest = unet.config.motion_max_seq_length
    if window > longest and (state is None or state.plan.num_frames > longest):
        raise ValueError(f"window must be at most {longest}, as the motion modules are, but is {window}")
    if any(windows.there for windows in getattr(unet, _ATTRIBUTE, ())):
        raise ValueError("pipe has windows already: remove_windows(pipe) first")
    # Inside of a wrapper there is nothing left to cut; but the wrapper may be taken away, or come later.
    modules = [pipe.unet] if pipe.unet is unet else [unet, pipe.unet]
    setattr(unet, _ATTRIBUTE, [_Windows(pipe, module, window, overlap, closed_loop, state) for module in modules])


def remove_windows(pipe) -> None:
    """Undoes `apply_windows`, on a pipeline or its UNet; does nothing where it was not applied."""
    unet = pipe if isinstance(pipe, UNetMotionModel) else _unet(pipe)
    if hasattr(unet, _ATTRIBUTE):
        for windows in getattr(unet, _ATTRIBUTE):
            windows.remove()
        delattr(unet, _ATTRIBUTE)


def _unet(pipe) -> UNetMotionModel:
    unet = getattr(pipe, "unet", None)
    unet = getattr(unet, "_orig_mod", unet)  # of torch.compile
    if not isinstance(unet, UNetMotionModel):
        raise TypeError(f"pipe must have a UNetMotionModel, but {type(pipe).__name__} has {type(unet).__name__}")
    return unet
