"""Point sets to fit, how one fits them with torch, and what the specification says."""

import numpy as np
import pytest

from tpc_fast import naive

torch = pytest.importorskip("torch", reason="torch (extra 'bench') is the peer")


def problems(count, seed=0):
    """Points like keypoints in pixels, float32, and what they are fitted to."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 17, 2)) * 60 + 256
    angle, scale = rng.uniform(-1, 1, count), rng.uniform(0.5, 2, count)
    a = scale * np.exp(1j * angle)
    z = (x[..., 0] + 1j * x[..., 1]) * a[:, None] + rng.normal(size=(count, 17)) * 3
    return x.astype(np.float32), np.stack([z.real, z.imag], -1).astype(np.float32)


def umeyama(x, y, w):
    """Batched fit as one writes it with torch: [N, K, 2], weights [N, K] -> matrix [N, 2, 3], mean square [N]."""
    w = w / w.sum(-1, keepdim=True).clamp_min(1e-12)
    mx, my = (w[..., None] * x).sum(-2, keepdim=True), (w[..., None] * y).sum(-2, keepdim=True)
    xc, yc = x - mx, y - my
    u, s, vt = torch.linalg.svd((w[..., None] * yc).mT @ xc)
    flip = torch.ones_like(s)
    flip[..., -1] = torch.linalg.det(u @ vt).sign()
    rotation = (u * flip[..., None, :]) @ vt
    scale = (s * flip).sum(-1) / (w[..., None] * xc**2).sum((-2, -1)).clamp_min(1e-12)
    linear = scale[..., None, None] * rotation
    residual = (w[..., None] * (yc - xc @ linear.mT) ** 2).sum((-2, -1))
    return torch.cat([linear, my.mT - linear @ mx.mT], -1), residual


def expected_matrix(x, y):
    scale, rotation, translation, _, _ = naive.fit_similarity(x, y)
    return np.concatenate([scale[:, None, None] * rotation, translation[:, :, None]], -1)


def assert_fits(matrix, x, y):
    assert np.abs(np.asarray(matrix) - expected_matrix(x, y)).max() <= 2e-3  # float32 pixels
