"""One rule: the first array's device picks the backend, `backend=` forces one, and an absent one is an error."""

import dataclasses
import importlib.util
import os
import sys

import numpy as np

from tpc_fast import _native

NAMES = ("naive", "cpu", "triton")


@dataclasses.dataclass(frozen=True)
class Backend:
    """What `backends()` says of one backend.

    Attributes:
        available: whether it can run here.
        detail: what it is, or runs on.
        reasons: for one that cannot run, every reason why.
    """

    available: bool
    detail: str
    reasons: tuple[str, ...] = ()


def backends() -> dict[str, Backend]:
    """What this installation can compute with: `naive` (NumPy), `cpu` (compiled core), `triton` (GPU kernels)."""
    core = _native.core()
    cpu_detail = "C++ core" if core is None else f"C++ core, {core.simd_level()}, {core.get_num_threads()} threads"
    absent = _triton_absent()
    gpu = "Triton kernels on CUDA tensors"
    if not absent and _interpreted():
        gpu = "Triton kernels, interpreted on CPU tensors (TRITON_INTERPRET=1): for tests"
    return {
        "naive": Backend(True, "NumPy, float64: the specification"),
        "cpu": Backend(core is not None, cpu_detail, _native.reasons()),
        "triton": Backend(not absent, gpu, absent),
    }


_absent: tuple[str, ...] | None = None


def _triton_absent() -> tuple[str, ...]:
    """Every reason why there are no Triton kernels here; looked up once."""
    global _absent  # no functools.cache: torch.compile warns of it
    if _absent is None:
        _absent = _find_triton()
    return _absent


def _find_triton() -> tuple[str, ...]:
    reasons = [f"{name} is not installed" for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
    if not reasons and not _interpreted():
        import torch

        if not torch.cuda.is_available():
            reasons = ["torch finds no CUDA device for Triton kernels to run on"]
    return tuple(reasons)


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def is_torch(array) -> bool:
    """Whether `array` is a torch tensor, without importing torch."""
    # While another thread imports torch, the module is there already and its names are not: then nobody has a tensor.
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(array, tensor)


def is_recorded(*arrays) -> bool:
    """Whether torch records gradients for some of these; what is no tensor has none."""
    tensors = [array for array in arrays if is_torch(array) and array.requires_grad]
    return bool(tensors) and sys.modules["torch"].is_grad_enabled()


def needs_torch(*arrays) -> bool:
    """Whether torch must see an operation on these arrays: it records gradients, maps, or compiles.

    What is no tensor does not count; without a tensor nothing needs torch.
    """
    return is_recorded(*arrays) or without_values(*arrays)


def quick(array):
    """The core and the kind of its results, where the plain case of an operation may be tried (csrc/bindings_quick.h).

    Returns:
        (core, None) for a NumPy array, (core, `torch.Tensor`) for a tensor, or (None, None): no core, or torch must
        see the operation. Whether an array is plain, the core says.
    """
    kind = type(array)
    if kind is np.ndarray:
        return _native.core(), None
    torch = sys.modules.get("torch")
    if torch is None or kind is not getattr(torch, "Tensor", None):
        return None, None
    if torch.compiler.is_dynamo_compiling():  # quicker to ask than is_compiling(), whose other cases have fake tensors
        return None, None
    return _native.core(), kind


def without_values(*arrays) -> bool:
    """Whether some of these are tensors whose numbers cannot be seen: in `torch.compile`, or of `torch.func`."""
    tensors = [array for array in arrays if is_torch(array)]
    if not tensors:
        return False
    torch = sys.modules["torch"]
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():  # nothing public says the latter
        return True
    return any(isinstance(t, torch._subclasses.FakeTensor) for t in tensors)


def is_mapped(*arrays) -> bool:
    """Whether some of these are tensors of `torch.func`, as `vmap` and `grad` hand them to a function."""
    tensors = [array for array in arrays if is_torch(array)]
    if not tensors:
        return False
    torch = sys.modules["torch"]
    # Compiled code has none of them, and the compiler cannot trace the question.
    compiling = torch.compiler.is_compiling()
    return not compiling and any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors)


def resolve(array, backend: str | None) -> str:
    """The backend that serves an operation whose first array is `array`.

    Raises:
        ValueError: if `backend` is unknown.
        RuntimeError: if the backend (forced, or the one that the device asks for) cannot be had; says every reason.
    """
    if backend is None:
        if is_torch(array) and array.device.type != "cpu":
            backend = "triton"
        elif is_torch(array) and sys.modules["torch"].compiler.is_compiling():
            return "cpu"  # whether there is a core, the operation looks when it runs
        else:
            _native.warn_if_missing()
            return "cpu" if _native.core() is not None else "naive"
    if backend not in NAMES:
        raise ValueError(f"backend must be None or one of {', '.join(NAMES)}, but is {backend!r}")
    reasons = ()
    if backend == "cpu" and _native.core() is None:
        reasons = _native.reasons()
    if backend == "triton":
        reasons = _triton_absent()
        devices = ("cuda", "cpu") if _interpreted() else ("cuda",)
        if not reasons and not (is_torch(array) and array.device.type in devices):
            kind = f"a tensor on {array.device}" if is_torch(array) else type(array).__name__
            reasons = (f"Triton kernels take CUDA tensors, but the first array is {kind}",)
    if reasons:
        raise RuntimeError(f"backend {backend!r} cannot be had: " + "; ".join(reasons))
    return backend
