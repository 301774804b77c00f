"""RTMPose and RTMO through rtmlib, which runs ONNX models without MMPose: any number of persons, no masks."""

import contextlib
import importlib.metadata
import io
from pathlib import Path

import numpy as np

from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.detection import Detection

INSTALL = "pip install --no-deps rtmlib==0.0.16 && pip install onnxruntime opencv-python-headless tqdm"
_MODES = ("lightweight", "balanced", "performance")
_MIN_SCORE = 0.05  # mean score of a person who is not nobody
_COUNTS = (17, 26, 133, 136)  # of keypoints that begin with COCO's: its own, Halpe's with feet, whole bodies


class RtmlibDetector:
    """All persons of a picture: boxes by YOLOX and keypoints by RTMPose, or both at once by RTMO.

    Args:
        pose: path of an RTMPose model (.onnx, of 17, 26, 133 or 136 keypoints, which begin with COCO's); or
        rtmo: path of an RTMO model; or neither: rtmlib downloads models of `mode` itself.
        detect: path of a YOLOX model that finds persons for `pose`; without it the whole picture is one person.
        mode: "lightweight", "balanced" or "performance".
        size: (width, height) that the pose model takes; None: what the model says.
        device: "cpu", "cuda", "cuda:N", ...; None: cuda if onnxruntime has it.

    Attributes:
        device: what really computes, by onnxruntime's name.

    Raises:
        ImportError: if rtmlib or onnxruntime is missing; says how to install them.
        FileNotFoundError, ValueError: for a model that is not there, or not of the kind that it should be.
    """

    name = "rtmlib"

    def __init__(self, pose=None, rtmo=None, detect=None, mode="balanced", size=None, device=None):
        try:
            import onnxruntime
            import rtmlib
        except ImportError as error:
            raise ImportError(f"the detector rtmlib needs rtmlib and onnxruntime ({error}): {INSTALL}") from error
        if mode not in _MODES:
            raise ValueError(f"mode of rtmlib must be one of {', '.join(_MODES)}, but is {mode!r}")
        if pose is not None and rtmo is not None:
            raise ValueError("rtmlib takes pose or rtmo, not both")
        if detect is not None and pose is None:
            raise ValueError("rtmlib takes detect with pose, whose model is asked about what is found")
        self.version = importlib.metadata.version("rtmlib")
        if device is None:
            device = "cuda" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "cpu"
        options = {"backend": "onnxruntime", "device": device}
        self._boxes = self._pose = self._all = None
        if rtmo is not None:
            self._all = _load(rtmlib.RTMO, rtmo, "rtmo", 3, size, options)
        elif pose is not None:
            self._pose = _load(rtmlib.RTMPose, pose, "pose", 3, size, options)
            if detect is not None:
                self._boxes = _load(rtmlib.YOLOX, detect, "detect", 3, None, options)
        else:
            with _quiet():
                body = rtmlib.Body(mode=mode, **options)
            self._boxes, self._pose = body.det_model, body.pose_model
        session = (self._all or self._pose).session
        self.device = session.get_providers()[0].removesuffix("ExecutionProvider").lower()

    def detect(self, image: np.ndarray) -> Detection:
        """See `PeopleDetector.detect`."""
        if self._all is None and self._pose is None:
            raise ValueError("the detector is closed")
        picture = np.ascontiguousarray(image[..., ::-1])  # its models are trained on BGR
        height, width = image.shape[:2]
        if self._all is not None:
            pixels, ratio = self._all.preprocess(picture)
            outputs = self._all.inference(pixels)
            if not outputs[0].shape[1]:  # rtmlib would look for the first of nobody
                return Detection.nobody()
            keypoints, scores = self._all.postprocess(outputs, ratio, self._all.nms_thr, self._all.score_thr)
        else:
            boxes = [[0, 0, width, height]] if self._boxes is None else self._boxes(picture)
            if not len(boxes):  # rtmlib would take the whole picture
                return Detection.nobody()
            keypoints, scores = self._pose(picture, bboxes=boxes)
        if np.size(keypoints) == 0:
            return Detection.nobody()
        keypoints = np.asarray(keypoints, np.float32)[:, : coco.COUNT]
        scores = np.clip(np.asarray(scores, np.float32)[:, : coco.COUNT], 0, 1)
        inside = ((keypoints >= -0.5) & (keypoints <= (width - 0.5, height - 0.5))).all(-1)
        scores = np.where(inside, scores, 0)
        believed = scores.mean(-1) >= _MIN_SCORE
        return Detection(keypoints[believed], scores[believed])

    def close(self) -> None:
        """See `PeopleDetector.close`."""
        self._boxes = self._pose = self._all = None


@contextlib.contextmanager
def _quiet():
    with contextlib.redirect_stdout(io.StringIO()):  # it announces every model
        yield


def _load(kind, path, what: str, channels: int, size, options):
    """A model of rtmlib, its input size as the model says."""
    import onnxruntime

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r} for rtmlib's {what} model")
    try:
        with _quiet():
            model = kind(str(path), backend=options["backend"], device=options["device"])
    except Exception as error:  # onnxruntime has exceptions of its own
        raise ValueError(f"{str(path)!r} can't be loaded as rtmlib's {what} model: {error}") from error
    shape = model.session.get_inputs()[0].shape
    outputs = len(model.session.get_outputs())
    wanted = {"pose": 2, "rtmo": 2}.get(what)
    if len(shape) != 4 or shape[1] != channels or (wanted and outputs != wanted):
        raise ValueError(
            f"{str(path)!r} is no {what} model of rtmlib: it takes {shape} and gives {outputs} output(s), "
            f"where [N, {channels}, height, width] and {wanted or 'boxes'} are expected"
        )
    if size is not None:
        model.model_input_size = tuple(size)
    elif all(isinstance(side, int) for side in shape[2:]):
        # RTMPose counts across first, the square models do not care.
        model.model_input_size = (shape[3], shape[2])
    if not isinstance(model.session, onnxruntime.InferenceSession):
        raise ValueError(f"rtmlib runs {what} by {type(model.session).__name__}, not by onnxruntime")
    try:  # what it gives is known only then: published files do not tell
        blank = np.zeros((64, 64, 3), np.uint8)
        if what == "detect":
            np.reshape(model(blank), (-1, 4))
        else:
            points = model(blank)[0] if what == "pose" else model.inference(model.preprocess(blank)[0])[1]
            if points.shape[-2] not in _COUNTS:
                raise ValueError(f"it finds {points.shape[-2]} keypoints, not {', '.join(map(str, _COUNTS))}")
    except Exception as error:
        raise ValueError(f"{str(path)!r} is no {what} model of rtmlib: {error}") from error
    return model
