"""The detectors there are, one record each; their packages are imported when a detector is made.

To add a detector: one file beside this one, with a class as `Detector` says, and one record in `NEEDS`.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

from tpc_fast._extras import INSTALL
from tpc_fast.pose.detect.detection import Detector, PeopleDetector


class Needs(NamedTuple):
    """What a detector is made from.

    Attributes:
        packages: that it needs; how_to_install: them, in words.
        kind: "module:Class", the module in this folder.
        converters: option -> what makes its value from text; others stay text.
    """

    packages: tuple[str, ...]
    how_to_install: str
    kind: str
    converters: dict[str, Callable[[str], object]]


def _count(text: str):
    return int(text) if text.isdigit() else text  # which the class refuses


def _size(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split("x"))


_COUNTS = {"people": _count, "threads": _count}
# By name. The first whose packages are there is the default.
NEEDS = {
    "blazepose": Needs(("ai_edge_litert",), INSTALL["demo"], "blazepose:BlazePoseDetector", _COUNTS),
    "mediapipe": Needs(("mediapipe",), INSTALL["mediapipe"], "mediapipe:MediaPipeDetector", _COUNTS),
    "rtmlib": Needs(
        ("rtmlib", "onnxruntime"),
        "pip install --no-deps rtmlib==0.0.16 && pip install onnxruntime opencv-python-headless tqdm",
        "rtmlib:RtmlibDetector",
        {"size": _size},
    ),
    "mmpose": Needs(("mmpose",), "see the recipe in docs/guides/detectors.md", "mmpose:MMPoseDetector", {}),
}
NAMES = tuple(NEEDS)
#: Options that name neither a file nor an address.
PLAIN_OPTIONS = ("people", "threads", "size", "mode", "device")


def installed() -> tuple[str, ...]:
    """The detectors whose packages are there."""
    return tuple(n for n, needs in NEEDS.items() if all(map(importlib.util.find_spec, needs.packages)))


def get_detector(spec: str | None = None) -> Detector | PeopleDetector:
    """A detector, ready to use.

    Args:
        spec: a name, with options of its class if wanted: "blazepose", "blazepose:people=2,threads=4", "mediapipe",
            "rtmlib", "rtmlib:pose=FILE,detect=FILE", "rtmlib:rtmo=FILE,device=cuda",
            "mmpose:config=FILE,checkpoint=FILE". None: the first that is installed.

    Raises:
        ValueError: if there is no such detector, or no such option.
        ImportError: if its package is not installed; says how to install it.
    """
    if spec is None:
        available = installed()
        spec = available[0] if available else "blazepose"  # whose own error says what most will want
    name, given = _parts(spec)
    if name not in NAMES:
        raise ValueError(f"detector must be one of {', '.join(NAMES)} or an object like Detector, but is {spec!r}")
    needs = NEEDS[name]
    options = {key: needs.converters.get(key, str)(value) for key, value in given.items()}
    module, _, kind = needs.kind.partition(":")
    kind = getattr(importlib.import_module(f"tpc_fast.pose.detect.{module}"), kind)
    try:
        return kind(**options)
    except TypeError as error:
        given = spec.partition(":")[2]
        raise ValueError(f"detector {name} does not take these options: {given!r} ({error})") from error


def check_plain(spec: str) -> None:
    """Refuses what names a file or an address: networks are programs, which no file of data may name.

    Args:
        spec: as for `get_detector`, from a file of data, such as a workflow.

    Raises:
        ValueError: if it has other options than `PLAIN_OPTIONS`.
    """
    name, given = _parts(spec)
    if name not in NAMES or set(given) - set(PLAIN_OPTIONS):
        raise ValueError(
            f"detector must be one of {', '.join(NAMES)} with options of {', '.join(PLAIN_OPTIONS)} here, since a "
            f"network is a program, which no file may name, but is {spec!r}"
        )


def _parts(spec: str) -> tuple[str, dict[str, str]]:
    """Name and options."""
    name, _, rest = spec.partition(":")
    return name, dict(part.partition("=")[::2] for part in rest.split(",")) if rest else {}
