"""Switching calibrated references on and off on a diffusers pipeline: what is put on its models, and taken off."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel, UNetMotionModel

from tpc_fast import _checks
from tpc_fast.calibration.result import Calibration
from tpc_fast.diffusion.adapter import KeyValueAdapter, ReferenceAdapter
from tpc_fast.diffusion.compiled import attend_call, close_call, number_of_reader, open_call
from tpc_fast.diffusion.encoder import ReferenceEncoder, bare
from tpc_fast.diffusion.reference import CalibratedReference
from tpc_fast.diffusion.state import CalibrationState
from tpc_fast.diffusion.windows import apply_windows, context_windows, remove_windows
from tpc_fast.media.files import CALIBRATION_FILE
from tpc_fast.ops.propagation import GROUP_SIZE, MODE, PropagationPlan

_ATTRIBUTE = "_tpc_fast_calibration"
_READ = ("sample", "timestep", "encoder_hidden_states")  # of a call of a UNet or ControlNet, in this order
# Processors that compute plain attention, each in its way.
_PLAIN = {"AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor", "FusedAttnProcessor2_0"}


class _Attached:
    """What `remove_calibration` needs to take off. In a copy of the model, pickled or not, it is None."""

    def __init__(self, remove):
        self.remove, self.windows = remove, False

    def __reduce__(self):
        return _itself, (None,)


def _itself(value):
    return value


class _ProgressBar:
    """Stands before the progress bar of a pipeline, which every one of diffusers opens before its first step: that is
    where it is seen that the UNet is another than the one with the calibration."""

    def __init__(self, pipe, unet):
        self.pipe, self.unet = pipe, unet

    def __call__(self, *args, **options):
        if bare(getattr(self.pipe, "unet", None)) is not self.unet:
            raise RuntimeError(
                "pipe.unet was replaced after apply_calibration, and the new one has no calibration: call "
                "remove_calibration(pipe) and apply_calibration again"
            )
        return type(self.pipe).progress_bar(self.pipe, *args, **options)

    def __reduce__(self):
        return _plain_progress_bar, (self.pipe,)  # of a copy of the pipeline, which has no calibration


def _plain_progress_bar(pipe):
    return functools.partial(type(pipe).progress_bar, pipe)


def apply_calibration(
    pipe,
    reference: CalibratedReference | Calibration | str | os.PathLike,
    encoder: ReferenceEncoder | ReferenceAdapter | None = None,
    *,
    group_size: int = GROUP_SIZE,
    mode: str = MODE,
    blocks: str | None = None,
    seed: int = 0,
    bank_refresh: int = 1,
    window: int | None = 16,
    overlap: int = 4,
    closed_loop: bool = False,
    guidance: bool | None = None,
    strength: float = 1.0,
    start_step: int = 0,
    end_step: int | None = None,
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
        encoder: a ReferenceEncoder, or the UNet2DConditionModel to make one of; or a ReferenceAdapter, for models that
            take a reference otherwise; None for the pipeline's own (`reference_adapter`), if it has one.
        group_size, mode, seed: of the PropagationPlan: how many frames share an image, and who represents them.
        blocks: "midup" for the self-attentions of the mid and up blocks (MagicAnimate, as released), "full" for those
            of the down blocks too; None for what the pipeline's model reads, or "midup".
        bank_refresh: encode only every so many steps; 1 is exact.
        window, overlap, closed_loop: how many frames motion modules see at once, how many of them two windows share,
            and whether the last frame comes before the first: see `context_windows`. A video that is not longer than
            the window is one window of all its frames. None for what the pipeline does by itself. Windows rest where
            there are no motion modules, and while FreeNoise makes its own.
        guidance: for denoising loops of your own around `pipe.unet`: whether its batches have an unconditional first
            half. None: the pipeline is called, and says so.
        strength: how much the reference counts, by a bias of log(strength) on the scores of its keys: 0 is off, 1 as
            the model was trained. At most 1 where it is tokens, of which calibrated ones replace the photo's.
        start_step, end_step: the first denoising step that reads, and the first that no longer does; None: to the end.

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
    _check_options(unet, bank_refresh, window, overlap, closed_loop)
    adapter = adapter_of(pipe, unet, encoder, blocks)
    reference, plan = _read(reference, adapter, group_size, mode, seed)

    def timesteps():
        return getattr(getattr(pipe, "scheduler", None), "timesteps", None)

    def guided():
        return _guided(pipe, guidance)

    state = CalibrationState(reference, adapter, plan, guided, timesteps, bank_refresh, strength, start_step, end_step)
    attached = _Attached(install(adapter, state))
    setattr(unet, _ATTRIBUTE, attached)
    pipe.progress_bar = _ProgressBar(pipe, unet)
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
    watch = vars(pipe).get("progress_bar")
    unet = watch.unet if isinstance(watch, _ProgressBar) else _unet(pipe)  # which may have been replaced since
    attached = getattr(unet, _ATTRIBUTE, None)
    if attached is None:
        raise ValueError("pipe has no calibration to remove")
    attached.remove()
    delattr(unet, _ATTRIBUTE)
    if isinstance(watch, _ProgressBar):
        del pipe.progress_bar
    if attached.windows:
        remove_windows(unet)


def install(adapter: ReferenceAdapter, state: CalibrationState) -> Callable[[], None]:
    """Makes all sites of an adapter read; returns a function that takes everything off again.

    Raises:
        ValueError: for attentions whose processor is no plain one.
    """
    adapter.check(state.reference)
    sites = adapter.sites()
    for name, (_, attention) in sites.items():
        found = type(attention.processor).__name__
        if isinstance(attention.processor, ReferenceAttnProcessor):
            raise ValueError(
                f"{name} reads a calibrated reference already, of a LiveAnimator or another pipeline: close() the one, "
                "or remove_calibration from the other"
            )
        if found not in _PLAIN:
            raise ValueError(f"{name} must have a plain attention processor, but has {found}")
    processors = [(attention, attention.processor) for _, attention in sites.values()]
    for name, (_, attention) in sites.items():
        attention.processor = _processor(state, name, attention.processor)
    readers = {id(reader): reader for reader, _ in sites.values()}
    hooks = [ReaderHook(reader, state) for reader in readers.values()]

    def remove():
        for hook in hooks:
            hook.remove()
        for attention, processor in processors:
            if isinstance(attention.processor, ReferenceAttnProcessor):  # not one that came later
                attention.processor = processor

    return remove


class ReaderHook:
    """Opens and closes a CalibrationState around every call of a UNet or ControlNet; `remove` takes it off.

    These are torch's own forward hooks: they run in `__call__`, so libraries that replace `forward` (CPU offload does,
    again and again) don't lose them.
    """

    def __init__(self, reader: torch.nn.Module, state: CalibrationState):
        self.state, self._reader, self._number = state, reader, number_of_reader(reader)
        self._handles = [
            reader.register_forward_pre_hook(self._before, with_kwargs=True),
            reader.register_forward_hook(self._after, always_call=True),
        ]

    def __reduce__(self):
        return _no_hook, ()  # of a copy of the model, which has no calibration

    def _before(self, unet, args, kwargs):
        if self.state is None or not self.state.enabled:
            return None
        named = dict(zip(_READ, args, strict=False)) | kwargs
        missing = [name for name in _READ if name not in named]
        if missing:
            raise TypeError(f"the UNet must be called with {', '.join(sorted(missing))}")
        sample, timestep, text = (named[name] for name in _READ)
        if not torch.compiler.is_compiling():
            self.state.open(sample, timestep, text, self._reader)
            return None
        if not torch.is_tensor(timestep):
            timestep = torch.tensor(timestep)
        sample = open_call(sample, timestep, text, self.state.number, self._number)
        return ((sample, *args[1:]), kwargs) if args else (args, kwargs | {"sample": sample})

    def _after(self, unet, args, output):
        if self.state is None:
            return None
        if torch.compiler.is_compiling():
            if not self.state.enabled:
                return None
            sample = close_call(output[0], self.state.number)
            return (sample, *output[1:]) if isinstance(output, tuple) else type(output)(sample)
        if output is None:  # it failed: its own error is what the user must see
            self.state.abandon()
        else:
            self.state.close()
        return None

    def remove(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()


def _no_hook() -> ReaderHook:
    hook = ReaderHook.__new__(ReaderHook)
    hook.state, hook._reader, hook._handles = None, None, []
    return hook


class ReferenceAttnProcessor:
    """Attention whose conditional rows see the visible tokens of the bank: self-attention too, cross-attention instead.

    Off (outside a UNet call that `CalibrationState` has opened) it is the processor that it stands for.

    Args:
        state: the CalibrationState of the pipeline.
        name: of the attention module.
        original: the processor that it replaces.
    """

    # diffusers sets these on every processor that has them; the bank is read by our own operation with any backend.
    _attention_backend = None
    _parallel_config = None

    def __init__(self, state, name: str, original):
        self.state, self.name, self.original = state, name, original

    def __reduce__(self):
        return _itself, (self.original,)  # a copy of the model has no calibration

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        compiling = torch.compiler.is_compiling()  # whether it rests is known only when the graph runs
        if not self.state.enabled or (not compiling and self.state.resting):
            return self.original(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            project(x).unflatten(2, (attn.heads, -1))
            for project, x in ((attn.to_q, hidden_states), (attn.to_k, seen), (attn.to_v, seen))
        )
        if compiling:
            out = attend_call(q, k, v, self.state.number, self.name)
        else:
            out = self.state.attend(self.name, attn, q, k, v)
        out = attn.to_out[0](out.flatten(2))
        return attn.to_out[1](out)


def _processor(state, name: str, original) -> ReferenceAttnProcessor:
    """One whose class makes another such without arguments: diffusers does so with all processors that it does not
    replace itself, when it loads or unloads an IP-Adapter."""

    def again(self):
        ReferenceAttnProcessor.__init__(self, state, name, original)

    return type(ReferenceAttnProcessor.__name__, (ReferenceAttnProcessor,), {"__init__": again})()


def _guided(pipe, given: bool | None) -> bool:
    """Whether the batch that comes has an unconditional first part.

    Raises:
        RuntimeError: if another pipeline calls the UNet, which shares it: its guidance and its steps are others. If no
            pipeline says so.
    """
    caller = _calling_pipeline(_unet(pipe))
    if caller is not None and caller is not pipe:
        raise RuntimeError(
            f"the UNet has a calibration of another pipeline ({type(pipe).__name__}) than the one that calls it "
            f"({type(caller).__name__}), and would read guidance and steps of that one: call remove_calibration on the "
            "former and apply_calibration on the latter"
        )
    if given is not None:
        return given
    try:
        return bool(pipe.do_classifier_free_guidance)
    except AttributeError as error:
        raise RuntimeError(
            f"{type(pipe).__name__} has not run yet and cannot say whether this batch is guided: give "
            "apply_calibration(..., guidance=True or False) in a denoising loop of your own"
        ) from error


def _calling_pipeline(unet) -> DiffusionPipeline | None:
    """The innermost pipeline with this UNet whose call is running."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            owner = frame.f_locals.get("self")
            if isinstance(owner, DiffusionPipeline) and bare(getattr(owner, "unet", None)) is unet:
                return owner
        frame = frame.f_back
    return None


def _check_options(unet, bank_refresh, window, overlap, closed_loop) -> None:
    if isinstance(bank_refresh, bool) or not isinstance(bank_refresh, int) or bank_refresh < 1:
        raise ValueError(f"bank_refresh must be an integer of at least 1, but is {bank_refresh!r}")
    if any(type(module).__name__ == "SplitInferenceModule" for module in unet.modules()):
        raise ValueError(
            "pipe must not split inference (enable_free_noise_split_inference): it shows attention a part of the "
            "frames and hides which; make the pipeline anew without it"
        )
    if window is not None:
        context_windows(1, window, overlap, closed_loop)  # checks them


def _read(reference, adapter, group_size, mode, seed) -> tuple[CalibratedReference, PropagationPlan]:
    """A reference of any kind, encoded, and the plan of the run."""
    if isinstance(reference, str | os.PathLike):
        if (Path(reference) / CALIBRATION_FILE).is_file():
            reference = Calibration.load(reference)
        else:
            reference = CalibratedReference.from_layout(reference, adapter)
    if isinstance(reference, Calibration):
        plan = PropagationPlan(len(reference), group_size, mode, seed)
        return CalibratedReference.from_calibration(reference, adapter, plan), plan
    if not isinstance(reference, CalibratedReference):
        raise TypeError(
            f"reference must be a CalibratedReference, a Calibration or its folder, but is "
            f"{_checks.describe(reference)}"
        )
    plan = PropagationPlan(reference.num_frames, group_size, mode, seed)
    absent = np.setdiff1d(plan.candidates, reference.candidates)
    if reference.persons and len(absent):
        raise ValueError(
            f"reference must have the candidates that mode {mode!r} draws from, but lacks frames "
            f"{', '.join(str(frame) for frame in absent[:8])}{', ...' if len(absent) > 8 else ''}"
        )
    return reference, plan


def _unet(pipe):
    """The pipeline's UNet, out of torch.compile's wrapper."""
    unet = bare(getattr(pipe, "unet", None))
    if not isinstance(unet, UNet2DConditionModel | UNetMotionModel):
        found = "no unet" if unet is None else f"a {type(unet).__name__}"
        raise TypeError(
            f"pipe must have a UNetMotionModel or a UNet2DConditionModel, but {type(pipe).__name__} has {found}"
        )
    return unet


def adapter_of(pipe, unet, encoder, blocks) -> ReferenceAdapter:
    """How a pipeline takes a reference: with an encoder or adapter that is given, or its own."""
    if isinstance(encoder, ReferenceAdapter):
        return encoder
    if encoder is None and hasattr(pipe, "reference_adapter"):
        return pipe.reference_adapter(blocks)
    if encoder is None:
        raise ValueError(
            "encoder must be given: a ReferenceEncoder of the model's appearance encoder (a UNet2DConditionModel); "
            f"{type(pipe).__name__} has none of its own"
        )
    return KeyValueAdapter(pipe, unet, encoder, blocks or "midup")
