"""Where everybody is between the frames that a detector looks at: persons go on as they moved."""

import dataclasses

import numpy as np

from tpc_fast.calibration.fade import SEEN
from tpc_fast.ops.resample import resample
from tpc_fast.ops.track_stream import TrackStep

# Velocities are those of the last looks within so many seconds, up to eight frames: long enough that the jitter of
# single keypoints does not become speed, short enough that who turns round is noticed. At least two looks count.
MEMORY = 0.25
# So many seconds a velocity is believed, as long as what it was measured in; then a person stays where it is by then.
REACH = 0.25
TINY = 1e-9  # of a scale, where nobody was seen yet


class Predictor:
    """Constant velocity of log scale, angle and place, person by person.

    The velocity is the slope of the least squares line through the last estimates.
    """

    def __init__(self, anchors: np.ndarray, hold_seconds: float):
        """Takes a point [P, 2] in each person of the photo, whose place on the canvas counts; see `Calibrator`."""
        self._anchors, self._hold = np.asarray(anchors, np.float64), hold_seconds
        self.reset()

    def reset(self) -> None:
        """Forgets all frames."""
        self._looks: list[tuple[float, np.ndarray, np.ndarray]] = []  # time, state [P, 4], whether seen [P]
        self.last: TrackStep | None = None

    def observe(self, estimate: TrackStep) -> None:
        """The estimate of the next frame that was looked at, later than those before."""
        state, seen = self._state(estimate.matrix), np.isin(estimate.status, SEEN)
        if self._looks:
            before = self._looks[-1][1]
            state[:, 1] += 2 * np.pi * np.round((before[:, 1] - state[:, 1]) / (2 * np.pi))
        gone = ~seen | np.asarray(estimate.breaks, bool)
        for _, _, counts in self._looks:  # a person who is lost, or suddenly elsewhere, did not move there
            counts &= ~gone
        self._looks = [row for row in self._looks if row[0] > estimate.time - MEMORY] or self._looks[-1:]
        self._looks.append((estimate.time, state, seen.copy()))
        self.last = estimate

    def at(self, time: float) -> TrackStep:
        """The estimate of a frame at that time, not before that of the last look, after which it is predicted."""
        last, ahead = self.last, time - self.last.time
        if not ahead > 0:
            return last
        _, state, seen = self._looks[-1]
        predicted = self._matrix(state + self._velocity() * min(ahead, REACH))
        matrix = np.where(seen[:, None, None], predicted, last.matrix)  # who was not seen stays
        status = last.status.copy()
        if ahead > self._hold:
            status[:] = "lost"
        return dataclasses.replace(last, time=time, matrix=matrix, status=status)

    def _velocity(self) -> np.ndarray:
        """[P, 4], per second; 0 for who was seen in fewer than two looks."""
        times, states, seen = (np.array(column) for column in zip(*self._looks, strict=True))
        weights = seen[..., None].astype(np.float64)
        count = np.maximum(weights.sum(0), 1)
        t = (times[:, None, None] - (weights * times[:, None, None]).sum(0) / count) * weights
        spread = (t**2).sum(0)
        return np.where(spread > 0, (t * states).sum(0) / np.where(spread > 0, spread, 1), 0.0)

    def _state(self, matrix: np.ndarray) -> np.ndarray:
        """[P, 4]: log scale, angle, and where the anchor lies on the canvas."""
        scale, angle = np.hypot(matrix[:, 0, 0], matrix[:, 1, 0]), np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])
        place = np.einsum("pij,pj->pi", matrix[:, :, :2], self._anchors) + matrix[:, :, 2]
        return np.column_stack([np.log(np.maximum(scale, TINY)), angle, place]).astype(np.float64)

    def _matrix(self, state: np.ndarray) -> np.ndarray:
        cos, sin = np.exp(state[:, 0]) * np.cos(state[:, 1]), np.exp(state[:, 0]) * np.sin(state[:, 1])
        linear = np.stack([cos, -sin, sin, cos], -1).reshape(-1, 2, 2)
        shift = state[:, 2:] - np.einsum("pij,pj->pi", linear, self._anchors)
        return np.concatenate([linear, shift[..., None]], -1)


def motion(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[P, 2, 3], what brings persons on the canvas from where matrices [P, 2, 3] have them to where others do."""
    moves = np.tile(np.eye(2, 3), (len(before), 1, 1))
    for p in np.flatnonzero((before != after).any((1, 2))):
        linear = after[p, :, :2] @ np.linalg.inv(before[p, :, :2])
        moves[p] = np.column_stack([linear, after[p, :, 2] - linear @ before[p, :, 2]])
    return moves


def moved_points(points: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Keypoints [P, K, 2], moved."""
    moved = np.einsum("pij,pkj->pki", moves[:, :, :2], points) + moves[:, None, :, 2]
    return moved.astype(points.dtype)


def moved_masks(masks: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Masks uint8 [P, h, w], moved; what comes in from outside the canvas is 0."""
    moved = masks.copy()
    for p in np.flatnonzero((moves != np.eye(2, 3)).any((1, 2))):
        moved[p] = resample(masks[p], moves[p], masks.shape[1:], "black")
    return moved
