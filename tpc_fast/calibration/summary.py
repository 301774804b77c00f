"""How far reference and driving video are apart, person by person: what to know before minutes of diffusion."""

import dataclasses

import numpy as np

from tpc_fast.ops.procrustes import scale_and_angle
from tpc_fast.pose import keypoints as coco

SELDOM = 0.5  # share of the frames in which a keypoint must be seen not to be called missing
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
        "not in the reference": ", ".join(summary.missing) or "-",
        "seldom in the video": ", ".join(summary.seldom) or "-",
    }
    if summary.swapped:
        lines["seen from behind"] = f"{100 * summary.swapped:.0f} % of the frames"
    return lines
