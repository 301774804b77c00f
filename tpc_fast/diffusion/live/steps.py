"""Denoising steps of frames that stand at different noise levels."""

import copy
import inspect

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

SCHEDULERS = ("DDIMScheduler", "LCMScheduler", "TCDScheduler")  # they keep nothing between steps


class LevelSteps:
    """A scheduler whose steps are taken in any order: level 0 is noise, after the last one frames are done.

    Args:
        scheduler: one of `SCHEDULERS`; it is copied, and left as it is.
        levels: how many steps make a frame.
        device: of the latents.
        eta: how much noise DDIM and TCD add; None: as they do by themselves (0, 0.3).

    Attributes:
        timesteps: [levels] tensor on the device.

    Raises:
        ValueError: for another scheduler, more levels than it has steps, and an eta that it does not take.
    """

    def __init__(self, scheduler, levels: int, device, eta: float | None = None):
        name = type(scheduler).__name__
        if name not in SCHEDULERS:
            raise ValueError(
                f"scheduler must be one of {', '.join(SCHEDULERS)}, which keep nothing between steps, but is a {name}: "
                "give scheduler=LCMScheduler.from_config(pipe.scheduler.config), or TCD's or DDIM's"
            )
        if eta is not None and "eta" not in inspect.signature(scheduler.step).parameters:
            raise ValueError(f"eta must be None with {name}, which has none, but is {eta}")
        self._eta = {} if eta is None else {"eta": eta}
        self._scheduler, self._device = copy.deepcopy(scheduler), torch.device(device)
        self._scheduler.set_timesteps(levels, device=device)
        self.timesteps = self._scheduler.timesteps
        if len(self.timesteps) != levels:
            raise ValueError(f"levels must be as many as {name} can take, but {levels} gives {len(self.timesteps)}")
        self._values = self.timesteps.tolist()

    def noise(self, shape, generator: torch.Generator) -> torch.Tensor:
        """What frames are before level 0."""
        noise = randn_tensor(shape, generator, self._device, torch.float32)
        return noise * self._scheduler.init_noise_sigma

    def step(self, prediction: torch.Tensor, level: int, latents: torch.Tensor, generator) -> torch.Tensor:
        """Latents one level on; what the scheduler draws is of the generator."""
        scheduler = copy.copy(self._scheduler)  # its place in the schedule is that of the level
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(level)
        return scheduler.step(prediction, self._values[level], latents, generator=generator, **self._eta).prev_sample


def generator_of(seed: int, chunk: int) -> torch.Generator:
    """The noise of a chunk of a stream: the same whatever came before it, and however it is denoised."""
    state = np.random.SeedSequence([seed, chunk]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
