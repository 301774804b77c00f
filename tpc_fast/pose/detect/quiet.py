"""Silence while a library starts."""

import contextlib
import os
import tempfile


@contextlib.contextmanager
def quiet(*notices: str):
    """Keeps start-up notices of C++ libraries, which know no logging module, off the standard error.

    With `notices`, only lines that begin with one of these are kept off: whatever else is written meanwhile, by any
    thread, is written afterwards.
    """
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
