"""All persons of a picture or a video, by a detector that finds them itself."""

import numpy as np

from tpc_fast.pose.detect.detection import Detection, Detector, PeopleDetector
from tpc_fast.pose.detect.hint import Hint
from tpc_fast.pose.detect.one_person import PersonTracker, check_image
from tpc_fast.pose.detect.several_people import GroupTracker


class PictureTracker:
    """`PersonTracker`'s methods for a `PeopleDetector`: every picture is looked at once, as it is.

    Attributes:
        passes: detector passes that the last `find` or `step` took.
        tried: what was tried, in words, for an error message.
    """

    def __init__(self, detector: PeopleDetector):
        self.detector, self.passes, self.tried = detector, 0, ""

    def reset(self) -> None:
        """Nothing is remembered: who is who over time is not its task (see `PeopleMatcher`)."""

    def find(self, image: np.ndarray, hint: Hint | None = None) -> Detection:
        """The persons in a photo uint8 [H, W, 3]; if none stands upright, those in the photo turned by quarters.

        With a hint only the one who is meant; if there is none, the box is looked at by itself.
        """
        check_image(image)
        if hint is not None:
            return self._meant(image, hint)
        self.passes = 0
        for quarters in range(4):
            turned = np.ascontiguousarray(np.rot90(image, quarters))
            self.passes += 1
            found = self.detector.detect(turned)
            if len(found):
                return found if not quarters else _turned_back(found, quarters, image.shape[:2])
        self.tried = f"{self.detector.name} looked at the {image.shape[1]}x{image.shape[0]} picture in 4 rolls"
        return Detection.nobody()

    def _meant(self, image, hint) -> Detection:
        size = image.shape[:2]
        hint.check_inside(size)
        self.tried, self.passes = f"{self.detector.name} looked for the person of {hint}", 1
        found = hint.pick(self.detector.detect(image))
        if len(found) or hint.box is None:
            return found
        rows, columns = hint.part(size)
        self.passes += 1
        seen = self.detector.detect(np.ascontiguousarray(image[rows, columns]))
        mask = None
        if seen.mask is not None:
            mask = np.zeros((len(seen), *size), np.uint8)
            mask[:, rows, columns] = seen.mask
        corner = np.array([columns.start, rows.start], np.float32)
        return hint.pick(Detection(seen.keypoints + corner, seen.scores, mask))

    def step(self, frame: np.ndarray) -> Detection:
        """The persons in the next frame uint8 [H, W, 3] of a video."""
        check_image(frame)
        self.passes = 1
        self.tried = f"{self.detector.name} looked at every frame"
        return self.detector.detect(frame)


def get_tracker(
    detector: Detector | PeopleDetector, people: int | None = None, haste: bool = False
) -> PersonTracker | GroupTracker | PictureTracker:
    """What follows so many persons with a detector of either kind; None: as many as the detector says, or one.

    For `haste` see `PersonTracker`; others search little.
    """
    if not isinstance(detector, Detector):
        return PictureTracker(detector)
    people = people or getattr(detector, "people", None) or 1
    return GroupTracker(detector, people) if people > 1 else PersonTracker(detector, haste)


def _turned_back(found: Detection, quarters: int, size: tuple[int, int]) -> Detection:
    """A detection in numpy.rot90(picture, quarters), in the picture of `size`."""
    keypoints, mask = found.keypoints, found.mask
    height, width = size if quarters % 2 == 0 else size[::-1]
    for _ in range(quarters):
        # rot90 moves (x, y) to (y, width - 1 - x); this is the way back.
        height, width = width, height
        keypoints = np.stack([width - 1 - keypoints[..., 1], keypoints[..., 0]], -1)
    if mask is not None:
        mask = np.rot90(mask, -quarters, (1, 2))
    return Detection(keypoints, found.scores, mask)
