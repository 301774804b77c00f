"""What every test run must say: which backends ran, and which were skipped and why.

`TPC_REQUIRE=native,triton,demo,mediapipe,torch,diffusion,evaluate,rtmlib,sample` turns the absence of the compiled
core, of Triton, of the embedded detector and the bundled photo, of MediaPipe, of torch, of diffusers, of torchmetrics,
of rtmlib and ONNX, or of the published sample into a failure instead of a skip; so does `app` (Gradio, Playwright and
Chromium, for the tests of the page), and so do `provenance` (c2pa-python), `mmpose` and `segment_anything`,
each in an environment of its own (tests/noxfile.py).

Random numbers are new ones in every run; `TPC_SEED=N` gives those of the run that named N when it failed.
"""

import gc
import importlib.util
import os
import shutil
import signal
import zlib
from pathlib import Path

# Threads of torch and BLAS wait for each other by spinning: on arrays as small as here that is most of their time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest

import tpc_fast
from tpc_fast import _native

# Without a GPU, Triton kernels run on CPU tensors by the interpreter, which must be chosen before they are imported.
if importlib.util.find_spec("torch") is not None:
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"


if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None:
    import interpreter

    interpreter.hasten()

# First calls pay for imports and page faults: the time of one example says nothing.
hypothesis.settings.register_profile("tpc_fast", deadline=None)
hypothesis.settings.load_profile("tpc_fast")

# A test run in the background ignores Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SEED = int(os.environ.get("TPC_SEED") or np.random.SeedSequence().generate_state(1)[0])

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "tpc_sample1"


_NOX = "nox -f tests/noxfile.py makes an environment for it"
# What a backend is imported from, and how that is installed.
PACKAGES = {
    "demo": (("ai_edge_litert", "platformdirs", "skimage"), "extra 'demo'"),
    "mediapipe": (("mediapipe",), "extra 'mediapipe', for Python before 3.13"),
    "torch": (("torch",), "extra 'torch'"),
    "diffusion": (("torch", "diffusers", "transformers"), "extra 'diffusion'"),
    "evaluate": (("torch", "torchmetrics"), "extra 'evaluate'"),
    "app": (("gradio", "playwright"), "extra 'app', and playwright"),
    "rtmlib": (("rtmlib", "onnxruntime", "onnx"), "see docs/guides/detectors.md"),
    "mmpose": (("mmpose", "mmcv", "mmdet"), _NOX),
    "segment_anything": (("segment_anything", "torchvision"), _NOX),
    "datasets": (("ray", "pyarrow", "fsspec"), "extra 'datasets'"),
    "provenance": (("c2pa", "cryptography"), "extra 'provenance'"),
    "docs": (("mkdocs", "material", "mkdocstrings"), "extra 'docs'"),
}


def chromium() -> str | None:
    """The browser for the tests of the page: the system's, or Playwright's own."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    own = sorted(Path.home().glob(".cache/ms-playwright/chromium-*/chrome-linux*/chrome"))
    return found or (str(own[-1]) if own else None)


def _missing() -> dict[str, str]:
    """What cannot be tested here -> why."""
    missing = {}
    if _native.core() is None:
        missing["native"] = "no compiled core: " + "; ".join(_native.reasons())
    for backend, (packages, how) in PACKAGES.items():
        absent = [name for name in packages if importlib.util.find_spec(name) is None]
        if absent:
            missing[backend] = f"{' and '.join(absent)} not installed ({how})"
    if not tpc_fast.backends()["triton"].available:
        missing["triton"] = "no Triton kernels: " + "; ".join(tpc_fast.backends()["triton"].reasons)
    if not (SAMPLE / "driving.mp4").exists():
        missing["sample"] = f"the published sample is not at {SAMPLE}"
    if "app" not in missing and chromium() is None:
        missing["app"] = "no Chromium: apt-get install chromium, or playwright install chromium"
    return missing


MISSING = _missing()
KNOWN = ("native", "triton", *PACKAGES, "sample")


def pytest_configure(config):
    for name in KNOWN:
        config.addinivalue_line("markers", f"{name}: needs it; skipped with a reason, or failed under TPC_REQUIRE")
    required = [name.strip() for name in os.environ.get("TPC_REQUIRE", "").split(",") if name.strip()]
    unknown = [name for name in required if name not in KNOWN]
    if unknown:
        raise pytest.UsageError(f"TPC_REQUIRE must list some of {', '.join(KNOWN)}, but has {', '.join(unknown)}")
    absent = [f"{name} ({MISSING[name]})" for name in required if name in MISSING]
    if absent:
        raise pytest.UsageError(f"required by TPC_REQUIRE but absent: {'; '.join(absent)}")


def pytest_collection_modifyitems(items):
    for item in items:
        for name, why in MISSING.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=why))


def pytest_collection_finish(session):
    """What is imported by now stays: the garbage collector need not look at half a million objects again and again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("backends")
    for name, status in tpc_fast.backends().items():
        said = status.detail if status.available else "absent: " + "; ".join(status.reasons)
        terminalreporter.write_line(f"{name}: {said}")
    for name, why in MISSING.items():
        terminalreporter.write_line(f"SKIPPED what needs {name}: {why}")


def simd_levels() -> list[str]:
    """The levels of the compiled core that this processor can run, slowest first."""
    core = _native.core()
    return ["absent"] if core is None else core.simd_levels()


@pytest.fixture(params=simd_levels())
def simd(request):
    """Runs a test once for every SIMD level of the compiled core, alone."""
    core = _native.core()
    if core is None:
        pytest.skip(MISSING["native"])
    core.force_simd(request.param)
    yield request.param
    core.force_simd(core.simd_levels()[-1])


@pytest.fixture
def rng(request):
    """Fresh random numbers in every run, the same ones when a run repeats a test; a failure prints the seed."""
    seed = [SEED, zlib.crc32(request.node.nodeid.encode())]
    request.node.add_report_section("setup", "seed", f"TPC_SEED={SEED}, numpy.random.default_rng({seed})")
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def one_thread():
    """Tiny diffusion models run faster so, and the same bits come out of every run of a module."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sample() -> Path:
    """The folder of the published sample; use with the `sample` marker."""
    return SAMPLE
