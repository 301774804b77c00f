"""Cuts are found, and what looks like one is not: a dance, a flash, a swapped detector, a mistake of one frame."""

import numpy as np
import pytest
import walker
from test_track import SIZE, placed

from tpc_fast.media.picture_difference import AROUND_SECONDS, TIMES_SURE, CutWatch, PictureDifference, stands_out
from tpc_fast.pose.follow import shots
from tpc_fast.pose.follow.shots import JUMP_LEAST, find_cuts, keypoint_jumps, main_person


def pictures(rng, frames, cuts=(), flash=(), pan=0):
    """Pictures [F, 90, 160, 3] of a textured room, another one after each cut."""
    rooms = [np.kron(rng.uniform(0, 255, (12, 40, 3)), np.ones((8, 8, 1))) for _ in range(len(cuts) + 1)]
    out = []
    for f in range(frames):
        room = rooms[sum(f >= cut for cut in cuts)]
        picture = np.roll(room, -pan * f, 1)[:90, :160] * (1.6 if f in flash else 1) + rng.normal(0, 3, (90, 160, 3))
        out.append(picture.clip(0, 255).astype(np.uint8))
    return out


def differences(frames):
    measure = PictureDifference()
    return np.array([measure.step(frame) for frame in frames])


@pytest.fixture
def walked(rng):
    driving, times = walker.walk(60)
    return walker.noisy(rng, driving, SIZE, 0.2), np.ones((60, 17)), times


def test_a_cut_is_found(rng, walked):
    keypoints, scores, times = walked
    keypoints = placed(keypoints, np.where(np.arange(60) < 30, 1.0, 3.0))
    seen = differences(pictures(rng, 60, [30]))
    assert find_cuts(keypoints, scores, times, seen) == [30]
    assert find_cuts(keypoints, scores, times) == [30]
    assert find_cuts(keypoints[:, None], scores[:, None], times, seen) == [30]
    scores[30:] = 0  # nobody in the new shot
    assert find_cuts(keypoints, scores, times, seen) == [30]


def test_a_cut_to_the_same_place_needs_the_picture(rng, walked):
    keypoints, scores, times = walked
    assert find_cuts(keypoints, scores, times) == []
    assert find_cuts(keypoints, scores, times, differences(pictures(rng, 60, [20, 45]))) == [20, 45]


def test_what_is_no_cut(rng, walked):
    keypoints, scores, times = walked
    still = differences(pictures(rng, 60))
    assert find_cuts(keypoints, scores, times, still) == []
    # A fast dancer: across the picture at 5 person sizes a second, arms up and down.
    dance = placed(keypoints, 1.0, 0.4 * np.sin(9 * times), 5 * SIZE * np.sin(times)[:, None] * [1, 0])
    dance[:, 7:11, 1] -= 150 * abs(np.sin(12 * times))[:, None]
    assert find_cuts(dance, scores, times, still) == []
    assert find_cuts(dance, scores, times) == []
    # A detector's mistake of one frame; flashes; a fast pan.
    wrong = keypoints.copy()
    wrong[25] = placed(keypoints[25:26], 0.3, 1.0, (300, 100))[0]
    assert find_cuts(wrong, scores, times) == []
    assert find_cuts(wrong, scores, times, still) == []
    assert find_cuts(keypoints, scores, times, differences(pictures(rng, 60, flash=(10, 11, 40)))) == []
    assert find_cuts(keypoints, scores, times, differences(pictures(rng, 60, pan=6))) == []


def shifted(jump, frames=60, at=30):
    """Somebody who stands still, and from a frame on stands `jump` person sizes aside."""
    photo = walker.film(walker.body())
    size = 2 * np.linalg.norm(photo.std(0))
    return photo + np.where(np.arange(frames) < at, 0, jump * size)[:, None, None] * [1, 0]


@pytest.mark.parametrize(
    ("jump", "difference", "cut"),
    [
        (0.0, 0.40, False),  # eight times as much as is usual: what a flash or a door does
        (0.0, 0.60, True),  # twelve times: a cut, whatever keypoints say
        (2.0, 0.15, False),  # three times, and keypoints jump: still usual
        (2.0, 0.25, True),
        (0.25, 0.25, False),  # as far as a run takes somebody
        (0.5, 0.25, True),
    ],
)
def test_how_much_is_a_cut(jump, difference, cut):
    """Pictures differ by 0.05 from frame to frame, and by more at frame 30."""
    picture = np.where(np.arange(60) == 30, difference, 0.05)
    assert find_cuts(shifted(jump), np.ones((60, 17)), np.arange(60) / 24, picture) == [30] * cut


@pytest.mark.parametrize(("difference", "cut"), [(0.08, False), (0.12, True)])
def test_in_a_still_picture_a_tenth_is_a_cut(difference, cut):
    picture = np.where(np.arange(60) == 30, difference, 0.001)
    assert find_cuts(shifted(2.0), np.ones((60, 17)), np.arange(60) / 24, picture) == [30] * cut


@pytest.mark.parametrize(("jump", "cut"), [(0.8, False), (1.3, True)])
def test_how_far_nobody_jumps(jump, cut):
    """Without pictures."""
    assert find_cuts(shifted(jump), np.ones((60, 17)), np.arange(60) / 24) == [30] * cut


def cuts_of_all_frames(keypoints, scores, times, picture):
    """`find_cuts` as it is defined, with the jumps of every frame."""
    jumps, cuts = keypoint_jumps(keypoints, scores, times), []
    for f in range(1, len(times)):
        near = (abs(times - times[f]) <= AROUND_SECONDS) & ~np.isin(np.arange(len(times)), [0, f])
        if stands_out(picture[f], picture[near]) and not (cuts and f - cuts[-1] < 2):
            if not jumps[f] < JUMP_LEAST or stands_out(picture[f], picture[near], TIMES_SURE):
                cuts.append(f)
    return cuts


def test_keypoints_are_compared_only_where_pictures_differ(rng, monkeypatch):
    jump, compared = shots._jump, []
    monkeypatch.setattr(shots, "_jump", lambda *args: compared.append(args[-1]) or jump(*args))
    for _ in range(30):
        frames, persons = rng.integers(0, 40), rng.integers(0, 4)
        keypoints = rng.normal(0, 50, (1, persons, 17, 2)) + rng.normal(0, 3, (frames, persons, 17, 2))
        for at in rng.integers(0, frames + 1, rng.integers(0, 4)):
            keypoints[at:] += rng.normal(0, 50, 2)
        scores = np.where(rng.random((frames, persons, 17)) < 0.3, 0, 1)
        scores[rng.random((frames, persons)) < 0.1] = 0
        times = np.cumsum(rng.choice([0, 1 / 24, 1 / 30, 0.2], frames))
        picture = np.where(rng.random(frames) < 0.1, rng.uniform(0, 1, frames), rng.uniform(0, 0.08, frames))
        expected = cuts_of_all_frames(keypoints, scores, times, picture)
        compared.clear()
        assert find_cuts(keypoints, scores, times, picture) == expected
        assert len(compared) == len(set(compared)) <= np.count_nonzero(picture[1:] >= 0.1)


def test_usual_is_what_is_near():
    times, scores, keypoints = np.arange(96) / 24, np.ones((96, 17)), shifted(2.0, 96, 48)
    lively = np.where(abs(np.arange(96) - 48) <= 10, 0.02, 0.1)  # calm for 0.4 s to both sides
    lively[48] = 0.15
    assert find_cuts(keypoints, scores, times, lively) == [48]
    # Of two changes within half a second the larger is the cut.
    for apart, cuts in ((10, [58]), (14, [48, 62])):
        picture = np.full(96, 0.02)
        picture[48], picture[48 + apart] = 0.3, 0.5
        assert find_cuts(keypoints, scores, times, picture) == cuts


def test_a_difference_sees_layout_and_brightness_but_not_small_motion(rng):
    fine = np.kron(rng.integers(0, 256, (45, 80)), np.ones((2, 2))).astype(np.uint8)
    half = np.where(np.arange(160) < 80, 40, 210).astype(np.uint8)[None].repeat(90, 0)
    checks = np.where((np.arange(160) // 20 + np.arange(90)[:, None] // 15) % 2, 40, 210).astype(np.uint8)
    spots = np.where(np.arange(160) % 40 < 10, 255, 85).astype(np.uint8)[None].repeat(90, 0)
    assert differences([fine, np.roll(fine, 2, 1)])[1] < 0.1
    assert differences([half, half[:, ::-1]])[1] > 0.4  # the same brightness, elsewhere
    assert differences([half, checks])[1] > 0.2
    assert differences([np.full_like(half, 85), spots])[1] > differences([half, half])[1] + 0.1


def test_difference_of_pictures(rng):
    frames = pictures(rng, 3, [2])
    measure = PictureDifference()
    assert measure.step(frames[0]) == 0
    assert measure.step(frames[0]) == 0
    assert measure.step(frames[1]) < 0.02
    assert measure.step(frames[2]) > 0.1
    measure.reset()
    assert measure.step(frames[0]) == 0
    for shape in ((5, 7), (1, 1, 3), (1080, 1920, 3), (16, 300)):
        measure.reset()
        assert measure.step(np.zeros(shape, np.uint8)) == 0
        assert 0 <= measure.step(rng.integers(0, 256, shape, np.uint8)) <= 1
    with pytest.raises(TypeError, match="frame must be a uint8 array"):
        measure.step(np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"frame must be \[H, W, 3\]"):
        measure.step(np.zeros((4, 4, 2), np.uint8))


def test_nobody_and_nothing():
    none = np.full((5, 1, 17, 2), np.nan)
    assert find_cuts(none, np.zeros((5, 1, 17)), np.arange(5.0)) == []
    assert find_cuts(none[:0], np.zeros((0, 1, 17)), np.zeros(0), np.zeros(0)) == []
    assert find_cuts(none[:, :0], np.zeros((5, 0, 17)), np.arange(5.0)) == []
    assert np.isnan(keypoint_jumps(none, np.zeros((5, 1, 17)), np.arange(5.0))[1:]).all()
    with pytest.raises(ValueError, match=r"keypoints must be \[F, P, K, 2\]"):
        find_cuts(none, np.zeros(5), np.arange(5.0))
    with pytest.raises(ValueError, match=r"times must be \[5\]"):
        find_cuts(none, np.zeros((5, 1, 17)), np.arange(4.0))


def test_the_main_person_is_the_largest(walked):
    keypoints, scores, _ = walked
    one, two, nobody = keypoints[0], 2 * keypoints[0], np.zeros((0, 17, 2))
    found, given = main_person(
        [(np.stack([one, two]), np.stack([scores[0]] * 2)), (nobody, nobody[..., 0]), (two[None], 0 * scores[:1])]
    )
    np.testing.assert_array_equal(found[0], two)
    assert (given.max(1) > 0).tolist() == [True, False, False]
    assert main_person([])[0].shape == (0, 17, 2)


def test_a_stream_finds_the_same_cuts_in_pictures(rng):
    frames = pictures(rng, 60, [20, 45], flash=(10, 11))
    watch = CutWatch()
    assert [f for f, frame in enumerate(frames) if watch.step(frame)] == [20, 45]
    assert not watch.step(np.zeros((40, 40, 3), np.uint8))  # another size: another video
