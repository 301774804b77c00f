"""The parts of `device.py`, each of which is run in a process of its own: python device_parts.py PART ROWS [tiny].

A part appends its rows to the file ROWS as lines of JSON, each as soon as it is measured, so that what comes after it
cannot lose it. `tiny` is the dry run: smallest sizes, on the CPU by Triton's interpreter, where times mean nothing.
"""

import contextlib
import importlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from device_work import BACKEND, DEVICE, ON_GPU, Attention, Clock, people, pictures, stream, upload, zoom

from tpc_fast import fit_similarity, search_subset
from tpc_fast.ops.warp import WarpSource

DTYPES = ("float16", "bfloat16", "float32")
attend = torch.nn.functional.scaled_dot_product_attention


class Table:
    """Writes rows: what was measured, what failed, and what was left out."""

    def __init__(self, part: str, path: Path):
        self.part, self.path, self.clock = part, path, Clock()

    def row(self, **facts) -> None:
        line = json.dumps({"part": self.part, **facts})
        print(line, flush=True)
        with open(self.path, "a") as file:
            file.write(line + "\n")

    def measure(self, work: str, member: str, items, function, *, error=None, graph=True, times=None, **facts) -> None:
        """Times a function for `items` of the work; `error`: a function that says how far its result is off.

        bytes: those that must move, inputs once and outputs once; flop: floating-point operations.
        """
        try:
            if error is not None:
                facts["error"] = float(error(function()))
            spent = self.clock.times(function, graph=graph) if times is None else times(function)
        except Exception as failure:  # a member that fails is left out; the others go on
            said = str(failure).splitlines() or [""]
            self.row(work=work, member=member, failed=f"{type(failure).__name__}: {said[0][:300]}")
            if ON_GPU:
                torch.cuda.synchronize()
            return
        self.row(work=work, member=member, items=items, **spent, **facts)

    def module(self, name: str):
        """A peer's package, or None."""
        if importlib.util.find_spec(name) is None:
            self.row(work=name, failed="is not installed")
            return None
        return importlib.import_module(name)


def ceilings(table: Table, tiny: bool) -> None:
    """What the card can do at most, and what is installed."""
    import triton

    driver = "unknown"
    with contextlib.suppress(OSError, subprocess.CalledProcessError, IndexError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    table.row(
        work="versions", gpu=torch.cuda.get_device_name() if ON_GPU else "no GPU: a dry run", driver=driver,
        versions={"torch": torch.__version__, "triton": triton.__version__, "numpy": np.__version__,
                  "python": sys.version.split()[0]},
    )  # fmt: skip
    size = 1 << (16 if tiny else 30)
    source = torch.empty(size, dtype=torch.uint8, device=DEVICE).fill_(7)
    target = torch.empty_like(source)
    table.measure("copy", "torch", size, lambda: target.copy_(source), bytes=2 * size)
    side = 64 if tiny else 8192
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
    table.measure("matrix product in bfloat16", "torch", side, lambda: a @ b, flop=2 * side**3)


def attention(table: Table, tiny: bool) -> None:
    """Layers of Stable Diffusion 1.5 at 512 x 512 and of models with heads of 64; both guidance halves."""
    frames = 4 if tiny else 16
    layers = [(40, (64, 64)), (64, (64, 64)), (80, (32, 32)), (160, (16, 16))]
    if tiny:
        layers = [(40, (6, 7))]
    for dtype, (dim, grid), persons in itertools.product(DTYPES, layers, (2,) if tiny else (1, 2)):
        if BACKEND and dtype == "bfloat16":
            continue  # the interpreter multiplies its bits as integers
        heads = 1 if tiny else 8
        work = Attention(DEVICE, getattr(torch, dtype), frames, persons, grid, heads, dim)
        name = f"attention, {grid[0] * grid[1]} tokens, {heads} heads of {dim}, {persons} person(s), {dtype}"
        _attention_layer(table, name, work, tiny)


def _attention_layer(table: Table, name: str, work: Attention, tiny: bool) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from tpc_fast.kernels import reference_attention as kernels

    q = work.tensors[0]
    frames, dtype, dim = len(q) // 2, q.dtype, q.shape[3]
    flop = 4 * dim * q.shape[2] * work.pairs()
    exact = work.exact()

    def off(got):
        return (got.double() - exact).abs().max()

    table.measure(name, "tpc_fast", frames, lambda: work.ours(BACKEND), error=off, flop=flop)
    if dtype == torch.float16:
        for tiling in _tilings(kernels, dim):
            tables = work.plan.tables(len(q), (frames, 2 * frames), tiling.rows)
            run = lambda t=tiling, s=tables: kernels.reference_attention(*work.tensors, *s, tiling=t)  # noqa: E731
            table.measure(name, f"tpc_fast, {tiling}", frames, run, error=off, flop=flop)

    length = round(work.pairs() / (len(q) * q.shape[1]))
    queries = q.transpose(1, 2)
    keys, values = (torch.randn(len(q), q.shape[2], length, dim, dtype=dtype, device=DEVICE) for _ in range(2))
    for backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):

        def plain(backend=backend):
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return attend(queries, keys, values)

        table.measure(name, f"torch {backend.lower()} over as many pairs", frames, plain, flop=flop)
    if dtype != torch.float16:
        return

    part = 2 if tiny else 4  # frames: a mask of all of them is 3 GB
    some = Attention(DEVICE, dtype, part, work.pose.shape[0], work.grid, q.shape[2], dim)
    own_q, own_k, own_v, bank_k, bank_v = (t.transpose(1, 2) for t in some.tensors)
    images = [np.zeros(part, int), *some.plan.rows]
    k_all, v_all = (
        torch.cat([own, *(torch.cat([bank[i], bank[i]]) for i in images)], 2)
        for own, bank in ((own_k, bank_k), (own_v, bank_v))
    )
    mask = torch.zeros(2 * part, 1, own_q.shape[2], k_all.shape[2], dtype=dtype, device=DEVICE)
    mask[..., own_q.shape[2] + own_q.shape[2] // 3 :] = -torch.inf  # which tokens does not matter for time
    half = slice(0, part)

    def original():
        return attend(own_q, k_all, v_all, mask), attend(own_q[half], own_k[half], own_v[half])

    table.measure(name, "the original's scheme, torch's attention with a mask", part, original)
    if not tiny and dim in (40, 64):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        tokens = own_q.shape[2]
        seen = torch.rand(2 * part, k_all.shape[2], device=DEVICE) < 0.6

        def visible(b, h, i, j):
            return (j < tokens) | ((b >= part) & seen[b, j])

        def flex():
            blocks = create_block_mask(visible, 2 * part, None, tokens, k_all.shape[2], device=DEVICE, _compile=True)
            compiled = torch.compile(flex_attention, dynamic=False)
            return lambda: compiled(own_q, k_all, v_all, block_mask=blocks)

        try:
            run = flex()
        except Exception as failure:
            table.row(
                work=name, member="torch flex_attention", failed=f"{type(failure).__name__}: {str(failure)[:300]}"
            )
        else:
            table.measure(name, "torch flex_attention, nothing gathered", part, run, graph=False)


def _tilings(kernels, dim: int) -> list:
    """Others than the chosen one, whose machine code looked nearly as good."""
    tiling = kernels.Tiling
    return {
        40: [tiling(128, 64, 64, 0, 8, 2), tiling(64, 64, 64, 0, 4, 3), tiling(128, 128, 64, 0, 8, 2),
             tiling(64, 128, 64, 0, 4, 2), tiling(128, 64, 32, 16, 8, 3), tiling(128, 64, 64, 0, 4, 3)],
        64: [tiling(128, 64, 64, 0, 8, 2), tiling(64, 64, 64, 0, 4, 2), tiling(128, 128, 64, 0, 8, 2)],
        80: [tiling(64, 64, 64, 16, 4, 2), tiling(128, 64, 64, 16, 8, 2), tiling(128, 128, 64, 16, 8, 2)],
        160: [tiling(64, 64, 128, 32, 4, 2, True), tiling(128, 64, 128, 32, 8, 2)],
    }.get(dim, [])  # fmt: skip


def geometry(table: Table, tiny: bool) -> None:
    """Warps, search and fits beside their peers."""
    _warps(table, 2 if tiny else 93, 16 if tiny else 512, "uint8")
    _search(table, 1 if tiny else 93, 9 if tiny else 17)
    _fits(table, 200 if tiny else 1_000_000)
    _warps(table, 1 if tiny else 16, 16 if tiny else 1024, "float16")
    _model_input(table, tiny)


def _warps(table: Table, frames: int, side: int, dtype: str) -> None:
    rng, size = np.random.default_rng(0), (side, side)
    work = f"warp of {frames} frames {side}x{side}, image and mask, cubic, {dtype}"
    image, mask = pictures(rng, size)
    matrix = zoom(frames, size, size)
    source, matrices = WarpSource(upload(image), upload(mask), BACKEND), upload(matrix)
    moved = side * side * 4 * (frames * (1 if dtype == "uint8" else 2) + 1)
    table.measure(work, "tpc_fast", frames, lambda: source.warp(matrices, size, dtype=dtype), bytes=moved)
    antialiased = lambda: source.warp(matrices, size, antialias=True, dtype=dtype)  # noqa: E731
    table.measure(work, "tpc_fast, with antialiasing", frames, antialiased, bytes=moved)

    kind, part = torch.float32 if dtype == "uint8" or not ON_GPU else torch.float16, min(frames, 16)
    planes = torch.cat([upload(image), upload(mask)[..., None]], -1).permute(0, 3, 1, 2).to(kind)
    wide, some = planes.expand(part, -1, -1, -1).contiguous(), matrices[:part, 0].to(kind)
    kornia = table.module("kornia")
    if kornia is not None:
        warp_affine = kornia.geometry.transform.warp_affine
        by_kornia = lambda: warp_affine(wide, some, size, mode="bicubic", align_corners=True)  # noqa: E731
        table.measure(work, "kornia.warp_affine, bicubic", part, by_kornia, graph=False)
    inverse = np.linalg.inv(np.concatenate([matrix[:part, 0], np.tile([[[0, 0, 1]]], (part, 1, 1))], 1))[:, :2]
    y, x = np.mgrid[:side, :side]
    places = upload(np.einsum("fij,jhw->fhwi", inverse, np.stack([x, y, np.ones_like(x)])) * 2 / (side - 1) - 1).to(
        kind
    )
    table.measure(work, "torch grid_sample, bicubic, its grid ready", part,
                  lambda: torch.nn.functional.grid_sample(wide, places, "bicubic", align_corners=True))  # fmt: skip
    if importlib.util.find_spec("cupyx") is not None and ON_GPU:
        import cupy
        from cupyx.scipy import ndimage

        picture = cupy.from_dlpack(planes[0, 0].float())
        square, shift = inverse[0, ::-1, 1::-1].copy(), inverse[0, ::-1, 2].copy()  # of (y, x)
        linear, offset = cupy.asarray(square), cupy.asarray(shift)
        table.measure(work, "cupyx affine_transform, cubic spline, one plane", 0.25,
                      lambda: ndimage.affine_transform(picture, linear, offset, order=3), graph=False)  # fmt: skip
    host = WarpSource(image, mask)

    def on_host():
        return [torch.from_numpy(a).to(DEVICE) for a in host.warp(matrix, size, dtype=dtype)[:2]]

    table.measure(work, "tpc_fast on the CPU, and upload", frames, on_host, times=table.clock.host_times)


def _search(table: Table, frames: int, points: int) -> None:
    work = f"search of {1 << points:,} subsets, {frames} frames"
    src, dst = people(np.random.default_rng(0), frames, points)
    tolerance = np.full(points, 15.0)
    x, y, t = upload(src), upload(dst), upload(tolerance)
    known = search_subset(src, dst, tolerance).value

    def off(got):
        return np.abs(got.value.cpu().numpy() - known).max()

    run = lambda: search_subset(x, y, t, backend=BACKEND)  # noqa: E731
    table.measure(work, "tpc_fast", frames, run, error=off)
    on_host = lambda: upload(search_subset(src, dst, tolerance).fit.matrix)  # noqa: E731
    table.measure(work, "tpc_fast on the CPU, and upload", frames, on_host, times=table.clock.host_times)


def _fits(table: Table, count: int) -> None:
    work = f"fit of {count:,} x 17 points"
    src, dst = people(np.random.default_rng(0), count)
    x, y, part = upload(src), upload(dst), min(count, 20_000)
    moved = (x.numel() + y.numel()) * 4 + count * (4 + 16 + 8 + 4 + 1)
    known = fit_similarity(src[:part], dst[:part]).scale

    def off(got):
        return np.abs(got.scale[:part].cpu().numpy() / known - 1).max()

    table.measure(work, "tpc_fast", count, lambda: fit_similarity(x, y, backend=BACKEND), error=off, bytes=moved)
    some_x, some_y = x[:part], y[:part]

    def by_svd():
        p, q = some_x - some_x.mean(1, keepdim=True), some_y - some_y.mean(1, keepdim=True)
        u, s, vt = torch.linalg.svd(q.mT @ p)
        sign = torch.linalg.det(u @ vt)
        signs = torch.stack([torch.ones_like(sign), sign], -1)
        return (s * signs).sum(-1) / (p * p).sum((1, 2)), u @ (signs[..., None] * vt)

    table.measure(work, "batched torch.linalg.svd", part, by_svd, graph=False)
    roma = table.module("roma")
    if roma is not None:
        by_roma = lambda: roma.rigid_points_registration(some_x, some_y, compute_scaling=True)  # noqa: E731
        table.measure(work, "roma.rigid_points_registration", part, by_roma, graph=False)
    table.measure(work, "tpc_fast on the CPU, and upload", count,
                  lambda: upload(fit_similarity(src, dst).matrix), times=table.clock.host_times)  # fmt: skip


def _model_input(table: Table, tiny: bool) -> None:
    """Fit, search, warp and composite of 16 frames x 2 persons, from keypoints to what a model reads."""
    frames, points, side = (1, 9, 16) if tiny else (16, 17, 512)
    src, dst = people(np.random.default_rng(0), 2 * frames, points)
    image, mask = pictures(np.random.default_rng(0), (side, side), 2)
    source = WarpSource(upload(image), upload(mask), BACKEND)
    x, y, tolerance = upload(src[:2]), upload(dst.reshape(frames, 2, points, 2)), upload(np.full(points, 15.0))
    ground = torch.zeros(side, side, 3, dtype=torch.uint8, device=DEVICE)

    def run():
        before = fit_similarity(x, y, backend=BACKEND)
        chosen = search_subset(x, y, tolerance, previous=before, inertia=160.0, backend=BACKEND)
        return source.warp(chosen.fit.matrix, (side, side), antialias=True, background=ground, dtype="float16")

    table.measure("keypoints of 16 frames x 2 persons to model input", "tpc_fast", frames, run)


class Step:
    """A denoising step of a UNetMotionModel of Stable Diffusion 1.5's size with random weights, in float16."""

    def __init__(self, tiny: bool, persons: int):
        from bench_attention import ellipses
        from diffusers import UNet2DConditionModel, UNetMotionModel

        from tpc_fast.diffusion import CalibratedReference, ReferenceEncoder

        self.frames, self.group, side, text = (4, 2, 8, 16) if tiny else (16, 4, 64, 768)
        channels = (32, 64, 64, 64) if tiny else (320, 640, 1280, 1280)
        self.dtype = torch.float16 if ON_GPU else torch.float32
        common = dict(
            block_out_channels=channels, layers_per_block=1 if tiny else 2, cross_attention_dim=text, sample_size=side
        )
        down, up = ("CrossAttnDown{}",) * 3 + ("Down{}",), ("Up{}",) + ("CrossAttnUp{}",) * 3
        torch.manual_seed(0)
        made = []
        with DEVICE:
            for model, kind, heads in (
                (UNetMotionModel, "BlockMotion", dict(num_attention_heads=8, motion_num_attention_heads=8)),
                (UNet2DConditionModel, "Block2D", dict(attention_head_dim=8)),
            ):
                blocks = dict(down_block_types=tuple(x.format(kind) for x in down),
                              up_block_types=tuple(x.format(kind) for x in up))  # fmt: skip
                made.append(model(**common, **heads, **blocks).to(self.dtype).eval())
        self.unet, self.encoder = made[0], ReferenceEncoder(made[1])
        rng = np.random.default_rng(persons)
        masks = (torch.from_numpy(ellipses(rng, persons, *s)).to(DEVICE) for s in ((self.frames,), (self.frames,), ()))
        self.reference = CalibratedReference(
            self.random(1, 4, side, side), self.random(persons, self.frames, 4, side, side), *masks
        )
        self.sample = self.random(2, 4, self.frames, side, side)
        self.text = self.random(2, 77, text).repeat_interleave(self.frames, 0)
        self.do_classifier_free_guidance, self.scheduler = True, None

    def random(self, *shape):
        return torch.randn(*shape, device=DEVICE, dtype=self.dtype)

    def guide(self, guided: bool) -> None:
        """Both halves, or the conditional one alone."""
        if not guided:
            self.sample, self.text = self.sample[1:], self.text[self.frames :]
        self.do_classifier_free_guidance = guided

    def __call__(self):
        return self.unet(self.sample, 1, encoder_hidden_states=self.text, return_dict=False)[0]

    @contextlib.contextmanager
    def calibrated(self):
        """Yields the step with calibrated references, encoded anew at each call."""
        from tpc_fast.diffusion import apply_calibration, remove_calibration

        state = apply_calibration(self, self.reference, self.encoder, group_size=self.group, mode="first")

        def run():
            state.reset()
            return self()

        try:
            yield run
        finally:
            remove_calibration(self)

    @contextlib.contextmanager
    def original(self):
        """Yields the step by the original's scheme, as in bench_step.py."""
        import bench_step

        from tpc_fast.diffusion import apply_calibration, remove_calibration

        state = apply_calibration(self, self.reference, self.encoder, group_size=self.group, mode="first")
        remove_calibration(self)
        bench_step.FRAMES = self.frames

        def masked(q, k, v, mask):
            return attend(q, k, v, None if mask is None else mask.to(q.dtype))

        scheme = bench_step.Original(self.unet, self.encoder, self.reference, state.plan, masked)

        def run():
            with DEVICE:
                return scheme(self.sample, 1, self.text)

        try:
            yield run
        finally:
            scheme.remove()


@torch.no_grad()
def step(table: Table, tiny: bool) -> None:
    """Plain, calibrated, and by the original's scheme; memory and kernels; frames per second at four steps."""
    if table.module("diffusers") is None:
        return
    for persons in (1,) if tiny else (1, 2):
        work = Step(tiny, persons)
        name = f"guided step of {work.frames} frames 512x512, {persons} person(s)"
        eager = dict(graph=False)
        table.measure(name, "no reference at all", work.frames, work, **eager)
        with work.calibrated() as run:
            with _memory(table, name, "tpc_fast"):
                table.measure(name, "tpc_fast", work.frames, run, **eager)
            table.measure(name, "tpc_fast, as a graph", work.frames, run)
            if ON_GPU and persons == 1:
                _kernels(table, name, run)
        with work.original() as run:
            with _memory(table, name, "the original's scheme"):
                table.measure(name, "the original's scheme", work.frames, run, **eager)
        if persons == 1:
            _frames_per_second(table, work)
            _live_loop(table, work)


@contextlib.contextmanager
def _memory(table: Table, name: str, member: str):
    """A row of the most memory that is taken inside."""
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    yield
    if ON_GPU:
        table.row(work=name, member=f"{member}, memory", bytes=torch.cuda.max_memory_allocated())


def _kernels(table: Table, name: str, run) -> None:
    """The twelve kernels that take most of a step's time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    top = sorted(seen.key_averages(), key=lambda e: -e.device_time_total)[:12]
    table.row(work=name, member="tpc_fast, kernels",
              kernels=[[e.key[:70], e.count, round(e.device_time_total, 1)] for e in top])  # fmt: skip


def _frames_per_second(table: Table, work: Step) -> None:
    """Four steps without guidance, and a small decoder: what a live preview does with a chunk of frames."""
    from diffusers import AutoencoderTiny

    work.guide(False)
    with DEVICE:
        decoder = AutoencoderTiny().to(work.dtype).eval()
    with work.calibrated() as run:

        def animate():
            for _ in range(4):
                out = run()
            return decoder.decode(out[0].transpose(0, 1)).sample

        table.measure(f"{work.frames} frames 512x512, 4 steps, no guidance, small decoder", "tpc_fast", work.frames,
                      animate, times=table.clock.host_times)  # fmt: skip


def _live_loop(table: Table, work: Step) -> None:
    """A chunk of four frames through `LiveAnimator`: four chunks at as many levels, a small autoencoder."""
    from diffusers import AnimateDiffPipeline, AutoencoderTiny, LCMScheduler

    from tpc_fast.diffusion import LiveAnimator

    chunk, side = 4, 8 * work.sample.shape[-1]
    with DEVICE:
        vae = AutoencoderTiny().to(work.dtype).eval()
    pipe = AnimateDiffPipeline(vae=vae, text_encoder=None, tokenizer=None, unet=work.unet, motion_adapter=None,
                               scheduler=LCMScheduler())  # fmt: skip
    rng = np.random.default_rng(0)
    image, masks = pictures(rng, (side, side))
    with LiveAnimator(pipe, image[0], masks, encoder=work.encoder, chunk=chunk, levels=4, output_type="pt",
                      prompt_embeds=work.random(1, 77, work.text.shape[-1])) as live:  # fmt: skip

        def push():
            for _ in range(chunk):
                frames = live.push(None, masks, image, masks)
            return frames

        while push() is None:  # the window fills
            pass
        name = f"a chunk of {chunk} frames {side}x{side} through LiveAnimator, 4 levels"
        table.measure(name, "tpc_fast", chunk, push, times=table.clock.host_times)


@torch.no_grad()
def compiled(table: Table, tiny: bool) -> None:
    """The step under torch.compile."""
    if table.module("diffusers") is None:
        return
    work = Step(tiny, 1)
    name = f"guided step of {work.frames} frames 512x512, 1 person(s)"
    with work.calibrated() as run:
        if tiny:
            table.measure(name, "tpc_fast, before torch.compile", work.frames, run)
            return
        work.unet.compile()
        table.measure(name, "tpc_fast, torch.compile", work.frames, run, graph=False)


def live(table: Table, tiny: bool) -> None:
    """One frame of a stream, from keypoints on the host to a model's input on the device."""
    from tpc_fast import Calibrator
    from tpc_fast.pose.detect.detection import Detection

    side, count = (32, 3) if tiny else (512, 60)
    for persons in (1, 2, 4):
        image, mask, points, driving = stream(count, persons)
        calibrator = Calibrator(image, reference_keypoints=points, reference_mask=mask, size=side, match="columns",
                                dtype="float16" if ON_GPU else "uint8", device=DEVICE if ON_GPU else None)  # fmt: skip
        frame = np.zeros((512, 512, 3), np.uint8)
        frames = itertools.cycle(driving)

        def one(calibrator=calibrator, frame=frame, frames=frames):
            calibrator.step(frame, None, Detection(*next(frames)))

        table.measure(f"a frame of a stream, {persons} person(s), keypoints to model input", "tpc_fast", 1, one,
                      times=lambda run: table.clock.host_times(run, 200))  # fmt: skip


def kernels(table: Table, tiny: bool) -> None:
    """Every kernel, at odd sizes: for the checkers of memory and races, and for hardware counters."""
    rng = np.random.default_rng(0)
    for dims, points, dtype in [(2, 17, "f4"), (2, 50, "f4"), (3, 17, "f4"), (2, 17, "f8")][: 1 if tiny else 4]:
        x, y = (upload(rng.normal(size=(131, points, dims)).astype(dtype)) for _ in range(2))
        fit_similarity(x, y, backend=BACKEND)
        fit_similarity(x, y, upload(rng.random((131, points)).astype(dtype)), backend=BACKEND)
    points = 9 if tiny else 17
    x, y = (upload(rng.normal(size=(3, points, 2))) for _ in range(2))
    search_subset(x, y, upload(np.full(points, 15.0)), valid=upload(rng.random((3, points)) < 0.9),
                  weights=upload(rng.random((3, points))), backend=BACKEND)  # fmt: skip
    for channels in (3, 1):
        image, mask = (
            upload(rng.integers(0, 256, (2, 13, 9, channels), np.uint8)),
            upload(rng.integers(0, 256, (2, 13, 9), np.uint8)),
        )
        source, matrix = WarpSource(image, mask, BACKEND), rng.normal(size=(2, 2, 2, 3)) * [1, 1, 9]
        ground = upload(rng.integers(0, 256, (2, 9, 33, channels), np.uint8))
        for dtype, interpolation in itertools.product(("uint8", "float16"), ("cubic", "nearest")):
            source.warp(upload(matrix), (9, 33), interpolation, True, ground, dtype)
            source.warp(upload(matrix), (9, 33), interpolation, False, None, dtype)
    types = ("float16", "float32") if tiny else DTYPES
    for dtype, dim in itertools.product(types, (40,) if tiny else (40, 64, 80, 160, 5)):
        Attention(DEVICE, getattr(torch, dtype), 2, 2, (5, 7) if tiny else (9, 15), 2, dim).ours(BACKEND)
    if ON_GPU:
        torch.cuda.synchronize()
    table.row(work="every kernel", member="tpc_fast", ran=True)


PARTS = {f.__name__: f for f in (ceilings, attention, step, geometry, live, compiled, kernels)}


def main() -> None:
    part, path, *options = sys.argv[1:]
    if not ON_GPU and os.environ.get("TRITON_INTERPRET") != "1":
        sys.exit("torch finds no CUDA device: only a dry run is possible (TRITON_INTERPRET=1)")
    PARTS[part](Table(part, Path(path)), "tiny" in options)


if __name__ == "__main__":
    main()
