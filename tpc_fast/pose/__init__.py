"""People in pictures: keypoints, scores and masks, found or given.

`PersonTracker` finds one person in a photo or follows one through a video with any `Detector`; `get_detector`
makes an embedded one; `Detections` holds and checks what was found or given for a whole video, and goes to a
file and back. Keypoints are xy in pixels (pixel centres at integers), COCO-17 order.
"""

from tpc_fast.pose.detect.detection import Detection, Detector, PeopleDetector
from tpc_fast.pose.detect.one_person import PersonTracker
from tpc_fast.pose.detect.registry import get_detector
from tpc_fast.pose.files.detections import (
    Detections,
    StaleDetectionsError,
    fingerprint,
    load_detections,
    save_detections,
)
from tpc_fast.pose.files.read import load_keypoints
from tpc_fast.pose.files.write import save_keypoints
from tpc_fast.pose.masks.sam import Segmenter, clean_mask, get_segmenter

__all__ = [
    "Detection",
    "Detections",
    "Detector",
    "PeopleDetector",
    "PersonTracker",
    "Segmenter",
    "StaleDetectionsError",
    "clean_mask",
    "fingerprint",
    "get_detector",
    "get_segmenter",
    "load_detections",
    "load_keypoints",
    "save_detections",
    "save_keypoints",
]
