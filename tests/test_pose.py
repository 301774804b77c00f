"""The person tracker with a detector made for the purpose, files of detections, and embedded detectors on photos."""

import dataclasses
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from discs import DiscDetector, OnlyWhole, draw, person_at, similarity
from hypothesis import given, settings
from hypothesis import strategies as st

from tpc_fast.media.video import VideoReader
from tpc_fast.ops.procrustes import fit_similarity
from tpc_fast.ops.resample import resample
from tpc_fast.pose import (
    Detection,
    Detections,
    Detector,
    PersonTracker,
    StaleDetectionsError,
    fingerprint,
    get_detector,
    load_detections,
    save_detections,
)
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.canonical import CanonicalCrop
from tpc_fast.pose.files.detections import pack_mask, unpack_mask


def test_the_stub_is_a_detector():
    assert isinstance(DiscDetector(), Detector)
    assert not isinstance(object(), Detector)


# --- the canonical crop ---


@given(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-500, 500), st.floats(-500, 500))
def test_crop_follows_the_person(angle, log_scale, x, y):
    rng = np.random.default_rng(0)
    crop, scores = DiscDetector.whole, np.ones(coco.COUNT)
    points = person_at((200, 90), 12) + rng.normal(0, 1, (coco.COUNT, 2))
    moved = similarity(np.exp(log_scale), np.degrees(angle), (x, y))
    still, followed = crop.locate(points, scores), crop.locate(moved.apply(points), scores)
    np.testing.assert_allclose((followed @ moved).matrix, still.matrix, atol=1e-6)


@pytest.mark.parametrize("hidden", [[], coco.FACE, coco.TORSO, [1, 3, 5, 11]], ids=["none", "face", "torso", "a side"])
@pytest.mark.parametrize("from_behind", [False, True])
def test_crop_is_where_the_contract_says(hidden, from_behind):
    crop = CanonicalCrop(256, 7.0, (120.0, 60.0))
    points = person_at((300, 150), 20, 35)
    if from_behind:
        points = points[coco.MIRRORED]
    points[hidden] = np.nan
    view = crop.locate(points, np.where(np.isnan(points[:, 0]), 0, 0.9))
    np.testing.assert_allclose(view.apply(person_at((300, 150), 20, 35)[:1])[0], crop.nose, atol=1e-6)
    assert view.scale == pytest.approx(7 / 20)
    assert view.angle == pytest.approx(np.radians(-35))


def test_crop_of_nothing():
    assert DiscDetector.whole.locate(np.full((coco.COUNT, 2), np.nan), np.zeros(coco.COUNT)) is None


def test_distance_of_views():
    crop = CanonicalCrop(200, 7.0, (100.0, 60.0))
    view = similarity(2, 10, (5, 6))
    turn = similarity(1, 0, (99.5, 99.5)) @ similarity(1, 3, (0, 0)) @ similarity(1, 0, (-99.5, -99.5))
    assert crop.distance(view, view) == pytest.approx(0, abs=1e-12)
    assert crop.distance(view, turn @ view) == pytest.approx(np.radians(3))
    assert crop.distance(view, similarity(1, 0, (0, 20)) @ view) == pytest.approx(0.1)
    assert crop.distance(view, similarity(1.2, 0, (-19.9, -19.9)) @ view) == pytest.approx(np.log(1.2))


def test_cut_repeats_borders_and_averages_down():
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    crop = CanonicalCrop(128, 7.0, (64.0, 30.0)).cut(noise, similarity(1 / 8, 0, (-7 / 16, -7 / 16)))
    means = noise.reshape(128, 8, 128, 8, 3).mean((1, 3))
    np.testing.assert_array_equal(crop, np.floor(means + 0.5))
    left = CanonicalCrop(32, 7.0, (16.0, 8.0)).cut(noise, similarity(1, 0, (10, 0)))
    assert (left[:, :10] == noise[:32, :1]).all()
    assert (left[:, 10:] == noise[:32, :22]).all()


@pytest.mark.parametrize("scale", [1.5, 0.9, 0.45, 0.3, 0.11])
@pytest.mark.parametrize("size", [(301, 400), (257, 263)])
def test_paste_undoes_cut(scale, size):
    y, x = np.ogrid[: size[0], : size[1]]
    disc = np.where(np.hypot(x - 170, y - 140) <= 60.5, np.uint8(255), np.uint8(0))[..., None].repeat(3, 2)
    crop = CanonicalCrop(128, 7.0, (64.0, 30.0))
    turn = similarity(scale, 25, (0, 0))
    view = similarity(1, 0, (63.5, 63.5) - turn.apply(np.array([[170.0, 140.0]]))[0]) @ turn
    back = crop.paste(crop.cut(disc, view)[..., 0], view, size)
    assert back.shape == size
    y, x = np.nonzero(back >= 128)
    shown = min(1.0, (128 / scale / 121) ** 2)  # a crop that is smaller than the disc shows a square of it
    assert abs(x.mean() - 170) < 0.3 / scale
    assert abs(y.mean() - 140) < 0.3 / scale
    assert abs(len(x) / (disc[..., 0] > 0).sum() - shown) < 0.04 / scale + 0.2 * (shown < 1)


# --- the tracker ---


@pytest.mark.parametrize("degrees", [0, 40, 55, 100, 170, 235, 300])
def test_find_at_every_roll(degrees):
    truth = person_at((320, 240), 10, degrees)
    truth += (319.5, 239.5) - truth.mean(0)
    image = draw(truth)
    tracker = PersonTracker(DiscDetector())
    found = tracker.find(image)
    assert found.keypoints.shape == (1, coco.COUNT, 2)
    assert found.keypoints.dtype == np.float32
    assert found.scores.shape == (1, coco.COUNT)
    assert found.scores.dtype == np.float32
    assert found.mask.shape == (1, 480, 640)
    assert found.mask.dtype == np.uint8
    np.testing.assert_allclose(found.keypoints[0], truth, atol=1.6)
    body, seen = image[..., 0] > 0, found.mask[0] >= 128
    assert (body & seen).sum() > 0.95 * (body | seen).sum()
    assert tracker.passes == tracker.detector.detected + tracker.detector.looked > 4


def test_find_in_a_large_photo():
    truth = person_at((1500, 300), 60, 20)
    found = PersonTracker(DiscDetector()).find(draw(truth, (2600, 2600)))
    np.testing.assert_allclose(found.keypoints[0], truth, atol=60 / 6.4)  # a pixel of the crop


def test_keypoints_outside_the_picture_count_for_nothing():
    truth = person_at((320, 60), 20)  # cut at the knees
    found = PersonTracker(DiscDetector()).find(draw(truth))
    outside = truth[:, 1] > 479.5
    assert outside.sum() == 2
    assert (found.scores[0][outside] == 0).all()
    assert (found.scores[0][:13] == 1).all()


def test_step_takes_one_pass_while_the_person_moves_slowly():
    tracker = PersonTracker(DiscDetector())
    tracker.find(draw(person_at((300, 100), 12)))
    for i in range(8):
        truth = person_at((200 + 8 * i, 90 + 3 * i), 11 * 1.03**i, 3 * i - 12)
        found = tracker.step(draw(truth))
        np.testing.assert_allclose(found.keypoints[0], truth, atol=1.6)
        assert tracker.passes == 1 or i == 0


def test_step_looks_again_after_a_jump_and_searches_after_a_leap():
    detector = DiscDetector()
    tracker = PersonTracker(detector)
    tracker.step(draw(person_at((300, 100), 12)))
    detector.detected = 0
    truth = person_at((330, 120), 14, 15)
    np.testing.assert_allclose(tracker.step(draw(truth)).keypoints[0], truth, atol=1.6)
    assert detector.detected == 0
    assert tracker.passes == 2
    truth = person_at((200, 240), 11, -100)
    np.testing.assert_allclose(tracker.step(draw(truth)).keypoints[0], truth, atol=1.6)
    assert detector.detected == 1 + 4  # near where the person was, and everywhere


def test_step_says_that_nobody_is_there_and_finds_who_comes_back():
    tracker = PersonTracker(DiscDetector())
    truth = person_at((300, 100), 12)
    assert len(tracker.step(draw(truth))) == 1
    for _ in range(2):
        lost = tracker.step(np.zeros((480, 640, 3), np.uint8))
        assert len(lost) == 0
        assert lost.keypoints.shape == (0, coco.COUNT, 2)
        assert lost.scores.shape == (0, coco.COUNT)
    np.testing.assert_allclose(tracker.step(draw(truth)).keypoints[0], truth, atol=1.6)


def test_frames_of_another_size_and_reset_start_anew():
    detector = DiscDetector()
    tracker = PersonTracker(detector)
    truth = person_at((300, 100), 12)
    tracker.step(draw(truth))
    np.testing.assert_allclose(tracker.step(draw(truth, (500, 700))).keypoints[0], truth, atol=1.6)
    assert detector.detected == 8
    tracker.reset()
    tracker.step(draw(truth, (500, 700)))
    assert detector.detected == 12


def test_nobody_in_the_photo():
    tracker = PersonTracker(DiscDetector())
    assert len(tracker.find(np.zeros((300, 200, 3), np.uint8))) == 0
    where = "the 200x300 picture in 4 rolls (0, 90, 180, 270 degrees) and in 14 squares of it"
    assert tracker.tried == f"discs looked at {where} and saw nobody"


def test_a_pose_that_does_not_hold_is_refused():
    class Fickle(DiscDetector):
        def detect_upright(self, image):
            return Detection.nobody()

    tracker = PersonTracker(Fickle())
    assert len(tracker.find(draw(person_at((300, 100), 12)))) == 0
    assert "at 0 degrees) did not hold in an upright crop" in tracker.tried


def test_bias_with_scale_cancels():
    """Between figures of one kind, who are seen in one crop."""
    detector = DiscDetector()
    detector.bias = 0.8
    tracker = PersonTracker(detector)
    reference, frame = person_at((300, 120), 25), person_at((250, 220), 19, 30)
    found = [tracker.find(draw(reference)), tracker.step(draw(frame))]
    fit = fit_similarity(*(d.keypoints[0, :7].astype(np.float64) for d in found))
    assert abs(np.log(fit.scale / (19 / 25))) < 0.03  # the bias differs by 0.2
    assert abs(np.degrees(fit.angle) - 30) < 1


def test_the_video_decides_on_its_crop():
    """A photo cut above the knees must not choose the crop in which a dancer is seen whole: legs were lost in it."""
    tracker = PersonTracker(DiscDetector())
    tracker.find(draw(person_at((300, 80), 12)))
    assert tracker.crop == tracker.detector.whole
    tracker.find(draw(person_at((300, 200), 25)))
    assert tracker.crop == tracker.detector.half
    found = tracker.step(draw(person_at((300, 80), 12)))
    assert tracker.crop == tracker.detector.whole
    assert found.mask[0, (80 + 24 * 12), 300 - 18] == 255  # at the feet
    tracker.find(draw(person_at((300, 80), 12)))
    tracker.step(draw(person_at((300, 200), 25)))
    assert tracker.crop == tracker.detector.half


@pytest.mark.slow
def test_who_steps_back_is_seen_whole_and_who_comes_near_by_half():
    """Knees come into sight, or go out of it, within one shot: the crop changes after some frames, and back."""
    detector = DiscDetector()
    tracker = PersonTracker(detector)
    crops = []
    units = np.concatenate([np.geomspace(25, 12, 15), np.full(10, 12), np.geomspace(12, 25, 15), np.full(10, 25)])
    for unit in units:
        truth = person_at((320, 480 - 24 * unit if unit < 15 else 120), unit)
        found = tracker.step(draw(truth))
        np.testing.assert_allclose(found.keypoints[0, :7], truth[:7], atol=2.5)
        crops.append(tracker.crop)
    assert (crops[0], crops[24], crops[-1]) == (detector.half, detector.whole, detector.half)
    assert sum(a != b for a, b in itertools.pairwise(crops)) == 2  # and no more often
    assert detector.detected == 4  # nobody was lost


@pytest.mark.slow
def test_doubts_about_the_crop_cost_little():
    """A half figure inside the picture (behind a table) seems to have knees in sight in every frame."""

    class Table(DiscDetector):
        def detect_upright(self, image):
            found = super().detect_upright(image)
            found.scores[:, coco.KNEES] = 0
            return found

    tracker = PersonTracker(Table())
    picture, passes = draw(person_at((320, 80), 12)), []
    for _ in range(200):
        tracker.step(picture)
        passes.append(tracker.passes)
    assert tracker.crop == tracker.detector.half
    assert np.mean(passes[20:]) < 2 * 1.15  # two looks a frame, since the mask is cut off


def test_small_people_are_looked_for_in_squares():
    """Who is too small for a look at the whole picture: in the photo, in a first frame, and soon later on."""

    class Shortsighted(DiscDetector):
        def detect(self, image):
            found = super().detect(image)
            body = image[..., 0].max(1) >= 30
            return found if body.sum() > 0.25 * len(image) else Detection.nobody()

    tracker = PersonTracker(Shortsighted())
    truth = person_at((500, 700), 7)
    picture = draw(truth, (1080, 1080))
    for look in (tracker.find, tracker.step):
        np.testing.assert_allclose(look(picture).keypoints[0, :7], truth[:7], atol=1.6)
    tracker.reset()
    empty = np.zeros_like(picture)
    tracker.step(empty)
    assert tracker.passes > 10
    tracker.step(empty)
    assert tracker.passes == 4 + 2  # squares take turns while nobody is there
    seen = [len(tracker.step(picture)) for _ in range(10)]
    assert seen[-1] == 1


def test_somebody_else_is_not_taken_for_who_is_lost():
    """A tennis player turned away, and the ball boy was followed from then on: nobody, until a second has passed."""
    tracker = PersonTracker(DiscDetector())
    player, boy = person_at((450, 100), 12), person_at((100, 300), 5)
    for _ in range(3):
        assert len(tracker.step(draw(player))) == 1
    alone = draw(boy)
    seen = [len(tracker.step(alone)) for _ in range(40)]
    assert not any(seen[:15])
    assert all(seen[31:])


def test_a_neighbour_in_other_colours_is_not_taken_for_who_is_lost():
    """Near enough to be the same, and in the crop, too: followed only when a second has passed."""
    tracker = PersonTracker(DiscDetector())
    lost, neighbour = draw(person_at((300, 100), 10)), draw(person_at((345, 110), 10))
    neighbour[(neighbour == (60, 0, 60)).all(-1)] = (60, 110, 0)
    for _ in range(3):
        assert len(tracker.step(lost)) == 1
    seen = [len(tracker.step(neighbour)) for _ in range(40)]
    assert not any(seen[:15])
    assert all(seen[31:])
    tracker.reset()
    tracker.step(lost)
    same = draw(person_at((345, 110), 10))  # who only leapt
    assert len(tracker.step(same)) == 1


def test_a_cut_is_no_loss():
    """Behind a cut whoever is there is followed at once, though everything is elsewhere; a flash is none."""
    ramp = np.arange(640)[None, :, None] * np.array([0, 0.2, 0])

    def before_a_wall(person, wall):
        picture = draw(person)
        return np.where(picture[..., :1] == 0, wall, picture).astype(np.uint8)

    for wall, seen in ((ramp[:, ::-1], 1), (ramp + 20, 0)):
        tracker = PersonTracker(DiscDetector())
        tracker.step(before_a_wall(person_at((450, 100), 12), ramp))
        assert len(tracker.step(before_a_wall(person_at((100, 300), 5), wall))) == seen


def test_the_largest_person_of_a_first_frame_is_followed():
    """The detector is surer of a bystander; only its search for people finds the one in front, too."""
    near, far = person_at((200, 100), 12), person_at((500, 100), 5)

    class Sure(DiscDetector):
        def detect(self, image):
            return super().detect(np.concatenate([np.zeros_like(image[:, :400]), image[:, 400:]], 1))

        def detect_people(self, image):
            scores = np.where(np.arange(17) < 13, 0.9, 0.0).astype(np.float32)
            return Detection(np.stack([far, near]).astype(np.float32), np.stack([scores] * 2))

    picture = np.maximum(draw(near), draw(far))
    for look in (PersonTracker(Sure()).find, PersonTracker(Sure()).step):
        np.testing.assert_allclose(look(picture).keypoints[0, :5], near[:5], atol=1.6)


def test_who_was_seen_well_is_not_lost_by_a_second_look():
    """From behind the face is guessed: what follows from it is a crop of another scale, in which nobody is seen."""

    class Misled(DiscDetector):
        def detect_upright(self, image):
            found = super().detect_upright(image)
            if len(found):  # all is a third as large as it is: the next crop is three times as near
                points = found.keypoints.copy()
                points[0, 1:5] = points[0, 0] + (points[0, 1:5] - points[0, 0]) / 3
                points[0, 5:13] = points[0, 0] + (points[0, 5:13] - points[0, 0]) / 2.6
                return dataclasses.replace(found, keypoints=points)
            return found

    tracker = PersonTracker(Misled())
    picture = draw(person_at((320, 100), 8))
    seen = [tracker.step(picture) for _ in range(4)]
    assert all(len(one) for one in seen)
    assert tracker.passes <= 3  # it is followed, not found anew in every frame


@pytest.mark.parametrize(("search", "whole"), [(0.8, 0.8), (0.9, 0.4), (0.9, 0.6)])
def test_made_up_knees_do_not_make_a_whole_figure(search, whole):
    """Of a half figure that ends inside the picture: both the search and the crop for whole figures must see knees."""

    class Inventive(DiscDetector):
        def detect(self, image):
            return self.with_knees(super().detect(image), search)

        def detect_upright(self, image):
            return self.with_knees(super().detect_upright(image), whole)

        def with_knees(self, found, score):
            scores = found.scores.copy()
            scores[:, coco.KNEES] = score
            return dataclasses.replace(found, scores=scores)

    tracker = PersonTracker(Inventive())
    truth = person_at((300, 80), 12)
    found = tracker.find(draw(truth))
    np.testing.assert_allclose(found.keypoints[0, :7], truth[:7], atol=1.6)
    assert found.mask[0, (80 + 24 * 12), 300 - 18] == 255  # at the feet, in whichever crop
    assert tracker.crop == (tracker.detector.whole if min(search / 0.85, whole / 0.5) >= 1 else tracker.detector.half)


class Squashing(DiscDetector):
    """Makes up hips in the crop for half figures, which it takes for three quarters of a torso below the shoulders."""

    half = dataclasses.replace(DiscDetector.half, torso=0.75)

    def detect_upright(self, image):
        found = super().detect_upright(image)
        if not len(found):
            return found
        keypoints, scores = found.keypoints.copy(), found.scores.copy()
        shoulders = keypoints[0, coco.SHOULDERS].mean(0)
        down = (shoulders - keypoints[0, 0]) / 4.2  # as in TEMPLATE
        if np.linalg.norm(down) > (self.half.unit * self.whole.unit) ** 0.5:
            keypoints[0, coco.HIPS] = shoulders + 0.75 * (11.8 - 4.2) * down
            scores[0, coco.HIPS] = 1.0
        return dataclasses.replace(found, keypoints=keypoints, scores=scores)


@pytest.mark.parametrize("nose", [120, 200])  # hips in the picture, at 416 of 480 rows, and beyond it, at 496
def test_the_crop_for_half_figures_does_not_shorten_torsos(nose):
    tracker, truth = PersonTracker(Squashing()), person_at((300, nose), 25)
    for found in (tracker.find(draw(truth)), tracker.step(draw(truth))):
        assert tracker.crop == tracker.detector.half
        np.testing.assert_allclose(found.keypoints[0, :7], truth[:7], atol=2.5)
        np.testing.assert_allclose(found.keypoints[0, coco.HIPS].mean(0), truth[coco.HIPS].mean(0), atol=5)
        assert (found.scores[0, coco.HIPS] == 1).all()
    tracker.detector.half = DiscDetector.half
    shorter = PersonTracker(tracker.detector).find(draw(truth)).keypoints[0].astype(float)
    torso = [np.linalg.norm(p[coco.HIPS].mean(0) - p[coco.SHOULDERS].mean(0)) for p in (shorter, truth)]
    np.testing.assert_allclose(torso[0] / torso[1], 0.75, atol=0.03)


def test_legs_move_with_the_hips(rng):
    points = rng.normal(size=(3, 17, 2))
    points[2] = np.nan  # nobody
    crop = CanonicalCrop(256, 9.0, (128.0, 54.0), torso=0.5)
    moved = crop.lengthened(points)
    np.testing.assert_array_equal(moved[:, :11], points[:, :11])
    down = points[:, [11, 12]].mean(1) - points[:, [5, 6]].mean(1)
    np.testing.assert_allclose(moved[:, 11:] - points[:, 11:], np.repeat(down[:, None], 6, 1))
    assert dataclasses.replace(crop, torso=1.0).lengthened(points) is points


@pytest.mark.parametrize("knees", [0.0, 0.9])
def test_who_holds_only_as_a_whole_figure(knees):
    """A half figure that the crop for half figures loses, whether the search saw knees or not."""

    class Sideways(OnlyWhole):
        def detect(self, image):
            found = super().detect(image)
            found.scores[:, coco.KNEES] = knees
            return found

    tracker = PersonTracker(Sideways())
    truth = person_at((320, 200), 20)  # cut above the knees
    picture = draw(truth)
    np.testing.assert_allclose(tracker.find(picture).keypoints[0, :7], truth[:7], atol=2)
    assert tracker.crop == tracker.detector.whole
    assert tracker.followed is False  # a photo is not followed
    np.testing.assert_allclose(tracker.step(picture).keypoints[0, :7], truth[:7], atol=2)
    assert tracker.followed


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), None], ids=str
)
def test_pictures_that_are_none(image):
    for look in (PersonTracker(DiscDetector()).find, PersonTracker(DiscDetector()).step):
        with pytest.raises(ValueError, match=r"image must be a uint8 array \[H, W, 3\], but is"):
            look(image)


def test_quality():
    points = person_at((50, 20), 3)[None].astype(np.float32)
    mask = np.zeros((1, 100, 100), np.uint8)
    mask[:, :, :50] = 255
    scores = np.full((1, coco.COUNT), 0.5, np.float32)
    assert Detection.nobody().quality((100, 100)) == 0
    assert Detection(points, scores).quality((100, 100)) == pytest.approx(0.5)
    inside = (np.rint(points[0, :, 0]) < 50).mean()
    assert 0 < inside < 1
    assert Detection(points, scores, mask).quality((100, 100)) == pytest.approx(0.5 * inside)
    assert Detection(points + 1000, scores, mask).quality((100, 100)) == 0


# --- files ---


def some_detections(rng, frames=5, size=(11, 13), masks=True):
    points = rng.normal(0, 100, (frames, 1, coco.COUNT, 2)).astype(np.float32)
    points[1] = np.nan
    points[2, 0, 3] = np.nan
    return Detections.from_arrays(
        points,
        rng.random((frames, 1, coco.COUNT)).astype(np.float32),
        rng.random((frames, 1, *size)) > 0.5 if masks else None,
        size,
    )


def same(a, b):
    np.testing.assert_array_equal(a.keypoints, b.keypoints)
    np.testing.assert_array_equal(a.scores, b.scores)
    assert a.size == b.size
    assert (a.bits is None) == (b.bits is None)
    if a.bits is not None:
        np.testing.assert_array_equal(a.bits, b.bits)


@pytest.mark.parametrize("suffix", ["npz", "json"])
def test_files_round_trip(rng, tmp_path, suffix):
    made = some_detections(rng, masks=suffix == "npz")
    path, mark = tmp_path / f"seen.{suffix}", {"file": "a.mp4", "bytes": 3}
    save_detections(path, made, mark)
    same(load_detections(path, frames=5, expected=mark), made)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert (made.scores[1] == 0).all()
    assert made.scores[2, 0, 3] == 0


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_masks_as_bits(persons, height, width, seed):
    mask = np.random.default_rng(seed).integers(0, 256, (persons, height, width), np.uint8)
    bits = pack_mask(mask)
    assert bits.shape == (persons, -(-height * width // 8))
    np.testing.assert_array_equal(unpack_mask(bits, (height, width)), np.where(mask >= 128, 255, 0))
    np.testing.assert_array_equal(bits, pack_mask(mask >= 128))


def test_files_made_by_hand(tmp_path):
    points = person_at((50, 20), 3)
    np.savez(tmp_path / "one.npz", keypoints=points, masks=np.ones((6, 7), bool))
    one = load_detections(tmp_path / "one.npz", frames=1)
    assert one.keypoints.shape == (1, 1, coco.COUNT, 2)
    assert (one.scores == 1).all()
    assert one.size == (6, 7)
    assert (one.mask(0) == 255).all()
    assert len(one) == 1
    rows = points.tolist()
    rows[4] = [None, None]
    (tmp_path / "two.json").write_text(json.dumps({"keypoints": [rows, points.tolist()]}))
    two = load_detections(tmp_path / "two.json")
    assert two.keypoints.shape == (2, 1, coco.COUNT, 2)
    assert two.mask(0) is None
    assert np.isnan(two.keypoints[0, 0, 4]).all()
    assert two.scores[0, 0, 4] == 0
    assert two.scores.sum() == 33


def test_frames_that_a_tracker_saw(rng):
    mask = rng.integers(0, 256, (1, 9, 10), np.uint8)
    seen = Detection(np.ones((1, coco.COUNT, 2), np.float32), np.ones((1, coco.COUNT), np.float32), mask)
    both = Detections.from_frames([seen, Detection.nobody()], [pack_mask(mask), None], (9, 10))
    assert both.keypoints.shape == (2, 1, coco.COUNT, 2)
    assert np.isnan(both.keypoints[1]).all()
    assert (both.scores[1] == 0).all()
    np.testing.assert_array_equal(both.mask(0), np.where(mask >= 128, 255, 0))
    assert both.mask(1).shape == (1, 9, 10)
    assert not both.mask(1).any()


def test_stale_files_are_refused(rng, tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"123")
    mark = fingerprint(video, "mediapipe", "0.10.21")
    save_detections(tmp_path / "a.npz", some_detections(rng), mark)
    load_detections(tmp_path / "a.npz", expected=fingerprint(video, "mediapipe", "0.10.21"))
    with pytest.raises(StaleDetectionsError, match=r"version is '0.10.21', not '1'"):
        load_detections(tmp_path / "a.npz", expected=fingerprint(video, "mediapipe", "1"))
    video.write_bytes(b"1234")
    with pytest.raises(StaleDetectionsError, match="bytes is 3, not 4"):
        load_detections(tmp_path / "a.npz", expected=fingerprint(video, "mediapipe", "0.10.21"))
    save_detections(tmp_path / "b.npz", some_detections(rng))
    with pytest.raises(FileExistsError, match="is not replaced"):  # made by hand: nobody's cache
        load_detections(tmp_path / "b.npz", expected=mark)
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "none.mp4", "mediapipe", "1")


GOOD = np.ones((4, coco.COUNT, 2))


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"keypoints": np.ones((4, 18, 2))}, ValueError, r"17 COCO keypoints\), but are .*\(4, 18, 2\)"),
        ({"keypoints": np.ones((17, 3))}, ValueError, r"keypoints must be .* \(17, 3\)"),
        ({"keypoints": np.ones(17)}, ValueError, r"keypoints must be"),
        ({"keypoints": [["a"] * 2] * 17}, TypeError, "keypoints must be an array of numbers"),
        ({"keypoints": np.full((17, 2), np.inf)}, ValueError, "keypoints must be finite, or NaN"),
        ({"keypoints": GOOD, "frames": 5}, ValueError, r"keypoints must be given for 5 frame\(s\), but are"),
        ({"keypoints": GOOD, "scores": np.ones((4, 16))}, ValueError, r"scores must be \[4, 17\]"),
        ({"keypoints": GOOD, "scores": np.full((4, 17), 1.5)}, ValueError, r"scores must be in 0..1"),
        ({"keypoints": GOOD, "scores": np.full((4, 17), np.nan)}, ValueError, r"scores must be in 0..1"),
        ({"keypoints": GOOD, "masks": np.ones((4, 5, 5))}, TypeError, "masks must be uint8 or bool"),
        ({"keypoints": GOOD, "masks": np.ones((3, 5, 5), bool)}, ValueError, r"masks must be \[4, H, W\]"),
        ({"keypoints": GOOD, "masks": np.ones((4, 5, 5), bool), "size": (5, 6)}, ValueError, r"size \(5, 6\)"),
        ({"keypoints": GOOD, "size": (5, 0)}, ValueError, "size must be .height, width., two positive integers"),
        ({"keypoints": GOOD, "size": 5}, ValueError, "size must be"),
    ],
)
def test_arrays_that_do_not_fit(arguments, error, said):
    with pytest.raises(error, match=said):
        Detections.from_arrays(**arguments)


def test_files_that_do_not_fit(rng, tmp_path):
    with pytest.raises(ValueError, match=r"path must end in .npz or .json"):
        load_detections(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match=r"none.npz"):
        load_detections(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"path must end in .npz, since there are masks"):
        save_detections(tmp_path / "a.json", some_detections(rng))
    for name, content in (("a.npz", b"PK\x03\x04 broken"), ("b.npz", b""), ("a.json", b"{"), ("b.json", b"[1]")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}' can't be read as detections"):
            load_detections(tmp_path / name)
    (tmp_path / "c.json").write_text('{"points": []}')
    with pytest.raises(ValueError, match=r"must hold 'keypoints', but holds \['points'\]"):
        load_detections(tmp_path / "c.json")
    (tmp_path / "d.json").write_text(json.dumps({"keypoints": np.ones((16, 2)).tolist()}))
    with pytest.raises(ValueError, match=r"d.json': keypoints must be"):
        load_detections(tmp_path / "d.json")
    np.savez(tmp_path / "e.npz", keypoints=GOOD, size=(5, 5), bits=np.zeros((4, 1, 3), np.uint8))
    with pytest.raises(ValueError, match=r"bits must be uint8 \[4, 1, 4\]"):
        load_detections(tmp_path / "e.npz")
    np.savez(tmp_path / "f.npz", keypoints=np.array([{}]))
    with pytest.raises(ValueError, match=r"f.npz' can't be read"):
        load_detections(tmp_path / "f.npz")


def test_saving_fails_whole(rng, tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    path.write_bytes(b"old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space"):
        save_detections(path, some_detections(rng))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# --- the embedded detectors on real pictures ---


def test_detectors_by_name(monkeypatch):
    with pytest.raises(
        ValueError, match=r"detector must be one of blazepose, mediapipe, .* object like Detector, but is 'dp'"
    ):
        get_detector("dp")
    for name in ("ai_edge_litert", "mediapipe", "rtmlib", "mmpose"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install .*ai-edge-litert"):
        get_detector()


EMBEDDED = ["blazepose", pytest.param("mediapipe", marks=pytest.mark.mediapipe)]


@pytest.fixture(scope="module", params=EMBEDDED)
def embedded(request):
    with get_detector(request.param) as detector:
        yield detector


@pytest.mark.sample
def test_embedded_measures_torsos_in_both_crops(embedded, sample):
    """Somebody who walks, in a picture that ends at the thighs: a torso of 0.72 of its length, and 0.55 as the network
    has it."""
    frame = next(iter(VideoReader(sample / "driving.mp4"))).image
    torsos = []
    for rows in (len(frame), 303):
        tracker = PersonTracker(embedded)
        points = tracker.step(np.ascontiguousarray(frame[:rows])).keypoints[0].astype(float)
        torsos.append(np.linalg.norm(points[coco.HIPS].mean(0) - points[coco.SHOULDERS].mean(0)))
        assert tracker.crop == (embedded.whole if rows == len(frame) else embedded.half)
    assert 0.62 < torsos[1] / torsos[0] < 1.1


def camera_path(frames):
    """Forward similarities of a camera path over the astronaut's photo: scale 0.45 to 1.6, roll -60 to 60 degrees."""
    t = np.linspace(0, 1, frames)
    scale = np.exp(np.log(0.85) + np.log(1.88) * np.sin(2 * np.pi * t))
    degrees = 60 * np.sin(2 * np.pi * t + 0.5)
    for s, a, x, y in zip(scale, degrees, 256 + 60 * np.sin(6 * t), 250 + 50 * np.cos(9 * t), strict=True):
        yield similarity(s, a, (x, y)) @ similarity(1, 0, (-230, -190))


@pytest.mark.demo
def test_embedded_on_the_astronaut(embedded):
    from skimage.data import astronaut

    photo = astronaut()
    tracker = PersonTracker(embedded)
    reference = tracker.find(photo)
    assert len(reference) == 1
    assert tracker.crop == embedded.half
    assert np.abs(reference.keypoints[0, 0] - (222, 118)).max() < 15  # the nose
    path = list(camera_path(48))
    errors, passes = [], []
    for truth in path:
        found = tracker.step(resample(photo, truth.matrix, (512, 512), "black"))
        assert len(found) == 1
        fit = fit_similarity(reference.keypoints[0, :7], found.keypoints[0, :7])
        errors.append((np.degrees((fit @ truth.inverse()).angle), np.log(fit.scale / truth.scale)))
        passes.append(tracker.passes)
    angle, log_scale = np.abs(errors).T
    assert np.median(angle) <= 1.5
    assert np.median(log_scale) <= 0.04
    assert np.mean(passes[1:]) < 1.5


@pytest.mark.demo
def test_embedded_finds_nobody_where_nobody_is(embedded):
    rng = np.random.default_rng(0)
    tracker = PersonTracker(embedded)
    for image in (np.zeros((240, 320, 3), np.uint8), rng.integers(0, 256, (240, 320, 3), np.uint8)):
        assert len(tracker.find(image)) == 0
        assert f"{embedded.name} looked at the 320x240 picture" in tracker.tried


@pytest.mark.demo
def test_embedded_is_lost_and_found(embedded):
    from skimage.data import astronaut

    photo = astronaut()
    tracker = PersonTracker(embedded)
    first = tracker.step(photo)
    assert len(tracker.step(np.zeros_like(photo))) == 0
    again = tracker.step(photo)
    np.testing.assert_array_equal(again.keypoints, first.keypoints)
    np.testing.assert_array_equal(again.mask, first.mask)


@pytest.mark.demo
@pytest.mark.sample
def test_embedded_on_the_sample(embedded, sample):
    from PIL import Image

    def iou(mask, path):
        truth, found = np.asarray(Image.open(path).convert("L")) >= 128, mask[0] >= 128
        return (truth & found).sum() / (truth | found).sum()

    tracker = PersonTracker(embedded)
    reference = tracker.find(np.asarray(Image.open(sample / "reference.png").convert("RGB")))
    assert len(reference) == 1
    assert tracker.crop == embedded.whole
    assert iou(reference.mask, sample / "reference_mask.png") >= 0.75
    # The person leans to the right by 55 degrees: head, shoulders and hips as a human sees them.
    for k, truth in ((0, (346, 182)), (5, (305, 285)), (6, (240, 190)), (11, (155, 365)), (12, (118, 315))):
        assert np.linalg.norm(reference.keypoints[0, k] - truth) < 25, coco.NAMES[k]
    overlap, passes = [], []
    for i, frame in enumerate(VideoReader(sample / "driving.mp4")):
        if i % 4 == 0:
            found = tracker.step(frame.image)
            assert len(found) == 1
            passes.append(tracker.passes)
            overlap.append(iou(found.mask, sample / "driving_mask" / f"{i:03d}.png"))
    assert np.median(overlap) >= 0.86
    assert np.mean(passes[1:]) < 1.2


@pytest.mark.demo
@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_closing(name):
    detector = get_detector(name)
    detector.close()
    detector.close()
    with pytest.raises(ValueError, match="closed"):
        detector.detect(np.zeros((32, 32, 3), np.uint8))


@pytest.mark.demo
@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_is_quiet(name):
    code = (
        f"import numpy as np; from tpc_fast.pose import PersonTracker, get_detector; d = get_detector({name!r});"
        "PersonTracker(d).find(np.zeros((64, 64, 3), np.uint8)); d.close(); print('done')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout == "done\n", run.stderr
    assert "INFO" not in run.stderr
    assert "W0000" not in run.stderr


def test_detection_can_be_replaced_not_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Detection.nobody().scores = None
