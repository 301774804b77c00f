"""The reference encoder: a UNet2DConditionModel that ends where its last bank entry is written."""

import copy
import threading

import torch
from torch import nn

BLOCKS = ("midup", "full")
_WRAPPERS = ("_hf_hook", "_old_forward", "_diffusers_hook", "forward")  # a module's own, where libraries wrap it


def bare(module):
    """A module out of the wrapper of torch.compile, whose names are others; anything else is itself."""
    return getattr(module, "_orig_mod", module)


def self_attention_names(unet: nn.Module, blocks: str = "midup") -> list[str]:
    """Names of the spatial self-attentions of a UNet, in the order in which they run.

    Args:
        unet: UNet2DConditionModel or UNetMotionModel; the temporal attention of motion modules is left out.
        blocks: "midup" for the mid and up blocks (the released model), "full" for the down blocks too.

    Raises:
        ValueError: for an unknown `blocks`, and for a UNet that has no such attention.
    """
    if blocks not in BLOCKS:
        raise ValueError(f"blocks must be one of {', '.join(BLOCKS)}, but is {blocks!r}")
    order = ("mid_block.", "up_blocks.") if blocks == "midup" else ("down_blocks.", "mid_block.", "up_blocks.")
    names = [
        name
        for name, _ in unet.named_modules()
        if name.endswith(".attn1") and ".attentions." in name and "motion_modules" not in name
    ]
    names = [name for start in order for name in names if name.startswith(start)]
    if not names:
        raise ValueError(f"the UNet must have self-attention in its {blocks} blocks, but this one has none")
    return names


class _Recorder(nn.Module):
    """Stands before a self-attention: keeps its input, of each thread for itself."""

    def __init__(self, attention: nn.Module | None):
        super().__init__()
        self.attention, self.kept = attention, {}

    def forward(self, hidden_states, *args, **kwargs):
        self.kept[threading.get_ident()] = hidden_states
        return self.attention(hidden_states, *args, **kwargs)


class _LastBlock(nn.Module):
    """The last transformer block up to the input of its self-attention; what it returns is not used."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.norm1, self.kept = block.norm1, {}

    def forward(self, hidden_states, *args, **kwargs):
        self.kept[threading.get_ident()] = self.norm1(hidden_states)
        return hidden_states


def _same_weights(unet: nn.Module) -> nn.Module:
    """A new structure over the same tensors, free of the hooks by which accelerate and diffusers offload the old one.

    What sequential offload holds back (its parameters have no data) is taken from where it keeps it.
    """
    kept = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
    for module in unet.modules():
        hook = getattr(module, "_hf_hook", None)
        for offloaded in (getattr(each, "weights_map", None) for each in getattr(hook, "hooks", [hook])):
            for name, tensor in module.named_parameters(recurse=False) if offloaded is not None else ():
                if tensor.is_meta:
                    kept[id(tensor)] = nn.Parameter(offloaded[name], requires_grad=False)
        kept |= {id(vars(module)[name]): "" for name in _WRAPPERS if name in vars(module)}
    new = copy.deepcopy(unet, kept)
    for module in new.modules():
        for name in _WRAPPERS:
            vars(module).pop(name, None)
    return new


class ReferenceEncoder(nn.Module):
    """Encodes reference latents into the bank: the inputs of all self-attentions that the denoiser reads.

    Made from an appearance encoder of the denoiser's architecture (MagicAnimate's, or a plain Stable Diffusion UNet).
    What comes after the last of these inputs is cut off: it neither runs nor takes memory. Offloading is not taken
    over: the encoder moves to the device of the latents as a whole.

    Args:
        unet: UNet2DConditionModel. It is left as it is; the encoder shares its weights.
        blocks: "midup" or "full": which self-attentions.

    Attributes:
        names: of the self-attentions, in the order in which they run.
        in_channels: C of the latents.
        widths: name -> channels of the bank's entry.

    Raises:
        TypeError: if unet is not a UNet2DConditionModel.
        ValueError: for an unknown `blocks`, a UNet without self-attention there, and one that wants more than
            text (SDXL).
    """

    def __init__(self, unet: nn.Module, blocks: str = "midup"):
        from diffusers import UNet2DConditionModel

        super().__init__()
        unet = bare(unet)
        if not isinstance(unet, UNet2DConditionModel):
            raise TypeError(f"unet must be a UNet2DConditionModel, but is a {type(unet).__name__}")
        more = getattr(unet.config, "addition_embed_type", None)
        if more is not None:
            raise ValueError(
                f"unet must need nothing but latents, timestep and text, but has {more!r} embeddings besides, "
                "as Stable Diffusion XL: what they are for a reference is not known"
            )
        self.blocks = blocks
        self.names = self_attention_names(unet, blocks)
        self.in_channels = unet.config.in_channels
        self.widths = {name: unet.get_submodule(name).to_k.in_features for name in self.names}
        self.unet = _same_weights(unet)
        self._recorders = []
        for name in self.names[:-1]:
            parent, _, child = name.rpartition(".")
            block = self.unet.get_submodule(parent)
            setattr(block, child, _Recorder(getattr(block, child)))
            self._recorders.append(block.get_submodule(child))
        self._truncate(self.names[-1])

    def _truncate(self, name):
        blocks, _, index = name.removesuffix(".attn1").rpartition(".")
        transformer = self.unet.get_submodule(blocks.rpartition(".")[0])
        stack = self.unet.get_submodule(blocks)
        stack[int(index)] = _LastBlock(stack[int(index)])
        self._recorders.append(stack[int(index)])
        transformer.proj_out = nn.Identity()
        part, _, rest = name.partition(".")
        last = int(rest.partition(".")[0]) if part == "up_blocks" else -1
        self.unet.up_blocks = self.unet.up_blocks[: last + 1]
        if part == "up_blocks":
            self.unet.up_blocks[last].upsamplers = None
        self.unet.conv_norm_out = None
        self.unet.conv_out = nn.Identity()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.unet.dtype

    def forward(self, latents: torch.Tensor, timestep, text: torch.Tensor) -> dict[str, torch.Tensor]:
        """The bank.

        Args:
            latents: [n, C, h, w], clean (no noise is added).
            timestep: of the denoiser's step, a number or a tensor of one.
            text: [1 or n, tokens, channels], the conditional text embedding.

        Returns:
            Name of the self-attention -> its input [n, N, channels].
        """
        thread = threading.get_ident()
        try:
            self.unet(latents, timestep, encoder_hidden_states=text.expand(len(latents), -1, -1), return_dict=False)
            return {name: recorder.kept[thread] for name, recorder in zip(self.names, self._recorders, strict=True)}
        finally:
            for recorder in self._recorders:
                recorder.kept.pop(thread, None)
