"""Warps of floating-point pictures: for those that are floating, and for whoever wants a gradient.

The sampling is an operation of the core with a gradient (`tpc_fast.ops.registered`); what stands around it here is
plain arithmetic, which torch differentiates, maps and compiles by itself.
"""

import numpy as np

from tpc_fast import _checks, _dispatch, _native, naive
from tpc_fast.ops.procrustes import namespace

FLOATS = ("float16", "bfloat16", "float32", "float64")
OVERSHOOT = 1.0  # beyond 0..1, by which cubic resizing and training overshoot; pictures of 0..255 are far beyond
NAMES = {1: "nearest", 2: "bilinear", 4: "cubic"}


def warp_pictures(image, mask, matrix, size, taps, antialias, background, specified):
    """`warp_composite` for floating pictures in 0..1, channels first, samples in front.

    Args:
        image: [N, P or 1, C, H, W]; mask: [N, P, H, W], of the image's dtype, float32 or float64.
        matrix: [N, F, P, 2, 3] float64; one without an inverse shows nothing.
        size: (h, w); taps: of the interpolation, 1, 2 or 4; antialias: as in `warp_composite`.
        background: None, or what broadcasts to [N, F, C, h, w].
        specified: by the naive twin.

    Returns:
        image [N, F, P, C, h, w] and mask [N, F, P, h, w] in 0..1, composite [N, F, C, h, w] or None.
    """
    xp = namespace(image)
    (samples, frames, persons), channels = matrix.shape[:3], image.shape[2]
    sides = tuple(image.shape[3:])
    images = xp.broadcast_to(image, (samples, persons, channels, *sides))
    pictures = xp.concatenate([images, mask[:, :, None]], 2).reshape(samples * persons, channels + 1, *sides)
    maps = matrix.swapaxes(1, 2).reshape(samples * persons, frames, 2, 3)
    inverse, shrink, good = _inverse(maps, xp)
    whole = None
    for level, share in _levels(pictures, shrink, good, antialias, xp):
        step = 2**level
        shift = xp.zeros_like(inverse)
        shift[..., 2] = (step - 1) / 2
        seen = _sample(pictures, (inverse - shift) / step, share, size, taps, specified)
        whole = seen if whole is None else whole + seen
        pictures = _halve(pictures, xp) if antialias else pictures
    whole = whole.clip(0, 1).reshape(samples, persons, frames, channels + 1, *size).swapaxes(1, 2)
    warped, covered = whole[:, :, :, :channels], whole[:, :, :, channels]
    composite = None
    if background is not None:
        composite = xp.broadcast_to(background, (samples, frames, channels, *size))
        for p in range(persons):  # back to front
            m = covered[:, :, p, None]
            composite = composite * (1 - m) + warped[:, :, p] * m
    return warped, covered, composite


def warp_any(image, mask, matrix, size, taps, antialias, background, dtype, backend, layout, samples):
    """`warp_composite` by floating pictures, whatever they are given as; options are checked, `dtype` may be None."""
    xp = namespace(image)
    specified = _dispatch.resolve(image, backend) == "naive"
    floating = str(image.dtype).removeprefix("torch.") in FLOATS
    double = str(image.dtype).endswith("float64") or dtype == "float64"
    work = getattr(xp, "float64" if double else "float32")
    images = unit_pictures(image, "image", work, xp, True)
    images = moved(images, -1, -3) if layout == "HWC" else images
    device = image.device if _dispatch.is_torch(image) else None  # arrays of NumPy 2 have one of their own
    masks = unit_pictures(_checks.numeric(mask, "mask", device), "mask", work, xp, True)
    given = matrix
    if not samples:
        images, masks, matrix = images[None], masks[None], matrix[None]
    images = images[:, None] if images.ndim == 4 else images
    masks = masks[:, None] if masks.ndim == 3 else masks
    one = masks.ndim == 4 and masks.shape[1] == 1
    matrix = matrix[:, :, None] if matrix.ndim == 4 and one else matrix
    _check_shapes(images, masks, matrix, (image, mask, given), layout, samples)
    (n, frames), (channels, *_) = matrix.shape[:2], images.shape[2:]
    ground = _ground(background, (n, frames, channels, *size), work, image, layout, samples, floating)
    wide = matrix.to(xp.float64) if _dispatch.is_torch(matrix) else matrix.astype(np.float64)
    outputs = warp_pictures(images, masks, wide, size, taps, antialias, ground, specified)
    name = dtype or (str(image.dtype).removeprefix("torch.") if floating else "uint8")
    return [
        None if a is None else _finished(a, i == 1, name, floating, layout, samples, xp) for i, a in enumerate(outputs)
    ]


def counted(image, mask) -> tuple[int, int]:
    """How many persons and channels pictures [H, W, C] or [P, H, W, C] with masks [H, W] or [P, H, W] are of.

    Raises:
        ValueError: for other shapes.
    """
    if image.ndim not in (3, 4) or 0 in image.shape:
        raise ValueError(f"image must be [H, W, C] or [P, H, W, C], no side of 0, but is {_checks.describe(image)}")
    persons = mask.shape[0] if mask.ndim == 3 else 1
    if mask.ndim not in (2, 3) or tuple(mask.shape[-2:]) != tuple(image.shape[-3:-1]) or not persons:
        raise ValueError(f"mask must have the height and width of image, but is {_checks.describe(mask)}")
    if image.ndim == 4 and image.shape[0] != persons:
        raise ValueError(f"mask must be of the P = {image.shape[0]} persons of image, but is of {persons}")
    return persons, image.shape[-1]


def moved(array, source, target):
    """An axis put elsewhere; torch's `moveaxis` has no rule for vmap."""
    return array.movedim(source, target) if _dispatch.is_torch(array) else np.moveaxis(array, source, target)


def _finished(a, is_mask, name, floating, layout, samples, xp):
    """A result in 0..1 as it is asked for."""
    last = layout == "HWC"
    if name == "uint8":
        a = xp.round(a * 255)
    elif not floating:  # what goes to a model
        a, last = (a if is_mask else a * 2 - 1), False
    a = moved(a, -3, -1) if last and not is_mask else a
    a = a if samples else a[0]
    return a.to(getattr(xp, name)) if _dispatch.is_torch(a) else np.ascontiguousarray(a.astype(name))


def _check_shapes(images, masks, matrix, given, layout, samples):
    """`given`: image, mask and matrix as they were given, for messages."""
    image, mask, placed = (_checks.describe(a) for a in given)
    front, hwc = "N, " if samples else "", "H, W, C" if layout == "HWC" else "C, H, W"
    if images.ndim != 5 or 0 in images.shape[1:]:
        raise ValueError(f"image must be [{front}{hwc}] or [{front}P, {hwc}], no side of 0, but is {image}")
    n, persons, _, h, w = images.shape
    if masks.ndim != 5 - 1 or tuple(masks.shape[2:]) != (h, w) or masks.shape[0] != n or 0 in masks.shape[1:]:
        raise ValueError(
            f"mask must be [{front}H, W] or [{front}P, H, W] with the size of image, {h} x {w}"
            f"{f', and its {n} samples' if samples else ''}, but is {mask}"
        )
    if persons not in (1, masks.shape[1]):
        raise ValueError(f"mask must be of the P = {persons} persons of image, but is of {masks.shape[1]}")
    if matrix.ndim != 5 or tuple(matrix.shape[2:]) != (masks.shape[1], 2, 3) or matrix.shape[0] != n:
        raise ValueError(
            f"matrix must be [{front}F, P, 2, 3], P = {masks.shape[1]} as in mask"
            f"{f', N = {n} as in image' if samples else ''}, but is {placed}"
            f"{'' if samples or persons == 1 else '; for a photo per sample, give samples=True'}"
        )


def _ground(background, shape, work, image, layout, samples, floating):
    """The background in 0..1, as what broadcasts to [N, F, C, h, w]."""
    if background is None:
        return None
    xp, (_, frames, channels, h, w) = namespace(image), shape
    where = {"device": image.device} if _dispatch.is_torch(image) else {}
    if hasattr(background, "ndim") and background.ndim >= 3:
        given = unit_pictures(background, "background", work, xp, True)
        given = moved(given, -1, -3) if layout == "HWC" else given
        given = given if samples else given[None]
        given = given[:, None] if given.ndim == 4 else given
        if tuple(given.shape) not in {(shape[0], f, channels, h, w) for f in (1, frames)}:
            raise ValueError(
                f"background must be of the size and channels of the result, but is {_checks.describe(background)}"
            )
        return given
    top = 1 if floating else 255
    values = background.reshape(-1).tolist() if hasattr(background, "reshape") else background
    values = list(values) if isinstance(values, list | tuple) else [values]
    if len(values) not in (1, channels) or not all(isinstance(v, int | float) and 0 <= v <= top for v in values):
        raise ValueError(
            f"background must be a number or {channels} numbers from 0 to {top}, or images, but is {background!r}"
        )
    values = [v / top for v in values]
    return xp.asarray(values, dtype=work, **where).reshape(1, 1, -1, 1, 1)


def _inverse(maps, xp):
    """Output pixels -> picture pixels, 1 / |det|, and which have an inverse; the others' are those of no change."""
    a, b, tx, c, d, ty = (maps[..., i, j] for i in (0, 1) for j in (0, 1, 2))
    det = a * d - b * c
    entries = xp.stack([d, -b, b * ty - d * tx, -c, a, c * tx - a * ty], -1)
    good = (abs(det) > 0) & (abs(det) < np.inf) & (abs(entries) <= 1e15 * abs(det)[..., None]).all(-1)
    safe = xp.where(good, det, 1.0)
    inverse = xp.where(good[..., None], entries, 0.0) / safe[..., None]
    return inverse.reshape(maps.shape), 1 / abs(safe), good


def _levels(pictures, shrink, good, antialias, xp):
    """Levels of the pyramid, and how much of each every map sees: see `naive.warp`, whose choice this is in one line.

    As many as these maps need, where their numbers can be seen.
    """
    top = max(max(pictures.shape[2:]) - 1, 0).bit_length() if antialias else 0
    if top and not _dispatch.without_values(shrink):
        seen = shrink.detach() if _dispatch.is_torch(shrink) else shrink
        largest = float(seen.max()) if min(seen.shape) else 1.0
        top = min(top, int(np.ceil(np.log2(max(largest, 1.0)) / 2 + 1e-9)))
    reached = xp.ones_like(shrink) * good
    for level in range(top + 1):
        upward = ((shrink / 4.0**level - 1) / 3).clip(0, 1) * good if level < top else reached * 0
        yield level, reached - upward
        reached = upward


def _halve(pictures, xp):
    """`naive.halve` of [S, C, H, W], not rounded."""
    for axis in (2, 3):
        n = pictures.shape[axis]
        edge = xp.zeros_like(pictures[:, :, :1] if axis == 2 else pictures[..., :1])
        after = [edge] * (2 + n % 2)
        padded = xp.concatenate([edge, pictures, *after], axis).swapaxes(axis, -1)
        parts = [k * padded[..., i : i + n + n % 2 : 2] for i, k in enumerate([1, 3, 3, 1])]
        pictures = (sum(parts[1:], parts[0]) / 8).swapaxes(axis, -1)
    return pictures


def _sample(pictures, inverse, share, size, taps, specified):
    if _dispatch.is_torch(pictures):
        if pictures.device.type != "cpu":
            return sample_by_grid(pictures, inverse, share, size, taps)
        from tpc_fast.ops import registered

        return registered.sample_pictures(pictures, inverse, share, *size, taps, specified)
    arrays = [np.ascontiguousarray(a) for a in (pictures, inverse, share)]
    if specified or _native.core() is None:
        return naive.sample_pictures(*arrays, size, NAMES[taps]).astype(pictures.dtype)
    return _native.core().sample_pictures(*arrays, *size, taps)


def sample_by_grid(pictures, inverse, share, size, taps):
    """`naive.sample_pictures` by torch's `grid_sample`, whose bicubic weights are the same: for tensors of a GPU."""
    import torch

    s, m = share.shape
    (channels, height, width), (h, w) = pictures.shape[1:], size
    rows, columns = (torch.arange(n, device=inverse.device, dtype=inverse.dtype) for n in size)
    at = torch.stack(
        [columns.expand(h, w), rows[:, None].expand(h, w), torch.ones(h, w, device=rows.device, dtype=rows.dtype)], -1
    )
    places = (at.reshape(1, 1, h * w, 3) @ inverse.mT).reshape(s, m * h, w, 2)
    if taps == 1:
        places = torch.floor(places + 0.5)
    sides = torch.tensor([width, height], device=rows.device, dtype=rows.dtype)
    grid = ((2 * places + 1) / sides - 1).to(pictures.dtype)
    mode = {1: "nearest", 2: "bilinear", 4: "bicubic"}[taps]
    seen = torch.nn.functional.grid_sample(pictures, grid, mode, "zeros", align_corners=False)
    seen = seen.reshape(s, channels, m, h, w).swapaxes(1, 2)
    return seen * share.to(seen.dtype)[..., None, None, None]


def unit_pictures(value, name, dtype, xp, of_bytes):
    """A picture or mask as floating numbers in 0..1 of a dtype of `xp`.

    Args:
        of_bytes: whether uint8 is taken.

    Raises:
        TypeError: for another dtype. ValueError: for numbers that cannot be of 0..1; overshoot is taken.
    """
    kind = str(value.dtype).removeprefix("torch.")
    if kind not in ("bool", *FLOATS, *(("uint8",) if of_bytes else ())):
        taken = "uint8, bool or floating" if of_bytes else "floating, as image is"
        raise TypeError(f"{name} must be {taken}, but is {_checks.describe(value)}")
    unit = value.to(dtype) if _dispatch.is_torch(value) else value.astype(dtype)
    if kind == "uint8":
        return unit / 255
    if kind in FLOATS and not _dispatch.without_values(value) and _on_cpu(value):
        seen = unit.detach().numpy() if _dispatch.is_torch(unit) else unit
        low, high = seen.min(initial=0), seen.max(initial=1)
        if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
            raise ValueError(f"{name} must be in 0..1 where it is floating, but has numbers from {low} to {high}")
    return unit


def _on_cpu(value):
    return not _dispatch.is_torch(value) or value.device.type == "cpu"
