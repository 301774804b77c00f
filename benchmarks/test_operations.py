"""Fits and warps of every size beside the libraries that one would take instead; `operations.py` makes the table.

Each is compared with the specification before it is timed. `bytes` is what must be read and written, once;
`operations.py` sets it against the copy that the same run measures. What takes long gets fewer rounds, and a peer that
takes frame after frame, or more memory than `MEMORY`, fewer frames: `of` says of how many.
"""

import concurrent.futures
import functools
import os
import time

import numpy as np
import pytest
from fit_problems import assert_fits, problems, umeyama

import tpc_fast
from tpc_fast import naive
from tpc_fast.ops.warp import WarpSource

torch = pytest.importorskip("torch", reason="torch (extra 'bench') is the peer")

FITS = [1, 16, 256, 10_000]
WARPS = [(1, (64, 64)), *((frames, size) for size in ((256, 256), (512, 512), (1080, 1920)) for frames in (1, 93))]
ROUNDS = 7
SECONDS = 2.0  # of rounds for a row: all rows together take five minutes on two quiet cores
MEMORY = 2 << 30  # what a peer may take at once
PEER_FRAMES = 8  # of a peer that takes one after the other, where a frame has more than 512 x 512 pixels
KORNIA_BYTES = 36  # a pixel of its result costs at its peak: measured on 4 and 16 frames of 512 x 512, torch 2.13


def repeated(function, count):
    def run():
        for _ in range(count - 1):
            function()
        return function()

    return run


def rounds_of(seconds: float) -> tuple[int, int]:
    """How many calls make a round (of what takes microseconds, two milliseconds of calls), and how many rounds."""
    count = max(1, int(2e-3 / max(seconds, 1e-7)))
    return count, max(1, min(ROUNDS, int(SECONDS / (seconds * count))))


@pytest.fixture
def timed(measure):
    """`timed(function, member, work, items, bytes, took)`: a call's time, of many calls where one takes microseconds.

    `took`: the seconds of a call before; None for what is quick, which is then called to see.
    """

    def run(function, member, work, items, size, took=None, **facts):
        if took is None or took < 0.1:
            function()
            took = seconds_of(function)[0]
        count, rounds = rounds_of(took)
        return measure(
            repeated(function, count),
            rounds,
            member=member,
            work=work,
            items=items * count,
            bytes=size * count,
            batch=items,
            **facts,
        )

    return run


def seconds_of(function):
    """How long a call takes, and what it returns."""
    started = time.perf_counter()
    found = function()
    return time.perf_counter() - started, found


@pytest.mark.parametrize("threads", sorted({1, os.cpu_count()}))
def test_copy(timed, threads):
    """What this machine moves: 64 MiB, read and written, by one thread and by all."""
    source = np.ones(1 << 26, np.uint8)
    target = np.empty_like(source)
    parts = [slice(i * len(source) // threads, (i + 1) * len(source) // threads) for i in range(threads)]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        timed(
            lambda: list(pool.map(lambda part: np.copyto(target[part], source[part]), parts)),
            f"numpy.copyto, {threads} threads", "copy of 64 MiB", 1, 2 * source.nbytes,
        )  # fmt: skip


def fit_members(x, y):
    """Name -> what fits float32 [N, 17, 2] and gives matrices [N, 2, 3]; of how many of them."""
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    members = {
        "tpc_fast": (lambda: tpc_fast.fit_similarity(x, y), len(x)),
        "tpc_fast, torch tensors": (lambda: tpc_fast.fit_similarity(tx, ty), len(x)),
        "batched torch.linalg.svd": (lambda: umeyama(tx, ty, torch.ones(tx.shape[:2]))[0], len(x)),
    }
    few = slice(256)  # of the peers that take one after the other, in Python
    try:
        import roma

        members["roma"] = (lambda: roma.rigid_points_registration(tx, ty, compute_scaling=True), len(x))
    except ImportError:
        pass
    try:
        from skimage.transform import SimilarityTransform

        def skimage():
            found = [SimilarityTransform() for _ in x[few]]
            for one, a, b in zip(found, x[few], y[few], strict=True):
                one.estimate(a, b)
            return np.stack([one.params[:2] for one in found])

        members["scikit-image"] = skimage, len(x[few])
    except ImportError:
        pass
    try:
        import cv2

        # Its robust fit; OpenCV has no plain least squares of a similarity.
        members["cv2.estimateAffinePartial2D"] = (
            lambda: [cv2.estimateAffinePartial2D(a, b, method=cv2.LMEDS) for a, b in zip(x[few], y[few], strict=True)],
            len(x[few]),
        )
    except ImportError:
        pass
    return members


@pytest.mark.parametrize("count", FITS)
@pytest.mark.parametrize(
    "member",
    ["tpc_fast", "tpc_fast, torch tensors", "batched torch.linalg.svd", "roma", "scikit-image",
     "cv2.estimateAffinePartial2D"],
)  # fmt: skip
def test_fits(timed, count, member):
    x, y = problems(count)
    members = fit_members(x, y)
    if member not in members:
        pytest.skip(f"{member} is not installed")
    function, done = members[member]
    took, found = seconds_of(function)
    if hasattr(found, "matrix"):
        assert_fits(found.matrix, x, y)
    if member in ("batched torch.linalg.svd", "scikit-image"):
        assert_fits(found, x[:done], y[:done])
    size = done * ((x.nbytes + y.nbytes) // count + 4 * (1 + 4 + 2 + 1) + 1)
    timed(function, member, f"fit of {count:,} x 17 points, float32", done, size, took, of=count)


def picture(size, frames):
    """Image [h, w, 3], mask [h, w], matrices [F, 2, 3]: a turn and a zoom about the middle."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    y, x = np.mgrid[: size[0], : size[1]] / np.reshape(size, (2, 1, 1)) - 0.5
    mask = np.where(x**2 + (y / 2) ** 2 < 0.06, 255, 0).astype(np.uint8)
    linear = np.linspace(0.6, 1.1, frames) * np.exp(-0.3j)
    middle = (size[1] - 1 + 1j * (size[0] - 1)) / 2
    shift = middle * (1 - linear)
    matrices = np.array([[linear.real, -linear.imag, shift.real], [linear.imag, linear.real, shift.imag]])
    return image, mask, matrices.transpose(2, 0, 1).copy()


@functools.cache
def truth(size):
    """A window in the middle of the first frame, by the specification, which takes seconds for all of it: [h, w, 4]."""
    image, mask, matrices = picture(size, 1)
    window, (top, left) = middle(size)
    matrices[0, :, 2] -= left, top
    want = naive.warp_composite(image[None], mask[None], matrices[:, None], window, "cubic", False, None, "uint8")
    return np.dstack([want[0][0, 0], want[1][0, 0]]).astype(int)


def middle(size):
    window = tuple(min(side, 96) for side in size)
    return window, tuple((a - b) // 2 for a, b in zip(size, window, strict=True))


def warp_members(image, mask, matrices, size):
    """Name -> what warps image and mask, cubic; what gives the first frame [h, w, 4]; the largest error; frames.

    A peer has fewer frames than `matrices` where it would take too long, or too much memory.
    """
    source = WarpSource(image, mask)

    def of_warped(warped):
        return np.dstack([warped.image[0, 0], warped.mask[0, 0]])

    frames, pixels = len(matrices), size[0] * size[1]
    members = {
        "tpc_fast": (lambda: tpc_fast.warp_composite(image, mask, matrices, size), of_warped, 1, frames),
        "tpc_fast, packed before": (lambda: source.warp(matrices, size), of_warped, 1, frames),
    }
    both = np.dstack([image, mask])
    few = frames if pixels <= 1 << 18 else min(frames, PEER_FRAMES)
    try:
        import cv2

        members["cv2.warpAffine, four channels"] = (
            lambda: [cv2.warpAffine(both, m, size[::-1], flags=cv2.INTER_CUBIC) for m in matrices[:few]],
            lambda w: w[0], 16, few,
        )  # fmt: skip
    except ImportError:
        pass
    fit = min(few, max(1, MEMORY // (KORNIA_BYTES * pixels)))
    try:
        from kornia.geometry.transform import warp_affine

        stack = torch.from_numpy(both).permute(2, 0, 1)[None].float().expand(fit, -1, -1, -1)
        affine = torch.from_numpy(matrices[:fit]).float()
        members["kornia.warp_affine"] = (
            lambda: warp_affine(stack, affine, size, mode="bicubic", align_corners=True),
            lambda w: w[0].permute(1, 2, 0).round().clamp(0, 255).numpy(), 3, fit,
        )  # fmt: skip
    except ImportError:
        pass
    try:
        from skimage.transform import AffineTransform, warp

        square = np.vstack([matrices[0], [0, 0, 1]])
        members["scikit-image"] = (
            lambda: warp(both, AffineTransform(square).inverse, output_shape=size, order=3, preserve_range=True),
            None, None, 1,  # its cubic is another kernel: a spline
        )  # fmt: skip
    except ImportError:
        pass
    return members


@pytest.mark.parametrize(("frames", "size"), WARPS)
@pytest.mark.parametrize(
    "member",
    ["tpc_fast", "tpc_fast, packed before", "cv2.warpAffine, four channels", "kornia.warp_affine", "scikit-image"],
)
def test_warps(timed, benchmark, frames, size, member):
    if benchmark.disabled and frames * size[0] * size[1] > 1 << 25:
        pytest.skip("a gigabyte, for a figure that nobody asked for")
    image, mask, matrices = picture(size, frames)
    members = warp_members(image, mask, matrices, size)
    if member not in members:
        pytest.skip(f"{member} is not installed")
    function, first, tolerance, done = members[member]
    took, found = seconds_of(function)
    if first is not None:
        window, (top, left) = middle(size)
        seen = first(found)[top : top + window[0], left : left + window[1]].astype(int)
        assert np.abs(seen - truth(size)).max() <= tolerance
    del found
    work = f"warp of {frames} x {size[1]} x {size[0]}, image and mask, cubic"
    size_of = image.nbytes + mask.nbytes + done * size[0] * size[1] * 4
    needs = {"needs": KORNIA_BYTES * size[0] * size[1] * frames} if member.startswith("kornia") else {}
    timed(function, member, work, done, size_of, took, of=frames, **needs)


@pytest.mark.parametrize("member", ["new memory", "memory that was written before"])
def test_pages(timed, member):
    """What it costs that a warp of 93 frames returns new arrays: the system hands out pages full of zeros."""
    size = 93 * 4 << 18
    kept = np.zeros(size, np.uint8)

    def write():
        array = kept if member.startswith("memory") else np.empty(size, np.uint8)
        array.fill(7)

    timed(write, member, "pages of 93 x 512 x 512", 1, size)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "cubic"])
def test_taps(timed, interpolation):
    """One frame with one, four and sixteen taps a pixel: what the taps cost, beside what is the same in all."""
    image, mask, matrices = picture((512, 512), 1)
    source = WarpSource(image, mask)
    run = lambda: source.warp(matrices, (512, 512), interpolation)  # noqa: E731
    timed(run, f"tpc_fast, {interpolation}", "taps: warp of 1 x 512 x 512", 1, image.nbytes + mask.nbytes + (4 << 18))
