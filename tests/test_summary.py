"""What a summary calls seldom, near and far off."""

import numpy as np
import pytest
from test_report import make_calibration

from tpc_fast.calibration.summary import KEYPOINT_NAMES, _judged, summarise


def test_what_half_of_the_frames_show_is_not_seldom():
    calibration = make_calibration(10)
    calibration.keypoints[4:, 0, 9], calibration.keypoints[6:, 0, 10] = np.nan, np.nan
    assert summarise(calibration)[0].seldom == (KEYPOINT_NAMES[9],)


@pytest.mark.parametrize(
    ("most", "word"), [(0.14, "on the spot"), (0.16, "near"), (0.45, "near"), (0.55, "far off"), (np.nan, "not seen")]
)
def test_offsets_are_judged_by_what_is_seen_of_them(most, word):
    """An eye's width is hardly seen, half a head is the width of a neck."""
    assert _judged((0.05, most)).startswith(word)
