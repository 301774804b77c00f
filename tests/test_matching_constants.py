"""Each constant of `pose/follow/matching.py` decides who somebody is: tried on both sides of where it says."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scene import FIGURE

from tpc_fast.naive import person_bounds
from tpc_fast.ops.procrustes import UPPER_BODY
from tpc_fast.pose.detect.appearance import COUNT
from tpc_fast.pose.follow.matching import IdentityTracker

EVERY = np.ones((1, 17), bool)
UNIT = float(np.exp(person_bounds(FIGURE[None], EVERY, UPPER_BODY.stop)[0, 4]))  # the figure's size in pixels
APART = 100  # in sizes: too far for anybody to be taken for


def frame(*places, scale=1.0, points=17):
    """Persons at x in sizes, about the same centre whatever their scale, who show so many keypoints."""
    centre = FIGURE[UPPER_BODY].mean(0)
    xy = np.stack([scale * (FIGURE - centre) + centre + (x * UNIT, 0) for x in places])
    return xy, np.broadcast_to(np.arange(17) < points, xy.shape[:2])


def numbers(*frames):
    """Of the persons of the last frame; frames: (time, what `frame` returned) or (time, that, colours)."""
    tracker = IdentityTracker()
    for time, seen, *colours in frames:
        ids = tracker.step(*seen, time, colours=colours[0] if colours else None)
    return ids.tolist()


@pytest.mark.parametrize(("gap", "reach"), [(0.01, 1.02), (4.0, 9.0)])
def test_nobody_is_farther_than_one_can_get(gap, reach):
    """A size, and two more for every second out of sight; another person says that it is no cut."""
    for jump, known in ((0.9 * reach, 1), (1.1 * reach, 2)):
        assert numbers((0, frame(0, APART)), (gap, frame(0, APART + jump))) == [0, known]


def test_who_is_out_of_sight_slows_down():
    """Within a second and a half: 20 sizes a second come to 15 sizes after one second."""
    walk = [(t, frame(20 * t, -APART)) for t in np.arange(60) / 30]
    end = walk[-1][0]
    expected = 20 * (end + 1.5 * (1 - np.exp(-1.0 / 1.5)))
    for off, known in ((-2.0, 0), (2.0, 0), (-4.0, 2), (4.0, 2)):
        assert numbers(*walk, (end + 1.0, frame(expected + off, -APART)))[0] == known


def test_speed_and_size_are_smoothed():
    tracker = IdentityTracker()
    tracker.step(*frame(0), 0.0)
    tracker.step(*frame(1), 0.1)  # as long as the time constant of speed
    assert_allclose(tracker._people.velocity[0], (10 * UNIT * (1 - np.exp(-1)), 0), atol=1e-6)
    before = tracker._people.bounds[0, 4]
    tracker.step(*frame(1, scale=np.exp(0.2)), 0.4)  # and of size
    assert_allclose(tracker._people.bounds[0, 4] - before, 0.2 * (1 - np.exp(-1)))


def test_four_keypoints_say_a_size_and_three_do_not():
    for points, changes in ((3, False), (4, True)):
        tracker = IdentityTracker()
        tracker.step(*frame(0), 0.0)
        tracker.step(*frame(0, scale=1.5, points=points), 0.3)
        assert (abs(tracker._people.bounds[0, 4] - np.log(UNIT)) > 1e-6) == changes


def test_two_keypoints_make_a_person_and_one_does_not():
    assert numbers((0, frame(0, points=1))) == [-1]
    assert numbers((0, frame(0, points=2))) == [0]


def test_who_is_absent_for_ten_seconds_is_forgotten():
    for absent, number in ((9.0, 1), (11.0, 3)):
        seen = [(t, frame(0, -APART)) for t in np.arange(0.5, absent, 0.5)]
        assert numbers((0, frame(0, APART, -APART)), *seen, (absent, frame(APART, 0, -APART)))[0] == number


@pytest.mark.parametrize(
    ("gap", "jump", "known"), [(0.4, 0, True), (0.6, 0, False), (0.1, 0.4, True), (0.1, 0.6, False)]
)
def test_who_is_unlike_is_the_same_only_soon_and_near(gap, jump, known):
    """Somebody else may stand before a person for half a second, within half a size."""
    red, blue = np.eye(COUNT)[[[0], [COUNT - 1]]]
    assert numbers((0, frame(0), red), (gap, frame(jump), blue)) == [0 if known else 1]


def tipping(sizes=(1.0, 1.0), last=(0.0, 0.0)):
    """The place from which on somebody is the second of two, at 0 and at 1, of sizes, who were seen at times."""
    low, high = 0.0, 1.0
    persons = [frame(x, scale=size) for x, size in zip((0, 1), sizes, strict=True)]
    both = tuple(np.concatenate(part) for part in zip(*persons, strict=True))
    for _ in range(9):
        middle = (low + high) / 2
        tracker = IdentityTracker()
        tracker.step(*both, min(last))
        for time, person in zip(last, persons, strict=True):
            if time > min(last):
                tracker.step(*person, time)
        low, high = (low, middle) if tracker.step(*frame(middle), max(last) + 0.1)[0] else (middle, high)
    return middle


def test_what_absence_and_overlap_cost():
    """Somebody is who costs least: the distance, half of what boxes do not share, 0.3 for a second out of sight."""
    width = np.ptp(FIGURE[UPPER_BODY, 0]) / UNIT

    def cost(away, absent):
        return away + 0.5 * (1 - max(width - away, 0) / (width + away)) + 0.3 * absent

    assert tipping() == pytest.approx(0.5, abs=0.005)
    middle = tipping(last=(0.0, 1.0))
    assert cost(middle, 1.0) == pytest.approx(cost(1 - middle, 0.0), abs=0.02)


def test_what_another_size_costs():
    """Somebody of the first's size is the first beyond the middle: 0.57 for 0.3 in log size; without a price 0.50."""
    assert tipping(sizes=(1.0, np.exp(0.3))) == pytest.approx(0.557, abs=0.015)
