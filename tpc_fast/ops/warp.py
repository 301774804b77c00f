"""The affine warp of reference image and person mask, and their composite over a background.

Pixel centres are at integer coordinates, (0, 0) is the centre of the top left pixel, x right, y down. Matrices are 2x3,
forward: reference pixels -> output pixels. Images are RGB or grey, sizes (height, width).
"""

import operator
from typing import Any, NamedTuple

import numpy as np

from tpc_fast import _checks, _dispatch, _native, naive
from tpc_fast.ops import warp_floats
from tpc_fast.ops.procrustes import namespace

Array = Any  # np.ndarray or torch.Tensor

INTERPOLATIONS = ("nearest", "bilinear", "cubic")  # in the core's order
DTYPES = ("uint8", "float32", "float16", "bfloat16")  # of bytes; the last one on a GPU only
LAYOUTS = ("HWC", "CHW")
TAPS = {"nearest": 1, "bilinear": 2, "cubic": 4}
MAX_SIDE = 1 << 24  # of references and outputs: what the core's fixed-point coordinates can tell apart
MAX_COORDINATE = 1e15  # of the entries of matrices and of their inverses: beyond it float64 resolves no pixels


class Warped(NamedTuple):
    """What `warp_composite` returns; F frames, P persons.

    Attributes:
        image: uint8 [F, P, h, w, C], black where the reference does not reach; or float [F, P, C, h, w] in [-1, 1].
        mask: uint8 [F, P, h, w], coverage 0..255; or float in [0, 1].
        composite: uint8 [F, h, w, C], or float [F, C, h, w] in [-1, 1]; None without a background.
    """

    image: Array
    mask: Array
    composite: Array | None


class WarpSource:
    """A reference (image and mask of every person), packed once to be warped often.

    Args:
        image: uint8 [H, W, C] (one reference for all persons) or [P, H, W, C]; C = 1 or 3. Or floating in 0..1, C any.
        mask: uint8 [H, W] or [P, H, W], coverage 0..255, bool, or floating in 0..1; it says how many persons there are.
        backend: see `warp_composite`.
        least_scale: the smallest scale sqrt(|det|) of the matrices to come. A GPU then makes no more levels of the
            pyramid than antialiasing needs, and warps that shrink more are blurred too little; the CPU ignores it.

    Arrays of bytes are copied (except by the naive backend): changing them later changes nothing. Floating ones are
    kept as they are, and gradients flow to them. The first warp with antialiasing makes the pyramid's levels. Several
    threads may warp from one source.

    Raises:
        TypeError: for something that is neither a uint8 nor a floating array, or arrays of two kinds (NumPy and torch).
        ValueError: for shapes that are wrong or do not match, references too large to index, and a least_scale that
            is negative or NaN.
        RuntimeError: if the backend cannot be had.
    """

    def __init__(self, image: Array, mask: Array, backend: str | None = None, least_scale: float = 0.0):
        if not least_scale >= 0:
            raise ValueError(f"least_scale must be a number from 0 on, but is {least_scale!r}")
        backend = _dispatch.resolve(image, backend)
        device = image.device if backend == "triton" else None
        _checks.one_kind(image=image, mask=mask)
        self._floats = self._packed = self._quick = self._arrays = None
        self._device = device
        if _by_floats(image, mask, None):
            self._floats = image, mask, backend
            self.persons, self.channels = warp_floats.counted(image, mask)
            self._kind = image[:0]
            return
        images, masks = _pictures(image, mask, device)
        self.persons: int = len(masks)
        self.channels: int = images.shape[-1]
        self._kind = _checks.like(np.empty(0), image) if device is None else images[:0]  # what outputs are to be
        self._arrays = (images, masks) if backend == "naive" else None
        if backend == "cpu":
            self._packed = _native.core().WarpSource(np.ascontiguousarray(images), np.ascontiguousarray(masks))
            self._quick = _native.core().quick_warp
            self._tensor = namespace(image).Tensor if _dispatch.is_torch(image) else None
        if backend == "triton":
            from tpc_fast.kernels import warp as kernels

            self._packed = kernels.Source(images, masks, least_scale)

    def warp(
        self,
        matrix: Array,
        size: tuple[int, int],
        interpolation: str = "cubic",
        antialias: bool = False,
        background=None,
        dtype=None,
    ) -> Warped:
        """Warps the reference; arguments, result and errors are those of `warp_composite`."""
        if self._quick is not None and _native.core() is not None:  # which looks whether this is a worker
            found = self._quick(
                Warped, self._packed, matrix, size, interpolation, antialias, background, dtype, self._tensor
            )
            if found is not None:
                return found
        if self._floats is not None:
            image, mask, backend = self._floats
            return warp_composite(image, mask, matrix, size, interpolation, antialias, background, dtype, backend)
        size, dtype = _size(size), _dtype(dtype) or "uint8"
        _check_options(interpolation, dtype, self._device)
        _checks.one_kind(image=self._kind, matrix=matrix, background=background)
        matrices = _matrices(matrix, self.persons, self._device)
        frames = len(matrices)
        colour, backdrop = _background(background, (frames, *size, self.channels), self._device)

        if self._device is not None:
            outputs = self._packed.warp(
                matrices, size, TAPS[interpolation], bool(antialias), colour, backdrop, dtype, background is not None
            )
        elif self._packed is None:
            ground = None if background is None else colour[: self.channels] if backdrop is None else backdrop
            outputs = naive.warp_composite(*self._arrays, matrices, size, interpolation, antialias, ground, dtype)
        else:
            persons, channels = self.persons, self.channels
            pixels = (*size, channels) if dtype == "uint8" else (channels, *size)
            image = _empty((frames, persons, *pixels), dtype)
            mask = _empty((frames, persons, *size), dtype)
            composite = None if background is None else _empty((frames, *pixels), dtype)
            self._packed.warp(
                matrices, INTERPOLATIONS.index(interpolation), bool(antialias), colour, backdrop, image, mask, composite
            )
            outputs = image, mask, composite
        return Warped(*(None if a is None else _checks.like(a, self._kind) for a in outputs))


def _pictures(image, mask, device):
    """Images [P or 1, H, W, C] and masks [P, H, W], uint8, checked."""
    images, masks = _bytes(image, "image", device), _bytes(mask, "mask", device)
    if images.ndim not in (3, 4) or images.shape[-1] not in (1, 3) or 0 in images.shape:
        hint = '; channels first are layout="CHW"' if images.ndim in (3, 4) and images.shape[-3] in (1, 3) else ""
        raise ValueError(
            f"image must be [H, W, C] or [P, H, W, C], C = 1 or 3, no side of 0, but is {_checks.describe(image)}{hint}"
        )
    if masks.ndim not in (2, 3) or 0 in masks.shape:
        raise ValueError(f"mask must be [H, W] or [P, H, W] with no side of 0, but is {_checks.describe(mask)}")
    if masks.shape[-2:] != images.shape[-3:-1]:
        raise ValueError(
            f"mask must have the height and width of image, {images.shape[-3:-1]}, but is {_checks.describe(mask)}"
        )
    own_images = images.ndim == 4
    images, masks = images.reshape(-1, *images.shape[-3:]), masks.reshape(-1, *masks.shape[-2:])
    if own_images and len(images) != len(masks):
        raise ValueError(f"mask must be [P, H, W] with the P = {len(images)} of image, but is {_checks.describe(mask)}")
    h, w = masks.shape[-2:]
    if max(h, w) > MAX_SIDE or (h + 8) * (w + 8) >= 1 << 31:
        raise ValueError(f"image must have less than 2^31 pixels and sides up to 2^24, but is {h} x {w}")
    return images, masks


def _matrices(matrix, persons, device) -> Array:
    """[F, P, 2, 3], contiguous; on the CPU float64, and checked to be invertible."""
    if _dispatch.is_recorded(matrix):
        raise TypeError(
            "matrix requires a gradient, which a WarpSource of bytes has none for: call warp_composite with a "
            "floating dtype, or pass matrix.detach()"
        )
    matrices = _checks.floating(matrix, "matrix", device)
    if matrices.ndim == 3 and persons == 1:
        matrices = matrices[:, None]
    if matrices.ndim != 4 or tuple(matrices.shape[1:]) != (persons, 2, 3):
        short = "[F, 2, 3] or " if persons == 1 else ""
        hint = "" if persons == 1 else "; for a photo per sample, give samples=True"
        raise ValueError(
            f"matrix must be {short}[F, P, 2, 3], P = {persons} as in mask, but is {_checks.describe(matrix)}{hint}"
        )
    if device is not None:
        return matrices.contiguous()
    matrices = np.ascontiguousarray(matrices, np.float64)
    good = sane_matrices(matrices)
    if not good.all():
        frame, person = divmod(int(good.argmin()), persons)
        wrong = matrices[frame, person]
        finite = np.isfinite(wrong).all()
        what = "be finite" if not finite else "have entries up to 1e15, and an inverse with entries up to 1e15"
        raise ValueError(f"matrix must {what}, but frame {frame}, person {person} is {wrong.tolist()}")
    return matrices


def _background(background, shape, device):
    """A colour for the core (three numbers), and images uint8 [F or 1, h, w, C] or None; shape: [F, h, w, C]."""
    if background is None:
        return (0.0, 0.0, 0.0), None
    channels = shape[-1]
    values = background if isinstance(background, tuple | list) else (background,)
    if not all(isinstance(value, int | float) for value in values):
        device = device if _dispatch.is_torch(background) else None
        if device is not None and background.ndim < 2:  # to read its numbers would mean to wait for the device
            raise TypeError(
                f"background must be plain numbers or a uint8 image on {device}, but is {_checks.describe(background)}"
            )
        array = _checks.numeric(background, "background", device)
        if array.ndim >= 2:
            array = _bytes(background, "background", device)
            if tuple(array.shape) not in (shape, shape[1:]):
                f, h, w, c = shape
                raise ValueError(
                    f"background must be a colour, [h, w, C] or [F, h, w, C] with F, h, w, C = {f}, {h}, {w}, {c}, "
                    f"but is {_checks.describe(background)}"
                )
            array = array.reshape(-1, *shape[1:])
            return (0.0, 0.0, 0.0), np.ascontiguousarray(array) if device is None else array.contiguous()
        values = array.reshape(-1).tolist()
    if len(values) not in (1, channels) or not all(0 <= value <= 255 for value in values):
        raise ValueError(
            f"background must be a number or {channels} numbers from 0 to 255 (or images), "
            f"but is {_checks.describe(background)}"
        )
    colour = [float(value) for value in values] * (channels if len(values) == 1 else 1)
    return (*colour, *[0.0] * (3 - channels)), None


def warp_composite(
    image: Array,
    mask: Array,
    matrix: Array,
    size: "tuple[int, int] | int",
    interpolation: str = "cubic",
    antialias: bool = False,
    background=None,
    dtype=None,
    backend: str | None = None,
    *,
    layout: str = "HWC",
    samples: bool = False,
) -> Warped:
    """Warps a reference image and its person masks, and lays the persons over a background.

    Every output pixel is sampled once, at the inverse-mapped position, which is not rounded, from the reference with
    zeros around it. To warp one reference many times, keep a `WarpSource`.

    Gradients: with respect to floating images and masks, and to the matrix, also of uint8 images where `dtype` is
    floating; `torch.func` and `torch.compile` work. There is no second gradient.

    Args:
        image: uint8, or floating in 0..1 (a little beyond is clamped after sampling): [H, W, C] (one reference for all
            persons) or [P, H, W, C]; C = 1 or 3, of floating images any.
        mask: [H, W] or [P, H, W], uint8 coverage 0..255, bool, or floating in 0..1; it says how many persons there are.
        matrix: [F, 2, 3] (one person) or [F, P, 2, 3], floating, reference pixels -> output pixels: any invertible
            affine map, its entries and those of its inverse at most 1e15.
        size: (height, width) of the outputs, or one number for both.
        interpolation: "cubic" (Keys, a = -0.75), "bilinear", or "nearest" (pixel floor(x + 0.5)).
        antialias: blur before shrinking, continuously in the scale s = sqrt(|det|): like a Gaussian of sigma
            0.5 sqrt(1 / s^2 - 1) reference pixels. Image and mask alike; nothing changes at s >= 1.
        background: None for no composite; a number or C numbers from 0 to 255, or uint8 [h, w, C] or [F, h, w, C]; of
            a floating image from 0 to 1, and floating. The composite starts from it, and persons follow in order, the
            last in front, each weighted by its warped mask.
        dtype: of the results, by name or as a dtype of torch or NumPy: "uint8", "float32", "float16", or, on a GPU and
            where image is floating, "bfloat16"; None: that of the image. Floats are not rounded to 256 levels first.
        backend: None for the one that the arrays ask for, or "naive", "cpu", "triton".
        layout: of image, background and results, "HWC" or "CHW" ([C, H, W], [P, C, H, W]).
        samples: whether all arrays have one more dimension N in front: one photo per sample, [N, H, W, C] with
            [N, F, 2, 3]. Without it a batch of images is one per person.

    Returns:
        Warped(image, mask, composite), of the kind (NumPy or torch) and on the device that `image` is. uint8: image
        [F, P, h, w, C], mask [F, P, h, w] (fractional at edges), composite [F, h, w, C] or None. Floats of a uint8
        image are what a model takes: [F, P, C, h, w] and [F, C, h, w] in [-1, 1] whatever the layout, mask in [0, 1].
        Floats of a floating image stay as the image is, 0..1 and in its layout. What the reference does not reach is
        black with mask 0.

    Raises:
        TypeError: for arrays of a wrong dtype, of two kinds or devices, and for uint8 results that need a gradient.
        ValueError: for wrong shapes, sizes and names, and for matrices that are not finite or not invertible (naming
            the frame and the person). On a GPU, where nothing waits for the device, such a person is left
            out: black, mask 0.
        RuntimeError: if the backend cannot be had.
    """
    if backend is None and layout == "HWC" and not samples:
        core, kind = _dispatch.quick(image)
        given = Warped, image, mask, matrix, size, interpolation, antialias, background, dtype, kind
        if core is not None and (found := core.quick_warp_once(*given)) is not None:
            return found
    size, dtype = _size(size), _dtype(dtype)
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, but is {layout!r}")
    if _by_floats(image, mask, matrix):
        return _warp_floats(
            image, mask, matrix, size, interpolation, antialias, background, dtype, backend, layout, samples
        )
    options, ground = (size, interpolation, antialias), background
    if layout == "CHW":
        image = _last(_checks.like(_bytes(image, "image", _device_of(image)), image))
        ground = _last(ground) if getattr(ground, "ndim", 0) >= 3 else ground
    if not samples:
        warped = WarpSource(image, mask, backend).warp(matrix, *options, ground, dtype or "uint8")
        return _laid_out(warped, dtype, layout)
    return _by_samples(image, mask, matrix, options, ground, dtype, backend, layout)


def _by_samples(image, mask, matrix, options, ground, dtype, backend, layout):
    """One photo per sample, of bytes; the ground's channels are last."""
    if getattr(matrix, "ndim", 4) not in (4, 5):
        raise ValueError(
            "matrix must be [N, F, 2, 3] or [N, F, P, 2, 3] where samples are given, but is "
            f"{_checks.describe(matrix)}; of one frame each, matrix[:, None]"
        )
    pictured = getattr(ground, "ndim", 0) >= 3
    grounds = ground if pictured else [ground] * len(image)
    if not len(image) == len(mask) == len(matrix) == len(grounds) or not len(image):
        return _warp_floats(image, mask, matrix, *options, ground, dtype, backend, "HWC", True)
    if _dispatch.resolve(image, backend) == "cpu":
        return _laid_out(_samples_by_core(image, mask, matrix, *options, ground, dtype or "uint8"), dtype, layout)
    found = [
        _laid_out(WarpSource(i, m, backend).warp(a, *options, g, dtype or "uint8"), dtype, layout)
        for i, m, a, g in zip(image, mask, matrix, grounds, strict=True)
    ]
    xp = namespace(found[0].image)
    return Warped(*(None if parts[0] is None else xp.stack(parts) for parts in zip(*found, strict=True)))


def _samples_by_core(image, mask, matrix, size, interpolation, antialias, ground, dtype):
    """Samples [N, ...] of equal shapes, N > 0, in one call of the core; checked as the first one is."""
    _check_options(interpolation, dtype, None)
    _checks.one_kind(image=image, mask=mask, matrix=matrix, background=ground)
    n, first = len(image), _pictures(image[0], mask[0], None)
    images, masks = _bytes(image, "image"), _bytes(mask, "mask")
    (persons, h, w), channels = first[1].shape, first[0].shape[-1]
    _matrices(matrix[0], persons, None)
    wide = _checks.floating(matrix, "matrix")
    frames = wide.shape[1]
    try:
        matrices = _matrices(wide.reshape(-1, persons, 2, 3), persons, None)
    except ValueError as error:
        raise ValueError(f"{error} (the frames of all {n} samples counted in a row)") from None
    shape = (frames, *size, channels)
    pictured = getattr(ground, "ndim", 0) >= 3
    colour, backdrop = _background(ground[0] if pictured else ground, shape, None)
    if pictured:
        backdrop = np.ascontiguousarray(_bytes(ground, "background")).reshape(n, -1, *shape[1:])
    pixels = shape[1:] if dtype == "uint8" else (channels, *size)
    image_out = _empty((n, frames, persons, *pixels), dtype)
    mask_out = _empty((n, frames, persons, *size), dtype)
    composite = None if ground is None else _empty((n, frames, *pixels), dtype)
    _native.core().warp_samples(
        np.ascontiguousarray(images).reshape(n, -1, h, w, channels),
        np.ascontiguousarray(masks).reshape(n, persons, h, w),
        matrices.reshape(n, frames, persons, 2, 3),
        INTERPOLATIONS.index(interpolation),
        bool(antialias),
        colour,
        backdrop,
        image_out,
        mask_out,
        composite,
    )
    return Warped(*(None if a is None else _checks.like(a, image) for a in (image_out, mask_out, composite)))


def _check_options(interpolation, dtype, device) -> None:
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, but is {interpolation!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, but is {dtype!r}")
    if dtype == "bfloat16" and device is None:
        raise ValueError("dtype must be uint8, float32 or float16 for arrays on the CPU, but is 'bfloat16'")


def _by_floats(image, mask, matrix) -> bool:
    """Whether a warp goes by floating pictures: for those and their masks, and where torch must see what happens."""
    if any(str(getattr(a, "dtype", "")).removeprefix("torch.") in warp_floats.FLOATS for a in (image, mask)):
        return True
    if _device_of(image) is not None:  # the kernels are seen by torch.compile already
        return _dispatch.is_recorded(matrix, mask)
    return _dispatch.needs_torch(image, mask, matrix)


def _warp_floats(image, mask, matrix, size, interpolation, antialias, background, dtype, backend, layout, samples):
    """`warp_composite` for those; see there."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, but is {interpolation!r}")
    if dtype not in (None, "uint8", *warp_floats.FLOATS):
        raise ValueError(f"dtype must be one of uint8, {', '.join(warp_floats.FLOATS)}, but is {dtype!r}")
    floating = "float" in str(image.dtype)
    if (dtype == "uint8" or not (dtype or floating)) and _dispatch.is_recorded(image, mask, matrix):
        raise TypeError(
            'image, mask or matrix requires a gradient, which uint8 results have none for: give dtype="float32", or '
            "pass what is detached"
        )
    _checks.one_kind(image=image, mask=mask, matrix=matrix, background=background)
    tensor = _dispatch.is_torch(image)
    if dtype == "bfloat16" and not tensor:
        raise ValueError("dtype must be uint8, float16, float32 or float64 for NumPy arrays, but is 'bfloat16'")
    device = image.device if tensor else None
    matrices = _checks.floating(matrix, "matrix", device)
    if not _dispatch.without_values(matrices) and (device is None or device.type == "cpu"):
        seen = matrices.detach().numpy() if tensor else matrices
        good = sane_matrices(seen.astype(np.float64)) if tuple(seen.shape[-2:]) == (2, 3) else np.ones(1)
        if not good.all():
            where = tuple(int(i) for i in np.argwhere(~good)[0])
            raise ValueError(
                "matrix must be finite and have an inverse, both with entries up to 1e15, "
                f"but at {where} is {seen[where].tolist()}"
            )
    return Warped(
        *warp_floats.warp_any(
            image, mask, matrices, size, TAPS[interpolation], antialias, background, dtype, backend, layout, samples
        )
    )


def _device_of(array):
    return array.device if _dispatch.is_torch(array) and array.device.type != "cpu" else None


def _last(images):
    return warp_floats.moved(images, -3, -1)


def _laid_out(warped, dtype, layout):
    """A uint8 result in the layout of its image."""
    if layout == "HWC" or dtype not in (None, "uint8"):
        return warped
    image, composite = (None if a is None else warp_floats.moved(a, -1, -3) for a in (warped.image, warped.composite))
    return Warped(image, warped.mask, composite)


def sane_matrices(matrices: np.ndarray) -> np.ndarray:
    """Which of matrices [..., 2, 3] float64 can be warped by: [...] bool.

    Their entries and those of their inverses are at most `MAX_COORDINATE`; NaN and infinity are not. The kernel of
    kernels/warp.py asks the same on the device.
    """
    a, b, tx, c, d, ty = np.moveaxis(matrices.reshape(*matrices.shape[:-2], 6), -1, 0)
    with np.errstate(all="ignore"):  # NaN and infinity fail the comparisons
        det = np.abs(a * d - b * c)
        adjugate = np.stack([a, b, c, d, b * ty - d * tx, c * tx - a * ty])
        good = (np.abs(adjugate) <= MAX_COORDINATE * det).all(0) & (det > 0) & (det < np.inf)
        return good & (np.abs(matrices) <= MAX_COORDINATE).all((-2, -1))


def _bytes(value, name: str, device=None) -> Array:
    array = _checks.numeric(value, name, device)
    if name == "mask" and str(array.dtype).removeprefix("torch.") == "bool":
        return (array.astype(np.uint8) if device is None and not _dispatch.is_torch(array) else array.byte()) * 255
    if str(array.dtype).removeprefix("torch.") != "uint8":
        also = {"image": ", or floating in 0..1", "mask": ", bool, or floating in 0..1"}.get(name, "")
        raise TypeError(f"{name} must be uint8{also}, but is {_checks.describe(value)}")
    return array


def _dtype(dtype) -> str | None:
    """The name of a dtype given by name, of torch or of NumPy; None stays."""
    if dtype is None or isinstance(dtype, str):
        return dtype
    return str(dtype).removeprefix("torch.") if type(dtype).__module__ == "torch" else _numpy_dtype(dtype)


def _numpy_dtype(dtype) -> str:
    try:
        return np.dtype(dtype).name
    except TypeError:
        raise TypeError(f"dtype must be a name or a dtype of NumPy or torch, but is {dtype!r}") from None


def _size(size) -> tuple[int, int]:
    try:
        size = (operator.index(size),) * 2 if hasattr(size, "__index__") else size
        h, w = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise ValueError(f"size must be (height, width) or one number, but is {size!r}") from None
    if not (1 <= h <= MAX_SIDE and 1 <= w <= MAX_SIDE):
        raise ValueError(f"size must be (height, width), each from 1 to 2^24, but is {size!r}")
    return h, w


def _empty(shape, dtype) -> np.ndarray:
    """An output whose every element the core will write."""
    return np.empty(shape, dtype)
