"""The Triton kernels against the naive twin: on a GPU where there is one, otherwise by the interpreter.

Outputs are filled with NaN (255, True) before a kernel runs, so that an element that is not written shows. That every
kernel compiles for GPUs is tested in `test_cubins.py`.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_procrustes import DEGENERATE, rotation, similarity
from test_warp import FORMATS, TOLERANCE, placements, reference
from test_warp import similarity as placement

from tpc_fast import Fit, Similarity, fit_similarity, naive, search_subset
from tpc_fast.procrustes import FACE
from tpc_fast.warp import INTERPOLATIONS, WarpSource, warp_composite

torch = pytest.importorskip("torch", reason="torch comes with extra 'torch'")
pytestmark = pytest.mark.triton
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


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("points", [0, 1, 2, 3, 17, 31, 33, 50])
@pytest.mark.parametrize("weighted", [False, True])
def test_fit_is_naive(rng, dims, dtype, points, weighted):
    n = 133  # more than a block
    x = (rng.normal(size=(n, points, dims)) * 100 + rng.normal(size=(n, 1, dims)) * 300).astype(dtype)
    y = (similarity(rng, (n,), dims).apply(x) + rng.normal(size=x.shape) * rng.choice([0, 1, 50])).astype(dtype)
    if points:
        x[3], y[4, 0], x[5, -1] = np.nan, np.inf, np.nan
    w = (rng.random((n, points)).astype(dtype) + np.finfo(dtype).eps,) if weighted else ()
    got, spec = fit(x, y, *w), fit_similarity(x, y, *w, backend="naive")
    assert_array_equal(got.ok.cpu(), spec.ok)
    # As in test_core_is_naive: both compute in float64.
    eps, size = np.finfo(dtype).eps, np.nanmax(abs(np.where(np.isfinite(y), y, 0)), initial=1).astype(np.float64)
    still = np.nan_to_num(x, nan=0.0)
    for a, b in ((got.matrix.cpu().numpy(), spec.matrix), (got.residual.cpu().numpy(), spec.residual)):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert np.isfinite(a).all()
    ends = [Similarity(*(np.asarray(v) for v in (f.scale, f.rotation, f.translation))) for f in (got_on_cpu(got), spec)]
    assert abs(ends[0].apply(still).astype(np.float64) - ends[1].apply(still)).max(initial=0) <= 64 * eps * size
    assert abs(got.residual.cpu().numpy().astype(np.float64) - spec.residual).max() <= 64 * eps * size


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_search_is_naive_for_a_person(rng, dtype):
    """17 points, the default tolerance, one matrix before, batch dimensions that broadcast."""
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
