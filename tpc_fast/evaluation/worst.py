"""Pictures of the frames in which an alignment is worst."""

import itertools
from pathlib import Path

import numpy as np

from tpc_fast.evaluation.alignment import Alignment, Variant
from tpc_fast.evaluation.clips import Observed
from tpc_fast.media.video import VideoReader
from tpc_fast.ops.warp import WarpSource
from tpc_fast.output.preview import MEMBER_COLOUR, OUTLINE_COLOUR, contours, to_jpeg

WORST = 4  # frames of a clip
PATTERN = "worst-*.jpg"
_HEIGHT = 256


def write_worst_frames(observed: Observed, variant: Variant, alignment: Alignment, frames: dict, folder: Path) -> None:
    """Writes worst-<IoU>-<frame>.jpg for the frames with the least IoU: the driving frame, and over it the person.

    Outlines: of the calibrated mask, and of the pose mask in the colour of members. The error of points ranks if the
    truth is known.
    """
    for old in folder.glob(PATTERN):
        old.unlink()
    if not Path(observed.driving).exists():
        return  # keypoints of the synthetic clip were given, and it was not filmed
    badness = frames["point_error"] if "point_error" in frames else -frames["iou"]
    order: list[int] = []
    apart = len(badness) // 20  # neighbours look alike
    for index in np.argsort(-np.nan_to_num(badness, nan=-np.inf), kind="stable").tolist():
        if len(order) < WORST and all(abs(index - other) > apart for other in order):
            order.append(index)
    source = WarpSource(observed.reference_image, observed.reference_mask)
    reader = VideoReader(observed.driving, frames=observed.frames)
    for index, frame in enumerate(itertools.islice(reader, max(order) + 1)):
        if index not in order:
            continue
        picture = observed.canvas.draw(frame.image)
        warped = source.warp(
            alignment.matrices[index : index + 1], observed.size, antialias=True, background=(picture // 3)[None]
        )
        over = warped.composite[0]
        over[contours(observed.pose_masks(slice(index, index + 1)))] = MEMBER_COLOUR
        over[contours(warped.mask[0])] = OUTLINE_COLOUR
        sheet = np.concatenate([picture, over], 1)
        name = f"worst-{frames['iou'][index]:.3f}-{index:05d}.jpg"
        (folder / name).write_bytes(to_jpeg(sheet, _HEIGHT))
