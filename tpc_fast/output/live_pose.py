"""The pictures that a model follows, frame by frame as they come."""

from collections.abc import Callable

import numpy as np

from tpc_fast.calibration.stream import CalibratedFrame
from tpc_fast.diffusion.models.registry import Follows
from tpc_fast.output.pose_video import body_parts
from tpc_fast.pose.masks.densepose import DensePose, is_model
from tpc_fast.pose.skeleton import draw_skeletons

_DRAWN = (Follows.SKELETON, Follows.DWPOSE, Follows.OPENPOSE)  # from the keypoints that are at hand


def live_pose(
    follows: Follows, videos: tuple[str, ...], pose: str | None, stand_in: bool, device: str | None = None
) -> Callable[[np.ndarray, CalibratedFrame], object]:
    """What makes the pictures of a frame: a function of the driving frame on the canvas and the CalibratedFrame.

    Skeletons and body parts are drawn from the keypoints, DensePose by a TorchScript file.

    Args:
        follows: what the model follows.
        videos: their names.
        pose: a TorchScript file that draws DensePose (see `tpc_fast.pose.masks.densepose`), or None.
        stand_in: whether person masks will do where nothing else can be had: for small random weights.
        device: of torch, for the file.

    Returns:
        A function that returns uint8 [h, w, 3], or name -> picture if there are several videos.

    Raises:
        ValueError: where the pictures cannot be made of a frame.
    """
    if follows in _DRAWN or follows is Follows.PARTS:
        if pose is not None:
            raise ValueError(f"--pose must be left out: {follows.value} is drawn from the keypoints, but is {pose}")
        if follows is Follows.PARTS:
            return lambda frame, out: body_parts(out.keypoints[:1], out.scores[:1], frame.shape[:2])[0]
        return lambda frame, out: draw_skeletons(out.keypoints, out.scores, frame.shape[:2])
    if pose is not None and follows.densepose:
        if not is_model(pose):
            raise ValueError(f"--pose must be a TorchScript file that draws DensePose of each frame, but is {pose}")
        model = DensePose(pose, device)
        return lambda frame, out: model.draw(frame)
    if pose is not None or not stand_in:
        how = (
            "needs a TorchScript file that draws it, --pose" if follows.densepose else "cannot be made of a live frame"
        )
        raise ValueError(f"--model must follow what can be drawn live, but {follows.value} {how}")

    def masks(frame, out):
        picture = np.repeat(out.pose_mask.max(0)[..., None], 3, -1)
        return dict.fromkeys(videos, picture) if len(videos) > 1 else picture

    return masks
