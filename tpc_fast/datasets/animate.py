"""A table of calibrations animated with a diffusion model: a pipeline in each worker, a GPU for each pipeline."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tpc_fast.datasets.engine import through_ray
from tpc_fast.datasets.row import OK, calibration_of, one_line
from tpc_fast.datasets.tables import open_table
from tpc_fast.media.files import one_writer, whole_file

FAILED_FILE = "failed.jsonl"


class AnimateRow:
    """Animates rows that are "ok" with a diffusion model, which a worker loads once (`num_gpus=1`).

    A row's column `pose` names what the model follows, and for wan-animate `face`, as `tpc-fast animate` takes them,
    but no programs. Every video has its tag and its record, see docs/guides/provenance.md.

    Args:
        model: a folder or hub id, see `tpc_fast.diffusion.load_pipeline`.
        folder: where the videos go, NUMBER.mp4 by the row's `index`; one that exists with its record is left as it is.
        device, dtype, base, vae, seed: as for `tpc-fast animate`.
        background: "reference" or "generated": what is seen outside of the driving persons; dilate: pixels by which
            these grow before.
        options: of the pipeline's call.
    """

    def __init__(
        self, model: str, folder, device: str | None = None, dtype: str | None = None, base=None, vae=None,
        seed: int = 0, background: str = "reference", dilate: int = 0, options: Mapping | None = None,
    ):  # fmt: skip
        from tpc_fast.diffusion.models.load import load_model

        self._model, self._folder, self._options = model, Path(folder), dict(options or {})
        self._seed, self._background, self._dilate = seed, background, dilate
        self._pipe = load_model(model, base, vae, device, dtype)

    def __call__(self, row: Mapping) -> dict:
        """The row without its record, with `video`, the path of what was made, and `error`; it never raises."""
        rest = {name: value for name, value in row.items() if name != "record"}
        path = video_of(self._folder, row["index"])
        try:
            if not is_made(path):
                self._animate(row, path)
            return {**rest, "video": str(path), "error": ""}
        except Exception as error:
            return failed_video(rest, error)

    def _animate(self, row: Mapping, path: Path) -> None:
        import torch

        from tpc_fast.output.animation import write_animation
        from tpc_fast.output.provenance import Provenance

        calibration, options = calibration_of(row), self._options
        videos = self._followed(row, calibration)
        settings = {name: value for name, value in options.items() if isinstance(value, str | int | float)}
        made = Provenance(
            path, self._model, self._pipe.kind, calibration.reference_sha256, **settings | {"seed": self._seed}
        )
        latents = self._pipe(
            calibration, videos if len(videos) > 1 else next(iter(videos.values())), output_type="latent",
            generator=torch.Generator().manual_seed(self._seed), **options,
        ).frames  # fmt: skip
        write_animation(self._pipe, calibration, latents, made, self._model, self._background, self._dilate)

    def _followed(self, row: Mapping, calibration) -> dict[str, np.ndarray]:
        from tpc_fast.diffusion.models.registry import MODELS
        from tpc_fast.output.pose_video import followed_paths, followed_videos, own_videos
        from tpc_fast.pose.masks.densepose import is_model

        pose, kind = row.get("pose"), self._pipe.kind
        if pose is None:
            videos = own_videos(self._model, kind, calibration)
            if videos is None:
                raise ValueError(f"pose must be {MODELS[kind].follows.value} of the driving video")
            return videos
        if is_model(pose):
            raise ValueError(f"pose must be a video, but is a program: {pose}")
        return followed_videos(followed_paths(self._pipe.videos, pose, row.get("face")), calibration)


def video_of(folder: Path, index: int) -> Path:
    """Where the video of a row goes."""
    return Path(folder) / f"{int(index):08d}.mp4"


def is_made(path: Path) -> bool:
    """Whether a video is there, and its record, which is written after it."""
    from tpc_fast.output.provenance import sidecar

    return path.exists() and sidecar(path).exists()


def failed_video(row: Mapping, error: BaseException) -> dict:
    """What a row becomes that could not be animated."""
    return {**row, "video": "", "error": one_line(error)}


class AnimatePlace(AnimateRow):
    """`AnimateRow` for rows that say only where in a table the row is: records are read by who needs them."""

    def __call__(self, place: Mapping) -> dict:
        try:
            group = open_table(place["table"]).read_row_group(place["group"])
            (row,) = group.slice(place["place"], 1).to_pylist()
        except Exception as error:
            return failed_video(place, error)
        made = super().__call__(row)
        return {**place, "video": made["video"], "error": made["error"]}


class Animated(NamedTuple):
    """What a run came to: videos that are there and rows that failed; how many rows this run tried."""

    good: int
    failed: int
    rows: int


def animate_table(
    table,
    folder,
    model: str,
    *,
    actors: int | None = None,
    address: str | None = None,
    num_gpus: float | None = None,
    progress: Callable[[int, int], object] | None = None,
    **options,
) -> Animated:
    """Animates every row of a table of `calibrate_table`; goes on where it was interrupted.

    Args:
        table: the Parquet file, where every worker can read it; so for photos, videos, model and `folder`.
        folder: where the videos go, see `AnimateRow`, and `failed.jsonl`, a line for each row that failed. Such rows
            are tried again by the next run.
        model, options: of `AnimateRow`.
        actors: workers; None: one for each core, or for each GPU if they need one.
        address: of a Ray cluster; None: this machine.
        num_gpus: that a worker takes; None: 1 if there are any, else 0.
        progress: called as `progress(done, total)` with the rows of this run.

    Raises:
        ImportError: without Ray, or what the model needs.
        FileExistsError: if another process is writing into this folder.
        FileNotFoundError, OSError, ValueError: for a table, folder, model or options that are not as they must be.
    """
    from tpc_fast.media.reading import reading, regular_file

    table, folder = regular_file(table, "table").absolute(), Path(folder).absolute()
    with reading(f"table {table.name} cannot be read"):
        file, places = open_table(table), []
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, ["index", "status"]).to_pylist()
            places += [
                {"index": row["index"], "table": str(table), "group": group, "place": i}
                for i, row in enumerate(rows)
                if row["status"] == OK
            ]
    folder.mkdir(exist_ok=True)
    with one_writer(folder / "videos"):
        pending, losses = [place for place in places if not is_made(video_of(folder, place["index"]))], []
        made = {"model": model, "folder": str(folder), **options}
        worked = through_ray(pending, AnimatePlace, made, failed_video, actors, address, num_gpus)
        for count, row in enumerate(worked, 1):
            if row["error"]:
                losses.append({"index": row["index"], "error": row["error"]})
            if progress is not None:
                progress(count, len(pending))
        _write_losses(folder / FAILED_FILE, losses)
    return Animated(len(places) - len(losses), len(losses), len(pending))


def _write_losses(path: Path, losses: list[dict]) -> None:
    if not losses:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as partial:
        partial.write_text("".join(json.dumps(loss) + "\n" for loss in losses), encoding="utf-8")
