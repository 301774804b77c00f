"""The estimate over a window of the past of a stream: beside the whole clip's, after mistakes, beside its twin."""

import dataclasses
import sys

import numpy as np
import pytest
import walker
from test_track import SIZE, angles, apart, cut_off_at_the_hips, fuzz, moved, placed, scales, scores_without

from tpc_fast.ops import track, track_stream
from tpc_fast.ops.track import MIRRORED, estimate_track
from tpc_fast.ops.track_stream import TrackEstimator


def run(photo, driving, times, scores=None, picture=None, *, flush=True, **options):
    """All steps of a clip; and the estimator."""
    estimator = TrackEstimator(photo, **options)
    steps = [
        estimator.step(points, None if scores is None else scores[f], float(times[f]), picture)
        for f, points in enumerate(driving)
    ]
    steps = [step for step in steps if step is not None]
    return steps + (estimator.flush() if flush else []), estimator


def matrices(steps):
    return np.array([step.matrix for step in steps])


@pytest.fixture
def clip(rng):
    driving, times = walker.walk(72)
    return walker.film(walker.body()), walker.noisy(rng, driving, SIZE, 0.1), times


def test_stream_is_near_the_whole_clip(rng, clip):
    photo, driving, times = clip
    scale, angle = np.exp(0.2 * np.sin(2 * times)), 0.2 * np.sin(times)
    driving = placed(driving, scale, angle)
    whole = estimate_track(photo, driving, times)
    for lag, most in ((0, 0.05), (8, 0.02)):
        steps, _ = run(photo, driving, times, lag=lag)
        assert [step.frame for step in steps] == list(range(72))
        assert [step.time for step in steps] == times.tolist()
        change = abs(np.log(scales(matrices(steps)) / scales(whole.matrices)))[6:]
        assert np.percentile(change, 95) <= most
        assert abs(angles(matrices(steps)) - angles(whole.matrices))[6:].max() <= most
        assert all(step.status == "tracked" for step in steps)
        assert not any(step.breaks for step in steps)


def test_a_lag_is_steadier(rng, clip):
    photo, driving, times = clip
    driving = walker.noisy(rng, driving, SIZE, 0.3, 0)
    jitter = [np.std(np.diff(np.log(scales(matrices(run(photo, driving, times, lag=lag)[0]))), 2)) for lag in (0, 8)]
    assert jitter[1] < 0.5 * jitter[0]


@pytest.mark.parametrize("fps", [6, 24, 60])
@pytest.mark.parametrize("event", ["first frame wrong", "cut", "back elsewhere"])
def test_recovers_within_half_a_second(rng, fps, event):
    frames = 4 * fps
    driving, times = walker.walk(frames, fps)
    driving = walker.noisy(rng, driving, SIZE, 0.1)
    photo, truth, scores, at = walker.film(walker.body()), np.ones(frames), np.ones((frames, 17)), 0
    if event == "first frame wrong":
        driving[0] = placed(driving[:1][:, MIRRORED], 0.4, 2.0, (500, 300))[0]
    elif event == "cut":
        at = 2 * fps
        truth[at:] = 2.5
        driving = placed(driving, truth)
    else:
        at = 3 * fps
        truth[at:] = 1.6
        scores[fps:at] = 0
        driving = placed(driving, truth, 0.0, np.where(np.arange(frames) < at, 0, 600)[:, None] * [1, 0])
    steps, _ = run(photo, driving, times, scores)
    after = np.flatnonzero(times > times[at] + 0.5)
    found = matrices(steps)[after]
    # At 6 frames a second 2.5 times the size is no jump that nobody can make: it is followed, and overshoots.
    assert abs(np.log(scales(found) / truth[after])).max() <= (0.08 if event == "cut" and fps == 6 else 0.06)
    assert abs(angles(found)).max() <= 0.06
    shoulder = np.linalg.norm(moved(found, photo)[:, 5] - driving[after, 5], axis=-1)
    assert shoulder.max() <= 0.15 * SIZE * truth[-1]
    assert any(step.breaks for step in steps[at:]) or fps == 6  # within 1/6 s people move far


def test_gap_is_held_then_lost(clip):
    photo, driving, times = clip
    scores = np.ones((72, 17))
    scores[24:] = 0
    steps, _ = run(photo, driving, times, scores, hold_seconds=0.49)
    assert [step.status for step in steps] == ["tracked"] * 24 + ["held"] * 11 + ["lost"] * 37
    found = matrices(steps)
    assert abs(np.log(scales(found[24:]) / scales(found[23]))).max() <= 0.03  # no run-away
    drift = moved(found[24:], photo)[:, 5] - moved(found[23], photo)[5]
    assert np.linalg.norm(drift, axis=-1).max() <= 0.2 * SIZE  # it coasts to rest


def test_beyond_the_picture_nothing_is_seen(rng):
    driving, _, times, picture, truth = cut_off_at_the_hips(rng)
    photo = walker.film(walker.body())
    error = [abs(np.log(scales(matrices(run(photo, driving, times, None, p)[0])) / truth)) for p in (picture, None)]
    assert error[0].max() <= 0.08
    assert error[1].max() > 0.1


@pytest.mark.parametrize("backend", ["naive", pytest.param("cpu", marks=pytest.mark.native)])
def test_one_person_has_no_axis(clip, backend):
    """Fields of a step of one person, and of a list of one; matrix and residual are those of the whole clip's kind."""
    photo, driving, times = clip
    scores = np.linspace(0.4, 1, 17)
    alone = TrackEstimator(photo, reference_scores=scores, backend=backend)
    listed = TrackEstimator(photo[None], reference_scores=scores[None], backend=backend)
    for f in range(3):
        step = alone.step(driving[f], None, float(times[f]))
        several = listed.step(driving[f, None], None, float(times[f]))
        for name, shape in dict(
            matrix=(2, 3), side=(), information=(3,), weights=(17,), residual=(), size=(), breaks=(), status=()
        ).items():
            assert np.shape(getattr(step, name)) == shape
            np.testing.assert_array_equal(getattr(several, name)[0], getattr(step, name))
    apart = np.linalg.norm(moved(step.matrix, photo) - driving[2], axis=-1)
    weights = step.weights * scores * alone.settings.part_weights
    np.testing.assert_allclose(step.residual, np.sqrt((weights * apart**2).sum() / weights.sum()), rtol=1e-9)


def test_two_points_and_one(clip):
    photo, driving, times = clip
    for seen in ([5, 6], [0], []):
        others = [k for k in range(17) if k not in seen]
        steps, _ = run(photo, driving[:30], times[:30], scores_without(*others, frames=30))
        assert np.isfinite(matrices(steps)).all()
        assert abs(angles(matrices(steps))).max() <= 0.6
        assert {step.status for step in steps} <= {"tracked", "fallback"} if seen else {"lost"}


@pytest.mark.parametrize("backend", ["naive", pytest.param("cpu", marks=pytest.mark.native)])
@pytest.mark.parametrize("photo_has_one", [True, False])
def test_a_lone_keypoint_that_comes_late(rng, clip, backend, photo_has_one):
    """Nobody at first, then the nose far from where the photo has it, then nobody, and the nose again."""
    photo, driving, times = clip
    driving = driving + 500
    scores = np.zeros((72, 17))
    scores[10:40, 0] = scores[56:, 0] = 1
    known = scores_without(*range(1, 17)) if photo_has_one else None
    steps, _ = run(photo, driving, times, scores, reference_scores=known, backend=backend)
    assert [step.status for step in steps[:10]] == ["lost"] * 10
    seen = scores[:, 0] > 0
    assert {step.status for step, here in zip(steps, seen, strict=True) if here} == {"fallback"}
    apart = np.linalg.norm(moved(matrices(steps), photo)[:, 0] - driving[:, 0], axis=-1)
    assert apart[seen].max() <= 0.1 * SIZE
    np.testing.assert_allclose(scales(matrices(steps)), 1, atol=1e-3 if photo_has_one else 0.1)  # a nod may be either
    # As soon as more is seen, that decides.
    scores[64:] = 1
    steps, _ = run(photo, driving, times, scores, backend=backend)
    assert [step.status for step in steps[64:]] == ["tracked"] * 8


def test_a_swap_and_a_back_view(rng):
    photo = walker.film(walker.body())
    headings = np.r_[np.zeros(24), np.linspace(0, np.pi, 24), np.full(24, np.pi)]
    driving, times = walker.walk(72, headings=headings)
    scores = np.ones((72, 17))
    scores[np.cos(headings) < 0, :3] = 0
    driving[10] = driving[10][MIRRORED]
    steps, _ = run(photo, walker.noisy(rng, driving, SIZE, 0.1), times, scores)
    sides = np.array([step.side for step in steps])
    assert (sides[11:24] == 0).all()
    assert (sides[56:] == 1).all()
    found = matrices(steps)
    assert scales(found).min() >= 0.75
    assert scales(found).max() <= 1.15


def test_persons_are_independent_and_reset_forgets(rng):
    photos, driving, times, reference_scores, scores = fuzz(rng, 20, 3)
    steps, estimator = run(photos, driving, times, scores, reference_scores=reference_scores)
    for p in range(3):
        alone, _ = run(photos[p], driving[:, p], times, scores[:, p], reference_scores=reference_scores[p])
        np.testing.assert_array_equal(matrices(alone), matrices(steps)[:, p])
        assert [step.status for step in alone] == [step.status[p] for step in steps]
    estimator.reset()
    again = [estimator.step(driving[f], scores[f], float(times[f])) for f in range(20)]
    np.testing.assert_array_equal(matrices(again), matrices(steps))
    assert [step.frame for step in again] == list(range(20))


def test_memory_is_constant(clip):
    """The window of the naive twin shows it: what is kept after 70 frames is what is kept after 40."""
    photo, driving, times = clip
    estimator = TrackEstimator(photo, reference_scores=scores_without(7, 8, 9, 10, *range(11, 17)), backend="naive")
    sizes = []
    for f in range(72):
        estimator.step(driving[f], None, float(times[f]))
        stream = estimator._streams.streams[0]
        sizes.append((len(stream.times), sys.getsizeof(stream.states.tobytes())))
    assert max(sizes[40:]) <= max(sizes[:40])
    assert sizes[71][0] <= 26


@pytest.mark.native
@pytest.mark.parametrize(("lag", "picture"), [(0, None), (3, None), (0, (400.0, 100.0, 900.0, 450.0))])
def test_core_is_the_naive_twin(rng, simd, lag, picture):
    photos, driving, times, reference_scores, scores = fuzz(rng, 36, 2, most=9)
    known = dict(reference_scores=reference_scores, lag=lag)
    core, naive = (run(photos, driving, times, scores, picture, backend=b, **known)[0] for b in ("cpu", "naive"))
    for one, other in zip(core, naive, strict=True):
        assert one.frame == other.frame
        np.testing.assert_array_equal(one.side, other.side)
        np.testing.assert_array_equal(one.breaks, other.breaks)
        np.testing.assert_allclose(one.size, other.size, rtol=1e-9)
        np.testing.assert_array_equal(one.status, other.status)
        assert (apart(photos, one.matrix, other.matrix, other.size) <= 1e-3).all()


@pytest.mark.native
def test_candidates_hold_what_no_keypoint_determines(monkeypatch):
    """Mistakes everywhere, times that repeat: the last places of keypoints move nothing, and would otherwise."""

    def moved_by_rounding(seed):
        rng = np.random.default_rng(seed)
        photos, driving, times, reference_scores, scores = fuzz(rng, 36, 2, most=9)
        far = []
        rounded = driving * (1 + 3e-16 * np.random.default_rng(0).normal(size=driving.shape))
        both = (run(photos, d, times, scores, reference_scores=reference_scores)[0] for d in (driving, rounded))
        for one, other in zip(*both, strict=True):
            far.append(apart(photos, one.matrix, other.matrix, other.size).max())
        return max(far)

    assert max(moved_by_rounding(seed) for seed in (291, 843)) <= 1e-4
    settings = dataclasses.replace(track.Settings(), candidate_weight=0.0)
    monkeypatch.setattr(track_stream, "settings_of", lambda subset: settings)
    assert max(moved_by_rounding(seed) for seed in (291, 843)) > 1e-3


@pytest.mark.torch
def test_tensors(clip):
    import torch

    photo, driving, times = clip
    estimator, plain = TrackEstimator(torch.from_numpy(photo)), TrackEstimator(photo)
    for f in range(3):
        found = estimator.step(torch.from_numpy(driving[f]), None, float(times[f]))
        known = plain.step(driving[f], None, float(times[f]))
        assert isinstance(found.matrix, torch.Tensor)
        np.testing.assert_array_equal(found.matrix.numpy(), known.matrix)


def test_bad_arguments(clip):
    photo, driving, _ = clip
    with pytest.raises(ValueError, match="lag must be an integer from 0 to 60, but is -1"):
        TrackEstimator(photo, lag=-1)
    with pytest.raises(ValueError, match="hold_seconds must be a number >= 0"):
        TrackEstimator(photo, hold_seconds="1")
    with pytest.raises(TypeError, match="rates must be a Rates"):
        TrackEstimator(photo, rates=2.0)
    estimator = TrackEstimator(photo)
    with pytest.raises(ValueError, match=r"keypoints must be \[K, 2\]"):
        estimator.step(driving, None, 0.0)
    with pytest.raises(ValueError, match="time must be a finite number"):
        estimator.step(driving[0], None, float("nan"))
    estimator.step(driving[0], None, 1.0)
    with pytest.raises(ValueError, match=r"time must not decrease, but goes from 1.0 to 0.5"):
        estimator.step(driving[0], None, 0.5)
    with pytest.raises(ValueError, match="keypoints must have the 1 persons of reference"):
        TrackEstimator(photo[None]).step(driving[:2], None, 0.0)
