"""Who is seen in a frame is the one of a frame before, or cannot be: by place and size."""

import numpy as np
import pytest
import walker

from tpc_fast import naive
from tpc_fast.ops.track import STANDING
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.last_seen import LastSeen, PersonChanges

PERSON = walker.film(walker.body())
PLACE = np.isin(np.arange(17), [*coco.FACE, *coco.TORSO])
SIZE = naive.track.pair_ratio(STANDING, PERSON[:, 0] + 1j * PERSON[:, 1], PLACE, [PLACE])[0]
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


def test_who_bends_is_no_other():
    """A player who jumps and bows shrank to half of what is usual within seven frames, and was called somebody else."""
    last = LastSeen()
    for _ in range(10):
        last.step(PERSON, ALL)
    for size in np.linspace(1, 0.5, 8)[1:]:
        bowed = CENTRE + size * (PERSON - CENTRE)
        assert last.continues(bowed, ALL)
        fits = last.fits(bowed, ALL)
        last.step(bowed, ALL)
    assert not fits
    assert not last.continues(CENTRE + (PERSON - CENTRE), ALL)  # twice as large at once
    assert not last.continues(bowed + (0.2 * SIZE, 0), ALL)  # 0.4 of the size of now
    assert last.continues(bowed + (0.15 * SIZE, 0), ALL)
    last.step(*NOBODY)
    assert not last.continues(bowed, ALL)  # who was not seen does not go on
    assert not LastSeen().continues(PERSON, ALL)


def test_guessed_shoulders_make_nobody_else():
    """A talking head: for some frames the network guesses shoulders below the chin, where the picture ends."""
    face, guessed = np.where(np.isin(np.arange(17), coco.FACE), 1.0, 0.0), PERSON.copy()
    middle = PERSON[coco.SHOULDERS].mean(0)
    guessed[coco.SHOULDERS] = PERSON[0] + 0.35 * (PERSON[coco.SHOULDERS] - middle) + 0.4 * (middle - PERSON[0])
    shown = face + np.isin(np.arange(17), coco.SHOULDERS)
    changes, last = PersonChanges(), LastSeen()
    rows = [(PERSON, face)] * 5 + [(guessed, shown)] * 20 + [(PERSON, face)] * 20
    assert [changes.step(i, *row) for i, row in enumerate(rows)] == [None] * 45
    last.step(PERSON, face)
    assert not last.fits(guessed, shown)
    assert last.continues(guessed, shown)
    assert not last.continues(guessed + (0.4 * SIZE, 0), shown)  # nor does the face
    assert not last.continues(guessed, shown - face)  # no face
    last.step(guessed, shown - face)
    assert not last.continues(PERSON, face)  # no face before


def test_a_change_is_told_in_arrays_that_are_filled_again():
    """As streams get them from a caller who keeps one detection."""
    changes, keypoints, scores = PersonChanges(), PERSON.copy(), ALL.copy()
    told = []
    for frame in range(20):
        keypoints[:] = PERSON + (0 if frame < 10 else 3 * SIZE, 0)
        told.append(changes.step(frame, keypoints, scores))
    assert [number for number in told if number is not None] == [10]


def test_arms_and_turns_are_no_growth():
    """A tennis player in profile who turns round and serves was taken for another."""
    last = LastSeen()
    last.step(walker.film(walker.body(heading=np.pi / 2)), ALL)
    serving = PERSON.copy()
    serving[[7, 9]] += SIZE * np.array([(1.0, 0.2), (2.0, 0.4)])
    serving[[8, 10]] -= SIZE * np.array([(1.0, 0.2), (2.0, 0.4)])
    assert last.fits(serving, ALL)
    assert not last.fits(CENTRE + 1.9 * (serving - CENTRE), ALL)


@pytest.mark.parametrize("seen", [9, 6, 4])
def test_the_size_is_that_of_the_track(seen, rng):
    """Of whatever is seen of head and torso."""
    points = rng.normal(0, 50, (17, 2))
    some = np.isin(np.arange(17), rng.choice(np.flatnonzero(PLACE), seen, replace=False))
    expected, _ = naive.track.pair_ratio(STANDING, points[:, 0] + 1j * points[:, 1], some, [PLACE])
    last = LastSeen()
    last.step(points, some.astype(float))
    assert last.fits(points * 1.59 + (1 - 1.59) * points[some].mean(0), some.astype(float))
    assert not last.fits(points * 1.61 + (1 - 1.61) * points[some].mean(0), some.astype(float))
    np.testing.assert_allclose(last._sizes[0], expected, rtol=1e-12)


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


def told(frames):
    """What is told of frames: None for nobody, or keypoints."""
    changes, found = PersonChanges(), []
    for frame, points in enumerate(frames):
        change = changes.step(frame, *(NOBODY if points is None else (points, ALL)))
        if change is not None:
            found.append((frame, change))
    return found


SMALL, AWAY = CENTRE + 0.5 * (PERSON - CENTRE), PERSON + 3 * SIZE


@pytest.mark.parametrize("other", [SMALL, AWAY])
@pytest.mark.parametrize(("frames", "changed"), [(1, False), (4, False), (5, True)])
def test_a_change_is_told_when_it_has_lasted(other, frames, changed):
    """It began with frame 3, is told with the fourth after that one, and once; the way back would be another."""
    assert told([PERSON] * 3 + [other] * frames) == ([(7, 3)] if changed else [])
    there_and_back = [PERSON] * 3 + [other] * frames + [PERSON] * 20
    assert told(there_and_back) == ([(7, 3), (12, 8)] if changed else [])


def test_a_change_to_nobody_and_to_a_third_is_told_of_the_first():
    assert told([PERSON] * 3 + [AWAY, None, None, None, None, None]) == [(7, 3)]
    assert told([PERSON] * 3 + [AWAY, SMALL + 3 * SIZE, AWAY, AWAY, AWAY]) == [(7, 3)]
    assert told([PERSON] * 3 + [None] * 3 + [PERSON] * 9) == []
    assert told([None] * 3 + [PERSON] * 9) == []
