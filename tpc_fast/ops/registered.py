"""The CPU's operations as torch sees them: with gradients, under `torch.func` and in `torch.compile`.

Only tensors that need it come this way (`tpc_fast._dispatch.needs_torch`): the way through torch's dispatcher takes
longer than a small fit. Values are looked at inside the operations, because outside they may not be there yet.
"""

import numpy as np
import torch

from tpc_fast import _native, naive
from tpc_fast._torch_rules import differentiable_fit
from tpc_fast.kernels.launch import library, operation


def _numpy(tensor):
    return None if tensor is None else np.ascontiguousarray(tensor.detach().numpy())


def _count(*arrays):
    """How many problems there are: one row serves all, and no row is none."""
    lengths = [len(a) for a in arrays if a is not None]
    return max(lengths) if min(lengths) > 0 else 0


def _fit(src, dst, weights, specified):
    x, y, w = (_numpy(a) for a in (src, dst, weights))
    if w is not None and not ((w >= 0) & np.isfinite(w)).all():
        raise ValueError(f"weights must be finite and >= 0, but are from {w.min()} to {w.max()}")
    count = _count(x, y, w)
    if w is not None and len(w) > 1 and len(x) == len(y) == 1:
        x = np.repeat(x, len(w), 0)
    core = None if specified else _native.core()
    if core is not None:
        found = core.fit_similarity(x, y, w)
    else:
        rows = (None if a is None else np.broadcast_to(a, (count, *a.shape[1:])) for a in (x, y, w))
        found = naive.fit_similarity(*rows)
        found = *(a.astype(x.dtype) for a in found[:-1]), found[-1]
    return tuple(torch.from_numpy(a) for a in found)


def _fit_fake(src, dst, weights, specified):
    count, d = _count(src, dst, weights), src.shape[-1]
    one = src.new_empty(count)
    return one, src.new_empty(count, d, d), src.new_empty(count, d), one.clone(), one.new_empty(count, dtype=torch.bool)


_fit_operation = operation(
    "fit_similarity_cpu(Tensor src, Tensor dst, Tensor? weights, bool specified) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fit,
    _fit_fake,
)


fit_similarity = differentiable_fit(_fit_operation, library)
