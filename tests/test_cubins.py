"""Every kernel compiles for GPUs that are not here, in processes of their own: the interpreter is on in this one."""

import re

import pytest
from compiling import compiling

pytestmark = pytest.mark.triton
HOT = ("fit_2d_kernel", "search_kernel", "warp_composite_kernel")
CAPABILITIES = (80, 90, 100)


@pytest.fixture(scope="module")
def processes():
    with compiling(CAPABILITIES) as started:
        yield started


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.slow
def test_kernels_compile(processes, capability):
    """Registers, spills and shared memory are printed (`pytest -s`); the hot kernels spill nothing."""
    said, errors = processes[capability].communicate(timeout=900)
    print(said)
    assert processes[capability].returncode == 0, errors
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
        if name == "search_kernel":  # with LOW_BITS = 9 it takes 175, and two programs fit a multiprocessor
            assert int(registers) <= 128  # four of four warps: 65,536 registers
