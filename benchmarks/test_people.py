"""What several persons cost beyond their fits: who is who, and the last rungs of the ladder."""

import numpy as np
import pytest

from tpc_fast.pose.fitting import PersonFitter
from tpc_fast.pose.matching import PeopleMatcher

WORK = "who is who, 4 persons, 1 frame"
LADDER = "a frame on the lower rungs of the ladder, 4 persons"
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
        frames[f] = (people + rng.normal(size=people.shape))[orders[f]]
    return reference, frames, orders


def test_matching(measure, crowd):
    """A round is the whole clip; `items` are its frames."""
    reference, frames, orders = crowd
    scores, size = np.ones((4, 17)), (400, 900)

    def match():
        matcher = PeopleMatcher(reference, scores, size)
        return np.stack([matcher.step(points, scores, size, f / 30) for f, points in enumerate(frames)])

    places = measure(match, 5, member="tpc_fast", work=WORK, items=FRAMES, unit="frames")
    who = np.take_along_axis(orders, places, 1)
    assert (who == who[0]).all(), "nobody was taken for somebody else"


def test_last_rung(measure, crowd):
    """Scale and angle held, the position from the nose, for all four persons."""
    reference, frames, _ = crowd
    scores = np.ones(17)
    nose = np.where(np.arange(17) == 0, 1.0, 0.0)
    people = [PersonFitter(points, scores) for points in reference]
    for person, points in zip(people, reference, strict=True):
        person.step(points, scores, 0.0)

    def fall_back():
        return [
            [p.step(k, nose, 1 + f / 30) for p, k in zip(people, points, strict=True)]
            for f, points in enumerate(frames)
        ]

    fits = measure(fall_back, 5, member="tpc_fast", work=LADDER, items=FRAMES, unit="frames")
    assert {fit.rung for row in fits for fit in row} == {"position"}
