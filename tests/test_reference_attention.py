"""RegionPlan and reference_attention: against naive, against the original's tensors, and by laws."""

from pathlib import Path

import numpy as np
import pytest

from tpc_fast import naive

torch = pytest.importorskip("torch")

from tpc_fast.attention import RegionPlan  # noqa: E402
from tpc_fast.propagation import PropagationPlan  # noqa: E402

pytestmark = pytest.mark.torch
GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "diffusion"


def blobs(rng, *shape, size=(37, 52), share=0.4):
    """Random 0/1 masks [*shape, H, W]: a rectangle each, and a speck."""
    masks = np.zeros((*shape, *size), np.uint8)
    for mask in masks.reshape(-1, *size):
        h, w = (max(1, int(side * share * rng.uniform(0.5, 1.5))) for side in size)
        y, x = rng.integers(0, size[0] - min(h, size[0]) + 1), rng.integers(0, size[1] - min(w, size[1]) + 1)
        mask[y : y + h, x : x + w] = 1
        mask[rng.integers(size[0]), rng.integers(size[1])] = 1
    return masks


@pytest.mark.parametrize("persons", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("size", "grid"), [((48, 64), (6, 8)), ((37, 52), (5, 9)), ((8, 8), (8, 8)), ((50, 3), (7, 1))]
)
def test_regions_agree_with_naive(rng, persons, size, grid):
    frames, group = 7, 3
    plan = PropagationPlan(frames, group, seed=int(rng.integers(100)))
    pose, calibrated = (blobs(rng, persons, frames, size=size) for _ in range(2))
    reference = blobs(rng, persons, size=size)
    valid, reference_valid = (np.ones(size, np.uint8) for _ in range(2))
    valid[: size[0] // 3] = 0
    reference_valid[:, 2 * size[1] // 3 :] = 0
    regions = RegionPlan(
        *(torch.from_numpy(255 * m) for m in (pose, calibrated, reference)), grid,
        torch.from_numpy(valid), torch.from_numpy(reference_valid),
    )  # fmt: skip
    window = rng.integers(0, frames, 5)
    step = int(rng.integers(10))
    selection = regions.at(plan, step, window)

    drawn = plan.candidates[plan.representatives(step)][plan.group_of[window]]
    bank = 1 + persons * plan.num_groups
    expected = naive.visible_tokens(
        pose[:, window], calibrated[:, drawn], reference, selection.rows, bank, grid, valid, reference_valid
    )
    got = np.zeros_like(expected)
    flat = got.reshape(-1, bank, regions.tokens)
    for rows, image, keys in selection.rectangles():
        assert not flat[np.ix_(rows, [image], keys)].any()  # disjoint
        flat[np.ix_(rows, [image], keys)] = True
    np.testing.assert_array_equal(got, expected)
