"""The plain case of small fits and warps, which the core checks itself, against the general path: the same numbers,
kinds and errors, whatever comes."""

import contextlib

import numpy as np
import pytest

import tpc_fast
from tpc_fast import _dispatch, _native, fit_similarity, warp_composite
from tpc_fast.ops.procrustes import Fit
from tpc_fast.ops.warp import Warped, WarpSource

pytestmark = pytest.mark.native


def outcome(function, *arguments, **options):
    """What a call returns, as comparable parts, or what it raises."""
    try:
        found = function(*arguments, **options)
    except Exception as error:
        return type(error), str(error)
    fields = found if isinstance(found, tuple) else found._fields()
    return type(found), [None if a is None else described(a) for a in fields]


def described(a):
    values = a.detach() if hasattr(a, "detach") else a
    values = (values.double() if str(a.dtype) == "torch.bfloat16" else values).numpy() if values is not a else a
    return type(a), str(a.dtype), tuple(a.shape), values.flags.c_contiguous, values.tobytes()


@pytest.fixture
def general(monkeypatch):
    """A context in which nothing goes the quick way."""

    @contextlib.contextmanager
    def without():
        with monkeypatch.context() as patch:
            patch.setattr(_dispatch, "quick", lambda array: (None, None))
            yield

    return without


def spoilt(rng, array):
    """The array, or in one call of two something like it that is not plain, or wrong."""
    shape = array.shape
    ways = [
        lambda: np.asfortranarray(array),
        lambda: np.repeat(array, 2, 0)[::2],
        lambda: array.astype(array.dtype.newbyteorder()),
        lambda: array.astype(np.float32),
        lambda: array.astype(np.float16),
        lambda: array.astype(np.int64),
        lambda: array.astype(np.complex128),
        lambda: array.tolist(),
        lambda: np.ma.masked_array(array),
        lambda: array[None],
        lambda: array[:1],
        lambda: array[..., :1],
        lambda: array[:0],
        lambda: np.where(rng.random(shape) < 0.1, np.nan, array),
        lambda: np.where(rng.random(shape) < 0.1, np.inf, array),
        lambda: -array,
        lambda: array * 1e300,
        lambda: array * 0,
        lambda: None,
        lambda: "points",
    ]
    return array if rng.random() < 0.5 else ways[rng.integers(len(ways))]()


def as_tensor(rng, array):
    """A tensor of an array of NumPy, where torch has its dtype."""
    import torch

    try:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
    except (TypeError, ValueError):
        return array
    if rng.random() < 0.1 and tensor.is_floating_point():
        return tensor.bfloat16() if rng.random() < 0.5 else tensor.detach().requires_grad_()
    return tensor


@pytest.mark.parametrize("kind", ["numpy", pytest.param("torch", marks=pytest.mark.torch)])
def test_fits_are_those_of_the_general_path(rng, general, kind):
    seen = set()
    for _ in range(600):
        points, d = rng.integers(0, 9), rng.integers(1, 5) if rng.random() < 0.1 else rng.integers(2, 4)
        batches = [(), (), (1,), (3,), (2, 3), (0,)]
        batch, other = (batches[rng.integers(len(batches))] for _ in range(2))
        x = rng.normal(size=(*batch, points, d))
        y = rng.normal(size=(*(batch if rng.random() < 0.7 else other), points, d))
        w = rng.random((*(batch if rng.random() < 0.5 else ()), points)) if rng.random() < 0.5 else None
        dtype = np.float32 if rng.random() < 0.4 else np.float64
        arrays = [None if a is None else spoilt(rng, a.astype(dtype)) for a in (x, y, w)]
        if kind == "torch":
            arrays = [as_tensor(rng, a) if isinstance(a, np.ndarray) and rng.random() < 0.98 else a for a in arrays]
        with np.errstate(all="ignore"):
            quick = outcome(fit_similarity, *arrays)
            with general():
                assert quick == outcome(fit_similarity, *arrays)
        seen.add(quick[0])
    assert {Fit, ValueError, TypeError} <= seen


@pytest.mark.parametrize("kind", ["numpy", pytest.param("torch", marks=pytest.mark.torch)])
def test_warps_are_those_of_the_general_path(rng, general, kind):
    seen = set()
    for _ in range(300):
        persons, h, w, channels = rng.integers(1, 3), *rng.integers(1, 12, 2), rng.choice([1, 3])
        own, alone = rng.random() < 0.5, persons == 1 and rng.random() < 0.5
        image = rng.integers(0, 256, (*([persons] if own and not alone else []), h, w, channels), np.uint8)
        mask = rng.integers(0, 256, (h, w) if alone else (persons, h, w), np.uint8)
        matrix = rng.normal(size=(rng.integers(1, 4), *([] if alone else [persons]), 2, 3)) * 2
        matrix = matrix.astype(np.float32 if rng.random() < 0.3 else np.float64)
        options = dict(
            size=[(7, 5), 6, (1, 1), [3, 4], (np.int64(3), 4), (0, 3), (3,), 2.5, True][
                rng.choice(9, p=[0.6] + [0.05] * 8)
            ],
            interpolation=rng.choice(["cubic", "bilinear", "nearest", "linear"], p=[0.5, 0.3, 0.15, 0.05]).item(),
            antialias=[True, False, 1][rng.integers(3)],
            background=[
                *(None, 0, 12.5, 255, 256, -1, (1, 2, 3), np.float64(7), True, float("nan")),
                *(
                    rng.integers(0, 256, shape, np.uint8)
                    for shape in ((7, 5, channels), (7, 5, channels), (5, 7, channels))
                ),
                rng.integers(0, 256, (5, 7, channels), np.uint8).swapaxes(0, 1),
                rng.integers(0, 256, (7, 5, channels), np.int64),
                rng.integers(0, 256, (len(matrix), 7, 5, channels), np.uint8),
            ][rng.integers(16)],
            dtype=[None, "uint8", "float32", "float16", "bfloat16", np.uint8, "int8"][rng.integers(7)],
        )
        arrays = [spoilt(rng, a) if rng.random() < 0.3 else a for a in (image, mask, matrix)]
        if kind == "torch":
            arrays = [as_tensor(rng, a) if isinstance(a, np.ndarray) and rng.random() < 0.98 else a for a in arrays]
            if isinstance(options["background"], np.ndarray) and rng.random() < 0.95:
                options["background"] = as_tensor(rng, options["background"])
        with np.errstate(all="ignore"):
            quick = outcome(warp_composite, *arrays, **options)
            with general():
                assert quick == outcome(warp_composite, *arrays, **options)
        seen.add(quick[0])
        by_bytes = not any(
            getattr(a, "requires_grad", False) or "float" in str(getattr(a, "dtype", "")) for a in arrays[:2]
        )
        if quick[0] is Warped and by_bytes and not getattr(arrays[2], "requires_grad", False):  # the same from a source
            source = WarpSource(*arrays[:2])
            options["dtype"] = options["dtype"] or "uint8"
            assert outcome(source.warp, arrays[2], **options) == quick
            source._quick = None
            assert outcome(source.warp, arrays[2], **options) == quick
    assert {Warped, ValueError, TypeError} <= seen


@pytest.mark.parametrize("kind", ["numpy", pytest.param("torch", marks=pytest.mark.torch)])
def test_plain_cases_go_the_quick_way(rng, kind, monkeypatch):
    def never(*_):
        raise AssertionError("the general path")

    monkeypatch.setattr(_dispatch, "resolve", never)
    monkeypatch.setattr(tpc_fast.ops.warp, "_size", never)
    wrap = np.asarray
    if kind == "torch":
        import torch

        wrap = torch.from_numpy
    for dtype in (np.float32, np.float64):
        x, y, w = (wrap(rng.random(shape).astype(dtype)) for shape in ((17, 2), (17, 2), (17,)))
        frames = wrap(rng.random((5, 17, 2)).astype(dtype))
        for arguments in ((x, y), (x, y, w), (x, frames), (frames, y), (frames, frames, w)):
            assert type(fit_similarity(*arguments)) is Fit
    image, mask = (wrap(rng.integers(0, 256, s, np.uint8)) for s in ((8, 9, 3), (8, 9)))
    for dtype in ("uint8", "float32", "float16"):
        matrix = wrap(np.eye(2, 3, dtype=np.float32)[None])
        assert type(warp_composite(image, mask, matrix, (6, 7), dtype=dtype, background=3)) is Warped


@pytest.mark.torch
def test_tensors_that_are_not_plain(rng, general):
    """Views, negated ones, those of no memory or another device, and those that torch must see: as the general path."""
    import torch

    x, y = (torch.from_numpy(rng.normal(size=(17, 2))) for _ in range(2))
    image, mask = (torch.from_numpy(rng.integers(0, 256, shape, np.uint8)) for shape in ((8, 9, 3), (8, 9)))
    matrix = torch.eye(2, 3)[None]
    ways = [
        lambda a: a.mT.contiguous().mT, lambda a: torch._neg_view(-a if a.is_floating_point() else a),
        lambda a: a[:1].expand(a.shape), lambda a: a.repeat_interleave(2, 0)[::2], lambda a: a.to("meta"),
        lambda a: a.to_sparse(), lambda a: torch.nn.Parameter(a, a.is_floating_point()), lambda a: a.cfloat(),
        lambda a: a.to(torch.bool), lambda a: a.flip(0), lambda a: a[:0], lambda a: torch.empty(0).expand(17, 0),
    ]  # fmt: skip
    for way in ways:
        for function, plain, options in (
            (fit_similarity, (x, y), {}),
            (warp_composite, (image, mask, matrix), {"size": 6}),
        ):
            for i in range(len(plain)):
                arrays = [way(a) if i == k else a for k, a in enumerate(plain)]
                quick = outcome(function, *arrays, **options)
                with general():
                    assert quick == outcome(function, *arrays, **options)
    negated = torch.complex(y, x).conj().imag  # its numbers lie in memory with the other sign
    assert negated.is_neg()
    np.testing.assert_array_equal(fit_similarity(negated, y).matrix, fit_similarity(-x, y).matrix)


@pytest.mark.torch
def test_tensors_own_their_numbers(rng):
    """They can be written, stay when all else is gone, and are given back in whatever thread they end."""
    import gc
    import threading

    import torch

    x, y = (torch.from_numpy(rng.normal(size=(17, 2))) for _ in range(2))
    want = fit_similarity(x.numpy(), y.numpy())
    fit = fit_similarity(x, y)
    scale, rotation = fit.scale, fit.rotation
    del fit
    gc.collect()
    assert scale == torch.from_numpy(np.asarray(want.scale))
    assert rotation.is_contiguous()
    rotation += 1
    np.testing.assert_array_equal(rotation - 1, want.rotation + 1 - 1)
    kept = [rotation]
    del rotation
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    with torch.inference_mode():
        assert fit_similarity(x, y).scale == scale


@pytest.mark.parametrize("kind", ["numpy", pytest.param("torch", marks=pytest.mark.torch)])
def test_the_quick_way_leaks_nothing(rng, kind):
    import gc
    import sys

    wrap = np.asarray
    if kind == "torch":
        import torch

        wrap = torch.from_numpy
    x, y = (wrap(a) for a in rng.random((2, 17, 2)))
    image, mask = (wrap(rng.integers(0, 256, shape, np.uint8)) for shape in ((8, 9, 3), (8, 9)))
    matrix = wrap(np.eye(2, 3)[None])
    weights = wrap(
        -np.ones(17) * 0
    )  # not in the loop: NumPy 2.4's own product of an array and a number keeps its dtype

    def calls():
        for _ in range(50):
            fit_similarity(x, y)
            fit_similarity(x, y, weights)
            warp_composite(image, mask, matrix, 6, background=1)

    calls()
    gc.collect()
    things = (x, y, image, mask, matrix, Fit, Warped, None, np.dtype(np.float64), np.dtype(np.uint8))
    counts = [sys.getrefcount(a) for a in things]
    blocks = sys.getallocatedblocks()
    for _ in range(4):
        calls()
    gc.collect()
    after = [sys.getrefcount(a) for a in things]
    assert all(abs(a - b) < 40 for a, b in zip(counts, after, strict=True))
    assert sys.getallocatedblocks() - blocks < 100


def test_without_a_core_the_specification_serves(rng, monkeypatch):
    x, y = rng.random((2, 17, 2))
    want = fit_similarity(x, y)
    monkeypatch.setattr(_native, "core", lambda: None)
    np.testing.assert_allclose(fit_similarity(x, y).matrix, want.matrix, rtol=1e-9)
