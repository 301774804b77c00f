"""Wan-Animate from a calibration to a video, as the other pipelines here are called; diffusers' own does the work."""

import numpy as np
import torch
from PIL import Image

from tpc_fast._checks import renamed
from tpc_fast.calibration.result import Calibration
from tpc_fast.diffusion.composite import composite_reference
from tpc_fast.diffusion.models import tiny
from tpc_fast.diffusion.models.load import Published
from tpc_fast.diffusion.models.registry import refuse_options
from tpc_fast.diffusion.models.wan_segments import apply_segment_references, remove_segment_references, segments
from tpc_fast.diffusion.models.wan_slots import SlotAdapter, apply_slot_references, remove_slot_references
from tpc_fast.diffusion.pipeline import AnimationOutput


class WanAnimateRun(Published):
    """Shows every segment a calibrated picture; or, if asked for, every group and region (`regions`, an experiment).

    `pose_video` is a dict of two videos: "pose", and "face" of any size. Its latents are frames already. Loaded from a
    folder as `save_pretrained` writes it, or a hub id ("Wan-AI/Wan2.2-Animate-14B-Diffusers").

    Args:
        pipe: a `diffusers.WanAnimatePipeline`.

    Attributes:
        videos, steps, guidance, window, overlap: see `AnimationPipeline`; a window is a segment.
    """

    kind, videos = "wan-animate", ("pose", "face")
    steps, guidance, window, overlap = 20, 1.0, 77, 1
    resumable = False

    def __init__(self, pipe):
        self.pipe, self.adapter = pipe, SlotAdapter(pipe)
        pipe.set_progress_bar_config(disable=True)

    @classmethod
    def _load(cls, found, vae, dtype):
        from diffusers import WanAnimatePipeline

        folder = found["model"]
        try:
            pipe = WanAnimatePipeline.from_pretrained(
                str(folder), torch_dtype=dtype, local_files_only=True, use_safetensors=True
            )
        except Exception as error:  # damage shows as any of a dozen kinds
            raise ValueError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from error
        return {"pipe": pipe}

    def to(self, device) -> "WanAnimateRun":
        """On another device."""
        self.pipe.to(device)
        return self

    def encode_reference(self, calibration, **options) -> Calibration:
        """The calibration itself, if the model can make its size; segments are known later."""
        self._refuse(options)
        calibration = calibration if isinstance(calibration, Calibration) else Calibration.load(calibration)
        self.adapter.canvas(tuple(calibration.size))
        return calibration

    @renamed(condition="pose_video")
    @torch.no_grad()
    def __call__(
        self, reference, pose_video, prompt="", negative_prompt="", num_inference_steps=None, guidance_scale=None, *,
        window=None, overlap=None, generator=None, regions=False, on_window=None, output_type="pt", **options,
    ) -> AnimationOutput:  # fmt: skip
        """Makes a video.

        Args:
            reference: a `Calibration` with its folder or not.
            pose_video: {"pose": uint8 [F, H, W, 3] on the canvas, "face": uint8 [F, h, w, 3]}.
            prompt, negative_prompt, num_inference_steps, guidance_scale, generator: of the pipeline.
            window, overlap: frames of a segment, and of the one before that it goes on from.
            regions: calibrated references per group and region instead of per segment: not seen on trained weights.
            on_window: called as `on_window(done, total)` after each step.
            output_type: "np" or "pt": frames uint8 [F, H, W, 3], an array or a tensor; "latent" is "pt", as there is
                nothing to decode.
            options: those of `AnimationPipeline.__call__` that this model does not take, which are refused.

        Raises:
            ValueError: for such an option; says why.
            TypeError: for any other.
        """
        self._refuse(options)
        if output_type not in ("np", "pt", "latent"):
            raise ValueError(f'output_type must be "np", "pt" or "latent", but is {output_type!r}')
        pipe, calibration = self.pipe, self.encode_reference(reference)
        steps = self.steps if num_inference_steps is None else num_inference_steps
        window, overlap = self.window if window is None else window, self.overlap if overlap is None else overlap
        parts = segments(len(calibration), window, overlap)
        photo = _photo(calibration)
        pose, face = ([Image.fromarray(frame) for frame in pose_video[name]] for name in self.videos)
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
        frames = (frames.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return AnimationOutput(frames=frames.cpu().numpy() if output_type == "np" else frames)

    def _refuse(self, options):
        refuse_options(self.kind, **options)
        unknown = [name for name, value in options.items() if value is not None]
        if unknown:
            raise TypeError(f"{self.kind} takes no {unknown[0]}")

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


def tiny_wan(cls=None, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
    """A small random WanAnimatePipeline without a text encoder: call it with prompt embeddings of 32 channels."""
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        WanAnimatePipeline,
        WanAnimateTransformer3DModel,
    )
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    def make():
        parts = {
            "vae": AutoencoderKLWan(
                base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                temperal_downsample=[False, True, True],
            ),
            "transformer": WanAnimateTransformer3DModel(
                num_attention_heads=2, attention_head_dim=12, text_dim=32, ffn_dim=32, num_layers=2, image_dim=8,
                rope_max_seq_len=32, motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16}, motion_encoder_size=16,
                motion_style_dim=8, motion_dim=4, motion_encoder_dim=16, face_encoder_hidden_dim=16,
                face_encoder_num_heads=2, inject_face_latents_blocks=2,
            ),
            "image_encoder": CLIPVisionModel(
                CLIPVisionConfig(
                    hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16,
                    patch_size=8,
                )
            ),
        }  # fmt: skip
        for weight in parts["transformer"].parameters():  # so that what attention sees matters
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.6 * weight[0].numel() ** -0.5)
        return parts

    pipe = WanAnimatePipeline(
        **tiny.made(seed, dtype, make), tokenizer=None, text_encoder=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    )  # fmt: skip
    return {"pipe": pipe}
