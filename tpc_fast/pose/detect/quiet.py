"""Silence while a library starts."""

import contextlib
import os


@contextlib.contextmanager
def quiet():
    """Keeps start-up notices of C++ libraries, which know no logging module, off the standard error."""
    try:
        saved = os.dup(2)
    except OSError:  # no standard error
        yield
        return
    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
