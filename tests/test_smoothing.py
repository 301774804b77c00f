"""Smoothing of tracks: laws, gaps, causality, and what it must not do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from tpc_fast import Similarity
from tpc_fast.pose.follow.smoothing import CausalSmoother, ease, from_track, smooth_offline, to_track

seeds = st.integers(0, 2**32 - 1)


def roughness(values):
    return np.std(np.diff(values, 2, axis=0), axis=0)


def random_track(rng, frames):
    steps = rng.normal(size=(frames, 4)) * [0.02, 0.03, 3, 3]
    return np.cumsum(steps, 0) + [0, 0, 200, 200]


@given(seeds)
def test_track_round_trip(seed):
    rng = np.random.default_rng(seed)
    track = random_track(rng, 7)
    anchor = rng.normal(size=2) * 100
    similarity = from_track(track, anchor)
    assert_allclose(to_track(similarity, anchor), track, rtol=1e-9, atol=1e-9)
    assert_allclose(similarity.apply(np.broadcast_to(anchor, (7, 1, 2)))[:, 0], track[:, 2:], rtol=1e-9)


@given(seeds, st.sampled_from([1, 2, 3, 50]))
def test_offline_keeps_straight_lines(seed, frames):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.01, 0.1, frames))  # a variable frame rate
    line = rng.normal(size=4) + times[:, None] * rng.normal(size=4)
    assert_allclose(smooth_offline(line, rng.uniform(0.1, 1, frames), times), line, atol=1e-6)


def test_offline_is_zero_phase(rng):
    """Time reversed in, time reversed out; a slow sine comes back in place and almost whole."""
    times = np.arange(200) / 30
    track = random_track(rng, 200)
    weights = rng.uniform(0.2, 1, 200)
    forward = smooth_offline(track, weights, times)
    backward = smooth_offline(track[::-1], weights[::-1], times[-1] - times[::-1])[::-1]
    assert_allclose(forward[:, [0, 2, 3]], backward[:, [0, 2, 3]], atol=1e-6)
    slow = np.sin(2 * np.pi * 0.5 * times)[:, None] * np.ones(4)
    assert abs(smooth_offline(slow, np.ones(200), times) - slow)[15:-15].max() < 0.002  # ends have one side only


def test_offline_response_at_the_cutoff():
    """Half the amplitude is left, as the definition says."""
    times = np.arange(2000) / 240
    wave = np.sin(2 * np.pi * 3 * times)[:, None] * np.ones(4)
    smooth = smooth_offline(wave, np.ones(2000), times, cutoff_hz=3.0)
    assert_allclose(abs(smooth[500:-500, 0]).max(), 0.5, atol=0.01)


@pytest.mark.parametrize("hertz", [1.0, 3.0])
def test_offline_response_does_not_depend_on_the_frame_rate(hertz):
    """A film that changes from 20 to 120 frames a second: the same wave comes out in both halves."""
    times = np.concatenate([np.arange(400) / 20, 20 + np.arange(2400) / 120])
    wave = np.sin(2 * np.pi * hertz * times)[:, None] * np.ones(4)
    smooth = smooth_offline(wave, np.ones(len(times)), times)[:, 0]
    slow, fast = (np.sqrt(2) * smooth[(times > a) & (times < a + 16)].std() for a in (2, 22))
    expected = 1 / (1 + (hertz / 3) ** 4)
    assert_allclose([slow, fast], expected, rtol=0.1)


def test_offline_trusts_weights(rng):
    """One wild frame of little weight moves the track less than one of full weight, and less again in a gap."""
    track = np.zeros((41, 4))
    track[20] = 1
    moved = []
    for weight in (1.0, 0.2, 0.0):
        weights = np.ones(41)
        weights[20] = weight
        moved.append(smooth_offline(track, weights, np.arange(41) / 30)[20, 0])
    assert moved[0] > 1.5 * moved[1] > 1.5 * moved[2]
    assert_allclose(moved[2], 0, atol=1e-12)


def test_offline_damps_jitter_at_any_frame_rate(rng):
    for fps in (24, 60):
        noise = rng.normal(size=(300, 4)) * 0.01
        smooth = smooth_offline(noise, np.ones(300), np.arange(300) / fps)
        assert (roughness(smooth) < 0.1 * roughness(noise)).all()


def test_offline_bridges_gaps_and_ignores_what_has_no_weight(rng):
    times = np.arange(60) / 30
    line = times[:, None] * np.array([0.1, 0.2, 30, 10.0])
    broken = line.copy()
    broken[20:35] = rng.normal(size=(15, 4)) * 1000
    weights = np.where((np.arange(60) >= 20) & (np.arange(60) < 35), 0.0, 1.0)
    assert_allclose(smooth_offline(broken, weights, times), line, atol=1e-6)


def test_offline_is_constant_beyond_the_ends():
    times = np.arange(30) / 30
    track = times[:, None] * np.ones(4)
    weights = np.where((np.arange(30) >= 10) & (np.arange(30) < 20), 1.0, 0.0)
    smooth = smooth_offline(track, weights, times)
    assert (smooth[:10] == smooth[10]).all()
    assert (smooth[20:] == smooth[19]).all()
    alone = smooth_offline(track, np.arange(30) == 12, times)
    assert_allclose(alone, np.broadcast_to(track[12], (30, 4)))
    assert_allclose(smooth_offline(track, np.zeros(30), times), track)


def test_offline_unwraps_angles():
    times = np.arange(60) / 30
    angle = np.linspace(0, 4 * np.pi, 60)
    track = np.zeros((60, 4))
    track[:, 1] = np.arctan2(np.sin(angle), np.cos(angle))
    assert_allclose(smooth_offline(track, np.ones(60), times)[:, 1], angle, atol=1e-6)


def run(smoother, track, fps=30.0, unit=100.0, gaps=()):
    out, missing = [], False
    for i, row in enumerate(track):
        if i in gaps:
            missing = True
            continue
        out.append(smoother.step(row, i / fps, unit, missing))
        missing = False
    return np.array(out)


def test_causal_knows_only_the_past(rng):
    track = random_track(rng, 40)
    whole, part = run(CausalSmoother(), track), run(CausalSmoother(), track[:25])
    assert_allclose(whole[:25], part, rtol=1e-12)


def test_causal_damps_jitter_at_rest_and_follows_motion(rng):
    noise = rng.normal(size=(300, 4)) * [0.01, 0.01, 1, 1]
    assert (roughness(run(CausalSmoother(), noise)) < 0.35 * roughness(noise)).all()
    times = np.arange(90) / 30
    ramp = times[:, None] * np.array([1.0, 1.0, 100, 100])
    lag = (ramp - run(CausalSmoother(), ramp))[-1] / [1, 1, 100, 100]  # seconds, as the ramp has unit speed
    assert (lag < 0.1).all()
    assert (lag > 0).all()


def test_causal_eases_back_after_a_gap():
    track = np.zeros((60, 4))
    track[30:] = [0.5, 1.0, 100, 50]  # comes back elsewhere
    out = run(CausalSmoother(), track, gaps=range(20, 30))
    jump, total = abs(np.diff(out, axis=0)).max(0), track[-1]
    assert (jump < 0.35 * total).all()
    assert_allclose(out[-1], track[-1], rtol=1e-6)
    assert_allclose(out[20], 0, atol=1e-9)  # the first frame after the gap is where the last one was


def test_causal_eases_back_from_where_it_stood_however_often():
    """Seen for one frame between two gaps: the second return leaves from the held place too."""
    track = np.zeros((80, 4))
    track[20:] = [0.2, 0.3, 100, 50]
    out = run(CausalSmoother(), track, gaps=[*range(10, 20), *range(21, 33)])
    assert (abs(np.diff(out, axis=0)).max(0) < 0.35 * track[-1]).all()


def test_causal_takes_the_short_way_round():
    angles = np.radians([170, 175, 180, -175, -170])
    track = np.zeros((5, 4))
    track[:, 1] = angles
    assert (np.diff(run(CausalSmoother(), track)[:, 1]) > 0).all()


def test_reset_forgets():
    smoother = CausalSmoother()
    first = run(smoother, np.ones((5, 4)))
    smoother.reset()
    assert_allclose(smoother.step(np.full(4, 9.0), 0.0, 1.0, False), 9)
    assert_allclose(first, 1)


@pytest.mark.parametrize(("progress", "value"), [(-1, 0), (0, 0), (0.5, 0.5), (1, 1), (7, 1)])
def test_ease(progress, value):
    assert ease(progress) == value


def test_similarity_with_batch_is_accepted():
    assert to_track(Similarity(np.ones(3), np.stack([np.eye(2)] * 3), np.zeros((3, 2))), np.zeros(2)).shape == (3, 4)
