"""The reference and its persons over time: what a calibration keeps from frame to frame."""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tpc_fast.media.canvas import FITS, Canvas
from tpc_fast.ops.procrustes import Similarity
from tpc_fast.ops.warp import INTERPOLATIONS
from tpc_fast.pose.follow.depth import check_depth
from tpc_fast.pose.follow.fitting import FrameFit, PersonFitter, parse_subset
from tpc_fast.pose.follow.matching import check_match
from tpc_fast.pose.follow.smoothing import CausalSmoother, to_track
from tpc_fast.pose.keypoints import TORSO


@dataclasses.dataclass(frozen=True)
class Options:
    size: tuple[int, int]
    fit: str
    subset: str
    smooth: str
    score_threshold: float
    interpolation: str
    antialias: bool
    hold_seconds: float
    fade_seconds: float
    match: str | tuple = "auto"
    depth: str | tuple = "auto"
    clean_masks: bool = False

    @classmethod
    def checked(cls, size, **others) -> "Options":
        if isinstance(size, int) and not isinstance(size, bool):
            size = (size, size)
        try:
            height, width = size
            valid = all(isinstance(n, int | np.integer) and 16 <= n <= 16384 for n in (height, width))
        except (TypeError, ValueError):
            valid = False
        if not valid:
            raise ValueError(f"size must be an integer or (height, width), each from 16 to 16384, but is {size!r}")
        options = cls((int(height), int(width)), **others)
        for name, allowed in (("fit", FITS), ("interpolation", INTERPOLATIONS)):
            if getattr(options, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, but is {getattr(options, name)!r}")
        parse_subset(options.subset)
        for name, low, high in (
            ("score_threshold", 0, 1),
            ("hold_seconds", 0, np.inf),
            ("fade_seconds", 0, np.inf),
        ):
            value = getattr(options, name)
            if not (isinstance(value, int | float) and low <= value <= high and np.isfinite(value)):
                raise ValueError(f"{name} must be a finite number from {low} to {high}, but is {value!r}")
        return dataclasses.replace(options, match=check_match(options.match))

    def for_persons(self, persons: int) -> "Options":
        """Checked for a reference with so many persons."""
        return dataclasses.replace(self, depth=check_depth(self.depth, persons))

    def as_dict(self) -> dict:
        listed = {name: value for name, value in vars(self).items() if isinstance(value, tuple)}
        return dataclasses.asdict(self) | {name: np.array(value).tolist() for name, value in listed.items()}


class Seen(NamedTuple):
    """Whoever was seen in a frame, D persons.

    Attributes:
        keypoints: float32 [D, K, 2] in pixels of the frame, NaN = missing.
        scores: float32 [D, K].
        masks: uint8 [D, h, w] on the canvas, or None.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None


def picked(array: np.ndarray, places: np.ndarray, nothing=0) -> np.ndarray:
    """Rows [P, ...] of an array [D, ...], `nothing` where a place is -1."""
    rows = np.full((len(places), *array.shape[1:]), nothing, array.dtype)
    rows[places >= 0] = array[places[places >= 0]]
    return rows


class Reference:
    """The photo with its persons, and where its pixels lie in the space that fits are made in."""

    def __init__(self, source, image, mask, keypoints, scores, canvas: Canvas | None):
        self.path = str(Path(source).resolve()) if isinstance(source, str | os.PathLike) else None
        self.image, self.mask, self.keypoints, self.scores = image, mask, keypoints, scores
        # Squeezing changes the aspect ratio, so the squeezed photo is fitted, as the original does. Otherwise the photo
        # itself is: a similarity takes any scale in.
        self.canvas = canvas

    @property
    def points(self) -> np.ndarray:
        """[P, K, 2] keypoints in the space of the fits."""
        return self.keypoints if self.canvas is None else self.canvas.apply(self.keypoints)

    def matrix(self, similarity: Similarity) -> np.ndarray:
        """[..., 2, 3] float32, native pixels -> canvas, of similarities from the space of the fits."""
        matrix = similarity.matrix
        if self.canvas is not None:
            squeeze = np.vstack([self.canvas.matrix, [0, 0, 1]])
            matrix = matrix @ squeeze
        return matrix.astype(np.float32)


class Person:
    """One person over time: the fit with its memory, and what is done while nothing can be fitted."""

    def __init__(self, reference: Reference, index: int, start: Similarity, options: "Options"):
        points, scores = reference.points[index], reference.scores[index]
        self.fitter = PersonFitter(points, scores, options.subset, options.score_threshold)
        seen = np.isfinite(points).all(-1) & (scores >= options.score_threshold)
        torso = np.zeros_like(seen)
        torso[TORSO] = True
        self.anchor = points[seen & torso if (seen & torso).any() else seen].mean(0)
        self._options = options
        self.start = to_track(start, self.anchor)
        self.reset()

    def reset(self) -> None:
        self.fitter.reset()
        self.smoother = CausalSmoother() if self._options.smooth == "causal" else None
        self.track, self.raw = self.start, self.start
        self.opacity, self._seen, self._before = 0.0, None, None

    def follow(self, fit: FrameFit, time: float) -> str:
        """Takes a frame's fit in; sets track, raw and opacity, and returns the status."""
        options = self._options
        held_before = self._seen is not None and self._before != self._seen
        if fit.similarity is not None:
            self.raw = self.track = to_track(fit.similarity, self.anchor)
            if self.smoother is not None:
                self.track = self.smoother.step(self.raw, time, fit.size, held_before or fit.corrected)
            first, self._seen = self._seen is None, time
            status, wanted = status_of(fit), 1.0
        else:
            first = False
            gap = np.inf if self._seen is None else time - self._seen
            status = "held" if gap <= options.hold_seconds else "lost"
            wanted = fading(gap, options.hold_seconds, options.fade_seconds)
        if first or wanted <= self.opacity or options.fade_seconds <= 0:
            self.opacity = wanted
        else:  # who was faded out fades in
            self.opacity = min(wanted, self.opacity + (time - self._before) / options.fade_seconds)
        self._before = time
        return status


def status_of(fit: FrameFit) -> str:
    return "tracked" if fit.rung == "subset" and not fit.corrected else "fallback"


def fading(gap, hold_seconds: float, fade_seconds: float):
    """Opacity after `gap` seconds without a fit: 1 while held, then down to 0 within `fade_seconds`."""
    if fade_seconds <= 0:
        return np.where(np.asarray(gap) <= hold_seconds, 1.0, 0.0)[()]
    return np.clip(1 - (np.asarray(gap) - hold_seconds) / fade_seconds, 0.0, 1.0)[()]
