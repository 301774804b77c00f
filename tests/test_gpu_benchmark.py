"""What of `benchmarks/gpu.py` can run without a GPU: its checks, small, and its refusal to measure."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch comes with extra 'torch'")
pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # NumPy interprets
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu():
    specification = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_its_checks_pass_and_can_fail(gpu, monkeypatch):
    sizes = gpu.Sizes(fits=130, searches=2, points=9, pixels=(12, 20))
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    rows = gpu.check(device, sizes, "triton")
    assert len(rows) == 4 + 2 + 7 * 3
    assert all(row["error"] <= row["limit"] for row in rows)
    monkeypatch.setitem(gpu.LIMIT, "uint8", -1)
    with pytest.raises(AssertionError, match="warp cubic uint8"):
        gpu.check(device, sizes, "triton")


def test_its_table_says_what_was_measured(gpu):
    times = {"us": 100.0, "us_20": 90.0, "us_80": 120.0, "graph": True}
    results = {
        "gpu": "a GPU", "driver": "1", "versions": {}, "date": "2026-01-01", "copy_bandwidth": 2e12,
        "checks": [{"what": "fit", "error": 1e-6, "limit": 1e-5}],
        "rows": [
            {"work": "fit", "member": "tpc_fast", "items": 10, **times, "bytes": 10**8, "target_us": 150.0},
            {"work": "fit", "member": "svd", "items": 1, **times, "bytes": None, "target_us": None},
        ],
        "absent": ["roma is not installed"],
    }  # fmt: skip
    said = gpu.summary(results)
    assert "1,000 GB/s, 50% of copy bandwidth, target 150 us" in said
    assert "svd:      1,000.0 us (900.0 to 1,200.0), 10.0x" in said
    assert "left out: roma is not installed" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_it_says_that_there_is_no_gpu():
    result = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, env=os.environ, timeout=120)
    assert result.returncode == 1
    assert "measures a CUDA device, and torch finds none here" in result.stderr
