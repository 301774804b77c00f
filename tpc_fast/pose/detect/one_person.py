"""One person, found in a photo or followed through a video."""

import dataclasses

import numpy as np

from tpc_fast._checks import describe
from tpc_fast.ops.procrustes import Similarity
from tpc_fast.ops.resample import resample
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.canonical import CanonicalCrop
from tpc_fast.pose.detect.detection import Detection, Detector

_ROLLS = (0, 90, 180, 270)  # degrees
_SEARCH_SIDE = 1024  # pixels; detectors shrink what they search anyway
_MIN_QUALITY = 0.2  # of a pose that is believed
_MIN_KNEE_SCORE = 0.3  # of a person who is known to be seen whole
# A search makes up knees of half figures, with scores of up to 0.8; where there are some, it says 0.85 and more, and
# the crop for whole figures agrees.
_MIN_KNEE_SCORE_SEARCH, _MIN_KNEE_SCORE_WHOLE = 0.85, 0.5
# How often a picture is looked at, at most, until the crop changes by less than this (CanonicalCrop.distance).
_FRAME_LOOKS, _FRAME_CHANGE = 3, 0.1  # 10 % scale, 6 degrees, a tenth of the crop
_SEARCH_LOOKS, _SEARCH_CHANGE = 6, 0.02
_MOTION = 0.03  # of the crop from frame to frame; more is expected to go on
# A photo is looked at in crops that differ by so much: log scale, radians.
_AROUND = [(0.04 * np.cos(a), 0.05 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 8, endpoint=False)]


class PersonTracker:
    """Finds the person by a search over rolls, and measures the keypoints in a canonical crop.

    A search is needed for a photo, a first frame, or after a loss: four rolls of the picture, the best by mean score x
    share of keypoints inside the mask, then looks at canonical crops until the crop stays where it is. A photo, on
    which all else depends, is then looked at in eight crops around that one, for the median. Any other frame is looked
    at once, in the crop of the frame before (moved on, if the person moves fast), unless the person has moved far.

    The photo decides between the crops for whole and for half figures (who holds only as a whole one is one), and the
    video keeps to it, since errors cancel only between equal crops: call `find` with the reference before `step` with
    the frames.

    Used by one thread at a time, like its detector.

    Attributes:
        crop: the canonical crop in use; None before the first search.
        passes: detector passes that the last `find` or `step` took.
        tried: what the last search tried, in words, for an error message.
    """

    def __init__(self, detector: Detector):
        self.detector = detector
        self.crop: CanonicalCrop | None = None
        self.passes = 0
        self.tried = ""
        self.reset()

    def reset(self) -> None:
        """Forgets the frame before, but not the crop."""
        self._view: Similarity | None = None
        self._motion: Similarity | None = None
        self._shape: tuple[int, ...] | None = None

    @property
    def followed(self) -> bool:
        """Whether there is somebody whom `follow` follows."""
        return self._view is not None

    def find(self, image: np.ndarray) -> Detection:
        """The person in a photo uint8 [H, W, 3]; P = 0 if there is none. Decides on the crop."""
        check_image(image)
        self.passes, self.crop = 0, None
        detection, view = self._search(image)
        return detection if view is None else self._steadied(image, detection, view)

    def step(self, frame: np.ndarray) -> Detection:
        """The person in the next frame uint8 [H, W, 3] of a video; P = 0 if there is none."""
        detection = self.follow(frame)
        if self._view is None:
            detection, self._view = self._search(frame)
        return detection

    def follow(self, frame: np.ndarray) -> Detection:
        """As `step`, but who is lost is not searched for."""
        check_image(frame)
        self.passes = 0
        detection, view = Detection.nobody(), None
        if self._view is not None and self._shape == frame.shape:
            expected = self._view if self._motion is None else self._motion @ self._view
            detection, view = self._settle(frame, expected, _FRAME_LOOKS, _FRAME_CHANGE)
        self._motion = None
        if view is not None and self.crop.distance(self._view, view) > _MOTION:
            self._motion = view @ self._view.inverse()
        self._view, self._shape = view, frame.shape
        return detection

    def approach(self, image: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, steady: bool = False) -> Detection:
        """The person near keypoints [17, 2] with scores [17] that are known roughly; from then on it is followed.

        Without a crop that was decided on, it is looked at as a whole figure first, to decide. `steady` measures as
        `find` does.
        """
        self.passes, self._view, self._motion, self._shape = 0, None, None, image.shape
        decided = self.crop
        look = self._decide if decided is None else self._approach
        detection, self._view = look(image, keypoints, scores)
        if self._view is None:
            self.crop = decided
            return detection
        return self._steadied(image, detection, self._view) if steady else detection

    def choose_crop(
        self, keypoints: np.ndarray, scores: np.ndarray, size: tuple[int, int], least: float = _MIN_KNEE_SCORE
    ) -> None:
        """Decides on the crop by a person that is known already.

        Args:
            keypoints: [17, 2]; scores: [17]; size: (height, width) of the picture.
            least: the score of a knee that is believed.
        """
        knees = _inside(keypoints[coco.KNEES], size) & (scores[coco.KNEES] >= least)
        self.crop = self.detector.whole if knees.any() else self.detector.half

    def _search(self, image: np.ndarray) -> tuple[Detection, Similarity | None]:
        """The person and the view of the crop, from nothing."""
        size = image.shape[:2]
        self.tried = (
            f"{self.detector.name} looked at the {size[1]}x{size[0]} picture in {len(_ROLLS)} rolls "
            f"({', '.join(map(str, _ROLLS))} degrees)"
        )
        proposals = []
        for roll in _ROLLS:
            picture, view = _rolled(image, roll)
            self.passes += 1
            proposal = self.detector.detect(picture)
            quality = proposal.quality(picture.shape[:2])
            if quality > 0:
                keypoints = view.inverse().apply(proposal.keypoints[0].astype(np.float64))
                proposals.append((quality, roll, keypoints, proposal.scores[0]))
        proposals.sort(key=lambda p: -p[0])
        decided = self.crop
        # Who leans or is seen from the side may hold as a whole figure alone.
        for crop in [None, self.detector.whole] if decided is None else [decided]:
            for _, _, keypoints, scores in proposals:
                self.crop = crop
                if crop is None:
                    self.choose_crop(keypoints, scores, size, _MIN_KNEE_SCORE_SEARCH)
                look = self._decide if crop is None and self.crop == self.detector.whole else self._approach
                detection, view = look(image, keypoints, scores)
                if view is not None:
                    return detection, view
        self.crop = decided
        if proposals:
            best = ", ".join(f"{quality:.2f} at {roll} degrees" for quality, roll, *_ in proposals)
            self.tried += f"; the poses that it proposed (quality {best}) did not hold in an upright crop"
        else:
            self.tried += " and saw nobody"
        return Detection.nobody(), None

    def _decide(self, image, keypoints, scores) -> tuple[Detection, Similarity | None]:
        """The person in the crop for whole figures, or, if that shows no knees, in that for half ones if it holds."""
        self.crop = self.detector.whole
        whole = self._approach(image, keypoints, scores)
        if whole[1] is None or whole[0].scores[0, coco.KNEES].max() >= _MIN_KNEE_SCORE_WHOLE:
            return whole
        self.crop = self.detector.half
        half = self._approach(image, keypoints, scores)
        if half[1] is None:
            self.crop = self.detector.whole
            return whole
        return half

    def _approach(self, image, keypoints, scores) -> tuple[Detection, Similarity | None]:
        """The person in the crop in use, from where a search saw the keypoints."""
        view = self.crop.locate(keypoints, scores)
        if view is None:
            return Detection.nobody(), None
        return self._settle(image, view, _SEARCH_LOOKS, _SEARCH_CHANGE)

    def _settle(
        self, image: np.ndarray, view: Similarity, looks: int, change: float
    ) -> tuple[Detection, Similarity | None]:
        """Looks through `view`, and again through the view of what was seen, until both agree; None if it is lost."""
        for _ in range(looks):
            detection, cut_off = self._look(image, self.crop, view)
            if detection.quality(image.shape[:2]) < _MIN_QUALITY:
                return Detection.nobody(), None
            before, view = view, self.crop.locate(detection.keypoints[0], detection.scores[0])
            if view is None:
                return Detection.nobody(), None
            if self.crop.distance(before, view) < change:
                break
        return self._uncut(image, detection, cut_off), view

    def _uncut(self, image: np.ndarray, detection: Detection, cut_off: bool) -> Detection:
        """A half figure as reference, a whole one in the video: the keypoints want equal crops, the mask all of it."""
        if cut_off and self.crop != self.detector.whole:
            wide = self.detector.whole.locate(detection.keypoints[0], detection.scores[0])
            whole, _ = self._look(image, self.detector.whole, wide)
            if len(whole):
                return dataclasses.replace(detection, mask=whole.mask)
        return detection

    def _steadied(self, image: np.ndarray, detection: Detection, view: Similarity) -> Detection:
        """The median of what is seen in crops around `view`: a network's answer jumps with the pixels of its crop."""
        seen = [detection]
        nose = np.array(self.crop.nose)
        for log_scale, angle in _AROUND:
            cos, sin = np.cos(angle), np.sin(angle)
            rotation, scale = np.array([[cos, -sin], [sin, cos]]), np.exp(log_scale)
            around = Similarity(scale, rotation, nose - scale * rotation @ nose) @ view
            look, cut_off = self._look(image, self.crop, around)
            if look.quality(image.shape[:2]) >= _MIN_QUALITY:
                seen.append(self._uncut(image, look, cut_off))
        keypoints = np.median([d.keypoints for d in seen], 0)
        scores = np.mean([d.scores for d in seen], 0)
        mask = None if detection.mask is None else np.mean([d.mask for d in seen], 0).round().astype(np.uint8)
        return Detection(keypoints.astype(np.float32), scores.astype(np.float32), mask)

    def _look(self, image: np.ndarray, crop: CanonicalCrop, view: Similarity) -> tuple[Detection, bool]:
        """One pass over a canonical crop, mapped back; and whether the crop's lower edge cuts the mask."""
        self.passes += 1
        seen = self.detector.detect_upright(crop.cut(image, view))
        if not len(seen):
            return Detection.nobody(), False
        size = image.shape[:2]
        back = view.inverse()
        keypoints = back.apply(seen.keypoints[:1].astype(np.float64)).astype(np.float32)
        scores = np.where(_inside(keypoints, size), seen.scores[:1], 0).astype(np.float32)
        mask, cut_off = None, False
        if seen.mask is not None:
            edge = np.flatnonzero(seen.mask[0, -1] >= 128).astype(np.float64)
            edge = back.apply(np.stack([edge, np.full_like(edge, crop.size - 1)], -1))
            cut_off = bool(_inside(edge, size).any())
            mask = crop.paste(seen.mask[0], view, size)[None]
        return Detection(keypoints, scores, mask), cut_off


def check_image(image) -> None:
    """Raises ValueError for what is not uint8 [H, W, 3]."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be a uint8 array [H, W, 3], but is {describe(image)}")


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which of the points [..., 2] lie in a picture of `size` (H, W)."""
    return ((points >= -0.5) & (points <= (size[1] - 0.5, size[0] - 0.5))).all(-1)


def _rolled(image: np.ndarray, degrees: int) -> tuple[np.ndarray, Similarity]:
    """A copy turned counter-clockwise, shrunk if large, and the map from the picture's pixels to its pixels."""
    height, width = image.shape[:2]
    scale = min(1.0, _SEARCH_SIDE / max(height, width))
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    if scale < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        shift = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2]) - scale * centre
        matrix = np.column_stack([scale * np.eye(2), shift])
        image = resample(image, matrix, size, shrink=max(1, min(int(1 / scale), height, width)))
    turned = np.ascontiguousarray(np.rot90(image, degrees // 90))
    angle = -np.radians(degrees)
    rotation = np.rint([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = np.array([(turned.shape[1] - 1) / 2, (turned.shape[0] - 1) / 2])
    return turned, Similarity(np.float64(scale), rotation, target - scale * rotation @ centre)
