"""Shared by the benchmarks: what was measured goes into `extra_info`, from which `table.py` makes tables.

Every benchmark belongs to a group; one of its members is `tpc_fast`, the others are peers on the same input. `items`
is how much work one round does, so that a peer that is too slow for all of it can be measured on a slice.
"""

import os
import platform
from pathlib import Path

import pytest

import tpc_fast
from tpc_fast import _native

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "tpc_sample1"


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def pytest_configure(config):
    if _native.core() is None:
        raise pytest.UsageError(
            "benchmarks measure the compiled core, which is missing: " + "; ".join(_native.reasons())
        )


def pytest_benchmark_update_machine_info(config, machine_info):
    # Only what a reader needs: no host names.
    machine_info.clear()
    machine_info.update(
        processor=cpu_name(),
        cores=os.cpu_count(),
        threads=tpc_fast.get_num_threads(),
        simd=_native.core().simd_level(),
        system=platform.system(),
        python=platform.python_version(),
    )


@pytest.fixture(scope="session")
def sample_or_none() -> Path | None:
    """The folder of the published sample, where it is."""
    return SAMPLE if (SAMPLE / "driving.mp4").exists() else None


@pytest.fixture(scope="session")
def sample(sample_or_none) -> Path:
    """The folder of the published sample."""
    if sample_or_none is None:
        pytest.skip(f"the published sample is not at {SAMPLE}")
    return sample_or_none


@pytest.fixture
def measure(benchmark):
    """`measure(function, rounds, member=..., work=..., items=..., **facts)` times it and returns the last result."""

    def run(function, rounds, *, member, work, items, setup=None, **facts):
        benchmark.group = work
        benchmark.extra_info.update(member=member, items=items, **facts)
        return benchmark.pedantic(function, setup=setup, rounds=rounds, warmup_rounds=0 if rounds == 1 else 1)

    return run
