"""Image metrics of the paper's tables that need no network: L1, PSNR, SSIM; whole, and by mask.

Pictures are uint8 [H, W, 3] or [H, W] of one size; they are compared as they are, at values 0 to 255. Masks say which
pixels count: the foreground, or with `~mask` the background.
"""

import itertools

import numpy as np

from tpc_fast import _checks

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # an 11 x 11 window
_K1, _K2 = 0.01, 0.03


def l1(found: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean absolute difference of all values, 0 to 1 (the literature often prints it per pixel and scaled: say which).

    Args:
        found, truth: uint8 [H, W, 3] or [H, W].
        mask: [H, W], uint8 (inside from 128 on) or bool; None: all pixels count.

    Returns:
        0 for equal pictures; NaN if no pixel counts.

    Raises:
        TypeError, ValueError: pictures that are not uint8 or differ in shape; a mask of another size.
    """
    found, truth, inside = check_pictures(found, truth, mask)
    return _mean(abs(found - truth) / 255, inside)


def psnr(found: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, peak 255, of the mean square over all channels; infinite for equal pictures.

    Arguments, NaN and errors as for `l1`.
    """
    found, truth, inside = check_pictures(found, truth, mask)
    square = _mean((found - truth) ** 2, inside)
    return float(np.inf if square == 0 else 10 * np.log10(255**2 / square))


def ssim(found: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Structural similarity: Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13(4), 2004, with their constants.

    A Gaussian window of 11 x 11 pixels (sigma 1.5), population covariance, the mean over channels and over the pixels
    whose window lies in the picture (and, with a mask, which it covers).

    Arguments, NaN and errors as for `l1`; 1 for equal pictures. ValueError for pictures smaller than the window.
    """
    from scipy.ndimage import correlate1d

    x, y, inside = check_pictures(found, truth, mask)
    if min(x.shape[:2]) < 2 * SSIM_RADIUS + 1:
        raise ValueError(f"found must have sides of at least {2 * SSIM_RADIUS + 1}, but has {x.shape[:2]}")
    if mask is not None:  # windows see no farther than their radius
        near = tuple(_around(inside.any(1 - axis), SSIM_RADIUS) for axis in (0, 1))
        x, y, inside = x[near], y[near], inside[near]
    window = np.exp(-0.5 * (np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1) / SSIM_SIGMA) ** 2)
    window /= window.sum()

    def blur(values):
        return correlate1d(correlate1d(values, window, 0), window, 1)

    mean_x, mean_y = blur(x), blur(y)
    variance = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2
    values = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variance + c2))
    core = slice(SSIM_RADIUS, -SSIM_RADIUS)
    return _mean(values[core, core], inside[core, core])


METRICS = {"l1": l1, "psnr": psnr, "ssim": ssim}


def compare_frames(found, truth, masks=None) -> dict[str, np.ndarray]:
    """All metrics of all frames of two videos: name -> [F], with masks also `_foreground` and `_background`.

    Args:
        found, truth: iterables of pictures, as many of each; masks: of masks, or None.

    Raises:
        ValueError: for videos of different lengths; else as `l1`.
    """
    rows: dict[str, list] = {}
    streams = [found, truth] if masks is None else [found, truth, masks]
    end = object()
    for frame, parts in enumerate(itertools.zip_longest(*streams, fillvalue=end)):
        if any(part is end for part in parts):
            raise ValueError(f"found, truth and masks must be of as many frames, but one of them ends at {frame}")
        picture, true, *mask = parts
        parts = {"": None}
        if mask:
            inside = _inside(mask[0])
            parts |= {"_foreground": inside, "_background": ~inside}
        for suffix, part in parts.items():
            for name, metric in METRICS.items():
                rows.setdefault(name + suffix, []).append(metric(picture, true, part))
    return {name: np.array(values) for name, values in rows.items()}


def check_pictures(found, truth, mask):
    """Both pictures as float64, and where they count, bool [H, W]; raises as `l1` does."""
    for name, value in (("found", found), ("truth", truth)):
        if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim not in (2, 3):
            raise TypeError(f"{name} must be uint8 [H, W, 3] or [H, W], but is {_checks.describe(value)}")
    if found.shape != truth.shape:
        raise ValueError(f"truth must have the shape of found, {found.shape}, but has {truth.shape}")
    inside = np.ones(found.shape[:2], bool) if mask is None else _inside(mask)
    if inside.shape != found.shape[:2]:
        raise ValueError(f"mask must have the size of the pictures, {found.shape[:2]}, but has {inside.shape}")
    return found.astype(np.float64), truth.astype(np.float64), inside


def _around(used, margin) -> slice:
    """From the first to the last of used [n] bool, and a margin; nothing if none is."""
    where = np.flatnonzero(used)
    return slice(max(where[0] - margin, 0), where[-1] + margin + 1) if len(where) else slice(0)


def _inside(mask):
    mask = _checks.to_numpy(mask, "mask")
    return mask if mask.dtype == np.bool_ else mask >= 128


def _mean(values, inside) -> float:
    return float(values[inside].mean()) if inside.any() else np.nan
