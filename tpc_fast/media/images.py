"""Pictures and masks: read (the only file that knows Pillow's decoders), scaled, compared."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tpc_fast import _native
from tpc_fast._checks import describe, to_numpy
from tpc_fast._dispatch import is_torch
from tpc_fast._extras import INSTALL
from tpc_fast.media.limits import LIMITS
from tpc_fast.media.reading import reading
from tpc_fast.naive import pictures as naive

VIDEO_SUFFIXES = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv"}
SWAPPED = "did you swap photo and video?"

# What is looked for in a file, whatever its name: pictures that are data. Of Pillow's other formats some run programs
# (EPS: Ghostscript), and all are more code that strangers' files reach.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "AVIF", "HEIF")
# What files of ISO/IEC 23008-12 say at their beginning, after `ftyp`: HEVC inside, which Pillow has no decoder of.
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_opening = threading.Lock()

#: How far floats may leave 0..1: half a level of 8 bits, as bfloat16 and resampled pictures do.
ROUNDING = 0.5 / 255


def load_image(source, name: str = "reference") -> tuple[np.ndarray, np.ndarray | None]:
    """A picture as 8-bit RGB, upright, and its alpha channel.

    Args:
        source: a path, a PIL image, or an array or CPU tensor [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of
            uint8, uint16 (scaled to 8 bits) or floats in 0..1. The EXIF orientation of files and PIL images is applied.
        name: what errors call it.

    Returns:
        uint8 [H, W, 3], and uint8 [H, W], or None if the picture has no alpha or is opaque everywhere.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if it is not a picture of `FORMATS`, is damaged, empty or larger than `LIMITS.pixels`, or an array
            of another shape or dtype.
        TypeError: if it is none of these kinds.
    """
    if isinstance(source, str | os.PathLike):
        return _load_image_file(source, name)
    if is_torch(source):
        source = tensor_to_numpy(source, name)
    if isinstance(source, np.ndarray):
        return _split_alpha(_check_pixels(source, name))
    from PIL import Image

    if isinstance(source, Image.Image):
        return _from_pil(source, name)
    raise TypeError(f"{name} must be a path, a PIL image or an array, but is {describe(source)}")


def _load_image_file(source, name):
    from PIL import Image

    path, what = Path(source), f"{name}: {source} cannot be read"
    if not path.exists():
        raise FileNotFoundError(f"{name}: there is no file {source}")
    if not path.is_file():
        raise ValueError(f"{name} must be a picture file, but {path} is not a file")
    with reading(what):
        _learn_format(path)
        try:
            with open_picture(path) as image:
                return _from_pil(image, name)
        except Image.UnidentifiedImageError:
            known = ", ".join(FORMATS)
            hint = f"; {SWAPPED}" if path.suffix.lower() in VIDEO_SUFFIXES and name == "reference" else ""
            raise ValueError(f"it is no picture of a format that is read here ({known}){hint}") from None


@contextlib.contextmanager
def open_picture(path: Path) -> Iterator:
    """A file of one of `FORMATS` as a PIL image, of which nothing is decoded yet.

    Pillow's own bound, which is half of what a large camera's photo has, is not applied: ours is, before decoding.
    """
    from PIL import Image

    with _opening:  # the bound is one for all threads
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            known = [one for one in FORMATS if one in Image.OPEN or one not in ("AVIF", "HEIF")]
            image = Image.open(path, formats=known)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    with image:
        yield image


def _learn_format(path: Path) -> None:
    """Makes Pillow know AVIF and HEIC if the file is one of them.

    Raises:
        ValueError: if what reads it is not installed; says how to install it.
    """
    from PIL import Image

    with open(path, "rb") as file:
        head = file.read(64)
    if head[4:8] != b"ftyp":
        return
    if b"avif" in head[8:]:
        Image.init()
        if "AVIF" not in Image.OPEN:
            raise ValueError("it is an AVIF picture, which needs Pillow 11.3 or later")
    elif head[8:12] in _HEIC_BRANDS:
        try:
            from pillow_heif import register_heif_opener
        except ImportError as error:
            raise ValueError(f"it is a HEIC picture, which needs pillow-heif: {INSTALL['heic']} ({error})") from None
        register_heif_opener()


def _from_pil(image, name):
    from PIL import ImageOps

    if 0 in image.size:
        raise ValueError(f"{name} must have pixels, but is {image.width} x {image.height}")
    LIMITS.check("pixels", image.width * image.height, name)
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError(f"{name} must have 8 or 16 bits a channel, but has floats: scale it to 0..255")
    if image.mode.startswith("I"):  # 16-bit grey, which older Pillow opens as 32-bit
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"{name} must have 8 or 16 bits a channel, but its values reach {grey.max()}")
        return _split_alpha(_to_8_bits(grey.astype(np.uint16))[..., None])
    return _split_alpha(np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB")))


def _check_pixels(array, name):
    """`array` as uint8 [H, W, 1, 3 or 4]."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        advice = ": put the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        shapes = "[H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        raise ValueError(f"{name} must be {shapes}, but is {describe(array)}{advice}")
    if not array.size:
        raise ValueError(f"{name} must have pixels, but is {describe(array)}")
    if array.dtype == np.uint16:
        array = _to_8_bits(array)
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN too
            raise ValueError(
                f"{name} must be in 0..1 where it is floats, but is {describe(array)}, {low:.4g}..{high:.4g}"
            )
        array = (np.clip(array, 0, 1) * 255 + 0.5).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"{name} must be uint8, uint16 or floats in 0..1, but is {describe(array)}")
    return array if array.ndim == 3 else array[..., None]


def _to_8_bits(array):
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _split_alpha(pixels):
    alpha = pixels[..., 3] if pixels.shape[2] == 4 else None
    rgb = pixels[..., :3] if pixels.shape[2] > 1 else np.repeat(pixels, 3, axis=2)
    opaque = alpha is None or bool((alpha == 255).all())
    return np.ascontiguousarray(rgb), None if opaque else np.ascontiguousarray(alpha)


def tensor_to_numpy(tensor, name):
    if tensor.device.type != "cpu":
        raise TypeError(f"{name} must be on the CPU, but is on {tensor.device}: pass {name}.cpu()")
    return tensor.detach().numpy()


def scale(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture uint8 [H, W] or [H, W, 3] at another size (height, width), antialiased."""
    if picture.shape[:2] == tuple(size):
        return picture
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))


def shrink_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks [P, h, w] at another size (height, width), nearest pixels."""
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(size, masks.shape[1:], strict=True))
    return masks.take(rows, 1).take(columns, 2)  # one after the other: twice as fast as both at once


def mask_iou(masks: np.ndarray, pose_masks: np.ndarray) -> np.ndarray:
    """Intersection over union of masks uint8 or bool [..., h, w] (uint8: inside from 128 on): [...] float64.

    NaN where both are empty; 0 where one is.

    Raises:
        ValueError: for shapes that differ.
    """
    masks, pose_masks = (to_numpy(a, n) for a, n in ((masks, "masks"), (pose_masks, "pose_masks")))
    if masks.shape != pose_masks.shape:
        raise ValueError(f"pose_masks must have the shape of masks, {masks.shape}, but has {pose_masks.shape}")
    masks, pose_masks = (_bytes(m) for m in (masks, pose_masks))
    areas, shape = (_native.core() or naive).mask_areas, masks.shape
    pairs = zip(*(m.reshape(-1, *shape[-2:]) for m in (masks, pose_masks)), strict=True)
    counts = np.array([areas(*pair) for pair in pairs], np.int64).reshape(*shape[:-2], 3)
    both, one, other = np.moveaxis(counts, -1, 0)
    either = one + other - both
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


def _bytes(masks):
    if masks.dtype != np.uint8:
        masks = (masks if masks.dtype == np.bool_ else masks >= 128) * np.uint8(255)
    return np.ascontiguousarray(masks)
