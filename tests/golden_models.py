"""The originals' tensors and weights of the other models: made by their own code, with random weights."""

from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "shared" / "golden" / "models"
needs_golden = pytest.mark.skipif(not FOLDER.exists(), reason=f"the originals' tensors are not at {FOLDER}")
DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
SIZES = dict(block_out_channels=(32, 32, 64, 64), layers_per_block=2, attention_head_dim=2)


def tensors(name: str) -> dict:
    """Of a file; what is stored in half precision is used in float32."""
    from safetensors.torch import load_file

    return {
        key: value.float() if value.dtype == torch.float16 else value
        for key, value in load_file(FOLDER / f"{name}.safetensors").items()
    }


def assert_equals_golden(ours, theirs):
    """Within 1e-4 standard deviations; printed, for `pytest -s`."""
    error = float((ours - theirs).abs().max() / theirs.std())
    print(f"error / std: {error:.1e}")
    assert error <= 1e-4


def reference(golden, latent, images, pose, **masks):
    """Two persons; which image a frame reads differs between them, so every frame is a candidate (group_size=1)."""
    from tpc_fast.diffusion.reference import CalibratedReference

    groups = golden["group_index"]
    read = torch.arange(2)[:, None], groups
    size = pose.shape[2:]
    empty = torch.zeros(2, int(groups.max()) + 1, *size, dtype=torch.uint8)
    return CalibratedReference(
        latent, images.unflatten(0, (2, -1))[read], pose * 255, masks.get("calibrated", empty)[read] * 255,
        masks.get("reference", empty[:, 0]) * 255,
    )  # fmt: skip


def nobody(frames: int, latent, size):
    """The reference alone."""
    from tpc_fast.diffusion.reference import CalibratedReference

    empty = torch.zeros(0, frames, *size)
    return CalibratedReference(latent, torch.zeros(0, frames, *latent.shape[1:]), empty, empty, empty[:, 0])
