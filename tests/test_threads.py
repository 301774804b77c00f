"""What a thread of the core throws reaches the caller, and the pool goes on."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space are Linux's"),
]


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("spare", [1, 8])
def test_out_of_memory_in_a_worker_is_a_memory_error(threads, spare):
    """In a process of its own, as it is what is tested that it does not die."""
    code = f"""
        import resource
        import numpy as np
        import tpc_fast
        tpc_fast.set_num_threads({threads})
        x, y = np.zeros((1100, 20000, 2), np.float32), np.ones((1100, 20000, 2), np.float32)
        tpc_fast.fit_similarity(x[:600, :4], y[:600, :4])  # starts the workers
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + ({spare} << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            tpc_fast.fit_similarity(x, y)
            print("enough")
        except MemoryError:
            print("MemoryError")
        assert tpc_fast.fit_similarity(x[:600, :4], y[:600, :4]).ok.shape == (600,)
        print("goes on")
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:2] in (["MemoryError", "goes on"], ["enough", "goes on"])
    if spare == 1:
        assert run.stdout.startswith("MemoryError")
