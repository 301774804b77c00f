"""Which models there are, and which of them a folder or a hub id is."""

import importlib
import json
from pathlib import Path

from tpc_fast.diffusion.checkpoints import LAYOUTS

TINY_RANDOM = "tiny-random"
# Kind -> module and class.
PIPELINES = {
    "magic-animate": ("magic_animate", "MagicAnimatePipeline"),
    "animate-anyone": ("animate_anyone", "AnimateAnyonePipeline"),
    "champ": ("animate_anyone", "ChampPipeline"),
    "musepose": ("animate_anyone", "MusePosePipeline"),
    "dreampose": ("dreampose", "DreamPosePipeline"),
    "disco": ("disco", "DisCoPipeline"),
    "wan-animate": ("wan", "WanAnimateRun"),
}
# What a folder, or one in it, holds if it is of a kind; the first that fits counts.
_MARKS = {
    "champ": ("guidance_encoder_*.pth", "champ/guidance_encoder_*.pth"),
    "musepose": ("MusePose/*.pth",),
    "animate-anyone": ("pose_guider.pth", "denoising_unet.pth"),
    "magic-animate": ("MagicAnimate", "appearance_encoder", "densepose_controlnet", "temporal_attention"),
    "dreampose": ("unet_epoch_*.pth", "adapter_*.pth"),
    "disco": ("mp_rank_00_model_states.pt",),
}


def is_tiny(model) -> bool:
    """Whether a model, named as for `recognise`, is one of small random weights."""
    return TINY_RANDOM in str(model).partition(":")


def recognise(model) -> tuple[str, str]:
    """The kind of a model, and where it is.

    Args:
        model: a folder or a hub id, "tiny-random" (MagicAnimate's), or any of these after the kind and a colon:
            "champ:weights", "tiny-random:champ".

    Returns:
        (kind, folder or hub id).

    Raises:
        FileNotFoundError: for a folder of no known kind; says what it looked for.
        ValueError: for a kind that there is not.
    """
    model = str(model)
    first, colon, rest = model.partition(":")
    if first == TINY_RANDOM:
        if colon and rest not in PIPELINES:
            raise ValueError(f"model must be tiny-random: and one of {', '.join(PIPELINES)}, but is {model!r}")
        return rest or "magic-animate", TINY_RANDOM
    if colon and first in PIPELINES:
        return first, rest
    folder = Path(model)
    if not folder.is_dir():
        published = {layout["model"].hub: kind for kind, layout in LAYOUTS.items()}
        return published.get(model, "magic-animate"), model
    index = folder / "model_index.json"
    if index.is_file():
        found = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
        if found == "WanAnimatePipeline":
            return "wan-animate", model
        raise FileNotFoundError(f"model: {index} must be of a WanAnimatePipeline, but is of a {found}")
    if folder.name == "MusePose":
        return "musepose", model
    for kind, marks in _MARKS.items():
        if any(True for mark in marks for _ in folder.glob(mark)):
            return kind, model
    said = "\n  ".join(f"{kind}: {' or '.join(marks)}" for kind, marks in _MARKS.items())
    raise FileNotFoundError(
        f"model: {model} is of no known kind; it must hold one of\n  {said}\n  wan-animate: model_index.json\n"
        "or be named after its kind and a colon, as in champ:weights"
    )


def pipeline_class(kind: str):
    """The class of a kind.

    Raises:
        ImportError: without the extra.
    """
    module, name = PIPELINES[kind]
    try:
        return getattr(importlib.import_module(f"tpc_fast.diffusion.models.{module}"), name)
    except ImportError as error:
        raise ImportError(f'{kind} needs pip install "tpc-fast[diffusion]": {error}') from error


def load_pipeline(model, base=None, vae=None, torch_dtype=None):
    """The pipeline of a model, whichever it is; see `recognise`, and `from_pretrained` of its class."""
    kind, place = recognise(model)
    return pipeline_class(kind).from_pretrained(place, base, vae, torch_dtype=torch_dtype)
