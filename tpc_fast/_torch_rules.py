"""What torch cannot see of an operation that is registered with it: its gradient, and how `torch.func.vmap` maps it.

Shared by the CPU's operations (`tpc_fast.ops.registered`) and the Triton kernels. Imported where torch is.
"""

import torch


def fit_gradients(src, dst, weights, found, wanted):
    """The gradients of a fit with respect to src, dst [N or 1, K, D] and weights [N or 1, K] or None.

    They are those of the closed form. Let p, q be the centred points, M = sum w q p^T, and V = sum w |p|^2. Then
    H = R^T M is symmetric. So dR = R L, where L is skew and solves H L + L H = R^T dM - dM^T R. The scale has
    d scale = (<R, dM> - scale dV) / V. The residual is at its minimum, so the transform does not change it. Where there
    is no fit, scale and rotation are constants.

    Args:
        found: scale, rotation, translation, residual and ok, of N fits; wanted: the gradients with respect to the first
            four of them.
    """
    scale, rotation, _, residual, ok = found
    g_scale, g_rotation, g_translation, g_residual = wanted
    d = src.shape[-1]
    seen = torch.isfinite(src).all(-1) & torch.isfinite(dst).all(-1)
    x, y = (torch.where(seen[..., None], a, 0).double() for a in (src, dst))
    w = seen.double() if weights is None else torch.where(seen, weights, 0).double()
    s, r = scale.double(), rotation.double()
    total = w.sum(-1)
    share = w / torch.where(total > 0, total, 1)[..., None]
    mean_x, mean_y = (share[..., None] * x).sum(-2), (share[..., None] * y).sum(-2)
    p, q = x - mean_x[..., None, :], y - mean_y[..., None, :]
    miss = q - s[:, None, None] * (p @ r.mT)

    gs, gr, gt = g_scale.double(), g_rotation.double(), g_translation.double()
    gs = gs - (gt * (r @ mean_x[..., None])[..., 0]).sum(-1)
    gr = gr - s[:, None, None] * gt[..., None] * mean_x[..., None, :]
    g_mean_x = -s[:, None] * (r.mT @ gt[..., None])[..., 0]

    v = (w[..., None] * p * p).sum((-1, -2))
    v = torch.where(ok, v, 1)
    h = r.mT @ ((w[..., None] * q).mT @ p)
    h = torch.where(ok[:, None, None], h, torch.eye(d, dtype=h.dtype, device=h.device))
    trace = h.diagonal(dim1=-2, dim2=-1).sum(-1)
    skew = r.mT @ gr
    skew = (skew - skew.mT) / 2
    if d == 2:
        skew = skew / trace[:, None, None]
    else:
        axis = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], -1)
        inertia = trace[:, None, None] * torch.eye(3, dtype=h.dtype, device=h.device) - h
        a, b, c = torch.linalg.solve_ex(inertia, axis)[0].unbind(-1)  # does not wait to see whether it could
        none = torch.zeros_like(a)
        skew = torch.stack([none, -c, b, c, none, -a, -b, a, none], -1).reshape(-1, 3, 3)
    g_m = torch.where(ok[:, None, None], 2 * r @ skew + (gs / v)[:, None, None] * r, 0)
    g_v = torch.where(ok, -gs * s / v, 0)
    g_square = torch.where(residual > 0, g_residual.double() / (2 * residual.double()), 0)

    pull = 2 * g_square[:, None, None] * miss
    g_x = w[..., None] * (q @ g_m + 2 * g_v[:, None, None] * p)
    g_x = g_x + share[..., None] * (g_mean_x[:, None, :] - s[:, None, None] * (pull @ r))
    g_y = w[..., None] * (p @ g_m.mT) + share[..., None] * (gt[:, None, :] + pull)
    gradients = [g_x, g_y, None]
    if weights is not None:
        over = 1 / torch.where(total > 0, total, 1)[:, None]
        square = (miss * miss).sum(-1) - (residual.double() ** 2)[:, None]
        g_w = ((q @ g_m) * p).sum(-1) + g_v[:, None] * (p * p).sum(-1) + over * g_square[:, None] * square
        g_w = g_w + over * ((p @ g_mean_x[..., None]) + (q @ gt[..., None]))[..., 0]
        gradients[2] = torch.where(seen & (total > 0)[:, None], g_w, 0)
    return tuple(
        None if g is None else (g.sum(0, keepdim=True) if len(a) == 1 else g).to(a.dtype)
        for g, a in zip(gradients, (src, dst, weights), strict=True)
    )


def differentiable_fit(operation, library):
    """Gives a registered fit its gradient and its vmap.

    Args:
        operation: takes src, dst, weights as `fit_gradients` describes, and further arguments that are no tensors;
            returns scale, rotation, translation, residual and ok.
        library: that it was registered in.

    Returns:
        What to call in its place.
    """

    def save(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:3], *output)
        ctx.further = len(inputs) - 3

    def backward(ctx, *wanted):
        src, dst, weights, *found = ctx.saved_tensors
        return *fit_gradients(src, dst, weights, found, wanted[:4]), *[None] * ctx.further

    def fit(*arguments):
        mapped = torch._C._are_functorch_transforms_active()
        return (Fit.apply if mapped else operation)(*arguments)

    class Fit(torch.autograd.Function):
        """For `torch.func`, whose `grad` does not take the gradient that a library registers."""

        forward = staticmethod(operation)
        setup_context = staticmethod(save)

        @staticmethod
        def vmap(info, in_dims, *arguments):
            return map_rows(fit, info.batch_size, in_dims[:3], arguments[:3], *arguments[3:])

    Fit.backward = staticmethod(backward)
    torch.library.register_autograd(operation, backward, setup_context=save, lib=library)
    return fit


def map_rows(operation, size, dims, tensors, *others):
    """The vmap of an operation on tensors [N or 1, ...] (or None): the mapped dimension is folded into the rows.

    Args:
        size: of the mapped dimension; dims: where it lies in each tensor, or None.
        others: further arguments of the operation.

    Returns:
        The operation's outputs with the mapped dimension in front, and 0 for each.
    """
    rows = [
        None if t is None else t[None] if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, dims, strict=True)
    ]
    lengths = [t.shape[1] for t in rows if t is not None]
    count = max(lengths) if min(lengths) > 0 else 0
    flat = [
        None if t is None else t.expand(size, count, *t.shape[2:]).reshape(size * count, *t.shape[2:]) for t in rows
    ]
    outputs = operation(*flat, *others)
    return tuple(a.reshape(size, count, *a.shape[1:]) for a in outputs), (0,) * len(outputs)
