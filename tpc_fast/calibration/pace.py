"""Which frames of a stream a detector looks at, and what the others show."""

import math
import operator
from typing import NamedTuple

import numpy as np

from tpc_fast.calibration.asynchronous import Look, Watcher
from tpc_fast.calibration.predict import Predictor, motion, moved_masks, moved_points
from tpc_fast.calibration.session import Session
from tpc_fast.ops.track_stream import TrackStep
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.detection import Detection

MOST = 1000  # frames from look to look


class Shown(NamedTuple):
    """What a frame shows of P persons: keypoints [P, K, 2] and scores [P, K] on the canvas, and the pose masks."""

    keypoints: np.ndarray
    scores: np.ndarray
    pose_mask: object


def check_pace(detect_every, asynchronous, lag: int) -> tuple[int, bool]:
    """The options of these names of `Calibrator`.

    Raises:
        ValueError, TypeError: if they are not as they must be.
    """
    try:
        number = 0 if isinstance(detect_every, bool) else operator.index(detect_every)
    except TypeError:
        number = 0
    if not 1 <= number <= MOST:
        raise ValueError(f"detect_every must be an integer from 1 to {MOST}, but is {detect_every!r}")
    if not isinstance(asynchronous, bool):
        raise TypeError(f"asynchronous must be True or False, but is {asynchronous!r}")
    if lag and (number > 1 or asynchronous):
        raise ValueError(f"lag must be 0 where frames are predicted (detect_every, asynchronous), but is {lag}")
    return number, asynchronous


class Pace:
    """Chooses who looks at a frame and when, and moves what was seen last to where it is by now."""

    def __init__(self, session: Session, every: int, asynchronous: bool, pictures_on_host: bool):
        """Takes `detect_every` and `asynchronous` of `Calibrator`, and whether pose masks are NumPy arrays."""
        self._session, self._every, self._on_host = session, every, pictures_on_host
        self._watcher = Watcher(session.observer.look) if asynchronous else None
        self._predictor = Predictor(_anchors(session.reference.points), session.options.hold_seconds)
        self.reset()

    def reset(self) -> None:
        """Forgets all frames; waits for the look that is under way."""
        if self._watcher is not None:
            self._watcher.reset()
        self._predictor.reset()
        self._now, self._looked_at, self._left = -math.inf, -math.inf, 0
        self._shown: Shown | None = None

    def close(self) -> None:
        """Ends the detector's thread, if there is one."""
        if self._watcher is not None:
            self._watcher.close()

    def looks(self, image, time: float | None, frame_seconds: float, detection: Detection | None) -> tuple[float, list]:
        """The time of the next frame, and the looks that are to be observed before it is shown, in order.

        Raises:
            ValueError: for a frame of another size than the first, or a time that does not increase.
            RuntimeError: if the detector failed in its thread.
        """
        if time is None:
            time = 0.0 if self._now == -math.inf else self._now + frame_seconds
        self._session.check(image, time)
        if not time > self._now:
            raise ValueError(f"time must increase, but is {time} after {self._now}")
        self._now = time
        due, self._left = self._left == 0, (self._left or self._every) - 1
        looks = [] if self._watcher is None else self._watcher.take()
        if detection is not None:
            self._left = self._every - 1
            looks.append(Look(image, time, detection))
        elif due and self._watcher is not None:
            self._watcher.submit(image, time)
        elif due:
            looks.append(Look(image, time, self._session.observer.look(image)))
        # What the thread brings later than a detection that was given for a newer frame says nothing any more.
        looks = [look for look in looks if look.time > self._looked_at]
        return time, looks

    def observe(self, estimate: TrackStep, shown: Shown) -> None:
        """What came of a look."""
        self._looked_at, self._shown = estimate.time, shown
        self._predictor.observe(estimate)

    def at(self, time: float) -> tuple[TrackStep, Shown, float]:
        """The estimate of the frame at that time, what it shows, and the time of the look on which both rest."""
        if self._shown is None:
            return *self._nothing(time), math.nan
        shown, before = self._shown, self._predictor.last
        estimate = self._predictor.at(time)
        if estimate is not before:
            moves = motion(before.matrix, estimate.matrix)
            mask = shown.pose_mask
            if isinstance(mask, np.ndarray):
                mask = moved_masks(mask, moves)
            shown = Shown(moved_points(shown.keypoints, moves), shown.scores, mask)
        return estimate, shown, before.time

    def _nothing(self, time: float) -> tuple[TrackStep, Shown]:
        """Before the first look is done."""
        persons = len(self._session.reference.keypoints)
        zeros = np.zeros(persons)
        estimate = TrackStep(
            frame=-1,
            time=time,
            matrix=np.zeros((persons, 2, 3)),
            side=np.zeros(persons, int),
            information=np.zeros((persons, 3)),
            weights=np.zeros((persons, coco.COUNT)),
            residual=zeros,
            size=zeros,
            breaks=np.zeros(persons, bool),
            status=np.full(persons, "lost", "<U8"),
        )
        keypoints = np.full((persons, coco.COUNT, 2), np.nan, np.float32)
        scores = np.zeros((persons, coco.COUNT), np.float32)
        mask = np.zeros((persons, *self._session.options.size), np.uint8) if self._on_host else None
        return estimate, Shown(keypoints, scores, mask)


def _anchors(points: np.ndarray) -> np.ndarray:
    """[P, 2], the middle of the torso in the photo, or of what is seen of the person."""
    torso = points[:, coco.TORSO]
    anchors = []
    for part, whole in zip(torso, points, strict=True):
        seen = part[np.isfinite(part).all(-1)]
        anchors.append((seen if len(seen) else whole[np.isfinite(whole).all(-1)]).mean(0))
    return np.array(anchors)
