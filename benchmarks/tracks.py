"""How well tracks lie on the keypoints of real clips, by method: a table in Markdown.

    python benchmarks/tracks.py FOLDER [FOLDER_BEFORE] > table.md

FOLDER holds a file NAME.npz for each clip: `reference` [17, 3] and `driving` [F, 17, 3] (x, y, score), `times` [F]; if
known `size` (height, width) of the frames or, where a picture does not fill them, its `edges` (left, top, right,
bottom), and `cuts`, the frames that begin a shot. It holds `matrices` [F, 2, 3], too, of the release before; or these
are in files of the same names in FOLDER_BEFORE, which the same keypoints need not belong to: then each is measured on
its own.
"""

import sys
from pathlib import Path

import numpy as np

from tpc_fast.evaluation.track_measures import measure_track
from tpc_fast.ops.track import estimate_track
from tpc_fast.ops.track_stream import TrackEstimator

METHODS = ("before", "track", "causal", "face", "all", "each frame")
COLUMNS = ("head", "head_95", "torso", "torso_95", "scale_range", "scale_roughness", "angle_roughness")
DIGITS = (3, 3, 3, 3, 2, 4, 2)


def causal(reference, driving, times, picture, cuts=()) -> np.ndarray:
    """The track of a stream without lag, which a cut begins anew: [F, 2, 3]."""
    estimator, matrices = TrackEstimator(reference[:, :2], reference_scores=reference[:, 2]), []
    for f, (row, time) in enumerate(zip(driving, times.tolist(), strict=True)):
        if f in cuts:
            estimator.reset()
        matrices.append(estimator.step(row[:, :2], row[:, 2], time, picture).matrix)
    return np.stack(matrices)


def tracks(clip, before) -> dict[str, tuple]:
    """Method -> (reference, driving, matrices)."""
    reference, driving = (clip[name].astype(np.float64) for name in ("reference", "driving"))
    times = clip["times"].astype(np.float64)
    problem = (reference[:, :2], driving[..., :2], times)
    known = dict(reference_scores=reference[:, 2], driving_scores=driving[..., 2])
    picture = None
    if "size" in clip:
        height, width = clip["size"].tolist()
        picture = (-0.5, -0.5, width - 0.5, height - 0.5)
    if "edges" in clip:
        picture = tuple(clip["edges"].tolist())
    cuts = clip["cuts"].tolist() if "cuts" in clip else []
    by = {
        "track": estimate_track(*problem, picture=picture, cuts=cuts, **known).matrices,
        "causal": causal(reference, driving, times, picture, cuts),
        "face": estimate_track(*problem, subset="face", per_frame=True, **known).matrices,
        "all": estimate_track(*problem, subset="all", per_frame=True, **known).matrices,
        "each frame": estimate_track(*problem, per_frame=True, **known).matrices,
    }
    found = {name: (reference, driving, matrices) for name, matrices in by.items()}
    if "matrices" in before:
        old = (before[name].astype(np.float64) for name in ("reference", "driving", "matrices"))
        found["before"] = tuple(old)
    return found


def main(folder: str, folder_before: str | None = None) -> None:
    """Prints the table."""
    print("| clip | method | head | 95 % | torso | 95 % | largest / smallest scale | roughness | degrees |")
    print("|---|---|---|---|---|---|---|---|---|")
    everything = {name: [] for name in METHODS}
    for path in sorted(Path(folder).glob("*.npz")):
        other = path if folder_before is None else Path(folder_before) / path.name
        with np.load(path) as clip, np.load(other) as before:
            found = tracks(clip, before)
        for name in METHODS:
            if name not in found:
                continue
            reference, driving, matrices = found[name]
            measured = measure_track(reference[:, :2], reference[:, 2], driving[..., :2], driving[..., 2], matrices)
            values = [getattr(measured, column) for column in COLUMNS]
            everything[name].append(values)
            _print(path.stem if name == METHODS[0] else "", name, values)
    for name, rows in everything.items():
        if rows:
            _print("**median**" if name == METHODS[0] else "", name, np.nanmedian(rows, 0))


def _print(clip, method, values) -> None:
    cells = " | ".join("-" if np.isnan(v) else f"{v:.{d}f}" for v, d in zip(values, DIGITS, strict=True))
    print(f"| {clip} | {method} | {cells} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
