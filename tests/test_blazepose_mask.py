"""The last layers of BlazePose's segmentation in the core: against the naive twin, and the network as it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tpc_fast
from tpc_fast import _native, naive
from tpc_fast.pose.detect import blazepose, blazepose_mask, model_files

COUNT = 681


def layers(rng):
    """Weights under which values stay between the ends of the two clips, on the whole."""
    weights = rng.normal(0, 0.3, COUNT)
    weights[-1] = rng.normal()
    return weights.astype(np.float32)


def pictures(rng, height, width):
    """Features of a layer and of an earlier one, about as the network has them."""
    sizes = (height, width, 8), (2 * height, 2 * width, 8)
    return [rng.uniform(0, 3, size).astype(np.float32) for size in sizes]


@pytest.mark.native
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (8, 8), (13, 21), (17, 5)], ids=str)
def test_core_is_the_naive_twin(rng, size, simd):
    for _ in range(3):
        features, weights = pictures(rng, *size), layers(rng)
        ours, twin = blazepose_mask.confidence(*features, weights), naive.mask_head(*features, weights)
        assert ours.shape == (4 * size[0], 4 * size[1])
        # A slope of 64 levels of a logit of some tens of float32: what lies at a half may fall to either side.
        off = np.abs(ours.astype(int) - twin)
        assert off.max() <= 1
        assert (off > 0).mean() < 0.01 or off.size < 500


@pytest.mark.native
@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_a_mirrored_picture_has_the_mirrored_mask(seed):
    """If the weights are mirrored, too; borders and bands, of which this takes several, make no difference."""
    rng = np.random.default_rng(seed)
    features, weights = pictures(rng, *rng.integers(1, 20, 2)), layers(rng)
    mirrored = weights.copy()
    for start in (0, 152, 304, 456, 608):
        mirrored[start : start + 72] = weights[start : start + 72].reshape(3, 3, 8)[::-1].ravel()
    ours = blazepose_mask.confidence(*features, weights)
    other = blazepose_mask.confidence(*(np.ascontiguousarray(picture[::-1]) for picture in features), mirrored)
    assert_allclose(other[::-1].astype(int), ours.astype(int), atol=1)


@pytest.mark.native
@pytest.mark.parametrize("height", [1, 4, 9, 33])
def test_any_number_of_threads_gives_the_same(rng, height, simd):
    """Whichever rows a thread makes; those of one thread, which makes all, are the naive twin's."""
    features, weights = pictures(rng, height, 6), layers(rng)
    before = tpc_fast.get_num_threads()
    try:
        seen = []
        for threads in (1, 2, 3, 8):
            tpc_fast.set_num_threads(threads)
            seen.append(blazepose_mask.confidence(*features, weights))
    finally:
        tpc_fast.set_num_threads(before)
    assert np.abs(seen[0].astype(int) - naive.mask_head(*features, weights)).max() <= 1
    for other in seen[1:]:
        assert_array_equal(other, seen[0])


@pytest.mark.native
def test_clips(simd):
    """Weights that pass on one value: the first layers clip it to 0 and 6, those after them show it."""
    for value in (-np.inf, -1e30, -1.0, -1e-30, -0.0, 0.0, 1e-30, 0.1, 5.9, 6.0, 6.1, 1e30, np.inf):
        features, earlier = np.full((2, 3, 8), value, np.float32), np.zeros((4, 6, 8), np.float32)
        weights = np.zeros(COUNT, np.float32)
        weights[608 + 4 * 8] = 1  # the middle tap of the first channel
        wanted = 255 / (1 + np.exp(-np.clip(value, 0, 6)))
        seen = blazepose_mask.confidence(features, earlier, weights)
        assert np.abs(seen - wanted).max() <= 0.51, value


@pytest.mark.native
def test_nothing_is_left_of_other_sizes(rng):
    """The core keeps its memory: what lies beside the rows stays 0."""
    weights = layers(rng)
    seen = [pictures(rng, *size) for size in ((10, 20), (20, 10), (3, 3), (10, 20))]
    once = [blazepose_mask.confidence(*features, weights) for features in seen]
    for features, mask in zip(seen[::-1], once[::-1], strict=True):
        assert_array_equal(blazepose_mask.confidence(*features, weights), mask)


@pytest.mark.native
def test_no_picture_and_what_is_refused(rng):
    core, weights, features = _native.core(), np.zeros(COUNT, np.float32), pictures(rng, 4, 4)
    assert core.mask_head(*pictures(rng, 0, 5), weights).shape == (0, 20)
    with pytest.raises(ValueError, match=r"features must be \[h, w, 8\]"):
        core.mask_head(np.zeros((4, 4, 7), np.float32), features[1], weights)
    with pytest.raises(ValueError, match=r"earlier must be \[2 h, 2 w, 8\]"):
        core.mask_head(features[0], features[0], weights)
    with pytest.raises(ValueError, match="weights are not as many"):
        core.mask_head(*features, weights[1:])


@pytest.mark.demo
@pytest.mark.native
def test_the_network_is_the_same(monkeypatch, rng):
    """Everything else bit by bit, the mask to a level at halves: on a person, on noise, and on black."""
    from skimage.data import astronaut

    shortened = blazepose.BlazePoseDetector(threads=1)
    monkeypatch.setattr(blazepose_mask, "can_do_without", lambda _: False)
    whole = blazepose.BlazePoseDetector(threads=1)
    assert shortened._mask_head is not None
    assert whole._mask_head is None
    found = whole.detect(astronaut())
    person = whole.half.cut(astronaut(), whole.half.locate(found.keypoints[0], found.scores[0]))
    noise = rng.integers(0, 256, (256, 256, 3), np.uint8)
    seen = []
    for picture in (person, noise, np.zeros_like(noise)):
        *theirs, logits = whole._landmark(picture)
        *ours, features, earlier = shortened._landmark(picture)
        for one, other in zip(theirs, ours, strict=True):
            assert_array_equal(one, other)
        mask = blazepose_mask.confidence(features, earlier, shortened._mask_head)
        wanted = 255 * (0.5 + 0.5 * np.tanh(logits[..., 0].astype(np.float64) / 2))
        # Half a level, and what float32 loses of logits of some tens.
        assert np.abs(mask - wanted).max() < 0.5 + 255 / 4 * 64 * np.finfo(np.float32).eps * np.abs(logits).max()
        seen.append(mask)
    assert (seen[0] > 250).mean() > 0.1
    assert (seen[0] < 5).mean() > 0.1
    one, other = shortened.detect_upright(person), whole.detect_upright(person)
    assert_array_equal(one.keypoints, other.keypoints)
    assert np.abs(one.mask.astype(int) - other.mask).max() <= 5  # a level of confidence is four of coverage


@pytest.mark.demo
def test_other_networks_stay_as_they_are(monkeypatch):
    assert not blazepose_mask.can_do_without("0" * 64)
    monkeypatch.setattr(_native, "core", lambda: None)
    assert not blazepose_mask.can_do_without(model_files.NETWORKS["pose_landmark_full"].sha256)
