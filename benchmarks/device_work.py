"""What the parts of `device.py` compute on, and how they time it."""

import time

import numpy as np
import torch

from tpc_fast.ops.attention import RegionPlan, reference_attention
from tpc_fast.ops.propagation import PropagationPlan

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda:0" if ON_GPU else "cpu")
BACKEND = None if ON_GPU else "triton"  # the interpreter, in a dry run


def people(rng, count: int, points: int = 17, dims: int = 2, dtype=np.float32):
    """src, dst [count, points, dims]: noisy similarities with a third of the points elsewhere."""
    src = rng.normal(size=(count, points, dims)) * 100 + rng.normal(size=(count, 1, dims)) * 200
    turn = np.linalg.qr(rng.normal(size=(count, dims, dims)))[0]
    turn[..., 0] *= np.sign(np.linalg.det(turn))[:, None]
    dst = np.exp(rng.normal(size=(count, 1, 1)) * 0.3) * src @ turn + rng.normal(size=(count, 1, dims)) * 100
    dst += rng.normal(size=dst.shape) * np.where(rng.random((count, points, 1)) < 0.3, 60, 3)
    return src.astype(dtype), dst.astype(dtype)


def pictures(rng, pixels, persons: int = 1):
    """image [persons, h, w, 3], mask [persons, h, w]."""
    h, w = pixels
    image = rng.integers(0, 256, (persons, -(-h // 8), -(-w // 8), 3), np.uint8).repeat(8, 1).repeat(8, 2)[:, :h, :w]
    y, x = np.mgrid[:h, :w]
    mask = np.where((x - w / 2) ** 2 / w**2 + (y - h / 2) ** 2 / h**2 < 0.06, 255, 0).astype(np.uint8)
    return np.ascontiguousarray(image), np.repeat(mask[None], persons, 0)


def zoom(frames: int, source, size, persons: int = 1):
    """[frames, persons, 2, 3]: a turning zoom from 0.45 to 0.9 of the output, as on the published sample."""
    linear = np.linspace(0.45, 0.9, frames)[:, None] * np.exp(1j * np.linspace(-1, -0.6, persons)) * size[0] / source[0]
    centre = complex(source[1], source[0]) / 2
    shift = complex(size[1], size[0]) / 2 - linear * centre
    rows = [[linear.real, -linear.imag, shift.real], [linear.imag, linear.real, shift.imag]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def stream(frames: int, persons: int = 2):
    """A photo, its masks [P, h, w] and keypoints [P, 17, 2], and driving keypoints and scores for each frame."""
    rng = np.random.default_rng(0)
    image, mask = pictures(rng, (512, 512), persons)
    points = rng.uniform([160, 60], [350, 450], (persons, 17, 2))
    driving = []
    for i in range(frames):
        angle, scale = 0.3 * np.sin(i / 20), 0.7 + 0.2 * np.cos(i / 30)
        turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        moved = (
            (points - 256) @ turn + 256 + rng.normal(size=points.shape) * np.where(rng.random(17) < 0.3, 30, 2)[:, None]
        )
        scores = rng.uniform(0.4, 1, points.shape[:2]) * (rng.random((persons, 1)) < 0.9)  # not seen at times
        driving.append((moved.astype(np.float32), scores.astype(np.float32)))
    return image[0], mask, points, driving


class Attention:
    """Queries, keys, values and a bank of calibrated images for both guidance halves of some frames."""

    def __init__(self, device, dtype: torch.dtype, frames: int, persons: int, grid, heads: int, dim: int):
        rng = np.random.default_rng(0)
        self.grid, pixels = grid, tuple(8 * side for side in grid)
        y, x = (side[..., None, None] for side in np.mgrid[: pixels[0], : pixels[1]] / np.reshape(pixels, (2, 1, 1)))

        def bodies(count):
            """Masks [P, count, H, W] of standing persons, each on a fifth of the picture."""
            at = (np.arange(persons)[:, None] + 0.5) / persons + rng.uniform(-0.04, 0.04, (persons, count))
            inside = ((x - at) / 0.16) ** 2 + ((y - 0.54) / 0.4) ** 2 < 1
            return torch.from_numpy(np.ascontiguousarray(inside.transpose(2, 3, 0, 1))).to(torch.uint8) * 255

        self.pose, self.calibrated, self.reference = bodies(frames), bodies(frames), bodies(1)[:, 0]
        self.propagation = PropagationPlan(frames, 4)
        masks = (m.to(device) for m in (self.pose, self.calibrated, self.reference))
        self.plan = RegionPlan(*masks, grid).at(self.propagation, 0)
        self.cond = slice(frames, 2 * frames)
        images, tokens = 1 + persons * self.propagation.num_groups, grid[0] * grid[1]
        self.tensors = [
            torch.from_numpy(rng.normal(size=(rows, tokens, heads, dim))).to(device, dtype)
            for rows in (*(2 * frames,) * 3, images, images)
        ]

    def ours(self, backend=None):
        return reference_attention(*self.tensors, self.plan, self.cond, backend=backend)

    @torch.no_grad()
    def exact(self):
        """In float64, on the device, by torch's operations on the rectangles."""
        doubles = (t.double() for t in self.tensors)
        return reference_attention(*doubles, self.plan, self.cond, backend="cpu")

    def pairs(self) -> int:
        """Query and key tokens that meet, of each head."""
        own = self.tensors[0].shape[0] * self.tensors[0].shape[1] ** 2
        return own + sum(len(queries) * len(keys) for queries, _, keys in self.plan.rectangles())


# Time


class Clock:
    """Times functions on the current device; in a dry run, once by the host's clock."""

    def __init__(self):
        self._flush = torch.empty(256 << 20, dtype=torch.uint8, device=DEVICE) if ON_GPU else None

    def times(self, function, runs: int = 30, graph: bool = True) -> dict:
        """Microseconds, median and percentiles, the second-level cache flushed before every run.

        Replayed as a graph if that can be; a failed capture is said, and the function timed as it is launched.
        """
        if not ON_GPU:
            start = time.perf_counter()
            function()
            return _spent([(time.perf_counter() - start) * 1e6], "dry run")
        for _ in range(3):
            function()
        torch.cuda.synchronize()
        replay, how = function, "eager"
        if graph:
            try:
                captured = torch.cuda.CUDAGraph()
                with torch.cuda.graph(captured):
                    function()
                replay, how = captured.replay, "graph"
            except Exception as error:  # whatever cannot be captured can still be timed
                torch.cuda.synchronize()
                how = f"eager: no graph, {type(error).__name__}: {str(error).splitlines()[0][:160]}"
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
        for start, stop in events:
            self._flush.zero_()
            start.record()
            replay()
            stop.record()
        torch.cuda.synchronize()
        return _spent([start.elapsed_time(stop) * 1e3 for start, stop in events], how)

    def host_times(self, function, runs: int = 7) -> dict:
        """Microseconds by the host's clock, the device's work included: for what begins on the CPU."""
        spent = []
        for _ in range(runs + 1 if ON_GPU else 1):
            start = time.perf_counter()
            function()
            if ON_GPU:
                torch.cuda.synchronize()
            spent.append((time.perf_counter() - start) * 1e6)
        return _spent(spent[1:] or spent, "the host's clock")


def _spent(microseconds, how: str) -> dict:
    low, median, high = np.percentile(microseconds, [20, 50, 80])
    return {"us": float(median), "us_20": float(low), "us_80": float(high), "how": how}


def upload(array) -> torch.Tensor:
    return torch.tensor(array, device=DEVICE)
