"""Image and mask of 93 frames 512x512, cubic, beside what else can do it; each is compared with naive first.

`max_error` is the largest difference from naive in levels of 255 on four of the frames (OpenCV rounds coordinates to
1/32 pixel).
"""

import json

import numpy as np
import pytest

import tpc_fast
from tpc_fast import naive
from tpc_fast.ops.warp import WarpSource

WORK = "warp of 93 frames 512x512, image and mask, cubic"
SIZE = (512, 512)
CHECKED = [0, 31, 62, 92]  # frames


@pytest.fixture(scope="module")
def work(sample_or_none):
    """Image [512, 512, 3], mask [512, 512], matrices [93, 2, 3]: the published sample, or a zoom like it over noise."""
    if sample_or_none is not None:
        from PIL import Image

        image, mask = (
            np.asarray(Image.open(sample_or_none / name).convert("RGB"))
            for name in ("reference.png", "reference_mask.png")
        )
        matrices = [frame["matrix"] for frame in json.loads((sample_or_none / "official_matrices.json").read_text())]
        return np.ascontiguousarray(image), np.ascontiguousarray(mask[..., 0]), np.array(matrices)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    y, x = np.mgrid[:512, :512] - 256
    mask = np.where(x**2 + (y / 2) ** 2 < 120**2, 255, 0).astype(np.uint8)
    linear = np.linspace(0.45, 0.9, 93) * np.exp(-1j)
    shift = 256 * (1 + 1j) * (1 - linear)
    matrices = np.array([[linear.real, -linear.imag, shift.real], [linear.imag, linear.real, shift.imag]])
    return image, mask, matrices.transpose(2, 0, 1).copy()


@pytest.fixture(scope="module")
def truth(work):
    """Four channels [n, 512, 512, 4] of the checked frames."""
    image, mask, matrices = work
    arguments = (matrices[CHECKED][:, None], SIZE, "cubic", False, None, "uint8")
    warped = naive.warp_composite(image[None], mask[None], *arguments)
    return np.concatenate([warped[0][:, 0], warped[1][:, 0, ..., None]], -1).astype(int)


@pytest.fixture
def warps(measure, truth):
    """Times a function; `checked(result)` gives the checked frames' four channels [n, 512, 512, 4]."""

    def run(function, checked, tolerance, member, rounds=15):
        error = int(np.abs(checked(function()) - truth).max())
        assert error <= tolerance
        measure(function, rounds, member=member, work=WORK, items=93, unit="frames", max_error=error)

    return run


def of_batch(warped):
    return np.concatenate([warped.image[CHECKED, 0], warped.mask[CHECKED, 0, ..., None]], -1)


def test_tpc_fast(warps, work):
    image, mask, matrices = work
    # Packing the reference is part of the job.
    warps(lambda: WarpSource(image, mask, "cpu").warp(matrices, SIZE), of_batch, 1, "tpc_fast")


def test_tpc_fast_one_thread(warps, work):
    image, mask, matrices = work
    before = tpc_fast.get_num_threads()
    tpc_fast.set_num_threads(1)
    try:
        warps(lambda: WarpSource(image, mask, "cpu").warp(matrices, SIZE), of_batch, 1, "tpc_fast, one thread")
    finally:
        tpc_fast.set_num_threads(before)


def test_tpc_fast_frame_by_frame(warps, work):
    image, mask, matrices = work
    source = WarpSource(image, mask, "cpu")

    def checked(frames):
        return np.stack([np.dstack([frames[i].image[0, 0], frames[i].mask[0, 0]]) for i in CHECKED])

    warps(lambda: [source.warp(m[None], SIZE) for m in matrices], checked, 1, "tpc_fast, frame by frame")


def test_cv2_perspective_twice(warps, work):
    """What the original does: the mask has three channels too."""
    cv2 = pytest.importorskip("cv2")
    image, mask, matrices = work
    mask = cv2.merge([mask] * 3)
    square = [np.vstack([m, [0, 0, 1]]) for m in matrices]

    def function():
        return [[cv2.warpPerspective(a, m, SIZE[::-1], flags=cv2.INTER_CUBIC) for a in (image, mask)] for m in square]

    def checked(frames):
        return np.stack([np.dstack([frames[i][0], frames[i][1][..., 0]]) for i in CHECKED])

    warps(function, checked, 16, "cv2.warpPerspective, image and mask (the original)")


def test_cv2_affine_four_channels(warps, work):
    """The best single call that OpenCV has."""
    cv2 = pytest.importorskip("cv2")
    image, mask, matrices = work
    both = np.dstack([image, mask])

    def function():
        return [cv2.warpAffine(both, m, SIZE[::-1], flags=cv2.INTER_CUBIC) for m in matrices]

    warps(function, lambda frames: np.stack([frames[i] for i in CHECKED]), 16, "cv2.warpAffine, four channels")


def test_kornia(warps, work):
    """In float32, four channels, all frames in one batch."""
    torch = pytest.importorskip("torch")
    transform = pytest.importorskip("kornia").geometry.transform
    image, mask, matrices = work
    both = torch.from_numpy(np.dstack([image, mask])).permute(2, 0, 1)[None].float().expand(len(matrices), -1, -1, -1)
    matrices = torch.from_numpy(matrices).float()

    def function():
        return transform.warp_affine(both, matrices, SIZE, mode="bicubic", align_corners=True)

    def checked(batch):
        return batch[CHECKED].permute(0, 2, 3, 1).round().clamp(0, 255).numpy().astype(int)

    warps(function, checked, 3, "kornia.warp_affine", rounds=3)
