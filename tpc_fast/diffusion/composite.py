"""People over a background: the last step of an animation, and reference pictures for models that take one.

Both functions take NumPy arrays or torch tensors and compute where the pictures lie.
"""

import numpy as np

from tpc_fast import _checks
from tpc_fast._dispatch import is_torch


def composite_background(generated, pose_masks, background, dilate: int = 0):
    """Keeps what was generated where the driving persons are, and shows the background elsewhere.

    Args:
        generated: [F, H, W, 3], uint8 or floating.
        pose_masks: [F, P, H, W] or [F, H, W], of the same kind, on the same device; a pixel above 0 is a person.
        background: one picture [H, W, 3] or one per frame [F, H, W, 3], of the dtype of `generated`.
        dilate: by how many pixels (3x3 squares) masks grow first, so that the rim of a person stays. The released TPC
            code's `use_pad` is 2, and its authors' test configuration has it off.

    Returns:
        Like `generated`: [F, H, W, 3].

    Raises:
        ValueError: if shapes or dtypes do not fit.
        TypeError: if arrays and tensors are mixed.
    """
    _checks.one_kind(generated=generated, pose_masks=pose_masks, background=background)
    if generated.ndim != 4 or generated.shape[3] != 3:
        raise ValueError(f"generated must be [F, H, W, 3], but is {_checks.describe(generated)}")
    frames, height, width, _ = generated.shape
    if pose_masks.ndim not in (3, 4) or (pose_masks.shape[0], *pose_masks.shape[-2:]) != (frames, height, width):
        raise ValueError(f"pose_masks must be [{frames}, P, {height}, {width}], but is {_checks.describe(pose_masks)}")
    shapes = ((height, width, 3), (frames, height, width, 3))
    if tuple(background.shape) not in shapes or background.dtype != generated.dtype:
        raise ValueError(
            f"background must be of shape {shapes[0]} or {shapes[1]} and dtype {generated.dtype}, but is "
            f"{_checks.describe(background)}"
        )
    if isinstance(dilate, bool) or not isinstance(dilate, int) or dilate < 0:
        raise ValueError(f"dilate must be an integer from 0, but is {_checks.describe(dilate)}")
    inside = pose_masks > 0
    if inside.ndim == 4:
        inside = inside.any(1)
    if is_torch(generated):
        import torch

        inside = torch.nn.functional.max_pool2d(inside[:, None].float(), 2 * dilate + 1, 1, dilate)[:, 0] > 0
        return torch.where(inside[..., None], generated, background)
    for _ in range(dilate):
        inside = _dilate(_dilate(inside, 1), 2)
    return np.where(inside[..., None], generated, background)


def _dilate(inside: np.ndarray, axis: int) -> np.ndarray:
    """One step along an axis, to both sides."""
    out = inside.copy()
    before, after = [slice(None)] * 3, [slice(None)] * 3
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    out[tuple(after)] |= inside[tuple(before)]
    out[tuple(before)] |= inside[tuple(after)]
    return out


def composite_reference(reference, calibrated, masks):
    """Calibrated persons over a picture: a reference for models that take an image instead of a bank.

    Args:
        reference: the background, [H, W, 3] for all frames or [F, H, W, 3]; uint8, or floating. Where the photo's own
            person should not be seen a second time, give a picture without them.
        calibrated: [F, P, H, W, 3], of the same dtype, kind and device: `Calibration.images[a:b]`.
        masks: [F, P, H, W], coverage: uint8 0..255, or floating 0..1. Later persons are in front.

    Returns:
        Like `calibrated`, one picture per frame: [F, H, W, 3].

    Raises:
        ValueError: if shapes or dtypes do not fit.
        TypeError: if arrays and tensors are mixed.
    """
    _checks.one_kind(reference=reference, calibrated=calibrated, masks=masks)
    if calibrated.ndim != 5 or calibrated.shape[4] != 3:
        raise ValueError(f"calibrated must be [F, P, H, W, 3], but is {_checks.describe(calibrated)}")
    frames, persons, height, width, _ = calibrated.shape
    if not persons:
        raise ValueError(f"calibrated must have a person, but is {_checks.describe(calibrated)}")
    if tuple(masks.shape) != (frames, persons, height, width):
        wanted = [frames, persons, height, width]
        raise ValueError(f"masks must be {wanted}, but is {_checks.describe(masks)}")
    shapes = ((height, width, 3), (frames, height, width, 3))
    if tuple(reference.shape) not in shapes or reference.dtype != calibrated.dtype:
        raise ValueError(
            f"reference must be of shape {shapes[0]} or {shapes[1]} and dtype {calibrated.dtype}, but is "
            f"{_checks.describe(reference)}"
        )
    out = _float(reference)
    for person in range(persons):
        coverage = _float(masks[:, person])[..., None] / (255 if _is_bytes(masks) else 1)
        out = out + coverage * (_float(calibrated[:, person]) - out)
    if _is_bytes(calibrated):
        out = out.round().clip(0, 255)
    return out.to(calibrated.dtype) if is_torch(out) else out.astype(calibrated.dtype)


def _float(x):
    return x.float() if is_torch(x) else x.astype(np.float32)


def _is_bytes(x) -> bool:
    return str(x.dtype).removeprefix("torch.") == "uint8"
