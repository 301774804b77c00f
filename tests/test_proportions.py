"""The rules of body proportions: each test fails without its rule."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scene import PERSON

from tpc_fast.calibration.proportions import BOUNDS, lengths, ratios, with_ratios

ONES = np.ones(17)
LIMBS = {"upper arm": (5, 7, 9), "forearm": (7, 9), "thigh": (11, 13, 15), "shin": (13, 15)}


def stretched(person, factors: dict) -> np.ndarray:
    """A person [17, 2] with other proportions."""
    same = dict.fromkeys(("torso", "shoulders", "hips", "neck", "head", *LIMBS), 1.0)
    return with_ratios(person[None], same | factors)[0]


def clip(person, frames: int = 12) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(person[None], frames, 0), np.ones((frames, 17))


def test_a_child_gets_its_own_proportions():
    child = {"head": 1.6, "neck": 1.2, "shoulders": 0.8, "hips": 0.9, "upper arm": 0.7, "forearm": 0.75, "thigh": 0.6,
             "shin": 0.65}  # fmt: skip
    photo = stretched(PERSON, child)
    found = ratios(photo, ONES, *clip(PERSON))
    for part, factor in child.items():
        assert found[part] == pytest.approx(factor, rel=1e-3), part
    assert_allclose(with_ratios(clip(PERSON)[0], found)[0], photo, atol=1e-2)


@pytest.mark.parametrize("bounds", [BOUNDS, (0.8, 1.25)])
def test_ratios_are_bounded(bounds):
    chibi = {"head": 3.0, "neck": 1.6, "upper arm": 0.3, "forearm": 0.3, "thigh": 0.25, "shin": 0.25}
    found = ratios(stretched(PERSON, chibi), ONES, *clip(PERSON), bounds)
    assert found["head"] == bounds[1]
    assert all(found[limb] == bounds[0] for limb in LIMBS)


def test_a_forearm_that_points_at_the_camera_is_measured_on_the_other_side():
    photo = PERSON.copy()
    photo[9] = photo[7] + 0.1 * (photo[9] - photo[7])
    found = ratios(photo, ONES, *clip(PERSON))
    assert found["forearm"] == pytest.approx(1, abs=1e-6)


def test_forearms_that_both_point_at_the_camera_are_measured_by_the_upper_arms():
    photo = PERSON.copy()
    photo[[9, 10]] = photo[[7, 8]] + 0.1 * (photo[[9, 10]] - photo[[7, 8]])
    photo[[15, 16]] = photo[[13, 14]] + 0.1 * (photo[[15, 16]] - photo[[13, 14]])
    found = ratios(photo, ONES, *clip(PERSON))
    assert found["forearm"] == found["shin"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("who", ["photo", "driver"])
def test_shoulders_and_hips_seen_from_the_side_are_not_measured(who):
    side = PERSON.copy()
    for pair in ([5, 6], [11, 12]):
        side[pair] = side[pair].mean(0) + 0.15 * (side[pair] - side[pair].mean(0))
    photo, driver = (side, PERSON) if who == "photo" else (PERSON, side)
    found = ratios(photo, ONES, *clip(driver))
    assert found["shoulders"] == pytest.approx(1, abs=0.02)
    assert found["hips"] == pytest.approx(1, abs=0.02)


def test_a_bowed_head_is_measured_by_its_width_and_a_profile_by_the_neck():
    bowed = PERSON.copy()
    neck = PERSON[[5, 6]].mean(0)
    bowed[:5] += 0.7 * (neck - PERSON[0])
    assert ratios(bowed, ONES, *clip(PERSON))["neck"] == pytest.approx(1, abs=1e-6)
    profile = PERSON.copy()
    profile[1:5] = PERSON[0] + 0.1 * (PERSON[1:5] - PERSON[0])
    assert ratios(profile, ONES, *clip(PERSON))["head"] == pytest.approx(1, abs=1e-6)


def test_sides_are_alike_and_weigh_by_their_scores():
    photo = PERSON.copy()
    photo[9] = photo[7] + 0.8 * (photo[9] - photo[7])
    scores = ONES.copy()
    scores[10] = 0.4
    found = ratios(photo, scores, *clip(PERSON))["forearm"]
    assert found == pytest.approx((0.8 * 1 + 1 * 0.4) / 1.4, rel=1e-4)
    moved = with_ratios(PERSON[None], dict.fromkeys(ratios(photo, scores, *clip(PERSON)), 1.0) | {"forearm": found})[0]
    left, right = (np.linalg.norm(moved[w] - moved[e]) for w, e in ((9, 7), (10, 8)))
    assert left == pytest.approx(right, rel=1e-4)


def test_guessed_points_do_not_count():
    photo, scores = PERSON.copy(), ONES.copy()
    photo[[9, 10]] += 30
    scores[[9, 10]] = 0.1
    assert ratios(photo, scores, *clip(PERSON))["forearm"] == pytest.approx(1, abs=1e-6)
    driver, seen = clip(PERSON)
    driver[:6, 9:11] += 30
    seen[:6, 9:11] = 0.1
    assert ratios(PERSON, ONES, driver, seen)["forearm"] == pytest.approx(1, abs=1e-6)


def test_legs_that_a_photo_does_not_show_are_as_the_arms():
    short = dict.fromkeys(LIMBS, 0.7)
    photo = stretched(PERSON, short)
    photo[11 + 2 :] = np.nan
    found = ratios(photo, ONES, *clip(PERSON))
    assert found["thigh"] == found["shin"] == pytest.approx(0.7, rel=1e-4)
    photo[7:] = np.nan
    assert ratios(photo, ONES, *clip(PERSON))["thigh"] == 1


def test_a_limbs_length_is_that_of_where_it_is_stretched():
    driver, scores = clip(PERSON, 20)
    driver[:16, 9:11] = PERSON[7:9] + 0.3 * (PERSON[9:11] - PERSON[7:9])
    driver[16, 9:11] = PERSON[7:9] + 3 * (PERSON[9:11] - PERSON[7:9])  # a mistake of the detector
    length, _ = lengths(driver, scores)["forearm"]
    assert length == pytest.approx(np.linalg.norm(PERSON[9] - PERSON[7]), rel=1e-4)


def test_noise_shortens_the_trunk_little(rng):
    driver, scores = clip(PERSON, 1600)
    driver *= np.exp(rng.normal(0, 0.05, (1600, 1, 1)))
    found = ratios(PERSON, ONES, driver, scores)
    # 0.967 with a standard deviation of 0.0016 (of 400 frames 0.0032); with 90 instead of 75 it is 0.938.
    assert all(found[part] > 0.955 for part in ("torso", "shoulders", "hips", "neck", "head"))


def test_hands_feet_and_faces_go_along(rng):
    whole = rng.normal(0, 3, (5, 133, 2))
    whole[:, :17] = PERSON
    whole[:, 23:91] += PERSON[0]
    same = dict.fromkeys(("torso", "shoulders", "hips", "neck", "head", *LIMBS), 1.0)
    assert_allclose(with_ratios(whole, same), whole)
    moved = with_ratios(whole, same | {"head": 2.0, "forearm": 0.5, "shin": 0.5, "torso": 1.2})
    assert_allclose(moved[:, 23:91] - moved[:, :1], 2 * (whole[:, 23:91] - whole[:, :1]))
    for children, parent in ((slice(91, 112), 9), (slice(112, 133), 10), (slice(17, 20), 15), (slice(20, 23), 16)):
        there = moved[:, children] - moved[:, parent, None]
        assert_allclose(there, 0.5 * (whole[:, children] - whole[:, parent, None]))


def test_what_hangs_on_a_missing_point_moves_with_the_one_before():
    points = PERSON[None].copy()
    points[:, 7] = np.nan
    same = dict.fromkeys(("torso", "shoulders", "hips", "neck", "head", *LIMBS), 1.0)
    moved = with_ratios(points, same | {"torso": 1.5})
    assert_allclose(moved[0, 9] - points[0, 9], moved[0, 5] - points[0, 5])
    assert np.isnan(moved[0, 7]).all()
    for group in ([5, 6], [11, 12], [5, 6, 11, 12]):
        points = PERSON[None].copy()
        points[:, group] = np.nan
        assert_allclose(with_ratios(points, same), points)


@pytest.mark.parametrize("bounds", [(0.5,), (0, 2), (1.2, 2), (0.5, 0.9), (0.5, np.inf), None, "ab"])
def test_bad_bounds(bounds):
    with pytest.raises(ValueError, match="bounds must be"):
        ratios(PERSON, ONES, *clip(PERSON), bounds)


def test_where_the_limits_are():
    photo = PERSON.copy()
    photo[[9, 10]] = photo[[7, 8]] + 0.6 * (photo[[9, 10]] - photo[[7, 8]])  # foreshortened: below 0.7
    assert ratios(photo, ONES, *clip(PERSON))["forearm"] == pytest.approx(1, abs=1e-6)
    photo[[9, 10]] = PERSON[[7, 8]] + 0.75 * (PERSON[[9, 10]] - PERSON[[7, 8]])  # short: above
    assert ratios(photo, ONES, *clip(PERSON))["forearm"] == pytest.approx(0.75, rel=1e-4)
    side = PERSON.copy()
    torso = np.linalg.norm(PERSON[[5, 6]].mean(0) - PERSON[[11, 12]].mean(0))
    half = (PERSON[5] - PERSON[6]) / np.linalg.norm(PERSON[5] - PERSON[6]) * torso / 2
    for share, measured in ((0.4, False), (0.5, True)):
        side[[5, 6]] = PERSON[[5, 6]].mean(0) + np.outer([1, -1], half) * share
        assert np.isfinite(lengths(*clip(side))["shoulders"][0]) == measured


def test_who_turns_away_most_of_the_time_is_as_broad_as_from_the_front():
    driver, scores = clip(PERSON, 20)
    neck = PERSON[[5, 6]].mean(0)
    driver[:12, 5:7] = neck + 0.7 * (PERSON[5:7] - neck)
    assert lengths(driver, scores)["shoulders"][0] == pytest.approx(np.linalg.norm(PERSON[5] - PERSON[6]), rel=1e-4)
