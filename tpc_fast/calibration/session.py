"""What a stream and a whole video share: the photo, who looks at frames, who plays whom, and the canvas."""

from typing import NamedTuple

import numpy as np

from tpc_fast.calibration.observer import Observer
from tpc_fast.calibration.options import Options
from tpc_fast.calibration.reference import load_reference
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.fetch import fetched
from tpc_fast.pose.detect.appearance import torso_colours
from tpc_fast.pose.detect.detection import Detection
from tpc_fast.pose.detect.last_seen import PersonChanges
from tpc_fast.pose.detect.one_person import PersonTracker
from tpc_fast.pose.files.given import check_detection
from tpc_fast.pose.follow.depth import DepthOrder
from tpc_fast.pose.follow.matching import PeopleMatcher
from tpc_fast.pose.masks.sam import clean_mask

CHANGES_TOLD = 5  # of the person who is followed, each in a warning of its own


class Seen(NamedTuple):
    """Whoever was seen in a frame, D persons.

    Attributes:
        keypoints: float32 [D, K, 2] in pixels of the frame, NaN = missing.
        scores: float32 [D, K].
        masks: uint8 [D, h, w] on the canvas, or None.
        colours: float32 [D, N] of `torso_colours`; None if there is nobody to be told apart.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None
    colours: np.ndarray | None = None


def take_rows(array: np.ndarray, places: np.ndarray, nothing=0) -> np.ndarray:
    """Rows [P, ...] of an array [D, ...], `nothing` where a place is -1."""
    rows = np.full((len(places), *array.shape[1:]), nothing, array.dtype)
    rows[places >= 0] = array[places[places >= 0]]
    return rows


class Session:
    """One photo, and the frames of one video after another.

    Attributes:
        options: what was asked for, checked.
        warnings: what the user should know.
        observer: who looks at pictures.
        reference: the photo.
        matcher: who plays whom.
        depth: who stands in front.
        canvas: how frames are laid onto the canvas; None before the first frame.
    """

    def __init__(
        self,
        reference,
        *,
        detector=None,
        segmenter=None,
        reference_keypoints=None,
        reference_mask=None,
        haste: bool = False,
        **options,
    ):
        """Takes arguments of `Calibrator` and `calibrate`; `options` are those that `Options` has.

        For `haste` see `PersonTracker`.

        Raises:
            As `Calibrator`.
        """
        self.options = Options.checked(**options)
        self.warnings: list[str] = []
        hints = [self.options.hint(name) for name in ("reference", "driving")]
        if hints[0] is not None and reference_keypoints is not None:
            raise ValueError(f"{hints[0].name} must not go with reference_keypoints, which say where the person is")
        self.observer = Observer(detector, segmenter, self.options.score_threshold, *hints, haste=haste)
        try:
            self.reference = load_reference(
                fetched(reference, "reference"),
                reference_keypoints,
                reference_mask,
                self.options,
                self.observer,
                self.warnings,
            )
            found = self.reference.keypoints, self.reference.scores
            self.observer.expect(len(found[0]))
            self.matcher = PeopleMatcher(
                *found, self.reference.image.shape[:2], self.options.match, self.options.score_threshold
            )
            self._check_match()
            self.options = self.options.for_persons(len(found[0]))
            self.depth = DepthOrder(len(found[0]), self.options.depth, self.options.score_threshold)
        except BaseException:
            self.close()
            raise
        self.canvas: Canvas | None = None
        self._time: float | None = None
        self._changes, self._frames, self._told = PersonChanges(), 0, 0
        self._several = False  # whether more than one person was ever seen

    def _check_match(self) -> None:
        """Refuses, before the video is looked at, driving persons beyond the number that is followed."""
        tracker, match = self.observer.tracker, self.options.match
        followed = 1 if isinstance(tracker, PersonTracker) else getattr(tracker, "people", None)
        if followed is None or isinstance(match, str):
            return
        largest = max(driving for _, driving in match)
        if largest >= followed:
            raise ValueError(
                f"match must name driving persons up to {followed - 1}, as {followed} are followed in the video, but "
                f"names {largest}: ask for more with detector='blazepose:people={largest + 1}'"
            )

    def reset(self) -> None:
        """Forgets all frames: the next one begins a new video, of any size."""
        self.matcher.reset()
        self.depth.reset()
        self.observer.reset()
        self.canvas = self._time = None
        self._changes, self._frames, self._told = PersonChanges(), 0, 0
        self._several = False  # whether more than one person was ever seen

    def close(self) -> None:
        """Frees the detector, if the session made it."""
        self.observer.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def time_after(self, seconds: float) -> float:
        """The time of a frame that comes so long after the one before; 0 for the first."""
        return 0.0 if self._time is None else self._time + seconds

    def see(self, image, time: float, detection: Detection | None) -> Seen:
        """Whoever is in a frame: uint8 [H, W, 3], seconds, and the detection, or None to look for it.

        Raises:
            ValueError: for a frame of another size than the first, or a time that does not increase.
        """
        self.check(image, time)
        if detection is None:
            detection = self.observer.look(image)
        else:
            check_detection(detection, image.shape[:2])
        self._time = time
        self._tell_of_change(detection)
        masks = None
        if detection.mask is not None or not len(detection):
            masks = np.empty((len(detection), *self.options.size), np.uint8)
            for p in range(len(detection)):
                mask = clean_mask(detection.mask[p]) if self.options.clean_masks else detection.mask[p]
                # Binary first (0 or -1 = 255), as masks come from a cache or a file: the same pixels every time.
                binary = mask >> 7
                np.negative(binary, out=binary)
                masks[p] = self.canvas.draw(binary)
        self._several |= max(len(detection), len(self.reference.keypoints)) > 1
        colours = None
        if self._several and isinstance(image, np.ndarray):  # not a tensor that stays on its device
            colours = torso_colours(image, detection.keypoints, detection.scores, self.options.score_threshold)
        return Seen(detection.keypoints, detection.scores, masks, colours)

    def _tell_of_change(self, detection: Detection) -> None:
        """A warning if the one person who is followed cannot be the one who was followed before."""
        if len(self.reference.keypoints) == 1 and len(detection) <= 1:
            one = 0 if len(detection) else slice(None)
            changed = self._changes.step(self._frames, detection.keypoints[one], detection.scores[one])
            if changed is not None:
                self._told += 1
                if self._told <= CHANGES_TOLD:
                    self.warnings.append(
                        f"driving: from frame {changed} on somebody else is followed, or the same person elsewhere"
                    )
        self._frames += 1

    def check(self, image, time: float) -> None:
        """Checks a frame against those before; the first one sets the canvas.

        Raises:
            ValueError: for a frame of another size than the first, or a time that does not increase.
        """
        if not np.isfinite(time):
            raise ValueError(f"time must be finite, but is {time}")
        if self._time is not None and not time > self._time:
            raise ValueError(f"time must increase, but is {time} after {self._time}")
        if self.canvas is None:
            self.canvas = Canvas.fitting(tuple(image.shape[:2]), self.options.size, self.options.resize)
        elif tuple(image.shape[:2]) != self.canvas.source:
            raise ValueError(
                f"frame must have the size of the first, {self.canvas.source}, but has {tuple(image.shape[:2])}"
            )

    def on_canvas(self, seen: Seen, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Float32 keypoints [P, K, 2] on the canvas and scores [P, K] of whoever is in which place (-1: nobody)."""
        keypoints, scores = take_rows(seen.keypoints, places, np.nan), take_rows(seen.scores, places)
        return self.canvas.apply(keypoints).astype(np.float32), scores
