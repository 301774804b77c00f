"""A calibrator whose pictures are made on a device: on a GPU, or by the interpreter."""

import functools

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scene import PERSON, scene

import tpc_fast
from tpc_fast import Calibrator
from tpc_fast.calibration import device as device_module
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.detection import Detection

torch = pytest.importorskip("torch", reason="torch comes with extra 'torch'")
pytestmark = [pytest.mark.triton, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # NumPy interprets
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def warps_by_kernels(monkeypatch):
    monkeypatch.setattr(device_module, "WarpSource", functools.partial(tpc_fast.WarpSource, backend="triton"))


def there(*arrays) -> Detection:
    """A detection of tensors on the device."""
    return Detection(*(None if a is None else torch.tensor(a, device=DEVICE) for a in arrays))


def assert_same(got, expected):
    """Of a frame whose keypoints were tensors and one whose were arrays: the same code on the same numbers."""
    for name in ("status", "determined", "swapped", "members", "order", "matrix", "opacity", "residual"):
        assert_array_equal(getattr(got, name), getattr(expected, name))


def stream(rng, keypoints, frames):
    """Keypoints [D, 17, 2] of `frames`, moving and going wrong in every way, with scores [D, 17] and times."""
    time, wrong, count = 0.0, np.zeros(len(keypoints), int), len(keypoints)
    kinds = rng.integers(0, 9, (frames, count))
    kinds[:2] = 0
    motion = np.eye(2), np.zeros(2)
    for kind in kinds:
        time += rng.choice([0.02, 0.04, 0.2, 1.5], p=[0.4, 0.4, 0.15, 0.05])
        wrong = np.where(rng.random(count) < 0.5, wrong, kind)  # what goes wrong stays so for a while
        angle, scale = rng.normal() * 0.05, np.exp(rng.normal() * 0.03)
        if rng.random() < 0.05:  # a cut
            angle, scale = rng.normal() * 2, np.exp(rng.normal() * 0.5)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        motion = turn @ motion[0], turn @ motion[1] + rng.normal(size=2) * 3
        points = keypoints @ motion[0].T + motion[1] + rng.normal(size=keypoints.shape)
        scores = rng.uniform(0.4, 1, points.shape[:2])
        for d in range(count):
            if wrong[d] == 1:  # nobody
                scores[d] = 0
            elif wrong[d] == 2:  # seen from behind
                points[d] = points[d, coco.MIRRORED]
            elif wrong[d] == 3:  # only a few points, each somewhere
                scores[d, rng.random(17) < 0.7] = 0.1
                points[d] += rng.normal(size=(17, 2)) * 10
            elif wrong[d] == 4:  # only one part
                part = [coco.TORSO, coco.SHOULDERS, coco.FACE, [0], [15, 16]][rng.integers(5)]
                scores[d, np.setdiff1d(np.arange(17), part)] = 0
            elif wrong[d] == 5:  # most are wrong
                points[d] += rng.normal(size=(17, 2)) * 20
            elif wrong[d] == 6:
                points[d, rng.integers(17)] = np.nan
        yield points.astype(np.float32), scores.astype(np.float32), time


@pytest.mark.parametrize(
    ("persons", "options"),
    [
        (1, {}),
        (2, {"match": "columns", "resize": "stretch"}),
        (3, {"match": "left-to-right", "smooth": "none", "fade_seconds": 0}),
        (1, {"subset": "face", "depth": (0,)}),
        (1, {"subset": "all"}),
        (2, {"subset": "fixed:6", "match": "columns"}),
    ],
)
def test_a_stream_of_tensors_is_that_of_arrays(rng, persons, options):
    image, mask, _, keypoints, _, _ = scene(rng, 1)
    apart = np.arange(persons)[:, None, None] * [30.0, 5.0]
    options = {"size": (24, 32), "hold_seconds": 0.1, "fade_seconds": 0.3} | options
    options |= {"reference_keypoints": PERSON + apart, "reference_mask": np.repeat(mask[None], persons, 0)}
    host, device = Calibrator(image, **options), Calibrator(image, **options, device=DEVICE)
    frame = np.zeros((120, 160, 3), np.uint8)
    seen = set()
    for _ in range(2):
        for points, scores, time in stream(rng, keypoints + apart, 60):
            expected = host.step(frame, time, Detection(points, scores))
            got = device.step(frame, time, there(points, scores))
            assert_same(got, expected)
            there_too = expected.scores > 0
            assert_array_equal(got.keypoints[there_too], expected.keypoints[there_too])
            seen |= {*zip(expected.status, expected.swapped, strict=True)}
        host.reset()
        device.reset()
    assert len(seen) >= 3


def test_a_second_person_turns_up_in_a_stream(rng):
    image, mask, _, keypoints, masks, _ = scene(rng, 1)
    options = dict(reference_keypoints=PERSON, reference_mask=mask, size=32)
    host, device = Calibrator(image, **options), Calibrator(image, **options, device=DEVICE)
    both = np.concatenate([keypoints + [50, 0], keypoints]).astype(np.float32)
    scores = np.full((2, 17), 0.9, np.float32)
    masks = np.concatenate([masks * 0, masks])
    frame = np.zeros((120, 160, 3), np.uint8)
    for i, who in enumerate(([1], [], [1], [0, 1], [1, 0], [0], [1])):
        expected = host.step(frame, None, Detection(both[who], scores[who], masks[who]))
        got = device.step(frame, None, there(both[who], scores[who], masks[who]))
        assert_same(got, expected)
        assert got.time == expected.time
        assert got.pose_mask.any().item() == expected.pose_mask.any() == (1 in who), i


@pytest.mark.usefixtures("warps_by_kernels")
def test_from_keypoints_to_pixels_by_kernels(rng):
    image, mask, driving, keypoints, masks, _ = scene(rng, 4)
    options = dict(reference_keypoints=PERSON, reference_mask=mask, size=32, hold_seconds=0.03, fade_seconds=0.1)
    host, device = Calibrator(image, **options), Calibrator(image, **options, device=DEVICE)
    scores = np.full((1, 17), 0.9, np.float32)
    for i in (0, 1, 3):
        seen = i != 1  # nobody is seen for a moment: held, then fading
        points = keypoints[i : i + 1].astype(np.float32)
        found = Detection(points, scores, masks[i : i + 1]) if seen else Detection.nobody()
        expected = host.step(driving[i], i * 0.1, found)
        got = device.step(torch.tensor(driving[i], device=DEVICE), i * 0.1, there(*vars(found).values()))
        assert_same(got, expected)
        for name in ("image", "mask"):
            ours = getattr(got, name)
            assert ours.device.type == DEVICE
            # An opacity may be rounded before or after the warp, whose weights reach 1.9 together.
            limit = 1 if expected.opacity == 1 else 2
            assert np.abs(ours.cpu().numpy().astype(int) - getattr(expected, name)).max() <= limit
        # Another filter: only edges differ.
        assert np.abs(got.pose_mask.cpu().numpy().astype(int) - expected.pose_mask).mean() < 4
        assert seen or expected.opacity < 1


@pytest.mark.usefixtures("warps_by_kernels")
def test_numbers_cross_once_each_way(rng, monkeypatch):
    """Keypoints with their scores come back in one copy; matrices with their opacities go up in one."""
    image, mask, driving, keypoints, masks, _ = scene(rng, 2)
    device = Calibrator(image, reference_keypoints=PERSON, reference_mask=mask, size=16, device=DEVICE)
    frames = [torch.tensor(frame, device=DEVICE) for frame in driving]
    scores = np.ones((1, 17), np.float32)
    found = [there(keypoints[i, None].astype(np.float32), scores, masks[i, None]) for i in range(2)]
    device.step(frames[0], None, found[0])  # the canvas goes up with the first
    read, sent = [], []
    cpu, from_numpy = torch.Tensor.cpu, torch.from_numpy
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: (read.append(tuple(self.shape)), cpu(self))[1])
    monkeypatch.setattr(torch, "from_numpy", lambda array: (sent.append(array.shape), from_numpy(array))[1])
    device.step(frames[1], None, found[1])
    assert read == [(1, 17, 3)]
    assert sent == [(1, 7)]


@pytest.mark.usefixtures("warps_by_kernels")
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
    with pytest.raises(ValueError, match=r"detection must have keypoints \[P, 17, 2\]"):
        calibrator.step(driving[0], 0.0, there(found.keypoints[:, :5], found.scores))
    with pytest.raises(ValueError, match=r"detection must have a uint8 mask \(1, 120, 160\)"):
        calibrator.step(driving[0], 0.0, there(found.keypoints, found.scores, masks[:, 1:]))
    wrong = Detection(found.keypoints, found.scores, torch.tensor(masks[:, 1:], device=DEVICE))
    with pytest.raises(ValueError, match=r"detection must have a uint8 mask \(1, 120, 160\)"):
        calibrator.step(driving[0], 0.0, wrong)
