"""Fits and subset search beside batched torch.linalg.svd and roma."""

import numpy as np
import pytest
from fit_problems import assert_fits, problems, umeyama

import tpc_fast
from tpc_fast.ops.procrustes import default_tolerance, person_size

torch = pytest.importorskip("torch", reason="torch (extra 'bench') is the peer")

FITS = "fit of 10,000 x 17 points"
SEARCH = "search of 131,072 subsets, 93 frames"
SEARCH_3D = "search of 131,072 subsets in 3-D, 93 frames"


def test_fit_tpc_fast(measure):
    x, y = problems(10_000)
    fit = measure(lambda: tpc_fast.fit_similarity(x, y), 50, member="tpc_fast", work=FITS, items=len(x), unit="fits")
    assert_fits(fit.matrix, x, y)


def test_fit_torch_svd(measure):
    x, y = (torch.from_numpy(p) for p in problems(10_000))
    matrix, _ = measure(
        lambda: umeyama(x, y, torch.ones(x.shape[:2])),
        10,
        member="batched torch.linalg.svd",
        work=FITS,
        items=len(x),
        unit="fits",
    )
    assert_fits(matrix, *problems(10_000))


def test_fit_roma(measure):
    roma = pytest.importorskip("roma")
    x, y = (torch.from_numpy(p) for p in problems(10_000))

    def fit():
        rotation, translation, scale = roma.rigid_points_registration(x, y, compute_scaling=True)
        return torch.cat([scale[:, None, None] * rotation, translation[..., None]], -1)

    matrix = measure(fit, 10, member="roma", work=FITS, items=len(x), unit="fits")
    assert_fits(matrix, *problems(10_000))


def persons(frames):
    x, y = (p.astype(np.float64) for p in problems(frames, 1))
    y[:, 9:] += np.random.default_rng(2).normal(size=(frames, 8, 2)) * 60
    return x, y


def test_search_in_3d(measure):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(93, 17, 3)) * 60
    y = 1.3 * x[..., [1, 2, 0]] + rng.normal(size=x.shape) * 5
    y[:, 9:] += rng.normal(size=(93, 8, 3)) * 90
    found = measure(
        lambda: tpc_fast.search_subset(x, y, 12.0), 10, member="tpc_fast", work=SEARCH_3D, items=93, unit="frames"
    )
    spec = tpc_fast.search_subset(x[0], y[0], 12.0, backend="naive")
    assert (found.members[0] == spec.members).all()
    assert abs(found.value[0] - spec.value) < 1e-6


def values_by_svd(x, y, tolerance, masks):
    """J of subsets [N] of one frame by batched SVD."""
    member = torch.from_numpy((masks[:, None] >> np.arange(17) & 1).astype(np.float64))
    w = member / torch.from_numpy(tolerance) ** 2
    _, residual = umeyama(torch.from_numpy(x).expand(len(w), -1, -1), torch.from_numpy(y).expand(len(w), -1, -1), w)
    return member.sum(-1) - residual * w.sum(-1)


def test_search_tpc_fast(measure):
    x, y = persons(93)
    found = measure(lambda: tpc_fast.search_subset(x, y), 10, member="tpc_fast", work=SEARCH, items=93, unit="frames")
    spec = tpc_fast.search_subset(x[:3], y[:3], backend="naive")
    assert (found.members[:3] == spec.members).all()
    assert np.abs(found.value[:3] - spec.value).max() < 1e-6


def test_search_torch_svd(measure):
    x, y = persons(93)
    tolerance = default_tolerance(person_size(y[0], np.ones(17, bool)))
    masks = np.random.default_rng(3).permutation(np.arange(1 << 17))[:4096]  # a slice: all would take minutes
    masks = masks[[bin(m).count("1") >= 2 for m in masks]]
    values = measure(
        lambda: values_by_svd(x[0], y[0], tolerance, masks),
        3,
        member="batched torch.linalg.svd, on a slice",
        work=SEARCH,
        items=len(masks) / (1 << 17),
        unit="frames",
    )
    best = tpc_fast.search_subset(x[0], y[0])
    chosen = np.array([int(best.members @ (1 << np.arange(17)))])
    assert abs(float(values_by_svd(x[0], y[0], tolerance, chosen)[0]) - best.value) < 1e-6
    assert float(values.max()) <= best.value + 1e-6  # none of the slice is better than the optimum
