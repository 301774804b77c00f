"""Starts tests/cubins.py for several GPUs beside each other, without the interpreter that is on in this process."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path


@contextlib.contextmanager
def compiling(capabilities, *what):
    """Processes by capability; what is left of them at the end is killed."""
    command = [sys.executable, str(Path(__file__).with_name("cubins.py"))]
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    options["env"] = {**os.environ, "TRITON_INTERPRET": "0"}
    processes = {sm: subprocess.Popen([*command, str(sm), *what], **options) for sm in capabilities}
    try:
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
