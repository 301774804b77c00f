# Written by tests/stubs.py from _PUBLIC of __init__.py.
from tpc_fast.pose.detect.detection import Detection as Detection
from tpc_fast.pose.detect.detection import Detector as Detector
from tpc_fast.pose.detect.detection import PeopleDetector as PeopleDetector
from tpc_fast.pose.detect.one_person import PersonTracker as PersonTracker
from tpc_fast.pose.detect.registry import get_detector as get_detector
from tpc_fast.pose.files.detections import Detections as Detections
from tpc_fast.pose.files.detections import StaleDetectionsError as StaleDetectionsError
from tpc_fast.pose.files.detections import fingerprint as fingerprint
from tpc_fast.pose.files.detections import load_detections as load_detections
from tpc_fast.pose.files.detections import save_detections as save_detections
from tpc_fast.pose.files.read import load_keypoints as load_keypoints
from tpc_fast.pose.files.write import save_keypoints as save_keypoints
from tpc_fast.pose.masks.sam import Segmenter as Segmenter
from tpc_fast.pose.masks.sam import clean_mask as clean_mask
from tpc_fast.pose.masks.sam import get_segmenter as get_segmenter

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
