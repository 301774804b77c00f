"""A reference, and a stream of frames, that live on a device, for a `Calibrator` whose pixels are to stay there."""

import dataclasses
from typing import Any

import numpy as np

from tpc_fast import _checks
from tpc_fast._dispatch import is_torch
from tpc_fast.calibration.person import Options, Person, Reference
from tpc_fast.media.canvas import Canvas
from tpc_fast.ops.warp import Warped, WarpSource
from tpc_fast.pose.detect.detection import Detection
from tpc_fast.pose.files.given import check_detection
from tpc_fast.pose.follow.matching import PeopleMatcher


class ResidentReference:
    """Image and mask of a reference as tensors on `device`, uploaded once.

    Raises:
        ImportError: if torch is not installed.
        RuntimeError: if there is no such device.
    """

    def __init__(self, image: np.ndarray, mask: np.ndarray, device):
        import torch

        self._canvas = None
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device)
        self.device = pixels.device
        self._source = WarpSource(pixels, torch.from_numpy(np.ascontiguousarray(mask)).to(device))

    def frame(self, frame, looked_at: bool):
        """A driving frame that is a uint8 tensor [H, W, 3]: as it is, or copied to the host if a detector looks at it.

        None for anything else.
        """
        if not is_torch(frame):
            return None
        if frame.ndim != 3 or frame.shape[-1] != 3 or str(frame.dtype) != "torch.uint8":
            raise ValueError(f"frame must be a uint8 tensor [H, W, 3], but is {_checks.describe(frame)}")
        return frame.cpu().numpy() if looked_at else frame

    def on_host(self, detection: Detection, size: tuple[int, int]):
        """The detection with its keypoints on the host, and its mask where that is a tensor: the two apart."""
        numbers = [a.cpu().numpy() if is_torch(a) else a for a in (detection.keypoints, detection.scores)]
        if not is_torch(detection.mask):
            return Detection(*numbers, detection.mask), None
        return Detection(*numbers), self._checked(Detection(*numbers, detection.mask), size).mask

    def on_device(self, detection: Detection, size: tuple[int, int]) -> Detection:
        """The detection as float32 and uint8 tensors on the device."""
        arrays = [
            _checks.to_tensor(getattr(detection, name), f"detection.{name}", self.device).float()
            for name in ("keypoints", "scores")
        ]
        return self._checked(Detection(*arrays, detection.mask), size)

    def _checked(self, detection: Detection, size: tuple[int, int]) -> Detection:
        """With its mask, if there is one, on the device."""
        numbers = detection.keypoints, detection.scores
        check_detection(Detection(*numbers), size)
        if detection.mask is None:
            return detection
        mask = _checks.to_tensor(detection.mask, "detection.mask", self.device)
        wanted = (len(detection), *size)
        if tuple(mask.shape) != wanted or str(mask.dtype) != "torch.uint8":
            raise ValueError(f"detection must have a uint8 mask {wanted}, but has {_checks.describe(mask)}")
        return Detection(*numbers, mask)

    def render(self, matrix, opacity, size, interpolation, antialias, dtype) -> Warped:
        """The warped reference of one frame [P, ...]; its mask is faded after the warp.

        Args:
            matrix: float32 [P, 2, 3]; opacity: float32 [P]; both NumPy arrays, or both tensors.
        """
        fades = is_torch(opacity) or (opacity < 1).any()  # of a tensor it cannot be told without waiting for it
        matrix, opacity = self._there(matrix), self._there(opacity)
        image, mask, _ = self._source.warp(matrix[None], size, interpolation, antialias, dtype=dtype)
        image, mask = image[0], mask[0]
        if fades:
            share = mask * opacity[:, None, None]
            mask = (share.round() if dtype == "uint8" else share).to(mask.dtype)
        return Warped(image, mask, None)

    def _there(self, array):
        if is_torch(array):
            return array
        import torch

        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def pose_mask(self, mask, places: np.ndarray, canvas: Canvas):
        """uint8 [P, h, w] on the canvas, of a frame's masks.

        Args:
            mask: a tensor [D, H, W] of whoever was seen; or NumPy [P, h, w], already drawn and in order.
            places: [P] which of the D plays each person of the reference, -1 for nobody.
            canvas: of the frames.
        """
        if not is_torch(mask):
            return self._there(mask)
        out = mask.new_zeros((len(places), *canvas.size))
        played = np.flatnonzero(places >= 0)
        if len(played):
            import torch

            # Numbers one by one: a list of them would be copied to the device, which waits.
            binary = (torch.stack([mask[d] for d in places[played].tolist()]) >= 128).to(torch.uint8) * 255
            source = WarpSource(binary[..., None], binary)
            matrix = self._canvas_matrix(canvas).expand(1, len(played), 2, 3)
            drawn = source.warp(matrix, canvas.size, "bilinear", antialias=True).mask[0]
            for p, one in zip(played.tolist(), drawn, strict=True):
                out[p] = one
        return out

    def _canvas_matrix(self, canvas: Canvas):
        """Its matrix [2, 3] on the device, uploaded once."""
        if self._canvas is None or self._canvas[0] != canvas:
            self._canvas = canvas, self._there(canvas.matrix)
        return self._canvas[1]

    def draw(self, keypoints, canvas: Canvas):
        """Float32 keypoints [P, 17, 2] in pixels of a frame, on the canvas."""
        matrix = self._canvas_matrix(canvas)
        return (keypoints * matrix.diagonal() + matrix[:, 2]).float()


@dataclasses.dataclass(frozen=True)
class ResidentFrame:
    """One frame of a stream whose keypoints were tensors; P persons. Everything but `time` is a tensor on the device.

    Attributes:
        image, mask, pose_mask, matrix, opacity, swapped, members, residual, keypoints, scores, order, time: as in
            `CalibratedFrame`.
        status_number, rung_number: int64 [P]; `status` and `rung` are their names, and wait for the device.
    """

    image: Any
    mask: Any
    pose_mask: Any
    matrix: Any
    status_number: Any
    opacity: Any
    rung_number: Any
    swapped: Any
    members: Any
    residual: Any
    keypoints: Any
    scores: Any
    order: Any
    time: float

    @property
    def status(self) -> np.ndarray:
        """[P] str, read back from the device."""
        from tpc_fast.calibration.resident_people import STATUSES

        return np.array(STATUSES)[self.status_number.cpu().numpy()]

    @property
    def rung(self) -> np.ndarray:
        """[P] str, read back from the device."""
        from tpc_fast.calibration.resident_people import RUNGS

        return np.array(RUNGS)[self.rung_number.cpu().numpy()]


class ResidentStream:
    """A stream whose keypoints come as tensors: from them to pixels, on the device.

    Nobody waits for the device, unless several people are to be told apart: who is who is decided on the host.
    """

    def __init__(
        self,
        resident: ResidentReference,
        reference: Reference,
        people: list[Person],
        matcher: PeopleMatcher,
        options: Options,
        depth: np.ndarray | None,
    ):
        import torch

        from tpc_fast.calibration.resident_people import ResidentPeople

        squeeze = None if reference.canvas is None else reference.canvas.matrix
        self._resident, self._matcher, self._options, self._count = resident, matcher, options, len(people)
        self._people = ResidentPeople(people, squeeze, options, depth, resident.device)
        self._clock = torch.zeros((), dtype=torch.float64, device=resident.device)
        # The last frame that shows the only person, should another one turn up: keypoints, scores, time.
        nothing = reference.keypoints[:1] * np.nan, reference.scores[:1] * 0
        self._alone = [*(torch.from_numpy(a).to(resident.device) for a in nothing), self._clock.clone()]
        self.reset()

    def reset(self) -> None:
        """Forgets all frames; the caller resets the matcher."""
        self._people.reset()
        self._clock.fill_(float("nan"))
        self._alone[1].zero_()

    def step(self, detection: Detection, canvas: Canvas, time: float, passed: float | None, dtype: str):
        """The next frame.

        Args:
            detection: as `ResidentReference.on_device` gives it.
            canvas: of the frames.
            time: seconds.
            passed: seconds since the frame before, if `time` follows from it: then the device's own clock goes on,
                also in a graph that is replayed.
            dtype: of the pixels.
        """
        import torch

        if passed is None:
            self._clock.fill_(time)
        else:
            self._clock.add_(passed)
        places = self._places(detection, canvas, time)
        keypoints, scores = self._picked(detection, places)
        keypoints = self._resident.draw(keypoints, canvas)
        seen = self._people.step(keypoints, scores, self._clock)
        options = self._options
        warped = self._resident.render(
            seen.matrix, seen.opacity, options.size, options.interpolation, options.antialias, dtype
        )
        pose_mask = None
        if detection.mask is not None or not len(detection):
            mask = detection.mask
            if mask is None:
                mask = torch.zeros((0, *canvas.source), dtype=torch.uint8, device=self._clock.device)
            pose_mask = self._resident.pose_mask(mask, places, canvas)
        return ResidentFrame(
            image=warped.image,
            mask=warped.mask,
            pose_mask=pose_mask,
            matrix=seen.matrix,
            status_number=seen.status,
            opacity=seen.opacity,
            rung_number=seen.rung,
            swapped=seen.swapped,
            members=seen.members,
            residual=seen.residual,
            keypoints=keypoints,
            scores=scores,
            order=seen.order,
            time=time,
        )

    def _places(self, detection: Detection, canvas: Canvas, time: float) -> np.ndarray:
        """Which person of the frame plays each reference person: [P], -1 for nobody."""
        matcher, here = self._matcher, len(detection)
        in_order = np.where(np.arange(self._count) < here, np.arange(self._count), -1)
        if matcher.method == "columns":
            return in_order
        lone = self._count == 1 and here <= 1 and not len(matcher.tracker.numbers)
        if lone and (isinstance(matcher.method, str) or matcher.chosen[0] == 0):
            if here:
                self._remember(detection)
            return in_order
        return self._matched(detection, canvas, time)

    def _remember(self, detection: Detection) -> None:
        import torch

        anybody = (detection.scores >= self._options.score_threshold).any()
        now = detection.keypoints, detection.scores, self._clock
        for old, new in zip(self._alone, now, strict=True):
            old.copy_(torch.where(anybody, new, old))

    def _matched(self, detection: Detection, canvas: Canvas, time: float) -> np.ndarray:
        """By the host, which waits for the keypoints."""
        keypoints, scores, when = (a.cpu().numpy() for a in self._alone)
        if not len(self._matcher.tracker.numbers) and (scores >= self._options.score_threshold).any():
            self._matcher.step(keypoints, scores, canvas.source, float(when))
            self._alone[1].zero_()
        keypoints, scores = (a.cpu().numpy() for a in (detection.keypoints, detection.scores))
        return self._matcher.step(keypoints, scores, canvas.source, time)

    def _picked(self, detection: Detection, places: np.ndarray):
        """Keypoints [P, 17, 2], NaN for nobody, and scores [P, 17] of whoever plays the reference persons."""
        keypoints = detection.keypoints.new_full((self._count, *detection.keypoints.shape[1:]), float("nan"))
        scores = detection.scores.new_zeros((self._count, *detection.scores.shape[1:]))
        for p, d in enumerate(places.tolist()):
            if d >= 0:
                keypoints[p], scores[p] = detection.keypoints[d], detection.scores[d]
        return keypoints, scores
