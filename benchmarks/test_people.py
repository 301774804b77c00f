"""What several persons cost beyond their fits: who is who, and the lower rungs of the ladder."""

import numpy as np
import pytest

from tpc_fast.pose.follow.fitting import PersonFitter
from tpc_fast.pose.follow.matching import PeopleMatcher

BOTH = "who is who and a lower rung of the ladder, 4 persons, 300 frames"
WORK = "who is who alone, 4 persons, 300 frames"
LADDER = "a lower rung of the ladder alone, 4 persons, 300 frames"
# The keypoints that are seen on a rung; the last one holds scale and angle.
SEEN = {"tpc_fast": [0], "the shoulders": [5, 6], "the face": [1, 2, 3], "subset": range(17)}
RUNGS = {"tpc_fast": "position", "the shoulders": "shoulders", "the face": "face", "subset": "subset"}
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


def fitters(reference, frame):
    """The persons of the reference, each after a frame [4, 17, 2] in which all of it is seen."""
    people = [PersonFitter(points, np.ones(17)) for points in reference]
    for person, points in zip(people, frame, strict=True):
        person.step(points, np.ones(17), 0.0)
    return people


def check(places, orders):
    who = np.take_along_axis(orders, np.stack(places), 1)
    assert (who == who[0]).all(), "somebody was taken for somebody else"


def test_matching(measure, crowd):
    """A round is the whole clip; `items` are its frames."""
    reference, frames, orders = crowd
    places = measure(lambda: list(matched(reference, frames)), 15, member="tpc_fast", work=WORK, items=FRAMES)
    check(places, orders)


@pytest.mark.parametrize("member", [member for member in SEEN if member != "subset"])
def test_matching_and_rung(measure, crowd, member):
    """All four persons are matched, and what fits them sees a few keypoints of each."""
    reference, frames, orders = crowd
    scores = np.where(np.isin(np.arange(17), SEEN[member]), 1.0, 0.0)
    people = fitters(reference, frames[0][next(matched(reference, frames))])

    def work():
        places, fits = [], []
        for f, row in enumerate(matched(reference, frames)):
            places.append(row)
            fits += [person.step(frames[f][place], scores, f / 30) for person, place in zip(people, row, strict=True)]
        return places, fits

    places, fits = measure(work, 15, member=member, work=BOTH, items=FRAMES)
    check(places, orders)
    assert {fit.rung for fit in fits} == {RUNGS[member]}


@pytest.mark.parametrize("member", SEEN)
def test_rungs(measure, crowd, member):
    """What each rung costs, beside a person who is tracked."""
    reference, *_ = crowd
    scores = np.where(np.isin(np.arange(17), SEEN[member]), 1.0, 0.0)
    people = fitters(reference, reference)

    def work():
        return [
            person.step(points + f, scores, 1 + f / 30)
            for f in range(FRAMES)
            for person, points in zip(people, reference, strict=True)
        ]

    fits = measure(work, 5, member=member, work=LADDER, items=FRAMES)
    assert {fit.rung for fit in fits} == {RUNGS[member]}
