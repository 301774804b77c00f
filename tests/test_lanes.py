"""A video looked at in several places at once: what frame after frame would see, in order, whatever the timing."""

import os
import random
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from discs import DiscDetector, draw, person_at
from hypothesis import given
from hypothesis import strategies as st

from tpc_fast.media.picture_difference import AROUND_FRAMES
from tpc_fast.pose import PersonTracker
from tpc_fast.pose.detect.lanes import CHUNK, LEAST, LEAST_LANES, MAX_LANES, MEMORY, WARM_UP, plan, steps
from tpc_fast.pose.detect.one_person import SAME_PLACE


def walk(count, speed=3.0):
    """(truths, frames) of a person who walks to the right and leans a little."""
    truths = [person_at((150 + speed * i, 120 + 2 * np.sin(i)), 12, 3 * np.sin(0.3 * i)) for i in range(count)]
    return truths, [SimpleNamespace(image=draw(truth)) for truth in truths]


def follow(frames, count=3, chunk=5, detector=DiscDetector, **options):
    """Detections of all frames, the first one looked at alone; the tracker, and the detectors of the lanes."""
    tracker, made = PersonTracker(detector()), {}
    first = tracker.step(frames[0].image)
    tracker.detector.looked = 0

    def copies(lane):
        return made.setdefault(lane, detector())

    found = list(steps(tracker, frames[1:], count, copies, chunk, **options))
    assert [frame for frame, _ in found] == frames[1:]
    return [first, *(detection for _, detection in found)], tracker, made


def one_by_one(frames):
    tracker = PersonTracker(DiscDetector())
    return [tracker.step(frame.image) for frame in frames], tracker


def points(detections):
    return np.stack([d.keypoints[0] if len(d) else np.full((17, 2), np.nan) for d in detections])


def no_lane_left():
    return not [thread for thread in threading.enumerate() if thread.name.startswith("tpc_fast.lane")]


@pytest.mark.parametrize(
    ("count", "chunk", "frames"), [(2, 5, 41), (3, 5, 38), (4, 3, 20), (3, 7, 9), (2, 5, 2), (3, 4, 1)]
)
def test_it_sees_what_frame_after_frame_sees(count, chunk, frames):
    truths, frames = walk(frames)
    found, tracker, made = follow(frames, count, chunk)
    # 1.6: of the discs, as in every test of this tracker.
    np.testing.assert_allclose(points(found), truths, atol=1.6)
    expected, alone = one_by_one(frames)
    # SAME_PLACE of a crop, which is 256 / 6.4 eye distances wide, of 12 pixels each; and a pixel of the discs' own.
    np.testing.assert_allclose(points(found), points(expected), atol=SAME_PLACE * 256 / 6.4 * 12 + 1)
    crop, view = alone.place
    assert tracker.place[0] == crop
    assert crop.distance(tracker.place[1], view) <= 5 * SAME_PLACE
    seams = -(-len(frames) // chunk)
    assert tracker.detector.looked <= 6 * seams  # the rest was done in lanes
    assert len(made) == min(count, -(-(len(frames) - 1) // chunk))


def test_the_first_chunk_is_the_same():
    _, frames = walk(30)
    found, _, _ = follow(frames, 3, 7)
    expected, _ = one_by_one(frames)
    np.testing.assert_array_equal(points(found[:8]), points(expected[:8]))


def test_where_lanes_begin(monkeypatch):
    """Some frames before their chunk, and what they know is that much older; cuts are judged by the frames before."""
    begun, ahead = [], PersonTracker.ahead
    monkeypatch.setattr(PersonTracker, "ahead", lambda *arguments: begun.append(arguments[1:]) or ahead(*arguments))
    _, frames = walk(29)
    _, tracker, _ = follow(frames, 3, 7)
    assert [skipped for skipped, _ in begun] == [0, 7 - WARM_UP, 14 - WARM_UP, 14 - WARM_UP]
    for chunk, (_, before) in enumerate(begun[1:], 1):
        assert before[-1] is frames[7 * chunk - WARM_UP].image  # the first frame was looked at alone
        assert len(before) == min(7 * chunk - WARM_UP, AROUND_FRAMES + 1)
    assert tracker.detector.looked == 0  # after that they agreed at once


def test_timing_changes_nothing():
    class Unsteady(DiscDetector):
        def detect_upright(self, image):
            time.sleep(random.random() * 0.004)
            return super().detect_upright(image)

    _, frames = walk(32)
    one, *_ = follow(frames)
    for _ in range(3):
        other, *_ = follow(frames, detector=Unsteady)
        np.testing.assert_array_equal(points(one), points(other))


def test_somebody_who_comes_to_the_same_place_is_not_followed():
    """Who is followed runs away; when a lane looks for him where he was, another one stands there."""
    frames, truths = [], []
    for i in range(24):
        truth = person_at((120 + min(40 * i, 360), 140), 8)
        image = draw(truth)
        if i >= 9:
            other = draw(person_at((120, 140), 8))
            image[:, :250] = other[:, :250]
        frames.append(SimpleNamespace(image=image))
        truths.append(truth)
    found, *_ = follow(frames, 3, 5)
    np.testing.assert_allclose(points(found), truths, atol=1.6)


def test_who_leaves_and_comes_back():
    truths, frames = walk(40)
    for i in range(13, 22):
        frames[i] = SimpleNamespace(image=np.zeros_like(frames[0].image))
    found, _, made = follow(frames, 3, 5)
    # Who is lost is searched for once in each lane, and then frame after frame by one.
    alone = one_by_one(frames)[1].detector
    assert sum(one.detected for one in made.values()) <= 0.8 * alone.detected
    assert [len(d) for d in found] == [0 if 13 <= i < 22 else 1 for i in range(40)]
    seen = [i for i in range(40) if len(found[i])]
    np.testing.assert_allclose(points(found)[seen], np.array(truths)[seen], atol=1.6)


def test_lanes_that_look_in_vain_are_not_asked_for_a_while(monkeypatch):
    """In every frame the person is elsewhere: nobody knows where from the frames before."""
    generator = np.random.default_rng(0)
    frames = [
        SimpleNamespace(image=draw(person_at((generator.uniform(150, 500), generator.uniform(100, 220)), 8)))
        for _ in range(51)
    ]

    class Blind(DiscDetector):
        """Sees nobody: what it says never counts."""

        def detect_upright(self, image):
            return super().detect_upright(np.zeros_like(image))

        def detect(self, image):
            return super().detect(np.zeros_like(image))

    begun, ahead = [], PersonTracker.ahead
    monkeypatch.setattr(PersonTracker, "ahead", lambda *arguments: begun.append(arguments) or ahead(*arguments))
    tracker = PersonTracker(DiscDetector())
    tracker.step(frames[0].image)
    found = [d for _, d in steps(tracker, frames[1:], 2, lambda _: Blind(), 5)]
    expected, _ = one_by_one(frames)
    assert not len(found[0])  # the first chunk is believed: it began where frame after frame was
    np.testing.assert_array_equal([len(d) for d in found[1:]], [len(d) for d in expected[2:]])
    assert len(begun) <= 5  # of 10 chunks


@pytest.mark.parametrize("where", [0, 3, 8, 17])
def test_an_error_of_a_detector_reaches_the_caller(where):
    _, frames = walk(24)
    bad = frames[where + 1].image

    tracker = PersonTracker(DiscDetector())
    tracker.step(frames[0].image)
    step = PersonTracker.step

    def broken_step(self, image):
        if image is bad:
            raise RuntimeError("broken")
        return step(self, image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PersonTracker, "step", broken_step)
        with pytest.raises(RuntimeError, match="broken"):
            list(steps(tracker, frames[1:], 3, lambda _: DiscDetector(), 5))
    assert no_lane_left()


def test_an_error_of_the_copies_reaches_the_caller():
    _, frames = walk(12)
    tracker = PersonTracker(DiscDetector())

    def copies(lane):
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        list(steps(tracker, frames, 2, copies, 5))
    assert no_lane_left()


@pytest.mark.parametrize("good", [0, 3, 11])
def test_an_error_of_the_video_reaches_the_caller(good):
    _, frames = walk(12)

    def damaged():
        yield from frames[:good]
        raise ValueError("cut off")

    tracker = PersonTracker(DiscDetector())
    with pytest.raises(ValueError, match="cut off"):
        list(steps(tracker, damaged(), 2, lambda _: DiscDetector(), 4))
    assert no_lane_left()


def test_who_stops_early_leaves_no_thread():
    _, frames = walk(40)
    looked = steps(PersonTracker(DiscDetector()), frames, 3, lambda _: DiscDetector(), 5)
    for _ in range(7):
        next(looked)
    looked.close()
    assert no_lane_left()


def test_a_thread_may_go_on_when_the_main_thread_has_ended():
    script = """
import threading, time
from test_lanes import follow, walk

def look():
    time.sleep(0.2)  # by then the main thread waits for this one
    found, *_ = follow(walk(24)[1])
    print(len(found))

threading.Thread(target=look).start()
"""
    paths = [str(Path(__file__).parent), *filter(None, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (run.returncode, run.stdout, run.stderr) == (0, "24\n", "")


def test_no_more_frames_wait_than_it_says():
    class Frame:
        def __init__(self, image):
            self.image = image

    _, images = walk(60)
    alive, most = weakref.WeakSet(), []

    def source():
        for one in images:
            frame = Frame(one.image)
            alive.add(frame)
            yield frame

    for frame, _ in steps(PersonTracker(DiscDetector()), source(), 3, lambda _: DiscDetector(), 5):
        most.append(len(alive))
        del frame
    assert max(most) <= 3 * 5 + WARM_UP + AROUND_FRAMES + 2  # those before the next chunk, and the one given out


def test_a_tracker_that_goes_ahead_knows_what_it_skips():
    truths, frames = walk(4)
    tracker = PersonTracker(DiscDetector())
    tracker.step(frames[0].image)
    ahead = tracker.ahead(3, [frame.image for frame in frames[:3]])
    assert tracker._last.gap == 1
    assert ahead._last.gap == 4
    ahead.step(frames[3].image)  # and the first tracker stays where it was
    assert tracker._last.gap == 1
    np.testing.assert_allclose(tracker.step(frames[1].image).keypoints[0], truths[1], atol=1.6)


def test_places_agree_up_to_a_limit():
    _, frames = walk(1)
    one, other = PersonTracker(DiscDetector()), PersonTracker(DiscDetector())
    assert not one.agrees(other.place)  # nobody is nowhere
    one.step(frames[0].image)
    for share, same in ((0.9, True), (1.1, False)):
        crop, view = one.place
        scaled = type(view)(view.scale * np.exp(share * SAME_PLACE), view.rotation, view.translation)
        nose = np.array([(crop.size - 1) / 2] * 2)
        moved = scaled.apply(view.inverse().apply(nose[None]))[0] - nose
        scaled = type(view)(scaled.scale, view.rotation, scaled.translation - moved)  # larger about the middle
        assert one.agrees((crop, scaled)) is same
        assert not one.agrees((DiscDetector.half, scaled))


@given(st.integers(1, 128), st.integers(1, 10**8), st.none() | st.integers(-3, 5000))
def test_plans(threads, frame_bytes, frames):
    count, chunk = plan(threads, frame_bytes, frames)
    assert count == 1 or LEAST_LANES <= count <= min(threads, MAX_LANES)
    assert chunk <= CHUNK
    if count > 1:
        assert count * chunk * (frame_bytes * 4 // 3) <= MEMORY
        assert chunk >= LEAST // 2
        if frames is not None:
            assert count * LEAST <= frames


def test_plans_by_example():
    assert plan(2, 512 * 512 * 3, 92)[0] == 1
    assert plan(4, 512 * 512 * 3, 92) == (4, 23)
    assert plan(3, 512 * 512 * 3, 200) == (3, 34)  # two rounds of equal chunks
    assert plan(8, 512 * 512 * 3, None) == (8, CHUNK)
    assert plan(64, 512 * 512 * 3, None) == (MAX_LANES, CHUNK)
    assert plan(3, 1080 * 1920 * 3, None) == (3, 16)
    assert plan(8, 1080 * 1920 * 3, None) == (4, LEAST)  # shorter chunks before fewer lanes
    assert plan(8, 2160 * 3840 * 3, 300)[0] == 1  # large frames are not kept waiting
    assert plan(8, 512 * 512 * 3, LEAST * 3 - 1)[0] == 1
    assert plan(8, 512 * 512 * 3, 0)[0] == plan(8, 1, -1)[0] == plan(1, 1, 1000)[0] == 1
