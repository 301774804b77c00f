"""The CPU's operations as torch sees them: with gradients, under `torch.func` and in `torch.compile`.

Only tensors that need it come this way (`tpc_fast._dispatch.needs_torch`): the way through torch's dispatcher takes
longer than a small fit. Values are looked at inside the operations, because outside they may not be there yet.
"""

import numpy as np
import torch

from tpc_fast import _native, naive
from tpc_fast._torch_rules import differentiable_fit, map_rows
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


# Pictures under affine maps: see `sample_pictures` and `sample_gradients` of tpc_fast.naive

_NAMES = {1: "nearest", 2: "bilinear", 4: "cubic"}  # of interpolations, by their taps along an axis


def _sample(image, inverse, share, height, width, taps, specified):
    arrays = [_numpy(a) for a in (image, inverse, share)]
    core = None if specified else _native.core()
    if core is not None:
        return torch.from_numpy(core.sample_pictures(*arrays, height, width, taps))
    seen = naive.sample_pictures(*arrays, (height, width), _NAMES[taps])
    return torch.from_numpy(seen.astype(arrays[0].dtype))


def _sample_fake(image, inverse, share, height, width, taps, specified):
    return image.new_empty(*share.shape, image.shape[1], height, width)


def _gradients(image, inverse, share, wanted, taps, of_image, of_maps, specified):
    """What is not asked for is empty."""
    arrays = [_numpy(a) for a in (image, inverse, share)]
    core = None if specified else _native.core()
    if core is not None:
        found = core.sample_gradients(*arrays, taps, _numpy(wanted), of_image, of_maps)
    else:
        found = naive.sample_gradients(*arrays, _NAMES[taps], _numpy(wanted))
        found = [a.astype(like.dtype) for a, like in zip(found, arrays, strict=True)]
    asked = of_image, of_maps, of_maps
    return tuple(
        torch.from_numpy(a) if ask else like.new_empty(len(like), 0)
        for a, ask, like in zip(found, asked, (image, inverse, share), strict=True)
    )


def _gradients_fake(image, inverse, share, wanted, taps, of_image, of_maps, specified):
    asked = (image, of_image), (inverse, of_maps), (share, of_maps)
    return tuple(torch.empty_like(a) if ask else a.new_empty(len(a), 0) for a, ask in asked)


_sample_operation = operation(
    "sample_pictures_cpu(Tensor image, Tensor inverse, Tensor share, SymInt height, SymInt width, int taps, "
    "bool specified) -> Tensor",
    _sample,
    _sample_fake,
)
_gradients_operation = operation(
    "sample_gradients_cpu(Tensor image, Tensor inverse, Tensor share, Tensor wanted, int taps, bool of_image, "
    "bool of_maps, bool specified) -> (Tensor, Tensor, Tensor)",
    _gradients,
    _gradients_fake,
)


def _sample_save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])
    ctx.taps, ctx.specified = inputs[5:]


def _sample_backward(ctx, wanted):
    image, inverse, share = ctx.saved_tensors
    asked = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
    found = _sample_gradients(image, inverse, share, wanted.contiguous(), ctx.taps, *asked, ctx.specified)
    kept = (g if asked[min(i, 1)] else None for i, g in enumerate(found))
    return *kept, None, None, None, None


def _no_second_gradient(ctx, *_):
    raise NotImplementedError("warps have a first gradient only")


class _Gradients(torch.autograd.Function):
    """For `torch.func`: without it `grad` refuses what no second gradient is asked of."""

    forward = staticmethod(_gradients_operation)
    backward = staticmethod(_no_second_gradient)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return map_rows(_sample_gradients, info.batch_size, in_dims[:4], arguments[:4], *arguments[4:])


def _sample_gradients(*arguments):
    mapped = torch._C._are_functorch_transforms_active()
    return (_Gradients.apply if mapped else _gradients_operation)(*arguments)


class _Sample(torch.autograd.Function):
    """For `torch.func`, whose `grad` does not take the gradient that a library registers."""

    forward = staticmethod(_sample_operation)
    setup_context = staticmethod(_sample_save)
    backward = staticmethod(_sample_backward)

    @staticmethod
    def vmap(info, in_dims, *arguments):
        def one(*given):
            return (sample_pictures(*given),)

        (out,), _ = map_rows(one, info.batch_size, in_dims[:3], arguments[:3], *arguments[3:])
        return out, 0


def sample_pictures(*arguments):
    """image [S, C, H, W], inverse [S, M, 2, 3], share [S, M], height, width, taps, specified -> [S, M, C, h, w]."""
    mapped = torch._C._are_functorch_transforms_active()
    return (_Sample.apply if mapped else _sample_operation)(*arguments)


torch.library.register_autograd(_sample_operation, _sample_backward, setup_context=_sample_save, lib=library)
torch.library.register_autograd(_gradients_operation, _no_second_gradient, lib=library)
