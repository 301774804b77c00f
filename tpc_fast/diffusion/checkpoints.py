"""The published MagicAnimate checkpoints: which files belong where, and into diffusers' models with no key lost.

Everything is read as data: safetensors, or pickles with `weights_only`, which run no code.
"""

import contextlib
import dataclasses
import inspect
import json
import os
import re
import warnings
from pathlib import Path

from tpc_fast._checks import describe

HUB = {
    "model": "zcxu-eric/MagicAnimate",
    "base": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "vae": "stabilityai/sd-vae-ft-mse",
}
MOTION_FILE = "temporal_attention.ckpt"
MOTION_HEADS = 8  # of the published motion modules; the file does not say
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_TEXT_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Folder -> files; of several alternatives one must be there.
_FILES = {
    "model": {
        "appearance_encoder": [("config.json",), _WEIGHTS],
        "densepose_controlnet": [("config.json",), _WEIGHTS],
        "": [(f"temporal_attention/{MOTION_FILE}", MOTION_FILE)],
    },
    "base": {
        "unet": [("config.json",), _WEIGHTS],
        "text_encoder": [("config.json",), _TEXT_WEIGHTS],
        "tokenizer": [("vocab.json",), ("merges.txt",)],
    },
    "vae": {"": [("config.json",), _WEIGHTS]},
}
_LOCAL = {"base": "stable-diffusion-v1-5", "vae": "sd-vae-ft-mse"}  # beside the MagicAnimate folder
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Folders that hold the files of each part.

    Attributes:
        model: the MagicAnimate folder.
        base: Stable Diffusion 1.5.
        vae: the autoencoder.
    """

    model: Path
    base: Path
    vae: Path

    @property
    def motion(self) -> Path:
        """The file of the motion modules."""
        nested = self.model / "temporal_attention" / MOTION_FILE
        return nested if nested.is_file() else self.model / MOTION_FILE


def find_checkpoints(model, base=None, vae=None) -> Checkpoints:
    """Finds all files, or says which are missing and where each belongs. Hub ids are downloaded.

    Args:
        model: a folder that holds `MagicAnimate/`, `stable-diffusion-v1-5/` and `sd-vae-ft-mse/` as the original's
            README lays them out; or the MagicAnimate folder itself; or a hub id.
        base: folder or hub id of Stable Diffusion 1.5; by default beside the MagicAnimate folder, or from the hub if
            `model` is a hub id.
        vae: folder or hub id of the autoencoder, likewise.

    Raises:
        FileNotFoundError: lists every file that is missing.
    """
    given = {"model": model, "base": base, "vae": vae}
    for name, value in given.items():
        if not (isinstance(value, str | os.PathLike) or (value is None and name != "model")):
            raise TypeError(f"{name} must be a folder or a hub id, but is {describe(value)}")
    folder = Path(model)
    if folder.is_dir() or not (isinstance(model, str) and _HUB_ID.fullmatch(model)):
        inner = folder / "MagicAnimate"
        whole = inner.is_dir() or not folder.exists()
        beside, folder = (folder, inner) if whole else (folder.resolve().parent, folder)
        given = {"model": folder, **{part: given[part] or beside / _LOCAL[part] for part in ("base", "vae")}}
    else:
        given = {part: value or HUB[part] for part, value in given.items()}
    folders = {part: _folder(part, value) for part, value in given.items()}
    missing = [line for part, place in folders.items() for line in _missing(part, place)]
    if missing:
        hubs = ", ".join(HUB.values())
        raise FileNotFoundError(
            "model: these files are missing:\n  " + "\n  ".join(missing) + f"\nThey are published on the hub: {hubs}"
        )
    return Checkpoints(**folders)


def _folder(part: str, value) -> Path:
    path = Path(value)
    if path.exists() or not isinstance(value, str) or not _HUB_ID.fullmatch(value):
        return path
    from huggingface_hub import snapshot_download

    patterns = [f"{folder}/{name}".lstrip("/") for folder, files in _FILES[part].items() for alternatives in files
                for name in alternatives]  # fmt: skip
    if part == "base":
        patterns.append("tokenizer/*")
    try:
        return Path(snapshot_download(value, allow_patterns=patterns))
    except Exception as error:  # of the network, of the hub, of the disk: many kinds
        raise FileNotFoundError(
            f"{part}: {value} is not a folder here, and cannot be had from the hub ({_first_line(error)}). What "
            "belongs into the folder:\n  " + "\n  ".join(_missing(part, path))
        ) from error


def _missing(part: str, place: Path) -> list[str]:
    lines = []
    for folder, files in _FILES[part].items():
        for alternatives in files:
            paths = [place / folder / name for name in alternatives]
            if not any(path.is_file() for path in paths):
                first, *others = paths
                said = (path.name if path.parent == first.parent else str(path) for path in others)
                lines.append(" or ".join([str(first), *said]))
    return lines


def load_state(path: Path) -> dict:
    """The tensors of a checkpoint: safetensors, or a pickle (.ckpt, .pth, .bin) that is read without running code.

    Raises:
        ValueError: if it is damaged, or holds anything but named tensors.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as any of a dozen kinds
        raise ValueError(f"{path} cannot be read{_hint(path)}: {_first_line(error)}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} must hold named tensors, but holds {describe(state)}")
    return state


def _first_line(error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _hint(path: Path) -> str:
    """Says so if a file is only git-lfs's note of where its content is."""
    with open(path, "rb") as file:
        pointer = file.read(40).startswith(b"version https://git-lfs")
    return " (it is a pointer of git-lfs: run `git lfs pull`)" if pointer else ""


def load_pretrained(cls, folder: Path, dtype, may_miss: tuple[str, ...] = ()):
    """A model of diffusers or transformers from its folder, every key accounted for.

    Args:
        cls: the model's class.
        folder: with config.json and weights.
        dtype: of the weights in memory.
        may_miss: beginnings of the names of weights that the file need not hold; they become zeros.

    Raises:
        ValueError: if a file is damaged, or keys are missing or have no place; names them.
    """
    import torch

    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} is not JSON: {error}") from error
    files = [name for name in (*_WEIGHTS, *_TEXT_WEIGHTS) if (folder / name).is_file()]
    safe = files[0].endswith(".safetensors")
    try:
        with _quiet():
            model, info = cls.from_pretrained(
                str(folder), torch_dtype=dtype, output_loading_info=True, local_files_only=True, use_safetensors=safe
            )
    except Exception as error:  # damage shows as any of a dozen kinds
        raise ValueError(f"{folder} cannot be loaded{_hint(folder / files[0])}: {_first_line(error)}") from error
    missing, foreign = set(info["missing_keys"]), set(info["unexpected_keys"])
    left_out = {key for key in missing if key.startswith(may_miss)} if may_miss else set()
    _check_keys(folder, missing - left_out, foreign)
    for key in left_out:  # which have no memory yet
        parent, _, name = key.rpartition(".")
        shape = model.get_parameter(key).shape
        setattr(model.get_submodule(parent), name, torch.nn.Parameter(torch.zeros(shape, dtype=dtype)))
    return model.eval()


@contextlib.contextmanager
def _quiet():
    """Keeps diffusers and transformers from commenting on what is checked here."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    logs = diffusers_log, transformers_log
    before, bars = [log.get_verbosity() for log in logs], transformers_log.is_progress_bar_enabled()
    try:
        for log in logs:
            log.set_verbosity(log.CRITICAL)
        transformers_log.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, verbosity in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
        if bars:
            transformers_log.enable_progress_bar()


def _check_keys(source, missing, foreign) -> None:
    said = [f"{what}: {', '.join(sorted(keys)[:8])}{f' and {len(keys) - 8} more' if len(keys) > 8 else ''}"
            for what, keys in (("missing", missing), ("without a place", foreign)) if keys]  # fmt: skip
    if said:
        raise ValueError(f"{source} must hold exactly the weights of the model, but some are {'; '.join(said)}")


def unused_by_encoder(config) -> tuple[str, ...]:
    """Beginnings of the names of weights that MagicAnimate's appearance encoder does not have.

    The bank is complete once the last block's last self-attention has its input, so nothing after it was kept.

    Args:
        config: of the `UNet2DConditionModel`.
    """
    layers = config["layers_per_block"]
    layers = layers if isinstance(layers, int) else layers[0]
    last = f"up_blocks.{len(config['block_out_channels']) - 1}.attentions.{layers}"
    block = f"{last}.transformer_blocks.0"
    parts = ("attn1.to_", "attn2.", "ff.", "norm2.", "norm3.")
    return ("conv_norm_out.", "conv_out.", f"{last}.proj_out.", *(f"{block}.{part}" for part in parts))


_RENAMED = [
    (re.compile(r"attention_blocks\.\d+\.pos_encoder\.pe$"), "pos_embed.pe"),  # one table for both
    (re.compile(r"attention_blocks\.0\."), "attn1."),
    (re.compile(r"attention_blocks\.1\."), "attn2."),
    (re.compile(r"(?<=\.)norms\.0\."), "norm1."),
    (re.compile(r"(?<=\.)norms\.1\."), "norm2."),
    (re.compile(r"(?<=\.)ff_norm\."), "norm3."),
]


def rename_motion_key(key: str) -> str:
    """A key of the original's UNet as `UNetMotionModel` calls it; only those of motion modules differ."""
    key = key.removeprefix("module.").removeprefix("unet.")
    module, found, rest = key.partition(".temporal_transformer.")
    if not found or "motion_modules" not in module:
        return key
    for pattern, name in _RENAMED:
        rest = pattern.sub(name, rest)
    return f"{module}.{rest}"


def _rename_motion_state(state: dict, source) -> dict:
    """All keys of a state renamed; tables of positions, which are stored rounded, by what they are a rounding of."""
    import torch
    from diffusers.models.embeddings import SinusoidalPositionalEmbedding

    renamed = {}
    for key, tensor in state.items():
        name = rename_motion_key(key)
        if name.endswith("pos_embed.pe"):
            exact = SinusoidalPositionalEmbedding(tensor.shape[-1], tensor.shape[-2]).pe
            if exact.shape != tensor.shape or not torch.allclose(exact, tensor.float(), atol=5e-3):
                raise ValueError(f"{source}: {key} must be a table of sines and cosines, but is not")
            tensor = exact
        elif name in renamed:
            raise ValueError(f"{source}: {name} must be there once, but is there twice")
        renamed[name] = tensor
    return renamed


def motion_unet(unet, state: dict, heads: int = MOTION_HEADS, source="the checkpoint"):
    """MagicAnimate's UNet from Stable Diffusion's and the motion modules.

    Args:
        unet: the `UNet2DConditionModel` whose weights it starts with.
        state: of the original, with its own names: motion modules, and weights of the UNet that replace the base's.
        heads: of the motion modules.
        source: what errors call it.

    Returns:
        A `MagicAnimateUNet`.

    Raises:
        ValueError: if keys have no place, are missing, or have another shape; names them.
    """
    import torch

    from tpc_fast.diffusion.norms import MagicAnimateUNet

    state = _rename_motion_state(state, source)
    tables = [tensor for key, tensor in state.items() if key.endswith("pos_embed.pe")]
    if not tables:
        raise ValueError(f"{source} must hold motion modules, but has none among its {len(state)} keys")
    config = {
        **unet.config,
        "down_block_types": [name.replace("Block2D", "BlockMotion") for name in unet.config["down_block_types"]],
        "up_block_types": [name.replace("Block2D", "BlockMotion") for name in unet.config["up_block_types"]],
        "num_attention_heads": unet.config["num_attention_heads"] or unet.config["attention_head_dim"],
        "motion_num_attention_heads": heads,
        "motion_max_seq_length": tables[0].shape[1],
        "use_motion_mid_block": any(key.startswith("mid_block.motion_modules") for key in state),
    }
    names = inspect.signature(MagicAnimateUNet.__init__).parameters
    with torch.device("meta"):
        model = MagicAnimateUNet.from_config({key: value for key, value in config.items() if key in names})
    expected = model.state_dict()
    complete = {**unet.state_dict(), **state}
    _check_keys(source, expected.keys() - complete.keys(), complete.keys() - expected.keys())
    wrong = {key: tensor.shape for key, tensor in complete.items() if tensor.shape != expected[key].shape}
    if wrong:
        key = min(wrong)
        raise ValueError(f"{source}: {key} must be {list(expected[key].shape)}, but is {list(wrong[key])}")
    model.load_state_dict({key: tensor.to(unet.dtype) for key, tensor in complete.items()}, assign=True)
    return model.eval()
