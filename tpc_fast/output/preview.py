"""The preview: driving frame, calibrated reference and overlay side by side, as video and pictures."""

import io
import os
from collections.abc import Callable, Collection

import numpy as np

from tpc_fast.calibration.small_frames import PREVIEW_HEIGHT, preview_size
from tpc_fast.media.images import mask_iou
from tpc_fast.media.marks import draw_marks
from tpc_fast.media.video import VideoWriter
from tpc_fast.output.render import RenderedFrame, Workers, render_into

PANELS = ("driving", "calibrated", "overlay")
STATUS_COLOURS = {"fallback": "#d9a21b", "held": "#e0742e", "lost": "#d1435b"}
MEMBER_COLOUR, OUTLINE_COLOUR, OTHER_COLOUR = (255, 178, 36), (53, 208, 255), (215, 221, 226)
# Of the persons of a picture that shows several; the first is the outline of a single one.
PERSON_COLOURS = (OUTLINE_COLOUR, (255, 132, 82), (96, 222, 128), (214, 142, 255), (255, 222, 92), (255, 122, 178))
_DARK = 18  # text on a colour, and around one
_GAP = 4
_CRF = 21  # with 20, the sample's preview.mp4 has a ninth more bytes, and half a decibel


class PreviewSink:
    """Writes preview.mp4, and keeps what a report needs of the frames that pass by.

    Args:
        calibration: the Calibration.
        path: the video file, or None to write none.
        keep: indices of the frames to keep as pictures.

    Attributes:
        panel_size: (height, width) of the panels that frames must come with.
        pictures: frame index -> JPEG file of its three panels, in memory.
        mask_iou: float32 [F, P], of the calibrated masks and the pose masks.
    """

    def __init__(self, calibration, path: str | os.PathLike | None, keep: Collection[int] = ()):
        self._calibration, self._path, self._keep = calibration, path, frozenset(keep)
        self.panel_size = preview_size(calibration.size)
        self.pictures: dict[int, bytes] = {}
        self.mask_iou = np.zeros(calibration.matrices.shape[:2], np.float32)

    def __enter__(self) -> "PreviewSink":
        calibration = self._calibration
        height, width = self.panel_size
        self._video = None
        if self._path is not None:
            size = height, len(PANELS) * (width + _GAP) - _GAP
            # Beside the rendering: an encoder of several threads would wait for them, slice by slice.
            self._video = VideoWriter(
                self._path, calibration.fps, size, _CRF, "ultrafast", sound=calibration.sound, threads=1
            )
        self._worker = Workers(1, 4).__enter__()
        return self

    def prepare(self, frame: RenderedFrame):
        """Draws a frame; returns its strip of panels as the video's encoder takes it, if there is one."""
        self.mask_iou[frame.index] = mask_iou(frame.masks, frame.pose_masks)
        if self._video is None and frame.index not in self._keep:
            return None
        strip = draw_strip(self._calibration, frame)
        if frame.index in self._keep:
            self.pictures[frame.index] = to_jpeg(strip, PREVIEW_HEIGHT)
        return None if self._video is None else self._video.convert(strip)

    def write(self, frame: RenderedFrame, prepared) -> None:
        """Queues a strip for the video."""
        if self._video is not None:
            times = self._calibration.times
            self._worker.submit(self._video.write, prepared, float(times[frame.index] - times[0]))

    def __exit__(self, kind, error, trace) -> None:
        try:
            self._worker.__exit__(kind, error, trace)
        except BaseException:
            if self._video is not None:
                self._video.abort()
            raise
        if self._video is not None:
            self._video.__exit__(kind, error, trace)


def write_preview(
    calibration,
    path: str | os.PathLike | None,
    keep: Collection[int] = (),
    progress: Callable[[int, int], object] | None = None,
) -> PreviewSink:
    """Renders all frames into a preview video (H.264), and returns the sink with what it kept."""
    sink = PreviewSink(calibration, path, keep)
    render_into(calibration, [sink], progress, sink.panel_size)
    return sink


def draw_strip(calibration, frame: RenderedFrame) -> np.ndarray:
    """The three panels of a frame, uint8 [h, 3 w + gaps, 3], marked if somebody in it is not tracked.

    The overlay shows the calibrated persons over the dimmed driving frame, and the outlines and keypoints of the
    driving persons. Keypoints that the optimal subset uses are large. Of several persons, each has a colour and the
    number of its person in the reference.
    """
    height, width = size = frame.panels.driving.shape[:2]
    overlay = frame.panels.overlay.copy()
    radius = max(2.0, min(height, width) / 110)
    ratio = np.array(size[::-1]) / calibration.size[::-1]
    keypoints = (calibration.keypoints[frame.index] + 0.5) * ratio - 0.5
    seen = np.isfinite(keypoints).all(axis=-1)
    members = calibration.members[frame.index][seen][:, None]
    looks = np.where(members, (radius, *MEMBER_COLOUR), (0.6 * radius, *OTHER_COLOUR))
    colours = [person_colour(person) for person in range(len(frame.pose_masks))]
    draw_marks(overlay, frame.pose_masks, colours, np.concatenate([keypoints[seen], looks], axis=1))
    if len(keypoints) > 1:
        _number(overlay, keypoints)
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    strip = np.concatenate([frame.panels.driving, gap, frame.panels.calibrated, gap, overlay], axis=1)
    status = worst_status(calibration.status[frame.index])
    return strip if status == "tracked" else _mark(strip, f"frame {frame.index}: {status}", status)


def contours(masks: np.ndarray) -> np.ndarray:
    """The outlines of masks [P, h, w], two pixels wide: bool [h, w]."""
    solid = masks > 127
    lines = np.zeros(masks.shape[1:], bool)
    across = (solid[:, 1:] != solid[:, :-1]).any(axis=0)
    along = (solid[:, :, 1:] != solid[:, :, :-1]).any(axis=0)
    lines[1:] |= across
    lines[:-1] |= across
    lines[:, 1:] |= along
    lines[:, :-1] |= along
    return lines


def person_colour(person: int) -> tuple[int, int, int]:
    """What the outline, the number and the curves of a person of the reference are drawn in."""
    return PERSON_COLOURS[person % len(PERSON_COLOURS)]


def worst_status(status: np.ndarray) -> str:
    """The one of the statuses of a frame's persons that most needs attention."""
    found = status.tolist()  # comparing NumPy's strings takes ten times as long
    return next((s for s in reversed(STATUS_COLOURS) if s in found), "tracked")


def to_jpeg(picture: np.ndarray, height: int) -> bytes:
    """A picture [H, W, 3], made smaller if it is higher than `height`, as a JPEG file in memory."""
    from PIL import Image

    picture = Image.fromarray(picture)
    if picture.height > height:
        width = max(1, round(picture.width * height / picture.height))
        picture = picture.resize((width, height), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def _number(picture: np.ndarray, keypoints: np.ndarray) -> None:
    """Writes the number of each person [P, K, 2] above that person's topmost keypoint."""
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=max(10, canvas.height // 16))
    for person, points in enumerate(keypoints):
        if np.isfinite(points).all(-1).any():
            x, y = np.clip(points[np.nanargmin(points[:, 1])], (8, 18), (canvas.width - 8, canvas.height - 1))
            text = {"fill": person_colour(person), "stroke_fill": (_DARK,) * 3, "stroke_width": 2}
            draw.text((float(x), float(y) - 4), str(person), font=font, anchor="ms", **text)
    picture[:] = np.asarray(canvas)


def _mark(strip, text, status):
    """The strip with a coloured frame and a label."""
    from PIL import Image, ImageColor, ImageDraw, ImageFont

    picture = Image.fromarray(strip)
    draw, colour = ImageDraw.Draw(picture), ImageColor.getrgb(STATUS_COLOURS[status])
    edge = max(3, picture.height // 85)
    draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=colour, width=edge)
    font = ImageFont.load_default(size=max(10, picture.height // 20))
    _, _, right, bottom = draw.textbbox((3 * edge, 2 * edge), text, font=font)
    draw.rectangle((0, 0, right + 2 * edge, bottom + 2 * edge), fill=colour)
    draw.text((3 * edge, 2 * edge), text, fill=(_DARK,) * 3, font=font)
    return np.asarray(picture)
