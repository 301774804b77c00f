"""What each constant of the track is for: with it a scene is estimated well, without it not."""

import dataclasses

import numpy as np
import pytest
import walker
from test_track import LEGS, LIMBS, SIZE, angles, only, placed, scales, scores_without

from tpc_fast.ops import track, track_stream
from tpc_fast.ops.track import MIRRORED, estimate_track
from tpc_fast.ops.track_stream import TrackEstimator

PHOTO = walker.film(walker.body())


def walked(rng, frames=48, share=0.1, correlation=0.8, **options):
    driving, times = walker.walk(frames, **options)
    return walker.noisy(rng, driving, SIZE, share, correlation), times


def size_error(found, scale=1.0):
    return abs(np.log(scales(found.matrices) / scale)).max()


def turned(rng):
    """Somebody seen from 63 degrees aside is narrower, not smaller."""
    return size_error(estimate_track(PHOTO, *walked(rng, headings=1.1), reference_scores=scores_without(*LIMBS)))


def profile(rng):
    """In profile left and right look alike: how often they are exchanged."""
    driving, times = walked(rng, share=0.3, correlation=0, headings=np.pi / 2 + 0.1 * np.sin(np.arange(48)))
    return abs(np.diff(estimate_track(PHOTO, driving, times).side)).sum()


def shoulders_exchanged(rng):
    """Two shoulders from behind: upright, not on the head."""
    driving, times = walked(rng, 24)
    return abs(
        angles(estimate_track(PHOTO, driving[:, MIRRORED], times, driving_scores=only(5, 6, frames=24)).matrices)
    ).max()


def repeated(rng):
    """The same frames four times as often: how much rougher the track is."""
    driving, times = walked(rng, 72, share=0.4, correlation=0)
    often = estimate_track(PHOTO, np.repeat(driving, 4, 0), np.arange(288) / 96).matrices[1::4]
    rough = [np.std(np.diff(np.log(scales(m)), 2)) for m in (estimate_track(PHOTO, driving, times).matrices, often)]
    return rough[1] / rough[0]


def wrong_parts(rng):
    """A third of the keypoints wrong all the time, in every part of the body."""
    driving, times = walked(rng)
    driving[:, [0, 1, 2]] += [190, 160]
    driving[:, [5, 11]] += [-180, 190]
    return size_error(estimate_track(PHOTO, placed(driving, 2.0, 1.0), times), 2.0)


def three_points(rng):
    """Nose and shoulders, too few to search subsets of, of a person four times as large."""
    driving, times = walked(rng, 24)
    driving = placed(driving, 4.0, 1.5)
    return size_error(estimate_track(PHOTO, driving, times, driving_scores=only(0, 5, 6, frames=24)), 4.0)


def collapsed(rng):
    """All keypoints at one place for a third of a second."""
    driving, times = walked(rng)
    driving[20:28] = driving[20:28, :1] + rng.normal(0, 0.5, (8, 17, 2))
    return size_error(estimate_track(PHOTO, driving, times))


def arms(rng):
    """Arms swing, the hips are not in the photo."""
    driving, times = walked(rng, 72)
    driving[:, [9, 10], 1] -= 120 * abs(np.sin(6 * times))[:, None]
    driving[:, [7, 8], 1] -= 50 * abs(np.sin(6 * times))[:, None]
    return size_error(estimate_track(PHOTO, driving, times, reference_scores=scores_without(*LEGS)))


def walking(rng):
    """Arms of a walk, no hips, no noise: those that swing are foreshortened, the photo's are not."""
    driving, times = walker.walk(96)
    driving[:, LEGS] = np.nan
    return size_error(estimate_track(PHOTO, driving, times))


def bust(rng, heading=1.5):
    """A photo of head and shoulders, and somebody in profile."""
    driving, times = walked(rng, 72, headings=heading)
    return size_error(estimate_track(PHOTO, driving, times, reference_scores=scores_without(*LIMBS, *LEGS)))


def bust_of_somebody_tall(rng):
    """The same of somebody whose torso is longer by a fifth than that of others."""
    driving, times = walked(rng, 72)
    driving[:, LEGS] += 0.2 * (driving[:, [11, 12]].mean(1) - driving[:, [5, 6]].mean(1))[:, None]
    return size_error(estimate_track(PHOTO, driving, times, reference_scores=scores_without(*LIMBS, *LEGS)))


def cut(rng):
    """The scale changes from 1 to 3 between two frames."""
    driving, times = walked(rng)
    truth = np.where(np.arange(48) < 24, 1.0, 3.0)
    return size_error(estimate_track(PHOTO, placed(driving, truth), times), truth)


def one_bad_frame(rng):
    driving, times = walked(rng)
    driving[24] = placed(driving[24:25], 0.5, 1.0, (300, -200))[0]
    return size_error(estimate_track(PHOTO, driving, times))


def apart_from(job, **exact):
    """How far the log scales [F] that a job finds are from those that it finds with other constants: rms."""
    found, asked = job(), track_stream.settings_of
    with pytest.MonkeyPatch.context() as patch:
        for module in (track, track_stream):
            patch.setattr(module, "settings_of", lambda subset: dataclasses.replace(asked(subset), **exact))
        return np.sqrt(np.mean((found - job()) ** 2))


def unconverged(rng):
    """How far from the minimum the estimate of somebody with swinging arms stops."""
    driving, times = walked(rng, 72)
    driving[:, 7:11, 1] -= 120 * abs(np.sin(6 * times))[:, None]
    driving[:, LEGS] = np.nan
    return apart_from(
        lambda: np.log(scales(estimate_track(PHOTO, driving, times).matrices)),
        converged=1e-12,
        iterations=1000,
    )


def unconverged_aside(rng):
    """The same of somebody in profile without hips, of whom a photo from the front says little: it takes longer."""
    driving, times = walked(rng, 72, headings=1.5)
    return apart_from(
        lambda: np.log(scales(estimate_track(PHOTO, driving, times, reference_scores=scores_without(*LEGS)).matrices)),
        converged=1e-12,
        iterations=1000,
    )


def streamed(rng, fps, **exact):
    """A stream of somebody who comes and goes and sways, beside the one with other constants."""
    driving, times = walker.walk(int(2.5 * fps), fps)
    driving = walker.noisy(rng, driving, SIZE, 0.3, 0.5)
    driving = placed(driving, np.exp(0.5 * np.sin(5 * times)), 0.5 * np.cos(5 * times))

    def job():
        estimator = TrackEstimator(PHOTO)
        steps = [estimator.step(points, None, float(time)) for points, time in zip(driving, times, strict=True)]
        return np.log(scales(np.array([step.matrix for step in steps])))

    return apart_from(job, **exact)


def window_cut_off(rng):
    """What is further back than the window says hardly anything."""
    return streamed(rng, 24, window_seconds=1e9, window_frames=1000)


def window_cut_off_at_many_frames_a_second(rng):
    return streamed(rng, 60, window_frames=1000)


def stream_unconverged(rng):
    return streamed(rng, 24, warm_iterations=60)


@pytest.mark.parametrize(
    ("scene", "most", "without"),
    [
        (turned, 0.037, dict(across=1.0)),
        (profile, 4, dict(path_side=0.0)),
        (shoulders_exchanged, 0.1, dict(upright=0.0)),
        (repeated, 1.3, dict(correlation_seconds=1e-9)),
        (wrong_parts, 0.025, dict(search=False)),
        (three_points, 0.05, dict(candidate_parts=())),
        (collapsed, 0.1, dict(misfit=1e9)),
        (arms, 0.08, dict(part_weights=np.ones(17))),
        (walking, 0.016, dict(part_weights=np.where(np.isin(np.arange(17), [7, 8]), 0.11, track._weights()))),
        (walking, 0.016, dict(part_weights=np.where(np.isin(np.arange(17), [9, 10]), 0.03, track._weights()))),
        (bust, 0.12, dict(assume_hips=False)),
        (cut, 0.05, dict(path_break=1e9)),
        (one_bad_frame, 0.04, dict(path_break=3.0)),
        (one_bad_frame, 0.04, dict(path_frames=1)),
        (one_bad_frame, 0.04, dict(robust=False)),
        (unconverged, 2e-4, dict(converged=0.1)),
        (unconverged_aside, 2e-4, dict(iterations=4)),
        (window_cut_off, 0.004, dict(window_seconds=0.5)),
        (window_cut_off_at_many_frames_a_second, 0.004, dict(window_frames=32)),
        (stream_unconverged, 0.025, dict(warm_iterations=1)),
    ],
    ids=lambda value: value.__name__ if callable(value) else next(iter(value)) if isinstance(value, dict) else "",
)
def test_constant_is_needed(monkeypatch, scene, most, without):
    """The worst of three runs of noise, with seeds: what is compared is two models on one scene."""
    worst = max(scene(np.random.default_rng(seed)) for seed in range(3))
    assert worst <= most
    settings = dataclasses.replace(track.Settings(), **without)
    for module in (track, track_stream):
        monkeypatch.setattr(module, "settings_of", lambda subset: settings)
    assert max(scene(np.random.default_rng(seed)) for seed in range(3)) > most


def bust_in_front(rng):
    return bust(rng, 0.0)


@pytest.mark.parametrize(
    ("scene", "most", "name", "instead"),
    [
        (bust_in_front, 0.02, "ASSUMED_TORSO", 1.0),
        (bust_of_somebody_tall, 0.1, "ASSUMED_HIPS", 1.0),  # as if they were seen
        (bust, 0.12, "ASSUMED_HIPS", 0.1),
    ],
)
def test_what_is_known_of_hips_is_needed(monkeypatch, scene, most, name, instead):
    assert max(scene(np.random.default_rng(seed)) for seed in range(3)) <= most
    monkeypatch.setattr(track, name, instead)
    assert max(scene(np.random.default_rng(seed)) for seed in range(3)) > most


@pytest.mark.parametrize(
    ("seen", "determined"),
    [
        ([5, 6, 11, 12], [True, True, True]),  # the torso
        ([0, 1, 2, 3, 4], [False, True, True]),  # the face: near together
        ([5, 6], [False, True, True]),  # shoulders: a turn brings them together
        ([5, 11], [True, False, True]),  # one side of the torso: a lean changes its direction
        ([0, 5], [False, False, True]),
        ([11, 12], [False, False, True]),
        ([7, 8], [False, False, False]),  # an arm may be anywhere about its shoulder
        ([15, 16], [False, False, False]),
    ],
)
def test_what_a_frame_determines(seen, determined):
    """Scale, angle and position, by what is seen in one frame of somebody who stands as in the photo.

    The torso is seen within a second: what is seen by itself for longer is a head, or nobody.
    """
    scores = np.concatenate([only(*seen, frames=1), np.ones((1, 17))])
    found = estimate_track(PHOTO, PHOTO[None].repeat(2, 0), np.array([0, 0.9]), driving_scores=scores)
    assert found.determined[0].tolist() == determined
    words = {3: "tracked", 0: "lost"}
    assert found.statuses()[0] == (words.get(sum(determined), "fallback"))


@pytest.mark.parametrize(
    ("seen", "determined"),
    [
        ([0, 1, 2, 3, 4], [True, True, True]),
        ([0, 1, 2, 3, 4, 9, 10], [True, True, True]),  # hands are no torso
        ([0, 1, 3], [False, True, True]),  # a profile: which way it is turned decides on its width
        ([1, 2], [False, True, True]),
        ([0], [False, False, True]),
        ([7, 8], [False, False, False]),  # no head
    ],
)
def test_what_a_head_alone_determines(monkeypatch, seen, determined):
    """A talking head that fills the picture: no frame shows the torso, and no frame needs it."""
    scores = only(*seen, frames=3)
    several = estimate_track(PHOTO, PHOTO[None].repeat(3, 0), np.arange(3) / 24, driving_scores=scores)
    assert several.determined.tolist() == [determined] * 3
    stream = TrackEstimator(PHOTO, hold_seconds=1)
    steps = [stream.step(PHOTO, row, i / 24) for i, row in enumerate(scores)]
    np.testing.assert_allclose([step.information for step in steps], several.information, rtol=1e-6)
    assert [step.status for step in steps] == several.statuses().tolist()
    monkeypatch.setattr(track, "HEAD_ALONE", 1.0)
    plain = estimate_track(PHOTO, PHOTO[None].repeat(3, 0), np.arange(3) / 24, driving_scores=scores)
    assert np.allclose(plain.information, several.information) != (0 in seen or 1 in seen)


def test_a_head_is_part_of_whom_it_was_seen_with():
    """For a second before and after a torso is seen; in another shot, or where each frame stands by itself, never."""
    face = only(0, 1, 2, 3, 4, frames=4)
    scores = np.concatenate([face, np.ones((3, 17)), face])
    driving, times = PHOTO[None].repeat(11, 0), 0.4 * np.arange(11)
    known = dict(driving_scores=scores)
    whole = estimate_track(PHOTO, driving, times, **known)
    assert [i for i, status in enumerate(whole.statuses()) if status == "fallback"] == [2, 3, 7, 8]
    stream = TrackEstimator(PHOTO)
    steps = [stream.step(PHOTO, *row) for row in zip(scores, times, strict=True)]
    assert [step.frame for step in steps if step.status == "fallback"] == [7, 8]
    cut = estimate_track(PHOTO, driving, times, cuts=[4, 7], **known)
    assert (cut.statuses() == "tracked").all()
    each = estimate_track(PHOTO, driving, times, per_frame=True, subset="face", **known)
    assert (each.statuses() == "tracked").all()


def test_a_torso_that_does_not_fit_is_in_sight():
    """Shoulders that are seen too low, and narrow, make the person half as large again: that is no head's size."""
    driving, times, shoulders = PHOTO[None].repeat(8, 0), np.arange(8) / 24, [5, 6]
    middle = driving[:, shoulders].mean(1, keepdims=True)
    driving[:, shoulders] = middle + 0.6 * (driving[:, shoulders] - middle) + [0, 0.8 * SIZE]
    scores = only(*range(7), frames=8)
    found = estimate_track(PHOTO, driving, times, driving_scores=scores)
    assert found.weights[:, shoulders].max() < track.MEMBER_WEIGHT
    assert size_error(found) > 0.4
    assert (found.statuses() == "fallback").all()
    stream = TrackEstimator(PHOTO)
    assert {str(stream.step(*row).status) for row in zip(driving, scores, times, strict=True)} == {"fallback"}


@pytest.mark.parametrize("motion", ["frame", "constant"])
def test_shoulders_guessed_inside_the_picture_are_none(motion):
    """Where it ends below the chin: the track puts them beyond, so that the head is alone."""
    driving, times, shoulders = PHOTO[None].repeat(8, 0), np.arange(8) / 24, [5, 6]
    chin = (PHOTO[0, 1] + PHOTO[5, 1]) / 2
    driving[:, shoulders, 1] = chin - 1
    scores, picture = only(*range(7), frames=8), (-1e4, -1e4, 1e4, chin)
    found = estimate_track(PHOTO, driving, times, driving_scores=scores, picture=picture, motion=motion)
    assert (found.statuses() == "tracked").all()


def test_a_second_is_a_second_in_streams_and_whole_clips():
    """Frames of 1/24 s, of which sums round: each lies exactly a second after another."""
    times = np.arange(96) / 24
    for seen in range(48):
        shown = np.arange(96) == seen
        assert track.torso_at_hand(shown, times).tolist() == (abs(times - times[seen]) <= track.TORSO_SECONDS).tolist()


def test_torsos_at_hand_are_those_counted_one_by_one(rng):
    times = np.sort(rng.uniform(0, 20, 100))
    times[40:45] = times[40]
    shown = rng.random((3, 100)) < [[0.0], [0.03], [0.2]]
    near = [[any(row[abs(times - time) <= track.TORSO_SECONDS]) for time in times] for row in shown]
    assert track.torso_at_hand(shown, times).tolist() == near
    assert track.torso_at_hand(shown[:, :0], times[:0]).shape == (3, 0)
