"""What a visitor asks for: the values of the form, checked, and kept beside the files of a job."""

import dataclasses
import json
from pathlib import Path

from tpc_fast.calibration.options import SMOOTHINGS
from tpc_fast.media.canvas import RESIZES
from tpc_fast.ops.track import MOTIONS
from tpc_fast.output.layout import FORMATS

SIZES = (512, 768, 1024)
SHAPES = {"square": (1, 1), "portrait 3:4": (4, 3), "portrait 9:16": (16, 9), "landscape 4:3": (3, 4),
          "landscape 16:9": (9, 16)}  # fmt: skip
MOST_PEOPLE = 6  # as many as there are colours
NOBODY = -1
_STEP = 16  # pixels: sizes that models take


@dataclasses.dataclass(frozen=True)
class Request:
    """One calibration.

    Attributes:
        photo, video: names of the files in the job's folder.
        size: (height, width) of the canvas.
        resize, smooth, motion, clean_masks: as of `calibrate`.
        people: how many persons of the video are followed; 0: as many as the photo shows.
        cast: who of the video plays each person of the photo (`NOBODY`: nobody); empty: chosen by place and size.
        start, seconds: the part of the video that is used; `seconds` 0: to its end.
        format: of the calibrated frames.
    """

    photo: str
    video: str
    size: tuple[int, int] = (512, 512)
    resize: str = "pad"
    smooth: str = "offline"
    motion: str = "frame"
    clean_masks: bool = False
    people: int = 0
    cast: tuple[int, ...] = ()
    start: float = 0.0
    seconds: float = 0.0
    format: str = "png"

    def __post_init__(self):
        for name, allowed in (("format", FORMATS), ("resize", RESIZES), ("smooth", SMOOTHINGS), ("motion", MOTIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, but is {getattr(self, name)!r}")
        if not all(_STEP <= side <= SIZES[-1] for side in self.size):
            raise ValueError(f"size must be from {_STEP} to {SIZES[-1]}, but is {self.size}")
        if not 0 <= self.people <= MOST_PEOPLE:
            raise ValueError(f"people must be from 0 to {MOST_PEOPLE}, but is {self.people}")
        for name in ("start", "seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be at least 0, but is {getattr(self, name)}")
        played = [driving for driving in self.cast if driving != NOBODY]
        if len(set(played)) < len(played):
            raise ValueError(f"cast must give each person of the video one role, but is {list(self.cast)}")
        if self.cast and not played:
            raise ValueError("cast must give a role to somebody, but nobody plays anybody")

    def options(self) -> dict:
        """Those of `calibrate` that are asked for; files and frames are left to whoever has them."""
        options = {name: getattr(self, name) for name in ("size", "resize", "smooth", "motion", "clean_masks")}
        if self.people:
            options["detector"] = f"blazepose:people={self.people}"
        if self.cast:
            options["match"] = tuple((p, d) for p, d in enumerate(self.cast) if d != NOBODY)
        return options

    def frames(self, fps: float, count: int | None, most_seconds: float) -> slice:
        """The frames of a video that are used.

        Raises:
            ValueError: if they last longer than `most_seconds`.
        """
        first = round(self.start * fps)
        last = None if not self.seconds else first + max(1, round(self.seconds * fps))
        end = count if last is None else last if count is None else min(last, count)
        if end is not None and end - first > most_seconds * fps + 1:
            raise ValueError(
                f"the video must be at most {most_seconds:g} s long here, but is {(end - first) / fps:.1f} s: choose a "
                "part of it (start and length)"
            )
        if end is not None and end <= first:
            raise ValueError(f"the video is {end / fps:.1f} s long and has nothing from {self.start:g} s on")
        # Nobody knows the length of some files: they are read as far as is allowed.
        return slice(first, last if end is not None else first + round(most_seconds * fps))

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Request":
        """What `write` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**values | {"size": tuple(values["size"]), "cast": tuple(values["cast"])})


def canvas_size(largest: int, shape: str) -> tuple[int, int]:
    """(height, width) with a longer side of `largest` pixels, of one of `SHAPES`, in multiples of 16."""
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, but is {shape!r}")
    sides = SHAPES[shape]
    return tuple(max(_STEP, round(largest * side / max(sides) / _STEP) * _STEP) for side in sides)
