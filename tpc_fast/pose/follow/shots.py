"""PLACEHOLDER until the real one is merged."""
import numpy as np


class PictureDifferences:
    def __init__(self):
        self._v = []

    def step(self, image):
        self._v.append(0.0)

    def values(self):
        return np.array(self._v)


def main_person(people):
    return None, None


def find_cuts(keypoints, scores, times, differences):
    return []
