"""The 17 COCO keypoints, as the operations need them: their groups, and which of them count."""

import numpy as np

#: Of a keypoint that counts, unless the user says otherwise: as in the original's fit, and in DWPose's drawings.
SCORE_THRESHOLD = 0.3
COUNT = 17
FACE = [0, 1, 2, 3, 4]
EYES = [1, 2]
EARS = [3, 4]
SHOULDERS = [5, 6]
ELBOWS = [7, 8]
WRISTS = [9, 10]
HIPS = [11, 12]
KNEES = [13, 14]
ANKLES = [15, 16]
#: The keypoints with left and right exchanged.
MIRRORED = np.array([0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15])
