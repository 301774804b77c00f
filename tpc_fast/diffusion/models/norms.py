"""diffusers' motion UNet, with group norms whose statistics go over frames as in the originals.

MagicAnimate and the first AnimateAnyone, like all code that came from the first AnimateDiff, normalise resnets and the
output over all frames of a window together, and motion modules over each frame alone. `UNetMotionModel` does both the
other way round. The AnimateAnyone family has each frame alone everywhere.
"""

import functools

import torch
from diffusers import UNetMotionModel
from torch import nn


class JointGroupNorm(nn.GroupNorm):
    """A group norm of frames [B * F, C, h, w] whose statistics are those of a whole video.

    Attributes:
        video: anything with an attribute `frames`, F of the batch that is coming.
    """

    def __init__(self, norm: nn.GroupNorm, video):
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, norm.affine, "meta", norm.weight.dtype)
        self.weight, self.bias, self.video = norm.weight, norm.bias, video

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        videos = x.unflatten(0, (-1, self.video.frames)).transpose(1, 2)
        return super().forward(videos).transpose(1, 2).flatten(0, 1)


class PerFrameGroupNorm(nn.GroupNorm):
    """A group norm of videos [B, C, F, h, w] whose statistics are those of each frame."""

    def __init__(self, norm: nn.GroupNorm):
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, norm.affine, "meta", norm.weight.dtype)
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = x.transpose(1, 2)
        return super().forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


class _Video:
    """What all joint norms of a UNet share. Not a module: it must not appear among the weights."""

    frames = 1


class PerFrameUNet(UNetMotionModel):
    """`UNetMotionModel` with the norms of the AnimateAnyone family; its configuration and weights are the same."""

    @functools.wraps(UNetMotionModel.__init__)  # diffusers reads the configuration's names from the signature
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name, norm in list(self.named_modules()):
            if type(norm) is nn.GroupNorm and "motion_modules" in name:
                self._replace(name, PerFrameGroupNorm(norm))

    def _replace(self, name, norm):
        parent, _, last = name.rpartition(".")
        setattr(self.get_submodule(parent), last, norm)


class MagicAnimateUNet(PerFrameUNet):
    """`UNetMotionModel` with the norms of MagicAnimate; its configuration and weights are the same."""

    @functools.wraps(UNetMotionModel.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._video = _Video()
        for name, norm in list(self.named_modules()):
            if type(norm) is nn.GroupNorm and ".attentions." not in name:
                self._replace(name, JointGroupNorm(norm, self._video))

    def forward(self, sample, *args, **kwargs):
        """As `UNetMotionModel.forward`; sample [B, C, F, h, w]."""
        self._video.frames = sample.shape[2]
        return super().forward(sample, *args, **kwargs)
