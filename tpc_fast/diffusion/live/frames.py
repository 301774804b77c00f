"""What comes into a stream: checked, in one form."""

import dataclasses

import numpy as np
import torch

from tpc_fast import _checks
from tpc_fast._dispatch import is_torch
from tpc_fast.calibration.reference import Reference
from tpc_fast.calibration.stream import Calibrator
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.images import load_image


@dataclasses.dataclass
class LiveFrame:
    """What is known of a frame when it comes.

    Attributes:
        pose: the picture that is followed, or name -> picture; None for models that follow none.
        pose_masks: uint8 [P, H, W].
        images: uint8 [P, H, W, 3] or floating [P, 3, H, W] in [-1, 1].
        masks: uint8 [P, H, W].
        canvas: how the driving frame lies on it; None: it fills it.
    """

    pose: object
    pose_masks: torch.Tensor
    images: torch.Tensor
    masks: torch.Tensor
    canvas: Canvas | None = None

    @classmethod
    def checked(cls, pose, pose_masks, calibrated, masks, videos, persons: int, size, canvas=None) -> "LiveFrame":
        """From what `LiveAnimator.push` takes.

        Raises:
            TypeError, ValueError: for what does not fit the persons, the size and the videos that are followed.
        """
        if pose_masks is None:
            raise ValueError(
                "pose_masks must say where the driving persons are, but is None: give the Calibrator a detector or a "
                "segmenter that makes masks"
            )
        pose, pose_masks, calibrated, masks = (_own(part) for part in (pose, pose_masks, calibrated, masks))
        if videos:
            stack_pictures([pose], videos, size)
        elif pose is not None:
            raise ValueError(f"pose must be left out: the pipeline follows none, but is {_checks.describe(pose)}")
        want = [persons, 3, *size] if _is_floating(calibrated) else [persons, *size, 3]
        if calibrated is None or list(np.shape(calibrated)) != want:
            raise ValueError(
                f"calibrated must be uint8 {[persons, *size, 3]} or floating {[persons, 3, *size]}, but is "
                f"{_checks.describe(calibrated)}"
            )
        calibrated = torch.as_tensor(calibrated)
        if not calibrated.dtype.is_floating_point and calibrated.dtype != torch.uint8:
            raise TypeError(f"calibrated must be uint8 or floating, but is {_checks.describe(calibrated)}")
        shape = persons, *size
        pose_masks, masks = _masks(pose_masks, "pose_masks", shape), _masks(masks, "masks", shape)
        return cls(pose, pose_masks, _finite(calibrated, "calibrated"), masks, canvas)


def _own(part):
    """A copy of an array, a tensor, or a dict of them, which the caller may fill with the next frame."""
    if isinstance(part, dict):
        return {name: _own(picture) for name, picture in part.items()}
    if isinstance(part, np.ndarray):
        return part.copy()  # torch takes it then, mirrored or not
    return part.clone() if torch.is_tensor(part) else part


def stack_pictures(pictures: list, names: tuple[str, ...], size) -> dict:
    """Pictures of some frames, each a picture or name -> picture, as name -> [n, ...].

    Raises:
        TypeError, ValueError: for other names, shapes or dtypes.
    """
    stacked = {}
    for name in names:
        of_name = []
        for given in pictures:
            picture = given.get(name) if isinstance(given, dict) else given
            if isinstance(given, dict) and set(given) != set(names):
                raise ValueError(f"pose must have the pictures {', '.join(names)}, but has {', '.join(sorted(given))}")
            of_name.append(_picture(picture, size))
        kinds = {type(picture) for picture in of_name}
        stacked[name] = torch.stack(of_name) if kinds == {torch.Tensor} else np.stack(of_name)
    return stacked


def _picture(picture, size):
    if not isinstance(picture, np.ndarray | torch.Tensor):
        raise TypeError(f"pose must be an array or a tensor, but is {_checks.describe(picture)}")
    floating = picture.dtype.is_floating_point if torch.is_tensor(picture) else picture.dtype.kind == "f"
    if tuple(picture.shape) != ((3, *size) if floating else (*size, 3)):
        raise ValueError(
            f"pose must be uint8 {[*size, 3]} or floating {[3, *size]}, but is {_checks.describe(picture)}"
        )
    if floating:
        _finite(torch.as_tensor(picture), "pose")
    return picture


def _finite(value: torch.Tensor, name: str) -> torch.Tensor:
    if value.dtype.is_floating_point and not bool(value.isfinite().all()):
        raise ValueError(f"{name} must be finite, but has NaN or infinity")
    return value


def _is_floating(value) -> bool:
    if is_torch(value):
        return value.dtype.is_floating_point
    return getattr(getattr(value, "dtype", None), "kind", "") == "f"


def _masks(masks, name, shape) -> torch.Tensor:
    """uint8 tensor of masks of any kind."""
    if masks is None or tuple(np.shape(masks)) != shape:
        raise ValueError(f"{name} must be {list(shape)}, but is {_checks.describe(masks)}")
    masks = torch.as_tensor(masks)
    if masks.dtype == torch.bool:
        return masks.to(torch.uint8) * 255
    if masks.dtype.is_floating_point:
        return (_finite(masks, name) * 255).round().clamp(0, 255).to(torch.uint8)
    if masks.dtype != torch.uint8:
        raise TypeError(f"{name} must be uint8, bool or floating, but is {_checks.describe(masks)}")
    return masks


def on_canvas(photo, masks, size, unit: int = 1):
    """The photo on its canvas: uint8 [H, W, 3], its persons uint8 [P, H, W], where it is not padding, the size.

    A picture without a size keeps its own; sides that are no multiples of `unit` are padded to such.
    """
    if isinstance(photo, Calibrator):
        if masks is not None or size is not None:
            raise TypeError("masks and size must be left out with a Calibrator, which has them")
        reference, canvas = photo.reference, photo.reference_canvas
        image, masks = reference.image, reference.mask
    elif isinstance(photo, Reference):
        raise TypeError("photo must be the Calibrator itself or a picture, but is the Reference of one")
    else:
        image, _ = load_image(photo, "photo")
        if masks is None or np.ndim(masks) != 3 or not len(masks):
            raise ValueError(f"masks must be [P, H, W], of a person at least, but is {_checks.describe(masks)}")
        masks = _masks(masks, "masks", (len(masks), *image.shape[:2])).numpy()
        canvas = _padded(image.shape[:2], unit) if size is None else Canvas.fitting(image.shape[:2], tuple(size), "pad")
    return canvas.draw(image), np.stack([canvas.draw(mask) for mask in masks]), canvas.valid_mask(), canvas.size


def _padded(source, unit: int) -> Canvas:
    """A picture pixel for pixel, in the middle of a canvas whose sides are multiples of `unit`."""
    height, width = (-(-side // unit) * unit for side in source)
    top, left = (height - source[0]) // 2, (width - source[1]) // 2
    return Canvas((height, width), tuple(source), (left, top, left + source[1], top + source[0]))
