"""What is drawn into pictures, and what video encoders take: the core beside its naive twins."""

import numpy as np
import pytest

from tpc_fast import _native
from tpc_fast.media.marks import draw_marks
from tpc_fast.media.panels import LARGEST_FACTOR, lay_over, shrink
from tpc_fast.naive import pictures as twin

NOBODY = np.zeros((0, 1, 1), np.uint8)


@pytest.fixture(params=[pytest.param("core", marks=pytest.mark.native), "twin"])
def either(request, monkeypatch):
    if request.param == "twin":
        monkeypatch.setattr(_native, "core", lambda: None)


def to_yuv(image, room=0):
    """By the core, into planes that are wider by `room`."""
    height, width = image.shape[:2]
    sizes = (height, width), *((height // 2, width // 2),) * 2
    planes = [np.full((h, w + room), 7, np.uint8) for h, w in sizes]
    _native.core().rgb_to_yuv(image, *planes)
    assert all((plane[:, w:] == 7).all() for plane, (_, w) in zip(planes, sizes, strict=True))
    return [plane[:, :w] for plane, (_, w) in zip(planes, sizes, strict=True)]


@pytest.mark.native
@pytest.mark.parametrize("channels", [(), (3,)], ids=str)
def test_yuv(rng, simd, channels):
    for height, width in ((2, 2), (4, 126), (6, 128), (2, 130), (50, 86)):
        image = rng.integers(0, 256, (height, width, *channels), np.uint8)
        for plane, true in zip(to_yuv(image, room=5), twin.rgb_to_yuv(image), strict=True):
            differ = np.abs(plane.astype(int) - true)
            assert differ.max() <= 1  # weights of 16 bits, at halves: they are off by less than 0.008 in all
            assert differ.size < 500 or differ.mean() < 0.05


@pytest.mark.parametrize(
    ("rgb", "yuv"),
    [((255, 0, 0), (63, 102, 240)), ((0, 255, 0), (173, 42, 26)), ((0, 0, 255), (32, 240, 118))]
    + [((g, g, g), (round(16 + g * 219 / 255), 128, 128)) for g in range(256)],
)
def test_colours_of_bt709(rgb, yuv):
    image = np.full((2, 2, 3), rgb, np.uint8)
    for convert in [twin.rgb_to_yuv] + [to_yuv] * (_native.core() is not None):
        assert [plane[0, 0] for plane in convert(image)] == list(yuv)


@pytest.mark.native
def test_yuv_refuses():
    image, plane = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="even"):
        _native.core().rgb_to_yuv(image[:3], plane, plane, plane)
    with pytest.raises(ValueError, match="too small"):
        _native.core().rgb_to_yuv(image, plane[:, :3].copy(), plane[:2], plane[:2])
    plane.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        _native.core().rgb_to_yuv(image, plane, plane[:2], plane[:2])


@pytest.mark.native
@pytest.mark.parametrize("channels", [(), (3,)], ids=str)
def test_shrink(rng, simd, channels):
    for factor in range(2, LARGEST_FACTOR + 1):
        for height, width in ((1, 1), (2, 63), (5, 130)):
            pictures = rng.integers(0, 256, (2, height * factor, width * factor, *channels), np.uint8)
            np.testing.assert_array_equal(shrink(pictures, factor), twin.shrink(pictures, factor))
            white = np.full_like(pictures, 255)
            assert (shrink(white, factor) == 255).all()


def test_shrink_means_pixels(either):
    """Halves up; a factor of one changes nothing."""
    picture = np.array([[[0, 1, 10, 20], [0, 1, 30, 41]]], np.uint8)
    assert shrink(picture, 2).tolist() == [[[1, 25]]]
    assert shrink(picture, 1) is picture


@pytest.mark.native
def test_shrink_refuses():
    picture = np.zeros((1, 10, 12), np.uint8)
    for factor, words in ((1, "2, 3 or 4"), (5, "2, 3 or 4"), (4, "multiples")):
        with pytest.raises(ValueError, match=words):
            _native.core().shrink(picture, factor)
    with pytest.raises(ValueError, match="pictures"):
        _native.core().shrink(picture[0], 2)


def test_lay_over(rng, either):
    for height, width in ((1, 1), (7, 9), (20, 33)):
        pictures = rng.integers(0, 256, (2, height, width, 3), np.uint8)
        masks = rng.choice([0, 0, 0, 1, 127, 254, 255, 255], (2, height, width)).astype(np.uint8)
        for order in ([0], [1, 0]):
            ground = rng.integers(0, 256, (height, width, 3), np.uint8)
            expected = ground.copy()
            twin.lay_over(pictures, masks, order, expected)
            lay_over(pictures, masks, order, ground)
            np.testing.assert_array_equal(ground, expected)  # 255 is odd: there are no halves


@pytest.mark.native
def test_lay_over_refuses():
    pictures, masks, ground = (
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.uint8),
    )
    with pytest.raises(ValueError, match="order"):
        lay_over(pictures, masks, [2], ground)
    with pytest.raises(ValueError, match="differ"):
        lay_over(pictures, masks, [0], ground[:3].copy())


@pytest.mark.native
def test_mask_areas(rng, simd):
    for size in (0, 1, 127, 8191, 8192, 3 * 8192 + 77):
        one, other = rng.integers(0, 256, (2, size), np.uint8)
        assert tuple(_native.core().mask_areas(one, other)) == twin.mask_areas(one, other)
    full = np.full(8192, 255, np.uint8)
    assert tuple(_native.core().mask_areas(full, full)) == (8192,) * 3
    with pytest.raises(ValueError, match="size"):
        _native.core().mask_areas(one, other[1:])


@pytest.mark.native
def test_long_edges_and_none(rng):
    """Eight pixels are passed over at a time where there is no edge: wherever it lies, it is drawn."""
    for _ in range(20):
        mask = np.zeros((1, 33, 70), np.uint8)
        (top, bottom), (left, right) = np.sort(rng.integers(0, 34, 2)), np.sort(rng.integers(0, 71, 2))
        mask[0, top:bottom, left:right] = 255
        drawn, expected = np.zeros((2, 33, 70, 3), np.uint8)
        draw_marks(drawn, mask, [(1, 2, 3)], [])
        twin.draw_marks(expected, mask, np.array([(1, 2, 3)]), [], 18)
        np.testing.assert_array_equal(drawn, expected)


@pytest.mark.native
def test_marks(rng):
    for height, width in ((1, 1), (1, 9), (40, 31), (64, 64)):
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        masks = np.kron(rng.integers(0, 2, (2, 11, 13)), np.ones((7, 5))).astype(np.uint8) * 255
        colours = rng.integers(0, 256, (2, 3))
        centres = rng.uniform(-5, 70, (6, 2)), rng.uniform(0, 5, (6, 1)), rng.integers(0, 256, (6, 3))
        for discs in (np.zeros((0, 6)), np.concatenate(centres, 1)):
            drawn, expected = picture.copy(), picture.copy()
            draw_marks(drawn, masks, colours, discs)
            twin.draw_marks(expected, masks, colours, discs, 18)
            assert np.abs(drawn.astype(int) - expected).max() <= (1 if len(discs) else 0)  # at halves


def test_outline(either):
    """Both sides of an edge, of the nearest pixels of a larger mask."""
    picture, mask = np.zeros((9, 9, 3), np.uint8), np.zeros((1, 18, 18), np.uint8)
    mask[0, 6:14, 6:14] = 128
    draw_marks(picture, mask, [(1, 2, 3)], [])
    lines = (picture == (1, 2, 3)).all(-1)
    assert lines[2:8, 2:8].sum() - lines[4:6, 4:6].sum() == lines.sum() == 28  # corners outside are no neighbours
    assert lines[3, 4]
    assert lines[2, 4]
    assert not picture[~lines].any()


@pytest.mark.parametrize("centre", [(-50, 5), (5, -50), (500, 5), (5, 500), (1e9, 5), (0, 0), (29.6, 19.6), (-2, 10)])
def test_discs_may_lie_outside(centre, either):
    picture = np.zeros((20, 30, 3), np.uint8)
    draw_marks(picture, NOBODY, [], [(*centre, 3, 255, 255, 255)])
    assert picture.any() == (-4 < centre[0] < 34 and -4 < centre[1] < 24)


def test_disc(either):
    picture = np.full((21, 21, 3), 200, np.uint8)
    draw_marks(picture, NOBODY, [], [(10, 8, 3, 250, 100, 0)])
    assert picture[8, 10].tolist() == [250, 100, 0]
    assert picture[8, 10 + 8].tolist() == [200, 200, 200]
    assert picture[8, 10 + 4].tolist() == [109, 109, 109]  # half of the rim's 18, half of what was there
    assert np.array_equal(picture[:17], picture[16::-1])  # centred on pixel 8
