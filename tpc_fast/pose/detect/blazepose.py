"""BlazePose by LiteRT: the networks of MediaPipe Pose without the package around them."""

import functools
import os
from pathlib import Path

import numpy as np

from tpc_fast._extras import INSTALL
from tpc_fast.ops.procrustes import fit_similarity
from tpc_fast.ops.resample import resample
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect import blazepose_decoding as decoding
from tpc_fast.pose.detect import blazepose_mask, model_files
from tpc_fast.pose.detect.canonical import TEMPLATE, CanonicalCrop
from tpc_fast.pose.detect.detection import Detection
from tpc_fast.pose.detect.quiet import quiet

MAX_PEOPLE = 20
MAX_THREADS = 64
_ABOVE_KNEES = np.arange(coco.COUNT) < coco.KNEES[0]
_MIDDLES = np.stack([TEMPLATE[coco.SHOULDERS].mean(0), TEMPLATE[coco.HIPS].mean(0)])
_HIPS, _SHOULDERS = 0, 2  # among the points of a person whom the search finds
_NOTICE = "INFO: Created TensorFlow Lite XNNPACK delegate"  # LiteRT's, once a process; it has no switch for it
_EDGE = 4.0  # steepness of the mask's edge: confidences from 3/8 to 5/8 are partly covered
# The network tells how sure it is; a mask is coverage: all or nothing but for the edge. By confidence in 255ths.
_COVERAGE = (np.clip((np.arange(256) / 255 - 0.5) * _EDGE + 0.5, 0, 1) * 255 + 0.5).astype(np.uint8)


class BlazePoseDetector:
    """One person by BlazePose (full model), in pictures each on its own: no memory of other pictures.

    With `people` of more than one, that many at most: those whom its person detector finds (see `GroupTracker`). None:
    as many as the photo shows.

    Use it from one thread at a time; make one detector per thread. It computes on its own threads and releases the GIL.
    Not to be carried over a fork.

    Attributes:
        lanes: how many frames of a video may be looked at at once, each on one thread: as many as `threads`; None: as
            many as the process may use cores. One in a subclass.

    Args:
        people: how many persons there are to be found, from 1 to 20, or None.
        threads: that the networks compute on; None: two, if the process may use so many cores.
        landmark: path of another landmark network of the family, such as pose_landmark_heavy.tflite; None: the full
            one. The networks come from `model_files.network`, which fetches them on first use.

    Raises:
        ImportError: if LiteRT is missing; says how to install it.
        ValueError: if an option is out of range, or a file is damaged or no such network.
        OSError: if a network is not there and can't be had.
    """

    name = "blazepose"
    device = "cpu"
    # The network's own input size, so that nothing is resampled twice. 40 distances between the eyes show a
    # standing person whole; tighter crops cut feet, and the keypoints of whole figures jump. For half figures
    # that is too wide: shoulders are then seen in one of two ways, 20 % apart.
    whole = CanonicalCrop(size=256, unit=6.4, nose=(127.5, 52.0), hips=0.15)
    # In that for half ones it looks for hips in the middle: nine full figures of five public clips, cut at 0.6 to 1.35
    # torsos below the shoulders, have torsos of 0.73 to 0.77 of their lengths (medians), uncut 0.80.
    half = CanonicalCrop(size=256, unit=9.0, nose=(127.5, 54.0), torso=0.76)

    def __init__(
        self, people: int | None = None, threads: int | None = None, landmark: str | os.PathLike | None = None
    ):
        if people is not None and (not isinstance(people, int) or not 1 <= people <= MAX_PEOPLE):
            raise ValueError(f"people must be an integer from 1 to {MAX_PEOPLE}, but is {people!r}")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # A class of one's own that sees or does something else would not be what looks in the lanes.
        own_class = type(self) is not BlazePoseDetector
        self.lanes = 1 if own_class else cores if threads is None else threads
        threads = min(2, cores) if threads is None else threads
        if not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"threads must be an integer from 1 to {MAX_THREADS}, but is {threads!r}")
        self._again = functools.partial(BlazePoseDetector, threads=1, landmark=landmark)
        self._in_lanes: dict[int, BlazePoseDetector] = {}
        self._search = self._landmark = None
        interpreter = _import()
        self.people = people
        self.version = f"{model_files.VERSION}, LiteRT {_litert_version()}"
        own = landmark is not None
        if own and not Path(landmark).is_file():
            raise FileNotFoundError(f"there is no file {str(landmark)!r} for blazepose's landmark network")
        path = Path(landmark) if own else model_files.network("pose_landmark_full")
        digest = model_files.digest(path) if own else model_files.NETWORKS["pose_landmark_full"].sha256
        if own:
            self.version += f", {path.name} {digest[:12]}"
        # A search is made for a photo, a first frame or after a loss: its network, whose file is here, is loaded then.
        search, anchors = model_files.network("pose_detection"), len(decoding.anchors())
        self._make_search = lambda: _Network(
            interpreter, search, decoding.SEARCH_SIDE, [(anchors, 12), (anchors, 1)], threads, (-1, 1)
        )
        side, shortened = decoding.LANDMARK_SIDE, blazepose_mask.can_do_without(digest)
        masks = [blazepose_mask.FEATURES, blazepose_mask.EARLIER] if shortened else [(side, side, 1)]
        shapes = [(5 * decoding.LANDMARKS,), (1,), (None, None, decoding.LANDMARKS), *masks]
        change = blazepose_mask.without_head if shortened else None
        self._landmark = _Network(interpreter, path, side, shapes, threads, (0, 1), change)
        self._mask_head = blazepose_mask.head_weights(self._landmark.constant) if shortened else None
        self._anchors = decoding.anchors()

    def detect(self, image: np.ndarray) -> Detection:
        """See `Detector.detect`."""
        people = self._find(image)
        if not len(people.scores):
            return Detection.nobody()
        view = decoding.landmark_view(people.points[0])
        if view is None:
            return Detection.nobody()
        side = decoding.LANDMARK_SIDE
        keypoints, scores, sure = self._look(resample(image, view, (side, side)))
        if keypoints is None:
            return Detection.nobody()
        turn, shift = view[:, :2], view[:, 2]
        back = np.linalg.inv(turn)
        keypoints = (keypoints - shift) @ back.T
        sure = resample(sure, np.column_stack([back, -back @ shift]), image.shape[:2], "black")
        return _detection(keypoints, scores, sure)

    def detect_upright(self, image: np.ndarray) -> Detection:
        """See `Detector.detect_upright`."""
        keypoints, scores, sure = self._look(image)
        return Detection.nobody() if keypoints is None else _detection(keypoints, scores, sure)

    def detect_people(self, image: np.ndarray) -> Detection:
        """All persons of a picture, roughly, from any side.

        The network tells the middles of shoulders and hips: the keypoints, head to hips, are those of a person who
        stands upright on the line between them. Persons smaller than about a sixth of the picture are mostly missed.
        """
        found = self._find(image)
        keypoints = np.full((len(found.scores), coco.COUNT, 2), np.nan, np.float32)
        scores = np.zeros((len(found.scores), coco.COUNT), np.float32)
        for p, (points, score) in enumerate(zip(found.points - 0.5, found.scores, strict=True)):
            line = fit_similarity(_MIDDLES, points[[_SHOULDERS, _HIPS]])
            if line.ok:
                keypoints[p, _ABOVE_KNEES] = line.apply(TEMPLATE[_ABOVE_KNEES])
                scores[p, _ABOVE_KNEES] = score
        return Detection(keypoints, scores)

    def close(self) -> None:
        """See `Detector.close`."""
        self._search = self._landmark = None
        for one in self._in_lanes.values():
            one.close()

    def in_lane(self, number: int) -> "BlazePoseDetector":
        """A detector of this kind on one thread, for the lane of this number (see `lanes.steps`); closed with this."""
        if number not in self._in_lanes:
            self._in_lanes[number] = self._again()
        return self._in_lanes[number]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _find(self, image: np.ndarray) -> decoding.People:
        """The persons in a picture, in its edge coordinates."""
        if self._landmark is None:
            raise ValueError("the detector is closed")
        if self._search is None:
            self._search = self._make_search()
        view = decoding.search_view(*image.shape[:2])
        side = decoding.SEARCH_SIDE
        boxes, logits = self._search(resample(image, view, (side, side), "black"))
        people = decoding.merge_boxes(*decoding.decode_boxes(boxes, logits[:, 0], self._anchors))
        return people._replace(points=(people.points * side - view[:, 2]) / view[0, 0])

    def _look(self, crop: np.ndarray):
        """Keypoints [17, 2] in edge coordinates, scores [17], confidence uint8 [256, 256] in a crop; or three None."""
        if self._landmark is None:
            raise ValueError("the detector is closed")
        raw, presence, heatmap, *sure = self._landmark(crop)
        if not decoding.sees_somebody(presence[0]):
            return None, None, None
        keypoints, visibility = decoding.decode_landmarks(raw, heatmap, coco.OF_MEDIAPIPE)
        # Half figures get made-up legs and elbows with a visibility of up to 0.8; what is seen has 0.95 and more.
        scores = np.clip(2 * visibility - 1, 0, 1)
        if self._mask_head is not None:
            return keypoints, scores, blazepose_mask.confidence(*sure, self._mask_head)
        return keypoints, scores, (255 * _sigmoid32(sure[0][..., 0]) + 0.5).astype(np.uint8)


def _detection(keypoints, scores, sure) -> Detection:
    """From edge coordinates to ours, in which the centre of the first pixel is 0."""
    return Detection((keypoints - 0.5).astype(np.float32)[None], scores.astype(np.float32)[None], _COVERAGE[sure][None])


def _sigmoid32(values: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * values)


class _Network:
    """A network that takes one picture, ready to run: `network(picture)` gives its outputs.

    Args:
        side: of the square pictures that it takes.
        shapes: of the outputs that are wanted, without the batch; None where any size will do.
        limits: what it takes for black and white.
        change: what makes the network, bytes, from what is in the file; None: as it is.
    """

    def __init__(
        self, interpreter, path: Path, side: int, shapes, threads: int, limits: tuple[float, float], change=None
    ):
        try:
            what = {"model_path": str(path)} if change is None else {"model_content": change(path.read_bytes())}
            with quiet(_NOTICE):
                self._run = interpreter(**what, num_threads=threads)
                self._run.allocate_tensors()
            (takes,) = self._run.get_input_details()
            outputs = [(tuple(d["shape"][1:].tolist()), d["index"]) for d in self._run.get_output_details()]
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{str(path)!r} can't be loaded as a network of BlazePose: {error}") from error
        self._outputs = [index for shape in shapes for has, index in outputs if _fits(has, shape)]
        if tuple(takes["shape"]) != (1, side, side, 3) or len(self._outputs) != len(shapes):
            raise ValueError(
                f"{str(path)!r} is no such network of BlazePose: it takes {tuple(takes['shape'].tolist())} and gives "
                f"{', '.join(str(has) for has, _ in outputs)}, where (1, {side}, {side}, 3) and "
                f"{', '.join(map(str, shapes))} are expected"
            )
        self._input = takes["index"]
        self._low, self._scale = np.float32(limits[0]), np.float32((limits[1] - limits[0]) / 255)

    def constant(self, index: int) -> np.ndarray:
        """A tensor that is part of the file."""
        return self._run.get_tensor(index)

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        values = self._run.tensor(self._input)()[0]
        np.multiply(picture, self._scale, out=values)
        if self._low:
            values += self._low
        del values  # or the runtime refuses to run
        self._run.invoke()
        return [self._run.get_tensor(index)[0] for index in self._outputs]


def _fits(shape, wanted) -> bool:
    return len(shape) == len(wanted) and all(w in (None, s) for s, w in zip(shape, wanted, strict=True))


def _litert_version() -> str:
    import ai_edge_litert

    if hasattr(ai_edge_litert, "__version__"):
        return ai_edge_litert.__version__
    import importlib.metadata  # it imports readers of mail and sockets, which takes long

    return importlib.metadata.version("ai-edge-litert")


def _import():
    try:
        import ai_edge_litert  # noqa: F401  what is absent says so, whatever of it was imported before
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            f"the detector blazepose needs LiteRT ({error}): {INSTALL['demo']}, or give keypoints and masks of your own"
        ) from error
    return Interpreter
