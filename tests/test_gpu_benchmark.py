"""What of `benchmarks/gpu.py` can run without a GPU: its checks, small, and its refusal to measure."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tpc_fast

torch = pytest.importorskip("torch", reason="torch comes with extra 'torch'")
pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # NumPy interprets
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu():
    specification = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_its_checks_pass_and_can_fail(gpu, monkeypatch, capsys):
    sizes = gpu.Sizes(fits=130, searches=2, points=9, pixels=(12, 20), frames=12, grid=(4, 5))
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    checks, failures = gpu.Checks(device, sizes, "triton"), gpu.Failures()
    checks.run(failures)
    assert failures == []
    assert len(checks.rows) == 4 * 2 + 2 + 7 * 3 + (3 if DEVICE == "cuda" else 2) + 2
    assert all(row["error"] <= row["limit"] for row in checks.rows)
    monkeypatch.setitem(gpu.LIMIT, "uint8", -1)
    monkeypatch.setattr(checks, "fits", lambda: None)
    monkeypatch.setattr(checks, "search", lambda: 1 / 0)
    checks.rows.clear()
    checks.run(failures)
    search, warps = failures
    assert search == "check of search: ZeroDivisionError: division by zero"
    assert warps.startswith("check of warps: AssertionError: warp cubic uint8")
    assert [row["what"].split(",")[0] for row in checks.rows] == [
        "warp cubic uint8 antialias", *["reference attention float32", "reference attention float16",
        "reference attention bfloat16"][: 3 if DEVICE == "cuda" else 2], "stream", "stream",
    ]  # fmt: skip
    assert "Traceback" in capsys.readouterr().err


def test_a_part_that_fails_leaves_the_rest(gpu, monkeypatch, tmp_path, capsys):
    """The whole program, with a clock of the host in place of the device's."""
    naive = tpc_fast.backends()["naive"]
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: True)
        patched.setattr(torch.cuda, "get_device_name", lambda: "no GPU")
        patched.setattr(torch.cuda, "current_device", lambda: 0)
        patched.setattr(gpu.tpc_fast, "backends", lambda: {"triton": naive})
        patched.setattr(gpu, "RESULTS", tmp_path / "results" / "gpu.json")

        class Clock:
            left = 100.0

            def times(self, function, runs=1, graph=True):
                function()
                return {"us": 1.0, "us_20": 1.0, "us_80": 1.0, "graph": graph}

            def copy_bandwidth(self):
                return 1e12

        def stay(array):
            return torch.tensor(array, device=DEVICE)

        def quick(table):
            src, dst = gpu.people(np.random.default_rng(0), 3)
            table.ours("quick", 3, lambda: tpc_fast.fit_similarity(stay(src), stay(dst)), moved=1000)
            table.peer("quick", "a peer", 3, lambda: torch.linalg.svd(stay(src), driver="none"))

        calibrator = functools.partial(tpc_fast.Calibrator)
        patched.setattr(gpu, "Clock", Clock)
        patched.setattr(gpu, "cuda", stay)
        patched.setattr(gpu, "Calibrator", lambda *a, **k: calibrator(*a, **k | {"device": DEVICE}))
        patched.setattr(gpu.Checks, "run", lambda self, failures: failures.append("check of search: wrong"))
        patched.setattr(gpu, "measure_warps", lambda *_: 1 / 0)
        patched.setattr(gpu, "measure_fits", quick)
        patched.setattr(gpu, "measure_search", quick)
        patched.setattr(gpu, "measure_model_input", quick)
        patched.setattr(gpu, "measure_attention", lambda table, persons: None)
        with pytest.raises(SystemExit, match="3 parts failed"):
            gpu.main()
    results = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert [failure.split(":")[0] for failure in results["failed"]] == [
        "check of search", "times of warps 512x512", "times of warps 1024x1024",
    ]  # fmt: skip
    assert len({row["work"] for row in results["rows"]}) == 2
    assert any("a peer" in absent for absent in results["absent"])
    said = capsys.readouterr().out
    assert "FAILED times of warps 512x512: ZeroDivisionError" in said
    assert "a frame of a stream of 2 persons, keypoints to model input, one graph\n    tpc_fast:" in said


def test_its_table_says_what_was_measured(gpu):
    times = {"us": 100.0, "us_20": 90.0, "us_80": 120.0, "graph": True}
    results = {
        "gpu": "a GPU", "driver": "1", "versions": {}, "date": "2026-01-01", "copy_bandwidth": 2e12, "failed": [],
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
