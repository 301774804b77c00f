"""A pipeline of this library as a whole in a folder: a folder for each part, and model_index.json, which names them."""

import importlib
import json
import os
from pathlib import Path

import torch

from tpc_fast._version import __version__
from tpc_fast.diffusion import checkpoints
from tpc_fast.diffusion.encoder import bare
from tpc_fast.media.files import OutputFolder
from tpc_fast.media.reading import reading

INDEX = "model_index.json"
_SHARD = "1000GB"  # weights are one file, which is what is looked for
_SCHEDULERS, _TOKENIZERS = "scheduler", "tokenizer"  # parts of which nothing but the configuration is kept


# Parts that are models, and where; what is not listed is not made, whatever an index names. By their names, as in the
# registry: those modules import this one.
_MODULES = {
    **dict.fromkeys(("AutoencoderKL", "AutoencoderTiny", "ControlNetModel", "UNet2DConditionModel"), "diffusers"),
    **dict.fromkeys(("CLIPTextModel", "CLIPVisionModel", "CLIPVisionModelWithProjection"), "transformers"),
    **dict.fromkeys(("PerFrameUNet", "MagicAnimateUNet"), "tpc_fast.diffusion.models.norms"),
    "Guides": "tpc_fast.diffusion.models.pose_encoders",
    "EmbeddingAdapter": "tpc_fast.diffusion.models.dreampose",
    **dict.fromkeys(("TokenProjection", "LatentControlNet"), "tpc_fast.diffusion.models.disco"),
}


def save(pipe, folder: str | os.PathLike) -> None:
    """Writes all parts of a pipeline; the folder appears whole or not at all.

    Raises:
        FileExistsError: if there is something at the place.
        TypeError: for a part of a class that could not be loaded again.
    """
    index = {"_class_name": type(pipe).__name__, "_tpc_fast_version": __version__}
    parts = {name: bare(part) for name, part in pipe.components.items()}
    for name, part in parts.items():
        classes = [type(one).__name__ for one in _single(part)]
        unknown = [] if name in (_SCHEDULERS, _TOKENIZERS) else [one for one in classes if one not in _MODULES]
        if unknown:
            raise TypeError(f"{name} must be one of {', '.join(_MODULES)} to be saved, but is a {unknown[0]}")
        index[name] = classes
    with OutputFolder(folder) as place, checkpoints.quiet():
        for name, part in parts.items():
            for number, one in enumerate(_single(part)):
                options = {} if name in (_SCHEDULERS, _TOKENIZERS) else {"max_shard_size": _SHARD}
                one.save_pretrained(_place(place, name, number), **options)
        (place / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def is_saved(folder) -> bool:
    """Whether `save` wrote it."""
    path = Path(folder) / INDEX
    return path.is_file() and "_tpc_fast_version" in checkpoints.read_config(path)


def load(cls, folder: Path, dtype: torch.dtype) -> dict:
    """The arguments of a pipeline's class from what `save` wrote: every key finds its place.

    Raises:
        FileNotFoundError: if a part is missing.
        ValueError: for the folder of another class, and parts that are damaged or of a class that is not known.
    """
    index = checkpoints.read_config(folder / INDEX)
    if index["_class_name"] != cls.__name__:
        raise ValueError(f"model must be a saved {cls.__name__}, but {folder} holds a {index['_class_name']}")
    parts = {}
    for name in (name for name in cls.part_names() if name != "scheduler"):
        classes = index.get(name)
        if not isinstance(classes, list) or not classes or not all(isinstance(one, str) for one in classes):
            raise ValueError(f"{folder / INDEX} must name the classes of {name}, but has {classes!r}")
        made = [_made(one, _place(folder, name, i), dtype) for i, one in enumerate(classes)]
        parts[name] = made[0] if name != "controlnet" or len(made) == 1 else _several(made)
    return {**parts, "scheduler": _scheduler(index.get("scheduler"), folder / "scheduler")}


def _made(name: str, folder: Path, dtype):
    if name == "CLIPTokenizer":
        from transformers import CLIPTokenizer

        with reading(f"{folder} is no tokenizer that can be read"):
            return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    if name not in _MODULES:
        raise ValueError(f"{folder} must be one of {', '.join(_MODULES)}, but is to be a {name}")
    missing = checkpoints.missing_files(checkpoints.Part("", "", {"": checkpoints.SAVED}), folder)
    if missing:
        raise FileNotFoundError(f"model: these files are missing: {', '.join(missing)}")
    cls = getattr(importlib.import_module(_MODULES[name]), name)
    return checkpoints.load_pretrained(cls, folder, dtype)


def _scheduler(classes, folder: Path):
    import diffusers

    name = classes[0] if isinstance(classes, list) and classes else classes
    cls = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, diffusers.SchedulerMixin)):
        raise ValueError(f"{folder} must be a scheduler of diffusers, but is to be a {name!r}")
    checkpoints.read_config(folder / "scheduler_config.json")
    with reading(f"{folder} is no {name} that can be read"):
        return cls.from_pretrained(str(folder), local_files_only=True)


def _place(folder: Path, name: str, number: int) -> Path:
    return folder / (f"{name}_{number}" if number else name)


def _single(part) -> list:
    """What is saved by itself: the ControlNets of several."""
    return list(part.nets) if hasattr(part, "nets") else [part]


def _several(nets):
    from diffusers import MultiControlNetModel

    return MultiControlNetModel(nets).eval()
