"""What the estimate of a whole track costs, beside exact searches of each frame by itself; a stream's step.

Processor time is in `extra_info` too: the core shares persons and frames out among threads.
"""

import time

import numpy as np
import pytest

from tpc_fast.ops.track import estimate_track
from tpc_fast.ops.track_stream import TrackEstimator

FRAMES = 93
CLIP = f"the track of one person, {FRAMES} frames"
STEP = f"{FRAMES} steps of a stream, one person, 24 frames a second"


@pytest.fixture(scope="module")
def clip():
    """A figure that sways, grows and swings its arms: reference [17, 2], driving [F, 17, 2], times [F]."""
    from test_people import FIGURE

    rng = np.random.default_rng(0)
    times = np.arange(FRAMES) / 24
    a = np.exp(0.3 * np.sin(times) + 0.2j * np.sin(2 * times))[:, None]
    z = a * (FIGURE[:, 0] + 1j * FIGURE[:, 1]) + 400 + 40 * times[:, None]
    driving = np.stack([z.real, z.imag], -1) + rng.normal(0, 2, (FRAMES, 17, 2))
    driving[:, 7:11, 1] -= 30 * abs(np.sin(4 * times))[:, None]
    return FIGURE, driving, times


def processor_ms(work, rounds=5):
    """The least processor time of a round, milliseconds."""
    spent = []
    for _ in range(rounds):
        before = time.process_time()
        work()
        spent.append((time.process_time() - before) * 1e3)
    return min(spent)


@pytest.mark.parametrize("member", ["tpc_fast", "each frame by itself"])
def test_track(measure, clip, member):
    """All frames; both within a few percent of the truth."""

    def work():
        return estimate_track(*clip, per_frame=member != "tpc_fast").matrices

    matrices = measure(work, 15, member=member, work=CLIP, items=FRAMES, processor_ms=processor_ms(work))
    scale = np.sqrt(np.linalg.det(matrices[:, :, :2]))
    assert abs(np.log(scale) - 0.3 * np.sin(clip[2])).max() < 0.08


def test_step(measure, clip):
    """A round is the whole clip; `items` are its frames."""
    reference, driving, times = clip
    ones = np.ones(17)

    def work():
        estimator = TrackEstimator(reference)
        return [estimator.step(p, ones, t).matrix for p, t in zip(driving, times.tolist(), strict=True)]

    matrices = np.array(
        measure(work, 15, member="tpc_fast", work=STEP, items=FRAMES, processor_ms_a_frame=processor_ms(work) / FRAMES)
    )
    scale = np.sqrt(np.linalg.det(matrices[:, :, :2]))
    assert abs(np.log(scale) - 0.3 * np.sin(times)).max() < 0.12
