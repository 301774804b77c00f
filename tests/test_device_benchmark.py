"""`benchmarks/device.py` without a GPU: every part starts and writes, keeps its limit, and survives the others."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch comes with extra 'torch'")
pytestmark = pytest.mark.triton
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "device.py"


@pytest.fixture
def device(monkeypatch):
    specification = importlib.util.spec_from_file_location("device_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "device_benchmark", module)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def processes(device, monkeypatch):
    """Lets a test say how the processes of parts are waited for: `processes(wait)`."""

    def waited_for(wait):
        process = type("Process", (subprocess.Popen,), {"wait": wait})
        monkeypatch.setattr(device, "subprocess", types.SimpleNamespace(**vars(subprocess) | {"Popen": process}))

    return waited_for


def rows(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


@pytest.mark.diffusion
@pytest.mark.slow
def test_every_part_starts_and_writes(tmp_path):
    run = subprocess.run(
        [sys.executable, SCRIPT, "--dry-run", "--out", tmp_path], capture_output=True, text=True, timeout=1500
    )
    assert run.returncode == 0, run.stderr
    written = rows(tmp_path)
    statuses = {row["part"]: row for row in written if "status" in row}
    names = [
        "ceilings",
        "tests",
        "attention",
        "step",
        "geometry",
        "live",
        "memcheck",
        "racecheck",
        "counters",
        "compiled",
    ]
    assert [row["part"] for row in written if "status" in row] == names
    for name, status in statuses.items():
        assert status["status"] == "ok", (name, status["said"])
    measured = {row["part"] for row in written if "us" in row or row.get("ran")}
    assert measured == {"ceilings", "attention", "step", "geometry", "live", "kernels", "compiled"}
    failed = {row["member"] for row in written if "failed" in row and "member" in row}
    assert failed <= {"torch cudnn_attention over as many pairs", "torch efficient_attention over as many pairs"}
    assert all(row["error"] < 2e-2 for row in written if "error" in row)
    assert "passed" in " ".join(statuses["tests"]["said"])
    results = json.loads((tmp_path / "gpu-dry-run.json").read_text())
    assert results["gpu"] == "no GPU: a dry run"
    assert len(results["goals"]) == 8
    assert "calibrated step over the plain one" in run.stdout


def test_a_part_that_crashes_or_hangs_loses_nothing(device, processes, tmp_path, capsys):
    def python(name, code, limit=300.0, **options):
        return device.Part(name, limit, (sys.executable, "-c", code), **options)

    def wait(self, timeout=None):
        """The limit of what hangs begins when it hangs, however long the machine takes to start it."""
        while timeout is not None and self.poll() is None and b"\nhangs\n" not in (tmp_path / "log.txt").read_bytes():
            time.sleep(0.01)
        return subprocess.Popen.wait(self, timeout)

    processes(wait)
    write = f'open({str(tmp_path / "rows.jsonl")!r}, \'a\').write(\'{{"part": "p", "work": "w"}}\\n\')'
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    start = time.monotonic()
    device.run_parts(
        [
            python("dies", f"{write}; import os; os.kill(os.getpid(), 11)"),
            python("raises", "print('before'); raise SystemExit(3)"),
            python("hangs", f"{write}\nimport time\nprint('hangs', flush=True)\ntime.sleep(600)", limit=2.0),
            python("leaves a child", f"{child}; print('left')"),
            python("absent tool", "0", tool="no-such-program"),
            device.Part("no such command", 5, ("/no/such/command",)),
            python("works", write),
        ],
        tmp_path, 3000, dict(os.environ),
    )  # fmt: skip
    assert time.monotonic() - start < 600  # what hangs, and the child, would take as long
    statuses = {row["part"]: row["status"] for row in rows(tmp_path) if "status" in row}
    assert statuses == {
        "dies": "failed with exit status -11", "raises": "failed with exit status 3",
        "hangs": "stopped at its limit of 2 s", "leaves a child": "ok",
        "absent tool": "left out: there is no no-such-program",
        "no such command": "failed to start: [Errno 2] No such file or directory: '/no/such/command'", "works": "ok",
    }  # fmt: skip
    assert sum("work" in row for row in rows(tmp_path)) == 3
    said = {row["part"]: row.get("said") for row in rows(tmp_path) if "status" in row}
    assert said["raises"] == ["before"]
    assert said["hangs"] == ["hangs"]


def test_parts_end_with_the_time(device, processes, tmp_path, monkeypatch):
    """By a clock that goes on only while a part is waited for."""
    now = [0.0]

    def wait(self, timeout=None):
        if timeout is None:
            return subprocess.Popen.wait(self)
        now[0] += timeout
        raise subprocess.TimeoutExpired(self.args, timeout)

    processes(wait)
    monkeypatch.setattr(device, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    part = device.Part("long", 100, (sys.executable, "-c", "import time; time.sleep(600)"))
    device.run_parts([part, part], tmp_path, 3, dict(os.environ))
    assert [row["status"] for row in rows(tmp_path)] == ["stopped at its limit of 3 s", "left out: no time left"]
    assert sum(p.limit for p in device.parts(tmp_path / "rows.jsonl", False)[:6]) <= device.SECONDS


def test_goals_are_read_off_the_rows(device, tmp_path):
    def row(work, member, us, items=16):
        return {"work": work, "member": member, "us": us, "items": items}

    layer = "attention, 4096 tokens, 8 heads of {}, 1 person(s), float16"
    step, warp = (
        "guided step of 16 frames 512x512, 1 person(s)",
        "warp of 93 frames 512x512, image and mask, cubic, uint8",
    )
    written = [
        row(layer.format(40), "tpc_fast", 70), row(layer.format(40), device.FLASH, 100),
        row(layer.format(64), "tpc_fast", 120), row(layer.format(64), device.FLASH, 100),
        row(layer.format(80), "tpc_fast", 90), row(layer.format(80), device.FLASH, 100),
        row(step, "tpc_fast", 110), row(step, "no reference at all", 100),
        row(step, "the original's scheme", 200, items=8), row(warp, "tpc_fast", 240, 93),
        row("16 frames 512x512, 4 steps, no guidance, small decoder", "tpc_fast", 500_000),
        {"work": "search of 131,072 subsets, 93 frames", "member": "tpc_fast", "failed": "RuntimeError: x"},
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
    results = device.condense(tmp_path)
    got = {goal["goal"]: (goal["measured"], goal["met"]) for goal in results["goals"]}
    assert list(got.values()) == [
        (pytest.approx(0.7), True), (pytest.approx(1.2), False), (pytest.approx(1.1), True),
        (pytest.approx(400 / 110), True), (240, True), (None, None), (None, None), (pytest.approx(32), True),
    ]  # fmt: skip
    assert "MISSED" in device.summary(results)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_a_failed_capture_is_timed_eagerly_and_says_why(monkeypatch):
    """With events, streams and graphs that are none."""
    import device_work

    class Event:
        def __init__(self, enable_timing):
            pass

        def record(self):
            pass

        def elapsed_time(self, other):
            return 2.0

    def graph(captured):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(device_work, "ON_GPU", True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    clock = device_work.Clock.__new__(device_work.Clock)
    clock._flush = torch.empty(1)
    calls = []
    spent = clock.times(lambda: calls.append(1), runs=5)
    assert spent["us"] == 2000
    assert spent["how"] == "eager: no graph, RuntimeError: operation not permitted when stream is capturing"
    assert len(calls) == 8


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_only_a_dry_run_is_possible(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    script = SCRIPT.with_name("device_parts.py")
    command = [sys.executable, script, "ceilings", tmp_path / "rows.jsonl"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert run.returncode == 1
    assert "only a dry run is possible" in run.stderr
