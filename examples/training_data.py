"""Calibrated frames as training data, in a DataLoader.

    python examples/training_data.py CALIBRATION ...

CALIBRATION is a folder that `tpc-fast calibrate` wrote. Pictures are rendered by the workers, when they are asked for.
"""

import sys

import torch
from torch.utils.data import DataLoader, Dataset

import tpc_fast


class Frames(Dataset):
    """Every frame of the first person of some calibrations."""

    def __init__(self, folders):
        self.calibrations = [tpc_fast.Calibration.load(folder) for folder in folders]
        self.places = [(c, f) for c in self.calibrations for f in range(len(c))]

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        calibration, frame = self.places[index]
        warped = calibration.render(frame, dtype="float32")
        return {
            "image": torch.from_numpy(warped.image[0, 0]),  # [3, h, w] in [-1, 1]
            "mask": torch.from_numpy(warped.mask[0, 0]),  # [h, w] in [0, 1]
            "matrix": torch.from_numpy(calibration.matrices[frame, 0]),
        }


if __name__ == "__main__":
    for batch in DataLoader(Frames(sys.argv[1:]), batch_size=4, shuffle=True, num_workers=2):
        print(*(f"{name} {tuple(value.shape)}" for name, value in batch.items()))
