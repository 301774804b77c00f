"""Calibrates with keypoints of another program, and no detector.

    python examples/own_keypoints.py PHOTO VIDEO PHOTO_KEYPOINTS VIDEO_KEYPOINTS

Files of OpenPose, DWPose, MMPose, COCO, AlphaPose or MediaPipe; the format is recognised by what is in the file.
"""

import sys

import tpc_fast
from tpc_fast.pose import load_keypoints

photo, video, of_photo, of_video = sys.argv[1:]
calibration = tpc_fast.calibrate(photo, video, reference_keypoints=of_photo, driving_keypoints=of_video)
print(f"{load_keypoints(of_video).scores.mean():.2f} is the mean score of what was given")
print(f"{(calibration.status == 'tracked').mean():.0%} of {len(calibration)} frames are tracked")
