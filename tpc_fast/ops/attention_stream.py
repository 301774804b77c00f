"""Regions of a stream: the frames of some slots, each of which can be filled anew, at all token resolutions at once."""

import numpy as np
import torch

from tpc_fast.ops.attention import RegionPlan, RegionSelection, TokenSums


class RegionStream:
    """A ring of slots, each of a few frames and candidate images, with a `RegionPlan` per grid; of constant size.

    Args:
        reference_masks: [P, H, W], see `RegionPlan`.
        grids: (h, w) of the tokens, the finest first.
        slots: S.
        frames: n, of a slot.
        candidates: u, images of every person in a slot.
        reference_valid: [H, W], see `RegionPlan`.

    Attributes:
        plans: number of tokens -> RegionPlan of S * n frames and S * u candidates, slot after slot.

    Raises:
        TypeError, ValueError: as `RegionPlan`.
    """

    def __init__(self, reference_masks, grids, slots: int, frames: int, candidates: int, reference_valid=None):
        self.frames, self.candidates = frames, candidates
        persons, height, width = reference_masks.shape
        empty = torch.zeros(1, dtype=torch.uint8, device=reference_masks.device)
        pose, calibrated = (
            TokenSums(empty.expand(persons, slots * count, height, width)) for count in (frames, candidates)
        )
        reference = TokenSums.of(reference_masks, "reference_masks", 3)
        self.plans = {
            h * w: RegionPlan(pose, calibrated, reference, (h, w), reference_valid=reference_valid) for h, w in grids
        }

    def write(self, slot: int, pose_masks, calibrated_masks, valid=None) -> None:
        """Fills a slot; selections that were made before must not be read again.

        Args:
            slot: from 0.
            pose_masks: [P, n, H, W]; calibrated_masks: [P, u, H, W]; valid: [H, W] or None: see `RegionPlan`.

        Raises:
            TypeError, ValueError: as `RegionPlan`.
        """
        pose, calibrated = TokenSums.of(pose_masks, "pose_masks", 4), TokenSums.of(calibrated_masks, "masks", 4)
        frames, candidates = (slice(slot * count, (slot + 1) * count) for count in (self.frames, self.candidates))
        for plan in self.plans.values():
            plan.replace(frames, pose, candidates, calibrated, valid)

    def select(self, slots, candidates, rows, reference_rows) -> dict[int, RegionSelection]:
        """What one call reads of these slots, in this order: number of tokens -> RegionSelection.

        Args:
            slots: m of them.
            candidates: [m, n] integers from 0 to u - 1, which candidate of its slot each frame reads.
            rows: [P, m, n], where that lies in the bank; reference_rows: [m, n], where the reference lies.

        Raises:
            ValueError: as `RegionPlan.select`.
        """
        slots = np.asarray(slots, np.int64)[:, None]
        frames = (slots * self.frames + np.arange(self.frames)).ravel()
        candidates = (slots * self.candidates + candidates).ravel()
        rows, reference_rows = np.asarray(rows).reshape(-1, len(frames)), np.ravel(reference_rows)
        return {tokens: plan.select(frames, candidates, rows, reference_rows) for tokens, plan in self.plans.items()}
