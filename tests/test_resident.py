"""A calibrator whose pictures are made on a device: on a GPU, or by the interpreter."""

import functools

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scene import PERSON, scene

import tpc_fast
from tpc_fast import Calibrator, resident
from tpc_fast.pose.detection import Detection

torch = pytest.importorskip("torch", reason="torch comes with extra 'torch'")
pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # NumPy interprets
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def by_kernels(monkeypatch):
    monkeypatch.setattr(resident, "WarpSource", functools.partial(tpc_fast.WarpSource, backend="triton"))


def test_it_is_the_calibrator_of_the_host(rng):
    image, mask, driving, keypoints, masks, _ = scene(rng, 6)
    options = dict(reference_keypoints=PERSON, reference_mask=mask, size=32, hold_seconds=0.03, fade_seconds=0.1)
    host, device = Calibrator(image, **options), Calibrator(image, **options, device=DEVICE)
    scores = np.ones(17, np.float32)
    for i in (0, 1, 2, 3):
        seen = i != 2  # nobody is seen for a moment: held, then fading
        found = Detection(keypoints[i : i + 1].astype(np.float32), scores[None], masks[i : i + 1])
        found = found if seen else Detection.nobody()
        there = Detection(*(torch.tensor(a, device=DEVICE) for a in (found.keypoints, found.scores)), None)
        if i == 1:
            there = Detection(there.keypoints, there.scores, torch.tensor(found.mask, device=DEVICE))
        expected = host.step(driving[i], i * 0.1, found)
        got = device.step(torch.tensor(driving[i], device=DEVICE), i * 0.1, there)
        for name in ("matrix", "status", "opacity", "members", "keypoints"):
            assert_array_equal(getattr(got, name), getattr(expected, name))
        for name in ("image", "mask"):
            ours = getattr(got, name)
            assert ours.device.type == DEVICE
            # An opacity may be rounded before or after the warp, whose weights reach 1.9 together.
            limit = 1 if seen and got.opacity == 1 else 2
            assert np.abs(ours.cpu().numpy().astype(int) - getattr(expected, name)).max() <= limit
        if i == 1:
            assert got.pose_mask.device.type == DEVICE
            # Another filter: only edges differ.
            assert np.abs(got.pose_mask.cpu().numpy().astype(int) - expected.pose_mask).mean() < 4
        assert seen or got.opacity < 1


def test_pixels_for_a_model(rng):
    image, mask, driving, keypoints, _, _ = scene(rng, 2)
    options = dict(reference_keypoints=PERSON, reference_mask=mask, size=(24, 32), dtype="float16")
    found = Detection(keypoints[:1].astype(np.float32), np.ones((1, 17), np.float32))
    got = Calibrator(image, **options, device=DEVICE).step(driving[0], 0.0, found)
    assert got.image.dtype == got.mask.dtype == torch.float16
    assert got.image.shape == (1, 3, 24, 32)
    assert got.pose_mask is None
    expected = Calibrator(image, **options).step(driving[0], 0.0, found)
    assert np.abs(got.image.cpu().numpy().astype(float) - expected.image).max() <= 0.2 / 127.5
    assert np.abs(got.mask.cpu().numpy().astype(float) - expected.mask).max() <= 0.2 / 127.5


def test_bad_device_input(rng):
    image, mask, driving, keypoints, masks, _ = scene(rng, 1)
    options = dict(reference_keypoints=PERSON, reference_mask=mask, size=32)
    with pytest.raises(ValueError, match="dtype must be one of"):
        Calibrator(image, **options, dtype="int8")
    with pytest.raises(TypeError, match="device is an option of Calibrator, not of calibrate"):
        tpc_fast.calibrate(image, driving, device=DEVICE, **options)
    calibrator = Calibrator(image, **options, device=DEVICE)
    found = Detection(keypoints.astype(np.float32), np.ones((1, 17), np.float32))
    with pytest.raises(ValueError, match=r"frame must be a uint8 tensor \[H, W, 3\]"):
        calibrator.step(torch.zeros(120, 160, device=DEVICE), 0.0, found)
    wrong = Detection(found.keypoints, found.scores, torch.tensor(masks[:, 1:], device=DEVICE))
    with pytest.raises(ValueError, match=r"detection must have a uint8 mask \(1, 120, 160\)"):
        calibrator.step(driving[0], 0.0, wrong)
