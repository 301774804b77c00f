"""How visible an unseen person is: fully for a while, then less and less, until nothing is left."""

import numpy as np

SEEN = ("tracked", "fallback")  # the statuses of a person who is seen


def fading(gap, hold_seconds: float, fade_seconds: float):
    """Opacity `gap` seconds away from where a person was seen: 1 while held, then down to 0 within `fade_seconds`."""
    if fade_seconds <= 0:
        return np.where(np.asarray(gap) <= hold_seconds, 1.0, 0.0)[()]
    return np.clip(1 - (np.asarray(gap) - hold_seconds) / fade_seconds, 0.0, 1.0)[()]


def fade_video(status: np.ndarray, times: np.ndarray, hold_seconds: float, fade_seconds: float):
    """Statuses and opacities of a whole video, for which the future counts as much as the past.

    Args:
        status: [F, P] str, as a stream has them: an unseen person is "held", later "lost".
        times: [F] seconds, increasing.

    Returns:
        Statuses [F, P]: near a frame that shows the person, before or after it, "held"; opacities float32 [F, P].
    """
    status, opacity = status.copy(), np.zeros(status.shape, np.float32)
    for p in range(status.shape[1]):
        (good,) = np.nonzero(np.isin(status[:, p], SEEN))
        if not len(good):
            status[:, p] = "lost"
            continue
        after = np.searchsorted(good, np.arange(len(times)))  # the next frame that shows the person, itself included
        before = np.maximum(after - 1, 0)
        after = np.minimum(after, len(good) - 1)
        gap = np.minimum(abs(times[good[after]] - times), abs(times - times[good[before]]))
        unseen = gap > 0
        status[unseen, p] = np.where(gap[unseen] <= hold_seconds, "held", "lost")
        opacity[:, p] = fading(gap, hold_seconds, fade_seconds)
    return status, opacity


class StreamFade:
    """Opacities of the P persons of a stream: who fades out comes back within `fade_seconds`, not at once."""

    def __init__(self, persons: int, hold_seconds: float, fade_seconds: float):
        self._persons, self._hold, self._fade = persons, hold_seconds, fade_seconds
        self.reset()

    def reset(self) -> None:
        """Forgets all frames."""
        self._opacity = np.zeros(self._persons)
        self._seen = np.full(self._persons, -np.inf)
        self._before = None

    def step(self, status: np.ndarray, time: float, looked_at: float | None = None) -> np.ndarray:
        """Float32 [P], of the next frame's statuses [P], which are those of a frame before, if that was looked at."""
        seen = np.isin(status, SEEN)
        first = seen & np.isinf(self._seen)
        self._seen[seen] = time if looked_at is None else looked_at
        wanted = fading(time - self._seen, self._hold, self._fade)
        if self._before is not None and self._fade > 0:
            risen = np.minimum(wanted, self._opacity + (time - self._before) / self._fade)
            wanted = np.where(first | (wanted <= self._opacity), wanted, risen)
        self._opacity, self._before = wanted, time
        return wanted.astype(np.float32)


def fade_stream(status: np.ndarray, times: np.ndarray, hold_seconds: float, fade_seconds: float):
    """As `fade_video`, of a video that is followed without knowledge of the future."""
    fade = StreamFade(status.shape[1], hold_seconds, fade_seconds)
    return status, np.stack([fade.step(*row) for row in zip(status, times.tolist(), strict=True)])
