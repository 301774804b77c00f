"""How far from somebody's bones a place is: what tells whose of several persons a pixel is."""

import numpy as np

from tpc_fast.pose import keypoints as coco

_BLOCK = 2048  # places at a time, so that what is computed of them stays in the cache


def bones_of(points: np.ndarray, seen: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The ends of one person's bones, keypoints [17, 2] of which [17] are seen; one that is on no bone is one of no
    length."""
    bones = [bone for bone in coco.BONES if seen[list(bone)].all()]
    alone = set(np.flatnonzero(seen)).difference(*bones) if bones else np.flatnonzero(seen)
    return [(points[a], points[b]) for a, b in [*bones, *((k, k) for k in alone)]]


def squared_distances(places: np.ndarray, bones: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """float32 [N], of places [N, 2] to the nearest of one person's bones, squared; infinite if there are none."""
    distances = np.full(len(places), np.inf, np.float32)
    if not bones:
        return distances
    begin, end = (np.stack(ends).astype(np.float32)[:, :, None] for ends in zip(*bones, strict=True))  # [B, 2, 1]
    along = end - begin
    per_length = along / np.maximum((along**2).sum(1, keepdims=True), 1e-6)
    for first in range(0, len(places), _BLOCK):
        x, y = (part - at for part, at in zip(places[first : first + _BLOCK].T, begin.swapaxes(0, 1), strict=True))
        share = np.clip(x * per_length[:, 0] + y * per_length[:, 1], 0, 1)
        x -= share * along[:, 0]
        y -= share * along[:, 1]
        distances[first : first + _BLOCK] = (x * x + y * y).min(0)
    return distances
