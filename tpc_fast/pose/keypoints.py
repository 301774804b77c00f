"""The 17 COCO keypoints: names, sides, and the groups that the fits use."""

import numpy as np

SCORE_THRESHOLD = 0.3  # of a keypoint that counts, unless the user says otherwise
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
ANKLES = [15, 16]
#: Where they are among MediaPipe's 33 landmarks.
OF_MEDIAPIPE = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
#: Pairs of keypoints that a bone joins, and eyes and ears to the nose.
BONES = (
    *((0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (11, 12), (5, 11), (6, 12)),
    *((5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16)),
)
#: The keypoints with left and right exchanged.
MIRRORED = np.array([0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15])
