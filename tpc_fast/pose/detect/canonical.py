"""The canonical crop: a person upright, at one place and one scale.

A pose network's keypoints depend on the scale and roll at which it sees the person: shoulders wander by a
fifth. Seen in one canonical crop, reference and frame suffer the same error, and it cancels in the fit.
"""

import dataclasses

import numpy as np

from tpc_fast.ops.procrustes import Similarity, fit_similarity
from tpc_fast.ops.resample import resample
from tpc_fast.pose import keypoints as coco

# A standing person from the front, in units of the distance between the eyes, origin at the nose. The
# person's left is at the right of the picture.
TEMPLATE = np.zeros((coco.COUNT, 2))
TEMPLATE[1:13:2] = [(0.5, -0.6), (1.15, -0.35), (2.7, 4.2), (3.4, 8.2), (3.4, 11.5), (1.6, 11.8)]
TEMPLATE[2:13:2] = TEMPLATE[1:13:2] * (-1, 1)

# The face is located best, so it leads; shoulders steady the angle, for which the face is too small. Limbs move: they
# never count.
_WEIGHTS = np.zeros(coco.COUNT)
_WEIGHTS[coco.FACE] = 1.0
_WEIGHTS[coco.SHOULDERS] = 0.3
_MIN_SCORE = 0.02  # even a hidden keypoint is better than none


@dataclasses.dataclass(frozen=True)
class CanonicalCrop:
    """A square picture in which a person stands upright, at one place and one scale.

    Attributes:
        size: its side in pixels.
        unit: pixels between the eyes.
        nose: where the nose is, (x, y).
        hips: the weight of the hips, where the face has 1 and the shoulders have 0.3. Some is always needed for what
            shows neither (a back view, a cut head); where they are seen well, more makes for steadier crops.
        torso: how long the network takes a torso to be in this crop, in true lengths.
    """

    size: int
    unit: float
    nose: tuple[float, float]
    hips: float = 0.01
    torso: float = 1.0

    def lengthened(self, keypoints: np.ndarray) -> np.ndarray:
        """Keypoints [..., 17, 2] that were seen in this crop, with the torso as long as it is: legs move with hips."""
        if self.torso == 1:
            return keypoints
        shoulders, hips = (keypoints[..., part, :].mean(-2, keepdims=True) for part in (coco.SHOULDERS, coco.HIPS))
        moved = keypoints.copy()
        moved[..., coco.HIPS[0] :, :] += (1 / self.torso - 1) * (hips - shoulders)
        return moved

    def locate(self, keypoints: np.ndarray, scores: np.ndarray) -> Similarity | None:
        """The float64 similarity that maps picture pixels to the crop of a person.

        Args:
            keypoints: [17, 2] pixels, NaN = missing; scores: [17].

        Returns:
            None if the keypoints do not determine one.
        """
        weights = _WEIGHTS.copy()
        weights[coco.HIPS] = self.hips
        weights *= np.maximum(scores, _MIN_SCORE)
        # From behind, the sides are exchanged: the better of both fits.
        template = np.stack([TEMPLATE, TEMPLATE[coco.MIRRORED]]) * self.unit + self.nose
        # Fitted from the template, so that its noise-free side sets the scale.
        fit = fit_similarity(template, keypoints.astype(np.float64), weights)
        if not fit.ok.any():
            return None
        best = int(np.argmin(np.where(fit.ok, fit.residual, np.inf)))
        return Similarity(fit.scale[best], fit.rotation[best], fit.translation[best]).inverse()

    def cut(self, image: np.ndarray, view: Similarity) -> np.ndarray:
        """The crop [size, size, 3] of `image` under `view`: borders repeated, shrunk by averages."""
        shrink = max(1, min(int(1 / view.scale), *image.shape[:2]))
        return resample(image, view.matrix, (self.size, self.size), shrink=shrink)

    def paste(self, mask: np.ndarray, view: Similarity, size: tuple[int, int]) -> np.ndarray:
        """A mask [size, size] of the crop as one [H, W] of the picture of `size`, 0 where the crop shows nothing."""
        return resample(mask, view.inverse().matrix, size, "black")

    def distance(self, view: Similarity, other: Similarity) -> float:
        """How far two views differ: the largest of log scale, angle (radians) and shift (crop sizes)."""
        change = other @ view.inverse()
        centre = np.full((1, 2), (self.size - 1) / 2)
        shift = np.abs(change.apply(centre) - centre).max() / self.size
        return float(max(abs(np.log(change.scale)), abs(change.angle), shift))
