"""Resampling: the core against the naive twin, laws that hold for any picture, and arguments that are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tpc_fast.ops.resample import BORDERS, resample

BACKENDS = [pytest.param("cpu", marks=pytest.mark.native), "naive"]


def view(scale, degrees, x, y):
    """[2, 3]: a turn and a scale about (0, 0), and a shift."""
    angle = np.radians(degrees)
    return np.array([[np.cos(angle), -np.sin(angle), x], [np.sin(angle), np.cos(angle), y]]) * [[scale, scale, 1]] * 2


@pytest.mark.native
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("channels", [(), (1,), (3,)], ids=str)
def test_core_is_the_naive_twin(rng, border, channels, simd):
    shapes = (
        (1, 1, (4, 5)),
        (1, 40, (7, 3)),
        (33, 47, (31, 29)),
        (200, 131, (64, 64)),
        (5, 4, (0, 3)),
        (120, 130, (70, 201)),
    )
    for height, width, size in shapes:
        image = rng.integers(0, 256, (height, width, *channels), np.uint8)
        for shrink in {1, min(2, height, width), min(5, height, width), min(height, width)}:
            matrix = view(rng.uniform(0.2, 3), rng.uniform(-180, 180), *rng.uniform(-20, 60, 2))
            seen, twin = (resample(image, matrix, size, border, shrink, backend) for backend in ("cpu", "naive"))
            assert seen.shape == (*size, *channels)
            differ = np.abs(seen.astype(int) - twin)
            assert differ.max(initial=0) <= 1  # float32 weights, at halves
            assert (differ > 0).mean() < 0.02 if differ.size > 500 else True


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_the_identity_and_shifts_are_exact(backend, height, width, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    assert_array_equal(resample(image, np.eye(2, 3), (height, width), backend=backend), image)
    down, right = (int(n) for n in rng.integers(-5, 6, 2))
    shift = [[1, 0, right], [0, 1, down]]
    repeated = image[np.arange(-down, height - down).clip(0, height - 1)]
    repeated = repeated[:, np.arange(-right, width - right).clip(0, width - 1)]
    assert_array_equal(resample(image, shift, (height, width), backend=backend), repeated)
    black = np.zeros_like(image)
    for y in range(max(down, 0), min(height + down, height)):
        for x in range(max(right, 0), min(width + right, width)):
            black[y, x] = image[y - down, x - right]
    assert_array_equal(resample(image, shift, (height, width), "black", backend=backend), black)


@pytest.mark.parametrize("backend", BACKENDS)
def test_shrinking_is_a_mean_over_squares(rng, backend):
    image = rng.integers(0, 256, (65, 47, 3), np.uint8)  # 64 x 44 are used
    matrix = [[1 / 4, 0, -3 / 8], [0, 1 / 4, -3 / 8]]  # the first square's centre becomes pixel (0, 0)
    means = image[:64, :44].reshape(16, 4, 11, 4, 3).mean((1, 3))
    assert_array_equal(resample(image, matrix, (16, 11), shrink=4, backend=backend), np.floor(means + 0.5))


@pytest.mark.native
@pytest.mark.parametrize("k", [2, 3, 7, 64, 127, 128, 129, 200])
def test_means_are_exact_at_halves_and_ends(rng, k):
    """Squares whose mean lies at a half, just below or above, and the darkest and brightest."""
    totals = [0, 255 * k * k, *(int(k * k * (2 * n + 1) / 2) + d for n in (0, 100, 254) for d in (-1, 0, 1, 2))]
    image = np.zeros((k, k * len(totals)), np.uint8)
    for i, total in enumerate(totals):
        square = np.full(k * k, total // (k * k), np.uint8)
        square[: total % (k * k)] += 1
        image[:, i * k : (i + 1) * k] = rng.permutation(square).reshape(k, k)
    matrix = [[1 / k, 0, -(k - 1) / 2 / k], [0, 1 / k, -(k - 1) / 2 / k]]
    seen = resample(image, matrix, (1, len(totals)), shrink=k, backend="cpu")
    assert_array_equal(seen[0], [(2 * total + k * k) // (2 * k * k) for total in totals])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ramp_stays_a_ramp(rng, backend):
    """Bilinear interpolation is exact on planes: between the borders a view shows what its inverse says."""
    y, x = np.mgrid[:80, :90]
    plane = (x + 2 * y).astype(np.uint8)
    matrix = view(1.7, 20, -10, -60)
    seen = resample(plane, matrix, (40, 40), backend=backend)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    at = np.einsum("ij,jhw->ihw", inverse, np.stack([*np.mgrid[:40, :40][::-1], np.ones((40, 40))]))
    assert at[:2].min() >= 0
    assert at[0].max() <= 89
    assert at[1].max() <= 79
    np.testing.assert_allclose(seen, at[0] + 2 * at[1], atol=0.5001)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("border", BORDERS)
def test_far_away(rng, backend, border):
    image = rng.integers(1, 256, (20, 30), np.uint8)
    corner = resample(image, [[1, 0, 1e9], [0, 1, 1e9]], (4, 6), border, backend=backend)
    assert (corner == (image[0, 0] if border == "repeat" else 0)).all()
    shrunk = resample(image, [[1e-9, 0, 0], [0, 1e-9, 0]], (4, 6), border, 2, backend=backend)
    last = image[-2:, -2:].mean() + 0.5 if border == "repeat" else 0
    assert (shrunk[1:, 1:] == int(last)).all()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"image": np.zeros((3, 3))}, TypeError, "image must be a uint8 array"),
        ({"image": [[1]]}, TypeError, "image must be a uint8 array"),
        ({"image": np.zeros((0, 3), np.uint8)}, ValueError, "no side of 0"),
        ({"image": np.zeros((3, 3, 4), np.uint8)}, ValueError, "C = 1 or 3"),
        ({"matrix": np.eye(3)}, ValueError, r"matrix must be \[2, 3\]"),
        ({"matrix": np.zeros((2, 3))}, ValueError, "matrix must be finite and have an inverse"),
        ({"matrix": [[1, 0, np.nan], [0, 1, 0]]}, ValueError, "matrix must be finite"),
        ({"size": (3.5, 2)}, TypeError, "size and shrink must be integers"),
        ({"size": (-1, 2)}, ValueError, "size must be .height, width., not negative"),
        ({"shrink": 0}, ValueError, "shrink must be from 1 to image's shorter side, 3, but is 0"),
        ({"shrink": 4}, ValueError, "shrink must be from 1"),
        ({"border": "grey"}, ValueError, "border must be one of repeat, black, but is 'grey'"),
        ({"backend": "triton"}, (ValueError, RuntimeError), "triton"),
    ],
)
def test_arguments_that_are_refused(arguments, error, said):
    good = {"image": np.zeros((3, 4, 3), np.uint8), "matrix": np.eye(2, 3), "size": (2, 2)}
    with pytest.raises(error, match=said):
        resample(**{**good, **arguments})
