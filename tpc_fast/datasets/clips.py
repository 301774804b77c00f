"""Calibrated clips for training in torch, straight from the table that `tpc-fast batch` wrote."""

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from tpc_fast.datasets.operators import evenly
from tpc_fast.datasets.row import OK, calibration_of
from tpc_fast.datasets.tables import open_table


class CalibratedClips(Dataset):
    """The rows of a table that are "ok", rendered by the worker that asks for them.

    Nothing but the path goes to a worker: it opens the file itself, so that spawned and forked ones work alike.

    Args:
        path: the Parquet file; or several, whose clips follow one another.
        frames: how many of each clip, evenly spaced; None: all (clips of one length, or batches of one).
        dtype: "float32", "float16" or "uint8", see `Calibration.render`.
        where: called with a row without its record; which rows are taken. None: all.
        within: see `calibration_of`.

    Each item is a dict: `image` [n, P, 3, h, w] in [-1, 1], `mask` and `pose_mask` [n, P, h, w] in [0, 1] (uint8: as
    `Calibration.render` has them), `matrix` [n, P, 2, 3], `frame` [n] indices, `row` the number in the manifest
    (of tables of your own without `index`: the item's).
    """

    def __init__(
        self,
        path: str | os.PathLike | Sequence[str | os.PathLike],
        frames: int | None = 8,
        dtype: str = "float32",
        where: Callable[[dict], bool] | None = None,
        within: str | os.PathLike | None = None,
    ):
        paths = [path] if isinstance(path, str | os.PathLike) else path
        self._paths, self._frames, self._dtype = [os.fspath(path) for path in paths], frames, dtype
        self._within = within
        self._opened = os.getpid(), {}  # handles must not be shared with children
        places = [np.empty((0, 3), np.int32)]  # file, row group, row in it
        for number in range(len(self._paths)):
            file = self._file(number)
            columns = ["status"] if where is None else [name for name in file.schema_arrow.names if name != "record"]
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns).to_pylist()
                chosen = [i for i, row in enumerate(rows) if row["status"] == OK and (where is None or where(row))]
                places.append(np.array([(number, group, i) for i in chosen], np.int32).reshape(-1, 3))
        self._places = np.concatenate(places)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_opened": (0, {})}

    def _file(self, number: int):
        if self._opened[0] != os.getpid():
            self._opened = os.getpid(), {}
        files = self._opened[1]
        if number not in files:
            files[number] = open_table(self._paths[number])
        return files[number]

    def __len__(self) -> int:
        return len(self._places)

    def row(self, index: int) -> dict:
        """The row of an item, its record included."""
        number, group, place = self._places[index].tolist()
        return self._file(number).read_row_group(group).slice(place, 1).to_pylist()[0]

    def __getitem__(self, index: int) -> dict:
        row = self.row(index)
        calibration = calibration_of(row, self._within)
        frames = evenly(len(calibration), self._frames)
        warped = calibration.render(frames, dtype=self._dtype)
        pose_masks = np.stack([calibration.pose_masks[int(frame)] for frame in frames])
        if self._dtype != "uint8":
            pose_masks = (pose_masks / 255).astype(self._dtype)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(warped.image)),
            "mask": torch.from_numpy(np.ascontiguousarray(warped.mask)),
            "pose_mask": torch.from_numpy(np.ascontiguousarray(pose_masks)),
            "matrix": torch.from_numpy(calibration.matrices[frames]),
            "frame": torch.from_numpy(frames),
            "row": row.get("index", index),
        }
