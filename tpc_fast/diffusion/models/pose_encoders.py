"""What the AnimateAnyone family follows: pictures, encoded and added to the first features of the denoiser."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
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


class Guides(ModelMixin, ConfigMixin):
    """Encoders of several videos, whose features are summed; `of` makes it of encoders that there are.

    Args:
        videos: their names.
        channels: of the features.
        widths: for every video, the channels of its encoder's layers.
        attentive: whether encoders attend to themselves, as Champ's do.
    """

    @register_to_config
    def __init__(self, videos: list[str], channels: int, widths: list[list[int]], attentive: bool = False):
        super().__init__()
        cls = AttentiveEmbedding if attentive else ControlNetConditioningEmbedding
        made = [cls(channels, block_out_channels=tuple(of_one)) for of_one in widths]
        self.encoders = nn.ModuleDict(dict(zip(videos, made, strict=True)))

    @classmethod
    def of(cls, encoders: dict[str, nn.Module]) -> "Guides":
        """From name of the video -> its encoder."""
        widths = [[layer.out_channels for layer in (one.conv_in, *one.blocks[1::2])] for one in encoders.values()]
        first = next(iter(encoders.values()))
        with torch.device("meta"):
            made = cls(list(encoders), first.conv_out.out_channels, widths, isinstance(first, AttentiveEmbedding))
        made.encoders = nn.ModuleDict(encoders)
        return made

    def forward(self, pictures: dict[str, torch.Tensor]) -> torch.Tensor:
        """[n, 3, H, W] in [0, 1] of every video -> [n, C, h, w]."""
        return sum(encoder(pictures[name]) for name, encoder in self.encoders.items())
