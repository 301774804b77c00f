"""The compiled core, loaded on first use. If it is missing, `reasons()` says every reason why."""

import functools
import importlib
import multiprocessing
import os
import sys
import warnings
from pathlib import Path

_FAILURE_NOTE = Path(__file__).with_name("_build_failure.txt")  # written by setup.py


@functools.cache
def _load():
    """Returns (module or None, reasons why not)."""
    try:
        return importlib.import_module("tpc_fast._C"), ()
    except ImportError as error:
        reasons = [f"import tpc_fast._C: {error}"]
    if _FAILURE_NOTE.exists():
        reasons.append(_FAILURE_NOTE.read_text(encoding="utf-8", errors="replace").strip())
    elif (Path(__file__).parents[1] / "csrc").is_dir():
        reasons.append(
            f"{Path(__file__).parent} is a source tree whose core was not built: run `pip install -e .` there, "
            "or start Python elsewhere to use the installed package"
        )
    return None, tuple(reasons)


_threads_chosen = False  # by the user
_threads_settled = False  # whether this process can be no DataLoader's worker that was not seen yet


def core():
    """The module `tpc_fast._C`, or None."""
    if not _threads_settled:
        _settle_threads()
    return _load()[0]


def _settle_threads() -> None:
    """One thread in the workers of a torch DataLoader, unless the user chose another number."""
    global _threads_settled
    workers = sys.modules.get("torch.utils.data._utils.worker")
    inside = getattr(workers, "_worker_info", None) is not None  # what torch.utils.data.get_worker_info() returns
    if inside and not _threads_chosen and _load()[0] is not None:
        _load()[0].set_num_threads(1)
    # A worker that is spawned unpickles its data set, which may call the core, before anything says what it is.
    arriving = getattr(multiprocessing.current_process(), "_inheriting", False)
    _threads_settled = inside or (multiprocessing.parent_process() is None and not arriving)


def _forked() -> None:
    global _threads_settled
    _threads_settled = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def reasons() -> tuple[str, ...]:
    """Why there is no compiled core; empty if there is one."""
    return _load()[1]


@functools.cache
def warn_if_missing() -> None:
    """Says once, loudly, that everything will be slow."""
    if core() is None:
        warnings.warn(
            "tpc_fast runs without its compiled core, a hundred times slower or worse: " + "; ".join(reasons()),
            RuntimeWarning,
            stacklevel=3,
        )


def set_num_threads(count: int) -> None:
    """Sets how many threads the compiled core uses, the calling one included.

    Unless this is called, it uses as many as the machine has; in a worker of a torch DataLoader, one.

    Raises:
        ValueError: if `count` is not an integer from 1 to 1024.
    """
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 1024:
        raise ValueError(f"count must be an integer from 1 to 1024, but is {count!r}")
    global _threads_chosen
    _threads_chosen = True
    if core() is not None:
        core().set_num_threads(count)


def work_alone() -> None:
    """From now on the calling thread computes without the core's other threads: for threads that share frames out."""
    if core() is not None:
        core().set_sharing(False)


def get_num_threads() -> int:
    """How many threads the compiled core uses (1 without it)."""
    return core().get_num_threads() if core() is not None else 1
