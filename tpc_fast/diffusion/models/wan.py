"""Wan-Animate from a calibration to a video, as the other pipelines here are called; diffusers' own does the work."""

import numpy as np
import torch
from PIL import Image

from tpc_fast.calibration.result import Calibration
from tpc_fast.diffusion import checkpoints
from tpc_fast.diffusion.composite import composite_reference
from tpc_fast.diffusion.models.wan_segments import apply_segment_references, remove_segment_references, segments
from tpc_fast.diffusion.models.wan_slots import SlotAdapter, apply_slot_references, remove_slot_references
from tpc_fast.diffusion.pipeline import AnimationOutput


class WanAnimateRun:
    """Shows every segment a calibrated picture; or, if asked for, every group and region (`regions`, an experiment).

    The condition is a dict of two videos: "pose", and "face" of any size. Its latents are frames already.

    Args:
        pipe: a `diffusers.WanAnimatePipeline`.

    Attributes:
        videos, follows, steps, guidance, window, overlap: see `AnimationPipeline`; a window is a segment.
    """

    videos, follows = ("pose", "face"), "a skeleton video"
    steps, guidance, window, overlap = 20, 1.0, 77, 1
    resumable = False

    def __init__(self, pipe):
        self.pipe, self.adapter = pipe, SlotAdapter(pipe)
        pipe.set_progress_bar_config(disable=True)

    @classmethod
    def from_pretrained(cls, model, base=None, vae=None, torch_dtype=None) -> "WanAnimateRun":
        """Loads the published checkpoints.

        Args:
            model: a folder as `save_pretrained` writes it; or a hub id ("Wan-AI/Wan2.2-Animate-14B-Diffusers"); or
                "tiny-random": see `MagicAnimatePipeline.from_pretrained`.
            base, vae: nothing: the folder holds all.
            torch_dtype: of the weights; float32 by default.

        Raises:
            FileNotFoundError: lists the files that are missing.
            ValueError: for `base` or `vae`, and damaged files.
        """
        from diffusers import WanAnimatePipeline

        for name, value in (("base", base), ("vae", vae)):
            if value is not None:
                raise ValueError(f"{name} must be left out: the folder holds all of Wan-Animate, but is {value!r}")
        dtype = torch_dtype or torch.float32
        if model == "tiny-random":
            from tpc_fast.diffusion.models.tiny import tiny_wan

            return cls(tiny_wan(dtype))
        folder = checkpoints.find_checkpoints(model, kind="wan-animate")["model"]
        try:
            pipe = WanAnimatePipeline.from_pretrained(
                str(folder), torch_dtype=dtype, local_files_only=True, use_safetensors=True
            )
        except Exception as error:  # damage shows as any of a dozen kinds
            raise ValueError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from error
        return cls(pipe)

    def to(self, device) -> "WanAnimateRun":
        """On another device."""
        self.pipe.to(device)
        return self

    def encode_reference(self, calibration, *_, **__) -> Calibration:
        """The calibration itself, if the model can make its size; segments are known later."""
        calibration = calibration if isinstance(calibration, Calibration) else Calibration.load(calibration)
        self.adapter.canvas(tuple(calibration.size))
        return calibration

    @torch.no_grad()
    def __call__(
        self, reference, condition, prompt="", negative_prompt="", num_inference_steps=None, guidance_scale=None, *,
        window=None, overlap=None, generator=None, regions=False, on_window=None, output_type="np", **_,
    ) -> AnimationOutput:  # fmt: skip
        """Makes a video.

        Args:
            reference: a `Calibration` with its folder or not.
            condition: {"pose": uint8 [F, H, W, 3] on the canvas, "face": uint8 [F, h, w, 3]}.
            prompt, negative_prompt, num_inference_steps, guidance_scale, generator: of the pipeline.
            window, overlap: frames of a segment, and of the one before that it goes on from.
            regions: calibrated references per group and region instead of per segment: not seen on trained weights.
            on_window: called as `on_window(done, total)` after each step.
            output_type: any; what comes are frames, uint8 [F, H, W, 3], as a tensor.
        """
        pipe, calibration = self.pipe, self.encode_reference(reference)
        steps = self.steps if num_inference_steps is None else num_inference_steps
        window, overlap = self.window if window is None else window, self.overlap if overlap is None else overlap
        parts = segments(len(calibration), window, overlap)
        photo = _photo(calibration)
        pose, face = ([Image.fromarray(frame) for frame in condition[name]] for name in self.videos)
        side = pipe.transformer.config.motion_encoder_size
        done = 0

        def stepped(*_):
            nonlocal done
            done += 1
            if on_window is not None:
                on_window(done, steps * len(parts))
            return {}

        texts = dict(prompt=prompt or "", negative_prompt=negative_prompt or "")
        if pipe.text_encoder is None:  # of the small random one
            none = torch.zeros(1, 512, pipe.transformer.config.text_dim, device=pipe._execution_device)
            texts = dict(prompt_embeds=none, negative_prompt_embeds=none)
        if regions:
            apply_slot_references(pipe, calibration)
        else:
            middle = [(part.start + part.stop - 1) // 2 for part in parts]
            apply_segment_references(pipe, [Image.fromarray(_picture(calibration, photo, i)) for i in middle])
        try:
            frames = pipe(
                Image.fromarray(photo), pose, [picture.resize((side, side)) for picture in face], **texts,
                guidance_scale=self.guidance if guidance_scale is None else guidance_scale,
                height=calibration.size[0], width=calibration.size[1], segment_frame_length=window,
                prev_segment_conditioning_frames=overlap, num_inference_steps=steps, output_type="pt",
                generator=generator, callback_on_step_end=stepped,
            ).frames[0]  # fmt: skip
        finally:
            (remove_slot_references if regions else remove_segment_references)(pipe)
        return AnimationOutput(frames=(frames.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))

    def decode(self, frames, chunk_size: int = 8):
        """Frames in parts: they need no decoding."""
        yield from frames.split(chunk_size)


def _photo(calibration) -> np.ndarray:
    """The photo on the canvas."""
    return calibration.reference_canvas.draw(calibration.reference_image)


def _picture(calibration, photo, frame: int) -> np.ndarray:
    """The calibrated persons of a frame, over the photo without its own: its mean colour is there instead."""
    masks = [calibration.reference_canvas.draw(mask) for mask in calibration.reference_mask]
    person = np.max(masks, 0)[..., None] / 255
    colour = (photo * (1 - person)).sum((0, 1)) / max((1 - person).sum(), 1)
    ground = (photo * (1 - person) + colour * person).round().astype(np.uint8)
    images, masks = calibration.images[frame : frame + 1], calibration.masks[frame : frame + 1]
    return composite_reference(ground, images, masks)[0]
