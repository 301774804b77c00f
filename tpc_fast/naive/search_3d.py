"""The subset search for points in 3-D: `naive.search_subset` and `naive.search_many`, with a rotation of SO(3)."""

import itertools

import numpy as np

from tpc_fast import naive


def departure(linear, previous):
    """How far scale * rotation [..., 3, 3] is from that of the frame before: |A A_previous^-1 - 1|^2 / 3 (Frobenius).

    In 2-D, with a 2 in place of the 3, it is |a / a_previous - 1|^2.
    """
    return ((linear @ np.linalg.inv(previous) - np.eye(3)) ** 2).sum((-2, -1)) / 3


def search_subset(src, dst, tolerance, valid, prior, previous, inertia, size=0):
    """Truncated least squares by looking at every subset.

    Maximises J and breaks ties as `naive.search_subset` does, with the price of a departure as above. A subset whose
    points lie on a line, in either set, has no similarity.

    Args:
        src, dst: [N, K, 3] float64; previous: [N, 3, 3], zeros for none; others as there.

    Returns:
        members [N, K] bool, value [N]: its J; nobody and 0 where no subset has a similarity.
    """
    members, values = np.zeros(valid.shape, bool), np.zeros(len(src))
    for n in range(len(src)):
        (index,) = np.nonzero(valid[n])
        x, y = src[n, index], dst[n, index]
        if len(index) < 3 or not (np.ptp(x, 0).any() and np.ptp(y, 0).any()):
            continue
        x, y = x - x.mean(0), y - y.mean(0)
        unit_x, unit_y = abs(x).max(), abs(y).max()
        x, y, t = x / unit_x, y / unit_y, tolerance[n, index] / unit_y

        member = (np.arange(1 << len(index))[:, None] >> np.arange(len(index)) & 1).astype(np.float64)
        w = member / t**2
        total = np.maximum(w.sum(-1), 1e-300)
        mean_x, mean_y = w @ x / total[:, None], w @ y / total[:, None]
        xx = w @ (x**2).sum(-1) / total - (mean_x**2).sum(-1)
        yy = w @ (y**2).sum(-1) / total - (mean_y**2).sum(-1)
        xy = np.einsum("sk,ki,kj->sij", w, y, x) / total[:, None, None] - mean_y[:, :, None] * mean_x[:, None]
        u, s, vt = np.linalg.svd(xy)
        flip = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
        u[:, :, -1] *= flip[:, None]
        s[:, -1] *= flip
        usable = (xx > 1e-12) & (yy > 1e-12) & (s[:, 1] + s[:, 2] > 1e-6 * np.sqrt(np.maximum(xx * yy, 0)))
        scale = s.sum(-1) / np.where(usable, xx, 1)
        value = member @ (1 + prior[n, index]) - total * np.maximum(yy - scale * s.sum(-1), 0)
        if previous[n].any():
            linear = (scale * unit_y / unit_x)[:, None, None] * (u @ vt)
            value -= inertia[n] * np.minimum(1, departure(linear, previous[n]))
        count = member.sum(-1)
        usable &= (count == size) if size else True
        if usable.any():
            key = np.where(usable, np.rint(value * 1e6) * 32 + count, -np.inf)
            best = key.argmax()  # the first of equals: the lowest bitmask
            values[n], members[n, index] = value[best], member[best] != 0
    return members, values


def search_many(src, dst, tolerance, valid, prior, previous, inertia, size=0):
    """`search_subset` for many points, approximately: of the similarities of all triples, with their inliers, the best.

    Returns:
        members [N, K] bool, value [N]: J, which no subset's is below that these similarities lead to.
    """
    members, values = np.zeros(valid.shape, bool), np.zeros(len(src))
    for n in range(len(src)):
        (index,) = np.nonzero(valid[n])
        x, y, t = src[n, index], dst[n, index], tolerance[n, index]
        best = -np.inf
        for three in itertools.combinations(range(len(index)), 3):
            inside = np.isin(np.arange(len(index)), three)
            last = -np.inf
            while True:
                w = (inside / t**2)[None]
                scale, rotation, shift, residual, ok = naive.fit_similarity(x[None], y[None], w)
                if not ok[0]:
                    break
                value = (inside * (1 + prior[n, index])).sum() - residual[0] ** 2 * w.sum()
                if previous[n].any():
                    value -= inertia[n] * min(1, departure(scale[0] * rotation[0], previous[n]))
                if value > best and size in (0, inside.sum()):
                    best, values[n] = value, value
                    members[n] = False
                    members[n, index[inside]] = True
                if value <= last and inside.sum() > 3:
                    break
                last = value
                off = y - scale[0] * x @ rotation[0].T - shift[0]
                gain = 1 + prior[n, index] - (off**2).sum(-1) / t**2
                now = np.isin(np.arange(len(index)), np.argsort(-gain, kind="stable")[:size]) if size else gain >= 0
                if (now == inside).all():
                    break
                inside = now
    return members, values
