"""The 17 COCO keypoints: names, sides, and the groups that the fits use."""

import numpy as np

NAMES = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
COUNT = len(NAMES)
FACE = [0, 1, 2, 3, 4]
SHOULDERS = [5, 6]
TORSO = [5, 6, 11, 12]  # shoulders and hips
HIPS = [11, 12]
KNEES = [13, 14]
#: The keypoints with left and right exchanged.
MIRRORED = np.array([0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15])
