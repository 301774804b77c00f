"""Argument checks. Every message names the argument, what it must be, and what it was."""

import numpy as np

from tpc_fast._dispatch import is_torch


def describe(value) -> str:
    """A short description of a wrong value for an error message."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and dtype {value.dtype}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def to_numpy(value, name: str) -> np.ndarray:
    """A NumPy view of an array, a CPU tensor or a nested sequence.

    Raises:
        TypeError: if it is not numeric, or a tensor that lies on another device or wants a gradient.
    """
    if is_torch(value):
        if value.device.type != "cpu":
            raise TypeError(f"{name} must be on the CPU like the first array, but is on {value.device}")
        if value.requires_grad:
            raise TypeError(f"{name} requires a gradient, which the CPU core does not compute: pass {name}.detach()")
        try:
            value = value.numpy()
        except (TypeError, RuntimeError) as error:
            raise TypeError(f"{name} must have a dtype that NumPy has, but is {describe(value)}") from error
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise TypeError(f"{name} must be an array of numbers, but is {describe(value)}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of numbers, but is {describe(value)}")
    return array


def floating(value, name: str) -> np.ndarray:
    """Like `to_numpy`, as float32 or float64 (integers become float64)."""
    array = to_numpy(value, name)
    if array.dtype.kind in "iub":
        array = array.astype(np.float64)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float32 or float64, but is {describe(value)}")
    return array


def finite(array: np.ndarray, name: str) -> np.ndarray:
    """Raises ValueError if an element is NaN or infinite."""
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, but is {array[where]} at index {where}")
    return array


def one_kind(**arrays) -> None:
    """Raises TypeError if NumPy arrays and torch tensors are mixed."""
    kinds = {name: is_torch(a) for name, a in arrays.items() if hasattr(a, "shape")}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{name} is a {'torch tensor' if t else 'NumPy array'}" for name, t in kinds.items())
        raise TypeError(f"all arrays must be of one kind, but {said}")


def like(array: np.ndarray, first):
    """`array` as the kind that `first` is: NumPy, or a torch CPU tensor that shares its memory."""
    if not is_torch(first):
        return array
    import torch

    return torch.from_numpy(array)
