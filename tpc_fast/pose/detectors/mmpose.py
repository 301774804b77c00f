"""MMPose through its `MMPoseInferencer`: any number of persons, no masks."""

import numpy as np

from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detection import Detection

INSTALL = "see the recipe in the README: mmpose 1.3.2 with --no-deps, the whole mmcv 2.1 built from source, torchvision"


def _known_globals():
    """Lets torch load what MMPose's checkpoints hold beside weights, keypoint names and sizes in arrays, and no more.

    Since torch 2.6 it refuses them otherwise, and MMPose does not know.
    """
    import torch
    from mmengine.logging import HistoryBuffer

    # What rebuilds arrays and single numbers, by its name in NumPy 1 and 2.
    rebuilders = [
        (value.__reduce__()[0], f"numpy.{core}.multiarray.{name}")
        for name, value in (("_reconstruct", np.zeros(1)), ("scalar", np.float64(0)))
        for core in ("core", "_core")
    ]
    kinds = {type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8", "u1", "bool")}
    return torch.serialization.safe_globals([*rebuilders, np.ndarray, np.dtype, HistoryBuffer, *kinds])


class MMPoseDetector:
    """All persons of a picture by a model of MMPose.

    Args:
        config: alias of a model ("human"), or path of its configuration.
        checkpoint: path of its weights; None: MMPose downloads them.
        detect: of the model that finds persons; "whole_image" takes the whole picture for one; None: MMPose's own.
        device: "cpu", "cuda:0", ...; None: MMPose's choice.

    Attributes:
        device: where the model's weights are.

    Raises:
        ImportError: if MMPose is missing; says how to install it.
        ValueError: if it can't make the model.
    """

    name = "mmpose"

    def __init__(self, config="human", checkpoint=None, detect=None, device=None):
        try:
            import mmpose
            from mmpose.apis import MMPoseInferencer
        except ImportError as error:
            raise ImportError(f"the detector mmpose needs MMPose ({error}): {INSTALL}") from error
        self.version = mmpose.__version__
        try:
            with _known_globals():
                self._inferencer = MMPoseInferencer(
                    pose2d=str(config), pose2d_weights=checkpoint, det_model=detect, device=device, show_progress=False
                )
        except Exception as error:  # of many kinds
            raise ValueError(f"MMPose can't make {config!r} with {checkpoint!r}: {error}") from error
        self.device = str(next(self._inferencer.inferencer.model.parameters()).device)

    def detect(self, image: np.ndarray) -> Detection:
        """See `PeopleDetector.detect`."""
        if self._inferencer is None:
            raise ValueError("the detector is closed")
        found = next(self._inferencer(np.ascontiguousarray(image[..., ::-1])))["predictions"][0]  # it takes BGR
        if not found:
            return Detection.nobody()
        keypoints = np.array([person["keypoints"] for person in found], np.float32)
        scores = np.array([person["keypoint_scores"] for person in found], np.float32)
        if keypoints.shape[1] < coco.COUNT:
            raise ValueError(f"the pose model must find 17 COCO keypoints, but finds {keypoints.shape[1]}")
        return Detection(keypoints[:, : coco.COUNT], np.clip(scores[:, : coco.COUNT], 0, 1))

    def close(self) -> None:
        """See `PeopleDetector.close`."""
        self._inferencer = None
