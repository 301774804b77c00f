"""The Triton kernel of reference attention: interpreted on CPU tensors, and compiled for GPUs that may be absent."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from test_reference_attention import problem  # noqa: E402

from tpc_fast.ops.attention import reference_attention  # noqa: E402

pytestmark = pytest.mark.torch
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def nan_filled(monkeypatch):
    """Memory that nobody wrote is seen."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))


# Beside the rounding of input and output, weights are rounded to the type before they meet the values. (The interpreter
# cannot multiply bfloat16; the compiled kernel is the same but for the type.)
TOLERANCE = {"float32": 4e-6, "float16": 4e-3}


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float32", dict(persons=2, dim=40, window=np.array([4, 5, 0, 1, 1]), grid=(5, 7))),
        ("float32", dict(persons=0, dim=5, frames=2, heads=1)),
        ("float32", dict(persons=3, dim=16, frames=3, videos=2, grid=(9, 15), heads=1)),  # more tokens than a tile
        ("float32", dict(persons=1, dim=8, frames=3, guided=False, grid=(1, 1))),
        ("float16", dict(persons=2, dim=80, frames=3, grid=(4, 5), heads=2)),
    ],
    ids=str,
)
def test_kernel_agrees_with_naive(rng, nan_filled, dtype, options):
    tensors, selection, cond, expected = problem(rng, **options)
    typed = [torch.from_numpy(x).to(DEVICE, getattr(torch, dtype)) for x in tensors]
    got = reference_attention(*typed, selection, cond, backend="triton")
    assert got.dtype == typed[0].dtype
    assert got.is_contiguous()
    np.testing.assert_allclose(got.double().cpu().numpy(), expected, rtol=0, atol=TOLERANCE[dtype])


def test_kernel_takes_any_strides(rng):
    tensors, selection, cond, expected = problem(rng, persons=1, dim=8, frames=2, grid=(3, 4), heads=2)
    q, k, v, bank_k, bank_v = (torch.from_numpy(x).to(DEVICE, torch.float32) for x in tensors)
    joined = torch.cat([q, k, v], 2)  # as one projection gives them
    q, k, v = joined.split(2, 2)
    bank_k = bank_k.transpose(1, 2).contiguous().transpose(1, 2)
    got = reference_attention(q, k, v, bank_k, bank_v, selection, cond, backend="triton")
    np.testing.assert_allclose(got.double().cpu().numpy(), expected, rtol=0, atol=TOLERANCE["float32"])


def test_a_backend_is_forced_or_refused(rng):
    tensors, selection, cond, expected = problem(rng, persons=1, dim=8, frames=2, grid=(3, 4), heads=1)
    typed = [torch.from_numpy(x).to(DEVICE, torch.float32) for x in tensors]
    got = reference_attention(*typed, selection, cond, backend="cpu")
    np.testing.assert_allclose(got.double().cpu().numpy(), expected, rtol=0, atol=TOLERANCE["float32"])
    with pytest.raises(ValueError, match="backend must be None, 'cpu' or 'triton', but is 'naive'"):
        reference_attention(*typed, selection, cond, backend="naive")
    with pytest.raises(RuntimeError, match=r"takes float16, bfloat16 or float32, but q is torch\.float64"):
        reference_attention(*(x.double() for x in typed), selection, cond, backend="triton")
    typed[0].requires_grad_()
    with pytest.raises(RuntimeError, match="computes no gradient"):
        reference_attention(*typed, selection, cond, backend="triton")
    assert reference_attention(*typed, selection, cond).requires_grad


def test_tiles_are_of_one_class_and_cover_all(rng):
    _, selection, _, _ = problem(rng, persons=3, frames=4, videos=2, grid=(7, 9))
    tiles, order, *_ = selection.tables(16, (8, 16), 16)
    covered = torch.zeros(16, 63, dtype=torch.int64)
    for row, frame, first, count, seen in tiles.tolist():
        tokens = order[frame, first : first + count].long()
        covered[row, tokens] += 1
        assert 0 < count <= 16
        if row < 8:
            assert seen == 0
        else:
            assert (selection.plan.classes[selection.frames[frame], tokens] == seen).all()
            assert frame == row % 4
    assert (covered == 1).all()


COMPILE = """
    import json, sys
    import torch, triton
    from cubins import usage
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from tpc_fast.kernels import reference_attention as module

    TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
    TABLES = {"tiles": "*i64", "order": "*i32", "sources": "*i32", "key_lists": "*i32", "key_counts": "*i32"}
    TABLES["scale"] = "fp32"
    kernel, capability = module._reference_attention, int(sys.argv[1])
    for dtype, name in TYPES.items():
        for dim in (40, 64, 80, 160):
            constants = module.Tiling(dtype, dim).constants
            options = {key: constants.pop(key) for key in ("num_warps", "num_stages", "enable_fp_fusion")}
            signature, divisible = {}, {}
            for p in kernel.params:
                tensor = p.name in ("q", "k", "v", "bank_k", "bank_v", "out")
                kind = "*" + name if tensor else TABLES.get(p.name, "i32")
                signature[p.name] = "constexpr" if p.name in constants else kind
                even = ("_row", "_token", "tokens") + (("head_stride",) if dim % 16 == 0 else ())  # as a launch sees
                if "*" in kind or p.name.endswith(even):
                    divisible[(p.num,)] = [["tt.divisibility", 16]]
            target = GPUTarget("cuda", capability, 32)
            built = triton.compile(ASTSource(kernel, signature, constants, divisible), target=target, options=options)
            print(json.dumps([name, dim, *usage(built)]))
"""
SHARED = {80: 163 << 10, 90: 227 << 10}  # bytes that a program may have


def test_kernel_compiles_for_gpus(tmp_path):
    """In processes without the interpreter: cubins for sm_80 and sm_90, for all types and SD 1.5's head dimensions."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    options = dict(env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    code = textwrap.dedent(COMPILE)
    running = {sm: subprocess.Popen([sys.executable, "-c", code, str(sm)], **options) for sm in SHARED}
    for capability, process in running.items():
        out, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
        cubins = [json.loads(line) for line in out.splitlines()]
        assert len(cubins) == 12
        for name, dim, registers, spilled, shared in cubins:
            print(f"sm_{capability} {name} {dim}: {registers} registers, {spilled} bytes spilled, {shared} shared")
            assert shared <= SHARED[capability]
            assert spilled <= (64 if name != "fp32" else 256)
