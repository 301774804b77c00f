"""The subset search for points in 3-D: `naive.search_subset` and `naive.search_many`, with a rotation of SO(3)."""

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
    """`naive.search_many` in 3-D: of the similarities of all triples, with their inliers, the best."""
    return naive.search_many(src, dst, tolerance, valid, prior, previous, inertia, size, departure)
