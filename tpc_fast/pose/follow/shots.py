"""Hard cuts of a video: where one shot ends and another begins, so that nobody is followed across.

A frame begins a new shot if its picture differs from the one before far more than its neighbours do, and the person is
somewhere else, or was not seen on one of the two sides. So a fast dancer is no cut (the picture hardly changes), nor is
a pan (its neighbours differ as much), nor a flash (the person stays).

The first rule is that of PySceneDetect's `AdaptiveDetector`, with its constants. The package itself is not used: it
needs OpenCV, reads videos by itself and on its own, and knows nothing of persons.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from tpc_fast.pose import keypoints as coco

# PySceneDetect 0.6, AdaptiveDetector: adaptive_threshold, min_content_val, window_width. Its content is a mean over
# hue, saturation and brightness; here it is one over red, green and blue, of the same range.
RATIO, LEAST, NEIGHBOURS = 3.0, 15.0, 2
GRID = 32  # cells a side: grain and small motions average out
# Person sizes and log size by which a person moves in dt seconds at the most: first * dt + second, as the track's
# `path_position` and `path_log_scale`, and twice as much is no motion.
FAR_POSITION, FAR_LOG_SIZE = (10.0, 0.3), (1.0, 0.1)
SHORTLY = 0.5  # seconds: who was not seen for longer has no place that counts


class PictureDifferences:
    """How much each picture differs from the one before; pictures are taken one at a time and not kept."""

    def __init__(self):
        self._before, self._values = None, []

    def step(self, image: np.ndarray) -> float:
        """Takes the next picture, uint8 [H, W, 3]; returns its mean difference in 0..255, 0 for the first."""
        rows, columns = (np.linspace(0, n, 3 * GRID, endpoint=False).astype(int) for n in image.shape[:2])
        cells = image[rows[:, None], columns].reshape(GRID, 3, GRID, 3, 3).mean((1, 3), dtype=np.float32)
        value = 0.0 if self._before is None else float(abs(cells - self._before).mean())
        self._before = cells
        self._values.append(value)
        return value

    def values(self) -> np.ndarray:
        """[F], of the pictures so far."""
        return np.array(self._values)


def main_person(people: Iterable[Sequence[np.ndarray]], threshold: float = 0.3) -> np.ndarray:
    """Keypoints [F, 17, 2] of the largest person of each frame, NaN where missing.

    Args:
        people: of each frame keypoints [D, 17, 2] and scores [D, 17], and whatever follows them.
        threshold: keypoints with a lower score are missing.
    """
    rows = []
    for keypoints, scores, *_ in people:
        best = np.full((coco.COUNT, 2), np.nan)
        if len(keypoints):
            seen = np.where((scores >= threshold)[..., None], keypoints, np.nan)
            best = seen[int(np.argmax([np.nan_to_num(size) for size in map(_size, seen)]))]
        rows.append(best)
    return np.array(rows).reshape(-1, coco.COUNT, 2)


def find_cuts(keypoints: np.ndarray, times: np.ndarray, differences: np.ndarray) -> list[int]:
    """The frames with which new shots begin, the first frame not counted.

    Args:
        keypoints: [F, 17, 2] pixels, NaN where missing; of one person, see `main_person`.
        times: [F] seconds, increasing.
        differences: [F], see `PictureDifferences`.
    """
    cuts = []
    for f in np.flatnonzero(np.asarray(differences) >= LEAST):
        around = [d for d in range(f - NEIGHBOURS, f + NEIGHBOURS + 1) if d != f and 0 < d < len(differences)]
        usual = np.mean([differences[d] for d in around]) if around else 0.0
        if f > 0 and differences[f] >= RATIO * usual and _elsewhere(keypoints, times, f):
            cuts.append(int(f))
    return cuts


def _elsewhere(keypoints, times, f: int) -> bool:
    """Whether the person of frame f is not where that of the frames before was, or one of them is not to be seen."""
    (seen,) = np.nonzero(np.isfinite(keypoints).all(-1).sum(-1) >= 2)
    before, after = seen[seen < f], seen[seen >= f]
    if not len(before) or not len(after):
        return True
    a, b = before[-1], after[0]
    dt = times[b] - times[a]
    if dt > SHORTLY:
        return True
    both = np.isfinite(keypoints[[a, b]]).all((0, 2))
    sizes = [_size(keypoints[k]) for k in (a, b)]
    if both.sum() < 2 or not all(np.isfinite(sizes)) or min(sizes) <= 0:
        return True
    moved = np.linalg.norm((keypoints[b, both] - keypoints[a, both]).mean(0)) / np.sqrt(sizes[0] * sizes[1])
    grown = abs(np.log(_size(keypoints[b, both]) / max(_size(keypoints[a, both]), 1e-9)))
    return bool(moved > FAR_POSITION[0] * dt + FAR_POSITION[1] or grown > FAR_LOG_SIZE[0] * dt + FAR_LOG_SIZE[1])


def _size(points: np.ndarray) -> float:
    """Root of the area of the box around points [n, 2] that are there; NaN for fewer than two."""
    there = points[np.isfinite(points).all(-1)]
    return float(np.sqrt(np.prod(np.ptp(there, axis=0)))) if len(there) >= 2 else np.nan
