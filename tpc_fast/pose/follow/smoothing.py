"""Smoothing of a track of similarities: causal for streams, zero-phase for whole videos.

A similarity is smoothed as (log scale, angle, anchor x, anchor y), the anchor being where a fixed point of the person
(the torso's centroid) lands: raw translations are tied to the image corner and mix with scale and angle. Times are
seconds.
"""

import dataclasses

import numpy as np

from tpc_fast.ops.procrustes import Similarity

CUTOFF_HZ = 3.0  # offline: slower motion passes, faster jitter is damped (half amplitude at this frequency)
GAP_WEIGHT = 0.05  # of a frame without a fit, towards the straight line across the gap: no overshoot in long gaps


def to_track(similarity: Similarity, anchor: np.ndarray) -> np.ndarray:
    """Similarities [F] -> [F, 4]: log scale, angle, image of `anchor` [2] in pixels. Angles are not unwrapped."""
    position = similarity.apply(np.broadcast_to(anchor, (*similarity.scale.shape, 1, 2)))[..., 0, :]
    return np.concatenate([np.log(similarity.scale)[..., None], similarity.angle[..., None], position], -1)


def from_track(track: np.ndarray, anchor: np.ndarray) -> Similarity:
    """The inverse of `to_track`."""
    scale, cos, sin = np.exp(track[..., 0]), np.cos(track[..., 1]), np.sin(track[..., 1])
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    return Similarity(scale, rotation, track[..., 2:] - scale[..., None] * (rotation @ anchor))


def nearest_angle(angle: float, to: float) -> float:
    """`angle` plus the whole turns that bring it closest to `to`."""
    return angle + 2 * np.pi * np.round((to - angle) / (2 * np.pi))


def smooth_offline(
    track: np.ndarray, weights: np.ndarray, times: np.ndarray, cutoff_hz: float = CUTOFF_HZ
) -> np.ndarray:
    """Zero-phase smoothing with gaps bridged: Whittaker's penalised least squares in continuous time.

    Minimises sum w (y - z)^2 dt + integral z''^2 dt / (2 pi cutoff)^4, whose response is 1 / (1 + (f / cutoff)^4).

    Args:
        track: [F, 4] as `to_track` gives it; ignored where the weight is 0.
        weights: [F] in [0, 1]; 0 where there is no fit.
        times: [F] seconds, increasing.
        cutoff_hz: half-amplitude frequency.

    Returns:
        [F, 4] with continuous angles; constant before the first and after the last fit.
    """
    from scipy.linalg import solveh_banded

    (good,) = np.nonzero(weights > 0)
    if len(good) == 0:
        return track.copy()
    first, last = good[0], good[-1]
    angles = track[good, 1]
    out = np.empty_like(track)
    t = times[first : last + 1]
    y = np.stack([np.interp(t, times[good], c) for c in (track[good, 0], np.unwrap(angles), *track[good, 2:].T)], -1)
    if len(t) > 2:
        step = np.diff(t)
        around = np.concatenate([step[:1], (step[1:] + step[:-1]) / 2, step[-1:]])  # seconds that a frame stands for
        w = np.where(weights[first : last + 1] > 0, weights[first : last + 1], GAP_WEIGHT) * around
        span = (step[1:] + step[:-1]) / 2
        second = np.stack([1 / step[:-1], -1 / step[:-1] - 1 / step[1:], 1 / step[1:]]) / span  # rows of the operator
        penalty = span / (2 * np.pi * cutoff_hz) ** 4
        bands = np.zeros((3, len(t)))  # upper form of the pentadiagonal matrix W + D' P D
        bands[2] = w
        for i in range(3):
            bands[2, i : len(t) - 2 + i] += penalty * second[i] ** 2
        for i in range(2):
            bands[1, i + 1 : len(t) - 1 + i] += penalty * second[i] * second[i + 1]
        bands[0, 2:] = penalty * second[0] * second[2]
        y = solveh_banded(bands, w[:, None] * y)
    out[first : last + 1] = y
    out[:first], out[last + 1 :] = y[0], y[-1]
    return out


def ease(progress: float) -> float:
    """0 -> 1 with zero slope at both ends (smoothstep)."""
    p = min(max(progress, 0.0), 1.0)
    return p * p * (3 - 2 * p)


@dataclasses.dataclass
class CausalSmoother:
    """One-Euro filter (Casiez, Roussel, Vogel, CHI 2012) over a track, with an eased return after a gap.

    Attributes:
        min_cutoff_hz: cut-off at rest: lower is steadier.
        beta: cut-off added per unit of speed (log scale, radians, person sizes; each per second): higher lags less.
        speed_cutoff_hz: cut-off of the speed's own filter.
        ease_seconds: how long the way back takes after a gap.
    """

    min_cutoff_hz: float = 1.0
    beta: float = 1.5
    speed_cutoff_hz: float = 1.0
    ease_seconds: float = 0.3

    def __post_init__(self):
        self.reset()

    def reset(self) -> None:
        """Forgets the past."""
        self._value = self._speed = self._time = self._last = None
        self._offset, self._returned = np.zeros(4), -np.inf

    def step(self, track: np.ndarray, time: float, unit: float, returning: bool) -> np.ndarray:
        """Filters one frame.

        Args:
            track: [4] as `to_track` gives it.
            time: seconds, increasing.
            unit: person size in pixels, which positions are measured in.
            returning: whether the frames before had no fit: the output then leaves from where it stood.

        Returns:
            [4]; the angle may have whole turns more or less than the input's.
        """
        units = np.array([1.0, 1.0, unit, unit])
        track = np.array(track, np.float64)
        if self._value is None:
            self._value, self._speed, self._time = track, np.zeros(4), time
            return self._output(time)
        track[1] = nearest_angle(track[1], self._value[1])
        if returning:
            self._offset, self._returned = self._last - track, time  # where the caller stood all the while
            self._value, self._speed, self._time = track, np.zeros(4), time
            return self._output(time)
        dt = max(time - self._time, 1e-6)

        def share(cutoff):
            return 1 / (1 + 1 / (2 * np.pi * cutoff * dt))

        self._speed = self._speed + share(self.speed_cutoff_hz) * ((track - self._value) / dt - self._speed)
        cutoff = self.min_cutoff_hz + self.beta * abs(self._speed) / units
        self._value = self._value + share(cutoff) * (track - self._value)
        self._time = time
        return self._output(time)

    def _output(self, time: float) -> np.ndarray:
        """The filter's value and what is left of the offset of the last return."""
        self._last = self._value + self._offset * (1 - ease((time - self._returned) / self.ease_seconds))
        return self._last
