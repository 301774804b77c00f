"""Constants of single diffusion models, against where they were published: each test fails if one is changed."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tpc_fast.diffusion.models.clip import clip_pixels  # noqa: E402
from tpc_fast.diffusion.models.control import condition_features  # noqa: E402
from tpc_fast.diffusion.models.dreampose import DreamPosePipeline  # noqa: E402

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]


def test_pictures_are_normalised_as_those_that_clip_was_trained_on():
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    encoder = SimpleNamespace(config=SimpleNamespace(image_size=8), device="cpu", dtype=torch.float32)
    got = clip_pixels(np.full((1, 9, 9, 3), 100, np.uint8), encoder)
    expected = (100 / 255 - np.array(OPENAI_CLIP_MEAN)) / OPENAI_CLIP_STD
    np.testing.assert_allclose(got[0].flatten(1), expected[:, None].repeat(64, 1), rtol=1e-5)


def test_a_frame_of_dreampose_sees_the_poses_of_two_frames_on_either_side():
    """In order of time; its own where there are none."""
    pipe = SimpleNamespace(
        unet=SimpleNamespace(dtype=torch.float32), vae=SimpleNamespace(config=SimpleNamespace(block_out_channels=[1]))
    )
    numbers = torch.arange(6.0)
    video = numbers[:, None, None, None].expand(6, 2, 4, 4) / 255
    reference = SimpleNamespace(num_frames=6, size=(4, 4))
    poses = DreamPosePipeline._follow(pipe, video, reference, 1.0, "cpu")
    assert poses.shape == (6, 10, 4, 4)
    seen = ((poses[:, ::2, 0, 0] + 1) / 2 * 255).round().long()
    assert torch.equal(seen[2:4], torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]))
    assert torch.equal(seen[[0, 5]], torch.tensor([[0, 0, 0, 1, 2], [3, 4, 5, 5, 5]]))


def test_conditions_are_encoded_eight_at_a_time():
    """Pictures of the full size, of which a whole video does not fit into a GPU's memory."""
    counts = []

    class Embedding(torch.nn.Linear):
        def forward(self, x):
            counts.append(len(x))
            return x

    controlnet = SimpleNamespace(controlnet_cond_embedding=Embedding(1, 1), config=SimpleNamespace())
    pictures = torch.arange(20.0)[:, None, None, None].expand(20, 3, 2, 2)
    assert torch.equal(condition_features(controlnet, pictures, "cpu"), pictures)
    assert counts == [8, 8, 4]
