"""The driving skeleton in the reference, and skeletons as pictures."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scene import FIGURE, PERSON, scene

from tpc_fast import calibrate
from tpc_fast.pose.skeleton import draw_skeletons


@pytest.fixture
def calibrated(rng):
    image, mask, driving, keypoints, _, truth = scene(rng, 30)
    given = {"reference_keypoints": PERSON, "reference_mask": mask, "driving_keypoints": keypoints, "size": (96, 128)}
    return calibrate(image, driving, smooth="none", **given), keypoints, truth, (image, driving, given)


def test_frame_by_frame_it_is_the_reference(calibrated):
    calibration, keypoints, _, _ = calibrated
    found = calibration.retarget(keypoints[:, None], mode="frame")
    assert_allclose(found[:, 0], np.broadcast_to(PERSON, (30, 17, 2)), atol=0.02)
    assert_allclose(calibration.retarget(mode="frame"), found, atol=0.01)


def test_constant_keeps_the_motion(calibrated):
    """One similarity for all frames: what is left between two frames is the driving motion, scaled and turned alike."""
    calibration, keypoints, truth, _ = calibrated
    found = calibration.retarget(keypoints[:, None])[:, 0]
    ours, theirs = found[..., 0] + 1j * found[..., 1], keypoints[..., 0] + 1j * keypoints[..., 1]
    factors = (ours[1:] - ours[0]).ravel() / (theirs[1:] - theirs[0]).ravel()
    assert_allclose(factors, factors[0], rtol=2e-2)
    assert abs(abs(factors[0]) - 1 / np.median(truth.scale)) < 0.01
    assert abs(np.median(found - PERSON, (0, 1))).max() < 3


def test_any_number_of_points(calibrated, rng):
    calibration, _, truth, _ = calibrated
    hands = rng.uniform(0, 80, (133, 2))
    found = calibration.retarget(truth.apply(hands)[:, None], mode="frame")
    assert_allclose(found[:, 0], np.broadcast_to(hands, (30, 133, 2)), atol=0.05)


def _length(points, a, b) -> float:
    return float(np.median(np.linalg.norm(points[:, a] - points[:, b], axis=-1)))


def test_limbs_keep_the_references_lengths(calibrated):
    _, _, truth, (image, driving, given) = calibrated
    longer = PERSON.copy()
    for shoulder, elbow, wrist in ((5, 7, 9), (6, 8, 10), (11, 13, 15), (12, 14, 16)):  # arms and legs 1.5 times
        longer[[elbow, wrist]] += 0.5 * (PERSON[[elbow, wrist]] - PERSON[shoulder])
    given["driving_keypoints"] = truth.apply(longer)
    calibration = calibrate(image, driving, smooth="none", **given)
    long, short = (calibration.retarget(mode="frame", keep_limbs=keep)[:, 0] for keep in (False, True))
    assert _length(long, 7, 9) > 1.2 * _length(PERSON[None], 7, 9)
    pelvis = short[:, [11, 12]].mean(1, keepdims=True)
    assert_allclose(short - pelvis, np.broadcast_to(PERSON - PERSON[[11, 12]].mean(0), (30, 17, 2)), atol=0.5)


def test_who_comes_nearer_does_not_grow(rng):
    """The camera goes from 0.9 to 1.2 of the photo's scale: the proportions are the photo's all the same."""
    image, mask, driving, keypoints, _, truth = scene(rng, 60)
    assert truth.scale.max() > 1.3 * truth.scale.min()
    given = {"reference_keypoints": PERSON, "reference_mask": mask, "driving_keypoints": keypoints, "size": (96, 128)}
    calibration = calibrate(image, driving, smooth="none", **given)
    assert_allclose(calibration.retarget(keep_limbs=True), calibration.retarget(), atol=0.2)


def test_a_limbs_length_is_that_of_where_it_is_seen_whole(calibrated):
    """A fore-arm a quarter longer, which points at the camera most of the time, and is too long by mistake twice."""
    _, _, truth, (image, driving, given) = calibrated
    shares = np.array([3.0] * 2 + [1.0] * 10 + [0.4] * 18)
    figure = np.repeat(PERSON[None], 30, 0)
    figure[:, 9] = PERSON[7] + 1.25 * shares[:, None] * (PERSON[9] - PERSON[7])
    figure[:, 10] = PERSON[8] + 1.25 * (PERSON[10] - PERSON[8])
    given["driving_keypoints"] = truth.apply(figure)
    calibration = calibrate(image, driving, smooth="none", **given)
    found = calibration.retarget(mode="frame", keep_limbs=True)[:, 0]
    lengths = np.linalg.norm(found[:, 9] - found[:, 7], axis=-1) / np.linalg.norm(PERSON[9] - PERSON[7])
    assert_allclose(lengths, shares, rtol=0.05)


def test_missing_points_stay_missing(calibrated):
    calibration, keypoints, _, _ = calibrated
    keypoints[4, 9] = np.nan
    found = calibration.retarget(keypoints[:, None], keep_limbs=True)
    assert np.isnan(found[4, 0, 9]).all()
    assert np.isfinite(np.delete(found[:, 0], 9, 1)).all()


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (ValueError, "mode must be one of constant, frame, but is 'best'", (None, {"mode": "best"})),
        (ValueError, r"keypoints must be \[30, 1, K, 2\], but is", (np.zeros((3, 1, 17, 2)), {})),
        (
            ValueError,
            "keypoints must be 17 or 133 a person for keep_limbs, but are 5",
            (np.zeros((30, 1, 5, 2)), {"keep_limbs": True}),
        ),
        (TypeError, "keypoints must be an array", (object(), {})),
    ],
)
def test_bad_input(calibrated, error, match, arguments):
    with pytest.raises(error, match=match):
        calibrated[0].retarget(arguments[0], **arguments[1])


def test_the_old_name_works_and_warns(calibrated):
    from tpc_fast.calibration.retarget import retarget_keypoints

    calibration, keypoints, _, _ = calibrated
    for given in (None, keypoints[:, None]):
        with pytest.warns(DeprecationWarning, match=r"is now calibration\.retarget\(keypoints\)"):
            found = retarget_keypoints(given, calibration, "frame")
        assert_array_equal(found, calibration.retarget(given, "frame"))


def test_skeletons():
    people = np.stack([0.3 * FIGURE + (50, 15), 0.3 * FIGURE + (120, 15)])
    scores = np.ones((2, 17))
    scores[1, 9] = 0.1
    picture = draw_skeletons(people, scores, (110, 170), width=2)
    assert picture.shape == (110, 170, 3)
    for person, (x, y) in enumerate(np.rint(people[:, 9]).astype(int)):
        assert tuple(picture[y, x]) == ((0, 0, 0) if person else (0, 255, 85))  # OpenPose's colour of the left wrist
    x, y = np.rint(people[0, [5, 6]].mean(0)).astype(int)
    assert tuple(picture[y, x]) == (255, 85, 0)
    elbow, wrist = people[0, [8, 10]]
    x, y = np.rint((elbow + wrist) / 2).astype(int)
    assert tuple(picture[y, x]) == tuple(int(0.6 * c) for c in (255, 255, 0))
    assert_array_equal(draw_skeletons(np.zeros((0, 17, 2)), None, (20, 30)), np.zeros((20, 30, 3)))
    with pytest.raises(ValueError, match=r"keypoints must be \[P, 17, 2\]"):
        draw_skeletons(np.zeros((17, 2)), None, (20, 30))
