"""Composites against a few plain lines, as NumPy arrays and as tensors."""

import numpy as np
import pytest

from tpc_fast.diffusion.composite import composite_background, composite_reference

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
KINDS = [np.asarray, torch.from_numpy]


def plain_background(generated, pose_masks, background):
    """The definition: twice, a pixel becomes inside if one of its 3x3 neighbourhood is."""
    out = np.empty_like(generated)
    for f, frame in enumerate(generated):
        inside = (pose_masks[f] > 0).reshape(-1, *frame.shape[:2]).any(0)
        for _ in range(2):
            wider = np.pad(inside, 1)
            inside = np.array([[wider[y : y + 3, x : x + 3].any() for x in range(frame.shape[1])]
                               for y in range(frame.shape[0])])  # fmt: skip
        ground = background if background.ndim == 3 else background[f]
        out[f] = np.where(inside[..., None], frame, ground)
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(17, 23), (1, 9), (4, 1), (32, 32)])
@pytest.mark.parametrize("persons", [None, 1, 2, 0])
def test_background(rng, kind, size, persons):
    frames = 3
    shape = (frames, *size) if persons is None else (frames, persons, *size)
    masks = np.where(rng.random(shape) < 0.02, rng.integers(1, 256, shape), 0).astype(np.uint8)
    for dtype in (np.uint8, np.float32):
        generated, ground = (rng.integers(0, 256, (frames, *size, 3)).astype(dtype) for _ in range(2))
        for background in (ground, ground[0]):
            out = composite_background(kind(generated), kind(masks), kind(background), dilate=2)
            assert type(out) is type(kind(generated))
            assert np.array_equal(np.asarray(out), plain_background(generated, masks, background))
            exact = np.asarray(composite_background(kind(generated), kind(masks), kind(background)))  # as the authors
            inside = (masks if persons is None else masks.max(1, initial=0)) > 0
            assert np.array_equal(exact, np.where(inside[..., None], generated, background))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("persons", [1, 3])
def test_reference(rng, kind, persons):
    frames, size = 2, (13, 9)
    images = rng.integers(0, 256, (frames, persons, *size, 3), np.uint8)
    masks = rng.integers(0, 256, (frames, persons, *size), np.uint8)
    masks[0] = 0
    photo = rng.integers(0, 256, (*size, 3), np.uint8)
    wanted = np.repeat(photo[None], frames, 0).astype(np.float64)
    for person in range(persons):
        share = masks[:, person, ..., None] / 255
        wanted = share * images[:, person] + (1 - share) * wanted
    out = np.asarray(composite_reference(kind(photo), kind(images), kind(masks)))
    assert out.dtype == np.uint8
    assert np.array_equal(out[0], photo)
    assert abs(out - wanted).max() <= 0.5 + 1e-3
    light, share = images.astype(np.float32) / 255, masks.astype(np.float32) / 255
    out = np.asarray(composite_reference(kind(photo.astype(np.float32) / 255), kind(light), kind(share)))
    assert abs(out * 255 - wanted).max() < 1e-3


def test_refusals(rng):
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    masks = np.zeros((2, 1, 8, 8), np.uint8)
    with pytest.raises(ValueError, match="generated must be"):
        composite_background(frames[0], masks, frames)
    with pytest.raises(ValueError, match="pose_masks must be"):
        composite_background(frames, masks[:, :, :4], frames)
    with pytest.raises(ValueError, match="background must be"):
        composite_background(frames, masks, frames[0].astype(np.float32))
    with pytest.raises(TypeError, match="one kind"):
        composite_background(torch.from_numpy(frames), masks, frames)
    people = frames[:, None]
    with pytest.raises(ValueError, match="calibrated must be"):
        composite_reference(frames[0], frames, masks)
    with pytest.raises(ValueError, match="masks must be"):
        composite_reference(frames[0], people, masks[:, 0])
    with pytest.raises(ValueError, match="reference must be"):
        composite_reference(frames[0, :4], people, masks)
    with pytest.raises(ValueError, match="must have a person"):
        composite_reference(frames[0], people[:, :0], masks[:, :0])
