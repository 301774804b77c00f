"""Detectors, one file each; their packages are imported when a detector is made."""

import importlib.util

from tpc_fast._extras import INSTALL
from tpc_fast.pose.detect.detection import Detector, PeopleDetector

# By name: the packages that it needs, and how they are installed. The first that is there is the default.
NEEDS = {
    "blazepose": (("ai_edge_litert",), INSTALL["demo"]),
    "mediapipe": (("mediapipe",), INSTALL["mediapipe"]),
    "rtmlib": (
        ("rtmlib", "onnxruntime"),
        "pip install --no-deps rtmlib==0.0.16 && pip install onnxruntime opencv-python-headless tqdm",
    ),
    "mmpose": (("mmpose",), "see the README's recipe for MMPose"),
}
NAMES = tuple(NEEDS)


def installed() -> tuple[str, ...]:
    """The detectors whose packages are there."""
    return tuple(n for n, (packages, _) in NEEDS.items() if all(map(importlib.util.find_spec, packages)))


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
    name, _, rest = spec.partition(":")
    if name not in NAMES:
        raise ValueError(f"detector must be one of {', '.join(NAMES)} or an object like Detector, but is {spec!r}")
    options = dict(part.partition("=")[::2] for part in rest.split(",")) if rest else {}
    if name in ("blazepose", "mediapipe"):
        if name == "blazepose":
            from tpc_fast.pose.detect.blazepose import BlazePoseDetector as kind
        else:
            from tpc_fast.pose.detect.mediapipe import MediaPipeDetector as kind
        numbers = {
            key: int(value) for key, value in options.items() if key in ("people", "threads") and value.isdigit()
        }
        options |= numbers
    elif name == "rtmlib":
        from tpc_fast.pose.detect.rtmlib import RtmlibDetector as kind

        if "size" in options:
            options["size"] = tuple(int(n) for n in options["size"].split("x"))
    else:
        from tpc_fast.pose.detect.mmpose import MMPoseDetector as kind
    try:
        return kind(**options)
    except TypeError as error:
        raise ValueError(f"detector {name} does not take these options: {rest!r} ({error})") from error
