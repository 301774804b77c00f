"""Checks that all operations on point sets share."""

from typing import Any

import numpy as np

from tpc_fast import _checks

Array = Any  # np.ndarray or torch.Tensor


def point_sets(src, dst, device=None, dimensions: tuple[int, ...] = (2, 3)) -> tuple[Array, Array]:
    """Points [..., K, D] that correspond, as NumPy arrays, or as tensors on `device`.

    Raises:
        TypeError: if they differ in kind or dtype, or are not float32 or float64.
        ValueError: if they differ in K or D, or D is none of `dimensions`.
    """
    _checks.one_kind(src=src, dst=dst)
    x, y = _checks.floating(src, "src", device), _checks.floating(dst, "dst", device)
    if x.ndim < 2 or x.shape[-1] not in dimensions:
        shapes = " or ".join(f"[..., K, {d}]" for d in dimensions)
        raise ValueError(f"src must be {shapes}, but is {_checks.describe(src)}")
    if y.ndim < 2 or y.shape[-2:] != x.shape[-2:]:
        raise ValueError(f"dst must be [..., {x.shape[-2]}, {x.shape[-1]}] like src, but is {_checks.describe(dst)}")
    if x.dtype != y.dtype:
        raise TypeError(f"src and dst must have one dtype, but are {x.dtype} and {y.dtype}")
    return x, y


def per_point(value, name: str, like: Array, first, device=None) -> Array:
    """An argument [..., K] as a floating array of the points' dtype; finite, as far as that can be seen from here.

    Args:
        like: the points [..., K, D] as checked; first: the first argument as given, whose kind all have.
    """
    _checks.one_kind(src=first, **{name: value})
    array = _checks.numeric(value, name, device)
    if array.ndim < 1 or array.shape[-1] != like.shape[-2]:
        raise ValueError(f"{name} must be [..., {like.shape[-2]}], one per point, but is {_checks.describe(value)}")
    if device is not None:
        return array.to(like.dtype)
    return _checks.finite(array.astype(like.dtype, copy=False), name)


def point_weights(value, like: Array, first, device=None) -> Array:
    """Weights [..., K], as `per_point`; not negative, as far as that can be seen from here."""
    array = per_point(value, "weights", like, first, device)
    if device is None and (array < 0).any():
        raise ValueError(f"weights must be >= 0, but the smallest is {array.min()}")
    return array


def batch_shape(**arrays: tuple[int, ...]) -> tuple[int, ...]:
    """What the batch dimensions of arguments, by name, broadcast to.

    Raises:
        ValueError: if they do not.
    """
    try:
        return np.broadcast_shapes(*arrays.values())
    except ValueError:
        said = ", ".join(f"{name} {tuple(shape)}" for name, shape in arrays.items())
        raise ValueError(f"batch dimensions must broadcast, but are {said}") from None
