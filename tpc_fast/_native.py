"""The compiled core, loaded on first use. If it is missing, `reasons()` says every reason why."""

import functools
import importlib
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
        reasons.append(_FAILURE_NOTE.read_text().strip())
    elif (Path(__file__).parents[1] / "csrc").is_dir():
        reasons.append(
            f"{Path(__file__).parent} is a source tree whose core was not built: run `pip install -e .` there, "
            "or start Python elsewhere to use the installed package"
        )
    return None, tuple(reasons)


def core():
    """The module `tpc_fast._C`, or None."""
    return _load()[0]


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

    Raises:
        ValueError: if `count` is not an integer from 1 to 1024.
    """
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 1024:
        raise ValueError(f"count must be an integer from 1 to 1024, but is {count!r}")
    if core() is not None:
        core().set_num_threads(count)


def work_alone() -> None:
    """From now on the calling thread computes without the core's other threads: for threads that share frames out."""
    if core() is not None:
        core().set_sharing(False)


def get_num_threads() -> int:
    """How many threads the compiled core uses (1 without it)."""
    return core().get_num_threads() if core() is not None else 1
