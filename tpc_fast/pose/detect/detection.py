"""What a detector is, and what it returns."""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np

from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.canonical import CanonicalCrop


@dataclasses.dataclass(frozen=True)
class Detection:
    """The persons in one picture; P = 0 if nobody is seen.

    Attributes:
        keypoints: float32 [P, 17, 2], xy in pixels, COCO order; NaN or outside the picture if so predicted.
        scores: float32 [P, 17] in 0..1; 0 for a keypoint that is missing or seen outside the picture.
        mask: uint8 [P, H, W], coverage 0..255 in the picture's pixels; None if the detector has none.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    mask: np.ndarray | None = None

    @classmethod
    def nobody(cls) -> "Detection":
        return cls(np.zeros((0, coco.COUNT, 2), np.float32), np.zeros((0, coco.COUNT), np.float32))

    def __len__(self) -> int:
        """The number of persons."""
        return len(self.keypoints)

    def quality(self, shape: tuple[int, int]) -> float:
        """How far the first person is to be believed, 0..1: mean score x share inside the mask; 0 for nobody.

        Neither factor suffices: a wrong pose can have a mean score of 0.94. Both are over the keypoints that
        lie in the picture of `shape` (H, W), so that half figures are not punished for what is cut off.
        """
        if not len(self):
            return 0.0
        x, y = np.rint(np.nan_to_num(self.keypoints[0], nan=-1.0)).astype(int).T
        seen = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])
        if seen.sum() < 3:
            return 0.0
        quality = float(self.scores[0, seen].mean())
        if self.mask is not None:
            quality *= float((self.mask[0, y[seen], x[seen]] >= 128).mean())
        return quality


@runtime_checkable
class Detector(Protocol):
    """Finds a person in one picture, as it is: no rolls, no memory of other pictures (see `PersonTracker`).

    Pictures are uint8 [H, W, 3] RGB, C-contiguous. A detector is used by one thread at a time.

    Attributes:
        name, version: what found the keypoints; part of the fingerprint of cached detections.
        whole, half: the canonical crops in which `detect_upright` works best. `whole` is for persons who are seen down
            to the knees or further, `half` for others.
    """

    name: str
    version: str
    whole: CanonicalCrop
    half: CanonicalCrop

    def detect(self, image: np.ndarray) -> Detection:
        """Looks for a person anywhere in the picture."""
        ...

    def detect_upright(self, image: np.ndarray) -> Detection:
        """Looks at a canonical crop [size, size, 3], in which the person stands upright at a known scale."""
        ...

    def close(self) -> None:
        """Frees what the detector holds; it can't be used any more."""
        ...


@runtime_checkable
class PeopleDetector(Protocol):
    """Finds all persons of one picture, as it is. Pictures and threads as for `Detector`.

    Attributes:
        name, version: what found the keypoints.
        device: what it really computes on.
    """

    name: str
    version: str
    device: str

    def detect(self, image: np.ndarray) -> Detection:
        """Looks for persons anywhere in the picture."""
        ...

    def close(self) -> None:
        """Frees what the detector holds; it can't be used any more."""
        ...
