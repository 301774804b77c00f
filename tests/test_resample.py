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
            seen, twin = both(image, matrix, size, border, shrink)
            assert seen.shape == (*size, *channels)
            assert_equal_but_for_halves(seen, twin)


def assert_equal_but_for_halves(seen, twin):
    """float32 weights: what lies at a half may fall to either side."""
    differ = np.abs(seen.astype(int) - twin)
    assert differ.max(initial=0) <= 1
    assert (differ > 0).mean() < 0.02 if differ.size > 500 else True


def both(image, matrix, size, border, shrink=1):
    return (resample(image, matrix, size, border, shrink, backend) for backend in ("cpu", "naive"))


def turn(scale, degrees, mirrored=1):
    """[2, 2], steps of 0 for quarters of a turn."""
    angle = np.radians(degrees)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * [mirrored, 1]
    return np.where(np.abs(matrix) < 1e-9 * scale, 0, matrix)


def crossing(rng, shape, size):
    """Views whose rows cross the borders, most of them within the core's 64 pixels: turned, mirrored, near and far."""
    for degrees in (0, 90, 180, 270, rng.uniform(0, 360)):
        for scale in (0.24, 0.26, 0.6, 1, 1.9, 40):  # the core has a short way for steps of up to 4 pixels
            for mirrored in (1, -1):
                linear = turn(scale, degrees, mirrored)
                here, there = rng.uniform(0, shape[1::-1]), rng.uniform(0, size[::-1])
                if scale == 1:  # pixels on pixels, if the turn is one of quarters
                    here, there = here.round(), there.round()
                yield np.column_stack([linear, there - linear @ here])


@pytest.mark.native
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(5, 64), (5, 65), (3, 150)], ids=str)
def test_borders_within_rows_and_blocks(rng, border, channels, size, simd):
    """Of noise, a neighbour that is not the right one is many levels off."""
    differ = []
    for shape in ((1, 1), (1, 90), (90, 1), (2, 90), (90, 2), (130, 140)):
        image = rng.integers(0, 256, (*shape, channels), np.uint8)
        for matrix in crossing(rng, shape, size):
            seen, twin = both(image, matrix, size, border)
            differ.append(np.abs(seen.astype(int) - twin))
            assert differ[-1].max() <= 1, (shape, matrix)
    # Of all views: in one, a repeated border or a turn of a quarter gives many pixels the same neighbours and weights.
    assert (np.array(differ) > 0).mean() < 0.02


@pytest.mark.native
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_along_a_border(rng, border, channels, simd):
    """Rows of 90 pixels that lie beside a border or on it, in a picture whose memory ends with its last pixel."""
    image = rng.integers(0, 256, (100, 100, channels), np.uint8)
    distances = [sign * d for d in (0, 1e-9, 1e-5, 1e-3, 2e-3, 0.5, 0.999, 1, 1.5) for sign in (1, -1)]
    for at in (where + distance for where in (0, 99) for distance in distances):
        for first, step in ((5.4, 0.9), (99, -1), (-40, 1), (60, 1)):
            across = np.array([[step, 0, first], [0, 1, at], [0, 0, 1]])
            for inverse in (across, across[[1, 0, 2]]):
                matrix = np.linalg.inv(inverse)[:2]
                seen, twin = both(image, matrix, (1, 90), border)
                assert np.abs(seen.astype(int) - twin).max() <= 1, inverse


@pytest.mark.native
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("step", [3.9, 4.1, 30, 900])
def test_steps_of_many_pixels(rng, channels, step, simd):
    """float32 does not resolve a level at the end of 64 steps of 900 pixels."""
    image = rng.choice(np.array([0, 255], np.uint8), (40, int(130 * step), channels))
    for turned in (image, np.ascontiguousarray(np.moveaxis(image, 0, 1))):
        step_x, step_y = step * rng.uniform(0.99, 1), rng.uniform(0.1, 0.3)
        inverse = np.array([[step_x, 0, rng.uniform(0, 9)], [0, step_y, rng.uniform()], [0, 0, 1]])
        matrix = np.linalg.inv(inverse if turned is image else inverse[[1, 0, 2]])[:2]
        assert_equal_but_for_halves(*both(turned, matrix, (90, 120), "black"))


@pytest.mark.native
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("scale", [1e-13, 1e-6, 1e6, 1e14])
def test_enormous_and_tiny(rng, border, scale, simd):
    image = rng.integers(0, 256, (70, 80), np.uint8)
    for degrees in (0, 90, 200):
        linear = turn(scale, degrees)
        matrix = np.column_stack([linear, [60, 5] - linear @ [40, 30]])  # pixel (40, 30) is seen at (60, 5)
        seen, twin = both(image, matrix, (9, 130), border)
        if scale > 1:  # all of the view lies in two pixels or four; at 1e14 float64 resolves a level
            assert_equal_but_for_halves(seen, twin)
        else:  # all of it lies outside, but for one; far away float64 does not resolve pixels
            assert_equal_but_for_halves(np.delete(seen, 60, 1), np.delete(twin, 60, 1))


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
