"""The published checkpoints: which files belong where, and into the models of diffusers with no key lost.

Everything is read as data: safetensors, or pickles with `weights_only`, which run no code.
"""

import contextlib
import dataclasses
import fnmatch
import inspect
import os
import re
import warnings
from pathlib import Path

from tpc_fast._checks import describe
from tpc_fast.media.reading import read_json, reading, regular_file

MOTION_FILE = "temporal_attention.ckpt"
MAX_LAYERS = 1000  # of a configuration; the published models have at most 40 in a row (Wan 2.1, 14B)
MOTION_HEADS = 8  # of the published motion modules; the files do not say
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_CLIP_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
MODEL, CLIP = [("config.json",), _WEIGHTS], [("config.json",), _CLIP_WEIGHTS]  # files of a model of diffusers, of CLIP
SAVED = [("config.json",), (_WEIGHTS[0], _CLIP_WEIGHTS[0])]  # of either, as it is saved here
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True)
class Part:
    """A folder of a model.

    Attributes:
        hub: where it is published: a hub id, or the address of a page with links.
        local: its name beside the others.
        files: folder in it -> files; of several alternatives one must be there, and names may have wildcards.
        chosen: which argument of `find_checkpoints` may name another place, besides "model": "base", "vae" or None.
    """

    hub: str
    local: str
    files: dict[str, list[tuple[str, ...]]]
    chosen: str | None = None


def find_checkpoints(kind: str, layout: dict[str, Part], model, base=None, vae=None) -> dict[str, Path]:
    """Finds all files, or says which are missing and where each belongs. Hub ids are downloaded.

    Args:
        kind: of the model, for messages.
        layout: its parts by name; "model" is what makes it this model.
        model: a folder that holds all parts, as the original's README lays them out; or the model's own folder, with
            the other parts beside it; or a hub id.
        base: folder or hub id of what the model started from (Stable Diffusion), if it is elsewhere.
        vae: folder or hub id of the autoencoder, likewise.

    Returns:
        Part of the layout -> its folder.

    Raises:
        FileNotFoundError: lists every file that is missing.
    """
    given = {"model": model, "base": base, "vae": vae}
    for name, value in given.items():
        if not (isinstance(value, str | os.PathLike) or (value is None and name != "model")):
            raise TypeError(f"{name} must be a folder or a hub id, but is {describe(value)}")
    folder, own = Path(model), layout["model"].local
    if folder.is_dir() or not (isinstance(model, str) and _HUB_ID.fullmatch(model)):
        inner = folder / own
        whole = inner.is_dir() or not folder.exists()
        root, model = (folder, inner) if whole else (folder.resolve().parent, folder)
        places = {name: given.get(part.chosen) or root / part.local for name, part in layout.items()}
    else:
        places = {name: given.get(part.chosen) or part.hub for name, part in layout.items()}
    places["model"] = model
    places = {name: places[name] for name in layout}
    found = {name: _folder(name, layout[name], place) for name, place in places.items()}
    missing = [line for name, place in found.items() for line in missing_files(layout[name], place)]
    if missing:
        hubs = dict.fromkeys(part.hub for part in layout.values())
        sites = "".join(f"; links to them are at {hub}" for hub in hubs if hub.startswith("https:"))
        hubs = ", ".join(hub for hub in hubs if not hub.startswith("https:"))
        raise FileNotFoundError(
            f"model ({kind}): these files are missing:\n  " + "\n  ".join(missing)
            + f"\nThey are published on the hub: {hubs}{sites}"
        )  # fmt: skip
    return found


def motion_file(folder: Path) -> Path:
    """The file of MagicAnimate's motion modules in its folder."""
    nested = folder / "temporal_attention" / MOTION_FILE
    return nested if nested.is_file() else folder / MOTION_FILE


def _folder(name: str, part: Part, value) -> Path:
    path = Path(value)
    if path.exists() or not isinstance(value, str) or not _HUB_ID.fullmatch(value):
        return path
    from huggingface_hub import snapshot_download

    patterns = _wanted(part, _listing(value))
    try:
        place = Path(snapshot_download(value, allow_patterns=patterns))
    except Exception as error:  # of the network, of the hub, of the disk: many kinds
        raise FileNotFoundError(
            f"{name}: {value} is not a folder here, and cannot be had from the hub ({_first_line(error)}). What "
            "belongs into the folder:\n  " + "\n  ".join(missing_files(part, path))
        ) from error
    return place / part.local if (place / part.local).is_dir() else place


def _listing(hub: str) -> list[str] | None:
    """The files that are published under a hub id; None if the hub does not say (its copies here may serve)."""
    from huggingface_hub import list_repo_files

    try:
        return list_repo_files(hub)
    except Exception:  # of the network, of the hub: many kinds; the download says what is wrong
        return None


def _wanted(part: Part, listing: list[str] | None) -> list[str]:
    """Which files to download: of alternatives the first that is published, weights once and not in two formats."""
    patterns = []
    for folder, files in part.files.items():
        for alternatives in files:
            names = [f"{folder}/{name}".lstrip("/") for name in alternatives]
            names += [f"{part.local}/{name}" for name in names]
            published = [name for name in names if listing is not None and fnmatch.filter(listing, name)]
            patterns += published[:1] or names
        sharded = any("*" in name for alternatives in files for name in alternatives)
        patterns += [f"{folder}/*.index.json"] * sharded  # which weight is in which of several files
    return [*patterns, *(f"{whole}/*" for whole in ("tokenizer", "image_processor") if whole in part.files)]


def missing_files(part: Part, place: Path) -> list[str]:
    """A line per file of a part that is not in its folder, alternatives in one."""
    lines = []
    for folder, files in part.files.items():
        for alternatives in files:
            names = [f"{folder}/{name}".lstrip("/") for name in alternatives]
            if not any(path.is_file() for name in names for path in place.glob(name)):
                first, *others = (place / name for name in names)
                said = (path.name if path.parent == first.parent else str(path) for path in others)
                lines.append(" or ".join([str(first), *said]))
    return lines


def read_config(path: Path) -> dict:
    """A configuration, an object of JSON.

    Raises:
        ValueError: if it is something else.
    """
    with reading(f"{path} is not JSON that can be read"):
        config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold an object, but holds {describe(config)}")
    _check_counts(config, path)
    return config


def _check_counts(value, path: Path, layers: bool = False) -> None:
    """Raises ValueError where a configuration asks for so many layers that making them would not end.

    Args:
        value: of the configuration, at any depth.
        layers: whether its key says that it counts layers.
    """
    if isinstance(value, dict):
        for key, one in value.items():
            _check_counts(one, path, "layers" in key)
    elif isinstance(value, list):
        if len(value) > MAX_LAYERS and layers:
            raise ValueError(f"{path} must ask for at most {MAX_LAYERS} layers, but lists {len(value)}")
        for one in value:
            _check_counts(one, path, layers)
    elif layers and isinstance(value, int) and value > MAX_LAYERS:
        raise ValueError(f"{path} must ask for at most {MAX_LAYERS} layers, but asks for {value}")


def load_state(path: Path) -> dict:
    """The tensors of a checkpoint: safetensors, or a pickle (.ckpt, .pth, .bin) that is read without running code.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds anything but named tensors, each with its own numbers.
    """
    import torch
    from safetensors.torch import load_file

    regular_file(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as any of a dozen kinds
        raise ValueError(f"{path} cannot be read{_hint(path)}: {_first_line(error)}") from error
    for wrapper in ("state_dict", "module"):
        state = state.get(wrapper, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise ValueError(f"{path} must hold named tensors, but holds {describe(state)}")
    for name, tensor in state.items():
        if not _is_whole(tensor):  # a few bytes can claim to be a tensor of any size
            raise ValueError(f"{path}: {name} must be a tensor with a number of its own for every element")
    return state


def _is_whole(tensor) -> bool:
    """Whether a tensor is dense, and has the memory that its shape asks for."""
    import torch

    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _first_line(error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _hint(path: Path) -> str:
    """Says so if a file is only git-lfs's note of where its content is."""
    with open(path, "rb") as file:
        pointer = file.read(40).startswith(b"version https://git-lfs")
    return " (it is a pointer of git-lfs: run `git lfs pull`)" if pointer else ""


def load_pretrained(cls, folder: Path, dtype, may_miss: tuple[str, ...] = (), beside: tuple[str, ...] = ()):
    """A model of diffusers or transformers from its folder, every key accounted for.

    Args:
        cls: the model's class.
        folder: with config.json and weights.
        dtype: of the weights in memory.
        may_miss: beginnings of the names of weights that the file need not hold; they become zeros.
        beside: beginnings of the names of weights of other models in the same file, which are left there.

    Raises:
        ValueError: if a file is damaged, or keys are missing or have no place; names them.
    """
    import torch

    read_config(folder / "config.json")
    files = [name for name in (*_WEIGHTS, *_CLIP_WEIGHTS) if (folder / name).is_file()]
    safe = files[0].endswith(".safetensors")
    try:
        with quiet():
            model, info = cls.from_pretrained(
                str(folder), torch_dtype=dtype, output_loading_info=True, local_files_only=True, use_safetensors=safe
            )
    except Exception as error:  # damage shows as any of a dozen kinds
        raise ValueError(f"{folder} cannot be loaded{_hint(folder / files[0])}: {_first_line(error)}") from error
    missing = set(info["missing_keys"])
    foreign = {key for key in info["unexpected_keys"] if not (beside and key.startswith(beside))}
    left_out = {key for key in missing if key.startswith(may_miss)} if may_miss else set()
    _check_keys(folder, missing - left_out, foreign)
    for key in left_out:  # which have no memory yet
        parent, _, name = key.rpartition(".")
        shape = model.get_parameter(key).shape
        setattr(model.get_submodule(parent), name, torch.nn.Parameter(torch.zeros(shape, dtype=dtype)))
    return model.eval()


@contextlib.contextmanager
def quiet():
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

    renamed = {}
    for key, tensor in state.items():
        name = rename_motion_key(key)
        if name.endswith("pos_embed.pe"):
            fits = tensor.ndim == 3 and len(tensor) == 1 and tensor.numel() > 0 and tensor.shape[2] % 2 == 0
            exact = _positions(*tensor.shape[1:]) if fits else None
            if exact is None or not torch.allclose(exact, tensor.float(), atol=5e-3):
                raise ValueError(f"{source}: {key} must be a table of sines and cosines, but is not")
            tensor = exact
        elif name in renamed:
            raise ValueError(f"{source}: {name} must be there once, but is there twice")
        renamed[name] = tensor
    return renamed


def under(state: dict, prefix: str) -> dict:
    """The weights of a part, by their names in it."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def new_attention_names(state: dict) -> dict:
    """Weights of an autoencoder, whose attention was named otherwise until diffusers 0.18."""
    renamed = {}
    for key, tensor in state.items():
        for old, new in _OLD_ATTENTION.items():
            key = key.replace(old, new) if ".attentions." in key else key
        renamed[key] = tensor
    return renamed


def _positions(count: int, channels: int):
    """The motion modules' table of positions, [1, count, channels]."""
    from diffusers.models.embeddings import SinusoidalPositionalEmbedding

    return SinusoidalPositionalEmbedding(channels, count).pe


def fill(model, state: dict, dtype, source, may_miss: tuple[str, ...] = ()):
    """Gives a model, made without memory (device "meta"), the weights of a state: every key must find its place.

    Args:
        model: of torch.
        state: its weights by their names.
        dtype: of the weights in memory.
        source: what errors call it.
        may_miss: beginnings of the names of weights that the state need not hold; they become zeros.

    Raises:
        ValueError: if keys have no place, are missing, or have another shape; names them.
    """
    import torch

    expected = model.state_dict()
    left_out = {key for key in expected.keys() - state.keys() if may_miss and key.startswith(may_miss)}
    _check_keys(source, expected.keys() - state.keys() - left_out, state.keys() - expected.keys())
    wrong = {key: tensor.shape for key, tensor in state.items() if tensor.shape != expected[key].shape}
    if wrong:
        key = min(wrong)
        raise ValueError(f"{source}: {key} must be {list(expected[key].shape)}, but is {list(wrong[key])}")
    complete = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    complete |= {key: torch.zeros(expected[key].shape, dtype=dtype) for key in left_out}
    model.load_state_dict(complete, assign=True)
    return model.eval()


def without_memory(cls, config, **changes):
    """A model of diffusers on the device "meta", to be filled.

    Args:
        cls: its class.
        config: its configuration, or the folder of it.
        changes: other values.

    Raises:
        ValueError: if the configuration is none.
    """
    import torch

    source = f"{config / 'config.json'}" if isinstance(config, Path) else "the configuration"
    if isinstance(config, Path):
        config = read_config(config / "config.json")
    names = inspect.signature(cls.__init__).parameters
    chosen = {key: value for key, value in {**config, **changes}.items() if key in names}
    with torch.device("meta"), quiet(), reading(f"{source} is none of a {cls.__name__}"):
        return cls.from_config(chosen)


def motion_unet(unet, state: dict, heads: int = MOTION_HEADS, source="the checkpoint", *, cls=None, frames=None):
    """A motion UNet with the originals' norms, from Stable Diffusion's UNet and the motion modules.

    Args:
        unet: the `UNet2DConditionModel` whose weights it starts with; on the device "meta" for its configuration alone.
        state: of the original, with its own names: motion modules, and weights of the UNet that replace the base's.
        heads: of the motion modules.
        source: what errors call it.
        cls: of `tpc_fast.diffusion.models.norms`; None for `MagicAnimateUNet`.
        frames: how many positions there are; None for those of the state's tables.

    Returns:
        A model of that class.

    Raises:
        ValueError: if keys have no place, are missing, or have another shape; names them.
    """
    from tpc_fast.diffusion.models.norms import MagicAnimateUNet

    cls = cls or MagicAnimateUNet
    state = _rename_motion_state(state, source)
    if not any("motion_modules" in key for key in state):
        raise ValueError(f"{source} must hold motion modules, but has none among its {len(state)} keys")
    tables = {key: tensor for key, tensor in state.items() if key.endswith("pos_embed.pe")}
    if not tables and frames is None:
        raise ValueError(f"{source} must hold tables of positions, but has none among its {len(state)} keys")
    frames = frames or next(iter(tables.values())).shape[1]
    config = {
        **unet.config,
        "down_block_types": [name.replace("Block2D", "BlockMotion") for name in unet.config["down_block_types"]],
        "up_block_types": [name.replace("Block2D", "BlockMotion") for name in unet.config["up_block_types"]],
        "num_attention_heads": unet.config["num_attention_heads"] or unet.config["attention_head_dim"],
        "motion_num_attention_heads": heads,
        "motion_max_seq_length": frames,
        "use_motion_mid_block": any(key.startswith("mid_block.motion_modules") for key in state),
    }
    model = without_memory(cls, config)
    base = {key: tensor for key, tensor in unet.state_dict().items() if not tensor.is_meta}
    for key, tensor in model.state_dict().items():
        if key.endswith("pos_embed.pe") and (key not in tables or tables[key].shape != tensor.shape):
            base[key] = _positions(*tensor.shape[1:])
            state.pop(key, None)
    return fill(model, {**base, **state}, unet.dtype, source)
