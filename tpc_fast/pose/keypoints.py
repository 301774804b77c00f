"""The 17 COCO keypoints: names, sides, and the groups that the fits use."""

from tpc_fast.ops.coco import ANKLES, COUNT, FACE, HIPS, KNEES, MIRRORED, SCORE_THRESHOLD, SHOULDERS

__all__ = [
    "ANKLES", "BONES", "COUNT", "FACE", "HIPS", "KNEES", "MIRRORED", "NAMES", "OF_MEDIAPIPE", "SCORE_THRESHOLD",
    "SHOULDERS", "TORSO",
]  # fmt: skip

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
TORSO = [*SHOULDERS, *HIPS]
#: Where they are among MediaPipe's 33 landmarks.
OF_MEDIAPIPE = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
#: Pairs of keypoints that a bone joins, and eyes and ears to the nose.
BONES = (
    *((0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (11, 12), (5, 11), (6, 12)),
    *((5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16)),
)
