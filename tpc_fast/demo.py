"""The demo: a clip whose every transform is known, through the whole path, and the error against the truth.

Reference is the astronaut photo in scikit-image's wheel (Eileen Collins, NASA, public domain). The driving clip shows
the same photo under a camera path: it shrinks to 0.45 and grows to 1.6, rolls from -60 to 60 degrees, and leaves the
frame in part. A perfect calibration finds the camera's similarity again.
"""

import dataclasses
from pathlib import Path

import numpy as np

from tpc_fast._extras import INSTALL
from tpc_fast.calibration.result import Calibration
from tpc_fast.media.video import VideoWriter
from tpc_fast.ops.procrustes import Similarity
from tpc_fast.ops.warp import WarpSource

FRAMES, FPS, SIZE = 96, 24.0, 512
MAX_ANGLE_DEGREES, MAX_LOG_SCALE = 2.0, 0.06  # medians that the demo must not exceed
FACE = np.array([[223.0, 120.0]])  # of the photo's face, xy pixels: what the camera follows
WALL = (58, 66, 78)  # what the camera sees beyond the photo


def load_photo() -> np.ndarray:
    """The astronaut, uint8 [512, 512, 3].

    Raises:
        ImportError: if scikit-image is missing; says how to install it.
    """
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise ImportError(f"the demo needs the photo in scikit-image: {INSTALL['demo']}") from error
    return astronaut()


def camera_path(frames: int = FRAMES) -> Similarity:
    """Where the camera shows the photo: similarities [F], photo pixels -> frame pixels."""
    t = np.arange(frames) / frames * 2 * np.pi
    log_scale = (np.log(1.6) + np.log(0.45)) / 2 - (np.log(1.6) - np.log(0.45)) / 2 * np.cos(t)
    angle = np.radians(60) * np.sin(t)
    # The face wanders through the frame; the body leaves it below and at the sides.
    target = np.stack([256 + 90 * np.sin(t + 1), 190 + 50 * np.sin(2 * t)], -1)
    return Similarity.from_scale_angle(np.exp(log_scale), angle, FACE[0], target)


def write_clip(photo: np.ndarray, path: Path, camera: Similarity) -> None:
    """Films the photo along the camera path into an H.264 file."""
    source = WarpSource(photo, np.full(photo.shape[:2], 255, np.uint8))
    with VideoWriter(path, FPS, (SIZE, SIZE)) as video:
        for matrix in camera.matrix:
            video.write(source.warp(matrix[None], (SIZE, SIZE), "cubic", antialias=True, background=WALL).composite[0])


@dataclasses.dataclass(frozen=True)
class Errors:
    """Errors of a calibration against the camera path, [F] each.

    Attributes:
        angle: absolute, degrees.
        log_scale: absolute.
        shift: of the face, in pixels of the frame.
    """

    angle: np.ndarray
    log_scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def of(cls, matrices: np.ndarray, camera: Similarity) -> "Errors":
        """Matrices [F, 1, 2, 3] of a calibration of the clip on a canvas of the clip's size."""
        found = Similarity.from_matrix(matrices[:, 0].astype(np.float64))
        change = found @ camera.inverse()
        shift = (found.apply(FACE) - camera.apply(FACE))[:, 0]
        return cls(np.degrees(abs(change.angle)), abs(np.log(change.scale)), np.hypot(*shift.T))

    @property
    def within(self) -> bool:
        """Whether the medians are within the demo's tolerance."""
        return bool(np.median(self.angle) <= MAX_ANGLE_DEGREES and np.median(self.log_scale) <= MAX_LOG_SCALE)

    def table(self) -> str:
        """Median, 95th percentile and worst of each."""
        rows = [f"{'error against the truth':<26}{'median':>10}{'95 %':>10}{'worst':>10}{'median at most':>16}"]
        for name, values, limit in (
            ("angle, degrees", self.angle, f"{MAX_ANGLE_DEGREES:g}"),
            ("|log scale|", self.log_scale, f"{MAX_LOG_SCALE:g}"),
            ("face position, pixels", self.shift, ""),
        ):
            numbers = np.median(values), np.percentile(values, 95), values.max()
            rows.append(f"{name:<26}" + "".join(f"{n:>10.3f}" for n in numbers) + f"{limit:>16}")
        return "\n".join(rows)


def picture(calibration: Calibration, columns: int = 6) -> np.ndarray:
    """Driving frames, calibrated frames, and the calibrated person over the dimmed frames, in rows; uint8 [H, W, 3]."""
    index = np.linspace(0, len(calibration) - 1, columns).round().astype(int)
    driving = [frame for i, frame in enumerate(calibration.driving_frames()) if i in set(index.tolist())]
    images = calibration.render(index).image[:, 0]
    overlays = calibration.render(index, background=(np.stack(driving) * 0.35).astype(np.uint8)).composite
    from PIL import Image

    side, gap = 200, 6
    sheet = np.full((3 * (side + gap) - gap, columns * (side + gap) - gap, 3), 255, np.uint8)
    for row, pictures in enumerate((driving, images, overlays)):
        for column, frame in enumerate(pictures):
            small = Image.fromarray(frame).resize((side, side), Image.Resampling.LANCZOS)
            sheet[row * (side + gap) :, column * (side + gap) :][:side, :side] = small
    return sheet
