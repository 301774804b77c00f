"""A stream of frames through a diffusion model: `LiveAnimator`."""
