"""Persons near each other: a network that is to see one of them must not see the other.

A network of one person, shown two who embrace, mixes them: one gets the head of the other, or masks of both. What
belonged to the others in the frame before is therefore painted over before it looks.
"""

import dataclasses

import numpy as np

from tpc_fast.ops.procrustes import Similarity, person_size
from tpc_fast.ops.resample import resample
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.bones import bones_of, squared_distances
from tpc_fast.pose.detect.canonical import TEMPLATE, CanonicalCrop
from tpc_fast.pose.detect.detection import Detection

# By how much nearer a pixel must be to the bones of another to be theirs, in distances between the eyes: by half a
# head's width. Of two whose bones coincide (one passes behind the other) nothing is hidden, nor what one who moves
# enters within a frame.
MARGIN = float(TEMPLATE[coco.FACE, 0].max())
# The same where both masks claim a pixel. It is no look's loss, so less is enough.
SHARE_MARGIN = MARGIN / 2
_CELL = 8  # pixels of a crop in which bones are equally far: less than `MARGIN` of either crop
_SIZE = float(person_size(TEMPLATE[None], np.ones((1, coco.COUNT), bool))[0])  # of TEMPLATE, between its eyes


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """One person, and who else was seen in a frame.

    Attributes:
        own: keypoints [17, 2] in pixels, and which of them are seen [17].
        others: the same, and the mask uint8 [H, W], of everybody else.
        apart: [P] by how many pixels the person and each of the others may be elsewhere by now.
    """

    own: tuple[np.ndarray, np.ndarray]
    others: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    apart: list[float]

    def hidden(self, crop: CanonicalCrop, view: Similarity) -> np.ndarray | None:
        """Which pixels [size, size] of the person's crop are the others'; None if none is.

        Those of their masks to whose bones they are nearer than to the person's, by MARGIN and by what both may have
        moved.
        """
        found = None
        for (keypoints, seen, mask), apart in zip(self.others, self.apart, strict=True):
            points = view.apply(keypoints.astype(np.float64))
            low, high = points[seen].min(0), points[seen].max(0)
            beyond = _SIZE * crop.unit  # masks reach beyond keypoints
            if (low > crop.size + beyond).any() or (high < -beyond).any():
                continue
            theirs = resample(mask, view.matrix, (crop.size, crop.size), "black") >= 128
            if not theirs.any():
                continue
            if found is None:
                places = _places(crop.size, crop.size, _CELL)
                own = _distances(places, view.apply(self.own[0].astype(np.float64)), self.own[1])
                found = np.zeros((crop.size, crop.size), bool)
            margin = MARGIN * crop.unit + apart * float(view.scale)
            nearer = _distances(places, points, seen) + margin < own
            found |= theirs & _expanded(nearer, _CELL, found.shape)
        return found if found is not None and found.any() else None


def painted_over(picture: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """A square picture uint8 [n, n, 3] without what is hidden, bool [n, n]; n is a multiple of 8.

    A hidden pixel gets the mean colour of what is seen in the smallest of the squares of 8, 16, 32, ... pixels that
    is seen to a quarter. Finer paint is no use: the network sees smooth patches, which look like nobody.
    """
    side, cells = _CELL, len(picture) // _CELL
    painted = picture.copy()
    painted[hidden] = 0
    # Rows first: sums over whole rows are fast.
    rows = painted.reshape(cells, side, -1).sum(1, dtype=np.uint16)
    sums = rows.reshape(cells, cells, side, 3).sum(2, dtype=np.float64)
    counts = side**2 - hidden.reshape(cells, side, -1).sum(1, dtype=np.uint16).reshape(cells, cells, side).sum(2)
    levels = []
    while True:
        levels.append((counts >= side**2 / 4, sums / np.maximum(counts, 1)[..., None]))
        if len(counts) % 2:
            break
        half, side = len(counts) // 2, 2 * side
        counts = counts.reshape(half, 2, half, 2).sum((1, 3))
        sums = sums.reshape(half, 2, half, 2, 3).sum((1, 3))
    colours = np.broadcast_to(sums.sum((0, 1)) / max(counts.sum(), 1), (cells, cells, 3))
    for enough, mean in reversed(levels):
        times = cells // len(mean)
        enough, mean = (a.repeat(times, 0).repeat(times, 1) for a in (enough, mean))
        colours = np.where(enough[..., None], mean, colours)
    patches = np.rint(colours).astype(np.uint8).repeat(_CELL, 0).repeat(_CELL, 1)
    np.copyto(painted, patches, where=hidden[..., None])
    return painted


def shared_out(people: Detection) -> Detection:
    """Several persons of one picture, whose masks claim no pixel that is another's.

    Of two masks that claim a pixel the one keeps it whose bones are nearer by SHARE_MARGIN; both do if neither is.
    """
    if people.mask is None or len(people) < 2:
        return people
    masks, known = people.mask.copy(), [_known(people, p) for p in range(len(people))]
    boxes = [_box(points, seen, size, masks.shape[1:]) for points, seen, size in known]
    for p, (points, seen, size) in enumerate(known):
        for q, (their_points, they_seen, their_size) in enumerate(known):
            if p == q or boxes[p] is None or boxes[q] is None:
                continue
            low, high = np.maximum(boxes[p][0], boxes[q][0]), np.minimum(boxes[p][1], boxes[q][1])
            if (low >= high).any():
                continue
            part = slice(low[1], high[1]), slice(low[0], high[0])
            y, x = np.nonzero((people.mask[p][part] >= 128) & (people.mask[q][part] >= 128))
            if not len(y):
                continue
            y, x = y + low[1], x + low[0]
            margin = SHARE_MARGIN * min(size, their_size) / _SIZE
            cell = max(1, int(margin / 2))
            cells, which = np.unique(y // cell * masks.shape[2] + x // cell, return_inverse=True)
            places = np.stack([cells % masks.shape[2], cells // masks.shape[2]], -1) * cell + (cell - 1) / 2
            places = places.astype(np.float32)
            theirs = _distances(places, their_points, they_seen) + margin < _distances(places, points, seen)
            masks[p][y[theirs[which]], x[theirs[which]]] = 0
    return dataclasses.replace(people, mask=masks)


def neighbours(people: Detection, person: int, steps: np.ndarray | None = None) -> Neighbours | None:
    """Who else is in a frame, beside one of its persons; None if there is nobody, or no mask.

    `steps`: [P] pixels that each moved from the frame before; as many are expected again.
    """
    if people.mask is None:
        return None
    parts = (people.keypoints, people.scores, people.mask)
    rest = [p for p in range(len(people)) if p != person]
    others = [Detection(*(part[p : p + 1] for part in parts)) for p in rest]
    apart = [0.0 if steps is None else float(steps[person] + steps[p]) for p in rest]
    return beside(people.keypoints[person], people.scores[person], others, apart)


def beside(keypoints: np.ndarray, scores: np.ndarray, others: list[Detection], apart=None) -> Neighbours | None:
    """As `neighbours`, of one whose keypoints [17, 2] with scores [17] are known roughly, and others one by one."""
    own = keypoints, _seen(keypoints, scores)
    known, far = [], []
    for other, moved in zip(others, apart or [0.0] * len(others), strict=True):
        shown = _seen(other.keypoints[0], other.scores[0])
        if other.mask is not None and shown.any():
            known.append((other.keypoints[0], shown, other.mask[0]))
            far.append(moved)
    return Neighbours(own, known, far) if known and own[1].any() else None


def step_of(before: Detection, now: Detection) -> float:
    """Pixels that a person moved, the median of the keypoints that are seen in both of two frames; 0 if none is."""
    both = _seen(before.keypoints[0], before.scores[0]) & _seen(now.keypoints[0], now.scores[0])
    return float(np.median(np.hypot(*(now.keypoints[0] - before.keypoints[0])[both].T))) if both.any() else 0.0


def _seen(keypoints, scores) -> np.ndarray:
    return (scores >= coco.SCORE_THRESHOLD) & np.isfinite(keypoints).all(-1)


def _known(people: Detection, person: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Keypoints, which of them are seen, and the person's size."""
    keypoints = people.keypoints[person]
    seen = _seen(keypoints, people.scores[person])
    return keypoints, seen, float(person_size(keypoints[None], seen[None])[0])


def _box(points, seen, size, shape) -> tuple[np.ndarray, np.ndarray] | None:
    """Corners (x, y) of where a mask can be, in a picture of `shape`; None if nobody knows."""
    if not seen.any() or not size > 0:
        return None
    low, high = np.floor(points[seen].min(0) - size), np.ceil(points[seen].max(0) + size)
    return tuple(np.clip(corner, 0, shape[::-1]).astype(int) for corner in (low, high))


def _places(height: int, width: int, cell: int) -> np.ndarray:
    """float32 [h * w, 2]: the centres of square cells of a picture."""
    y, x = np.mgrid[: -(-height // cell), : -(-width // cell)]
    return (np.stack([x, y], -1).reshape(-1, 2) * cell + (cell - 1) / 2).astype(np.float32)


def _distances(places, keypoints, seen) -> np.ndarray:
    return np.sqrt(squared_distances(places, bones_of(keypoints.astype(np.float32), seen)))


def _expanded(cells: np.ndarray, cell: int, shape: tuple[int, int]) -> np.ndarray:
    """Cells [h * w] as pixels of a picture of `shape`."""
    height, width = (-(-side // cell) for side in shape)
    return cells.reshape(height, width).repeat(cell, 0).repeat(cell, 1)[: shape[0], : shape[1]]
