"""The part of a guided step that both halves have in common is computed once.

With one text for both halves (none, as in MagicAnimate), the conditional and the unconditional half differ only by what
the self-attentions of the mid and up blocks read. Everything before them, the whole down path, is the same.
"""

import contextlib

import torch
from diffusers.hooks import HookRegistry, ModelHook

HOOK = "tpc_fast_share_half"


class _ShareHalf(ModelHook):
    """Computes a block for the first half of its batch, and gives the result to both."""

    def new_forward(self, block, *args, **kwargs):
        rows = len(kwargs["hidden_states"]) // 2
        for name in ("hidden_states", "temb", "encoder_hidden_states"):
            if kwargs.get(name) is not None:
                kwargs[name] = kwargs[name][:rows]
        sample, residuals = self.fn_ref.original_forward(*args, **kwargs)
        return torch.cat([sample] * 2), tuple(torch.cat([residual] * 2) for residual in residuals)


@contextlib.contextmanager
def share_down_path(unet):
    """Inside it, the down blocks of a UNet compute the first half of a batch only; both halves must be equal there.

    Args:
        unet: a `UNetMotionModel`.
    """
    registries = [HookRegistry.check_if_exists_or_initialize(block) for block in unet.down_blocks]
    try:
        for registry in registries:
            registry.register_hook(_ShareHalf(), HOOK)
        yield
    finally:
        for registry in registries:
            registry.remove_hook(HOOK, recurse=False)
