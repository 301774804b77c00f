"""Argument checks. Every message names the argument, what it must be, and what it was."""

import functools
import math
import operator
import re
import sys
import warnings

import numpy as np

from tpc_fast._dispatch import is_torch, without_values

# C0 and C1 without tab and line end, and Unicode's bidirectional formatting characters (UAX 9).
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def renamed(**names: str):
    """Lets a function be called with keywords by their former names, for one release.

    Args:
        names: former name -> name.
    """

    def wrap(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            for former, name in names.items():
                if former in kwargs:
                    if name in kwargs:
                        raise TypeError(f"{former} is the former name of {name}: give one of them")
                    warnings.warn(f"{former}= is now {name}=", DeprecationWarning, stacklevel=2)
                    kwargs[name] = kwargs.pop(former)
            return function(*args, **kwargs)

        return call

    return wrap


def describe(value) -> str:
    """A short description of a wrong value for an error message."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and dtype {value.dtype}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def plain(text: str) -> str:
    """Text whose control characters are shown, not obeyed: those of terminals, and those that turn the direction."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def to_numpy(value, name: str) -> np.ndarray:
    """A NumPy view of an array, a CPU tensor or a nested sequence.

    Raises:
        TypeError: if it is not numeric, or a tensor that lies on another device or wants a gradient that is recorded.
    """
    if is_torch(value):
        if value.device.type != "cpu":
            raise TypeError(f"{name} must be on the CPU like the first array, but is on {value.device}")
        if value.requires_grad and sys.modules["torch"].is_grad_enabled():
            raise TypeError(f"{name} requires a gradient, which is not computed here: pass {name}.detach()")
        try:
            value = value.detach().resolve_neg()  # of a view as imaginary part of a conjugate, which NumPy has not
            value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
        except (TypeError, RuntimeError) as error:
            if without_values(value):
                raise TypeError(
                    f"{name} must be a tensor whose numbers can be seen, but is one inside torch.func or torch.compile"
                ) from error
            raise TypeError(f"{name} must have a dtype that NumPy has, but is {describe(value)}") from error
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"{name} must be an array of numbers, but is {describe(value)}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of numbers, but is {describe(value)}")
    if not array.dtype.isnative or not array.flags.aligned:  # of a file of another machine, or a field of a record
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def to_tensor(value, name: str, device):
    """What `to_numpy` is for arrays on the CPU: a torch tensor on `device`, for kernels.

    Raises:
        TypeError: if it is not numeric, or a tensor on another device.
    """
    import torch

    if not is_torch(value):
        return torch.as_tensor(to_numpy(value, name), device=device)
    if value.device != device:
        raise TypeError(f"{name} must be on {device} like the first array, but is on {value.device}")
    if value.is_complex():
        raise TypeError(f"{name} must be an array of numbers, but is {describe(value)}")
    return value


def torch_device(device, name: str = "device"):
    """A device that tensors can be put on, as torch has it; as given.

    Raises:
        ImportError: if torch is not installed.
        ValueError: if torch knows no such device.
        RuntimeError: if this machine has none.
    """
    import torch

    try:
        kind = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name} must be a device of torch, as 'cpu' or 'cuda', but is {device!r}") from error
    if kind.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"{name} {str(device)!r} cannot be had: torch finds no CUDA device")
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise RuntimeError(f"{name} {str(device)!r} cannot be had: there are {torch.cuda.device_count()} CUDA devices")
    return device


def numeric(value, name: str, device=None):
    """`to_tensor` on a device, `to_numpy` without one."""
    return to_numpy(value, name) if device is None else to_tensor(value, name, device)


def floating(value, name: str, device=None):
    """Like `numeric`, as float32 or float64 (halves become float32, integers float64)."""
    array = numeric(value, name, device)
    if device is not None:
        import torch

        if not array.is_floating_point():
            array = array.to(torch.float64)
        if array.dtype in (torch.float16, torch.bfloat16):
            array = array.float()
        if array.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, but is {describe(value)}")
        return array
    if array.dtype.kind in "iub":
        array = array.astype(np.float64)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, but is {describe(value)}")
    return array


def is_finite(value) -> bool:
    """Whether a value is a real number, no bool, and finite as a float, which integers may exceed."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def pixel_size(value, name: str) -> tuple[int, int]:
    """(height, width) of a picture, each at least 1.

    Raises:
        ValueError: if it is something else.
    """
    try:
        height, width = (operator.index(side) for side in value)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise ValueError(f"{name} must be (height, width), each at least 1, but is {describe(value)}")
    return height, width


def finite(array: np.ndarray, name: str) -> np.ndarray:
    """Raises ValueError if an element is NaN or infinite."""
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, but is {array[where]} at index {where}")
    return array


def one_kind(**arrays) -> None:
    """Raises TypeError if NumPy arrays and torch tensors are mixed, and for tensors that are sparse or nested."""
    for name, a in arrays.items():
        if is_torch(a) and (a.is_nested or str(a.layout) != "torch.strided"):
            instead = "torch.nested.to_padded_tensor(it, float('nan'))" if a.is_nested else "it.to_dense()"
            raise TypeError(f"{name} must be a dense tensor: pass {instead}")
    kinds = {name: is_torch(a) for name, a in arrays.items() if hasattr(a, "shape")}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{name} is a {'torch tensor' if t else 'NumPy array'}" for name, t in kinds.items())
        raise TypeError(f"all arrays must be of one kind, but {said}")


def like(array, first):
    """`array` as the kind that `first` is: NumPy, or a torch CPU tensor that shares its memory. Tensors stay."""
    if not is_torch(first) or is_torch(array):
        return array
    import torch

    return torch.from_numpy(array)
