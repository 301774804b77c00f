"""What ControlNets are spared: their pictures are encoded once a run, and every frame goes through them once a step."""

import collections
import contextlib
import threading
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from tpc_fast.diffusion.pipeline import as_light

_ENCODED_AT_ONCE = 8  # pictures, which are of the full size


@torch.no_grad()
def condition_features(controlnet, pictures: torch.Tensor, device) -> torch.Tensor:
    """What a ControlNet's condition embedding makes of pictures; it is the same at every step.

    Args:
        controlnet: a ControlNetModel of diffusers.
        pictures: of `check_pose_video`.
        device: of the result.

    Returns:
        [F, C, h, w], for `encoded_conditions`.
    """
    embedding, turned = controlnet.controlnet_cond_embedding, _takes_bgr(controlnet)
    weight = next(embedding.parameters())
    place = device if weight.is_meta else weight.device  # of offloaded models
    parts = (as_light(part, place, weight.dtype) for part in pictures.split(_ENCODED_AT_ONCE))
    return torch.cat([embedding(part.flip(1) if turned else part).to(device) for part in parts])


def _takes_bgr(controlnet) -> bool:
    """Whether it turns the channels of what it gets around, as diffusers' forward does before the embedding."""
    return getattr(controlnet.config, "controlnet_conditioning_channel_order", "rgb") == "bgr"


class _MaybeEncoded(nn.Module):
    """Stands before a condition embedding: in threads inside `encoded_conditions` what comes is encoded already."""

    def __init__(self, embedding: nn.Module, turned: bool):
        super().__init__()
        self.embedding, self.turned, self.threads = embedding, turned, collections.Counter()

    def forward(self, conditioning):
        # A graph is made and run inside only: which thread it is cannot be asked there.
        if torch.compiler.is_compiling() or self.threads[threading.get_ident()]:
            return conditioning.flip(1) if self.turned else conditioning
        return self.embedding(conditioning)


_exchanging = threading.Lock()


@contextlib.contextmanager
def encoded_conditions(controlnet):
    """Inside it, a ControlNet takes what `condition_features` made instead of pictures; other threads go on as before.

    A ControlNet that several pipelines share may be inside in several threads.
    """
    thread = threading.get_ident()
    with _exchanging:
        stand_in = controlnet.controlnet_cond_embedding
        if not isinstance(stand_in, _MaybeEncoded):
            stand_in = controlnet.controlnet_cond_embedding = _MaybeEncoded(stand_in, _takes_bgr(controlnet))
        stand_in.threads[thread] += 1
    try:
        yield
    finally:
        with _exchanging:
            stand_in.threads[thread] -= 1
            stand_in.threads += collections.Counter()  # without those that have left
            if not stand_in.threads:
                controlnet.controlnet_cond_embedding = stand_in.embedding


class OncePerFrame:
    """What is computed of single frames at a step, and read by all windows that they are in: each frame once.

    A window computes those of its frames that no window before it has, in one batch. What no later window reads is
    dropped: memory is that of a window and of what it shares.

    Args:
        windows: [W, n] int64, see `context_windows`.
        compute: from frames, int64 [m], to tensors [m, ...]. A window that goes on where an interrupted run ended asks
            for batches of windows before it again, so that all is the same, bit by bit.
    """

    def __init__(self, windows: np.ndarray, compute: Callable[[np.ndarray], list[torch.Tensor]]):
        self._windows, self._compute = windows, compute
        frames = windows.ravel()
        number = np.repeat(np.arange(len(windows)), windows.shape[1])
        self._first = {int(frame): int(i) for frame, i in zip(frames[::-1], number[::-1], strict=True)}
        self._last = {int(frame): int(i) for frame, i in zip(frames, number, strict=True)}
        self._kept: dict[int, list[torch.Tensor]] = {}

    def of(self, number: int) -> list[torch.Tensor]:
        """Tensors [n, ...] of the frames of a window; windows are asked for in their order."""
        window = self._windows[number].tolist()
        for batch in sorted({self._first[frame] for frame in window if frame not in self._kept}):
            new = [frame for frame in self._windows[batch].tolist() if self._first[frame] == batch]
            made = self._compute(np.array(new, np.int64))
            if new == window and all(self._last[frame] == number for frame in new):
                return made
            for i, frame in enumerate(new):
                if self._last[frame] >= number:
                    self._kept[frame] = [tensor[i : i + 1].clone() for tensor in made]
        found = [torch.cat(rows) for rows in zip(*(self._kept[frame] for frame in window), strict=True)]
        for frame in window:
            if self._last[frame] == number:
                self._kept.pop(frame, None)
        return found
