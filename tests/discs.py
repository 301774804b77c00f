"""Persons drawn as discs, and a detector that reads them and fails as networks do."""

import numpy as np
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull

from tpc_fast.ops.procrustes import Similarity
from tpc_fast.pose import Detection
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.canonical import TEMPLATE, CanonicalCrop

HEAD_TO_HIPS = slice(0, 13)
LEGS = np.array([(1.5, 18), (-1.5, 18), (1.5, 24), (-1.5, 24)])
STANDING = np.concatenate([TEMPLATE[HEAD_TO_HIPS], LEGS])  # in distances between the eyes, origin at the nose


def similarity(scale, degrees, shift):
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Similarity(np.float64(scale), rotation, np.asarray(shift, np.float64))


def person_at(nose, unit, degrees=0.0):
    """Keypoints [17, 2] of a standing person."""
    return similarity(unit, degrees, nose).apply(STANDING)


def draw(keypoints, size=(480, 640)):
    """A picture in which every keypoint is a disc whose green is its number, on a grey body."""
    unit = np.linalg.norm(keypoints[1] - keypoints[2])
    image = np.zeros((*size, 3), np.uint8)
    hull = [tuple(np.rint(keypoints[k])) for k in ConvexHull(keypoints).vertices]
    body = Image.new("1", size[::-1])
    ImageDraw.Draw(body).polygon(hull, fill=1)
    ImageDraw.Draw(body).line([*hull, *hull[:2]], fill=1, width=max(1, round(1.5 * unit)), joint="curve")
    image[np.asarray(body)] = (60, 0, 60)
    for k in range(coco.COUNT):
        radius = (0.3 if k < 5 else 0.8) * unit
        left, top = np.maximum(np.floor(keypoints[k] - radius), 0).astype(int)
        around = image[top : int(keypoints[k, 1] + radius) + 1, left : int(keypoints[k, 0] + radius) + 1]
        y, x = np.ogrid[top : top + around.shape[0], left : left + around.shape[1]]
        around[np.hypot(x - keypoints[k, 0], y - keypoints[k, 1]) <= radius] = (255, 15 * k, 0)
    return image


class DiscDetector:
    """Reads the discs. It fails as networks do: on persons that are not upright, or not at the scale of the crop."""

    name, version = "discs", "1"
    whole = CanonicalCrop(256, 6.4, (127.5, 53.0), hips=0.1)
    half = CanonicalCrop(256, 9.0, (127.5, 56.0))
    bias = 0.0  # by which the shoulders are pushed outwards per unit of log scale

    def __init__(self):
        self.detected = self.looked = 0

    def detect(self, image):
        self.detected += 1
        return self._read(image, 45, None)

    def detect_upright(self, image):
        self.looked += 1
        return self._read(image, 30, 0.5)

    def close(self):
        pass

    def _read(self, image, max_degrees, max_log_scale):
        body = image[..., 0] >= 30
        points = np.full((coco.COUNT, 2), np.nan)
        y, x = np.nonzero(image[..., 0] >= 240)
        number = image[y, x, 1] / 15
        for k in range(coco.COUNT):
            disc = np.abs(number - k) <= 0.34
            if disc.sum() >= 3:
                points[k] = np.median(x[disc]), np.median(y[disc])  # blended edges can look like other discs
        if np.isnan(points[[0, 5, 6]]).any():
            return Detection.nobody()
        down = points[[5, 6]].mean(0) - points[0]
        unit = np.linalg.norm(down) / 4.2
        log_scales = [abs(np.log(unit / crop.unit)) for crop in (self.whole, self.half)]
        if abs(np.degrees(np.arctan2(down[0], down[1]))) > max_degrees:
            return Detection.nobody()
        if max_log_scale is not None and min(log_scales) > max_log_scale:
            return Detection.nobody()
        centre = points[[5, 6]].mean(0)
        points[[5, 6]] = centre + (points[[5, 6]] - centre) * (1 + self.bias * np.log(unit / self.half.unit))
        scores = np.where(np.isnan(points).any(-1), 0, 1).astype(np.float32)
        return Detection(points.astype(np.float32)[None], scores[None], (body * np.uint8(255))[None])


class OnlyWhole(DiscDetector):
    """Loses everybody in the crop for half figures."""

    def detect_upright(self, image):
        found = super().detect_upright(image)
        if len(found):
            points = found.keypoints[0]
            unit = np.linalg.norm(points[[5, 6]].mean(0) - points[0]) / 4.2
            if unit > (self.whole.unit + self.half.unit) / 2:
                return Detection.nobody()
        return found
