"""How well a track brings head and torso of a photo onto those of a video, in words that do not depend on its size."""

import numpy as np

from tpc_fast.pose import keypoints as coco

# A head is 0.13 of a standing person's height, from shoulders to hips it is 0.288, shoulders are 0.259 wide (Drillis
# and Contini 1966, figure 4.1 of Winter, "Biomechanics and motor control of human movement").
HEAD_OF_TORSO, HEAD_OF_SHOULDERS = 0.45, 0.5
# Shoulders are some twice as wide as the face lies above them (the same source; in 11 public photos of heads and
# shoulders 1.3 to 2.4 times). Whose shoulders are no wider is turned by 60 degrees or more.
SIDEWAYS = 1.0
UNFORESHORTENED = 75  # percentile over the clip of a length that turns and leaning shorten
HEAD = [coco.FACE[0], coco.FACE[1], coco.FACE[2]]  # nose and eyes: ears move against them as a head turns
TORSO = [*coco.SHOULDERS, *coco.HIPS]


def head_size(keypoints: np.ndarray) -> np.ndarray:
    """[P] head sizes in pixels, from keypoints [F, P, 17, 2] that are NaN where missing; NaN where nothing tells."""

    def length(a, b):
        apart = np.linalg.norm(a - b, axis=-1)
        there = np.isfinite(apart).any(0)
        return np.where(there, np.nanpercentile(np.where(there, apart, 0), UNFORESHORTENED, axis=0), np.nan)

    left, right = (keypoints[..., k, :] for k in coco.SHOULDERS)
    hips = keypoints[..., coco.HIPS, :].mean(-2)
    torso, width = HEAD_OF_TORSO * length((left + right) / 2, hips), HEAD_OF_SHOULDERS * length(left, right)
    return np.where(np.isfinite(torso), torso, width)


def moved(matrices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [..., K, 2] where matrices [..., 2, 3] bring them."""
    return np.einsum("...ij,...kj->...ki", matrices[..., :2], points) + matrices[..., None, :, 2]


def offsets(matrices, reference, keypoints) -> tuple[np.ndarray, np.ndarray]:
    """How far the mean of the photo's head (nose, eyes), and of its torso (shoulders, hips), lies from the video's.

    Args:
        matrices: [F, P, 2, 3], photo -> video.
        reference: [P, 17, 2] pixels of the photo, NaN where missing.
        keypoints: [F, P, 17, 2] pixels of the video, NaN where missing.

    Returns:
        Two arrays [F, P] in head sizes; NaN where fewer than two of the points are seen in both.
    """
    apart = moved(matrices, reference) - keypoints
    size = head_size(keypoints)

    def offset(part):
        some = apart[..., part, :]
        both = np.isfinite(some).all(-1)
        mean = np.where(both[..., None], some, 0).sum(-2) / np.maximum(both.sum(-1), 1)[..., None]
        return np.where(both.sum(-1) >= 2, np.linalg.norm(mean, axis=-1) / size, np.nan)

    return offset(HEAD), offset(TORSO)


def head_to_torso(points: np.ndarray) -> np.ndarray:
    """[...] how large the face of points [..., 17, 2] is beside the torso; NaN where that cannot be told.

    The spread of nose, eyes and ears, over the head size that the width of the shoulders or, if that is larger, the
    length of the torso tells. Shoulders seen sideways tell nothing without hips.
    """
    face = points[..., coco.FACE, :]
    spread = np.sqrt(((face - face.mean(-2, keepdims=True)) ** 2).sum(-1).mean(-1))
    left, right = (points[..., k, :] for k in coco.SHOULDERS)
    width = np.linalg.norm(left - right, axis=-1)
    torso = np.linalg.norm((left + right) / 2 - points[..., coco.HIPS, :].mean(-2), axis=-1)
    neck = np.linalg.norm((left + right) / 2 - face.mean(-2), axis=-1)
    width = np.where(np.isnan(torso) & (width < SIDEWAYS * neck), np.nan, width)
    return spread / np.fmax(HEAD_OF_SHOULDERS * width, HEAD_OF_TORSO * torso)
