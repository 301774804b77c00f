"""Each constant of the tracker of one person, and of where it looks, tried on both sides of where it says. What a
network would see in a view is written down, so that nothing is drawn."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from discs import DiscDetector, person_at

from tpc_fast.pose import Detection
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.one_person import PersonTracker, _shows_legs
from tpc_fast.pose.detect.parts import rolled, square_around, squares

FRAME = np.zeros((480, 640, 3), np.uint8)
CROP = DiscDetector.half
PERSON = person_at((320, 120), 9)


def answer(keypoints, score=0.8, knees=0.5):
    """One person, of whom a search says neither that knees are seen nor that they are hidden."""
    scores = np.full((1, coco.COUNT), score, np.float32)
    scores[:, coco.KNEES] = knees
    return Detection(np.asarray(keypoints, np.float32)[None], scores)


class Told(PersonTracker):
    """A tracker that is told what it sees: `see(crop, view)` is called for what a look at a crop would find."""

    def __init__(self, see, **options):
        super().__init__(DiscDetector(), **options)
        self.see, self.views, self.squares = see, [], []
        self.crop = CROP

    def _look(self, image, crop, view):
        self.passes += 1
        self.views.append(view)
        return self.see(crop, view), False

    def _people(self, image, left, top, side):
        self.squares.append((left, top, side))
        return []


def stands(keypoints=PERSON, **how):
    """Somebody who stands at a place of the picture."""
    return lambda crop, view: answer(keypoints, **how)


def creeps(shift):
    """Somebody who is always so far away from where the crop expects the person, in sizes of the crop."""
    return lambda crop, view: answer(
        view.inverse().apply(person_at(crop.nose, crop.unit) + (shift * crop.size, 0)), score=0.8
    )


def moved(shift):
    """The person, so many sizes of its crop further to the right."""
    view = CROP.locate(PERSON, np.ones(coco.COUNT))
    return PERSON + (shift * CROP.size / view.scale, 0)


def followed(see, **options):
    """A tracker that follows the person, and then sees something else."""
    tracker = Told(stands(), **options)
    assert len(tracker.approach(FRAME, PERSON, answer(PERSON).scores[0]))
    assert tracker.crop == CROP
    tracker.see, tracker.passes, tracker.views = see, 0, []
    return tracker


@pytest.mark.parametrize(("quality", "held"), [(0.19, False), (0.21, True)])
def test_quality_of_a_pose_that_is_believed(quality, held):
    tracker = followed(stands(score=quality, knees=quality))
    assert len(tracker.follow(FRAME)) == held


@pytest.mark.parametrize(("knee", "ankle", "said", "legs"), [
    (0.84, 0.0, False, False), (0.86, 0.0, False, True),  # sure knees need no ankles
    (0.51, 0.49, False, False), (0.51, 0.51, False, True), (0.49, 0.51, False, False),
    (0.49, 0.0, True, False), (0.51, 0.0, True, True),
])  # fmt: skip
def test_scores_that_show_legs(knee, ankle, said, legs):
    scores = np.zeros(coco.COUNT)
    scores[coco.KNEES], scores[coco.ANKLES] = knee, ankle
    assert _shows_legs(scores, said) == legs


@pytest.mark.parametrize(("knees", "doubts"), [(0.29, 1), (0.31, 0)])
def test_a_whole_figure_without_knees_is_doubted(knees, doubts):
    tracker = Told(stands())
    tracker.crop = DiscDetector.whole
    detection = answer(PERSON, knees=knees)
    tracker._review(FRAME, detection, tracker.crop.locate(PERSON, detection.scores[0]))
    assert tracker._doubts == doubts


def test_doubts_are_looked_into_after_four_frames_then_rarely():
    """At frame 4, and, as the other crop is never better, after 8, 16, 32 and 64 more, and 64 again."""
    tracker = Told(lambda crop, view: Detection.nobody())
    tracker.crop = DiscDetector.whole
    detection = answer(PERSON, knees=0.0)
    view, looked = tracker.crop.locate(PERSON, detection.scores[0]), []
    for frame in range(1, 260):
        before = tracker.passes
        tracker._review(FRAME, detection, view)
        if tracker.passes > before:
            looked.append(frame)
    assert looked == [4, 12, 28, 60, 124, 188, 252]


def squashes(size, hips=0.8, knees=0.0):
    """A person whose legs are hidden, `size` times as large in the crop for half figures as in that for whole ones."""

    def see(crop, view):
        whole = crop == DiscDetector.whole
        seen = answer(PERSON if whole else person_at(PERSON[0], 9 * size), knees=knees)
        seen.scores[:, coco.HIPS] = hips
        return seen

    return see


SQUASHED = [(0.69, 0.8, True), (0.71, 0.8, False), (0.5, 0.59, False), (0.5, 0.61, True)]


@pytest.mark.parametrize("said", [0.0, 0.5])  # what a search says of knees: nothing; that they may be there
@pytest.mark.parametrize(("size", "hips", "whole"), SQUASHED)
def test_a_search_is_not_deceived_by_a_crop_that_squashes(size, hips, whole, said):
    tracker = Told(squashes(size, hips))
    found, view = tracker._try(FRAME, PERSON, answer(PERSON, knees=said).scores[0], anew=True)
    assert (tracker.crop == DiscDetector.whole) == whole
    np.testing.assert_allclose(found.keypoints[0], PERSON if whole else person_at(PERSON[0], 9 * size), atol=1e-3)
    assert view.scale == pytest.approx(tracker.crop.unit / 9 / (1 if whole else size), rel=0.02)


@pytest.mark.parametrize(("size", "hips", "whole"), SQUASHED)
def test_a_review_is_not_deceived_by_a_crop_that_squashes(size, hips, whole):
    see = squashes(size, hips)
    tracker = Told(see)
    tracker.crop = DiscDetector.whole
    detection = see(tracker.crop, None)
    view = tracker.crop.locate(PERSON, detection.scores[0])
    for _ in range(4):
        tracker._review(FRAME, detection, view)
    assert (tracker.crop == DiscDetector.whole) == whole


@pytest.mark.parametrize(("seen_from", "whole"), [(1.09, True), (1.11, False)])
def test_who_is_missed_in_the_whole_crop_is_looked_at_in_a_wider_one(seen_from, whole):
    see, right = squashes(0.5), DiscDetector.whole.locate(PERSON, np.ones(coco.COUNT)).scale

    def misses(crop, view):
        narrow = crop == DiscDetector.whole and right / view.scale < seen_from
        return Detection.nobody() if narrow and not tracker.found else see(crop, view)

    tracker = Told(misses)
    tracker.found = False

    def look(crop, view):
        found = misses(crop, view)
        tracker.found |= crop == DiscDetector.whole and len(found) > 0
        return found

    tracker.see = look
    tracker._try(FRAME, PERSON, answer(PERSON).scores[0], anew=True)
    assert (tracker.crop == DiscDetector.whole) == whole


def test_who_is_cut_above_the_knees_is_not_looked_at_in_the_crop_for_whole_figures():
    frame = FRAME[:200]  # 80 pixels below the nose; the knees would be at 160
    tracker = Told(squashes(1.0))
    crops = []
    tracker.see = lambda crop, view, see=tracker.see: crops.append(crop) or see(crop, view)
    tracker._try(frame, PERSON, answer(PERSON).scores[0], anew=True)
    assert set(crops) == {DiscDetector.half}


@pytest.mark.parametrize(("shift", "looks"), [(0.095, 1), (0.105, 3)])
def test_looks_at_a_frame(shift, looks):
    tracker = followed(creeps(shift))
    tracker.follow(FRAME)
    assert tracker.passes == looks


@pytest.mark.parametrize(("shift", "looks"), [(0.019, 1), (0.021, 6)])
@pytest.mark.parametrize("haste", [False, True])
def test_looks_of_a_search(shift, looks, haste):
    tracker = Told(creeps(shift), haste=haste)
    tracker._hurried = haste
    tracker._approach(FRAME, PERSON, answer(PERSON).scores[0])
    assert tracker.passes == (1 if haste else looks)


@pytest.mark.parametrize(("shift", "moves"), [(0.029, False), (0.031, True)])
def test_motion_that_is_expected_to_go_on(shift, moves):
    tracker = followed(stands(moved(shift)))
    tracker.follow(FRAME)
    there = CROP.locate(moved(shift), np.ones(coco.COUNT))
    tracker.follow(FRAME)
    assert CROP.distance(there, tracker.views[-1]) == pytest.approx(shift if moves else 0, abs=1e-3)


def test_motion_is_not_confirmed_by_the_view_that_it_proposed():
    """Who is seen through the expected view alone, because a second look loses him, does not carry it further."""
    tracker = followed(stands(moved(0.05)))
    tracker.follow(FRAME)  # sees a motion
    there = tracker._view
    for _ in range(5):
        # A look that is good, but whose keypoints lead to a view in which nobody is seen.
        answers = [answer(moved(0.5))]
        tracker.see = lambda crop, view, answers=answers: answers.pop() if answers else Detection.nobody()
        assert len(tracker.follow(FRAME))
    assert CROP.distance(there, tracker._view) <= 0.051  # the first time it was expected to go on


@pytest.mark.parametrize(("shift", "leaps"), [(0.095, False), (0.105, True)])
def test_who_leaps_and_wears_other_colours_is_another(shift, leaps, monkeypatch):
    tracker = followed(stands(moved(shift)))
    monkeypatch.setattr(tracker, "_wears_other", lambda *_: True)
    assert len(tracker.follow(FRAME)) == (not leaps)


@pytest.mark.parametrize(("score", "known"), [(0.29, False), (0.31, True)])
def test_scores_of_keypoints_that_tell_what_somebody_wears(score, known):
    tracker = Told(stands(score=score, knees=score))
    tracker.approach(FRAME, PERSON, answer(PERSON).scores[0])
    assert (tracker._colours is not None) == known


@pytest.mark.parametrize(("gap", "taken"), [(30, False), (31, True)])
def test_who_is_lost_is_waited_for(gap, taken):
    """Before anybody who does not fit is taken, and before the colours are learnt anew."""
    tracker = followed(stands())
    last = SimpleNamespace(gap=gap, fits=lambda *_: False)
    proposed = iter([("", [(0.8, 0, PERSON, answer(PERSON).scores[0])])])
    found, _ = tracker._search(FRAME, proposed, last)
    assert len(found) == taken

    tracker._last, red = last, FRAME + np.uint8((255, 0, 0))
    before = tracker._colours.copy()
    tracker._learn(red, answer(PERSON))
    assert (tracker._colours != before).any() == taken


@pytest.mark.parametrize(("gap", "near"), [(30, True), (31, False)])
def test_in_haste_every_other_look_is_near_for_so_long(gap, near):
    tracker = Told(stands(), haste=True)
    tracker.detector.detect = lambda picture: Detection.nobody()
    last = SimpleNamespace(gap=gap, keypoints=PERSON)
    tracker._new = False
    list(tracker._one_by_one(FRAME, last))
    assert (square_around(PERSON, 2.0, FRAME.shape[:2]) in tracker.squares) == near


def test_a_square_twice_as_large_is_searched_first():
    tracker = Told(stands())
    tracker.detector.detect = lambda picture: Detection.nobody()
    next(tracker._proposals(FRAME, SimpleNamespace(keypoints=PERSON), None))
    assert tracker.squares == [square_around(PERSON, 2.0, FRAME.shape[:2])]


def test_two_squares_of_a_frame_are_searched_in_turn():
    tracker = Told(stands())
    tracker.detector.detect = lambda picture: Detection.nobody()
    tracker._new = False
    every = squares(*FRAME.shape[:2])[1:]
    for _ in range(3):
        list(tracker._proposals(FRAME, SimpleNamespace(keypoints=PERSON), tracker._parts()))
    seen = [one for one in tracker.squares if one in every]
    assert seen == list(itertools.islice(itertools.cycle(every), 6))


def test_six_people_of_a_picture_are_tried():
    tracker = Told(stands())
    tracker.detector.detect = lambda picture: Detection.nobody()
    many = [(0.8, 0, PERSON, np.ones(coco.COUNT))] * 10
    tracker._people = lambda *square: many
    *_, (_, tried) = tracker._proposals(FRAME, None, None)
    assert len(tried) == 6


@pytest.mark.parametrize(("size", "tried"), [(1.29, 0), (1.31, 1)])
def test_who_is_so_much_larger_is_tried_first(size, tried):
    tracker = Told(stands())
    tracker.detector.detect_people = None  # there is such a look
    tracker._people = lambda *square: [(0.8, 0, size * PERSON, np.ones(coco.COUNT))]
    assert len(tracker._larger(FRAME, [(0.8, 0, PERSON, np.ones(coco.COUNT))])) == tried


@pytest.mark.parametrize(("quality", "sure"), [(0.59, False), (0.61, True)])
def test_who_was_seen_so_well_is_followed_though_a_second_look_loses_him(quality, sure):
    """In the crop for whole figures; the first look is good, and those from there see nobody."""
    answers = [answer(PERSON, score=quality, knees=quality)]
    tracker = Told(lambda crop, view: answers.pop() if answers else Detection.nobody())
    tracker.crop = DiscDetector.whole
    tracker._view = tracker.crop.locate(moved(0.5), np.ones(coco.COUNT))
    tracker._shape = FRAME.shape
    assert len(tracker._follow(FRAME)) == sure


@pytest.mark.parametrize(("size", "sides"), [
    ((400, 600), {600, 400, 240}),  # the whole, and squares of the shorter side and of 0.6 of it
    ((119, 100), {119, 60}), ((121, 100), {121, 100, 60}),  # of what is hardly longer than wide, the whole is enough
])  # fmt: skip
def test_squares_of_a_picture(size, sides):
    assert {side for *_, side in squares(*size)} == sides


@pytest.mark.parametrize(("side", "shown"), [(1000, 1000), (1024, 1024), (1100, 1024), (2048, 1024)])
def test_large_pictures_are_turned_small(side, shown):
    turned, view = rolled(np.zeros((side, side // 2, 3), np.uint8), 90)
    assert turned.shape == (shown // 2, shown, 3)
    assert view.scale == pytest.approx(shown / side)
