"""Alignments of a clip by the methods that are compared, and what each scores."""

import dataclasses
import functools

import numpy as np

from tpc_fast import _dispatch
from tpc_fast.calibration.follow import estimate, shown
from tpc_fast.calibration.options import Options
from tpc_fast.calibration.reference import Reference
from tpc_fast.evaluation import images, metrics
from tpc_fast.evaluation.clips import Observed
from tpc_fast.evaluation.track_measures import area_jumps, measure_track
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.images import mask_iou
from tpc_fast.media.video import VideoReader
from tpc_fast.ops.coco import SCORE_THRESHOLD
from tpc_fast.ops.procrustes import default_tolerance, person_size
from tpc_fast.ops.track import MEMBER_WEIGHT, parse_subset
from tpc_fast.ops.transforms import MODELS, fit_linear_map, search_rows
from tpc_fast.ops.warp import WarpSource
from tpc_fast.pose import keypoints as coco

METHODS = ("none", "face", "all", "subset")  # and "fixed:N"
SMOOTHINGS = ("none", "causal", "offline")
_BATCH = 32  # masks in memory


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is compared.

    Attributes:
        method: which keypoints are fitted: "none" (the reference is only laid onto the canvas), "face" (as the released
            TPC code), "all", "subset" (the exact optimal subset), "fixed:N"; or "published".
        model: the transform that is fitted to them, one of `tpc_fast.ops.transforms.MODELS`.
        smooth: "none", "causal" or "offline"; similarities only.
    """

    method: str
    model: str = "similarity"
    smooth: str = "none"

    @property
    def name(self) -> str:
        return "/".join((self.method, self.model, self.smooth))


def variants(methods, models, smoothings) -> list[Variant]:
    """All combinations that make sense: "none" has one, and only similarities are smoothed.

    Raises:
        ValueError: for a name that is not known.
    """
    for name, asked, known in (("models", models, MODELS), ("smooth", smoothings, SMOOTHINGS)):
        if not asked or not set(asked) <= set(known):
            raise ValueError(f"{name} must be some of {', '.join(known)}, but are {', '.join(asked) or 'none'}")
    if not methods:
        raise ValueError(f"methods must be some of {', '.join(METHODS)}, fixed:N, but are none")
    found = []
    for method in methods:
        if method not in ("none", "subset"):
            try:
                parse_subset(method)
            except ValueError:
                raise ValueError(
                    f"methods must be some of {', '.join(METHODS)}, fixed:N, but one is {method!r}"
                ) from None
        if method == "none":
            found.append(Variant("none"))
            continue
        for model in models:
            smooths = smoothings if model == "similarity" else [s for s in smoothings if s == "none"]
            found += [Variant(method, model, smooth) for smooth in smooths]
    return found


@dataclasses.dataclass(frozen=True)
class Alignment:
    """matrices [F, 2, 3] float64 reference -> canvas; status [F] as in `Calibration`; members [F, 17] bool."""

    matrices: np.ndarray
    status: np.ndarray
    members: np.ndarray


def align(observed: Observed, variant: Variant) -> Alignment:
    """Aligns a clip by one variant."""
    frames = len(observed)
    if variant.method in ("none", "published"):
        matrices = observed.published
        if variant.method == "none":
            fixed = Canvas.fitting(observed.reference_image.shape[:2], observed.size, "pad").matrix
            matrices = np.tile(fixed, (frames, 1, 1))
        return Alignment(matrices, np.full(frames, "tracked"), np.ones((frames, 17), bool))
    options = Options.checked(
        observed.size,
        subset="optimal" if variant.method == "subset" else variant.method,
        smooth=variant.smooth,
        score_threshold=SCORE_THRESHOLD,
    )
    reference = Reference(
        None,
        observed.reference_image,
        observed.reference_mask[None],
        observed.reference_keypoints[None],
        observed.reference_scores[None],
        None,
    )
    keypoints, scores = observed.keypoints[:, None], observed.scores[:, None]
    track, raw = estimate(reference, keypoints, scores, observed.times, options, picture=shown(observed.canvas))
    if variant.model != "similarity":
        return _other_model(observed, variant, raw)
    return Alignment(track.matrices[:, 0], track.statuses()[:, 0], track.weights[:, 0] >= MEMBER_WEIGHT)


def _other_model(observed, variant, raw) -> Alignment:
    """Each frame by itself, with the person sizes and sides of the similarities, and another model in their place.

    The keypoints are those that the model itself explains best; where it has no fit, its last transform stays.
    """
    model, (criterion, size) = variant.model, parse_subset("optimal" if variant.method == "subset" else variant.method)
    backend = _dispatch.resolve(observed.keypoints, None)
    members, status = raw.weights[:, 0] > 0, raw.statuses()[:, 0]
    found, last = raw.matrices[:, 0].copy(), None
    for i in range(len(found)):
        side = coco.MIRRORED if raw.side[i, 0] else slice(None)
        x, y = observed.reference_keypoints[side].astype(np.float64), observed.keypoints[i].astype(np.float64)
        weights = np.minimum(observed.reference_scores[side], observed.scores[i]).astype(np.float64)
        fitted = members[i].any()
        if fitted and criterion in ("truncated", "fixed"):
            both = _common(observed.reference_scores[side], x, observed.scores[i], y)
            points = [np.where(both[:, None], p, 0.0)[None] for p in (x, y)]
            nothing = np.zeros((1, 17)), np.zeros((2, 2)), np.zeros(1)  # no prior, no transform before, no inertia
            person = raw.size[i]
            (matrix, _, ok), chosen, _, _ = search_rows(
                *points, default_tolerance(person), both[None], np.where(both, weights, 0.0)[None], *nothing, person,
                model, criterion, 4, size, backend,
            )  # fmt: skip
            matrix, ok, members[i] = matrix[0], bool(ok[0]), chosen[0]
        else:
            best = fit_linear_map(x, y, model, np.where(members[i], weights, 0.0))
            matrix, ok = best.matrix, bool(best.ok) and fitted
        if ok:
            last = matrix
        else:
            members[i] = False
            status[i] = "held" if status[i] in ("tracked", "fallback") else status[i]
        if last is not None:
            found[i] = last
    return Alignment(found, status, members)


def measure(observed: Observed, alignment: Alignment, expected: np.ndarray | None = None) -> tuple[dict, dict]:
    """What an alignment scores.

    Args:
        expected: [F, 2, 3], what it is compared with where the truth is not known: the alignment of the same variant
            before the reference was misaligned.

    Returns:
        Metrics of the frames (name -> [F]) and of the clip (name -> number). Distances of keypoints are in units of
        person size (root of the box area of the upper body's common keypoints); NaN where a metric is not defined, and
        in the frame that is the reference itself.
    """
    matrices, seen = alignment.matrices, common(observed)
    points = np.where(seen[..., None], observed.reference_keypoints, np.nan).astype(np.float64)
    driving = np.where(seen[..., None], observed.keypoints, np.nan).astype(np.float64)
    moved = (points @ matrices[:, :, :2].swapaxes(-1, -2)) + matrices[:, None, :, 2]
    size = person_size(np.nan_to_num(driving), seen)
    frames = {"iou": warped_iou(observed, matrices)}
    for suffix, used in (("", None), ("_unused", ~alignment.members)):
        frames[f"oks{suffix}"] = metrics.oks(moved, driving, size**2, used)
        frames[f"rms{suffix}"] = metrics.rms(moved, driving, used) / size
    known = observed.truth if observed.truth is not None else expected
    own = observed.reference_frame
    anchors = observed.reference_keypoints.astype(np.float64)
    anchors = np.where((observed.reference_scores >= SCORE_THRESHOLD)[:, None], anchors, np.nan)
    if known is not None:
        frames |= metrics.errors(matrices, known, anchors)
    if own is not None:
        for values in frames.values():
            values[own] = np.nan
    clip = summarise_frames(frames)
    track = measure_track(
        observed.reference_keypoints, observed.reference_scores, observed.keypoints, observed.scores, matrices
    )
    clip |= {
        f"{part}_offset{suffix}": getattr(track, part + suffix) for part in ("head", "torso") for suffix in ("", "_95")
    }
    clip["scale_range"] = track.scale_range
    clip["roughness_log_scale"], clip["roughness_degrees"] = track.scale_roughness, track.angle_roughness
    clip["mask_jumps"] = area_jumps(observed.pose_masks(slice(0, len(observed))))
    if known is not None:
        clip["lag_seconds"] = metrics.lag(matrices, known, anchors, observed.times)
    clip["switches"] = float((alignment.members[1:] != alignment.members[:-1]).any(-1).sum())
    return frames, clip | metrics.shares(alignment.status)


def measure_images(observed: Observed, alignment: Alignment, perceptual=None) -> dict[str, np.ndarray]:
    """L1, PSNR and SSIM of the calibrated photo beside the driving frames [F], where they show the same person.

    Both are compared inside the pose mask: what a photo shows around the person is not what the video shows there. NaN
    in the frame that is the reference itself.

    Args:
        perceptual: the network of LPIPS, to have that, too.
    """
    source = WarpSource(observed.reference_image, observed.reference_mask)
    compare = dict(images.METRICS)
    if perceptual is not None:
        from tpc_fast.evaluation.networks import lpips

        compare["lpips"] = functools.partial(lpips, perceptual)
    rows: dict[str, list] = {f"{name}_foreground": [] for name in compare}
    for i, frame in enumerate(VideoReader(observed.driving, frames=observed.frames)):
        warped = source.warp(alignment.matrices[i : i + 1], observed.size, antialias=True).image[0, 0]
        mask = observed.pose_masks(slice(i, i + 1))[0]
        for name, metric in compare.items():
            value = metric(warped, observed.canvas.draw(frame.image), mask) if i != observed.reference_frame else np.nan
            rows[f"{name}_foreground"].append(value)
    return {name: np.array(values) for name, values in rows.items()}


def summarise_frames(frames: dict) -> dict:
    """Means over frames (name -> [F]), and of errors the median and the 95th percentile: name -> number."""
    numbers = {}
    for name, values in frames.items():
        if name.endswith("error"):
            values = values[~np.isnan(values)]
            if not len(values):
                continue
            numbers |= {f"{name}_median": float(np.median(values)), f"{name}_95": float(np.percentile(values, 95))}
        else:
            numbers[name] = metrics.mean(values)
    return numbers


def common(observed: Observed) -> np.ndarray:
    """[F, 17] bool: keypoints that are seen in reference and frame."""
    return _common(observed.reference_scores, observed.reference_keypoints, observed.scores, observed.keypoints)


def _common(reference_scores, reference, scores, keypoints):
    seen = np.isfinite(reference).all(-1) & (reference_scores >= SCORE_THRESHOLD)
    return seen & np.isfinite(keypoints).all(-1) & (scores >= SCORE_THRESHOLD)


def warped_iou(observed: Observed, matrices: np.ndarray) -> np.ndarray:
    """[F]: IoU of the calibrated mask and the pose mask."""
    mask = observed.reference_mask
    source = WarpSource(mask[..., None], mask)
    parts = []
    for start in range(0, len(matrices), _BATCH):
        batch = slice(start, start + _BATCH)
        warped = source.warp(matrices[batch], observed.size, antialias=True).mask[:, 0]
        parts.append(mask_iou(warped, observed.pose_masks(batch)))
    return np.concatenate(parts)
