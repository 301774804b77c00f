"""Fits and warps of every size beside the libraries that one would take instead; `operations.py` makes the table.

Each is compared with the specification before it is timed. `bytes` is what a warp must write and a fit must read and
write, once; `operations.py` sets it against the copy that the same run measures.
"""

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


def repeated(function, count):
    def run():
        for _ in range(count - 1):
            function()
        return function()

    return run


def calls_in(function) -> int:
    """How many calls make a round: of what takes microseconds, two milliseconds of calls."""
    function()
    started = time.perf_counter()
    function()
    return max(1, int(2e-3 / max(time.perf_counter() - started, 1e-7)))


@pytest.fixture
def timed(measure):
    """`timed(function, member, work, items, bytes)`: a call's time, of many calls where one takes microseconds."""

    def run(function, member, work, items, size):
        count = calls_in(function)
        return measure(
            repeated(function, count),
            ROUNDS,
            member=member,
            work=work,
            items=items * count,
            bytes=size * count,
            batch=items,
        )

    return run


def test_copy(timed):
    """What this machine moves: 64 MiB, read and written, by one thread, as one frame of most operations is."""
    source = np.ones(1 << 26, np.uint8)
    target = np.empty_like(source)
    timed(lambda: np.copyto(target, source), "numpy.copyto", "copy of 64 MiB", 1, 2 * source.nbytes)


def fit_members(x, y):
    """Name -> what fits float32 [N, 17, 2] and gives matrices [N, 2, 3], or None if it is not installed."""
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    members = {
        "tpc_fast": lambda: tpc_fast.fit_similarity(x, y),
        "tpc_fast, torch tensors": lambda: tpc_fast.fit_similarity(tx, ty),
        "batched torch.linalg.svd": lambda: umeyama(tx, ty, torch.ones(tx.shape[:2]))[0],
    }
    try:
        import roma

        members["roma"] = lambda: roma.rigid_points_registration(tx, ty, compute_scaling=True)
    except ImportError:
        pass
    if len(x) <= 256:  # one at a time, in Python
        try:
            from skimage.transform import SimilarityTransform

            def skimage():
                found = [SimilarityTransform() for _ in x]
                for one, a, b in zip(found, x, y, strict=True):
                    one.estimate(a, b)
                return np.stack([one.params[:2] for one in found])

            members["scikit-image"] = skimage
        except ImportError:
            pass
        try:
            import cv2

            # Its robust fit; OpenCV has no plain least squares of a similarity.
            members["cv2.estimateAffinePartial2D"] = lambda: [
                cv2.estimateAffinePartial2D(a, b, method=cv2.LMEDS) for a, b in zip(x, y, strict=True)
            ]
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
        pytest.skip(f"{member} is not installed, or too slow for {count}")
    found = members[member]()
    if hasattr(found, "matrix"):
        assert_fits(found.matrix, x, y)
    if member in ("batched torch.linalg.svd", "scikit-image"):
        assert_fits(found, x, y)
    size = x.nbytes + y.nbytes + count * (4 * (1 + 4 + 2 + 1) + 1)
    timed(members[member], member, f"fit of {count:,} x 17 points, float32", count, size)


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


def warp_members(image, mask, matrices, size):
    """Name -> what warps image and mask, cubic, and gives the first frame's four channels [h, w, 4]."""
    source = WarpSource(image, mask)

    def of_warped(warped):
        return np.dstack([warped.image[0, 0], warped.mask[0, 0]])

    members = {
        "tpc_fast": (lambda: tpc_fast.warp_composite(image, mask, matrices, size), of_warped, 1),
        "tpc_fast, packed before": (lambda: source.warp(matrices, size), of_warped, 1),
    }
    both = np.dstack([image, mask])
    try:
        import cv2

        members["cv2.warpAffine, four channels"] = (
            lambda: [cv2.warpAffine(both, m, size[::-1], flags=cv2.INTER_CUBIC) for m in matrices], lambda w: w[0], 16,
        )  # fmt: skip
    except ImportError:
        pass
    few = matrices[:8] if size[0] > 256 else matrices  # a slice: kornia would take gigabytes and minutes
    try:
        from kornia.geometry.transform import warp_affine

        pixels = torch.from_numpy(both).permute(2, 0, 1)[None].float().expand(len(few), -1, -1, -1)
        affine = torch.from_numpy(few).float()
        members["kornia.warp_affine"] = (
            lambda: warp_affine(pixels, affine, size, mode="bicubic", align_corners=True),
            lambda w: w[0].permute(1, 2, 0).round().clamp(0, 255).numpy(), 3,
        )  # fmt: skip
    except ImportError:
        pass
    try:
        from skimage.transform import AffineTransform, warp

        square = np.vstack([matrices[0], [0, 0, 1]])
        members["scikit-image, one frame"] = (
            lambda: warp(both, AffineTransform(square).inverse, output_shape=size, order=3, preserve_range=True),
            None, None,  # its cubic is another kernel: a spline
        )  # fmt: skip
    except ImportError:
        pass
    return members, len(few)


@pytest.mark.parametrize(("frames", "size"), WARPS)
@pytest.mark.parametrize(
    "member",
    ["tpc_fast", "tpc_fast, packed before", "cv2.warpAffine, four channels", "kornia.warp_affine",
     "scikit-image, one frame"],
)  # fmt: skip
def test_warps(timed, benchmark, frames, size, member):
    if benchmark.disabled and frames * size[0] * size[1] > 1 << 25:
        pytest.skip("a gigabyte, for a figure that nobody asked for")
    image, mask, matrices = picture(size, frames)
    members, few = warp_members(image, mask, matrices, size)
    if member not in members:
        pytest.skip(f"{member} is not installed")
    function, first, tolerance = members[member]
    if first is not None:
        want = naive.warp_composite(image[None], mask[None], matrices[:1, None], size, "cubic", False, None, "uint8")
        want = np.dstack([want[0][0, 0], want[1][0, 0]]).astype(int)
        assert np.abs(first(function()).astype(int) - want).max() <= tolerance
    done = 1 if "one frame" in member else few if "kornia" in member else frames
    work = f"warp of {frames} x {size[1]} x {size[0]}, image and mask, cubic"
    timed(function, member, work, done, done * size[0] * size[1] * 4)
