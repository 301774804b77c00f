"""Frames that no detector looks at: predicted from how people moved; and a detector in a thread of its own."""

import dataclasses
import functools
import gc
import threading

import numpy as np
import pytest
from discs import DiscDetector, draw, person_at

import tpc_fast
from tpc_fast.calibration import predict
from tpc_fast.calibration.asynchronous import Watcher
from tpc_fast.calibration.predict import Predictor, motion, moved_masks, moved_points
from tpc_fast.ops.procrustes import Similarity
from tpc_fast.ops.track_stream import TrackEstimator
from tpc_fast.pose import Detection

FPS = 30
PHOTO = person_at((256, 80), 12)
PATIENCE = 120  # seconds until a thread that should answer is given up


def similarity_at(t: float) -> Similarity:
    """Walking to the camera, swaying: what brings the photo onto the frame at `t` seconds."""
    angle, scale = 0.15 * np.sin(2 * t), 0.7 * np.exp(0.25 * t)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = PHOTO.mean(0)
    return Similarity(scale, rotation, middle + (60 * np.sin(1.5 * t), 10 * t) - scale * rotation @ middle)


@functools.cache
def detection_at(t: float) -> Detection:
    points = similarity_at(t).apply(PHOTO)
    mask = np.where(draw(points, (512, 512))[..., 0] > 0, np.uint8(255), np.uint8(0))
    return Detection(points[None].astype(np.float32), np.ones((1, 17), np.float32), mask[None])


class Known:
    """A detector that knows where everybody is: the frame's first pixel is its number."""

    name, version, device = "known", "1", "cpu"

    def __init__(self):
        self.looked: list[int] = []

    def detect(self, image):
        number = int(image[0, 0, 0])
        self.looked.append(number)
        return detection_at(number / FPS)

    def close(self):
        pass


def frame(number: int) -> np.ndarray:
    return np.full((512, 512, 3), number, np.uint8)


def calibrator(detector, **options):
    points = PHOTO[None].astype(np.float32)
    photo, mask = draw(PHOTO, (512, 512)), np.full((512, 512), 255, np.uint8)
    return tpc_fast.Calibrator(photo, reference_keypoints=points[0], reference_mask=mask, detector=detector, **options)


def errors(every: int, count=60, **options) -> np.ndarray:
    """How far the torso's middle and scale are off in each frame, in pixels."""
    torso, found = PHOTO[[5, 6, 11, 12]], []
    with calibrator(Known(), detect_every=every, **options) as stream:
        for i in range(count):
            out = stream.step(frame(i))
            placed = torso @ out.matrix[0, :, :2].T + out.matrix[0, :, 2]
            found.append(np.hypot(*(placed - similarity_at(i / FPS).apply(torso)).T).max())
    return np.array(found)


# --- every so many frames ---


def test_the_detector_looks_at_every_nth_frame():
    detector = Known()
    with calibrator(detector, detect_every=3) as stream:
        outs = [stream.step(frame(i)) for i in range(10)]
        assert detector.looked == [0, 3, 6, 9]
        assert [round(out.seen * FPS) for out in outs] == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9]
        assert [round(out.time * FPS) for out in outs] == list(range(10))
        assert {str(out.status[0]) for out in outs} == {"tracked"}
        stream.reset()
        stream.step(frame(50))
        assert detector.looked[-1] == 50


@pytest.mark.parametrize("every", [2, 3])
def test_prediction_is_about_as_good_as_looking(every, monkeypatch):
    """Of what is lost if everybody stays where the last look saw them, prediction brings back more than half."""
    looked, predicted = errors(1)[15:], errors(every)[15:]
    monkeypatch.setattr(Predictor, "_velocity", lambda self: 0.0)
    frozen = errors(every)[15:]
    assert predicted.mean() - looked.mean() < (frozen.mean() - looked.mean()) / 2
    assert predicted.max() - looked.max() < (frozen.max() - looked.max()) / 2
    assert frozen.max() > looked.max() + 1.0  # pixels


def test_keypoints_and_masks_move_along():
    with calibrator(Known(), detect_every=3) as stream:
        for i in range(30):
            out = stream.step(frame(i))
            truth = detection_at(i / FPS)
            if i > 15:
                assert np.abs(out.keypoints - truth.keypoints).max() < 4
                seen, there = out.pose_mask[0] >= 128, truth.mask[0] >= 128
                assert (seen & there).sum() > 0.9 * (seen | there).sum()


def test_each_frame_by_itself_is_predicted_too():
    assert errors(2, smooth="none")[15:].max() < 1.5


def test_a_given_detection_is_taken_and_counts_as_a_look():
    detector = Known()
    with calibrator(detector, detect_every=4) as stream:
        stream.step(frame(0))
        out = stream.step(frame(1), detection=detection_at(1 / FPS))
        assert out.seen == out.time
        for i in range(2, 6):
            stream.step(frame(i))
        assert detector.looked == [0, 5]


def test_without_prediction_nothing_changes():
    detections = [detection_at(i / FPS) for i in range(12)]
    with calibrator(None) as plain, calibrator(None, detect_every=5) as paced:
        for i, detection in enumerate(detections):
            a, b = (stream.step(frame(i), detection=detection) for stream in (plain, paced))
            for name in ("image", "mask", "matrix", "keypoints", "status", "opacity", "pose_mask", "time", "seen"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_who_was_lost_at_the_last_look_stays_lost():
    class Leaving(Known):
        def detect(self, image):
            found = super().detect(image)
            return found if image[0, 0, 0] < 10 else Detection.nobody()

    with calibrator(Leaving(), detect_every=5, hold_seconds=0.3, fade_seconds=0.2) as stream:
        outs = [stream.step(frame(i)) for i in range(40)]
    assert outs[9].status[0] == "tracked"
    assert outs[12].status[0] == "held"
    assert outs[39].status[0] == "lost"
    assert outs[39].opacity[0] == 0
    np.testing.assert_array_equal(outs[39].matrix, outs[36].matrix)


def test_who_was_not_looked_at_for_long_is_lost():
    with calibrator(Known(), detect_every=1000, hold_seconds=0.3, fade_seconds=0.2) as stream:
        outs = [stream.step(frame(i)) for i in range(20)]
    assert [str(out.status[0]) for out in outs] == ["tracked"] * 10 + ["lost"] * 10
    assert outs[9].opacity[0] == 1
    assert outs[-1].opacity[0] == 0


def test_options_are_checked():
    for wrong in (0, -1, True, 1.5, "2", 1001):
        with pytest.raises(ValueError, match="detect_every must be an integer from 1"):
            calibrator(Known(), detect_every=wrong)
    with pytest.raises(TypeError, match="asynchronous must be True or False"):
        calibrator(Known(), asynchronous=1)
    for options in (dict(detect_every=2), dict(asynchronous=True)):
        with pytest.raises(ValueError, match="lag must be 0 where frames are predicted"):
            calibrator(Known(), lag=3, **options)


def test_a_whole_video_does_not_take_them():
    for name, value in (("detect_every", 2), ("asynchronous", True)):
        with pytest.raises(TypeError, match=f"{name} is an option of Calibrator, not of calibrate"):
            tpc_fast.calibrate(frame(0), frame(0)[None], **{name: value})


@pytest.mark.parametrize("options", [dict(detect_every=2), dict(asynchronous=True)], ids=str)
def test_frames_and_times_are_checked(options):
    with calibrator(Known(), **options) as stream:
        stream.step(frame(0), time=1.0)
        with pytest.raises(ValueError, match=r"time must increase, but is 1\.0"):
            stream.step(frame(1), time=1.0)
        with pytest.raises(ValueError, match="time must be finite"):
            stream.step(frame(1), time=np.nan)
        with pytest.raises(ValueError, match="frame must have the size of the first"):
            stream.step(frame(1)[:100])


# --- the predictor by itself ---


def estimates(count=20, step=1 / FPS):
    estimator = TrackEstimator(PHOTO[None])
    for i in range(count):
        yield estimator.step(similarity_at(i * step).apply(PHOTO)[None], None, i * step)


def test_velocity_is_a_line_through_the_last_looks():
    """Against numpy.polyfit."""
    predictor = Predictor(PHOTO.mean(0)[None], 1.0)
    states = []
    for estimate in estimates():
        predictor.observe(estimate)
        states.append((estimate.time, *predictor._state(estimate.matrix)[0]))
    states = np.array(states)
    last = states[states[:, 0] > states[-1, 0] - predict.MEMORY]
    slope = np.polyfit(last[:, 0], last[:, 1:], 1)[0]
    np.testing.assert_allclose(predictor._velocity()[0], slope, rtol=1e-9, atol=1e-9)
    at = predictor._state(predictor.at(states[-1, 0] + 0.1).matrix)[0]
    np.testing.assert_allclose(at, states[-1, 1:] + 0.1 * slope, atol=1e-9)


def test_a_velocity_is_believed_for_a_while():
    predictor = Predictor(PHOTO.mean(0)[None], 9.0)
    for estimate in estimates():
        predictor.observe(estimate)
    end = estimate.time + predict.REACH
    np.testing.assert_array_equal(predictor.at(end + 1).matrix, predictor.at(end + 2).matrix)
    assert np.abs(predictor.at(end).matrix - predictor.at(end - 0.1).matrix).max() > 0.1
    np.testing.assert_allclose(predictor.at(end + 1).matrix, predictor.at(end).matrix, atol=1e-9)
    assert predictor.at(estimate.time) is estimate
    assert predict.REACH == predict.MEMORY


def test_who_jumps_has_no_velocity_yet():
    predictor = Predictor(PHOTO.mean(0)[None], 1.0)
    rows = list(estimates(10))
    for row in rows[:9]:
        predictor.observe(row)
    elsewhere = rows[9].matrix + [[[0, 0, 200.0], [0, 0, 0]]]
    predictor.observe(dataclasses.replace(rows[9], matrix=elsewhere, breaks=np.ones(1, bool)))
    assert not predictor._velocity().any()


def test_angles_go_on_through_half_a_turn():
    predictor = Predictor(np.zeros((1, 2)), 1.0)
    row = next(estimates(1))
    for i in range(5):
        angle = np.pi - 0.25 + 0.1 * i
        matrix = np.array([[[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]]])
        predictor.observe(dataclasses.replace(row, matrix=matrix, time=i / FPS, breaks=np.zeros(1, bool)))
    np.testing.assert_allclose(predictor._velocity()[0, 1], 0.1 * FPS)


def test_moves():
    before, after = similarity_at(0.2).matrix[None], similarity_at(0.5).matrix[None]
    moves = motion(before, after)
    points = similarity_at(0.2).apply(PHOTO)[None]
    np.testing.assert_allclose(moved_points(points, moves)[0], similarity_at(0.5).apply(PHOTO), atol=1e-9)
    masks = np.stack([detection_at(0.2).mask[0]] * 2)
    still = np.concatenate([moves, np.eye(2, 3)[None]])
    moved = moved_masks(masks, still)
    np.testing.assert_array_equal(moved[1], masks[1])
    there = detection_at(0.5).mask[0] >= 128
    assert ((moved[0] >= 128) & there).sum() > 0.9 * ((moved[0] >= 128) | there).sum()


# --- a thread of its own ---


class Slow(Known):
    """Looks only when it is let."""

    def __init__(self):
        super().__init__()
        self.begun, self.let = threading.Semaphore(0), threading.Semaphore(0)

    def detect(self, image):
        self.begun.release()
        assert self.let.acquire(timeout=PATIENCE)
        if image[0, 0, 0] == 77:
            raise ZeroDivisionError("a cable")
        return super().detect(image)


def test_a_step_never_waits_and_the_newest_frame_wins():
    detector, before = Slow(), threading.enumerate()
    with calibrator(detector, asynchronous=True) as stream:
        first = stream.step(frame(0))
        assert first.status.tolist() == ["lost"]
        assert np.isnan(first.seen)
        assert first.opacity[0] == 0
        assert not first.pose_mask.any()
        assert np.isnan(first.keypoints).all()
        assert detector.begun.acquire(timeout=PATIENCE)  # it looks at the first frame, and is not done
        outs = [stream.step(frame(i)) for i in range(1, 6)]
        assert detector.looked == []
        assert all(np.isnan(out.seen) for out in outs)
        detector.let.release()  # done with the first; now the newest of the others
        assert detector.begun.acquire(timeout=PATIENCE)
        assert detector.looked == [0]
        out = stream.step(frame(6))
        assert out.seen == 0
        assert out.status.tolist() == ["tracked"]
        assert out.opacity[0] == 1
        detector.let.release()
        assert detector.begun.acquire(timeout=PATIENCE)  # it has begun with 6
        assert detector.looked == [0, 5]
        out = stream.step(frame(7))
        assert out.seen == pytest.approx(5 / FPS)
        # Predicted from frames 0 and 5 to frame 7.
        torso = PHOTO[[5, 6, 11, 12]]
        placed = torso @ out.matrix[0, :, :2].T + out.matrix[0, :, 2]
        assert np.hypot(*(placed - similarity_at(7 / FPS).apply(torso)).T).max() < 3
        detector.let.release()
        detector.let.release()
    assert not [t for t in threading.enumerate() if t.name.startswith("tpc_fast") and t not in before]


def test_frames_may_be_overwritten_by_the_camera():
    detector, buffer = Slow(), frame(3)
    with calibrator(detector, asynchronous=True) as stream:
        stream.step(buffer)
        buffer[:] = 9
        detector.let.release()
        stream.reset()  # waits for the look
        assert detector.looked == [3]


def test_errors_come_with_the_next_step_and_the_stream_goes_on():
    detector = Slow()
    detector.let = threading.Semaphore(100)
    with calibrator(detector, asynchronous=True) as stream:
        stream.step(frame(77), time=0.5)
        _wait(stream)
        told = r"failed on the frame at 0\.5 s: ZeroDivisionError\('a cable'\)"
        with pytest.raises(RuntimeError, match=told) as caught:
            stream.step(frame(1))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        stream.step(frame(2))
        _wait(stream)
        assert stream.step(frame(3)).status.tolist() == ["tracked"]


def _wait(stream):
    state = stream._pace._watcher._state
    with state.changed:
        assert state.changed.wait_for(lambda: not state.busy and state.waiting is None, PATIENCE)


def test_reset_forgets_what_is_under_way():
    detector = Slow()
    detector.let = threading.Semaphore(100)
    with calibrator(detector, asynchronous=True) as stream:
        stream.step(frame(0))
        _wait(stream)
        stream.reset()
        out = stream.step(frame(30)[:256, :256])  # another video, of another size, from time 0
        assert np.isnan(out.seen)
        assert out.time == 0
        _wait(stream)


def test_a_closed_one_says_so_and_closing_twice_does_no_harm():
    stream = calibrator(Known(), asynchronous=True)
    stream.step(frame(0))
    stream.close()
    stream.close()
    with pytest.raises(ValueError, match="the calibrator is closed"):
        stream.step(frame(1))


def test_the_thread_ends_with_who_used_it():
    watcher = Watcher(lambda image: Detection.nobody())
    watcher.submit(frame(0), 0.0)
    thread = watcher._thread
    del watcher
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_what_comes_after_a_newer_detection_is_dropped():
    detector = Slow()
    with calibrator(detector, asynchronous=True) as stream:
        stream.step(frame(0))
        assert detector.begun.acquire(timeout=PATIENCE)
        out = stream.step(frame(4), detection=detection_at(4 / FPS))
        detector.let.release()
        _wait(stream)
        assert stream.step(frame(5)).seen == out.seen == out.time
        detector.let.release()


def test_every_nth_frame_goes_to_the_thread():
    detector = Slow()
    detector.let = threading.Semaphore(100)
    with calibrator(detector, asynchronous=True, detect_every=3) as stream:
        for i in range(7):
            stream.step(frame(i))
            _wait(stream)
        assert detector.looked == [0, 3, 6]


def test_the_embedded_tracker_works_in_the_thread():
    """With a detector of one person, through `PersonTracker`."""
    with calibrator(DiscDetector(), asynchronous=True) as stream:
        for i in range(3):
            stream.step(draw(PHOTO, (512, 512)), time=float(i))
            _wait(stream)
        out = stream.step(draw(PHOTO, (512, 512)), time=3.0)
        assert out.seen == 2.0
        np.testing.assert_allclose(out.keypoints[0, :13], PHOTO[:13], atol=2)
