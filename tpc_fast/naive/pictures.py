"""The specification of what is drawn into pictures that a person looks at, and of what video encoders take."""

import numpy as np

RED, BLUE = 0.2126, 0.0722  # of luma, ITU-R BT.709-6, 3.2


def rgb_to_yuv(image):
    """YUV 4:2:0, BT.709, limited range, of image uint8 [H, W, 3] or [H, W] (grey), of even sides.

    Returns:
        y [H, W], u and v [H / 2, W / 2], of the means of four pixels; uint8, halves up.
    """
    image = np.broadcast_to(image.reshape(*image.shape[:2], -1), (*image.shape[:2], 3)).astype(np.float64)
    weights = np.array([RED, 1 - RED - BLUE, BLUE])
    height, width = image.shape[:2]
    means = image.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    luma = means @ weights
    y = 16 + 219 / 255 * (image @ weights)
    u, v = (128 + 224 / 255 * (means[..., c] - luma) / (2 * (1 - share)) for c, share in ((2, BLUE), (0, RED)))
    return tuple(np.floor(plane + 0.5).astype(np.uint8) for plane in (y, u, v))


def shrink(pictures, factor):
    """Pictures uint8 [P, H, W] or [P, H, W, 3]: means of factor x factor pixels, halves up."""
    count, height, width, *channels = pictures.shape
    sums = pictures.reshape(count, height // factor, factor, width // factor, factor, *channels).sum((2, 4), np.int64)
    return ((sums + factor**2 // 2) // factor**2).astype(np.uint8)


def lay_over(pictures, masks, order, ground):
    """Pictures [P, H, W, 3], cut out by masks [P, H, W], over `ground` [H, W, 3], in place, one after another."""
    for person in order:
        share = masks[person][..., None] / 255
        ground[:] = np.rint(pictures[person] * share + ground * (1 - share))


def mask_areas(one, other):
    """Pixels of 128 or more in both masks, in the first, in the second."""
    one, other = one >= 128, other >= 128
    return tuple(int(np.count_nonzero(mask)) for mask in (one & other, one, other))


def draw_marks(picture, masks, colours, discs, dark):
    """Draws outlines and discs into a picture [h, w, 3], in place.

    Args:
        masks: [P, H, W], inside from 128 on; of each pixel of the picture the nearest one counts. Outlines are two
            pixels wide: both neighbours of an edge.
        colours: [P, 3], of the outlines.
        discs: [N, 6], x, y, radius, R, G, B: at the nearest pixel, with a rim of one pixel, and smooth edges.
        dark: the grey level of rims.
    """
    height, width = picture.shape[:2]
    for mask, colour in zip(masks, colours, strict=True):
        rows, columns = (
            (2 * np.arange(n) + 1) * old // (2 * n) for n, old in zip((height, width), mask.shape, strict=True)
        )
        solid = mask[rows][:, columns] > 127
        lines = np.zeros((height, width), bool)
        across, along = solid[1:] != solid[:-1], solid[:, 1:] != solid[:, :-1]
        lines[1:] |= across
        lines[:-1] |= across
        lines[:, 1:] |= along
        lines[:, :-1] |= along
        picture[lines] = colour
    for x, y, radius, *colour in discs:
        x, y = np.rint(np.clip([x, y], -1e6, 1e6))
        distance = np.hypot(*np.ogrid[-y : height - y, -x : width - x])[..., None]
        rim, inside = np.clip(radius + 1.5 - distance, 0, 1), np.clip(radius + 0.5 - distance, 0, 1)
        picture[:] = np.rint(picture * (1 - rim) + dark * (rim - inside) + np.multiply(colour, inside))
