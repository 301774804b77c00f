"""Who looks at pictures: the detector, made when first needed, what follows persons with it, and the segmenter."""

import numpy as np

from tpc_fast.pose.detect.detection import Detection, Detector, PeopleDetector
from tpc_fast.pose.detect.one_person import PersonTracker
from tpc_fast.pose.detect.registry import get_detector
from tpc_fast.pose.detect.several_people import GroupTracker
from tpc_fast.pose.detect.whole_picture import PictureTracker, get_tracker
from tpc_fast.pose.masks.sam import Segmenter, get_segmenter, with_masks

Tracker = PersonTracker | GroupTracker | PictureTracker


class Observer:
    """Looks at a photo and at frames.

    Attributes:
        tracker: what follows persons with the detector; None while none was needed.
        segmenter: what makes masks from keypoints, or None.
        requested: the detector and the segmenter as they were asked for, where that was a string; else None.
    """

    def __init__(
        self,
        detector: str | Detector | PeopleDetector | None,
        segmenter: str | Segmenter | None,
        threshold: float,
        haste: bool = False,
    ):
        """Takes the options of the same names of `Calibrator`; keypoints with a score below `threshold` are missing.

        For `haste` see `PersonTracker`.
        """
        self.requested = [one if isinstance(one, str) else None for one in (detector, segmenter)]
        self.segmenter = get_segmenter(segmenter) if isinstance(segmenter, str) else segmenter
        self.tracker: Tracker | None = None
        self._detector, self._threshold, self._haste = detector, threshold, haste
        self._made_here = not isinstance(detector, Detector | PeopleDetector)
        self._closed = False

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
            self.tracker = get_tracker(self._detector, self._haste)
        return self.tracker

    @property
    def detector(self) -> Detector | PeopleDetector | None:
        """The detector, if one was needed."""
        return None if self.tracker is None else self.tracker.detector

    def find(self, image: np.ndarray) -> Detection:
        """The persons in a photo, uint8 [H, W, 3]."""
        return self.get_tracker().find(image)

    def look(self, image: np.ndarray) -> Detection:
        """The persons in the next frame, uint8 [H, W, 3], with the segmenter's masks if there is one."""
        return self.masked(image, self.get_tracker().step(image))

    def masked(self, image: np.ndarray, detection: Detection) -> Detection:
        """The detection with the segmenter's masks, if there is one."""
        if self.segmenter is None or not len(detection):
            return detection
        return with_masks(self.segmenter, image, detection, self._threshold)

    def reset(self) -> None:
        """Forgets all frames."""
        if self.tracker is not None:
            self.tracker.reset()

    def close(self) -> None:
        """Frees the detector, if it was made here."""
        if self._made_here and self.tracker is not None:
            self.tracker.detector.close()
        self.tracker, self._closed = None, True
