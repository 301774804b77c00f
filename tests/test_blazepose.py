"""The detector blazepose: decoding against loops as MediaPipe writes them, networks against MediaPipe itself."""

import math
import sys
import threading
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tpc_fast.pose import Detector, get_detector
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect import blazepose
from tpc_fast.pose.detect import blazepose_decoding as decoding

# --- decoding, without any network ---


def test_anchors():
    centres = decoding.anchors()
    assert centres.shape == (2254, 2)
    assert_allclose(centres[:2], 0.5 / 28)  # two at one place
    assert_allclose(centres[2], (1.5 / 28, 0.5 / 28))  # x first
    assert_allclose(centres[2 * 28 * 28], 0.5 / 14)
    assert_allclose(centres[-6:], 6.5 / 7)
    places, count = np.unique(centres, axis=0, return_counts=True)
    assert len(places) == 28**2 + 14**2 + 7**2
    assert sorted(set(count)) == [2, 6]


def outputs_for(centres, people):
    """Outputs of the search network that say: at anchor A a person with this box, points and logit."""
    raw, logits = np.zeros((len(centres), 12), np.float32), np.full(len(centres), -50, np.float32)
    for anchor, (middle, size, points, logit) in people.items():
        at = centres[anchor]
        raw[anchor] = 224 * np.concatenate([middle - at, size, (points - at).ravel()])
        logits[anchor] = logit
    return raw, logits


def test_boxes_are_found_again(rng):
    centres = decoding.anchors()
    people = {
        int(anchor): (rng.random(2), rng.uniform(0.1, 0.5, 2), rng.random((4, 2)), logit)
        for anchor, logit in zip(rng.choice(len(centres), 5, replace=False), (3, 0.01, 2000, -0.01, -3), strict=True)
    }
    boxes, points, scores = decoding.decode_boxes(*outputs_for(centres, people), centres)
    seen = [anchor for anchor in sorted(people) if people[anchor][3] > 0]
    assert len(boxes) == 3
    for i, anchor in enumerate(seen):
        middle, size, at, logit = people[anchor]
        assert_allclose(boxes[i], [*(middle - size / 2), *(middle + size / 2)], atol=1e-6)
        assert_allclose(points[i], at, atol=1e-6)
        assert_allclose(scores[i], 1 / (1 + math.exp(-min(logit, 100))), atol=1e-12)


def test_boxes_that_are_none(rng):
    centres = decoding.anchors()
    good = np.array([0.5, 0.5]), np.array([0.2, 0.2]), rng.random((4, 2)), 5
    raw, logits = outputs_for(centres, {7: good, 8: good, 9: good})
    raw[8, 2], raw[9, 0] = -1, np.nan
    assert len(decoding.decode_boxes(raw, logits, centres)[0]) == 1
    nobody = decoding.merge_boxes(*decoding.decode_boxes(raw, np.full_like(logits, -9), centres))
    assert nobody.points.shape == (0, 4, 2)
    assert nobody.scores.shape == (0,)


def naive_merge(boxes, points, scores):
    """WeightedNonMaxSuppression, as NonMaxSuppressionCalculator is written."""
    left, found = sorted(range(len(boxes)), key=lambda i: -scores[i]), []
    while left:
        first, heap, rest = left[0], [], []
        for i in left:
            (a, b, c, d), (e, f, g, h) = boxes[i], boxes[first]
            shared = max(min(c, g) - max(a, e), 0) * max(min(d, h) - max(b, f), 0)
            union = (c - a) * (d - b) + (g - e) * (h - f) - shared
            (heap if i == first or shared > 0.3 * union else rest).append(i)
        total = sum(scores[i] for i in heap)
        found.append((sum(scores[i] * points[i] for i in heap) / total, scores[first]))
        left = rest
    return found


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_merging_is_the_naive_loop(rng, count):
    corner = rng.uniform(0, 0.6, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.4, (count, 2))], -1)
    points, scores = rng.random((count, 4, 2)), rng.uniform(0.5, 1, count)
    people = decoding.merge_boxes(boxes, points, scores)
    twin = naive_merge(boxes, points, scores)
    assert len(people.scores) == len(twin)
    for p, (middle, score) in enumerate(twin):
        assert_allclose(people.points[p], middle, atol=1e-12)
        assert people.scores[p] == score
    assert (np.diff(people.scores) <= 0).all()


def test_boxes_without_area_are_merged_too():
    boxes = np.tile([0.5, 0.5, 0.5, 0.5], (3, 1))
    assert len(decoding.merge_boxes(boxes, np.zeros((3, 4, 2)), np.full(3, 0.9)).scores) == 3


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_search_shows_the_whole_picture_in_the_middle(height, width):
    view = decoding.search_view(height, width)
    corners = np.array([(0, 0), (width, height)]) @ view[:, :2].T + view[:, 2]
    assert_allclose(corners.sum(0), 224)  # as much left as right
    assert_allclose((corners[1] - corners[0]).max(), 224)
    assert view[0, 0] == view[1, 1]


@given(st.floats(-3.1, 3.1), st.floats(1, 1000), st.floats(-500, 500), st.floats(-500, 500))
def test_the_crop_is_about_the_hips_and_upright(angle, length, x, y):
    """The second point lies above the hips: it goes to 1 / 2.5 of the crop's side above its middle."""
    hips, turn = np.array([x, y]), np.array([np.sin(angle), -np.cos(angle)])
    view = decoding.landmark_view(np.array([hips, hips + length * turn, hips, hips]))
    assert_allclose(view[:, :2] @ hips + view[:, 2], 128, atol=1e-6)
    assert_allclose(view[:, :2] @ (hips + length * turn) + view[:, 2], (128, 128 - 256 / 2.5), atol=1e-6)
    assert np.linalg.det(view[:, :2]) > 0  # not mirrored


def test_no_crop_without_a_size():
    assert decoding.landmark_view(np.zeros((4, 2))) is None


def naive_refine(points, heatmap):
    """RefineLandmarksFromHeatmapCalculator, as it is written, with the kernel of 0.10.21."""
    height, width, count = heatmap.shape
    refined = points.copy()
    for k in range(count):
        column, row = int(points[k, 0] * width), int(points[k, 1] * height)
        if column < 0 or column >= width or row < 0 or row >= height:
            continue
        total = x = y = hottest = 0
        for j in range(max(0, row - 4), min(height, row + 5)):
            for i in range(max(0, column - 4), min(width, column + 5)):
                heat = 1 / (1 + math.exp(-heatmap[j, i, k]))
                total, x, y, hottest = total + heat, x + i * heat, y + j * heat, max(hottest, heat)
        if hottest >= 0.5 and total > 0:
            refined[k] = x / width / total, y / height / total
    return refined


def test_refinement_is_the_naive_loop(rng):
    for height, width in ((64, 64), (9, 30), (3, 2)):
        points = rng.uniform(-0.3, 1.3, (200, 2))
        points[:8] = [
            (0, 0),
            (1, 1),
            (0.9999, 0),
            (-0.001, 0.5),
            (0.5, -1 / height + 1e-9),
            (-1, 0.5),
            (0.5, 1),
            (0.5, 0.5),
        ]
        cold = rng.normal(-4, 1.5, (height, width, 200))
        assert_allclose(decoding.refine(points, cold), naive_refine(points, cold), atol=1e-12)


def test_refinement_goes_to_the_heat():
    heatmap = np.full((64, 64, 2), -20.0, np.float32)
    heatmap[30, 42, 0] = 20
    points = np.array([(40.5 / 64, 31.5 / 64), (0.5, 0.5)])
    refined = decoding.refine(points, heatmap)
    assert_allclose(refined[0] * 64, (42, 30), atol=1e-4)
    assert_array_equal(refined[1], points[1])  # no heat, no change


def test_landmarks_are_picked_by_number(rng):
    raw = rng.normal(0, 3, 195)
    values = raw.reshape(39, 5)
    values[:, :2] = rng.uniform(0, 256, (39, 2))
    which = [0, 28, 11]
    points, visibility = decoding.decode_landmarks(raw, np.full((64, 64, 39), -20.0), which)
    assert_allclose(points, values[which, :2])
    assert_allclose(visibility, 1 / (1 + np.exp(-values[which, 3])))


def test_the_sigmoid_does_not_overflow():
    assert_array_equal(decoding.sigmoid([-1e30, 0, 1e30]), [0, 0.5, 1])


# --- the networks ---


def test_people_stand_on_the_line_that_the_search_finds():
    """Its first point is between the hips, its third between the shoulders; corners of pixels are half off."""
    points = np.array([[[100.0, 220], [7, 8], [130, 100], [9, 9]]])
    detector = object.__new__(blazepose.BlazePoseDetector)  # without its networks
    detector._find = lambda image: types.SimpleNamespace(points=points, scores=np.array([0.7], np.float32))
    found = detector.detect_people(None)
    for part, middle in ((coco.SHOULDERS, (129.5, 99.5)), (coco.HIPS, (99.5, 219.5))):
        assert_allclose(found.keypoints[0, part].mean(0), middle, atol=1e-3)
    assert found.scores[0].tolist() == pytest.approx([0.7] * 13 + [0] * 4)


def test_the_edge_of_a_mask():
    """Confidences from 3/8 to 5/8 are partly covered."""
    covered = blazepose._COVERAGE
    assert covered[[95, 160]].tolist() == [0, 255]
    assert 0 < covered[96] < covered[159] < 255


@pytest.fixture(scope="module")
def detector():
    with get_detector("blazepose:people=4") as detector:
        yield detector


@pytest.fixture(scope="module")
def photo():
    from skimage.data import astronaut

    return astronaut()


@pytest.mark.demo
def test_it_is_a_detector(detector, photo):
    assert isinstance(detector, Detector)
    found = detector.detect(photo)
    assert len(found) == 1
    assert found.mask.shape == (1, 512, 512)
    assert np.hypot(*(found.keypoints[0, 0] - (222, 118))) < 15
    assert found.quality((512, 512)) > 0.5
    assert_array_equal(detector.detect(photo).keypoints, found.keypoints)  # no memory


@pytest.mark.demo
def test_options_that_are_refused(tmp_path, detector):
    for option in ("people=0", "people=21", "people=two", "threads=0", "threads=65", "threads=many"):
        name = option.partition("=")[0]
        with pytest.raises(ValueError, match=f"{name} must be an integer from 1 to"):
            get_detector(f"blazepose:{option}")
    with pytest.raises(ValueError, match="does not take these options: 'colour=red'"):
        get_detector("blazepose:colour=red")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*heavy.tflite' for blazepose's landmark network"):
        get_detector("blazepose:people=20,threads=64,landmark=heavy.tflite")  # as many as may be
    (tmp_path / "text.tflite").write_text("this is no network")
    with pytest.raises(ValueError, match=r"text.tflite' can't be loaded as a network of BlazePose"):
        get_detector(f"blazepose:landmark={tmp_path / 'text.tflite'}")
    from tpc_fast.pose.detect.model_files import network

    with pytest.raises(ValueError, match=r"pose_detection.tflite' is no such network of BlazePose: it takes \(1, 224"):
        get_detector(f"blazepose:landmark={network('pose_detection')}")


@pytest.mark.demo
def test_a_network_of_the_users_own(tmp_path, photo, detector):
    """It is used, and detections that were cached with another one are not taken for its own."""
    from tpc_fast.pose.detect.model_files import network

    copy = tmp_path / "mine.tflite"
    copy.write_bytes(network("pose_landmark_full").read_bytes())
    with get_detector(f"blazepose:landmark={copy},threads=1") as mine:
        assert "mine.tflite e9a5c5cb17f7" in mine.version
        assert mine.version != detector.version
        assert_allclose(mine.detect(photo).keypoints, detector.detect(photo).keypoints, atol=0.05)


@pytest.mark.demo
def test_detectors_of_lanes(detector, photo):
    with get_detector("blazepose:threads=3") as own:
        assert own.lanes == 3
        one = own.in_lane(1)
        assert own.in_lane(1) is one
        assert own.in_lane(0) is not one
        assert one.lanes == 1  # on one thread
        expected, found = detector.detect(photo), one.detect(photo)
        # Threads may change the order of sums (on the machine of this test's making they did not).
        assert_allclose(found.keypoints, expected.keypoints, atol=0.05)
    with pytest.raises(ValueError, match="closed"):
        one.detect(photo)


@pytest.mark.demo
def test_a_class_of_ones_own_has_no_lanes():
    """What looks in a lane is no such class: whatever it does otherwise would be left out of most frames."""

    class Own(blazepose.BlazePoseDetector):
        pass

    with Own(threads=4) as own:
        assert own.lanes == 1


@pytest.mark.demo
def test_nothing_of_the_process_changes():
    """No handlers of signals, no environment, no threads of Python; the standard error is what it was."""
    import os
    import signal

    def state():
        return (
            [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV)],
            dict(os.environ),
            threading.active_count(),
            os.fstat(2).st_ino,
            sys.stderr,
        )

    before = state()
    with get_detector("blazepose") as one:
        one.detect(np.zeros((64, 64, 3), np.uint8))
        one.detect_upright(np.zeros((256, 256, 3), np.uint8))
    assert state() == before


@pytest.mark.demo
def test_pictures_of_any_shape(detector, rng):
    for shape in ((1, 1), (1, 500), (300, 2), (2000, 30)):
        assert len(detector.detect(rng.integers(0, 256, (*shape, 3), np.uint8))) == 0
        assert len(detector.detect_people(rng.integers(0, 256, (*shape, 3), np.uint8))) == 0


def views(photo):
    """30 pictures: the photo under random views, of many shapes."""
    from tpc_fast.ops.resample import resample

    rng = np.random.default_rng(0)
    for _ in range(30):
        size = rng.integers(256, 800, 2)
        angle, scale = np.radians(rng.uniform(-50, 50)), rng.uniform(0.5, 1.6)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        middle = size[::-1] / 2 + rng.uniform(-60, 60, 2)
        yield resample(photo, np.column_stack([turn, middle - turn @ (230, 220)]), tuple(size))


def overlap(one, other):
    one, other = one >= 128, other >= 128
    return (one & other).sum() / (one | other).sum()


@pytest.mark.demo
@pytest.mark.mediapipe
@pytest.mark.slow
def test_upright_crops_are_seen_as_mediapipe_sees_them(detector, photo):
    """What is measured is measured here, and this is the same network on the same pixels: the rest is ours."""
    with get_detector("mediapipe") as mediapipe:
        seen = 0
        for picture in views(photo):
            found = detector.detect(picture)
            if not len(found):
                continue
            for crop in (detector.whole, detector.half):
                look = crop.cut(picture, crop.locate(found.keypoints[0], found.scores[0]))
                one, other = detector.detect_upright(look), mediapipe.detect_upright(look)
                assert len(one) == len(other)
                if len(one):
                    seen += 1
                    assert_allclose(one.keypoints, other.keypoints, atol=0.02)
                    assert_allclose(one.scores, other.scores, atol=1e-3)
                    assert overlap(one.mask, other.mask) > 0.999
        assert seen >= 50


@pytest.mark.demo
@pytest.mark.mediapipe
@pytest.mark.slow
def test_searches_find_what_mediapipe_finds(detector, photo, monkeypatch):
    """With OpenCV's resampling, whose coordinates are rounded to 1/32 pixel: search, crop, landmarks and mask agree."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is what is compared with; it comes with extra 'mediapipe'")

    def like_opencv(image, matrix, size, border="repeat", shrink=1):
        assert shrink == 1
        outside = cv2.BORDER_REPLICATE if border == "repeat" else cv2.BORDER_CONSTANT
        if image.ndim == 2:
            return cv2.warpAffine(image, matrix, size[::-1], borderMode=outside)
        return cv2.warpPerspective(image, np.vstack([matrix, [0, 0, 1]]), size[::-1], borderMode=outside)

    monkeypatch.setattr("tpc_fast.pose.detect.blazepose.resample", like_opencv)
    distances, overlaps, roughly = [], [], []
    with get_detector("mediapipe:people=4") as mediapipe:
        for picture in views(photo):
            one, other = detector.detect(picture), mediapipe.detect(picture)
            assert len(one) == len(other)
            if len(one):
                there = other.scores[0] >= 0.3
                distances.append(np.hypot(*(one.keypoints - other.keypoints)[0, there].T).max())
                overlaps.append(overlap(one.mask, other.mask))
            people, others = detector.detect_people(picture), mediapipe.detect_people(picture)
            assert len(people) == len(others)
            roughly.append(np.nanmax(np.abs(people.keypoints - others.keypoints), initial=0))
            assert_allclose(people.scores, others.scores, atol=0.01)
    print(f"{len(distances)} pictures: {max(distances):.3f} px, IoU {min(overlaps):.5f}, roughly {max(roughly):.3f} px")
    assert len(distances) >= 25
    assert max(distances) <= 0.5
    assert min(overlaps) >= 0.995
    assert max(roughly) <= 0.5
