"""Who is who, and held transforms: the compiled core against the specification, and the tracker on either."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scene import FIGURE

from tpc_fast import _native, naive
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.follow.fitting import LADDER, PersonFitter
from tpc_fast.pose.follow.matching import _PRICES, GOOD_POINTS, IdentityTracker, PeopleMatcher

CORE = pytest.param(_native.core(), id="core", marks=pytest.mark.native)
SECONDS = 0.1, 0.3  # time constants of speed and size
# A dozen operations on numbers to 1e4 with eps 1e-16; expm1 and exp add a few more.
TOLERANCE = dict(rtol=1e-11, atol=1e-9)


def crowd(rng, persons):
    """Points [N, 17, 2], NaN where not seen; some are seen by one keypoint, by legs only, or in one spot."""
    scales = rng.uniform(0.1, 1.5, (persons, 1, 1))
    points = scales * FIGURE + rng.uniform(0, 900, (persons, 1, 2)) + rng.normal(size=(persons, 17, 2))
    seen = rng.random((persons, 17)) < rng.uniform(0.1, 1.2, (persons, 1))
    if persons:
        seen[rng.integers(persons), :13] = False
        points[rng.integers(persons)] = 7.0
    seen[np.arange(persons), rng.integers(13, 17, persons)] = True
    return np.where(seen[..., None], points, np.nan), seen


def known(rng, persons):
    """As `naive.follow` leaves them, near the first persons of a crowd."""
    points, seen = crowd(rng, persons)
    bounds = naive.person_bounds(points, seen, 13)
    points = np.where(seen[..., None], points, 0.0)
    return [points, seen, rng.normal(0, 300, (persons, 2)), rng.uniform(-3, 1, persons), bounds]


@pytest.mark.parametrize("core", [CORE])
@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (3, 0), (1, 1), (2, 5), (5, 2), (6, 6)])
def test_core_against_naive(core, counts, rng):
    for _ in range(20):
        people = known(rng, counts[0])
        points, seen = crowd(rng, counts[1])
        if counts[0] and counts[1]:  # somebody is where somebody was, with sides exchanged
            points[0] = np.where(seen[0, :, None], (people[0][0] + rng.normal(size=(17, 2)))[coco.MIRRORED], np.nan)
        bounds = naive.person_bounds(points, seen, 13)
        assert_allclose(core.person_bounds(points, seen, 13), bounds, **TOLERANCE)
        frame = points, seen, bounds, 1.05, coco.MIRRORED, GOOD_POINTS
        distances, cost = naive.pair_costs(*people, *frame, _PRICES)
        found, found_cost = core.pair_costs(*people, *frame, _PRICES)
        assert_allclose(found, distances, **TOLERANCE)
        assert_allclose(found_cost, cost, **TOLERANCE)
        pairs = min(counts)
        tracks, columns = (rng.permutation(n)[:pairs] for n in counts)
        exchanged = rng.random(pairs) < 0.5
        after = [[a.copy() for a in people] for _ in range(2)]
        for module, arrays in zip((naive, core), after, strict=True):
            module.follow(*arrays, *frame, tracks, columns, exchanged, *SECONDS)
        for wanted, got in zip(*after, strict=True):
            assert_allclose(got, wanted, **TOLERANCE)


def one_person(rng, common):
    """All but the last arguments of `naive.fit_rungs`: NaN where not common, some weights 0."""
    points, keypoints = FIGURE + rng.normal(size=(17, 2)), rng.uniform(0.3, 2) * FIGURE + rng.uniform(-500, 500, 2)
    keypoints = keypoints + rng.normal(0, 3, (17, 2))
    weights, scores = np.where(rng.random((2, 17)) < 0.1, 0.0, rng.random((2, 17)))
    points[~common], keypoints[~common & (rng.random(17) < 0.5)] = np.nan, np.nan
    return points, weights, keypoints, scores, common


def rotation_by(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


RUNGS = np.stack([rung.part for rung in LADDER]), np.array([rung.least for rung in LADDER])


@pytest.mark.parametrize("core", [CORE])
def test_common_points(core, rng):
    for n in range(50):
        points, _, keypoints, scores, _ = one_person(rng, rng.random(17) < rng.choice([0.0, 0.1, 0.5]))
        seen = np.stack([np.isfinite(points).all(-1), rng.random(17) < 0.5, np.zeros(17, bool)])
        threshold = rng.choice([0.0, 0.5, float(scores[n % 17])])
        common, counts, sizes = naive.common_points(keypoints, scores, threshold, seen, 13)
        for wanted, got in zip(
            (common, counts), core.common_points(keypoints, scores, threshold, seen, 13), strict=False
        ):
            assert_array_equal(got, wanted)
        assert_allclose(core.common_points(keypoints, scores, threshold, seen, 13)[2], sizes, **TOLERANCE)
        assert_array_equal(common, naive.seen_points(keypoints, scores, threshold) & seen)
        assert sizes[-1] == 1


@pytest.mark.parametrize("core", [CORE])
def test_fit_rungs(core, rng):
    """Every rung, and none, on fresh points; with and without a transform before."""
    found = set()
    for n in range(600):
        pair = one_person(rng, rng.random(17) < rng.choice([0.15, 0.4, 0.7]))
        if n % 10 == 0:
            pair[2][:] = 7.0  # all in one spot: no part has a fit
        before = (rng.choice([0.0, 0.5, 1.0]), rotation_by(rng.normal(0, 0.3)), rng.choice([0.2, 0.5, 3.0], 2))
        wanted, got = (module.fit_rungs(*pair, *RUNGS, *before) for module in (naive, core))
        assert (wanted is None) == (got is None)
        found.add(wanted and wanted[0])
        if wanted is not None:
            assert wanted[0] == got[0]
            for a, b in zip(wanted[1:-1], got[1:-1], strict=True):
                assert_allclose(b, a, rtol=1e-9, atol=1e-8)  # points of a rung may lie within a tenth of its distance
            assert_array_equal(got[-1], wanted[-1])
            assert_array_equal(wanted[-1], pair[4] & RUNGS[0][wanted[0]])
    assert found == {None, 0, 1, 2}


@pytest.mark.parametrize("module", [pytest.param(naive, id="naive"), CORE])
def test_a_rung_must_be_within_reach(module, rng):
    """Twice as large and turned by half a radian: refused by a reach that is a little less, on either count."""
    points, weights = FIGURE.astype(float), np.ones(17)
    pair = points, weights, 2 * points @ rotation_by(0.5).T + 9, weights, np.ones(17, bool)
    held = 1.0, np.eye(2)
    assert module.fit_rungs(*pair, *RUNGS, *held, (0.694, 0.501))[0] == 0
    assert module.fit_rungs(*pair, *RUNGS, *held, (0.692, 0.501)) is None
    assert module.fit_rungs(*pair, *RUNGS, *held, (0.694, 0.499)) is None
    assert module.fit_rungs(*pair, *RUNGS, 0.0, np.eye(2), (0.0, 0.0))[0] == 0


@pytest.mark.parametrize("core", [CORE])
def test_held_shift(core, rng):
    for count in (0, 1, 2, 9, 17):
        common = np.zeros(17, bool)
        common[rng.permutation(17)[:count]] = True
        pair = one_person(rng, common)
        part = rng.random(17) < 0.9
        held = part, rng.uniform(0.1, 4), rotation_by(rng.uniform(-3, 3)), rng.uniform(-900, 900, 2)
        shift, residual, used = naive.held_shift(*pair, *held)
        found, found_residual, found_used = core.held_shift(*pair, *held)
        assert_allclose(found, shift, **TOLERANCE)
        assert_allclose(found_residual, residual, **TOLERANCE)
        assert_array_equal(found_used, used)
        assert_array_equal(used, common & part & (pair[1] > 0) & (pair[3] > 0))
        if used.sum() == 1:
            assert_allclose(residual, 0, atol=1e-9)
        assert (residual == np.inf) == (not used.any())


@pytest.mark.native
def test_the_core_refuses_what_does_not_fit(rng):
    core = _native.core()
    people, (points, seen) = known(rng, 2), crowd(rng, 3)
    bounds = naive.person_bounds(points, seen, 13)
    frame = points, seen, bounds, 1.0, coco.MIRRORED, GOOD_POINTS
    with pytest.raises(ValueError, match="must name persons"):
        core.follow(*people, *frame, np.array([2]), np.array([0]), np.array([False]), *SECONDS)
    with pytest.raises(ValueError, match="known persons differ"):
        core.pair_costs(people[0][:1], *people[1:], *frame, _PRICES)
    with pytest.raises(ValueError, match="seen persons differ"):
        core.pair_costs(*people, points[:2], *frame[1:], _PRICES)
    with pytest.raises(ValueError, match="must name keypoints"):
        core.pair_costs(*people, *frame[:4], coco.MIRRORED + 1, GOOD_POINTS, _PRICES)
    pair = one_person(rng, np.ones(17, bool))
    with pytest.raises(ValueError, match="keypoints differ"):
        core.held_shift(pair[0][:16], *pair[1:], pair[-1], 1.0, np.eye(2), np.zeros(2))
    with pytest.raises(ValueError, match="sizes differ"):
        core.common_points(pair[0], pair[1], 0.3, np.ones((2, 16), bool), 13)
    with pytest.raises(ValueError, match="sizes differ"):
        core.fit_rungs(*pair, RUNGS[0], RUNGS[1][:2], 1.0, np.eye(2), (1.0, 1.0))


@pytest.mark.native
def test_a_whole_clip_on_either(rng, monkeypatch):
    """Five persons who cross, come and go, with sides exchanged at times: the same numbers, the same fits."""
    trackers = [IdentityTracker(), IdentityTracker()]
    trackers[1]._operations = naive
    fitters = [PersonFitter(FIGURE, np.ones(17)), PersonFitter(FIGURE, np.ones(17))]
    fitters[1]._operations = naive
    for f in range(150):
        x = 300 + 250 * np.cos(f / 30 + np.arange(5) * 1.3)
        points = 0.4 * FIGURE + np.stack([x, 100 + 6 * np.arange(5)], -1)[:, None] + rng.normal(size=(5, 17, 2))
        points = np.where(rng.random((5, 1, 1)) < 0.2, points[:, coco.MIRRORED], points)
        seen = (rng.random((5, 17)) < 0.9) & (rng.random((5, 1)) < 0.9)
        order = rng.permutation(5)
        ids = [tracker.step(points[order], seen[order], f / 30) for tracker in trackers]
        assert_array_equal(*ids)
        scores = np.where(rng.random(17) < rng.choice([0.1, 0.3, 1.0]), 1.0, 0.0)
        core, plain = (fitter.step(points[0], scores, f / 30) for fitter in fitters)
        assert core.rung == plain.rung
        assert_array_equal(core.members, plain.members)
        if core.similarity is not None:
            assert_allclose(core.similarity.matrix, plain.similarity.matrix, rtol=1e-7, atol=1e-6)


@given(persons=st.integers(1, 5), seed=st.integers(0, 2**32 - 1), turn=st.floats(-3, 3), zoom=st.floats(0.3, 3))
def test_who_is_who_does_not_depend_on_the_order(persons, seed, turn, zoom):
    """Nor on where the whole picture lies, or how large it is: the first frame's numbers are carried on."""
    rng = np.random.default_rng(seed)
    places = np.stack([200.0 * np.arange(persons), rng.uniform(0, 50, persons)], -1)
    points = zoom * (0.4 * FIGURE + places[:, None]) + 1000 * turn
    tracker, seen = IdentityTracker(), np.ones((persons, 17), bool)
    assert_array_equal(tracker.step(points, seen, 0.0), range(persons))
    order = rng.permutation(persons)
    moved = points + zoom * rng.normal(0, 3, points.shape)
    assert_array_equal(tracker.step(moved[order], seen, 1 / 30), order)


def test_a_keypoint_of_one_side_exchanges_nothing(rng):
    """Seen by the left shoulder alone, where it was: nothing says that left and right were taken for each other."""
    tracker = IdentityTracker()
    one = np.arange(17) == 5
    tracker.step(0.4 * FIGURE[None] + 100, np.stack([np.isin(np.arange(17), (5, 7))]), 0.0)
    assert_array_equal(tracker.step(0.4 * FIGURE[None] + 101, one[None], 1 / 30), [0])
    assert_array_equal(np.flatnonzero(tracker._people.known[0]), [5, 7])


def test_keypoints_that_are_missing_are_nan(rng):
    """Two persons, NaN where nothing is seen, in every frame: nothing becomes NaN."""
    people = np.stack([0.4 * FIGURE + 100, 0.3 * FIGURE + 300])
    matcher = PeopleMatcher(people, np.ones((2, 17)), (400, 500))
    for f in range(20):
        points = (people + f).astype(np.float32)
        points[rng.random((2, 17)) < 0.4] = np.nan
        order = rng.permutation(2)
        places = matcher.step(points[order], np.ones((2, 17), np.float32), (400, 500), f / 30)
        assert_array_equal(order[places], [0, 1])
    assert all(np.isfinite(array).all() for array in matcher.tracker._people)
