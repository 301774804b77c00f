"""Transform models beside the similarity, for ablations: one word changes what is fitted.

A model says which linear part A a map x -> A x + t may have: "translation" (none), "linear" (a scale of its own for
each axis, no rotation), "similarity", or "affine" (any). Conventions are those of `tpc_fast.ops.procrustes`.
"""

import dataclasses

import numpy as np

from tpc_fast import _checks, _dispatch, _native, naive
from tpc_fast._lazy import lazy
from tpc_fast.ops.batched import Batched
from tpc_fast.ops.points import batch_shape, per_point, point_sets, point_weights
from tpc_fast.ops.procrustes import (
    CRITERIA,
    FACE,
    MAX_SCALE_CHANGE,
    MAX_SEARCH_POINTS,
    MIN_SPREAD,
    Array,
    default_tolerance,
    fit_similarity,
    person_size,
    search_subset,
)

__getattr__, __dir__ = lazy(__name__, {})  # `fit_transform`, until the next release

MODELS = ("translation", "linear", "similarity", "affine")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TransformFit(Batched):
    """A fitted transform of any model.

    Attributes:
        matrix: [..., 2, 3], forward.
        residual: [...], weighted root mean square distance in pixels of the destination.
        ok: [...] bool; False where the points do not determine the model, or only by a map without an inverse. The
            transform is then the shift between the weighted centres (the identity if there are none).
    """

    matrix: Array
    residual: Array
    ok: Array


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TransformSubset(Batched):
    """What `search_transform` found: as `tpc_fast.SubsetFit`, with a `TransformFit`."""

    fit: TransformFit
    members: Array
    value: Array
    weak: Array
    exact: Array

    _bare = "value"


def fit_linear_map(
    src: Array, dst: Array, model: str = "similarity", weights: Array | None = None, backend: str | None = None
) -> TransformFit:
    """Least-squares transform of a model that maps `src` onto `dst`.

    Linear and affine maps may mirror, as their least squares do. "similarity" is `fit_similarity`.

    Args:
        src, dst: [..., K, 2], float32 or float64 (both the same); batch dimensions broadcast. A point with a NaN or
            infinite coordinate in either set is missing: it has no weight.
        model: one of `MODELS`.
        weights: [..., K], finite and >= 0; ones if None.
        backend: None, "naive" or "cpu".

    Raises:
        TypeError, ValueError: as `fit_similarity`; and for an unknown model.
        RuntimeError: a backend that cannot be had; GPUs have none for models other than the similarity.
    """
    _check_model(model)
    if model == "similarity":
        fit = fit_similarity(src, dst, weights, backend)
        return TransformFit(fit.matrix, fit.residual, fit.ok)
    backend = _resolve(src, model, backend)
    x, y = point_sets(src, dst, dimensions=(2,))
    dtype = x.dtype
    w = np.ones(x.shape[-2]) if weights is None else point_weights(weights, x, src)
    batch = batch_shape(src=x.shape[:-2], dst=y.shape[:-2], weights=w.shape[:-1])
    rows = (_rows(a, batch, keep) for a, keep in ((x, 2), (y, 2), (w, 1)))
    matrix, residual, ok = _fit(*rows, model, naive.NOISE_FLOOR[dtype.name], backend, dtype)
    shaped = matrix.astype(dtype).reshape(*batch, 2, 3), residual.astype(dtype).reshape(batch), ok.reshape(batch)
    return TransformFit(*(_checks.like(a, src) for a in shaped))


def search_transform(
    src: Array,
    dst: Array,
    model: str = "similarity",
    tolerance: Array | None = None,
    valid: Array | None = None,
    weights: Array | None = None,
    prior: Array | None = None,
    previous: Array | None = None,
    inertia: "float | Array" = 0.0,
    criterion: str = "truncated",
    min_points: int = 4,
    size: int | None = None,
    backend: str | None = None,
) -> TransformSubset:
    """`search_subset` for any model: the subset of points that one transform of the model explains, exactly.

    The price of departing from `previous` [..., 2, 3] is inertia * min(1, |A A_previous^-1 - 1|^2 / 2) (Frobenius
    norm), which for similarities is what `search_subset` takes. Other arguments, and what is weak, as there; the scale
    of a map is the square root of |det A|, and a translation's does not change.

    Raises:
        TypeError, ValueError, RuntimeError: as `search_subset` and `fit_linear_map`.
    """
    _check_model(model)
    if np.shape(src)[-1:] == (3,):
        raise ValueError(f"src must be [..., K, 2], but is {_checks.describe(src)}: search_subset takes points in 3-D")
    if model == "similarity":
        found = search_subset(
            src, dst, tolerance, valid, weights, prior, previous, inertia, criterion, min_points, size, backend
        )
        fit = TransformFit(found.fit.matrix, found.fit.residual, found.fit.ok)
        return TransformSubset(fit, found.members, found.value, found.weak, found.exact)
    backend = _resolve(src, model, backend)
    x, y = point_sets(src, dst, dimensions=(2,))
    dtype, points = x.dtype, x.shape[-2]
    if points > MAX_SEARCH_POINTS:
        raise ValueError(f"src must have at most {MAX_SEARCH_POINTS} points, but has {points}")
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, but is {criterion!r}")
    if points != 17 and (criterion == "face" or tolerance is None):
        what = "criterion 'face'" if criterion == "face" else "the default tolerance"
        raise ValueError(f"{what} needs the 17 COCO keypoints, but src has {points} points")
    if (criterion == "fixed") != (size is not None) or (size is not None and not 2 <= size <= points):
        raise ValueError(f"size must be from 2 to {points} for criterion 'fixed' and only there, but is {size!r}")
    given = {"tolerance": tolerance, "valid": valid, "weights": weights, "prior": prior}
    given = {k: per_point(v, k, x.astype(np.float64, copy=False), src) for k, v in given.items() if v is not None}
    for name, low in (("tolerance", np.nextafter(0, 1)), ("weights", 0)):
        if name in given and not (given[name] >= low).all():
            raise ValueError(f"{name} must be {'>= 0' if low == 0 else '> 0'}, but the smallest is {given[name].min()}")
    before = (
        np.zeros((2, 3)) if previous is None else _checks.finite(_checks.floating(previous, "previous"), "previous")
    )
    if before.shape[-2:] != (2, 3):
        raise ValueError(f"previous must be [..., 2, 3], but is {_checks.describe(previous)}")
    mu = _checks.finite(_checks.to_numpy(inertia, "inertia").astype(np.float64), "inertia")
    if (mu < 0).any():
        raise ValueError(f"inertia must be >= 0, but the smallest is {mu.min()}")
    shapes = {k: v.shape[:-1] for k, v in given.items()}
    batch = batch_shape(src=x.shape[:-2], dst=y.shape[:-2], previous=before.shape[:-2], inertia=mu.shape, **shapes)
    x, y = _rows(x, batch, 2), _rows(y, batch, 2)
    common = np.isfinite(x).all(-1) & np.isfinite(y).all(-1)
    if "valid" in given:
        common &= _rows(given["valid"], batch, 1) != 0
    x, y = (np.where(common[..., None], p, 0) for p in (x, y))
    person = person_size(y, common)
    t = _rows(given["tolerance"], batch, 1) if "tolerance" in given else default_tolerance(person)
    reward = _rows(given.get("prior", np.zeros(points)), batch, 1)
    w = _rows(given.get("weights", np.ones(points)), batch, 1)
    linear = np.ascontiguousarray(_rows(before, batch, 2)[..., :2])
    fit, members, value, weak = search_rows(
        x, y, t, common, w, reward, linear, _rows(mu, batch, 0), person, model, criterion, min_points, size, backend
    )

    def out(array, *tail):
        return _checks.like(array.reshape((*batch, *tail)), src)

    matrix, residual, ok = fit
    shaped = TransformFit(out(matrix.astype(dtype), 2, 3), out(residual.astype(dtype)), out(ok))
    return TransformSubset(shaped, out(members, points), out(value), out(weak), out(np.ones(len(weak), bool)))


def search_rows(
    x, y, tolerance, common, weights, prior, previous, inertia, person, model, criterion, min_points, size, backend
):
    """`search_transform` for complete float64 arrays [N, K, ...] and a model that is not the similarity.

    Args:
        previous: [N, 2, 2], the linear parts of the frames before, zeros for none; person: [N], sizes in pixels.

    Returns:
        (matrix, residual, ok), members [N, K], value [N], weak [N].
    """
    n, points = common.shape
    if criterion in ("truncated", "fixed"):
        search = _native.core().search_transform if backend == "cpu" else naive.search_transform
        mask, value = search(x, y, tolerance, common, prior, previous, inertia, model, size or 0)
        members = (mask[:, None] >> np.arange(points) & 1).astype(bool)
    else:
        members = common.copy()
        if criterion == "face":
            members[:, FACE.stop :] = False
        value = _value(x, y, tolerance, members, prior, previous, inertia, model, backend)

    # The final fit, and those that leave one member out each.
    keep = np.vstack([np.ones(points), 1 - np.eye(points)])
    w = ((members * weights)[:, None] * keep).reshape(n * (points + 1), points)
    wide = (np.repeat(p, points + 1, 0) for p in (x, y))
    fits = _fit(*wide, w, model, naive.NOISE_FLOOR["float64"], backend, np.float64)
    matrix, residual, ok = (a.reshape(n, points + 1, *a.shape[1:]) for a in fits)
    size_of = np.log(np.maximum(abs(np.linalg.det(matrix[..., :2])), 1e-300)) / 2
    stable = ok[:, 1:] & (abs(size_of[:, 1:] - size_of[:, :1]) <= MAX_SCALE_CHANGE)
    weak = ~ok[:, 0] | (members.sum(-1) < min_points) | (members & (weights > 0) & ~stable).any(-1)
    if criterion != "face":
        used = members[..., None]
        low = np.where(used, y, np.inf).min(-2, initial=np.inf)
        high = np.where(used, y, -np.inf).max(-2, initial=-np.inf)
        weak |= ~((high - low).max(-1) >= MIN_SPREAD * person)
    return (matrix[:, 0], residual[:, 0], ok[:, 0]), members, value, weak


def _value(x, y, tolerance, members, prior, previous, inertia, model, backend):
    """J of given subsets, [N]; 0 where they have no fit."""
    w = members / tolerance**2
    matrix, residual, ok = _fit(x, y, w, model, naive.NOISE_FLOOR["float64"], backend, np.float64)
    has = np.linalg.det(previous) != 0
    back = np.linalg.inv(np.where(has[:, None, None], previous, np.eye(2)))
    change = ((matrix[..., :2] @ back - np.eye(2)) ** 2).sum((-2, -1)) / 2
    value = (members * (1 + prior)).sum(-1) - residual**2 * w.sum(-1) - has * inertia * np.minimum(1, change)
    return np.where(ok, value, 0.0)


def _fit(x, y, w, model, floor, backend, dtype):
    """Rows [N, K, 2], [N, K] float64 -> matrix, residual, ok; `dtype` is what the points were given in."""
    if backend == "cpu":
        return _native.core().fit_linear_map(x, y, w, model, floor)
    return naive.fit_linear_map(x.astype(dtype), y.astype(dtype), model, w)


def _check_model(model):
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, but is {model!r}")


def _resolve(src, model, backend):
    backend = _dispatch.resolve(src, backend)
    if backend not in ("cpu", "naive"):
        raise RuntimeError(f"backend {backend!r} has no fits of model {model!r}: move the points to the CPU")
    return backend


def _rows(array, batch, keep):
    """[..., *last `keep` dimensions] as contiguous float64 [N, ...]."""
    tail = array.shape[array.ndim - keep :]
    rows = np.broadcast_to(array, (*batch, *tail)).reshape(int(np.prod(batch)), *tail)
    return np.ascontiguousarray(rows, np.float64)
