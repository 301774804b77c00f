"""Who looks at pictures: the detector, made when first needed, what follows persons with it, and the segmenter."""

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np

from tpc_fast._native import get_num_threads
from tpc_fast.pose.detect.detection import Detection, Detector, PeopleDetector
from tpc_fast.pose.detect.hint import Hint
from tpc_fast.pose.detect.lanes import plan, steps
from tpc_fast.pose.detect.one_person import PersonTracker
from tpc_fast.pose.detect.registry import get_detector
from tpc_fast.pose.detect.several_people import GroupTracker
from tpc_fast.pose.detect.whole_picture import PictureTracker, get_tracker
from tpc_fast.pose.masks.sam import Segmenter, get_segmenter, with_masks

MAX_PEOPLE = 20  # whom a photo may be of, if nobody says how many

Tracker = PersonTracker | GroupTracker | PictureTracker


class Observer:
    """Looks at a photo and at frames.

    Attributes:
        tracker: what follows persons with the detector; None while none was needed.
        segmenter: what makes masks from keypoints, or None.
        people: how many persons the photo shows, which decides how many are followed; None before it was looked at.
        requested: the detector and the segmenter as they were asked for, where that was a string; else None.
    """

    def __init__(
        self,
        detector: str | Detector | PeopleDetector | None,
        segmenter: str | Segmenter | None,
        threshold: float,
        photo_hint: Hint | None = None,
        frame_hint: Hint | None = None,
        haste: bool = False,
    ):
        """Takes the options of the same names of `Calibrator`; keypoints with a score below `threshold` are missing.

        The hints say who is meant in the photo, and in the first frame. For `haste` see `PersonTracker`.
        """
        self.requested = [one if isinstance(one, str) else None for one in (detector, segmenter)]
        self.segmenter = get_segmenter(segmenter) if isinstance(segmenter, str) else segmenter
        self.tracker: Tracker | None = None
        self._detector, self._threshold, self._haste = detector, threshold, haste
        self._made_here = not isinstance(detector, Detector | PeopleDetector)
        self._closed = False
        self.people: int | None = None
        self._photo_hint, self._frame_hint, self._begun = photo_hint, frame_hint, False

    def get_tracker(self) -> Tracker:
        """The tracker, made if need be.

        Raises:
            ValueError: if this is closed.
        """
        if self.tracker is None:
            if self._closed:
                raise ValueError("the calibrator is closed: make another one")
            if self._made_here:
                self._detector = get_detector(self._detector)
            self.tracker = get_tracker(self._detector, self._wanted(), self._haste)
        return self.tracker

    def _wanted(self) -> int | None:
        """How many persons are followed: as many as was asked for, else as many as the photo shows."""
        asked = getattr(self._detector, "people", None)
        hint = self._photo_hint or self._frame_hint
        if hint is not None and (asked or self.people or 1) > 1:
            raise ValueError(
                f"{hint.name} says who of several is the one person: it must not go with {asked or self.people} persons"
            )
        one = not hasattr(self._detector, "detect_people")
        return asked or (1 if one or hint is not None else self.people)

    def expect(self, people: int) -> None:
        """Says how many persons the photo shows, before the first frame is looked at."""
        if people == self.people:
            return
        self.people = people
        if self.tracker is not None and people > 1:
            self.tracker = get_tracker(self._detector, self._wanted(), self._haste)

    @property
    def detector(self) -> Detector | PeopleDetector | None:
        """The detector, if one was needed."""
        return None if self.tracker is None else self.tracker.detector

    def find(self, image: np.ndarray) -> Detection:
        """The persons in a photo, uint8 [H, W, 3]: as many as the detector was asked for, or as it shows."""
        tracker = self.get_tracker()
        if isinstance(tracker, GroupTracker):
            return tracker.find(image)
        found = tracker.find(image, self._photo_hint)
        open_number = getattr(self._detector, "people", None) is None and hasattr(self._detector, "detect_people")
        if open_number and isinstance(tracker, PersonTracker) and self._photo_hint is None and len(found):
            found = GroupTracker(self._detector, MAX_PEOPLE).join(image, found)
        return found

    def look(self, image: np.ndarray) -> Detection:
        """The persons in the next frame, uint8 [H, W, 3], with the segmenter's masks if there is one."""
        tracker, hint = self.get_tracker(), self._frame_hint
        if hint is None or self._begun:
            return self.masked(image, tracker.step(image))
        if not isinstance(tracker, PersonTracker):
            raise ValueError(
                f"{hint.name} must go with a detector of one person, not {self._detector.name}: give match"
            )
        found = tracker.begin(image, hint)
        if not len(found):
            raise ValueError(f"{hint.name}: nobody was found there in the first frame ({tracker.tried})")
        self._begun = True
        return self.masked(image, found)

    def look_at_all(self, frames: Iterable, count: int | None) -> Iterator[tuple[object, Detection]]:
        """`(frame, look(frame.image))` for all frames of a video, at several at once where the detector can.

        Args:
            count: how many there are; None: unknown.
        """
        frames, looked = iter(frames), 0
        for frame in frames:
            yield frame, self.look(frame.image)
            looked += 1
            lanes, chunk = self._lanes(frame.image.nbytes, None if count is None else count - looked)
            if lanes > 1 and self.tracker.followed:
                break
        else:
            return
        with contextlib.closing(steps(self.tracker, frames, lanes, self.detector.in_lane, chunk)) as rest:
            for frame, detection in rest:
                yield frame, self.masked(frame.image, detection)

    def _lanes(self, frame_bytes: int, frames: int | None) -> tuple[int, int]:
        if not isinstance(self.tracker, PersonTracker) or not hasattr(self.detector, "in_lane"):
            return 1, 1
        return plan(min(self.detector.lanes, get_num_threads()), frame_bytes, frames)

    def masked(self, image: np.ndarray, detection: Detection) -> Detection:
        """The detection with the segmenter's masks, if there is one."""
        if self.segmenter is None or not len(detection):
            return detection
        return with_masks(self.segmenter, image, detection, self._threshold)

    def reset(self) -> None:
        """Forgets all frames."""
        self._begun = False
        if self.tracker is not None:
            self.tracker.reset()

    def close(self) -> None:
        """Frees the detector, if it was made here."""
        if self._made_here and self.tracker is not None:
            self.tracker.detector.close()
        self.tracker, self._closed = None, True
