"""The main job on a stream: a reference photo and one driving frame at a time in, calibrated images and masks out."""

import dataclasses
import os

import numpy as np

from tpc_fast.calibration.device import DevicePictures
from tpc_fast.calibration.person import Options, Person, Reference, Seen, picked
from tpc_fast.calibration.result import faded
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.images import load_image
from tpc_fast.ops.procrustes import Similarity
from tpc_fast.ops.warp import DTYPES, Warped, WarpSource
from tpc_fast.pose.detect.detection import Detection, Detector, PeopleDetector
from tpc_fast.pose.detect.one_person import PersonTracker
from tpc_fast.pose.detect.registry import get_detector
from tpc_fast.pose.detect.whole_picture import PictureTracker, get_tracker
from tpc_fast.pose.files.given import check_detection, given_detections, given_mask, split_mask
from tpc_fast.pose.follow.depth import DepthOrder
from tpc_fast.pose.follow.matching import PeopleMatcher
from tpc_fast.pose.follow.smoothing import from_track
from tpc_fast.pose.masks.sam import Segmenter, clean_mask, get_segmenter, with_masks

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
        rung, swapped, members, residual, keypoints, scores, order: as in `Calibration`, without the frame axis.
        time: seconds.
    """

    image: np.ndarray
    mask: np.ndarray
    pose_mask: np.ndarray | None
    matrix: np.ndarray
    status: np.ndarray
    opacity: np.ndarray
    rung: np.ndarray
    swapped: np.ndarray
    members: np.ndarray
    residual: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray
    order: np.ndarray
    time: float


class Calibrator:
    """Brings reference persons onto driving persons, frame by frame; causal.

    >>> calibrator = tpc_fast.Calibrator("photo.png")
    >>> for frame in camera:  # uint8 [H, W, 3] RGB
    ...     out = calibrator.step(frame)
    ...     use(out.image, out.mask)

    One thread at a time. Close it, or use it as a context manager, to free the detector early.

    Args:
        reference: path, PIL image, or uint8 array [H, W], [H, W, 3] or [H, W, 4] (an alpha channel is its person mask).
        size: of the canvas, (height, width) or one number for both.
        fit: "pad" keeps the aspect ratio of the driving frames and centres them; "squeeze" fills the canvas with frames
            and reference alike, as the original does.
        subset: which keypoints are fitted: "optimal" (the exact optimal subset), "fixed:N" (the best N), "face" (as the
            released TPC code), "all".
        smooth: "causal" (One-Euro) or "none" (as the paper).
        detector: a name with options (see `tpc_fast.pose.get_detector`), a `Detector` or `PeopleDetector`, or None for
            the first that is installed. It is not made if it is not needed.
        reference_keypoints: [17, 2] or [P, 17, 2] in pixels of the reference, with an optional third column of scores;
            or a file of them (see `load_keypoints`). Then the reference is not looked at by a detector.
        reference_mask: uint8 or bool [H, W] or [P, H, W], or a path of a picture, or of a folder with one
            for each person. None: alpha channel, or the
            detector's.
        score_threshold: keypoints with a lower score are missing.
        interpolation, antialias: of the warps, see `warp_composite`.
        hold_seconds: how long a person that is not seen is held before it is lost.
        fade_seconds: how long it takes to fade out or in.
        fps: frames per second of `step` calls without a time.
        dtype: of `image` and `mask` in what `step` returns: "uint8", "float32", "float16", or, on a GPU, "bfloat16".
        device: None for NumPy; a torch device such as "cuda": the reference is uploaded once, and pictures are made
            there and stay there. Persons are followed on the host, which takes less time than to launch that work on a
            device: keypoints that are tensors come back in one copy, matrices go up in one. A frame that is a tensor
            is copied to the host only for a detector to look at it.
        match: which driving person plays which of several reference persons, chosen on the first frame that shows
            somebody: "auto" (similar place and size; a single reference person gets the largest, best seen one),
            "left-to-right", pairs ((reference, driving), ...) of places in the lists of keypoints, or "columns" (person
            p is person p in every frame: nobody is tracked).
        segmenter: what makes masks from keypoints, in photo and frames: "sam:MODEL", "sam2:MODEL",
            "segment-anything:FILE" (see `tpc_fast.pose.get_segmenter`) or a `Segmenter`. Its masks replace the
            detector's, not those that are given. None: the detector's own.
        clean_masks: whether masks are reduced to their largest component, without holes; not those of driving persons
            that are tensors on a device.
        depth: of the composite: "auto" (lower feet stand in front, or the larger person), or the persons from back to
            front.

    Raises:
        FileNotFoundError, ValueError, TypeError: for a reference or an option that is not as it must be, or a
            reference in which nobody is found.
        ImportError: if a detector is needed and not installed.

    Attributes:
        warnings: what the user should know.
        tracker: what follows people with the detector, or None while none was needed.
        segmenter: what makes masks, or None.
        specs: the detector and the segmenter as they were asked for, where that was a string; else None.
    """

    def __init__(
        self,
        reference,
        *,
        size: int | tuple[int, int] = DEFAULT_SIZE,
        fit: str = "pad",
        subset: str = "optimal",
        smooth: str = "causal",
        detector: str | Detector | None = None,
        reference_keypoints=None,
        reference_mask=None,
        score_threshold: float = 0.3,
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
    ):
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, but is {dtype!r}")
        if smooth not in SMOOTHINGS:
            raise ValueError(f"smooth must be one of {', '.join(SMOOTHINGS)}, but is {smooth!r}")
        self.options = Options.checked(
            size,
            fit=fit,
            subset=subset,
            smooth=smooth,
            score_threshold=score_threshold,
            interpolation=interpolation,
            antialias=antialias,
            hold_seconds=hold_seconds,
            fade_seconds=fade_seconds,
            match=match,
            depth=depth,
            clean_masks=bool(clean_masks),
        )
        if not (isinstance(fps, int | float) and 0 < fps < np.inf):
            raise ValueError(f"fps must be a positive number, but is {fps!r}")
        self.warnings: list[str] = []
        self.tracker: PersonTracker | PictureTracker | None = None
        self._detector, self._own_detector = detector, not isinstance(detector, Detector | PeopleDetector)
        self.specs = [spec if isinstance(spec, str) else None for spec in (detector, segmenter)]
        self._frame_seconds = 1 / fps
        self.segmenter = get_segmenter(segmenter) if isinstance(segmenter, str) else segmenter
        self._closed = False
        self.reference: Reference | None = None
        try:
            self.reference = self._load_reference(reference, reference_keypoints, reference_mask)
            found = self.reference.keypoints, self.reference.scores
            self.matcher = PeopleMatcher(*found, self.reference.image.shape[:2], match, score_threshold)
            self.options = self.options.for_persons(len(found[0]))
            self._depth = DepthOrder(len(found[0]), self.options.depth, score_threshold)
        except BaseException:
            self.close()
            raise
        self._dtype = dtype
        self._on_device = self._source = None
        if device is None:
            self._source = WarpSource(self.reference.image, self.reference.mask)
        else:
            self._on_device = DevicePictures(self.reference.image, self.reference.mask, device)
        # Where the reference lies before anybody was seen: in the middle of the canvas.
        middle = Canvas.fitting(self.reference.image.shape[:2], self.options.size, "pad").matrix
        if self.reference.canvas is not None:
            middle = np.eye(2, 3)
        start = Similarity(middle[0, 0], np.eye(2), middle[:, 2])
        self.people = [Person(self.reference, p, start, self.options) for p in range(len(self.reference.keypoints))]
        self.canvas: Canvas | None = None
        self._time: float | None = None

    def _load_reference(self, reference, given, mask) -> Reference:
        image, alpha = load_image(reference, "reference")
        shape = image.shape[:2]
        if given is not None:
            if not isinstance(given, str | os.PathLike) and np.ndim(given) == 3:
                given = np.asarray(given)[None]  # [P, 17, 2]: one frame
            detections = given_detections(given, None, "reference_keypoints", shape)
            if len(detections) != 1:
                raise ValueError(f"reference_keypoints must be of one picture, but are of {len(detections)} frames")
            detection = detections[0]
        else:
            detection = self.get_tracker().find(image)
            if not len(detection):
                raise ValueError(
                    f"reference: no person was found ({self.tracker.tried}): use a photo in which head and shoulders "
                    "are visible, or give reference_keypoints"
                )
            if len(detection) < (wanted := getattr(self.tracker.detector, "people", 1)):
                self.warnings.append(f"reference: {len(detection)} of {wanted} persons were found")
        if mask is None and (given is None or detection.mask is None):
            detection = self.masked(image, detection)
        keypoints, scores, found_mask = detection.keypoints, detection.scores, detection.mask
        if mask is not None:
            masks = given_mask(mask, shape)
        elif alpha is not None and (alpha < 255).any():
            masks = alpha[None]
        elif found_mask is not None:
            masks = found_mask
        else:
            self.warnings.append("reference: no person mask was given or found: the whole photo is the mask")
            masks = np.full((1, *shape), 255, np.uint8)
        usable = np.isfinite(keypoints).all(-1) & (scores >= self.options.score_threshold)
        for p, count in enumerate(usable.sum(-1)):
            if count < 2:
                who = "" if len(usable) == 1 else f" of person {p}"
                raise ValueError(
                    f"reference: {count} of {usable.shape[-1]} keypoints{who} have a score of at least "
                    f"{self.options.score_threshold}, but 2 are needed"
                )
        if len(masks) == 1 and len(keypoints) > 1:
            self.warnings.append("reference: one mask for several persons: each pixel goes to the nearest")
            masks = split_mask(masks[0], keypoints, usable)
        if self.options.clean_masks:
            masks = np.stack([clean_mask(one) for one in masks])
        if not masks.any():
            self.warnings.append("reference: the person mask is empty")
        if len(masks) != len(keypoints):
            raise ValueError(f"reference_mask must be of {len(keypoints)} person(s), but is of {len(masks)}")
        squeeze = Canvas.fitting(shape, self.options.size, "squeeze") if self.options.fit == "squeeze" else None
        return Reference(reference, image, masks, keypoints.astype(np.float32), scores.astype(np.float32), squeeze)

    def get_tracker(self) -> PersonTracker | PictureTracker:
        if self.tracker is None:
            if self._closed:
                raise ValueError("the calibrator is closed: make another one")
            if self._own_detector:
                self._detector = get_detector(self._detector)
            self.tracker = get_tracker(self._detector)
            if self.reference is not None:  # its keypoints were given, so the tracker has not seen it
                reference = self.reference
                self.tracker.choose_crop(reference.keypoints[0], reference.scores[0], reference.image.shape[:2])
        return self.tracker

    def reset(self) -> None:
        """Forgets all frames: the next one begins a new video, of any size."""
        for person in self.people:
            person.reset()
        self.matcher.reset()
        self._depth.reset()
        if self.tracker is not None:
            self.tracker.reset()
        self.canvas = self._time = None

    def close(self) -> None:
        """Frees the detector, if the calibrator made it."""
        if self._own_detector and self.tracker is not None:
            self.tracker.detector.close()
        self.tracker, self._closed = None, True

    def __enter__(self) -> "Calibrator":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def step(self, frame, time: float | None = None, detection: Detection | None = None) -> CalibratedFrame:
        """Calibrates the next frame.

        Args:
            frame: uint8 array [H, W, 3], PIL image or path; all frames between two resets have one size. A tensor on
                any device, if the calibrator has a device.
            time: seconds, increasing; None: one frame after the one before.
            detection: the persons of the frame, if they are known; None: the detector looks. Its arrays may be tensors
                if the calibrator has a device: numbers are read back, a mask is drawn there, as the reference is
                (antialiased). Masks that it lacks are made by the segmenter, if there is one, on the host.

        Raises:
            ValueError: for a frame of another size, or a time that does not increase.
        """
        image = driving_mask = None
        unmasked = self.segmenter is not None and detection is not None and detection.mask is None
        if self._on_device is not None:
            image = self._on_device.frame(frame, looked_at=detection is None or unmasked)
        if image is None:
            image, _ = load_image(frame, "frame")
        if self._on_device is not None and detection is not None:
            detection, driving_mask = self._on_device.on_host(detection, tuple(image.shape[:2]))
        if unmasked:
            check_detection(detection, tuple(image.shape[:2]))
            detection = self.masked(image, detection)
        if time is None:
            time = 0.0 if self._time is None else self._time + self._frame_seconds
        seen = self.see(image, time, detection)
        places = self.matcher.step(seen.keypoints, seen.scores, image.shape[:2], time)
        keypoints, scores, fits, order = self.fit(seen, places, time)
        status = [person.follow(fit, time) for person, fit in zip(self.people, fits, strict=True)]
        matrix = self._matrices()
        opacity = np.array([person.opacity for person in self.people], np.float32)
        options = self.options
        pose_mask = None if seen.masks is None else picked(seen.masks, places)
        if self._on_device is not None:
            warped = self._on_device.render(
                matrix, opacity, options.size, options.interpolation, options.antialias, self._dtype
            )
            mask = pose_mask if driving_mask is None else driving_mask
            pose_mask = None if mask is None else self._on_device.pose_mask(mask, places, self.canvas)
        else:
            source = self._source
            if (opacity < 1).any():
                source = WarpSource(self.reference.image, faded(self.reference.mask, opacity))
            image, mask, _ = source.warp(
                matrix[None], options.size, options.interpolation, options.antialias, dtype=self._dtype
            )
            warped = Warped(image[0], mask[0], None)
        return CalibratedFrame(
            image=warped.image,
            mask=warped.mask,
            pose_mask=pose_mask,
            matrix=matrix,
            status=np.array(status),
            opacity=opacity,
            rung=np.array([fit.rung for fit in fits]),
            swapped=np.array([fit.swapped for fit in fits]),
            members=np.stack([fit.members for fit in fits]),
            residual=np.array([fit.residual for fit in fits], np.float32),
            keypoints=keypoints,
            scores=scores,
            order=order,
            time=time,
        )

    def _matrices(self) -> np.ndarray:
        """[P, 2, 3] of the persons' tracks as they stand."""
        return np.stack([self.reference.matrix(from_track(p.track, p.anchor)) for p in self.people])

    def look(self, image: np.ndarray) -> Detection:
        """What the detector sees in the next frame, uint8 [H, W, 3], with the segmenter's masks if there is one."""
        return self.masked(image, self.get_tracker().step(image))

    def masked(self, image: np.ndarray, detection: Detection) -> Detection:
        """The detection with the segmenter's masks, if there is one."""
        if self.segmenter is None or not len(detection):
            return detection
        return with_masks(self.segmenter, image, detection, self.options.score_threshold)

    def see(self, image, time, detection) -> Seen:
        """Whoever is in a frame: uint8 [H, W, 3], seconds, and the detection, or None to look for it."""
        self._begin(image, time)
        if detection is None:
            detection = self.look(image)
        else:
            check_detection(detection, image.shape[:2])
        self._time = time
        masks = None
        if detection.mask is not None or not len(detection):
            masks = np.empty((len(detection), *self.options.size), np.uint8)
            for p in range(len(detection)):
                mask = clean_mask(detection.mask[p]) if self.options.clean_masks else detection.mask[p]
                # Binary first (0 or -1 = 255), as masks come from a cache or a file: the same pixels every time.
                binary = mask >> 7
                np.negative(binary, out=binary)
                masks[p] = self.canvas.draw(binary)
        return Seen(detection.keypoints, detection.scores, masks)

    def _begin(self, image, time: float) -> None:
        """Checks a frame against those before; the first one sets the canvas."""
        if not np.isfinite(time):
            raise ValueError(f"time must be finite, but is {time}")
        if self._time is not None and not time > self._time:
            raise ValueError(f"time must increase, but is {time} after {self._time}")
        if self.canvas is None:
            self.canvas = Canvas.fitting(tuple(image.shape[:2]), self.options.size, self.options.fit)
        elif tuple(image.shape[:2]) != self.canvas.source:
            raise ValueError(
                f"frame must have the size of the first, {self.canvas.source}, but has {tuple(image.shape[:2])}"
            )

    def fit(self, seen: Seen, places: np.ndarray, time: float):
        """Fits each person to the one in its place (-1: nobody) of those who were seen.

        Returns:
            Keypoints [P, K, 2] on the canvas, scores [P, K], the P fits, and the order [P] from back to front.
        """
        keypoints, scores = picked(seen.keypoints, places, np.nan), picked(seen.scores, places)
        keypoints = self.canvas.apply(keypoints).astype(np.float32)
        fits = [person.fitter.step(k, s, time) for person, k, s in zip(self.people, keypoints, scores, strict=True)]
        sizes = np.array([np.nan if fit.similarity is None else fit.size for fit in fits])
        return keypoints, scores, fits, self._depth.step(keypoints, scores, sizes)
