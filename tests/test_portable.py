"""The core with other compilers and processors, as far as one machine can tell: standard C++, clang, 64-bit ARM."""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "csrc").glob("*.cpp"))
pytestmark = [pytest.mark.native, pytest.mark.slow]

# Takes the core from a path, and holds its operations against the naive ones; prints what it ran on.
COMPARE = """
import importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("tpc_fast._C", sys.argv[1])
core = sys.modules["tpc_fast._C"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
import tpc_fast
from tpc_fast import _native
from tpc_fast.ops.transforms import search_transform
assert _native.core() is core
rng = np.random.default_rng()
image, mask = rng.integers(0, 256, (61, 43, 3), np.uint8), rng.integers(0, 256, (61, 43), np.uint8)
matrix = np.array([[[0.9, -0.3, 12.3], [0.3, 0.9, -3.7]], [[1.7, 0.2, -9], [-0.2, 1.7, 8]]])
x, y = rng.normal(size=(2, 50, 17, 2))
for level in core.simd_levels():
    core.force_simd(level)
    for interpolation in ("cubic", "bilinear", "nearest"):
        for antialias in (False, True):
            ours, truth = (
                tpc_fast.warp_composite(image, mask, matrix, (67, 75), interpolation=interpolation, antialias=antialias,
                                        background=30, backend=backend)
                for backend in ("cpu", "naive")
            )
            for name in ("image", "mask", "composite"):
                a, b = (np.asarray(getattr(w, name)).astype(int) for w in (ours, truth))
                off = np.abs(a - b)
                if interpolation == "nearest":  # a tie may fall to either side
                    assert (off > 1).mean() < 0.01, (level, name, off.max())
                else:
                    assert off.max() <= 1 + antialias, (level, interpolation, antialias, name, off.max())
    fit, plain = (tpc_fast.fit_similarity(x, y, backend=backend) for backend in ("cpu", "naive"))
    np.testing.assert_allclose(fit.matrix, plain.matrix, atol=1e-9)
    found, sure = (tpc_fast.search_subset(x[:5], y[:5], backend=backend) for backend in ("cpu", "naive"))
    np.testing.assert_allclose(found.value, sure.value, atol=2e-6)
    for model in ("similarity", "affine"):  # no subset has three points
        few = dict(tolerance=np.full(17, 9.0), valid=np.arange(17) < 2, criterion="fixed", size=3)
        none = search_transform(x[:5], y[:5], model, **few, backend="cpu")
        assert not none.members.any() and not none.fit.ok.any() and not none.value.any(), (level, none)
    points = rng.normal(size=(2, 5, 8, 3))
    found, sure = (tpc_fast.search_subset(*points, 0.5, backend=backend) for backend in ("cpu", "naive"))
    np.testing.assert_allclose(found.value, sure.value, atol=2e-6)
print(" ".join(core.simd_levels()))
"""


def build(folder: Path, **environment) -> Path:
    """The core built with other compilers or flags."""
    words = ["build_ext", "--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp")]
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", *words],
        cwd=ROOT,
        env={**os.environ, "TPC_FAST_NEED_CORE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (core,) = (folder / "lib").rglob(f"_C{sysconfig.get_config_var('EXT_SUFFIX')}")
    return core


def compare(core: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", COMPARE, str(core)], capture_output=True, text=True, timeout=600, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_standard_c_plus_plus_is_enough(tmp_path):
    """Without any extension, attribute or intrinsic, as on a compiler that nobody knows: same results."""
    flags = "-DTPC_PLAIN -O1 -Wpedantic -Werror=pedantic"
    assert compare(build(tmp_path, CFLAGS=flags, CXXFLAGS=flags)) == "baseline"


@pytest.mark.skipif(shutil.which("clang++") is None, reason="no clang++ here")
def test_clang_builds_all_levels(tmp_path):
    from tpc_fast import _native

    assert compare(build(tmp_path, CC="clang", CXX="clang++")) == " ".join(_native.core().simd_levels())


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="levels are of x86 processors")
@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs what the kernel says of the processor")
def test_levels_are_what_the_kernel_says():
    from tpc_fast import _native

    line = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    has = set(line.partition(":")[2].split())
    wanted = ["baseline"]
    if {"avx2", "fma", "bmi2"} <= has:
        wanted.append("avx2")
        if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= has:
            wanted.append("avx512")
    assert _native.core().simd_levels() == wanted


#: Hot function on the baseline -> how many vector instructions it has at least, on 64-bit ARM, by GCC 12. Seen, for
#: example: 137 in the search of procrustes, none with -fno-tree-vectorize.
HOT = {
    "procrustes": {"fit_2d_baseline<float>": 200, "fit_2d_baseline<double>": 200, "search_baseline": 120},
    "transforms": {"search_baseline": 80},
    "search_3d": {"search_baseline": 80},
    "warp": {"sample_baseline<4>": 100, "sample_baseline<2>": 40, "Baseline::store_bytes": 200, "Baseline::settle": 8,
             "Baseline::store_halves": 20, "Baseline::lay_over": 4, "Baseline::halve_line": 20},
    "png": {"deflate_picture": 150},
}  # fmt: skip


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="no cross-compiler for 64-bit ARM here")
@pytest.mark.parametrize("name", HOT)
def test_hot_loops_are_vectors_on_arm(tmp_path, name):
    """The core's own code (no Python in it) for another processor: loops that stay scalar have no such registers."""
    flags = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]
    target = tmp_path / "code.o"
    source = ROOT / "csrc" / f"{name}.cpp"
    subprocess.run(["aarch64-linux-gnu-g++", *flags, "-c", str(source), "-o", str(target)], check=True, timeout=600)
    text = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", "-C", "--no-show-raw-insn", str(target)],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    counts = {}
    for part in re.split(r"\n(?=[0-9a-f]+ <)", text):
        function = part.partition("\n")[0]
        found = re.findall(r"^\s.*\t(?!movi|fmov|dup|ld|st)\w+\t.*\.(?:2d|4s|8h|16b)", part, re.MULTILINE)
        for hot in HOT[name]:
            if f"::{hot}(" in function or f"::{hot}<" in function:
                counts[hot] = max(counts.get(hot, 0), len(found))
    print(counts)
    assert counts.keys() == HOT[name].keys()
    for hot, least in HOT[name].items():
        assert counts[hot] >= least, (hot, counts)
