"""Reference attention beside the original's scheme, on the CPU, at the sizes of Stable Diffusion 1.5.

The peer is made anew from the paper's description: every query frame attends to its own tokens, all tokens of the
reference and all tokens of its calibrated image of every person, under a full additive mask; both guidance halves do,
and the unconditional half is then computed again without a reference. The scheme makes its mask of the pixel masks for
every layer, window and step; with the few heads of this benchmark that would weigh too much, and is not timed (in
bench_step.py it is). Measured twice: with the scores in memory, as attention code of its time computes them where it
has no kernel (on a CPU), and with torch's fused attention. Here, a person is an ellipse that covers a fifth of the
picture; the peers are measured on a part of the frames.
"""

import itertools

import numpy as np
import pytest

from tpc_fast import naive

torch = pytest.importorskip("torch")
F = torch.nn.functional

from tpc_fast.ops.attention import RegionPlan, reference_attention  # noqa: E402
from tpc_fast.ops.propagation import PropagationPlan  # noqa: E402

FRAMES, GROUP, HEADS, PIXELS = 8, 4, 2, 512
SLICE = 1  # frames on which the peer is measured
CHECKED = 48  # query tokens per row that are compared with naive
CONFIGURATIONS = list(itertools.product((1024, 4096), (40, 64), (1, 2)))


def ellipses(rng, *shape):
    """Masks uint8 [*shape, H, W] of a standing person each."""
    y, x = np.mgrid[:PIXELS, :PIXELS] / PIXELS
    masks = np.zeros((*shape, PIXELS, PIXELS), np.uint8)
    persons = shape[0]
    for index in np.ndindex(shape):
        cx, cy = (index[0] + 0.5) / persons + rng.uniform(-0.04, 0.04), 0.54 + rng.uniform(-0.04, 0.04)
        masks[index] = 255 * (((x - cx) / 0.16) ** 2 + ((y - cy) / 0.4) ** 2 < 1)
    return masks


class Work:
    """One configuration: tensors, masks, plan."""

    def __init__(self, tokens, dim, persons):
        rng = np.random.default_rng([tokens, dim, persons])
        self.persons, self.grid = persons, (int(tokens**0.5),) * 2
        self.propagation = PropagationPlan(FRAMES, GROUP)
        self.pose, self.calibrated, self.reference = (
            ellipses(rng, persons, *shape) for shape in ((FRAMES,), (FRAMES,), ())
        )
        self.drawn = self.propagation.representatives(0)[self.propagation.group_of]
        masks = (torch.from_numpy(m) for m in (self.pose, self.calibrated, self.reference))
        self.plan = RegionPlan(*masks, self.grid).at(self.propagation, 0)
        generator = torch.Generator().manual_seed(tokens + dim + persons)
        images = 1 + persons * self.propagation.num_groups
        self.q, self.k, self.v, self.bank_k, self.bank_v = (
            torch.randn(n, tokens, HEADS, dim, generator=generator) for n in (2 * FRAMES,) * 3 + (images,) * 2
        )
        self.cond = slice(FRAMES, 2 * FRAMES)

    def ours(self):
        return reference_attention(self.q, self.k, self.v, self.bank_k, self.bank_v, self.plan, self.cond)

    def error(self, out, frames):
        """Of rows [2 * len(frames), N, H, d], by chance chosen tokens, from naive."""
        rng = np.random.default_rng()
        tokens = rng.choice(out.shape[1], CHECKED, replace=False)
        frame = int(rng.integers(frames))
        visible = naive.visible_tokens(
            self.pose[:, [frame]] / 255, self.calibrated[:, [self.drawn[frame]]] / 255, self.reference / 255,
            self.plan.rows[:, [frame]], len(self.bank_k), self.grid,
        )[:, tokens]  # fmt: skip
        pair = [frame, FRAMES + frame]
        expected = naive.reference_attention(
            self.q[pair][:, tokens], self.k[pair], self.v[pair], self.bank_k, self.bank_v, visible, slice(1, 2)
        )
        return float(np.abs(out[[frame, frames + frame]][:, tokens].numpy() - expected).max())

    def mask(self):
        """The additive mask [SLICE, 1, N, (2 + P) N], from pixels."""
        pooled = [
            F.adaptive_avg_pool2d(torch.from_numpy(m).float() / 255, self.grid).flatten(-2)
            for m in (self.pose[:, :SLICE], self.calibrated[:, self.drawn[:SLICE]], self.reference)
        ]
        pose, calibrated, reference = pooled
        tokens = pose.shape[-1]
        mask = torch.full((SLICE, tokens, 2 + self.persons, tokens), -torch.inf)
        mask[:, :, 0] = 0
        background = (pose.mean(0) < 0.001)[:, :, None] & (reference.mean(0) < 0.001)[None, None]
        mask[:, :, 1].masked_fill_(background, 0)
        for p in range(self.persons):
            mask[:, :, 2 + p].masked_fill_((pose[p] > 0.001)[:, :, None] & (calibrated[p] > 0.001)[:, None], 0)
        return mask.view(SLICE, 1, tokens, -1)

    def original(self, attend, mask):
        """Rows [2 * SLICE, N, H, d] by the original's scheme; `attend` is attention with an additive mask."""
        halves = []
        for start in (0, FRAMES):
            rows = slice(start, start + SLICE)
            images = [[0] * SLICE, *self.plan.rows[:, :SLICE]]
            k, v = (
                torch.cat([own[rows], *(bank[image] for image in images)], 1)
                for own, bank in ((self.k, self.bank_k), (self.v, self.bank_v))
            )
            q, k, v = (x.transpose(1, 2) for x in (self.q[rows], k, v))
            halves.append(attend(q, k, v, mask))
        unconditional = (x[:SLICE].transpose(1, 2) for x in (self.q, self.k, self.v))
        halves[0] = attend(*unconditional, None)
        return torch.cat(halves).transpose(1, 2)


def in_memory(q, k, v, mask):
    """Attention whose scores stand in memory."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores += mask
    return scores.softmax(-1) @ v


@pytest.fixture(scope="module", params=CONFIGURATIONS, ids=lambda c: "{} tokens, head dim {}, {} person(s)".format(*c))
def work(request):
    tokens, dim, persons = request.param
    made = Work(tokens, dim, persons)
    made.name = f"reference attention, {tokens} tokens, head dim {dim}, {persons} person{'s' * (persons > 1)}"
    return made


def test_tpc_fast(measure, work):
    error = work.error(work.ours(), FRAMES)
    assert error < 1e-5
    measure(work.ours, 3, member="tpc_fast", work=work.name, items=FRAMES, max_error=error)


PEERS = {"the original's scheme": in_memory, "the original's scheme, fused": F.scaled_dot_product_attention}


@pytest.mark.parametrize("member", PEERS)
def test_original(measure, work, member):
    mask = work.mask()

    def function():
        return work.original(PEERS[member], mask)

    error = work.error(function(), SLICE)
    assert error < 1e-5
    measure(function, 3, member=member, work=work.name, items=SLICE, max_error=error)


def test_without_reference(measure, work):
    """Plain attention: what a calibrated reference costs on top of it."""

    def function():
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (work.q, work.k, work.v)))

    measure(function, 3, member="no reference at all", work=work.name, items=FRAMES)
