"""The last layers of BlazePose's segmentation in the core: against the naive twin, and the network as it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tpc_fast import _native, naive
from tpc_fast.pose.detect import blazepose, blazepose_mask, model_files

COUNT = 377


def layers(rng):
    """Weights under which values stay between the ends of the two clips, on the whole."""
    weights = rng.normal(0, 0.3, COUNT)
    weights[-1] = rng.normal()
    return weights.astype(np.float32)


@pytest.mark.native
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (8, 8), (13, 21), (33, 5)], ids=str)
def test_core_is_the_naive_twin(rng, size, simd):
    for _ in range(3):
        features, weights = rng.uniform(0, 3, (*size, 8)).astype(np.float32), layers(rng)
        ours, twin = blazepose_mask.confidence(features, weights), naive.mask_head(features, weights)
        assert ours.shape == (2 * size[0], 2 * size[1])
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
    height, width = rng.integers(1, 30, 2)
    features, weights = rng.uniform(0, 3, (height, width, 8)).astype(np.float32), layers(rng)
    mirrored = weights.copy()
    for start in (0, 152, 304):
        mirrored[start : start + 72] = weights[start : start + 72].reshape(3, 3, 8)[::-1].ravel()
    ours = blazepose_mask.confidence(features, weights)
    assert_allclose(blazepose_mask.confidence(features[::-1], mirrored)[::-1].astype(int), ours.astype(int), atol=1)


@pytest.mark.native
def test_nothing_is_left_of_other_sizes(rng):
    """The core keeps its memory: what lies beside the rows stays 0."""
    weights = layers(rng)
    pictures = [rng.uniform(0, 3, (h, w, 8)).astype(np.float32) for h, w in ((20, 40), (40, 20), (3, 3), (20, 40))]
    once = [blazepose_mask.confidence(picture, weights) for picture in pictures]
    for picture, seen in zip(pictures[::-1], once[::-1], strict=True):
        assert_array_equal(blazepose_mask.confidence(picture, weights), seen)


@pytest.mark.native
def test_no_picture_and_what_is_refused():
    core, weights = _native.core(), np.zeros(COUNT, np.float32)
    assert core.mask_head(np.zeros((0, 5, 8), np.float32), weights).shape == (0, 10)
    with pytest.raises(ValueError, match=r"features must be \[h, w, 8\]"):
        core.mask_head(np.zeros((4, 4, 7), np.float32), weights)
    with pytest.raises(ValueError, match="weights are not as many"):
        core.mask_head(np.zeros((4, 4, 8), np.float32), weights[1:])


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
        theirs, ours = whole._landmark(picture), shortened._landmark(picture)
        for place in (0, 1, 3):
            assert_array_equal(theirs[place], ours[place])
        mask = blazepose_mask.confidence(ours[2], shortened._mask_head)
        wanted = 255 * (0.5 + 0.5 * np.tanh(theirs[2][..., 0].astype(np.float64) / 2))
        # Half a level, and what float32 loses of logits of some tens.
        assert np.abs(mask - wanted).max() < 0.5 + 255 / 4 * 64 * np.finfo(np.float32).eps * np.abs(theirs[2]).max()
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
