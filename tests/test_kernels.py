"""The Triton kernels against the naive twin: on a GPU where there is one, otherwise by the interpreter.

Outputs are filled with NaN (255, True) before a kernel runs, so that an element that is not written shows. That every
kernel compiles for GPUs is tested in `test_cubins.py`.
"""

import ast
import collections
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from params import slow
from test_procrustes import DEGENERATE, rotation, rounding_of_fits, similarity
from test_warp import FORMATS, TOLERANCE, placements, reference
from test_warp import similarity as placement

from tpc_fast import Fit, Similarity, fit_similarity, naive, search_subset
from tpc_fast.ops.procrustes import FACE
from tpc_fast.ops.warp import INTERPOLATIONS, WarpSource, warp_composite

torch = pytest.importorskip("torch", reason="torch comes with extra 'torch'")
pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # NumPy interprets
DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Every output of a kernel starts as something that it must not be."""
    pytest.importorskip("triton", reason="triton comes with extra 'torch'")
    from tpc_fast.kernels import procrustes, warp

    def full(shape, dtype, device):
        poison = True if dtype == torch.bool else float("nan") if dtype.is_floating_point else torch.iinfo(dtype).max
        return torch.full(shape if isinstance(shape, tuple) else (shape,), poison, dtype=dtype, device=device)

    for module in (procrustes, warp):
        monkeypatch.setattr(module, "empty", full)


def tensor(array):
    """On the device; a `Similarity` or None as well."""
    if isinstance(array, Similarity):
        return type(array)(*(tensor(getattr(array, field)) for field in array.__dataclass_fields__))
    return array if array is None else torch.tensor(np.asarray(array), device=DEVICE)


def fit(*arrays):
    return fit_similarity(*map(tensor, arrays), backend="triton")


def search(src, dst, tolerance=None, **options):
    plain = ("criterion", "min_points", "size")
    options = {name: value if name in plain else tensor(value) for name, value in options.items()}
    return search_subset(tensor(src), tensor(dst), tensor(tolerance), backend="triton", **options)


# Fits


@pytest.mark.parametrize(
    ("dims", "points"),
    [(2, 0), (2, 1), (2, 2), (2, 3), (2, 17), (2, 31), (2, 33), (2, 50), (3, 0), (3, 2), (3, 3), (3, 9)],
)
@pytest.mark.parametrize(("dtype", "weighted"), [(np.float32, True), (np.float64, False)])
def test_fit_is_naive(rng, dims, dtype, points, weighted):
    n = 133  # more than a block
    x = (rng.normal(size=(n, points, dims)) * 100 + rng.normal(size=(n, 1, dims)) * 300).astype(dtype)
    y = (similarity(rng, (n,), dims).apply(x) + rng.normal(size=x.shape) * rng.choice([0, 1, 50])).astype(dtype)
    if points:
        x[3], y[4, 0], x[5, -1] = np.nan, np.inf, np.nan
    w = (rng.random((n, points)).astype(dtype) + np.finfo(dtype).eps,) if weighted else ()
    got, spec = fit(x, y, *w), fit_similarity(x, y, *w, backend="naive")
    assert_array_equal(got.ok.cpu(), spec.ok)
    still = np.nan_to_num(x, nan=0.0)
    for a, b in ((got.matrix.cpu().numpy(), spec.matrix), (got.residual.cpu().numpy(), spec.residual)):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert np.isfinite(a).all()
    ends = [Similarity(*(np.asarray(v) for v in (f.scale, f.rotation, f.translation))) for f in (got_on_cpu(got), spec)]
    limit = rounding_of_fits(x, y, *(w or (np.ones((n, points)),)), spec.ok)
    apart = abs(ends[0].apply(still).astype(np.float64) - ends[1].apply(still)).max(-1)
    assert (apart <= limit).all()
    assert (abs(got.residual.cpu().numpy().astype(np.float64) - spec.residual) <= limit[:, 0]).all()


def got_on_cpu(found: Fit) -> Fit:
    return Fit(*(getattr(found, field).cpu().numpy() for field in found.__dataclass_fields__))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("src", "dst", "weights"), DEGENERATE)
def test_degenerate_fits_are_those_of_naive(dtype, src, dst, weights):
    arrays = [np.asarray(a, dtype) for a in (src, dst, weights) if a is not None]
    got, spec = got_on_cpu(fit(*arrays)), fit_similarity(*arrays, backend="naive")
    assert got.ok == spec.ok
    for field in ("scale", "rotation", "translation", "residual"):
        assert_allclose(getattr(got, field), getattr(spec, field), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_mirror_image_gets_a_proper_rotation(rng, dims):
    x = rng.normal(size=(50, 8, dims))
    got = got_on_cpu(fit(x, x * ([-1] + [1] * (dims - 1))))
    assert_allclose(np.linalg.det(got.rotation), 1)


def test_flat_and_steep_clouds_in_3d(rng):
    """Singular values that are equal, zero, or far apart."""
    for stretch in ([1, 1, 1], [1, 1, 0], [1, 1e-5, 1e-5], [1, 1e-3, 1e-8], [0, 1, 1]):
        x = rng.normal(size=(20, 9, 3)) * stretch @ rotation(rng, (20,), 3)
        y = similarity(rng, (20,), 3).apply(x)
        got, spec = got_on_cpu(fit(x, y)), fit_similarity(x, y, backend="naive")
        assert_array_equal(got.ok, spec.ok)
        assert_allclose(got.apply(x), spec.apply(x), atol=1e-9 * abs(y).max())


def test_batches_broadcast_and_may_be_empty(rng):
    x, y, w = rng.normal(size=(5, 2)), rng.normal(size=(3, 4, 5, 2)), rng.random((4, 5))
    for arrays in ((x, y, w), (x, y[0, 0], w), (x, y[:0], w), (x, y[1, 2])):
        got, spec = got_on_cpu(fit(*arrays)), fit_similarity(*arrays, backend="naive")
        assert_allclose(got.matrix, spec.matrix, rtol=1e-9, atol=1e-12)
    assert fit(x[:0], x[:0]).matrix.shape == (2, 3)


def test_views_and_integers_are_understood(rng):
    x, y = (tensor(a) for a in rng.normal(size=(2, 2, 9)).astype(np.float32))
    for a, b in ((x.T, y.T), (tensor(rng.normal(size=19).astype("f4"))[1:].reshape(9, 2), y.T)):
        got = fit_similarity(a, b, backend="triton")  # not contiguous; not aligned to pairs
        assert torch.equal(got.matrix, fit_similarity(a.clone(), b.clone(), backend="triton").matrix)
    whole = fit_similarity(tensor([[0, 0], [2, 0]]), tensor([[1, 1], [1, 3]]), backend="triton").matrix
    assert_allclose(whole.cpu(), [[0, -1, 1], [1, 0, 1]], atol=1e-12)


def test_matrices_go_round(rng):
    found = fit(rng.normal(size=(3, 5, 2)), rng.normal(size=(3, 5, 2)))
    again = Similarity.from_matrix(found.matrix)
    assert_allclose(again.apply(tensor(np.eye(2))).cpu(), found.apply(tensor(np.eye(2))).cpu(), rtol=1e-9, atol=1e-9)


def test_bad_weights_give_no_fit(rng):
    """To raise an error would mean to wait for the device."""
    x, y = rng.normal(size=(2, 3, 4, 2))
    for bad in (np.nan, -1.0, np.inf):
        w = np.ones((3, 4))
        w[1, 2] = bad
        got = got_on_cpu(fit(x, y, w))
        assert_array_equal(got.ok, [True, False, True])
        assert np.isfinite(got.matrix).all()
        assert np.isfinite(got.residual).all()


# Subset search


def same(got, spec):
    """Equal, up to what ties allow: none were seen on random points."""
    assert_array_equal(got.members.cpu(), spec.members)
    assert_allclose(got.value.cpu(), spec.value, rtol=1e-9, atol=1e-9)
    assert_array_equal(got.weak.cpu(), spec.weak)
    assert_array_equal(got.fit.ok.cpu(), spec.fit.ok)
    eps = np.finfo(spec.fit.scale.dtype).eps
    assert_allclose(got.fit.matrix.cpu(), spec.fit.matrix, rtol=64 * eps, atol=4096 * eps)


def cases(rng, n, points, dtype=np.float64):
    x = rng.normal(size=(n, points, 2)) * 100
    y = similarity(rng, (n,)).apply(x) + rng.normal(size=x.shape) * 5
    y[:, points // 2 :] += rng.normal(size=(n, points - points // 2, 2)) * 80
    if points > 2:
        x[0, 1] = np.nan
    return x.astype(dtype), y.astype(dtype), rng.uniform(5, 20, (n, points)).astype(dtype)


@pytest.mark.parametrize("points", [0, 1, 2, 8, 9, 10, 13, 14])
@pytest.mark.parametrize("criterion", ["truncated", "fixed"])
def test_search_is_naive(rng, points, criterion):
    n = 3
    x, y, t = cases(rng, n, points)
    options = dict(
        valid=rng.random((n, points)) < 0.95,
        weights=rng.random((n, points)),
        prior=rng.normal(size=(n, points)) * 0.25,
        previous=similarity(rng, (n,)),
        inertia=np.array([0.0, 1.0, 160.0]),
        criterion=criterion,
    )
    if criterion == "fixed":
        if points < 3:
            return
        options["size"] = 3
    same(search(x, y, t, **options), search_subset(x, y, t, backend="naive", **options))


@pytest.mark.slow
def test_search_is_naive_for_a_person(rng):
    """17 points in float32, the default tolerance, one matrix before, batch dimensions that broadcast."""
    dtype = np.float32
    x = (rng.normal(size=(2, 17, 2)) * 100).astype(dtype)
    y = (similarity(rng).apply(x[0]) + rng.normal(size=(17, 2)) * 10).astype(dtype)
    options = dict(previous=similarity(rng).matrix.astype(dtype), inertia=7.3, prior=rng.normal(size=17).astype(dtype))
    same(search(x, y, **options), search_subset(x, y, backend="naive", **options))


@pytest.mark.parametrize("criterion", ["face", "all"])
def test_fixed_sets_are_those_of_naive(rng, criterion):
    x = rng.normal(size=(3, 17, 2)) * 100
    y = similarity(rng, (3,)).apply(x) + rng.normal(size=x.shape) * 3
    y[1, 2], y[2] = np.nan, np.nan
    before = fit_similarity(x[:, :4], y[:, :4])  # no fit for the last one
    options = dict(criterion=criterion, prior=rng.normal(size=17) * 0.1, previous=before, inertia=7.0)
    got = search(x, y, **options)
    same(got, search_subset(x, y, backend="naive", **options))
    assert not got.members[:, FACE.stop :].any() or criterion == "all"


def test_search_of_no_frames():
    got = search(np.zeros((0, 17, 2)), np.zeros((0, 17, 2)))
    assert got.members.shape == (0, 17)
    assert got.fit.matrix.shape == (0, 2, 3)


def test_ties_go_to_the_larger_set_then_the_lowest_mask():
    """As for the CPU: two exact clusters of equal size, and a point that costs exactly what it gains."""
    square = np.array([[0.0, 0], [100, 0], [100, 100], [0, 100]])
    turned = np.stack([-square[:3, 1], square[:3, 0]], -1) * 2
    for points in (6, 12, 14):  # tied within a lane's row, over the steps, and between programs
        first, second = np.arange(points)[:3], np.arange(points)[-3:]
        x, y = np.zeros((2, points, 2))
        x[first], x[second] = square[:3], square[:3] + 1000
        y[first], y[second] = square[:3], turned - 5000
        middle = np.arange(points)[3:-3]
        x[middle], y[middle] = middle[:, None] * [37, -11], middle[:, None] ** 2 * [-900, 700]
        found = search(x, y, np.full(points, 1.0))
        assert_array_equal(np.nonzero(found.members.cpu().numpy())[0], first)
        assert_allclose(found.value.cpu(), 3, atol=1e-9)
    found = search(square, square, np.full(4, 1.0), prior=np.array([0, 0, 0, -1.0]))
    assert found.members.all()


def test_weak_subsets_are_those_of_naive(rng):
    x = rng.normal(size=(6, 17, 2)) * 100
    y = x * 2 + 7
    y[0, 3:] = np.nan
    y[1] = np.nan
    x[2, 1:], y[2, 1:] = x[2, 1:] * 0.001, y[2, 1:] * 0.001  # one point is the whole lever
    y[3, 4:] += rng.normal(size=(13, 2)) * 3000
    same(search(x, y, criterion="all"), search_subset(x, y, criterion="all", backend="naive"))


def test_bad_values_leave_nothing(rng):
    """To raise an error would mean to wait for the device."""
    x, y, t = cases(rng, 3, 5)
    bad = {
        "tolerance": t * np.array([[1], [0], [1]]),
        "prior": np.where(np.arange(3)[:, None] == 1, np.nan, np.zeros((3, 5))),
        "previous": np.where(np.arange(3)[:, None, None] == 1, np.inf, np.eye(2, 3)),
    }
    for name, value in bad.items():
        options = {"tolerance": t, "inertia": 1.0, name: value}
        found = search(x, y, **options)
        assert not found.members[1].any(), name
        assert_array_equal(found.weak[1].cpu(), True)
        assert_array_equal(found.fit.ok.cpu(), [True, False, True])
        assert torch.isfinite(found.fit.matrix).all()
        assert torch.isfinite(found.value).all()


# Warps

LEVELS = FORMATS | {"bfloat16": 127.5}
# Sums are in float32 with at least 7 bits below a level: off by at most 0.04; floats add their own rounding, and the
# interpreter cuts bfloat16 off instead of rounding it.
OFF = TOLERANCE | {"bfloat16": 0.07 + 127.5 * (2.0**-9 if DEVICE.type == "cuda" else 2.0**-8)}


def warped(image, mask, matrix, size, interpolation="cubic", antialias=False, background=None, dtype="uint8"):
    """Composites the kernel's result against naive's; returns the kernel's."""
    ground = None if background is None else np.asarray(background)
    if ground is not None and ground.ndim >= 2:
        background = tensor(ground)
    options = dict(interpolation=interpolation, antialias=antialias, background=background, dtype=dtype)
    got = warp_composite(tensor(image), tensor(mask), tensor(matrix), size, backend="triton", **options)
    exact = dtype if dtype == "uint8" else "float32"
    spec = naive.warp_composite(image, mask, matrix, size, interpolation, antialias, ground, exact)
    for name, a, b in zip(got._fields, got, spec, strict=True):
        if b is None:
            assert a is None
            continue
        assert a.dtype == getattr(torch, dtype)
        assert a.shape == b.shape
        error = (a.cpu().double() - torch.from_numpy(b).double()).abs().max().item() * LEVELS[dtype]
        assert error <= OFF[dtype], f"{name} is off by {error} levels"
    return got


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("dtype", ["uint8", "float16", *slow(*sorted(LEVELS.keys() - {"uint8", "float16"}))])
def test_warp_is_naive(rng, interpolation, dtype):
    """Both ways of storing bytes, one and two levels, one and three channels, persons over images."""
    for source, size, channels, persons, antialias in [
        ((13, 9), (9, 33), 3, 2, False),
        ((40, 53), (18, 28), 3, 1, True),
        ((9, 5), (7, 30), 1, 2, True),
    ]:
        image, mask = reference(rng, *source, channels, persons)
        matrix = placements(rng, source, size, persons, [(1.3, -0.9), (0.4, 2.0)])
        background = rng.integers(0, 256, (2, *size, channels), np.uint8)
        warped(image, mask, matrix, size, interpolation, antialias, background, dtype)


@pytest.mark.parametrize("background", [17, (200, 3.25, 77), "shared", None])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_backgrounds(rng, background, dtype):
    size = (18, 40)
    image, mask = reference(rng, 10, 11)
    if background == "shared":
        background = rng.integers(0, 256, (*size, 3), np.uint8)
    matrix = placements(rng, (10, 11), size, 1, [(1, 1), (0.4, 2)])
    matrix[1, 0, :, 2] += 1e4  # out of the picture
    got = warped(image, mask, matrix, size, "bilinear", False, background, dtype)
    assert (got.mask[1] == 0).all()


def test_antialias_is_naive_at_every_scale(rng):
    image, mask = reference(rng, 45, 61)
    scales = [*np.geomspace(0.004, 2, 9), 0.5, 0.25, 1.0]
    warped(image, mask, placements(rng, (45, 61), (15, 30), 1, [(s, 9 * s) for s in scales]), (15, 30), antialias=True)


def test_any_affine_map(rng):
    image, mask = reference(rng, 40, 53)
    matrix = rng.normal(0, 1, (5, 1, 2, 3)) * [[1, 1, 15]] + [[0, 0, 10]]  # shears, reflections, unequal scales
    warped(image, mask, matrix, (20, 36), antialias=True)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_extreme_matrices(rng, interpolation):
    image, mask = reference(rng, 40, 41)
    matrix = np.stack(
        [
            placement(1e-9, 1, (20, 20), (7, 9)),  # one output pixel sees the whole reference
            placement(1e6, 0.3, (20.3, 20.4), (7, 9)),
            placement(1, 0, (0, 0), (1e12, -1e12)),
            placement(1 / 600, 0.5, (20, 20), (7, 9)),
            placement(1, 0, (0, 0), (-42, 0)),
            np.array([[1e-7, 0, 5], [0, 1e7, -1e8]]),
        ]
    )[:, None]
    for antialias in (False, True):
        warped(image, mask, matrix, (20, 24), interpolation, antialias)


def test_coordinates_hold_far_from_the_corner(rng):
    """A reference 70,000 pixels wide, sampled at its far end: float32 coordinates would be off by hundredths."""
    image, mask = reference(rng, 6, 70000)
    matrix = np.array([placement(1.1, 0.001, (69980.3, 3.2), (12.9, 6.1)), placement(0.7, 0.02, (60000.7, 3), (9, 9))])
    warped(image, mask, matrix[:, None], (13, 30), dtype="float32")


def test_identity_and_whole_shifts_are_exact(rng):
    image, mask = reference(rng, 21, 37)
    for interpolation in INTERPOLATIONS:
        matrix = tensor(np.stack([np.eye(2, 3), np.eye(2, 3) + [[0, 0, 5], [0, 0, -7]]]).astype(np.float32))
        got = warp_composite(tensor(image), tensor(mask), matrix, (21, 37), interpolation, backend="triton")
        assert_array_equal(got.image[0, 0].cpu(), image[0])
        assert_array_equal(got.mask[0, 0].cpu(), mask[0])
        assert_array_equal(got.image[1, 0, :14, 5:].cpu(), image[0, 7:, :-5])
        assert not got.image[1, 0, 14:].any()


def test_kernels_build_the_pyramid_of_naive(rng):
    for size in ((20, 33), (1, 9)):
        image, mask = reference(rng, *size)
        source, expected = WarpSource(tensor(image), tensor(mask), "triton"), np.dstack([image[0], mask[0]])
        scale = 1.0
        while max(expected.shape[:2]) > 1:
            expected, scale = naive.halve(expected), scale / 2
            matrix = tensor([[[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2]]])
            got = source.warp(matrix, expected.shape[:2], antialias=True)
            assert_array_equal(np.dstack([got.image[0, 0].cpu(), got.mask[0, 0].cpu()]), expected)


@pytest.mark.parametrize("persons", [1, 2])
@pytest.mark.slow
def test_a_least_scale_makes_no_more_of_the_pyramid_than_is_read(rng, monkeypatch, persons):
    """The same pictures from the least scale on, with a launch for each level that is needed and no more."""
    from tpc_fast.kernels import warp

    launched = []

    class Counted:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            launched.append(grid)
            return self.kernel[grid]

    monkeypatch.setattr(warp, "halve_kernel", Counted(warp.halve_kernel))
    images, masks = reference(rng, 70, 41, persons=persons)
    full = WarpSource(tensor(images), tensor(masks), "triton")
    for least, levels in (
        (2.0, 0),
        (1.0, 0),
        (0.999, 1),
        (0.5, 1),
        (0.4999, 2),
        (0.26, 2),
        (0.25, 2),
        (0.1, 4),
        (0, 7),
    ):
        source = WarpSource(tensor(images), tensor(masks), "triton", least_scale=least)
        scales = np.array([least or 0.01, 1.3 * least + 0.01, 3])
        matrix = np.zeros((3, persons, 2, 3))
        matrix[:, :, 0, 0], matrix[:, :, 1, 1] = scales[:, None] * 1.1, scales[:, None] / 1.1
        matrix[..., 2] = rng.uniform(-9, 9, (3, persons, 2))
        expected = full.warp(tensor(matrix), (23, 31), antialias=True, background=9)
        launched.clear()
        got = source.warp(tensor(matrix), (23, 31), antialias=True, background=9)
        assert len(launched) == levels
        for a, b in zip(got, expected, strict=True):
            assert_array_equal(a.cpu(), b.cpu())
    with pytest.raises(ValueError, match="least_scale must be a number from 0 on, but is -1"):
        WarpSource(images, masks, least_scale=-1)


def test_every_launch_is_on_the_device_of_its_tensors():
    """Triton launches on the current one: every `kernel[grid](...)` stands inside `with on(...)`."""
    from tpc_fast.kernels import procrustes, reference_attention, warp
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    found = collections.Counter()

    def look(node, guarded):
        if isinstance(node, ast.With):
            calls = (item.context_expr for item in node.items)
            guarded |= any(isinstance(c, ast.Call) and getattr(c.func, "id", "") == "on" for c in calls)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
            name = getattr(node.func.value, "id", "")
            if isinstance(getattr(module, name, None), JITFunction | InterpretedFunction):
                found[module.__name__.rpartition(".")[2]] += 1
                assert guarded, f"{name} of {module.__name__}, line {node.lineno}"
        for child in ast.iter_child_nodes(node):
            look(child, guarded)

    for module in (procrustes, warp, reference_attention):
        look(ast.parse(Path(module.__file__).read_text()), False)
    assert found == {"procrustes": 4, "warp": 3, "reference_attention": 1}


def test_bad_matrices_show_nothing(rng):
    """To raise an error would mean to wait for the device."""
    image, mask = reference(rng, 9, 9)
    matrix = np.stack([np.eye(2, 3)] * 5)
    matrix[1, 0, 0], matrix[2, 1, 2] = np.nan, np.inf
    matrix[3, :, :2] = [[0.1, 0.3], [0.2, 0.6]]
    matrix[4, 0, 2] = 1e17
    got = warp_composite(tensor(image), tensor(mask), tensor(matrix), (9, 9), background=7, backend="triton")
    assert_array_equal(got.image[0, 0].cpu(), image[0])
    assert not got.image[1:].any()
    assert not got.mask[1:].any()
    assert (got.composite[1:] == 7).all()


def test_shapes_without_frames_and_strided_input(rng):
    image, mask = reference(rng, 10, 12, persons=2)
    none = warp_composite(tensor(image), tensor(mask), tensor(np.zeros((0, 2, 2, 3))), (7, 8), background=1,
                          dtype="float16", backend="triton")  # fmt: skip
    assert [tuple(a.shape) for a in none] == [(0, 2, 3, 7, 8), (0, 2, 7, 8), (0, 3, 7, 8)]
    matrix = tensor(placements(rng, (10, 6), (9, 9), 2, [(1, 1)]))
    ground = tensor(rng.integers(0, 256, (18, 9, 3), np.uint8))[::2]
    views = tensor(image)[:, :, ::2], tensor(mask)[:, :, ::2]
    got = warp_composite(*views, matrix, (9, 9), background=ground, backend="triton")
    same_pixels = warp_composite(
        *(v.clone() for v in views), matrix.clone(), (9, 9), background=ground.clone(), backend="triton"
    )
    shared = warp_composite(views[0][0], views[1], matrix, (9, 9), backend="triton")
    for a, b in zip(got, same_pixels, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(shared.image[:, 0], got.image[:, 0])


# Gradients and graphs


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_fits_are_differentiable(rng, dims, weighted):
    x = tensor(rng.normal(size=(3, 6, dims)) * 3)
    y = tensor(similarity(rng, (3,), dims).apply(x.cpu().numpy()) + rng.normal(size=x.shape))
    x[0, 1] = float("nan")
    w = tensor(rng.random((3, 6)) + 0.5)
    seen = x.isfinite()

    def function(known, y, *w):
        points = torch.full_like(x, float("nan")).masked_scatter(seen, known)
        found = fit_similarity(points, y, *w, backend="triton")
        return found.scale, found.rotation, found.translation, found.residual

    inputs = [a.clone().requires_grad_() for a in (x[seen], y, *([w] if weighted else []))]
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


def test_a_fit_shared_by_many_collects_their_gradients(rng):
    x, y = tensor(rng.normal(size=(5, 2))).requires_grad_(), tensor(rng.normal(size=(4, 5, 2)))
    fit_similarity(x, y, backend="triton").scale.sum().backward()
    total = sum(torch.autograd.grad(fit_similarity(x, one, backend="triton").scale, x)[0] for one in y.unbind())
    assert_allclose(x.grad.cpu(), total.cpu(), rtol=1e-9)


def test_what_is_not_differentiable_says_so(rng):
    x = tensor(rng.normal(size=(17, 2))).requires_grad_()
    with pytest.raises(TypeError, match="search_subset computes no gradient"):
        search_subset(x, x.detach(), backend="triton")
    image, mask = (tensor(a) for a in reference(rng, 5, 5))
    matrix = tensor(np.eye(2, 3)[None]).requires_grad_()
    with pytest.raises(TypeError, match="requires a gradient, which uint8 results have none for"):
        warp_composite(image, mask, matrix, (5, 5), backend="triton")
    with pytest.raises(TypeError, match=r"matrix requires a gradient.*matrix.detach"):
        WarpSource(image, mask, "triton").warp(matrix, (5, 5))


def test_fits_under_vmap_and_grad(rng):
    x, y = (tensor(rng.normal(size=(3, 5, 2))) for _ in range(2))

    def scale(x, y):
        return fit_similarity(x, y, backend="triton").scale

    assert_allclose(torch.func.vmap(scale)(x, y).cpu(), scale(x, y).cpu(), rtol=1e-12)
    known = x.clone().requires_grad_()
    scale(known, y).sum().backward()
    assert_allclose(torch.func.vmap(torch.func.grad(scale))(x, y).cpu(), known.grad.cpu(), rtol=1e-12)


def test_degenerate_fits_have_the_gradient_of_a_shift():
    x = tensor(np.array([[1.0, 2]])).requires_grad_()
    found = fit_similarity(x, tensor(np.array([[5.0, 5]])), backend="triton")
    found.matrix[:, 2].sum().backward()
    assert_allclose(x.grad.cpu(), [[-1, -1]])


def test_torch_compile_passes_through(rng):
    x, y = tensor(rng.normal(size=(2, 9, 2)) * 50), tensor(rng.normal(size=(2, 9, 2)) * 50)
    t = torch.full((9,), 20.0, dtype=torch.float64, device=DEVICE)
    image, mask = (tensor(a) for a in reference(rng, 9, 10))

    def path(x, y):
        chosen = search_subset(x, y, t, backend="triton")
        found = fit_similarity(x, y, chosen.members.to(x.dtype), backend="triton")
        out = warp_composite(image, mask, found.matrix, (9, 8), background=3, dtype="float32", backend="triton")
        return out.composite * 2 + found.scale.mean()

    compiled = torch.compile(path, fullgraph=True, backend="aot_eager")
    # What compiles may invert a matrix and take means in another order. A coordinate that moves by an ulp rounds the
    # picture's sums otherwise: each of the two is off by what a picture may be off, and the path doubles it.
    limit = 4 * OFF["float32"] / LEVELS["float32"]
    torch.testing.assert_close(compiled(x, y), path(x, y), rtol=0, atol=limit)


@pytest.mark.slow
def test_operations_are_registered_as_they_behave(rng):
    from tpc_fast.kernels import procrustes, warp

    x, y, w = (tensor(a) for a in (*rng.normal(size=(2, 2, 4, 2)), rng.random((2, 4))))
    for arguments in ((x, y, w), (x.clone().requires_grad_(), y, None)):
        torch.library.opcheck(procrustes._fit_operation, arguments)
    absent, plain = (None,) * 6, (2, True, 0, 4, 4, 3, 0.3, 1.3)
    torch.library.opcheck(procrustes.search_subset, (x, y, torch.ones_like(w), *absent, *plain))
    image, mask = (tensor(a) for a in reference(rng, 3, 3))
    torch.library.opcheck(warp.pack_reference, (image, mask, 2))
    packed = warp.pack_reference(image, mask, 2)
    torch.library.opcheck(warp.build_pyramid, (packed, 1, 3, 3, 2))
    matrix = tensor(np.eye(2, 3)[None, None])
    arguments = (packed, matrix, None, [3, 3], 2, [4, 4], 3, 2, False, [0.0, 0.0, 0.0], torch.float16, True)
    torch.library.opcheck(warp.warp_composite, arguments)


# Bad input says the same as on the CPU


def test_bad_tensors_are_named(rng):
    x, y = (tensor(a) for a in rng.normal(size=(2, 17, 2)))
    elsewhere = torch.zeros(17, 2, dtype=torch.float64, device="meta")
    image, mask = (tensor(a) for a in reference(rng, 6, 7))
    matrix = tensor(np.eye(2, 3)[None])

    def warp(image=image, mask=mask, matrix=matrix, size=(4, 5), **options):
        return warp_composite(image, mask, matrix, size, backend="triton", **options)

    for error, match, call in [
        (TypeError, f"dst must be on {DEVICE} like the first array, but is on meta", lambda: fit_on(x, elsewhere)),
        (TypeError, "one kind.*dst is a NumPy array", lambda: fit_similarity(x, np.zeros((17, 2)), backend="triton")),
        (TypeError, "one dtype.*float64 and torch.float32", lambda: fit_on(x, y.float())),
        (TypeError, "src must be an array of numbers.*complex", lambda: fit_on(x + 0j, y + 0j)),
        (ValueError, r"src must be \[..., K, 2\].*\(17, 4\)", lambda: fit_on(torch.cat([x, x], 1), y)),
        (ValueError, r"dst must be \[..., 17, 2\].*\(5, 2\)", lambda: fit_on(x, y[:5])),
        (ValueError, r"weights must be \[..., 17\]", lambda: fit_on(x, y, y[:4, 0])),
        (ValueError, "broadcast.*src .2,., dst .3,.", lambda: fit_on(x.expand(2, 17, 2), y.expand(3, 17, 2))),
        (ValueError, "at most 20 points.*34", lambda: search_subset(x.repeat(2, 1), y.repeat(2, 1), backend="triton")),
        (ValueError, "tolerance or sigmas must be given", lambda: search_subset(x[:5], y[:5], backend="triton")),
        (ValueError, "inertia must be >= 0", lambda: search_subset(x, y, inertia=-1.0, backend="triton")),
        (TypeError, "previous must be on", lambda: search_subset(x, y, previous=elsewhere, backend="triton")),
        (TypeError, "image must be uint8", lambda: warp(image=image.int())),
        (TypeError, "mask must be on .* but is on meta", lambda: warp(mask=mask.to("meta"))),
        (TypeError, "matrix must be on .* but is on meta", lambda: warp(matrix=matrix.to("meta"))),
        (TypeError, "matrix is a NumPy array", lambda: warp(matrix=np.eye(2, 3)[None])),
        (TypeError, "matrix must be an array of numbers", lambda: warp(matrix=matrix + 0j)),
        (ValueError, r"matrix must be \[F, 2, 3\] or", lambda: warp(matrix=matrix[0])),
        (ValueError, "mask must have the height and width", lambda: warp(mask=mask[:, 1:])),
        (ValueError, "background must be a colour", lambda: warp(background=image[0])),
        (TypeError, "background must be uint8", lambda: warp(background=torch.zeros(4, 5, 3, device=DEVICE))),
        (TypeError, "background must be plain numbers or a uint8 image", lambda: warp(background=torch.zeros(3))),
        (ValueError, "from 0 to 255", lambda: warp(background=256)),
        (ValueError, "dtype must be one of", lambda: warp(dtype="int8")),
        (ValueError, "too many for one launch", lambda: warp(size=(1 << 24, 1 << 24))),
        (
            RuntimeError,
            "'triton' cannot be had: .*ndarray",
            lambda: fit_similarity(np.eye(2), np.eye(2), backend="triton"),
        ),
    ]:
        with pytest.raises(error, match=match):
            call()


def fit_on(*arrays):
    return fit_similarity(*arrays, backend="triton")
