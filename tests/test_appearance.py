"""Persons are known again by what they wear: after an absence, and when a neighbour stands where they were."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from test_matching import FIGURE

import tpc_fast
from tpc_fast.pose.detect.appearance import COUNT, colour_distances, torso_colours
from tpc_fast.pose.follow.matching import IdentityTracker, PeopleMatcher

RED, BLUE, GREEN = (200, 40, 30), (30, 60, 190), (40, 160, 60)
SIZE = (400, 900)
POINTS = 0.4 * FIGURE + (60, 120)


def filmed(rng, frames):
    """Frames of lists of (x, colour) -> pictures with noise and changing light, and keypoints [F] of [D, 17, 2]."""
    pictures, keypoints = [], []
    for f, people in enumerate(frames):
        picture = np.full((*SIZE, 3), 120.0)
        points = np.stack([POINTS + (x, 0) for x, _ in people]) if people else np.zeros((0, 17, 2))
        for (_, colour), body in zip(people, points, strict=True):
            (left, top), (right, bottom) = body[:13].min(0).astype(int), body[:13].max(0).astype(int) + 1
            picture[max(top, 0) : bottom, max(left, 0) : right] = colour
        picture = picture * (1 + 0.15 * np.sin(f)) + rng.normal(0, 6, picture.shape)
        pictures.append(picture.clip(0, 255).astype(np.uint8))
        keypoints.append(points)
    return pictures, keypoints


def numbers(rng, frames, seconds=0.1):
    tracker, found = IdentityTracker(), []
    for f, (picture, points) in enumerate(zip(*filmed(rng, frames), strict=True)):
        seen = np.ones(points.shape[:2], bool)
        colours = torso_colours(picture, points, seen.astype(float), 0.3)
        found.append(tracker.step(points, seen, f * seconds, colours=colours).tolist())
    return found


def test_who_comes_back_elsewhere_keeps_the_number(rng):
    frames = [[(0, RED), (200, BLUE)]] * 5 + [[(0, RED)]] * 6 + [[(700, BLUE), (0, RED)]] * 3
    found = numbers(rng, frames)
    assert found[4] == [0, 1]
    assert found[-1] == [1, 0]
    assert found[11] == [1, 0]  # at once


def test_a_neighbour_does_not_take_the_number(rng):
    """The person in blue goes; a moment later somebody in green stands in that place."""
    frames = [[(0, RED), (200, BLUE)]] * 5 + [[(0, RED)]] * 6 + [[(0, RED), (215, GREEN)]] * 3
    assert numbers(rng, frames)[-1] == [0, 2]
    alone = [[(200, BLUE)]] * 2 + [[]] * 6 + [[(215, GREEN)]]
    assert numbers(rng, alone)[-1] == [1]
    # Who is covered for a moment stays the same: colours are those of whoever stands in front.
    covered = [[(0, RED), (200, BLUE)]] * 5 + [[(0, RED), (200, GREEN)]] * 3 + [[(0, RED), (200, BLUE)]] * 2
    assert all(one == [0, 1] for one in numbers(rng, covered))


def test_everybody_at_once_elsewhere(rng):
    """A jump of the camera, in which the places of two are exchanged."""
    frames = [[(0, RED), (150, BLUE)]] * 5 + [[(650, BLUE), (800, RED)]] * 2
    assert numbers(rng, frames)[-1] == [1, 0]


def test_without_colours_nothing_changes(rng):
    points = np.stack([POINTS, POINTS + (200, 0)])
    seen = np.ones((2, 17), bool)
    unknown = np.full((2, COUNT), np.nan, np.float32)
    one, other = IdentityTracker(), IdentityTracker()
    for f in range(12):
        order = rng.permutation(2)[: 1 + f % 2]
        some = points[order] + 20 * f + rng.normal(0, 30, (len(order), 17, 2))
        np.testing.assert_array_equal(
            one.step(some, seen[order], f / 10), other.step(some, seen[order], f / 10, colours=unknown[order])
        )


def test_a_role_comes_back_with_the_person_and_is_lent_only_after_a_second(rng):
    """In blue, out of sight for half a second, back elsewhere; a neighbour in green plays it only after a second."""
    reference = np.stack([POINTS, POINTS + (200, 0)])
    both, back = [[(0, RED), (200, BLUE)]] * 5, [[(0, RED), (700, BLUE)]] * 5
    near = [[(0, RED), (210, GREEN)]] * 15
    for gap, after, played in (([[(0, RED)]] * 5, back, [1] * 5), ([[(0, RED)]] * 6, near, [-1] * 4 + [1] * 11)):
        frames = both + gap + after
        matcher = PeopleMatcher(reference, np.ones((2, 17)), SIZE)
        roles = []
        for f, (picture, points) in enumerate(zip(*filmed(rng, frames), strict=True)):
            scores = np.ones(points.shape[:2])
            colours = torso_colours(picture, points, scores, 0.3)
            roles.append(matcher.step(points, scores, SIZE, f / 10, colours).tolist())
        assert all(role[0] == 0 for role in roles)
        assert [role[1] for role in roles[len(both) + len(gap) :]] == played


def test_a_whole_calibration_knows_persons_again(rng):
    frames = [[(0, RED), (200, BLUE)]] * 5 + [[(0, RED)]] * 6 + [[(700, BLUE), (0, RED)]] * 8
    pictures, points = filmed(rng, frames)
    driving = np.full((len(frames), 2, 17, 2), np.nan)
    for f, some in enumerate(points):
        driving[f, : len(some)] = some
    photo, _ = filmed(rng, [[(0, RED), (200, BLUE)]])
    known = dict(reference_keypoints=np.stack([POINTS, POINTS + (200, 0)]), driving_keypoints=driving, fps=10)
    clip = tpc_fast.calibrate(photo[0], pictures, size=SIZE, cuts="none", **known)
    assert_allclose(clip.keypoints[11:, 1, 0], points[11][:1, 0].repeat(8, 0), atol=0.5)
    with tpc_fast.Calibrator(photo[0], size=SIZE, fps=10, reference_keypoints=known["reference_keypoints"]) as stream:
        for picture, some in zip(pictures, points, strict=True):
            scores = np.ones(some.shape[:2], np.float32)
            seen = stream.step(picture, detection=tpc_fast.pose.Detection(some.astype(np.float32), scores))
        assert_allclose(seen.keypoints[1, 0], points[-1][0, 0], atol=0.5)


def test_colours_are_a_histogram_and_their_distance_one(rng):
    pictures, points = filmed(rng, [[(0, RED), (200, BLUE)]])
    scores = np.ones((2, 17))
    found = torso_colours(pictures[0], points[0], scores, 0.3)
    assert_allclose(found.sum(1), 1, rtol=1e-6)
    apart = colour_distances(found, found)
    assert_allclose(np.diag(apart), 0, atol=1e-3)
    assert apart[0, 1] > 0.8
    # Pure colours fall into the bins of their hue; greys into those of their value.
    for colour, place in (
        ((255, 0, 0), 9),
        ((0, 255, 0), 39),
        ((0, 0, 255), 69),
        ((128, 128, 128), 105),
        ((9, 0, 0), 100),
    ):
        one = torso_colours(np.full((*SIZE, 3), colour, np.uint8), points[0][:1], scores[:1], 0.3)
        assert one[0].argmax() == place
    scores[0, 11] = 0
    outside = points[0] + (2000, 0)
    assert np.isnan(torso_colours(pictures[0], points[0], scores, 0.3)[0]).all()
    assert np.isnan(torso_colours(pictures[0], outside, np.ones((2, 17)), 0.3)).all()
    assert np.isnan(colour_distances(found, np.full((1, COUNT), np.nan))).all()
    assert torso_colours(pictures[0], points[0][:0], scores[:0], 0.3).shape == (0, COUNT)


@pytest.mark.parametrize("name", ["ALIKE", "UNLIKE", "DOUBT_SECONDS"])
def test_each_constant_counts(rng, monkeypatch, name):
    """Without it somebody has a wrong number."""
    monkeypatch.setattr(
        f"tpc_fast.pose.follow.matching.{name}", {"ALIKE": 0.0, "UNLIKE": 1.0, "DOUBT_SECONDS": 9.0}[name]
    )
    check = (
        test_who_comes_back_elsewhere_keeps_the_number if name == "ALIKE" else test_a_neighbour_does_not_take_the_number
    )
    with pytest.raises(AssertionError):
        check(rng)
