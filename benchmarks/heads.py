"""What a face alone says of a head: the source of `tpc_fast.ops.track.HEAD_ALONE`, a table in Markdown.

    python benchmarks/heads.py FOLDER > table.md

FOLDER holds files as for `benchmarks/tracks.py`. Nose, eyes and ears of the photo are fitted onto those of each frame,
by themselves, and compared with the track of all keypoints: the median difference of the log scale is how the two heads
differ; the standard deviations of log scale and angle are what a head alone does not say.
"""

import sys
from pathlib import Path

import numpy as np

from tpc_fast.ops.coco import FACE
from tpc_fast.ops.procrustes import fit_similarity
from tpc_fast.ops.track import estimate_track, shows_torso

SEEN, FEWEST = 0.3, 20  # scores of all five in both pictures; frames of a clip


def differences(path: Path) -> tuple[float, float, float]:
    """Median and standard deviation of log scale, standard deviation of the angle (radians); NaN for too few frames."""
    with np.load(path) as clip:
        reference, driving, times = (clip[name].astype(np.float64) for name in ("reference", "driving", "times"))
    known = dict(reference_scores=reference[:, 2], driving_scores=driving[..., 2])
    track = estimate_track(reference[:, :2], driving[..., :2], times, **known)
    # Faces are compared with whole persons: frames in which a torso was seen, as the photo shows it.
    torso = shows_torso(track.weights) & (track.side == 0)
    seen = (driving[:, FACE, 2] >= SEEN).all(1) & (reference[FACE, 2] >= SEEN).all() & torso
    if seen.sum() < FEWEST:
        return np.nan, np.nan, np.nan
    face = fit_similarity(np.repeat(reference[None, FACE, :2], seen.sum(), 0), driving[seen][:, FACE, :2])
    whole = track.matrices[seen, 0, 0] + 1j * track.matrices[seen, 1, 0]
    change = face.scale * np.exp(1j * face.angle) / whole
    log_scale = np.log(np.abs(change))
    middle = np.angle(change.mean())
    return float(np.median(log_scale)), float(log_scale.std()), float(np.angle(change * np.exp(-1j * middle)).std())


def main(folder: str) -> None:
    """Prints the table."""
    print("| clip | log scale, median | spread | angle, spread |")
    print("|---|---|---|---|")
    rows = {path.stem: differences(path) for path in sorted(Path(folder).glob("*.npz"))}
    rows["**median**"] = np.nanmedian(list(rows.values()), 0)
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join("-" if np.isnan(v) else f"{v:.3f}" for v in row) + " |")


if __name__ == "__main__":
    main(sys.argv[1])
