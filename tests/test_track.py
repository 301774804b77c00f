"""One estimate of a whole track: known answers, behaviour where keypoints fail, laws, the core beside its twin."""

import dataclasses

import hypothesis
import numpy as np
import pytest
import walker
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from tpc_fast.naive import track as naive_track
from tpc_fast.ops import track
from tpc_fast.ops.track import MIRRORED, Rates, estimate_track
from tpc_fast.ops.track_stream import TrackEstimator

SIZE = 140.0  # of the walker 4 m before the camera, pixels
LEGS, LIMBS = [11, 12, 13, 14, 15, 16], [7, 8, 9, 10, 13, 14, 15, 16]


def scales(matrices):
    return np.sqrt(np.linalg.det(matrices[..., :2]))


def angles(matrices):
    return np.arctan2(matrices[..., 1, 0], matrices[..., 0, 0])


def moved(matrices, points):
    return points @ matrices[..., :2].swapaxes(-1, -2) + matrices[..., None, :, 2]


def placed(points, scale=1.0, angle=0.0, shift=(0.0, 0.0)):
    """Keypoints [F, 17, 2] under similarities about the middle of the walker's picture, each number or [F]."""
    scale, angle = np.broadcast_to(scale, len(points)), np.broadcast_to(angle, len(points))
    a, middle = scale * np.exp(1j * angle), 640 + 400j
    z = a[:, None] * (points[..., 0] + 1j * points[..., 1] - middle) + middle
    return naive_track.xy(z) + np.broadcast_to(shift, (len(points), 2))[:, None]


@pytest.fixture
def clip(rng):
    """Somebody who walks on the spot, two seconds at 24 frames a second: photo [17, 2], driving [F, 17, 2], times."""
    driving, times = walker.walk(48)
    return walker.film(walker.body()), walker.noisy(rng, driving, SIZE, 0.1), times


def scores_without(*missing, frames=None):
    scores = np.ones((17,) if frames is None else (frames, 17))
    scores[..., list(missing)] = 0
    return scores


def only(*seen, frames):
    return scores_without(*[k for k in range(17) if k not in seen], frames=frames)


# Known answers


def test_exact_similarities_are_found(rng):
    """A rigid person under a slow camera, no noise: up to the pull of the prior."""
    photo = walker.film(walker.body())
    times = np.arange(60) / 24
    scale, angle = np.exp(0.3 * np.sin(times)), 0.4 * np.sin(1.3 * times)
    driving = placed(np.repeat(photo[None], 60, 0), scale, angle)
    found = estimate_track(photo, driving, times)
    np.testing.assert_allclose(scales(found.matrices), scale, rtol=0.01)
    np.testing.assert_allclose(angles(found.matrices), angle, atol=0.01)
    assert (found.statuses() == "tracked").all()
    assert (found.side == 0).all()
    assert not found.breaks.any()
    still = estimate_track(photo, np.repeat(photo[None], 9, 0), times[:9])
    np.testing.assert_allclose(still.matrices, np.repeat(np.eye(2, 3)[None], 9, 0), atol=1e-6)
    np.testing.assert_allclose(still.residual, 0, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_half_body_photo_of_a_walker_keeps_its_size(seed):
    """Only face and shoulders: today's ladder makes 0.79 to 1.08 of it on a real clip."""
    rng = np.random.default_rng(seed)
    photo = walker.film(walker.body())
    driving, times = walker.walk(96)
    found = estimate_track(
        photo, walker.noisy(rng, driving, SIZE, 0.1), times, reference_scores=scores_without(7, 8, 9, 10, *LEGS)
    )
    assert abs(scales(found.matrices) - 1).max() <= 0.02


def test_half_body_photo_with_arms_keeps_its_size():
    """Arms that swing are foreshortened: as much as legs in a walk may say, they make the person 2.4 % smaller."""
    driving, times = walker.walk(96)
    found = estimate_track(walker.film(walker.body()), driving, times, reference_scores=scores_without(*LEGS))
    assert abs(scales(found.matrices) - 1).max() <= 0.02


@pytest.mark.parametrize(("heading", "most"), [(0.0, 0.03), (0.9, 0.06), (1.5, 0.13)])
@pytest.mark.parametrize("seed", range(3))
def test_bust_of_a_walker_who_turns_keeps_its_size(seed, heading, most):
    """Face and shoulders alone narrow in a turn: in profile they made the person 25 to 30 % too small."""
    rng = np.random.default_rng(seed)
    photo, (driving, times) = walker.film(walker.body()), walker.walk(72, headings=heading)
    driving = walker.noisy(rng, driving, SIZE, 0.1)
    bust = scores_without(7, 8, 9, 10, *LEGS)
    found = estimate_track(photo, driving, times, reference_scores=bust)
    assert abs(np.log(scales(found.matrices))).max() <= most
    assert abs(angles(found.matrices)).max() <= 0.2
    estimator = TrackEstimator(photo, reference_scores=bust)
    steps = [estimator.step(frame, None, float(time)).matrix for frame, time in zip(driving, times, strict=True)]
    assert abs(np.log(scales(np.array(steps[24:])))).max() <= most + 0.1


@pytest.mark.parametrize("backend", ["naive", pytest.param("cpu", marks=pytest.mark.native)])
def test_assumed_hips_are_nothing_that_was_seen(rng, backend):
    """They have no weight in what is returned, determine nothing, and turn with the photo."""
    driving, times = walker.walk(12)
    driving = walker.noisy(rng, driving, SIZE, 0.1)
    bust = scores_without(*LIMBS, *LEGS)
    seen = np.where((np.arange(12) < 6)[:, None], 1.0, only(11, 12, frames=12))
    photo = walker.film(walker.body())
    known = dict(reference_scores=bust, driving_scores=seen, backend=backend)
    found = estimate_track(photo, driving, times, **known)
    np.testing.assert_array_equal(found.weights[:, [11, 12]], 0)
    np.testing.assert_array_equal(found.weights[6:], 0)
    np.testing.assert_array_equal(found.information[6:], 0)
    assert found.statuses().tolist() == ["tracked"] * 6 + ["held"] * 6
    estimator = TrackEstimator(photo, reference_scores=bust, backend=backend)
    rows = zip(driving, seen, times.tolist(), strict=True)
    steps = [estimator.step(*row) for row in rows]
    assert [str(step.status) for step in steps] == ["tracked"] * 6 + ["held"] * 6
    assert not any(step.weights[[11, 12]].any() for step in steps)
    lying = placed(photo[None], 1.0, np.pi / 2)[0]
    turned = estimate_track(lying, driving, times, **known)
    np.testing.assert_allclose(moved(turned.matrices, lying[None]), moved(found.matrices, photo[None]), atol=1e-3)


@pytest.mark.parametrize(("missing", "assumed"), [((), True), ((3,), True), ((1, 2, 3, 4), True), ((5,), False),
                                                  ((0, 1, 2, 3, 4), False)])  # fmt: skip
def test_which_photos_get_hips(missing, assumed):
    photo, settings = walker.film(walker.body()), track.Settings()
    seen = scores_without(*LIMBS, *LEGS, *missing) > 0
    own = track.Photo.of(photo, seen.astype(float), seen, settings)
    assert np.flatnonzero(own.assumed).tolist() == ([11, 12] if assumed else [])
    if assumed:
        hips = own.sides[0][[11, 12]] * own.axis * own.size + own.anchor
        apart = abs(hips - photo[[11, 12]] @ [1, 1j])
        assert apart.max() <= 0.15 * own.size
    whole = track.Photo.of(photo, np.ones(17), np.ones(17, bool), settings)
    assert not whole.assumed.any()
    for subset in ("face", "all", "fixed:5"):  # the paper's fits know nothing of it
        assert not track.Photo.of(photo, seen.astype(float), seen, track.settings_of(subset)).assumed.any()


@pytest.mark.parametrize("heading", [0.0, 0.5])
def test_seated_photo_of_a_walker_keeps_its_size(rng, heading):
    """Thighs forward, knees where hips should be: 1.08 to 1.20 by the ladder."""
    photo = walker.film(walker.body(sit=1.0, heading=heading))
    driving, times = walker.walk(96, headings=heading)
    found = estimate_track(photo, walker.noisy(rng, driving, SIZE, 0.1), times)
    assert abs(scales(found.matrices) - 1).max() <= 0.05


@pytest.mark.parametrize("given", [True, False])
def test_cut_has_no_ramp(rng, given):
    """The scale goes from 1 to 3 at frame 30, whether the cut is given or not."""
    photo = walker.film(walker.body())
    driving, times = walker.walk(60)
    truth = np.where(np.arange(60) < 30, 1.0, 3.0)
    driving = walker.noisy(rng, placed(driving, truth), SIZE, 0.1)
    found = estimate_track(photo, driving, times, cuts=[30] if given else ())
    assert abs(scales(found.matrices) / truth - 1).max() <= 0.05
    assert np.flatnonzero(found.breaks).tolist() == [30]


def test_known_camera_over_a_walker(rng, clip):
    """The same motion filmed by a known camera: rotation +-25 degrees, scale 0.62 to 1.03."""
    photo, driving, times = clip
    turns = 2 * np.pi * times / times[-1]
    scale, angle = np.exp(-0.224 + 0.254 * np.cos(turns)), np.radians(25) * np.sin(turns)
    plain = estimate_track(photo, driving, times)
    filmed = estimate_track(photo, placed(driving, scale, angle), times)
    error = np.degrees(abs(angles(filmed.matrices) - angles(plain.matrices) - angle))
    assert np.percentile(error, 95) <= 2.5
    assert np.percentile(abs(np.log(scales(filmed.matrices) / scales(plain.matrices) / scale)), 95) <= 0.05


def test_constant_motion_is_one_robust_similarity(rng, clip):
    photo, driving, times = clip
    driving = placed(driving, 1.5, 0.2)
    driving[5:9] += 400  # a detector's mistake
    found = estimate_track(photo, driving, times, motion="constant")
    assert (found.matrices == found.matrices[0]).all()
    assert abs(scales(found.matrices[0]) / 1.5 - 1) <= 0.03
    assert abs(angles(found.matrices[0]) - 0.2) <= 0.02
    nose = moved(found.matrices[0], photo)[0]
    assert np.linalg.norm(nose - np.median(driving[:, 0], 0)) <= 0.1 * SIZE * 1.5
    # Who walks away and comes near is where the photo's size is in the middle of it.
    driving = placed(walker.walk(48)[0], np.linspace(0.8, 1.25, 48))
    found = estimate_track(photo, driving, times, motion="constant")
    assert 0.8 < scales(found.matrices[0]) < 1.25


# What keypoints do: each of these was a rule of the ladder


def test_hidden_limbs_and_hips(rng, clip):
    """Arms and legs come and go, the hips are hidden for half a second: the size stays."""
    photo, driving, times = clip
    scores = np.ones((48, 17))
    scores[:, LIMBS] = rng.random((48, 8))
    scores[20:32, LEGS] = 0
    found = estimate_track(photo, driving, times, driving_scores=scores)
    assert abs(np.log(scales(found.matrices))).max() <= 0.04
    assert (found.statuses() == "tracked").all()


def cut_off_at_the_hips(rng, frames=72):
    """A camera that comes near until the picture ends above the hips, which a detector then guesses at its edge."""
    driving, times = walker.walk(frames)
    truth = 1 + 0.7 * np.sin(np.pi * np.arange(frames) / frames) ** 2
    driving = walker.noisy(rng, placed(driving, truth), SIZE, 0.1)
    picture = (0.0, 0.0, 1280.0, 480.0)
    beyond = driving[..., 1] > picture[3]
    guessed = driving.copy()
    guessed[..., 1] = np.minimum(driving[..., 1], picture[3] - 5)
    return guessed, beyond, times, picture, truth


def test_beyond_the_picture_nothing_is_seen(rng):
    driving, beyond, times, picture, truth = cut_off_at_the_hips(rng)
    assert beyond[36, LEGS].all()
    photo = walker.film(walker.body())
    found = estimate_track(photo, driving, times, picture=picture)
    assert abs(np.log(scales(found.matrices) / truth)).max() <= 0.05
    assert (found.weights[36, LEGS] == 0).all()
    assert abs(np.log(scales(estimate_track(photo, driving, times).matrices) / truth)).max() > 0.1
    # Edges that are not the picture's, or somebody beyond them: too little would be left, so that all of it counts.
    elsewhere = estimate_track(photo, driving, times, picture=(5000, 5000, 6000, 6000))
    assert_allclose(elsewhere.matrices, estimate_track(photo, driving, times).matrices, atol=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_a_stream_beyond_the_picture_does_not_run_away(seed):
    """Somebody small who leaves the picture, with cuts and pauses: without keypoints the scale went to 1e-18."""
    rng = np.random.default_rng(seed)
    photo = walker.film(walker.body())
    estimator, time, size = TrackEstimator(photo), 0.0, 1.0
    for _ in range(120):
        time += rng.choice([0.02, 0.04, 0.2, 1.5], p=[0.4, 0.4, 0.15, 0.05])
        size *= np.exp(rng.normal() * (0.5 if rng.random() < 0.05 else 0.03))
        points = photo * size + rng.normal(size=2) * 30 + rng.normal(size=photo.shape) * 3
        scores = (rng.random(17) < rng.choice([0.0, 0.3, 1.0])) * 1.0
        step = estimator.step(points, scores, time, picture=(0, 0, 200, 150))
        assert 1e-4 < scales(step.matrix) < 1e4


def test_gap_is_bridged_and_said(rng, clip):
    photo, driving, times = clip
    scale = np.linspace(1, 1.3, 48)
    scores = np.ones((48, 17))
    scores[16:40] = 0
    found = estimate_track(photo, placed(driving, scale), times, driving_scores=scores)
    assert abs(np.log(scales(found.matrices) / scale)).max() <= 0.05
    assert (found.information[16:40] == 0).all()
    assert (found.weights[16:40] == 0).all()
    statuses = found.statuses(hold_seconds=0.5)
    assert (statuses[:16] == "tracked").all()
    assert (statuses[16:27] == "held").all()
    assert (statuses[28:40] == "lost").all()
    assert (statuses[40:] == "tracked").all()
    assert np.log(scales(found.matrices[1:]) / scales(found.matrices[:-1])).max() <= 0.03


def test_swap_of_sides_by_the_detector(rng, clip):
    photo, driving, times = clip
    driving = driving.copy()
    driving[20:23] = driving[20:23][:, MIRRORED]
    driving[30] = driving[30][MIRRORED]
    found = estimate_track(photo, driving, times)
    assert abs(np.log(scales(found.matrices))).max() <= 0.04
    assert abs(angles(found.matrices)).max() <= 0.05


def test_back_view_is_seen_as_such(rng):
    """From the first frame on: the whole track decides."""
    photo = walker.film(walker.body())
    driving, times = walker.walk(48, headings=np.pi)
    scores = scores_without(0, 1, 2, frames=48)
    found = estimate_track(photo, walker.noisy(rng, driving, SIZE, 0.1), times, driving_scores=scores)
    assert (found.side == 1).all()
    assert abs(np.log(scales(found.matrices))).max() <= 0.06
    assert abs(angles(found.matrices)).max() <= 0.08


def test_full_turn_keeps_the_size(rng):
    """A dancer shrank to a third by the ladder."""
    photo = walker.film(walker.body())
    headings = np.linspace(0, 2 * np.pi, 72)
    driving, times = walker.walk(72, headings=headings)
    facing = np.cos(headings)
    scores = np.ones((72, 17))
    scores[facing < 0, :3] = 0
    found = estimate_track(photo, walker.noisy(rng, driving, SIZE, 0.1), times, driving_scores=scores)
    assert scales(found.matrices).min() >= 0.85
    assert scales(found.matrices).max() <= 1.1
    assert (found.side[facing > 0.5] == 0).all()
    assert (found.side[facing < -0.5] == 1).all()
    assert abs(angles(found.matrices)).max() <= 0.15


def test_lone_shoulder_at_the_border(rng, clip):
    """Somebody walks out of the picture: what is left last tells a place, and no size."""
    photo, driving, times = clip
    scores = np.ones((48, 17))
    scores[30:] = 0
    scores[30:36, [5, 6, 7]] = 1
    scores[36:, 5] = 1
    found = estimate_track(photo, driving, times, driving_scores=scores)
    assert abs(np.log(scales(found.matrices))).max() <= 0.1
    assert abs(angles(found.matrices)).max() <= 0.15
    assert (found.statuses()[36:] == "fallback").all()
    shoulder = moved(found.matrices, photo[None])[36:, 5]
    assert np.linalg.norm(shoulder - driving[36:, 5], axis=-1).max() <= 0.1 * SIZE


def test_swinging_arms_without_hips(rng):
    photo = walker.film(walker.body())
    driving, times = walker.walk(72)
    driving[:, [9, 10], 1] -= 120 * abs(np.sin(6 * times))[:, None]  # hands up and down
    driving[:, [7, 8], 1] -= 50 * abs(np.sin(6 * times))[:, None]
    scores = scores_without(*LEGS)
    found = estimate_track(photo, walker.noisy(rng, driving, SIZE, 0.1), times, reference_scores=scores)
    assert abs(np.log(scales(found.matrices))).max() <= 0.08


@pytest.mark.parametrize("seen", [[5, 6], [1, 2], [5, 12]])
def test_two_points_only(rng, clip, seen):
    """They determine a similarity; nobody stands on the head for it."""
    photo, driving, times = clip
    others = [k for k in range(17) if k not in seen]
    found = estimate_track(photo, driving, times, driving_scores=scores_without(*others, frames=48))
    assert np.isfinite(found.matrices).all()
    assert abs(angles(found.matrices)).max() <= 0.5
    assert abs(np.log(scales(found.matrices))).max() <= 0.3
    statuses = found.statuses()
    assert set(statuses) <= {"tracked", "fallback"}
    hidden = scores_without(*others, frames=48)[:, MIRRORED]
    back = estimate_track(photo, driving[:, MIRRORED], times, driving_scores=hidden)
    assert abs(angles(back.matrices)).max() <= 0.5


def test_frames_that_show_two_points_do_not_say_how_large_a_person_is(rng):
    """More than half of the frames show the shoulders alone, which a turn brings nearer to each other."""
    photo, (driving, times) = walker.film(walker.body()), walker.walk(48, headings=0.8)
    driving = walker.noisy(rng, driving, SIZE, 0.1)
    scores = np.where((np.arange(48) % 8 < 5)[:, None], only(5, 6, frames=48), 1.0)
    whole = estimate_track(photo, driving, times).size
    found = estimate_track(photo, driving, times, driving_scores=scores).size
    np.testing.assert_allclose(found, whole, rtol=0.05)  # 30 seeds: 0.016; a frame, a vote: 0.37 and more
    estimator = TrackEstimator(photo)
    steps = [estimator.step(*row) for row in zip(driving, scores, times.tolist(), strict=True)]
    np.testing.assert_allclose([step.size for step in steps[8:]], whole[8:], rtol=0.05)


def test_median_of_equal_weights_is_the_lower_one(rng):
    for count in range(1, 60):
        values, weight = rng.normal(size=count), rng.uniform(0.1, 9)
        found = naive_track.weighted_median(values, np.full(count, weight))
        assert found == np.sort(values)[(count - 1) // 2]


def test_weighted_median_is_that_of_repeated_values(rng):
    values, times = rng.normal(size=20), rng.integers(1, 9, 20)
    found = naive_track.weighted_median(values, times.astype(float))
    assert found == np.sort(np.repeat(values, times))[(times.sum() - 1) // 2]


def test_one_point_only(rng, clip):
    """The photo's own size, upright, with that point where it is."""
    photo, driving, times = clip
    found = estimate_track(photo, driving, times, driving_scores=scores_without(*range(1, 17), frames=48))
    np.testing.assert_allclose(scales(found.matrices), 1, atol=1e-3)
    np.testing.assert_allclose(angles(found.matrices), 0, atol=1e-3)
    assert np.linalg.norm(moved(found.matrices, photo[None])[:, 0] - driving[:, 0], axis=-1).max() <= 0.1 * SIZE
    assert (found.statuses() == "fallback").all()


def test_nobody_at_all(clip):
    photo, driving, times = clip
    for scores in (np.zeros((48, 17)), np.full((48, 17), np.nan)):
        found = estimate_track(photo, driving, times, driving_scores=scores)
        assert_allclose(found.matrices, np.repeat(np.eye(2, 3)[None], 48, 0), atol=1e-9)  # as in the photo
        assert (found.statuses() == "lost").all()
        assert (found.information == 0).all()
    empty = estimate_track(np.full((17, 2), np.nan), driving, times)
    assert np.isfinite(empty.matrices).all()
    assert (empty.statuses() == "lost").all()


def test_first_frames_wrong(rng, clip):
    photo, driving, times = clip
    driving = driving.copy()
    driving[:2] = placed(driving[:2][:, MIRRORED], 0.4, 2.0, (500, 300))
    found = estimate_track(photo, driving, times)
    assert abs(np.log(scales(found.matrices[2:]))).max() <= 0.04
    assert abs(angles(found.matrices[2:])).max() <= 0.05
    assert (found.side[2:] == 0).all()


def test_one_bad_frame_does_not_take_the_track_along(rng, clip):
    photo, driving, times = clip
    driving = driving.copy()
    driving[24] = placed(driving[24:25], 0.5, 1.0, (300, -200))[0]
    found = estimate_track(photo, driving, times)
    assert abs(np.log(scales(found.matrices))).max() <= 0.04
    assert not found.breaks.any()
    assert found.weights[24].max() <= 0.05
    assert found.statuses()[24] != "tracked"


@pytest.mark.parametrize(
    ("wrong", "away"),
    [
        ([1, 2, 6, 11, 12], [[191, 77], [-186, -68], [-18, 134], [108, -102], [161, 69]]),
        ([0, 3, 6, 11, 12], [[85, -36], [-186, -69], [8, 131], [-11, -213], [-62, -121]]),
        ([3, 4, 5, 11, 12], [[-79, 78], [51, -162], [33, 89], [-137, 112], [50, -161]]),
        ([1, 3, 6, 11, 12], [[95, 136], [-49, -206], [126, -179], [-148, 105], [-183, -63]]),
    ],
)
def test_what_the_search_found_is_kept(clip, wrong, away):
    """Half of the torso and two of the face wrong throughout, most of the weight: limbs, which say little, decide.

    A robust error that starts wide (graduated non-convexity) leaves the best subset for a scale that is off by 0.3.
    """
    photo, driving, times = clip
    driving = driving.copy()
    driving[:, wrong] += away
    found = estimate_track(photo, placed(driving, 2.0), times)
    assert abs(np.log(scales(found.matrices) / 2)).max() <= 0.1


def test_jump_back_after_long_absence(rng, clip):
    """Twice as large, elsewhere, after a second: at once, without a ramp on either side."""
    photo, driving, times = clip
    truth = np.where(np.arange(48) < 12, 1.0, 2.0)
    driving = placed(driving, truth, 0.0, np.where(np.arange(48) < 12, 0.0, 500.0)[:, None] * [1, 0])
    scores = np.ones((48, 17))
    scores[12:36] = 0
    found = estimate_track(photo, driving, times, driving_scores=scores)
    ends = np.r_[:12, 36:48]
    assert abs(np.log(scales(found.matrices) / truth))[ends].max() <= 0.08
    offset = moved(found.matrices, photo[None])[:, 5] - driving[:, 5]
    assert np.linalg.norm(offset[ends], axis=-1).max() <= 0.15 * SIZE * 2


def test_far_out_points_and_tiny_persons(rng, clip):
    photo, driving, times = clip
    wild = driving.copy()
    wild[10, 0], wild[20, 5], wild[30, 12], wild[31, 3] = 9e4, -9e4, [1e300, 0], [np.inf, 3]
    plain, found = estimate_track(photo, driving, times), estimate_track(photo, wild, times)
    assert abs(np.log(scales(found.matrices) / scales(plain.matrices))).max() <= 0.03
    assert found.weights[10, 0] == pytest.approx(0, abs=1e-6)
    # No picture has such places: they are missing, and are no person of that size.
    wild[:, 5:7] = [[1.2e5, 0], [0, -1.2e5]]
    found = estimate_track(photo, wild, times, driving_scores=only(5, 6, frames=48))
    assert (found.statuses() == "lost").all()
    assert found.size.max() <= 2 * SIZE
    tiny = estimate_track(photo, driving * 1e-3, times)
    np.testing.assert_allclose(tiny.matrices, plain.matrices * 1e-3, rtol=1e-4, atol=1e-4)
    points = np.repeat(driving[:, :1], 17, 1)  # all at one place
    assert np.isfinite(estimate_track(photo, points, times).matrices).all()


def test_frames_that_repeat_and_skip(rng):
    """Repeated and irregular times; other frame rates of the same motion give nearly the same track."""
    photo = walker.film(walker.body())
    tracks = {}
    for fps in (6, 24, 60):
        driving, times = walker.walk(int(2.5 * fps) + 1, fps)
        scale = np.exp(0.2 * np.sin(2 * times))
        driving = placed(driving, scale, 0.1 * np.sin(2 * times))
        tracks[fps] = estimate_track(photo, driving, times)
    for fps in (24, 60):
        same = tracks[fps].matrices[:: fps // 6]
        assert abs(np.log(scales(same) / scales(tracks[6].matrices))).max() <= 0.03
        assert abs(angles(same) - angles(tracks[6].matrices)).max() <= 0.03
    driving, times = walker.walk(48)
    driving = walker.noisy(rng, driving, SIZE, 0.1)
    keep = np.sort(rng.choice(48, 30, replace=False))
    some = estimate_track(photo, driving[keep], times[keep])
    every = estimate_track(photo, driving, times)
    assert abs(np.log(scales(some.matrices) / scales(every.matrices[keep]))).max() <= 0.03
    twice = estimate_track(photo, np.repeat(driving, 2, 0), np.repeat(times, 2))
    assert np.isfinite(twice.matrices).all()
    assert abs(np.log(scales(twice.matrices))).max() <= 0.05
    np.testing.assert_allclose(twice.matrices[::2], twice.matrices[1::2], atol=1)
    frozen = estimate_track(photo, driving, np.zeros(48))  # a clip without times
    assert np.isfinite(frozen.matrices).all()


def test_sizes_that_are_nothing(clip):
    photo, driving, times = clip
    none = estimate_track(photo, driving[:0], times[:0])
    assert none.matrices.shape == (0, 2, 3)
    assert none.statuses().shape == (0,)
    one = estimate_track(photo, driving[:1], times[:1])
    assert one.matrices.shape == (1, 2, 3)
    assert abs(scales(one.matrices[0]) - 1) <= 0.05
    nobody = estimate_track(np.empty((0, 17, 2)), np.empty((48, 0, 17, 2)), times)
    assert nobody.matrices.shape == (48, 0, 2, 3)
    assert nobody.statuses().shape == (48, 0)
    for motion, per_frame in (("constant", False), ("frame", True)):
        none = estimate_track(photo, driving[:0], times[:0], motion=motion, per_frame=per_frame)
        assert none.matrices.shape == (0, 2, 3)


@pytest.mark.parametrize("subset", ["optimal", "face", "all", "fixed:6"])
@pytest.mark.parametrize("per_frame", [False, True])
def test_every_subset(rng, clip, subset, per_frame):
    photo, driving, times = clip
    found = estimate_track(photo, placed(driving, 1.3, 0.1), times, subset=subset, per_frame=per_frame)
    assert abs(np.median(scales(found.matrices)) / 1.3 - 1) <= 0.08
    assert abs(np.median(angles(found.matrices)) - 0.1) <= 0.05
    if subset == "face":
        assert (found.weights[:, 5:] == 0).all()
    if per_frame and subset == "fixed:6":
        assert (found.weights.sum(1) == 6).all()


@pytest.mark.parametrize("backend", ["naive", pytest.param("cpu", marks=pytest.mark.native)])
@pytest.mark.parametrize("how", [{}, {"per_frame": True}, {"motion": "constant"}], ids=str)
def test_a_subset_of_the_face_leaves_out_the_body(clip, backend, how):
    """It has no weights, so that no torso is at hand: the face is all that is to be laid on, and determines that."""
    photo, driving, times = clip
    found = estimate_track(photo, driving[:12], times[:12], subset="face", backend=backend, **how)
    assert (found.weights[:, 5:] == 0).all()
    assert (found.statuses() == "tracked").all()
    stream = TrackEstimator(photo, subset="face", backend=backend)
    steps = [stream.step(*row) for row in zip(driving[:3], [None] * 3, times, strict=False)]
    assert not any(step.weights[5:].any() for step in steps)
    assert {str(step.status) for step in steps} == {"tracked"}


def test_per_frame_has_no_memory(rng, clip):
    """Frames in any order give the same, frame by frame; and it is what `search_subset` and a plain fit give."""
    photo, driving, times = clip
    order = rng.permutation(48)
    steady = dict(per_frame=True)
    found = estimate_track(photo, driving, np.zeros(48), **steady)
    mixed = estimate_track(photo, driving[order], np.zeros(48), **steady)
    close = abs(mixed.matrices - found.matrices[order]).max((1, 2)) <= 1e-6
    assert close.mean() >= 0.9  # person sizes are medians over neighbours
    everything = estimate_track(photo, driving, times, subset="all", per_frame=True)
    from tpc_fast.ops.procrustes import fit_similarity

    np.testing.assert_allclose(everything.matrices, fit_similarity(photo, driving).matrix, atol=1e-6)


# Laws


def motion(seed, frames=14):
    rng = np.random.default_rng(seed)
    driving, times = walker.walk(frames, headings=rng.uniform(-0.6, 0.6))
    scores = rng.uniform(0.35, 1, (frames, 17))
    scores[rng.random((frames, 17)) < 0.1] = 0
    return rng, walker.film(walker.body()), walker.noisy(rng, driving, SIZE, 0.2), times, scores


def test_laws_hold_for_something():
    """The examples of the laws below move: a law of a constant would say nothing."""
    _, photo, driving, times, scores = motion(3)
    found = estimate_track(photo, driving, times, driving_scores=scores)
    assert np.ptp(found.matrices[:, 0, 2]) > 1


LAW = hypothesis.settings(max_examples=15, deadline=None)


@LAW
@hypothesis.given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-3.1, 3.1), st.floats(-500, 500))
def test_law_frames_moved(seed, scale, angle, shift):
    """A similarity of all frames' keypoints goes into the matrices."""
    _, photo, driving, times, scores = motion(seed)
    a = scale * np.exp(1j * angle)
    z = a * (driving[..., 0] + 1j * driving[..., 1]) + shift * (1 + 0.5j)
    plain = estimate_track(photo, driving, times, driving_scores=scores)
    found = estimate_track(photo, naive_track.xy(z), times, driving_scores=scores)
    place = moved(plain.matrices, photo)
    expected = naive_track.xy(a * (place[..., 0] + 1j * place[..., 1]) + shift * (1 + 0.5j))
    np.testing.assert_allclose(moved(found.matrices, photo), expected, atol=0.02 * SIZE * scale)
    assert (found.side == plain.side).all()


@LAW
@hypothesis.given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-3.1, 3.1), st.floats(-500, 500))
def test_law_photo_moved(seed, scale, angle, shift):
    """A similarity of the photo's keypoints comes out of the matrices."""
    _, photo, driving, times, scores = motion(seed)
    z = scale * np.exp(1j * angle) * (photo[..., 0] + 1j * photo[..., 1]) + shift * (1 - 0.3j)
    plain = estimate_track(photo, driving, times, driving_scores=scores)
    found = estimate_track(naive_track.xy(z), driving, times, driving_scores=scores)
    np.testing.assert_allclose(
        moved(found.matrices, naive_track.xy(z)), moved(plain.matrices, photo), atol=0.005 * SIZE
    )


@LAW
@hypothesis.given(st.integers(0, 2**32 - 1))
def test_law_backwards(seed):
    _, photo, driving, times, scores = motion(seed)
    plain = estimate_track(photo, driving, times, driving_scores=scores)
    found = estimate_track(photo, driving[::-1], times[-1] - times[::-1], driving_scores=scores[::-1])
    np.testing.assert_allclose(moved(found.matrices, photo)[::-1], moved(plain.matrices, photo), atol=0.005 * SIZE)


@LAW
@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_law_persons_are_independent(seed, persons):
    rng, photo, driving, times, _ = motion(seed, 8)
    photos = photo + rng.normal(0, 5, (persons, 17, 2))
    many = driving[:, None] + rng.normal(0, 20, (1, persons, 1, 2))
    all_scores = rng.uniform(0.2, 1, (8, persons, 17))
    found = estimate_track(photos, many, times, driving_scores=all_scores)
    for p in range(persons):
        alone = estimate_track(photos[p], many[:, p], times, driving_scores=all_scores[:, p])
        for field in dataclasses.fields(found):
            both = getattr(found, field.name), getattr(alone, field.name)
            np.testing.assert_array_equal(both[0] if field.name == "times" else both[0][:, p], both[1])


# The core against the naive twin


def fuzz(rng, frames, persons, most=10, far=1e5):
    """Anything: persons of `most` keypoints or fewer (the naive search looks at 2^K subsets), jumps, gaps, mistakes."""
    photo = walker.film(walker.body()) + rng.normal(0, 4, (persons, 17, 2))
    for p in range(persons):
        photo[p, rng.permutation(17)[rng.integers(0, most + 1) :]] = np.nan
    times = np.cumsum(rng.choice([0, 0.01, 1 / 24, 0.1, 0.6], frames))
    walked, _ = walker.walk(frames, headings=rng.uniform(-3, 3))
    log_scale = np.cumsum(rng.normal(0, 0.03, (frames, persons)), 0)
    angle = np.cumsum(rng.normal(0, 0.1, (frames, persons)), 0)
    jump = np.cumsum(rng.random((frames, persons)) < 0.05, 0)
    driving = np.stack([placed(walked, np.exp(log_scale[:, p] + jump[:, p]), angle[:, p]) for p in range(persons)], 1)
    driving = driving + 300 * jump[..., None, None] + rng.normal(0, 3, driving.shape)
    wrong = rng.random((frames, persons, 17)) < 0.1
    driving[wrong] += rng.normal(0, rng.choice([30, 300, far]), (wrong.sum(), 2))
    driving[rng.random((frames, persons, 17)) < 0.05] = np.nan
    swapped = rng.random((frames, persons)) < 0.1
    driving[swapped] = driving[swapped][:, MIRRORED]
    scores = rng.random((frames, persons, 17))
    scores[rng.random((frames, persons)) < 0.15] = 0
    return photo, driving, times, rng.uniform(0.2, 1, (persons, 17)), scores


def apart(photo, matrices, others, sizes):
    """How far two tracks [..., P, 2, 3] lay the photo's keypoints [P, K, 2] from each other [..., P], farthest of them.

    In sizes of the person, or of what the track takes for the person where that is larger: where keypoints are flung
    about they differ by hundreds, and what is exact in one is not in the other.
    """
    known = np.isfinite(photo).all(-1)
    points = np.where(known[..., None], photo, 0.0)
    far = np.linalg.norm(moved(matrices, points) - moved(others, points), axis=-1)
    spread = np.ptp(np.where(known[..., None], photo, photo[known].mean(0) if known.any() else 0.0), 1).max(-1)
    return np.where(known, far, 0).max(-1) / np.maximum(sizes, scales(others) * spread)


def astray(photo, driving, scores, matrices, sizes, statuses):
    """How far the log scale [N] of frames without a person lies beyond all that the others and person sizes say, and
    the anchor [N] beyond all keypoints, in person sizes: of one person who shows two keypoints or more in the photo."""
    own = track.Photo.of(np.nan_to_num(photo), np.ones(17), np.isfinite(photo).all(-1), track.Settings())
    seen = np.isfinite(photo).all(-1) & (abs(np.nan_to_num(driving, nan=np.inf)) <= track.FAR).all(-1) & (scores >= 0.3)
    gone = np.isin(statuses, ["held", "lost"])
    if own.seen[0].sum() < 2 or not seen.any() or not gone.any():
        return np.zeros(1), np.zeros(1)
    log_size = np.log(scales(matrices) * own.size)
    known = np.concatenate([np.log(sizes), log_size[~gone]])
    anchor = moved(matrices[gone], np.array([[own.anchor.real, own.anchor.imag]]))[:, 0]
    points, unit = driving[seen], np.exp(np.maximum(log_size[gone], known.max()))
    beyond = np.maximum(points.min(0) - anchor, anchor - points.max(0)).max(-1)
    return np.maximum(known.min() - log_size[gone], log_size[gone] - known.max()), beyond / unit


@LAW
@hypothesis.given(st.integers(0, 2**32 - 1), st.sampled_from([9, 30, 60]), st.sampled_from([30.0, 1e3, 1e5]))
def test_law_who_is_gone_stays_near(seed, frames, far):
    """Held and lost states do not run away, whatever the mistakes: candidates hold them, which are within `misfit` of
    person sizes, and from there they coast to rest."""
    rng = np.random.default_rng(seed)
    photo, driving, times, _, scores = fuzz(rng, frames, 1, most=17, far=far)
    scores[rng.random(frames) < 0.4] = 0
    photo, driving, scores = photo[0], driving[:, 0], scores[:, 0]
    found = estimate_track(photo, driving, times, driving_scores=scores)
    scale, place = astray(photo, driving, scores, found.matrices, found.size, found.statuses())
    bound = 1.0 + np.log(track.Settings().misfit)
    assert scale.max() <= bound
    assert place.max() <= 3.0
    estimator = TrackEstimator(photo)
    steps = [estimator.step(y, w, float(time)) for y, w, time in zip(driving, scores, times, strict=True)]
    each = (np.array([getattr(step, name) for step in steps]) for name in ("matrix", "size", "status"))
    scale, place = astray(photo, driving, scores, *each)
    assert scale.max() <= bound
    assert place.max() <= 3.0


@pytest.mark.native
@pytest.mark.parametrize("picture", [None, (400.0, 100.0, 900.0, 450.0)])
@pytest.mark.parametrize("frames", [0, 1, 2, 3, 9, 30])
def test_core_is_the_naive_twin(rng, simd, frames, picture):
    """The same path, and states within what an iteration that is called converged may still move them."""
    photo, driving, times, reference_scores, scores = fuzz(rng, frames, 2)
    given = dict(reference_scores=reference_scores, driving_scores=scores, picture=picture)
    core, naive = (estimate_track(photo, driving, times, backend=name, **given) for name in ("cpu", "naive"))
    np.testing.assert_array_equal(core.side, naive.side)
    np.testing.assert_array_equal(core.breaks, naive.breaks)
    np.testing.assert_allclose(core.size, naive.size, rtol=1e-9)
    # Iterations stop when they move states by less than `converged`; where they creep, a hundred times that is left.
    tolerance = 100 * track.Settings().converged
    assert (apart(photo, core.matrices, naive.matrices, naive.size) <= tolerance).all()
    np.testing.assert_allclose(core.weights, naive.weights, atol=10 * tolerance)


@pytest.mark.native
@pytest.mark.parametrize("motion", ["frame", "constant"])
def test_core_is_the_naive_twin_with_assumed_hips(rng, motion):
    driving, times = walker.walk(16, headings=rng.uniform(-1, 1))
    driving, photo = walker.noisy(rng, driving, SIZE, 0.3), walker.film(walker.body())
    given = dict(reference_scores=scores_without(*LIMBS, *LEGS), motion=motion)
    core, naive = (estimate_track(photo, driving, times, backend=name, **given) for name in ("cpu", "naive"))
    tolerance = 100 * track.Settings().converged
    assert (apart(photo[None], core.matrices[:, None], naive.matrices[:, None], naive.size[:, None]) <= tolerance).all()
    np.testing.assert_allclose(core.weights, naive.weights, atol=10 * tolerance)
    np.testing.assert_allclose(core.information, naive.information, rtol=1e-2)


@pytest.mark.parametrize("backend", ["naive", pytest.param("cpu", marks=pytest.mark.native)])
def test_two_keypoints_are_no_subset(rng, backend):
    """Of four at random no three agree, and any two fit exactly: rounding would say which are the best subset."""
    from tpc_fast import _native

    settings = track.settings_of("optimal")
    photo, driving = walker.film(walker.body()), rng.uniform(0, 300, (17, 2))
    seen = only(0, 5, 12, 15, frames=1)[0] > 0
    own = track.Photo.of(photo, np.ones(17), seen, settings)
    target, ones = driving[:, 0] + 1j * driving[:, 1], np.ones(17)
    size = naive_track.person_sizes(own, target[None], own.seen[:1], np.zeros(1), settings)[0]
    if backend == "naive":
        rows = naive_track.candidates(own, own.scores, target, own.seen, size, 1.0, settings)
    else:
        frames = (np.zeros(1), driving[None, None], ones[None, None], ones[None, None] > 0)
        native = track.native_settings(settings, Rates())
        _, _, rows, counts = _native.core().track_candidates(native, *track.native_photos([own]), *frames)
        rows = rows[0, 0, : counts[0, 0]]
    for side, *state, _ in rows:
        error = naive_track.square_error(own.sides[int(side)], target, state, settings.tolerance * size, settings)
        assert (error[own.seen[int(side)]] < 1e-9).sum() != 2
    assert len(rows) > 0


@pytest.mark.native
def test_stages_of_the_core(rng):
    """Sizes, candidates and path of one person, each for itself, to rounding."""
    from tpc_fast import _native

    photo, driving, times, reference_scores, scores = fuzz(rng, 12, 1)
    settings = track.settings_of("optimal")
    x, xs, x_seen = track._keypoints(photo, reference_scores, "reference", "", (3,), photo, 0.3)
    y, ys, y_seen = track._keypoints(driving, scores, "driving", "", (4,), photo, 0.3)
    own = track.Photo.of(x[0], xs[0], x_seen[0], settings)
    y, ys, y_seen = (np.ascontiguousarray(a[:, 0]) for a in (y, ys, y_seen))
    native = track.native_settings(settings, Rates())
    frames = (times, y[None], ys[None], y_seen[None])
    sizes, weights, rows, counts = _native.core().track_candidates(native, *track.native_photos([own]), *frames)
    target, common = y[..., 0] + 1j * y[..., 1], y_seen[:, None] & own.seen
    expected = naive_track.person_sizes(own, target, common[:, 0], times, settings)
    np.testing.assert_allclose(sizes[0], expected, rtol=1e-12)
    np.testing.assert_allclose(weights[0], naive_track.frame_weights(times, settings), rtol=1e-12)
    both = np.where(common, np.minimum(own.scores, ys[:, None]), 0)
    found = []
    for f in range(12):
        wanted = naive_track.candidates(own, both[f], target[f], common[f], expected[f], weights[0, f], settings)
        assert counts[0, f] == len(wanted)
        found.append(rows[0, f, : counts[0, f]])
        np.testing.assert_allclose(found[-1], wanted, rtol=1e-7, atol=2e-6)
    chosen, breaks = _native.core().track_path(native, times, sizes, rows, counts)
    path = naive_track.best_path(found, times, sizes[0], settings)
    np.testing.assert_array_equal(chosen[0], path[0])
    np.testing.assert_array_equal(breaks[0], path[1])


@pytest.mark.native
def test_ten_thousand_frames(rng):
    """Linear in time and memory; a long clip is as a short one."""
    photo = walker.film(walker.body())
    driving, _ = walker.walk(96)
    long, long_times = np.tile(driving, (105, 1, 1))[:10_000], np.arange(10_000) / 24
    found = estimate_track(photo, long, long_times)
    assert abs(np.log(scales(found.matrices))).max() <= 0.05
    frozen = estimate_track(photo, long, np.zeros(10_000))
    assert np.isfinite(frozen.matrices).all()


# Arguments


@pytest.mark.torch
def test_tensors_in_tensors_out(clip):
    import torch

    photo, driving, times = clip
    plain = estimate_track(photo, driving, times)
    found = estimate_track(torch.from_numpy(photo), torch.from_numpy(driving), torch.from_numpy(times))
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        assert isinstance(value, torch.Tensor)
        np.testing.assert_array_equal(value.numpy(), getattr(plain, field.name))
    assert (found.statuses() == plain.statuses()).all()
    with pytest.raises(TypeError, match="one kind"):
        estimate_track(torch.from_numpy(photo), driving, times)


def test_float32_and_integers(clip):
    photo, driving, times = clip
    plain = estimate_track(photo, driving, times)
    found = estimate_track(photo.astype(np.float32), driving.astype(np.float32), times)
    assert found.matrices.dtype == np.float64
    np.testing.assert_allclose(found.matrices, plain.matrices, atol=0.05)
    assert estimate_track(photo.astype(int), driving.astype(int), np.arange(48)).matrices.shape == (48, 2, 3)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (dict(reference=np.zeros((16, 2))), ValueError, r"reference must be \[P, K, 2\] or \[K, 2\], K = 17"),
        (dict(driving=np.zeros((4, 2, 17, 2))), ValueError, r"driving must be \[F, K, 2\]"),
        (dict(times=np.zeros(3)), ValueError, r"times must be \[4\]"),
        (dict(times=np.array([0, 1, 0.5, 2])), ValueError, "must not decrease, but go from 1.0 to 0.5 after frame 1"),
        (dict(times=np.array([0, np.nan, 1, 2])), ValueError, "times must be finite"),
        (dict(driving_scores=np.ones((4, 16))), ValueError, r"driving_scores must be \[4, 17\]"),
        (dict(reference_scores=np.ones(16)), ValueError, r"reference_scores must be \[17\]"),
        (dict(score_threshold=np.nan), ValueError, "score_threshold must be a finite number"),
        (dict(rates=3), TypeError, "rates must be a Rates"),
        (dict(motion="still"), ValueError, "motion must be one of frame, constant, but is 'still'"),
        (dict(subset="fixed:3"), ValueError, "fixed:N with N from 4 to 17"),
        (dict(cuts=[7]), ValueError, "cuts must be frame numbers from 0 to 4"),
        (dict(cuts=3), TypeError, "cuts must be frame numbers"),
        (dict(picture=3), TypeError, r"picture must be \(left, top, right, bottom\), but is"),
        (dict(picture=(0, 9, 9, 0)), ValueError, r"left < right, top < bottom, but is \(0, 9, 9, 0\)"),
        (dict(backend="cuda"), ValueError, "backend must be None or one of"),
        (dict(backend="triton"), TypeError, "tracks are estimated on the CPU"),
        (dict(driving=np.array(["a"])), TypeError, "driving must be an array of numbers"),
    ],
)
def test_bad_arguments(change, error, said):
    given = dict(reference=np.zeros((17, 2)), driving=np.zeros((4, 17, 2)), times=np.arange(4.0)) | change
    first = given.pop("reference"), given.pop("driving"), given.pop("times")
    with pytest.raises(error, match=said):
        estimate_track(*first, **given)


def test_bad_rates_and_persons(clip):
    with pytest.raises(ValueError, match=r"rates.angle must be a number > 0, but is 0"):
        Rates(angle=0)
    with pytest.raises(ValueError, match="driving must have the 2 persons of reference"):
        estimate_track(np.zeros((2, 17, 2)), np.zeros((4, 3, 17, 2)), np.arange(4.0))
    with pytest.raises(ValueError, match="hold_seconds must be a number >= 0"):
        estimate_track(*clip).statuses(-1)
