"""One person, found in a photo or followed through a video."""

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tpc_fast._checks import describe
from tpc_fast.media.picture_difference import CutWatch
from tpc_fast.ops.procrustes import Similarity
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.appearance import COLOUR_SHARE, UNLIKE, colour_distances, torso_colours
from tpc_fast.pose.detect.canonical import CanonicalCrop
from tpc_fast.pose.detect.detection import Detection, Detector
from tpc_fast.pose.detect.hint import Hint
from tpc_fast.pose.detect.last_seen import LastSeen
from tpc_fast.pose.detect.neighbours import Neighbours, painted_over
from tpc_fast.pose.detect.parts import rolled, square_around, squares

_ROLLS = (0, 90, 180, 270)  # degrees
_MIN_QUALITY = 0.2  # of a pose that is believed
SURE = 0.6  # of a person who is seen well; of what was taken for one, hardly any has more
# A search makes up knees of half figures, with scores of up to 0.8; where there are some, it says 0.85 and more, and
# the crop for whole figures agrees. That crop makes them up, too (the astronaut, who is cut at the hips, in 48 views: a
# median of 0.4, two of 0.8 and more), but ankles once (0.5 and more); whole figures of public clips show both.
_MIN_KNEE_SCORE_SEARCH, _MIN_KNEE_SCORE_WHOLE, _SURE_KNEE_SCORE = 0.85, 0.5, 0.85
_MIN_KNEE_SCORE = 0.3  # of a person who was seen whole, and still is
# A whole figure whose legs are hidden (wide trousers, a gown, a drawing) may be taken for a half one. The crop for half
# figures then shrinks it, look by look. Of 58 public photos whose hips both crops see (16 of them cut at 0.7 to 1.6
# torsos, too), seven persons were 0.62 times as large in it or less, all others 0.72 times or more (median 0.89); a
# dancer in wide trousers 0.66 times.
_SQUASHED = 0.7
_WIDER = 1.1  # the network's answer jumps with the pixels of its crop: who is missed in one is looked at in a wider one
# How often a picture is looked at, at most, until the crop changes by less than this (CanonicalCrop.distance).
_FRAME_LOOKS, _FRAME_CHANGE = 3, 0.1  # 10 % scale, 6 degrees, a tenth of the crop
_SEARCH_LOOKS, _SEARCH_CHANGE = 6, 0.02
_MOTION = 0.03  # of the crop from frame to frame; more is expected to go on
# After so many frames in a row in which the crop seems to be the wrong one the other is tried; twice as many each time
# that it is no better, so that who stands behind a table costs little.
_DOUBTS, _MOST_DOUBTS = 4, 64
# Of the crop. Crops 1 % larger for one frame move keypoints by 0.9 pixels in the next (of a person of 391, the sample),
# those 0.3 % larger by 0.5, as much as the network's answers jump; 3 % larger ones by 1.9.
SAME_PLACE = 0.01
_LEAP = 0.1  # of the crop from frame to frame, or log scale: who is so far away and wears other colours is another
_MIN_SCORE = 0.3  # of a keypoint that tells what somebody wears
_WAIT = 30  # frames in which who is lost is waited for, before somebody else is followed
_NEAR = 2.0  # who is lost is looked for first in a square so many times as large as the person was
_MOST_TRIED = 6  # of the people seen in parts of a picture
# Times as long as another's torso is one who is nearer to the camera (a choice: a search measures the torso of one
# person to 10 %, as its four rolls and the squares of one picture show).
LARGER = 1.3
_PARTS = 2  # of the picture that are searched in a frame, while nobody is found
_KNEES = np.array([(1.5, 17.5), (-1.5, 17.5)])  # where they are if one stands, in the units of TEMPLATE
# A photo is looked at in crops that differ by so much: log scale, radians.
_AROUND = [(0.04 * np.cos(a), 0.05 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 8, endpoint=False)]


class _Glimpse(NamedTuple):
    """The best look of those that were made before a person was lost, and the view through which it was made.

    From behind, or when another person hides the head, keypoints of the face are guesses. The crop that follows from
    them has a wrong scale. The network then sees nobody in it, though it saw somebody well just before.
    """

    quality: float = 0.0
    detection: Detection | None = None
    view: Similarity | None = None

    @property
    def surely(self) -> bool:
        """Whether that person was seen well."""
        return self.quality >= SURE

    @property
    def person(self) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints [17, 2] and scores [17]."""
        return self.detection.keypoints[0], self.detection.scores[0]


class PersonTracker:
    """Finds the person by a search over rolls, and measures the keypoints in a canonical crop.

    A search is needed for a photo, for a first frame, and after a loss. It looks near where the person was lost, then
    at four rolls of the picture, then at squares of it, for people who are small. The best view is that with the
    largest mean score x share of keypoints inside the mask. Looks at canonical crops follow, until the crop stays where
    it is. All else depends on the photo: it is then looked at in eight crops around that one, for the median. Any other
    frame is looked at once, in the crop of the frame before, unless the person has moved far. If the person moves fast,
    the crop is moved on.

    There is a crop for whole figures and one for half figures. The half crop cuts a whole figure's legs off and
    squashes it; whoever is much smaller in it than in the whole crop stays in that one. In the whole crop, a half
    figure's shoulders are measured in one of two ways, 20 % apart. The crop is chosen for photo and video separately:
    on public clips, a half-figure photo and a dancer were aligned at least as well so as with one crop for both. In a
    video, every search chooses it. It is chosen again when the crop in use seems wrong for some frames: knees should be
    visible, or no longer are.

    In haste (a stream, whose next frame comes soon) a search is spread over frames. Each frame is looked at upright,
    and in one other way: a roll, a square, or near where the person was lost, in turn. Every roll is tried at once only
    for a first frame, or one after a cut, in which somebody is seen, but not well.

    Used by one thread at a time, like its detector.

    Attributes:
        haste: whether searches in a video are spread over frames.
        crop: the canonical crop in use; None before the first search.
        passes: detector passes that the last `find` or `step` took.
        tried: what the last search tried, in words, for an error message.
        neighbours: who else was seen in the frame before, and is hidden from every look; None: nobody.
    """

    def __init__(self, detector: Detector, haste: bool = False):
        self.detector, self.haste, self._hurried = detector, haste, False
        self.crop: CanonicalCrop | None = None
        self.passes = 0
        self.tried = ""
        self.neighbours: Neighbours | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets the frames before."""
        self._view: Similarity | None = None
        self._motion: Similarity | None = None
        self._glimpse = _Glimpse()
        self._shape: tuple[int, ...] | None = None
        self._last = LastSeen()
        self._cuts = CutWatch()
        self._colours: np.ndarray | None = None  # of the torso of who is followed, the mean of the frames
        self._doubts, self._patience = 0, _DOUBTS
        self._new, self._part = True, 0  # whether this is the first frame of a shot; of the squares, whose turn it is

    @property
    def followed(self) -> bool:
        """Whether there is somebody whom `follow` follows."""
        return self._view is not None

    @property
    def place(self) -> tuple[CanonicalCrop | None, Similarity | None]:
        """The crop in use, and the view of it in which the last frame showed the person; None: nobody."""
        return self.crop, self._view

    def agrees(self, place: tuple[CanonicalCrop | None, Similarity | None]) -> bool:
        """Whether another tracker, which was at `place` after the same frame, follows the same person in like crops."""
        crop, view = place
        if view is None or self._view is None or crop != self.crop:
            return False
        return self.crop.distance(self._view, view) <= SAME_PLACE

    def ahead(self, frames: int, before: Sequence[np.ndarray]) -> "PersonTracker":
        """A tracker with this one's memory for a later frame, so many frames further on.

        Args:
            before: the frames right before that one, as many as a cut is judged by.
        """
        other = PersonTracker(self.detector, self.haste)
        other.take(self)
        if frames:
            other._motion = None
            other._last.wait(frames)
            other._cuts.reset()
            for frame in before:
                other._cuts.step(frame)
        return other

    def take(self, other: "PersonTracker") -> None:
        """Goes on from where another tracker of the same video is, with the own detector."""
        own = self.detector
        vars(self).update(vars(other), detector=own, _last=copy.deepcopy(other._last), _cuts=copy.deepcopy(other._cuts))

    def find(self, image: np.ndarray, hint: Hint | None = None) -> Detection:
        """The person in a photo uint8 [H, W, 3], who is meant by a hint; P = 0 if there is none. Forgets the frames
        before."""
        check_image(image)
        self.reset()
        self.passes, self._hurried = 0, False  # a photo is worth every look
        if hint is not None:
            detection, view = self._seek(image, hint)
        else:
            detection, view = self._search(image, self._proposals(image, None, None))
        return detection if view is None else self._true(self._steadied(image, detection, view))

    def step(self, frame: np.ndarray) -> Detection:
        """The person in the next frame uint8 [H, W, 3] of a video; P = 0 if there is none."""
        self._hurried = self.haste
        detection = self._follow(frame)
        if self._view is None:
            known = self._last.gap is not None
            last = self._last if known else None
            proposals = self._one_by_one(frame, last) if self._hurried else self._proposals(frame, last, self._parts())
            detection, self._view = self._search(frame, proposals, last)
            self._doubts, self._patience, self._new = 0, _DOUBTS, False
        self._see(frame, detection)
        return self._true(detection)

    def begin(self, frame: np.ndarray, hint: Hint) -> Detection:
        """As `step`, for the first frame of a video: the person who is meant by a hint is followed from then on."""
        check_image(frame)
        self.reset()
        self.passes, self._shape, self._new, self._hurried = 0, frame.shape, False, False
        self._cuts.step(frame)
        detection, self._view = self._seek(frame, hint)
        self._see(frame, detection)
        return self._true(detection)

    def follow(self, frame: np.ndarray) -> Detection:
        """As `step`, but who is lost is not searched for."""
        detection = self._follow(frame)
        self._see(frame, detection)
        return self._true(detection)

    def _true(self, detection: Detection) -> Detection:
        """What was seen in the crop in use, with the torso as long as it is. The tracker itself goes by what is seen:
        what is made of that must not move the crop. Scores say what the network saw where it saw it."""
        if not len(detection):
            return detection
        return dataclasses.replace(detection, keypoints=self.crop.lengthened(detection.keypoints))

    def _follow(self, frame: np.ndarray) -> Detection:
        check_image(frame)
        self.passes = 0
        if self._shape != frame.shape:
            self.reset()
        cut = self._cuts.step(frame)
        detection, view, located = Detection.nobody(), None, False
        if self._view is not None:
            expected = self._view if self._motion is None else self._motion @ self._view
            detection, view = self._settle(frame, expected, _FRAME_LOOKS, _FRAME_CHANGE)
            located = view is not None
            if view is None and self._glimpse.surely:
                detection, view = self._glimpse.detection, self._glimpse.view
            # In place somebody may be covered by another for some frames.
            moved = view is not None and self.crop.distance(self._view, view) > _LEAP
            if moved and self._wears_other(frame, detection):
                detection, view = Detection.nobody(), None
        self._motion = None
        if view is not None:
            # A glimpse is mostly seen through the expected view, which would confirm whatever motion was expected.
            if located and self.crop.distance(self._view, view) > _MOTION:
                self._motion = view @ self._view.inverse()
            detection, view = self._review(frame, detection, view)
        elif cut:  # whoever is there now is nobody who was lost
            self._last.forget()
            self._colours = None
            self._new = True
        self._view, self._shape = view, frame.shape
        return detection

    def approach(self, image: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, steady: bool = False) -> Detection:
        """The person near keypoints [17, 2] with scores [17] that are known roughly; from then on it is followed.

        `steady` measures as `find` does.
        """
        self.reset()
        self.passes, self._shape = 0, image.shape
        detection, self._view = self._try(image, keypoints, scores, anew=True)
        if self._view is None:
            detection, self._view = self._try(image, keypoints, scores, anew=False)
        self._see(image, detection)
        if self._view is None:
            return detection
        return self._true(self._steadied(image, detection, self._view) if steady else detection)

    def _wears_other(self, image: np.ndarray, detection: Detection) -> bool:
        """Whether somebody wears other colours than who was followed; False if that is not known."""
        if self._colours is None:
            return False
        worn = torso_colours(image, detection.keypoints[:1], detection.scores[:1], _MIN_SCORE)
        return bool(colour_distances(self._colours[None], worn)[0, 0] > UNLIKE)

    def _learn(self, image: np.ndarray, detection: Detection) -> None:
        """Takes the colours of who is followed into their mean; anew if it is somebody else."""
        (worn,) = torso_colours(image, detection.keypoints[:1], detection.scores[:1], _MIN_SCORE)
        if np.isnan(worn[0]):
            return
        if self._colours is None or self._last.gap is None or self._last.gap > _WAIT:
            self._colours = worn
        elif colour_distances(self._colours[None], worn[None])[0, 0] <= UNLIKE:
            self._colours = self._colours + COLOUR_SHARE * (worn - self._colours)

    def _see(self, image: np.ndarray, detection: Detection) -> None:
        if len(detection):
            self._learn(image, detection)
        one = slice(None) if not len(detection) else 0
        self._last.step(detection.keypoints[one], detection.scores[one])

    def _parts(self) -> int | None:
        """How many squares of a frame are searched; None for all."""
        return None if self._new else _PARTS

    def _search(
        self, image: np.ndarray, proposed: Iterator[tuple[str, list]], last: LastSeen | None = None
    ) -> tuple[Detection, Similarity | None]:
        """The person and the view of the crop, from poses that are proposed and where it was seen `last`."""
        crop, height, width = self.crop, *image.shape[:2]
        self.tried = (
            f"{self.detector.name} looked at the {width}x{height} picture in {len(_ROLLS)} rolls "
            f"({', '.join(map(str, _ROLLS))} degrees)"
        )
        refused = []
        for where, proposals in proposed:
            self.tried += where
            glimpse = _Glimpse()
            # Who leans or is seen from the side may hold as a whole figure alone.
            seen_whole = set()  # in whose case the second try would repeat the first
            for anew in (True, False):
                for place, (_, _, keypoints, scores) in enumerate(proposals):
                    if place in seen_whole:
                        continue
                    detection, view = self._try(image, keypoints, scores, anew)
                    if self.crop == self.detector.whole:
                        seen_whole.add(place)
                    if self.crop == self.detector.whole and self._glimpse.quality > glimpse.quality:
                        glimpse = self._glimpse
                    stranger = last is not None and last.gap <= _WAIT and len(detection)
                    fits = stranger and last.fits(detection.keypoints[0], detection.scores[0])
                    if stranger and (not fits or self._wears_other(image, detection)):
                        continue
                    if view is not None:
                        return detection, view
            known = last is None or last.gap > _WAIT
            if glimpse.surely and not known:
                known = last.fits(*glimpse.person) and not self._wears_other(image, glimpse.detection)
            if glimpse.surely and known:
                self.crop = self.detector.whole
                return glimpse.detection, glimpse.view
            refused += proposals
        self.crop = crop
        if refused:
            best = ", ".join(f"{quality:.2f} at {roll} degrees" for quality, roll, *_ in refused[: len(_ROLLS)])
            self.tried += f"; the poses that it proposed (quality {best}) did not hold in an upright crop"
        else:
            self.tried += " and saw nobody"
        return Detection.nobody(), None

    def _seek(self, image: np.ndarray, hint: Hint) -> tuple[Detection, Similarity | None]:
        """The person who is meant by a hint, the best seen of those whom detector and box propose, and the view."""
        size, best, sureness = image.shape[:2], (Detection.nobody(), None, self.crop), 0.0
        hint.check_inside(size)
        self.tried = f"{self.detector.name} looked for the person of {hint}"
        for kind, keypoints, scores in self._meant(image, hint):
            if kind in ("half", "bust"):
                self.crop = self.detector.half
                detection, view = self._approach(image, keypoints, scores)
            else:
                detection, view = self._try(image, keypoints, scores, anew=kind != "whole")
            if view is None and self.crop == self.detector.whole and self._glimpse.surely:
                detection, view = self._glimpse.detection, self._glimpse.view
            if view is None or not len(hint.pick(detection)):
                continue
            quality = detection.quality(size)
            if quality > sureness:
                best, sureness = (detection, view, self.crop), quality
            if quality >= SURE:
                break
        *found, self.crop = best
        return tuple(found)

    def _meant(self, image, hint) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Who may be meant by a hint: ("" or the kind of a guess, keypoints, scores), the most likely first."""
        if hint.box is not None:
            for wider in (0.1, 0.5):
                rows, columns = hint.part(image.shape[:2], wider)
                corner = columns.start, rows.start
                part = np.ascontiguousarray(image[rows, columns])
                for look in (self.detector.detect, getattr(self.detector, "detect_people", None)):
                    if look is not None:
                        self.passes += 1
                        found = look(part)
                        for keypoints, scores in zip(found.keypoints, found.scores, strict=True):
                            yield "", keypoints.astype(np.float64) + corner, scores
            yield from hint.guesses()
            return
        x, y = hint.point
        people = []
        for left, top, side in squares(*image.shape[:2]):
            if left <= x < left + side and top <= y < top + side:
                people += self._people(image, left, top, side)
        # Whose head and torso are nearest to the point, in sizes of their own.
        people.sort(key=lambda p: np.linalg.norm(np.nanmean(p[2][: coco.KNEES[0]], 0) - (x, y)) / max(torso(p[2]), 1))
        for _, _, keypoints, scores in people[: 2 * _MOST_TRIED]:
            yield "", keypoints, scores

    def _proposals(self, image, last, parts) -> Iterator[tuple[str, list]]:
        """Poses (quality, roll, keypoints, scores) to be tried, best first, and where was looked, in words."""
        size = image.shape[:2]
        near = None if last is None else square_around(last.keypoints, _NEAR, size)
        if near is not None:
            yield "", self._people(image, *near)
        proposals = sorted((pose for roll in _ROLLS for pose in self._rolled(image, roll)), key=lambda p: -p[0])
        yield "", (self._larger(image, proposals) if last is None else []) + proposals
        every = squares(*size)[1:]
        if parts is not None:
            every = [every[(self._part + i) % len(every)] for i in range(min(parts, len(every)))]
            self._part += len(every)
        if every:
            found = [person for part in every for person in self._people(image, *part)]
            found.sort(key=lambda p: -np.ptp(p[2][p[3] > 0, 1]))  # the largest first
            yield f" and in {len(every)} squares of it", found[:_MOST_TRIED]

    def _larger(self, image, proposals) -> list:
        """Whoever is larger than the first of the proposals, the largest first.

        A detector of one person returns the one it is surest of: that may be somebody who passes behind the main one.
        """
        if not hasattr(self.detector, "detect_people") or not proposals:
            return []
        people = sorted(self._people(image, 0, 0, max(image.shape[:2])), key=lambda p: -torso(p[2]))
        return [person for person in people if torso(person[2]) > LARGER * torso(proposals[0][2])]

    def _one_by_one(self, image, last) -> Iterator[tuple[str, list]]:
        """As `_proposals`, but of a few looks: the frame as it stands, and one other way in turn."""
        upright = self._rolled(image, 0)
        if upright and self._new and upright[0][0] < SURE:
            upright += [pose for roll in _ROLLS[1:] for pose in self._rolled(image, roll)]
        upright.sort(key=lambda p: -p[0])
        yield "", (self._larger(image, upright) if self._new and last is None else []) + upright
        ways = [*_ROLLS[1:], *squares(*image.shape[:2])[1:]]
        near = None if last is None else square_around(last.keypoints, _NEAR, image.shape[:2])
        if near is not None and last.gap <= _WAIT:  # every other time
            ways = [way for other in ways for way in (near, other)]
        way = ways[self._part % len(ways)]
        self._part += 1
        if isinstance(way, int):
            yield "", self._rolled(image, way)
        else:
            found = sorted(self._people(image, *way), key=lambda p: -np.ptp(p[2][p[3] > 0, 1]))  # the largest first
            yield " and in a square of it", found[:_MOST_TRIED]

    def _rolled(self, image, roll) -> list:
        """As `_proposals`: who is in the picture that is turned by so many degrees."""
        if self._hurried and roll == 0:
            picture, view = np.ascontiguousarray(image), None  # the detector shrinks it itself
        else:
            picture, view = rolled(image, roll)
        self.passes += 1
        proposal = self.detector.detect(picture)
        quality = proposal.quality(picture.shape[:2])
        if not quality > 0:
            return []
        keypoints = proposal.keypoints[0].astype(np.float64)
        return [(quality, roll, keypoints if view is None else view.inverse().apply(keypoints), proposal.scores[0])]

    def _people(self, image, left, top, side) -> list:
        """As `_proposals`: who is in a square of the picture."""
        part = np.ascontiguousarray(image[top : top + side, left : left + side])
        look = getattr(self.detector, "detect_people", self.detector.detect)
        self.passes += 1
        found = look(part)
        return [
            (float(scores.max()), 0, keypoints.astype(np.float64) + (left, top), scores)
            for keypoints, scores in zip(found.keypoints, found.scores, strict=True)
            if scores.max(initial=0) > 0
        ]

    def _try(self, image, keypoints, scores, anew) -> tuple[Detection, Similarity | None]:
        """A pose that a search proposed, in the crop that fits it, or in that for whole figures."""
        if not anew:
            self.crop = self.detector.whole
            return self._approach(image, keypoints, scores)
        knees = _inside(keypoints[coco.KNEES], image.shape[:2]) & (scores[coco.KNEES] >= _MIN_KNEE_SCORE_SEARCH)
        if knees.any():
            return self._decide(image, keypoints, scores, knees_seen=True)
        unknown = np.isnan(keypoints[coco.KNEES]).any() or not scores[coco.KNEES].any()
        if unknown and self._knees_in_sight(image, keypoints, scores):
            return self._decide(image, keypoints, scores)
        self.crop = self.detector.half
        half = self._approach(image, keypoints, scores)
        if half[1] is None or not self._knees_in_sight(image, half[0].keypoints[0], half[0].scores[0]):
            return half
        self.crop = self.detector.whole
        whole = self._approach(image, keypoints, scores)
        if whole[1] is None:
            whole = self._approach(image, keypoints, scores, _WIDER)
        if self._squashed(half, whole):
            return whole
        self.crop = self.detector.half
        return half

    def _squashed(self, half, whole) -> bool:
        """Whether the crop for half figures has squashed a whole one: detection and view in either crop.

        Both see one person, who is as large in both. Hips that are seen tell that this is more than a head.
        """
        (_, half_view), (detection, whole_view) = half, whole
        if half_view is None or whole_view is None or detection.scores[0, coco.HIPS].min() < SURE:
            return False
        size_in_whole = self.detector.whole.unit / whole_view.scale
        return bool(self.detector.half.unit / half_view.scale < _SQUASHED * size_in_whole)

    def _knees_in_sight(self, image, keypoints, scores, view=None) -> bool:
        """Whether the picture shows the place where the knees are if the person stands."""
        crop = self.detector.whole
        view = crop.locate(keypoints, scores) if view is None else view
        if view is None:
            return False
        return bool(_inside(view.inverse().apply(_KNEES * crop.unit + crop.nose), image.shape[:2]).any())

    def _review(self, image, detection, view) -> tuple[Detection, Similarity]:
        """Tries the other crop if for some frames the one in use seemed to be the wrong one."""
        keypoints, scores = detection.keypoints[0], detection.scores[0]
        if self.crop == self.detector.whole:
            wrong = scores[coco.KNEES].max() < _MIN_KNEE_SCORE
        else:
            wrong = self._knees_in_sight(image, keypoints, scores)
        self._doubts = self._doubts + 1 if wrong else 0
        if self._doubts < self._patience:
            return detection, view
        self._doubts, crop = 0, self.crop
        self.crop = self.detector.half if crop == self.detector.whole else self.detector.whole
        # One look tells; more are worth their time only if the crop changes.
        tried = self.crop.locate(keypoints, scores)
        seen = Detection.nobody() if tried is None else self._look(image, self.crop, tried)[0]
        better = seen.quality(image.shape[:2]) >= _MIN_QUALITY
        if better and self.crop == self.detector.whole:
            better = _shows_legs(seen.scores[0])
        other, other_view = self._approach(image, keypoints, scores) if better else (seen, None)
        if crop == self.detector.whole and self._squashed((other, other_view), (detection, view)):
            other_view = None
        if other_view is None:
            self.crop, self._patience = crop, min(2 * self._patience, _MOST_DOUBTS)
            return detection, view
        self._patience, self._motion = _DOUBTS, None
        return other, other_view

    def _decide(self, image, keypoints, scores, knees_seen=False) -> tuple[Detection, Similarity | None]:
        """The person in the crop for whole figures, or, if that shows no legs, in that for half ones if it holds."""
        self.crop = self.detector.whole
        whole = self._approach(image, keypoints, scores)
        if whole[1] is None or _shows_legs(whole[0].scores[0], knees_seen):
            return whole
        self.crop = self.detector.half
        half = self._approach(image, keypoints, scores)
        if half[1] is None or self._squashed(half, whole):
            self.crop = self.detector.whole
            return whole
        return half

    def _approach(self, image, keypoints, scores, wider: float = 1.0) -> tuple[Detection, Similarity | None]:
        """The person in the crop in use, from where a search saw the keypoints, or in one that shows more around."""
        view = self.crop.locate(keypoints, scores)
        if view is None:
            return Detection.nobody(), None
        nose = np.array(self.crop.nose)
        view = Similarity.from_scale_angle(1 / wider, 0.0, nose, nose) @ view
        # In haste the frames that follow settle the rest.
        how = (_FRAME_LOOKS, _FRAME_CHANGE) if self._hurried else (_SEARCH_LOOKS, _SEARCH_CHANGE)
        return self._settle(image, view, *how)

    def _settle(
        self, image: np.ndarray, view: Similarity, looks: int, change: float
    ) -> tuple[Detection, Similarity | None]:
        """Looks through `view`, and again through the view of what was seen, until both agree; None if it is lost."""
        self._glimpse = _Glimpse()
        for _ in range(looks):
            detection, cut_off = self._look(image, self.crop, view)
            quality = detection.quality(image.shape[:2])
            if quality < _MIN_QUALITY:
                return Detection.nobody(), None
            if quality > self._glimpse.quality:
                self._glimpse = _Glimpse(quality, detection, view)
            before, view = view, self.crop.locate(detection.keypoints[0], detection.scores[0])
            if view is None:
                return Detection.nobody(), None
            if self.crop.distance(before, view) < change:
                break
        return self._uncut(image, detection, cut_off), view

    def _uncut(self, image: np.ndarray, detection: Detection, cut_off: bool) -> Detection:
        """All of the mask, where the crop for half figures cuts it off."""
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
            around = Similarity.from_scale_angle(np.exp(log_scale), angle, nose, nose) @ view
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
        picture, hidden = crop.cut(image, view), None
        if self.neighbours is not None:
            hidden = self.neighbours.hidden(crop, view)
        seen = self.detector.detect_upright(picture if hidden is None else painted_over(picture, hidden))
        if not len(seen):
            return Detection.nobody(), False
        size = image.shape[:2]
        back = view.inverse()
        keypoints = back.apply(seen.keypoints[:1].astype(np.float64)).astype(np.float32)
        scores = np.where(_inside(keypoints, size), seen.scores[:1], 0).astype(np.float32)
        mask, cut_off = None, False
        if seen.mask is not None:
            seen_mask = seen.mask[0] if hidden is None else np.where(hidden, np.uint8(0), seen.mask[0])
            edge = np.flatnonzero(seen_mask[-1] >= 128).astype(np.float64)
            edge = back.apply(np.stack([edge, np.full_like(edge, crop.size - 1)], -1))
            cut_off = bool(_inside(edge, size).any())
            mask = crop.paste(seen_mask, view, size)[None]
        return Detection(keypoints, scores, mask), cut_off


def _shows_legs(scores: np.ndarray, knees_seen: bool = False) -> bool:
    """Whether somebody seen in the crop for whole figures, with scores [17], is one; `knees_seen`: a search said so."""
    knee, ankle = scores[coco.KNEES].max(), scores[coco.ANKLES].max()
    sure = knees_seen or knee >= _SURE_KNEE_SCORE or ankle >= _MIN_KNEE_SCORE_WHOLE
    return bool(sure and knee >= _MIN_KNEE_SCORE_WHOLE)


def torso(keypoints: np.ndarray) -> float:
    """From the middle of the shoulders to that of the hips, pixels."""
    return float(np.linalg.norm(keypoints[coco.SHOULDERS].mean(0) - keypoints[coco.HIPS].mean(0)))


def check_image(image) -> None:
    """Raises ValueError for what is not uint8 [H, W, 3]."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be a uint8 array [H, W, 3], but is {describe(image)}")


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which of the points [..., 2] lie in a picture of `size` (H, W)."""
    return ((points >= -0.5) & (points <= (size[1] - 0.5, size[0] - 0.5))).all(-1)
