"""The driving skeletons on the photo's person: whole bodies, on a canvas that shows the photo, and what it cuts off."""

import dataclasses

import numpy as np

from tpc_fast._checks import describe
from tpc_fast.calibration.proportions import BOUNDS
from tpc_fast.media.canvas import Canvas
from tpc_fast.ops.coco import COUNT, SCORE_THRESHOLD
from tpc_fast.pose.files.whole_body import WholeBody
from tpc_fast.pose.keypoints import NAMES

SAME = 2.0  # canvas pixels between one person's keypoints of a file and of the calibration that was made from it
#: How far a canvas is widened, in sides of the photo: beyond, a point is one that a detector made up.
WIDEST = 2.0


@dataclasses.dataclass(frozen=True)
class Skeletons:
    """Driving skeletons moved to the persons of a photo; F frames, P persons.

    Attributes:
        people: `WholeBody` [F, P, 133, 2] in pixels of the canvas.
        photo: uint8 [h, w, 3], the photo on that canvas.
        outside: a sentence for each person of whom something falls outside the canvas.
    """

    people: WholeBody
    photo: np.ndarray
    outside: list[str]


def move_skeletons(
    calibration, whole: WholeBody | None = None, mode: str = "constant", bounds=BOUNDS, reframe: bool = False
) -> Skeletons:
    """Gives the driving motion to the persons of the photo, with their proportions.

    Args:
        calibration: the Calibration.
        whole: the keypoints of the whole driving video, of which the calibration was made, with hands and faces; None:
            the calibration's own 17.
        mode: see `Calibration.retarget`.
        bounds: see `Calibration.retarget`.
        reframe: whether the canvas shows as much around the photo as the skeletons need, at most two of its sides each
            way. The photo is then smaller on it.

    Raises:
        ValueError: if `whole` is not of the calibration's frames, and as `Calibration.retarget`.
    """
    if whole is None:
        moved = calibration.retarget(None, mode, True, bounds=bounds)
        people = WholeBody.of_bodies(moved, calibration.scores)
    else:
        points, scores = _of_persons(whole, calibration)
        people = WholeBody(calibration.retarget(points, mode, True, scores, bounds), scores)
    seen = np.isfinite(people.keypoints).all(-1) & (people.scores >= SCORE_THRESHOLD)
    seen &= calibration.opacity[..., None] > 0
    points = np.where(seen[..., None], people.keypoints, np.nan)
    photo, (left, top) = _framed(calibration.reference_image, points if reframe else points[:0])
    canvas = Canvas.fitting(photo.shape[:2], calibration.size, calibration.options.get("resize", "pad"))
    points = canvas.apply(points - (left, top))
    people = WholeBody(points, np.where(seen, people.scores, 0), calibration.size)
    return Skeletons(people, canvas.draw(photo), outside(people, reframe))


def _of_persons(whole: WholeBody, calibration) -> tuple[np.ndarray, np.ndarray]:
    """The calibration's persons among those of a file: [F, P, 133, 2] driving pixels, NaN where not found; scores."""
    start, frames = calibration.frame_range[0], len(calibration)
    points, scores = whole.keypoints, whole.scores
    if len(points) != frames:  # of the whole video, of which the calibration used a part
        points, scores = points[start : start + frames], scores[start : start + frames]
    if len(points) != frames:
        raise ValueError(f"whole must be of the driving video, {start + frames} frames, but is {describe(whole[0])}")
    theirs = calibration.canvas.apply(points[:, None, :, :COUNT])  # [F, 1, D, 17, 2]
    distance = np.linalg.norm(theirs - calibration.keypoints[:, :, None], axis=-1)
    known = np.isfinite(distance)
    mean = np.where(known.any(-1), np.where(known, distance, 0).sum(-1) / np.maximum(known.sum(-1), 1), np.inf)
    nearest = mean.argmin(-1)[..., None]
    found = np.take_along_axis(mean, nearest, -1) < SAME
    points = np.take_along_axis(points, nearest[..., None], 1)
    scores = np.take_along_axis(scores, nearest, 1)
    return np.where(found[..., None], points, np.nan), np.where(found, scores, 0)


def _framed(photo: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The photo with a black margin that holds all points, and where that begins in it: (left, top)."""
    sides = np.array(photo.shape[1::-1])
    low, high = np.zeros(2), sides - 1.0
    points = points[np.isfinite(points).all(-1)]
    if len(points):
        room = 0.05 * sides  # so that joints are not drawn on the border
        low = np.where(points.min(0) < 0, points.min(0) - room, 0)
        high = np.where(points.max(0) > high, points.max(0) + room, high)
    low = np.floor(np.maximum(low, -WIDEST * sides)).astype(int)
    high = np.ceil(np.minimum(high, (1 + WIDEST) * sides)).astype(int)
    width, height = high - low + 1
    framed = np.zeros((height, width, 3), np.uint8)
    framed[-low[1] : sides[1] - low[1], -low[0] : sides[0] - low[0]] = photo
    return framed, (int(low[0]), int(low[1]))


def outside(people: WholeBody, reframed: bool = False) -> list[str]:
    """A sentence for each person of whom joints fall outside the picture: which, how often and how far."""
    height, width = people.size
    said = []
    for person in range(people.keypoints.shape[1]):
        points = people.keypoints[:, person, :COUNT]
        beyond = np.maximum(np.maximum(-0.5 - points, points - (width - 0.5, height - 0.5)), 0).max(-1)
        out = np.nan_to_num(beyond) > 0
        if not out.any():
            continue
        joints = [NAMES[k].replace("_", " ") for k in np.flatnonzero(out.any(0))]
        frame, joint = np.unravel_index(np.nanargmax(np.where(out, beyond, -1)), out.shape)
        x, y = points[frame, joint]
        said.append(
            f"person {person}: {', '.join(joints)} outside the picture in {int(out.any(1).sum())} of {len(out)} "
            f"frames, as far as x = {x:.0f}, y = {y:.0f} of {width} x {height}"
            + ("" if reframed else "; --reframe widens the canvas")
        )
    return said
