"""A stream's tracker spreads its searches over frames: how many looks a frame takes, and that nobody is missed."""

import numpy as np
import pytest
from discs import DiscDetector, draw, person_at

from tpc_fast.calibration.observer import Observer
from tpc_fast.pose import Detection, PersonTracker
from tpc_fast.pose.detect.parts import squares
from tpc_fast.pose.detect.whole_picture import get_tracker

EMPTY = np.zeros((480, 640, 3), np.uint8)


class Shortsighted(DiscDetector):
    """Sees only who takes a quarter of the picture's height."""

    def detect(self, image):
        found = super().detect(image)
        body = image[..., 0].max(1) >= 30
        return found if body.sum() > 0.25 * len(image) else Detection.nobody()


class Upright(DiscDetector):
    """Sees who stands upright, within 45 degrees."""

    def detect(self, image):
        found = super().detect(image)
        if not len(found):
            return found
        nose, hips = found.keypoints[0, 0], found.keypoints[0, 11:13].mean(0)
        down = hips - nose
        return found if down[1] > abs(down[0]) else Detection.nobody()


def test_an_empty_frame_takes_two_looks():
    tracker = PersonTracker(DiscDetector(), haste=True)
    for _ in range(20):  # the first frame too
        assert len(tracker.step(EMPTY)) == 0
        assert tracker.passes == 2


def test_a_frame_without_the_person_takes_two_looks_more():
    tracker = PersonTracker(DiscDetector(), haste=True)
    assert len(tracker.step(draw(person_at((300, 100), 12)))) == 1
    passes = []
    for _ in range(40):
        assert len(tracker.step(EMPTY)) == 0
        passes.append(tracker.passes)
    assert passes == [3] + [2] * 39


def test_a_first_frame_is_found_in_few_looks_and_as_well():
    truth = person_at((300, 100), 12)
    hasty, slow = PersonTracker(DiscDetector(), haste=True), PersonTracker(DiscDetector())
    for tracker in (hasty, slow):
        np.testing.assert_allclose(tracker.step(draw(truth)).keypoints[0], truth, atol=1.6)
    assert hasty.passes <= 4 < slow.passes


def test_a_photo_is_looked_at_as_without_haste():
    picture = draw(person_at((320, 150), 10, 100))
    hasty, slow = PersonTracker(DiscDetector(), haste=True), PersonTracker(DiscDetector())
    hasty.step(picture)
    np.testing.assert_array_equal(hasty.find(picture).keypoints, slow.find(picture).keypoints)
    assert hasty.passes == slow.passes


def test_who_comes_in_upright_is_found_at_once():
    tracker = PersonTracker(DiscDetector(), haste=True)
    for _ in range(7):
        tracker.step(EMPTY)
    assert len(tracker.step(draw(person_at((400, 80), 11)))) == 1


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_who_is_turned_is_found_when_the_roll_has_its_turn(degrees):
    tracker = PersonTracker(Upright(), haste=True)
    truth = person_at((320, 240), 10, degrees)
    truth += (319.5, 239.5) - truth.mean(0)
    ways = 3 + len(squares(480, 640)) - 1
    seen = [len(tracker.step(draw(truth))) for _ in range(ways)]
    assert any(seen)
    assert all(seen[seen.index(1) :])  # and is followed from then on


def test_who_is_seen_badly_in_a_first_frame_is_seen_in_every_roll():
    class Doubtful(DiscDetector):
        def detect(self, image):
            found = super().detect(image)
            return Detection(found.keypoints, found.scores * np.float32(0.5), found.mask)

    tracker = PersonTracker(Doubtful(), haste=True)
    tracker.step(draw(person_at((300, 100), 12)))
    assert tracker.detector.detected == 4


def test_who_is_small_is_found_when_the_square_has_its_turn():
    picture = draw(person_at((500, 700), 7), (1080, 1080))
    tracker = PersonTracker(Shortsighted(), haste=True)
    seen = [len(tracker.step(picture)) for _ in range(3 + len(squares(1080, 1080)) - 1)]
    assert seen[-1] == 1


def test_who_was_lost_is_looked_for_near_by_every_other_frame():
    """Small, so that the whole picture does not show it: back within two frames, whatever square has its turn."""
    picture = draw(person_at((700, 700), 7), (1080, 1080))
    tracker = PersonTracker(Shortsighted(), haste=True)
    while not len(tracker.step(picture)):
        pass
    wait = []
    for gone in range(1, 9):
        for _ in range(gone):
            assert len(tracker.step(np.zeros_like(picture))) == 0
        wait.append(next(i for i in range(20) if len(tracker.step(picture))))
    assert max(wait) <= 1


def test_streams_are_in_haste_and_videos_are_not(monkeypatch):
    from tpc_fast.calibration import stream, video

    made = []
    for module in (stream, video):
        monkeypatch.setattr(
            module, "Session", lambda *args, **options: made.append(options.get("haste", False)) or 1 / 0
        )
    with pytest.raises(ZeroDivisionError):
        stream.Calibrator(EMPTY)
    with pytest.raises(ZeroDivisionError):
        video.calibrate(EMPTY, EMPTY[None])
    assert made == [True, False]
    assert get_tracker(DiscDetector(), haste=True).haste
    assert Observer(DiscDetector(), None, 0.3, haste=True).get_tracker().haste
    assert not Observer(DiscDetector(), None, 0.3).get_tracker().haste
