"""How far from somebody's bones a place is: what tells whose of several persons a pixel is."""

import numpy as np

from tpc_fast.pose import keypoints as coco


def bones_of(points: np.ndarray, seen: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The ends of one person's bones, keypoints [17, 2] of which [17] are seen; one that is on no bone is one of no
    length."""
    bones = [bone for bone in coco.BONES if seen[list(bone)].all()]
    alone = set(np.flatnonzero(seen)).difference(*bones) if bones else np.flatnonzero(seen)
    return [(points[a], points[b]) for a, b in [*bones, *((k, k) for k in alone)]]


def squared_distances(places: np.ndarray, bones: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """float32 [N], of places [N, 2] to the nearest of one person's bones, squared; infinite if there are none."""
    distances = np.full(len(places), np.inf, np.float32)
    for a, b in bones:
        along, beside = b - a, places - a
        share = np.clip(beside @ along / max(along @ along, 1e-6), 0, 1)
        np.minimum(distances, ((beside - share[:, None] * along) ** 2).sum(-1), out=distances)
    return distances
