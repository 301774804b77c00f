"""A detector of your own: here the embedded one, with less trust in wrists.

    python examples/own_detector.py PHOTO VIDEO

Any object with `name`, `version`, `device`, `detect` and `close` will do; `detect` may call any network.
"""

import dataclasses
import sys

import numpy as np

import tpc_fast
from tpc_fast.pose import Detection, get_detector


class Doubtful:
    """Believes no wrist: scores of wrists are halved."""

    name, version, device = "doubtful", "1", "cpu"

    def __init__(self):
        self._inner = get_detector("blazepose:people=1")

    def detect(self, image: np.ndarray) -> Detection:
        """The persons of a picture, uint8 [H, W, 3] RGB."""
        found = self._inner.detect(image)
        scores = found.scores.copy()
        scores[:, 9:11] /= 2
        return dataclasses.replace(found, scores=scores)

    def close(self) -> None:
        self._inner.close()


photo, video = sys.argv[1:]
calibration = tpc_fast.calibrate(photo, video, detector=Doubtful())
print(
    f"{calibration.detector}: {(calibration.status == 'tracked').mean():.0%} of {len(calibration)} frames are tracked"
)
