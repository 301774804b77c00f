"""Photos of head and shoulders, made from photos that show more: how far their tracks are from those of the whole.

    python benchmarks/busts.py FOLDER

FOLDER as for `benchmarks/tracks.py`. Every photo of it that shows face, shoulders and hips on every clip that shows
shoulders and hips in four fifths of its frames; of the photo all keypoints below the shoulders are taken away. With
hips where a standing person's are (`tpc_fast.ops.track.Photo.assumed`), and without.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from tpc_fast.ops import track
from tpc_fast.ops.coco import FACE, HIPS, SCORE_THRESHOLD, SHOULDERS
from tpc_fast.ops.procrustes import scale_and_angle

TORSO = [*SHOULDERS, *HIPS]


def estimate(reference, clip, assume_hips=True):
    """Log scale and angle [F]."""
    driving, times, picture = clip
    given = track.settings_of
    track.settings_of = lambda subset: dataclasses.replace(given(subset), assume_hips=assume_hips)
    known = dict(reference_scores=reference[:, 2], driving_scores=driving[..., 2], picture=picture)
    found = track.estimate_track(reference[:, :2], driving[..., :2], times, **known)
    track.settings_of = given
    scale, angle = scale_and_angle(found.matrices)
    return np.log(scale), angle


def main(folder: str) -> None:
    """Prints the table."""
    photos, clips = [], []
    for path in sorted(Path(folder).glob("*.npz")):
        with np.load(path) as clip:
            reference, driving, times = (clip[n].astype(np.float64) for n in ("reference", "driving", "times"))
            picture = tuple(clip["edges"].tolist()) if "edges" in clip else None
        if (reference[FACE + TORSO, 2] >= SCORE_THRESHOLD).all():
            photos.append(reference)
        if (driving[:, TORSO, 2] >= SCORE_THRESHOLD).all(1).mean() >= 0.8:
            clips.append((driving, times, picture))
    rows = []
    for reference in photos:
        bust = np.where(np.isin(np.arange(17), FACE + SHOULDERS)[:, None], reference, [0, 0, 0])
        for clip in clips:
            truth, *found = estimate(reference, clip), estimate(bust, clip, False), estimate(bust, clip)
            apart = [[f[0] - truth[0], np.degrees(abs((f[1] - truth[1] + np.pi) % (2 * np.pi) - np.pi))] for f in found]
            rows.append([[np.percentile(abs(s), 95), np.median(s), np.percentile(a, 95)] for s, a in apart])
    rows = np.array(rows)  # [pairs, without or with, (log scale, bias, angle)]
    print(f"{len(photos)} photos, {len(clips)} clips, {len(rows)} pairs\n")
    print("| hips | log scale, 95 %, median | 90 % of pairs | median of all | angle, degrees, 95 %, median | 90 % |")
    print("|---|---|---|---|---|---|")
    for name, (scale, bias, angle) in zip(("none", "assumed"), rows.transpose(1, 2, 0), strict=True):
        print(
            f"| {name} | {np.median(scale):.3f} | {np.percentile(scale, 90):.3f} | {np.median(bias):+.3f} | "
            f"{np.median(angle):.1f} | {np.percentile(angle, 90):.1f} |"
        )
    worse = [(rows[:, 1, i] > rows[:, 0, i] + d).sum() for i, d in ((0, 0.03), (2, 3))]
    better = [(rows[:, 1, i] < rows[:, 0, i] - d).sum() for i, d in ((0, 0.03), (2, 3))]
    print(
        f"\nBetter by 0.03 in log scale: {better[0]}, worse: {worse[0]}; by 3 degrees: {better[1]}, worse: {worse[1]}."
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
