"""What an attached pipeline knows while it runs: step, frames, representatives, bank."""

import contextlib
import math
import threading

import numpy as np
import torch
import torch.nn.functional as F

from tpc_fast.diffusion.adapter import ReferenceAdapter
from tpc_fast.diffusion.compiled import number_of
from tpc_fast.diffusion.reference import CalibratedReference
from tpc_fast.ops.attention import (
    RegionPlan,
    RegionSelection,
    TokenSums,
    check_strength,
    reference_attention,
    token_attention,
)
from tpc_fast.ops.propagation import PropagationPlan

_ATTENTIONS = {"kv": "self-attentions of the UNet", "tokens": "cross-attentions"}
_PARTS = {2: "two halves", 3: "three parts"}


class CalibrationState:
    """The state of one attached pipeline; `apply_calibration` makes it and returns it.

    Before each call of the UNet it finds the denoising step and draws that step's representatives. It encodes their
    images, unless they are encoded already (at this step, or in this run: see `ReferenceAdapter.refresh`). Then it
    chooses the visible tokens, and drops them after the call. A step ends when the timestep changes; a scheduler that
    evaluates a timestep twice keeps its bank. A run ends when the scheduler gets new timesteps, the timestep rises, or
    `reset` is called.

    Args:
        reference, adapter, plan: what is read, how, and which frames share an image.
        guidance: a function that says whether batches have an unconditional first part.
        timesteps: a function that returns the scheduler's timesteps, an object that is new in every run; or None.
        bank_refresh: for how many steps a bank serves.
        strength: how much what is read counts: see `reference_attention` and `token_attention`.
        start_step, end_step: the first step that reads, and the first that does not any more; None: all read.

    Attributes:
        enabled: False turns the pipeline back into what it was, bit by bit; True turns it on again.
        frames: which frames of the video the next call of the UNet covers, in order; None for all of them. They may
            repeat. Windows and frame by frame pipelines set it, or use `covering`.
        part: which of `frames` that call covers, if it is cut into windows (`apply_windows`); None for all.
        step: the denoising step of the run, from 0; -1 before its first call.
        resting: whether the call that runs reads nothing, because of its step or of a strength of 0.
        encoded: how many images the encoder has encoded in this run.
        attentions: name -> the attention that reads; number: of this state, for `tpc_fast.diffusion.compiled`.
    """

    def __init__(
        self,
        reference: CalibratedReference,
        adapter: ReferenceAdapter,
        plan: PropagationPlan,
        guidance,
        timesteps=None,
        bank_refresh: int = 1,
        strength: float = 1.0,
        start_step: int = 0,
        end_step: int | None = None,
    ):
        check_strength(strength, 1 if adapter.kind == "tokens" else math.inf)
        for name, value in (("start_step", start_step), ("end_step", end_step)):
            if (value is not None or name == "start_step") and (type(value) is not int or value < 0):
                raise ValueError(f"{name} must be an integer from 0, but is {value!r}")
        self.strength, self.start_step, self.end_step = strength, start_step, end_step
        if adapter.kind == "kv":  # masks choose what is read; tokens are read whole
            reference = reference.with_fallbacks()
        self.reference, self.adapter, self.plan, self.bank_refresh = reference, adapter, plan, bank_refresh
        self._candidates = np.searchsorted(reference.candidates, plan.candidates)  # of the plan, in the reference
        self._attention = {"kv": reference_attention, "tokens": token_attention}[adapter.kind]
        self.number = number_of(self)
        self.attentions = {name: attention for name, (_, attention) in adapter.sites().items()}
        self._sites = {}  # how many there are in every reader
        for reader, _ in adapter.sites().values():
            self._sites[id(reader)] = self._sites.get(id(reader), 0) + 1
        self._depth = max(len(reader.down_blocks) for reader, _ in adapter.sites().values())  # how many grids there are
        self._guidance, self._timesteps = guidance, timesteps
        self._regions: dict[tuple, RegionPlan] = {}  # by grid and device
        self._selections: dict[tuple, RegionSelection] = {}  # of this call, by grid and device
        self._same_text = self._schedule = None  # what was looked at last, so that nobody waits for it again
        self.enabled = True
        self.frames = self.part = None
        self._open = self.resting = False
        self._thread = None  # in which the call runs that is open
        self.reset()

    def reset(self) -> None:
        """Forgets the run: the next call of the UNet is step 0. Between runs this happens by itself."""
        self._open = False
        self.start(0)
        self._run = None

    def start(self, step: int = 0) -> None:
        """Begins a run whose first call of the UNet is of this step; for loops that resume one in its middle."""
        self.step, self.encoded = step - 1, 0
        self._run = None if self._timesteps is None else self._timesteps()
        self._timestep = self._representatives = None
        self._new_bank()
        self._keys: dict[str, torch.Tensor] = {}
        self._values: dict[str, torch.Tensor] = {}

    def _new_bank(self):
        self._rows: dict[int, int] = {}  # image (0 the reference, 1 + p * U + candidate) -> row of the bank
        self._pending: dict[str, list] = {}  # encoded, not yet projected to keys and values

    @contextlib.contextmanager
    def covering(self, frames):
        """Inside it, calls of the UNet cover these frames of the video."""
        before, self.frames = self.frames, frames
        try:
            yield self
        finally:
            self.frames = before

    # Around a call of the UNet

    def open(self, sample: torch.Tensor, timestep, encoder_hidden_states: torch.Tensor, reader=None) -> None:
        """Prepares for one call of a reader (None: the only one) with these arguments; the hook on it does this.

        Raises:
            ValueError: for another number of frames or another size than the reference has, and prompts that differ.
            RuntimeError: while a call in another thread is open.
        """
        thread = threading.current_thread()
        if self._open and self._thread is not thread and self._thread.is_alive():
            raise RuntimeError(
                "the UNet is called in two threads at once, which would share one calibration: give each thread a "
                "pipeline with a UNet of its own (after an interrupted call: CalibrationState.reset)"
            )
        self._thread = thread
        self._open = self.resting = False
        frames = self._covered(sample)
        self._begin_step(timestep)
        self.resting = not (self.start_step <= self.step < (math.inf if self.end_step is None else self.end_step))
        if self.resting or not self.strength:
            self.resting = True
            return
        drawn = self._candidates[self._representatives[self.plan.group_of[frames]]]
        persons, count = self.reference.persons, len(self.reference.candidates)
        self._encode([0, *(1 + p * count + int(u) for p in range(persons) for u in np.unique(drawn))],
                     timestep, encoder_hidden_states)  # fmt: skip
        rows = [[self._rows[1 + p * count + int(u)] for u in drawn] for p in range(persons)]
        rows = np.array(rows, np.int64).reshape(persons, len(frames))
        self._selection, self._selections = (frames, drawn, rows), {}
        self._grids = token_grids(sample.shape[-2:])
        self._open = True
        self._read, self._expected = 0, self._sites[id(reader)] if reader is not None else len(self.adapter.sites())

    def close(self) -> None:
        """After the call: nothing can read the bank until the next `open`.

        Raises:
            RuntimeError: if not all self-attentions of the UNet read it.
        """
        if not self._open:
            return
        self._open = False
        if self._read != self._expected:
            raise RuntimeError(
                f"{self._read} of {self._expected} {_ATTENTIONS[self.adapter.kind]} read the calibrated reference: "
                "their processors were replaced after apply_calibration; set them before it"
            )

    def abandon(self) -> None:
        """After a call that failed; one that another thread has open goes on."""
        if self._thread is threading.current_thread():
            self._open = False

    def _covered(self, sample):
        """The frames that this call covers; which rows are conditional, `self._cond`."""
        guided = bool(self._guidance())
        batch, is_video = sample.shape[0], sample.ndim == 5
        parts = self.adapter.parts if guided else 1
        if batch % parts:
            raise ValueError(f"with guidance, the UNet must be called with {_PARTS[parts]}, but its batch is {batch}")
        self._check_size(sample.shape[-2:])
        frames = np.arange(self.plan.num_frames) if self.frames is None else np.asarray(self.frames, np.int64)
        if frames.ndim != 1 or not len(frames) or frames.min() < 0 or frames.max() >= self.plan.num_frames:
            raise ValueError(
                f"frames must be a list of frames from 0 to {self.plan.num_frames - 1}, but is {self.frames}"
            )
        if self.part is not None:
            frames = frames[self.part]
        per_part = batch // parts
        covered = sample.shape[2] if is_video else per_part
        if covered != len(frames):
            raise ValueError(
                f"the UNet is called with {covered} frames, but the calibration "
                f"{'has' if self.frames is None else 'is told to cover'} {len(frames)}: call the pipeline with "
                "num_frames as calibrated, or say which frames a call covers (CalibrationState.frames)"
            )
        rows = batch * covered if is_video else batch
        self._cond = self.adapter.rows(rows, guided)
        self._videos = per_part if is_video else 0
        return frames

    def _check_size(self, size):
        """Latents must be those of the masks: of the bank, where there is one, else of their aspect ratio."""
        want = self.reference.latent.shape[-2:]
        if self.adapter.kind == "tokens":
            height, width = self.reference.size
            want = size if size[0] * width == size[1] * height else (height, width)
        if size != want:
            raise ValueError(
                f"the pipeline must make latents of the reference's size, {want[0]} x {want[1]}, but makes "
                f"{size[0]} x {size[1]}: calibrate to the size (height, width) that the pipeline is called with"
            )

    def _begin_step(self, timestep):
        run = None if self._timesteps is None else self._timesteps()
        if run is not self._run:
            self.reset()
            self._run = run
        if timestep is self._timestep:
            return
        value = self._value_of(timestep)
        if self._timestep is not None and value == self._value:
            return
        if self._timestep is not None and self._run is None and value > self._value:
            self.reset()
        self._timestep, self._value = timestep, value
        self.step += 1
        since = self.step % self.bank_refresh
        if since == 0 or self._representatives is None:
            if self.adapter.refresh == "step":
                self._new_bank()
            self._representatives = self.plan.representatives(self.step - since)

    def _value_of(self, timestep) -> float:
        """The timestep as a number. Those of a scheduler that lie on a device are read once a run, all at once."""
        if not torch.is_tensor(timestep):
            return float(timestep)
        run = self._run
        if torch.is_tensor(run) and run.ndim == 1 and run.is_contiguous() and timestep.dtype == run.dtype:
            place = (timestep.data_ptr() - run.data_ptr()) // run.element_size()
            if timestep.untyped_storage().data_ptr() == run.untyped_storage().data_ptr() and 0 <= place < len(run):
                seen = run, _version(run)
                if not _same(seen, self._schedule and self._schedule[0]):
                    self._schedule = seen, run.tolist()
                return float(self._schedule[1][place])
        return float(timestep.flatten()[0])

    @torch.no_grad()
    def _encode(self, wanted, timestep, text):
        """Images that are not in the bank yet."""
        missing = [image for image in wanted if image not in self._rows]
        if not missing:
            return
        reference, count = self.reference, len(self.reference.candidates)
        features = [
            reference.calibrated_latents[divmod(image - 1, count)][None] if image else reference.latent
            for image in missing
        ]
        features, text = torch.cat(features), self._conditional(text)
        limit, first = max(1, self._cond.stop), len(self._rows)  # never more images at once than the UNet itself takes
        for part in features.split(limit):
            for name, hidden in self.adapter.encode(part, timestep, text).items():
                self._pending.setdefault(name, []).append((slice(first, first + len(part)), hidden))
            first += len(part)
        self._rows |= {image: len(self._rows) + i for i, image in enumerate(missing)}
        self.encoded += len(missing)

    def _conditional(self, text):
        """[1, tokens, channels]: the conditional text of a batch, which must be the same for all its videos."""
        per_row = (self._cond.stop - self._cond.start) * len(text) // self._cond.stop
        whole, text = text, text[-per_row:]
        step = per_row // self._videos if self._videos else 1
        others = text[step::step]
        seen = whole, _version(whole), step
        if len(others) and not _same(seen, self._same_text):
            if not bool((others == text[:1]).all()):  # waits for the device, once for a text
                raise ValueError("the prompts of a batch must be the same: the reference is encoded with one text")
            self._same_text = seen
        return text[:1]

    # Inside it

    @torch.compiler.disable
    def attend(self, name: str, attn, q, k, v) -> torch.Tensor:
        """Attention of one layer, [B, N, H, d]; its bank is projected to keys and values once."""
        if self.resting:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        if not self._open:
            raise RuntimeError(
                "the UNet runs without the hook of apply_calibration, which was lost or bypassed: "
                "call the UNet itself, and apply_calibration after compiling it; gradient checkpointing, which runs "
                "blocks once more when the call is over, does not go with it"
            )
        batch, tokens = q.shape[:2]
        if batch != self._cond.stop:
            raise RuntimeError(
                f"attention must see all {self._cond.stop} frames of the batch at once, but sees {batch}: "
                "split inference (enable_free_noise_split_inference) does not work with calibrated references"
            )
        if tokens not in self._grids:
            raise RuntimeError(f"no grid of the UNet has {tokens} tokens, but the attention {name} does")
        self._read += 1
        keys, values = self._project(name, attn, k)
        place = self._grids[tokens], q.device
        if place not in self._selections:
            self._selections[place] = self._region_plan(*place).select(*self._selection)
        return self._attention(q, k, v, keys, values, self._selections[place], self._cond, strength=self.strength)

    def _project(self, name, attn, like):
        pending = self._pending.pop(name, [])
        size = len(self._rows)
        for store in (self._keys, self._values):
            old = store.get(name)
            if old is None or len(old) < size or old.shape[1:] != like.shape[1:] or old.dtype != like.dtype:
                store[name] = like.new_empty(size, *like.shape[1:])
                if old is not None and pending and (kept := pending[0][0].start):
                    store[name][:kept] = old[:kept]
        for place, hidden in pending:
            hidden = hidden.to(like.dtype)
            self._keys[name][place] = attn.to_k(hidden).view(-1, *like.shape[1:])
            self._values[name][place] = attn.to_v(hidden).view(-1, *like.shape[1:])
        return self._keys[name], self._values[name]

    def _region_plan(self, grid, device) -> RegionPlan:
        if (grid, device) not in self._regions:
            self._plan_regions(grid, device)
        return self._regions[grid, device]

    def _plan_regions(self, grid, device) -> None:
        """Plans of this grid and of the others of the model, summed from the finest: pixels are read once."""
        reference, (height, width) = self.reference, self.reference.size
        masks = [(reference.pose_masks, "pose_masks", 4)]
        if self.adapter.kind == "kv":
            masks += [(reference.calibrated_masks, "calibrated_masks", 4), (reference.reference_masks, "masks", 3)]
        pose, *others = (TokenSums.of(tensor.to(device), name, ndim) for tensor, name, ndim in masks)
        grids = [(h, w) for h, w in list(self._grids.values())[: self._depth] if h <= height and w <= width]
        for each in dict.fromkeys([*grids, grid]):
            if self.adapter.kind == "tokens":
                count, length = len(reference.candidates), reference.latent.shape[1]
                regions = RegionPlan.of_tokens(pose, each, count, length)
            else:
                regions = RegionPlan(pose, *others, each, reference.valid, reference.reference_valid)
            self._regions[each, device] = regions


def _same(seen, before) -> bool:
    """The same tensor, unchanged, looked at in the same way."""
    return before is not None and seen[1] is not None and seen[0] is before[0] and seen[1:] == before[1:]


def _version(tensor) -> int | None:
    """How often a tensor was written to; None where that is not counted, in inference mode."""
    return None if tensor.is_inference() else tensor._version


def token_grids(size) -> dict[int, tuple[int, int]]:
    """Number of tokens -> (h, w) for latents of this size and all that halving makes of it, rounded up."""
    h, w = (int(side) for side in size)
    grids = {}
    while True:
        grids.setdefault(h * w, (h, w))
        if (h, w) == (1, 1):
            return grids
        h, w = math.ceil(h / 2), math.ceil(w / 2)
