"""Subset searches of more than 20 points: the branch and bound, the approximation, and sigmas by the name of a set."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_procrustes import similarity

from tpc_fast import _native, fit_similarity, naive, search_subset
from tpc_fast.ops.sigmas import SIGMAS, UPPER


def problem(rng, count, points, bad=0.4, noise=6.0):
    x = rng.normal(size=(count, points, 2)) * 60
    y = similarity(rng, (count,)).apply(x) + rng.normal(size=x.shape) * noise
    wrong = rng.random((count, points)) < bad
    return x, y + wrong[..., None] * rng.normal(size=x.shape) * 80, rng.uniform(8, 16, (count, points))


def value_of(x, y, t, members, prior=0.0):
    w = members / t**2
    fit = fit_similarity(x, y, w)
    return (members * (1 + prior)).sum(-1) - fit.residual**2 * w.sum(-1)


@pytest.mark.native
@pytest.mark.parametrize("points", [2, 3, 5, 8, 11])
def test_the_branch_and_bound_finds_what_enumeration_finds(rng, points):
    x, y, t = problem(rng, 12, points)
    valid, prior = rng.random((12, points)) < 0.9, rng.normal(size=(12, points)) * 0.3
    nothing = np.zeros((12, 2)), np.zeros(12)
    members, value, exact, boxes = _native.core().search_many(x, y, t, valid, prior, *nothing, 0, 10**6)
    mask, want = naive.search_subset(x, y, t, valid, prior, np.zeros(12, complex), nothing[1])
    assert exact.all()
    assert_allclose(value, want, atol=1e-6)
    assert (members <= valid).all()
    same = members @ (1 << np.arange(points)) == mask
    assert_allclose(value[~same], want[~same], atol=1e-6)
    if points > 8:
        assert boxes.max() > 10  # it did have to look


@pytest.mark.native
def test_the_branch_and_bound_corrects_the_approximation(rng):
    """Of many small problems the approximation misses some, and no bound may drop the optimum."""
    x, y, t = problem(rng, 3000, 7, bad=0.7, noise=10)
    given = x, y, t, np.ones(t.shape, bool), np.zeros(t.shape), np.zeros((3000, 2)), np.zeros(3000), 0
    _, value, exact, _ = _native.core().search_many(*given, 10**6)
    _, want = _native.core().search_subset(*given)
    assert exact.all()
    assert_allclose(value, want, atol=1e-6)


@pytest.mark.native
@pytest.mark.parametrize("points", [26, 70])
def test_no_other_subset_of_many_points_is_better(rng, points):
    x, y, t = problem(rng, 3, points)
    prior = rng.normal(size=points) * 0.2
    found = search_subset(x, y, t, prior=prior)
    assert found.exact.all()
    assert_allclose(found.value, value_of(x, y, t, found.members, prior), rtol=1e-9)
    _, near = naive.search_many(
        x[:1], y[:1], t[:1], np.ones((1, points), bool), prior[None], np.zeros(1, complex), np.zeros(1)
    )
    assert near[0] <= found.value[0] + 1e-6
    for k in range(points):  # a point more or less
        other = found.members.copy()
        other[:, k] ^= True
        assert (value_of(x, y, t, other, prior) <= found.value + 1e-6).all()
    for _ in range(200):  # the inliers of a pair
        pair = np.isin(np.arange(points), rng.choice(points, 2, replace=False))
        moved = fit_similarity(x, y, pair * np.ones((3, 1)))
        inside = ((moved.apply(x) - y) ** 2).sum(-1) <= (1 + prior) * t**2
        assert (value_of(x, y, t, inside, prior)[moved.ok] <= found.value[moved.ok] + 1e-6).all()


@pytest.mark.native
def test_an_approximation_says_so(rng, monkeypatch):
    x, y, t = problem(rng, 2, 30)
    best = search_subset(x, y, t)
    held = search_subset(x, y, t, previous=similarity(rng, (2,)), inertia=5.0)
    assert not held.exact.any()
    some = search_subset(x, y, t, criterion="fixed", size=9)
    assert not some.exact.any()
    assert_array_equal(some.members.sum(-1), 9)
    assert (some.value <= best.value + 1e-9).all()
    monkeypatch.setattr("tpc_fast.ops.procrustes.MAX_BOXES", 3)
    quick = search_subset(x, y, t)
    assert not quick.exact.any()
    assert (quick.value <= best.value + 1e-9).all()
    assert search_subset(x[:, :20], y[:, :20], t[:, :20]).exact.all()
    assert search_subset(x, y, t, criterion="all").exact.all()


@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=pytest.mark.native), "naive"])
def test_a_planted_subset_of_many_points(rng, backend):
    truth = similarity(rng)
    x = rng.normal(size=(23, 2)) * 100
    y = truth.apply(x)
    y[15:] += 200 * truth.scale
    found = search_subset(x, y, 2.0, backend=backend)
    assert_array_equal(found.members, np.arange(23) < 15)
    assert_allclose(found.fit.matrix, truth.matrix, rtol=1e-9, atol=1e-9)
    assert found.exact == (backend == "cpu")
    nothing = search_subset(np.full((23, 2), np.nan), y, 2.0, backend=backend)
    assert not nothing.members.any()
    assert nothing.value == 0
    same = search_subset(np.ones((23, 2)), y, 2.0, backend=backend)  # no two points differ
    assert not same.members.any()
    assert not same.fit.ok


@pytest.mark.native
def test_sigmas_by_the_name_of_a_set(rng):
    assert {name: len(s) for name, s in SIGMAS.items()} == {
        "coco": 17, "coco-wholebody": 133, "halpe26": 26, "mediapipe": 33,
    }  # fmt: skip
    # From the evaluations that they are of: a left thumb's first joint, Halpe's hip, an ear of BlazePose.
    assert (SIGMAS["coco-wholebody"][[17, 23, 91, 132]] == [0.068, 0.042, 0.029, 0.031]).all()
    assert SIGMAS["halpe26"][19] == 0.066
    coco = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
    assert_array_equal(SIGMAS["mediapipe"][coco], SIGMAS["coco"])
    for name, sigma in SIGMAS.items():
        x = rng.normal(size=(len(sigma), 2)) * 50
        y = similarity(rng).apply(x) + rng.normal(size=x.shape)
        part = y[: UPPER[name]]
        size = np.sqrt(np.ptp(part[:, 0]) * np.ptp(part[:, 1]))
        found = search_subset(x, y, sigmas=name)
        assert found.exact
        assert found == search_subset(x, y, 3 * sigma * size, sigmas=name)
    assert search_subset(x, y, sigmas=np.full(33, 0.05)) == search_subset(x, y, sigmas=[0.05] * 33)
    for bad, match in (
        ("smpl", "sigmas must be one of coco, coco-wholebody"),
        ("coco", "sigmas 'coco' are of 17 keypoints, but src has 33"),
        ([0.1] * 4, "sigmas must be a name or 33 numbers > 0"),
        ([0.0] * 33, "numbers > 0"),
        (object(), "numbers > 0"),
    ):
        with pytest.raises(ValueError, match=match):
            search_subset(x, y, sigmas=bad)
    with pytest.raises(ValueError, match="tolerance or sigmas must be given unless there are 17"):
        search_subset(x, y)
