"""Switching calibrated references on and off on a diffusers pipeline."""

import os
from pathlib import Path

import numpy as np
from diffusers import UNet2DConditionModel, UNetMotionModel

from tpc_fast import _checks
from tpc_fast.calibration import Calibration
from tpc_fast.diffusion.encoder import BLOCKS, ReferenceEncoder, self_attention_names
from tpc_fast.diffusion.hooks import CalibrationState, UNetHook
from tpc_fast.diffusion.long_video import apply_windows, remove_windows
from tpc_fast.diffusion.processor import ReferenceAttnProcessor
from tpc_fast.diffusion.reference import CalibratedReference
from tpc_fast.diffusion.windows import context_windows
from tpc_fast.layout import CALIBRATION_FILE
from tpc_fast.propagation import PropagationPlan

# Processors that compute plain self-attention, each in its way.
_PLAIN = {"AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor", "FusedAttnProcessor2_0"}
_ATTRIBUTE = "_tpc_fast_calibration"


class _Attached:
    """What `remove_calibration` needs to take off."""

    def __init__(self, hook, processors):
        self.hook, self.processors, self.windows = hook, processors, False


def apply_calibration(
    pipe,
    reference: CalibratedReference | Calibration | str | os.PathLike,
    encoder: ReferenceEncoder | None = None,
    *,
    group_size: int = 4,
    mode: str = "random",
    blocks: str = "midup",
    seed: int = 0,
    bank_refresh: int = 1,
    window: int | None = 16,
    overlap: int = 4,
    closed_loop: bool = False,
) -> CalibrationState:
    """Makes a diffusers pipeline read calibrated references; `remove_calibration` undoes it.

    For pipelines with a UNetMotionModel (AnimateDiff, with ControlNet or without) or a UNet2DConditionModel (Stable
    Diffusion, where images of a batch are frames). The pipeline is called as before, with the calibration's number of
    frames and size. At each denoising step 1 + P * ceil(F / group_size) images are encoded; the conditional half of
    the batch reads them.

    Args:
        pipe: the pipeline; its class is left as it is.
        reference: a CalibratedReference; or a Calibration, the folder it was saved in, or a folder in the original's
            layout, which the pipeline's VAE encodes here.
        encoder: a ReferenceEncoder, or the UNet2DConditionModel to make one of; None for the pipeline's own
            `appearance_encoder`, if it has one.
        group_size, mode, seed: of the PropagationPlan: how many frames share an image, and who represents them.
        blocks: "midup" for the self-attentions of the mid and up blocks (as released), "full" for those of the down
            blocks too.
        bank_refresh: encode only every so many steps; 1 is exact.
        window, overlap, closed_loop: how many frames motion modules see at once, how many of them two windows share,
            and whether the last frame comes before the first: see `context_windows`. A video that is not longer than
            the window is one window of all its frames. None for what the pipeline does by itself. Windows rest where
            there are no motion modules, and while FreeNoise makes its own.

    Returns:
        The CalibrationState; set its `frames` where a call covers a part of the video.

    Raises:
        TypeError: for a pipeline without such a UNet, or an encoder that is none.
        ValueError: for an unknown option, an encoder of another architecture, a reference without the candidates that
            the plan draws from, a pipeline that has a calibration or windows already, a longer window than the motion
            modules take, processors that would be replaced, and split inference, which shows attention only a part of
            the frames.
    """
    unet = _unet(pipe)
    if getattr(unet, _ATTRIBUTE, None) is not None:
        raise ValueError("pipe has a calibration already: remove_calibration(pipe) first")
    if blocks not in BLOCKS:
        raise ValueError(f"blocks must be one of {', '.join(BLOCKS)}, but is {blocks!r}")
    if isinstance(bank_refresh, bool) or not isinstance(bank_refresh, int) or bank_refresh < 1:
        raise ValueError(f"bank_refresh must be an integer of at least 1, but is {bank_refresh!r}")
    if any(type(module).__name__ == "SplitInferenceModule" for module in unet.modules()):
        raise ValueError(
            "pipe must not split inference (enable_free_noise_split_inference): it shows attention a part of the "
            "frames and hides which; make the pipeline anew without it"
        )
    if window is not None:
        context_windows(1, window, overlap, closed_loop)  # checks them
    encoder = _encoder(pipe, encoder, blocks)
    names = self_attention_names(unet, blocks)
    _check_architecture(unet, names, encoder)
    if isinstance(reference, str | os.PathLike):
        if (Path(reference) / CALIBRATION_FILE).is_file():
            reference = Calibration.load(reference)
        else:
            reference = CalibratedReference.from_layout(reference, pipe.vae)
    if isinstance(reference, Calibration):
        plan = PropagationPlan(len(reference), group_size, mode, seed)
        reference = CalibratedReference.from_calibration(reference, pipe.vae, plan)
    elif isinstance(reference, CalibratedReference):
        plan = PropagationPlan(reference.num_frames, group_size, mode, seed)
        absent = np.setdiff1d(plan.candidates, reference.candidates)
        if reference.persons and len(absent):
            raise ValueError(
                f"reference must have the candidates that mode {mode!r} draws from, but lacks frames "
                f"{', '.join(str(frame) for frame in absent[:8])}{', ...' if len(absent) > 8 else ''}"
            )
    else:
        raise TypeError(
            f"reference must be a CalibratedReference, a Calibration or its folder, but is "
            f"{_checks.describe(reference)}"
        )
    if reference.latent.shape[1] != encoder.in_channels:
        raise ValueError(
            f"reference must have latents of {encoder.in_channels} channels, as the encoder takes them, "
            f"but has {_checks.describe(reference.latent)}"
        )
    attentions = {name: unet.get_submodule(name) for name in names}
    for name, attention in attentions.items():
        kind = type(attention.processor).__name__
        if kind not in _PLAIN:
            raise ValueError(f"{name} must have a plain attention processor, but has {kind}")

    def timesteps():
        return getattr(getattr(pipe, "scheduler", None), "timesteps", None)

    state = CalibrationState(
        reference, encoder, plan, unet, lambda: pipe.do_classifier_free_guidance, timesteps, bank_refresh
    )
    processors = [(attention, attention.processor) for attention in attentions.values()]
    for name, attention in attentions.items():
        attention.processor = ReferenceAttnProcessor(state, name, attention.processor)
    attached = _Attached(UNetHook(pipe.unet, state), processors)
    setattr(unet, _ATTRIBUTE, attached)
    if window is not None and isinstance(unet, UNetMotionModel):
        try:
            apply_windows(pipe, window, overlap, closed_loop, state)
            attached.windows = True
        except BaseException:
            remove_calibration(pipe)
            raise
    return state


def remove_calibration(pipe) -> None:
    """Takes off what `apply_calibration` put on: weights, processors and outputs are as before, bit by bit.

    Windows go with it.

    Raises:
        TypeError: for a pipeline without such a UNet.
        ValueError: if the pipeline has no calibration.
    """
    unet = _unet(pipe)
    attached = getattr(unet, _ATTRIBUTE, None)
    if attached is None:
        raise ValueError("pipe has no calibration to remove")
    attached.hook.remove()
    for attention, processor in attached.processors:
        if isinstance(attention.processor, ReferenceAttnProcessor):  # not one that came later
            attention.processor = processor
    delattr(unet, _ATTRIBUTE)
    if attached.windows:
        remove_windows(pipe)


def _unet(pipe):
    """The pipeline's UNet, out of torch.compile's wrapper."""
    unet = getattr(pipe, "unet", None)
    unet = getattr(unet, "_orig_mod", unet)
    if not isinstance(unet, UNet2DConditionModel | UNetMotionModel):
        found = "no unet" if unet is None else f"a {type(unet).__name__}"
        raise TypeError(
            f"pipe must have a UNetMotionModel or a UNet2DConditionModel, but {type(pipe).__name__} has {found}"
        )
    return unet


def _encoder(pipe, encoder, blocks) -> ReferenceEncoder:
    if encoder is None:
        encoder = getattr(pipe, "appearance_encoder", None)
    if encoder is None:
        raise ValueError(
            "encoder must be given: a ReferenceEncoder of the model's appearance encoder (a UNet2DConditionModel); "
            f"{type(pipe).__name__} has no appearance_encoder of its own"
        )
    if not isinstance(encoder, ReferenceEncoder):
        encoder = ReferenceEncoder(encoder, blocks)
    if encoder.blocks != blocks:
        raise ValueError(f"blocks must be {encoder.blocks!r}, as the encoder was made for, but is {blocks!r}")
    return encoder


def _check_architecture(unet, names, encoder):
    if encoder.names != names:
        different = sorted(set(names) ^ set(encoder.names))
        raise ValueError(
            f"encoder must have the self-attentions of the pipeline's UNet, but these are only in one of them: "
            f"{', '.join(different[:4])}{', ...' if len(different) > 4 else ''}"
        )
    for name, width in encoder.widths.items():
        if unet.get_submodule(name).to_k.in_features != width:
            raise ValueError(
                f"encoder must have the widths of the pipeline's UNet, but at {name} it has {width} channels and the "
                f"UNet {unet.get_submodule(name).to_k.in_features}"
            )
