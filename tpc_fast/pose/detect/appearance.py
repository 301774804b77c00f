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
# Distances of colours, to the mean of a person's frames. In public clips (seven persons from all sides, every third
# frame) they are 0.44 at most; two persons of one clip are 0.70 apart and more.
ALIKE, UNLIKE = 0.45, 0.6
COLOUR_SHARE = 0.1  # of a new frame in the mean
GRID = 16  # pixels are read at so many times as many places of the torso
_ACROSS, _DOWN = (a.ravel() for a in np.meshgrid(*2 * [(np.arange(GRID) + 0.5) / GRID]))
# Of left and right shoulder, left and right hip at each place.
_WEIGHTS = np.stack([_ACROSS * (1 - _DOWN), (1 - _ACROSS) * (1 - _DOWN), _ACROSS * _DOWN, (1 - _ACROSS) * _DOWN])


def torso_colours(image: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Histograms float32 [D, COUNT] that sum to 1, NaN for those not seen from shoulders to hips.

    Args:
        image: uint8 [H, W, 3]; keypoints: [D, 17, 2] pixels, NaN where missing; scores: [D, 17].
        threshold: keypoints with a lower score are missing.
    """
    found = np.full((len(keypoints), COUNT), np.nan, np.float32)
    height, width = image.shape[:2]
    corners = np.asarray(keypoints, np.float64)[:, coco.TORSO]
    (seen,) = np.nonzero(np.isfinite(corners).all((1, 2)) & (scores[:, coco.TORSO] >= threshold).all(1))
    if not len(seen):
        return found
    places = np.einsum("kn,dkc->cdn", _WEIGHTS, corners[seen])
    x, y = np.rint(places).clip(-1, max(height, width)).astype(np.intp)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    bins = _bins(image[np.where(inside, y, 0), np.where(inside, x, 0)])
    bins += COUNT * np.arange(len(seen))[:, None]
    counts = np.bincount(bins[inside], minlength=COUNT * len(seen)).reshape(-1, COUNT)
    within = inside.sum(1)
    enough = 2 * within >= inside.shape[1]
    found[seen[enough]] = counts[enough] / within[enough, None]
    return found


def _bins(pixels: np.ndarray) -> np.ndarray:
    """Which bin [...] each of RGB pixels uint8 [..., 3] falls into."""
    red, green, blue = np.moveaxis(pixels.astype(np.float32), -1, 0)
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    safe = np.maximum(chroma, 1)
    sixths = np.where(
        value == red, (green - blue) / safe, np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    )
    hue = (sixths * (BINS / 6)).astype(np.intp) + np.where(sixths < 0, BINS - 1, 0)
    saturated = np.minimum(chroma / np.maximum(value, 1) * BINS, BINS - 1).astype(np.intp)
    bright = np.minimum(value * (BINS / 255), BINS - 1).astype(np.intp)
    coloured = (chroma >= MIN_SATURATION * value) & (value >= MIN_VALUE * 255)
    return np.where(coloured, hue * BINS + saturated, BINS * BINS + bright)


def colour_distances(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Bhattacharyya distances [T, D] in 0 (alike) to 1 of histograms [T, COUNT] and [D, COUNT]; NaN where one is."""
    alike = np.sqrt(np.maximum(ours, 0)) @ np.sqrt(np.maximum(theirs, 0)).T
    return np.sqrt(np.clip(1 - alike, 0, 1))
