"""Reference attention: own tokens plus the visible tokens of calibrated references, exact, without a mask in memory.

Tokens are numbered row by row over a grid (h, w). Once rows are gathered, the pairs of tokens that see each other form
dense rectangles with disjoint keys. Attention is computed for each rectangle. The results are merged by the log of the
sum of exponentials (Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018).
"""

import copy
import dataclasses
import importlib.util
import math

import numpy as np
import torch
import torch.nn.functional as F

from tpc_fast import _checks, _dispatch
from tpc_fast.ops.propagation import PropagationPlan

MAX_PERSONS = 62  # a token's classes are the bits of an int64
BLOCK_SCORES = 1 << 24  # attention scores in memory at once where no fused operation serves
_SOURCES_KEPT = 1024  # small tables of a call each; a stream makes new ones without end
_LISTS_KEPT = 256  # lists of tokens; more windows than that only a video of thousands of frames has
_POOLED_AT_ONCE = 32  # masks of a person, where their sums need memory
MAX_HEAD_DIM = 256  # of the GPU kernel
BACKGROUND = 1  # the first bit; person p has bit p + 1


class RegionPlan:
    """Who sees whom at one token resolution: query tokens per frame, key tokens per image; built once per video.

    A query token sees all tokens of its own frame. A background token also sees the background tokens of the reference.
    A token that a person's pose mask covers also sees that person's calibrated tokens: those inside the calibrated mask
    of the image that the frame reads. Coverage of a token is the area mean of the mask over it. Covered means more than
    0.001; background means that the mean over the persons is less than 0.001. Tokens that are padding by half or more
    of their area are neither. Without persons, every token is background: all of the reference is seen.

    Args:
        pose_masks: [P, F, H, W], where the driving persons are: uint8 0..255, bool, or floating in [0, 1].
        calibrated_masks: [P, U, H, W], of the U candidate images of every person.
        reference_masks: [P, H, W], of the reference.
        grid: (h, w) of the tokens.
        valid: [H, W], nonzero where the canvas of the frames is not padding; None for all of it.
        reference_valid: [H, W], the same for the reference.

    Attributes:
        persons, frames, candidates: P, F and U.
        grid, tokens: (h, w) and N = h * w.
        classes: [F, N] int64: bit 0 for a background query token, bit p + 1 for one of person p.
        keys: [P, U, N] bool, visible tokens of the calibrated images; background_keys: [N] bool, of the reference.

    All tensors stay on the device of pose_masks.

    Raises:
        TypeError: for something that is not a tensor of these dtypes.
        ValueError: for shapes that do not match, grids finer than the masks, and more than 62 persons.
    """

    def __init__(self, pose_masks, calibrated_masks, reference_masks, grid, valid=None, reference_valid=None):
        pose = self._queries(pose_masks, grid)
        device = self.classes.device
        calibrated = self._like_pose(calibrated_masks, "calibrated_masks", 4)
        reference = self._like_pose(reference_masks, "reference_masks", 3)
        self.candidates = calibrated.masks.shape[1]
        self.classes += pose.mean_below(0.001).long() * BACKGROUND
        self.classes *= self._inside(valid, "valid").to(device)
        self.keys = calibrated.at(self.grid).above(0.001)
        self.background_keys = reference.at(self.grid).mean_below(0.001)[0]
        self.background_keys &= self._inside(reference_valid, "reference_valid").to(device)

    @classmethod
    def of_tokens(cls, pose_masks, grid, candidates: int, length: int) -> "RegionPlan":
        """For references that are tokens without a position (of an image encoder): only queries have regions.

        A query token that persons cover sees all tokens of the images of these persons; background is what nobody
        covers, padding included, so that every query has something to see. For `token_attention`.

        Args:
            pose_masks, grid: as above.
            candidates: U, images of every person.
            length: L, tokens of an image.

        Raises:
            TypeError, ValueError: as above.
        """
        plan = cls.__new__(cls)
        plan._queries(pose_masks, grid)
        device = plan.classes.device
        plan.candidates = candidates
        plan.classes += (plan.classes == 0).long() * BACKGROUND
        plan.keys = torch.ones(plan.persons, candidates, length, dtype=torch.bool, device=device)
        plan.background_keys = torch.zeros(length, dtype=torch.bool, device=device)  # they see their own tokens
        return plan

    def replace(self, frames: slice, pose_masks, candidates: slice, calibrated_masks, valid=None) -> None:
        """Other masks for some frames and candidates: the plan of a stream is a ring, which never grows.

        Lists that were made of the old ones are dropped; a RegionSelection that was made before must not be read again.

        Args:
            frames, candidates: which of the plan's.
            pose_masks, calibrated_masks, valid: of these, as above.

        Raises:
            TypeError, ValueError: as above.
        """
        pose = self._like_pose(pose_masks, "pose_masks", 4)
        calibrated = self._like_pose(calibrated_masks, "calibrated_masks", 4)
        for name, masks, whole, part in (
            ("pose_masks", pose.masks, self.frames, frames),
            ("calibrated_masks", calibrated.masks, self.candidates, candidates),
        ):
            if masks.shape[1] != len(range(whole)[part]):
                raise ValueError(f"{name} must be {len(range(whole)[part])}, but is {_checks.describe(masks)}")
        coverage = pose.at(self.grid)
        classes = _classes(coverage) + coverage.mean_below(0.001).long() * BACKGROUND
        self.classes[frames] = classes * self._inside(valid, "valid").to(classes.device)
        self.keys[:, candidates] = calibrated.at(self.grid).above(0.001)
        for person in range(self.persons):
            for candidate in range(self.candidates)[candidates]:
                self._key_lists.pop((person, candidate), None)
        self._row_lists.clear()
        self._tiles.clear()
        self._key_tables = None

    def _queries(self, pose_masks, grid) -> "_Coverage":
        """Sets what query tokens are, by persons; returns the coverage of the masks."""
        sums = TokenSums.of(pose_masks, "pose_masks", 4)
        persons, frames, height, width = sums.masks.shape
        if persons > MAX_PERSONS:
            raise ValueError(f"pose_masks must be of at most {MAX_PERSONS} persons, but is of {persons}")
        h, w = (int(side) for side in grid)
        if not (1 <= h <= height and 1 <= w <= width):
            raise ValueError(f"grid must be (h, w) of at most {height} x {width} tokens, but is {tuple(grid)}")
        self.persons, self.frames = persons, frames
        self.grid, self.tokens, self._size = (h, w), h * w, (height, width)
        coverage = sums.at(self.grid)
        self.classes = _classes(coverage)
        self._key_lists: dict[tuple[int, int], torch.Tensor] = {}
        self._row_lists: dict[tuple, list] = {}
        self._tiles: dict[tuple, tuple] = {}
        self._sources: dict[tuple, torch.Tensor] = {}
        self._key_tables = None
        return coverage

    def _like_pose(self, masks, name, ndim) -> "TokenSums":
        """Masks of the persons and pixels of pose_masks, on their device; those of the reference as of one image."""
        sums = TokenSums.of(masks, name, ndim)
        masks = sums.masks
        if masks.shape[0] != self.persons or masks.shape[-2:] != self._size:
            raise ValueError(
                f"{name} must be of the {self.persons} persons and {self._size[0]} x {self._size[1]} pixels of "
                f"pose_masks, but is {_checks.describe(masks)}"
            )
        return sums if masks.device == self.classes.device else TokenSums(masks.to(self.classes.device))

    def _inside(self, valid, name) -> torch.Tensor:
        """[N] bool: tokens that are not padding."""
        if valid is None:
            return torch.ones(self.tokens, dtype=torch.bool)
        return ~_Coverage(_valid(valid, name, self._size), self.grid).below(0.5).flatten()

    def select(self, frames, candidates, rows, reference_rows=None) -> "RegionSelection":
        """The part of the plan that one call of `reference_attention` reads.

        Args:
            frames: [n] integers, the frames of the video that the call covers, in its order; they may repeat.
            candidates: [n] or [P, n] integers, which candidate image each of them reads.
            rows: [P, n] integers, where that image lies in the bank.
            reference_rows: [n] integers, where the reference lies that each of them reads; None: at 0.

        Raises:
            ValueError: for frames, candidates or rows that there are not.
        """
        frames, rows = np.asarray(frames, np.int64), np.asarray(rows, np.int64)
        if frames.ndim != 1 or (len(frames) and not (0 <= frames.min() and frames.max() < self.frames)):
            raise ValueError(f"frames must be a list of frames from 0 to {self.frames - 1}, but is {frames.tolist()}")
        shape = self.persons, len(frames)
        candidates = np.broadcast_to(np.asarray(candidates, np.int64), shape)
        if candidates.size and not (0 <= candidates.min() and candidates.max() < self.candidates):
            raise ValueError(
                f"candidates must be from 0 to {self.candidates - 1}, but are from {candidates.min()} to "
                f"{candidates.max()}"
            )
        if rows.shape != shape or (rows.size and rows.min() < 1):
            raise ValueError(f"rows must be {list(shape)} rows of the bank from 1 on, but is {rows.tolist()}")
        reference_rows = np.zeros(len(frames), np.int64) if reference_rows is None else np.asarray(reference_rows)
        if reference_rows.shape != frames.shape or (len(frames) and reference_rows.min() < 0):
            raise ValueError(
                f"reference_rows must be {len(frames)} rows of the bank from 0 on, but is {reference_rows.tolist()}"
            )
        return RegionSelection(self, frames, candidates, rows, reference_rows.astype(np.int64))

    def at(self, propagation: PropagationPlan, step: int, frames=None) -> "RegionSelection":
        """`select` for a bank of 1 + P * G images: the reference, then G representatives of every person.

        Args:
            propagation: the PropagationPlan; its candidates are those of this plan.
            step: the denoising step.
            frames: [n] frames of the video; None for all.
        """
        if propagation.num_frames != self.frames or len(propagation.candidates) != self.candidates:
            raise ValueError(
                f"propagation must be of {self.frames} frames and {self.candidates} candidates, "
                f"but is of {propagation.num_frames} and {len(propagation.candidates)}"
            )
        frames = np.arange(self.frames) if frames is None else np.asarray(frames, np.int64)
        groups = propagation.group_of[frames]
        rows = 1 + np.arange(self.persons)[:, None] * propagation.num_groups + groups
        return self.select(frames, propagation.representatives(step)[groups], rows)

    def key_list(self, person: int, candidate: int) -> torch.Tensor:
        """The visible tokens of a calibrated image, or of the reference for person -1: [m] int64."""
        key = person, candidate
        if key not in self._key_lists:
            mask = self.background_keys if person < 0 else self.keys[person, candidate]
            self._key_lists[key] = mask.nonzero()[:, 0]
        return self._key_lists[key]

    def row_lists(self, frames: np.ndarray, sharing: np.ndarray) -> list:
        """Query rows, numbered over the frames of a call: background first, then persons; one list per image.

        Args:
            frames: [n]; sharing: [1 + P, n], the same number where frames share an image: the reference's first.

        Returns:
            (person or -1, position of one frame that reads the image, [m] int64 rows), none of them empty.
        """
        sharing = _as_positions(sharing)  # steps draw other images, but the same frames share them
        key = frames.tobytes(), sharing.tobytes()
        if key not in self._row_lists:
            index = torch.from_numpy(frames).to(self.classes.device)
            classes = self.classes.index_select(0, index)
            lists = []
            for p in range(-1, self.persons):
                member = (classes >> (p + 1) & 1).bool()
                _, first, image = np.unique(sharing[p + 1], return_index=True, return_inverse=True)
                image = torch.from_numpy(image).to(member.device)
                for i, position in enumerate(first):
                    rows = member if len(first) == 1 else member & (image == i)[:, None]
                    lists.append((p, int(position), rows.flatten().nonzero()[:, 0]))
            _make_room(self._row_lists, _LISTS_KEPT)
            self._row_lists[key] = [entry for entry in lists if len(entry[2])]
        return self._row_lists[key]

    def key_tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All key lists, the reference's first: [1 + P * U, N] int32, filled up, and how many are in each, int32."""
        if self._key_tables is None:
            masks = torch.cat([self.background_keys[None], self.keys.flatten(0, 1)])
            lists = (~masks).to(torch.uint8).argsort(dim=1, stable=True)  # the visible ones first, in order
            self._key_tables = lists.to(torch.int32), masks.sum(1, dtype=torch.int32)
        return self._key_tables

    def sources(self, candidates: np.ndarray, rows: np.ndarray, reference_rows: np.ndarray) -> torch.Tensor:
        """For every frame and bit of a class: row of the bank, row of `key_tables`; [n + 1, 1 + P, 2] int32.

        One that was asked for before is on the device: a step that is run again uploads nothing, and can be captured.
        """
        key = candidates.shape, candidates.tobytes(), rows.tobytes(), reference_rows.tobytes()
        if key not in self._sources:
            sources = np.zeros((rows.shape[1] + 1, 1 + self.persons, 2), np.int32)
            sources[:-1, 0, 0] = reference_rows
            sources[:-1, 1:, 0] = rows.T
            sources[:-1, 1:, 1] = (1 + np.arange(self.persons)[:, None] * self.candidates + candidates).T
            _make_room(self._sources, _SOURCES_KEPT)
            self._sources[key] = torch.from_numpy(sources).to(self.classes.device, non_blocking=True)
        return self._sources[key]

    def tiles(self, frames: np.ndarray, batch: int, cond: tuple[int, int], rows: int) -> tuple:
        """Query tiles of one class each: [T, 5] int64, and the tokens that they number: [n + 1, N] int32.

        The last row of tokens is in order, for rows that read no bank.
        """
        key = frames.tobytes(), batch, cond, rows
        if key not in self._tiles:
            device = self.classes.device
            order = self.classes.argsort(dim=1, stable=True)
            classes = self.classes.gather(1, order).cpu().numpy()[frames]
            per_frame = []
            for i, row in enumerate(classes):
                starts = np.flatnonzero(np.diff(row, prepend=-1))
                per_frame.append(_cut(i, starts, np.append(starts[1:], len(row)), row[starts], rows))
            plain = _cut(len(frames), np.zeros(1, int), np.full(1, self.tokens), np.zeros(1, int), rows)
            parts = []
            for b in range(batch):
                reads = cond[0] <= b < cond[1]
                part = per_frame[(b - cond[0]) % len(frames)] if reads else plain
                parts.append(np.column_stack([np.full(len(part), b), part]))
            index = torch.from_numpy(frames).to(device)
            order = torch.cat([order.index_select(0, index), torch.arange(self.tokens, device=device)[None]])
            _make_room(self._tiles, _LISTS_KEPT)
            self._tiles[key] = torch.from_numpy(np.concatenate(parts)).to(device), order.to(torch.int32)
        return self._tiles[key]


def _as_positions(sharing: np.ndarray) -> np.ndarray:
    """Where in its row each number stands first: the same for all numbers that are shared in the same way."""
    found = [np.unique(row, return_index=True, return_inverse=True)[1:] for row in sharing]
    return np.array([first[inverse] for first, inverse in found], np.int64).reshape(sharing.shape)


def _make_room(kept: dict, count: int) -> None:
    """Drops the oldest entry if there are so many."""
    if len(kept) >= count:
        del kept[next(iter(kept))]


def _cut(frame, starts, stops, classes, rows) -> np.ndarray:
    """Runs of one class cut into tiles: [T, 4] of frame, first place, count, class."""
    counts = -(-(stops - starts) // rows)
    run = np.repeat(np.arange(len(starts)), counts)
    first = starts[run] + rows * (np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts))
    return np.column_stack([np.full(len(run), frame), first, np.minimum(rows, stops[run] - first), classes[run]])


@dataclasses.dataclass(frozen=True)
class RegionSelection:
    """What one call of `reference_attention` reads of a RegionPlan; made by `select` or `at`.

    Attributes:
        plan: the RegionPlan.
        frames: [n], candidates: [P, n], rows: [P, n], reference_rows: [n], as given to `select`.
    """

    plan: RegionPlan
    frames: np.ndarray
    candidates: np.ndarray
    rows: np.ndarray
    reference_rows: np.ndarray

    def tables(self, batch: int, cond: tuple[int, int], rows: int) -> tuple:
        """What the GPU kernel reads: tiles, order, sources, key_lists, key_counts; see kernels/reference_attention.py.

        Args:
            batch: rows of the batch; cond: start and stop of those that read the bank.
            rows: query tokens per tile.
        """
        tiles, order = self.plan.tiles(self.frames, batch, cond, rows)
        sources = self.plan.sources(self.candidates, self.rows, self.reference_rows)
        return tiles, order, sources, *self.plan.key_tables()

    def rectangles(self) -> list:
        """(query rows [m], row of the bank, key tokens [l]) of every rectangle that is not empty."""
        parts = []
        images = np.concatenate([self.reference_rows[None], self.rows])
        for person, position, queries in self.plan.row_lists(self.frames, images):
            candidate = 0 if person < 0 else int(self.candidates[person, position])
            keys = self.plan.key_list(person, candidate)
            if len(keys):
                parts.append((queries, int(images[person + 1, position]), keys))
        return parts


@_checks.renamed(plan="regions")
def reference_attention(
    q, k, v, bank_k, bank_v, regions: RegionSelection, cond: slice = slice(None), backend: str | None = None,
    strength: float = 1.0,
) -> torch.Tensor:  # fmt: skip
    """Attention over a frame's own tokens and, in the conditional half, over the visible tokens of a bank.

    Exact: the same as attention over all keys with a mask, up to rounding; but no mask exists, and only visible pairs
    are computed. softmax(q k^T / sqrt(d)) v.

    Args:
        q, k, v: [B, N, H, d], floating, on one device: batch, tokens, heads, head dimension.
        bank_k, bank_v: [R, N, H, d], keys and values of the images; the reference is image 0.
        regions: a RegionSelection (`RegionPlan.select`, `RegionPlan.at`) of the frames that the rows `cond` are.
        cond: the rows of B that read the bank; they are the frames of `regions`, several times over if there are
            several videos. The others attend to their own tokens only.
        backend: "triton" for the kernel, "cpu" for torch's operations on the rectangles, on whatever device; None for
            the kernel where it serves: CUDA tensors of at most 32 bits that want no gradient, and heads of up to 256.
        strength: of the bank, from 0: each of its keys counts as so many, by a bias of log(strength) on its scores.
            0: none is read.

    Returns:
        [B, N, H, d] of the dtype of q, contiguous.

    Raises:
        TypeError: for tensors of different dtypes or devices.
        ValueError: for shapes that do not match each other or the regions.
        RuntimeError: if the backend cannot be had.
    """
    start, stop = _check(q, k, v, bank_k, bank_v, regions, cond)
    check_strength(strength)
    stop = stop if strength else start
    if _by_kernel((q, k, v, bank_k, bank_v), backend):
        return _attend_by_kernel(q, k, v, bank_k, bank_v, regions, (start, stop), strength or 1.0)
    bias = math.log(strength) if strength else 0.0
    return _attend_and_read(q, k, v, bank_k, bank_v, regions, start, stop, None, bias)


@_checks.renamed(plan="regions")
def token_attention(
    q, k, v, bank_k, bank_v, regions: RegionSelection, cond: slice = slice(None), strength: float = 1.0
) -> torch.Tensor:
    """Attention to the tokens of a reference, or of the calibrated images of the persons that cover a query token.

    For cross-attention of models whose reference is tokens of an image encoder. Where nobody covers a query, and in
    rows outside `cond`, it is plain attention over k and v, bit by bit.

    Args:
        q: [B, N, H, d]; k, v: [B, L, H, d], of the reference as the model has it.
        bank_k, bank_v: [R, L, H, d], of the images; those of the persons begin at 1.
        regions: of a `RegionPlan.of_tokens`.
        cond: as in `reference_attention`.
        strength: of the calibrated images, from 0 to 1: a key of theirs counts as so many, one of the reference's own,
            for a query that somebody covers, as so many less than 1. 0: none is read.

    Returns:
        [B, N, H, d] of the dtype of q, contiguous.

    Raises:
        TypeError, ValueError: as `reference_attention`.
    """
    start, stop = _check(q, k, v, bank_k, bank_v, regions, cond)
    check_strength(strength, 1)
    own = math.log1p(-strength) if strength < 1 else -math.inf
    bias = math.log(strength) if strength else 0.0
    return _attend_and_read(q, k, v, bank_k, bank_v, regions, start, stop if strength else start, own, bias)


def check_strength(strength: float, most: float = math.inf) -> None:
    """Raises ValueError for one that is out of range."""
    number = isinstance(strength, int | float) and not isinstance(strength, bool)
    if not number or not 0 <= strength <= most or strength == math.inf:
        wanted = "a finite number from 0" if most == math.inf else f"a number from 0 to {most}"
        raise ValueError(f"strength must be {wanted}, but is {strength!r}")


def _attend_and_read(q, k, v, bank_k, bank_v, regions, start, stop, own, bias):
    """Attention over k and v, and over the rectangles, whose scores get a bias; `own`: that of k and v for queries of a
    rectangle, None for 0."""
    out, lse = _attend(*(x.transpose(1, 2) for x in (q, k, v)))
    out, lse = out.transpose(1, 2).contiguous(), lse.transpose(1, 2).contiguous()
    rectangles = _rectangles(regions) if start < stop else []
    tokens, shape = q.shape[1], out.shape
    out, lse = out.flatten(0, 1), lse.flatten(0, 1)
    for first in range(start, stop, len(regions.frames)):
        if own is not None:
            weakened = torch.zeros(lse.shape[:1], dtype=lse.dtype, device=lse.device)
            for rows, _, _ in rectangles:  # a query that several cover is in several
                weakened = weakened.index_fill(0, rows + first * tokens, own)
            lse = lse + weakened[:, None]
        for rows, image, keys in rectangles:
            rows = rows + first * tokens
            gathered = (q.flatten(0, 1)[rows], bank_k[image][keys], bank_v[image][keys])
            part, part_lse = (x[0].transpose(0, 1) for x in _attend(*(x.transpose(0, 1)[None] for x in gathered)))
            out, lse = _merge(out, lse, rows, part, part_lse + bias)
    return out.view(shape)


def _rectangles(regions: RegionSelection) -> list:
    """Of a selection, made once for all layers that read it."""
    known = vars(regions)
    if "_known_rectangles" not in known:
        known["_known_rectangles"] = regions.rectangles()
    return known["_known_rectangles"]


def _by_kernel(tensors, backend: str | None) -> bool:
    """Whether the kernel computes.

    Raises:
        ValueError, RuntimeError: for a backend that is unknown, or cannot be had.
    """
    if backend not in (None, "cpu", "triton"):
        raise ValueError(f"backend must be None, 'cpu' or 'triton', but is {backend!r}")
    q = tensors[0]
    if backend == "cpu" or (backend is None and q.device.type != "cuda"):
        return False
    if backend == "triton":
        _dispatch.resolve(q, backend)
    reasons = []
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        reasons.append(f"its kernel takes float16, bfloat16 or float32, but q is {q.dtype}")
    if q.shape[3] > MAX_HEAD_DIM:
        reasons.append(f"its kernel takes heads of up to {MAX_HEAD_DIM}, but those of q have {q.shape[3]}")
    if _wants_gradient(*tensors):
        reasons.append("its kernel computes no gradient")
    if not reasons and importlib.util.find_spec("triton") is not None:
        reasons += _too_small(q)
    elif not reasons:
        reasons.append("Triton is not installed")
    if backend == "triton" and reasons:
        raise RuntimeError("backend 'triton' cannot be had: " + "; ".join(reasons))
    return not reasons


def _too_small(q) -> list[str]:
    """Why the device of q cannot run the kernel: a reason, or none."""
    from tpc_fast.kernels import reference_attention as kernel

    needed, given = kernel.tiling(q.dtype, q.shape[3]).shared, kernel.shared_memory(q.device)
    if given is None or needed <= given:
        return []
    return [f"its kernel needs {needed} bytes of shared memory a program, but {q.device} gives {given}"]


def _attend_by_kernel(
    q, k, v, bank_k, bank_v, regions: RegionSelection, cond: tuple[int, int], strength: float
) -> torch.Tensor:
    from tpc_fast.kernels import reference_attention as kernel

    tiling = kernel.tiling(q.dtype, q.shape[3])
    tables = regions.tables(len(q), cond, tiling.rows)
    return kernel.reference_attention(
        q, k, v, bank_k, bank_v, *(table.to(q.device) for table in tables), tiling, strength
    )


def _attend(q, k, v):
    """Attention of [B, H, N, d] with its log of the sum of exponentials [B, H, N]; there must be a key."""
    if q.device.type == "cpu" and not _wants_gradient(q, k, v):
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[:2]
    # The fused operation has no gradient of its log-sum-exp, and other devices have their kernel: scores in blocks.
    outs, sums = [], []
    block = max(1, BLOCK_SCORES // max(1, q.shape[0] * q.shape[1] * k.shape[2]))
    for rows in q.split(block, 2):
        scores = (rows.float() if rows.dtype.itemsize < 4 else rows) / math.sqrt(q.shape[-1])
        scores = scores @ k.to(scores.dtype).transpose(-1, -2)
        sums.append(scores.logsumexp(-1))
        outs.append(((scores - sums[-1][..., None]).exp() @ v.to(scores.dtype)).to(q.dtype))
    return torch.cat(outs, 2), torch.cat(sums, 2)


def _merge(out, lse, rows, part, part_lse):
    """Adds attention over further, disjoint keys to some rows of out [M, H, d] and lse [M, H]: in place if it may."""
    old, own = lse[rows], out[rows]
    exact = torch.promote_types(out.dtype, lse.dtype)
    merged = torch.lerp(own.to(exact), part.to(exact), (part_lse - old).sigmoid()[..., None].to(exact)).to(out.dtype)
    new = torch.logaddexp(old, part_lse)
    if _wants_gradient(out, part):
        return out.index_copy(0, rows, merged), lse.index_copy(0, rows, new)
    return out.index_copy_(0, rows, merged), lse.index_copy_(0, rows, new)


def _wants_gradient(*tensors):
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


class TokenSums:
    """Masks [A, B, H, W], or [A, H, W] as [A, 1, H, W], and their sums over the tokens of grids: pixels are read once.

    A grid whose sides divide those of a finer one is summed from that, where the pixels divide, too: exactly the same.
    It stands for its masks in a `RegionPlan`; plans of several grids share it, the finest first.
    """

    def __init__(self, masks: torch.Tensor):
        self.masks = masks
        self._known: dict[tuple[int, int], _Coverage] = {}

    @classmethod
    def of(cls, masks, name: str, ndim: int) -> "TokenSums":
        """Of masks, which are checked; or itself."""
        if isinstance(masks, TokenSums):
            return masks
        masks = _masks(masks, name, ndim)
        return cls(masks[:, None] if ndim == 3 else masks)

    def at(self, grid: tuple[int, int]) -> "_Coverage":
        """The coverage of the tokens of a grid (h, w)."""
        if grid not in self._known:
            finer = [known for known in self._known if self._divides(known, grid)]
            coverage = self._known[min(finer)].coarser(grid) if finer else _Coverage(self.masks, grid)
            self._known[grid] = coverage
        return self._known[grid]

    def _divides(self, finer, grid) -> bool:
        if self.masks.dtype.is_floating_point:  # sums would depend on their order
            return False
        pixels = self.masks.shape[-2:]
        return all(n % fine == 0 and fine % coarse == 0 for n, fine, coarse in zip(pixels, finer, grid, strict=True))


def _classes(coverage) -> torch.Tensor:
    """[B, N] int64: bit p + 1 where person p covers a token."""
    above = coverage.above(0.001)
    classes = torch.zeros(above.shape[1:], dtype=torch.int64, device=above.device)
    for p, covered in enumerate(above):
        classes += covered.long() << (p + 1)
    return classes


class _Coverage:
    """Sums of masks [A, B, H, W] over the tokens of a grid, and comparisons of their means that are exact."""

    def __init__(self, masks, grid):
        self._full, self._grid = 255 if masks.dtype == torch.uint8 else 1, grid
        exact = torch.float64 if masks.dtype.is_floating_point else torch.int64
        if exact is torch.int64 and masks.shape[-2] * masks.shape[-1] * self._full < 1 << 31:
            exact = torch.int32  # holds the sum of a whole mask, and is several times as fast
        parts = []
        for part in masks.split(_POOLED_AT_ONCE, 1):
            part, rows = _sum_over(part, grid[0], -2, exact)
            part, columns = _sum_over(part, grid[1], -1, exact)
            parts.append(part.flatten(-2))
        if exact is torch.int32:  # which thousandfold sums exceed
            parts = [part.long() for part in parts]
        self._sums, self._area = torch.cat(parts, 1), (rows[:, None] * columns).flatten()

    def coarser(self, grid) -> "_Coverage":
        """The same of a grid whose sides divide those of this one."""
        new = copy.copy(self)
        h, w = (fine // coarse for fine, coarse in zip(self._grid, grid, strict=True))
        new._grid, blocks = grid, (grid[0], h, grid[1], w)
        new._sums = self._sums.unflatten(-1, blocks).sum((-3, -1)).flatten(-2)
        new._area = self._area.unflatten(-1, blocks).sum((-3, -1)).flatten(-2)
        return new

    def above(self, share):
        """[A, B, N] bool: mean > share."""
        return self._sums * 1000 > self._area * (self._full * round(share * 1000))

    def below(self, share):
        """[A, B, N] bool: mean < share."""
        return self._sums * 1000 < self._area * (self._full * round(share * 1000))

    def mean_below(self, share):
        """[B, N] bool: the mean over A, too, is < share; with no A there is nothing that covers."""
        if not len(self._sums):
            return torch.ones_like(self._sums.sum(0), dtype=torch.bool)
        return self._sums.sum(0) * 1000 < self._area * (self._full * len(self._sums) * round(share * 1000))


def _sum_over(masks, count, axis, dtype):
    """Sums over `count` intervals of an axis, as adaptive pooling takes them, and the lengths [count] of these."""
    length = masks.shape[axis]
    i = torch.arange(count, device=masks.device)
    start, stop = i * length // count, -(-(i + 1) * length // count)
    if length % count == 0:
        return masks.unflatten(axis, (count, length // count)).sum(axis, dtype=dtype), stop - start
    total = F.pad(masks.cumsum(axis, dtype=dtype), (1, 0) if axis == -1 else (0, 0, 1, 0))
    return total.index_select(axis, stop) - total.index_select(axis, start), stop - start


def _masks(value, name, ndim):
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, but is {_checks.describe(value)}")
    if value.dtype not in (torch.uint8, torch.bool) and not value.dtype.is_floating_point:
        raise TypeError(f"{name} must be uint8, bool or floating, but is {_checks.describe(value)}")
    if value.ndim != ndim:
        shape = {2: "[H, W]", 3: "[P, H, W]", 4: "[P, F, H, W]"}[ndim]
        raise ValueError(f"{name} must be {shape}, but is {_checks.describe(value)}")
    return value


def _valid(value, name, size):
    if _masks(value, name, 2).shape != size:
        raise ValueError(f"{name} must be of {size[0]} x {size[1]} pixels, but is {_checks.describe(value)}")
    return (value != 0)[None, None]


def _check(q, k, v, bank_k, bank_v, regions, cond) -> tuple[int, int]:
    """Start and stop of the rows that read the bank."""
    if not isinstance(regions, RegionSelection):
        raise TypeError(f"regions must be a RegionSelection (RegionPlan.select), but is {_checks.describe(regions)}")
    for name, x in (("q", q), ("k", k), ("v", v), ("bank_k", bank_k), ("bank_v", bank_v)):
        if not isinstance(x, torch.Tensor) or x.dtype != q.dtype or x.device != q.device:
            raise TypeError(
                f"{name} must be a tensor of dtype {q.dtype} on {q.device} like q, but is {_checks.describe(x)}"
            )
    tokens, length = regions.plan.tokens, len(regions.plan.background_keys)
    if q.ndim != 4 or q.shape[1] != tokens:
        raise ValueError(f"q must be [B, N, H, d] with the {tokens} tokens of regions, but is {_checks.describe(q)}")
    for name, x in (("k", k), ("v", v), ("bank_k", bank_k), ("bank_v", bank_v)):
        if x.ndim != 4 or x.shape != (len(q) if name in "kv" else len(x), length, *q.shape[2:]):
            raise ValueError(
                f"{name} must be {'[B, N, H, d]' if name in 'kv' else '[R, N, H, d]'} with the "
                f"{'shape' if name in 'kv' else 'N, H and d'} of q{f', but {length} tokens' * (length != tokens)}, "
                f"but is {_checks.describe(x)}"
            )
    if bank_k.shape != bank_v.shape:
        raise ValueError(f"bank_v must be like bank_k, {tuple(bank_k.shape)}, but is {_checks.describe(bank_v)}")
    if regions.rows.size and regions.rows.max() >= len(bank_k):
        raise ValueError(
            f"bank_k must have at least {regions.rows.max() + 1} images, but is {_checks.describe(bank_k)}"
        )
    if len(regions.frames) and regions.reference_rows.max() >= len(bank_k):
        raise ValueError(
            f"bank_k must have at least {regions.reference_rows.max() + 1} images, but is {_checks.describe(bank_k)}"
        )
    start, stop, step = cond.indices(len(q))
    count = max(stop - start, 0)
    if step != 1 or (count % max(len(regions.frames), 1) if count else 0) or (count and not len(regions.frames)):
        raise ValueError(
            f"cond must be a slice of the {len(regions.frames)} frames of regions, or a multiple of them, "
            f"but {cond} of {len(q)} is {count} rows"
        )
    return start, start + count
