"""The GPU kernels: first held against the naive twin at real sizes, then timed beside their peers on the same GPU.

    pip install --no-deps --no-build-isolation -e . && python benchmarks/gpu.py

Needs torch >= 2.11, triton >= 3.6, numpy, and pybind11 to install; no network. Peers that are missing are left out and
named. Times are of the device, by events, the second-level cache flushed before every run, medians and 20th to 80th
percentiles; ours, and peers where they can be captured, are replayed as graphs, so that no launch from Python is
timed. Bytes are those that must move: inputs once, outputs once. Ends within eight minutes; writes
benchmarks/results/gpu.json. A part that fails is reported, the others still run, what they say is written, and the
exit status is 1.
"""

import dataclasses
import datetime
import importlib
import importlib.util
import json
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch

import tpc_fast
from tpc_fast import Calibrator, Similarity, fit_similarity, naive, search_subset
from tpc_fast.ops.attention import RegionPlan, reference_attention
from tpc_fast.ops.propagation import PropagationPlan
from tpc_fast.ops.warp import INTERPOLATIONS, WarpSource
from tpc_fast.pose.detect.detection import Detection

RESULTS = Path(__file__).parent / "results" / "gpu.json"
SECONDS = 8 * 60
RUNS = 40
LEVELS = {"uint8": 1, "float32": 127.5, "float16": 127.5, "bfloat16": 127.5}
# Before rounding the kernels are within 0.07 levels of naive; formats add their own rounding.
ATTENTION_LIMIT = {"float32": 4e-6, "float16": 4e-3, "bfloat16": 32e-3}  # weights are rounded to the type, too
LIMIT = {"uint8": 1, "float32": 0.07, "float16": 0.07 + 127.5 * 2.0**-12, "bfloat16": 0.07 + 127.5 * 2.0**-8}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much the checks look at; tests run them small."""

    fits: int = 20000
    searches: int = 4
    points: int = 17
    pixels: tuple[int, int] = (512, 512)
    frames: int = 60
    grid: tuple[int, int] = (16, 20)


class Failures(list):
    """What went wrong, in words."""

    def guarded(self, what: str, function, *arguments):
        """What the function returns, or None if it raised, which is printed and kept."""
        try:
            return function(*arguments)
        except Exception as error:  # whatever it is, the other parts go on
            traceback.print_exc()
            self.append(f"{what}: {type(error).__name__}: {str(error).strip()[:500]}")


# What is computed


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
        self.drawn = self.propagation.representatives(0)[self.propagation.group_of]
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

    def expected(self):
        """By naive, float64."""
        pose, calibrated, reference = (m.numpy() / 255 for m in (self.pose, self.calibrated, self.reference))
        visible = naive.visible_tokens(
            pose, calibrated[:, self.drawn], reference, self.plan.rows, len(self.tensors[3]), self.grid
        )
        return naive.reference_attention(*(t.double().cpu().numpy() for t in self.tensors), visible, self.cond)

    def pairs(self) -> int:
        """Query and key tokens that meet, of each head."""
        own = self.tensors[0].shape[0] * self.tensors[0].shape[1] ** 2
        return own + sum(len(queries) * len(keys) for queries, _, keys in self.plan.rectangles())


# Correctness


class Checks:
    """Every kernel against naive, and a stream on the device against the host's; `rows` are what was compared."""

    def __init__(self, device: torch.device, sizes: Sizes, backend: str | None = None):
        self._device, self._sizes, self._backend = device, sizes, backend
        self._rng, self.rows = np.random.default_rng(), []

    def run(self, failures: Failures) -> None:
        for name in ("fits", "search", "warps", "attention", "stream"):
            failures.guarded(f"check of {name}", getattr(self, name))

    def _upload(self, array):
        return torch.tensor(array, device=self._device)

    def _record(self, what, error, limit):
        self.rows.append({"what": what, "error": float(error), "limit": float(limit)})
        if not error <= limit:
            raise AssertionError(f"{what}: off by {error}, more than {limit}")

    def fits(self) -> None:
        rng, sizes, upload = self._rng, self._sizes, self._upload
        for dims in (2, 3):
            for dtype in (np.float32, np.float64):
                src, dst = people(rng, sizes.fits, sizes.points, dims, dtype)
                weights = rng.random(src.shape[:2]).astype(dtype)
                got = fit_similarity(upload(src), upload(dst), upload(weights), backend=self._backend)
                spec = fit_similarity(src, dst, weights, backend="naive")
                plain = Similarity(*(a.cpu().numpy() for a in (got.scale, got.rotation, got.translation)))
                name = f"fit {dims}-D {np.dtype(dtype)}"
                self._record(f"{name}, other verdicts", (got.ok.cpu().numpy() != spec.ok).sum(), 0)
                error = np.abs(plain.apply(src).astype(np.float64) - spec.apply(src)).max()
                self._record(f"{name}, pixels", error, 64 * np.finfo(dtype).eps * np.abs(dst).max())

    def search(self) -> None:
        sizes, upload = self._sizes, self._upload
        src, dst = people(self._rng, sizes.searches, sizes.points, dtype=np.float64)
        options = {"tolerance": np.full(sizes.points, 15.0), "inertia": 20.0}
        before = fit_similarity(src, dst).matrix
        got = search_subset(upload(src), upload(dst), **options | {"tolerance": upload(options["tolerance"])},
                            previous=upload(before), backend=self._backend)  # fmt: skip
        spec = search_subset(src, dst, **options, previous=before, backend="naive")
        self._record("search, J", np.abs(got.value.cpu().numpy() - spec.value).max(), 2e-6)
        self._record("search, other members", (got.members.cpu().numpy() != spec.members).sum(), 0)

    def warps(self) -> None:
        pixels, upload = self._sizes.pixels, self._upload
        image, mask = pictures(self._rng, pixels, 2)
        matrices = zoom(2, pixels, pixels, 2)
        modes = [("cubic", True, dtype) for dtype in LEVELS] + [(name, False, "uint8") for name in INTERPOLATIONS]
        source = WarpSource(upload(image), upload(mask), self._backend)
        known = {}
        for interpolation, antialias, dtype in modes:
            arguments = (pixels, interpolation, antialias, 40)
            exact = "uint8" if dtype == "uint8" else "float32"
            if (interpolation, antialias, exact) not in known:
                known[interpolation, antialias, exact] = naive.warp_composite(
                    image, mask, matrices, *arguments[:3], np.full(3, 40), exact
                )
            got = source.warp(upload(matrices), *arguments, dtype=dtype)
            for a, b in zip(got, known[interpolation, antialias, exact], strict=True):
                error = np.abs(a.double().cpu().numpy() - b).max() * LEVELS[dtype]
                what = f"warp {interpolation} {dtype}{' antialias' if antialias else ''}, levels"
                self._record(what, error, LIMIT[dtype])

    def attention(self) -> None:
        types = list(ATTENTION_LIMIT) if self._device.type == "cuda" else ["float32", "float16"]
        for dtype in types:  # the interpreter has no bfloat16
            work = Attention(self._device, getattr(torch, dtype), 6, 2, self._sizes.grid, 2, 40)
            error = np.abs(work.ours(self._backend).double().cpu().numpy() - work.expected()).max()
            self._record(f"reference attention {dtype}", error, ATTENTION_LIMIT[dtype])

    def stream(self) -> None:
        image, mask, points, driving = stream(self._sizes.frames)
        options = {"reference_keypoints": points, "reference_mask": mask, "size": 64, "match": "columns"}
        host, there = Calibrator(image, **options), Calibrator(image, **options, device=self._device)
        frame, other, error = np.zeros((512, 512, 3), np.uint8), 0, 0.0
        for keypoints, scores in driving:
            expected = host.step(frame, None, Detection(keypoints, scores))
            got = there.step(frame, None, Detection(self._upload(keypoints), self._upload(scores)))
            other += (got.status != expected.status).sum()
            error = max(error, np.abs(got.matrix.cpu().numpy() - expected.matrix).max())
        self._record("stream, other statuses than the host's", other, 0)
        self._record("stream, entries of matrices, beside the host's", error, 64 * 2.0**-22)  # two roundings to float32


# Time


class Clock:
    """Times functions on the current device."""

    def __init__(self):
        self._end = time.monotonic() + SECONDS
        self._flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    def times(self, function, runs: int = RUNS, graph: bool = True) -> dict:
        """Microseconds of device time: median and percentiles; replayed as a graph if that can be."""
        for _ in range(3):
            function()
        torch.cuda.synchronize()
        replay = function
        if graph:
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                function()
            replay = captured.replay
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
        for start, stop in events:
            self._flush.zero_()
            start.record()
            replay()
            stop.record()
        torch.cuda.synchronize()
        spent = [start.elapsed_time(stop) * 1e3 for start, stop in events]
        low, median, high = np.percentile(spent, [20, 50, 80])
        return {"us": median, "us_20": low, "us_80": high, "graph": graph}

    def copy_bandwidth(self) -> float:
        """Bytes read and written per second by a large copy on the device."""
        source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").fill_(7)
        target = torch.empty_like(source)
        return 2 * source.numel() / (self.times(lambda: target.copy_(source), 15)["us"] * 1e-6)


def host_times(function, runs: int = 7) -> dict:
    """Microseconds by the host's clock, the device's work included: for what begins on the CPU."""
    function()
    spent = []
    for _ in range(runs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        spent.append((time.perf_counter() - start) * 1e6)
    low, median, high = np.percentile(spent, [20, 50, 80])
    return {"us": median, "us_20": low, "us_80": high, "graph": False}


class Table:
    """Rows of what was measured, and what was left out."""

    def __init__(self, clock: Clock):
        self.clock, self.rows, self.absent = clock, [], []

    def row(self, work, member, items, times, moved=None, target=None):
        """`items`: how much of the work the times are for; `moved`: bytes; `target`: microseconds."""
        self.rows.append({"work": work, "member": member, "items": items, **times, "bytes": moved, "target_us": target})

    def ours(self, work, items, function, moved=None, target=None, member="tpc_fast"):
        self.row(work, member, items, self.clock.times(function), moved, target)

    def peer(self, work, member, items, function, graph=False):
        if self.clock.left < 60:
            self.absent.append(f"{work}: {member} (no time left)")
            return
        try:
            self.row(work, member, items, self.clock.times(function, graph=graph))
        except (RuntimeError, NotImplementedError) as error:
            self.absent.append(f"{work}: {member} ({str(error).splitlines()[0]})")

    def module(self, name: str):
        """A peer's package, or None."""
        if importlib.util.find_spec(name) is None:
            self.absent.append(f"{name} is not installed")
            return None
        return importlib.import_module(name)


def cuda(array) -> torch.Tensor:
    return torch.tensor(array, device="cuda")


def measure_warps(table: Table, frames: int, side: int, dtype: str, target: float | None) -> None:
    rng, size = np.random.default_rng(0), (side, side)
    work = f"warp of {frames} frames {side}x{side}, image and mask, cubic, {dtype}"
    image, mask = pictures(rng, size)
    matrix = zoom(frames, size, size)
    source, there = WarpSource(cuda(image), cuda(mask)), cuda(matrix)
    moved = side * side * 4 * (frames * (1 if dtype == "uint8" else 2) + 1)
    table.ours(work, frames, lambda: source.warp(there, size, dtype=dtype), moved, target)
    table.ours(
        work, frames, lambda: source.warp(there, size, antialias=True, dtype=dtype), moved, member="with antialiasing"
    )

    kind = torch.float32 if dtype == "uint8" else torch.float16
    part = 16  # frames; kornia takes its matrices and gives its pictures in one float type
    planes = torch.cat([cuda(image), cuda(mask)[..., None]], -1).permute(0, 3, 1, 2).to(kind)
    wide, some = planes.expand(part, -1, -1, -1).contiguous(), there[:part, 0].to(kind)
    kornia = table.module("kornia")
    if kornia is not None:
        warp_affine = kornia.geometry.transform.warp_affine
        table.peer(work, "kornia.warp_affine, bicubic", part,
                   lambda: warp_affine(wide, some, size, mode="bicubic", align_corners=True))  # fmt: skip
    inverse = np.linalg.inv(np.concatenate([matrix[:part, 0], np.tile([[[0, 0, 1]]], (part, 1, 1))], 1))[:, :2]
    y, x = np.mgrid[:side, :side]
    places = cuda(np.einsum("fij,jhw->fhwi", inverse, np.stack([x, y, np.ones_like(x)])) * 2 / (side - 1) - 1).to(kind)
    grid_sample = torch.nn.functional.grid_sample
    table.peer(work, "torch grid_sample, bicubic, its grid ready", part,
               lambda: grid_sample(wide, places, "bicubic", align_corners=True), graph=True)  # fmt: skip
    host = WarpSource(image, mask)

    def on_host():
        return [torch.from_numpy(a).cuda() for a in host.warp(matrix, size, dtype=dtype)[:2]]

    table.row(work, "tpc_fast on the CPU, and upload", frames, host_times(on_host))


def measure_search(table: Table) -> None:
    work = "search of 131,072 subsets, 93 frames"
    src, dst = people(np.random.default_rng(0), 93)
    x, y = cuda(src), cuda(dst)
    table.ours(work, 93, lambda: search_subset(x, y), target=300.0)
    table.row(work, "tpc_fast on the CPU, and upload", 93,
              host_times(lambda: cuda(search_subset(src, dst).fit.matrix)))  # fmt: skip


def measure_fits(table: Table) -> None:
    count, part = 1_000_000, 20_000
    work = "fit of 1,000,000 x 17 points"
    src, dst = people(np.random.default_rng(0), count)
    x, y = cuda(src), cuda(dst)
    moved = (x.numel() + y.numel()) * 4 + count * (4 + 16 + 8 + 4 + 1)
    table.ours(work, count, lambda: fit_similarity(x, y), moved)
    some_x, some_y = x[:part], y[:part]

    def by_svd():
        p, q = some_x - some_x.mean(1, keepdim=True), some_y - some_y.mean(1, keepdim=True)
        u, s, vt = torch.linalg.svd(q.mT @ p)
        sign = torch.linalg.det(u @ vt)
        signs = torch.stack([torch.ones_like(sign), sign], -1)
        return (s * signs).sum(-1) / (p * p).sum((1, 2)), u @ (signs[..., None] * vt)

    table.peer(work, "batched torch.linalg.svd, on a slice", part, by_svd)
    roma = table.module("roma")
    if roma is not None:
        table.peer(work, "roma.rigid_points_registration, on a slice", part,
                   lambda: roma.rigid_points_registration(some_x, some_y, compute_scaling=True))  # fmt: skip
    table.row(work, "tpc_fast on the CPU, and upload", count,
              host_times(lambda: cuda(fit_similarity(src, dst).matrix), 3))  # fmt: skip


def measure_model_input(table: Table) -> None:
    """Fit, search, warp and composite of 16 frames x 2 persons, from keypoints to what a model reads."""
    src, dst = people(np.random.default_rng(0), 32)
    image, mask = pictures(np.random.default_rng(0), (512, 512), 2)
    source = WarpSource(cuda(image), cuda(mask))
    x, y = cuda(src[:2]), cuda(dst.reshape(16, 2, 17, 2))
    ground = torch.zeros(512, 512, 3, dtype=torch.uint8, device="cuda")

    def model_input():
        before = fit_similarity(x, y)
        chosen = search_subset(x, y, previous=before, inertia=160.0)
        return source.warp(chosen.fit.matrix, (512, 512), antialias=True, background=ground, dtype="float16")

    table.ours("keypoints of 16 frames x 2 persons to model input, one graph", 16, model_input, target=200.0)


def measure_stream(table: Table) -> None:
    """One frame of a causal stream: fits with memory, ladder, smoothing, holds, warps."""
    image, mask, points, driving = stream(1)
    options = {"reference_keypoints": points, "reference_mask": mask, "size": 512, "match": "columns"}
    calibrator = Calibrator(image, **options, dtype="float16", device="cuda")
    frame, detection = cuda(np.zeros((512, 512, 3), np.uint8)), Detection(*map(cuda, driving[0]))
    work = "a frame of a stream of 2 persons, keypoints to model input, one graph"
    table.ours(work, 1, lambda: calibrator.step(frame, None, detection))


def measure_attention(table: Table, persons: int, grid=(64, 64), heads: int = 8, dim: int = 40) -> None:
    """A layer of Stable Diffusion 1.5 at 512x512, 16 frames, both guidance halves; at most 1.3x plain attention."""
    attend = torch.nn.functional.scaled_dot_product_attention
    frames, part = 16, 4
    works = [Attention(torch.device("cuda"), torch.float16, n, persons, grid, heads, dim) for n in (frames, part)]
    name = f"reference attention, 16 frames, {grid[0] * grid[1]} tokens, {heads} heads of {dim}, {persons} person(s)"
    q = works[0].tensors[0].transpose(1, 2)
    length = round(works[0].pairs() / (len(q) * q.shape[2]))
    keys, values = (torch.randn(len(q), heads, length, dim, dtype=q.dtype, device="cuda") for _ in range(2))
    plain = table.clock.times(lambda: attend(q, keys, values))
    table.row(name, "tpc_fast", frames, table.clock.times(works[0].ours, graph=False), target=1.3 * plain["us"])
    table.row(name, "torch's attention over as many pairs", frames, plain)

    # The original's scheme: both halves under a full mask, and the unconditional one again without a reference.
    q, k, v, bank_k, bank_v = (t.transpose(1, 2) for t in works[1].tensors)
    images = [np.zeros(part, int), *works[1].plan.rows]
    k_all, v_all = (
        torch.cat([own, *(torch.cat([bank[i], bank[i]]) for i in images)], 2)
        for own, bank in ((k, bank_k), (v, bank_v))
    )
    mask = torch.zeros(2 * part, 1, q.shape[2], k_all.shape[2], dtype=q.dtype, device="cuda")
    mask[..., q.shape[2] + q.shape[2] // 3 :] = -torch.inf  # which tokens does not matter for time
    half = slice(0, part)
    table.peer(name, "the original's scheme, torch's attention with a mask", part,
               lambda: (attend(q, k_all, v_all, mask), attend(q[half], k[half], v[half])))  # fmt: skip


def measure(table: Table, failures: Failures) -> None:
    for what, function, *arguments in (
        ("warps 512x512", measure_warps, 93, 512, "uint8", 150.0),
        ("warps 1024x1024", measure_warps, 16, 1024, "float16", None),
        ("search", measure_search),
        ("fits", measure_fits),
        ("model input", measure_model_input),
        ("stream", measure_stream),
        ("attention, 1 person", measure_attention, 1),
        ("attention, 2 persons", measure_attention, 2),
    ):
        if table.clock.left < 30:
            failures.append(f"times of {what}: not measured, no time left")
            continue
        failures.guarded(f"times of {what}", function, table, *arguments)
        print(f"{what}: {SECONDS - table.clock.left:.0f} s", flush=True)


def summary(results: dict) -> str:
    """What was measured, for people."""
    bandwidth = results["copy_bandwidth"]
    passed = sum(c["error"] <= c["limit"] for c in results["checks"])
    lines = [
        *(f"FAILED {failure}" for failure in results["failed"]),
        f"{results['gpu']}, driver {results['driver']}, {results['versions']}, {results['date']}; copy bandwidth "
        + (f"{bandwidth / 1e9:,.0f} GB/s" if bandwidth else "not measured"),
        f"{passed} of {len(results['checks'])} checks passed; the worst:",
        *(f"    {c['what']}: {c['error']:.3g} (limit {c['limit']:.3g})" for c in
          sorted(results["checks"], key=lambda c: -c["error"] / max(c["limit"], 1e-30))[:5]),
    ]  # fmt: skip
    ours = {r["work"]: r for r in reversed(results["rows"]) if r["member"] == "tpc_fast"}
    for r in results["rows"]:
        own = ours[r["work"]]  # the first row of every work
        same = own["items"] / r["items"]
        said = f"{r['us'] * same:12,.1f} us ({r['us_20'] * same:,.1f} to {r['us_80'] * same:,.1f})"
        if r is own:
            lines.append(r["work"])
        else:
            said += f", {r['us'] * same / own['us']:,.1f}x"
        if r["bytes"]:
            said += f", {r['bytes'] / r['us'] / 1e3:,.0f} GB/s"
        if r["bytes"] and bandwidth:
            said += f", {r['bytes'] / (r['us'] * 1e-6) / bandwidth:.0%} of copy bandwidth"
        if r["target_us"]:
            said += f", target {r['target_us']:.0f} us"
        lines.append(f"    {r['member']}: {said}")
    return "\n".join([*lines, *(f"left out: {a}" for a in results["absent"])])


def driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit(
            "benchmarks/gpu.py measures a CUDA device, and torch finds none here. Without one the kernels are tested "
            "by the interpreter and the compiler: pytest tests/test_kernels.py tests/test_cubins.py"
        )
    status = tpc_fast.backends()["triton"]
    if not status.available or "interpreted" in status.detail:
        sys.exit(f"the Triton kernels cannot be measured: {status.detail}; {'; '.join(status.reasons)}")
    import triton

    results = {
        "date": datetime.date.today().isoformat(),
        "gpu": torch.cuda.get_device_name(),
        "driver": driver(),
        "versions": {"torch": torch.__version__, "triton": triton.__version__, "numpy": np.__version__,
                     "python": platform.python_version(), "tpc_fast": tpc_fast.__version__},
    }  # fmt: skip
    clock, failures = Clock(), Failures()
    checks = Checks(torch.device("cuda", torch.cuda.current_device()), Sizes())
    checks.run(failures)
    print(f"{len(checks.rows)} checks, {SECONDS - clock.left:.0f} s", flush=True)
    bandwidth = failures.guarded("copy bandwidth", clock.copy_bandwidth)
    table = Table(clock)
    measure(table, failures)
    results |= {"failed": failures, "copy_bandwidth": bandwidth, "checks": checks.rows, "rows": table.rows,
                "absent": table.absent}  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(summary(results))
    if failures:
        sys.exit(f"{len(failures)} parts failed")


if __name__ == "__main__":
    main()
