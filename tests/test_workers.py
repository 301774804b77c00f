"""In the workers of real DataLoaders: one thread each, the same numbers, and what is sent to them arrives."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tpc_fast
from tpc_fast import Calibration, Calibrator, fit_similarity
from tpc_fast.ops.warp import WarpSource
from tpc_fast.pose import Detection

FIGURE = np.array(
    [[60, 20], [64, 16], [56, 16], [70, 18], [50, 18], [80, 44], [40, 44], [88, 70], [32, 70], [90, 92], [30, 92],
     [72, 96], [48, 96], [74, 130], [46, 130], [74, 160], [46, 160]], np.float32,
)  # fmt: skip


def photo_and_keypoints():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (180, 120, 3), np.uint8)
    mask = np.zeros((180, 120), np.uint8)
    mask[10:170, 25:95] = 255
    return image, mask


def make_calibrator(**options):
    image, mask = photo_and_keypoints()
    return Calibrator(image, reference_keypoints=FIGURE, reference_mask=mask, size=64, **options)


def make_calibration():
    image, mask = photo_and_keypoints()
    driving = np.stack([FIGURE + [i, 0] for i in range(3)])
    frames = np.zeros((3, 180, 120, 3), np.uint8)
    return tpc_fast.calibrate(
        image, frames, driving_keypoints=driving, reference_keypoints=FIGURE, reference_mask=mask, size=64
    )


def step(calibrator, shift):
    detection = Detection(FIGURE[None] + np.float32([shift, 0]), np.ones((1, 17), np.float32))
    return calibrator.step(np.zeros((180, 120, 3), np.uint8), detection=detection)


class Items:
    """A data set of what workers do."""

    def __init__(self, calibrator, calibration):
        self.calibrator, self.calibration = calibrator, calibration
        image, mask = photo_and_keypoints()
        self.kept = WarpSource(image, mask)  # of before a fork; a WarpSource cannot be sent

    def __getstate__(self):
        return self.__dict__ | {"kept": None}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if self.kept is not None:
            self.kept.warp(np.eye(2, 3)[None], 8)
        x = np.random.default_rng(index).random((17, 2))
        self.calibrator.reset()
        return {
            "threads": tpc_fast.get_num_threads(),
            "pid": os.getpid(),
            "fit": fit_similarity(x, x * 2),
            "image": self.calibration.images[index % 3],
            "matrix": step(self.calibrator, index).matrix,
        }


@pytest.mark.native
def test_a_pickled_calibrator_begins_anew():
    calibrator = make_calibrator(smooth="none", lag=0, clean_masks=True)
    first = step(calibrator, 3)
    other = pickle.loads(pickle.dumps(calibrator))
    again = step(other, 3)
    for name in ("image", "mask", "matrix", "members", "residual"):
        assert_array_equal(getattr(again, name), getattr(first, name))
    assert_array_equal(other.reference.scores, calibrator.reference.scores)
    assert other.size == (64, 64)


def test_a_calibration_is_pickled_and_written_into_a_folder_by_name(tmp_path):
    calibration = make_calibration()
    calibration.images[0]
    other = pickle.loads(pickle.dumps(calibration))
    assert_array_equal(other.images[:], calibration.images[:])
    calibration.write(str(tmp_path))
    assert_array_equal(Calibration.load(str(tmp_path)).matrices, calibration.matrices)


@pytest.mark.native
@pytest.mark.torch
@pytest.mark.slow  # 3 s each: two processes that import torch
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_of_a_data_loader(tmp_path, method):
    """In a process of its own, as a script would; pytest's would be forked with its threads."""
    code = f"""
import sys, os
sys.path[:0] = [{str(Path(__file__).parent)!r}]
import test_workers

if __name__ == "__main__":
    import torch, tpc_fast
    from torch.utils.data import DataLoader
    tpc_fast.fit_similarity(*torch.rand(2, 2000, 17, 2))  # the pool has its threads before the fork
    items = test_workers.Items(test_workers.make_calibrator(), test_workers.make_calibration())
    here = [items[i] for i in range(4)]
    batches = list(DataLoader(items, batch_size=2, num_workers=2, multiprocessing_context={method!r}))
    assert len({{int(pid) for b in batches for pid in b["pid"]}} - {{os.getpid()}}) == 2
    assert all((b["threads"] == 1).all() for b in batches), [b["threads"] for b in batches]
    assert tpc_fast.get_num_threads() == here[0]["threads"] == os.cpu_count()
    for i, b in enumerate(batches):
        for j in (0, 1):
            assert (b["image"][j].numpy() == here[2 * i + j]["image"]).all()
            assert (b["matrix"][j].numpy() == here[2 * i + j]["matrix"]).all()
            assert (b["fit"][j].matrix.numpy() == here[2 * i + j]["fit"].matrix).all()
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    subprocess.run([sys.executable, str(script)], check=True)


@pytest.mark.native
@pytest.mark.torch
@pytest.mark.slow  # 3 s
def test_a_chosen_number_of_threads_stays(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""
import tpc_fast, torch
from torch.utils.data import DataLoader

class Threads:
    def __len__(self): return 2
    def __getitem__(self, i): return tpc_fast.get_num_threads()

if __name__ == "__main__":
    tpc_fast.set_num_threads(3)
    (batch,) = DataLoader(Threads(), batch_size=2, num_workers=1, multiprocessing_context="fork")
    assert (batch == 3).all(), batch
""")
    subprocess.run([sys.executable, str(script)], check=True)
