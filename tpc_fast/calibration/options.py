"""What can be asked of a calibration, checked."""

import dataclasses
import operator
import re

import numpy as np

from tpc_fast import _checks
from tpc_fast._moved import warn
from tpc_fast.media.canvas import RESIZES
from tpc_fast.ops.coco import SCORE_THRESHOLD
from tpc_fast.ops.track import MOTIONS, parse_subset
from tpc_fast.ops.warp import INTERPOLATIONS
from tpc_fast.pose.detect.hint import Hint, check_hint
from tpc_fast.pose.follow.depth import check_depth
from tpc_fast.pose.follow.matching import check_match

SMOOTHINGS = ("none", "causal", "offline")


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of `Calibrator` that shape its result; see there."""

    size: tuple[int, int] = (512, 512)
    resize: str = "pad"
    subset: str = "optimal"
    smooth: str = "offline"
    motion: str = "frame"
    cuts: str | tuple = "auto"
    score_threshold: float = SCORE_THRESHOLD
    interpolation: str = "cubic"
    antialias: bool = True
    hold_seconds: float = 1.0
    fade_seconds: float = 0.5
    match: str | tuple = "auto"
    depth: str | tuple = "auto"
    clean_masks: bool = False
    reference_box: tuple | None = None
    reference_point: tuple | None = None
    driving_box: tuple | None = None
    driving_point: tuple | None = None

    @classmethod
    def checked(cls, size=(512, 512), **others) -> "Options":
        """Options that are as they must be.

        Raises:
            ValueError: for one that is not.
        """
        others["resize"] = renamed_resize(others.get("resize"), others.pop("fit", None), stacklevel=5)
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
        for name, allowed in (
            ("resize", RESIZES),
            ("smooth", SMOOTHINGS),
            ("motion", MOTIONS),
            ("interpolation", INTERPOLATIONS),
        ):
            if getattr(options, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, but is {getattr(options, name)!r}")
        parse_subset(options.subset)
        for name, low, high in (
            ("score_threshold", 0, 1),
            ("hold_seconds", 0, np.inf),
            ("fade_seconds", 0, np.inf),
        ):
            value = getattr(options, name)
            if not (_checks.is_finite(value) and low <= value <= high):
                raise ValueError(f"{name} must be a finite number from {low} to {high}, but is {value!r}")
        hints = {}
        for name in ("reference", "driving"):
            if hint := check_hint(name, others.get(f"{name}_box"), others.get(f"{name}_point")):
                hints[hint.name] = hint.box or hint.point
        return dataclasses.replace(options, match=check_match(options.match), cuts=check_cuts(options.cuts), **hints)

    def hint(self, name: str) -> Hint | None:
        """Who is meant in the "reference" or, in its first frame, the "driving" video."""
        return check_hint(name, getattr(self, f"{name}_box"), getattr(self, f"{name}_point"))

    def for_persons(self, persons: int) -> "Options":
        """Checked for a reference with so many persons."""
        return dataclasses.replace(self, depth=check_depth(self.depth, persons))

    def as_dict(self) -> dict:
        listed = {name: value for name, value in vars(self).items() if isinstance(value, tuple)}
        return dataclasses.asdict(self) | {name: np.array(value).tolist() for name, value in listed.items()}


def renamed_resize(resize: str | None, fit: str | None, stacklevel: int = 2) -> str:
    """The option `resize`, which was `fit="pad"|"squeeze"` before 0.3: the old words work for one release, and warn."""
    if fit is not None:
        warn("the option fit", "resize", stacklevel)
        resize = fit if resize is None else resize
    if resize == "squeeze":
        if fit is None:
            warn('the word "squeeze"', '"stretch"', stacklevel)
        resize = "stretch"
    return "pad" if resize is None else resize


def parse_match(text: str):
    """`match` as people write it: "auto", "left-to-right", "columns", or pairs REFERENCE:DRIVING as "0:1,1:0"."""
    if re.fullmatch(r"\d+:\d+(,\d+:\d+)*", text):
        return tuple(tuple(int(n) for n in pair.split(":")) for pair in text.split(","))
    return text


def parse_depth(text: str):
    """`depth` as people write it: "auto", or the persons from back to front as "1,0"."""
    return tuple(int(n) for n in text.split(",")) if re.fullmatch(r"\d+(,\d+)*", text) else text


def check_cuts(cuts):
    """`cuts` option -> "auto", "none" or the frames with which new shots begin, in order.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(cuts, str) and cuts in ("auto", "none"):
        return cuts
    try:
        if isinstance(cuts, str):
            raise TypeError
        frames = tuple(sorted({operator.index(cut) for cut in cuts}))
    except TypeError:
        frames = (-1,)
    if frames and frames[0] < 0:
        raise ValueError(f'cuts must be "auto", "none" or frame numbers from 0 on, but are {cuts!r}')
    return frames
