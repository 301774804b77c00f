"""What is kept off the standard error while a detector starts, and that nothing else is."""

import os
import subprocess
import sys
import threading

import pytest

from tpc_fast.pose.detect.quiet import quiet


def test_notices_alone_are_kept_off(capfd):
    with quiet("INFO: hello"):
        os.write(2, b"INFO: hello, this is a library\nsomebody else: lost?\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "somebody else: lost?\nafter\n"


def test_all_is_kept_off(capfd):
    with quiet():
        os.write(2, b"noise\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_an_error_leaves_the_standard_error_as_it_was(capfd):
    def fails():
        with quiet("INFO"):
            os.write(2, b"why\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "why\nafter\n"


def test_threads_at_once_leave_the_standard_error_as_it_was(capfd):
    """The first one to come would be the first one to leave, while the other still has what it took for the error."""
    came, left = threading.Event(), threading.Event()

    def first():
        with quiet("INFO"):
            came.set()
            left.wait(0.2)  # so long the other one has to come

    def other():
        came.wait()
        with quiet("INFO"):
            thread.join(1)
        left.set()

    thread = threading.Thread(target=first)
    thread.start()
    other()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_quiets_in_each_other(capfd):
    with quiet("INFO"), quiet("NOTE"):
        os.write(2, b"INFO: one\nNOTE: two\nthree\n")
    assert capfd.readouterr().err == "three\n"


@pytest.mark.demo
def test_the_embedded_detector_leaves_the_process_as_it_was():
    """No line on either output, no signal handler, no variable of the environment, no logging handler, no thread."""
    script = """
import logging, os, signal, threading
import numpy as np
from tpc_fast.pose import get_detector, PersonTracker

def state():
    handlers = [signal.getsignal(n) for n in signal.valid_signals()]
    return handlers, dict(os.environ), logging.root.handlers[:], threading.active_count(), os.getcwd()

before = state()
detector = get_detector("blazepose")
PersonTracker(detector).step(np.zeros((64, 64, 3), np.uint8))
detector.close()
assert state() == before
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
