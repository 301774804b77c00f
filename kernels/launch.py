"""What every launch needs: the device of the tensors, and options that do not depend on the version of Triton."""

import contextlib
import functools

import torch

# Its default changes between versions of Triton. Products and sums fuse as in the compiled core.
OPTIONS = {"enable_fp_fusion": True}


def on(tensor: torch.Tensor):
    """Makes the tensor's device the current one; Triton launches on the current stream of the current device."""
    if tensor.device.type != "cuda" or tensor.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)


def empty(shape, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An output whose every element a kernel will write."""
    return torch.empty(shape, dtype=dtype, device=device)


library = torch.library.Library("tpc_fast", "DEF")


def operation(schema: str, implementation, fake) -> torch._ops.OpOverload:
    """Registers an operation that torch.compile passes through; its arguments were checked before."""
    name = schema.split("(", 1)[0]
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"tpc_fast::{name}", fake, lib=library)
    return getattr(torch.ops.tpc_fast, name).default


def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A small table on the device: copied there once, or a constant of the graph that is being compiled."""
    make = torch.tensor if torch.compiler.is_compiling() else _copied_once
    return make(values, dtype=dtype, device=device)


@functools.cache
def _copied_once(values, dtype, device):
    return torch.tensor(values, dtype=dtype, device=device)
