"""What persons wear: a histogram of the colours of the torso, by which somebody who was out of sight is known again.

The descriptor is that of Perez, Hue, Vermaak and Gangnet, "Color-based probabilistic tracking" (ECCV 2002): hue and
saturation in 10 x 10 bins of pixels that have colour, value in 10 bins of the rest, compared by the Bhattacharyya
distance.
"""

import numpy as np

from tpc_fast.pose import keypoints as coco

BINS = 10
COUNT = BINS * BINS + BINS
MIN_SATURATION, MIN_VALUE = 0.1, 0.2  # of a pixel that has a hue (Perez et al., section 3.1)
GRID = 16  # pixels are read at so many times as many places of the torso
_ACROSS, _DOWN = (a.ravel()[:, None] for a in np.meshgrid(*2 * [(np.arange(GRID) + 0.5) / GRID]))


def torso_colours(image: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Histograms float32 [D, COUNT] that sum to 1, NaN for who is not seen from shoulders to hips.

    Args:
        image: uint8 [H, W, 3]; keypoints: [D, 17, 2] pixels, NaN where missing; scores: [D, 17].
        threshold: keypoints with a lower score are missing.
    """
    found = np.full((len(keypoints), COUNT), np.nan, np.float32)
    height, width = image.shape[:2]
    corners = np.asarray(keypoints, np.float64)[:, coco.TORSO]
    seen = np.isfinite(corners).all((1, 2)) & (scores[:, coco.TORSO] >= threshold).all(1)
    for d in np.flatnonzero(seen):
        left, right, left_hip, right_hip = corners[d]
        top, bottom = right + (left - right) * _ACROSS, right_hip + (left_hip - right_hip) * _ACROSS
        x, y = np.rint(top + (bottom - top) * _DOWN).astype(int).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        if 2 * inside.sum() >= inside.size:
            found[d] = _histogram(image[y[inside], x[inside]].astype(np.float32) / 255)
    return found


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """[COUNT] of RGB pixels [N, 3] in 0..1."""
    value, low = pixels.max(1), pixels.min(1)
    chroma = value - low
    saturation = chroma / np.maximum(value, 1e-6)
    red, green, blue = pixels.T
    safe = np.maximum(chroma, 1e-6)
    sixths = np.where(
        value == red,
        (green - blue) / safe % 6,
        np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue, saturated, bright = (np.minimum((v * BINS).astype(int), BINS - 1) for v in (sixths / 6, saturation, value))
    coloured = (saturation >= MIN_SATURATION) & (value >= MIN_VALUE)
    place = np.where(coloured, hue * BINS + saturated, BINS * BINS + bright)
    return np.bincount(place, minlength=COUNT) / len(pixels)


def colour_distances(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Bhattacharyya distances [T, D] in 0 (alike) to 1 of histograms [T, COUNT] and [D, COUNT]; NaN where one is."""
    alike = np.sqrt(np.maximum(ours, 0)) @ np.sqrt(np.maximum(theirs, 0)).T
    return np.sqrt(np.clip(1 - alike, 0, 1))
