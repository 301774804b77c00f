"""Environments of their own for what does not install beside the rest: `nox -f tests/noxfile.py`."""

from pathlib import Path

import nox

ROOT = Path(__file__).parents[1]
nox.options.sessions = ["mmpose", "segment_anything"]

# As in docs/guides/detectors.md. Three equals signs: torchvision's wheels fit the registry's own wheel of torch, and
# never a build with a local version ("+cpu"), which two would take where an index offers one.
TORCH = ["torch===2.13.0", "torchvision===0.28.0"]

# The whole mmcv is built from source (its lite variant can't be imported by MMPose), on one processor in half an hour
# with CFLAGS=-O0 and longer without; MMPose imports torchvision, and asks for chumpy, which it does not need.
BUILD = ["numpy==1.26.4", "setuptools<81", "wheel", "ninja", "psutil", "cython"]
NEEDED = [
    "addict", "pyyaml", "rich", "termcolor", "yapf", "opencv-contrib-python==4.11.0.86", "json_tricks", "munkres",
    "matplotlib", "pycocotools", "shapely", "six", "terminaltables",
]  # fmt: skip
OPEN_MMLAB = ["mmpose==1.3.2", "mmdet==3.2.0", "mmengine==0.10.7"]
BUILT = ["mmcv==2.1.0", "xtcocotools"]
NUMPY_1 = "tests/numpy1.txt"


@nox.session(python="3.11")
def mmpose(session):
    """MMPose on tiny random models."""
    session.chdir(ROOT)
    session.install(*TORCH, *BUILD)
    session.install("-c", NUMPY_1, *NEEDED)
    session.install("--no-deps", *OPEN_MMLAB)
    session.install("--no-build-isolation", "--no-deps", *BUILT, env={"MMCV_WITH_OPS": "1"})
    _test(session, "mmpose", "-c", NUMPY_1, "-e", ".")


@nox.session(python="3.11")
def segment_anything(session):
    """The original package of Segment Anything on random weights."""
    session.chdir(ROOT)
    session.install(*TORCH)
    session.install("segment-anything==1.0")
    _test(session, "segment_anything", "-c", "constraints.txt", "-e", ".[demo]")


def _test(session, name, *package):
    session.install(*package, "hypothesis", "pytest")
    session.run(
        "python", "-m", "pytest", f"tests/test_{name}.py", *session.posargs, env={"TPC_REQUIRE": f"native,{name}"}
    )
