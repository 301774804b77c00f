"""People in pictures: keypoints, scores and masks, found or given.

`PersonTracker` finds one person in a photo or follows one through a video with any `Detector`; `get_detector`
makes an embedded one; `Detections` holds and checks what was found or given for a whole video, and goes to a
file and back. Keypoints are xy in pixels (pixel centres at integers), COCO-17 order.
"""

from tpc_fast.pose.detection import Detection, Detector, PeopleDetector
from tpc_fast.pose.detectors import get_detector
from tpc_fast.pose.formats import load_keypoints
from tpc_fast.pose.formats_out import save_keypoints
from tpc_fast.pose.segment import Segmenter, clean_mask, get_segmenter
from tpc_fast.pose.storage import (
    Detections,
    StaleDetectionsError,
    fingerprint,
    load_detections,
    save_detections,
)
from tpc_fast.pose.tracking import PersonTracker

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
