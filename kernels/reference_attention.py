"""Reference attention on the GPU: one launch per layer. The specification is tpc_fast/naive.

A program computes a tile of query tokens of one head. The tokens of a tile are all of one class (background, persons),
so they see the same keys: all of their own frame, then, for every bit of the class, a gathered list of tokens of one
image of the bank. The softmax is computed online (Milakov & Gimelshein, 2018), as flash attention does; no score and
no mask goes to memory. Rows that read no bank (the unconditional half) are tiles of class 0 of the same launch.

Propagation has no kernel: it picks G of U images before they are encoded, which is one `index_select`, and the frames
of a group find their image by index here (`sources`).
"""

import dataclasses
import functools
import math

import torch
import triton
import triton.language as tl
from tpc_fast.kernels.launch import OPTIONS, empty, on

LOG2_E = 1.4426950408889634  # weights are powers of two


@triton.jit
def _load(start, at, column, seen, DIM: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr, MASKED: tl.constexpr):
    """Rows `at` of keys or values, WIDTH columns from FIRST on; zero beyond DIM and, if MASKED, where not `seen`."""
    if MASKED:
        mask = seen[:, None]
        if FIRST + WIDTH > DIM:
            mask = mask & (column < DIM)[None, :]
        rows = tl.load(start + at + column[None, :], mask=mask, other=0)
    elif FIRST + WIDTH > DIM:
        rows = tl.load(start + at + column[None, :], mask=(column < DIM)[None, :], other=0)
    else:
        rows = tl.load(start + at + column[None, :])
    return rows


@triton.jit
def _attend(
    state, q0, q1, k, v, k_stride, v_stride, tokens, seen, scale, bias,
    D0: tl.constexpr, D1: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr,
    BANK: tl.constexpr,
):  # fmt: skip
    """Online softmax over one block of keys: `tokens` of k and v, if MASKED only those `seen`.

    The scale, which is positive, is applied to the largest score and inside the exponent: no product of its own. If
    BANK, all scores get the bias, which is taken off the largest instead: once a row, not once a score.
    """
    largest, total, acc0, acc1 = state
    c0 = tl.arange(0, D0)
    c1 = D0 + tl.arange(0, D1 if D1 > 0 else 1)
    tokens = tokens.to(tl.int64)[:, None]
    scores = tl.dot(q0, tl.trans(_load(k, tokens * k_stride, c0, seen, DIM, 0, D0, MASKED)), input_precision=PRECISION)
    if D1 > 0:
        k1 = _load(k, tokens * k_stride, c1, seen, DIM, D0, D1, MASKED)
        scores = tl.dot(q1, tl.trans(k1), scores, input_precision=PRECISION)
    if MASKED:
        scores = tl.where(seen[None, :], scores, float("-inf"))
    if BANK:
        without = tl.maximum(largest - bias, tl.max(scores, 1) * scale)
        new = without + bias
    else:
        without = tl.maximum(largest, tl.max(scores, 1) * scale)
        new = without
    kept = tl.exp2(largest - new)
    weights = tl.exp2(scores * scale - without[:, None])
    total = total * kept + tl.sum(weights, 1)
    v0 = _load(v, tokens * v_stride, c0, seen, DIM, 0, D0, MASKED)
    weights = weights.to(v0.dtype)
    acc0 = tl.dot(weights, v0, acc0 * kept[:, None], input_precision=PRECISION)
    if D1 > 0:
        v1 = _load(v, tokens * v_stride, c1, seen, DIM, D0, D1, MASKED)
        acc1 = tl.dot(weights, v1, acc1 * kept[:, None], input_precision=PRECISION)
    return new, total, acc0, acc1


@triton.jit
def _reference_attention(
    q, k, v, bank_k, bank_v, out, tiles, order, sources, key_lists, key_counts,
    q_row, q_token, k_row, k_token, v_row, v_token, bank_k_row, bank_k_token, bank_v_row, bank_v_token,
    tokens, bits, scale, bias,
    D0: tl.constexpr, D1: tl.constexpr, DIM: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    EVEN: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile is five int64: row of the batch, row of `order` and `sources`, first place in it, count, class.

    EVEN: the tokens are a multiple of KEYS. Heads lie DIM apart, a constant, so that the compiler sees how far their
    addresses are aligned: with a stride that it does not know, heads of 40 are loaded two bytes at a time.
    """
    tile = tiles + 5 * tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64) * DIM
    row, frame, first, count, seen_classes = (
        tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4)
    )  # fmt: skip
    i = tl.arange(0, ROWS)
    used = i < count
    query = tl.load(order + frame * tokens + first + i, mask=used, other=0).to(tl.int64)[:, None]
    c0 = tl.arange(0, D0)
    inside0 = used[:, None]
    if D0 > DIM:
        inside0 = inside0 & (c0 < DIM)[None, :]
    q += row * q_row + head
    q0 = tl.load(q + query * q_token + c0[None, :], mask=inside0, other=0)
    q1, acc1 = q0, tl.zeros([ROWS, D1 if D1 > 0 else 1], tl.float32)
    if D1 > 0:
        c1 = D0 + tl.arange(0, D1)
        inside1 = used[:, None] & (c1 < DIM)[None, :]
        q1 = tl.load(q + query * q_token + c1[None, :], mask=inside1, other=0)
    largest, total = tl.full([ROWS], float("-inf"), tl.float32), tl.zeros([ROWS], tl.float32)
    state = largest, total, tl.zeros([ROWS, D0], tl.float32), acc1
    j = tl.arange(0, KEYS)

    # Blocks of keys that are full need no mask; the rest is a block of its own, unless MASKED.
    k += row * k_row + head
    v += row * v_row + head
    full = tokens if MASKED else tokens // KEYS * KEYS
    for start in range(0, full, KEYS):
        state = _attend(
            state, q0, q1, k, v, k_token, v_token, start + j, start + j < tokens, scale, 0.0, D0, D1, DIM, PRECISION,
            MASKED, False,
        )  # fmt: skip
    if not (EVEN or MASKED):
        state = _attend(
            state, q0, q1, k, v, k_token, v_token, full + j, full + j < tokens, scale, 0.0, D0, D1, DIM, PRECISION,
            True, False,
        )  # fmt: skip

    for bit in range(bits):
        if (seen_classes >> bit) & 1:
            source = sources + 2 * (frame * bits + bit)
            image, listed = tl.load(source).to(tl.int64), tl.load(source + 1).to(tl.int64)
            keys = key_lists + listed * tokens
            number = tl.load(key_counts + listed)
            bk, bv = bank_k + image * bank_k_row + head, bank_v + image * bank_v_row + head
            full = number if MASKED else number // KEYS * KEYS
            for start in range(0, full, KEYS):
                seen = start + j < number
                if MASKED:
                    gathered = tl.load(keys + start + j, mask=seen, other=0)
                else:
                    gathered = tl.load(keys + start + j)
                state = _attend(
                    state, q0, q1, bk, bv, bank_k_token, bank_v_token, gathered, seen, scale, bias, D0, D1, DIM,
                    PRECISION, MASKED, True,
                )  # fmt: skip
            if not MASKED:
                if full < number:
                    seen = full + j < number
                    gathered = tl.load(keys + full + j, mask=seen, other=0)
                    state = _attend(
                        state, q0, q1, bk, bv, bank_k_token, bank_v_token, gathered, seen, scale, bias, D0, D1,
                        DIM, PRECISION, True, True,
                    )  # fmt: skip

    largest, total, acc0, acc1 = state
    out += (row * tokens + query) * (DIM * tl.num_programs(1)) + head
    tl.store(out + c0[None, :], (acc0 / total[:, None]).to(out.dtype.element_ty), mask=inside0)
    if D1 > 0:
        tl.store(out + c1[None, :], (acc1 / total[:, None]).to(out.dtype.element_ty), mask=inside1)


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a head dimension is computed.

    Attributes:
        rows, keys: of a tile.
        first, rest: columns of the parts that the head dimension is computed in, powers of two from 16 on; rest may
            be 0. Two parts waste less on zeros, one is loaded in wider pieces.
        warps, stages: as Triton has them: of a program, and blocks of keys under way.
        masked: every block of keys has a mask, also the full ones: more instructions, but one loop body less to hold
            in registers.
        registers: the most that a thread may have, so that one more program fits beside it; None for no limit.
        shared: bytes of shared memory that a program takes for sm_90, where it takes most.
    """

    rows: int
    keys: int
    first: int
    rest: int
    warps: int
    stages: int
    masked: bool = False
    registers: int | None = None
    shared: int = 0


# By the largest head dimension that a row serves. Chosen from the machine code for sm_90 and not yet measured there: no
# spills, then as few instructions a score as leave two or three programs on a multiprocessor, so that one computes
# weights while another multiplies. All fit into the 99 KiB of shared memory that sm_86, sm_89 and sm_120 give programs.
# tests/test_reference_attention_kernel.py prints what came of it.
_HALF = {
    64: Tiling(rows=128, keys=64, first=64, rest=0, warps=8, stages=3, shared=65536),
    80: Tiling(rows=64, keys=64, first=64, rest=16, warps=4, stages=3, registers=168, shared=71680),
    96: Tiling(rows=64, keys=64, first=64, rest=32, warps=4, stages=2, shared=61440),
    128: Tiling(rows=64, keys=64, first=128, rest=0, warps=4, stages=2, shared=81920),
    160: Tiling(rows=64, keys=32, first=128, rest=32, warps=4, stages=2, shared=61440),
    192: Tiling(rows=64, keys=32, first=128, rest=64, warps=4, stages=2, masked=True, shared=73728),
    256: Tiling(rows=64, keys=32, first=256, rest=0, warps=4, stages=2, masked=True, shared=98304),
}
# float32 goes through the tensor cores in three products, which keeps its precision and takes more registers: above 80,
# tiles of 32 rows spill.
_FLOAT32 = {
    64: Tiling(rows=64, keys=32, first=64, rest=0, warps=4, stages=3, shared=81920),
    80: Tiling(rows=64, keys=16, first=64, rest=16, warps=4, stages=2, masked=True, shared=59392),
    128: Tiling(rows=16, keys=16, first=128, rest=0, warps=4, stages=2, masked=True, shared=34816),
    160: Tiling(rows=16, keys=16, first=128, rest=32, warps=4, stages=2, masked=True, shared=43008),
    256: Tiling(rows=16, keys=16, first=256, rest=0, warps=8, stages=2, masked=True, shared=67584),
}


def tiling(dtype: torch.dtype, dim: int) -> Tiling:
    """The tiling that a launch takes; dim up to 256."""
    table = _FLOAT32 if dtype == torch.float32 else _HALF
    chosen = table[next(largest for largest in table if dim <= largest)]
    if dim <= 32:
        chosen = dataclasses.replace(chosen, first=max(16, triton.next_power_of_2(dim)))
    return chosen


def shared_memory(device: torch.device) -> int | None:
    """Bytes of shared memory that a program may have on a device; None where nothing limits it."""
    if device.type != "cuda":
        return None
    return _shared_memory(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _shared_memory(index: int) -> int:
    return torch.cuda.get_device_properties(index).shared_memory_per_block_optin


def reference_attention(
    q,
    k,
    v,
    bank_k,
    bank_v,
    tiles,
    order,
    sources,
    key_lists,
    key_counts,
    tiling: Tiling | None = None,
    strength: float = 1.0,
) -> torch.Tensor:
    """Launches the kernel; arguments were checked by `tpc_fast.ops.attention.reference_attention`.

    Args:
        q, k, v: [B, N, H, d], float16, bfloat16 or float32, d up to 256; bank_k, bank_v: [R, N, H, d].
        tiles: [T, 5] int64: row of B, row of `order` and `sources`, first place in that row, count, class.
        order: [n, N] int32, the tokens of a frame, those of one class together.
        sources: [n, bits, 2] int32, for every frame and bit of a class: image of the bank, row of `key_lists`.
        key_lists: [L, N] int32, tokens; key_counts: [L] int32, how many of a row.
        tiling: of whose `rows` the tiles are; None for that of dtype and d.
        strength: as how many each key of the bank counts, more than 0.

    Returns:
        [B, N, H, d], contiguous.
    """
    q, k, v, bank_k, bank_v = (x if _packed(x) else x.contiguous() for x in (q, k, v, bank_k, bank_v))
    out = empty(q.shape, q.dtype, q.device)
    tokens, heads, dim = q.shape[1:]
    tiling = tiling or _tiling(q.dtype, dim)
    strides = (stride for x in (q, k, v, bank_k, bank_v) for stride in x.stride()[:2])
    if len(tiles):
        with on(q):
            _reference_attention[(len(tiles), heads)](
                q, k, v, bank_k, bank_v, out, tiles, order, sources, key_lists, key_counts, *strides, tokens,
                sources.shape[1], LOG2_E / dim**0.5, math.log2(strength), D0=tiling.first, D1=tiling.rest, DIM=dim,
                ROWS=tiling.rows, KEYS=tiling.keys, EVEN=tokens % tiling.keys == 0, MASKED=tiling.masked,
                PRECISION="tf32x3" if q.dtype == torch.float32 else "ieee", num_warps=tiling.warps,
                num_stages=tiling.stages, maxnreg=tiling.registers, **OPTIONS,
            )  # fmt: skip
    return out


_tiling = tiling  # which an argument hides


def _packed(x):
    return x.stride(3) == 1 and x.stride(2) == x.shape[3]
