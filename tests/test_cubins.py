"""Every kernel compiles for GPUs that are not here, in processes of their own: the interpreter is on in this one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.triton
HOT = ("fit_2d_kernel", "search_kernel", "warp_composite_kernel")
CAPABILITIES = (80, 90, 100)


@pytest.fixture(scope="module")
def compiling():
    """One process per GPU, started together."""
    command = [sys.executable, str(Path(__file__).with_name("cubins.py"))]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = {c: subprocess.Popen([*command, str(c)], env=environment, **pipes) for c in CAPABILITIES}
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.slow
def test_kernels_compile(compiling, capability):
    """Registers, spills and shared memory are printed (`pytest -s`); the hot kernels spill nothing."""
    said, errors = compiling[capability].communicate(timeout=900)
    print(said)
    assert compiling[capability].returncode == 0, errors
    found = re.findall(r"^(\w+) sm_(\d+) registers (\d+) spilled (\d+) shared (\d+)", said, re.MULTILINE)
    assert {name for name, *_ in found} == {
        "fit_2d_kernel", "fit_3d_kernel", "search_kernel", "subset_kernel", "warp_composite_kernel", "pack_kernel",
        "halve_kernel",
    }  # fmt: skip
    assert sum(name == "warp_composite_kernel" for name, *_ in found) == 15
    for name, architecture, registers, spilled, shared in found:
        assert int(architecture) == capability
        assert int(registers) <= 255
        assert int(shared) <= 48 << 10
        if name in HOT:
            assert int(spilled) == 0, name
