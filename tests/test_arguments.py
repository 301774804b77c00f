"""Arguments of other kinds, and numbers beyond floats: errors name the argument."""

import numpy as np
import pytest
from test_layout import make_calibration

import tpc_fast
from tpc_fast import _checks

HUGE = 10**400  # which no float holds
MASKED = np.ma.masked_array([1, 2], [0, 1])
POINTS = np.random.default_rng(0).uniform(0, 50, (1, 17, 2))
CLIP = np.zeros((3, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def calibration():
    return make_calibration(3)


def calibrate(**options):
    return tpc_fast.calibrate(
        CLIP[0], CLIP, reference_keypoints=POINTS, reference_mask=CLIP[:1, ..., 0] + 255,
        driving_keypoints=np.stack([POINTS] * 3), size=16, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    "value", [None, True, np.True_, "1", 1j, HUGE, -HUGE, np.nan, np.inf, np.float32("nan"), [1], np.ones(1)]
)
def test_what_is_no_finite_number(value):
    assert not _checks.is_finite(value)


@pytest.mark.parametrize("value", [0, -1.5, np.float32(2), np.int64(3), 10**30])
def test_what_is_one(value):
    assert _checks.is_finite(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fps", HUGE), ("fps", "25"), ("fps", True), ("score_threshold", HUGE), ("hold_seconds", HUGE),
        ("fade_seconds", np.array([1, 2])), ("match", [(np.inf, 0)]), ("match", np.ma.masked_array([[0, 0]], [[0, 1]])),
        ("depth", MASKED), ("depth", [np.inf]), ("progress", 5),
    ],
)  # fmt: skip
def test_calibrate_names_the_argument(name, value):
    with pytest.raises((ValueError, TypeError), match=f"^{name} must be"):
        calibrate(**{name: value})


@pytest.mark.parametrize("value", [None, True, 5, HUGE, 2.5, "", "ab", [], {}, [None, 1], (0, 5), (5, 6, 7), 1j])
def test_sizes(calibration, value):
    with pytest.raises(ValueError, match=r"^size must be \(height, width\), each at least 1, but is"):
        calibration.render(0, size=value)
    if value is None:
        return
    with pytest.raises(ValueError, match=r"^size must be \(height, width\)"):
        next(calibration.driving_frames(value))
    with pytest.raises(ValueError, match=r"^scale_to must be \(height, width\)"):
        tpc_fast.VideoReader(CLIP, scale_to=value)


@pytest.mark.parametrize("value", [None, True, 2.5, HUGE, np.nan, "x", {}, object(), [None], np.zeros(2), [[0, 1]]])
def test_frames(calibration, value):
    with pytest.raises(TypeError, match=r"^frames must be an index, several, or a slice, but is"):
        calibration.render(value)


@pytest.mark.parametrize("value", [3, -4, [0, 9]])
def test_frames_that_are_not_there(calibration, value):
    with pytest.raises(IndexError, match=r"^frames must be among the 3 there are, but is"):
        calibration.render(value)


def test_frames_that_are(calibration):
    for value, count in ((0, 1), (np.int64(-1), 1), (slice(None), 3), ([0, 2], 2), (np.array([True, False, True]), 2)):
        assert len(calibration.render(value).image) == count


def test_numbers_that_no_float_holds(calibration):
    with pytest.raises(ValueError, match=r"^step must be an integer from 1 to"):
        calibration.every(HUGE)
    with pytest.raises(ValueError, match=r"^tolerance must be > 0 and finite"):
        tpc_fast.search_subset(POINTS, POINTS, HUGE)
    track = dict(reference=POINTS, driving=np.stack([POINTS] * 2), times=[0, 1])
    with pytest.raises(ValueError, match=r"^score_threshold must be a finite number"):
        tpc_fast.estimate_track(**track, score_threshold=HUGE)
    for cuts in (MASKED, [np.inf]):
        with pytest.raises(TypeError, match=r"^cuts must be frame numbers"):
            tpc_fast.estimate_track(**track, cuts=cuts)
    with pytest.raises(ValueError, match=r"^time must be a finite number of seconds"):
        tpc_fast.TrackEstimator(POINTS).step(POINTS, None, HUGE)
