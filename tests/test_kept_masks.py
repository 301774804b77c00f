"""Masks in little memory are the array that they stand for."""

import io
import pickle
import tracemalloc
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tpc_fast
from tpc_fast.calibration.kept_masks import KeptMasks
from tpc_fast.calibration.record import write_masks


@pytest.mark.parametrize("shape", [(7, 2, 33), (1, 1, 1), (0, 0, 0), (3, 1, 0)])
def test_indexed_as_the_array(rng, shape):
    array = rng.integers(0, 256, shape, np.uint8)
    kept = KeptMasks(array)
    assert kept.shape == shape
    assert len(kept) == len(array)
    assert_array_equal(kept, array)
    assert_array_equal(list(kept), list(array))
    assert_array_equal(pickle.loads(pickle.dumps(kept)), array)
    assert_array_equal(kept[1:], array[1:])
    if not array.size:
        return
    for index in (0, -1, slice(None, None, -2), [0, -1, 0], np.array([[0], [0]]), (slice(None), 0), (0, slice(0, 1)),
                  (slice(None), None), (slice(None), slice(None), 0), np.zeros(len(array), bool)):  # fmt: skip
        assert_array_equal(kept[index], array[index], strict=True)
    assert_array_equal(kept.every(3), array[::3])
    kept[0][...] = 7  # a copy
    assert_array_equal(kept, array)


def test_a_long_video_takes_little_memory(rng):
    """Bits of masks were 33 kB a frame of 512 x 512 when kept, and 102 at the peak."""
    photo, frames = rng.integers(0, 256, (16, 16, 3), np.uint8), 50
    points = rng.uniform(2, 14, (1, 17, 2))
    masks = np.full((frames, 1, 16, 16), 255, np.uint8)

    def calibrate(count):
        return tpc_fast.calibrate(
            photo, (photo for _ in range(count)), size=512, reference_keypoints=points,
            reference_mask=np.full((1, 16, 16), 255, np.uint8), driving_keypoints=np.stack([points] * count),
            driving_masks=masks[:count],
        )  # fmt: skip

    calibrate(2)  # what is made once
    tracemalloc.start()
    try:
        found = calibrate(frames)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.pose_masks[frames - 1].min() == 255
    bits = frames * 512 * 512 / 8
    assert kept < bits / 2
    assert peak < bits


def test_masks_written_fast_are_the_same(rng):
    """By another compressor than zipfile's, which takes fewer bytes."""
    disc = np.hypot(*np.ogrid[-1:1:64j, -1:1:64j]) < rng.uniform(0.3, 0.9, (20, 1, 1, 1))
    calibration = SimpleNamespace(
        packed_pose_masks=np.packbits(disc.reshape(20, 1, -1), axis=-1),
        reference_mask=rng.integers(0, 256, (1, 33, 21), np.uint8),
    )
    files = {}
    for fast in (False, True):
        write_masks(calibration, file := io.BytesIO(), fast)
        assert zipfile.ZipFile(file).testzip() is None
        files[fast] = file.getvalue()
        with np.load(io.BytesIO(files[fast])) as arrays:
            assert_array_equal(arrays["pose_masks"], calibration.packed_pose_masks, strict=True)
            assert_array_equal(arrays["reference_mask"], calibration.reference_mask, strict=True)
    assert files[False] != files[True]
