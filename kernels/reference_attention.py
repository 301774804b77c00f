"""Reference attention on the GPU: one launch per layer. The specification is tpc_fast/naive.

A program computes a tile of query tokens of one head. The tokens of a tile are all of one class (background, persons),
so they see the same keys: all of their own frame, then, for every bit of the class, a gathered list of tokens of one
image of the bank. The softmax is computed online (Milakov & Gimelshein, 2018), as flash attention does; no score and
no mask goes to memory. Rows that read no bank (the unconditional half) are tiles of class 0 of the same launch.

Propagation has no kernel: it picks G of U images before they are encoded, which is one `index_select`, and the frames
of a group find their image by index here (`sources`).
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _attend(
    state, q0, q1, k, v, stride, tokens, seen, scale,
    D0: tl.constexpr, D1: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Online softmax over one block of keys; `tokens` of k and v, of which those `seen` count."""
    largest, total, acc0, acc1 = state
    c0 = tl.arange(0, D0)
    inside0 = seen[:, None]
    if D0 > DIM:
        inside0 = inside0 & (c0 < DIM)[None, :]
    at = tokens.to(tl.int64)[:, None] * stride
    k0 = tl.load(k + at + c0[None, :], mask=inside0, other=0)
    scores = tl.dot(q0, tl.trans(k0), input_precision=PRECISION)
    if D1 > 0:
        c1 = D0 + tl.arange(0, D1)
        inside1 = seen[:, None] & (c1 < DIM)[None, :]
        k1 = tl.load(k + at + c1[None, :], mask=inside1, other=0)
        scores += tl.dot(q1, tl.trans(k1), input_precision=PRECISION)
    scores = tl.where(seen[None, :], scores * scale, float("-inf"))
    new = tl.maximum(largest, tl.max(scores, 1))
    kept = tl.exp2(largest - new)
    weights = tl.exp2(scores - new[:, None])
    total = total * kept + tl.sum(weights, 1)
    v0 = tl.load(v + at + c0[None, :], mask=inside0, other=0)
    weights = weights.to(v0.dtype)
    acc0 = acc0 * kept[:, None] + tl.dot(weights, v0, input_precision=PRECISION)
    if D1 > 0:
        v1 = tl.load(v + at + c1[None, :], mask=inside1, other=0)
        acc1 = acc1 * kept[:, None] + tl.dot(weights, v1, input_precision=PRECISION)
    return new, total, acc0, acc1


@triton.jit
def _reference_attention(
    q, k, v, bank_k, bank_v, out, tiles, order, sources, key_lists, key_counts,
    q_row, q_token, k_row, k_token, v_row, v_token, bank_k_row, bank_k_token, bank_v_row, bank_v_token,
    head_stride, tokens, bits, scale,
    D0: tl.constexpr, D1: tl.constexpr, DIM: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile is five int64: row of the batch, row of `order` and `sources`, first place in it, count, class."""
    tile = tiles + 5 * tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64) * head_stride
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

    k += row * k_row + head
    v += row * v_row + head
    for start in range(0, tokens, KEYS):
        state = _attend(state, q0, q1, k, v, k_token, start + j, start + j < tokens, scale, D0, D1, DIM, PRECISION)

    for bit in range(bits):
        if (seen_classes >> bit) & 1:
            source = sources + 2 * (frame * bits + bit)
            image, listed = tl.load(source).to(tl.int64), tl.load(source + 1).to(tl.int64)
            keys = key_lists + listed * tokens
            number = tl.load(key_counts + listed)
            bk, bv = bank_k + image * bank_k_row + head, bank_v + image * bank_v_row + head
            for start in range(0, number, KEYS):
                seen = start + j < number
                gathered = tl.load(keys + start + j, mask=seen, other=0)
                state = _attend(
                    state, q0, q1, bk, bv, bank_k_token, gathered, seen, scale, D0, D1, DIM, PRECISION
                )  # fmt: skip

    largest, total, acc0, acc1 = state
    out += (row * tokens + query) * (head_stride * tl.num_programs(1)) + head
    tl.store(out + c0[None, :], (acc0 / total[:, None]).to(out.dtype.element_ty), mask=inside0)
    if D1 > 0:
        tl.store(out + c1[None, :], (acc1 / total[:, None]).to(out.dtype.element_ty), mask=inside1)


class Tiling:
    """How one dtype and head dimension is computed.

    Sizes are the largest that hardly spill registers on sm_80 and sm_90 (its test prints them). float32 goes
    through the tensor cores in three products, which keeps its precision.

    Attributes:
        rows, keys: of a tile.
        constants: of the kernel. A head dimension that is no power of two is split into two that waste little.
    """

    def __init__(self, dtype: torch.dtype, dim: int):
        wide = dtype == torch.float32
        large = dim > 128 or (wide and dim > 64)
        self.rows = (32 if large else 64) if wide else (64 if large else 128)
        self.keys = (16 if large else 32) if wide else 64
        first = max(16, 1 << (dim.bit_length() - 1))
        rest = dim - first
        self.constants = dict(
            D0=first, D1=max(16, triton.next_power_of_2(rest)) if rest > 0 else 0, DIM=dim, ROWS=self.rows,
            KEYS=self.keys, PRECISION="tf32x3" if wide else "ieee", num_warps=4 if wide and large else 8, num_stages=2,
            enable_fp_fusion=True,
        )  # fmt: skip


def reference_attention(q, k, v, bank_k, bank_v, tiles, order, sources, key_lists, key_counts) -> torch.Tensor:
    """Launches the kernel; arguments were checked by `tpc_fast.ops.attention.reference_attention`.

    Args:
        q, k, v: [B, N, H, d], float16, bfloat16 or float32, d up to 256; bank_k, bank_v: [R, N, H, d].
        tiles: [T, 5] int64: row of B, row of `order` and `sources`, first place in that row, count, class.
        order: [n, N] int32, the tokens of a frame, those of one class together.
        sources: [n, bits, 2] int32, for every frame and bit of a class: image of the bank, row of `key_lists`.
        key_lists: [L, N] int32, tokens; key_counts: [L] int32, how many of a row.

    Returns:
        [B, N, H, d], contiguous.
    """
    q, k, v, bank_k, bank_v = (x if _packed(x) else x.contiguous() for x in (q, k, v, bank_k, bank_v))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    heads, dim = q.shape[2:]
    strides = (stride for x in (q, k, v, bank_k, bank_v) for stride in x.stride()[:2])
    scale = 1.4426950408889634 / dim**0.5  # to powers of two
    if len(tiles):
        _reference_attention[(len(tiles), heads)](
            q, k, v, bank_k, bank_v, out, tiles, order, sources, key_lists, key_counts, *strides, dim, q.shape[1],
            sources.shape[1], scale, **Tiling(q.dtype, dim).constants,
        )  # fmt: skip
    return out


def _packed(x):
    return x.stride(3) == 1 and x.stride(2) == x.shape[3]
