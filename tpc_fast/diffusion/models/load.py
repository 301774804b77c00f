"""A model ready to run: its published files, or small random weights, as a pipeline on its device."""

from tpc_fast._checks import torch_device
from tpc_fast.diffusion.checkpoints import find_checkpoints
from tpc_fast.diffusion.models.registry import MODELS, TINY_RANDOM, load_pipeline, refuse_options


class Published:
    """What is loaded as its record in the registry says.

    Attributes:
        kind: the key of the record.
    """

    kind: str

    @classmethod
    def from_pretrained(cls, model, base=None, vae=None, torch_dtype=None):
        """Loads the published files; every key must find its place.

        Args:
            model: a folder as the original's README lays it out; or the model's own folder, with the others beside it;
                or a hub id; or "tiny-random" for small random weights, which need no files and animate nothing, but go
                the whole way.
            base: folder or hub id of what the model started from, if it is not where `model` has it.
            vae: folder or hub id of the autoencoder, likewise.
            torch_dtype: of the weights; float32 by default.

        Raises:
            FileNotFoundError: lists the files that are missing, and where each belongs.
            ValueError: if a file is damaged, or holds other weights than the model has; names them. For `base` and
                `vae` where the model has no such part.
        """
        import torch

        record, dtype = MODELS[cls.kind], torch_dtype or torch.float32
        refuse_options(cls.kind, base=base, vae=vae)
        if model == TINY_RANDOM:
            return cls(**record.load(record.tiny)(cls, dtype))
        return cls(**cls._load(find_checkpoints(cls.kind, record.parts, model, base, vae), vae, dtype))

    @classmethod
    def _load(cls, found, vae, dtype) -> dict:
        """The class's arguments, from part of the model -> folder."""
        raise NotImplementedError


def load_model(model, base=None, vae=None, device: str | None = None, dtype: str | None = None):
    """A model's pipeline on a device, cuda if there is one; by default in float32 on a CPU, else in float16."""
    import torch

    device = torch_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or ("float32" if device == "cpu" else "float16")
    return load_pipeline(model, base, vae, getattr(torch, dtype)).to(device)
