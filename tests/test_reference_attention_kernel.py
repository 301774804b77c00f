"""The Triton kernel of reference attention: interpreted on CPU tensors, and compiled for GPUs that may be absent."""

import contextlib
import itertools
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")
from compiling import compiling  # noqa: E402
from params import slow  # noqa: E402
from test_reference_attention import blobs, problem  # noqa: E402
from tpc_fast.kernels import reference_attention as kernels  # noqa: E402

from tpc_fast import naive  # noqa: E402
from tpc_fast.ops.attention import RegionPlan, reference_attention  # noqa: E402
from tpc_fast.ops.propagation import PropagationPlan  # noqa: E402

pytestmark = pytest.mark.torch
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def nan_filled(monkeypatch):
    """Memory that nobody wrote is seen."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))


@pytest.fixture(autouse=True)
def bfloat16_products(monkeypatch):
    """The interpreter multiplies the bits of bfloat16 as integers: here, as numbers."""
    from triton.runtime import interpreter

    def wide(handle):
        if handle.dtype.scalar != triton.language.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), triton.language.float32)

    def dot(self, a, b, *rest):
        return original(self, wide(a), wide(b), *rest)

    original = interpreter.InterpreterBuilder.create_dot
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)


def assert_agrees(got, expected, tensors, typed):
    """Within four times what plain attention over own tokens loses in this dtype, and the rounding of the result.

    bfloat16 twice that: the interpreter cuts off where a GPU rounds.
    """
    assert got.dtype == typed[0].dtype
    assert got.is_contiguous()
    tokens = tensors[0].shape[1]
    nobody = np.zeros((0, tokens, len(tensors[3]), tokens), bool)
    own = naive.reference_attention(*tensors, nobody, slice(0, 0))
    plain = torch.nn.functional.scaled_dot_product_attention(*(x.cpu().transpose(1, 2) for x in typed[:3]))
    lost = np.abs(plain.transpose(1, 2).double().numpy() - own).max()
    unit = torch.finfo(got.dtype).eps * np.abs(expected).max()
    cut = 2 if got.dtype == torch.bfloat16 and DEVICE == "cpu" else 1
    np.testing.assert_allclose(got.double().cpu().numpy(), expected, rtol=0, atol=4 * cut * (lost + unit))


def on_device(tensors, dtype):
    return [torch.from_numpy(x).to(DEVICE, getattr(torch, dtype)) for x in tensors]


@pytest.mark.parametrize("dtype", ["float32", "float16", *slow("bfloat16")])
@pytest.mark.parametrize(
    "dim", [5, 16, 40, 160, *slow(1, 64, 80, 96, 128, 192, 256)]
)  # every row of the table of tilings
def test_kernel_agrees_with_naive_and_cpu(rng, nan_filled, dtype, dim):
    """Odd counts of tokens, fewer than a tile and more, and multiples of it; one person and two."""
    grid, persons = [((5, 7), 2), ((9, 15), 1), ((8, 8), 2), ((8, 16), 1)][rng.integers(4 if dim <= 80 else 1)]
    tensors, selection, cond, expected = problem(rng, persons=persons, frames=2, group=1, grid=grid, heads=2, dim=dim)
    typed = on_device(tensors, dtype)
    got = reference_attention(*typed, selection, cond, backend="triton")
    assert_agrees(got, expected, tensors, typed)
    cpu = reference_attention(*(x.cpu() for x in typed), selection, cond, backend="cpu") if DEVICE == "cpu" else got
    assert_agrees(got, cpu.double().cpu().numpy(), tensors, typed)


@pytest.mark.parametrize("dtype", ["bfloat16", *slow("float32", "float16")])
@pytest.mark.parametrize(
    "options",
    [
        dict(persons=0, dim=40, frames=2, grid=(5, 13)),  # 65 tokens: a full block of keys and one token
        dict(persons=1, dim=40, frames=2, grid=(8, 16)),  # 128: one full tile of queries, if there were one class
        dict(persons=2, dim=40, frames=3, grid=(9, 15)),  # 135
        dict(persons=1, dim=80, frames=2, grid=(1, 63)),  # one short of a block
        dict(persons=3, dim=16, frames=3, videos=2, grid=(9, 15), heads=1),
        dict(persons=2, dim=40, window=np.array([4, 5, 0, 1, 1]), grid=(5, 7)),
        dict(persons=1, dim=8, frames=3, guided=False, grid=(1, 1)),
    ],
    ids=str,
)
def test_kernel_takes_any_size(rng, nan_filled, dtype, options):
    tensors, selection, cond, expected = problem(rng, **{"heads": 2} | options)
    typed = on_device(tensors, dtype)
    assert_agrees(reference_attention(*typed, selection, cond, backend="triton"), expected, tensors, typed)


@pytest.mark.parametrize("dtype", ["float32", *slow("float16", "bfloat16")])
@pytest.mark.parametrize("strength", [0.0, 0.3, 1e4, *slow(1e-4, 1e-30, 1)])
def test_kernel_reads_the_bank_with_any_strength(rng, nan_filled, dtype, strength):
    options = dict(persons=2, frames=2, group=1, grid=(5, 7), heads=2, dim=40)
    tensors, selection, cond, expected = problem(rng, **options, strength=strength)
    typed = on_device(tensors, dtype)
    got = reference_attention(*typed, selection, cond, backend="triton", strength=strength)
    assert_agrees(got, expected, tensors, typed)


@pytest.mark.parametrize("dim", [40, 160])
@pytest.mark.parametrize("covered", ["nobody in the calibrated images", "no background in the reference", "neither"])
def test_empty_lists_of_keys_leave_own_tokens(rng, nan_filled, covered, dim):
    """Queries of a class whose images show nothing see their own frame."""
    frames, grid, persons = 2, (6, 11), 2
    pose = torch.from_numpy(blobs(rng, persons, frames, size=(30, 55))).bool()
    seen = torch.from_numpy(blobs(rng, persons, frames, size=(30, 55))).bool()
    drawn = torch.from_numpy(blobs(rng, persons, size=(30, 55))).bool()
    if covered != "no background in the reference":
        seen[:] = False
    if covered != "nobody in the calibrated images":
        drawn[:] = True
    regions = RegionPlan(pose, seen, drawn, grid)
    selection = regions.at(PropagationPlan(frames, 1), 0)
    tensors = [rng.normal(size=(n, 66, 2, dim)) for n in (4, 4, 4, 5, 5)]
    visible = naive.visible_tokens(*(m.numpy().astype(float) for m in (pose, seen, drawn)), selection.rows, 5, grid)
    expected = naive.reference_attention(*tensors, visible, slice(2, 4))
    typed = on_device(tensors, "float32")
    assert_agrees(reference_attention(*typed, selection, slice(2, 4), backend="triton"), expected, tensors, typed)
    counts = regions.key_tables()[1]
    assert (counts == 0).any()


def test_kernel_takes_any_strides(rng):
    """Keys and values may lie in memory in different ways, each."""
    tensors, selection, cond, expected = problem(rng, persons=1, dim=8, frames=2, grid=(3, 4), heads=2)
    typed = on_device(tensors, "float32")
    q, k, v, bank_k, bank_v = typed
    q, k, joined_v = torch.cat([q, k, v], 2).split(2, 2)  # as one projection gives them
    turned = bank_k.transpose(1, 2).contiguous().transpose(1, 2)
    wide = torch.cat([bank_v, bank_v], 2)[:, :, :2]
    for values, *bank in ((joined_v, turned, bank_v), (v, bank_k, wide)):
        got = reference_attention(q, k, values, *bank, selection, cond, backend="triton")
        assert_agrees(got, expected, tensors, typed)


def test_kernel_is_launched_on_the_device_of_its_tensors(rng, monkeypatch):
    """Triton launches on the current device, which may be another one."""
    inside, asked = [], []

    @contextlib.contextmanager
    def on(tensor):
        asked.append(tensor.data_ptr())
        inside.append(True)
        yield
        inside.pop()

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **kwargs: launched.append(bool(inside))

    launched = []
    monkeypatch.setattr(kernels, "on", on)
    monkeypatch.setattr(kernels, "_reference_attention", Kernel())
    tensors, selection, cond, _ = problem(rng, persons=1, dim=8, frames=2, grid=(3, 4), heads=1)
    typed = on_device(tensors, "float32")
    reference_attention(*typed, selection, cond, backend="triton")
    assert launched == [True]
    assert asked == [typed[0].data_ptr()]


def test_a_backend_is_forced_or_refused(rng):
    tensors, selection, cond, expected = problem(rng, persons=1, dim=8, frames=2, grid=(3, 4), heads=1)
    typed = on_device(tensors, "float32")
    got = reference_attention(*typed, selection, cond, backend="cpu")
    assert_agrees(got, expected, tensors, typed)
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


def test_a_device_with_less_shared_memory_is_not_asked_for_more(rng, monkeypatch):
    """A launch that asks for more than there is would fail: torch's operations serve, or a forced backend says why."""
    tensors, selection, cond, _ = problem(rng, persons=1, dim=40, frames=2, grid=(3, 4), heads=1)
    typed = on_device(tensors, "float32")
    for dtype, dim in itertools.product((torch.float16, torch.bfloat16, torch.float32), range(1, 257)):
        assert 0 < kernels.tiling(dtype, dim).shared <= 99 << 10  # of consumer cards
    monkeypatch.setattr(kernels, "shared_memory", lambda device: 48 << 10)
    with pytest.raises(RuntimeError, match=r"needs \d+ bytes of shared memory a program, but \w+(:0)? gives 49152"):
        reference_attention(*typed, selection, cond, backend="triton")
    assert reference_attention(*typed, selection, cond).shape == typed[0].shape


def test_shared_memory_is_the_devices(monkeypatch):
    asked = []

    class Properties:
        shared_memory_per_block_optin = 99 << 10

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: asked.append(index) or Properties)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    kernels._shared_memory.cache_clear()
    assert kernels.shared_memory(torch.device("cpu")) is None
    assert [kernels.shared_memory(torch.device(d)) for d in ("cuda:1", "cuda", "cuda:1")] == [99 << 10] * 3
    assert asked == [1, 2]
    kernels._shared_memory.cache_clear()


SHARED = {89: 99 << 10, 90: 227 << 10}  # bytes that a program may have


@pytest.fixture(scope="module")
def processes():
    with compiling(SHARED, "attention") as started:
        yield started


@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.slow
def test_kernel_compiles_for_gpus(processes, capability):
    """Without spills on sm_90, within the shared memory that the table says; keys and values come asynchronously and in
    wide pieces, whatever the head dimension."""
    out, error = processes[capability].communicate(timeout=900)
    assert processes[capability].returncode == 0, error
    cubins = [json.loads(line) for line in out.splitlines()]
    assert len(cubins) == 17
    for name, dim, registers, spilled, shared, instructions in cubins:
        loads = {i: n for i, n in instructions.items() if i.startswith(("LDG", "HGMMA", "HMMA")) and i != "LDGDEPBAR"}
        print(f"sm_{capability} {name} {dim}: {registers} registers, {spilled} bytes spilled, {shared} bytes shared, "
              f"{sum(instructions.values())} instructions, {loads}")  # fmt: skip
        assert any(i.startswith("LDGSTS") and i.endswith(".128") for i in instructions)
        assert not any(i.startswith("LDG.") and ".U16" in i for i in instructions)
        assert shared <= kernels.tiling(getattr(torch, name.removeprefix("torch.")), dim).shared <= SHARED[capability]
        if name != "torch.float32":
            assert any(i.startswith("HGMMA" if capability == 90 else "HMMA") for i in instructions)
        if capability == 90:
            # Triton 3.6 spills four registers at 80, where they are capped so that three programs fit a multiprocessor,
            # and two of float32 at 256.
            assert spilled <= (16 if triton.__version__.startswith("3.6.") and dim in (80, 192, 256) else 0)
            if not triton.__version__.startswith("3.6."):  # of which the table tells
                assert shared == kernels.tiling(getattr(torch, name.removeprefix("torch.")), dim).shared
        assert spilled <= 72  # on sm_89; most, 18 registers, of float16 at 256
