"""Rows through an engine: classes that a worker makes once and calls for each row, as Ray Data's `map` wants them.

dataset.map(CalibrateRow, fn_constructor_kwargs={"options": {"size": 512}},
            compute=ray.data.ActorPoolStrategy(size=16), num_cpus=1)
"""

import os
from collections.abc import Mapping

import numpy as np

from tpc_fast._native import set_num_threads
from tpc_fast.datasets.row import GIVEN, calibrate_row, calibration_of, failed_row
from tpc_fast.pose.detect.registry import get_detector


class CalibrateRow:
    """Calibrates rows; see `calibrate_row`. The detector is made once, when the first row needs it.

    Args:
        detector: name with options, see `tpc_fast.pose.get_detector`; None: "blazepose:threads=N".
        threads: N, of the detector and of the compiled core: 1, since a machine runs as many workers as it has cores.
        options: of `tpc_fast.calibrate`, for all rows.
        within: see `calibrate_row`.
    """

    def __init__(
        self, detector: str | None = None, threads: int = 1, options: Mapping | None = None,
        within: str | os.PathLike | None = None,
    ):  # fmt: skip
        os.environ["OMP_NUM_THREADS"] = str(threads)
        set_num_threads(threads)
        self._spec = f"blazepose:threads={threads}" if detector is None else detector
        self._options, self._detector, self._within = dict(options or {}), None, within

    def __call__(self, row: Mapping) -> dict:
        """The row with the columns of `tpc_fast.datasets.row.RESULTS`; it never raises."""
        given = not needs_detector(row)
        try:
            if self._detector is None and not given:
                self._detector = get_detector(self._spec)
        except Exception as error:
            return failed_row(row, error)
        return calibrate_row(row, None if given else self._detector, self._within, **self._options)


def needs_detector(row: Mapping) -> bool:
    """Whether keypoints of a row must be found."""
    return not all(row.get(name) for name in GIVEN if name.endswith("keypoints"))


class RenderRow:
    """Renders rows that are "ok": the calibrated pictures of some frames, made on the side where one trains.

    Args:
        frames: how many of a clip, evenly spaced from the first to the last; None: all.
        dtype: "uint8", "float32" or "float16", see `Calibration.render`.
    """

    def __init__(self, frames: int | None = None, dtype: str = "uint8"):
        self._frames, self._dtype = frames, dtype

    def __call__(self, row: Mapping) -> dict:
        """The row without its record, with `index` [n], and `image`, `mask`, `matrix` as `Calibration.render` gives."""
        calibration = calibration_of(row)
        index = evenly(len(calibration), self._frames)
        warped = calibration.render(index, dtype=self._dtype)
        rest = {name: value for name, value in row.items() if name != "record"}
        shown = {"index": index, "image": warped.image, "mask": warped.mask, "matrix": calibration.matrices[index]}
        return {**rest, **shown}


def evenly(count: int, wanted: int | None) -> np.ndarray:
    """Indices of `wanted` of `count` frames, evenly spaced; all of them if that is no more."""
    if wanted is None or wanted >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, wanted).round().astype(int)
