"""Rows through an engine: classes that a worker makes once and calls for each row, as Ray Data's `map` wants them.

dataset.map(CalibrateRow, fn_constructor_kwargs={"options": {"size": 512}},
            compute=ray.data.ActorPoolStrategy(size=16), num_cpus=1)
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tpc_fast._native import set_num_threads
from tpc_fast.datasets.row import GIVEN, calibrate_row, calibration_of
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
        given = all(row.get(name) for name in GIVEN if name.endswith("keypoints"))
        if self._detector is None and not given:
            self._detector = get_detector(self._spec)
        return calibrate_row(row, None if given else self._detector, self._within, **self._options)


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


class AnimateRow:
    """Animates rows that are "ok" with a diffusion model, which a worker loads once (`num_gpus=1`).

    Args:
        model: a folder or hub id, see `tpc_fast.diffusion.load_pipeline`.
        folder: where the videos go, NUMBER.mp4 by the row's `index`; one that exists is left as it is.
        device, dtype: as for `tpc-fast animate`.
        options: of the pipeline's call.
    """

    def __init__(self, model: str, folder, device: str | None = None, dtype: str | None = None, options=None):
        import torch

        from tpc_fast.diffusion import load_pipeline

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or ("float32" if device == "cpu" else "float16")
        self._pipe = load_pipeline(model, torch_dtype=getattr(torch, dtype)).to(device)
        self._folder, self._options = Path(folder), dict(options or {})

    def __call__(self, row: Mapping) -> dict:
        """The row without its record, with `video`, the path of what was made, and `error`; it never raises."""
        from tpc_fast.media.video import VideoReader, VideoWriter

        rest = {name: value for name, value in row.items() if name != "record"}
        path = self._folder / f"{int(row['index']):08d}.mp4"
        try:
            if not path.exists():
                calibration = calibration_of(row)
                height, width = calibration.size
                pose = np.zeros((len(calibration), height, width, 3), np.uint8)
                if row.get("pose"):
                    pose = np.stack([frame.image for frame in VideoReader(row["pose"], scale_to=(height, width))])
                frames = self._pipe(calibration, pose[: len(calibration)], **self._options).frames
                with VideoWriter(path, calibration.fps, frames.shape[1:3]) as writer:
                    for frame in frames:
                        writer.write(frame)
            return {**rest, "video": str(path), "error": ""}
        except Exception as error:
            return {**rest, "video": "", "error": " ".join(f"{type(error).__name__}: {error}".split())}


def evenly(count: int, wanted: int | None) -> np.ndarray:
    """Indices of `wanted` of `count` frames, evenly spaced; all of them if that is no more."""
    if wanted is None or wanted >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, wanted).round().astype(int)
