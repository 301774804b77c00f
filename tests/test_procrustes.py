"""Fits and subset search: literals, the naive twin, laws, degenerate and bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scene import FIGURE

import tpc_fast
from tpc_fast import Fit, Similarity, fit_similarity, naive, search_subset
from tpc_fast.ops.procrustes import COCO_SIGMAS, default_tolerance, person_size, scale_and_angle

BACKENDS = [pytest.param("cpu", marks=pytest.mark.native), "naive"]
seeds = st.integers(0, 2**32 - 1)


def rotation(rng, batch, d):
    q, r = np.linalg.qr(rng.normal(size=(*batch, d, d)))
    q *= np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
    q[..., 0] *= np.sign(np.linalg.det(q))[..., None]
    return q


def similarity(rng, batch=(), d=2):
    return Similarity(np.exp(rng.normal(size=batch)), rotation(rng, batch, d), rng.normal(size=(*batch, d)) * 100)


# Fits


@pytest.mark.parametrize("backend", BACKENDS)
def test_literal_quarter_turn(backend):
    src = np.array([[0.0, 0], [1, 0], [0, 1]])
    dst = np.array([[10.0, 20], [10, 22], [8, 20]])  # twice as large, x -> y, moved to (10, 20)
    fit = fit_similarity(src, dst, backend=backend)
    assert_allclose(fit.matrix, [[0, -2, 10], [2, 0, 20]], atol=1e-14)
    assert_allclose([fit.scale, fit.angle, fit.residual], [2, np.pi / 2, 0], atol=1e-14)
    assert fit.ok


@pytest.mark.parametrize("backend", BACKENDS)
def test_literal_residual_and_weights(backend):
    # Two points fit exactly; the third is 4 off the shift (0, 0) and weighs nothing, then everything is off.
    src = np.array([[-1.0, 0], [1, 0], [0, 1]])
    dst = np.array([[-1.0, 0], [1, 0], [0, 5]])
    fit = fit_similarity(src, dst, np.array([1.0, 1, 0]), backend=backend)
    assert_allclose(fit.matrix, np.eye(2, 3), atol=1e-14)
    assert_allclose(fit.residual, 0, atol=1e-14)
    fit = fit_similarity(src, dst, backend=backend)
    assert_allclose(fit.residual, np.sqrt(((fit.apply(src) - dst) ** 2).sum() / 3), rtol=1e-12)


def rounding_of_fits(src, dst, weights, ok):
    """How far apart [N, 1] two fits of points [N, K, D], computed in float64 in two ways, may lay them.

    By the final rounding, and by conditioning: where points almost lie on a line, only what is beside it says how it is
    turned about.
    """
    x, y, w = (np.asarray(a, np.float64) for a in (src, dst, weights))
    seen = np.isfinite(x).all(-1) & np.isfinite(y).all(-1)
    x, y, w = np.where(seen[..., None], x, 0), np.where(seen[..., None], y, 0), w * seen
    share = w / np.maximum(w.sum(-1, keepdims=True), np.finfo(float).tiny)
    xc, yc = (p - np.einsum("nk,nkd->nd", share, p)[:, None] for p in (x, y))
    s = np.linalg.svd(np.einsum("nk,nki,nkj->nij", share, yc, xc), compute_uv=False)
    gap = s[:, -2] - (s[:, -1] if s.shape[1] == 3 else 0)
    loss = np.divide(s[:, 0], gap, out=np.ones(len(s)), where=ok)[:, None]  # not ok: a shift, nothing is turned
    return (64 * np.finfo(dst.dtype).eps + 16 * np.finfo(np.float64).eps * loss) * abs(y).max(initial=1)


@pytest.mark.native
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("points", [2, 3, 5, 17, 100])
def test_core_is_naive(simd, rng, dims, dtype, points):
    x = (rng.normal(size=(41, points, dims)) * 100 + rng.normal(size=(41, 1, dims)) * 300).astype(dtype)
    y = (similarity(rng, (41,), dims).apply(x) + rng.normal(size=x.shape) * rng.choice([0, 1, 50])).astype(dtype)
    w = rng.random((41, points)).astype(dtype) + np.finfo(dtype).eps
    core, spec = (fit_similarity(x, y, w, backend=b) for b in ("cpu", "naive"))
    assert_array_equal(core.ok, spec.ok)
    moved_core, moved_spec = (f.apply(x).astype(np.float64) for f in (core, spec))
    limit = rounding_of_fits(x, y, w, spec.ok)
    assert (abs(moved_core - moved_spec).max(-1) <= limit).all()
    assert (abs(core.residual - spec.residual) <= limit[:, 0]).all()
    if dtype == np.float32 and points >= 5:
        assert_allclose(core.scale, spec.scale, rtol=1e-5)
        assert_allclose(core.rotation, spec.rotation, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dims", [2, 3])
def test_recovers_an_exact_similarity(rng, backend, dims):
    truth = similarity(rng, (3, 4), dims)
    x = rng.normal(size=(3, 4, 9, dims)) * 50
    fit = fit_similarity(x, truth.apply(x), backend=backend)
    assert_allclose(fit.scale, truth.scale, rtol=1e-11)
    assert_allclose(fit.rotation, truth.rotation, atol=1e-11)
    assert_allclose(fit.translation, truth.translation, atol=1e-9)
    assert fit.ok.all()
    assert fit.residual.max() < 1e-10 * abs(truth.apply(x)).max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dims", [2, 3])
def test_mirror_image_gets_a_proper_rotation(rng, backend, dims):
    x = rng.normal(size=(50, 8, dims))
    fit = fit_similarity(x, x * ([-1] + [1] * (dims - 1)), backend=backend)
    assert_allclose(np.linalg.det(fit.rotation), 1)
    assert_allclose(
        fit.rotation @ fit.rotation.swapaxes(-1, -2), np.broadcast_to(np.eye(dims), fit.rotation.shape), atol=1e-12
    )


DEGENERATE = [  # src, dst, weights
    (np.zeros((0, 2)), np.zeros((0, 2)), None),
    ([[1, 2]], [[3, 4]], None),
    ([[1, 2], [1, 2], [1, 2]], [[0, 0], [5, 5], [1, 9]], None),
    ([[0, 0], [1, 0]], [[7, 7], [7, 7]], None),
    ([[0, 0], [1, 0], [0, 1]], [[0, 0], [1, 0], [0, 1]], [0, 0, 0]),
    ([[0, 0], [1, 0], [0, 1]], [[0, 0], [1, 0], [0, 1]], [0, 5, 0]),
    ([[0, 0], [np.nan, 0]], [[1, 1], [2, 2]], None),
    ([[np.nan, 0], [0, np.inf]], [[1, 1], [2, 2]], None),
    ([[0.1, 0.1], [0.1, 0.1]], [[1e30, 0], [-1e30, 0]], None),
    ([[1, 0], [-1, 0], [0, 1], [0, -1]], [[1, 0], [-1, 0], [0, -1], [0, 1]], None),
    ([[0, 0, 0], [1, 1, 1], [2, 2, 2]], [[0, 0, 0], [1, 0, 0], [2, 0, 0]], None),
    ([[1e38, 0], [-1e38, 0]], [[1e-30, 0], [-1e-30, 0]], None),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("src", "dst", "weights"), DEGENERATE)
def test_degenerate_is_not_ok_and_finite(backend, dtype, src, dst, weights):
    src, dst = (np.asarray(p, dtype) for p in (src, dst))
    fit = fit_similarity(src, dst, weights if weights is None else np.asarray(weights, dtype), backend=backend)
    if dtype == np.float64 and abs(np.nan_to_num(src)).max(initial=0) == 1e38:
        assert fit.ok  # tiny, but float64 can say it
    else:
        assert not fit.ok
        assert fit.scale == 1
        assert_array_equal(fit.rotation, np.eye(src.shape[-1]))
    for value in (fit.scale, fit.rotation, fit.translation, fit.residual, fit.matrix):
        assert np.isfinite(value).all()


@pytest.mark.native
def test_degenerate_rows_do_not_touch_their_neighbours(simd, rng):
    x, y = rng.normal(size=(2, 19, 6, 2))
    broken = x.copy()
    broken[::3] = np.nan
    good = np.arange(19) % 3 != 0
    whole, part = fit_similarity(x, y), fit_similarity(broken, y)
    assert_array_equal(part.ok, good)
    assert_array_equal(part.matrix[good], whole.matrix[good])


@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_points_do_not_count(rng, backend):
    x, y = rng.normal(size=(2, 7, 2))
    gone = x.copy()
    gone[[1, 4]] = np.nan
    kept = [0, 2, 3, 5, 6]
    assert_allclose(
        fit_similarity(gone, y, backend=backend).matrix, fit_similarity(x[kept], y[kept], backend=backend).matrix
    )


@pytest.mark.native
def test_batches_broadcast_and_may_be_empty(rng):
    x, y, w = rng.normal(size=(5, 2)), rng.normal(size=(3, 4, 5, 2)), rng.random((4, 5))
    fit = fit_similarity(x, y, w)
    assert fit.scale.shape == (3, 4)
    assert fit.matrix.shape == (3, 4, 2, 3)
    one = fit_similarity(x, y[1, 2], w[2])
    assert_allclose(one.matrix, fit.matrix[1, 2], rtol=1e-12)
    shared = fit_similarity(x, y[0, 0], w)  # only the weights have a batch
    assert_allclose(shared.matrix[3], fit_similarity(x, y[0, 0], w[3]).matrix)
    assert fit_similarity(x, y[:0]).matrix.shape == (0, 4, 2, 3)


@pytest.mark.native
def test_non_contiguous_and_integer_input(rng):
    x, y = rng.normal(size=(2, 2, 9)).transpose(0, 2, 1)
    assert_allclose(fit_similarity(x, y).matrix, fit_similarity(x.copy(), y.copy()).matrix)
    assert_allclose(fit_similarity([[0, 0], [2, 0]], [[1, 1], [1, 3]]).matrix, [[0, -1, 1], [1, 0, 1]], atol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_in_torch_out(rng, dtype):
    import torch

    x, y = (torch.from_numpy(rng.normal(size=(4, 6, 2)).astype(dtype)) for _ in range(2))
    fit = fit_similarity(x, y)
    for value in (
        fit.scale,
        fit.angle,
        fit.matrix,
        fit.residual,
        fit.inverse().matrix,
        (fit @ fit).matrix,
        fit.apply(x),
    ):
        assert isinstance(value, torch.Tensor)
        assert value.dtype == x.dtype
    assert fit.ok.dtype == torch.bool
    assert_array_equal(fit.matrix.numpy(), fit_similarity(x.numpy(), y.numpy()).matrix)
    found = search_subset(x, y, tolerance=torch.ones(6, dtype=x.dtype), previous=fit, inertia=1.0)
    assert isinstance(found.members, torch.Tensor)
    assert_allclose(Similarity.from_matrix(fit.matrix).scale, fit.scale, rtol=1e-6)


# Laws


@given(seeds, st.sampled_from([2, 3]))
def test_equivariance(seed, d):
    """Moving src by A and dst by B turns the fit T into B T A^-1, and scales the residual like B."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 6, d)) * 40
    w = rng.random(6) + 0.1
    a, b = similarity(rng, d=d), similarity(rng, d=d)
    plain, moved = fit_similarity(x, y, w), fit_similarity(a.apply(x), b.apply(y), w)
    expected = b @ plain @ a.inverse()
    x2 = a.apply(x)
    assert_allclose(moved.apply(x2), expected.apply(x2), atol=1e-8 * (1 + abs(b.apply(y)).max()))
    assert_allclose(moved.residual, plain.residual * b.scale, rtol=1e-8)


@given(seeds, st.sampled_from([2, 3]))
def test_inverse_and_composition(seed, d):
    rng = np.random.default_rng(seed)
    a, b = similarity(rng, (4,), d), similarity(rng, (4,), d)
    x = rng.normal(size=(4, 5, d)) * 100
    assert_allclose(a.inverse().apply(a.apply(x)), x, atol=1e-9 * abs(x).max())
    assert_allclose((a @ b).apply(x), a.apply(b.apply(x)), rtol=1e-9, atol=1e-9)
    assert_allclose(
        (a @ a.inverse()).matrix,
        np.broadcast_to(np.eye(d, d + 1), (4, d, d + 1)),
        atol=1e-9 * (1 + abs(a.translation).max()),
    )
    assert_allclose(a.apply(x), x @ a.matrix[..., :d].swapaxes(-1, -2) + a.matrix[:, None, :, d], rtol=1e-9, atol=1e-9)
    again = Similarity.from_matrix(a.matrix)
    assert_allclose(again.matrix, a.matrix, rtol=1e-9, atol=1e-9)
    assert type(Fit(a.scale, a.rotation, a.translation, a.scale, a.scale > 0).inverse()) is Similarity


@given(seeds)
def test_no_similarity_fits_better(seed):
    rng = np.random.default_rng(seed)
    x, y, w = rng.normal(size=(8, 2)), rng.normal(size=(8, 2)), rng.random(8)
    fit = fit_similarity(x, y, w)
    other = similarity(rng)
    nearby = Similarity(
        fit.scale * (1 + 0.01 * rng.normal()), fit.rotation, fit.translation + 0.01 * rng.normal(size=2)
    )
    for t in (other, nearby):
        assert np.sqrt((w * ((t.apply(x) - y) ** 2).sum(-1)).sum() / w.sum()) >= fit.residual - 1e-12


@pytest.mark.native
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("points", [0, 1, 2, 3, 4, 17])
def test_leaving_a_point_out_is_naive(simd, rng, dims, dtype, points):
    x = (rng.normal(size=(60, points, dims)) * 100).astype(dtype)
    y = (similarity(rng, (60,), dims).apply(x) + rng.normal(size=x.shape) * 5).astype(dtype)
    weights = (rng.random((60, points)) * rng.integers(0, 2, (60, points))).astype(dtype)
    x[7, :1], y[8, 1:2] = np.nan, np.inf
    *want, ok, change = naive.fit_leaving_out(x, y, weights)
    *got, got_ok, got_change = tpc_fast._native.core().fit_leaving_out(x, y, weights)
    assert_array_equal(got_ok, ok)
    assert_array_equal(np.isinf(got_change), np.isinf(change))
    # Two rounded scales make a ratio; their logarithm is off by what each is off, relatively.
    finite = np.isfinite(change) & ok[:, None]
    assert_allclose(got_change[finite], change[finite], rtol=1e-5, atol=64 * np.finfo(dtype).eps)
    for a, b, c in zip(got, want, tpc_fast._native.core().fit_similarity(x, y, weights)[:4], strict=True):
        assert_allclose(a[ok], b[ok], rtol=1e-5, atol=1e-3 if dtype == np.float32 else 1e-9)
        assert_array_equal(a, c)


# Subset search


def same_subset(a, b, x, y, t, **kw):
    """Equal, or different subsets of equal value (to the rounding of ties)."""
    assert_allclose(a.value, b.value, atol=2e-6)
    for n in np.nonzero((a.members != b.members).any(-1))[0]:
        assert abs(a.value[n] - b.value[n]) <= 2e-6


@pytest.mark.native
@pytest.mark.parametrize("points", [0, 1, 2, 3, 7, 8, 9, 12])
@pytest.mark.parametrize("criterion", ["truncated", "fixed"])
def test_search_is_naive(simd, rng, points, criterion):
    n = 9
    x = rng.normal(size=(n, points, 2)) * 100
    y = similarity(rng, (n,)).apply(x) + rng.normal(size=x.shape) * 5
    y[:, points // 2 :] += rng.normal(size=(n, points - points // 2, 2)) * 80
    t = rng.uniform(5, 20, (n, points))
    options = dict(
        valid=rng.random((n, points)) < 0.9,
        weights=rng.random((n, points)),
        prior=rng.normal(size=(n, points)) * 0.25,
        previous=similarity(rng, (n,)),
        inertia=rng.choice([0.0, 1.0, 160.0], n),
        criterion=criterion,
    )
    if criterion == "fixed":
        options["size"] = 3
        if points < 3:
            with pytest.raises(ValueError, match="size must be an integer from 2 to"):
                search_subset(x, y, t, **options)
            return
    core, spec = (search_subset(x, y, t, backend=b, **options) for b in ("cpu", "naive"))
    same_subset(core, spec, x, y, t)
    assert (core.members <= options["valid"]).all()
    if criterion == "fixed":
        assert_array_equal(core.members.sum(-1)[core.fit.ok], 3)


@pytest.mark.native
def test_search_is_naive_for_a_person(simd, rng):
    x = rng.normal(size=(2, 17, 2)) * 100
    y = similarity(rng, (2,)).apply(x) + rng.normal(size=x.shape) * 10
    core, spec = (search_subset(x, y, backend=b) for b in ("cpu", "naive"))
    same_subset(core, spec, x, y, None)
    assert_allclose(core.fit.matrix, spec.fit.matrix, rtol=1e-9)


@pytest.mark.native
def test_search_of_twenty_points_is_the_optimum_of_smaller_searches(rng):
    """2^20 subsets are too many for naive: no single exchange, removal or addition of a point may be better."""
    x = rng.normal(size=(20, 2)) * 100
    y = similarity(rng).apply(x) + rng.normal(size=x.shape) * 10
    t = np.full(20, 15.0)
    best = search_subset(x, y, t)
    members = best.members
    for k in range(20):
        other = members.copy()
        other[k] = not other[k]
        w = other / t**2
        fit = fit_similarity(x, y, w)
        assert other.sum() - fit.residual**2 * w.sum() <= best.value + 1e-6
    fit = fit_similarity(x, y, members / t**2)
    assert_allclose(members.sum() - fit.residual**2 * (members / t**2).sum(), best.value, rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_search_finds_the_planted_subset(rng, backend):
    truth = similarity(rng)
    x = rng.normal(size=(12, 2)) * 100
    y = truth.apply(x)
    y[8:] += 200 * truth.scale
    found = search_subset(x, y, np.full(12, 2.0), backend=backend)
    assert_array_equal(found.members, np.arange(12) < 8)
    assert_allclose(found.fit.matrix, truth.matrix, rtol=1e-9, atol=1e-9)
    assert_allclose(found.value, 8, atol=1e-9)
    assert not found.weak


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_larger_set_then_the_lowest_mask(backend):
    square = np.array([[0.0, 0], [100, 0], [100, 100], [0, 100]])
    # Two clusters of three points, each explained exactly by a similarity of its own: equal value, equal size: the
    # lower bits win, wherever in the table they lie.
    turned = np.stack([-square[:3, 1], square[:3, 0]], -1) * 2
    for points in (6, 12):
        first, second = np.arange(points)[:3], np.arange(points)[-3:]
        x, y = np.full((2, points, 2), np.nan)
        x[first], x[second] = square[:3], square[:3] + 1000
        y[first], y[second] = square[:3], turned - 5000
        found = search_subset(x, y, np.full(points, 1.0), backend=backend)
        assert_allclose(found.value, 3, atol=1e-9)
        assert_array_equal(np.nonzero(found.members)[0], first)
    # A point that costs exactly what it gains (prior -1, no residual) belongs: the larger set.
    found = search_subset(square, square, np.full(4, 1.0), prior=np.array([0, 0, 0, -1.0]), backend=backend)
    assert found.members.all()


@pytest.mark.native
def test_prior_and_inertia_keep_the_choice(rng):
    x = np.concatenate([rng.normal(size=(8, 2)) * 50, rng.normal(size=(8, 2)) * 50 + 400])
    near, far = Similarity(1.0, np.eye(2), np.zeros(2)), Similarity(1.6, np.eye(2), np.zeros(2))
    y = np.concatenate([near.apply(x[:8]), far.apply(x[8:]) + 900])
    t = np.full(16, 5.0)
    free = search_subset(x, y, t, prior=np.where(np.arange(16) < 8, 0, 0.3))
    assert_array_equal(free.members, np.arange(16) >= 8)
    held = search_subset(x, y, t, prior=np.where(np.arange(16) < 8, 0, 0.3), previous=near, inertia=160.0)
    assert_array_equal(held.members, np.arange(16) < 8)
    none = search_subset(x, y, t, prior=np.where(np.arange(16) < 8, 0, 0.3), previous=np.zeros((2, 3)), inertia=160.0)
    assert_array_equal(none.members, free.members)
    matrices = search_subset(x, y, t, previous=near.matrix, inertia=160.0)
    assert_array_equal(matrices.members, held.members)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("criterion", ["face", "all"])
def test_fixed_sets_have_the_same_value_formula(rng, backend, criterion):
    x = rng.normal(size=(3, 17, 2)) * 100
    y = similarity(rng, (3,)).apply(x) + rng.normal(size=x.shape) * 3
    y[1, 2] = np.nan
    previous = similarity(rng, (3,))
    prior = rng.normal(size=17) * 0.1
    found = search_subset(x, y, criterion=criterion, backend=backend, prior=prior, previous=previous, inertia=7.0)
    expected = np.isfinite(y).all(-1) & (np.arange(17) < (5 if criterion == "face" else 17))
    assert_array_equal(found.members, expected)
    only = search_subset(
        x,
        y,
        default_tolerance(person_size(np.nan_to_num(y), np.isfinite(y).all(-1))),
        valid=expected,
        prior=prior,
        previous=previous,
        inertia=7.0,
        criterion="fixed",
        size=int(expected[0].sum()),
    )
    assert_allclose(found.value[[0, 2]], only.value[[0, 2]], rtol=1e-9)


@pytest.mark.native
def test_weak_fits():
    person = FIGURE
    assert not search_subset(person, person * 2 + 7).weak
    few = person.copy()
    few[3:] = np.nan
    assert search_subset(person, few).weak  # three points
    face_only = np.where(np.arange(17)[:, None] < 5, person * 2, person * [[2, -9]] + 500)
    found = search_subset(person, face_only, valid=np.arange(17) < 13)
    assert found.weak or found.members[5:].any()  # a face alone spreads too little
    nothing = search_subset(person, np.full((17, 2), np.nan))
    assert nothing.weak
    assert not nothing.members.any()
    assert nothing.value == 0
    assert np.isfinite(nothing.fit.matrix).all()
    lever = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [1000, 0]], np.float64)
    assert search_subset(lever, lever * [[1, 1]] + [[0, 0], [0, 0], [0, 0], [0, 0], [900, 0]], np.full(5, 2000.0)).weak


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("share", "weak"), [(0.28, True), (0.32, False)])
def test_members_that_show_little_of_a_person_are_weak(backend, share, weak):
    """A square of five members, whose side is that share of the person's size: less than 0.3 says too little."""
    x, y = np.full((2, 17, 2), np.nan)
    x[:5] = y[:5] = 100 + share * 1000 * np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]])
    x[5:7], y[5:7] = [[5000, -3000], [-9000, 4000]], [[0, 0], [1000, 1000]]  # no members, but the person's size: 1000
    found = search_subset(x, y, np.ones(17), backend=backend)
    assert_array_equal(np.flatnonzero(found.members), range(5))
    assert found.weak == weak


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("change", "weak"), [(0.24, False), (0.26, True)])
def test_a_fit_that_hangs_on_one_point_is_weak(backend, change, weak):
    """Four points at one place are larger than one far away says: without that one, log scale changes by so much."""
    x = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [1e4, 0]])
    y = x * np.exp([[change]] * 4 + [[0]])
    found = search_subset(x, y, np.full(5, 1e5), backend=backend)
    assert found.members.all()
    assert found.weak == weak


@pytest.mark.native
def test_search_does_not_depend_on_the_number_of_threads(rng):
    x, y = rng.normal(size=(2, 7, 17, 2)) * 100
    before = tpc_fast.get_num_threads()
    results = []
    for threads in (1, 4):
        tpc_fast.set_num_threads(threads)
        results.append((search_subset(x, y), fit_similarity(np.repeat(x, 400, 0), np.repeat(y, 400, 0))))
    tpc_fast.set_num_threads(before)
    assert_array_equal(results[0][0].members, results[1][0].members)
    assert_array_equal(results[0][0].value, results[1][0].value)
    assert_array_equal(results[0][1].matrix, results[1][1].matrix)


def test_naive_optimum_is_the_optimum(rng):
    """The specification against brute force with its own public pieces: an SVD fit for every subset."""
    x = rng.normal(size=(1, 6, 2)) * 10
    y = x * 1.3 + rng.normal(size=x.shape) * 3
    t = rng.uniform(2, 6, (1, 6))
    mask, value = naive.search_subset(
        x, y, t, np.ones((1, 6), bool), np.zeros((1, 6)), np.zeros(1, complex), np.zeros(1)
    )
    values = {}
    for m in range(1, 64):
        member = np.array([[m >> k & 1 for k in range(6)]], float)
        w = member / t**2
        _, _, _, residual, ok = naive.fit_similarity(x, y, w)
        if ok[0]:
            values[m] = member.sum() - residual[0] ** 2 * w.sum()
    best = max(values, key=values.get)
    assert mask[0] == best
    assert_allclose(value[0], values[best], rtol=1e-9)


def test_person_size_and_sigmas():
    points = np.zeros((17, 2))
    points[5], points[12], points[16] = (30, 10), (0, 40), (1000, 1000)  # an ankle is not upper body
    seen = np.isin(np.arange(17), [5, 12, 16])
    assert person_size(points, seen) == pytest.approx(30)
    assert person_size(points, np.zeros(17, bool)) == 1
    assert len(COCO_SIGMAS) == 17
    assert (COCO_SIGMAS[[0, 11]] == [0.026, 0.107]).all()


# Bad input: every message names the argument, what it must be and what it was


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (
            ValueError,
            r"src must be \[..., K, 2\].*\(3, 4\)",
            lambda: fit_similarity(np.zeros((3, 4)), np.zeros((3, 4))),
        ),
        (
            ValueError,
            r"dst must be \[..., 3, 2\].*\(4, 2\)",
            lambda: fit_similarity(np.zeros((3, 2)), np.zeros((4, 2))),
        ),
        (TypeError, "one dtype.*float32 and float64", lambda: fit_similarity(np.zeros((3, 2), "f4"), np.zeros((3, 2)))),
        (
            TypeError,
            "src must be an array of numbers.*complex",
            lambda: fit_similarity(np.zeros((3, 2), complex), np.zeros((3, 2))),
        ),
        (TypeError, "dst must be an array of numbers", lambda: fit_similarity(np.zeros((3, 2)), "points")),
        (ValueError, "weights must be >= 0.*-1", lambda: fit_similarity(*np.zeros((2, 3, 2)), np.array([1.0, -1, 0]))),
        (
            ValueError,
            r"weights must be finite.*nan at index \(1,\)",
            lambda: fit_similarity(*np.zeros((2, 3, 2)), np.array([1, np.nan, 0])),
        ),
        (ValueError, r"weights must be \[..., 3\]", lambda: fit_similarity(*np.zeros((2, 3, 2)), np.ones(4))),
        (ValueError, "broadcast.*src .2,., dst .3,.", lambda: fit_similarity(np.zeros((2, 5, 2)), np.zeros((3, 5, 2)))),
        (ValueError, "backend must be.*'gpu'", lambda: fit_similarity(*np.zeros((2, 3, 2)), backend="gpu")),
        (
            RuntimeError,
            "'triton' cannot be had: .*[Tt]riton",
            lambda: fit_similarity(*np.zeros((2, 3, 2)), backend="triton"),
        ),
        (ValueError, "tolerance or sigmas must be given", lambda: search_subset(*np.zeros((2, 5, 2)))),
        (ValueError, "tolerance must be > 0", lambda: search_subset(*np.zeros((2, 5, 2)), tolerance=np.zeros(5))),
        (
            ValueError,
            "criterion must be one of.*'best'",
            lambda: search_subset(*np.zeros((2, 17, 2)), criterion="best"),
        ),
        (
            ValueError,
            "'face' needs the 17",
            lambda: search_subset(*np.zeros((2, 5, 2)), tolerance=np.ones(5), criterion="face"),
        ),
        (ValueError, "size must be given", lambda: search_subset(*np.zeros((2, 17, 2)), criterion="fixed")),
        (ValueError, "size must be given.*only", lambda: search_subset(*np.zeros((2, 17, 2)), size=3)),
        (
            ValueError,
            "size must be an integer from 2 to 17",
            lambda: search_subset(*np.zeros((2, 17, 2)), criterion="fixed", size=18),
        ),
        (ValueError, "inertia must be >= 0", lambda: search_subset(*np.zeros((2, 17, 2)), inertia=-1.0)),
        (ValueError, "src must be .*K, 2. or .*K, 3.", lambda: search_subset(*np.zeros((2, 17, 4)))),
        (ValueError, "previous must be a Similarity", lambda: search_subset(*np.zeros((2, 17, 2)), previous=np.eye(3))),
        (ValueError, "min_points must be", lambda: search_subset(*np.zeros((2, 17, 2)), min_points=-1)),
        (ValueError, "count must be an integer from 1", lambda: tpc_fast.set_num_threads(0)),
        (ValueError, "matrix must be a similarity", lambda: Similarity.from_matrix(np.array([[1.0, 0, 0], [0, 2, 0]]))),
        (
            ValueError,
            "matrix must be a similarity",
            lambda: Similarity.from_matrix(np.array([[1.0, 0, 0], [0, -1, 0]])),
        ),
        (ValueError, "angle exists for 2-D", lambda: fit_similarity(*np.zeros((2, 4, 3))).angle),
    ],
)
def test_bad_input(error, match, call):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.torch
def test_bad_tensors():
    import torch

    with pytest.raises(
        (ValueError, RuntimeError), match=r"at most 20 points on a GPU.*21|backend 'triton' cannot be had"
    ):
        search_subset(*torch.zeros(2, 21, 2), 1.0, backend="triton")
    with pytest.raises(TypeError, match=r"search_subset computes no gradient.*src.detach"):
        search_subset(torch.zeros(17, 2, requires_grad=True), torch.zeros(17, 2))
    with pytest.raises(TypeError, match=r"one kind.*src is a torch tensor, dst is a NumPy array"):
        fit_similarity(torch.zeros(3, 2), np.zeros((3, 2), "f4"))
    with pytest.raises(RuntimeError, match="'triton' cannot be had"):
        fit_similarity(torch.zeros(3, 2, device="meta"), torch.zeros(3, 2, device="meta"))


def test_from_scale_and_angle_takes_one_point_to_another(rng):
    scale, angle = rng.uniform(0.2, 3, 5), rng.uniform(-3, 3, (4, 5))
    point, to = rng.normal(size=(5, 2)), rng.normal(size=(4, 5, 2))
    found = Similarity.from_scale_angle(scale, angle, point, to)
    assert_allclose(found.apply(point[:, None])[..., 0, :], to, atol=1e-12)
    assert_allclose(found.angle, angle, atol=1e-12)
    assert_allclose(found.scale, np.broadcast_to(scale, (4, 5)))
    assert_allclose(Similarity.from_matrix(found.matrix).rotation, found.rotation, atol=1e-12)
    one = Similarity.from_scale_angle(2.0, np.pi / 2)
    assert one.matrix.shape == (2, 3)
    assert_allclose(one.apply(np.array([[1.0, 0.0]])), [[0, 2]], atol=1e-12)  # from the x axis to the y axis


def test_scale_and_angle_of_matrices(rng):
    scale, angle = rng.uniform(0.2, 3, 7), rng.uniform(-3, 3, 7)
    found = scale_and_angle(Similarity.from_scale_angle(scale, angle).matrix)
    assert_allclose(found, [scale, angle], atol=1e-12)
    assert_allclose(scale_and_angle(np.array([[2.0, 0, 0], [0, 8, 0]])), [4, 0], atol=1e-12)


def test_one_tolerance_for_all_points(rng):
    x, y = rng.normal(size=(2, 3, 9, 2)) * 20
    one, each = (search_subset(x, y, t) for t in (15.0, np.full(9, 15.0)))
    assert_array_equal(one.members, each.members)
    assert_array_equal(one.value, each.value)
    assert search_subset(x[:0], y[:0], 15).members.shape == (0, 9)
    for wrong in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="tolerance must be > 0 and finite"):
            search_subset(x, y, wrong)


def test_halves_are_taken_as_float32(rng):
    x, y = (rng.normal(size=(2, 3, 9, 2)) * 20).astype(np.float16)
    found, exact = fit_similarity(x, y), fit_similarity(x.astype(np.float32), y.astype(np.float32))
    assert found.scale.dtype == np.float32
    assert_array_equal(found.matrix, exact.matrix)
    torch = pytest.importorskip("torch", reason="torch comes with extra 'torch'")
    halves = torch.tensor(x, dtype=torch.bfloat16), torch.tensor(y, dtype=torch.bfloat16)
    assert torch.equal(fit_similarity(*halves).matrix, fit_similarity(*(a.float() for a in halves)).matrix)
    wanted = halves[0].clone().requires_grad_()
    fit_similarity(wanted, halves[1]).scale.sum().backward()
    assert wanted.grad.dtype == torch.bfloat16


def test_ragged_batches_are_filled_up_with_nan(rng):
    sets = [rng.normal(size=(2, k, 2)) for k in (3, 6, 4)]
    filled = np.full((2, 3, 6, 2), np.nan)
    for n, one in enumerate(sets):
        filled[:, n, : one.shape[1]] = one
    together = fit_similarity(*filled)
    for n, one in enumerate(sets):
        assert_allclose(together.matrix[n], fit_similarity(*one).matrix, atol=1e-12)
