"""Checkpoints of strangers: tensors with their own numbers, configurations whose models can be made."""

import json
import os

import pytest

pytestmark = pytest.mark.diffusion
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import UNet2DConditionModel  # noqa: E402

from tpc_fast.diffusion import checkpoints  # noqa: E402
from tpc_fast.diffusion.models.registry import recognise  # noqa: E402


@pytest.mark.parametrize(
    "state",
    [
        {"x": torch.zeros(1).expand(1 << 40)},
        {"x": torch.zeros(4, 4).to_sparse()},
        {"x": torch.zeros(4, device="meta")},
    ],
)
def test_tensors_without_their_numbers(tmp_path, state):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: x must be a tensor with a number of its own for every element"):
        checkpoints.load_state(tmp_path / "x.pth")


def test_names_that_are_none(tmp_path):
    torch.save({1: torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="must hold named tensors"):
        checkpoints.load_state(tmp_path / "x.pth")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="is not a file"):
        checkpoints.load_state(tmp_path / "x.safetensors")


@pytest.mark.parametrize("shape", [(0, 1 << 20, 1 << 20), (4, 6), (1, 4, 5), (1, 4, 6)])
def test_tables_of_positions(shape):
    """Of no elements, one that is declared takes 4 TiB to compare with."""
    key = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
    with pytest.raises(ValueError, match=f"{key} must be a table of sines and cosines"):
        checkpoints._rename_motion_state({key: torch.zeros(shape)}, "the file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must hold an object, but holds list"),
        ("[" * 100_000, "nested too deeply"),
        ('{"layers_per_block": 2147483648}', "at most 1000 layers, but asks for 2147483648"),
        ('{"vision": {"num_hidden_layers": 1e9, "layers": [[1001]]}}', "at most 1000 layers, but asks for"),
        (json.dumps({"transformer_layers_per_block": [1] * 1001}), "at most 1000 layers, but lists 1001"),
        ('{"down_block_types": ["X"], "up_block_types": 7}', "is none of a UNet2DConditionModel"),
        ('{"block_out_channels": [1]}', "is none of a UNet2DConditionModel"),
    ],
)
def test_configurations(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json .*{message}"):
        checkpoints.without_memory(UNet2DConditionModel, tmp_path)


def test_an_index_of_another_shape(tmp_path):
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"model_index\.json must hold an object"):
        recognise(tmp_path)
