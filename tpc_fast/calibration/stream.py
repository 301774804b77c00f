"""The main job on a stream: a reference photo and one driving frame at a time in, calibrated images and masks out."""

import collections
import dataclasses
import math

import numpy as np

from tpc_fast.calibration.device import DevicePictures
from tpc_fast.calibration.fade import SEEN, StreamFade
from tpc_fast.calibration.follow import shown, stream_estimator
from tpc_fast.calibration.pace import Pace, Shown, check_pace
from tpc_fast.calibration.reference import Reference
from tpc_fast.calibration.result import faded
from tpc_fast.calibration.session import Session, take_rows
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.images import load_image
from tpc_fast.ops.coco import SCORE_THRESHOLD
from tpc_fast.ops.track import MEMBER_WEIGHT, determined
from tpc_fast.ops.track_stream import MAX_LAG, TrackStep
from tpc_fast.ops.warp import DTYPES, Warped, WarpSource
from tpc_fast.pose.detect.detection import Detection, Detector
from tpc_fast.pose.files.given import check_detection
from tpc_fast.pose.masks.sam import Segmenter

SMOOTHINGS = ("none", "causal")
DEFAULT_SIZE = 512


@dataclasses.dataclass(frozen=True)
class CalibratedFrame:
    """One frame of a stream; P persons.

    Attributes:
        image: uint8 [P, h, w, 3], the reference photo warped onto the canvas; or float [P, 3, h, w] in [-1, 1].
        mask: uint8 [P, h, w], its person mask, coverage 0..255 (fading where a person is lost); or float in [0, 1].
        pose_mask: uint8 [P, h, w], where the driving person is; None without masks. These three are tensors on the
            calibrator's device if it has one.
        matrix: float32 [P, 2, 3], native pixels of the reference -> pixels of the canvas.
        status: [P] str, see `Calibration`.
        opacity: float32 [P].
        determined, swapped, members, residual, keypoints, scores, order: as in `Calibration`, without the frame axis.
        time: seconds.
        seen: the time of the frame that the detector looked at and that this result is based on; NaN before the first.
            It differs from `time` only in predicted frames (see `detect_every` and `asynchronous`). There keypoints,
            pose masks and matrices move on as the person moved, except pose masks that are tensors; all else is as it
            was at `seen`. The status is that of `seen`, and "lost" once that is more than `hold_seconds` ago.
    """

    image: np.ndarray
    mask: np.ndarray
    pose_mask: np.ndarray | None
    matrix: np.ndarray
    status: np.ndarray
    opacity: np.ndarray
    determined: np.ndarray
    swapped: np.ndarray
    members: np.ndarray
    residual: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray
    order: np.ndarray
    time: float
    seen: float = math.nan


class Calibrator:
    """Brings reference persons onto driving persons, frame by frame; causal.

    Examples:
        >>> calibrator = tpc_fast.Calibrator("photo.png")
        >>> for frame in camera:  # uint8 [H, W, 3] RGB
        ...     out = calibrator.step(frame)
        ...     use(out.image, out.mask)

    Use it from one thread at a time. Close it, or use it as a context manager, to free the detector early. It can be
    pickled for workers; each begins as after `reset`.

    Args:
        reference: path, PIL image, or uint8 array [H, W], [H, W, 3] or [H, W, 4] (an alpha channel is its person mask);
            an address (http, https; others by fsspec, if it is installed), which is fetched first; bytes, or a file
            opened in binary mode.
        size: of the canvas, (height, width) or one number for both.
        resize: "pad" (the default) keeps the aspect ratio of the driving frames and centres them; "stretch" fills the
            canvas with frames and reference alike, as the original does. (`fit="pad"|"squeeze"` is its old name.)
        subset: which keypoints are fitted: "optimal" (the exact optimal subset), "fixed:N" (the best N), "face" (as the
            released TPC code), "all".
        smooth: "causal" (one estimate over a window of the past, see `tpc_fast.ops.track`) or "none" (each frame by
            itself, as the paper).
        lag: by how many frames a result comes later: it takes these frames into account, and is steadier. With
            smooth="causal" only.
        detector: a name with options (see `tpc_fast.pose.get_detector`), a `Detector` or `PeopleDetector`, or None for
            the first that is installed. It is loaded only if it is needed. Embedded detectors follow as many persons
            as the photo shows (whose torso is less than 0.6 times as long as the main person's is background), or as
            many as "blazepose:people=N" says.
        reference_keypoints: [17, 2] or [P, 17, 2] in pixels of the reference, with an optional third column of scores;
            or a file of them (see `load_keypoints`). Then no detector looks at the reference.
        reference_mask: uint8 or bool [H, W] or [P, H, W]; or the path of a picture, or of a folder with one for each
            person. None: the photo's alpha channel, or else the detector's mask.
        reference_box, reference_point: who is meant in the photo, if it shows several or is a drawing that detectors
            miss: a box (x, y, width, height) around the person, which limits the search, or a point (x, y) on the
            person. In pixels of the photo; (0, 0) is the centre of the top-left pixel, x right, y down. The
            calibration then has one person.
        driving_box, driving_point: the same for the first frame, in its pixels: that person is followed.
        score_threshold: keypoints with a lower score are missing.
        interpolation, antialias: of the warps, see `warp_composite`.
        hold_seconds: how long a person who is not seen has the status "held" before it is "lost".
        fade_seconds: how long it takes to fade out or in.
        fps: frames per second of `step` calls without a time.
        dtype: of `image` and `mask` in what `step` returns: "uint8", "float32", "float16", or, on a GPU, "bfloat16".
        device: None for NumPy; a torch device such as "cuda": the reference is uploaded once, and pictures are made
            there and stay there. Persons are followed on the host, since launching that work on a device would take
            longer. Keypoints that are tensors are copied to the host in one piece, matrices to the device in one. A
            frame that is a tensor is copied to the host only if a detector looks at it.
        match: which driving person plays which of several reference persons, chosen on the first frame that shows
            somebody: "auto" (similar place and size; a single reference person gets the largest, best seen one),
            "left-to-right", pairs ((reference, driving), ...) of places in the lists of keypoints, or "columns" (person
            p is person p in every frame: nobody is tracked).
        segmenter: what makes masks from keypoints, in photo and frames: "sam:MODEL", "sam2:MODEL",
            "segment-anything:FILE" (see `tpc_fast.pose.get_segmenter`) or a `Segmenter`. Its masks replace the
            detector's, not those that are given. None: the detector's own.
        clean_masks: whether masks are reduced to their largest component, without holes. Masks of driving persons that
            are tensors on a device stay as they are.
        detect_every: the detector looks at one frame in so many. Where persons are in the frames between is predicted
            from how they moved.
        asynchronous: the detector runs in a thread of its own, on the newest frame whenever it is free. `step` never
            waits for it: its result is predicted from the last frame that the detector has finished. Before it has
            finished one, everybody is "lost" (and on a device pose masks are None). If the detector fails, the next
            `step` raises RuntimeError, with that error as the cause; the stream can go on. `close` and `reset` wait
            until the detector is done with its frame.
        depth: of the composite: "auto" (lower feet stand in front, or the larger person), or the persons from back to
            front.

    Raises:
        FileNotFoundError, ValueError, TypeError: for a reference or an option that is not as it must be, or a
            reference in which nobody is found.
        ImportError: if a detector is needed and not installed.
    """

    def __init__(
        self,
        reference,
        *,
        size: int | tuple[int, int] = DEFAULT_SIZE,
        resize: str | None = None,
        subset: str = "optimal",
        smooth: str = "causal",
        lag: int = 0,
        detector: str | Detector | None = None,
        reference_keypoints=None,
        reference_mask=None,
        score_threshold: float = SCORE_THRESHOLD,
        interpolation: str = "cubic",
        antialias: bool = True,
        hold_seconds: float = 1.0,
        fade_seconds: float = 0.5,
        fps: float = 30.0,
        dtype: str = "uint8",
        device=None,
        match="auto",
        depth="auto",
        segmenter: str | Segmenter | None = None,
        clean_masks: bool = False,
        reference_box=None,
        reference_point=None,
        driving_box=None,
        driving_point=None,
        detect_every: int = 1,
        asynchronous: bool = False,
        fit: str | None = None,
    ):
        self._arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        _check(dtype, smooth, lag, fps)
        every, asynchronous = check_pace(detect_every, asynchronous, lag)
        self._session = Session(
            reference,
            size=size,
            resize=resize,
            fit=fit,
            subset=subset,
            smooth=smooth,
            detector=detector,
            reference_keypoints=reference_keypoints,
            reference_mask=reference_mask,
            score_threshold=score_threshold,
            interpolation=interpolation,
            antialias=antialias,
            hold_seconds=hold_seconds,
            fade_seconds=fade_seconds,
            match=match,
            depth=depth,
            segmenter=segmenter,
            clean_masks=bool(clean_masks),
            reference_box=reference_box,
            reference_point=reference_point,
            driving_box=driving_box,
            driving_point=driving_point,
            cuts="none",
            haste=True,
        )
        photo = self._session.reference
        self._frame_seconds, self._dtype = 1 / fps, dtype
        self._on_device = self._source = None
        if device is None:
            self._source = WarpSource(photo.image, photo.mask)
        else:
            self._on_device = DevicePictures(photo.image, photo.mask, device)
        options = self._session.options
        self._estimator = stream_estimator(photo, options, lag)
        self._fade = StreamFade(len(photo.keypoints), options.hold_seconds, options.fade_seconds)
        self._middle = photo.middle(options.size).matrix  # where a person lies who was not seen yet
        self._lag, self._pace = lag, None
        if every > 1 or asynchronous:
            self._pace = Pace(self._session, every, asynchronous, self._on_device is None)
        self._begin()

    @property
    def warnings(self) -> list[str]:
        """What the user should know."""
        return self._session.warnings

    @property
    def reference(self) -> Reference:
        """The photo: its persons' keypoints, scores and masks."""
        return self._session.reference

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the canvas."""
        return self._session.options.size

    @property
    def canvas(self) -> Canvas | None:
        """How frames are laid onto the canvas; None before the first."""
        return self._session.canvas

    @property
    def reference_canvas(self) -> Canvas:
        """How the photo is laid onto the canvas where it stands for itself."""
        return Canvas.fitting(self.reference.image.shape[:2], self.size, self._session.options.resize)

    def reset(self) -> None:
        """Forgets all frames: the next one begins a new video, of any size."""
        if self._pace is not None:
            self._pace.reset()
        self._estimator.reset()
        self._fade.reset()
        self._session.reset()
        self._begin()

    def _begin(self) -> None:
        self._waiting: collections.deque[Shown] = collections.deque()
        self._known = np.zeros(len(self.reference.keypoints), bool)  # who was ever seen

    def close(self) -> None:
        """Ends the detector's thread, if there is one, and frees the detector, if the calibrator made it."""
        if self._pace is not None:
            self._pace.close()
        self._session.close()

    def __reduce__(self):
        """A pickled calibrator begins as after `reset`, and keeps what was found in the photo. A detector that was
        given by name is made anew."""
        photo = self.reference
        found = {
            "reference": photo.image,
            "reference_keypoints": np.concatenate([photo.keypoints, photo.scores[..., None]], -1),
            "reference_mask": photo.mask,
            "reference_box": None,
            "reference_point": None,
        }
        return _calibrator, (self._arguments | found,)

    def __enter__(self) -> "Calibrator":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def step(self, frame, time: float | None = None, detection: Detection | None = None) -> CalibratedFrame | None:
        """Takes the next frame; returns the one `lag` frames before it, or None as long as there is none.

        Args:
            frame: uint8 array [H, W, 3], PIL image or path; all frames between two resets have one size. A tensor on
                any device, if the calibrator has a device.
            time: seconds, increasing; None: one frame after the one before.
            detection: the persons of the frame, if they are known; None: the detector looks. Its arrays may be tensors
                if the calibrator has a device: keypoints are copied to the host, a mask is warped on the device
                (antialiased). If it has no masks, the segmenter makes them on the host, if there is one.

        Raises:
            ValueError: for a frame of another size, or a time that does not increase.
            RuntimeError: with `asynchronous=True`, if the detector failed on a frame before.
        """
        image, detection, driving_mask = self._taken(frame, detection)
        if self._pace is not None:
            return self._paced(image, time, detection, driving_mask)
        if time is None:
            time = self._session.time_after(self._frame_seconds)
        estimate = self._observe(image, time, detection, driving_mask)
        return None if estimate is None else self._calibrated(estimate, estimate.time)

    def _paced(self, image, time: float | None, detection: Detection | None, driving_mask) -> CalibratedFrame:
        """As `step`, of a frame that the detector may not look at, or not now."""
        time, looks = self._pace.looks(image, time, self._frame_seconds, detection)
        for look in looks:
            mask = driving_mask if look.detection is detection else None
            estimate = self._observe(look.image, look.time, look.detection, mask)
            self._pace.observe(estimate, self._waiting.pop())
        estimate, shown, seen = self._pace.at(time)
        self._waiting.append(shown)
        return self._calibrated(estimate, seen)

    def _observe(self, image, time: float, detection: Detection | None, driving_mask) -> TrackStep | None:
        """A frame that is looked at: what it shows waits for its estimate; that of the one `lag` frames before."""
        session = self._session
        seen = session.see(image, time, detection)
        places = session.matcher.step(seen.keypoints, seen.scores, image.shape[:2], time, seen.colours)
        keypoints, scores = session.on_canvas(seen, places)
        pose_mask = None if seen.masks is None else take_rows(seen.masks, places)
        if self._on_device is not None:
            mask = pose_mask if driving_mask is None else driving_mask
            pose_mask = None if mask is None else self._on_device.pose_mask(mask, places, session.canvas)
        self._waiting.append(Shown(keypoints, scores, pose_mask))
        return self._estimator.step(keypoints, scores, time, shown(session.canvas))

    def flush(self) -> list[CalibratedFrame]:
        """The last `lag` frames, at the end of a stream; the next frame begins a new one only after `reset`."""
        return [self._calibrated(estimate, estimate.time) for estimate in self._estimator.flush()]

    def _calibrated(self, estimate: TrackStep, seen: float) -> CalibratedFrame:
        """The frame that has waited longest, with its estimate."""
        keypoints, scores, pose_mask = self._waiting.popleft()
        visible = np.isin(estimate.status, SEEN)
        self._known |= visible
        opacity = self._fade.step(estimate.status, estimate.time, seen)
        matrix = self.reference.matrix(np.where(self._known[:, None, None], estimate.matrix, self._middle))
        warped = self._render(matrix, opacity)
        return CalibratedFrame(
            image=warped.image,
            mask=warped.mask,
            pose_mask=pose_mask,
            matrix=matrix,
            status=estimate.status,
            opacity=opacity,
            determined=determined(estimate.information),
            swapped=estimate.side == 1,
            members=estimate.weights >= MEMBER_WEIGHT,
            residual=estimate.residual.astype(np.float32),
            keypoints=keypoints,
            scores=scores,
            order=self._session.depth.step(keypoints, scores, np.where(visible, estimate.size, np.nan)),
            time=estimate.time,
            seen=seen,
        )

    def _taken(self, frame, detection: Detection | None):
        """The frame as the session takes it, the detection with its numbers on the host, and its mask if a tensor."""
        observer, image, driving_mask = self._session.observer, None, None
        unmasked = observer.segmenter is not None and detection is not None and detection.mask is None
        if self._on_device is not None:
            image = self._on_device.frame(frame, looked_at=detection is None or unmasked)
        if image is None:
            image, _ = load_image(frame, "frame")
        if self._on_device is not None and detection is not None:
            detection, driving_mask = self._on_device.on_host(detection, tuple(image.shape[:2]))
        if unmasked:
            check_detection(detection, tuple(image.shape[:2]))
            detection = observer.masked(image, detection)
        return image, detection, driving_mask

    def _render(self, matrix: np.ndarray, opacity: np.ndarray) -> Warped:
        """The photo warped [P, ...], its masks faded."""
        options = self._session.options
        how = options.size, options.interpolation, options.antialias
        if self._on_device is not None:
            return self._on_device.render(matrix, opacity, *how, self._dtype)
        source = self._source
        if (opacity < 1).any():
            source = WarpSource(self.reference.image, faded(self.reference.mask, opacity))
        image, mask, _ = source.warp(matrix[None], *how, dtype=self._dtype)
        return Warped(image[0], mask[0], None)


def _calibrator(arguments: dict) -> Calibrator:
    return Calibrator(**arguments)


def _check(dtype, smooth, lag, fps) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, but is {dtype!r}")
    if smooth not in SMOOTHINGS:
        raise ValueError(f"smooth must be one of {', '.join(SMOOTHINGS)}, but is {smooth!r}")
    if isinstance(lag, bool) or not isinstance(lag, int) or not 0 <= lag <= (MAX_LAG if smooth == "causal" else 0):
        raise ValueError(f'lag must be 0, or with smooth="causal" an integer up to {MAX_LAG}, but is {lag!r}')
    if not (isinstance(fps, int | float) and 0 < fps < np.inf):
        raise ValueError(f"fps must be a positive number, but is {fps!r}")
