"""How far reference and driving video are apart, person by person: what to know before minutes of diffusion."""

import dataclasses

import numpy as np

from tpc_fast.ops.procrustes import scale_and_angle
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.follow.quality import offsets

SELDOM = 0.5  # share of the frames in which a keypoint must be seen not to be called missing
# Of the 95th percentile of an offset in head sizes: an eye's width (0.15) is hardly seen, half a head is the width of a
# neck.
JUDGEMENTS = ((0.15, "on the spot"), (0.5, "near"), (np.inf, "far off"))
KEYPOINT_NAMES = tuple(name.replace("_", " ") for name in coco.NAMES)


@dataclasses.dataclass(frozen=True)
class PersonSummary:
    """One person of the reference over the whole video.

    Attributes:
        person: of the reference, from 0.
        driving: the number of the driving person who plays it, -1 for nobody.
        statuses: how many frames have each, none left out that has any.
        determined: shares of the frames whose own keypoints determine scale, angle, position.
        scale: least, median and largest, canvas pixels per photo pixel.
        angle: the same in degrees, clockwise, without jumps of whole turns.
        head, torso: median and 95th percentile of how far head and torso lie from the video's, in head sizes; see
            `tpc_fast.pose.follow.quality.offsets`.
        missing: the keypoints that the reference does not show.
        seldom: those that the reference shows, and fewer than half of the driving frames.
        swapped: share of the frames in which left and right are exchanged (a back view).
    """

    person: int
    driving: int
    statuses: dict[str, int]
    determined: tuple[float, float, float]
    scale: tuple[float, float, float]
    angle: tuple[float, float, float]
    head: tuple[float, float]
    torso: tuple[float, float]
    missing: tuple[str, ...]
    seldom: tuple[str, ...]
    swapped: float


def scale_and_degrees(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What people read: scale and angle in degrees [F, P] of matrices [F, P, 2, 3], without jumps of whole turns."""
    scale, angle = scale_and_angle(matrices)
    return scale, np.degrees(np.unwrap(angle, axis=0))


def summarise(calibration) -> list[PersonSummary]:
    """A `PersonSummary` for every person of the reference of a Calibration."""
    threshold = calibration.options.get("score_threshold", 0)
    scales, angles = scale_and_degrees(calibration.matrices)
    seen = np.isfinite(calibration.keypoints).all(-1) & (calibration.scores >= threshold)
    ours = np.isfinite(calibration.reference_keypoints).all(-1) & (calibration.reference_scores >= threshold)

    points = np.where(ours[..., None], calibration.reference_keypoints, np.nan)
    keypoints = np.where(seen[..., None], calibration.keypoints, np.nan)
    head, torso = offsets(calibration.matrices, points, keypoints)

    def worst(values):
        values = values[np.isfinite(values)]
        return (float(np.median(values)), float(np.percentile(values, 95))) if len(values) else (np.nan, np.nan)

    def names(flags):
        return tuple(KEYPOINT_NAMES[k] for k in np.flatnonzero(flags))

    def spread(values):
        return float(values.min()), float(np.median(values)), float(values.max())

    def counts(values):
        return {str(value): int((values == value).sum()) for value in dict.fromkeys(values.tolist())}

    return [
        PersonSummary(
            person=p,
            driving=calibration.match[p],
            statuses=counts(calibration.status[:, p]),
            determined=tuple(calibration.determined[:, p].mean(0).tolist()),
            scale=spread(scales[:, p]),
            angle=spread(angles[:, p]),
            head=worst(head[:, p]),
            torso=worst(torso[:, p]),
            missing=names(~ours[p]),
            seldom=names(ours[p] & (seen[:, p].mean(0) < SELDOM)),
            swapped=float(calibration.swapped[:, p].mean()),
        )
        for p in range(calibration.persons)
    ]


def describe(summary: PersonSummary) -> dict[str, str]:
    """The lines of a summary, each with its title, in words."""

    def of_frames(counts):
        return ", ".join(f"{count} {name}" for name, count in counts.items())

    (low, scale, high), (left, angle, right) = summary.scale, summary.angle
    lines = {
        "played by": f"driving person {summary.driving}" if summary.driving >= 0 else "nobody",
        "frames": of_frames(summary.statuses),
        "determined": ", ".join(
            f"{what} in {100 * share:.0f} %"
            for what, share in zip(("scale", "angle", "position"), summary.determined, strict=True)
        ),
        "scale": f"{scale:.3g} ({low:.3g} to {high:.3g})",
        "angle": f"{angle:z.0f} degrees ({left:z.0f} to {right:z.0f})",
        "head": _judged(summary.head),
        "torso": _judged(summary.torso),
        "not in the reference": ", ".join(summary.missing) or "-",
        "seldom in the video": ", ".join(summary.seldom) or "-",
    }
    if summary.swapped:
        lines["seen from behind"] = f"{100 * summary.swapped:.0f} % of the frames"
    return lines


def _judged(offset: tuple[float, float]) -> str:
    """An offset (median, 95 %) in head sizes, in words."""
    median, most = offset
    if not np.isfinite(most):
        return "not seen in both"
    word = next(word for limit, word in JUDGEMENTS if most <= limit)
    return f"{word}: {median:.2f} head sizes off, 95 % within {most:.2f}"
