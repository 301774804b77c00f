"""A small synthetic scene with a known truth: a stick person whose keypoints are given, so no detector is needed."""

import numpy as np
from PIL import Image

from tpc_fast import Similarity, WarpSource

# A standing person from the front, COCO order, the nose at the origin.
FIGURE = np.array(
    [
        *([0, 0], [6, -6], [-6, -6], [12, -2], [-12, -2]),
        *([35, 45], [-35, 45], [45, 95], [-45, 95], [40, 140], [-40, 140]),
        *([22, 150], [-22, 150], [24, 220], [-24, 220], [24, 290], [-24, 290]),
    ],
    np.float64,
)
PERSON = 0.3 * FIGURE + [40, 12]  # in 80 x 104 pixels


def reference(rng) -> tuple[np.ndarray, np.ndarray]:
    """A photo uint8 [104, 80, 3] and the mask of its person."""
    image = rng.integers(0, 256, (26, 20, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    y, x = np.mgrid[:104, :80]
    return image, np.where(abs(x - 40) / 16 + abs(y - 52) / 50 < 1, 255, 0).astype(np.uint8)


def path(frames: int) -> Similarity:
    """A slow camera path, reference pixels -> driving pixels (driving frames are 120 x 160)."""
    t = np.arange(frames) / 30
    scale, angle = 0.9 + 0.3 * np.sin(t), 0.3 * np.sin(1.5 * t)
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
    centre = np.stack([80 + 10 * np.sin(t), 60 + 5 * np.cos(t)], -1)
    return Similarity(scale, rotation, centre - scale[:, None] * (rotation @ np.array([40.0, 52])))


def scene(rng, frames: int = 30):
    """reference, its mask, driving [F, 120, 160, 3], keypoints [F, 17, 2], masks [F, 120, 160], truth."""
    image, mask = reference(rng)
    truth = path(frames)
    warped = WarpSource(image, mask).warp(truth.matrix, (120, 160), background=(90, 60, 30))
    return image, mask, warped.composite, truth.apply(PERSON), warped.mask[:, 0], truth


TWO = np.stack([0.3 * FIGURE + (60, 20), 0.3 * FIGURE + (150, 25)]).astype(np.float32)  # in 140 x 210 pixels


def two_people(folder, rng) -> tuple[np.ndarray, list[str]]:
    """Photo, a clip of three frames and the keypoints of TWO as files; nobody is seen in the second frame.

    Returns:
        The photo, which is every frame too, and the arguments that calibrate it into folder / "out".
    """
    picture = rng.integers(0, 255, (35, 53, 3), np.uint8).repeat(4, 0).repeat(4, 1)[:, :210]
    Image.fromarray(picture).save(folder / "photo.png")
    (folder / "frames").mkdir()
    for f in range(3):
        Image.fromarray(picture).save(folder / "frames" / f"{f}.png")
    driving = np.stack([TWO] * 3)
    driving[1] = np.nan
    np.savez(folder / "reference.npz", keypoints=TWO[None])
    np.savez(folder / "driving.npz", keypoints=driving)
    return picture, [
        "calibrate", str(folder / "photo.png"), str(folder / "frames"), "-o", str(folder / "out"),
        "--size", "140x210", "--smooth", "none", "--reference-keypoints", str(folder / "reference.npz"),
        "--driving-keypoints", str(folder / "driving.npz"),
    ]  # fmt: skip
