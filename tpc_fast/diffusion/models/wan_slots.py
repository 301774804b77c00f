"""Calibrated references for every group of frames and every region of a Wan-Animate video: further reference slots.

The transformer sees the reference as its first latent frame. Here calibrated pictures are put before it, as further
frames at the same rotary time 0, without pose and face. A slot sees itself and the video; a token of the video sees the
video, and of the slots what its region lets it see (`RegionPlan`). Pipeline and transformer stay as they are.

Exact where it can be checked: slots that equal the reference change nothing. What it does to trained weights, which
never saw more than one slot, has not been seen: it is off unless asked for.
"""

import numpy as np
import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn

from tpc_fast import _checks
from tpc_fast.calibration.result import Calibration
from tpc_fast.diffusion.adapter import ReferenceAdapter
from tpc_fast.diffusion.models.wan_segments import ON_SEGMENT, check_pipeline
from tpc_fast.diffusion.reference import CalibratedReference
from tpc_fast.ops.attention import RegionPlan
from tpc_fast.ops.propagation import PropagationPlan

_PER_LATENT = 4  # frames of a latent frame, but the first
_ATTRIBUTE = "_tpc_fast_slots"


class SlotAdapter(ReferenceAdapter):
    """How Wan-Animate takes calibrated references in slots.

    Args:
        pipe: a `diffusers.WanAnimatePipeline`.
    """

    kind, refresh, parts = "slots", "once", 1

    def __init__(self, pipe):
        self.pipe = check_pipeline(pipe)

    def canvas(self, size):
        """Sides must be multiples of what the VAE and the patches scale by."""
        scale = self.pipe.vae_scale_factor_spatial * self.pipe.transformer.config.patch_size[1]
        if any(side % scale for side in size):
            raise ValueError(f"size must be multiples of {scale}, as the model needs, but is {size[0]} x {size[1]}")
        return size

    @torch.no_grad()
    def prepare(self, images, masks):
        """What the transformer gets beside the noise, [n, 4 + C, h, w]: a mask of ones, and latents."""
        device = self.pipe._execution_device
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(device, self.pipe.vae.dtype) / 127.5 - 1
        slots = [self.pipe.prepare_reference_image_latents(p[None], 1, device=device) for p in pixels]
        return torch.cat(slots)[:, :, 0]

    def sites(self):
        """The self-attentions of all blocks."""
        transformer = self.pipe.transformer
        return {f"blocks.{i}.attn1": (transformer, block.attn1) for i, block in enumerate(transformer.blocks)}

    def encode(self, features, timestep, text):
        """The slots themselves; the transformer embeds them."""
        return dict.fromkeys(self.sites(), features)

    def check(self, reference):
        """Slots must have the channels of the transformer, but the noise."""
        channels = self.pipe.transformer.config.in_channels - self.pipe.vae.config.z_dim
        if reference.latent.ndim != 4 or reference.latent.shape[1] != channels:
            raise ValueError(
                f"reference must have slots of {channels} channels, as SlotAdapter.prepare makes them, but has "
                f"{_checks.describe(reference.latent)}"
            )

    def install(self, state: "SlotState"):
        """Makes the transformer read slots; returns a function that takes everything off again."""
        self.check(state.reference)
        pipe, transformer = self.pipe, self.pipe.transformer
        handles = [
            transformer.patch_embedding.register_forward_pre_hook(state.add_slots),
            transformer.pose_patch_embedding.register_forward_hook(lambda _, args, pose: state.before(pose, 2)),
            transformer.face_encoder.register_forward_hook(lambda _, args, motion: state.before(motion, 1)),
            transformer.rope.register_forward_hook(state.at_time_zero),
            transformer.norm_out.register_forward_pre_hook(state.drop_slots),
        ]
        attentions = [attention for _, attention in self.sites().values()]
        processors = [attention.processor for attention in attentions]
        for attention in attentions:
            attention.processor = SlotAttnProcessor(state, attention.processor)
        prepare = getattr(pipe, ON_SEGMENT)

        def on_segment(*args, **kwargs):
            state.begin(kwargs["start_frame"], kwargs["segment_frame_length"])
            return prepare(*args, **kwargs)

        before = vars(pipe).get(ON_SEGMENT)
        setattr(pipe, ON_SEGMENT, on_segment)

        def remove():
            for handle in handles:
                handle.remove()
            for attention, processor in zip(attentions, processors, strict=True):
                attention.processor = processor
            if before is None:
                delattr(pipe, ON_SEGMENT)
            else:
                setattr(pipe, ON_SEGMENT, before)

        return remove


class SlotState:
    """Which slots the segment that is being made has, and who sees what of them.

    Args:
        reference: with slots (`SlotAdapter.prepare`) instead of latents.
        group_size: latent frames (of four frames each, the first of one) that share a calibrated picture.
        patch: tokens are so many latents high and wide.

    Attributes:
        enabled: False turns the pipeline back into what it was, bit by bit.
    """

    def __init__(self, reference: CalibratedReference, group_size: int, patch: int):
        if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
            raise ValueError(f"group_size must be an integer from 1, but is {_checks.describe(group_size)}")
        self.reference, self.group_size, self.enabled = reference, group_size, True
        self._grid = tuple(side // patch for side in reference.latent.shape[-2:])
        self._slots, self.sets = reference.latent[:0], []

    def begin(self, start: int, length: int) -> None:
        """Chooses for a segment of the video: its first frame, and how many frames it has (padding counts)."""
        reference, persons = self.reference, self.reference.persons
        last = reference.num_frames - 1
        stops = np.arange(start + 1, start + length + 1, _PER_LATENT)
        frames = [np.arange(max(start, stop - _PER_LATENT), stop).clip(0, last) for stop in stops]
        group_of = np.arange(len(frames)) // self.group_size
        groups = int(group_of[-1]) + 1
        middle = [np.concatenate([f for f, g in zip(frames, group_of, strict=True) if g == i]) for i in range(groups)]
        middle = np.array([int(np.median(f)) for f in middle])
        drawn = np.abs(reference.candidates[:, None] - middle).argmin(0)
        pose = torch.stack([reference.pose_masks[:, f].amax(1) for f in frames], 1)
        plan = RegionPlan(
            pose, reference.calibrated_masks, reference.reference_masks, self._grid, reference.valid,
            reference.reference_valid,
        )  # fmt: skip
        rows = 1 + np.arange(persons)[:, None] * groups + group_of
        self.sets = _key_sets(plan.select(np.arange(len(frames)), drawn[group_of], rows), persons * groups)
        self._slots = reference.calibrated_latents[:, drawn].flatten(0, 1)

    # On the way through the transformer

    @property
    def count(self) -> int:
        """Slots besides the reference's."""
        return len(self._slots) if self.enabled else 0

    def add_slots(self, module, args):
        """The frames [B, 36, T + 1, h, w] with slots before them: noise of the reference's frame."""
        (frames,) = args
        if not self.count:
            return None
        slots = self._slots.to(frames).transpose(0, 1)[None].expand(len(frames), -1, -1, -1, -1)
        noise = frames[:, : -slots.shape[1], :1].expand(-1, -1, self.count, -1, -1)
        return (torch.cat([torch.cat([noise, slots], 1), frames], 2),)

    def before(self, features, axis):
        """Zeros for the slots before features of frames."""
        shape = list(features.shape)
        shape[axis] = self.count
        return torch.cat([features.new_zeros(shape), features], axis)

    def at_time_zero(self, module, args, rotary):
        """The slots are where the reference is."""
        tokens = self._grid[0] * self._grid[1]
        return tuple(torch.cat([x[:, :tokens]] * self.count + [x], 1) for x in rotary)

    def drop_slots(self, module, args):
        """All tokens but theirs."""
        return (args[0][:, self.count * self._grid[0] * self._grid[1] :],)


class SlotAttnProcessor:
    """Self-attention of a Wan transformer with slots; off, it is the processor that it stands for."""

    _attention_backend = None
    _parallel_config = None

    def __init__(self, state: SlotState, original):
        self.state, self.original = state, original

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        if not self.state.count:
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        q, k, v = (project(hidden_states) for project in (attn.to_q, attn.to_k, attn.to_v))
        q, k = attn.norm_q(q), attn.norm_k(k)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        q, k = (_rotated(x, *rotary_emb) for x in (q, k))
        out = torch.empty_like(q)
        for rows, keys in self.state.sets:
            rows, keys = rows.to(q.device), keys.to(q.device)
            out[:, rows] = dispatch_attention_fn(
                q[:, rows], k[:, keys], v[:, keys], backend=self._attention_backend
            ).to(out.dtype)  # fmt: skip
        return attn.to_out[1](attn.to_out[0](out.flatten(2)))


def apply_slot_references(pipe, reference, group_size: int = 5) -> SlotState:
    """Shows a WanAnimatePipeline calibrated references per group of frames and region, until it is removed.

    Not seen on trained weights, which know one slot only: an experiment. Every slot costs as much as a latent frame.
    `apply_segment_references` exchanges whole pictures, as trained.

    Args:
        pipe: a `diffusers.WanAnimatePipeline`; call it with the photo as `image`, and the calibration's frames.
        reference: a `Calibration`; or a `CalibratedReference` of slots (`from_calibration` with a `SlotAdapter`).
        group_size: latent frames, of four frames each, that share a calibrated picture.

    Raises:
        TypeError: if `pipe` or `reference` is none.
        ValueError: for a size that the model cannot take, slots that are there already, or a bad `group_size`.
    """
    adapter = SlotAdapter(pipe)
    if hasattr(pipe.transformer, _ATTRIBUTE):
        raise ValueError("pipe has slot references already: remove_slot_references(pipe) first")
    if not isinstance(reference, CalibratedReference):
        if not isinstance(reference, Calibration):
            raise TypeError(f"reference must be a Calibration or a CalibratedReference, but is {type(reference)}")
        plan = PropagationPlan(len(reference), _PER_LATENT * max(1, group_size), "nearest")
        reference = CalibratedReference.from_calibration(reference, adapter, plan)
    state = SlotState(reference, group_size, pipe.transformer.config.patch_size[1])
    setattr(pipe.transformer, _ATTRIBUTE, adapter.install(state))
    return state


def remove_slot_references(pipe) -> None:
    """Undoes `apply_slot_references`; does nothing where it was not applied."""
    if hasattr(pipe.transformer, _ATTRIBUTE):
        getattr(pipe.transformer, _ATTRIBUTE)()
        delattr(pipe.transformer, _ATTRIBUTE)


def _rotated(x, cos, sin):
    """Rotary positions of [B, N, H, d]: pairs of neighbours turn."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)


def _key_sets(selection, slots: int) -> list:
    """Tokens that see the same: (queries, keys), over [calibrated slots, reference, frames], in order."""
    tokens, frames = selection.plan.tokens, len(selection.frames)
    video = torch.arange((slots + 1) * tokens, (slots + 1 + frames) * tokens)
    rectangles = selection.rectangles()
    member = torch.zeros(frames * tokens, 1 + len(rectangles), dtype=torch.bool)  # the first column: none
    for i, (rows, _, _) in enumerate(rectangles):
        member[rows.cpu(), 1 + i] = True
    first = [((image - 1) if image else slots) * tokens for _, image, _ in rectangles]
    queries = {tuple((slot * tokens + torch.arange(tokens)).tolist()): [] for slot in range(slots + 1)}
    for slot, keys in enumerate(list(queries)):
        queries[keys].append(slot * tokens + torch.arange(tokens))
    kinds, which = torch.unique(member, dim=0, return_inverse=True)
    for i, kind in enumerate(kinds):
        seen = [first[r] + rectangles[r][2].cpu() for r in kind[1:].nonzero()[:, 0].tolist()]
        keys = tuple(torch.cat(seen).sort().values.tolist()) if seen else ()
        queries.setdefault(keys, []).append(video[which == i])
    return [
        (torch.cat(rows), torch.cat([torch.tensor(keys, dtype=torch.int64), video])) for keys, rows in queries.items()
    ]
