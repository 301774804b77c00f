"""Hard cuts: found where picture and person jump, and nowhere else."""

import numpy as np
import pytest
from scene import FIGURE

from tpc_fast.pose.follow.shots import PictureDifferences, find_cuts, main_person


def differences(pictures):
    compare = PictureDifferences()
    for picture in pictures:
        compare.step(picture)
    return compare.values()


def walk(frames, speed=2.0):
    return FIGURE + np.stack([100 + speed * np.arange(frames), np.full(frames, 50)], -1)[:, None]


TIMES = np.arange(60) / 30


@pytest.fixture
def pictures(rng):
    """Two scenes of grain over blocks, 30 frames each."""
    rooms = rng.integers(0, 256, (2, 9, 16, 3), np.uint8).repeat(20, 1).repeat(20, 2)
    return np.concatenate([np.clip(room + rng.normal(0, 8, (30, *room.shape)), 0, 255) for room in rooms]).astype(
        np.uint8
    )


def test_a_cut_is_found(pictures):
    keypoints = walk(60)
    keypoints[30:] = 2 * keypoints[30:] + [50, 0]
    assert find_cuts(keypoints, TIMES, differences(pictures)) == [30]


def test_who_stays_in_place_is_not_cut(pictures):
    """Another room, or a flash, and the same person in it: there is nothing to be estimated apart."""
    assert find_cuts(walk(60), TIMES, differences(pictures)) == []


def test_who_is_not_seen_on_one_side_is_cut(pictures):
    keypoints = walk(60)
    keypoints[15:30] = np.nan
    assert find_cuts(keypoints, TIMES, differences(pictures)) == [30]
    keypoints[22:25] = walk(60)[22:25]  # seen within half a second before
    assert find_cuts(keypoints, TIMES, differences(pictures)) == []


def test_a_jump_of_the_keypoints_alone_is_no_cut(pictures):
    """A mistake of the detector, or a dancer: the picture goes on."""
    keypoints = walk(60)
    keypoints[20:] += [200, 0]
    assert find_cuts(keypoints, TIMES[:60], differences(pictures[:30].repeat(2, 0))) == []


def test_a_pan_is_no_cut(rng):
    """Every picture differs from the one before as much as the next from it."""
    pictures = rng.integers(0, 256, (60, 90, 160, 3), np.uint8)
    blurred = (
        pictures.reshape(60, 9, 10, 16, 10, 3)[:, :, :1, :, :1].repeat(10, 2).repeat(10, 4).reshape(pictures.shape)
    )
    keypoints = walk(60)
    keypoints[30:] += [200, 0]
    assert differences(blurred).max() > 15
    assert find_cuts(keypoints, TIMES, differences(blurred)) == []


def test_the_size_alone_tells(pictures):
    keypoints = walk(60)
    centre = keypoints[30:].mean(1, keepdims=True)
    keypoints[30:] = centre + 1.3 * (keypoints[30:] - centre)
    assert find_cuts(keypoints, TIMES, differences(pictures)) == [30]


def test_differences_of_pictures():
    black, white = np.zeros((50, 70, 3), np.uint8), np.full((50, 70, 3), 255, np.uint8)
    assert differences([black, black, white]).tolist() == [0, 0, 255]
    assert differences([np.zeros((1, 1, 3), np.uint8)] * 2).tolist() == [0, 0]
    assert differences([]).shape == (0,)


def test_the_main_person_is_the_largest():
    one = np.ones((2, 17))
    people = [
        (np.stack([FIGURE, 2 * FIGURE]), one),
        (np.zeros((0, 17, 2)), np.zeros((0, 17))),
        (FIGURE[None], 0 * one[:1]),
    ]
    found = main_person(people)
    np.testing.assert_array_equal(found[0], 2 * FIGURE)
    assert np.isnan(found[1:]).all()
    assert main_person([]).shape == (0, 17, 2)
