"""Silence while a library starts."""

import contextlib
import os
import tempfile
import threading

# There is one standard error: who turns it away while another thread has it turned away would save, and put back, that
# other thread's file. The same thread may nest.
_lock = threading.RLock()


def _forked() -> None:
    global _lock
    _lock = threading.RLock()  # a thread that had the lock is not in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@contextlib.contextmanager
def quiet(*notices: str):
    """Keeps start-up notices of C++ libraries, which know no logging module, off the standard error.

    With `notices`, only lines that begin with one of these are kept off: whatever else is written meanwhile, by any
    thread, is written afterwards. One thread at a time is inside.
    """
    with _lock, _turned_away(notices):
        yield


@contextlib.contextmanager
def _turned_away(notices: tuple[str, ...]):
    try:
        saved = os.dup(2)
    except OSError:  # no standard error
        yield
        return
    with tempfile.TemporaryFile() if notices else open(os.devnull, "wb") as captured:
        try:
            os.dup2(captured.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            if notices:
                _write_others(captured, tuple(notice.encode() for notice in notices))


def _write_others(captured, notices: tuple[bytes, ...]) -> None:
    captured.seek(0)
    for line in captured:
        if not line.startswith(notices):
            os.write(2, line)
