"""RegionPlan and reference_attention: against naive, against the original's tensors, and by laws."""

from pathlib import Path

import numpy as np
import pytest

from tpc_fast import naive

torch = pytest.importorskip("torch")

from tpc_fast.ops.attention import RegionPlan, reference_attention, token_attention  # noqa: E402
from tpc_fast.ops.propagation import PropagationPlan  # noqa: E402

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


def problem(
    rng, persons=2, frames=6, group=3, grid=(6, 7), heads=3, dim=8, videos=1, window=None, guided=True, strength=1.0
):
    """Tensors of a call, and what naive says."""
    size = tuple(5 * side for side in grid)
    plan = PropagationPlan(frames, group, seed=int(rng.integers(1000)))
    pose, calibrated = (blobs(rng, persons, frames, size=size) for _ in range(2))
    reference = blobs(rng, persons, size=size)
    window = np.arange(frames) if window is None else window
    regions = RegionPlan(*(torch.from_numpy(m).bool() for m in (pose, calibrated, reference)), grid)
    selection = regions.at(plan, 2, window)
    half = len(window) * videos
    rows, bank = half * (1 + guided), 1 + persons * plan.num_groups
    tensors = [rng.normal(size=(n, regions.tokens, heads, dim)) for n in (rows,) * 3 + (bank,) * 2]
    cond = slice(half * guided, rows)
    drawn = plan.candidates[plan.representatives(2)][plan.group_of[window]]
    visible = naive.visible_tokens(pose[:, window], calibrated[:, drawn], reference, selection.rows, bank, grid)
    expected = naive.reference_attention(*tensors, np.tile(visible, (videos, 1, 1, 1)), cond, strength=strength)
    return tensors, selection, cond, expected


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        dict(persons=0), dict(persons=1), dict(persons=3), dict(guided=False), dict(videos=2),
        dict(window=np.array([4, 5, 0, 1, 1])), dict(grid=(1, 1), dim=1, heads=1), dict(grid=(3, 11), dim=5, heads=1),
    ],
    ids=str,
)  # fmt: skip
def test_attention_agrees_with_naive(rng, options, dtype, gradient):
    tensors, selection, cond, expected = problem(rng, **options)
    typed = [torch.from_numpy(x).to(getattr(torch, dtype)) for x in tensors]
    if gradient:
        typed = [x.requires_grad_() for x in typed]
    got = reference_attention(*typed, selection, cond)
    assert got.dtype == typed[0].dtype
    assert got.is_contiguous()
    error = np.abs(got.detach().double().numpy() - expected).max()

    # Four times what plain attention over own tokens loses in this dtype, and the rounding of the result
    nobody = np.zeros((0, selection.plan.tokens, len(tensors[3]), selection.plan.tokens), bool)
    own = naive.reference_attention(*tensors, nobody, slice(0, 0))
    with torch.no_grad():
        plain = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in typed[:3]))
    lost = np.abs(plain.transpose(1, 2).double().numpy() - own).max()
    unit = torch.finfo(got.dtype).eps * np.abs(expected).max()
    assert error <= 4 * (lost + unit)


def _visible(selection, bank):
    visible = np.zeros((len(selection.frames), selection.plan.tokens, bank, selection.plan.tokens), bool)
    flat = visible.reshape(-1, bank, selection.plan.tokens)
    for rows, image, keys in selection.rectangles():
        flat[np.ix_(rows, [image], keys)] = True
    return visible


def test_gradients_are_those_of_masked_attention(rng):
    tensors, selection, cond, _ = problem(rng, persons=2, frames=3, group=2, grid=(2, 3), dim=4, heads=2)
    tensors = [torch.from_numpy(x) for x in tensors]
    visible = torch.from_numpy(_visible(selection, len(tensors[3])))
    weights = torch.from_numpy(rng.normal(size=tensors[0].shape))

    def masked(q, k, v, bank_k, bank_v):
        allowed = torch.ones(len(q), q.shape[1], 1 + len(bank_k), q.shape[1], dtype=torch.bool)
        allowed[:, :, 1:] = False
        allowed[cond, :, 1:] = visible
        keys, values = (
            torch.cat([own, bank.flatten(0, 1)[None].expand(len(own), -1, -1, -1)], 1).transpose(1, 2)
            for own, bank in ((k, bank_k), (v, bank_v))
        )
        mask = allowed.flatten(2)[:, None]
        out = torch.nn.functional.scaled_dot_product_attention(q.transpose(1, 2), keys, values, attn_mask=mask)
        return out.transpose(1, 2)

    gradients = []
    for function in (lambda *x: reference_attention(*x, selection, cond), masked):
        leaves = [x.clone().requires_grad_() for x in tensors]
        (function(*leaves) * weights).sum().backward()
        gradients.append([x.grad for x in leaves])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options", [dict(persons=0), dict(persons=1), dict(persons=3), dict(guided=False), dict(videos=2)], ids=str
)
def test_token_attention_agrees_with_naive(rng, options):
    """Tokens without a position: other numbers of them, regions of queries only; where nobody is, plain attention."""
    persons, guided, videos = options.get("persons", 2), options.get("guided", True), options.get("videos", 1)
    frames, grid, length, plan = 5, (5, 7), 11, PropagationPlan(5, 2, seed=int(rng.integers(1000)))
    pose = blobs(rng, persons, frames, size=(36, 50))
    selection = RegionPlan.of_tokens(torch.from_numpy(pose).bool(), grid, frames, length).at(plan, 1)
    rows, bank = frames * videos * (1 + guided), 1 + persons * plan.num_groups
    shapes = [(rows, 35), (rows, length), (rows, length), (bank, length), (bank, length)]
    tensors = [rng.normal(size=(*shape, 2, 8)) for shape in shapes]
    visible, own = (
        np.tile(x, (videos, *[1] * (x.ndim - 1)))
        for x in naive.visible_token_sets(pose, selection.rows, bank, length, grid)
    )
    cond = slice(rows - frames * videos, rows)
    expected = naive.reference_attention(*tensors, visible, cond, own)
    typed = [torch.from_numpy(x) for x in tensors]
    got = token_attention(*typed, selection, cond)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)
    plain = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in typed[:3])).transpose(1, 2)
    alone = np.ones((rows, 35), bool)
    alone[cond] = own
    assert torch.equal(got[torch.from_numpy(alone)], plain[torch.from_numpy(alone)])
    with pytest.raises(ValueError, match=r"k must be .* of q, but 11 tokens"):
        token_attention(typed[0], *typed[:1] * 2, *typed[3:], selection, cond)


def test_tokens_that_nobody_covers_are_background():
    """By less than the threshold, too: every query of a model of tokens must have something to see."""
    pose = torch.zeros(2, 1, 40, 40, dtype=torch.float64)
    pose[0, 0, 0, 0] = 1.5 * 0.001 * 400  # of a token of 20 x 20 pixels: covered; on the mean of two, it is not
    pose[:, 0, 0, -1] = 0.9 * 0.001 * 400  # neither covered nor, on the mean, nothing
    assert RegionPlan.of_tokens(pose, (2, 2), 1, 3).classes[0].tolist() == [0b10, 1, 1, 1]


def test_empty_masks_read_nothing(rng):
    tensors, *_ = problem(rng, persons=1)
    masks = [torch.zeros(shape, dtype=torch.uint8) for shape in ((1, 6, 30, 35), (1, 6, 30, 35), (1, 30, 35))]
    masks[0] += 255  # a person everywhere, with no calibrated pixel
    selection = RegionPlan(*masks, (6, 7)).at(PropagationPlan(6, 3), 0)
    assert selection.rectangles() == []
    q, k, v, bank_k, bank_v = (torch.from_numpy(x) for x in tensors)
    got = reference_attention(q, k, v, bank_k, bank_v, selection, slice(6, 12))
    plain = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
    torch.testing.assert_close(got, plain.transpose(1, 2))


def test_background_is_the_mean_over_persons():
    """A faint token (below the threshold on the mean of two persons, above it for one) is background and person."""
    pose = torch.zeros(2, 1, 40, 40, dtype=torch.float64)
    pose[0, 0, 0, 0] = 1.5 * 0.001 * 400  # of a token of 20 x 20 pixels
    regions = RegionPlan(pose, pose, pose[:, 0], (2, 2))
    assert regions.classes[0].tolist() == [0b11, 1, 1, 1]


def test_as_many_persons_as_an_int64_has_bits_for():
    """Bit 0 is the background, bit 63 the sign: 62 persons."""
    pose = torch.zeros(62, 1, 4, 4)
    pose[61, 0, :2, :2] = 1
    assert (RegionPlan(pose, pose, pose[:, 0], (2, 2)).classes[0] >> 62).tolist() == [1, 0, 0, 0]
    more = torch.zeros(63, 1, 4, 4)
    with pytest.raises(ValueError, match="pose_masks must be of at most 62 persons, but is of 63"):
        RegionPlan(more, more, more[:, 0], (2, 2))


def test_bad_plans_are_refused():
    masks = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8)
    plan = RegionPlan(*masks, (2, 2))
    for change, error, said in [
        ({0: np.zeros((2, 3, 8, 8))}, TypeError, "pose_masks must be a tensor"),
        ({0: masks[0].long()}, TypeError, "pose_masks must be uint8, bool or floating"),
        ({1: masks[1][:1]}, ValueError, "calibrated_masks must be of the 2 persons and 8 x 8 pixels"),
        ({2: torch.zeros(2, 8, 9)}, ValueError, "reference_masks must be of the 2 persons and 8 x 8 pixels"),
        ({2: masks[0]}, ValueError, r"reference_masks must be \[P, H, W\]"),
        ({3: (9, 2)}, ValueError, "grid must be .* of at most 8 x 8 tokens, but is .9, 2."),
        ({4: torch.zeros(8, 7)}, ValueError, "valid must be of 8 x 8 pixels"),
    ]:
        arguments = [*masks, (2, 2), None]
        for position, value in change.items():
            arguments[position] = value
        with pytest.raises(error, match=said):
            RegionPlan(*arguments)
    with pytest.raises(ValueError, match=r"frames must be a list of frames from 0 to 2, but is \[3\]"):
        plan.select([3], [0], [[1], [1]])
    with pytest.raises(ValueError, match="candidates must be from 0 to 2"):
        plan.select([0], [3], [[1], [1]])
    with pytest.raises(ValueError, match=r"rows must be \[2, 1\] rows of the bank from 1 on"):
        plan.select([0], [0], [[0], [1]])
    with pytest.raises(ValueError, match="propagation must be of 3 frames and 3 candidates"):
        plan.at(PropagationPlan(4), 0)


def test_bad_calls_are_refused():
    masks = torch.zeros(1, 3, 8, 8)
    selection = RegionPlan(masks, masks, masks[:, 0], (2, 2)).at(PropagationPlan(3, 2), 0)
    q, bank = torch.zeros(6, 4, 2, 8), torch.zeros(3, 4, 2, 8)
    for change, error, said in [
        ({1: q[:5]}, ValueError, r"k must be \[B, N, H, d\] with the shape of q"),
        ({2: q.double()}, TypeError, "v must be a tensor of dtype torch.float32"),
        ({3: bank[:, :3]}, ValueError, r"bank_k must be \[R, N, H, d\]"),
        ({4: bank[:2]}, ValueError, "bank_v must be like bank_k"),
        ({3: bank[:2], 4: bank[:2]}, ValueError, "bank_k must have at least 3 images"),
        ({5: None}, TypeError, "regions must be a RegionSelection"),
        ({6: slice(2, 6)}, ValueError, "cond must be a slice of the 3 frames of regions"),
    ]:
        arguments = [q, q, q, bank, bank, selection, slice(3, 6)]
        for position, value in change.items():
            arguments[position] = value
        with pytest.raises(error, match=said):
            reference_attention(*arguments)
    assert reference_attention(q, q, q, bank, bank, selection, slice(0, 0)).shape == q.shape


@pytest.mark.parametrize("strength", [0.0, 0.3, 2.5])
def test_strength_is_so_many_of_each_key(rng, strength):
    """By the definition: scores of the bank's keys get log(strength), in the dense form with a mask."""
    tensors, selection, cond, plain = problem(rng)
    q, k, v, bank_k, bank_v = (torch.from_numpy(tensor) for tensor in tensors)
    ours = reference_attention(q, k, v, bank_k, bank_v, selection, cond, strength=strength)
    scale, expected = q.shape[-1] ** -0.5, torch.empty_like(q)
    bias = torch.full(q.shape[:1], -torch.inf) if strength == 0 else torch.full(q.shape[:1], float(np.log(strength)))
    seen = torch.zeros(len(q), q.shape[1], len(bank_k), q.shape[1], dtype=torch.bool)
    for rows, image, keys in selection.rectangles():
        frame, token = rows // q.shape[1] + cond.start, rows % q.shape[1]
        seen[frame[:, None], token[:, None], image, keys[None]] = True
    for b in range(len(q)):
        own = torch.einsum("nhd,mhd->hnm", q[b], k[b]) * scale
        more = torch.einsum("nhd,rmhd->hnrm", q[b], bank_k) * scale + bias[b]
        more = more.masked_fill(~seen[b][None], -torch.inf).flatten(2)
        weights = torch.cat([own, more], 2).softmax(-1)
        expected[b] = torch.einsum("hnm,mhd->nhd", weights, torch.cat([v[b], bank_v.flatten(0, 1)]))
    torch.testing.assert_close(ours, expected)
    assert not np.allclose(ours.numpy(), plain)


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_strength_of_tokens_is_between_the_two(rng, strength):
    """Equal keys: values are mixed by the strength; and where nobody is, nothing changes."""
    pose = torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    pose[:, :, :2] = 255
    regions = RegionPlan.of_tokens(pose, (4, 4), 1, 3)
    selection = regions.select(np.arange(2), [0, 0], [[1, 1]])
    q = torch.from_numpy(rng.normal(size=(2, 16, 2, 8)))
    k, v = torch.ones(2, 3, 2, 8).double(), torch.full((2, 3, 2, 8), 10.0).double()
    bank_k, bank_v = torch.ones(2, 3, 2, 8).double(), torch.full((2, 3, 2, 8), 20.0).double()
    out = token_attention(q, k, v, bank_k, bank_v, selection, strength=strength)
    torch.testing.assert_close(out[:, :8], torch.full_like(out[:, :8], 10 + 10 * strength))
    torch.testing.assert_close(out[:, 8:], torch.full_like(out[:, 8:], 10))
    with pytest.raises(ValueError, match="strength must be a number from 0 to 1, but is 1"):
        token_attention(q, k, v, bank_k, bank_v, selection, strength=1.5)
