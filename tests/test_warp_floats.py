"""Warps of floating pictures: their naive twin, gradients, types, layouts and batches of samples."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_warp import placements, reference

import tpc_fast
from tpc_fast import naive, warp_composite
from tpc_fast.ops import warp_floats
from tpc_fast.ops.warp import INTERPOLATIONS, WarpSource

TAPS = {"nearest": 1, "bilinear": 2, "cubic": 4}


def sampling(rng, pictures=2, maps=2, channels=3, sides=(7, 9)):
    """Pictures, maps that look at and beyond them, shares; one map shows nothing, one has no share."""
    inverse = rng.normal(size=(pictures, maps, 2, 3)) * 0.3 + np.eye(2, 3) * 0.8 + [0, 0, 1.3]
    share = rng.random((pictures, maps)) + 0.1
    share[0, 0] = 0
    return rng.random((pictures, channels, *sides)), inverse, share


@pytest.mark.native
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("sides", [(7, 9), (1, 1), (2, 5)])
def test_core_agrees_with_naive(rng, interpolation, sides):
    from tpc_fast import _C as core

    image, inverse, share = sampling(rng, sides=sides, maps=3)
    inverse[1, 1, :, 2] = np.inf, np.nan  # reaches nothing
    size, taps = (19, 6), TAPS[interpolation]
    finite = np.where(np.isfinite(inverse), inverse, 1e9)
    expected = naive.sample_pictures(image, finite, share, size, interpolation)
    assert_allclose(core.sample_pictures(image, inverse, share, *size, taps), expected, atol=1e-12)
    single = core.sample_pictures(image.astype("f4"), inverse, share, *size, taps)
    assert_allclose(single, expected, atol=1e-5)  # float32 weights and sums of values up to 1
    wanted = rng.normal(size=expected.shape)
    by_image, by_inverse, by_share = naive.sample_gradients(image, finite, share, interpolation, wanted)
    got = core.sample_gradients(image, inverse, share, taps, wanted, True, True)
    assert_allclose(got[0], by_image, atol=1e-11)
    assert_allclose(got[2], by_share, atol=1e-11)
    if interpolation == "cubic":  # its slope has no steps, which differences of places would see
        assert_allclose(got[1], by_inverse, atol=1e-3)
    assert core.sample_gradients(image, inverse, share, taps, wanted, False, False) == (None, None, None)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_floating_pictures_warp_as_bytes_do(rng, interpolation, antialias, backend):
    image, mask = reference(rng, 30, 23, 3, 2)
    matrix = placements(rng, (30, 23), (17, 20), 2, [(1, 0), (0.6, -0.9), (2.3, 2.0), (0.2, 0.4), (0.5, 0)])
    ground = rng.integers(0, 256, (17, 20, 3), np.uint8)
    expected = naive.warp_composite(image, mask, matrix, (17, 20), interpolation, antialias, ground, "float32")
    got = warp_composite(
        image / 255, mask / 255, matrix, (17, 20), interpolation, antialias, ground / 255, backend=backend
    )
    assert got.image.dtype == np.float64
    # naive rounds every level of the pyramid to bytes
    most = (0.5 * 6 if antialias else 1e-3) / 255
    assert_allclose(np.moveaxis(got.image, -1, -3) * 2 - 1, expected[0], atol=2 * most)
    assert_allclose(got.mask, expected[1], atol=most)
    assert_allclose(np.moveaxis(got.composite, -1, -3) * 2 - 1, expected[2], atol=4 * most)


def test_pyramids_are_blended_without_a_step(rng):
    """Where a level ends and the next begins the picture does not jump, also with the levels that data leave out."""
    image, mask = rng.random((40, 40, 3)), np.ones((40, 40))
    for scale in (0.5, 0.25, 0.125):
        near = [np.array([[[s, 0, 0], [0, s, 0]]]) for s in (scale * (1 - 1e-7), scale, scale * (1 + 1e-7))]
        three = [warp_composite(image, mask, m, 12, antialias=True).image for m in near]
        assert_allclose(three[0], three[1], atol=1e-4)
        assert_allclose(three[2], three[1], atol=1e-4)
    alone = warp_composite(image, mask, near[1], 12, antialias=True).image  # with another that needs more levels
    both = warp_composite(image, mask, np.concatenate([near[1], near[1] * 0.3]), 12, antialias=True).image
    assert_allclose(both[0], alone[0], atol=1e-12)


@pytest.mark.parametrize("floating", [False, True])
def test_layouts_and_sizes(rng, floating):
    image, mask = reference(rng, 9, 7, 3, 2)
    matrix = placements(rng, (9, 7), (8, 8), 2, [(1, 0.2)])
    ground = rng.integers(0, 256, (8, 8, 3), np.uint8)
    if floating:
        image, mask, ground = image / 255, mask / 255, ground / 255
    last = warp_composite(image, mask, matrix, 8, background=ground)
    first = warp_composite(
        np.moveaxis(image, -1, -3), mask, matrix, (8, 8), background=np.moveaxis(ground, -1, -3), layout="CHW"
    )
    assert_array_equal(np.moveaxis(last.image, -1, -3), first.image)
    assert_array_equal(np.moveaxis(last.composite, -1, -3), first.composite)
    assert_array_equal(last.mask, first.mask)
    assert last.image.dtype == first.image.dtype == image.dtype


@pytest.mark.parametrize("floating", [False, True])
@pytest.mark.parametrize("persons", [1, 2])
def test_one_photo_per_sample(rng, floating, persons):
    image = rng.integers(0, 256, (3, 9, 7, 3), np.uint8)
    mask = rng.integers(0, 256, (3, persons, 9, 7), np.uint8)
    matrix = np.stack([placements(rng, (9, 7), (8, 6), persons, [(1, 0.2), (0.4, 1)]) for _ in range(3)])
    ground = rng.integers(0, 256, (3, 8, 6, 3), np.uint8)
    if floating:
        image, mask, ground = image / 255, mask / 255, ground / 255
    got = warp_composite(image, mask, matrix, (8, 6), background=ground, samples=True)
    assert got.image.shape == (3, 2, persons, 8, 6, 3)
    for n in range(3):
        one = warp_composite(image[n], mask[n], matrix[n], (8, 6), background=ground[n])
        for a, b in zip(got, one, strict=True):
            assert_allclose(a[n], b, atol=1e-12)
    short = warp_composite(image, mask[:, 0], matrix[:, :, 0], (8, 6), samples=True)
    assert_array_equal(short.image, warp_composite(image, mask[:, :1], matrix[:, :, :1], (8, 6), samples=True).image)
    none = warp_composite(image[:0], mask[:0], matrix[:0], (8, 6), samples=True, background=0)
    assert none.image.shape == (0, 2, persons, 8, 6, 3)
    assert none.composite.dtype == image.dtype
    no_frames = warp_composite(image, mask, matrix[:, :0], (8, 6), samples=True)
    assert no_frames.mask.shape == (3, 0, persons, 8, 6)


def test_masks_of_truth_values(rng):
    image, mask = reference(rng, 9, 7)
    matrix = placements(rng, (9, 7), (8, 8), 1, [(1, 0.2)])
    for picture in (image[0], image[0] / 255):
        full = (mask[0] > 99) * (255 if picture.dtype == np.uint8 else 1.0)
        expected = warp_composite(picture, full.astype(picture.dtype), matrix, 8)
        assert_array_equal(warp_composite(picture, mask[0] > 99, matrix, 8).mask, expected.mask)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"image": np.full((6, 7, 3), 200.0)}, ValueError, "image must be in 0..1 where it is floating.*200"),
        ({"image": np.full((6, 7, 3), np.nan)}, ValueError, "image must be in 0..1"),
        ({"mask": np.zeros((6, 7), np.int32)}, TypeError, "mask must be uint8, bool or floating"),
        ({"mask": np.zeros((6, 8))}, ValueError, "mask must be .*with the size of image, 6 x 7"),
        ({"matrix": np.zeros((1, 2, 3))}, ValueError, r"matrix must be finite and have an inverse.*at \(0,\)"),
        ({"matrix": np.ones((1, 3, 3))}, ValueError, "matrix must be"),
        ({"background": 7}, ValueError, "background must be .* from 0 to 1"),
        ({"layout": "NHWC"}, ValueError, "layout must be one of HWC, CHW"),
        ({"dtype": "bfloat16"}, ValueError, "dtype must be .* for NumPy"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of uint8, float16"),
        ({"samples": True}, ValueError, r"image must be \[N, H, W, C\]"),
        ({"size": "big"}, ValueError, r"size must be \(height, width\) or one number"),
    ],
)
def test_bad_input_is_named(change, error, match):
    arguments = {"image": np.zeros((6, 7, 3)), "mask": np.zeros((6, 7)), "matrix": np.eye(2, 3)[None], "size": 5}
    with pytest.raises(error, match=match):
        warp_composite(**(arguments | change))


# With torch


def tensors(rng, sides=(7, 9), frames=2, dtype="float64"):
    torch = pytest.importorskip("torch")
    image, mask = rng.random((*sides, 2)) * 0.6 + 0.2, rng.random(sides) * 0.6 + 0.2  # not where values are clamped
    matrix = placements(rng, sides, (6, 8), 1, [(1.2, 0.1), (0.6, -0.3)][:frames])[:, 0]
    return [torch.tensor(a, dtype=getattr(torch, dtype)) for a in (image, mask, matrix)]


@pytest.mark.torch
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "cubic"])
def test_warps_are_differentiable(rng, interpolation, antialias):
    import torch

    inputs = [a.requires_grad_() for a in tensors(rng)]

    def warp(*given):
        return warp_composite(*given, (6, 8), interpolation, antialias, 0.4)

    assert torch.autograd.gradcheck(warp, inputs, fast_mode=True)


@pytest.mark.torch
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_pictures_of_a_gpu_are_sampled_alike(rng, taps):
    import torch

    image, inverse, share = sampling(rng)
    expected = naive.sample_pictures(image, inverse, share, (5, 6), warp_floats.NAMES[taps])
    got = warp_floats.sample_by_grid(*(torch.tensor(a) for a in (image, inverse, share)), (5, 6), taps)
    assert_allclose(got, expected, atol=1e-12)


@pytest.mark.torch
def test_bytes_have_a_gradient_with_respect_to_the_matrix(rng):
    import torch

    image, mask = (torch.tensor(a[0]) for a in reference(rng, 9, 7))
    matrix = torch.tensor(placements(rng, (9, 7), (8, 8), 1, [(1.1, 0.2)])[:, 0])
    plain = warp_composite(image, mask, matrix, 8, dtype="float32", background=9)
    wanted = warp_composite(image, mask, matrix.clone().requires_grad_(), 8, dtype=torch.float32, background=9)
    for a, b in zip(plain, wanted, strict=True):
        assert_allclose(b.detach(), a, atol=0.07 / 127.5)  # the core of bytes: csrc/warp.cpp
        assert b.requires_grad
    known = matrix.clone().requires_grad_()
    with pytest.raises(TypeError, match='uint8 results have none for: give dtype="float32"'):
        warp_composite(image, mask, known, 8)
    with torch.no_grad():
        assert torch.equal(warp_composite(image, mask, known, 8).image, warp_composite(image, mask, matrix, 8).image)
    total = warp_composite(image, mask, known, 8, dtype="float64").image.sum()
    (g,) = torch.autograd.grad(total, known, create_graph=True)
    with pytest.raises(NotImplementedError, match="first gradient only"):
        g.sum().backward()


@pytest.mark.torch
def test_warps_under_vmap_and_grad(rng):
    import torch

    image, mask, matrix = tensors(rng)
    images = torch.stack([image, image.flip(0), image.flip(1)])

    def warp(image, matrix):
        return warp_composite(image, mask, matrix, (6, 8), antialias=True).image

    mapped = torch.func.vmap(warp, (0, None))(images, matrix)
    expected = torch.stack([warp(i, matrix) for i in images])
    assert_allclose(mapped, expected, atol=1e-12)
    slopes = torch.func.vmap(torch.func.grad(lambda i, m: (warp(i, m) ** 2).sum(), argnums=1), (0, None))(
        images, matrix
    )
    for i, slope in zip(images, slopes, strict=True):
        known = matrix.clone().requires_grad_()
        (warp(i, known) ** 2).sum().backward()
        assert_allclose(slope, known.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.torch
@pytest.mark.slow
def test_warps_compile(rng):
    import torch

    image, mask, matrix = tensors(rng)

    def warp(image, matrix):
        return warp_composite(image, mask, matrix, (6, 8), antialias=True, background=0.5).composite * 2

    compiled = torch.compile(warp, fullgraph=True, backend="aot_eager")
    assert_allclose(compiled(image, matrix), warp(image, matrix), atol=1e-12)
    known = matrix.clone().requires_grad_()
    compiled(image, known).sum().backward()
    (expected,) = torch.autograd.grad(warp(image, known).sum(), known)
    assert_allclose(known.grad, expected, rtol=1e-9)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_halves_are_computed_in_float32(rng, dtype):
    import torch

    image, mask, matrix = tensors(rng, dtype=dtype)
    exact = warp_composite(*(a.double() for a in (image, mask, matrix)), (6, 8))
    got = warp_composite(image, mask, matrix, (6, 8))
    assert got.image.dtype == image.dtype
    rounding = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-19}[dtype]  # weights and 16 sums
    assert_allclose(got.image.double(), exact.image, atol=rounding)
    as_bytes = warp_composite(image, mask, matrix, (6, 8), dtype=torch.uint8)
    assert_allclose(as_bytes.image.double() / 255, exact.image, atol=0.51 / 255 + rounding)


@pytest.mark.torch
def test_a_tiny_network_learns_through_the_warp(rng):
    """It finds where a picture was moved to, from the pixels alone."""
    import torch

    yy, xx = np.mgrid[:32, :32]
    picture = torch.tensor(np.exp(-((xx - 14) ** 2 + (yy - 17) ** 2) / 40), dtype=torch.float32)[..., None]
    mask = torch.ones(32, 32)
    truth = torch.tensor([[[1.1, -0.1, 2.0], [0.1, 1.1, -3.0]]])
    target = warp_composite(picture, mask, truth, 32).image
    matrix = torch.eye(2, 3)[None].clone().requires_grad_()
    start = [{"params": [matrix], "lr": 0.05}]
    optimiser = torch.optim.Adam(start)
    losses = []
    for _ in range(80):
        optimiser.zero_grad()
        loss = ((warp_composite(picture, mask, matrix, 32).image - target) ** 2).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20


@pytest.mark.native
@pytest.mark.parametrize("kind", ["numpy", pytest.param("torch", marks=pytest.mark.torch)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
@pytest.mark.parametrize("own", [False, True])
def test_samples_of_bytes_are_warped_by_the_core(rng, kind, dtype, own, monkeypatch):
    """In one call, whatever is given; the same as one by one."""
    image = rng.integers(0, 256, (4, *([2] if own else []), 9, 7, 1), np.uint8)
    mask = rng.integers(0, 256, (4, 2, 9, 7), np.uint8)
    matrix = np.stack([placements(rng, (9, 7), (8, 6), 2, [(1, 0.2), (0.4, 1), (2, 0)]) for _ in range(4)])
    grounds = rng.integers(0, 256, (4, 8, 6, 1), np.uint8), rng.integers(0, 256, (4, 3, 8, 6, 1), np.uint8), 99, None
    if kind == "torch":
        import torch

        image, mask, matrix = (torch.from_numpy(a) for a in (image, mask, matrix))
        grounds = tuple(torch.from_numpy(g) if isinstance(g, np.ndarray) else g for g in grounds)
    for ground in grounds:
        one_by_one = [
            warp_composite(image[n], mask[n], matrix[n], (8, 6), "bilinear", True, below, dtype)
            for n, below in enumerate(ground if hasattr(ground, "ndim") else [ground] * 4)
        ]
        with monkeypatch.context() as patch:
            patch.setattr(tpc_fast.ops.warp, "WarpSource", None)
            got = warp_composite(image, mask, matrix, (8, 6), "bilinear", True, ground, dtype, samples=True)
        for i, part in enumerate(got):
            assert (part is None) == (ground is None and i == 2)
            if part is not None:
                assert type(part) is type(image)
                assert_array_equal(part, np.stack([np.asarray(one[i]) for one in one_by_one]))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"image": np.zeros((2, 6, 7, 2), np.uint8)}, ValueError, "image must be"),
        ({"mask": np.zeros((2, 6, 8), np.uint8)}, ValueError, "mask must have the height and width of image"),
        ({"mask": np.zeros((2, 6, 7), np.int16)}, TypeError, "mask must be uint8"),
        ({"mask": np.zeros((3, 6, 7), np.uint8)}, ValueError, "N = 2|2 samples"),
        (
            {"matrix": np.stack([np.eye(2, 3), np.zeros((2, 3))])[:, None]},
            ValueError,
            "frame 1, person 0.*all 2 samples",
        ),
        ({"matrix": np.zeros((2, 1, 3, 3))}, ValueError, "matrix must be"),
        ({"background": np.zeros((2, 4, 5, 3), np.uint8)}, ValueError, "background must be"),
        ({"background": np.zeros((2, 5, 5, 3))}, TypeError, "background must be uint8"),
        ({"background": 300}, ValueError, "background must be a number"),
        ({"interpolation": "best"}, ValueError, "interpolation must be one of"),
        ({"dtype": "bfloat16"}, ValueError, "dtype must be uint8, float32 or float16"),
    ],
)
def test_bad_samples_are_named(change, error, match):
    arguments = {
        "image": np.zeros((2, 6, 7, 3), np.uint8),
        "mask": np.zeros((2, 6, 7), np.uint8),
        "matrix": np.eye(2, 3)[None, None].repeat(2, 0),
        "size": 5,
    }
    with pytest.raises(error, match=match):
        warp_composite(**(arguments | change), samples=True)


@pytest.mark.parametrize("persons", [1, 2])
def test_a_source_of_floating_pictures(rng, persons):
    image, mask = rng.random((9, 7, 5)), rng.random((persons, 9, 7))
    matrix = placements(rng, (9, 7), (8, 6), persons, [(1, 0.2), (0.4, 1)])
    source = WarpSource(image, mask)
    assert (source.persons, source.channels) == (persons, 5)
    for options in ({}, {"antialias": True, "background": 0.5}, {"dtype": "uint8", "interpolation": "nearest"}):
        want = warp_composite(image, mask, matrix, (8, 6), **options)
        for a, b in zip(source.warp(matrix, (8, 6), **options), want, strict=True):
            assert_array_equal(a, b)
    for bad, match in (
        ((image[0], mask), "image must be"),
        ((image, mask[:, :3]), "mask must have the height and width"),
        ((np.stack([image] * 3), mask), "mask must be of the P = 3 persons"),
    ):
        with pytest.raises(ValueError, match=match):
            WarpSource(*bad)


@pytest.mark.torch
def test_gradients_flow_to_the_picture_of_a_source(rng):
    image, mask, matrix = tensors(rng)
    source = WarpSource(image.requires_grad_(), mask)
    source.warp(matrix, (6, 8)).image.sum().backward()
    assert image.grad.abs().sum() > 0
