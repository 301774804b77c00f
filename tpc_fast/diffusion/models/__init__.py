"""The diffusion models: one file each, what they share, and the registry."""

from tpc_fast._lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
