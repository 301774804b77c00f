"""The causal fit of one person: memory, sides, ladder, holds."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scene import FIGURE as PERSON

from tpc_fast import Similarity, fit_similarity
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.follow.fitting import PersonFitter, parse_subset

SCORES = np.full(17, 0.9)


def turn(scale, degrees, x=0.0, y=0.0):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return Similarity(float(scale), np.array([[c, -s], [s, c]]), np.array([x, y], np.float64))


def hidden(*parts):
    scores = SCORES.copy()
    scores[list(parts)] = 0.1
    return scores


def test_follows_an_exact_motion():
    fitter = PersonFitter(PERSON, SCORES)
    for i in range(20):
        truth = turn(1 + 0.02 * i, 3 * i, 100 + i, 50)
        fit = fitter.step(truth.apply(PERSON), SCORES, i / 30)
        assert fit.rung == "subset"
        assert fit.members.all()
        assert not fit.swapped
        assert_allclose(fit.similarity.matrix, truth.matrix, atol=1e-9)
        assert fit.residual < 1e-9


def test_leaves_a_moved_arm_out(rng):
    fitter = PersonFitter(PERSON, SCORES)
    truth = turn(1.5, 20, 200, 100)
    driving = truth.apply(PERSON)
    driving[[7, 9]] += (90, -120)
    for i in range(5):
        fit = fitter.step(driving + rng.normal(size=(17, 2)), SCORES, i / 30)
    assert not fit.members[[7, 9]].any()
    assert fit.members[[0, 5, 6, 11, 12]].all()
    assert abs(np.log(fit.similarity.scale / 1.5)) < 0.03


def test_sees_a_back_view():
    """From behind, a detector names left and right the other way round than they lie in the reference."""
    fitter = PersonFitter(PERSON, SCORES)
    truth = turn(1.2, 5, 10, 10)
    fit = fitter.step(truth.apply(PERSON[coco.MIRRORED]), SCORES, 0.0)
    assert fit.swapped
    assert_allclose(fit.similarity.matrix, truth.matrix, atol=1e-9)


def test_a_fast_turn_is_still_a_subset():
    """200 degrees a second cost more inertia than the points are worth: the search is run again without it."""
    fitter = PersonFitter(PERSON, SCORES)
    for i in range(10):
        truth = turn(1, 200 * i / 24)
        fit = fitter.step(truth.apply(PERSON), SCORES, i / 24)
        assert fit.rung == "subset"
        assert abs((fit.similarity @ truth.inverse()).angle) < np.radians(1)


@pytest.mark.parametrize(
    ("seen", "rung"), [([5, 6, 11, 12], "subset"), ([5, 6, 11], "torso"), ([5, 6], "shoulders"), ([0, 1, 2], "face")]
)
def test_ladder(seen, rung):
    fitter = PersonFitter(PERSON, SCORES)
    truth = turn(2, 10, 30, 40)
    fitter.step(truth.apply(PERSON), SCORES, 0.0)
    scores = np.where(np.isin(np.arange(17), seen), 0.9, 0.0)
    fit = fitter.step(truth.apply(PERSON), scores, 1 / 30)
    assert fit.rung == rung
    assert_array_equal(np.nonzero(fit.members)[0], seen)
    assert_allclose(fit.similarity.matrix, truth.matrix, atol=1e-9)


def test_a_rung_out_of_reach_is_refused():
    """Two shoulders that suddenly lie three times as far apart are not believed."""
    fitter = PersonFitter(PERSON, SCORES)
    fitter.step(PERSON, SCORES, 0.0)
    scores = np.where(np.isin(np.arange(17), [5, 6]), 0.9, 0.0)
    fit = fitter.step(turn(3, 0).apply(PERSON), scores, 1 / 30)
    assert fit.rung == "hold"
    assert fit.similarity is None
    assert not fit.members.any()
    assert fitter.step(turn(1.02, 0).apply(PERSON), scores, 2 / 30).rung == "shoulders"


@pytest.mark.parametrize("fps", [24, 30])
@pytest.mark.parametrize("seconds", [0.3, 0.8, 2.0])
def test_comes_back_after_a_gap_in_which_much_has_changed(fps, seconds):
    """Exact keypoints before and after a gap: every frame after it is exact, however far the person has turned."""
    fitter = PersonFitter(PERSON, SCORES)
    gap = int(seconds * fps)
    for i in [*range(20), *range(20 + gap, 40 + gap)]:
        truth = turn(1 + 0.3 * np.sin(i / fps), 75 * i / fps, 2 * i)
        fit = fitter.step(truth.apply(PERSON), SCORES, i / fps)
        assert fit.rung == "subset"
        assert_allclose(fit.similarity.matrix, truth.matrix, atol=1e-8)


def test_two_points_do_not_stand_a_person_on_the_head():
    """Shoulders alone fit as well upside down, with the sides exchanged: after a loss they are taken as they are."""
    fitter = PersonFitter(PERSON, SCORES)
    assert fitter.step(PERSON[coco.MIRRORED], SCORES, 0.0).swapped
    fit = fitter.step(PERSON, np.where(np.isin(np.arange(17), [5, 6]), 0.9, 0.0), 3.0)
    assert not fit.swapped
    assert abs(fit.similarity.angle) < 0.1


@pytest.mark.parametrize("nothing", ["low scores", "missing", "a wrist and a knee"])
def test_nothing_to_fit_holds(nothing):
    fitter = PersonFitter(PERSON, SCORES)
    fitter.step(PERSON, SCORES, 0.0)
    points, scores = PERSON.copy(), SCORES.copy()
    if nothing == "low scores":
        scores[:] = 0.29
    elif nothing == "missing":
        points[:] = np.nan
    else:
        scores[np.delete(np.arange(17), [9, 14])] = 0
    fit = fitter.step(points, scores, 1 / 30)
    assert (fit.rung, fit.similarity, fit.residual) == ("hold", None, 0.0)
    assert fitter.step(PERSON, SCORES, 2 / 30).rung == "subset"


def test_hysteresis_steadies_the_members(rng):
    """A point at the edge of its tolerance does not flicker."""
    fitter = PersonFitter(PERSON, SCORES)
    members = []
    for i in range(60):
        driving = PERSON + rng.normal(size=(17, 2)) * 0.3
        driving[9] += (26, 0)
        members.append(fitter.step(driving, SCORES, i / 30).members)
    assert np.abs(np.diff(np.array(members), axis=0)).sum() <= 2


@pytest.mark.parametrize(
    ("option", "members"), [("face", [0, 1, 2, 3, 4]), ("all", list(range(17))), ("fixed:6", None)]
)
def test_other_subsets(option, members, rng):
    fitter = PersonFitter(PERSON, SCORES, option)
    fit = fitter.step(turn(1.1, 4).apply(PERSON) + rng.normal(size=(17, 2)) * 0.1, SCORES, 0.0)
    assert fit.rung == "subset"
    if members is None:
        assert fit.members.sum() == 6
    else:
        assert_array_equal(np.nonzero(fit.members)[0], members)


@pytest.mark.parametrize("wrong", ["best", "fixed:1", "fixed:18", "fixed:", "fixed:x", 5])
def test_bad_subset(wrong):
    with pytest.raises(ValueError, match="subset must be optimal, face, all or fixed:N"):
        parse_subset(wrong)


def test_reset_forgets():
    fitter = PersonFitter(PERSON, SCORES)
    fitter.step(PERSON, SCORES, 0.0)
    fitter.reset()
    assert fitter.step(turn(5, 170).apply(PERSON), SCORES, 0.0).rung == "subset"


# Memory: each of these fails without the part that it is about


STAY = [0, 5, 6, 11, 12]


def two_motions():
    """Nose and torso stay; all else follows another similarity, which alone explains more."""
    return np.where(np.isin(np.arange(17), STAY)[:, None], PERSON, turn(1.2, 0, 60, 60).apply(PERSON))


@pytest.mark.parametrize(("dt", "stays"), [(1 / 60, True), (1 / 15, True), (1 / 7, False), (3.0, False)])
def test_inertia_keeps_the_transform_in_proportion_to_the_frame_rate(dt, stays):
    """Between close frames twelve points that leave do not carry the person off; over a longer time they do."""
    fitter = PersonFitter(PERSON, SCORES)
    fitter.step(PERSON, SCORES, 0.0)
    fit = fitter.step(two_motions(), SCORES, dt)
    assert_array_equal(np.nonzero(fit.members)[0], STAY if stays else np.setdiff1d(np.arange(17), STAY))


def test_on_the_first_frame_all_points_say_where_to_look():
    """Upside down and exchanged, eight points agree exactly; as it is, seventeen nearly do."""
    fitter = PersonFitter(PERSON, SCORES)
    noisy = PERSON + np.random.default_rng(0).normal(size=(17, 2)) * 3
    assert abs(fitter.step(noisy, SCORES, 0.0).similarity.angle) < 0.1


def test_sides_need_a_margin():
    """A flat figure explains both sides equally well: it is taken as it is seen."""
    flat = PERSON * [0.0, 1.0] + np.random.default_rng(0).normal(size=(17, 2)) * 0.2
    for seed in range(10):
        driving = flat + np.random.default_rng(seed).normal(size=(17, 2)) * 0.5
        assert not PersonFitter(flat, SCORES).step(driving, SCORES, 0.0).swapped


def test_one_side_alone_may_be_seen():
    """A profile: only left keypoints of the reference, only right ones of the driving person."""
    left, right = [0, 1, 3, 5, 7, 9, 11, 13, 15], [0, 2, 4, 6, 8, 10, 12, 14, 16]
    fitter = PersonFitter(PERSON, np.where(np.isin(np.arange(17), left), 0.9, 0.0))
    fit = fitter.step(PERSON[coco.MIRRORED], np.where(np.isin(np.arange(17), right), 0.9, 0.0), 0.0)
    assert fit.swapped
    assert fit.members.sum() == 9


@pytest.mark.parametrize("back", [False, True])
def test_final_weights_are_the_lower_scores(rng, back):
    """Of the reference, its sides exchanged if they are, and of the driving person."""
    scores, seen = rng.uniform(0.3, 1, (2, 17))
    driving = PERSON[coco.MIRRORED if back else slice(None)] + rng.normal(size=(17, 2))
    fit = PersonFitter(PERSON, scores).step(driving, seen, 0.0)
    assert fit.swapped == back
    order = coco.MIRRORED if back else np.arange(17)
    weights = np.minimum(scores[order], seen) * fit.members
    expected = fit_similarity(PERSON[order], driving, weights)
    assert_allclose(fit.similarity.matrix, expected.matrix, atol=1e-9)


def test_the_size_is_smoothed_over_time():
    fitter = PersonFitter(PERSON, SCORES)
    first = fitter.step(PERSON, SCORES, 0.0).size
    head_only = np.where(np.arange(17) < 5, 0.9, 0.0)
    assert fitter.step(PERSON, head_only, 1 / 30).size > 0.8 * first
    for i in range(2, 120):
        last = fitter.step(PERSON, head_only, i / 30).size
    assert last < 0.2 * first


def test_a_rung_that_turns_too_fast_is_refused():
    fitter = PersonFitter(PERSON, SCORES)
    fitter.step(PERSON, SCORES, 0.0)
    scores = np.where(np.isin(np.arange(17), [5, 6]), 0.9, 0.0)
    fit = fitter.step(turn(1, 25).apply(PERSON), scores, 1 / 30)
    assert fit.rung == "position"
    assert fit.similarity.angle == 0
    assert fitter.step(turn(1, 10).apply(PERSON), scores, 2 / 30).rung == "shoulders"


@pytest.mark.parametrize("fps", [24, 60])
@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("degrees", [20, 90, 180])
def test_a_cut_is_corrected_soon(rng, fps, noise, degrees):
    """After a jump a few points still agree with the past. They hold the fit for a moment, not for ever."""
    fitter = PersonFitter(PERSON, SCORES)
    corrections = []
    for i in range(2 * fps):
        truth = turn(1.2 if i >= fps // 2 else 1, degrees if i >= fps // 2 else 0)
        fit = fitter.step(truth.apply(PERSON) + rng.normal(size=(17, 2)) * noise, SCORES, i / fps)
        if fit.corrected:
            corrections.append(i)
        if i >= fps // 2 + 0.6 * fps:
            assert (
                abs((Similarity(fit.similarity.scale, fit.similarity.rotation, np.zeros(2)) @ truth.inverse()).angle)
                < 0.05
            )
    assert len(corrections) <= 1


def test_a_wrong_first_frame_is_corrected_soon(rng):
    """A detector may see the first frame upside down."""
    fitter = PersonFitter(PERSON, SCORES)
    fitter.step(turn(1, 180).apply(PERSON), SCORES, 0.0)
    for i in range(1, 30):
        fit = fitter.step(PERSON + rng.normal(size=(17, 2)), SCORES, i / 30)
    assert abs(fit.similarity.angle) < 0.05


def test_a_true_minority_is_not_corrected(rng):
    """Arms and legs that differ for long are no mistake: no other subset explains three quarters of the points."""
    fitter = PersonFitter(PERSON, SCORES)
    sitting = PERSON.copy()
    sitting[7:11] = [[70, 20], [-70, 20], [60, -40], [-60, -40]]  # arms raised, legs crossed
    sitting[13:] = [[90, 165], [-90, 165], [-10, 185], [10, 185]]
    for i in range(60):
        fit = fitter.step((PERSON if i < 5 else sitting) + rng.normal(size=(17, 2)), SCORES, i / 30)
        assert not fit.corrected
        assert fit.members[[0, 5, 6, 11, 12]].sum() >= 4
    assert abs(np.log(fit.similarity.scale)) < 0.1
    assert abs(fit.similarity.angle) < 0.1


@pytest.mark.parametrize("seen", [[0], [5], [0, 12]])
def test_position_follows_what_is_seen(seen):
    """Scale and angle are held, however long; the first whole view is taken again at once."""
    fitter = PersonFitter(PERSON, SCORES)
    before = turn(1.5, 20, 10, 10)
    fitter.step(before.apply(PERSON), SCORES, 0.0)
    scores = np.where(np.isin(np.arange(17), seen), 0.9, 0.0)
    for i in range(1, 60):
        moved = turn(1.5, 20, 10 + 3 * i, 10 - i)
        fit = fitter.step(moved.apply(PERSON), scores, i / 30)
        assert fit.rung == ("shoulders" if seen == [5, 6] else "position")
        assert_array_equal(np.nonzero(fit.members)[0], seen)
        assert_allclose(fit.similarity.matrix, moved.matrix, atol=1e-9)
    after = turn(1.6, 25, 200, 0)
    fit = fitter.step(after.apply(PERSON), SCORES, 2.0)
    assert fit.rung == "subset"
    assert_allclose(fit.similarity.matrix, after.matrix, atol=1e-9)


def test_points_far_aside_do_not_tell_a_position():
    fitter = PersonFitter(PERSON, SCORES)
    fitter.step(PERSON, SCORES, 0.0)
    scores = np.where(np.isin(np.arange(17), [0, 11]), 0.9, 0.0)
    assert fitter.step(turn(6, 0).apply(PERSON), scores, 1 / 30).rung == "hold"


def test_hidden_and_mirrored_limbs_never_blow_the_scale_up(rng):
    """In every frame some parts are hidden, one limb has its sides exchanged and one hangs anywhere."""
    fitter = PersonFitter(PERSON, SCORES)
    parts = [[0, 1, 2, 3, 4], [5, 7, 9], [6, 8, 10], [11, 13, 15], [12, 14, 16]]
    pairs = [[5, 6], [7, 8], [9, 10], [11, 12], [13, 14], [15, 16]]
    for i in range(150):
        truth = turn(1 + 0.3 * np.sin(i / 30), 20 * np.sin(i / 40), 2 * i, i)
        points, scores = truth.apply(PERSON) + rng.normal(size=(17, 2)), SCORES.copy()
        if i:
            for part in rng.permutation(5)[: rng.integers(0, 5)]:
                scores[parts[part]] = 0
            a, b = pairs[rng.integers(6)]
            points[[a, b]] = points[[b, a]]
            points[[7, 9]] += rng.normal(0, 150, 2)
        fit = fitter.step(points, scores, i / 30)
        if fit.similarity is None:
            continue
        assert abs(np.log(fit.similarity.scale / truth.scale)) < 0.35, i
        assert abs((fit.similarity @ truth.inverse()).angle) < np.radians(25), i


def test_sides_that_are_exchanged_for_single_frames():
    """A detector that takes left for right now and then: the transform stays, since both namings are tried."""
    fitter = PersonFitter(PERSON, SCORES)
    for i in range(30):
        truth = turn(1 + 0.01 * i, i, 2 * i, 0)
        confused = i in (7, 8, 15, 22)
        points = truth.apply(PERSON[coco.MIRRORED] if confused else PERSON)
        fit = fitter.step(points, SCORES, i / 30)
        assert fit.rung == "subset"
        assert fit.swapped == confused
        assert_allclose(fit.similarity.matrix, truth.matrix, atol=1e-8)
