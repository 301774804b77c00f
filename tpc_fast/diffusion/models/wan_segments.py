"""A calibrated reference for every segment of diffusers' WanAnimatePipeline, which otherwise shows one photo to all.

The pipeline makes a video in segments of 77 frames; each sees the reference picture as its first latent frame and as
CLIP tokens. Both are exchanged here, segment by segment; pipeline and transformer stay as they are.
"""

from collections.abc import Sequence

from diffusers.hooks import HookRegistry, ModelHook

HOOK = "tpc_fast_segment_reference"
ON_SEGMENT = "prepare_prev_segment_cond_latents"  # the pipeline's method that is called once at the start of each


def segments(num_frames: int, segment_frame_length: int = 77, prev_segment_conditioning_frames: int = 1) -> list[slice]:
    """Which frames of the driving video each segment makes, the repeated ones at its beginning included.

    Args:
        num_frames: of the driving video.
        segment_frame_length, prev_segment_conditioning_frames: as the pipeline gets them; its defaults.

    Raises:
        ValueError: if there is no segment, or segments do not advance.
    """
    stride = segment_frame_length - prev_segment_conditioning_frames
    if num_frames < 1 or stride < 1 or prev_segment_conditioning_frames < 0:
        raise ValueError(
            "num_frames must be at least 1, and segment_frame_length more than prev_segment_conditioning_frames, which "
            f"is at least 0, but are {num_frames}, {segment_frame_length} and {prev_segment_conditioning_frames}"
        )
    starts = range(0, max(num_frames - prev_segment_conditioning_frames, 1), stride)
    return [slice(start, min(start + segment_frame_length, num_frames)) for start in starts]


def check_pipeline(pipe):
    """The pipeline, if it is one.

    Raises:
        TypeError: if it has not what is needed.
    """
    if not all(hasattr(pipe, name) for name in ("transformer", ON_SEGMENT, "prepare_reference_image_latents")):
        raise TypeError(f"pipe must be a WanAnimatePipeline, but is {type(pipe).__name__}")
    return pipe


class _ReplaceReference(ModelHook):
    """Exchanges the reference in what the transformer gets."""

    def __init__(self):
        super().__init__()
        self.latents = self.tokens = None

    def pre_forward(self, module, *args, **kwargs):
        if self.latents is not None:
            states = kwargs["hidden_states"].clone()
            states[:, -self.latents.shape[1] :, :1] = self.latents.to(states)
            kwargs["hidden_states"] = states
        if self.tokens is not None:
            tokens = kwargs["encoder_hidden_states_image"]
            kwargs["encoder_hidden_states_image"] = self.tokens.to(tokens).expand_as(tokens)
        return args, kwargs


def apply_segment_references(pipe, images: Sequence) -> None:
    """Lets every segment of a WanAnimatePipeline see its own reference picture, until `remove_segment_references`.

    The pipeline's `image` is still needed, but what it shows is used nowhere. Whole pictures are exchanged, as trained:
    `composite_reference` makes one from calibrated frames, say of the middle of each of `segments(...)`.

    Args:
        pipe: a `diffusers.WanAnimatePipeline`.
        images: a picture per segment, of any kind that the pipeline takes; if there are more segments, the last one
            serves the rest.

    Raises:
        TypeError: if `pipe` has not what is needed.
        ValueError: if there are no images, or the pipeline has references already.
    """
    check_pipeline(pipe)
    if not len(images):
        raise ValueError("images must be one picture per segment, but is empty")
    if ON_SEGMENT in vars(pipe):
        raise ValueError("pipe has segment references already: remove_segment_references(pipe) first")
    hook, prepare, seen = _ReplaceReference(), getattr(pipe, ON_SEGMENT), [0]

    def on_segment(*args, **kwargs):
        seen[0] = 0 if kwargs["start_frame"] == 0 else seen[0] + 1
        image = images[min(seen[0], len(images) - 1)]
        device = kwargs["device"]
        pixels = pipe.vae_image_processor.preprocess(
            image, height=kwargs["height"], width=kwargs["width"], resize_mode="fill"
        )
        pixels = pixels.to(device, pipe.vae.dtype)
        hook.latents = pipe.prepare_reference_image_latents(pixels, kwargs["batch_size"], device=device)
        hook.tokens = None if pipe.image_encoder is None else pipe.encode_image(image, device)
        return prepare(*args, **kwargs)

    HookRegistry.check_if_exists_or_initialize(pipe.transformer).register_hook(hook, HOOK)
    setattr(pipe, ON_SEGMENT, on_segment)


def remove_segment_references(pipe) -> None:
    """Undoes `apply_segment_references`; does nothing where it was not applied."""
    if ON_SEGMENT in vars(pipe):
        delattr(pipe, ON_SEGMENT)
        HookRegistry.check_if_exists_or_initialize(pipe.transformer).remove_hook(HOOK)
