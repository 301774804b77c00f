"""MagicAnimate with calibrated references, on diffusers' own schedulers, autoencoder, ControlNet and motion UNet."""

import contextlib

import torch
from diffusers import DDIMScheduler

from tpc_fast import _checks
from tpc_fast.diffusion import checkpoints
from tpc_fast.diffusion.adapter import KeyValueAdapter
from tpc_fast.diffusion.models import tiny
from tpc_fast.diffusion.models.control import OncePerFrame, condition_features, encoded_conditions
from tpc_fast.diffusion.models.norms import MagicAnimateUNet
from tpc_fast.diffusion.models.shared_half import share_down_path
from tpc_fast.diffusion.pipeline import AnimationPipeline, check_pose_video


class MagicAnimatePipeline(AnimationPipeline):
    """Animates a calibrated reference along a DensePose video.

    Loaded from a folder with `MagicAnimate/`, `stable-diffusion-v1-5/` and `sd-vae-ft-mse/`; or from the MagicAnimate
    folder (`appearance_encoder/`, `densepose_controlnet/`, `temporal_attention/temporal_attention.ckpt`), with the
    other two beside it or given as `base` and `vae`; or from a hub id ("zcxu-eric/MagicAnimate").

    Defaults are the published code's, but that it repeats the last frame until their number is a multiple of 16.

    Args:
        vae, text_encoder, tokenizer: of Stable Diffusion 1.5.
        unet: a `MagicAnimateUNet`, with motion modules.
        controlnet: its condition is a DensePose video.
        appearance_encoder: the `UNet2DConditionModel` that writes the bank.
        scheduler: DDIM as the original has it (`original_scheduler()`), or any other of diffusers.
    """

    kind, model_cpu_offload_seq = "magic-animate", "text_encoder->unet->vae"
    closed_loop, noise_period = True, 16

    def __init__(self, vae, text_encoder, tokenizer, unet, controlnet, appearance_encoder, scheduler):
        super().__init__()
        self._register(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            appearance_encoder=appearance_encoder,
            scheduler=scheduler,
        )

    @classmethod
    def _load(cls, found, vae, dtype):
        return {**_load(found, dtype), "scheduler": original_scheduler()}

    @property
    def max_window(self) -> int:
        """As many frames as the motion modules take."""
        return self.unet.config.motion_max_seq_length

    def reference_adapter(self, blocks: str | None = None) -> KeyValueAdapter:
        """Its appearance encoder writes the bank at every step."""
        return KeyValueAdapter(self, self.unet, self.appearance_encoder, blocks or self.blocks)

    def _follow(self, pose_video, reference, scale, device):
        self._scale = scale
        return condition_features(self.controlnet, check_pose_video(pose_video, reference), device)

    def _shared(self, text, blocks):
        alike = len(text) == 2 and torch.equal(text[0], text[1]) and blocks == "midup"
        return share_down_path(self.unet) if alike else contextlib.nullcontext()

    def _of_window(self, follow, model_input, t, text, windows, last):
        def control(frames):
            return self._control(model_input[:, :, frames], t, text[-1:], follow[frames.clip(max=last)])

        return OncePerFrame(windows, control).of

    def _predict(self, part, t, text, follow, reference):
        """`follow` is what `_follow` made of the window, or the residuals of `_control`."""
        halves = len(text)
        residuals = follow if isinstance(follow, list) else self._control(part, t, text[-1:], follow)
        residuals = [torch.cat([residual] * halves) for residual in residuals]
        return self.unet(
            self._batch(part, halves),
            t,
            encoder_hidden_states=text.repeat_interleave(part.shape[2], 0),
            down_block_additional_residuals=residuals[:-1],
            mid_block_additional_residual=residuals[-1],
            return_dict=False,
        )[0]

    def _control(self, part, t, text, follow) -> list[torch.Tensor]:
        """Residuals of the ControlNet for frames [1, C, n, h, w]: of the down blocks, then of the mid block.

        As in the original, it gets the conditional text only, and both halves of the guidance share what it returns.
        """
        frames = part[0].transpose(0, 1).to(self.controlnet.dtype)
        with encoded_conditions(self.controlnet):
            down, mid = self.controlnet(
                frames,
                t,
                encoder_hidden_states=text.expand(len(frames), -1, -1).to(frames.dtype),
                controlnet_cond=follow.to(frames),
                conditioning_scale=self._scale,
                return_dict=False,
            )
        return [residual.to(part.dtype) for residual in (*down, mid)]

    def _text(self, prompt, negative_prompt, embeds, negative_embeds, reference, device) -> torch.Tensor:
        """[1 or 2, tokens, channels]: unconditional if there is guidance, conditional."""
        prompts = [(prompt, embeds)]
        if self.do_classifier_free_guidance:
            prompts.insert(0, (negative_prompt, negative_embeds))
        parts = [self.encode_prompt(text, device) if given is None else given for text, given in prompts]
        for name, part in zip(("prompt_embeds", "negative_prompt_embeds"), reversed(parts), strict=False):
            if part.ndim != 3 or len(part) != 1 or part.shape != parts[-1].shape:
                raise ValueError(f"{name} must be [1, tokens, channels], both alike, but is {_checks.describe(part)}")
        return torch.cat(parts).to(device, self.unet.dtype)

    def encode_prompt(self, prompt: str, device=None) -> torch.Tensor:
        """[1, tokens, channels] of a prompt."""
        if not isinstance(prompt, str):
            raise TypeError(f"prompt must be a string, but is {_checks.describe(prompt)}")
        tokens = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return self.text_encoder(tokens.input_ids.to(device or self._execution_device))[0]


def original_scheduler() -> DDIMScheduler:
    """DDIM as MagicAnimate was trained and published with."""
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", steps_offset=1, clip_sample=False)


def _load(found: dict, dtype: torch.dtype) -> dict:
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    def load(model, folder, may_miss=()):
        return checkpoints.load_pretrained(model, folder, dtype, may_miss)

    model, base = found["model"], found["base"]
    motion, encoder = checkpoints.motion_file(model), model / "appearance_encoder"
    unused = checkpoints.unused_by_encoder(UNet2DConditionModel.load_config(str(encoder)))
    return {
        "unet": _unet(base / "unet", motion, dtype),
        "appearance_encoder": load(UNet2DConditionModel, encoder, unused),
        "controlnet": load(ControlNetModel, model / "densepose_controlnet"),
        "vae": load(AutoencoderKL, found["vae"]),
        "text_encoder": load(CLIPTextModel, base / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(str(base / "tokenizer"), local_files_only=True),
    }


def _unet(config, motion, dtype: torch.dtype):
    """The denoiser. The published motion file (5.11 GB) holds all of it: of Stable Diffusion's UNet nothing but the
    configuration is read. Beside a file that holds less, as that of motion modules alone, its weights must be there."""
    from diffusers import UNet2DConditionModel

    base = checkpoints.without_memory(UNet2DConditionModel, config).to(dtype)
    state = checkpoints.load_state(motion)
    keys = {checkpoints.rename_motion_key(key) for key in state}
    if base.state_dict().keys() - keys:
        part = checkpoints.Part("", "", {"": checkpoints.MODEL})
        missing = checkpoints.missing_files(part, config)
        if missing:
            raise FileNotFoundError(
                f"{motion} does not hold the whole UNet, as the published one does, so the weights of the base's UNet "
                f"must be there, but are missing: {', '.join(missing)}"
            )
        base = checkpoints.load_pretrained(UNet2DConditionModel, config, dtype)
    return checkpoints.motion_unet(base, state, source=motion)


# With small random weights

_VOCABULARY = [*(chr(c) for c in range(33, 127)), *(f"{chr(c)}</w>" for c in range(33, 127))]
_VOCABULARY += ["<|startoftext|>", "<|endoftext|>"]
_START, _END = len(_VOCABULARY) - 2, len(_VOCABULARY) - 1


def tiny_magic_animate(cls, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
    """All parts of a MagicAnimatePipeline, small and random; the same for the same seed."""
    from diffusers import ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextConfig(
        vocab_size=len(_VOCABULARY), hidden_size=tiny.TEXT_CHANNELS, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=_START, eos_token_id=_END, pad_token_id=_END,
    )  # fmt: skip
    controlnet = {key: value for key, value in tiny.UNET.items() if key != "up_block_types"}

    def make():
        return {
            "vae": tiny.vae(),
            "text_encoder": CLIPTextModel(text),
            "tokenizer": _tokenizer(),
            "unet": tiny.motion_unet(MagicAnimateUNet),
            "controlnet": ControlNetModel(**controlnet, conditioning_embedding_out_channels=(8, 8, 16, 16)),
            "appearance_encoder": UNet2DConditionModel(**tiny.UNET),
        }

    return {**tiny.made(seed, dtype, make), "scheduler": original_scheduler()}


def _tokenizer():
    """CLIP's tokenizer with letters for words."""
    from transformers import CLIPTokenizer

    vocabulary = {token: i for i, token in enumerate(_VOCABULARY)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
