"""Similarity fits and the exhaustive subset search on the GPU. The specification is tpc_fast/naive.

All arithmetic is float64: a rounding of J to 1e-6 decides ties, and the GPUs this is for compute float64 at half the
rate of float32. The public functions of `tpc_fast.ops.procrustes` check arguments and call the launchers at the end.
"""

import torch
import triton
import triton.language as tl
from tpc_fast.kernels.launch import OPTIONS, constant, empty, library, on, operation

from tpc_fast._torch_rules import differentiable_fit

__all__ = ["constant", "fit_similarity", "search_subset"]

# Similarity fits: a thread per fit, so that sums over points shuffle nothing. Points are the rows of tiles, fits the
# columns, two for each: x and y, or a weight and its unread neighbour. Triton gives a thread the neighbours that it
# sees in memory and deals out threads along the same axis first; without these two columns no axis would have any, and
# versions differ in what they make of that. Along the other axis neighbours must not be seen: hence `stride`.
#
# A warp's load of one point touches 32 places K points apart, and uses up their lines with its next loads. For 17
# points that is 34 loads of 8 bytes a thread, all under way at once, and 252 registers: 256 threads per multiprocessor
# with 68 KiB of lines, a quarter of its first-level cache and three times what hides the latency of memory. What should
# limit a fit then is the cache's rate of looking up 32 lines per load: at four a cycle 40 us for 1,000,000 fits on a
# Hopper GPU, at one a cycle 150 us, beside 70 us for the bytes at full bandwidth. (Reckoned, not measured.)

POINTS_IN_REGISTERS = 17  # at most, for each fit; fits of more points, which would spill, read them anew for each sum
CHUNK = 16


@triton.jit
def _halves(array, at, mask):
    """The first and the second of every two columns: of [N, 2 * fits] two [N, fits]."""
    both = tl.load(array + at, mask=mask, other=0)
    return tl.split(tl.reshape(both, [both.shape[0], both.shape[1] // 2, 2]))


@triton.jit
def _weight(w, seen):
    """In float64, zero where a point is missing. A weight that is not as it must be makes the whole fit NaN: not ok."""
    w = tl.where(w >= 0, w, float("nan"))
    return tl.where(seen, w, w * 0).to(tl.float64)


@triton.jit
def _read_2d(arrays, first, K: tl.constexpr, N: tl.constexpr, WEIGHTED: tl.constexpr):
    """Points first .. first + N - 1 of both sets and their weights: float64 [N, fits], zero where they are missing."""
    src, dst, weights, column, rows, steps, stride = arrays
    k = first + tl.arange(0, N)[:, None]
    own = k < K
    k = k * stride
    x0, x1 = _halves(src, 2 * (rows * steps[0] + k) + column, own)
    y0, y1 = _halves(dst, 2 * (rows * steps[1] + k) + column, own)
    seen = (x0 - x0) + (x1 - x1) + (y0 - y0) + (y1 - y1) == 0
    if WEIGHTED:
        w, _ = _halves(weights, rows * steps[2] + k + column, own & (column == 0))
        w = _weight(w, seen)
    else:
        w = (seen & own).to(tl.float64)
    x0, x1 = tl.where(seen, x0, 0).to(tl.float64), tl.where(seen, x1, 0).to(tl.float64)
    y0, y1 = tl.where(seen, y0, 0).to(tl.float64), tl.where(seen, y1, 0).to(tl.float64)
    return x0, x1, y0, y1, w


@triton.jit
def _add_means(s, points, share):
    x0, x1, y0, y1, w = points
    w = w * share[None, :]
    return s[0] + tl.sum(w * x0, 0), s[1] + tl.sum(w * x1, 0), s[2] + tl.sum(w * y0, 0), s[3] + tl.sum(w * y1, 0)


@triton.jit
def _add_moments(s, mean, points, share):
    """Weighted |x|^2, |y|^2 and conj(x) y about the means."""
    x0, x1, y0, y1, w = points
    a, c, d, e = x0 - mean[0][None, :], x1 - mean[1][None, :], y0 - mean[2][None, :], y1 - mean[3][None, :]
    w = w * share[None, :]
    wa, wc = w * a, w * c
    return (
        s[0] + tl.sum(wa * a + wc * c, 0),
        s[1] + tl.sum(w * (d * d + e * e), 0),
        s[2] + tl.sum(wa * d + wc * e, 0),
        s[3] + tl.sum(wa * e - wc * d, 0),
    )


@triton.jit
def _add_miss(s, fit, points, share):
    x0, x1, y0, y1, w = points
    a0, a1 = (fit[0] * fit[1])[None, :], (fit[0] * fit[2])[None, :]
    d0 = y0 - (a0 * x0 - a1 * x1 + fit[3][None, :])
    d1 = y1 - (a1 * x0 + a0 * x1 + fit[4][None, :])
    return s + tl.sum(w * share[None, :] * (d0 * d0 + d1 * d1), 0)


@triton.jit
def _solve_2d(total, mean, moments, floor, TINY: tl.constexpr, HUGE: tl.constexpr):
    """scale, cosine, sine, shift, ok. The comparisons are written so that NaN is degenerate; it becomes no fit.

    In 2-D a point is a complex number and the best s e^(i angle) is sum w conj(x) y / sum w |x|^2 over centred points.
    """
    vx, vy, re, im = moments
    squared = re * re + im * im
    covariance = tl.sqrt(squared)
    s, c0, c1 = covariance / vx, re / covariance, im / covariance
    u0 = mean[2] - s * (c0 * mean[0] - c1 * mean[1])
    u1 = mean[3] - s * (c1 * mean[0] + c0 * mean[1])
    square = floor * floor
    ok = (total > 0) & (vx > square * (mean[0] * mean[0] + mean[1] * mean[1]))
    ok &= (vy > square * (mean[2] * mean[2] + mean[3] * mean[3])) & (squared > square * vx * vy)
    ok &= (s >= TINY) & (s <= HUGE) & (tl.abs(u0) <= HUGE) & (tl.abs(u1) <= HUGE)
    shift0, shift1 = mean[2] - mean[0], mean[3] - mean[1]
    representable = (tl.abs(shift0) <= HUGE) & (tl.abs(shift1) <= HUGE)
    t0 = tl.where(ok, u0, tl.where(representable, shift0, 0.0))
    t1 = tl.where(ok, u1, tl.where(representable, shift1, 0.0))
    return tl.where(ok, s, 1.0), tl.where(ok, c0, 1.0), tl.where(ok, c1, 0.0), t0, t1, ok


@triton.jit
def _fit_2d(parts, PARTS: tl.constexpr, floor, TINY: tl.constexpr, HUGE: tl.constexpr):
    """Fits of points in registers: a tuple of what `_read_2d` gives. Also the mean square miss, and sum of weights."""
    zero = tl.sum(parts[0][4], 0) * 0
    total = zero
    for i in tl.static_range(PARTS):
        total += tl.sum(parts[i][4], 0)
    share = tl.where(total > 0, 1 / total, 0.0)
    mean = (zero, zero, zero, zero)
    for i in tl.static_range(PARTS):
        mean = _add_means(mean, parts[i], share)
    moments = (zero, zero, zero, zero)
    for i in tl.static_range(PARTS):
        moments = _add_moments(moments, mean, parts[i], share)
    fit = _solve_2d(total, mean, moments, floor, TINY, HUGE)
    # Measured, not derived from the moments: their difference would lose half of the digits of a good fit.
    miss = zero
    for i in tl.static_range(PARTS):
        miss = _add_miss(miss, fit, parts[i], share)
    return fit, tl.where(miss >= 0, miss, 0.0), total


@triton.jit
def _store_2d(outputs, n, mask, fit, miss, HUGE: tl.constexpr):
    scale, rotation, translation, residual, good = outputs
    s, c0, c1, t0, t1, ok = fit
    kind = scale.dtype.element_ty
    tl.store(scale + n, s.to(kind), mask=mask)
    tl.store(rotation + 4 * n, c0.to(kind), mask=mask)
    tl.store(rotation + 4 * n + 1, (-c1).to(kind), mask=mask)
    tl.store(rotation + 4 * n + 2, c1.to(kind), mask=mask)
    tl.store(rotation + 4 * n + 3, c0.to(kind), mask=mask)
    tl.store(translation + 2 * n, t0.to(kind), mask=mask)
    tl.store(translation + 2 * n + 1, t1.to(kind), mask=mask)
    tl.store(residual + n, tl.minimum(tl.sqrt(miss), HUGE).to(kind), mask=mask)
    tl.store(good + n, ok, mask=mask)


@triton.jit(do_not_specialize=["count", "src_step", "dst_step", "weights_step", "stride"])
def fit_2d_kernel(
    src, dst, weights, scale, rotation, translation, residual, good, count, src_step, dst_step, weights_step, stride,
    K: tl.constexpr, IN_REGISTERS: tl.constexpr, CHUNK: tl.constexpr, WEIGHTED: tl.constexpr, FLOOR: tl.constexpr,
    TINY: tl.constexpr, HUGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Steps are points from one problem to the next, 0 for one row that all share; `stride` those to the next point.

    IN_REGISTERS: how many tiles hold all points, their sizes the powers of two in K; 0 for tiles of CHUNK, which are
    read for every sum.
    """
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(0).to(tl.int64) * (2 * BLOCK) + tl.arange(0, 2 * BLOCK)[None, :]
    rows, column = tl.minimum(columns // 2, count - 1), columns % 2
    arrays = (src, dst, weights, column, rows, (src_step, dst_step, weights_step), stride)
    if IN_REGISTERS > 0:
        parts = ()
        for bit in tl.static_range(6):
            if K & (1 << bit):
                first = K & ((1 << bit) - 1)
                parts = parts + (_read_2d(arrays, first, K, 1 << bit, WEIGHTED),)
        fit, miss, _ = _fit_2d(parts, IN_REGISTERS, FLOOR, TINY, HUGE)
    else:
        zero = tl.zeros([BLOCK], tl.float64)
        total = zero
        for first in range(0, K, CHUNK):
            total += tl.sum(_read_2d(arrays, first, K, CHUNK, WEIGHTED)[4], 0)
        share = tl.where(total > 0, 1 / total, 0.0)
        mean = (zero, zero, zero, zero)
        for first in range(0, K, CHUNK):
            mean = _add_means(mean, _read_2d(arrays, first, K, CHUNK, WEIGHTED), share)
        moments = (zero, zero, zero, zero)
        for first in range(0, K, CHUNK):
            points = _read_2d(arrays, first, K, CHUNK, WEIGHTED)
            moments = _add_moments(moments, mean, points, share)
        fit = _solve_2d(total, mean, moments, FLOOR, TINY, HUGE)
        miss = zero
        for first in range(0, K, CHUNK):
            miss = _add_miss(miss, fit, _read_2d(arrays, first, K, CHUNK, WEIGHTED), share)
        miss = tl.where(miss >= 0, miss, 0.0)
    _store_2d((scale, rotation, translation, residual, good), n, n < count, fit, miss, HUGE)


@triton.jit
def _turn(p, q, a, b):
    """One Jacobi rotation of columns p and q (tuples of three) that makes them orthogonal; of a and b likewise."""
    pp = p[0] * p[0] + p[1] * p[1] + p[2] * p[2]
    qq = q[0] * q[0] + q[1] * q[1] + q[2] * q[2]
    pq = p[0] * q[0] + p[1] * q[1] + p[2] * q[2]
    skew = tl.abs(pq) > 1e-16 * tl.sqrt(pp * qq)
    zeta = (qq - pp) / tl.where(skew, 2 * pq, 1.0)
    tangent = tl.where(zeta < 0, -1.0, 1.0) / (tl.abs(zeta) + tl.sqrt(1 + zeta * zeta))
    tangent = tl.where(skew, tangent, 0.0)
    c = 1 / tl.sqrt(1 + tangent * tangent)
    s = c * tangent
    return (
        (c * p[0] - s * q[0], c * p[1] - s * q[1], c * p[2] - s * q[2]),
        (s * p[0] + c * q[0], s * p[1] + c * q[1], s * p[2] + c * q[2]),
        (c * a[0] - s * b[0], c * a[1] - s * b[1], c * a[2] - s * b[2]),
        (s * a[0] + c * b[0], s * a[1] + c * b[1], s * a[2] + c * b[2]),
    )


@triton.jit
def _exchange(swap, p, q):
    return (
        (tl.where(swap, q[0], p[0]), tl.where(swap, q[1], p[1]), tl.where(swap, q[2], p[2])),
        (tl.where(swap, p[0], q[0]), tl.where(swap, p[1], q[1]), tl.where(swap, p[2], q[2])),
    )


@triton.jit
def _dot(p, q):
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]


@triton.jit
def _cross(p, q):
    return p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]


@triton.jit
def _unit(p, norm):
    return (
        tl.where(norm > 0, p[0] / norm, 0.0),
        tl.where(norm > 0, p[1] / norm, 0.0),
        tl.where(norm > 0, p[2] / norm, 0.0),
    )


@triton.jit
def _svd3(m0, m1, m2):
    """Of the matrix with columns m0, m1, m2: singular values (the last one signed) and u, v as columns, all proper.

    One-sided Jacobi rotations, which converge quadratically: eight sweeps are more than float64 needs.
    """
    zero = tl.zeros_like(m0[0])
    one = zero + 1
    p, q, r = m0, m1, m2
    a, b, c = (one, zero, zero), (zero, one, zero), (zero, zero, one)
    for _ in range(8):
        p, q, a, b = _turn(p, q, a, b)
        p, r, a, c = _turn(p, r, a, c)
        q, r, b, c = _turn(q, r, b, c)
    swap = _dot(p, p) < _dot(q, q)
    p, q = _exchange(swap, p, q)
    a, b = _exchange(swap, a, b)
    swap = _dot(p, p) < _dot(r, r)
    p, r = _exchange(swap, p, r)
    a, c = _exchange(swap, a, c)
    swap = _dot(q, q) < _dot(r, r)
    q, r = _exchange(swap, q, r)
    b, c = _exchange(swap, b, c)
    s0, s1 = tl.sqrt(_dot(p, p)), tl.sqrt(_dot(q, q))
    u0, u1 = _unit(p, s0), _unit(q, s1)
    u2, c = _cross(u0, u1), _cross(a, b)
    image = (
        m0[0] * c[0] + m1[0] * c[1] + m2[0] * c[2],
        m0[1] * c[0] + m1[1] * c[1] + m2[1] * c[2],
        m0[2] * c[0] + m1[2] * c[1] + m2[2] * c[2],
    )
    return (s0, s1, _dot(u2, image)), (u0, u1, u2), (a, b, c)


@triton.jit
def _read_3d(src, dst, weights, at_src, at_dst, at_weights, WEIGHTED: tl.constexpr):
    """x, y as tuples of three, and w, in float64, zero where a coordinate is not finite."""
    x0, x1, x2 = tl.load(src + 3 * at_src), tl.load(src + 3 * at_src + 1), tl.load(src + 3 * at_src + 2)
    y0, y1, y2 = tl.load(dst + 3 * at_dst), tl.load(dst + 3 * at_dst + 1), tl.load(dst + 3 * at_dst + 2)
    seen = (x0 - x0) + (x1 - x1) + (x2 - x2) + (y0 - y0) + (y1 - y1) + (y2 - y2) == 0
    x = _where3(seen, x0, x1, x2)
    y = _where3(seen, y0, y1, y2)
    if WEIGHTED:
        w = _weight(tl.load(weights + at_weights), seen)
    else:
        w = seen.to(tl.float64)
    return x, y, w


@triton.jit
def _where3(seen, a, b, c):
    return (
        tl.where(seen, a, 0).to(tl.float64),
        tl.where(seen, b, 0).to(tl.float64),
        tl.where(seen, c, 0).to(tl.float64),
    )


@triton.jit
def _add3(s, w, p):
    return s[0] + w * p[0], s[1] + w * p[1], s[2] + w * p[2]


@triton.jit
def _less(p, q):
    return p[0] - q[0], p[1] - q[1], p[2] - q[2]


@triton.jit(do_not_specialize=["count", "src_step", "dst_step", "weights_step"])
def fit_3d_kernel(
    src, dst, weights, scale, rotation, translation, residual, good, count, points, src_step, dst_step, weights_step,
    WEIGHTED: tl.constexpr, FLOOR: tl.constexpr, TINY: tl.constexpr, HUGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = tl.minimum(n, count - 1)
    at_src, at_dst, at_weights = row * src_step, row * dst_step, row * weights_step
    zero = tl.zeros([BLOCK], tl.float64)
    total = zero
    for k in range(points):
        _, _, w = _read_3d(src, dst, weights, at_src + k, at_dst + k, at_weights + k, WEIGHTED)
        total += w
    share = tl.where(total > 0, 1 / total, 0.0)
    mean_x, mean_y = (zero, zero, zero), (zero, zero, zero)
    for k in range(points):
        x, y, w = _read_3d(src, dst, weights, at_src + k, at_dst + k, at_weights + k, WEIGHTED)
        mean_x, mean_y = _add3(mean_x, w * share, x), _add3(mean_y, w * share, y)
    vx, vy = zero, zero
    m0, m1, m2 = (zero, zero, zero), (zero, zero, zero), (zero, zero, zero)  # columns of sum w y x^T
    for k in range(points):
        x, y, w = _read_3d(src, dst, weights, at_src + k, at_dst + k, at_weights + k, WEIGHTED)
        x, y, w = _less(x, mean_x), _less(y, mean_y), w * share
        vx += w * _dot(x, x)
        vy += w * _dot(y, y)
        m0, m1, m2 = _add3(m0, w * x[0], y), _add3(m1, w * x[1], y), _add3(m2, w * x[2], y)
    spread_x, spread_y = tl.sqrt(vx), tl.sqrt(vy)
    ok = (total > 0) & (spread_x > FLOOR * tl.sqrt(_dot(mean_x, mean_x)))
    ok &= (spread_y > FLOOR * tl.sqrt(_dot(mean_y, mean_y))) & (spread_x * spread_y < float("inf"))
    s, u, v = _svd3(m0, m1, m2)
    ok &= s[1] + s[2] > FLOOR * spread_x * spread_y  # else turning about one axis changes nothing
    scaled = (s[0] + s[1] + s[2]) / vx
    ok &= (scaled >= TINY) & (scaled <= HUGE)
    kind = scale.dtype.element_ty
    mask = n < count
    # Rows of the rotation, and what they make of the mean; once more as a shift where that is no fit.
    r0 = _row(u, v, 0)
    r1 = _row(u, v, 1)
    r2 = _row(u, v, 2)
    t = (
        mean_y[0] - scaled * _dot(r0, mean_x),
        mean_y[1] - scaled * _dot(r1, mean_x),
        mean_y[2] - scaled * _dot(r2, mean_x),
    )
    ok &= (tl.abs(t[0]) <= HUGE) & (tl.abs(t[1]) <= HUGE) & (tl.abs(t[2]) <= HUGE)
    shift = _less(mean_y, mean_x)
    representable = (tl.abs(shift[0]) <= HUGE) & (tl.abs(shift[1]) <= HUGE) & (tl.abs(shift[2]) <= HUGE)
    one = zero + 1
    scaled = tl.where(ok, scaled, 1.0)
    r0, _ = _exchange(ok, (one, zero, zero), r0)
    r1, _ = _exchange(ok, (zero, one, zero), r1)
    r2, _ = _exchange(ok, (zero, zero, one), r2)
    shift, _ = _exchange(representable, (zero, zero, zero), shift)
    t, _ = _exchange(ok, shift, t)
    miss = zero
    for k in range(points):
        x, y, w = _read_3d(src, dst, weights, at_src + k, at_dst + k, at_weights + k, WEIGHTED)
        moved = (scaled * _dot(r0, x) + t[0], scaled * _dot(r1, x) + t[1], scaled * _dot(r2, x) + t[2])
        missed = _less(y, moved)
        miss += w * share * _dot(missed, missed)
    miss = tl.where(miss >= 0, miss, 0.0)
    tl.store(scale + n, scaled.to(kind), mask=mask)
    for i in tl.static_range(3):
        tl.store(rotation + 9 * n + i, r0[i].to(kind), mask=mask)
        tl.store(rotation + 9 * n + 3 + i, r1[i].to(kind), mask=mask)
        tl.store(rotation + 9 * n + 6 + i, r2[i].to(kind), mask=mask)
        tl.store(translation + 3 * n + i, t[i].to(kind), mask=mask)
    tl.store(residual + n, tl.minimum(tl.sqrt(miss), HUGE).to(kind), mask=mask)
    tl.store(good + n, ok, mask=mask)


@triton.jit
def _row(u, v, ROW: tl.constexpr):
    """One row of u v^T."""
    a, b, c = u[0][ROW], u[1][ROW], u[2][ROW]
    return (
        a * v[0][0] + b * v[1][0] + c * v[2][0],
        a * v[0][1] + b * v[1][1] + c * v[2][1],
        a * v[0][2] + b * v[1][2] + c * v[2][2],
    )


# Exhaustive subset search
#
# What a subset's value is made of is additive. A program looks at the 2^LOW_BITS subsets of the first points, a lane
# each, times the 2^STEP_BITS of the next ones, in Gray code order, so that a step adds or takes away one point, beside
# one subset of the rest, which is the program's share. `subset_kernel` takes the best of all shares and fits it.

# 256 lanes are two a thread. With 512 a thread holds the sums of four, in 175 registers instead of 94, and two programs
# of four warps are on a multiprocessor of sm_90 instead of five (the assembler's count; times are not measured).
LOW_BITS, STEP_BITS = 8, 4
SUMS = 10  # w, w x0, w x1, w y0, w y1, w |x|^2, w |y|^2, w Re conj(x) y, w Im conj(x) y, reward
ROW = 16  # numbers from one point's sums to the next one's: a cache line
LANES = 32  # at least as many as points, and two more


@triton.jit
def _finite(a):
    return (a - a) == 0


@triton.jit
def _load_problem(arrays, steps, n, K: tl.constexpr, BOX: tl.constexpr, LANES: tl.constexpr):
    """Problem n, a lane per point: x, y, tolerance, reward in float64, which points are usable, and scalars.

    Values that are not as they must be leave no point usable: to raise an error would mean to wait for the device.
    """
    src, dst, tolerance, sigma, valid, prior, previous, inertia = arrays
    k = tl.arange(0, LANES)
    own = k < K
    at = n * steps[0] + k
    x0, x1 = tl.load(src + 2 * at, own, 0), tl.load(src + 2 * at + 1, own, 0)
    at = n * steps[1] + k
    y0, y1 = tl.load(dst + 2 * at, own, 0), tl.load(dst + 2 * at + 1, own, 0)
    common = own & _finite(x0) & _finite(x1) & _finite(y0) & _finite(y1)
    if valid is not None:
        common &= tl.load(valid + n * steps[3] + k, own, 0) != 0
    x0, x1 = tl.where(common, x0, 0).to(tl.float64), tl.where(common, x1, 0).to(tl.float64)
    y0, y1 = tl.where(common, y0, 0).to(tl.float64), tl.where(common, y1, 0).to(tl.float64)

    # tpc_fast.ops.procrustes.person_size
    used = common & (k < BOX)
    side0 = tl.max(tl.where(used, y0, float("-inf")), 0) - tl.min(tl.where(used, y0, float("inf")), 0)
    side1 = tl.max(tl.where(used, y1, float("-inf")), 0) - tl.min(tl.where(used, y1, float("inf")), 0)
    side0, side1 = tl.where(side0 > 0, side0, 0.0), tl.where(side1 > 0, side1, 0.0)
    person = tl.maximum(tl.maximum(tl.sqrt(side0 * side1), tl.maximum(side0, side1) / 4), 1.0)

    if tolerance is not None:
        t = tl.load(tolerance + n * steps[2] + k, own, 1).to(tl.float64)
    else:
        t = tl.load(sigma + k, own, 1) * person
    reward = tl.where(own, 1.0, 0.0).to(tl.float64)
    if prior is not None:
        reward += tl.load(prior + n * steps[4] + k, own, 0).to(tl.float64)
    re, im, mu = person * 0, person * 0, person * 0
    if previous is not None:
        re = tl.load(previous + n * steps[5]).to(tl.float64)
        im = tl.load(previous + n * steps[5] + 1).to(tl.float64)
        mu = tl.load(inertia + n * steps[6]).to(tl.float64)
    sane = tl.min(((t > 0) & _finite(t) & _finite(reward)).to(tl.int32), 0) > 0
    sane &= _finite(re) & _finite(im) & _finite(mu) & (mu >= 0)
    return x0, x1, y0, y1, t, reward, common & sane, person, re, im, mu


@triton.jit
def _value(s, reward, turn, mu, count, size):
    """J of the subsets whose sums are s, -inf where there is no fit; by second moments about the means, times w."""
    w, x0, x1, y0, y1 = s[0], s[1], s[2], s[3], s[4]
    xx = w * s[5] - x0 * x0 - x1 * x1
    yy = w * s[6] - y0 * y0 - y1 * y1
    re = w * s[7] - x0 * y0 - x1 * y1
    im = w * s[8] - x0 * y1 + x1 * y0
    square = re * re + im * im
    one_over = 1 / (w * xx)  # not finite where there is no fit
    value = reward - tl.maximum(yy * xx - square, 0.0) * one_over
    one_over = one_over * w
    d0 = (re * turn[0] - im * turn[1]) * one_over - 1
    d1 = (re * turn[1] + im * turn[0]) * one_over
    value -= mu * tl.minimum(d0 * d0 + d1 * d1, 1.0)
    usable = (xx > 1e-12 * w * w) & (square > 1e-12 * xx * xx) & ((size == 0) | (count == size))
    return tl.where(usable, value, float("-inf"))


@triton.jit
def _add(s, sums, factor, SUMS: tl.constexpr):
    """Adds `factor` times the sums of one point, which lie at `sums`."""
    added = ()
    for i in tl.static_range(SUMS):
        added = added + (s[i] + factor * tl.load(sums + i),)
    return added


@triton.jit(do_not_specialize=["size"])
def search_kernel(
    src, dst, tolerance, sigma, valid, prior, previous, inertia, src_step, dst_step, tolerance_step, valid_step,
    prior_step, previous_step, inertia_step, size, sums, keys, masks,
    K: tl.constexpr, BOX: tl.constexpr, LOW_BITS: tl.constexpr, STEP_BITS: tl.constexpr, SUMS: tl.constexpr,
    ROW: tl.constexpr, LANES: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """The best subset of one share of problem n: keys [N, SHARES] float64, masks over the usable points."""
    program = tl.program_id(0)
    n, share = (program // SHARES).to(tl.int64), program % SHARES
    arrays = (src, dst, tolerance, sigma, valid, prior, previous, inertia)
    steps = (src_step, dst_step, tolerance_step, valid_step, prior_step, previous_step, inertia_step)
    x0, x1, y0, y1, t, reward, common, _, re, im, mu = _load_problem(arrays, steps, n, K, BOX, LANES)

    # Points are centred and scaled to order 1 so that the sums keep their digits.
    count = tl.sum(common.to(tl.int32), 0)
    over = 1.0 / tl.maximum(count, 1).to(tl.float64)
    x0 = tl.where(common, x0 - tl.sum(x0, 0) * over, 0.0)
    x1 = tl.where(common, x1 - tl.sum(x1, 0) * over, 0.0)
    y0 = tl.where(common, y0 - tl.sum(y0, 0) * over, 0.0)
    y1 = tl.where(common, y1 - tl.sum(y1, 0) * over, 0.0)
    unit_x, unit_y = tl.max(tl.maximum(tl.abs(x0), tl.abs(x1)), 0), tl.max(tl.maximum(tl.abs(y0), tl.abs(y1)), 0)
    spread = (count >= 2) & (unit_x > 0) & (unit_y > 0) & _finite(unit_x) & _finite(unit_y)
    x0, x1, y0, y1, t = x0 / unit_x, x1 / unit_x, y0 / unit_y, y1 / unit_y, t / unit_y
    square = re * re + im * im
    mu = tl.where(square > 0, mu, 0.0)
    unit = tl.where(mu > 0, unit_y / unit_x / square, 0.0)
    turn = (re * unit, -im * unit)

    # One point's sums are needed as scalars: they go through memory. All shares of a problem write the same, in cache
    # lines that no other problem has.
    sums += n * (K * ROW)
    at = sums + (tl.cumsum(common.to(tl.int32), 0) - 1) * ROW
    w = 1 / (t * t)
    tl.store(at, w, common)
    tl.store(at + 1, w * x0, common)
    tl.store(at + 2, w * x1, common)
    tl.store(at + 3, w * y0, common)
    tl.store(at + 4, w * y1, common)
    tl.store(at + 5, w * (x0 * x0 + x1 * x1), common)
    tl.store(at + 6, w * (y0 * y0 + y1 * y1), common)
    tl.store(at + 7, w * (x0 * y0 + x1 * y1), common)
    tl.store(at + 8, w * (x0 * y1 - x1 * y0), common)
    tl.store(at + 9, reward, common)
    tl.debug_barrier()

    lane = tl.arange(0, 1 << LOW_BITS)
    zero = tl.zeros([1 << LOW_BITS], tl.float64)
    members = tl.zeros([1 << LOW_BITS], tl.int32)
    s = (zero, zero, zero, zero, zero, zero, zero, zero, zero, zero)
    for j in range(tl.minimum(count, LOW_BITS)):
        has = (lane >> j) & 1
        s = _add(s, sums + j * ROW, has.to(tl.float64), SUMS)
        members += has
    for j in range(LOW_BITS + STEP_BITS, count):
        has = (share >> (j - LOW_BITS - STEP_BITS)) & 1
        s = _add(s, sums + j * ROW, has.to(tl.float64), SUMS)
        members += has
    exists = spread & ((share == 0) | ((share << (LOW_BITS + STEP_BITS)) < (1 << count)))
    steps_here = tl.where(exists, 1 << tl.minimum(tl.maximum(count - LOW_BITS, 0), STEP_BITS), 0)
    low = lane < (1 << tl.minimum(count, LOW_BITS))
    best_key = zero + float("-inf")
    best_mask = members * 0
    for step in range(steps_here):
        gray = step ^ (step >> 1)
        if step > 0:
            bit = tl.where((step & 1) != 0, 0, tl.where((step & 2) != 0, 1, tl.where((step & 4) != 0, 2, 3)))
            sign = tl.where(((gray >> bit) & 1) != 0, 1, -1)
            s = _add(s, sums + (LOW_BITS + bit) * ROW, sign.to(tl.float64), SUMS)
            members += sign
        value = _value(s, s[9], turn, mu, members, size)
        # J rounded to 1e-6 and, beneath it, the number of members; adding and subtracting 1.5 * 2^52 rounds.
        key = ((value * 1e6 + 6755399441055744.0) - 6755399441055744.0) * 32 + members
        mask = lane | (gray << LOW_BITS) | (share << (LOW_BITS + STEP_BITS))
        better = low & ((key > best_key) | ((key == best_key) & (mask < best_mask)))
        best_key, best_mask = tl.where(better, key, best_key), tl.where(better, mask, best_mask)
    key = tl.max(best_key, 0)
    tl.store(keys + program, key)
    tl.store(masks + program, tl.min(tl.where(best_key == key, best_mask, 1 << 30), 0))


@triton.jit(do_not_specialize=["first", "last", "min_points"])
def subset_kernel(
    src, dst, tolerance, sigma, valid, prior, previous, inertia, src_step, dst_step, tolerance_step, valid_step,
    prior_step, previous_step, inertia_step, weights, weights_step, keys, masks, last, min_points,
    scale, rotation, translation, residual, good, found, worth, weak,
    K: tl.constexpr, BOX: tl.constexpr, LANES: tl.constexpr, SHARES: tl.constexpr, MIN_SPREAD: tl.constexpr,
    MAX_RATIO: tl.constexpr, FLOOR: tl.constexpr, TINY: tl.constexpr, HUGE: tl.constexpr,
):  # fmt: skip
    """The final fit of problem n: its members are the best of all shares, or its usable points before `last`.

    A lane per fit: lane k leaves point k out, lane K is the final one, and lane K + 1 that of J, weighted by tolerance.
    """
    n = tl.program_id(0).to(tl.int64)
    arrays = (src, dst, tolerance, sigma, valid, prior, previous, inertia)
    steps = (src_step, dst_step, tolerance_step, valid_step, prior_step, previous_step, inertia_step)
    x0, x1, y0, y1, t, reward, common, person, re, im, mu = _load_problem(arrays, steps, n, K, BOX, LANES)
    k = tl.arange(0, LANES)
    member = common & (k < last)
    if SHARES > 0:
        shares = tl.arange(0, SHARES)
        key, mask = tl.load(keys + n * SHARES + shares), tl.load(masks + n * SHARES + shares)
        best = tl.max(key, 0)
        chosen = tl.where(best > float("-inf"), tl.min(tl.where(key == best, mask, 1 << 30), 0), 0)
        rank = tl.cumsum(common.to(tl.int32), 0) - 1
        member &= ((chosen >> tl.maximum(rank, 0)) & 1) != 0

    w = tl.full([LANES], 1, tl.float64)
    if weights is not None:
        w = tl.load(weights + n * weights_step + k, k < K, 0).to(tl.float64)
        w = tl.where(w >= 0, w, float("nan"))
    w = tl.where(member, w, w * 0)
    lane = k[None, :]
    of_value = lane == K + 1
    wide = tl.where(of_value, tl.where(member, 1 / (t * t), 0.0)[:, None], w[:, None])
    wide = tl.where(k[:, None] == lane, 0.0, wide)  # no point has a number above K - 1
    floor = tl.where(k == K + 1, 1e-12, FLOOR)
    points = ((x0[:, None], x1[:, None], y0[:, None], y1[:, None], wide),)
    fit, miss, total = _fit_2d(points, 1, floor, TINY, HUGE)
    s, c0, c1, _, _, ok = fit
    final = k == K
    _store_2d((scale, rotation, translation, residual, good), n + k * 0, final, fit, miss, HUGE)
    tl.store(found + n * K + k, member, k < K)

    square = re * re + im * im
    d0 = (s * c0 * re + s * c1 * im) / square - 1
    d1 = (s * c1 * re - s * c0 * im) / square
    inert = tl.where((square > 0) & (mu > 0), mu * tl.minimum(d0 * d0 + d1 * d1, 1.0), 0.0)
    value = tl.sum(tl.where(member, reward, 0.0), 0) - miss * total - inert
    tl.store(worth + n + k * 0, tl.where(ok, value, 0.0), k == K + 1)

    ratio = s / tl.sum(tl.where(final, s, 0.0), 0)
    stable = ok & (ratio <= MAX_RATIO) & (ratio * MAX_RATIO >= 1)
    depends = tl.max((member & (w > 0) & (stable == 0)).to(tl.int32), 0)
    failed = tl.max((final & (ok == 0)).to(tl.int32), 0)
    few = tl.sum(member.to(tl.int32), 0) < min_points
    side0 = tl.max(tl.where(member, y0, float("-inf")), 0) - tl.min(tl.where(member, y0, float("inf")), 0)
    side1 = tl.max(tl.where(member, y1, float("-inf")), 0) - tl.min(tl.where(member, y1, float("inf")), 0)
    narrow = tl.maximum(side0, side1) < MIN_SPREAD * person
    tl.store(weak + n, (depends > 0) | (failed > 0) | few | narrow)


# Launchers: contiguous tensors [N or 1, ...] of one dtype, checked by tpc_fast.ops.procrustes

_LIMITS = {torch.float32: (1e-6, 2.0**-149), torch.float64: (1e-12, 2.0**-1074)}  # naive.NOISE_FLOOR; smallest number


def _limits(dtype: torch.dtype) -> dict:
    floor, tiny = _LIMITS[dtype]
    return {"FLOOR": floor, "TINY": tiny, "HUGE": torch.finfo(dtype).max}


def _aligned(array: torch.Tensor) -> torch.Tensor:
    """So that a thread loads x and y at once."""
    return array.clone() if array.data_ptr() % 16 else array


def _count(*arrays: torch.Tensor | None) -> int:
    """How many problems there are: one row serves all, and no row is none."""
    lengths = [len(a) for a in arrays if a is not None]
    return max(lengths) if min(lengths) > 0 else 0


def _fit(src, dst, weights):
    count = _count(src, dst, weights)
    (_, points, d), dtype, device = src.shape, src.dtype, src.device
    scale, residual = empty(count, dtype, device), empty(count, dtype, device)
    rotation, translation = empty((count, d, d), dtype, device), empty((count, d), dtype, device)
    good = empty(count, torch.bool, device)
    if count == 0:
        return scale, rotation, translation, residual, good
    steps = [points if len(a) > 1 else 0 for a in (src, dst)]
    steps.append(points if weights is not None and len(weights) > 1 else 0)
    outputs = scale, rotation, translation, residual, good
    options = _limits(dtype) | OPTIONS | {"WEIGHTED": weights is not None, "BLOCK": 128, "num_warps": 4}
    grid = (triton.cdiv(count, 128),)
    weights = src if weights is None else weights  # not read
    with on(src):
        if d == 3:
            fit_3d_kernel[grid](src, dst, weights, *outputs, count, points, *steps, **options)
        else:
            parts = points.bit_count() if points <= POINTS_IN_REGISTERS else 0
            fit_2d_kernel[grid](
                _aligned(src), _aligned(dst), weights, *outputs, count, *steps, 1,
                K=points, IN_REGISTERS=parts, CHUNK=CHUNK, **options,
            )  # fmt: skip
    return outputs


def _fit_fake(src, dst, weights):
    count, d = _count(src, dst, weights), src.shape[-1]
    one = src.new_empty(count)
    return one, src.new_empty(count, d, d), src.new_empty(count, d), one.clone(), one.new_empty(count, dtype=torch.bool)


_fit_operation = operation(
    "fit_similarity(Tensor src, Tensor dst, Tensor? weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fit,
    _fit_fake,
)


fit_similarity = differentiable_fit(_fit_operation, library)


def _search(
    src, dst, tolerance, sigma, valid, weights, prior, previous, inertia, count, searched, size, last, box, min_points,
    min_spread, max_ratio,
):  # fmt: skip
    """See the schema below: arrays [count or 1, ...], the transform before as [count or 1, 2] of a complex number."""
    points, dtype, device = src.shape[1], src.dtype, src.device
    scale, residual = empty(count, dtype, device), empty(count, dtype, device)
    rotation, translation = empty((count, 2, 2), dtype, device), empty((count, 2), dtype, device)
    good, weak = empty(count, torch.bool, device), empty(count, torch.bool, device)
    members, value = empty((count, points), torch.bool, device), empty(count, torch.float64, device)
    outputs = scale, rotation, translation, residual, good, members, value, weak
    if count == 0:
        return outputs
    arrays = src, dst, tolerance, sigma, valid, prior, previous, inertia
    per_point = [(a, points) for a in (src, dst, tolerance, valid, prior)]
    steps = [width if a is not None and len(a) > 1 else 0 for a, width in [*per_point, (previous, 2), (inertia, 1)]]
    shares = (1 << max(points - LOW_BITS - STEP_BITS, 0)) if searched else 0
    if count * max(shares, 1) >= 1 << 31:
        raise ValueError(f"src must have fewer problems: {count} of {points} points are too many for one launch")
    keys = masks = None
    sizes = {"K": points, "BOX": box, "LANES": LANES}
    with on(src):
        if searched:
            keys, masks = empty((count, shares), torch.float64, device), empty((count, shares), torch.int32, device)
            sums = empty((count, points, ROW), torch.float64, device)
            search_kernel[(count * shares,)](
                *arrays, *steps, size, sums, keys, masks, **sizes, LOW_BITS=LOW_BITS, STEP_BITS=STEP_BITS, SUMS=SUMS,
                ROW=ROW, SHARES=shares, num_warps=4, **OPTIONS,
            )  # fmt: skip
        subset_kernel[(count,)](
            *arrays, *steps, weights, points if weights is not None and len(weights) > 1 else 0, keys, masks, last,
            min_points, *outputs, **sizes, SHARES=shares, MIN_SPREAD=min_spread, MAX_RATIO=max_ratio, **_limits(dtype),
            num_warps=4, **OPTIONS,
        )  # fmt: skip
    return outputs


def _search_fake(src, dst, tolerance, sigma, valid, weights, prior, previous, inertia, count, *_):
    one, flag = src.new_empty(count), src.new_empty(count, dtype=torch.bool)
    members, value = src.new_empty(count, src.shape[1], dtype=torch.bool), src.new_empty(count, dtype=torch.float64)
    rotation, translation = src.new_empty(count, 2, 2), src.new_empty(count, 2)
    return one, rotation, translation, one.clone(), flag, members, value, flag.clone()


search_subset = operation(
    "search_subset(Tensor src, Tensor dst, Tensor? tolerance, Tensor? sigma, Tensor? valid, Tensor? weights, "
    "Tensor? prior, Tensor? previous, Tensor? inertia, SymInt count, bool searched, int size, int last, int box, "
    "int min_points, float min_spread, float max_ratio) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _search,
    _search_fake,
)
