"""Transform models: every backend against the naive twin, the twin against scipy's minimiser."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scene import FIGURE

from tpc_fast import Similarity, fit_similarity, search_subset
from tpc_fast.ops.transforms import MODELS, fit_linear_map, search_transform

OTHERS = [model for model in MODELS if model != "similarity"]
BACKENDS = ["naive", pytest.param("cpu", marks=pytest.mark.native)]
PARAMETERS = {"translation": 2, "linear": 4, "similarity": 4, "affine": 6}


def draw(rng, model, batch=()):
    """A random map of the model, [*batch, 2, 3]."""
    matrix = np.zeros((*batch, 2, 3))
    matrix[..., 2] = rng.normal(size=(*batch, 2)) * 100
    a = rng.uniform(0.5, 2, (*batch, 2)) * rng.choice([-1, 1], (*batch, 2))
    if model == "translation":
        a = np.ones((*batch, 2))
    matrix[..., 0, 0], matrix[..., 1, 1] = a[..., 0], a[..., 1]
    if model == "similarity":
        matrix[..., 1, 1] = matrix[..., 0, 0]
        matrix[..., 1, 0] = rng.normal(size=batch)
        matrix[..., 0, 1] = -matrix[..., 1, 0]
    if model == "affine":
        matrix[..., :2] += rng.normal(size=(*batch, 2, 2)) * 0.2
    return matrix


def moved(matrix, points):
    return points @ matrix[..., :2].swapaxes(-1, -2) + matrix[..., None, :, 2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", MODELS)
def test_exact_points_give_the_map_back(rng, model, backend):
    truth = draw(rng, model, (5,))
    x = rng.normal(size=(5, 7, 2)) * 100
    fit = fit_linear_map(x, moved(truth, x), model, backend=backend)
    assert fit.ok.all()
    assert_allclose(fit.matrix, truth, rtol=1e-9, atol=1e-9)
    assert_allclose(fit.residual, 0, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_naive_is_least_squares_by_another_solver(rng, model):
    """scipy's minimiser over the model's parameters finds nothing better, and ends at the same map."""
    from scipy.optimize import least_squares

    x, y, w = rng.normal(size=(9, 2)), rng.normal(size=(9, 2)), rng.random(9)

    def build(p):
        a = {
            "translation": lambda: np.eye(2),
            "linear": lambda: np.diag(p[2:]),
            "similarity": lambda: np.array([[p[2], -p[3]], [p[3], p[2]]]),
            "affine": lambda: p[2:].reshape(2, 2),
        }[model]()
        return np.column_stack([a, p[:2]])

    def residuals(p):
        return (np.sqrt(w)[:, None] * (moved(build(p), x) - y)).ravel()

    start = np.r_[0, 0, rng.normal(size=PARAMETERS[model] - 2)]
    best = least_squares(residuals, start, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    fit = fit_linear_map(x, y, model, w, backend="naive")
    assert fit.residual == pytest.approx(np.sqrt(2 * best.cost / w.sum()), rel=1e-9)
    assert_allclose(fit.matrix, build(best.x), atol=1e-5)


@pytest.mark.native
@pytest.mark.parametrize("points", [0, 1, 2, 3, 8, 17])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("model", OTHERS)
def test_fit_is_naive(rng, model, dtype, points):
    n = 11
    x, y = (rng.normal(size=(2, n, points, 2)) * 100 + 300).astype(dtype)
    x[rng.random((n, points)) < 0.1] = np.nan
    y[rng.random((n, points)) < 0.1] = np.inf
    w = rng.random((n, points)) * (rng.random((n, points)) < 0.9)
    core, spec = (fit_linear_map(x, y, model, w, backend=b) for b in ("cpu", "naive"))
    assert core.matrix.dtype == dtype
    assert_array_equal(core.ok, spec.ok)
    tolerance = 1e-9 if dtype == np.float64 else 1e-5
    assert_allclose(core.matrix, spec.matrix, rtol=tolerance, atol=tolerance * 1e3)
    assert_allclose(core.residual, spec.residual, rtol=tolerance, atol=tolerance * 1e3)
    assert np.isfinite(core.matrix).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_degenerate_points_are_not_ok_and_only_shifted(backend):
    square = np.array([[0.0, 0], [100, 0], [100, 100], [0, 100]])
    line = np.array([[0.0, 0], [1, 0], [2, 0], [3, 0]])
    for model, x, y in (
        ("linear", line, square),  # no spread down
        ("affine", line @ [[1, 1], [0, 1]], square),  # collinear
        ("affine", square, line),  # without an inverse
        ("linear", square, line),
    ):
        fit = fit_linear_map(x, y, model, backend=backend)
        assert not fit.ok
        assert_allclose(fit.matrix, np.column_stack([np.eye(2), y.mean(0) - x.mean(0)]), atol=1e-12)
    for model in OTHERS:
        fit = fit_linear_map(np.full((3, 2), np.nan), np.zeros((3, 2)), model, backend=backend)
        assert not fit.ok
        assert_array_equal(fit.matrix, np.eye(2, 3))
    assert fit_linear_map(line[:1], line[:1] + 3, "translation", backend=backend).ok


def test_richer_models_fit_better(rng):
    """The models are nested: residuals can only fall."""
    x, y = rng.normal(size=(2, 20, 9, 2))
    translation, linear, similarity, affine = (fit_linear_map(x, y, model).residual for model in MODELS)
    assert (affine <= linear + 1e-12).all()
    assert (affine <= similarity + 1e-12).all()
    assert (linear <= translation + 1e-12).all()
    assert (similarity <= translation + 1e-12).all()


def test_similarity_is_fit_similarity(rng):
    x, y = rng.normal(size=(2, 5, 9, 2))
    assert_array_equal(fit_linear_map(x, y).matrix, fit_similarity(x, y).matrix)
    t = np.full(9, 0.5)
    assert_array_equal(search_transform(x, y, tolerance=t).members, search_subset(x, y, t).members)


@pytest.mark.native
@pytest.mark.parametrize("points", [0, 1, 2, 3, 6, 8, 9])
@pytest.mark.parametrize("criterion", ["truncated", "fixed"])
@pytest.mark.parametrize("model", OTHERS)
def test_search_is_naive(simd, rng, model, criterion, points):
    n = 2 if points > 6 else 5
    x = rng.normal(size=(n, points, 2)) * 100
    y = moved(draw(rng, model, (n,)), x) + rng.normal(size=x.shape) * 5
    y[:, points // 2 :] += rng.normal(size=(n, points - points // 2, 2)) * 80
    options = dict(
        tolerance=rng.uniform(5, 20, (n, points)),
        valid=rng.random((n, points)) < 0.9,
        weights=rng.random((n, points)),
        prior=rng.normal(size=(n, points)) * 0.25,
        previous=draw(rng, model, (n,)),
        inertia=rng.choice([0.0, 1.0, 160.0], n),
        criterion=criterion,
        size=3 if criterion == "fixed" else None,
    )
    if criterion == "fixed" and points < 3:
        with pytest.raises(ValueError, match="size must be from 2 to"):
            search_transform(x, y, model, **options)
        return
    core, spec = (search_transform(x, y, model, backend=b, **options) for b in ("cpu", "naive"))
    assert_allclose(core.value, spec.value, atol=2e-6)
    for i in np.nonzero((core.members == spec.members).all(-1))[0]:
        # Fits are solved from sums of squares, whose rounding grows with the square of the members' condition.
        members = x[i][spec.members[i]]
        spread = np.linalg.svd(members - members.mean(0), compute_uv=False)[-1] if len(members) > 2 else 100.0
        rounding = 100 * np.finfo(float).eps * (np.abs(members).max(initial=1) / max(spread, 1e-3)) ** 2
        largest = np.abs(spec.fit.matrix[i]).max(initial=1)
        assert_allclose(core.fit.matrix[i], spec.fit.matrix[i], rtol=1e-8, atol=1e-8 + rounding * largest)
        assert core.weak[i] == spec.weak[i]
    assert (core.members <= options["valid"]).all()


@pytest.mark.native
@pytest.mark.parametrize("model", OTHERS)
def test_search_finds_the_planted_subset_among_seventeen(simd, rng, model):
    truth = draw(rng, model)
    x = rng.normal(size=(17, 2)) * 100
    y = moved(truth, x)
    y[10:] += rng.uniform(200, 400, (7, 2)) * rng.choice([-1, 1], (7, 2))
    found = search_transform(x, y, model, np.full(17, 2.0))
    assert_array_equal(found.members, np.arange(17) < 10)
    assert_allclose(found.fit.matrix, truth, rtol=1e-9, atol=1e-8)
    everything = search_transform(x, y, model, np.full(17, 2.0), criterion="all")
    assert everything.members.all()
    assert everything.value < found.value


@pytest.mark.native
@pytest.mark.parametrize("model", OTHERS)
def test_weak_fits(rng, model):
    person = moved(draw(rng, model), FIGURE)
    assert not search_transform(FIGURE, person, model).weak
    few = person.copy()
    few[3:] = np.nan
    assert search_transform(FIGURE, few, model).weak  # three points
    nothing = search_transform(FIGURE, person * np.nan, model)
    assert nothing.weak
    assert not nothing.members.any()
    assert_array_equal(nothing.fit.matrix, np.eye(2, 3))


def test_inertia_is_that_of_similarities(rng):
    """For two similarities |A A_previous^-1 - 1|^2 / 2 is |a / a_previous - 1|^2."""
    a, b = draw(rng, "similarity", (2,))[..., :2]
    change = a @ np.linalg.inv(b) - np.eye(2)
    ratio = complex(a[0, 0], a[1, 0]) / complex(b[0, 0], b[1, 0])
    assert (change**2).sum() / 2 == pytest.approx(abs(ratio - 1) ** 2)


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ValueError, "model must be one of translation.*'rigid'", lambda z: fit_linear_map(z, z, "rigid")),
        (ValueError, r"src must be \[..., K, 2\]", lambda z: fit_linear_map(z[:, :1], z, "affine")),
        (ValueError, r"dst must be \[..., 17, 2\]", lambda z: fit_linear_map(z, z[1:], "affine")),
        (TypeError, "one dtype", lambda z: fit_linear_map(z, z.astype("f4"), "affine")),
        (ValueError, "weights must be >= 0", lambda z: fit_linear_map(z, z, "linear", -np.ones(17))),
        (ValueError, "weights must be finite", lambda z: fit_linear_map(z, z, "linear", np.full(17, np.nan))),
        (ValueError, "backend must be", lambda z: fit_linear_map(z, z, "linear", backend="gpu")),
        (ValueError, "criterion must be one of", lambda z: search_transform(z, z, "linear", criterion="best")),
        (ValueError, "tolerance must be > 0", lambda z: search_transform(z, z, "linear", np.zeros(17))),
        (ValueError, "needs the 17 COCO", lambda z: search_transform(z[1:], z[1:], "linear")),
        (ValueError, "inertia must be >= 0", lambda z: search_transform(z, z, "linear", inertia=-1.0)),
        (ValueError, "previous must be", lambda z: search_transform(z, z, "linear", previous=np.eye(3))),
    ],
)
def test_bad_input(error, match, call):
    with pytest.raises(error, match=match):
        call(np.zeros((17, 2)))


@pytest.mark.torch
def test_tensors_give_tensors(rng):
    import torch

    x, y = torch.from_numpy(rng.normal(size=(2, 3, 17, 2)))
    found = search_transform(x, y, "affine")
    assert isinstance(found.fit.matrix, torch.Tensor)
    assert isinstance(fit_linear_map(x, y, "linear").residual, torch.Tensor)
    assert_allclose(found.fit.matrix.numpy(), search_transform(x.numpy(), y.numpy(), "affine").fit.matrix)
    assert isinstance(Similarity.from_matrix(fit_linear_map(x, y).matrix).scale, torch.Tensor)
