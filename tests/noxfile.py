"""Environments of their own for what does not install beside the rest: `nox -f tests/noxfile.py`."""

from pathlib import Path

import nox

ROOT = Path(__file__).parents[1]
nox.options.sessions = ["mmpose"]

# As in the README. The whole mmcv is built from source (its lite variant can't be imported by MMPose), on one processor
# in half an hour to an hour; MMPose imports torchvision, and asks for chumpy, which it does not need.
BEFORE = [
    "torch==2.13.0",
    "torchvision==0.28.0",
    "numpy==1.26.4",
    "setuptools<81",
    "wheel",
    "ninja",
    "psutil",
    "cython",
]
NEEDED = [
    "addict", "pyyaml", "rich", "termcolor", "yapf", "opencv-contrib-python==4.11.0.86", "json_tricks", "munkres",
    "matplotlib", "pycocotools", "shapely", "six", "terminaltables", "tqdm", "pybind11",
]  # fmt: skip
OPEN_MMLAB = ["mmpose==1.3.2", "mmdet==3.2.0", "mmengine==0.10.7"]


@nox.session(python="3.11")
def mmpose(session):
    """MMPose on a tiny random model."""
    session.chdir(ROOT)
    session.install(*BEFORE)
    session.install("-c", "constraints.txt", *NEEDED, "scipy", "pillow", "av", "isal", "hypothesis", "pytest")
    session.install("--no-deps", *OPEN_MMLAB)
    session.install("--no-build-isolation", "--no-deps", "mmcv==2.1.0", "xtcocotools", env={"MMCV_WITH_OPS": "1"})
    session.install("--no-build-isolation", "--no-deps", "-e", ".")
    session.run(
        "python", "-m", "pytest", "tests/test_mmpose.py", *session.posargs, env={"TPC_REQUIRE": "native,mmpose"}
    )
