"""Persons near each other: what is hidden from the look at one of them, and who keeps a pixel that two masks claim."""

import discs
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tpc_fast.pose import Detection
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.bones import bones_of, squared_distances
from tpc_fast.pose.detect.neighbours import neighbours, painted_over, shared_out, step_of
from tpc_fast.pose.detect.several_people import GroupTracker

CROP = discs.DiscDetector.whole
SIZE = (360, 480)
ALL = np.ones(coco.COUNT, bool)
MARGIN = np.ptp(discs.STANDING[[3, 4], 0]) / 2  # half a head's width, from ear to ear, in distances between the eyes
SHARE_MARGIN = MARGIN / 2


def painted_by_definition(picture, hidden):
    result, whole = picture.copy(), picture[~hidden]
    for y, x in np.argwhere(hidden):
        colour, side = (whole.mean(0) if len(whole) else np.zeros(3)), 8
        while len(picture) % side == 0:
            square = np.s_[y // side * side : (y // side + 1) * side, x // side * side : (x // side + 1) * side]
            if (~hidden[square]).sum() >= side**2 / 4:
                colour = picture[square][~hidden[square]].mean(0)
                break
            side *= 2
        result[y, x] = np.rint(colour)
    return result


@pytest.mark.parametrize("size", [8, 24, 32, 64])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_what_is_hidden_gets_the_colour_of_what_is_around(rng, size, share):
    picture = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
    coarse = rng.random((size // 8, size // 8)) < share
    hidden = coarse.repeat(8, 0).repeat(8, 1) & (rng.random((size, size)) < 0.95)
    painted = painted_over(picture, hidden)
    assert_array_equal(painted[~hidden], picture[~hidden])
    # Means are summed in another order: a half may be rounded up or down.
    assert_allclose(painted.astype(int), painted_by_definition(picture, hidden), atol=1)


def standing(*places, unit=6.0, size=SIZE):
    """People who stand at places of their noses, and masks that reach far around them."""
    keypoints = np.stack([discs.person_at(nose, unit) for nose in places])
    y, x = np.mgrid[: size[0], : size[1]]
    pixels = np.stack([x, y], -1).reshape(-1, 2).astype(np.float32)
    apart = np.stack([np.sqrt(squared_distances(pixels, bones_of(p.astype(np.float32), ALL))) for p in keypoints])
    apart = apart.reshape(len(places), *size)
    masks = (apart < 5 * unit).astype(np.uint8) * np.uint8(255)
    return Detection(keypoints.astype(np.float32), np.ones((len(places), coco.COUNT), np.float32), masks), apart


def test_what_is_hidden_is_theirs_by_half_a_head():
    unit = 6.0
    people, apart = standing((200, 60), (240, 70), unit=unit)
    view = CROP.locate(people.keypoints[0], people.scores[0])
    hidden = neighbours(people, 0).hidden(CROP, view)
    y, x = np.mgrid[: CROP.size, : CROP.size]
    there = view.inverse().apply(np.stack([x, y], -1).reshape(-1, 2).astype(np.float64))
    column, row = np.rint(there).astype(int).T
    inside = (column >= 0) & (column < SIZE[1]) & (row >= 0) & (row < SIZE[0])
    column, row = column[inside], row[inside]
    nearer = (apart[0] - apart[1])[row, column] / unit
    theirs = people.mask[1][row, column] >= 128
    # A cell of 8 pixels has one answer: its centre is 4 sqrt(2) away at most, twice for two distances; a pixel for the
    # rounding of places.
    doubt = (8 * np.sqrt(2) / CROP.unit) + 2 / unit
    edge = 5 * unit - apart[1][row, column]
    sure = abs(edge) > 2
    answers = hidden.ravel()[inside]
    assert not answers[(nearer < MARGIN - doubt) & sure].any()
    assert not answers[~theirs & sure].any()
    must = (nearer > MARGIN + doubt) & theirs & sure
    assert must.sum() > 1000
    assert answers[must].all()


def test_of_two_at_one_place_nothing_is_hidden():
    people, _ = standing((200, 60), (200 + 0.9 * MARGIN * 6, 60))
    view = CROP.locate(people.keypoints[0], people.scores[0])
    assert neighbours(people, 0).hidden(CROP, view) is None


def test_what_two_may_have_moved_is_not_hidden():
    """As far as both moved before, in pixels of the picture."""
    people, _ = standing((200, 60), (240, 70))
    view = CROP.locate(people.keypoints[0], people.scores[0])
    still, both, one = (neighbours(people, 0, np.array(steps)) for steps in ((0, 0), (10, 12), (0, 22)))
    assert_array_equal(both.hidden(CROP, view), one.hidden(CROP, view))
    assert not (both.hidden(CROP, view) & ~still.hidden(CROP, view)).any()
    assert both.hidden(CROP, view).sum() < 0.8 * still.hidden(CROP, view).sum()
    assert neighbours(people, 0, np.array((0, 100))).hidden(CROP, view) is None


def test_a_step_is_that_of_most_keypoints():
    before, after = (standing(place)[0] for place in ((200, 60), (203, 64)))
    after.keypoints[0, :3] += 50
    after.keypoints[0, 3] = np.nan
    assert step_of(before, after) == pytest.approx(5, abs=1e-4)
    assert step_of(before, Detection(after.keypoints, 0 * after.scores)) == 0


def test_who_is_far_away_or_alone_or_has_no_mask_hides_nothing():
    people, _ = standing((60, 60), (440, 60), unit=4.0)
    view = CROP.locate(people.keypoints[0], people.scores[0])
    assert neighbours(people, 0).hidden(CROP, view) is None
    assert neighbours(standing((60, 60))[0], 0) is None
    assert neighbours(Detection(people.keypoints, people.scores), 0) is None
    assert neighbours(Detection(people.keypoints, 0 * people.scores, people.mask), 0) is None


@pytest.mark.parametrize("places", [((200, 60), (240, 70)), ((200, 60), (203, 60)), ((150, 60), (200, 80), (245, 60))])
def test_pixels_that_several_claim_are_shared_out(places):
    unit = 6.0
    people, apart = standing(*places, unit=unit)
    shared = shared_out(people)
    before, after = people.mask >= 128, shared.mask >= 128
    assert_array_equal(before.any(0), after.any(0))  # nothing is lost
    assert not (after & ~before).any()
    # Sizes of persons decide, and cells of half the margin.
    margin, doubt = SHARE_MARGIN * unit, SHARE_MARGIN * unit
    for p in range(len(places)):
        for q in range(len(places)):
            gain = apart[p] - apart[q]
            if p != q:
                assert not after[p][before[q] & (gain > margin + doubt)].any()
        others = np.delete(apart, p, 0).min(0)
        assert_array_equal(after[p][apart[p] - others < 0], before[p][apart[p] - others < 0])


def test_of_two_at_one_place_both_keep_their_masks():
    people, _ = standing((200, 60), (200 + 0.9 * SHARE_MARGIN * 6, 60))
    assert_array_equal(shared_out(people).mask, people.mask)


def test_one_person_and_people_without_masks_keep_what_they_have():
    one = standing((200, 60))[0]
    assert shared_out(one) is one
    bare = Detection(*(a.repeat(2, 0) for a in (one.keypoints, one.scores)))
    assert shared_out(bare) is bare
    assert len(shared_out(Detection.nobody())) == 0


class Mixing(discs.DiscDetector):
    """Takes two persons in one crop for one, who is between them: discs of the same number are one keypoint."""

    people = 2

    def __init__(self, persons):
        super().__init__()
        self.persons = np.array(persons, np.float32)

    def detect_people(self, image):
        scores = np.where(np.arange(coco.COUNT) < 13, 0.9, 0.0).astype(np.float32)
        return Detection(self.persons, np.stack([scores] * len(self.persons)))


def test_who_appears_beside_somebody_is_found_without_the_other():
    """A whole figure, whose crop shows the half one that is known, and not the other way round."""
    people = [discs.person_at((275, 150), 5.0), discs.person_at((365, 70), 5.0)]
    alone, both = discs.draw(people[0], (240, 640)), np.maximum(*(discs.draw(one, (240, 640)) for one in people))
    tracker = GroupTracker(Mixing(people[:1]))
    assert len(tracker.step(alone)) == 1
    tracker.detector.persons = np.array(people, np.float32)
    seen = tracker.step(both)
    assert len(seen) == 2
    body = [0, *coco.TORSO]
    assert_allclose(seen.keypoints[:, body], np.array(people)[:, body], atol=4)


def test_two_who_come_near_each_other_keep_heads_and_masks():
    """As they do without being hidden from each other's look as long as each crop shows one of them."""
    unit, size = 5.0, (240, 640)
    ways = np.linspace(((215, 70), (385, 80)), ((275, 70), (325, 80)), 30)  # the fastest run is as fast

    def frame(noses):
        people = [discs.person_at(nose, unit) for nose in noses]
        return people, np.maximum(*(discs.draw(person, size) for person in people))

    people, picture = frame(ways[0])
    tracker = GroupTracker(Mixing(people))
    for noses in ways:
        people, picture = frame(noses)
        tracker.detector.persons = np.array(people, np.float32)
        seen = tracker.step(picture)
        assert len(seen) == 2
        body = [0, *coco.TORSO]  # discs of limbs cover each other
        assert_allclose(seen.keypoints[:, body], np.array(people)[:, body], atol=4)
    both = (seen.mask >= 128).all(0)
    assert both.mean() < 0.001
