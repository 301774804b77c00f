"""`tpc-fast evaluate --protocol puppets`: all that is measured on drawn figures, in one folder."""

import json
import os
from pathlib import Path

import numpy as np

from tpc_fast.diffusion.models.load import load_model
from tpc_fast.evaluation import puppets, puppets_clips, stlpips
from tpc_fast.media.png import write_png


def evaluate_puppets(
    output: str | os.PathLike, model: str = "puppets", rotations: int = 12, scales=(0.35, 0.5, 0.7, 1.2, 1.4, 2.0),
    count: int = 8, seed: int = 1000, progress=None,
) -> tuple[list[dict], list[dict]]:  # fmt: skip
    """The paper's sensitivity and its temporal consistency on drawn figures.

    Writes results.json, results.txt and figures.png into a folder.

    Args:
        output: made if need be; its parent must exist.
        model: "puppets", or a folder with its weights.
        rotations: of the photo, evenly round; scales: of the photo; count: figures; seed: of the first.
        progress: called as `progress(done, total)`.

    Returns:
        The rows of `sensitivity`, also of small figures, whose photos show them whole at scale 2, and of `ablations`
        at half a quarter turn and scale 0.7, with exact and noisy keypoints; and the rows of
        `puppets_clips.consistency`.
    """
    output = Path(output)
    output.mkdir(exist_ok=True)
    pipe, perceptual = load_model(model, device="cpu"), stlpips.load() if stlpips.installed() else None
    cells = [puppets.Cell(angle) for angle in np.radians(-180 + 360 * np.arange(rotations) / rotations).tolist()]
    cells += [puppets.Cell(scale=scale) for scale in scales]
    cells += [puppets.Cell(scale=scale, size=puppets.SMALL) for scale in (1.0, 1.4, 2.0)]
    compared = [puppets.Cell(np.pi / 4, 0.7, noise=noise) for noise in (0.0, puppets.NOISE)]
    total = len(cells) + len(compared) + len(puppets_clips.SETTINGS)

    def further(done):
        return None if progress is None else lambda number, _: progress(done + number, total)

    rows = puppets.sensitivity(pipe, cells, count, seed, perceptual=perceptual, progress=further(0))
    rows += puppets.ablations(pipe, compared, count, seed, perceptual, further(len(cells)))
    clips = puppets_clips.consistency(pipe, count, seed, progress=further(len(cells) + len(compared)))
    (output / "results.json").write_text(json.dumps({"pictures": rows, "clips": clips}), encoding="utf-8")
    (output / "results.txt").write_text(f"{puppets.table(rows)}\n\n{puppets_clips.table(clips)}\n", encoding="utf-8")
    write_png(output / "figures.png", puppets.sheet(pipe, range(seed, seed + 6), np.pi / 2))
    return rows, clips
