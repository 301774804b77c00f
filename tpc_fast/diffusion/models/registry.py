"""The models there are: one record each. Which of them a folder or a hub id is; what it takes and refuses.

To add a model: one file beside this one, with its pipeline and what makes it with small random weights, and one record
in `MODELS`.
"""

import dataclasses
import enum
import importlib
from pathlib import Path

from tpc_fast._extras import INSTALL
from tpc_fast.diffusion.checkpoints import CLIP, MODEL, MOTION_FILE, Part, read_config

TINY_RANDOM = "tiny-random"
CHAMP_GUIDES = ("depth", "normal", "semantic_map", "dwpose")


class Follows(enum.Enum):
    """What a model follows. The member steers; its value says it to people."""

    DENSEPOSE = "a DensePose video"
    DENSEPOSE_UV = "a video of DensePose's u (in red) and v (in green), or a folder of frame_N_densepose.npy"
    SKELETON = "a skeleton video"
    DWPOSE = "a skeleton (DWPose) video"
    OPENPOSE = "a skeleton (OpenPose) video"
    PARTS = "a video of body parts, drawn from the skeleton's keypoints"
    BODY_MAPS = "a folder with depth, normal, semantic_map and dwpose, videos (.mp4) or folders of pictures"

    @property
    def densepose(self) -> bool:
        """Whether it comes from DensePose."""
        return self in (Follows.DENSEPOSE, Follows.DENSEPOSE_UV)


@dataclasses.dataclass(frozen=True)
class Model:
    """A diffusion model, before anything of it is imported.

    Attributes:
        pipeline: "module:Class"; the class has `kind`, the key of the record, and the attributes of
            `AnimationPipeline`.
        tiny: a function in the module, (class, dtype) -> the class's arguments, with small random weights.
        parts: which files belong where, and where they are published; "model" is what makes it this model.
        follows: what it follows.
        marks: what a folder, or one in it, holds if it is of this kind; names may have wildcards.
        folder: the name of a folder that is of this kind.
        index: the class in model_index.json that is of this kind.
        refuses: option that it does not take -> why, as the end of a sentence that begins with the kind.
    """

    pipeline: str
    tiny: str
    parts: dict[str, Part]
    follows: Follows
    marks: tuple[str, ...] = ()
    folder: str | None = None
    index: str | None = None
    refuses: dict[str, str] = dataclasses.field(default_factory=dict)

    def load(self, name: str | None = None):
        """The class, or what is called `name` beside it."""
        module, _, cls = self.pipeline.partition(":")
        return getattr(importlib.import_module(module), name or cls)

    def taken(self, **options) -> dict:
        """Those of the options that it takes."""
        return {name: value for name, value in options.items() if name not in self.refuses}


def refuse_options(kind: str, /, flags: bool = False, **options) -> None:
    """Refuses options that a model does not take, and that were given: that are not None, False or empty.

    Args:
        kind: of the model.
        flags: whether the options are those of a command line.
        options: by name.

    Raises:
        ValueError: names the option, and says why.
    """
    refuses = MODELS[kind].refuses if kind in MODELS else {}
    for name, value in options.items():
        why = refuses.get(name)
        if why is not None and value not in (None, False, ""):
            said = f"--{name.replace('_', '-')}" if flags else name
            raise ValueError(f"{said} must be left out: {kind} {why}, but is {value!r}")


_SD15, _VARIATIONS = "stable-diffusion-v1-5/stable-diffusion-v1-5", "lambdalabs/sd-image-variations-diffusers"
_VAE = Part("stabilityai/sd-vae-ft-mse", "sd-vae-ft-mse", {"": MODEL}, "vae")
_BASE_CONFIG = Part(_SD15, "stable-diffusion-v1-5", {"unet": [("config.json",)]}, "base")
_IMAGE_ENCODER = Part(_VARIATIONS, ".", {"image_encoder": CLIP})


def _animate_anyone(hub, local, guides, base=_BASE_CONFIG):
    files = ["denoising_unet.pth", "motion_module.pth", "reference_unet.pth", *(f"{name}.pth" for name in guides)]
    own = Part(hub, local, {"": [(name,) for name in files]})
    return {"model": own, "base": base, "image_encoder": _IMAGE_ENCODER, "vae": _VAE}


def _disco(cls, marks):
    return Model(
        pipeline=f"tpc_fast.diffusion.models.disco:{cls}",
        tiny="tiny_disco",
        parts={
            "model": Part("https://github.com/Wangt-CN/DisCo", ".", {"": [("mp_rank_00_model_states.pt",)]}),
            "base": Part(
                _VARIATIONS,
                "sd-image-variations-diffusers",
                {name: [("config.json",)] for name in ("unet", "vae", "image_encoder")},
                "base",
            ),
        },
        follows=Follows.OPENPOSE,
        marks=marks,
        refuses=_NO_FACE | _NO_TEXT | _FRAME_BY_FRAME | {"vae": "has its autoencoder in its checkpoint"},
    )


_NO_FACE = {"face": "follows no face", "regions": "reads regions in any case"}
_NO_TEXT = dict.fromkeys(("prompt", "negative_prompt"), "reads the photo instead of text")
_FRAME_BY_FRAME = {
    "live": "reads tokens instead of a bank",
    "closed_loop": "makes every frame on its own",
    "blocks": "has its reference as tokens, which all cross-attentions read",
}
_SEGMENTS = {
    "live": "makes whole segments of a video",
    **dict.fromkeys(("base", "vae"), "has all its parts in one folder"),
    **dict.fromkeys(("group_size", "mode"), "is shown one calibrated picture per segment"),
    **dict.fromkeys(("noise_period", "latents"), "draws its noise in diffusers' own pipeline"),
    "closed_loop": "goes on from segment to segment, from the first",
    **dict.fromkeys(("blocks", "bank_refresh", "strength", "start_step", "end_step"), "reads no bank"),
    "seed": "draws nothing but its noise, which is of the generator",
}
# In the order in which folders are looked at: the first whose marks fit counts.
MODELS = {
    "champ": Model(
        pipeline="tpc_fast.diffusion.models.animate_anyone:ChampPipeline",
        tiny="tiny_animate_anyone",
        parts=_animate_anyone(
            "fudan-generative-ai/champ", "champ", [f"guidance_encoder_{name}" for name in CHAMP_GUIDES]
        ),
        follows=Follows.BODY_MAPS,
        marks=("guidance_encoder_*.pth", "champ/guidance_encoder_*.pth"),
        refuses=_NO_FACE | _NO_TEXT,
    ),
    "musepose": Model(
        pipeline="tpc_fast.diffusion.models.animate_anyone:MusePosePipeline",
        tiny="tiny_animate_anyone",
        parts=_animate_anyone(
            "TMElyralab/MusePose",
            "MusePose",
            ["pose_guider"],
            dataclasses.replace(_BASE_CONFIG, hub=_VARIATIONS, local="sd-image-variations-diffusers"),
        ),
        follows=Follows.DWPOSE,
        marks=("MusePose/*.pth",),
        folder="MusePose",
        refuses=_NO_FACE | _NO_TEXT,
    ),
    "animate-anyone": Model(
        pipeline="tpc_fast.diffusion.models.animate_anyone:AnimateAnyonePipeline",
        tiny="tiny_animate_anyone",
        parts=_animate_anyone("patrolli/AnimateAnyone", ".", ["pose_guider"]),
        follows=Follows.DWPOSE,
        marks=("pose_guider.pth", "denoising_unet.pth"),
        refuses=_NO_FACE | _NO_TEXT,
    ),
    "magic-animate": Model(
        pipeline="tpc_fast.diffusion.models.magic_animate:MagicAnimatePipeline",
        tiny="tiny_magic_animate",
        parts={
            "model": Part(
                "zcxu-eric/MagicAnimate",
                "MagicAnimate",
                {
                    "appearance_encoder": MODEL,
                    "densepose_controlnet": MODEL,
                    "": [(f"temporal_attention/{MOTION_FILE}", MOTION_FILE)],
                },
            ),
            "base": Part(
                _SD15,
                "stable-diffusion-v1-5",
                {"unet": [("config.json",)], "text_encoder": CLIP, "tokenizer": [("vocab.json",), ("merges.txt",)]},
                "base",
            ),
            "vae": _VAE,
        },
        follows=Follows.DENSEPOSE,
        marks=("MagicAnimate", "appearance_encoder", "densepose_controlnet", "temporal_attention"),
        refuses=_NO_FACE,
    ),
    "dreampose": Model(
        pipeline="tpc_fast.diffusion.models.dreampose:DreamPosePipeline",
        tiny="tiny_dreampose",
        parts={
            "model": Part(
                "https://github.com/johannakarras/DreamPose",
                ".",
                {
                    "": [("unet_epoch_*.pth",), ("adapter_*.pth",)],
                    "checkpoint-*/unet": [("config.json",)],
                    "checkpoint-*/vae": MODEL,
                },
            ),
            "base": Part("openai/clip-vit-base-patch32", "clip-vit-base-patch32", {"": CLIP}, "base"),
        },
        follows=Follows.DENSEPOSE_UV,
        marks=("unet_epoch_*.pth", "adapter_*.pth"),
        refuses=_NO_FACE | _NO_TEXT | _FRAME_BY_FRAME,
    ),
    "disco": _disco("DisCoPipeline", ("mp_rank_00_model_states.pt",)),
    "disco-no-cfg": _disco("DisCoPlainPipeline", ()),  # whose files look the same: it must be named
    "wan-animate": Model(
        pipeline="tpc_fast.diffusion.models.wan:WanAnimateRun",
        tiny="tiny_wan",
        parts={
            "model": Part(
                "Wan-AI/Wan2.2-Animate-14B-Diffusers",
                ".",
                {
                    "": [("model_index.json",)],
                    "transformer": [("config.json",), ("diffusion_pytorch_model*.safetensors",)],
                    "vae": [("config.json",), ("diffusion_pytorch_model*.safetensors",)],
                    "text_encoder": [("config.json",), ("model*.safetensors",)],
                    "image_encoder": [("config.json",), ("model*.safetensors",)],
                    "image_processor": [("preprocessor_config.json",)],
                    "tokenizer": [("tokenizer.json", "spiece.model")],
                    "scheduler": [("scheduler_config.json",)],
                },
            ),
        },
        follows=Follows.SKELETON,
        index="WanAnimatePipeline",
        refuses=_SEGMENTS,
    ),
    "puppets": Model(
        pipeline="tpc_fast.diffusion.models.puppets:PuppetsPipeline",
        tiny="tiny_puppets",
        parts={"model": Part("puppets", ".", {"": [("puppets.safetensors",), ("puppets_motion.safetensors",)]})},
        # of the package, not of a hub
        follows=Follows.PARTS,
        marks=("puppets.safetensors",),
        refuses=_NO_FACE | _NO_TEXT | dict.fromkeys(("base", "vae"), "has all its parts in its own files"),
    ),
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
        FileNotFoundError: for a folder that is not there, or of no known kind; says what it looked for.
        ValueError: for a kind that there is not.
    """
    model = str(model)
    first, colon, rest = model.partition(":")
    if first == TINY_RANDOM:
        if colon and rest not in MODELS:
            raise ValueError(f"model must be tiny-random: and one of {', '.join(MODELS)}, but is {model!r}")
        return rest or "magic-animate", TINY_RANDOM
    if colon and first in MODELS:
        return first, rest
    folder = Path(model)
    if not folder.is_dir():
        published = {record.parts["model"].hub: kind for kind, record in reversed(MODELS.items())}
        if folder.is_absolute() or model.startswith((".", "~")) or len(folder.parts) > 2:  # a hub id is owner/name
            raise FileNotFoundError(f"model must be a folder or a hub id, but there is no folder {model}")
        return published.get(model, "magic-animate"), model
    index = folder / "model_index.json"
    if index.is_file():
        found = read_config(index).get("_class_name")
        for kind, record in MODELS.items():
            if found is not None and found in (record.index, record.pipeline.partition(":")[2]):
                return kind, model
        known = " or ".join(record.index or record.pipeline.partition(":")[2] for record in MODELS.values())
        raise FileNotFoundError(f"model: {index} must be of a {known}, but is of a {found}")
    for kind, record in MODELS.items():
        if folder.name == record.folder or any(True for mark in record.marks for _ in folder.glob(mark)):
            return kind, model
    said = "\n  ".join(
        f"{kind}: {' or '.join(record.marks or ('model_index.json',))}" for kind, record in MODELS.items()
    )
    raise FileNotFoundError(
        f"model: {model} is of no known kind; it must hold one of\n  {said}\n"
        "or be named after its kind and a colon, as in champ:weights"
    )


def pipeline_class(kind: str):
    """The class of a kind.

    Raises:
        ImportError: without the extra.
    """
    try:
        return MODELS[kind].load()
    except ImportError as error:
        raise ImportError(f"{kind} needs {INSTALL['diffusion']}: {error}") from error


def load_pipeline(model, base=None, vae=None, torch_dtype=None):
    """The pipeline of a model, whichever it is; see `recognise`, and `from_pretrained` of its class."""
    kind, place = recognise(model)
    return pipeline_class(kind).from_pretrained(place, base, vae, torch_dtype=torch_dtype)
