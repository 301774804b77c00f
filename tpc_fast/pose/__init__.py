"""People in pictures: keypoints, scores and masks, found or given.

`PersonTracker` finds one person in a photo or follows one through a video with any `Detector`; `get_detector`
makes an embedded one; `Detections` holds and checks what was found or given for a whole video, and goes to a
file and back. Keypoints are xy in pixels (pixel centres at integers), COCO-17 order.
"""

from tpc_fast._lazy import lazy

_PUBLIC = {
    "Detection": "detect.detection",
    "Detector": "detect.detection",
    "PeopleDetector": "detect.detection",
    "PersonTracker": "detect.one_person",
    "get_detector": "detect.registry",
    "Detections": "files.detections",
    "StaleDetectionsError": "files.detections",
    "fingerprint": "files.detections",
    "load_detections": "files.detections",
    "save_detections": "files.detections",
    "load_keypoints": "files.read",
    "save_keypoints": "files.write",
    "Segmenter": "masks.sam",
    "clean_mask": "masks.sam",
    "get_segmenter": "masks.sam",
}

__getattr__, __dir__ = lazy(__name__, _PUBLIC)
