"""A calibrated reference for every segment of diffusers' modular pipeline of Wan-Animate-2.

As with the first Wan-Animate (`wan_segments`), whole pictures are exchanged, segment by segment: the reference's
latents in the first slot of the condition, and its CLIP tokens. The cache of keys and values is of the driving video.
Seen on small random weights only; no published ones were loaded.
"""

from collections.abc import Sequence

import torch

STEP = "prev_frames"  # the block that puts the reference before the frames of a segment


def apply_segment_references_2(pipe, images: Sequence) -> None:
    """Lets every segment see its own reference picture, until `remove_segment_references_2`.

    The pipeline's `image` is still needed: it decides the size of the video.

    Args:
        pipe: a `WanAnimate2ModularPipeline` of diffusers 0.42, distilled or not, made of `WanAnimate2Blocks`.
        images: a picture per segment, of any kind that the pipeline takes; if there are more segments, the last one
            serves the rest.

    Raises:
        TypeError: if `pipe` has not what is needed.
        ValueError: if there are no images, or the pipeline has references already.
    """
    loop = _loop(pipe)
    if not len(images):
        raise ValueError("images must be one picture per segment, but is empty")
    if isinstance(loop.sub_blocks[STEP], _SegmentReference):
        raise ValueError("pipe has segment references already: remove_segment_references_2(pipe) first")
    loop.sub_blocks[STEP] = _SegmentReference(loop.sub_blocks[STEP], images)


def remove_segment_references_2(pipe) -> None:
    """Undoes `apply_segment_references_2`; does nothing where it was not applied."""
    loop = _loop(pipe)
    if isinstance(loop.sub_blocks[STEP], _SegmentReference):
        loop.sub_blocks[STEP] = loop.sub_blocks[STEP].block


class _SegmentReference:
    """Stands before a block of the loop over segments, and is otherwise that block."""

    def __init__(self, block, images):
        self.block, self.images = block, images

    def __getattr__(self, name):
        if name in ("block", "images"):  # of a copy that has none yet
            raise AttributeError(name)
        return getattr(self.block, name)

    @torch.no_grad()
    def __call__(self, components, block_state, k: int):
        from diffusers.modular_pipelines.wan_animate_2.encoders import clip_visual_encode, encode_vae, get_i2v_mask

        image, before = self.images[min(k, len(self.images) - 1)], block_state.reference_image_latents
        device, encoder, (height, width) = components._execution_device, components.image_encoder, before.shape[-2:]
        scale = components.vae_scale_factor_spatial
        pixels = components.image_processor.preprocess(
            image, height=height * scale, width=width * scale, resize_mode="fill"
        ).to(device, dtype=torch.float32)
        latents = encode_vae(components.vae, pixels.unsqueeze(2))
        mask = get_i2v_mask(1, height, width, 1, device=device).to(latents.dtype)
        block_state.reference_image_latents = torch.cat([mask, latents[0]])
        tokens = clip_visual_encode(encoder, pixels[0], device, encoder.dtype)
        block_state.denoiser_input_fields["encoder_hidden_states_image"] = tokens
        return self.block(components, block_state, k=k)


def _loop(pipe):
    """The block that goes over the segments.

    Raises:
        TypeError: if there is none.
    """
    waiting = [getattr(pipe, "_blocks", None)]
    while waiting:
        block = waiting.pop()
        parts = getattr(block, "sub_blocks", None) or {}
        if STEP in parts:
            return block
        waiting += list(parts.values())
    raise TypeError(f"pipe must be a WanAnimate2ModularPipeline, but is {type(pipe).__name__}")
