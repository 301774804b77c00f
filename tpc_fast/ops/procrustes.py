"""Similarity transforms between point sets, and the search for the subset of keypoints that one similarity explains.

Points are xy in pixels (x right, y down, pixel centres at integers); a similarity maps x to `scale * rotation @ x +
translation`. Everything takes NumPy arrays or torch tensors and returns the kind that it got. On a GPU nothing waits
for the device: values that would raise an error on the CPU give fits that are not ok instead.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from tpc_fast import _checks, _dispatch, _native, naive
from tpc_fast.naive import search_3d as naive_3d
from tpc_fast.ops import batched
from tpc_fast.ops.batched import Batched
from tpc_fast.ops.points import batch_shape, per_point, point_sets, point_weights
from tpc_fast.ops.sigmas import SIGMAS, sigmas_of

Array = Any  # np.ndarray or torch.Tensor

#: Keypoint noise in units of person size, COCO-17 order (COCO keypoint evaluation, cocoeval.py).
COCO_SIGMAS = SIGMAS["coco"]
FACE = slice(0, 5)  # nose, eyes, ears
UPPER_BODY = slice(0, 13)  # face, shoulders, elbows, wrists, hips
TOLERANCE_SIGMAS = 3.0  # tau of the default tolerance tau * sigma * person size
MAX_SEARCH_POINTS = 20  # 2^20 subsets; the core's kMaxSearchPoints. More points go by a branch and bound
MAX_BOXES = 200_000  # of that: 0.1 s a problem of 133 points, and twice what the hardest ones tried took (98,000)
MIN_SPREAD = 0.3  # a good subset's longer side, in units of person size
MAX_SCALE_CHANGE = 0.25  # of log scale, when any one member of a good subset is left out
CRITERIA = ("truncated", "fixed", "face", "all")


def namespace(array):
    """NumPy, or torch: the few functions used here have the same names in both."""
    if _dispatch.is_torch(array):
        import torch

        return torch
    return np


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Similarity(Batched):
    """x -> scale * rotation @ x + translation, batched over leading dimensions.

    Attributes:
        scale: [...], > 0.
        rotation: [..., D, D], proper (determinant 1), D = 2 or 3.
        translation: [..., D], pixels.
    """

    scale: Array
    rotation: Array
    translation: Array

    _bare = "scale"

    def __post_init__(self):
        # A plain number becomes an array of the rotation's kind; np.float64, a float too, is that of a single rotation.
        kept = isinstance(self.scale, np.float64) and isinstance(self.rotation, np.ndarray) and self.rotation.ndim == 2
        if isinstance(self.scale, int | float) and not kept:
            object.__setattr__(self, "scale", self.rotation[..., 0, 0] * 0 + self.scale)

    @classmethod
    def from_matrix(cls, matrix: Array) -> "Similarity":
        """The similarity of matrices [..., D, D + 1] of the form [scale * rotation | translation].

        Raises:
            ValueError: if the shape differs, or a left block is not a positive multiple of a proper rotation (to 1e-3).
                To look at it waits for the device, where the matrices are on one.
        """
        if not hasattr(matrix, "ndim"):
            matrix = _checks.floating(matrix, "matrix")
        xp = namespace(matrix)
        if matrix.ndim < 2 or tuple(matrix.shape[-2:]) not in ((2, 3), (3, 4)):
            raise ValueError(f"matrix must be [..., 2, 3] or [..., 3, 4], but is {_checks.describe(matrix)}")
        d = matrix.shape[-2]
        block = matrix[..., :d]
        determinant = xp.linalg.det(block)
        scale = xp.abs(determinant) ** (1 / d)
        gram = block @ block.swapaxes(-1, -2)
        where = {} if xp is np else {"device": matrix.device}
        square = (scale * scale)[..., None, None] * xp.eye(d, dtype=matrix.dtype, **where)
        close = (xp.abs(gram - square) <= 1e-3 * (scale * scale)[..., None, None]).all(-1).all(-1)
        if not bool(((determinant > 0) & close).all()):
            raise ValueError("matrix must be a similarity (a positive multiple of a proper rotation and a shift)")
        return cls(scale, block / scale[..., None, None], matrix[..., d])

    @classmethod
    def from_scale_angle(cls, scale: Array, angle: Array, point: Array = (0.0, 0.0), to: Array = (0.0, 0.0)):
        """The 2-D similarities of this scale and angle that take one point to another; NumPy only.

        Args:
            scale: [...], > 0; angle: [...] radians, positive from the x axis to the y axis.
            point: [..., 2], and to: [..., 2], where it goes.
        """
        scale, angle, point, to = (np.asarray(a, np.float64) for a in (scale, angle, point, to))
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
        scale = np.broadcast_to(scale, np.broadcast_shapes(scale.shape, angle.shape))
        return cls(scale, rotation, to - scale[..., None] * (rotation @ point[..., None])[..., 0])

    @property
    def angle(self) -> Array:
        """[...] radians in [-pi, pi], positive from the x axis to the y axis (clockwise on screen); 2-D only."""
        if self.rotation.shape[-1] != 2:
            raise ValueError("angle exists for 2-D similarities; use rotation")
        xp = namespace(self.rotation)
        return xp.arctan2(self.rotation[..., 1, 0], self.rotation[..., 0, 0])

    @property
    def matrix(self) -> Array:
        """[..., D, D + 1], the forward matrix [scale * rotation | translation]."""
        xp = namespace(self.rotation)
        return xp.concatenate([self.scale[..., None, None] * self.rotation, self.translation[..., None]], -1)

    def apply(self, points: Array) -> Array:
        """Maps points [..., N, D] (batch dimensions broadcast) to [..., N, D]."""
        moved = points @ self.rotation.swapaxes(-1, -2)
        return self.scale[..., None, None] * moved + self.translation[..., None, :]

    def inverse(self) -> "Similarity":
        """The similarity that undoes this one."""
        rotation = self.rotation.swapaxes(-1, -2)
        scale = 1 / self.scale
        return Similarity(scale, rotation, -scale[..., None] * (rotation @ self.translation[..., None])[..., 0])

    def __matmul__(self, other: "Similarity") -> "Similarity":
        """`(a @ b).apply(x)` is `a.apply(b.apply(x))`."""
        if not isinstance(other, Similarity):
            return NotImplemented
        moved = (self.rotation @ other.translation[..., None])[..., 0]
        return Similarity(
            self.scale * other.scale,
            self.rotation @ other.rotation,
            self.scale[..., None] * moved + self.translation,
        )


def scale_and_angle(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and angle (radians) [...] of matrices [..., 2, 3].

    For a map that is not a similarity: the square root of |det|, and the angle of the nearest rotation.
    """
    (a, b), (c, d) = np.moveaxis(matrices[..., :2].astype(np.float64), (-2, -1), (0, 1))
    return np.sqrt(abs(a * d - b * c)), np.arctan2(c - b, a + d)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Fit(Similarity):
    """A fitted similarity. `inverse()` and `@` return plain `Similarity`.

    Attributes:
        residual: [...], weighted root mean square distance in pixels of the destination.
        ok: [...] bool; False where the points do not determine a similarity. The transform is then the shift between
            the weighted centres (the identity if there are none).
    """

    residual: Array
    ok: Array


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SubsetFit(Batched):
    """What `search_subset` found. It is indexed, iterated, compared and stacked as a `Fit` is.

    Attributes:
        fit: the final fit over the members, weighted by `weights`.
        members: [..., K] bool.
        value: [...] float64, the criterion J of the subset.
        weak: [...] bool; True where the fit is not to be trusted (see `search_subset`).
        exact: [...] bool; whether the subset is known to be the best of all. Always up to 20 points.
    """

    fit: Fit
    members: Array
    value: Array
    weak: Array
    exact: Array

    _bare = "value"


def _flat(array: Array, batch: tuple[int, ...], keep: int) -> Array:
    """[..., *last `keep` dimensions] as [N, ...], C-contiguous; N = 1 stands for one row shared by the whole batch."""
    tail = tuple(array.shape[array.ndim - keep :])
    if _dispatch.is_torch(array):
        shared = math.prod(array.shape[: array.ndim - keep]) == 1 and math.prod(batch) != 0
        rows = array if shared else array.expand(*batch, *tail)
        return rows.reshape(1 if shared else math.prod(batch), *tail).contiguous()
    if math.prod(array.shape[: array.ndim - keep]) == 1 and math.prod(batch) != 0:
        return np.ascontiguousarray(array).reshape(1, *tail)
    return np.ascontiguousarray(np.broadcast_to(array, batch + tail)).reshape(math.prod(batch), *tail)


def _fit(x: Array, y: Array, w: Array | None, backend: str):
    """Arrays [N or 1, K, D] -> scale [N], rotation, translation, residual, ok in the points' dtype."""
    if backend == "triton":
        from tpc_fast.kernels import procrustes as kernels

        return kernels.fit_similarity(x, y, w)
    if _dispatch.is_torch(x):
        from tpc_fast.ops import registered

        return registered.fit_similarity(x, y, w, backend == "naive")
    if w is not None and len(w) > 1 and len(x) == len(y) == 1:
        x = np.repeat(x, len(w), 0)
    if backend == "cpu":
        return _native.core().fit_similarity(x, y, w)
    n = max(len(x), len(y)) if len(x) and len(y) else 0
    rows = [None if a is None else np.broadcast_to(a, (n, *a.shape[1:])) for a in (x, y, w)]
    *numbers, ok = naive.fit_similarity(*rows)
    return *(a.astype(x.dtype) for a in numbers), ok


def fit_similarity(src: Array, dst: Array, weights: Array | None = None, backend: str | None = None) -> Fit:
    """Least-squares similarity that maps `src` onto `dst`, without reflection.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", TPAMI 1991; in 2-D in
    its closed complex form. Computed in float64 whatever the dtype of the input.

    Args:
        src, dst: [..., K, D] with D = 2 or 3, float32 or float64 (both the same; halves are taken as float32, and so is
            the result); batch dimensions broadcast, and may be empty. A point with a NaN or infinite coordinate in
            either set is missing and has no weight. Fill up batches of unequal lengths with NaN.
        weights: [..., K], finite and >= 0; ones if None.
        backend: None for the one that the arrays ask for, or "naive", "cpu", "triton".

    Gradients: with respect to points and weights, in closed form, first and second; `torch.func` (`grad`, `vmap`) and
    `torch.compile` work. Where a fit is not ok, scale and rotation count as constants.

    Returns:
        Fit over the batch dimensions, in the dtype of `src`. Where fewer than two distinct points have weight (in 3-D:
        where they lie on a line), `ok` is False and the transform is a pure shift; never NaN.

    Raises:
        TypeError: arrays that are not numeric, of different dtypes, kinds or devices.
        ValueError: shapes that do not fit; weights that are negative, NaN or infinite (on a GPU: fits that are not ok).
        RuntimeError: a backend that cannot be had.
    """
    batched.collates or batched.collate_by_default()
    if backend is None:
        core, kind = _dispatch.quick(src)
        found = None if core is None else core.quick_fit(Fit, src, dst, weights, kind)
        if found is not None:
            return found
    backend = _dispatch.resolve(src, backend)
    seen_by_torch = backend == "triton" or (_dispatch.is_torch(src) and _dispatch.needs_torch(src, dst, weights))
    device = src.device if seen_by_torch else None
    x, y = point_sets(src, dst, device)
    w = None if weights is None else point_weights(weights, x, src, device)
    shapes = {"src": x.shape[:-2], "dst": y.shape[:-2]} | ({} if w is None else {"weights": w.shape[:-1]})
    batch = batch_shape(**shapes)
    flat_x, flat_y = _flat(x, batch, 2), _flat(y, batch, 2)
    flat_w = None if w is None else _flat(w, batch, 1)
    tails = (), (x.shape[-1],) * 2, (x.shape[-1],), (), ()
    found = _fit(flat_x, flat_y, flat_w, backend)
    shaped = (a.reshape((*batch, *tail)) for a, tail in zip(found, tails, strict=True))
    return Fit(*(_checks.like(a, src) for a in shaped))


def person_size(keypoints: Array, common: Array) -> Array:
    """Square root of the area of the box around the common keypoints, of the upper body for COCO-17.

    At least a quarter of the box's longer side: two level shoulders are a person too.

    Args:
        keypoints: [..., K, 2] pixels, finite where common; or [..., K, 3].
        common: [..., K] bool.

    Returns:
        [...] pixels, >= 1 (a floor that keeps tolerances positive). In 3-D the root of the area of the box's largest
        side, and 1 only where nothing has an extent: units may be any.
    """
    part = UPPER_BODY if keypoints.shape[-2] == len(COCO_SIGMAS) else slice(None)
    used, points = common[..., part, None], keypoints[..., part, :]
    xp = namespace(keypoints)
    nothing = {"initial": np.inf} if xp is np else {}
    low = xp.amin(xp.where(used, points, np.inf), -2, **nothing)
    high = -xp.amin(xp.where(used, -points, np.inf), -2, **nothing)
    sides = xp.where(high > low, high - low, 0.0)
    if keypoints.shape[-1] == 2:
        return xp.maximum(xp.sqrt(sides.prod(-1)), xp.amax(sides, -1) / 4).clip(1.0)
    area = xp.amax(sides * sides[..., [1, 2, 0]], -1)
    size = xp.maximum(xp.sqrt(area), xp.amax(sides, -1) / 4)
    return xp.where(size > 0, size, 1.0)


def default_tolerance(size: np.ndarray) -> np.ndarray:
    """[..., 17] pixels for persons of size [...] pixels: 3 * COCO sigma * size."""
    return TOLERANCE_SIGMAS * COCO_SIGMAS * np.asarray(size)[..., None]


def _previous(value, first, device, dims) -> Array:
    """`previous` as scale * rotation, 0 where there is none.

    In 2-D [..., 2], real and imaginary part of scale * exp(i angle); in 3-D [..., 9], the matrix row by row.
    """
    if isinstance(value, Similarity):
        _checks.one_kind(src=first, previous=value.rotation)
        scale, rotation = (_checks.floating(a, "previous", device) for a in (value.scale, value.rotation))
        if rotation.shape[-1] != dims:
            raise ValueError(
                f"previous must be a {dims}-D similarity, but has rotations of shape {tuple(rotation.shape)}"
            )
        linear = scale[..., None, None] * rotation
        if isinstance(value, Fit):  # what is not ok is finite
            linear = linear * _checks.numeric(value.ok, "previous", device)[..., None, None]
    else:
        _checks.one_kind(src=first, previous=value)
        matrix = _checks.floating(value, "previous", device)
        if tuple(matrix.shape[-2:]) != (dims, dims + 1):
            raise ValueError(
                f"previous must be a Similarity or [..., {dims}, {dims + 1}], but is {_checks.describe(value)}"
            )
        linear = (_checks.finite(matrix, "previous") if device is None else matrix)[..., :dims]
    if dims == 2:
        return linear[..., 0]
    if not ((np.linalg.det(linear) != 0) | ~linear.any((-2, -1))).all():
        raise ValueError("previous must have an inverse, or be zeros for none")
    return linear.reshape(*linear.shape[:-2], 9)


def _inertia(value, device) -> Array:
    """[...] float64; a plain number is written to the device, not copied."""
    if device is not None and not isinstance(value, int | float):
        return _checks.to_tensor(value, "inertia", device)
    if isinstance(value, int | float):
        if not 0 <= value < math.inf:
            raise ValueError(f"inertia must be >= 0 and finite, but is {value}")
        if device is not None:
            import torch

            return torch.full((), float(value), dtype=torch.float64, device=device)
    mu = _checks.finite(_checks.to_numpy(value, "inertia").astype(np.float64), "inertia")
    if (mu < 0).any():
        raise ValueError(f"inertia must be >= 0, but the smallest is {mu.min()}")
    return mu


def search_subset(
    src: Array,
    dst: Array,
    tolerance: Array | None = None,
    valid: Array | None = None,
    weights: Array | None = None,
    prior: Array | None = None,
    previous: "Similarity | Array | None" = None,
    inertia: "float | Array" = 0.0,
    criterion: str = "truncated",
    min_points: int = 4,
    size: int | None = None,
    backend: str | None = None,
    sigmas=None,
) -> SubsetFit:
    """The subset of points that one similarity explains: the global optimum over all 2^K subsets.

    A subset S with its best similarity T is worth J = sum over k in S of (1 + prior_k - r_k^2 / tolerance_k^2) -
    inertia * min(1, |a_S / a_previous - 1|^2), with r_k the residual of point k under T (fitted with weights
    1 / tolerance^2) and a = scale * exp(i angle). This is truncated least squares, solved exactly. The transform that
    is returned is a final fit over the members with `weights`. Ties: the larger J rounded to 1e-6, then the larger set,
    then the lowest bitmask.

    In 3-D the rotation is of SO(3) (Kabsch and Umeyama), and the price of departing from `previous` is inertia *
    min(1, |A A_previous^-1 - 1|^2 / 3), A = scale * rotation (Frobenius norm; with a 2, in 2-D, it is the above). Three
    points or more, not on a line, make a subset. What searches cost: docs/guides/operations.md.

    With more than 20 points: exact searches among eight choices of 20, each refined by turns of fit and inliers. Then,
    for "truncated" without inertia, a branch and bound over transforms proves the best of them, or finds a better one
    (J to 1e-7, ties in any order). Beyond 200,000 boxes it stops, and `exact` is False. In 3-D, where a transform has
    seven numbers, nothing is proved, and `exact` is False.

    The optimal subset is the choice of Yoon et al., "TPC: Test-time Procrustes Calibration for Diffusion-based Human
    Image Animation", NeurIPS 2024; the criterion is ours.

    Args:
        src, dst: [..., K, D], D = 2 or 3 (on a GPU D = 2 and K <= 20), float32 or float64 (both the same); batch
            dimensions broadcast. A point that is NaN in either set is missing.
        tolerance: [..., K] or a number, pixels of `dst`, > 0: the residual beyond which a point lowers J.
            None: 3 * sigma * person size in `dst`.
        valid: [..., K] bool; points that are False are ignored. None: all count.
        weights: [..., K] >= 0 for the final fit (scores, usually). None: ones.
        prior: [..., K] reward for having a point in the subset (hysteresis). None: zeros.
        previous: the transform of the frame before, a `Similarity` or forward matrices [..., D, D + 1]; a zero matrix
            or a `Fit` that is not ok stands for none.
        inertia: [...] or a number >= 0, the price of departing from `previous`.
        criterion: "truncated" (the best J), "fixed" (the best J among subsets of `size` points), "face" (nose, eyes and
            ears: K must be 17), "all" (every common point).
        min_points: a subset of fewer is weak.
        size: number of points for "fixed".
        backend: None for the one that the arrays ask for, or "naive", "cpu", "triton".
        sigmas: of the default tolerance: "coco", "coco-wholebody", "halpe26", "mediapipe" (`tpc_fast.ops.sigmas`), or K
            numbers in units of person size. None: "coco", K = 17 only.

    Returns:
        SubsetFit. It is weak where the fit is not ok, has fewer than `min_points` members, spreads over less than 0.3
        of the person's size (except for "face"), or changes its scale by more than 25 % when one member is left out.

    Raises:
        TypeError, ValueError: as `fit_similarity`; K > 20 or D = 3 on a GPU; a tolerance that is missing or not
            positive; unknown sigmas or an unknown criterion; a `size` that is missing, out of range, or given without
            "fixed"; tensors that require a gradient (fit what was chosen with `fit_similarity(src, dst, weights *
            members)`). On a GPU, a tolerance, prior, previous or inertia with a bad value leaves no members.
    """
    batched.collates or batched.collate_by_default()
    backend = _dispatch.resolve(src, backend)
    _check_visible(previous, src, dst, tolerance, valid, weights, prior, inertia)
    device = src.device if backend == "triton" else None
    x, y = point_sets(src, dst, device)
    noise = _check_search(x, src, tolerance, criterion, min_points, size, backend, sigmas)
    optional = _per_point(x, src, device, tolerance, valid, weights, prior)
    before = None if previous is None else _previous(previous, src, device, x.shape[-1])
    mu = _inertia(inertia, device)
    last = () if before is None else before.shape[:-1]
    shapes = {name: array.shape[:-1] for name, array in optional.items()} | {"previous": last, "inertia": mu.shape}
    batch = batch_shape(src=x.shape[:-2], dst=y.shape[:-2], **shapes)
    if backend == "triton":
        return _search_on_device(x, y, optional, before, mu, criterion, min_points, size or 0, batch, noise)
    found = _search_on_host(x, y, optional, before, mu, criterion, min_points, size, batch, backend, noise)
    return SubsetFit(Fit(*(_checks.like(a, src) for a in found[0])), *(_checks.like(a, src) for a in found[1:]))


def _check_visible(previous, *arrays):
    """Refuses tensors that want a gradient, which a choice has none for, or whose numbers cannot be seen."""
    arrays = *arrays, *(previous._fields() if isinstance(previous, Similarity) else [previous])
    if _dispatch.is_recorded(*arrays):
        raise TypeError(
            "search_subset computes no gradient, but a tensor requires one: pass what is detached (src.detach()), and "
            "fit what it chose with fit_similarity(src, dst, weights * members)"
        )
    if _dispatch.is_mapped(*arrays):
        raise TypeError(
            "search_subset looks at numbers, which torch.func does not show: give it the whole batch [..., K, D]"
        )


def _per_point(x, src, device, tolerance, valid, weights, prior) -> dict:
    """What is given for every point, by name: arrays [..., K]."""
    given = {}
    if isinstance(tolerance, int | float) or getattr(tolerance, "ndim", None) == 0:
        given["tolerance"], tolerance = _same_for_all(tolerance, src, x, device), None
    for name, value in (("tolerance", tolerance), ("valid", valid), ("prior", prior)):
        if value is not None:
            given[name] = per_point(value, name, x, src, device)
    if weights is not None:
        given["weights"] = point_weights(weights, x, src, device)
    return given


def _same_for_all(tolerance, src, x, device) -> Array:
    """One tolerance for all points: [K]."""
    if not isinstance(tolerance, int | float):  # an array or a tensor without dimensions
        if isinstance(tolerance, np.generic):
            tolerance = tolerance.item()
        else:
            _checks.one_kind(src=src, tolerance=tolerance)
            tolerance = _checks.numeric(tolerance, "tolerance", device)
            if device is not None:
                return tolerance.to(x.dtype).expand(x.shape[-2])
            tolerance = tolerance.item()
    if not (_checks.is_finite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance must be > 0 and finite, but is {tolerance}")
    return np.full(x.shape[-2], tolerance, x.dtype) if device is None else x.new_full(x.shape[-2:-1], tolerance)


def _noise(points, sigmas) -> tuple[np.ndarray | None, int]:
    """The sigmas [K] that default tolerances are made of, and how many keypoints tell a person's size."""
    if sigmas is not None:
        return sigmas_of(sigmas, points)
    return sigmas_of("coco", points) if points == len(COCO_SIGMAS) else (None, points)


def _check_search(x, src, tolerance, criterion, min_points, size, backend, sigmas):
    """Refuses what `search_subset` cannot search, before anything is computed; the sigmas as `_noise` says."""
    points = x.shape[-2]
    if x.shape[-1] != 2 and backend == "triton":
        raise ValueError(
            f"src must be [..., K, 2] on a GPU, but is {_checks.describe(src)}: in 3-D search on the CPU (src.cpu())"
        )
    if points > MAX_SEARCH_POINTS and backend == "triton":
        raise ValueError(
            f"src must have at most {MAX_SEARCH_POINTS} points on a GPU (all 2^K subsets are looked at), but has "
            f"{points}: choose the ones that matter, or search on the CPU"
        )
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, but is {criterion!r}")
    if criterion == "face" and points != len(COCO_SIGMAS):
        raise ValueError(f"criterion 'face' needs the {len(COCO_SIGMAS)} COCO keypoints, but src has {points} points")
    if (criterion == "fixed") != (size is not None):
        raise ValueError(f"size must be given for criterion 'fixed' and only there, but is {size!r} for {criterion!r}")
    if size is not None and not (isinstance(size, int) and 2 <= size <= points):
        raise ValueError(f"size must be an integer from 2 to {points}, but is {size!r}")
    if not isinstance(min_points, int) or min_points < 0:
        raise ValueError(f"min_points must be an integer >= 0, but is {min_points!r}")
    if tolerance is None and sigmas is None and points != len(COCO_SIGMAS):
        raise ValueError(
            f"tolerance or sigmas must be given unless there are {len(COCO_SIGMAS)} (COCO) points, but src has {points}"
        )
    return _noise(points, sigmas)


def _search_on_host(x, y, optional, previous, inertia, criterion, min_points, size, batch, backend, noise):
    """The part of `search_subset` after its checks, as arrays: those of a Fit, members, value, weak, exact."""
    (points, dims), (sigma, box) = x.shape[-2:], noise

    def rows(array, *tail):
        return np.ascontiguousarray(np.broadcast_to(array, (*batch, *tail))).reshape(math.prod(batch), *tail)

    x_rows, y_rows = rows(x, points, dims), rows(y, points, dims)
    common = np.isfinite(x_rows).all(-1) & np.isfinite(y_rows).all(-1)
    if "valid" in optional:
        common &= rows(optional["valid"], points) != 0
    x64, y64 = (np.where(common[..., None], p, 0).astype(np.float64) for p in (x_rows, y_rows))
    person = person_size(y64[:, :box], common[:, :box])
    if "tolerance" in optional:
        if not (optional["tolerance"] > 0).all():
            raise ValueError(f"tolerance must be > 0, but the smallest is {optional['tolerance'].min()}")
        t = rows(optional["tolerance"], points).astype(np.float64)
    else:
        t = TOLERANCE_SIGMAS * sigma * person[:, None]
    reward = rows(optional.get("prior", np.zeros(points)), points).astype(np.float64)
    parts = 2 if dims == 2 else 9
    before = rows(np.zeros(parts) if previous is None else previous, parts).astype(np.float64)
    w = rows(optional.get("weights", np.ones(points, x.dtype)), points)
    last = before[:, 0] + 1j * before[:, 1] if dims == 2 else before.reshape(-1, 3, 3)
    chosen = _choose(x64, y64, t, common, reward, last, rows(inertia), criterion, size, backend)
    fit, members, value, weak, exact = _judge(x64, y64, w, person, criterion, min_points, backend, x.dtype, *chosen)
    shapes = (batch, (*batch, dims, dims), (*batch, dims), batch, batch)
    fits = (fit.scale, fit.rotation, fit.translation, fit.residual, fit.ok)
    shaped = tuple(a.reshape(shape) for a, shape in zip(fits, shapes, strict=True))
    return shaped, members.reshape(*batch, points), *(a.reshape(batch) for a in (value, weak, exact))


def _search_on_device(x, y, optional, previous, inertia, criterion, min_points, size, batch, noise) -> SubsetFit:
    """The part of `search_subset` that comes after its checks, as kernels; nothing waits for the device."""
    import torch

    from tpc_fast.kernels import procrustes as kernels

    device, points = x.device, x.shape[-2]
    rows = {name: _flat(array, batch, 1) for name, array in optional.items()}
    if previous is not None:
        previous, inertia = _flat(previous, batch, 1), _flat(inertia, batch, 0)
    sigma = None
    if "tolerance" not in rows:
        sigma = kernels.constant(tuple(TOLERANCE_SIGMAS * noise[0]), torch.float64, device)
    scale, rotation, translation, residual, ok, members, value, weak = kernels.search_subset(
        _flat(x, batch, 2),
        _flat(y, batch, 2),
        rows.get("tolerance"),
        sigma,
        rows.get("valid"),
        rows.get("weights"),
        rows.get("prior"),
        previous,
        inertia if previous is not None else None,
        count=math.prod(batch),
        searched=criterion in ("truncated", "fixed"),
        size=size,
        last=FACE.stop if criterion == "face" else points,
        box=noise[1],
        min_points=min_points,
        min_spread=0.0 if criterion == "face" else MIN_SPREAD,
        max_ratio=math.exp(MAX_SCALE_CHANGE),
    )
    fit = Fit(
        scale.reshape(batch),
        rotation.reshape(*batch, 2, 2),
        translation.reshape(*batch, 2),
        residual.reshape(batch),
        ok.reshape(batch),
    )
    exact = torch.ones_like(weak).reshape(batch)
    return SubsetFit(fit, members.reshape(*batch, points), value.reshape(batch), weak.reshape(batch), exact)


def search_rows(
    x, y, tolerance, common, weights, prior, previous, inertia, person, criterion, min_points, size, backend, dtype
):
    """`search_subset` for arrays that are complete and checked: the persons of a stream call it directly.

    Args:
        x, y: [N, K, 2] float64, zero where not common; tolerance, prior: [N, K] float64; common: [N, K] bool.
        weights: [N, K]; previous: [N] complex, 0 for none; inertia, person (its size in pixels): [N] float64.
        dtype: of the fit; others as in `search_subset`.

    Returns:
        fit, members [N, K], value [N], weak [N].
    """
    chosen = _choose(x, y, tolerance, common, prior, previous, inertia, criterion, size, backend)
    return _judge(x, y, weights, person, criterion, min_points, backend, dtype, *chosen)[:4]


def _choose(x, y, tolerance, common, prior, previous, inertia, criterion, size, backend):
    """The members [N, K] of the best subsets, their J [N], and whether these are the best of all [N]."""
    exact = np.ones(len(x), bool)
    if criterion in ("truncated", "fixed") and x.shape[-1] == 3:
        return _choose_in_3d(x, y, tolerance, common, prior, previous, inertia, size, backend)
    if criterion in ("truncated", "fixed") and x.shape[1] > MAX_SEARCH_POINTS:
        parts = previous[:, None].view(np.float64)
        if backend == "cpu":
            members, value, exact, _ = _native.core().search_many(
                x, y, tolerance, common, prior, parts, inertia, size or 0, MAX_BOXES
            )
            return members, value, exact
        members, value = naive.search_many(x, y, tolerance, common, prior, previous, inertia, size or 0)
        return members, value, ~exact
    if criterion in ("truncated", "fixed"):
        if backend == "cpu":
            parts = previous[:, None].view(np.float64)
            mask, value = _native.core().search_subset(x, y, tolerance, common, prior, parts, inertia, size or 0)
        else:
            mask, value = naive.search_subset(x, y, tolerance, common, prior, previous, inertia, size or 0)
        return (mask[:, None] >> np.arange(x.shape[1]) & 1).astype(bool), value, exact
    members = common.copy()
    if criterion == "face":
        members[:, FACE.stop :] = False
    return members, _value(x, y, tolerance, members, prior, previous, inertia, backend), exact


def _choose_in_3d(x, y, tolerance, common, prior, previous, inertia, size, backend):
    given = x, y, tolerance, common, prior, np.ascontiguousarray(previous), inertia, size or 0
    if backend == "cpu":
        return _native.core().search_3d(*given)
    few = x.shape[1] <= MAX_SEARCH_POINTS
    members, value = (naive_3d.search_subset if few else naive_3d.search_many)(*given)
    return members, value, np.full(len(x), few)


def _judge(x, y, weights, person, criterion, min_points, backend, dtype, members, value, exact):
    """The final fit over members, and whether it is weak: fit, members, value, weak, exact."""
    points = (x.astype(dtype, copy=False), y.astype(dtype, copy=False), (members * weights).astype(dtype, copy=False))
    source = _native.core() if backend == "cpu" else naive
    *numbers, ok, change = source.fit_leaving_out(*points)
    fit = Fit(*(a.astype(dtype, copy=False) for a in numbers), ok)
    depends = members & (weights > 0) & ~(change <= MAX_SCALE_CHANGE)
    weak = ~ok | (members.sum(-1) < min_points) | depends.any(-1)
    if criterion != "face":
        used = members[..., None]
        low, high = (
            np.where(used, y, np.inf).min(-2, initial=np.inf),
            np.where(used, y, -np.inf).max(-2, initial=-np.inf),
        )
        weak |= ~((high - low).max(-1) >= MIN_SPREAD * person)
    return fit, members, value, weak, exact


def _value(x, y, tolerance, members, prior, previous, inertia, backend) -> np.ndarray:
    """J of given subsets, [N]; 0 where they have no fit."""
    w = members / tolerance**2
    scale, rotation, _, residual, ok = _fit(x, y, w, backend)
    if x.shape[-1] == 2:
        a = scale * (rotation[:, 0, 0] + 1j * rotation[:, 1, 0])
        has = previous != 0
        departure = abs(a / np.where(has, previous, 1) - 1) ** 2
    else:
        has = previous.any((-2, -1))
        before = np.where(has[:, None, None], previous, np.eye(3))
        departure = naive_3d.departure(scale[:, None, None] * rotation, before)
    change = np.minimum(1, departure)
    value = (members * (1 + prior)).sum(-1) - residual**2 * w.sum(-1) - np.where(has, inertia * change, 0)
    return np.where(ok, value, 0.0)
