"""What several persons cost in a stream: who is who, and the track of each."""

import numpy as np
import pytest

from tpc_fast.ops.track_stream import TrackEstimator
from tpc_fast.pose.follow.matching import PeopleMatcher

WORK = "who is who alone, 4 persons, 300 frames"
BOTH = "who is who and the track of each, 4 persons, 300 frames"
# A standing person from the front, COCO order.
FIGURE = np.array(
    [
        *([0, 0], [6, -6], [-6, -6], [12, -2], [-12, -2], [35, 45], [-35, 45], [45, 95], [-45, 95]),
        *([40, 140], [-40, 140], [22, 150], [-22, 150], [24, 220], [-24, 220], [24, 290], [-24, 290]),
    ],
    np.float64,
)
FRAMES = 300


@pytest.fixture(scope="module")
def crowd():
    """Reference [4, 17, 2], frames [F, 4, 17, 2] in any order, and which person is where [F, 4]."""
    rng = np.random.default_rng(0)
    sizes = np.array([0.5, 0.55, 0.6, 0.65])[:, None, None]
    reference = sizes * FIGURE + np.array([[150.0 * p, 100] for p in range(4)])[:, None]
    frames, orders = np.empty((FRAMES, 4, 17, 2)), np.empty((FRAMES, 4), int)
    for f in range(FRAMES):
        x = 400 + 300 * np.cos(f / 40 + np.arange(4) * np.pi / 2)
        people = sizes * FIGURE + np.stack([x, 100 + 8 * np.arange(4)], -1)[:, None]
        orders[f] = rng.permutation(4)
        # Little noise: the eyes of these persons lie six pixels apart.
        frames[f] = (people + rng.normal(0, 0.2, people.shape))[orders[f]]
    return reference, frames, orders


def matched(reference, frames):
    """Yields which person of each frame plays each reference person, [4]."""
    scores, size = np.ones((4, 17)), (400, 900)
    matcher = PeopleMatcher(reference, scores, size)
    for f, points in enumerate(frames):
        yield matcher.step(points, scores, size, f / 30)


def check(places, orders):
    who = np.take_along_axis(orders, np.stack(places), 1)
    assert (who == who[0]).all(), "somebody was taken for somebody else"


def test_matching(measure, crowd):
    """A round is the whole clip; `items` are its frames."""
    reference, frames, orders = crowd
    places = measure(lambda: list(matched(reference, frames)), 15, member="tpc_fast", work=WORK, items=FRAMES)
    check(places, orders)


def test_matching_and_track(measure, crowd):
    reference, frames, orders = crowd
    scores = np.ones((4, 17))

    def work():
        estimator, places = TrackEstimator(reference), []
        for f, row in enumerate(matched(reference, frames)):
            places.append(row)
            step = estimator.step(frames[f][row], scores, f / 30)
        return places, step

    places, step = measure(work, 5, member="tpc_fast", work=BOTH, items=FRAMES)
    check(places, orders)
    assert (step.status == "tracked").all()
