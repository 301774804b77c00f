"""Puppets: people of capsules in random clothes, drawn antialiased from 17 keypoints, at any similarity.

Everything of a figure hangs on its keypoints: widths are in units of its torso, patterns lie in the coordinates of its
parts. So a similarity of the keypoints is the same similarity of the drawing, exactly, up to antialiasing. Coverage is
that of a straight edge: half a pixel on either side of a signed distance.

Keypoints are xy in pixels, [N, 17, 2] in COCO's order; (0, 0) is the centre of the top-left pixel. Figures face us.
"""

import dataclasses

import numpy as np

from tpc_fast import _checks

NOSE, LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR, LEFT_SHOULDER, RIGHT_SHOULDER = range(7)
LEFT_ELBOW, RIGHT_ELBOW, LEFT_WRIST, RIGHT_WRIST, LEFT_HIP, RIGHT_HIP = range(7, 13)
LEFT_KNEE, RIGHT_KNEE, LEFT_ANKLE, RIGHT_ANKLE = range(13, 17)
KEYPOINTS = 17
COLOURS = ("background", "skin", "hair", "shirt", "stripes", "badge", "trousers", "shoes")
ANGLES = ("lean", "tilt", *(f"{side} {part}" for side in ("left", "right") for part in (
    "upper arm", "lower arm", "upper leg", "lower leg")))  # fmt: skip

# In units of the torso, from the middle of the shoulders to that of the hips; stout, so that parts are tokens wide.
SHOULDERS, HIPS, HEAD, NECK = 0.36, 0.2, 0.36, 0.5  # half of their distances; radius; height of its middle
ARM, LEG = (0.6, 0.55), (0.62, 0.6)  # upper, lower
ARM_RADIUS, LEG_RADIUS, FOOT_RADIUS = (0.16, 0.14), (0.2, 0.17), 0.2
CHEST, BELLY = 0.4, 0.32  # radii of the torso
HAND_RADIUS, EYE_RADIUS, BADGE_RADIUS = 0.15, 0.06, 0.17
_REST = np.radians([0, 0, 25, 10, 8, 0, 25, 10, 8, 0])
_MOST = np.radians([8, 8, 70, 60, 20, 15, 70, 60, 20, 15])  # that a pose differs from it

# What a pose picture shows: a colour per part, darker along it; black is background.
_LIMBS = (  # name, its ends, radii, colour: from back to front
    ("left upper leg", LEFT_HIP, LEFT_KNEE, LEG_RADIUS[0], LEG_RADIUS[1], (0.0, 0.0, 1.0)),
    ("right upper leg", RIGHT_HIP, RIGHT_KNEE, LEG_RADIUS[0], LEG_RADIUS[1], (0.0, 1.0, 0.0)),
    ("left lower leg", LEFT_KNEE, LEFT_ANKLE, LEG_RADIUS[1], LEG_RADIUS[1], (0.0, 0.6, 1.0)),
    ("right lower leg", RIGHT_KNEE, RIGHT_ANKLE, LEG_RADIUS[1], LEG_RADIUS[1], (0.6, 1.0, 0.0)),
    ("left upper arm", LEFT_SHOULDER, LEFT_ELBOW, ARM_RADIUS[0], ARM_RADIUS[1], (1.0, 0.0, 1.0)),
    ("right upper arm", RIGHT_SHOULDER, RIGHT_ELBOW, ARM_RADIUS[0], ARM_RADIUS[1], (1.0, 1.0, 0.0)),
    ("left lower arm", LEFT_ELBOW, LEFT_WRIST, ARM_RADIUS[1], ARM_RADIUS[1], (1.0, 0.0, 0.5)),
    ("right lower arm", RIGHT_ELBOW, RIGHT_WRIST, ARM_RADIUS[1], ARM_RADIUS[1], (1.0, 0.5, 0.0)),
)
_HEAD_COLOUR = (0.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Looks:
    """What N figures wear.

    Attributes:
        colours: [N, 8, 3] in [0, 1], of `COLOURS`.
        stripes: [N], how many there are along the torso; 0: none.
        badge: [N, 2], where it is on the chest: across and down, in units of the torso; NaN: none.
        sleeves: [N] bool, whether they cover the lower arms. legs: [N] bool, whether trousers cover the lower legs.
    """

    colours: np.ndarray
    stripes: np.ndarray
    badge: np.ndarray
    sleeves: np.ndarray
    legs: np.ndarray

    def __len__(self) -> int:
        return len(self.colours)

    def __getitem__(self, index) -> "Looks":
        """Some of them, as NumPy's fancy indexing chooses: a list, a slice or an array."""
        return Looks(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    @classmethod
    def random(cls, rng: np.random.Generator, count: int) -> "Looks":
        """Every colour is drawn on its own: nothing of it can be guessed without the photo."""
        badge = rng.uniform((-0.15, 0.25), (0.15, 0.55), (count, 2))
        badge[rng.random(count) < 0.5] = np.nan
        return cls(
            colours=rng.uniform(0.02, 0.98, (count, len(COLOURS), 3)).astype(np.float32),
            stripes=np.where(rng.random(count) < 0.4, rng.uniform(1.5, 2.5, count), 0),
            badge=badge,
            sleeves=rng.random(count) < 0.5,
            legs=rng.random(count) < 0.6,
        )


def random_angles(rng: np.random.Generator, count: int) -> np.ndarray:
    """Poses [N, 10] in radians, of `ANGLES`: outwards from straight down, lower parts against the upper ones."""
    return _REST + _MOST * rng.uniform(-1, 1, (count, len(ANGLES)))


def pose_figure(angles: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Keypoints of poses under similarities.

    Args:
        angles: [N, 10], see `random_angles`.
        matrix: [N, 2, 3], forward: from torsos with the middle of the hips at (0, 0), y down, to pixels.

    Returns:
        [N, 17, 2].
    """
    angles = np.asarray(angles, np.float64)
    lean, tilt = angles[:, 0], angles[:, 1]
    points = np.zeros((len(angles), KEYPOINTS, 2))
    up, left = _direction(lean + np.pi), _direction(lean - np.pi / 2)  # the figure's left is the picture's right
    right, shoulders = -left, up
    head_up = _direction(lean + tilt + np.pi)
    head_left = np.stack([-head_up[:, 1], head_up[:, 0]], -1)
    head = shoulders + NECK * head_up
    points[:, NOSE] = head - 0.06 * head_up
    for eye, ear, sign in ((LEFT_EYE, LEFT_EAR, 1), (RIGHT_EYE, RIGHT_EAR, -1)):
        points[:, eye] = head + sign * 0.13 * head_left + 0.06 * head_up
        points[:, ear] = head + sign * 0.33 * head_left
    for side, across, sign, first in ((0, left, 1, 2), (1, right, -1, 6)):
        points[:, LEFT_SHOULDER + side] = shoulders + SHOULDERS * across
        points[:, LEFT_HIP + side] = HIPS * across
        for start, lengths, at in ((LEFT_SHOULDER, ARM, first), (LEFT_HIP, LEG, first + 2)):
            upper = lean - sign * angles[:, at]
            lower = upper - sign * angles[:, at + 1] if at == first else upper + sign * angles[:, at + 1]
            middle = {LEFT_SHOULDER: LEFT_ELBOW, LEFT_HIP: LEFT_KNEE}[start] + side
            points[:, middle] = points[:, start + side] + lengths[0] * _direction(upper)
            points[:, middle + 2] = points[:, middle] + lengths[1] * _direction(lower)
    matrix = np.asarray(matrix, np.float64)
    return points @ matrix[:, :, :2].transpose(0, 2, 1) + matrix[:, None, :, 2]


def _direction(angle):
    """Unit vectors; 0 is straight down, and grows from the picture's right to its left."""
    return np.stack([-np.sin(angle), np.cos(angle)], -1)


def draw_figures(keypoints: np.ndarray, looks: Looks, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of figures, and where they are.

    Args:
        keypoints: [N, 17, 2], finite.
        looks: of N figures.
        size: (height, width).

    Returns:
        Pictures float32 [N, 3, H, W] and masks float32 [N, H, W], both in [0, 1].

    Raises:
        ValueError: for keypoints of another shape or number, that are not finite, or without a torso.
    """
    canvas = _Canvas(_check(keypoints), size)
    if len(looks) != len(canvas.points):
        raise ValueError(f"looks must be of {len(canvas.points)} figures, but is of {len(looks)}")
    colour = dict(zip(COLOURS, looks.colours.astype(np.float32).swapaxes(0, 1), strict=True))
    picture = np.empty((len(canvas.points), 3, *size), np.float32)
    picture[:] = colour["background"][:, :, None, None]
    mask = np.zeros((len(canvas.points), *size), np.float32)

    def paint(distance, ink, within=None, part_of_figure=True):
        cover = _cover(distance)
        if within is not None:
            cover *= within
        _blend(picture, cover, ink)
        if part_of_figure:
            np.maximum(mask, cover, out=mask)

    lower_arm = np.where(looks.sleeves[:, None], colour["shirt"], colour["skin"])
    lower_leg = np.where(looks.legs[:, None], colour["trousers"], colour["skin"])
    inks = {"upper leg": colour["trousers"], "lower leg": lower_leg, "upper arm": colour["shirt"],
            "lower arm": lower_arm}  # fmt: skip
    for name, start, end, r0, r1, _ in _LIMBS[:4]:
        paint(canvas.limb(start, end, r0, r1)[0], inks[name.partition(" ")[2]])
    for ankle in (LEFT_ANKLE, RIGHT_ANKLE):
        paint(canvas.disc(canvas.points[:, ankle], FOOT_RADIUS), colour["shoes"])
    distance, along, _ = canvas.torso()
    paint(distance, colour["shirt"])
    paint(distance, colour["stripes"], _striped(along, looks.stripes, canvas.unit), False)
    has = np.isfinite(looks.badge[:, 0])
    if has.any():
        at = canvas.on_torso(np.nan_to_num(looks.badge))
        paint(canvas.disc(at, BADGE_RADIUS), colour["badge"], has[:, None, None].astype(np.float32), False)
    head, head_up = canvas.head()
    distance = canvas.disc(head, HEAD)
    paint(distance, colour["skin"])
    height = canvas.offset(head, head_up)
    paint(np.maximum(distance, 0.14 * canvas.unit[:, None, None] - height), colour["hair"], None, False)
    for eye in (LEFT_EYE, RIGHT_EYE):
        paint(canvas.disc(canvas.points[:, eye], EYE_RADIUS), np.zeros_like(colour["skin"]), None, False)
    for name, start, end, r0, r1, _ in _LIMBS[4:]:
        paint(canvas.limb(start, end, r0, r1)[0], inks[name.partition(" ")[2]])
    for wrist in (LEFT_WRIST, RIGHT_WRIST):
        paint(canvas.disc(canvas.points[:, wrist], HAND_RADIUS), colour["skin"])
    return picture, mask


def draw_poses(keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What the model follows: body parts, each in its colour, that darkens along it; the torso also across.

    Args:
        keypoints: [N, 17, 2], finite.
        size: (height, width).

    Returns:
        float32 [N, 3, H, W] in [0, 1]; black is background.

    Raises:
        ValueError: as `draw_figures`.
    """
    canvas = _Canvas(_check(keypoints), size)
    picture = np.zeros((len(canvas.points), 3, *size), np.float32)

    def paint(distance, along, colour):
        shade = 1 - 0.5 * along
        _blend(picture, _cover(distance), [shade * channel for channel in colour])

    for _, start, end, r0, r1, colour in _LIMBS[:4]:
        paint(*canvas.limb(start, end, r0, r1)[:2], colour)
    distance, along, across = canvas.torso()
    side = np.clip(0.5 + 0.5 * across / CHEST, 0, 1)
    paint(distance, along, (1.0, side, 1 - side))
    head, head_up = canvas.head()
    distance = canvas.disc(head, HEAD)
    low = np.clip(0.5 - 0.5 * canvas.offset(head, head_up) / (HEAD * canvas.unit[:, None, None]), 0, 1)
    paint(distance, low, _HEAD_COLOUR)
    for _, start, end, r0, r1, colour in _LIMBS[4:]:
        paint(*canvas.limb(start, end, r0, r1)[:2], colour)
    return picture


class _Canvas:
    """Distances of all pixels from parts of N figures, in pixels."""

    def __init__(self, points: np.ndarray, size):
        self.points = points
        self.shoulders = points[:, [LEFT_SHOULDER, RIGHT_SHOULDER]].mean(1)
        self.hips = points[:, [LEFT_HIP, RIGHT_HIP]].mean(1)
        self.unit = np.linalg.norm(self.shoulders - self.hips, axis=1).astype(np.float32)
        if len(points) and not self.unit.min() > 0:
            raise ValueError("keypoints must have shoulders apart from hips, but they coincide")
        self.x = np.arange(size[1], dtype=np.float32)[None, None, :]
        self.y = np.arange(size[0], dtype=np.float32)[None, :, None]

    def _from(self, point):
        point = point.astype(np.float32)
        return self.x - point[:, 0, None, None], self.y - point[:, 1, None, None]

    def disc(self, centre, radius):
        x, y = self._from(centre)
        return np.sqrt(x * x + y * y) - (radius * self.unit)[:, None, None]

    def offset(self, origin, direction):
        """How far pixels lie in a direction."""
        x, y = self._from(origin)
        direction = direction.astype(np.float32)
        return x * direction[:, 0, None, None] + y * direction[:, 1, None, None]

    def capsule(self, start, end, r0, r1):
        """(distance, place along it from 0 to 1, place across it in units of the torso) for radii in these units."""
        line = (end - start).astype(np.float32)
        length = np.maximum((line * line).sum(1), 1e-6)[:, None, None]
        x, y = self._from(start)
        dx, dy = line[:, 0, None, None], line[:, 1, None, None]
        along = np.clip((x * dx + y * dy) / length, 0, 1)
        across = (y * dx - x * dy) / (np.sqrt(length) * self.unit[:, None, None])
        x, y = x - along * dx, y - along * dy
        distance = np.sqrt(x * x + y * y) - (r0 + (r1 - r0) * along) * self.unit[:, None, None]
        return distance, along, across

    def limb(self, start, end, r0, r1):
        return self.capsule(self.points[:, start], self.points[:, end], r0, r1)

    def on_torso(self, place):
        """Points [N, 2] from places across and down the torso, in its units."""
        down = self.hips - self.shoulders
        across = np.stack([down[:, 1], -down[:, 0]], -1)
        return self.shoulders + place[:, :1] * across + place[:, 1:] * down

    def torso(self):
        ends = (self.on_torso(np.full((len(self.points), 2), (0.0, at))) for at in (0.25, 0.95))
        return self.capsule(*ends, CHEST, BELLY)

    def head(self):
        """Its middle, and the direction in which it is up."""
        across = self.points[:, LEFT_EAR] - self.points[:, RIGHT_EAR]
        up = np.stack([across[:, 1], -across[:, 0]], -1)
        return self.points[:, [LEFT_EAR, RIGHT_EAR]].mean(1), up / np.maximum(
            np.linalg.norm(up, axis=1, keepdims=True), 1e-9
        )


def _cover(distance):
    return np.clip(0.5 - distance, 0, 1)


def _blend(picture, cover, ink):
    """Paints over pictures [N, 3, H, W]: ink [N, 3], or three channels [N, H, W]."""
    for channel in range(3):
        plane = picture[:, channel]
        value = ink[channel] if isinstance(ink, list) else ink[:, channel, None, None]
        plane += cover * (value - plane)


def _striped(along, count, unit):
    """Coverage by stripes across a part; the sine's slope at its zeros turns it into a distance in pixels."""
    count = np.asarray(count, np.float32)[:, None, None]
    waves = 2 * np.pi * np.maximum(count, 1e-3)
    pixels = 0.7 * unit[:, None, None]  # of the line that `along` runs over
    return np.where(count > 0, np.clip(0.5 + pixels / waves * np.sin(waves * along), 0, 1), 0).astype(np.float32)


def _check(keypoints) -> np.ndarray:
    points = np.asarray(keypoints, np.float64)
    if points.ndim != 3 or points.shape[1:] != (KEYPOINTS, 2) or not np.isfinite(points).all():
        raise ValueError(f"keypoints must be finite [N, 17, 2], but is {_checks.describe(keypoints)}")
    return points


# Pairs of pictures to learn from


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pictures of R figures, and of each of them T others: what they look like, and how they are posed.

    Attributes:
        reference: float32 [R, 3, H, W] in [0, 1].
        target, pose: [R * T, 3, H, W]; mask: [R * T, H, W]; those of a figure follow each other.
    """

    reference: np.ndarray
    target: np.ndarray
    pose: np.ndarray
    mask: np.ndarray


TORSO = 0.25  # of the picture's height, in the middle of what is drawn
TURN, SCALE, SHIFT = np.radians(10), np.log(1.1), 0.04  # most that pictures of a pair differ by; of the height


def composition(rng: np.random.Generator, count: int, size: tuple[int, int], turn, scale, shift) -> np.ndarray:
    """Similarities [N, 2, 3] that put figures into the middle of a picture, up to a turn, log scale and shift."""
    height, width = size
    torso = TORSO * height * np.exp(rng.uniform(-1, 1, count) * scale)
    angle = rng.uniform(-1, 1, count) * turn
    cos, sin = torso * np.cos(angle), torso * np.sin(angle)
    centre = np.array([width - 1, height - 1]) / 2 + (0, 0.08 * height)
    move = centre + rng.uniform(-1, 1, (count, 2)) * height * np.reshape(shift, (-1, 1))
    return np.stack([np.stack([cos, -sin, move[:, 0]], -1), np.stack([sin, cos, move[:, 1]], -1)], 1)


def draw_pairs(
    rng: np.random.Generator, figures: int, targets: int, size: tuple[int, int], difference: float = 1.0
) -> Pairs:
    """Pairs of similar composition, as data sets of dancers have them.

    Args:
        rng: what is drawn from.
        figures, targets: R, T.
        size: (height, width).
        difference: from 0 to 1, the most that a target's pose and similarity differ from the photo's: each draws its
            own difference up to it.
    """
    count = figures * targets
    looks = Looks.random(rng, figures)
    angles = random_angles(rng, figures)
    here = composition(rng, figures, size, TURN / 2, SCALE / 2, [SHIFT / 2])
    part = rng.uniform(0, difference, count)
    others = np.repeat(angles, targets, 0)
    others = others + part[:, None] * (random_angles(rng, count) - others)
    there = np.repeat(here, targets, 0)
    other = composition(rng, count, size, TURN / 2, SCALE / 2, [SHIFT / 2])
    there = there + np.maximum(part, 0.1)[:, None, None] * (other - there)
    reference, _ = draw_figures(pose_figure(angles, here), looks, size)
    points = pose_figure(others, there)
    target, mask = draw_figures(points, looks[np.repeat(np.arange(figures), targets)], size)
    return Pairs(reference, target, draw_poses(points, size), mask)


# Turn, log scale and shift of photos of a clip: what noise of half a pixel in keypoints makes of a fit.
JITTER = np.radians(3), np.log(1.04), 0.01


def draw_clips(
    rng: np.random.Generator, figures: int, frames: int, photos: int, size: tuple[int, int], jitter: float = 1.0
) -> Pairs:
    """Clips of figures that move evenly, and photos of each that are composed as the clip is, up to a jitter.

    Args:
        rng: what is drawn from.
        figures, frames: R, T.
        photos: of each clip, which serve as many frames each as follow each other; a divisor of T. They differ in
            nothing but the jitter.
        size: (height, width).
        jitter: how much of `JITTER`.

    Returns:
        Pairs whose reference is [R * photos, 3, H, W]; of a figure they follow each other.
    """
    looks, count = Looks.random(rng, figures), figures * frames
    spread = TURN / 2, SCALE / 2, [SHIFT / 2]
    angles, first, last = (random_angles(rng, figures) for _ in range(3))
    photo, here, there = (composition(rng, figures, size, *spread) for _ in range(3))
    speed = rng.uniform(0.1, 1, (figures, 1, 1))  # how much of the way from one pose to the other a clip goes
    part = speed * np.linspace(0, 1, frames)[:, None]
    poses = (first[:, None] + part * (last - first)[:, None]).reshape(count, -1)
    places = (here[:, None] + part[..., None] * (there - here)[:, None]).reshape(count, 2, 3)
    points = pose_figure(poses, places)
    target, mask = draw_figures(points, looks[np.repeat(np.arange(figures), frames)], size)
    of_photo = np.repeat(np.arange(figures), photos)
    seen = pose_figure(angles[of_photo], photo[of_photo])
    seen = _jittered(rng, seen, size, jitter)
    reference, _ = draw_figures(seen, looks[of_photo], size)
    return Pairs(reference, target, draw_poses(points, size), mask)


def _jittered(rng, points, size, amount):
    """Keypoints under small similarities about the middle of the picture, each its own."""
    turn, scale, shift = (amount * np.asarray(most) for most in JITTER)
    draws = rng.standard_normal((len(points), 4)) / 2
    factor, angle = np.exp(draws[:, 0] * scale), draws[:, 1] * turn
    cos, sin = factor * np.cos(angle), factor * np.sin(angle)
    matrix = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], 1)
    middle = np.array([size[1] - 1, size[0] - 1]) / 2
    return (points - middle) @ matrix.transpose(0, 2, 1) + middle + draws[:, None, 2:] * shift * size[0]
