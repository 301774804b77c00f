"""The diffusion models: one file each, what they share, and the registry."""
