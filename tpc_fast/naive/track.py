"""The specification of `tpc_fast.ops.track`: candidates, path and refinement of one person's track, float64.

Points are complex numbers, x + iy. The photo is given in its person's own frame: origin at the anchor, real axis along
the body, person size 1 (`tpc_fast.ops.track.Photo`). A frame's state x = (log size, angle, u, v) says where the person
is in the frame: the log of the size in pixels, the direction of the body, and the anchor's place in pixels. Its
similarity is y -> exp(log size + i angle) y + u + iv. `sides` has two rows: the photo as it is, and with left and right
exchanged.
Settings are `c`, see `tpc_fast.ops.track.Settings`.
"""

import numpy as np

from tpc_fast import naive

EQUAL = 5e-7  # values of paths that differ by less are equal: half of what they are rounded to


def xy(points):
    """Complex [...] as [..., 2]."""
    return np.stack([points.real, points.imag], -1)


def pair_ratio(src, dst, seen, parts):
    """How many times as large dst is: the median of pairs' ratios of length, weighted by length; NaN without a pair.

    Kalal, Mikolajczyk, Matas, "Forward-backward error", ICPR 2010 (MedianFlow). The pairs of the first of `parts` (bool
    [R, K]) that has any count.

    Returns:
        the ratio; the sum of the lengths, which is what it rests on.
    """
    for part in parts:
        index = np.flatnonzero(seen & part)
        i, j = (index[half] for half in np.triu_indices(len(index), 1))
        length = abs(src[i] - src[j])
        i, j, length = i[length > 0], j[length > 0], length[length > 0]
        if len(length):
            ratio = abs(dst[i] - dst[j]) / length
            order = np.lexsort((length, ratio))
            total = np.cumsum(length[order])
            return ratio[order][np.searchsorted(total, total[-1] / 2)], total[-1]
    return np.nan, 0.0


def weighted_median(values, weights):
    """The least value up to which half of the weight lies; with equal weights the lower median.

    A billionth less than half is enough, so that rounding does not decide between two halves that are equal.
    """
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return values[order][np.searchsorted(total, (0.5 - 1e-9) * total[-1])]


def person_sizes(photo, driving, seen, times, c):
    """Person sizes [F] in pixels: of each frame alone, then the median of those around it.

    Each counts what it rests on: two keypoints that are seen for half of the time, and that a turn brings nearer to
    each other, say less than whole persons in the other half.

    Args:
        driving: complex [F, K]; seen: bool [F, K], there and in the photo as it is.
    """
    found = [pair_ratio(photo.sides[0], y, s, c.size_parts) for y, s in zip(driving, seen, strict=True)]
    alone, rests_on = np.array(found).reshape(-1, 2).T
    sizes = np.full(len(times), np.nan)
    for f, time in enumerate(times):
        around = slice(max(f - c.size_frames, 0), f + c.size_frames + 1)
        near = (abs(times[around] - time) <= c.size_seconds) & (alone[around] > 0)
        if near.any():
            sizes[f] = weighted_median(alone[around][near], rests_on[around][near])
    known = np.flatnonzero(sizes > 0)
    if not len(known):
        return np.full(len(times), photo.size)
    return np.where(sizes > 0, sizes, np.exp(between(times, known, np.log(sizes[known]))))


def between(times, known, values):
    """Values [N, ...] of the frames `known` [N], on straight lines in time between them, constant before and after.

    Neighbours by number, since times may repeat (of equal times, the earlier frame's value).
    """
    frames = np.arange(len(times))
    after = np.searchsorted(known, frames).clip(0, len(known) - 1)
    before = (after - (known[after] > frames)).clip(0)
    span = times[known[after]] - times[known[before]]
    share = np.where(span > 0, times - times[known[before]], 0) / np.where(span > 0, span, 1)
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    return values[before] + share * (values[after] - values[before])


def frame_weights(times, c):
    """What a frame counts [F]: frames closer together than `correlation_seconds` show the same mistakes again."""
    if len(times) < 2:
        return np.ones(len(times))
    step = np.diff(times)
    around = np.concatenate([step[:1], (step[1:] + step[:-1]) / 2, step[-1:]])
    return np.clip(around / c.correlation_seconds, c.least_weight, 1)


def square_error(points, driving, state, tolerance, c):
    """(r / t)^2 [..., K] of a state, residuals across the body divided by `across` times the tolerance."""
    log_size, angle, u, v = np.moveaxis(np.asarray(state)[..., None, :], -1, 0)
    turn = np.exp(1j * angle)
    apart = (np.exp(log_size) * turn * points + u + 1j * v - driving) / turn
    return (apart.real / tolerance) ** 2 + (apart.imag / (c.across * tolerance)) ** 2


def candidates(photo, scores, driving, common, size, frame_weight, c):
    """Transforms that a frame's keypoints suggest: rows (side, log size, angle, u, v, J), [C, 6].

    Args:
        photo: a `Photo`; driving: complex [K]; scores: [2, K], the lesser of the photo's sides' and the frame's;
        common: bool [2, K], seen in both; size: pixels.

    J is what the state explains: sum of weight max(0, 1 - (r / t)^2), rounded to 1e-6 so that equals are equal.
    """
    rows, tolerance = [], c.tolerance * size
    for side in (0, 1):
        x, w, has = photo.sides[side], scores[side] * c.part_weights, common[side]
        sets = [has & part for part in c.candidate_parts]
        sets = [s for n, s in enumerate(sets) if s.sum() >= (2 if n == len(sets) - 1 else 3)]
        sets = [s for n, s in enumerate(sets) if not any((s == t).all() for t in sets[:n])]
        shares = [s * w / tolerance**2 for s in sets]
        if c.search and has.sum() >= c.search_least:
            zero = np.zeros((1, len(x)))
            src, dst = (xy(np.where(has, p, 0))[None] for p in (x, driving))
            none = zero[:, 0]
            mask, _ = naive.search_subset(src, dst, tolerance[None], has[None], zero, none, none, c.search_size)
            members = mask[0] >> np.arange(len(x)) & 1
            if members.sum() >= 3:  # any two fit exactly: if no third agrees, rounding says which two
                shares.append(members * scores[side])
        for share in shares:
            src, dst = (xy(np.where(has, p, 0))[None] for p in (x, driving))
            scale, rotation, shift, _, ok = naive.fit_similarity(src, dst, share[None])
            if not ok[0] or not 1 / c.misfit <= scale[0] / size <= c.misfit:
                continue
            angle = np.arctan2(rotation[0, 1, 0], rotation[0, 0, 0])
            state = [np.log(scale[0]), angle, *shift[0]]
            error = square_error(x, np.where(has, driving, 0), state, tolerance, c)
            value = frame_weight * (w * np.maximum(1 - error, 0))[has].sum()
            if has.sum() == 2:
                value -= c.upright * (1 - np.cos(angle - photo.angle))
            rows.append([side, *state, np.rint(value * 1e6) / 1e6])
    return np.array(rows).reshape(-1, 6)


def step_price(before, after, dt, size, c):
    """What it costs to go from rows [..., 5+] (side, state) to others in dt seconds: price, whether it is a break."""
    dt = max(dt, c.least_seconds)
    turn = abs((after[..., 2] - before[..., 2] + np.pi) % (2 * np.pi) - np.pi)
    way = np.hypot(after[..., 3] - before[..., 3], after[..., 4] - before[..., 4]) / size
    price = abs(after[..., 1] - before[..., 1]) / (c.path_log_scale[0] * dt + c.path_log_scale[1])
    price += turn / (c.path_angle[0] * dt + c.path_angle[1]) + way / (c.path_position[0] * dt + c.path_position[1])
    side = c.path_side * (after[..., 0] != before[..., 0])
    return np.rint((np.minimum(price, c.path_break) + side) * 1e6) / 1e6, price >= c.path_break


def best_ways(rows, time, size, earlier, c):
    """The best way to each candidate of a frame.

    Args:
        rows: [C, 6] of the frame; earlier: of frames before it, latest first, (number, rows, values [C], time, size).

    Returns:
        values [C] of the best sequences that end with each; origins [C, 2], frame and candidate before, -1 for none.
    """
    gain, origins = np.zeros(len(rows)), np.full((len(rows), 2), -1)
    for number, before, values, when, size_before in earlier:
        price, _ = step_price(before[None], rows[:, None], time - when, np.sqrt(size * size_before), c)
        total = values[None] - price
        better = total.max(1) > gain + EQUAL
        gain = np.where(better, total.max(1), gain)
        origins[better] = np.stack([np.full(len(rows), number), total.argmax(1)], 1)[better]
    return rows[:, 5] + gain, origins


def best_end(values):
    """Where the best path ends among frames' values, the latest of equals: frame, candidate."""
    best = max(v.max(initial=-np.inf) for v in values)
    f = next(f for f in range(len(values) - 1, -1, -1) if values[f].max(initial=-np.inf) > best - EQUAL)
    return f, int(values[f].argmax())


def best_path(rows, times, sizes, c):
    """The best sequence of candidates (Viterbi); frames may be passed over, which forfeits what they explain.

    Args:
        rows: a list [F] of [C, 6], see `candidates`.

    Returns:
        chosen [F], the candidate of each frame, -1 for none; breaks [F] bool, whether the person was somewhere else in
        the last frame that has one.
    """
    chosen, breaks = np.full(len(rows), -1), np.zeros(len(rows), bool)
    values, origins, earlier = [np.empty(0)] * len(rows), [None] * len(rows), []
    for f in range(len(rows)):
        if len(rows[f]):
            values[f], origins[f] = best_ways(rows[f], times[f], sizes[f], earlier[: c.path_frames], c)
            earlier.insert(0, (f, rows[f], values[f], times[f], sizes[f]))
    f, at = best_end(values) if earlier else (-1, -1)
    while f >= 0:
        chosen[f] = at
        g, before = origins[f][at]
        if g >= 0:
            size = np.sqrt(sizes[f] * sizes[g])
            breaks[f] = step_price(rows[g][before], rows[f][at], times[f] - times[g], size, c)[1]
        f, at = g, before
    return chosen, breaks


def segments(times, chosen, breaks):
    """Which stretch between breaks frames belong to [F], the nodes (with a candidate), and the nearest of them [F]."""
    nodes = np.flatnonzero(chosen >= 0)
    if not len(nodes):
        return np.zeros(len(times), int), nodes, np.zeros(len(times), int)
    after = np.searchsorted(nodes, np.arange(len(times))).clip(0, len(nodes) - 1)
    before = (after - (nodes[after] > np.arange(len(times)))).clip(0)
    nearest = np.where(times - times[nodes[before]] <= times[nodes[after]] - times, before, after)
    return np.cumsum(breaks[nodes])[nearest], nodes, nearest


def start(photo, rows, times, chosen, breaks, driving, common, c):
    """Where the refinement starts.

    Returns:
        side [F], stretch [F], states [F, 4] on straight lines between chosen candidates, home [F, 4]: those candidates,
        NaN between them. Without any candidate, the states themselves.
    """
    stretch, nodes, nearest = segments(times, chosen, breaks)
    if not len(nodes):  # a point or two that tell no size: the photo's own, upright, where they are; none: as the photo
        state = np.tile([np.log(photo.size), photo.angle, photo.anchor.real, photo.anchor.imag], (len(times), 1))
        w = common[:, 0] * c.part_weights
        known = np.flatnonzero(w.sum(1) > 0)
        apart = np.where(common[:, 0], driving, 0) - photo.size * np.exp(1j * photo.angle) * photo.sides[0]
        places = (w[known] * apart[known]).sum(1) / w[known].sum(1)
        if len(known):
            state[:, 2:] = between(times, known, xy(places))
        return np.zeros(len(times), int), stretch, state, state
    taken = np.array([rows[f][chosen[f]] for f in nodes])
    states = np.empty((len(times), 4))
    for s in np.unique(stretch):
        here = stretch[nodes] == s
        track = taken[here, 1:5]
        track[:, 1] = np.unwrap(track[:, 1])
        frames = np.flatnonzero(stretch == s)
        states[frames] = between(times[frames], np.searchsorted(frames, nodes[here]), track)
    return taken[nearest, 0].astype(int), stretch, states, np.where(chosen[:, None] >= 0, states, np.nan)


def prior_terms(times, stretch, sizes, rates, c):
    """The prior as rows of (weight [F, 4], frames [3], factors [3]): a random walk, and its second difference.

    sum |dx|^2 / (rate^2 dt) + sum |a|^2 dt / acceleration^2, with a = (v' - v) / dt, v = dx / dt and dt between the
    middles of the steps; positions in person sizes. No term reaches across a break.
    """
    step = np.maximum(np.diff(times), c.least_seconds)
    unit = np.ones((len(times), 4))
    unit[:, 2:] = sizes[:, None]
    same = stretch[1:] == stretch[:-1]
    link = np.sqrt(unit[1:] * unit[:-1])
    walk = same[:, None] / (np.array(rates.walk) ** 2 * step[:, None] * link**2)
    first, second = step[:-1], step[1:]
    span = (first + second) / 2
    bend = np.stack([1 / first, -1 / first - 1 / second, 1 / second], -1) / span[:, None]
    both = (same[1:] & same[:-1])[:, None]
    bent = both * span[:, None] / (np.array(rates.acceleration) ** 2 * unit[1:-1] ** 2)
    return walk, bent, bend


def refine(states, home, times, stretch, points, weights, driving, common, sizes, frame_weight, rates, c, prior=None):
    """Maximum a posteriori states [F, 4] of a whole track, by iteratively reweighted least squares.

    Minimises sum_f sum_k frame_weight weight rho(|r / t|^2) + prior + candidate_weight sum_f |x - home|^2 (positions in
    person sizes), rho(e) = e / (1 + e) (Geman, McClure, 1987), or e if not `robust`. Every iteration is a damped
    Gauss-Newton step: one banded solve. The error is not widened at first, as graduated non-convexity does: `states`
    are near what the search for subsets found, and a wider error leaves that for where most of the weight is.

    Args:
        states: [F, 4] to start from; home: [F, 4], the candidates of the path, NaN of frames without, see `start`.
        points, weights, common: [F, K], of the photo on each frame's side.
        prior: None, or (matrix [8, 8], vector [8], states [2, 4]) of the first two frames, see `forget`.

    Returns:
        states [F, 4], robust weights [F, K].
    """
    from scipy.linalg import solveh_banded  # heavy: not before it is needed

    frames = len(times)
    if frames == 0:
        return states, np.zeros(common.shape)
    weights = np.where(common, weights * frame_weight[:, None], 0)
    driving, tolerance = np.where(common, driving, 0), c.tolerance * sizes[:, None]
    terms = prior_terms(times, stretch, sizes, rates, c)
    unit = np.concatenate([np.ones((frames, 2)), np.repeat(sizes[:, None], 2, 1)], 1)
    has_home = np.isfinite(home[:, :1])
    home, pull = np.where(has_home, home, 0), np.where(has_home, c.candidate_weight / unit**2, 0)

    def cost(x):
        error = square_error(points, driving, x, tolerance, c)
        rho = error / (1 + error) if c.robust else error
        return (weights * rho).sum() + prior_cost(x, terms, prior) + (pull * (x - home) ** 2).sum()

    damping, now = 0.0, cost(states)
    for _ in range(c.iterations):
        matrix, vector = normal_equations(states, points, weights, driving, tolerance, terms, prior, c)
        matrix[8] += pull.reshape(-1)
        vector -= (pull * (states - home)).reshape(-1)
        while True:
            damped = matrix.copy()
            damped[8] *= 1 + damping
            damped[8] += c.ridge / unit.reshape(-1) ** 2
            try:
                step = solveh_banded(damped, vector).reshape(frames, 4)
                value = cost(states + step)
            except np.linalg.LinAlgError:
                value = np.inf
            if value <= now + 1e-12 * (abs(now) + 1):
                break
            if damping > 1e6:  # rounding is all that is left
                return states, robust_weights(points, driving, weights > 0, states, tolerance, c)
            damping = max(10 * damping, 1e-3)
        states, now, damping = states + step, value, damping / 10 if damping > 1e-3 else 0.0
        if (abs(step) / unit).max() < c.converged:
            break
    return states, robust_weights(points, driving, weights > 0, states, tolerance, c)


def refine_shown(
    states, home, times, stretch, points, weights, driving, common, sizes, frame_weight, rates, c, prior=None,
    picture=None,
):  # fmt: skip
    """`refine`, and again without the keypoints that it puts beyond the picture, until there are none.

    What lies beyond cannot have been seen: a detector has guessed it, most often somewhere inside. But a frame keeps
    its keypoints if fewer than `search_least` would be left: they tell too little to say that the others were guessed,
    and without them the states around would be free.

    Args:
        picture: its edges (left, top, right, bottom) in pixels, or None.

    Returns:
        states [F, 4], robust weights [F, K], which keypoints were beyond [F, K].
    """
    hidden = np.zeros(common.shape, bool)
    while True:
        has = common & ~hidden
        states, robust = refine(
            states, home, times, stretch, points, weights, driving, has, sizes, frame_weight, rates, c, prior
        )  # fmt: skip
        counted = has & (weights > 0)
        beyond = counted & ~shown(points, states, picture)
        left = (counted & ~beyond).sum(1)
        beyond &= (left >= c.search_least)[:, None]
        if not beyond.any():
            return states, robust, hidden
        hidden |= beyond


def shown(points, states, picture):
    """Whether states [F, 4] put points [F, K] into the picture."""
    if picture is None:
        return np.ones(points.shape, bool)
    left, top, right, bottom = picture
    at = np.exp(states[:, :1] + 1j * states[:, 1:2]) * points + states[:, 2:3] + 1j * states[:, 3:]
    return (at.real >= left) & (at.real <= right) & (at.imag >= top) & (at.imag <= bottom)


def robust_weights(points, driving, counted, states, tolerance, c):
    """What the error leaves of each keypoint [F, K]: the derivative of rho; 0 of those not `counted` [F, K]."""
    error = square_error(points, driving, states, tolerance, c)
    return np.where(counted, (1 / (1 + error)) ** 2 if c.robust else 1.0, 0)


def prior_cost(x, terms, prior):
    walk, bent, bend = terms
    total = (walk * np.diff(x, axis=0) ** 2).sum()
    if len(x) > 2:
        curve = bend[:, :1] * x[:-2] + bend[:, 1:2] * x[1:-1] + bend[:, 2:] * x[2:]
        total += (bent * curve**2).sum()
    if prior is not None:
        apart = (x[:2] - prior[2][: len(x)]).reshape(-1)
        n = len(apart)
        total += apart @ prior[0][:n, :n] @ apart - 2 * prior[1][:n] @ apart
    return total


def jacobian(points, state):
    """Of residuals in the body's axes, in pixels: [F, K, 2, 4]."""
    log_size, angle, _, _ = (p[:, None] for p in state.T)
    moved = np.exp(log_size) * points
    out = np.zeros((*points.shape, 2, 4))
    out[..., 0, 0], out[..., 1, 0] = moved.real, moved.imag
    out[..., 0, 1], out[..., 1, 1] = -moved.imag, moved.real
    out[..., 0, 2] = out[..., 1, 3] = np.cos(angle)
    out[..., 0, 3], out[..., 1, 2] = np.sin(angle), -np.sin(angle)
    return out


def data_equations(states, mu, points, weights, driving, tolerance, c):
    """J' W J [F, 4, 4] and -J' W r [F, 4] of the keypoints."""
    turn = np.exp(1j * states[:, 1:2])
    apart = np.exp(states[:, :1]) * points + (states[:, 2:3] + 1j * states[:, 3:] - driving) / turn
    scaled = np.stack([tolerance, c.across * tolerance], -1)
    r = xy(apart) / scaled
    w = weights
    if mu is not None:
        w = w * (mu / (mu + (r**2).sum(-1))) ** 2
    j = jacobian(points, states) / scaled[..., None]
    return np.einsum("fk,fkai,fkaj->fij", w, j, j), -np.einsum("fk,fkai,fka->fi", w, j, r)


def normal_equations(states, points, weights, driving, tolerance, terms, prior, c):
    """The upper band [9, 4 F] of the matrix of a step, and its right side [4 F]."""
    frames = len(states)
    blocks, vector = data_equations(states, 1.0 if c.robust else None, points, weights, driving, tolerance, c)
    band = np.zeros((9, 4 * frames))

    def add(i, j, value):  # i <= j
        np.add.at(band, (8 - (j - i), j), value)

    for a in range(4):
        for b in range(a, 4):
            add(4 * np.arange(frames) + a, 4 * np.arange(frames) + b, blocks[:, a, b])
    walk, bent, bend = terms
    for a in range(4):
        at = 4 * np.arange(frames) + a
        change = np.diff(states[:, a])
        vector[:-1, a] += walk[:, a] * change
        vector[1:, a] -= walk[:, a] * change
        for i, j, sign in ((0, 0, 1), (1, 1, 1), (0, 1, -1)):
            add(at[i : frames - 1 + i], at[j : frames - 1 + j], sign * walk[:, a])
        if frames > 2:
            curve = sum(bend[:, i] * states[i : frames - 2 + i, a] for i in range(3))
            for i in range(3):
                vector[i : frames - 2 + i, a] -= bent[:, a] * bend[:, i] * curve
                for j in range(i, 3):
                    product = bent[:, a] * bend[:, i] * bend[:, j]
                    add(at[i : frames - 2 + i], at[j : frames - 2 + j], product)
    if prior is not None:
        n = min(2, frames)
        apart = (states[:n] - prior[2][:n]).reshape(-1)
        vector[:n] -= (prior[0][: 4 * n, : 4 * n] @ apart - prior[1][: 4 * n]).reshape(n, 4)
        for i in range(4 * n):
            for j in range(i, 4 * n):
                add(i, j, prior[0][i, j])
    return band, vector.reshape(-1)


def information(points, weights, robust, c):
    """What frames' own keypoints say [F, 3]: precisions of log scale, of the angle, and of the position given these.

    Inverse variances if a keypoint's noise has COCO's sigma (the cost counts in tolerances, three sigmas): in log scale
    and radians with the position unknown, and in person sizes.
    """
    w = weights * robust / c.tolerance**2 * c.tolerance_sigmas**2
    along, across = w.sum(1), w.sum(1) / c.across**2
    total = np.maximum(along, 1e-300)
    centre = (w * points).sum(1) / total
    spread = points - centre[:, None]
    xx, yy = (w * spread.real**2).sum(1), (w * spread.imag**2).sum(1)
    return np.stack([xx + yy / c.across**2, xx / c.across**2 + yy, (along + across) / 2], -1)


def estimate(photo, driving, scores, seen, times, c, rates, picture=None):
    """The whole track of one person.

    Args:
        driving: complex [F, K]; scores, seen: [F, K]; times: [F] seconds; picture: see `refine_shown`.

    Returns:
        sizes [F], side [F], breaks [F], states [F, 4], robust weights [F, K], information [F, 3].
    """
    common = seen[:, None] & photo.seen
    scores = np.where(common, np.minimum(np.minimum(photo.scores, scores[:, None]), 1), 0)
    sizes, frame_weight = person_sizes(photo, driving, common[:, 0], times, c), frame_weights(times, c)
    each = zip(scores, driving, common, sizes, frame_weight, strict=True)
    rows = [candidates(photo, *frame, c) for frame in each]
    chosen, breaks = best_path(rows, times, sizes, c)
    side, stretch, states, home = start(photo, rows, times, chosen, breaks, driving, common, c)
    each = np.arange(len(times)), side
    points, weights = photo.sides[side], scores[each] * c.part_weights
    states, robust, _ = refine_shown(
        states, home, times, stretch, points, weights, driving, common[each], sizes, frame_weight, rates, c,
        picture=picture,
    )  # fmt: skip
    robust[:, photo.assumed] = 0  # that tells nothing of the frame
    return sizes, side, breaks, states, robust, information(points, weights, robust, c)


def residuals(photo, driving, scores, seen, side, states, robust, c):
    """Weighted rms distance [F] in pixels of the keypoints from where the states put the photo's; 0 without any."""
    w = np.where(seen, np.minimum(photo.scores[side], scores) * c.part_weights * robust, 0)
    where = np.exp(states[:, :1] + 1j * states[:, 1:2]) * photo.sides[side] + states[:, 2:3] + 1j * states[:, 3:]
    total = w.sum(1)
    return np.sqrt((w * abs(where - driving) ** 2).sum(1) / np.where(total > 0, total, 1))


def constant(photo, driving, scores, seen, side, states, sizes, known, c):
    """One state for all frames: a redescending M-estimate, its width by the median error (Huber, "Robust statistics").

    It starts from the medians of the track's states, of frames that say anything (`known`: their information [F, 3]).

    Returns:
        states [F, 4], all alike; robust weights [F, K].
    """
    each, common = np.arange(len(side)), seen & photo.seen[side]
    if not common.any():
        return states, np.zeros(seen.shape)
    points, tolerance = photo.sides[side], c.tolerance * np.median(sizes)
    weights = np.where(common, np.minimum(photo.scores[side], scores) * c.part_weights, 0)
    used = known[:, 2] > 0
    if not used.any():
        used = each >= 0
    middle = np.angle(np.exp(1j * states[used, 1]).mean())
    turns = (states[used, 1] - middle + np.pi) % (2 * np.pi) - np.pi
    x = np.array([*np.median(states[used][:, [0]], 0), middle + np.median(turns), *np.median(states[used, 2:], 0)])
    target = np.where(common, driving, 0)

    def whole(mu):
        blocks, vector = data_equations(
            np.tile(x, (len(each), 1)), mu, points, weights, target, tolerance[None], c
        )  # fmt: skip
        return blocks.sum(0), vector.sum(0)

    unit = np.array([1, 1, np.median(sizes), np.median(sizes)])
    for _ in range(c.iterations):
        error = square_error(points, target, x, tolerance, c)
        mu = max(1.0, np.median(error[weights > 0])) if c.robust and (weights > 0).any() else None
        matrix, vector = whole(mu)
        step = np.linalg.solve(matrix + np.diag(c.ridge / unit**2), vector)
        step[:2] = np.clip(step[:2], -0.5, 0.5)
        x = x + step
        if (abs(step) / unit).max() < c.converged:
            break
    error = square_error(points, target, x, tolerance, c)
    robust = np.where((weights > 0) & ~photo.assumed, (mu / (mu + error)) ** 2 if mu is not None else 1.0, 0)
    return np.tile(x, (len(each), 1)), robust
