"""Several persons with a detector of one: all are found roughly first, then each is followed in its own crop."""

import numpy as np

from tpc_fast.ops.procrustes import person_size
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.detection import Detection
from tpc_fast.pose.detect.neighbours import beside, neighbours, shared_out, step_of
from tpc_fast.pose.detect.one_person import SURE, PersonTracker, check_image, torso
from tpc_fast.pose.detect.parts import squares

SAME = 0.4  # two of whom the centres of faces and shoulders are nearer, in person sizes, are one person seen twice
_HEAD = [*coco.FACE, *coco.SHOULDERS]
INSIDE = 0.8  # share of a mask that lies inside another of the same person
# How long somebody's torso must be beside that of a photo's main person to be meant, too: a child of four years is 0.6
# times as tall as a grown-up (WHO child growth standards: 103 cm at 48 months). Who is smaller is farther away.
CHILD = 0.6
# Quality of who is meant, too. Half figures have 0.6; in 80 public photos and first frames whoever else was found, with
# whatever quality, was a person (0.68 and more).
BESIDE = 0.5
LOOKS = 2  # at one place, in each roll of a photo


class GroupTracker:
    """`PersonTracker`'s methods for up to `people` persons, by a detector that has `detect_people`, too.

    A photo is searched in four rolls, whole and in overlapping squares, until there are enough who are seen well; a
    first frame as it stands. After that everybody is looked at in the crop of the frame before, and while there are
    fewer than asked for, the whole frame and one of the squares in turn are searched for more. In a video what belongs
    to the others is hidden from the look at each (see `Neighbours`), and masks are shared out. Two crops in which the
    same person is seen become one. The persons of a photo, and of a first frame, are listed from left to right.

    Attributes:
        people: how many there are to be found, at most.
        passes: detector passes that the last `find` or `step` took, those that look for people included.
        tried: what the last search tried, in words, for an error message.
    """

    def __init__(self, detector, people: int | None = None):
        self.detector, self.people = detector, people or detector.people
        self.passes, self.tried = 0, ""
        self.reset()

    def reset(self) -> None:
        """Forgets the frames before."""
        self._followed: list[PersonTracker] = []
        self._before = Detection.nobody()  # of the frame before, one of each who is followed
        self._steps = np.zeros(0)  # pixels that each moved in it
        self._turn = 0  # of the squares

    def find(self, image: np.ndarray) -> Detection:
        """The persons in a photo uint8 [H, W, 3]; P = 0 if there is none."""
        check_image(image)
        self.passes = 0
        found = self._search(image, [], squares(*image.shape[:2]), rolls=4)
        height, width = image.shape[:2]
        self.tried = f"{self.detector.name} looked for people in the {width}x{height} picture in 4 rolls"
        if not found:
            return Detection.nobody()
        return _listed([self._again(image, seen) for _, seen in found])[1]

    def join(self, image: np.ndarray, main: Detection) -> Detection:
        """Whoever else a photo is of, beside a person who was found: the persons from left to right.

        Whose torso is less than CHILD times as long stands behind, and is not meant.
        """
        size = image.shape[:2]
        short = min(size)
        places = [place for place in squares(*size) if place[2] >= short]
        self.passes = 0
        found = self._search(image, [(PersonTracker(self.detector), main)], places)
        least = CHILD * torso(main.keypoints[0])
        others = [
            seen
            for _, seen in found
            if not _same(seen, main, size)
            and not _near(seen.keypoints[0], main.keypoints[0], _size(main))
            and seen.quality(size) >= BESIDE
            and torso(seen.keypoints[0]) >= least
        ]
        steadied = [(None, main), *(self._again(image, seen) for seen in others)]
        return _listed(steadied)[1]

    def step(self, frame: np.ndarray) -> Detection:
        """The persons in the next frame uint8 [H, W, 3] of a video; P = 0 if there is none."""
        check_image(frame)
        self.passes, found = 0, []
        before, followed = self._before, self._followed
        for person, tracker in enumerate(self._followed):
            tracker.neighbours = neighbours(before, person, self._steps)
            detection = tracker.follow(frame)
            self.passes += tracker.passes
            if len(detection):
                _add(found, tracker, detection, frame.shape[:2])
        first = not self._followed
        if not self._enough(found, frame.shape[:2]):
            places = squares(*frame.shape[:2])
            if not first:
                self._turn = self._turn % (len(places) - 1) + 1
                places = [places[0], places[self._turn]]
            found = self._search(frame, found, places, hide=True)
        self.tried = f"{self.detector.name} looked for people in every frame"
        self._followed, detection = _listed(found, in_order=first)
        self._before = shared_out(detection)
        self._steps = np.zeros(len(found))
        for place, tracker in enumerate(self._followed):
            if tracker in followed:
                self._steps[place] = step_of(_one(before, followed.index(tracker)), _one(detection, place))
        return self._before

    def _again(self, image, seen) -> tuple[PersonTracker, Detection]:
        """Somebody of a photo, measured as well as may be."""
        tracker = PersonTracker(self.detector)
        detection = tracker.approach(image, seen.keypoints[0], seen.scores[0], steady=True)
        self.passes += tracker.passes
        return tracker, detection if len(detection) else seen

    def _enough(self, found, size) -> bool:
        return sum(detection.quality(size) >= SURE for _, detection in found) >= self.people

    def _search(self, image, found, places, rolls=1, hide=False) -> list[tuple[PersonTracker, Detection]]:
        """Those who are `found` already and whoever else is there, until there are enough who are seen well.

        `hide`: they are hidden from the looks at the others. Not in a photo, of which a second person must be certain.
        """
        size, followed = image.shape[:2], [tracker for tracker, _ in found]
        found, again, looked = list(found), False, []  # where in each roll
        parts = ((quarters, *square) for quarters in range(rolls) for square in places)
        while not self._enough(found, size) and (part := next(parts, None)):
            for keypoints, scores in self._people(image, *part):
                near = [pair for pair in found if _near(keypoints, pair[1].keypoints[0], _size(pair[1]))]
                if any(other.quality(size) >= SURE for _, other in near):
                    continue
                size_here = person_size(keypoints, scores >= coco.SCORE_THRESHOLD)
                here = (roll == part[0] and _near(keypoints, other, size_here) for roll, other in looked)
                if sum(here) >= LOOKS:
                    continue
                if any(tracker in followed for tracker, _ in near):
                    if again:
                        continue
                    again = True  # who is followed, but seen badly: one of these a frame, for it takes several looks
                looked.append((part[0], keypoints))
                tracker = PersonTracker(self.detector)
                if hide:
                    apart = [pair[1] for pair in found if not any(pair is one for one in near)]
                    tracker.neighbours = beside(keypoints, scores, apart)
                detection = tracker.approach(image, keypoints, scores)
                self.passes += tracker.passes
                if len(detection):
                    _add(found, tracker, detection, size)

        def trust(place):
            tracker, detection = found[place]
            quality = detection.quality(size)
            return quality >= SURE, tracker in followed, quality

        trusted = sorted(range(len(found)), key=trust, reverse=True)[: self.people]
        return [found[place] for place in sorted(trusted)]

    def _people(self, image, quarters, left, top, side):
        """Keypoints and scores, in the picture, of the people in a part of it that is turned."""
        part = image[top : top + side, left : left + side]
        turned = np.ascontiguousarray(np.rot90(part, quarters))
        self.passes += 1
        people = self.detector.detect_people(turned)
        height, width = turned.shape[:2]
        points = people.keypoints
        for _ in range(quarters):
            # rot90 moves (x, y) to (y, width - 1 - x); this is the way back.
            height, width = width, height
            points = np.stack([width - 1 - points[..., 1], points[..., 0]], -1)
        return zip(points + (left, top), people.scores, strict=True)


def _one(people: Detection, person: int) -> Detection:
    """Without a mask."""
    return Detection(people.keypoints[person : person + 1], people.scores[person : person + 1])


def _place(keypoints, scores, part=_HEAD) -> np.ndarray:
    """[2], the middle of what is seen of a part of the body: the head and shoulders if none is named."""
    seen = [k for k in part if scores[k] >= coco.SCORE_THRESHOLD]
    return keypoints[seen].mean(0) if seen else np.full(2, np.nan)


def _size(detection: Detection) -> float:
    return float(person_size(detection.keypoints, detection.scores >= coco.SCORE_THRESHOLD)[0])


def _near(keypoints, other, size: float) -> bool:
    """Whether two of whom one is known roughly are one person, who is so large."""
    return bool(np.hypot(*(keypoints[coco.SHOULDERS].mean(0) - other[coco.SHOULDERS].mean(0))) < SAME * size)


def _add(found, tracker, detection, size) -> None:
    """Adds a person, but keeps only the better seen of two who are one."""
    for i, (_, other) in enumerate(found):
        if _same(detection, other, size):
            if detection.quality(size) > other.quality(size):
                found[i] = tracker, detection
            return
    found.append((tracker, detection))


def _same(one: Detection, other: Detection, size) -> bool:
    """Whether two who were found are one person: heads and shoulders near each other, and hips if both show them; or
    one's mask inside the other's.

    Of two who are both seen well the latter says nothing: a child may stand in front of somebody. Nor do the heads of
    two who embrace, one of whom the network may even give the other's face: their hips are apart.
    """
    near = SAME * min(_size(one), _size(other))
    heads, hips = ([_place(d.keypoints[0], d.scores[0], part) for d in (one, other)] for part in (_HEAD, coco.HIPS))
    if np.hypot(*(heads[0] - heads[1])) < near and not np.hypot(*(hips[0] - hips[1])) >= near:
        return True
    if one.mask is None or other.mask is None or min(one.quality(size), other.quality(size)) >= SURE:
        return False
    masks = [d.mask[0] >= 128 for d in (one, other)]
    return bool((masks[0] & masks[1]).sum() > INSIDE * min(mask.sum() for mask in masks))


def _listed(found, in_order=True) -> tuple[list[PersonTracker], Detection]:
    """The trackers, and one detection of all; from left to right if they are put in order."""
    if not found:
        return [], Detection.nobody()
    if in_order:
        found = sorted(found, key=lambda pair: _place(pair[1].keypoints[0], pair[1].scores[0])[0])
    seen = [detection for _, detection in found]
    masks = None if any(d.mask is None for d in seen) else np.concatenate([d.mask for d in seen])
    keypoints, scores = (np.concatenate([getattr(d, name) for d in seen]) for name in ("keypoints", "scores"))
    return [tracker for tracker, _ in found], Detection(keypoints, scores, masks)
