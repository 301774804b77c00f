"""One rule: the first array's device picks the backend, `backend=` forces one, and an absent one is an error."""

import dataclasses
import importlib.util
import sys

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
    gpu_reasons = ["this version has no Triton kernels for these operations yet"]
    gpu_reasons += [
        f"{name} is not installed" for name in ("torch", "triton") if importlib.util.find_spec(name) is None
    ]
    return {
        "naive": Backend(True, "NumPy, float64: the specification"),
        "cpu": Backend(core is not None, cpu_detail, _native.reasons()),
        "triton": Backend(False, "Triton kernels on CUDA tensors", tuple(gpu_reasons)),
    }


def is_torch(array) -> bool:
    """Whether `array` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def resolve(array, backend: str | None) -> str:
    """The backend that serves an operation whose first array is `array`.

    Raises:
        ValueError: if `backend` is unknown.
        RuntimeError: if the backend (forced, or the one that the device asks for) cannot be had; says every reason.
    """
    if backend is None:
        if is_torch(array) and array.device.type != "cpu":
            backend = "triton"
        else:
            _native.warn_if_missing()
            return "cpu" if _native.core() is not None else "naive"
    if backend not in NAMES:
        raise ValueError(f"backend must be None or one of {', '.join(NAMES)}, but is {backend!r}")
    status = backends()[backend] if backend != "naive" else None
    if status is not None and not status.available:
        raise RuntimeError(f"backend {backend!r} cannot be had: " + "; ".join(status.reasons))
    return backend
