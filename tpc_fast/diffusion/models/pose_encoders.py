"""What the AnimateAnyone family follows: pictures, encoded and added to the first features of the denoiser."""

import torch
from diffusers import ModelMixin
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn
from torch.nn import functional as F


class AttentiveEmbedding(ControlNetConditioningEmbedding):
    """Champ's guidance encoder: a ControlNet's condition embedding with one self-attention before its last layer."""

    def __init__(self, conditioning_embedding_channels: int, block_out_channels=(16, 32, 96, 256), heads: int = 8):
        super().__init__(conditioning_embedding_channels, block_out_channels=block_out_channels)
        channels = block_out_channels[-1]
        self.attention = Transformer2DModel(heads, channels // heads, channels, norm_num_groups=32)

    def forward(self, conditioning: torch.Tensor) -> torch.Tensor:
        """[n, 3, H, W] in [0, 1] -> [n, C, H / 8, W / 8]."""
        features = F.silu(self.conv_in(conditioning))
        for block in self.blocks:
            features = F.silu(block(features))
        return self.conv_out(self.attention(features, return_dict=False)[0])


class Guides(ModelMixin):
    """Encoders of several videos, whose features are summed.

    Args:
        encoders: name of the video -> its encoder.
    """

    def __init__(self, encoders: dict[str, nn.Module]):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)

    def forward(self, pictures: dict[str, torch.Tensor]) -> torch.Tensor:
        """[n, 3, H, W] in [0, 1] of every video -> [n, C, h, w]."""
        return sum(encoder(pictures[name]) for name, encoder in self.encoders.items())
