"""Where a user says that the person is: a box around it, or a point on it."""

import dataclasses

import numpy as np

from tpc_fast.ops.procrustes import Similarity
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.canonical import TEMPLATE
from tpc_fast.pose.detect.detection import Detection

MIN_SCORE = 0.3  # of a keypoint that tells where a person is
_ABOVE_KNEES = np.arange(coco.COUNT) < coco.KNEES[0]
# How far below the nose a box may end, where the template has it, in distances between the eyes: feet, hips, chest. The
# top of the head is 2.2 above it (a nose is at 0.92 of the stature and an ankle at 0.04, Drillis and Contini 1966, so
# that the 24 from nose to ankle make a stature of 27).
_ABOVE_NOSE, _ENDS = 2.2, {"whole": 25.0, "half": 12.5, "bust": 6.0}
_WIDER = 0.1  # of the box, on each side: boxes are drawn tightly


@dataclasses.dataclass(frozen=True)
class Hint:
    """A box or a point, in pixels of its picture: (0, 0) is the centre of the top-left pixel, x right, y down.

    Attributes:
        name: of the option, for messages.
        box: (x, y, width, height), of which x, y is the first pixel at the top left; or None.
        point: (x, y) or None.
    """

    name: str
    box: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None

    def __str__(self) -> str:
        return f"{self.name} {','.join(f'{n:g}' for n in self.box or self.point)}"

    def check_inside(self, size: tuple[int, int]) -> None:
        """Raises ValueError if this lies outside a picture of `size` (H, W)."""
        low = np.array(self.point or self.box[:2])
        high = low if self.box is None else low + self.box[2:] - 1
        if (high < 0).any() or (low > (size[1] - 1, size[0] - 1)).any() or (self.box is None and (low < 0).any()):
            raise ValueError(
                f"{self.name} must lie in the picture of {size[1]}x{size[0]} pixels, but is {self.box or self.point}"
            )

    def part(self, size: tuple[int, int], wider: float = _WIDER) -> tuple[slice, slice]:
        """Rows and columns of the box, with a margin, as far as the picture goes."""
        x, y, width, height = self.box
        # Brought into the picture as floats: a float that is too large becomes no integer.
        left, top = (int(np.floor(max(0.0, v - wider * n))) for v, n in ((x, width), (y, height)))
        sides = ((x, width, size[1]), (y, height, size[0]))
        right, bottom = (int(np.ceil(min(v + (1 + wider) * n, side))) for v, n, side in sides)
        return slice(top, bottom), slice(left, right)

    def guesses(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """What the box holds, if nothing tells: somebody upright who fills it from the top of the head to the feet, to
        the hips, or to the chest. ("whole", "half" or "bust", keypoints [17, 2], scores [17]) of each."""
        x, y, width, height = self.box
        scores = np.where(_ABOVE_KNEES, 0.5, 0.0).astype(np.float32)
        guesses = []
        for kind, below in _ENDS.items():
            unit = height / (_ABOVE_NOSE + below)
            nose = np.array([x + (width - 1) / 2, y + _ABOVE_NOSE * unit])
            points = Similarity(np.float64(unit), np.eye(2), nose).apply(TEMPLATE)
            guesses.append((kind, np.where(_ABOVE_KNEES[:, None], points, np.nan), scores))
        return guesses

    def shows(self, keypoints: np.ndarray, scores: np.ndarray, mask: np.ndarray | None) -> bool:
        """Whether a person, [17, 2], [17] and [H, W] or None, is the one who is meant.

        Most of face and shoulders lie in the box; or its mask covers the point (without one, keypoints surround it).
        """
        visible = np.isfinite(keypoints).all(-1) & (scores >= MIN_SCORE)
        seen = keypoints[visible]
        if not len(seen):
            return False
        if self.box is not None:
            top = [k for k in (*coco.FACE, *coco.SHOULDERS) if visible[k]]
            seen = keypoints[top] if top else seen
            x, y, width, height = self.box
            margin = _WIDER * np.array([width, height])
            inside = (seen >= (x, y) - margin) & (seen <= np.array([x + width, y + height]) - 1 + margin)
            return bool(inside.all(-1).mean() > 0.5)
        if mask is not None:
            return bool(mask[round(self.point[1]), round(self.point[0])] >= 128)
        return bool((seen.min(0) <= self.point).all() and (seen.max(0) >= self.point).all())

    def pick(self, found: Detection) -> Detection:
        """Of several persons the one who is meant, the largest if there is more than one such; or nobody."""
        masks = [None] * len(found) if found.mask is None else found.mask
        meant = [p for p in range(len(found)) if self.shows(found.keypoints[p], found.scores[p], masks[p])]
        if not meant:
            return Detection.nobody()
        extent = [np.ptp(found.keypoints[p][found.scores[p] >= MIN_SCORE], axis=0).prod() for p in meant]
        one = slice(meant[int(np.argmax(extent))], meant[int(np.argmax(extent))] + 1)
        return Detection(found.keypoints[one], found.scores[one], None if found.mask is None else found.mask[one])


def check_hint(name: str, box, point) -> Hint | None:
    """Options `{name}_box` and `{name}_point` -> a hint, or None if neither is given.

    Raises:
        ValueError: if both are given, or one is not as it must be.
    """
    if box is None and point is None:
        return None
    if box is not None and point is not None:
        raise ValueError(f"{name}_box and {name}_point must not be given together")
    what, given, count = ("box", box, 4) if point is None else ("point", point, 2)
    words = {"box": "x, y, width and height, of which the last two are at least 1", "point": "x and y"}[what]
    try:
        numbers = tuple(float(n) for n in given)
        valid = not isinstance(given, str) and len(numbers) == count and np.isfinite(numbers).all()
    except (TypeError, ValueError, OverflowError):  # the last of an integer that is no float
        valid = False
    if not valid or (what == "box" and min(numbers[2:]) < 1):
        raise ValueError(f"{name}_{what} must be {count} finite numbers, {words} (pixels), but is {given!r}")
    return Hint(f"{name}_{what}", **{what: numbers})
