"""The result of a calibration: small to keep, rendered on access."""

import dataclasses
import itertools
import operator
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tpc_fast import _checks
from tpc_fast.calibration.kept_masks import KeptMasks
from tpc_fast.calibration.proportions import BOUNDS
from tpc_fast.calibration.record import read_record, write_record
from tpc_fast.calibration.retarget import retarget
from tpc_fast.calibration.small_frames import SmallFrames
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.fetch import LocalCopy
from tpc_fast.media.files import OutputFolder
from tpc_fast.media.images import mask_iou
from tpc_fast.media.sound import Sound
from tpc_fast.media.video import VideoReader
from tpc_fast.ops.warp import Warped, WarpSource
from tpc_fast.pose.files.detections import unpack_mask


class Frames(Sequence):
    """Frames that are made when they are asked for: `frames[i]` is one, `frames[a:b]` a batch; it has a length."""

    def __init__(self, count: int, make: Callable[[np.ndarray], np.ndarray]):
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self._make(np.arange(self._count)[index])
        try:
            index = operator.index(index)
        except TypeError:
            raise TypeError(f"frames are indexed by an integer or a slice, not {index!r}") from None
        if not -self._count <= index < self._count:
            raise IndexError(f"frame {index} of {self._count}")
        return self._make(np.array([index % self._count]))[0]


@dataclasses.dataclass(repr=False)
class Calibration:
    """How a reference is brought onto the person of a driving video; F frames, P persons, K = 17 COCO keypoints.

    Attributes:
        size: (height, width) of the canvas, the picture that everything is rendered onto.
        fps: of the driving video, on average.
        times: [F] float64, seconds.
        matrices: [F, P, 2, 3] float32, native pixels of the reference -> pixels of the canvas.
        raw_matrices: [F, P, 2, 3] float32, of each frame by itself.
        status: [F, P] str: "tracked" (the frame's own keypoints determine scale, angle and position), "fallback" (they
            determine less: neighbours fill in), "held" (they do not determine the position: the transform comes from
            other frames), "lost" (the same for too long: the person fades out).
        determined: [F, P, 3] bool, whether the frame's own keypoints determine scale, angle, position.
        swapped: [F, P] bool, whether left and right of the reference were exchanged (a person seen from behind).
        opacity: [F, P] float32, 1, or less while a person is faded out; it scales the masks.
        members: [F, P, K] bool, the keypoints that agree with the transform.
        residual: [F, P] float32, weighted rms distance of the members in canvas pixels, 0 where nothing was fitted.
        keypoints: [F, P, K, 2] float32, the driving person in canvas pixels; NaN where missing.
        scores: [F, P, K] float32.
        reference_keypoints, reference_scores: [P, K, 2] in native pixels, [P, K]; float32.
        reference_image: uint8 [H, W, 3].
        reference_mask: uint8 [P, H, W], coverage 0..255.
        packed_pose_masks: uint8 [F, P, bytes], bits of `pose_masks` (numpy.packbits of a flattened mask); an array, or
            `KeptMasks`, which is indexed as one and takes less memory.
        canvas: how driving frames are laid onto the canvas.
        options: what was asked for.
        timings: stage -> seconds.
        warnings: what the user should know.
        detector: its name, or None if all keypoints were given.
        versions: package -> version.
        reference_path, driving_path: or None if arrays were given.
        frame_range: (start, stop) of the driving frames that were used; stop may be None.
        order: [F, P] int, the persons from back to front, as composites show them.
        match: [P] the driving person (from 0) who plays each person of the reference, -1 for nobody.
        device: what the detector really computed on, as it reports; None if there was none.
        cuts: the frames with which new shots begin.
        segmenter, segmenter_device: what made masks from keypoints, and its device; None if there was none.
        reference_sha256: of the photo's file, 64 hexadecimal digits; None if the photo was no file.
        small_frames: the driving frames as previews show them, if they are at hand.
    """

    size: tuple[int, int]
    fps: float
    times: np.ndarray
    matrices: np.ndarray
    raw_matrices: np.ndarray
    status: np.ndarray
    determined: np.ndarray
    swapped: np.ndarray
    opacity: np.ndarray
    members: np.ndarray
    residual: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray
    reference_keypoints: np.ndarray
    reference_scores: np.ndarray
    reference_image: np.ndarray
    reference_mask: np.ndarray
    packed_pose_masks: KeptMasks | np.ndarray
    canvas: Canvas
    options: dict
    timings: dict
    warnings: list
    detector: str | None
    versions: dict
    reference_path: str | None = None
    driving_path: str | None = None
    frame_range: tuple[int, int | None] = (0, None)
    driving: object = None  # the driving video as given, if it is at hand
    order: np.ndarray | None = None
    match: list | None = None
    cuts: list = dataclasses.field(default_factory=list)
    device: str | None = None
    segmenter: str | None = None
    segmenter_device: str | None = None
    reference_sha256: str | None = None
    small_frames: SmallFrames | None = None

    def __post_init__(self):
        if self.order is None:
            self.order = np.tile(np.arange(self.persons), (len(self), 1))
        if self.match is None:
            self.match = list(range(self.persons))
        self._source = None
        self._sources: dict[tuple, WarpSource] = {}
        self._last: tuple[tuple, Warped] | None = None

    def __getstate__(self):
        driving = None if isinstance(self.driving, LocalCopy) else self.driving
        dropped = {"_source": None, "_sources": {}, "_last": None, "small_frames": None}
        return self.__dict__ | dropped | {"driving": driving}

    def __len__(self) -> int:
        return len(self.times)

    def __repr__(self) -> str:
        height, width = self.size
        return f"Calibration({len(self)} frames, {self.persons} person(s), {height}x{width}, {self.fps:.3g} fps)"

    @property
    def persons(self) -> int:
        """P."""
        return self.matrices.shape[1]

    @property
    def images(self) -> Frames:
        """Calibrated images: `images[i]` uint8 [P, h, w, 3], `images[a:b]` [n, P, h, w, 3]; the whole photo, warped."""
        return Frames(len(self), lambda index: self._render_bytes(index).image)

    @property
    def masks(self) -> Frames:
        """Calibrated masks: `masks[i]` uint8 [P, h, w], coverage 0..255, times the opacity."""
        return Frames(len(self), lambda index: self._render_bytes(index).mask)

    @property
    def composites(self) -> Frames:
        """The persons alone, over black: `composites[i]` uint8 [h, w, 3]."""
        return Frames(len(self), lambda index: self.render(index, background=0).composite)

    @property
    def pose_masks(self) -> Frames:
        """Where the driving persons are: `pose_masks[i]` uint8 [P, h, w], 0 or 255."""
        return Frames(len(self), self._unpack_pose_masks)

    @property
    def reference_canvas(self) -> Canvas:
        """How the photo is laid onto the canvas where it is shown as it is: as a driving frame would be."""
        return Canvas.fitting(self.reference_image.shape[:2], self.size, self.options.get("resize", "pad"))

    @property
    def valid_mask(self) -> np.ndarray:
        """uint8 [h, w]: 255 where the canvas shows the driving frame, 0 where it is padding."""
        return self.canvas.valid_mask()

    def render(self, frames=slice(None), **options) -> Warped:
        """Renders frames (an index, several, or a slice) as `warp_composite` does, with its options.

        Interpolation and antialiasing are those of the calibration unless given; another `size` scales the canvas;
        `dtype="float16"` writes what a model takes. Opacities below 1 scale the masks.
        """
        index = _chosen(frames, len(self))
        defaults = {name: self.options[name] for name in ("interpolation", "antialias") if name in self.options}
        options = {"size": self.size, **defaults, **options}
        options["size"] = _checks.pixel_size(options["size"], "size")
        matrices = self.matrices[index]
        if options["size"] != self.size:
            ratio = (np.array(options["size"]) / self.size)[::-1]  # across, down
            matrices = matrices * ratio[:, None]
            matrices[..., 2] += (ratio - 1) / 2
        source = self._source
        if source is None:
            source = self._source = WarpSource(self.reference_image, self.reference_mask)
        background = options.pop("background", None)
        order = self.order[index]
        ordered = background is None or (order == np.arange(self.persons)).all()
        if ordered and (self.opacity[index] >= 1).all():
            return source.warp(matrices, background=background, **options)
        if np.ndim(background) == 4 and len(background) != len(index):
            raise ValueError(f"background must be of {len(index)} frames, but is {_checks.describe(background)}")
        parts = []
        for position, i in enumerate(index):
            ground = background[position] if np.ndim(background) == 4 else background
            one, back = source, slice(None)
            matrix = matrices[position : position + 1]
            if not ordered:  # the later a person, the farther in front
                one, back = self._source_in(order[position]), np.argsort(order[position])
                matrix = matrix[:, order[position]]
            if (self.opacity[i] < 1).any():
                masks = faded(self.reference_mask, self.opacity[i])
                one = WarpSource(self.reference_image, masks if ordered else masks[order[position]])
            warped = one.warp(matrix, background=ground, **options)
            parts.append(warped if ordered else Warped(warped.image[:, back], warped.mask[:, back], warped.composite))
        return Warped(*(None if a[0] is None else np.concatenate(a) for a in zip(*parts, strict=True)))

    def _source_in(self, order: np.ndarray) -> WarpSource:
        """The reference with its persons in another order; kept, as a video has few."""
        key = tuple(order.tolist())
        if key not in self._sources:
            self._sources[key] = WarpSource(self.reference_image, self.reference_mask[order])
        return self._sources[key]

    def _render_bytes(self, index) -> Warped:
        # Whoever reads images[i] reads masks[i] next: they come from one pass.
        if len(index) != 1:
            return self.render(index)
        key = int(index[0]), self.matrices[index].tobytes(), self.opacity[index].tobytes()
        last = self._last
        if last is None or last[0] != key:
            last = self._last = key, self.render(index)
            for array in last[1][:2]:
                array.flags.writeable = False
        return last[1]

    def _unpack_pose_masks(self, index):
        return unpack_mask(self.packed_pose_masks[index], self.size)

    def mask_iou(self) -> np.ndarray:
        """[F, P] float32: intersection over union of calibrated mask and pose mask (NaN where both are empty)."""
        iou = np.zeros(self.status.shape, np.float32)
        for i in range(len(self)):
            iou[i] = mask_iou(self.masks[i], self.pose_masks[i])
        return iou

    def retarget(
        self, keypoints=None, mode: str = "constant", keep_limbs: bool = False, scores=None, bounds=BOUNDS
    ) -> np.ndarray:
        """The calibration the other way round: driving keypoints where they would be in the reference photo.

        For models that are driven by skeletons.

        Args:
            keypoints: [F, P, K, 2] in pixels of the driving frames, of the persons and in the order of the calibration,
                NaN where missing; any K (whole bodies, hands, faces). None: the calibration's own 17.
            mode: "constant" takes one similarity for the whole clip, its median in scale, angle and place, so that all
                motion remains; "frame" takes every frame's own, so that the torso stays where the reference's is.
            keep_limbs: whether torso, head, shoulders, hips, arms and legs get the reference's lengths: each by one
                factor for the whole clip, the same left and right, so that they still shorten in perspective. Parts
                that the photo shows foreshortened are not measured (see `tpc_fast.calibration.proportions`). Needs
                K = 17, or 133 in the order of COCO-WholeBody, whose hands, feet and faces go along.
            scores: [F, P, K], how much each keypoint counts for the lengths; None: the calibration's, or 1.
            bounds: the smallest and largest of these factors.

        Returns:
            float32 [F, P, K, 2] in native pixels of the reference.

        Raises:
            TypeError, ValueError: for keypoints or scores of another shape, an unknown mode, bounds that do not hold
                1, or `keep_limbs` with another K.
        """
        return retarget(self, keypoints, mode, keep_limbs, scores, bounds)

    def every(self, step: int) -> "Calibration":
        """A calibration of every `step`-th frame only, from the first on. It has no driving video.

        Args:
            step: from 1.
        """
        if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= sys.maxsize:
            raise ValueError(f"step must be an integer from 1 to {sys.maxsize}, but is {step!r}")
        if step == 1:
            return self
        frames = len(self)
        names = ("times", "matrices", "raw_matrices", "status", "determined", "swapped", "opacity", "members",
                 "residual", "keypoints", "scores", "order")  # fmt: skip
        taken = {name: getattr(self, name)[::step] for name in names if getattr(self, name) is not None}
        masks = self.packed_pose_masks
        taken["packed_pose_masks"] = masks.every(step) if isinstance(masks, KeptMasks) else masks[::step]
        cuts = sorted({-(-cut // step) for cut in self.cuts if -(-cut // step) * step < frames})
        return dataclasses.replace(
            self, **taken, fps=self.fps / step, cuts=cuts, driving=None, driving_path=None, frame_range=(0, None),
            small_frames=None,
        )  # fmt: skip

    def driving_frames(self, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
        """The driving frames on the canvas, uint8 [h, w, 3] each.

        Args:
            size: (height, width) to scale the canvas to.

        Raises:
            ValueError: if the driving video is not at hand.
        """
        source = self.driving if self.driving is not None else self.driving_path
        if source is None:
            raise ValueError("the driving video is not at hand: it was given as arrays and is not saved")
        canvas = self.canvas if size is None else self.canvas.scaled(_checks.pixel_size(size, "size"))
        left, top, right, bottom = canvas.box
        kept = self.small_frames and self.small_frames.all((bottom - top, right - left), len(self))
        if kept:
            yield from map(canvas.draw, kept)
            return
        reader = VideoReader(source, frames=slice(*self.frame_range), scale_to=(bottom - top, right - left))
        if reader.size != canvas.source:
            raise ValueError(f"the driving video has frames of {reader.size}, not of {canvas.source}")
        for frame in itertools.islice(reader, len(self)):
            yield canvas.draw(frame.image)

    @property
    def sound(self) -> Sound | None:
        """The sound of the driving video, from the first frame that is used; None without its file."""
        path = self.driving_path
        if path is None or not os.path.isfile(path):
            return None
        return Sound(path, self.frame_range[0] / self.fps)

    def save(self, folder: str | os.PathLike, overwrite: bool = False) -> None:
        """Writes `calibration.json`, `reference.png` and `masks.npz` into a new folder, whole or not at all.

        Raises:
            FileExistsError: if the folder exists, unless it holds a calibration and `overwrite` is True.
            OSError: if it cannot be written.
        """
        with OutputFolder(folder, overwrite) as partial:
            self.write(partial)

    def write(self, folder: str | os.PathLike) -> None:
        """Writes the three files of `save` into an existing folder."""
        write_record(self, Path(folder))

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Calibration":
        """Reads what `save` or `tpc-fast calibrate` wrote.

        Raises:
            FileNotFoundError: if the folder or a file of it is missing.
            ValueError: if a file is not what it should be; says which and why.
        """
        return cls(**read_record(Path(folder)))


def _chosen(frames, count: int) -> np.ndarray:
    """The numbers of frames that an index, several, a mask or a slice chooses.

    Raises:
        IndexError: for one that is not there.
        TypeError: for something else.
    """
    wrong = f"frames must be an index, several, or a slice, but is {_checks.describe(frames)}"
    try:
        index = np.atleast_1d(np.arange(count)[frames])
    except (IndexError, TypeError, ValueError, OverflowError) as error:
        if "out of bounds" in str(error):
            raise IndexError(f"frames must be among the {count} there are, but is {_checks.describe(frames)}") from None
        raise TypeError(wrong) from error
    if frames is None or isinstance(frames, bool) or index.ndim != 1:
        raise TypeError(wrong)
    return index


def faded(masks: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Masks uint8 [P, H, W] times opacities [P]."""
    return np.rint(masks * opacity[:, None, None]).astype(np.uint8)
