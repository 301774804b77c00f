"""The subset search for points in 3-D: the naive twin, laws, degenerate and bad input."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_procrustes import BACKENDS, similarity

from tpc_fast import Similarity, _native, fit_similarity, naive, search_subset
from tpc_fast.naive import search_3d as naive_3d
from tpc_fast.ops.procrustes import person_size


def problem(rng, count, points, bad=0.4, noise=5.0):
    x = rng.normal(size=(count, points, 3)) * 60
    y = similarity(rng, (count,), 3).apply(x) + rng.normal(size=x.shape) * noise
    wrong = rng.random((count, points)) < bad
    return x, y + wrong[..., None] * rng.normal(size=x.shape) * 90, rng.uniform(8, 16, (count, points))


def value_of(x, y, t, members, prior=0.0):
    w = members / t**2
    fit = fit_similarity(x, y, w)
    return np.where(fit.ok, (members * (1 + prior)).sum(-1) - fit.residual**2 * w.sum(-1), -np.inf)


def assert_same(core, spec):
    """The same subsets, or others of equal value (to the rounding of ties)."""
    assert_allclose(core.value, spec.value, atol=2e-6)
    same = (core.members == spec.members).all(-1)
    assert_allclose(core.value[~same], spec.value[~same], atol=2e-6)


@pytest.mark.native
@pytest.mark.parametrize("points", [0, 1, 2, 3, 4, 7, 8, 10])
@pytest.mark.parametrize("criterion", ["truncated", "fixed"])
def test_core_is_naive(simd, rng, points, criterion):
    n = 8
    x, y, t = problem(rng, n, points)
    options = dict(
        valid=rng.random((n, points)) < 0.9,
        weights=rng.random((n, points)),
        prior=rng.normal(size=(n, points)) * 0.25,
        previous=similarity(rng, (n,), 3),
        inertia=rng.choice([0.0, 1.0, 160.0], n),
        criterion=criterion,
    )
    if criterion == "fixed":
        options["size"] = 4
        if points < 4:
            with pytest.raises(ValueError, match="size must be an integer from 2 to"):
                search_subset(x, y, t, **options)
            return
    core, spec = (search_subset(x, y, t, backend=b, **options) for b in ("cpu", "naive"))
    assert_same(core, spec)
    assert (core.members <= options["valid"]).all()
    assert core.exact.all()
    if criterion == "fixed":
        assert_array_equal(core.members.sum(-1)[core.fit.ok], 4)


@pytest.mark.native
@pytest.mark.parametrize("shape", ["solid", "flat", "lines", "mirrored", "near and far", "tight"])
def test_no_bound_drops_the_optimum(simd, rng, shape):
    """Points that make the quartic's roots meet: in a plane, on lines, as in a mirror; and of all sizes."""
    x, y, t = problem(rng, 60, 8, noise=0.1 if shape == "tight" else 5.0)
    if shape == "flat":
        x[..., 2] *= 1e-4
    if shape == "lines":
        x[:, :4] = x[:, :1] * rng.normal(size=(4, 1))
    if shape == "mirrored":
        y[:, ::2, 0] *= -1
    if shape == "near and far":
        x, y = x * 1e-3 + 5, y * 1e5
        t = t * 1e5
    if shape == "tight":
        t = t / 50
    given = x, y, t, np.ones(t.shape, bool), rng.normal(size=t.shape) * 0.2, np.zeros((60, 3, 3)), np.zeros(60), 0
    members, value, exact = _native.core().search_3d(*given)
    spec_members, spec = naive_3d.search_subset(*given)
    assert exact.all()
    spread = (((y - y.mean(1, keepdims=True)) ** 2).sum(-1) / t**2).sum(-1)  # what costs are differences of
    assert_allclose(value, spec, atol=2e-6 + 1e-12 * spread.max())
    same = (members == spec_members).all(-1)
    assert same.mean() > 0.8  # others are ties


def test_naive_optimum_is_the_optimum(rng):
    """The specification against its own fit of every subset."""
    x, y, t = problem(rng, 1, 6)
    members, value = naive_3d.search_subset(
        x, y, t, np.ones((1, 6), bool), np.zeros((1, 6)), np.zeros((1, 3, 3)), np.zeros(1)
    )
    subsets = (np.arange(64)[:, None] >> np.arange(6) & 1).astype(float)
    _, _, _, residual, ok = naive.fit_similarity(*(np.repeat(p, 64, 0) for p in (x, y)), subsets / t**2)
    values = np.where(ok, subsets.sum(-1) - residual**2 * (subsets / t**2).sum(-1), -np.inf)
    assert_array_equal(members[0], subsets[values.argmax()])
    assert_allclose(value[0], values.max(), rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_planted_subset(rng, backend):
    truth = similarity(rng, (), 3)
    x = rng.normal(size=(9, 3)) * 100
    y = truth.apply(x)
    y[6:] += 200 * truth.scale
    found = search_subset(x, y, 2.0, backend=backend)
    assert_array_equal(found.members, np.arange(9) < 6)
    assert_allclose(found.fit.matrix, truth.matrix, rtol=1e-9, atol=1e-9)
    assert_allclose(found.value, 6, atol=1e-9)
    assert not found.weak


@pytest.mark.native
def test_no_exchange_of_a_point_is_better_among_twenty(rng):
    x, y, t = problem(rng, 2, 20)
    best = search_subset(x, y, t)
    assert best.exact.all()
    assert_allclose(best.value, value_of(x, y, t, best.members), rtol=1e-9)
    for k in range(20):
        other = best.members.copy()
        other[:, k] ^= True
        assert (value_of(x, y, t, other) <= best.value + 1e-6).all()


@pytest.mark.parametrize(("backend", "points"), [pytest.param("cpu", 33, marks=pytest.mark.native), ("naive", 21)])
def test_more_than_twenty_points_are_searched_approximately(rng, backend, points):
    truth = similarity(rng, (), 3)
    x = rng.normal(size=(points, 3)) * 100
    y = truth.apply(x)
    good = rng.permutation(points) < points // 2
    y[~good] += rng.normal(size=(points, 3))[~good] * 300 * truth.scale
    found = search_subset(x, y, 0.01 * truth.scale, backend=backend)
    assert not found.exact
    assert_array_equal(found.members, good)
    assert_allclose(found.fit.matrix, truth.matrix, rtol=1e-9, atol=1e-9)


@pytest.mark.native
def test_the_approximation_counts_what_it_chose(rng):
    x, y, t = problem(rng, 3, 33)
    free = search_subset(x, y, t)
    assert_allclose(free.value, value_of(x, y, t, free.members), rtol=1e-9)
    some = search_subset(x, y, t, criterion="fixed", size=24)
    assert_array_equal(some.members.sum(-1), 24)
    assert (some.value <= free.value + 1e-9).all()
    x[:, 20:] = np.nan  # no more than twenty are left: exact
    few = search_subset(x, y, t)
    assert few.exact.all()
    assert_array_equal(few.members[:, :20], search_subset(x[:, :20], y[:, :20], t[:, :20]).members)


@pytest.mark.native
def test_what_is_flat_is_found_as_in_2d_or_better(rng):
    """In space a plane can be turned over, too."""
    x, y = rng.normal(size=(2, 5, 9, 2)) * 30
    y[:, :6] = similarity(rng, (5,)).apply(x[:, :6])
    flat = search_subset(x, y, 4.0)
    solid = search_subset(*(np.concatenate([p, np.zeros((5, 9, 1))], -1) for p in (x, y)), 4.0)
    assert (solid.value >= flat.value - 2e-6).all()
    mirror = x * [1, -1]
    over = search_subset(*(np.concatenate([p, np.zeros((5, 9, 1))], -1) for p in (x, mirror)), 4.0)
    assert over.members.all()
    assert_allclose(over.value, 9, atol=1e-6)


@pytest.mark.native
def test_moving_everything_moves_the_fit_along(rng):
    x, y, t = problem(rng, 4, 9)
    found, moved = search_subset(x, y, t), similarity(rng, (4,), 3)
    other = search_subset(x, moved.apply(y), t * moved.scale[:, None])
    assert_array_equal(other.members, found.members)
    assert_allclose(other.value, found.value, atol=1e-6)
    assert_allclose(other.fit.matrix, (moved @ found.fit).matrix, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inertia_keeps_the_choice(rng, backend):
    near, far = (Similarity(s, np.eye(3), np.zeros(3)) for s in (1.0, 1.6))
    x = np.concatenate([rng.normal(size=(5, 3)) * 50, rng.normal(size=(5, 3)) * 50 + 400])
    y = np.concatenate([near.apply(x[:5]), far.apply(x[5:]) + 900])
    prior = np.where(np.arange(10) < 5, 0, 0.3)
    chosen = {
        name: search_subset(x, y, 5.0, prior=prior, previous=previous, inertia=160.0, backend=backend).members
        for name, previous in (("near", near), ("matrix", near.matrix), ("none", np.zeros((3, 4))))
    }
    assert_array_equal(chosen["near"], np.arange(10) < 5)
    assert_array_equal(chosen["matrix"], chosen["near"])
    assert_array_equal(chosen["none"], np.arange(10) >= 5)
    turned = Similarity(1.0, np.diag([1.0, -1, -1]), np.zeros(3))  # half a turn costs all of it, at most
    found = search_subset(x, x, 5.0, previous=turned, inertia=3.0, backend=backend)
    assert_allclose(found.value, 10 - 3, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("criterion", ["face", "all"])
def test_fixed_sets_have_the_same_value(rng, backend, criterion):
    x, y, _ = problem(rng, 3, 17, bad=0)
    y[1, 2] = np.nan
    previous, prior = similarity(rng, (3,), 3), rng.normal(size=17) * 0.1
    t = np.full(17, 20.0)
    found = search_subset(x, y, t, criterion=criterion, backend=backend, prior=prior, previous=previous, inertia=7.0)
    expected = np.isfinite(y).all(-1) & (np.arange(17) < (5 if criterion == "face" else 17))
    assert_array_equal(found.members, expected)
    fit = fit_similarity(x, y, expected / t**2)
    departure = naive_3d.departure(
        fit.scale[:, None, None] * fit.rotation, previous.scale[:, None, None] * previous.rotation
    )
    want = value_of(x, np.nan_to_num(y), t, expected, prior) - 7 * np.minimum(1, departure)
    assert_allclose(found.value, want, rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_has_no_similarity(rng, backend):
    x = rng.normal(size=(5, 3))
    line = np.arange(5)[:, None] * [1.0, 2, -1]
    for src, dst in ((x, x * np.nan), (x, x * 0), (line, x), (x, line), (x[:2], x[:2]), (x[:0], x[:0])):
        found = search_subset(src, dst, 1e-3, backend=backend)
        assert not found.members.any()
        assert found.value == 0
        assert found.weak
        assert not found.fit.ok
        assert np.isfinite(found.fit.matrix).all()
    assert search_subset(np.zeros((0, 5, 3)), x, 1.0, backend=backend).members.shape == (0, 5)


def test_sizes_in_any_unit(rng):
    """Landmarks in metres: no floor of a pixel."""
    x = rng.normal(size=(33, 3)) * 0.4
    y = similarity(rng, (), 3).apply(x) / 100
    sides = np.sort(np.ptp(y[:25], axis=0))
    assert_allclose(person_size(y[:25], np.ones(25, bool)), np.sqrt(sides[1] * sides[2]))
    assert person_size(np.zeros((4, 3)), np.ones(4, bool)) == 1
    a, b = (search_subset(x, y * unit, sigmas="mediapipe") for unit in (1, 1000))
    assert_array_equal(a.members, b.members)
    assert a.members.all()


@pytest.mark.torch
def test_tensors_and_the_gpu(rng):
    import torch

    x, y, t = problem(rng, 3, 7)
    found = search_subset(*(torch.from_numpy(a) for a in (x, y, t)))
    assert found.fit.matrix.shape == (3, 3, 4)
    assert_array_equal(found.members, search_subset(x, y, t).members)
    with pytest.raises((ValueError, RuntimeError), match=r"K, 2\] on a GPU.*on the CPU|'triton' cannot be had"):
        search_subset(torch.from_numpy(x), torch.from_numpy(y), 1.0, backend="triton")


def test_bad_input(rng):
    x, y, t = problem(rng, 2, 5)
    for previous, match in (
        (np.eye(2, 3), r"previous must be a Similarity or \[..., 3, 4\]"),
        (similarity(rng), r"previous must be a 3-D similarity, but has rotations of shape \(2, 2\)"),
        (np.diag([1.0, 1, 0, 0])[:3], "previous must have an inverse, or be zeros for none"),
    ):
        with pytest.raises(ValueError, match=match):
            search_subset(x, y, t, previous=previous, inertia=1.0)
    with pytest.raises(ValueError, match="tolerance or sigmas must be given unless there are 17"):
        search_subset(x, y)
    with pytest.raises(ValueError, match=r"src must be \[..., K, 2\] or \[..., K, 3\]"):
        search_subset(*np.zeros((2, 5, 4)), 1.0)
