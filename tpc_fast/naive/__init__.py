"""The specification: every operation in a few plain lines of NumPy, float64. All backends are tested against it."""

import functools
import itertools

import numpy as np

# Procrustes

NOISE_FLOOR = {"float32": 1e-6, "float64": 1e-12}  # spreads below this share of the coordinates are rounding noise


def fit_similarity(src, dst, weights=None):
    """Umeyama's least-squares similarity (IEEE TPAMI 13(4), 1991), proper rotations only.

    Args:
        src, dst: [N, K, D], D = 2 or 3, float32 or float64; a point with a non-finite coordinate is missing.
        weights: [N, K], finite, >= 0; None for ones.

    Returns:
        scale [N], rotation [N, D, D], translation [N, D], residual [N] (weighted rms), all float64, and ok [N] bool.
    """
    dtype = src.dtype
    floor = NOISE_FLOOR[dtype.name]
    seen = np.isfinite(src).all(-1) & np.isfinite(dst).all(-1)
    x, y = (np.where(seen[..., None], p, 0).astype(np.float64) for p in (src, dst))
    w = np.where(seen, 1.0 if weights is None else weights, 0.0).astype(np.float64)
    total = w.sum(-1, keepdims=True)
    w = w / np.where(total > 0, total, 1)

    mean_x, mean_y = (np.einsum("nk,nkd->nd", w, p) for p in (x, y))
    xc, yc = x - mean_x[:, None], y - mean_y[:, None]
    spread_x, spread_y = (np.sqrt(np.einsum("nk,nkd->n", w, p**2)) for p in (xc, yc))
    u, s, vt = np.linalg.svd(np.einsum("nk,nki,nkj->nij", w, yc, xc))
    flip = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
    u[:, :, -1] *= flip[:, None]
    s[:, -1] *= flip

    ok = (total[:, 0] > 0) & (s[:, -2] + s[:, -1] > floor * spread_x * spread_y)
    ok &= (spread_x > floor * np.linalg.norm(mean_x, axis=-1)) & (spread_y > floor * np.linalg.norm(mean_y, axis=-1))
    scale = np.where(ok, s.sum(-1) / np.where(ok, spread_x, 1) ** 2, 1)
    ok &= (scale.astype(dtype) > 0) & np.isfinite(scale.astype(dtype))
    scale = np.where(ok, scale, 1)
    rotation = np.where(ok[:, None, None], u @ vt, np.eye(src.shape[-1]))
    translation = mean_y - scale[:, None] * np.einsum("nij,nj->ni", rotation, mean_x)
    moved = scale[:, None, None] * np.einsum("nij,nkj->nki", rotation, x) + translation[:, None]
    residual = np.sqrt(np.einsum("nk,nkd->n", w, (y - moved) ** 2))
    return scale, rotation, translation, residual, ok


def fit_leaving_out(src, dst, weights):
    """`fit_similarity`, and what leaving a point out does to it.

    Returns:
        The fit's five arrays, then change [N, K]: |log| of the ratio of its scale to the one without that point,
        infinite where the rest has no fit.
    """
    fit = fit_similarity(src, dst, weights)
    change = np.zeros(weights.shape)
    for k in range(weights.shape[1]):
        scale, *_, ok = fit_similarity(src, dst, weights * (np.arange(weights.shape[1]) != k))
        change[:, k] = np.where(ok, abs(np.log(scale / fit[0])), np.inf)
    return *fit, change


def fit_linear_map(src, dst, model, weights=None):
    """Weighted least squares of a transform model: y = A x + t.

    Args:
        src, dst, weights: as for `fit_similarity`, D = 2.
        model: "translation" (A = 1), "linear" (A = diag(a, b)), "similarity", or "affine" (any A).

    Returns:
        matrix [N, 2, 3] float64, residual [N], ok [N]; not ok: the shift between the weighted centres.
    """
    if model == "similarity":
        scale, rotation, translation, residual, ok = fit_similarity(src, dst, weights)
        return np.concatenate([scale[:, None, None] * rotation, translation[..., None]], -1), residual, ok
    floor = NOISE_FLOOR[src.dtype.name]
    matrices, residuals, oks = np.zeros((len(src), 2, 3)), np.zeros(len(src)), np.zeros(len(src), bool)
    for n in range(len(src)):
        seen = np.isfinite(src[n]).all(-1) & np.isfinite(dst[n]).all(-1)
        w = np.ones(len(seen)) if weights is None else weights[n].astype(np.float64)
        seen &= w > 0
        x, y, w = src[n, seen].astype(np.float64), dst[n, seen].astype(np.float64), w[seen]
        matrices[n] = np.eye(2, 3)
        if not len(w):
            continue
        w = w / w.sum()
        mean_x, mean_y, root = w @ x, w @ y, np.sqrt(w)[:, None]
        xc, yc = root * (x - mean_x), root * (y - mean_y)
        a, good = np.eye(2), True
        if model == "linear":
            good = (np.linalg.norm(xc, axis=0) > floor * np.linalg.norm(mean_x)).all()
            good = good and (np.linalg.norm(xc, axis=0) > floor * np.linalg.norm(xc)).all()
            a = np.diag([np.linalg.lstsq(xc[:, i : i + 1], yc[:, i], rcond=None)[0][0] for i in (0, 1)])
        elif model == "affine":
            singular = np.linalg.svd(xc, compute_uv=False)
            good = len(w) > 1 and singular[1] > max(floor * np.linalg.norm(mean_x), 1e-6 * singular[0])
            a = np.linalg.lstsq(xc, yc, rcond=None)[0].T
        # Without an inverse nothing can be warped.
        good = bool(good) and abs(np.linalg.det(a)) > 1e-12 * (a**2).sum()
        a = a if good else np.eye(2)
        oks[n], matrices[n] = good, np.column_stack([a, mean_y - a @ mean_x])
        residuals[n] = np.sqrt((w * ((x @ a.T + matrices[n, :, 2] - y) ** 2).sum(-1)).sum())
    return matrices, residuals, oks


@functools.lru_cache(maxsize=1)  # the next frame mostly asks for the same; of 17 points it takes 18 MB
def subsets(count):
    """[2 ** count, count] float64, read only: row m has 1 where bit k of m is set, else 0."""
    member = (np.arange(1 << count)[:, None] >> np.arange(count) & 1).astype(np.float64)
    member.flags.writeable = False
    return member


def search_subset(src, dst, tolerance, valid, prior, previous, inertia, size=0):
    """Truncated least squares by looking at every subset (DESIGN 5).

    Maximises over subsets S of the valid points, each with its best similarity T,
    J = sum over k in S of (1 + prior_k - |T src_k - dst_k|^2 / tolerance_k^2) - inertia * min(1, |a_S / previous -
    1|^2), a = scale * exp(i angle). Ties: larger J rounded to 1e-6, then the larger set, then the lowest bitmask.

    Args:
        src, dst: [N, K, 2] float64; tolerance, prior: [N, K]; valid: [N, K] bool; previous: [N] complex, 0 for none;
        inertia: [N]; size: only subsets of this many points, 0 for any.

    Returns:
        mask [N] int64 (bit k: point k is a member; 0: no subset has a fit), value [N] (its J).
    """
    masks, values = np.zeros(len(src), np.int64), np.zeros(len(src))
    for n in range(len(src)):
        (index,) = np.nonzero(valid[n])
        x, y = (p[n, index, 0] + 1j * p[n, index, 1] for p in (src, dst))
        if len(index) < 2 or not (np.ptp(src[n, index], 0).any() and np.ptp(dst[n, index], 0).any()):
            continue
        x, y = x - x.mean(), y - y.mean()
        unit_x, unit_y = (max(abs(z.real).max(), abs(z.imag).max()) for z in (x, y))
        x, y, w = x / unit_x, y / unit_y, (unit_y / tolerance[n, index]) ** 2

        member = subsets(len(index))
        xy = x.conj() * y
        parts = np.stack([x.real, x.imag, abs(x) ** 2, y.real, y.imag, abs(y) ** 2, xy.real, xy.imag])
        terms = np.concatenate([w * parts, [w, 1 + prior[n, index], np.ones(len(index))]])
        *sums, total, value, count = terms @ member.T  # of every subset, all in one product: five times as fast
        total = np.maximum(total, 1e-300)
        x_real, x_imag, xx, y_real, y_imag, yy, xy_real, xy_imag = sums / total
        mean_x, mean_y = x_real + 1j * x_imag, y_real + 1j * y_imag
        xx, yy = xx - abs(mean_x) ** 2, yy - abs(mean_y) ** 2
        xy = xy_real + 1j * xy_imag - mean_x.conj() * mean_y
        usable = (xx > 1e-12) & (abs(xy) ** 2 > 1e-12 * xx**2)
        a = xy / np.where(usable, xx, 1)
        value -= total * np.maximum(yy - abs(a) ** 2 * xx, 0)
        if previous[n] != 0:
            value -= inertia[n] * np.minimum(1, abs(a * unit_y / unit_x / previous[n] - 1) ** 2)
        usable &= (count == size) if size else True
        if usable.any():
            key = np.where(usable, np.rint(value * 1e6) * 32 + count, -np.inf)
            best = key.argmax()  # the first of equals: the lowest bitmask
            values[n] = value[best]
            masks[n] = (member[best] != 0) @ (1 << index)
    return masks, values


def departure(linear, previous):
    """How far scale * rotation [2, 2] is from scale * exp(i angle) of the frame before: |a / a_previous - 1|^2."""
    return abs((linear[0, 0] + 1j * linear[1, 0]) / previous - 1) ** 2


def search_many(src, dst, tolerance, valid, prior, previous, inertia, size=0, departure=departure):
    """`search_subset` for many points, approximately: of the transforms of all pairs, with their inliers, the best.

    Each transform takes turns with its inliers (the points that gain; of a given size, those that gain most) until J
    rises no more. In 3-D triples take the place of pairs, and `departure` is that of `search_3d`.

    Returns:
        members [N, K] bool, value [N]: J, which no subset's is below that these transforms lead to.
    """
    members, values, dims = np.zeros(valid.shape, bool), np.zeros(len(src)), src.shape[-1]
    for n in range(len(src)):
        (index,) = np.nonzero(valid[n])
        x, y, t = src[n, index], dst[n, index], tolerance[n, index]
        best = -np.inf
        for few in itertools.combinations(range(len(index)), dims):
            inside = np.isin(np.arange(len(index)), few)
            last = -np.inf
            while True:
                w = (inside / t**2)[None]
                scale, rotation, shift, residual, ok = fit_similarity(x[None], y[None], w)
                if not ok[0]:
                    break
                value = (inside * (1 + prior[n, index])).sum() - residual[0] ** 2 * w.sum()
                if np.any(previous[n]):
                    value -= inertia[n] * min(1, departure(scale[0] * rotation[0], previous[n]))
                if value > best and size in (0, inside.sum()):
                    best, values[n] = value, value
                    members[n] = False
                    members[n, index[inside]] = True
                if value <= last and inside.sum() > dims:
                    break
                last = value
                off = y - scale[0] * x @ rotation[0].T - shift[0]
                gain = 1 + prior[n, index] - (off**2).sum(-1) / t**2
                now = np.isin(np.arange(len(index)), np.argsort(-gain, kind="stable")[:size]) if size else gain >= 0
                if (now == inside).all():
                    break
                inside = now
    return members, values


def search_transform(src, dst, tolerance, valid, prior, previous, inertia, model, size=0):
    """`search_subset` for another model: "translation", "linear" or "affine".

    Args:
        previous: [N, 2, 2], the linear part of the frame before, zeros for none; a change from it is
            |A previous^-1 - 1|^2 / 2 (Frobenius), which for similarities is |a / previous - 1|^2. Others as there.
    """
    masks, values = np.zeros(len(src), np.int64), np.zeros(len(src))
    for n in range(len(src)):
        (index,) = np.nonzero(valid[n])
        best = (-np.inf, 0)
        x, y = src[n, index], dst[n, index]
        unit = max(abs(p - p.mean(0)).max(initial=0) for p in (x, y)) if len(index) else 0
        for mask in range(1, 1 << len(index)) if len(index) > 1 and unit > 0 else ():
            member = np.array([mask >> k & 1 for k in range(len(index))], bool)
            w = 1 / tolerance[n, index[member]] ** 2
            points = x[member] - (w @ x[member]) / w.sum()
            spread = np.sqrt(w / w.sum())[:, None] * points / unit
            if size and member.sum() != size:
                continue
            if model == "linear" and ((spread**2).sum(0) <= 1e-12 * (spread**2).sum()).any():
                continue
            if model == "affine" and np.prod(np.linalg.svd(spread @ spread.T)[1][:2]) <= 1e-12 * (spread**2).sum() ** 2:
                continue
            if model != "translation" and (len(w) < 2 or (spread**2).sum() <= 1e-12):
                continue
            matrix, residual, ok = fit_linear_map(x[None, member], y[None, member], model, w[None])
            if not ok[0]:
                continue
            value = (1 + prior[n, index[member]]).sum() - residual[0] ** 2 * w.sum()
            if np.linalg.det(previous[n]) != 0:
                change = matrix[0, :, :2] @ np.linalg.inv(previous[n]) - np.eye(2)
                value -= inertia[n] * min(1, (change**2).sum() / 2)
            key = np.rint(value * 1e6) * 32 + member.sum()
            if key > best[0]:  # the first of equals: the lowest bitmask
                best = key, mask
                values[n], masks[n] = value, member @ (1 << index)
    return masks, values


# People. Frames show D persons, T are known; K keypoints in pixels, `seen` and `known` [.., K] bool say which count.


def seen_points(points, scores, threshold):
    """Which of points [..., 2] with scores [...] are finite, and score `threshold` or more: [...] bool."""
    return np.isfinite(points).all(-1) & (scores >= threshold)


def person_bounds(points, seen, body):
    """Where persons are, and how large.

    Args:
        points: [D, K, 2]; seen: [D, K]; body: the number of keypoints, the first, that tell the size.

    Returns:
        [D, 5]: left, top, minus right, minus bottom, log of the size. Of two rows, the larger of each of the first four
        bounds their overlap; they are infinite where nothing is seen. The size is the square root of the area of the
        body's box, but at least a quarter of its longer side.
    """
    sides = np.where(seen[..., None], np.concatenate([points, -points], -1), np.inf)
    box, trunk = sides.min(1), sides[:, :body].min(1)
    width, height = np.maximum(-(trunk[:, :2] + trunk[:, 2:]), 0).T
    size = np.maximum(np.sqrt(width * height), np.maximum(width, height) / 4)
    return np.column_stack([box, np.log(np.maximum(size, 1))])


def pair_costs(
    points, known, velocity, last, bounds, theirs, seen, their_bounds, time, mirrored, good, prices
):  # fmt: skip
    """What it costs to take each person of a frame for each who is known.

    Args:
        points [T, K, 2], known [T, K], velocity [T, 2] (pixels per second), last [T] (when seen, seconds), bounds
            [T, 5]: of who is known, as `follow` leaves them.
        theirs [D, K, 2], seen [D, K], their_bounds [D, 5]: of the frame at `time`.
        mirrored: [K] the keypoints with left and right exchanged.
        good: of fewer keypoints the size does not count.
        prices: reach and reach per second of absence (person sizes), the time constant in which one slows down, and
            what is paid for no overlap, for a size e times as large, for a second of absence, for the impossible.

    Returns:
        distances [T, D, 2] mean distances (pixels) of the keypoints that both have, sides as named and exchanged,
        infinite without any; cost [T, D].
    """
    reach, reach_per_second, coast_seconds, no_overlap, size_price, gap_price, impossible = prices
    distances, cost = np.full((len(points), len(theirs), 2), np.inf), np.full((len(points), len(theirs)), impossible)
    for t, d in np.ndindex(cost.shape):
        gap = time - last[t]
        shift = -velocity[t] * coast_seconds * np.expm1(-gap / coast_seconds)
        was = bounds[t, :4] + np.concatenate([shift, -shift])
        for side, order in enumerate((slice(None), mirrored)):
            common = known[t] & seen[d, order]
            if common.any():
                apart = (points[t] + shift - theirs[d, order])[common]
                distances[t, d, side] = np.linalg.norm(apart, axis=-1).mean()
        distance = distances[t, d].min()
        if not np.isfinite(distance):  # nothing in common: the boxes' centres must do
            distance = np.linalg.norm((was[:2] - was[2:] - their_bounds[d, :2] + their_bounds[d, 2:4]) / 2)
        size = their_bounds[d, 4] if seen[d].sum() >= good else bounds[t, 4]
        distance /= np.exp((bounds[t, 4] + size) / 2)
        low = np.maximum(was, their_bounds[d, :4])
        both = np.minimum(low[:2] + low[2:], 0).prod()
        either = sum((box[:2] + box[2:4]).prod() for box in (was, their_bounds[d])) - both
        if distance <= reach + reach_per_second * gap:
            cost[t, d] = distance + no_overlap * (1 - both / max(either, 1e-9))
            cost[t, d] += size_price * abs(bounds[t, 4] - size) + gap_price * gap
    return distances, cost


def follow(
    points, known, velocity, last, bounds, theirs, seen, their_bounds, time, mirrored, good, tracks, found, exchanged,
    velocity_seconds, size_seconds,
):  # fmt: skip
    """Updates the tracks in place with the detections that were matched to them.

    Args:
        points, known, velocity, last, bounds, theirs, seen, their_bounds, time, mirrored, good: as for `pair_costs`.
        tracks, found: [N] which known persons are which of the frame; exchanged: [N] whether their sides are.
        velocity_seconds, size_seconds: time constants.
    """
    for t, d, sides in zip(tracks, found, exchanged, strict=True):
        if sides:
            points[t], known[t] = points[t, mirrored], known[t, mirrored]
        dt = max(time - last[t], 1e-6)
        common = known[t] & seen[d]
        moved = np.zeros(2)
        if common.any():
            moved = (theirs[d] - points[t])[common].mean(0)
            velocity[t] -= np.expm1(-dt / velocity_seconds) * (moved / dt - velocity[t])
        points[t] = np.where(seen[d, :, None], theirs[d], points[t] + moved)  # who is hidden moves along
        known[t] |= seen[d]
        last[t], bounds[t, :4] = time, their_bounds[d, :4]
        if seen[d].sum() >= good:
            bounds[t, 4] -= np.expm1(-dt / size_seconds) * (their_bounds[d, 4] - bounds[t, 4])


def warp_composite(image, mask, matrix, size, interpolation, antialias, background, dtype):
    """Warped references, and the composite of all persons over a background.

    Args:
        image: [P, H, W, C] or [1, H, W, C] uint8; mask: [P, H, W] uint8; matrix: [F, P, 2, 3], forward, invertible.
        size: (h, w); interpolation: "cubic", "bilinear", "nearest"; antialias: bool.
        background: None for no composite, a colour [C], or uint8 images [F, h, w, C] or [1, h, w, C].
        dtype: "uint8", "float32" or "float16".

    Returns:
        image, mask and composite (or None) as `tpc_fast.warp_composite` describes.
    """
    (frames, persons), (h, w) = matrix.shape[:2], size
    channels = image.shape[-1]
    warped = np.zeros((frames, persons, h, w, channels + 1))
    for p in range(persons):
        levels = [np.dstack([image[p % len(image)], mask[p]])]
        while antialias and max(levels[-1].shape[:2]) > 1:
            levels.append(halve(levels[-1]))
        for f in range(frames):
            warped[f, p] = warp(levels, matrix[f, p].astype(np.float64), size, interpolation)
    image, mask = warped[..., :channels], warped[..., channels] / 255

    composite = None
    if background is not None:
        composite = np.broadcast_to(background, (frames, h, w, channels)).astype(np.float64)
        for p in range(persons):  # back to front
            m = mask[:, p, ..., None]
            composite = composite * (1 - m) + image[:, p] * m
    if dtype == "uint8":
        return tuple(None if a is None else np.rint(a).astype(np.uint8) for a in (image, mask * 255, composite))
    image, composite = (
        None if a is None else np.moveaxis(a / 127.5 - 1, -1, -3).astype(dtype) for a in (image, composite)
    )
    return image, mask.astype(dtype), composite


def warp(levels, matrix, size, interpolation):
    """One image of a pyramid under one matrix: [h, w, C] float64 in 0..255.

    The filter of `halve` gives level l the variance (4^l - 1) / 4 pixels^2; at scale s = sqrt(|det|) < 1, neighbouring
    levels are blended to (1 / s^2 - 1) / 4, which is continuous in s. Without antialiasing there is only one level.
    """
    (a, b, tx), (c, d, ty) = matrix
    det = a * d - b * c
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    xs, ys = (d * x - b * y + b * ty - d * tx) / det, (a * y - c * x + c * tx - a * ty) / det

    shrink, level = max(1 / abs(det), 1), 0  # 1 / s^2, relative to the level
    while shrink >= 4 and level < len(levels) - 1:
        shrink, level = shrink / 4, level + 1

    def at_level(level):  # its pixel i lies at 2^level * i + (2^level - 1) / 2
        shift = (2**level - 1) / 2
        return sample(levels[level], (xs - shift) / 2**level, (ys - shift) / 2**level, interpolation)

    result = at_level(level)
    if shrink > 1 and level < len(levels) - 1:
        result += (shrink - 1) / 3 * (at_level(level + 1) - result)
    return result.clip(0, 255)


def sample(image, x, y, interpolation):
    """Interpolates image [H, W, C] at x, y [h, w]; zero outside."""
    if interpolation == "nearest":
        x, y = np.floor(x + 0.5), np.floor(y + 0.5)  # halves round up
    taps = {"nearest": [0], "bilinear": [0, 1], "cubic": [-1, 0, 1, 2]}[interpolation]
    left, top = np.floor(x), np.floor(y)
    result = np.zeros((*x.shape, image.shape[-1]))
    for j in taps:
        for i in taps:
            column, row = left + i, top + j
            inside = (column >= 0) & (column < image.shape[1]) & (row >= 0) & (row < image.shape[0])
            weight = inside * kernel(x - column, interpolation) * kernel(y - row, interpolation)
            pixel = image[np.where(inside, row, 0).astype(int), np.where(inside, column, 0).astype(int)]
            result += weight[..., None] * pixel
    return result


def sample_pictures(image, inverse, share, size, interpolation):
    """Floating pictures, each under maps of its own: share * picture(inverse * pixel), zero outside.

    Args:
        image: [S, C, H, W]; inverse: [S, M, 2, 3], output pixels -> picture pixels; share: [S, M].
        size: (h, w); interpolation: "cubic", "bilinear", "nearest".

    Returns:
        [S, M, C, h, w] float64.
    """
    out = np.zeros((*share.shape, image.shape[1], *size))
    for s, m in np.ndindex(*share.shape):
        x, y = _places(inverse[s, m], size)
        seen = sample(np.moveaxis(image[s], 0, -1), x, y, interpolation)
        out[s, m] = share[s, m] * np.moveaxis(seen, -1, 0)
    return out


def sample_gradients(image, inverse, share, interpolation, wanted, step=1e-4):
    """The gradients of sum(wanted * sample_pictures(...)) with respect to image, inverse and share, float64.

    The picture's is exact: sampling is linear in it, so every pixel's is what a picture of that pixel alone gives. The
    map's is by central differences of its places; where share is 0 none flows.
    """
    size = wanted.shape[-2:]
    by_image, by_inverse, by_share = (np.zeros(a.shape) for a in (image, inverse, share))
    for s, (row, column) in ((s, at) for s in range(len(image)) for at in np.ndindex(*image.shape[2:])):
        one = np.zeros((1, 1, *image.shape[2:]))
        one[..., row, column] = 1
        seen = sample_pictures(one, inverse[s : s + 1], share[s : s + 1], size, interpolation)[0]
        by_image[s, :, row, column] = (wanted[s] * seen).sum((0, 2, 3))
    for s, m in np.ndindex(*share.shape):
        if share[s, m] == 0:
            continue
        x, y = _places(inverse[s, m], size)
        picture, g = np.moveaxis(image[s], 0, -1), np.moveaxis(wanted[s, m], 0, -1)
        by_share[s, m] = (g * sample(picture, x, y, interpolation)).sum()
        slopes = [
            sample(picture, x + i, y + j, interpolation) - sample(picture, x - i, y - j, interpolation)
            for i, j in ((step, 0), (0, step))
        ]
        rows, columns = np.mgrid[: size[0], : size[1]]
        at = np.stack([columns, rows, np.ones(size)])
        by_inverse[s, m] = [share[s, m] * (at * (g * slope).sum(-1) / (2 * step)).sum((1, 2)) for slope in slopes]
    return by_image, by_inverse, by_share


def _places(inverse, size):
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    return tuple(a * x + b * y + t for a, b, t in inverse)


def kernel(t, interpolation, a=-0.75):
    """Interpolation weight at distance t: Keys' cubic convolution (IEEE ASSP 29(6), 1981), linear, or 1."""
    t = np.abs(t)
    if interpolation == "cubic":
        near = ((a + 2) * t - (a + 3)) * t**2 + 1
        return np.where(t <= 1, near, np.where(t < 2, a * (((t - 5) * t + 8) * t - 4), 0))
    return np.maximum(1 - t, 0)


def halve(image):
    """The next pyramid level [ceil(H/2), ceil(W/2), C] uint8: [1 3 3 1] / 8 both ways, zeros outside, decimated."""
    h, w = image.shape[:2]
    padded = np.pad(image.astype(int), [(1, 2 + h % 2), (1, 2 + w % 2), (0, 0)])
    rows = sum(k * padded[i : i + h + h % 2 : 2] for i, k in enumerate([1, 3, 3, 1]))
    both = sum(k * rows[:, i : i + w + w % 2 : 2] for i, k in enumerate([1, 3, 3, 1]))
    return ((both + 32) // 64).astype(np.uint8)


def warp_like_opencv(image, matrix, size, perspective):
    """Cubic warp of image [H, W, C] under one matrix, with the coordinates of OpenCV 4's CPU code: [h, w, C] uint8.

    They are rounded to 1/32 pixel: warpPerspective (`perspective`) rounds 32 x, half to even; warpAffine sums terms
    rounded to 1/1024 and drops bits. OpenCV's 16-bit weights are not modelled: they move results by one level.
    """
    inverse = np.linalg.inv(np.vstack([np.asarray(matrix, np.float64), [0, 0, 1]]))[:2]
    rows, columns = np.arange(size[0])[:, None], np.arange(size[1])

    def coordinate(by_x, by_y, offset):
        if perspective:
            return np.rint(32 * (by_x * columns + by_y * rows + offset)) / 32
        return ((np.rint(1024 * (by_y * rows + offset)) + 16 + np.rint(1024 * by_x * columns)) // 32) / 32

    x, y = (coordinate(*row) for row in inverse)
    return np.rint(sample(image, x, y, "cubic").clip(0, 255)).astype(np.uint8)


def mask_head(features, earlier, weights):
    """The last layers of BlazePose's segmentation: enlarged and two blocks, twice, and a 3 x 3 of all channels.

    A block is relu6(x + pointwise(relu6(depthwise(x)))), with 3 x 3 of each channel and zeros beyond the picture.

    Args:
        features: [h, w, 8]; earlier: [2 h, 2 w, 8], added when these are enlarged for the first time.
        weights: [681], for each block 3 x 3 x 8, bias 8, 8 x 8 (from, to), bias 8; then 3 x 3 x 8 and a bias.

    Returns:
        uint8 [4 h, 4 w], 255 / (1 + exp(-x)).
    """

    def enlarged(x):  # bilinear; the centres of pixels are at halves, the outermost are repeated
        for axis, count in enumerate(x.shape[:2]):
            at = ((np.arange(2 * count) + 0.5) / 2 - 0.5).clip(0, max(count - 1, 0))
            low = np.floor(at).astype(int)
            share = (at - low).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
            x = (1 - share) * x.take(low, axis) + share * x.take(np.minimum(low + 1, count - 1), axis)
        return x

    def taps(x, w):
        height, width = x.shape[:2]
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        return sum(padded[i : i + height, j : j + width] * w.reshape(3, 3, 8)[i, j] for i in range(3) for j in range(3))

    def block(x, across, across_bias, mix, mix_bias):
        between = (taps(x, across) + across_bias).clip(0, 6)
        return (x + between @ mix.reshape(8, 8) + mix_bias).clip(0, 6)

    parts = np.split(weights.astype(np.float64), np.cumsum([72, 8, 64, 8] * 4 + [72]))
    values = enlarged(features.astype(np.float64)) + earlier
    values = enlarged(block(block(values, *parts[:4]), *parts[4:8]))
    values = block(block(values, *parts[8:12]), *parts[12:16])
    logits = taps(values, parts[16]).sum(-1) + parts[17]
    return (255 * (0.5 + 0.5 * np.tanh(logits / 2)) + 0.5).astype(np.uint8)


def resample(image, inverse, height, width, shrink, repeat):
    """image [H, W, C] uint8 seen through a view, bilinear: [height, width, C] uint8, halves up.

    Args:
        inverse: [2, 3], output pixels -> picture pixels.
        shrink: the picture is first averaged over squares of so many pixels (halves up; what is left over is dropped).
        repeat: whether borders are repeated; otherwise the outside is black.
    """
    rows, columns = (side // shrink for side in image.shape[:2])
    squares = image[: rows * shrink, : columns * shrink].reshape(rows, shrink, columns, shrink, -1)
    image = (2 * squares.sum((1, 3), dtype=np.int64) + shrink**2) // (2 * shrink**2)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    x, y = (((by_x * x + by_y * y + offset) - (shrink - 1) / 2) / shrink for by_x, by_y, offset in inverse)
    if repeat:
        x, y = x.clip(0, columns - 1), y.clip(0, rows - 1)
    return np.floor(sample(image, x, y, "bilinear") + 0.5).astype(np.uint8)


# Propagation and reference attention


def propagate(features, group_of, representatives):
    """What every frame reads: features [U, ...] of its group's representative, group_of [F] -> [F, ...]."""
    return np.stack([features[representatives[group]] for group in group_of])


def token_coverage(mask, grid):
    """Area mean of mask [H, W] over every token of grid (h, w): [h * w] float64.

    Token i of h covers rows floor(i H / h) up to ceil((i + 1) H / h), as in adaptive pooling.
    """
    (height, width), (h, w) = mask.shape, grid
    coverage = np.zeros(grid)
    for i in range(h):
        for j in range(w):
            rows = slice(i * height // h, -(-(i + 1) * height // h))
            columns = slice(j * width // w, -(-(j + 1) * width // w))
            coverage[i, j] = mask[rows, columns].mean(dtype=np.float64)
    return coverage.ravel()


def visible_tokens(pose, calibrated, reference, rows, bank_size, grid, valid=None, reference_valid=None):
    """Which tokens of the bank every query token sees (DESIGN 5).

    Args:
        pose: [P, n, H, W] pose masks of n frames, 0..1; calibrated: [P, n, H, W], the calibrated masks of the image
            that each of them reads; reference: [P, H, W]; all of P persons.
        rows: [P, n], which image of the bank that is; the reference is image 0.
        bank_size: R; grid: (h, w) of the tokens, N = h * w.
        valid, reference_valid: [H, W], 1 where the canvas of the frames, of the reference, is not padding; None: all.

    Returns:
        bool [n, N, R, N]: frame, query token, image of the bank, token of it.
    """
    persons, frames = rows.shape
    count = grid[0] * grid[1]
    inside, reference_inside = (
        np.ones(count, bool) if mask is None else token_coverage(mask, grid) >= 0.5 for mask in (valid, reference_valid)
    )
    visible = np.zeros((frames, count, bank_size, count), bool)
    covered = np.zeros((max(persons, 1), count))
    for p in range(persons):
        covered[p] = token_coverage(reference[p], grid)
    background_keys = reference_inside & (covered.mean(0) < 0.001)
    for f in range(frames):
        covered = np.zeros((max(persons, 1), count))
        for p in range(persons):
            covered[p] = token_coverage(pose[p, f], grid)
            keys = token_coverage(calibrated[p, f], grid) > 0.001
            visible[f, :, rows[p, f]] |= np.outer(inside & (covered[p] > 0.001), keys)
        visible[f, :, 0] |= np.outer(inside & (covered.mean(0) < 0.001), background_keys)
    return visible


def visible_token_sets(pose, rows, bank_size, length, grid):
    """Whose tokens every query token sees, where the tokens of an image have no position.

    Args:
        pose, rows, bank_size, grid: as in `visible_tokens`; length: L, tokens of an image.

    Returns:
        bool [n, N, R, L], as of `visible_tokens`; and bool [n, N], where nobody covers a query token.
    """
    persons, frames = rows.shape
    visible = np.zeros((frames, grid[0] * grid[1], bank_size, length), bool)
    for f in range(frames):
        for p in range(persons):
            visible[f, token_coverage(pose[p, f], grid) > 0.001, rows[p, f]] = True
    return visible, ~visible.any((2, 3))


def reference_attention(q, k, v, bank_k, bank_v, visible, cond, own=None, strength=1.0):
    """Attention over a frame's own tokens and, for the rows `cond`, over visible tokens of the bank, with a full mask.

    Args:
        q: [B, M, H, d], M of the N tokens, or all; k, v: [B, N, H, d]; bank_k, bank_v: [R, N, H, d].
        visible: bool [n, M, R, N], n the number of rows in the slice cond of B.
        own: bool [n, M], which queries of those rows see k and v; None for all.
        strength: as how many each key of the bank counts.

    Returns:
        [B, M, H, d] float64.
    """
    q, k, v, bank_k, bank_v = (np.asarray(a, np.float64) for a in (q, k, v, bank_k, bank_v))
    batch, count, heads, dim = q.shape
    sees_own = np.ones((batch, count, k.shape[1]), bool)
    if own is not None:
        sees_own[cond] = own[:, :, None]
    mask = np.zeros((batch, count, len(bank_k) * k.shape[1]), bool)
    mask[cond] = visible.reshape(-1, *mask.shape[1:])
    bias = np.zeros(k.shape[1] + mask.shape[2])
    bias[k.shape[1] :] = np.log(strength) if strength else -np.inf
    out = np.zeros(q.shape)
    for b in range(batch):
        allowed = np.concatenate([sees_own[b], mask[b]], 1)
        for head in range(heads):
            keys, values = (
                np.concatenate([own[b, :, head], bank[:, :, head].reshape(-1, dim)])
                for own, bank in ((k, bank_k), (v, bank_v))
            )
            scores = np.where(allowed, q[b, :, head] @ keys.T / np.sqrt(dim) + bias, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[b, :, head] = weights @ values / weights.sum(-1, keepdims=True)
    return out
