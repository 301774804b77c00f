import concurrent.futures
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tpc_fast
from tpc_fast import _native, naive
from tpc_fast.ops import warp
from tpc_fast.ops.warp import INTERPOLATIONS, WarpSource, warp_composite

CORE = _native.core()
FORMATS = {"uint8": 1, "float32": 127.5, "float16": 127.5}  # how many of 255 levels one unit is
# Before rounding to bytes the core may be off by 0.07 levels (csrc/warp.cpp); float16 adds its own rounding
TOLERANCE = {"uint8": 1, "float32": 0.07, "float16": 0.07 + 127.5 * 2.0**-12}


def similarity(scale, angle=0.0, source=(0.0, 0.0), target=(0.0, 0.0)):
    """The similarity that brings point `source` to point `target`."""
    block = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.column_stack([block, np.subtract(target, block @ source)])


def reference(rng, h, w, channels=3, persons=1):
    return rng.integers(0, 256, (persons, h, w, channels), np.uint8), rng.integers(0, 256, (persons, h, w), np.uint8)


def placements(rng, source, size, persons, poses):
    """[F, P, 2, 3]: the reference's centre near the output's, at every (scale, angle)."""
    middle = [np.array(s[::-1]) / 2 for s in (source, size)]
    return np.array(
        [[similarity(s, a, middle[0], middle[1] + rng.normal(0, 3, 2)) for _ in range(persons)] for s, a in poses]
    )


_known = {}


def specification(*arguments):
    """What naive says, computed once for all SIMD levels."""
    key = tuple((a.shape, a.tobytes()) if isinstance(a, np.ndarray) else a for a in arguments)
    if key not in _known:
        _known[key] = naive.warp_composite(*arguments)
    return _known[key]


def assert_agrees(image, mask, matrix, size, interpolation="cubic", antialias=False, background=None, dtype="uint8"):
    arguments = (image, mask, matrix, size, interpolation, antialias)
    got = warp_composite(*arguments, background, dtype)
    ground = None if background is None else np.asarray(background)
    assert_close(got, specification(*arguments, ground, dtype), dtype)


def assert_close(got, expected, dtype):
    for name, a, b in zip(got._fields, got, expected, strict=True):
        if b is None:
            assert a is None
            continue
        assert a.shape == b.shape
        assert a.dtype == b.dtype == dtype
        error = np.abs(a.astype(np.float64) - b).max(initial=0) * FORMATS[dtype]
        assert error <= TOLERANCE[dtype], f"{name} is off by {error} levels"


# The core against the specification


@pytest.mark.parametrize(
    ("source", "size"),
    [((1, 1), (6, 7)), ((1, 9), (12, 31)), ((3, 5), (33, 40)), ((64, 48), (19, 300)), ((131, 257), (97, 1))],
)
@pytest.mark.parametrize(("channels", "persons"), [(3, 1), (1, 2), (3, 3)])
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("antialias", [False, True])
def test_core_agrees_with_naive(simd, source, size, channels, persons, dtype, antialias):
    rng = np.random.default_rng([*source, channels, persons])
    image, mask = reference(rng, *source, channels, persons)
    matrix = placements(rng, source, size, persons, [(1, 0), (0.6, -0.9), (2.3, 2.0), (0.2, 0.4), (9, 3)])
    background = rng.integers(0, 256, (len(matrix), *size, channels), np.uint8)
    for interpolation in INTERPOLATIONS:
        assert_agrees(image, mask, matrix, size, interpolation, antialias, background, dtype)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_antialias_agrees_with_naive_at_every_scale(simd, interpolation):
    rng = np.random.default_rng(1)
    image, mask = reference(rng, 90, 61)
    scales = [*np.geomspace(0.003, 2, 25), 0.5, 0.25, 1.0]  # to below one pixel of output
    matrix = placements(rng, (90, 61), (40, 44), 1, [(s, 10 * s) for s in scales])
    assert_agrees(image, mask, matrix, (40, 44), interpolation, antialias=True)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_any_affine_map(simd, interpolation):
    rng = np.random.default_rng(2)
    image, mask = reference(rng, 40, 53)
    matrix = rng.normal(0, 1, (12, 1, 2, 3)) * [[1, 1, 30]] + [[0, 0, 20]]  # shears, reflections, unequal scales
    assert_agrees(image, mask, matrix, (50, 60), interpolation, antialias=True)


@pytest.mark.parametrize(
    "matrix",
    [
        similarity(1e-9, 1, (20, 20), (7, 9)),  # one output pixel sees the whole reference
        similarity(1e6, 0.3, (20.3, 20.4), (7, 9)),
        similarity(1, 0, (0, 0), (1e12, -1e12)),
        similarity(1, 0, (0, 0), (-42, 0)),
        [[1e-7, 0, 5], [0, 1e7, -1e8]],
    ],
)
@pytest.mark.parametrize("antialias", [False, True])
def test_extreme_matrices(simd, matrix, antialias):
    image, mask = reference(np.random.default_rng(3), 40, 41)
    assert_agrees(image, mask, np.reshape(matrix, (1, 1, 2, 3)), (30, 33), antialias=antialias)


@pytest.mark.parametrize("kind", ["number", "colour", "shared image", "image per frame"])
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("channels", [1, 3])
def test_backgrounds(simd, kind, dtype, channels):
    rng = np.random.default_rng(4)
    size = (70, 301)
    image, mask = reference(rng, 30, 35, channels, persons=2)
    matrix = placements(rng, (30, 35), size, 2, [(1, 1), (9, 0), (0.4, 2)])
    background = {
        "number": 17,
        "colour": (200, 3.25, 77)[:channels],
        "shared image": rng.integers(0, 256, (*size, channels), np.uint8),
        "image per frame": rng.integers(0, 256, (3, *size, channels), np.uint8),
    }[kind]
    assert_agrees(image, mask, matrix, size, background=background, dtype=dtype)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("background", [None, 0, "image"])
def test_every_element_is_written(simd, monkeypatch, dtype, background):
    rng = np.random.default_rng(5)
    size = (60, 530)
    image, mask = reference(rng, 30, 35, persons=2)
    matrix = placements(rng, (30, 35), size, 2, [(1, 1), (30, 0), (0.1, 2)])
    matrix[2, 1, :, 2] += 1e4  # out of the picture
    if background == "image":
        background = rng.integers(0, 256, (*size, 3), np.uint8)
    poison = 255 if dtype == "uint8" else np.nan
    monkeypatch.setattr(warp, "_empty", lambda shape, dtype: np.full(shape, poison, dtype))
    assert_agrees(image, mask, matrix, size, "cubic", True, background, dtype)


@pytest.mark.native
@pytest.mark.parametrize("antialias", [False, True])
def test_thread_count_changes_nothing(antialias):
    rng = np.random.default_rng(7)
    image, mask = reference(rng, 50, 60, persons=2)
    matrix = placements(rng, (50, 60), (99, 101), 2, [(s, s) for s in (0.3, 1, 2, 3)])
    before, results = tpc_fast.get_num_threads(), []
    for count in (1, 4):
        tpc_fast.set_num_threads(count)
        results.append(warp_composite(image, mask, matrix, (99, 101), antialias=antialias, background=9))
    tpc_fast.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.native
def test_one_source_in_several_threads():
    rng = np.random.default_rng(8)
    image, mask = reference(rng, 200, 210)
    matrix = placements(rng, (200, 210), (64, 64), 1, [(0.2, 1)])
    plain, smooth = (warp_composite(image, mask, matrix, (64, 64), antialias=a).image for a in (False, True))
    for _ in range(10):
        source = WarpSource(image, mask)  # the threads race for its pyramid
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(source.warp, matrix, (64, 64), antialias=bool(i % 2)) for i in range(8)]
        for i, job in enumerate(jobs):
            np.testing.assert_array_equal(job.result().image, smooth if i % 2 else plain)


# Laws


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
seeds = st.integers(0, 2**32 - 1)
backends = st.sampled_from(["naive", "cpu"] if CORE is not None else ["naive"])


@given(size=sizes, seed=seeds, interpolation=st.sampled_from(INTERPOLATIONS), antialias=st.booleans(), backend=backends)
@settings(max_examples=60, deadline=None)
def test_identity_is_exact(size, seed, interpolation, antialias, backend):
    image, mask = reference(np.random.default_rng(seed), *size)
    got = warp_composite(image, mask, np.eye(2, 3)[None], size, interpolation, antialias, backend=backend)
    np.testing.assert_array_equal(got.image[0], image)
    np.testing.assert_array_equal(got.mask[0], mask)


@given(size=sizes, seed=seeds, dx=st.integers(-25, 25), dy=st.integers(-25, 25), backend=backends)
@settings(max_examples=60, deadline=None)
def test_whole_pixel_shift_is_exact_and_an_opaque_person_covers_the_background(size, seed, dx, dy, backend):
    h, w = size
    image, _ = reference(np.random.default_rng(seed), h, w)
    canvas, margin = np.full((h + 60, w + 60, 3), 7, np.uint8), 30
    matrix = np.array([[[1, 0, margin + dx], [0, 1, margin + dy]]], np.float32)
    mask = np.full((h, w), 255, np.uint8)
    got = warp_composite(image, mask, matrix, canvas.shape[:2], background=canvas, backend=backend)
    place = np.s_[margin + dy : margin + dy + h, margin + dx : margin + dx + w]
    expected, covered = np.zeros_like(canvas), np.zeros(canvas.shape[:2], np.uint8)
    expected[place], covered[place] = image[0], 255
    np.testing.assert_array_equal(got.image[0, 0], expected)
    np.testing.assert_array_equal(got.mask[0, 0], covered)
    canvas[place] = image[0]
    np.testing.assert_array_equal(got.composite[0], canvas)


@given(size=sizes, seed=seeds, interpolation=st.sampled_from(INTERPOLATIONS), backend=backends)
@settings(max_examples=40, deadline=None)
def test_quarter_turn(size, seed, interpolation, backend):
    image, mask = reference(np.random.default_rng(seed), *size)
    matrix = np.array([[[0, 1, 0], [-1, 0, size[1] - 1]]])
    got = warp_composite(image, mask, matrix, size[::-1], interpolation, backend=backend)
    np.testing.assert_array_equal(got.image[0, 0], np.rot90(image[0]))
    np.testing.assert_array_equal(got.mask[0, 0], np.rot90(mask[0]))


@given(seed=seeds, scale=st.floats(0.1, 3), angle=st.floats(-4, 4), backend=backends)
@settings(max_examples=40, deadline=None)
def test_linear_in_the_image(seed, scale, angle, backend):
    rng = np.random.default_rng(seed)
    image, mask = reference(rng, 30, 31)
    matrix = similarity(scale, angle, (15, 15), (20, 20))[None]

    def levels(pixels):
        arguments = (matrix, (40, 40), "bilinear", False, None, "float32")
        return (warp_composite(pixels, mask, *arguments, backend=backend).image + 1) * 127.5

    total = levels(image) + levels(255 - image)
    np.testing.assert_allclose(total, levels(np.full_like(image, 255)), atol=3 * TOLERANCE["float32"])


@given(
    scale=st.one_of(st.floats(0.02, 1.5), st.sampled_from([1, 0.5, 0.25, 0.125])),
    angle=st.floats(-4, 4),
    backend=backends,
)
@settings(max_examples=60, deadline=None)
def test_antialiasing_does_not_pop_while_zooming(scale, angle, backend):
    image, mask = reference(np.random.default_rng(9), 64, 64)
    matrix = np.array([similarity(scale * f, angle, (31, 31), (20, 20)) for f in (1 - 5e-5, 1 + 5e-5)])
    got = warp_composite(image, mask, matrix, (40, 40), antialias=True, backend=backend)
    for pictures in (got.image, got.mask):
        assert np.abs(np.diff(pictures.astype(int), axis=0)).max() <= 4


# Antialiasing


def test_halving_has_the_variance_of_its_octave():
    line = np.zeros((4, 20, 1), np.uint8)
    for at in (8, 9):
        line[:] = 0
        line[1:3, at] = 248
        response = naive.halve(line)[0, :, 0].astype(float)
        centres = 2 * np.arange(10) + 0.5
        assert np.average((centres - at) ** 2, weights=response) == pytest.approx(0.25 * (4 - 1), abs=1e-2)


@pytest.mark.parametrize("size", [(64, 64), (37, 90), (1, 17), (2, 1)])
def test_core_builds_the_pyramid_of_naive(simd, size):
    image, mask = reference(np.random.default_rng(10), *size)
    source, expected = WarpSource(image, mask), np.dstack([image[0], mask[0]])
    scale = 1.0
    while max(expected.shape[:2]) > 1:
        expected, scale = naive.halve(expected), scale / 2
        matrix = [[[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2]]]
        got = source.warp(matrix, expected.shape[:2], antialias=True)
        np.testing.assert_array_equal(np.dstack([got.image[0, 0], got.mask[0, 0]]), expected)


def test_antialiasing_removes_what_cannot_be_shown():
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    matrix = similarity(0.45, 0.7, (128, 128), (60, 60))[None]
    middle = np.s_[0, 0, 40:80, 40:80, 0]
    aliased, smooth = (
        warp_composite(board[..., None], board, matrix, (120, 120), antialias=a).image[middle] for a in (False, True)
    )
    assert aliased.std() > 50
    assert smooth.std() < 8
    assert abs(smooth.mean() - 127.5) < 2


# Composite


def test_persons_are_laid_back_to_front():
    image = np.stack([np.full((4, 4, 3), 200, np.uint8), np.full((4, 4, 3), 40, np.uint8)])
    mask = np.stack([np.full((4, 4), 255, np.uint8), np.full((4, 4), 51, np.uint8)])  # the one in front covers a fifth
    matrix = np.array([[np.eye(2, 3), [[1, 0, 2], [0, 1, 0]]]])
    got = warp_composite(image, mask, matrix, (4, 7), background=100).composite[0, 1, :, 0]
    np.testing.assert_array_equal(got, [200, 200, 168, 168, 88, 88, 100])


def test_mask_is_fractional_at_edges():
    image, mask = np.zeros((8, 8, 1), np.uint8), np.full((8, 8), 255, np.uint8)
    got = warp_composite(image, mask, [[[1, 0, 2.5], [0, 1, 0]]], (8, 12), "bilinear").mask[0, 0, 4]
    np.testing.assert_array_equal(got, [0, 0, 128, *[255] * 7, 128, 0])


# Shapes and kinds


@pytest.mark.parametrize("backend", ["naive", pytest.param("cpu", marks=pytest.mark.native)])
@pytest.mark.parametrize("dtype", FORMATS)
def test_no_frames(backend, dtype):
    image, mask = reference(np.random.default_rng(11), 5, 6, persons=2)
    got = warp_composite(image, mask, np.zeros((0, 2, 2, 3)), (7, 8), background=1, dtype=dtype, backend=backend)
    pixels = (7, 8, 3) if dtype == "uint8" else (3, 7, 8)
    assert [a.shape for a in got] == [(0, 2, *pixels), (0, 2, 7, 8), (0, *pixels)]
    assert all(a.dtype == dtype for a in got)


@pytest.mark.parametrize("backend", ["naive", pytest.param("cpu", marks=pytest.mark.native)])
def test_short_shapes_are_the_long_ones(backend):
    rng = np.random.default_rng(12)
    image, mask = reference(rng, 20, 21)
    matrix = placements(rng, (20, 21), (30, 30), 1, [(1, 1), (2, 2)])
    full = warp_composite(image, mask, matrix, (30, 30), backend=backend)
    short = warp_composite(image[0], mask[0], matrix[:, 0], (30, 30), backend=backend)
    shared = warp_composite(image[0], np.stack([mask[0]] * 2), np.repeat(matrix, 2, 1), (30, 30), backend=backend)
    for i in range(2):
        np.testing.assert_array_equal(short[i], full[i])
        np.testing.assert_array_equal(shared[i][:, :1], full[i])
        np.testing.assert_array_equal(shared[i][:, 1:], full[i])


@pytest.mark.native
def test_strided_inputs_are_understood():
    rng = np.random.default_rng(13)
    image, mask = reference(rng, 40, 42)
    matrix = np.asfortranarray(placements(rng, (20, 21), (30, 30), 1, [(1, 1), (2, 2)]))
    background = rng.integers(0, 256, (60, 30, 3), np.uint8)[::2, :, ::-1]
    views = image[:, ::2, ::-2], mask[:, ::2, ::-2]
    got = warp_composite(*views, matrix, (30, 30), background=background)
    expected = warp_composite(
        *(np.ascontiguousarray(v) for v in views), matrix.copy(), (30, 30), background=background.copy()
    )
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("backend", ["naive", pytest.param("cpu", marks=pytest.mark.native)])
def test_torch_in_torch_out(dtype, backend):
    torch = pytest.importorskip("torch", reason="torch comes with extra 'torch'")
    rng = np.random.default_rng(14)
    arrays = (*reference(rng, 20, 21), placements(rng, (20, 21), (30, 30), 1, [(1, 1)]).astype(np.float32))
    background = rng.integers(0, 256, (30, 30, 3), np.uint8)
    got = warp_composite(
        *map(torch.from_numpy, arrays), (30, 30), background=torch.from_numpy(background), dtype=dtype, backend=backend
    )
    expected = warp_composite(*arrays, (30, 30), background=background, dtype=dtype, backend=backend)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == getattr(torch, dtype)
        np.testing.assert_array_equal(a.numpy(), b)


def test_source_keeps_its_own_pixels():
    image, mask = reference(np.random.default_rng(15), 9, 9)
    before = image.copy()
    source = WarpSource(image, mask)
    if CORE is not None:
        image[:] = 0
    np.testing.assert_array_equal(source.warp([np.eye(2, 3)], (9, 9)).image[0], before)


# Bad input


def good():
    return {
        "image": np.zeros((6, 7, 3), np.uint8),
        "mask": np.zeros((6, 7), np.uint8),
        "matrix": np.eye(2, 3)[None],
        "size": (4, 5),
    }


TWO = np.stack([np.eye(2, 3)] * 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"image": np.zeros((6, 7, 3), np.int16)},
            TypeError,
            "image must be uint8, or floating .*int16",
        ),
        (
            {"mask": np.zeros((6, 7), np.int32)},
            TypeError,
            "mask must be uint8, bool, or floating .*int32",
        ),
        ({"image": "photo.png"}, TypeError, "image must be an array of numbers, but is str 'photo.png'"),
        ({"image": np.zeros((6, 7), np.uint8)}, ValueError, r"image must be \[H, W, C\] or .* shape \(6, 7\)"),
        ({"image": np.zeros((6, 7, 4), np.uint8)}, ValueError, "image must be .* C = 1 or 3"),
        ({"image": np.zeros((0, 7, 3), np.uint8)}, ValueError, "image must be .* no side of 0"),
        (
            {name: np.broadcast_to(np.uint8(0), (1, (1 << 24) + 1, *c)) for name, c in (("image", (3,)), ("mask", ()))},
            ValueError,
            "image must have .* but is 1 x 16777217",
        ),
        ({"mask": np.zeros((6, 8), np.uint8)}, ValueError, r"mask must have the height and width of image, \(6, 7\)"),
        ({"mask": np.zeros((6,), np.uint8)}, ValueError, r"mask must be \[H, W\] or"),
        ({"image": np.zeros((2, 6, 7, 3), np.uint8)}, ValueError, "mask must be .* with the P = 2 of image"),
        ({"mask": np.zeros((2, 6, 7), np.uint8)}, ValueError, "matrix must be .* P = 2 as in mask"),
        ({"matrix": np.eye(2, 3)}, ValueError, r"matrix must be \[F, 2, 3\] or .* shape \(2, 3\)"),
        ({"matrix": np.eye(3)[None]}, ValueError, r"matrix must be .* shape \(1, 3, 3\)"),
        ({"matrix": np.eye(2, 3, dtype=complex)[None]}, TypeError, "matrix must be an array of numbers"),
        ({"matrix": TWO * [[[1]], [[np.nan]]]}, ValueError, "matrix must be finite, but frame 1, person 0"),
        ({"matrix": TWO * [[[1]], [[0]]]}, ValueError, "matrix must have .* an inverse .* frame 1, person 0"),
        ({"matrix": [[[0.1, 0.3, 0], [0.2, 0.6, 0]]]}, ValueError, "matrix must have .* an inverse"),
        ({"matrix": [[[1, 0, 1e17], [0, 1, 0]]]}, ValueError, "matrix must have .* an inverse"),
        ({"size": 5.5}, ValueError, r"size must be \(height, width\) or one number, but is 5.5"),
        ({"size": (4, 5, 3)}, ValueError, r"size must be \(height, width\)"),
        ({"size": (4.5, 5)}, ValueError, r"size must be \(height, width\)"),
        ({"size": (0, 5)}, ValueError, "each from 1 to"),
        ({"size": (4, 1 << 30)}, ValueError, "each from 1 to"),
        ({"interpolation": "lanczos"}, ValueError, "interpolation must be one of .*, but is 'lanczos'"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of .*, but is 'int8'"),
        ({"dtype": "bfloat16"}, ValueError, "for arrays on the CPU, but is 'bfloat16'"),
        ({"backend": "cuda"}, ValueError, "backend must be .*, but is 'cuda'"),
        ({"background": np.zeros((5, 4, 3), np.uint8)}, ValueError, r"background must be .* shape \(5, 4, 3\)"),
        ({"background": np.zeros((2, 4, 5, 3), np.uint8)}, ValueError, "background must be"),
        ({"background": np.zeros((4, 5, 3))}, TypeError, "background must be uint8"),
        ({"background": (1, 2)}, ValueError, "background must be a number or 3 numbers"),
        ({"background": 256}, ValueError, "from 0 to 255"),
        ({"background": float("nan")}, ValueError, "from 0 to 255"),
        ({"background": "black"}, TypeError, "background must be an array of numbers"),
    ],
)
def test_bad_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        warp_composite(**(good() | change))


def test_kinds_are_not_mixed():
    torch = pytest.importorskip("torch", reason="torch comes with extra 'torch'")
    with pytest.raises(TypeError, match="matrix is a torch tensor"):
        warp_composite(**(good() | {"matrix": torch.eye(2, 3)[None]}))


# Parity with OpenCV and with what the authors of TPC published


@pytest.mark.parametrize("perspective", [False, True])
def test_rounded_twin_is_opencv(perspective):
    cv2 = pytest.importorskip("cv2", reason="OpenCV comes with extra 'bench'")
    if int(cv2.__version__.split(".")[0]) != 4:
        pytest.skip(f"the twin rounds as OpenCV 4 does, and this is {cv2.__version__}")
    rng = np.random.default_rng(16)
    image = rng.integers(0, 256, (90, 120, 3), np.uint8)
    for scale, angle in [(0.45, -0.96), (1, 0.1), (2.5, 2), (0.9, -3)]:
        matrix = similarity(scale, angle, (60, 45), (66.3, 54.8))
        if perspective:
            warped = cv2.warpPerspective(image, np.vstack([matrix, [0, 0, 1]]), (130, 110), flags=cv2.INTER_CUBIC)
        else:
            warped = cv2.warpAffine(image, matrix, (130, 110), flags=cv2.INTER_CUBIC)
        twin = naive.warp_like_opencv(image, matrix, (110, 130), perspective)
        assert np.abs(twin.astype(int) - warped).max() <= 1


@pytest.mark.sample
def test_the_authors_matrices_reproduce_their_pictures(sample):
    from PIL import Image

    def read(name):
        return np.asarray(Image.open(sample / name).convert("RGB"))

    frames = json.loads((sample / "official_matrices.json").read_text())[::10]
    matrix = np.array([frame["matrix"] for frame in frames])
    mask = read("reference_mask.png")[..., 0]
    got = warp_composite(read("reference.png"), mask, matrix, (512, 512))
    for i, frame in enumerate(frames):
        difference = np.abs(got.image[i, 0].astype(int) - read(f"calibrated/{frame['frame']:03d}.png"))
        assert difference.mean() <= frame["mean_abs_error"] + 2e-3, frame["frame"]
        assert difference.max() <= frame["max_abs_error"] + 2
        difference = np.abs(got.mask[i, 0].astype(int) - read(f"calibrated_mask/{frame['frame']:03d}.png")[..., 0])
        assert difference.mean() <= 0.15
