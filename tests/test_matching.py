"""Who is who, and held transforms: the compiled core against the specification, and the tracker on either."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scene import FIGURE

from tpc_fast import _native, naive
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.follow.matching import _PRICES, GOOD_POINTS, IdentityTracker, PeopleMatcher, check_match

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


@pytest.mark.native
def test_a_whole_clip_on_either(rng, monkeypatch):
    """Five persons who cross, come and go, with sides exchanged at times: the same numbers."""
    trackers = [IdentityTracker(), IdentityTracker()]
    trackers[1]._operations = naive
    for f in range(150):
        x = 300 + 250 * np.cos(f / 30 + np.arange(5) * 1.3)
        points = 0.4 * FIGURE + np.stack([x, 100 + 6 * np.arange(5)], -1)[:, None] + rng.normal(size=(5, 17, 2))
        points = np.where(rng.random((5, 1, 1)) < 0.2, points[:, coco.MIRRORED], points)
        seen = (rng.random((5, 17)) < 0.9) & (rng.random((5, 1)) < 0.9)
        order = rng.permutation(5)
        ids = [tracker.step(points[order], seen[order], f / 30) for tracker in trackers]
        assert_array_equal(*ids)


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


# Roles of who is out of sight


def roles(frames, match="auto", reference=(0, 200)):
    """What plays whom: frames of places (x of each person, or None), 10 a second -> [F, P] x of the drivers."""

    def people(xs):
        points = np.stack([FIGURE + (x, 0) for x in xs]) if len(xs) else np.zeros((0, 17, 2))
        return points, np.ones(points.shape[:2])

    matcher = PeopleMatcher(*people(reference), (400, 3000), match)
    played = []
    for f, xs in enumerate(frames):
        xs = [x for x in xs if x is not None]
        places = matcher.step(*people(xs), (400, 3000), f / 10)
        played.append([xs[place] if place >= 0 else None for place in places])
    return played


def test_who_comes_back_far_away_plays_again():
    """A person in blue came back too far away to be known, and the reference person stayed faded for ever."""
    frames = [(0, 200)] * 5 + [(0, None)] * 5 + [(0, 2500)] * 15
    played = roles(frames)
    assert played[4] == [0, 200]
    assert played[10] == [0, None]  # a person is held for a second
    assert played[-1] == [0, 2500]
    assert roles(frames, match=((0, 0), (1, 1)))[-1] == [0, None]  # pairs stay what they are


def test_a_role_is_lent_and_given_back():
    """A bystander plays whom nobody else plays, until who did is seen again; nobody gives up a role in sight."""
    frames = [(0, 200, 1500)] * 5 + [(0, None, 1500)] * 20 + [(0, 200, 1500)] * 3
    played = roles(frames)
    assert played[12] == [0, None]
    assert played[24] == [0, 1500]
    assert played[-1] == [0, 200]
    assert all(first == 0 for first, _ in played)


def test_who_has_not_come_yet_keeps_the_role():
    """In a video the choice is made on the best frame; those before it show fewer, and nobody takes over."""

    def people(xs):
        return np.stack([FIGURE + (x, 0) for x in xs]), np.ones((len(xs), 17))

    frames = [(*people([0]), f / 10) for f in range(30)] + [(*people([0, 200]), 3 + f / 10) for f in range(5)]
    places = PeopleMatcher(*people([0, 200]), (400, 3000)).match_video(frames, (400, 3000))
    assert places[0].tolist() == [0, -1]
    assert places[-1].tolist() == [0, 1]


@pytest.mark.parametrize("pair", [(0, 10**400), (10**400, 0)])
def test_numbers_of_persons_that_no_array_holds(pair):
    with pytest.raises(ValueError, match="match must be pairs of numbers from 0"):
        check_match([pair])
