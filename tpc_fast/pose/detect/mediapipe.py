"""MediaPipe Pose (BlazePose), whose models lie in its wheel: nothing is downloaded."""

import os
import sys

import numpy as np

from tpc_fast._extras import INSTALL
from tpc_fast.ops.procrustes import fit_similarity
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.canonical import TEMPLATE, CanonicalCrop
from tpc_fast.pose.detect.detection import Detection
from tpc_fast.pose.detect.quiet import quiet

MAX_PEOPLE = 20
_ABOVE_KNEES = np.arange(coco.COUNT) < coco.KNEES[0]
_MIDDLES = np.stack([TEMPLATE[coco.SHOULDERS].mean(0), TEMPLATE[coco.HIPS].mean(0)])
_EDGE = 4.0  # steepness of the mask's edge: confidences from 3/8 to 5/8 are partly covered

# The landmark network of MediaPipe's own graph, with the region given instead of detected: two thirds of the
# time, and none of the jitter of detected regions.
_UPRIGHT_GRAPH = """
input_stream: "image"
input_stream: "region"
input_side_packet: "complexity"
input_side_packet: "segmentation"
output_stream: "pose_landmarks"
output_stream: "segmentation_mask"
node {
  calculator: "PoseLandmarkByRoiCpu"
  input_stream: "IMAGE:image"
  input_stream: "ROI:region"
  input_side_packet: "MODEL_COMPLEXITY:complexity"
  input_side_packet: "ENABLE_SEGMENTATION:segmentation"
  output_stream: "LANDMARKS:pose_landmarks"
  output_stream: "SEGMENTATION_MASK:mask"
}
node {
  calculator: "FromImageCalculator"
  input_stream: "IMAGE:mask"
  output_stream: "IMAGE_CPU:segmentation_mask"
}
"""


# Its person detector alone, which finds several persons; the graph of MediaPipe Pose goes on with the first.
_PEOPLE_GRAPH = """
input_stream: "image"
output_stream: "pose_detections"
node {
  calculator: "PoseDetectionCpu"
  input_stream: "IMAGE:image"
  output_stream: "DETECTIONS:pose_detections"
}
"""


class MediaPipeDetector:
    """One person by MediaPipe 0.10 Pose (full model) in static mode: its tracking mode loses people who turn.

    With `people` of more than one, that many at most: those whom its person detector finds (see `GroupTracker`). None:
    as many as the photo shows.

    Use it from one thread at a time; make one detector per thread. It computes on its own threads and
    releases the GIL. Not to be carried over a fork.

    Args:
        people: how many persons there are to be found, from 1 to 20, or None.

    Raises:
        ImportError: if MediaPipe is missing; says how to install it.
        ValueError: if `people` is out of range.
    """

    name = "mediapipe"
    device = "cpu"
    # The network's own input size, so that nothing is resampled twice. 40 distances between the eyes show a
    # standing person whole; tighter crops cut feet, and the keypoints of whole figures jump. For half figures
    # that is too wide: shoulders are then seen in one of two ways, 20 % apart.
    whole = CanonicalCrop(size=256, unit=6.4, nose=(127.5, 52.0), hips=0.15)
    # In that for half ones it looks for hips in the middle: nine full figures of five public clips, cut at 0.6 to 1.35
    # torsos below the shoulders, have torsos of 0.73 to 0.77 of their lengths (medians), uncut 0.80.
    half = CanonicalCrop(size=256, unit=9.0, nose=(127.5, 54.0), torso=0.76)

    def __init__(self, people: int | None = None):
        if people is not None and (not isinstance(people, int) or not 1 <= people <= MAX_PEOPLE):
            raise ValueError(f"people must be an integer from 1 to {MAX_PEOPLE}, but is {people!r}")
        self.people = people
        self._search = self._upright = self._people = None
        os.environ.setdefault("GLOG_minloglevel", "2")
        with quiet():
            mediapipe, pose, solution_base, rect = _import()
            self.version = mediapipe.__version__
            self._search = pose.Pose(static_image_mode=True, model_complexity=1, enable_segmentation=True)
            self._upright = solution_base.SolutionBase(
                graph_config=_UPRIGHT_GRAPH, side_inputs={"complexity": 1, "segmentation": True}
            )
            self._region = rect.NormalizedRect(x_center=0.5, y_center=0.5, width=1.0, height=1.0, rotation=0.0)
            blank = np.zeros((self.whole.size, self.whole.size, 3), np.uint8)  # the first run logs, too
            self.detect(blank)
            self.detect_upright(blank)
            self._people = solution_base.SolutionBase(graph_config=_PEOPLE_GRAPH)
            self.detect_people(blank)

    def detect(self, image: np.ndarray) -> Detection:
        """See `Detector.detect`."""
        return self._run(self._search, {"image": image})

    def detect_upright(self, image: np.ndarray) -> Detection:
        """See `Detector.detect_upright`."""
        return self._run(self._upright, {"image": image, "region": self._region})

    def detect_people(self, image: np.ndarray) -> Detection:
        """All persons of a picture, roughly, from any side.

        The network tells the middles of shoulders and hips: the keypoints, head to hips, are those of a person who
        stands upright on the line between them. Persons smaller than about a sixth of the picture are mostly
        missed.
        """
        if self._people is None:
            raise ValueError("the detector is closed")
        found = self._people.process({"image": image}).pose_detections or []
        height, width = image.shape[:2]
        keypoints = np.full((len(found), coco.COUNT, 2), np.nan, np.float32)
        scores = np.zeros((len(found), coco.COUNT), np.float32)
        for p, person in enumerate(found):
            hips, _, shoulders, _ = (
                (point.x * width - 0.5, point.y * height - 0.5) for point in person.location_data.relative_keypoints
            )
            line = fit_similarity(_MIDDLES, np.array([shoulders, hips]))
            if line.ok:
                keypoints[p, _ABOVE_KNEES] = line.apply(TEMPLATE[_ABOVE_KNEES])
                scores[p, _ABOVE_KNEES] = person.score[0]
        return Detection(keypoints, scores)

    def close(self) -> None:
        """See `Detector.close`."""
        for graph in (self._search, self._upright, self._people):
            if graph is not None:
                graph.close()
        self._search = self._upright = self._people = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _run(self, graph, inputs) -> Detection:
        if graph is None:
            raise ValueError("the detector is closed")
        found = graph.process(inputs) if graph is self._upright else graph.process(inputs["image"])
        if found.pose_landmarks is None:
            return Detection.nobody()
        height, width = inputs["image"].shape[:2]
        landmarks = [found.pose_landmarks.landmark[i] for i in coco.OF_MEDIAPIPE]
        # MediaPipe puts coordinate 0 at the edge of the first pixel, we at its centre.
        keypoints = np.array([(p.x * width - 0.5, p.y * height - 0.5) for p in landmarks], np.float32)
        # Half figures get made-up legs and elbows with a visibility of up to 0.8; what is seen has 0.95 and
        # more.
        scores = np.clip([2 * p.visibility - 1 for p in landmarks], 0, 1).astype(np.float32)
        # The network tells how sure it is; a mask is coverage: all or nothing but for the edge.
        coverage = np.clip((found.segmentation_mask - 0.5) * _EDGE + 0.5, 0, 1)
        mask = (coverage * 255 + 0.5).astype(np.uint8)
        return Detection(keypoints[None], scores[None], mask[None])


def _import():
    """The parts of MediaPipe that are used."""
    hint = INSTALL["mediapipe"]
    if sys.version_info >= (3, 13):
        hint += " under Python 3.11 or 3.12 (there are no wheels for later ones)"
    hint += ", or give keypoints and masks of your own"
    try:
        import mediapipe
        from mediapipe.framework.formats import rect_pb2
        from mediapipe.python import solution_base
        from mediapipe.python.solutions import pose
    except ImportError as error:
        if "libGL" in str(error):
            hint = "its OpenCV needs the system package libgl1 (apt-get install libgl1)"
        raise ImportError(f"the detector needs MediaPipe 0.10.21 ({error}): {hint}") from error
    return mediapipe, pose, solution_base, rect_pb2
