"""Who is seen in a frame is the one of a frame before, or cannot be: by place and size."""

import numpy as np
import pytest
import walker

from tpc_fast.ops.procrustes import person_size
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.last_seen import LastSeen

PERSON = walker.film(walker.body())
SIZE = float(person_size(PERSON[None], np.ones((1, 17), bool))[0])
CENTRE = PERSON[[*coco.FACE, *coco.TORSO]].mean(0)
ALL, NOBODY = np.ones(17), (np.zeros((0, 17, 2)), np.zeros((0, 17)))


def seen_before(unseen):
    """Somebody who was seen, and then not for so many frames."""
    last = LastSeen()
    last.step(PERSON, ALL)
    for _ in range(unseen):
        last.step(*NOBODY)
    return last


@pytest.mark.parametrize(
    ("unseen", "away", "fits"),
    [(0, 1.3, True), (0, 1.8, False), (10, 2.3, True), (10, 2.7, False)],
)
def test_nobody_leaps(unseen, away, fits):
    """One and a half person sizes in a frame, and a tenth more for every frame without being seen."""
    assert seen_before(unseen).fits(PERSON + (away * SIZE, 0), ALL) == fits


@pytest.mark.parametrize(("growth", "fits"), [(1.5, True), (1.7, False), (1 / 1.5, True), (1 / 1.7, False)])
def test_nobody_grows(growth, fits):
    assert seen_before(0).fits(CENTRE + growth * (PERSON - CENTRE), ALL) == fits


@pytest.mark.parametrize(("score", "fits"), [(0.25, True), (0.35, False)])
def test_what_is_not_seen_says_nothing(score, fits):
    assert seen_before(0).fits(PERSON + 5 * SIZE, score * ALL) == fits
    last = LastSeen()
    last.step(PERSON, score * ALL)
    assert (last.gap is None) == fits
    assert last.fits(PERSON + 5 * SIZE, ALL) == fits


def test_who_is_forgotten_may_be_anywhere():
    last = seen_before(3)
    assert last.gap == 4
    last.forget()
    assert last.gap is None
    assert last.fits(PERSON + 5 * SIZE, ALL)
