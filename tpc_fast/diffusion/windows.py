"""Context windows over the frames of a latent video that is longer than what a motion module takes at once."""

from collections.abc import Callable

import numpy as np

from tpc_fast._checks import describe


def context_windows(frames: int, window: int = 16, overlap: int = 4, closed_loop: bool = False) -> np.ndarray:
    """Cuts a video into windows of equal length that overlap and together cover every frame.

    Windows start every `window - overlap` frames. The last one is moved back to end with the video, so that it overlaps
    more; with `closed_loop` it goes on at the video's beginning instead (as the uniform scheduler of AnimateDiff and
    MagicAnimate does), which suits a video that repeats.

    Args:
        frames: of the video.
        window: frames of a window. A shorter video is one window of all its frames.
        overlap: frames that two windows share, fewer than `window`.
        closed_loop: whether the last frame comes before the first.

    Returns:
        int64 [W, min(window, frames)]: the frames of each window, in its order.

    Raises:
        ValueError: if an argument is out of range.
    """
    for name, value, least in (("frames", frames, 1), ("window", window, 1), ("overlap", overlap, 0)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer from {least}, but is {describe(value)}")
    if overlap >= window:
        raise ValueError(f"overlap must be smaller than window ({window}), but is {overlap}")
    if frames <= window:
        return np.arange(frames)[None]
    stride = window - overlap
    if closed_loop:
        starts = np.arange(0, frames, stride)
    else:
        starts = np.minimum(np.arange(0, frames - overlap, stride), frames - window)
    return (starts[:, None] + np.arange(window)) % frames


def predict_windows(
    predict: Callable[[np.ndarray], object],
    windows: np.ndarray,
    frames: int,
    done: int = 0,
    total=None,
    on_sum: Callable[[int, object], object] | None = None,
):
    """Predicts every window and averages where windows overlap.

    Args:
        predict: from the frames of a window, int64 [n], to a tensor [B, C, n, h, w].
        windows: as `context_windows` gives them.
        frames: of the video.
        done: how many windows were predicted before; `total`: their sum, as `on_sum` was given it.
        on_sum: called as `on_sum(done, total)` after each window but the last, the sum float32 [B, C, F, h, w].

    Returns:
        A tensor [B, C, F, h, w] of the dtype and on the device of the predictions; sums are taken in float32.
    """
    import torch

    if len(windows) == 1 and np.array_equal(windows[0], np.arange(frames)):
        return predict(windows[0])
    for number, window in enumerate(windows[done:], done + 1):
        part = predict(window)
        if total is None:
            shape = (*part.shape[:2], frames, *part.shape[3:])
            total = torch.zeros(shape, dtype=torch.float32, device=part.device)
        total.index_add_(2, torch.as_tensor(window, device=part.device), part.to(total.dtype))
        if on_sum is not None and number < len(windows):
            on_sum(number, total)
    count = np.bincount(windows.ravel(), minlength=frames)
    return (total / torch.as_tensor(count, device=total.device).view(-1, 1, 1)).to(part.dtype)
