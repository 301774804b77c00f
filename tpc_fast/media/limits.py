"""How much a file may ask for: checked before anything is allocated, so that a small file cannot take all memory.

The defaults are above what calibrations of real photos and clips need. They are raised by `LIMITS.pixels = ...`, or for
a command by the environment: TPC_FAST_LIMITS=pixels=400000000,unpacked=8000000000.
"""

import dataclasses
import os

VARIABLE = "TPC_FAST_LIMITS"


@dataclasses.dataclass
class Limits:
    """The most that a reader takes.

    Attributes:
        pixels: of a picture, or of a frame of a video with square pixels; the largest cameras give 200 million.
        frames: of a video, a folder of pictures, or a file of keypoints; nine hours at 30 frames a second.
        persons: of a frame, of any file.
        text: bytes of a JSON file; Python takes some ten times as much for its numbers.
        unpacked: bytes of the arrays that are made of an .npz or JSON file.
        download: bytes of what an address or an open file gives.
        fetching: seconds in which an address gives them; then it is given up.
    """

    pixels: int = 1 << 28
    frames: int = 1_000_000
    persons: int = 256
    text: int = 1 << 28
    unpacked: int = 1 << 31
    download: int = 1 << 31
    fetching: int = 3600

    def check(self, limit: str, value: int, what: str) -> None:
        """Raises ValueError, saying how to raise the limit, if `value` is above it.

        Args:
            limit: the name of one.
            value: what is asked for.
            what: who asks, for the message.
        """
        if value > getattr(self, limit):
            raise ValueError(self.above(limit, value, what))

    def above(self, limit: str, value: int, what: str) -> str:
        """What `check` says."""
        unit = "bytes" if limit in ("text", "unpacked", "download") else limit
        return (
            f"{what} must have at most {getattr(self, limit)} {unit}, but has {value}: if it is meant so, raise the "
            f"limit by {VARIABLE}={limit}={value} or tpc_fast.media.limits.LIMITS.{limit}"
        )


def _from_environment() -> Limits:
    limits, names = Limits(), [field.name for field in dataclasses.fields(Limits)]
    for part in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, _, value = part.partition("=")
        if name.strip() not in names or not value.strip().isdecimal():
            raise ValueError(f"{VARIABLE} must be NAME=NUMBER,... with names of {', '.join(names)}, but has {part!r}")
        setattr(limits, name.strip(), int(value))
    return limits


LIMITS = _from_environment()
