"""What a model must say about itself so that it can read calibrated references."""

import numpy as np
import torch
from torch import nn

from tpc_fast import _checks
from tpc_fast.diffusion.encoder import BLOCKS, ReferenceEncoder, bare, self_attention_names
from tpc_fast.diffusion.reference import VaeEncoder


class ReferenceAdapter:
    """How one model takes a reference; a subclass per way, an object per pipeline.

    Attributes:
        kind: "kv": features that are appended to keys and values of self-attentions; "tokens": tokens of an image
            encoder that cross-attentions read, which have no position; "slots": further frames of a transformer.
        refresh: "step" if features change with the denoising step, "once" if they serve the whole run.
        parts: of how many equal parts a guided batch is; all but the first read the reference.
    """

    kind: str
    refresh = "step"
    parts = 2

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size (height, width) in pixels, if the model takes it.

        Raises:
            ValueError: if not; says what it takes.
        """
        raise NotImplementedError

    def prepare(self, images: np.ndarray, masks: np.ndarray) -> torch.Tensor:
        """What is kept of pictures for the whole run, made once: latents or tokens.

        Args:
            images: uint8 [n, H, W, 3], on the canvas.
            masks: uint8 [n, H, W], where the persons are in them.

        Returns:
            [n, C, h, w] or [n, L, d].
        """
        raise NotImplementedError

    def photo(self, image: np.ndarray, masks: np.ndarray) -> dict[str, torch.Tensor]:
        """What else the model wants of the photo on its canvas, uint8 [H, W, 3], masks uint8 [P, H, W]: by name."""
        return {}

    def sites(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Where it is read: name -> (the model that is called at every step, its attention)."""
        raise NotImplementedError

    def encode(self, features: torch.Tensor, timestep, text: torch.Tensor) -> dict[str, torch.Tensor]:
        """Prepared pictures [n, ...] as the sites read them: name -> [n, tokens, channels].

        Args:
            features: of `prepare`.
            timestep: of the denoising step.
            text: [1, tokens, channels], what the conditional rows get in cross-attention.
        """
        raise NotImplementedError

    def rows(self, count: int, guided: bool) -> slice:
        """Which of `count` rows of a batch read the reference."""
        return slice(count // self.parts if guided else 0, count)

    def check(self, reference) -> None:
        """Raises ValueError for a CalibratedReference whose features this model cannot read."""
        raise NotImplementedError


class KeyValueAdapter(ReferenceAdapter):
    """A second UNet encodes the reference; the denoiser appends its features to keys and values.

    MagicAnimate (at every step), the AnimateAnyone family (once), and any Stable Diffusion or AnimateDiff UNet.

    Args:
        pipe: a pipeline; with a VAE, unless its references are ready.
        unet: the UNet that reads.
        encoder: a ReferenceEncoder, or the UNet2DConditionModel to make one of.
        blocks: "midup" or "full": which self-attentions read.
        refresh: "step", or "once" if the reference is always encoded at timestep 0.

    Raises:
        ValueError: for an encoder of another architecture, or made for other blocks.
    """

    kind = "kv"

    def __init__(self, pipe, unet, encoder, blocks: str = "midup", refresh: str = "step"):
        if blocks not in BLOCKS:
            raise ValueError(f"blocks must be one of {', '.join(BLOCKS)}, but is {blocks!r}")
        if not isinstance(encoder, ReferenceEncoder):
            encoder = ReferenceEncoder(encoder, blocks)
        if encoder.blocks != blocks:
            raise ValueError(f"blocks must be {encoder.blocks!r}, as the encoder was made for, but is {blocks!r}")
        unet = bare(unet)
        self.pipe, self.unet, self.encoder, self.refresh = pipe, unet, encoder, refresh
        self.vae = VaeEncoder(getattr(pipe, "vae", None))  # a ready CalibratedReference needs none
        _check_architecture(unet, self_attention_names(unet, blocks), encoder)

    def canvas(self, size):
        """Sides must be multiples of what the VAE scales by."""
        return self.vae.canvas(size)

    def prepare(self, images, masks):
        """Latents [n, C, h, w]."""
        return self.vae.prepare(images, masks)

    def sites(self):
        """The self-attentions of the denoiser."""
        return {name: (self.unet, self.unet.get_submodule(name)) for name in self.encoder.names}

    def encode(self, features, timestep, text):
        """The bank: inputs of the encoder's self-attentions."""
        encoder = self.encoder
        if encoder.device != text.device:
            encoder.to(text.device)
        timestep = 0 if self.refresh == "once" else timestep
        return encoder(features.to(text.device, encoder.dtype), timestep, text.to(encoder.dtype))

    def check(self, reference):
        """Latents must have the encoder's channels."""
        if reference.latent.ndim != 4 or reference.latent.shape[1] != self.encoder.in_channels:
            raise ValueError(
                f"reference must have latents of {self.encoder.in_channels} channels, as the encoder takes them, "
                f"but has {_checks.describe(reference.latent)}"
            )


class TokenAdapter(ReferenceAdapter):
    """The reference is tokens of an image encoder, which cross-attentions read; subclasses make them.

    Args:
        readers: name -> model whose cross-attentions read.
    """

    kind, refresh = "tokens", "once"

    def __init__(self, readers: dict[str, nn.Module]):
        self.readers = {name: bare(reader) for name, reader in readers.items()}

    def sites(self):
        """All spatial cross-attentions."""
        return {
            f"{of}.{name}": (reader, module)
            for of, reader in self.readers.items()
            for name, module in reader.named_modules()
            if name.endswith(".attn2") and "motion_modules" not in name
        }

    def encode(self, features, timestep, text):
        """The tokens themselves, for every site."""
        features = features.to(text.device, text.dtype)
        return dict.fromkeys(self.sites(), features)

    def check(self, reference):
        """Tokens must have the width of the cross-attentions."""
        width = next(iter(self.readers.values())).config.cross_attention_dim
        if reference.latent.ndim != 3 or reference.latent.shape[2] != width:
            raise ValueError(
                f"reference must have tokens of {width} channels, as the model reads them, but has "
                f"{_checks.describe(reference.latent)}"
            )


def _check_architecture(unet, names, encoder):
    if encoder.names != names:
        different = sorted(set(names) ^ set(encoder.names))
        raise ValueError(
            f"encoder must have the self-attentions of the pipeline's UNet, but these are only in one of them: "
            f"{', '.join(different[:4])}{', ...' if len(different) > 4 else ''}"
        )
    for name, width in encoder.widths.items():
        if unet.get_submodule(name).to_k.in_features != width:
            raise ValueError(
                f"encoder must have the widths of the pipeline's UNet, but at {name} it has {width} channels and the "
                f"UNet {unet.get_submodule(name).to_k.in_features}"
            )
