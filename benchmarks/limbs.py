"""How far limbs swing between a photo and a video: the source of `tpc_fast.ops.track.SWINGS`, a table in Markdown.

    python benchmarks/limbs.py FOLDER > table.md

FOLDER holds files as for `benchmarks/tracks.py`. The angle is that in the picture between a limb (shoulder to elbow or
wrist, hip to knee or ankle) and the photo's, which is brought onto the frame by the track.
"""

import sys
from pathlib import Path

import numpy as np

from tpc_fast.ops.coco import ANKLES, ELBOWS, HIPS, KNEES, MIRRORED, SHOULDERS, WRISTS
from tpc_fast.ops.track import estimate_track

LIMBS = {
    "elbows": (SHOULDERS, ELBOWS), "wrists": (SHOULDERS, WRISTS), "knees": (HIPS, KNEES), "ankles": (HIPS, ANKLES)
}  # fmt: skip
SEEN, FEWEST = 0.5, 20  # scores of both ends in both pictures; limbs of a clip


def swings(path: Path) -> list[float]:
    """Degrees, rms over a clip's frames, of each of LIMBS; NaN where too few are seen."""
    with np.load(path) as clip:
        reference, driving, times = (clip[name].astype(np.float64) for name in ("reference", "driving", "times"))
    track = estimate_track(
        reference[:, :2], driving[..., :2], times, reference_scores=reference[:, 2], driving_scores=driving[..., 2]
    )
    photo = np.where(track.side[:, None, None] == 1, reference[MIRRORED], reference)
    scores = np.minimum(photo[..., 2], driving[..., 2])
    photo, frame = (p[..., 0] + 1j * p[..., 1] for p in (photo, driving))
    turn = (track.matrices[:, 0, 0] + 1j * track.matrices[:, 1, 0])[:, None]
    found = []
    for roots, ends in LIMBS.values():
        both = np.minimum(scores[:, roots], scores[:, ends]) >= SEEN
        angle = np.angle((frame[:, ends] - frame[:, roots]) / (turn * (photo[:, ends] - photo[:, roots])))[both]
        found.append(np.degrees(np.sqrt(np.mean(angle**2))) if len(angle) > FEWEST else np.nan)
    return found


def main(folder: str) -> None:
    """Prints the table."""
    print(f"| clip | {' | '.join(LIMBS)} |")
    print("|---|" + "---|" * len(LIMBS))
    rows = {path.stem: swings(path) for path in sorted(Path(folder).glob("*.npz"))}
    rows["**median**"] = np.nanmedian(list(rows.values()), 0)
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join("-" if np.isnan(v) else f"{v:.0f}" for v in row) + " |")


if __name__ == "__main__":
    main(sys.argv[1])
