"""Embedded detectors, one file each; their packages are imported when a detector is made."""

from tpc_fast.pose.detection import Detector

NAMES = ("mediapipe",)


def get_detector(name: str = "mediapipe") -> Detector:
    """The embedded detector of that name, ready to use.

    Raises:
        ValueError: if there is no such detector.
        ImportError: if its package is not installed; says how to install it.
    """
    if name == "mediapipe":
        from tpc_fast.pose.detectors.mediapipe import MediaPipeDetector

        return MediaPipeDetector()
    known = ", ".join(NAMES)
    raise ValueError(f"detector must be one of {known} or an object like Detector, but is {name!r}")
