"""The nine given tracks of real clips: how near the estimate lies to the keypoints, and how steady it is."""

from pathlib import Path

import numpy as np
import pytest

from tpc_fast.evaluation.track_measures import measure_track
from tpc_fast.ops.track import estimate_track
from tpc_fast.ops.track_stream import TrackEstimator

TRACKS = sorted((Path(__file__).parents[2] / "shared" / "data" / "tracks").glob("*.npz"))
pytestmark = pytest.mark.skipif(not TRACKS, reason="keypoints of real clips are not at ../shared/data/tracks")


@pytest.fixture(scope="module")
def clips():
    return [dict(np.load(path)) for path in TRACKS]


def measured(clip, matrices):
    reference, driving = clip["reference"].astype(float), clip["driving"].astype(float)
    return measure_track(reference[:, :2], reference[:, 2], driving[..., :2], driving[..., 2], matrices)


def whole(clip):
    reference, driving = clip["reference"], clip["driving"]
    return estimate_track(
        reference[:, :2],
        driving[..., :2],
        clip["times"],
        reference_scores=reference[:, 2],
        driving_scores=driving[..., 2],
    )


def test_offline(clips):
    found = [measured(clip, whole(clip).matrices) for clip in clips]
    heads = [m.head_95 for m in found]
    assert np.median(heads) <= 0.08
    assert max(heads) <= 0.15
    assert np.median([m.torso_95 for m in found]) <= 0.20
    assert np.median([m.scale_roughness for m in found]) <= 0.0006


def test_causal(clips):
    heads = []
    for clip in clips:
        estimator = TrackEstimator(clip["reference"][:, :2], reference_scores=clip["reference"][:, 2])
        rows = zip(clip["driving"], clip["times"], strict=True)
        steps = [estimator.step(row[:, :2], row[:, 2], float(time)) for row, time in rows]
        heads.append(measured(clip, np.array([step.matrix for step in steps])).head_95)
    assert np.median(heads) <= 0.12


def test_no_cut_in_any(clips):
    from tpc_fast.pose.follow.shots import find_cuts

    for clip in clips:
        assert find_cuts(clip["driving"][..., :2], clip["driving"][..., 2], clip["times"]) == []


def test_known_camera(clips):
    """Every clip's keypoints filmed by a known camera: rotation +-25 degrees, scale 0.62 to 1.03."""
    for clip in clips:
        plain = whole(clip)
        times = clip["times"]
        turns = 2 * np.pi * times / times[-1]
        camera = np.exp(-0.224 + 0.254 * np.cos(turns) + 1j * np.radians(25) * np.sin(turns))
        z = clip["driving"][..., 0] + 1j * clip["driving"][..., 1]
        middle = np.nanmean(z)
        z = (z - middle) * camera[:, None] + middle
        moved = clip["driving"].astype(float)
        moved[..., 0], moved[..., 1] = z.real, z.imag
        filmed = whole(clip | dict(driving=moved))
        a, b = (m.matrices[:, 0, 0] + 1j * m.matrices[:, 1, 0] for m in (filmed, plain))
        error = np.log(a / b / camera)
        assert np.percentile(np.degrees(abs(error.imag)), 95) <= 2.5
        assert np.percentile(abs(error.real), 95) <= 0.05
