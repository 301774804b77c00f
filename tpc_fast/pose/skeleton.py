"""Skeletons drawn as OpenPose and DWPose draw bodies, which pose-guided models were trained on."""

import numpy as np

from tpc_fast._checks import describe
from tpc_fast.ops.coco import SCORE_THRESHOLD
from tpc_fast.pose import keypoints as coco

NECK = coco.COUNT  # the eighteenth point: between the shoulders
# OpenPose's bones in its own order, by COCO's numbers, and its points' order: both decide the colours.
BONES = (
    *((NECK, 6), (NECK, 5), (6, 8), (8, 10), (5, 7), (7, 9), (NECK, 12), (12, 14), (14, 16), (NECK, 11), (11, 13)),
    *((13, 15), (NECK, 0), (0, 2), (2, 4), (0, 1), (1, 3)),
)
POINTS = (0, NECK, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
BONE_SHADE = 0.6
# Of COCO-WholeBody's 133 points, and as DWPose draws them: a hand's bones around the hue circle, its joints blue, faces
# as white points.
WHOLE_BODY, _FACE, _HANDS = 133, slice(23, 91), (91, 112)
_FINGERS = tuple((0 if k % 4 == 1 else k - 1, k) for k in range(1, 21))
_JOINT, _WHITE = (0, 0, 255), (255, 255, 255)


def _wheel(count: int, whole: int = 18) -> list[tuple[int, int, int]]:
    """Colours around the hue circle, which has `whole` of them, from red over yellow."""
    import colorsys

    return [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i / whole, 1, 1)) for i in range(count)]


def draw_skeletons(
    keypoints: np.ndarray,
    scores: np.ndarray | None,
    size: tuple[int, int],
    threshold: float = SCORE_THRESHOLD,
    width: int = 4,
) -> np.ndarray:
    """The skeletons of a picture's persons on black: uint8 [H, W, 3].

    Args:
        keypoints: [P, 17, 2] pixels, NaN where missing.
        scores: [P, 17], or None where all count.
        size: (height, width) of the picture.
        threshold: points with a lower score are not drawn, nor are their bones.
        width: half of a bone's thickness, and the radius of a point, in pixels.

    Raises:
        ValueError: for keypoints of another shape.
    """
    from PIL import Image, ImageDraw

    points = np.asarray(keypoints, np.float64)
    if points.ndim != 3 or points.shape[1:] != (coco.COUNT, 2):
        raise ValueError(f"keypoints must be [P, 17, 2], but are {describe(keypoints)}")
    seen = np.isfinite(points).all(-1)
    if scores is not None:
        seen &= np.asarray(scores) >= threshold
    neck = points[:, coco.SHOULDERS].mean(1, keepdims=True)
    points = np.concatenate([points, neck], 1)
    seen = np.concatenate([seen, seen[:, coco.SHOULDERS].all(-1, keepdims=True)], 1)
    picture = Image.new("RGB", size[::-1])
    draw = ImageDraw.Draw(picture)
    colours = _wheel(len(POINTS))
    for person, visible in zip(points, seen, strict=True):
        for bone, colour in zip(BONES, colours, strict=False):
            if visible[list(bone)].all():
                shaded = tuple(int(BONE_SHADE * c) for c in colour)
                draw.line([tuple(person[k].tolist()) for k in bone], fill=shaded, width=2 * width)
        for k, colour in zip(POINTS, colours, strict=True):
            if visible[k]:
                x, y = person[k].tolist()
                draw.ellipse((x - width, y - width, x + width, y + width), fill=colour)
    return np.array(picture)


def draw_whole_bodies(
    keypoints: np.ndarray,
    scores: np.ndarray | None,
    size: tuple[int, int],
    threshold: float = SCORE_THRESHOLD,
    width: int = 4,
) -> np.ndarray:
    """As `draw_skeletons`, with the hands and faces that are there: uint8 [H, W, 3].

    Args:
        keypoints: [P, 133, 2] pixels in the order of COCO-WholeBody, NaN where missing.
        scores, size, threshold, width: see `draw_skeletons`; hands and faces are drawn half as thick.

    Raises:
        ValueError: for keypoints of another shape.
    """
    from PIL import Image, ImageDraw

    points = np.asarray(keypoints, np.float64)
    if points.ndim != 3 or points.shape[1:] != (WHOLE_BODY, 2):
        raise ValueError(f"keypoints must be [P, 133, 2], but are {describe(keypoints)}")
    bodies = None if scores is None else np.asarray(scores)[:, : coco.COUNT]
    picture = Image.fromarray(draw_skeletons(points[:, : coco.COUNT], bodies, size, threshold, width))
    draw = ImageDraw.Draw(picture)
    seen = np.isfinite(points).all(-1)
    if scores is not None:
        seen &= np.asarray(scores) >= threshold
    fine = max(1, width // 2)
    colours = _wheel(len(_FINGERS), len(_FINGERS))

    def dot(point, colour):
        x, y = point.tolist()
        draw.ellipse((x - fine, y - fine, x + fine, y + fine), fill=colour)

    for person, visible in zip(points, seen, strict=True):
        for wrist in _HANDS:
            for (a, b), colour in zip(_FINGERS, colours, strict=True):
                if visible[[wrist + a, wrist + b]].all():
                    draw.line([tuple(person[wrist + k].tolist()) for k in (a, b)], fill=colour, width=fine)
            for k in range(wrist, wrist + len(_FINGERS) + 1):
                if visible[k]:
                    dot(person[k], _JOINT)
        for k in range(_FACE.start, _FACE.stop):
            if visible[k]:
                dot(person[k], _WHITE)
    return np.array(picture)
