"""Regions of a stream, in a ring, are those of the whole video; groups without a length are those of a plan."""

import numpy as np
import pytest

from tpc_fast import naive
from tpc_fast.ops.propagation import PropagationPlan, PropagationStream

torch = pytest.importorskip("torch")

from test_reference_attention import blobs  # noqa: E402

from tpc_fast.ops.attention import RegionPlan, TokenSums, reference_attention  # noqa: E402
from tpc_fast.ops.attention_stream import RegionStream  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]
SIZE, GRIDS = (48, 64), ((6, 8), (3, 4), (2, 2), (1, 1))  # of which (2, 2) does not divide


@pytest.mark.parametrize("persons", [0, 1, 3])
def test_a_ring_reads_what_the_whole_video_reads(rng, persons):
    slots, frames, candidates, chunks = 3, 4, 2, 7
    pose, calibrated = blobs(rng, persons, chunks * frames, size=SIZE), blobs(rng, persons, 2 * chunks, size=SIZE)
    reference = blobs(rng, persons, size=SIZE)
    valid, reference_valid = (torch.ones(SIZE, dtype=torch.uint8) for _ in range(2))
    valid[:17], reference_valid[:, 40:] = 0, 0
    pose, calibrated, reference = (torch.from_numpy(255 * masks) for masks in (pose, calibrated, reference))
    whole = {g: RegionPlan(pose, calibrated, reference, g, valid, reference_valid) for g in GRIDS}
    stream = RegionStream(reference, GRIDS, slots, frames, candidates, reference_valid)
    for chunk in range(chunks):
        own, images = slice(chunk * frames, (chunk + 1) * frames), slice(chunk * 2, (chunk + 1) * 2)
        stream.write(chunk % slots, pose[:, own], calibrated[:, images], valid)
        window = np.arange(max(0, chunk - slots + 1), chunk + 1)
        drawn = rng.integers(0, candidates, (len(window), frames))
        rows = rng.integers(1, 9, (persons, len(window), frames))
        reference_rows = rng.integers(0, 9, (len(window), frames))
        selections = stream.select(window % slots, drawn, rows, reference_rows)
        covered = (window[:, None] * frames + np.arange(frames)).ravel()
        for grid, plan in whole.items():
            images = (window[:, None] * 2 + drawn).ravel()
            of_frames = rows.reshape(persons, len(covered)), reference_rows.ravel()
            expected = plan.select(covered, images, *of_frames)
            got = selections[grid[0] * grid[1]]
            for ours, theirs in zip(got.rectangles(), expected.rectangles(), strict=True):
                for a, b in zip(ours, theirs, strict=True):
                    assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
            batch = len(covered), (0, len(covered)), 16
            tables = [selection.tables(*batch) for selection in (got, expected)]
            assert all(torch.equal(*pair) for pair in list(zip(*tables, strict=True))[:2])  # tiles, order


def test_every_frame_may_read_a_reference_of_its_own(rng):
    """As if the bank were put in order anew for each frame; by torch's operations and by the kernel."""
    frames, persons, grid = 4, 2, (4, 4)
    masks = [torch.from_numpy(255 * blobs(rng, persons, *n, size=(32, 32))) for n in ((frames,), (frames,), ())]
    plan = RegionPlan(*masks, grid)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(frames, 16, 2, 16, generator=generator) for _ in range(3))
    bank_k, bank_v = (torch.randn(6, 16, 2, 16, generator=generator) for _ in range(2))
    rows = np.stack([1 + rng.permutation(5)[:frames] for _ in range(persons)])  # a row holds one image
    reference_rows = np.array([3, 0, 5, 0])
    selection = plan.select(np.arange(frames), np.arange(frames), rows, reference_rows)
    got = {b: reference_attention(q, k, v, bank_k, bank_v, selection, backend=b) for b in ("cpu", "triton")}
    for f in range(frames):
        order = [reference_rows[f], *rows[:, f]]
        alone = plan.select([f], [f], [[1], [2]])
        one = (x[f : f + 1] for x in (q, k, v))
        expected = reference_attention(*one, bank_k[order], bank_v[order], alone, backend="cpu")
        for backend, out in got.items():
            assert torch.allclose(out[f], expected[0], atol=2e-6), backend
    with pytest.raises(ValueError, match="reference_rows must be 4 rows of the bank from 0 on"):
        plan.select(np.arange(frames), np.arange(frames), rows, [0])
    too_far = plan.select(np.arange(frames), np.arange(frames), rows, [0, 0, 0, 6])
    with pytest.raises(ValueError, match="bank_k must have at least 7 images"):
        reference_attention(q, k, v, bank_k, bank_v, too_far)


@pytest.mark.parametrize("size", [(48, 64), (37, 52), (40, 40)])
@pytest.mark.parametrize("kind", ["uint8", "bool", "float"])
def test_coarser_grids_come_of_finer_ones(rng, size, kind):
    masks = torch.from_numpy(blobs(rng, 2, 3, size=size))
    masks = {"uint8": 255 * masks, "bool": masks.bool(), "float": masks * torch.rand(masks.shape)}[kind]
    shared = TokenSums(masks)
    for grid in ((8, 8), (6, 8), (4, 4), (3, 4), (1, 1)):
        got, expected = shared.at(grid), TokenSums(masks).at(grid)
        for question in ("above", "below"):
            for share in (0.001, 0.3):
                assert torch.equal(getattr(got, question)(share), getattr(expected, question)(share))
    coverage = naive.token_coverage(masks[0, 0].numpy().astype(float) / (255 if kind == "uint8" else 1), (4, 4))
    np.testing.assert_array_equal(shared.at((4, 4)).above(0.3)[0, 0].numpy(), (coverage > 0.3).ravel())


def test_pixels_are_read_once(rng, monkeypatch):
    from tpc_fast.ops import attention

    read, made = [], attention._Coverage.__init__
    monkeypatch.setattr(attention._Coverage, "__init__", lambda self, *a: read.append(a) or made(self, *a))
    shared = TokenSums(torch.from_numpy(blobs(rng, 1, 2, size=(64, 64))))
    for side in (16, 8, 4, 2):
        shared.at((side, side))
    assert len(read) == 1


def test_replace_says_what_does_not_fit(rng):
    plan = RegionPlan(*(torch.from_numpy(blobs(rng, 1, *n, size=(8, 8))) for n in ((4,), (2,), ())), (2, 2))
    pose, image = torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 8, 8)
    plan.replace(slice(0, 2), pose, slice(1, 2), image)
    with pytest.raises(ValueError, match="pose_masks must be 3, but"):
        plan.replace(slice(0, 3), pose, slice(1, 2), image)
    with pytest.raises(ValueError, match="calibrated_masks must be 1, but"):
        plan.replace(slice(0, 2), pose, slice(1, 2), torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match="pose_masks must be of the 1 persons and 8 x 8"):
        plan.replace(slice(0, 2), torch.zeros(1, 2, 8, 9), slice(1, 2), image)


@pytest.mark.parametrize("mode", ["first", "nearest"])
@pytest.mark.parametrize("group", [1, 3, 4])
def test_groups_without_a_length_are_those_of_a_plan(mode, group):
    plan, stream = PropagationPlan(6 * group, group, mode), PropagationStream(group, mode)
    got = [g * group + stream.candidates[stream.representative(g, 5)] for g in range(6)]
    np.testing.assert_array_equal(got, plan.candidates[plan.representatives(5)])


def test_random_draws_of_a_stream():
    stream, other = PropagationStream(5, "random", 3), PropagationStream(5, "random", 4)
    np.testing.assert_array_equal(stream.candidates, np.arange(5))
    drawn = np.array([[stream.representative(g, s) for s in range(30)] for g in range(40)])
    assert drawn[7, 11] == PropagationStream(5, "random", 3).representative(7, 11)  # in any order of asking
    assert (np.bincount(drawn.ravel(), minlength=5) > 150).all()  # of 240 each
    assert (drawn != [[other.representative(g, s) for s in range(30)] for g in range(40)]).mean() > 0.6
    with pytest.raises(ValueError, match="group must be at least 0"):
        stream.representative(-1, 0)
