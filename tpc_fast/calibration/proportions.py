"""Body proportions: how long the parts of two persons are beside each other, and a skeleton that is given another's."""

import numpy as np

from tpc_fast.ops.coco import COUNT, HIPS, SCORE_THRESHOLD, SHOULDERS

WHOLE_BODY = 133
#: How far a part may be shortened or lengthened: no grown person's limbs differ by more from a child's, in head sizes.
BOUNDS = (0.5, 2.0)
STRETCHED = 90  # percentile of a part's lengths over the clip that is taken for its length unforeshortened
#: Likewise of the trunk and the head, which point at the camera less often than limbs, so that what a percentile adds
#: for noise is less: the demo's photo beside itself comes out 2.5 % shorter, with 90 it is 5 %.
STRETCHED_TRUNK = 75
#: A part that is shorter than this share of its peer lies farther than 45 degrees from the picture's plane.
FORESHORTENED = 0.7
#: Likewise 60 degrees, between neck and head: their proportions differ more from person to person (a chibi's).
BOWED = 0.5
#: Shoulders narrower than this share of the torso are seen from the side: half of what Drillis and Contini (1966) give
#: for a person from the front, 0.259 of the height beside 0.288.
FROM_THE_SIDE = 0.45

_NECK, _PELVIS = COUNT, COUNT + 1
#: Part -> where it is: once, or left and right, which are as long as each other.
PARTS = {
    "torso": ((_NECK, _PELVIS),),
    "shoulders": ((5, 6),),
    "hips": ((11, 12),),
    "neck": ((_NECK, 0),),
    "eyes": ((1, 2),),
    "ears": ((3, 4),),
    "upper arm": ((5, 7), (6, 8)),
    "forearm": ((7, 9), (8, 10)),
    "thigh": ((11, 13), (12, 14)),
    "shin": ((13, 15), (14, 16)),
}
_LIMBS = ("upper arm", "forearm", "thigh", "shin")
#: Parts whose ratios are alike, and from what share of the other's on one is believed.
_PEERS = (
    ("shoulders", "torso", FORESHORTENED),
    ("hips", "shoulders", FORESHORTENED),
    ("neck", "head", BOWED),
    ("upper arm", "forearm", FORESHORTENED),
    ("thigh", "shin", FORESHORTENED),
)


def lengths(points: np.ndarray, scores: np.ndarray) -> dict[str, tuple[float, float]]:
    """How long the parts of a person are, seen in one picture or over a clip.

    Args:
        points: [F, 17, 2], NaN = missing.
        scores: [F, 17]; a part counts as much as its worse end, and nothing below the threshold.

    Returns:
        Part of `PARTS` -> (length in the unit of the points, weight); NaN and 0 where it is not seen. A side that is
        foreshortened beside the other does not count. Neither do shoulders and hips that are seen from the side.
    """
    points, scores = _with_middles(points[:, :COUNT], scores[:, :COUNT])
    found = {}
    for part, sides in PARTS.items():
        percentile = STRETCHED if part in _LIMBS else STRETCHED_TRUNK
        measured = np.array([_stretched(points[:, [a, b]], scores[:, [a, b]], percentile) for a, b in sides])
        found[part] = _both_sides(measured)
    if not found["shoulders"][0] >= FROM_THE_SIDE * found["torso"][0] and np.isfinite(found["torso"][0]):
        found["shoulders"] = found["hips"] = (np.nan, 0.0)
    return found


def _with_middles(points, scores):
    points = np.concatenate([points, points[:, SHOULDERS].mean(1)[:, None], points[:, HIPS].mean(1)[:, None]], 1)
    ends = [scores[:, group].min(1)[:, None] for group in (SHOULDERS, HIPS)]
    return points, np.concatenate([scores, *ends], 1)


def _stretched(ends: np.ndarray, scores: np.ndarray, percentile: float) -> tuple[float, float]:
    """A percentile of the distances between two points [F, 2, 2], weighted by their scores [F, 2]; its weight."""
    distances = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=-1)
    weights = scores.min(1)
    seen = np.isfinite(distances) & (weights >= SCORE_THRESHOLD)
    if not seen.any():
        return np.nan, 0.0
    order = np.argsort(distances[seen])
    distances, weights = distances[seen][order], weights[seen][order]
    places = np.cumsum(weights) - weights / 2
    return float(np.interp(percentile / 100 * weights.sum(), places, distances)), float(weights.mean())


def _both_sides(measured: np.ndarray) -> tuple[float, float]:
    """One length of those [S, 2] (length, weight) of the sides: the weighted mean of those not foreshortened."""
    measured = measured[measured[:, 1] > 0]
    if not len(measured):
        return np.nan, 0.0
    measured = measured[measured[:, 0] >= FORESHORTENED * measured[:, 0].max()]
    return float(np.average(measured[:, 0], weights=measured[:, 1])), float(measured[:, 1].mean())


def ratios(reference, reference_scores, driving, driving_scores, bounds=BOUNDS) -> dict[str, float]:
    """What the parts of a driving person are multiplied by to be those of the reference.

    Neighbouring parts are forearm and upper arm, thigh and shin, shoulders and torso, neck and head. A part that points
    at the camera in the photo has a much smaller ratio than its neighbour: the neighbour's ratio is used instead. A
    limb that the photo does not show gets the ratio of the limbs that it shows.

    Args:
        reference, reference_scores: [K, 2] and [K] of the photo, K >= 17.
        driving, driving_scores: [F, K, 2] and [F, K] of the clip, in about the photo's scale.
        bounds: the smallest and the largest ratio.

    Returns:
        Ratio of "torso", "shoulders", "hips", "neck", "head", "upper arm", "forearm", "thigh", "shin".

    Raises:
        ValueError: for bounds that are not 0 < smallest <= 1 <= largest.
    """
    smallest, largest = check_bounds(bounds)
    theirs = lengths(reference[None], reference_scores[None])
    have = lengths(driving, driving_scores)
    found = {part: _ratio([theirs[part]], [have[part]]) for part in PARTS if part not in ("eyes", "ears")}
    face = [part for part in ("eyes", "ears") if np.isfinite(theirs[part][0] + have[part][0])]
    found["head"] = _ratio([theirs[part] for part in face], [have[part] for part in face])
    for one, other, share in _PEERS:
        a, b = found[one], found[other]
        found[one] = b if not a >= share * b and np.isfinite(b) else a
        found[other] = a if not b >= share * a and np.isfinite(a) else b
    known = [np.log(found[limb]) for limb in _LIMBS if np.isfinite(found[limb])]
    guess = float(np.exp(np.mean(known))) if known else 1.0
    for part, ratio in found.items():
        ratio = ratio if np.isfinite(ratio) else guess if part in _LIMBS else 1.0
        found[part] = float(np.clip(ratio, smallest, largest))
    return found


def _ratio(theirs, have) -> float:
    """Of lengths with weights: the longer and surer ones count more."""
    weights = [a[1] * b[1] for a, b in zip(theirs, have, strict=True)]
    total = sum(w * b[0] for w, b in zip(weights, have, strict=True))
    if not total > 1e-6:
        return np.nan
    ratio = sum(w * a[0] for w, a in zip(weights, theirs, strict=True)) / total
    return ratio if ratio > 1e-6 else np.nan


def check_bounds(bounds) -> tuple[float, float]:
    """The bounds as two numbers; ValueError for others than 0 < smallest <= 1 <= largest."""
    try:
        smallest, largest = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        raise ValueError(f"bounds must be two numbers, but is {bounds!r}") from None
    if not 0 < smallest <= 1 <= largest < np.inf:
        raise ValueError(f"bounds must be 0 < smallest <= 1 <= largest, but is {bounds!r}")
    return smallest, largest


def with_ratios(points: np.ndarray, ratio: dict[str, float]) -> np.ndarray:
    """A skeleton whose parts are `ratio` times as long, from the hips outwards; directions stay.

    Args:
        points: [F, 17, 2], or [F, 133, 2] in the order of COCO-WholeBody: faces go with the head, hands with the
            forearms, feet with the shins. NaN = missing; what hangs on a missing point moves with the one before.
        ratio: see `ratios`.

    Returns:
        Likewise.

    """
    moved = points.astype(np.float64, copy=True)
    neck, pelvis = _middle(points[:, SHOULDERS]), _middle(points[:, HIPS])
    neck_shift = np.nan_to_num((ratio["torso"] - 1) * (neck - pelvis))  # without hips, the shoulders stay

    def hang(children, parent, parent_shift, part):
        """Moves points that hang on `parent` [F, 2]; returns how far, 0 where missing."""
        shift = (ratio[part] - 1) * (points[:, children] - parent[:, None])
        shift = parent_shift[:, None] + np.where(np.isfinite(shift), shift, 0)
        moved[:, children] += shift
        return shift

    shoulders = hang(SHOULDERS, neck, neck_shift, "shoulders")
    hips = hang(HIPS, pelvis, np.zeros_like(pelvis), "hips")
    nose = hang([0], neck, neck_shift, "neck")[:, 0]
    hang([1, 2, 3, 4], points[:, 0], nose, "head")
    whole = points.shape[1] == WHOLE_BODY
    if whole:
        hang(list(range(23, 91)), points[:, 0], nose, "head")
    for side in (0, 1):
        elbow = hang([7 + side], points[:, 5 + side], shoulders[:, side], "upper arm")[:, 0]
        wrist = hang([9 + side], points[:, 7 + side], elbow, "forearm")[:, 0]
        knee = hang([13 + side], points[:, 11 + side], hips[:, side], "thigh")[:, 0]
        ankle = hang([15 + side], points[:, 13 + side], knee, "shin")[:, 0]
        if whole:
            hang(list(range(91 + 21 * side, 112 + 21 * side)), points[:, 9 + side], wrist, "forearm")
            hang(list(range(17 + 3 * side, 20 + 3 * side)), points[:, 15 + side], ankle, "shin")
    return moved


def _middle(pair: np.ndarray) -> np.ndarray:
    """Between two points [F, 2, 2], or the one that is seen."""
    seen = np.isfinite(pair).all(-1, keepdims=True)
    count = seen.sum(1)
    return np.where(count > 0, np.where(seen, pair, 0).sum(1) / np.maximum(count, 1), np.nan)
