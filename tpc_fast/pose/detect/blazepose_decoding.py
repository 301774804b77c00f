"""From the numbers that BlazePose's networks give to people: anchors, boxes, crops, landmarks. NumPy alone.

The networks are those of Bazarevsky et al., "BlazePose: On-device Real-time Body Pose tracking" (CVPR workshops 2020).
What their outputs mean, and every constant here, follows MediaPipe's public graphs (Apache-2.0,
github.com/google-ai-edge/mediapipe; the names of its calculators stand below): pose_detection_cpu.pbtxt in
mediapipe/modules/pose_detection, and in mediapipe/modules/pose_landmark pose_detection_to_roi.pbtxt,
pose_landmark_by_roi_cpu.pbtxt and tensors_to_pose_landmarks_and_segmentation.pbtxt.

Here, as there, coordinates of a picture run from 0 at its left edge to its width at the right one (the centre of the
first pixel is 0.5): "edge coordinates".
"""

from typing import NamedTuple

import numpy as np

from tpc_fast.ops.procrustes import Similarity

SEARCH_SIDE, LANDMARK_SIDE = 224, 256  # pixels that the networks take
LANDMARKS = 39  # 33 of the body, and some that MediaPipe uses itself
_STRIDES = ((8, 2), (16, 2), (32, 6))  # pixels from anchor to anchor, and how many lie at one place
_MIN_SCORE = 0.5  # of a box, and of the network's own opinion that it sees a person
_MIN_OVERLAP = 0.3  # intersection over union of boxes that are one person
_MARGIN = 1.25  # of a person's crop
_HEATMAP_KERNEL = 9  # the graph's text says 7; release 0.10.21 computes with 9, the calculator's default
_MIN_HEAT = 0.5  # of a heat map that is believed


class People(NamedTuple):
    """Persons found in a picture, best first.

    Attributes:
        points: float64 [P, 4, 2] in edge coordinates: middle of the hips, a point that tells size and direction of the
            whole body, middle of the shoulders, and one for the upper body.
        scores: float64 [P].
    """

    points: np.ndarray
    scores: np.ndarray


def anchors() -> np.ndarray:
    """The centres of the detector's anchors, float64 [2254, 2], in parts of its input.

    SsdAnchorsCalculator; every anchor has size 1 (fixed_anchor_size).
    """
    centres = []
    for stride, count in _STRIDES:
        side = SEARCH_SIDE // stride
        y, x = np.mgrid[:side, :side].reshape(2, -1).repeat(count, 1)
        centres.append((np.stack([x, y], -1) + 0.5) / side)
    return np.concatenate(centres)


def decode_boxes(raw: np.ndarray, logits: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The anchors that see somebody.

    Args:
        raw: [A, 12], centre, width and height of a box and four points (x, y), in pixels of the input; positions are
            relative to the anchor (TensorsToDetectionsCalculator).
        logits: [A]; centres: [A, 2] of `anchors`.

    Returns:
        boxes [N, 4] (left, top, right, bottom), points [N, 4, 2] and scores [N], float64, in parts of the input.
    """
    scores = sigmoid(logits)  # score_clipping_thresh, 100, is for a sigmoid that overflows
    kept = np.flatnonzero((scores >= _MIN_SCORE) & np.isfinite(raw).all(-1) & (raw[:, 2:4] >= 0).all(-1))
    values, at = raw[kept].astype(np.float64) / SEARCH_SIDE, centres[kept]
    middle, half = values[:, :2] + at, values[:, 2:4] / 2
    return (
        np.concatenate([middle - half, middle + half], -1),
        values[:, 4:].reshape(-1, 4, 2) + at[:, None],
        scores[kept],
    )


def merge_boxes(boxes: np.ndarray, points: np.ndarray, scores: np.ndarray) -> People:
    """One person for every heap of boxes: their points' mean, weighted by score (weighted non-maximum suppression).

    NonMaxSuppressionCalculator: the best box is taken with all that overlap it, then the best of the rest, and so on.
    """
    left = np.argsort(-scores, kind="stable")
    area = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
    people, best = [], []
    while len(left):
        first = left[0]
        sides = np.minimum(boxes[left, 2:], boxes[first, 2:]) - np.maximum(boxes[left, :2], boxes[first, :2])
        shared = np.prod(np.maximum(sides, 0), -1)
        union = area[left] + area[first] - shared
        one = shared > _MIN_OVERLAP * union
        one[0] = True  # a box without area does not overlap itself
        heap = left[one]
        people.append(np.average(points[heap], axis=0, weights=scores[heap]))
        best.append(scores[first])
        left = left[~one]
    return People(np.reshape(people, (-1, 4, 2)).astype(np.float64), np.array(best, np.float64))


def search_view(height: int, width: int) -> np.ndarray:
    """[2, 3], from a picture to the detector's input: the picture as large as it fits, in the middle.

    ImageToTensorCalculator's, which maps the index of a pixel where edge coordinates are meant.
    """
    scale = SEARCH_SIDE / max(height, width)
    return np.array([[scale, 0, (SEARCH_SIDE - scale * width) / 2], [0, scale, (SEARCH_SIDE - scale * height) / 2]])


def landmark_view(points: np.ndarray) -> np.ndarray | None:
    """[2, 3], from a picture to the landmark network's input, for a person with points [4, 2] (see `People`).

    A square about the hips, upright as the person, whose side is 2.5 times the distance to the second point
    (AlignmentPointsRectsCalculator, RectTransformationCalculator, ImageToTensorCalculator). None without a distance.
    """
    middle, across = points[0], points[1] - points[0]
    length = float(np.hypot(*across))
    if not length > 0:
        return None
    scale = LANDMARK_SIDE / (2 * _MARGIN * length)
    turn = np.pi / 2 + np.arctan2(across[1], across[0])  # the second point of an upright person lies above the first
    return Similarity.from_scale_angle(scale, -turn, middle, np.full(2, LANDMARK_SIDE / 2)).matrix


def decode_landmarks(raw: np.ndarray, heatmap: np.ndarray, which) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks of one person.

    Args:
        raw: [195], x, y, z, visibility and presence of every landmark, x and y in pixels of the input, edge
            coordinates (TensorsToLandmarksCalculator).
        heatmap: [h, w, 39] logits.
        which: the K landmarks that are wanted.

    Returns:
        float64 [K, 2] in pixels of the input, edge coordinates, refined by the heat map; visibility [K] in 0..1.
    """
    values = raw.reshape(LANDMARKS, 5)[which].astype(np.float64)
    refined = refine(values[:, :2] / LANDMARK_SIDE, heatmap[:, :, which])
    return refined * LANDMARK_SIDE, sigmoid(values[:, 3])


def refine(points: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Points [K, 2], in parts of the input, moved to the middle of the heat around them.

    RefineLandmarksFromHeatmapCalculator: the mean of the cells' indices (not their centres) over 9 x 9 cells of the
    sigmoid of heatmap [h, w, K], if any of them is hot; what lies outside stays.
    """
    height, width, count = heatmap.shape
    # Coordinates are cut off towards 0, as C++ does: what lies less than a cell outside counts as inside.
    cells = np.trunc(np.nan_to_num(points * (width, height), nan=-1.0))
    inside = ((cells >= 0) & (cells < (width, height))).all(-1)
    column, row = np.where(inside[:, None], cells, 0).astype(int).T
    around = np.arange(_HEATMAP_KERNEL) - _HEATMAP_KERNEL // 2
    rows, columns = row[:, None] + around, column[:, None] + around
    in_heatmap = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    cell = heatmap[
        rows.clip(0, height - 1)[:, :, None], columns.clip(0, width - 1)[:, None], np.arange(count)[:, None, None]
    ]
    heat = np.where(in_heatmap, sigmoid(cell.astype(np.float64)), 0)
    total = heat.sum((1, 2))
    believed = inside & (heat.max((1, 2), initial=0) >= _MIN_HEAT)
    x, y = (heat * columns[:, None]).sum((1, 2)), (heat * rows[:, :, None]).sum((1, 2))
    moved = np.stack([x / width, y / height], -1) / np.where(believed, total, 1)[:, None]
    return np.where(believed[:, None], moved, points)


def sees_somebody(presence: float) -> bool:
    """Whether the landmark network says that there is a person."""
    return bool(presence > _MIN_SCORE)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), float64, without overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * np.asarray(values, np.float64))
