"""A model ready to run: recognised, loaded, and on its device."""

from tpc_fast.diffusion.models.registry import load_pipeline


def load_model(model, base=None, vae=None, device: str | None = None, dtype: str | None = None):
    """A model's pipeline on a device, cuda if there is one; by default in float32 on a CPU, else in float16."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float32" if device == "cpu" else "float16")
    return load_pipeline(model, base, vae, getattr(torch, dtype)).to(device)
