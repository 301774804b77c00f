"""MMPose through its `MMPoseInferencer`: any number of persons, no masks."""

from pathlib import Path

import numpy as np

from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.detection import Detection

INSTALL = (
    "see the recipe in docs/guides/detectors.md: mmpose 1.3.2 with --no-deps, the whole mmcv 2.1 built from source, "
    "torchvision"
)
_MIN_BOX_SCORE = 0.3  # as MMPose's own


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


class _Nobody(Exception):
    """No box of a person was found."""


class MMPoseDetector:
    """All persons of a picture by a model of MMPose.

    Args:
        config: alias of a model ("human"), or path of its configuration.
        checkpoint: path or address of its weights; None: MMPose downloads those of an alias.
        detect: alias or path of the configuration of the model (of MMDetection) that finds persons for a top-down
            `config`; "whole_image" takes the whole picture for one; None: MMPose's own.
        detect_checkpoint: path or address of its weights; None: MMDetection downloads those of an alias.
        device: "cpu", "cuda:0", ...; None: MMPose's choice.

    Attributes:
        device: where the model's weights are.

    Raises:
        ImportError: if MMPose is missing; says how to install it.
        FileNotFoundError: for a configuration or a checkpoint that is not there.
        ValueError: if it can't make the model; if a checkpoint lacks weights of its configuration (MMPose would go on
            with random ones); if the keypoints are not COCO's, or what is detected is no person.
    """

    name = "mmpose"

    def __init__(self, config="human", checkpoint=None, detect=None, detect_checkpoint=None, device=None):
        try:
            import mmpose
            from mmpose.apis import MMPoseInferencer
        except ImportError as error:
            raise ImportError(f"the detector mmpose needs MMPose ({error}): {INSTALL}") from error
        self.version = mmpose.__version__
        config, detect = str(config), None if detect is None else str(detect)
        _check_files("config", config, checkpoint)
        _check_files("detect", detect, detect_checkpoint)
        if detect_checkpoint is not None and detect in (None, "whole_image"):
            raise ValueError(
                f"mmpose's detect_checkpoint must come with the model that it is of, detect, not {detect!r}"
            )
        try:
            with _known_globals():
                self._inferencer = MMPoseInferencer(
                    pose2d=config,
                    pose2d_weights=checkpoint,
                    det_model=detect,
                    det_weights=detect_checkpoint,
                    device=device,
                    show_progress=False,
                )
        except Exception as error:  # of many kinds
            files = ", ".join(repr(f) for f in (config, checkpoint, detect, detect_checkpoint) if f is not None)
            raise ValueError(f"MMPose can't make a model of {files}: {error}") from error
        inferencer = self._inferencer.inferencer
        _check_weights(inferencer.model, config, checkpoint)
        known = (inferencer.model.dataset_meta or {}).get("keypoint_id2name", {})
        names = tuple(known[k] for k in sorted(known)[: coco.COUNT])
        if names and names != coco.NAMES:
            raise ValueError(
                f"the pose model must find the 17 COCO keypoints first, but {config!r} finds {', '.join(names)}"
            )
        if getattr(inferencer, "detector", None) is not None:
            _check_weights(inferencer.detector.model, detect, detect_checkpoint)
            self._find_persons(inferencer, detect)
        self.device = str(next(inferencer.model.parameters()).device)

    def detect(self, image: np.ndarray) -> Detection:
        """See `PeopleDetector.detect`."""
        if self._inferencer is None:
            raise ValueError("the detector is closed")
        picture = np.ascontiguousarray(image[..., ::-1])  # it takes BGR
        try:
            found = next(self._inferencer(picture, bbox_thr=_MIN_BOX_SCORE))["predictions"][0]
        except _Nobody:
            return Detection.nobody()
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

    @staticmethod
    def _find_persons(inferencer, detect) -> None:
        """Has boxes of persons taken, and no others; MMPose would take the whole picture where there are none."""
        detector = inferencer.detector
        if detect is not None:  # MMPose knows the categories of its own
            classes = detector.model.dataset_meta["classes"]
            classes = (classes,) if isinstance(classes, str) else tuple(classes)
            if "person" not in classes:
                raise ValueError(f"the model that detects must find 'person', but {detect!r} finds {classes}")
            inferencer.det_cat_ids = (classes.index("person"),)

        def watched(*args, **kwargs):
            found = detector(*args, **kwargs)
            boxes = found["predictions"][0].pred_instances.cpu().numpy()
            if not (np.isin(boxes.labels, inferencer.det_cat_ids) & (boxes.scores > _MIN_BOX_SCORE)).any():
                raise _Nobody
            return found

        inferencer.detector = watched


def _check_files(name: str, config: str | None, checkpoint: str | None) -> None:
    """Raises for files that are not there, and for a configuration without weights."""
    is_file = config is not None and Path(config).suffix in (".py", ".yml", ".yaml", ".json")
    for what, path in ((name, config if is_file else None), ("checkpoint", checkpoint)):
        if path is not None and "://" not in path and not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {path!r} for mmpose's {what}")
    if is_file and checkpoint is None:
        needed = "checkpoint" if name == "config" else "detect_checkpoint"
        raise ValueError(f"mmpose's {name} is a file, {config!r}, so {needed} must be given too")


def _check_weights(model, config: str | None, checkpoint: str | None) -> None:
    """Raises if a model has weights that its checkpoint does not: they are random then."""
    if checkpoint is None:
        return
    from mmengine.runner import CheckpointLoader

    with _known_globals():
        weights = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu")
    weights = weights.get("state_dict", weights)
    shapes = {name.removeprefix("module."): value.shape for name, value in weights.items()}
    wrong = [name for name, value in model.named_parameters() if shapes.get(name) != value.shape]
    if wrong:
        raise ValueError(
            f"{checkpoint!r} is no checkpoint of {config!r}: {len(wrong)} of its weights are missing or of another "
            f"shape, {wrong[0]} first"
        )
