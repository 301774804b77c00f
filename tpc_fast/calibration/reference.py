"""The reference photo, its persons and their masks, and where its pixels lie in the space that fits are made in."""

import os
from pathlib import Path

import numpy as np

from tpc_fast.calibration.observer import Observer
from tpc_fast.calibration.options import Options
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.fetch import LocalCopy
from tpc_fast.media.files import sha256
from tpc_fast.media.images import load_image
from tpc_fast.ops.procrustes import Similarity
from tpc_fast.pose.detect.detection import Detection
from tpc_fast.pose.files.given import given_detections, given_mask, split_mask
from tpc_fast.pose.masks.sam import clean_mask


class Reference:
    """The photo with its P persons.

    Attributes:
        path: of its file, or None.
        sha256: of its file, in hexadecimal digits, or None.
        image: uint8 [H, W, 3]; mask: uint8 [P, H, W].
        keypoints: float32 [P, K, 2] native pixels, NaN where missing; scores: float32 [P, K].
        canvas: how the photo is stretched before it is fitted, as the original does; None: the photo itself is fitted,
            since a similarity takes any scale in.
    """

    def __init__(self, source, image, mask, keypoints, scores, canvas: Canvas | None):
        named = isinstance(source, str | os.PathLike) and not isinstance(source, LocalCopy)
        self.path = str(Path(source).resolve()) if named else None
        self.sha256 = sha256(source) if isinstance(source, str | os.PathLike) else None
        self.image, self.mask, self.keypoints, self.scores = image, mask, keypoints, scores
        self.canvas = canvas

    @property
    def points(self) -> np.ndarray:
        """[P, K, 2] keypoints in the space of the fits."""
        return self.keypoints if self.canvas is None else self.canvas.apply(self.keypoints)

    def matrix(self, matrix: np.ndarray) -> np.ndarray:
        """[..., 2, 3] float32, native pixels -> canvas, of matrices [..., 2, 3] from the space of the fits."""
        if self.canvas is not None:
            matrix = matrix @ np.vstack([self.canvas.matrix, [0, 0, 1]])
        return matrix.astype(np.float32)

    def middle(self, size: tuple[int, int]) -> Similarity:
        """Where the photo lies before anybody was seen: in the middle of a canvas of `size`; from the fits' space."""
        matrix = np.eye(2, 3)
        if self.canvas is None:
            matrix = Canvas.fitting(self.image.shape[:2], size, "pad").matrix
        return Similarity(matrix[0, 0], np.eye(2), matrix[:, 2])


def load_reference(source, keypoints, mask, options: Options, observer: Observer, warnings: list[str]) -> Reference:
    """The photo, with its persons and masks as given or found; adds to `warnings`.

    Args:
        source, keypoints, mask: `reference`, `reference_keypoints`, `reference_mask` of `Calibrator`.

    Raises:
        FileNotFoundError, ValueError, TypeError: for what is not as it must be, or a photo in which nobody is found.
    """
    image, alpha = load_image(source, "reference")
    shape = image.shape[:2]
    if keypoints is None:
        detection = _find(image, observer, warnings)
    else:
        detection = _given(keypoints, shape)
    if mask is None and (keypoints is None or detection.mask is None):
        detection = observer.masked(image, detection)
    usable = np.isfinite(detection.keypoints).all(-1) & (detection.scores >= options.score_threshold)
    for p, count in enumerate(usable.sum(-1)):
        if count < 2:
            who = "" if len(usable) == 1 else f" of person {p}"
            raise ValueError(
                f"reference: {count} of {usable.shape[-1]} keypoints{who} have a score of at least "
                f"{options.score_threshold}, but 2 are needed"
            )
    masks = _masks(mask, alpha, detection.mask, shape, warnings)
    if len(masks) == 1 and len(usable) > 1:
        warnings.append("reference: one mask for several persons: each pixel goes to the nearest")
        masks = split_mask(masks[0], detection.keypoints, usable)
    if options.clean_masks:
        masks = np.stack([clean_mask(one) for one in masks])
    if not masks.any():
        warnings.append("reference: the person mask is empty")
    if len(masks) != len(usable):
        raise ValueError(f"reference_mask must be of {len(usable)} person(s), but is of {len(masks)}")
    stretched = Canvas.fitting(shape, options.size, "stretch") if options.resize == "stretch" else None
    numbers = detection.keypoints.astype(np.float32), detection.scores.astype(np.float32)
    return Reference(source, image, masks, *numbers, stretched)


def _find(image, observer, warnings) -> Detection:
    detection = observer.find(image)
    if not len(detection):
        raise ValueError(
            f"reference: no person was found ({observer.tracker.tried}): use a photo in which head and shoulders "
            "are visible, say where the person is (reference_box), or give reference_keypoints"
        )
    if len(detection) < (wanted := getattr(observer.detector, "people", None) or 1):
        warnings.append(f"reference: {len(detection)} of {wanted} persons were found")
    return detection


def _given(keypoints, shape) -> Detection:
    if not isinstance(keypoints, str | os.PathLike) and np.ndim(keypoints) == 3:
        keypoints = np.asarray(keypoints)[None]  # [P, 17, 2]: one frame
    detections = given_detections(keypoints, None, "reference_keypoints", shape)
    if len(detections) != 1:
        raise ValueError(f"reference_keypoints must be of one picture, but are of {len(detections)} frames")
    return detections[0]


def _masks(given, alpha, found, shape, warnings) -> np.ndarray:
    """The masks, from the best source that there is."""
    if given is not None:
        return given_mask(given, shape)
    if alpha is not None and (alpha < 255).any():
        return alpha[None]
    if found is not None:
        return found
    warnings.append("reference: no person mask was given or found: the whole photo is the mask")
    return np.full((1, *shape), 255, np.uint8)
