"""Who is in photo and video, with colours and numbers, so that a visitor can say who plays whom."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from tpc_fast.calibration.result import Calibration
from tpc_fast.media.video import VideoReader
from tpc_fast.ops.people import seen_points
from tpc_fast.output.preview import contours, person_colour
from tpc_fast.pose.files.detections import Detections, load_detections
from tpc_fast.pose.follow.matching import GOOD_POINTS, IdentityTracker

PEOPLE_FILE, PHOTO_PICTURE, VIDEO_PICTURE = "people.json", "people_photo.jpg", "people_video.jpg"
_SIDE = 900  # pixels of the pictures, at most
_NOBODY_COLOUR = (150, 156, 163)
_DARK = (18, 18, 18)


@dataclasses.dataclass(frozen=True)
class People:
    """Who there is.

    Attributes:
        photo: how many persons the photo shows.
        driving: the numbers of the persons of the video.
        match: who plays each person of the photo, -1 for nobody.
    """

    photo: int
    driving: tuple[int, ...]
    match: tuple[int, ...]

    @classmethod
    def read(cls, folder: Path) -> "People":
        """What `write_people` wrote."""
        values = json.loads((folder / PEOPLE_FILE).read_text(encoding="utf-8"))
        return cls(values["photo"], tuple(values["driving"]), tuple(values["match"]))


def write_people(calibration: Calibration, folder: Path, detections: Path) -> People:
    """Writes who there is, a picture of the photo and one of the frame that shows the most persons of the video.

    Args:
        calibration: of a video that is a file.
        folder: where `people.json` and both pictures go.
        detections: the file that `calibrate` kept as its `cache`.
    """
    seen = load_detections(detections)
    frame, numbers = best_frame(seen, calibration.times, calibration.options["score_threshold"])
    match = tuple(int(number) for number in calibration.match)
    people = People(calibration.persons, tuple(sorted({*numbers.values(), *(n for n in match if n >= 0)})), match)
    labels = [
        (str(p), person_colour(p), mask, points)
        for p, (mask, points) in enumerate(
            zip(calibration.reference_mask, calibration.reference_keypoints, strict=True)
        )
    ]
    _save(_marked(calibration.reference_image, labels), folder / PHOTO_PICTURE)
    colours = {number: person_colour(p) for p, number in enumerate(match) if number >= 0}
    masks = seen.mask(frame)
    labels = [
        (str(n), colours.get(n, _NOBODY_COLOUR), None if masks is None else masks[place], seen.keypoints[frame, place])
        for place, n in numbers.items()
    ]
    start = calibration.frame_range[0] + frame
    picture = next(iter(VideoReader(calibration.driving_path, frames=slice(start, start + 1)))).image
    _save(_marked(picture, labels), folder / VIDEO_PICTURE)
    (folder / PEOPLE_FILE).write_text(json.dumps(dataclasses.asdict(people)), encoding="utf-8")
    return people


def best_frame(detections: Detections, times: np.ndarray, threshold: float) -> tuple[int, dict[int, int]]:
    """The first frame that shows the most persons well, and their numbers as `match` counts: place -> number."""
    tracker, best, found = IdentityTracker(), 0, {}
    for frame, time in enumerate(times):
        points, scores = (np.ascontiguousarray(a[frame], np.float64) for a in (detections.keypoints, detections.scores))
        seen = seen_points(points, scores, threshold)
        ids = tracker.step(points, seen, float(time))
        good = {place: int(ids[place]) for place in np.flatnonzero((ids >= 0) & (seen.sum(-1) >= GOOD_POINTS)).tolist()}
        if len(good) > len(found):
            best, found = frame, good
    return best, found


def _marked(picture: np.ndarray, people) -> np.ndarray:
    """A picture with outlines and numbers of people, each (text, colour, mask or None, keypoints [K, 2])."""
    from PIL import Image, ImageDraw, ImageFont

    step = max(1, -(-max(picture.shape[:2]) // _SIDE))
    picture = picture[::step, ::step].copy()
    for _, colour, mask, _ in people:
        if mask is not None:
            picture[contours(mask[None, ::step, ::step])] = colour
    canvas = Image.fromarray(picture)
    draw, radius = ImageDraw.Draw(canvas), max(12, min(picture.shape[:2]) // 22)
    font = ImageFont.load_default(size=1.3 * radius)
    for text, colour, _, points in people:
        known = points[np.isfinite(points).all(-1)]
        if len(known):
            top = known[known[:, 1].argmin()] / step - (0, 2 * radius)
            x, y = np.clip(top, radius + 2, np.array(canvas.size) - radius - 2)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=_DARK, width=2)
            draw.text((float(x), float(y)), text, fill=_DARK, font=font, anchor="mm")
    return np.asarray(canvas)


def _save(picture: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(picture).save(path, "JPEG", quality=88)
