"""Clips with a known truth: a camera path over a photo, and references that are turned, scaled and moved."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from tpc_fast import demo
from tpc_fast.evaluation.clips import DETECTIONS, Clip, Observed, observe
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.images import load_image
from tpc_fast.media.png import write_png
from tpc_fast.ops.coco import SCORE_THRESHOLD
from tpc_fast.ops.procrustes import Similarity
from tpc_fast.ops.warp import WarpSource
from tpc_fast.pose.detect.canonical import TEMPLATE
from tpc_fast.pose.files.detections import pack_mask

SYNTHETIC = "synthetic"
TURN_FRAMES = 72  # of a camera that turns once
#: Keypoints [17, 2] of a stick person on the demo's photo, for whoever wants no detector; NaN below the hips.
STAND_IN = np.where(np.arange(17)[:, None] < 13, 22 * TEMPLATE + demo.FACE, np.nan)


def turning(scale: float, frames: int = TURN_FRAMES) -> Similarity:
    """A camera that turns once about the demo photo's face, evenly from -180 degrees: similarities [F]."""
    angle = np.radians(np.arange(frames) * 360 / frames - 180)
    return Similarity.from_scale_angle(scale, angle, demo.FACE[0], np.full(2, (demo.SIZE - 1) / 2))


def observe_synthetic(folder: Path, photo: str | os.PathLike | None = None, camera=None, given=None, **options):
    """A camera path over a photo (None: the astronaut), filmed into `folder`, and looked at.

    Args:
        camera: similarities [F], photo pixels -> frame pixels; None: the demo's path.
        given: keypoints [17, 2] of the photo: then no detector is used, keypoints of the frames are the true ones, and
            the pose masks are the true ones of the whole photo.
        options: as for `observe`.

    Returns:
        Observed, with the truth.
    """
    image = demo.load_photo() if photo is None else load_image(photo)[0]
    camera = demo.camera_path() if camera is None else camera
    frames = len(camera.scale)
    if given is not None:
        keypoints = np.asarray(given, np.float32)
        size = (demo.SIZE, demo.SIZE)
        mask = np.full(image.shape[:2], 255, np.uint8)
        seen = np.isfinite(keypoints).all(-1).astype(np.float32)
        poses = WarpSource(mask[..., None], mask).warp(camera.matrix, size).mask[:, 0]
        return Observed(
            SYNTHETIC,
            size,
            np.arange(frames) / demo.FPS,
            image,
            mask,
            keypoints,
            seen,
            camera.apply(keypoints.astype(np.float64)).astype(np.float32),
            np.tile(seen, (frames, 1)),
            pack_mask(poses),
            Canvas.fitting(size, size, "pad"),
            folder / "driving.mp4",
            truth=camera.matrix,
        )
    driving, reference = folder / "driving.mp4", folder / "reference.png"
    if not driving.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_png(reference, image)
        demo.write_clip(image, driving, camera)
    observed = observe(Clip(SYNTHETIC, driving, reference), folder / DETECTIONS, size=demo.SIZE, **options)
    return dataclasses.replace(observed, truth=camera.matrix)


@dataclasses.dataclass(frozen=True)
class Misalignment:
    """What is done to a reference: turned by `angle` degrees, scaled, and moved by `shift` (x, y) of its size."""

    angle: float
    scale: float
    shift: tuple[float, float]

    def matrix(self, about: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """[2, 3], pixels of the reference -> pixels of the misaligned one, in which `about` lies at centre + shift."""
        target = (np.array(size[::-1]) - 1) / 2 + np.array(self.shift) * size[::-1]
        return Similarity.from_scale_angle(self.scale, np.radians(self.angle), about, target).matrix


def grid(rotations: int = 12, scales=(0.4, 0.6, 1.0, 1.5, 2.0), seed: int = 0) -> list[Misalignment]:
    """All rotations (evenly from -180 degrees) with all scales, each with a shift of its own of up to a tenth.

    The shifts depend on the seed and the place in the grid only.

    Raises:
        ValueError: for a number of rotations below 1, or scales that are not positive.
    """
    if rotations < 1 or not scales or not all(0 < s < np.inf for s in scales):
        raise ValueError(f"grid must have rotations >= 1 and scales > 0, but has {rotations} and {tuple(scales)}")
    rng = np.random.default_rng(seed)
    cells = [(-180 + 360 * r / rotations, s) for r in range(rotations) for s in scales]
    shifts = rng.uniform(-0.1, 0.1, (len(cells), 2)).tolist()
    return [Misalignment(a, s, tuple(shift)) for (a, s), shift in zip(cells, shifts, strict=True)]


def misaligned(observed: Observed, misalignment: Misalignment, tracker=None, whole: bool = False) -> Observed:
    """The clip with its reference turned, scaled and moved: partly out of its picture, maybe.

    Args:
        whole: whether the picture is as large as it must be to show all of the reference; it is then not moved.
        tracker: a `PersonTracker` that looks for the person in the misaligned reference; None: its keypoints are
            those of the reference as it was, moved along.

    Raises:
        ValueError: if nobody is found.
    """
    image, points = observed.reference_image, observed.reference_keypoints
    seen = np.isfinite(points).all(-1) & (observed.reference_scores >= SCORE_THRESHOLD)
    size = image.shape[:2]
    matrix = misalignment.matrix(points[seen].mean(0), size)
    if whole:
        corners = np.array([(-0.5, -0.5), (size[1] - 0.5, -0.5), (-0.5, size[0] - 0.5), (size[1] - 0.5, size[0] - 0.5)])
        corners = corners @ matrix[:, :2].T + matrix[:, 2]
        matrix[:, 2] -= corners.min(0) + 0.5
        size = tuple(int(np.ceil(side - 1e-6)) for side in np.ptp(corners, axis=0)[::-1])
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).mean(0).round()
    everything = WarpSource(image, np.full(image.shape[:2], 255, np.uint8))
    turned = everything.warp(matrix[None], size, antialias=True, background=border).composite[0]
    mask = WarpSource(image, observed.reference_mask).warp(matrix[None], size, antialias=True).mask[0, 0]
    if tracker is None:
        keypoints, scores = (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32), observed.reference_scores
    else:
        detection = tracker.find(turned)
        if not len(detection):
            raise ValueError(f"nobody is found in the reference ({tracker.tried})")
        keypoints, scores = detection.keypoints[0], detection.scores[0]
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    moved_points = points[seen] @ matrix[:, :2].T + matrix[:, 2]
    shown = ((moved_points >= -0.5) & (moved_points <= np.array(size[::-1]) - 0.5)).all(-1)

    def moved(matrices):
        return None if matrices is None else matrices @ back

    expected = None if observed.expected is None else {k: moved(m) for k, m in observed.expected.items()}
    return dataclasses.replace(
        observed,
        reference_image=turned,
        reference_mask=mask,
        reference_keypoints=keypoints,
        reference_scores=scores,
        published=None,
        truth=moved(observed.truth),
        expected=expected,
        in_frame=float(shown.mean()),
    )
