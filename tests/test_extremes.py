"""Numbers at the ends of what floats hold: no backend writes outside its outputs, and all refuse the same matrices."""

import numpy as np
import pytest
from test_warp import FORMATS

import tpc_fast
from tpc_fast import _native, naive
from tpc_fast.ops.warp import INTERPOLATIONS, MAX_COORDINATE, WarpSource, sane_matrices, warp_composite

SIZE = (33, 35)
EDGES = [0.0, 5e-324, 1e-310, 1e-160, 1e-15, 1, 2.0**31, 2.0**53, 1e15, 1e154, 1e300, 1.7e308, np.inf, np.nan]
# Shifts beyond 2^53, where a number less one is the number; infinite inverses; determinants that over- and underflow.
KNOWN = [
    [[100, 0, 4e16], [0, 100, 4e16]],
    [[100, 0, -4e16], [0, 100, 4e16]],
    [[1e6, 0, 1e17], [0, 1e6, 1e17]],
    [[50, 0, 9.1e15], [0, 50, 5000]],
    [[0.5, 0, 1e14], [0, 0.5, 1e14]],
    [[1, 1, 1e200], [-1, 1, 1e200]],
    [[1e-162, 0, 0], [0, 1e-162, 0]],
    [[1e160, 0, 0], [0, 1e160, 0]],
    [[1, 5e-324, 0], [0, 1, 0]],
]


def wild(rng, count):
    """[N, 1, 2, 3] matrices of entries of every magnitude, among them edges, in part of full rotations."""
    entries = rng.choice([-1, 1], (count, 6)) * 10.0 ** rng.uniform(-25, 25, (count, 6))
    entries = np.where(rng.random((count, 6)) < 0.3, rng.choice(EDGES, (count, 6)), entries)
    turned = rng.random(count) < 0.5
    entries[turned, 3] = -entries[turned, 1]
    entries[turned, 4] = entries[turned, 0]
    return np.concatenate([entries.reshape(-1, 1, 2, 3), np.array(KNOWN)[:, None]])


def picture(rng):
    return rng.integers(0, 256, (1, 20, 31, 3), np.uint8), np.full((1, 20, 31), 255, np.uint8)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("antialias", [False, True])
def test_core_stays_inside_its_outputs_whatever_the_matrix(simd, rng, dtype, antialias):
    """Also for matrices that the check in Python refuses: the core itself must not trust them."""
    matrices, (image, mask) = wild(rng, 30), picture(rng)
    source = _native.core().WarpSource(image, mask)
    pixels = (*SIZE, 3) if dtype == "uint8" else (3, *SIZE)
    guard = 4096
    for interpolation in range(len(INTERPOLATIONS)):
        for matrix in matrices:
            buffers = [np.full(2 * guard + np.prod(shape), 77, dtype) for shape in (pixels, SIZE, pixels)]
            outputs = [
                b[guard:-guard].reshape(shape)
                for b, shape in zip(buffers, ((1, 1, *pixels), (1, 1, *SIZE), (1, *pixels)), strict=True)
            ]
            source.warp(matrix[None], interpolation, antialias, (1.0, 2.0, 3.0), None, *outputs)
            for buffer in buffers:
                assert (buffer[:guard] == 77).all(), matrix
                assert (buffer[-guard:] == 77).all(), matrix
            if dtype != "uint8":
                for output in outputs:  # every element was written
                    assert (abs(output) <= 1.001).all(), matrix  # rounded


@pytest.mark.parametrize("backend", ["naive", pytest.param("cpu", marks=pytest.mark.native)])
def test_matrices_out_of_bounds_are_refused_by_name(rng, backend):
    image, mask = picture(rng)
    source = WarpSource(image, mask, backend)
    refused = 0
    for matrix in wild(rng, 100):
        if sane_matrices(matrix)[0]:
            assert np.isfinite(np.linalg.inv(np.vstack([matrix[0] / abs(matrix[0]).max(), [0, 0, 1]]))).all()
            source.warp(matrix, SIZE)
        else:
            refused += 1
            with pytest.raises(ValueError, match=r"matrix must (be finite|have entries up to 1e15, and an inverse)"):
                source.warp(matrix, SIZE)
    assert refused > 20


def at_the_bounds():
    """Matrices just inside and just outside of what is allowed, and which are inside."""
    inside, outside = MAX_COORDINATE * 0.99, MAX_COORDINATE * 1.01
    for value, sane in ((inside, True), (outside, False)):
        yield [[value, 0, 0], [0, value, 0]], sane
        yield [[1, 0, value], [0, 1, 0]], sane
        yield [[1, 0, 0], [0, 1, -value]], sane
        yield [[1, value, 0], [0, 1, 0]], sane
        yield [[1 / value, 0, 0], [0, 1 / value, 0]], sane
        yield [[100, 0, value], [0, 100, 0]], sane


@pytest.mark.triton
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_kernel_refuses_what_the_check_refuses(rng):
    torch = pytest.importorskip("torch", reason="torch comes with extra 'torch'")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    image, mask = (torch.from_numpy(a).to(device) for a in picture(rng))
    source = WarpSource(image, mask, "triton")
    bounds = [np.array(matrix, float)[None] for matrix, _ in at_the_bounds()]
    assert [bool(sane_matrices(m)[0]) for m in bounds] == [sane for _, sane in at_the_bounds()]
    matrices = np.concatenate([*([m] for m in bounds), wild(rng, 16)])
    for antialias in (False, True):
        got = source.warp(torch.from_numpy(matrices).to(device), (9, 11), "bilinear", antialias, background=9)
        for matrix, seen, over in zip(matrices, got.mask.cpu().numpy(), got.composite.cpu().numpy(), strict=True):
            if not sane_matrices(matrix)[0]:
                assert not seen.any(), matrix
                assert (over == 9).all(), matrix
    # The whole output shows the reference's first pixel: accepted at the bound, refused beyond it.
    assert got.mask[0].min() == 255
    assert got.mask[len(bounds) // 2].max() == 0


@pytest.mark.parametrize("backend", ["naive", pytest.param("cpu", marks=pytest.mark.native)])
def test_bounds_are_where_they_are_said_to_be(rng, backend):
    image, mask = picture(rng)
    for matrix, sane in at_the_bounds():
        if sane:
            warp_composite(image, mask, [matrix], SIZE, backend=backend)
        else:
            with pytest.raises(ValueError, match="matrix must"):
                warp_composite(image, mask, [matrix], SIZE, backend=backend)


@pytest.mark.parametrize("backend", ["naive", pytest.param("cpu", marks=pytest.mark.native)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_fits_and_searches_of_any_numbers_end(rng, backend):
    """They have no output but their own, whose values may be anything but must be there: statuses, not crashes."""
    shape = (3, 9, 2)
    for _ in range(20):
        x, y = (
            np.where(rng.random(shape) < 0.3, rng.choice(EDGES, shape), 10.0 ** rng.uniform(-300, 300, (3, 9, 2)))
            for _ in range(2)
        )
        with np.errstate(all="ignore"):
            try:
                fit = tpc_fast.fit_similarity(x, y, backend=backend)
            except np.linalg.LinAlgError:  # the specification's SVD, of numbers whose products overflow
                assert backend == "naive"
                continue
            assert fit.ok.shape == (3,)
            found = tpc_fast.search_subset(x, y, np.full(9, 3.0), backend=backend)
            assert found.members.shape == (3, 9)


def test_naive_samples_any_position():
    with np.errstate(all="ignore"):
        got = naive.sample(np.ones((4, 5, 1)), np.array([[1e300, -1e300, 2.0**62]]), np.zeros((1, 3)), "cubic")
    assert not got.any()
