"""Evaluates clips: in parallel, resumable, and whatever happens to one of them."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tpc_fast._version import __version__
from tpc_fast.diffusion.models.registry import MODELS, pipeline_class, recognise, refuse_options
from tpc_fast.evaluation.alignment import METHODS, Variant, align, measure, measure_images, summarise_frames, variants
from tpc_fast.evaluation.animation import ClipVideos, Model, distances, followed_files, load_pipeline
from tpc_fast.evaluation.clips import DETECTIONS, Clip, find_clips, folder_name, observe
from tpc_fast.evaluation.page import write_page
from tpc_fast.evaluation.synthetic import (
    STAND_IN,
    SYNTHETIC,
    TURN_FRAMES,
    Misalignment,
    grid,
    misaligned,
    observe_synthetic,
    turning,
)
from tpc_fast.evaluation.tables import summarise, variant_name, write_csv
from tpc_fast.evaluation.worst import write_worst_frames
from tpc_fast.media.files import whole_file
from tpc_fast.ops.propagation import GROUP_SIZE, MODE, PropagationPlan
from tpc_fast.pose.detect.one_person import PersonTracker
from tpc_fast.pose.detect.registry import get_detector
from tpc_fast.pose.files.detections import fingerprint

PROTOCOLS = ("clips", "misaligned", "synthetic")
KEYPOINTS = ("detected", "given")
RESULT_FILE, TABLE_FILE, JSON_FILE, PAGE_FILE = "result.json", "results.csv", "results.json", "report.html"
_FORMAT = 3
_KEPT = ("iou", "angle_error", "log_scale_error", "point_error")  # frame by frame

_log = logging.getLogger("tpc_fast")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is asked of every clip; see `evaluate`."""

    variants: tuple[Variant, ...]
    protocol: str = "clips"
    size: int | tuple[int, int] = 512
    frames: slice | None = None
    reference_frame: int = 0
    detector: str | None = None
    rotations: int = 12
    scales: tuple[float, ...] = (0.4, 0.6, 1.0, 1.5, 2.0)
    seed: int = 0
    keypoints: str = "detected"
    whole: bool = False
    images: bool = False
    weights: str | os.PathLike | None = None
    model: str | None = None
    base: str | os.PathLike | None = None
    vae: str | os.PathLike | None = None
    steps: int | None = None
    guidance: float | tuple[float, float] | None = None
    group_size: int | None = None
    mode: str | None = None
    propagation: tuple[int, ...] = ()

    def as_dict(self) -> dict:
        plain = dataclasses.asdict(self)
        frames = plain.pop("frames")
        if self.model is None:
            for name in ("base", "vae", "steps", "guidance", "group_size", "mode", "propagation"):
                del plain[name]
        for name in ("weights", "base", "vae"):
            plain |= {name: str(plain[name])} if plain.get(name) is not None else {}
        return plain | {
            "variants": [variant.name for variant in self.variants],
            "frames": None if frames is None else [frames.start, frames.stop],
        }


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        results: one for each clip that could be evaluated, as its result.json holds it.
        failures: clip -> why it could not be.
        summary: the tables, as results.json holds them.
    """

    results: list
    failures: dict
    summary: dict


def evaluate(
    clips,
    output: str | os.PathLike,
    *,
    protocol: str = "clips",
    methods=METHODS,
    models=("similarity",),
    smooth=("none", "offline"),
    jobs: int = 1,
    progress: Callable[[int, int, str], object] | None = None,
    command: str | None = None,
    pictures: bool = True,
    **options,
) -> Evaluation:
    """Compares alignments on clips, and writes results.csv, results.json and report.html into a folder.

    Every clip's detections and result are kept under `output`/clips: a run that was interrupted goes on, and one with
    other methods does not detect again.

    Args:
        clips: paths, see `find_clips`; for "synthetic" photos, or none for the astronaut. "misaligned" without any
            takes the synthetic clip.
        output: the folder; made if need be, its parent must exist. Other files in it are left alone.
        protocol: "clips" (as they are), "misaligned" (and with references that are turned and scaled over a grid), or
            "synthetic" (the demo's camera path over a photo, whose truth is known, and a camera that turns once at
            each of `scales`, in bins of `rotations`).
        methods, models, smooth: what is compared, see `Variant`.
        jobs: clips at a time, each in a process of its own if there are several.
        progress: called as `progress(done, total, clip)`.
        command: the command line, for the record.
        pictures: whether the page shows the worst frames.
        options: the following, by name.
            size, frames, reference_frame, detector: see `observe`.
            rotations, scales, seed: see `grid`.
            keypoints: of misaligned references. "detected": a detector looks at them. "given": the keypoints are moved
            along with the picture. A synthetic clip then has those of a stick person, which are true.
            whole: True puts misaligned references into pictures that show all of them; False cuts them to their size.
            images: True compares pixels, too: L1, PSNR and SSIM inside the pose mask. This needs driving frames that
            show the reference: self-reenactment and "synthetic".
            weights: folder with networks for LPIPS, FID, FID-VID and FVD, see `tpc_fast.evaluation.networks`. What has
            no file there is not measured, and a warning says so.
            model: a diffusion model that animates the clips with every method. Videos of self-reenactment are compared
            with the truth. What the model follows lies in the clips' folders, see `find_clips`.
            base, vae, steps, guidance, group_size, mode: of that model, see `tpc_fast.evaluation.animation.Model`.
            None: the model's own.
            propagation: group sizes. For each, the steadiness of features and videos is measured, with the last method.

    Raises:
        FileNotFoundError, ValueError: for paths in which there are no clips, and options that are not as they must be.
        ImportError: for what a model or networks need, and how to install it.
        FileExistsError: if the folder holds the report of something else.
        OSError: if it cannot be written.
        RuntimeError: if not one clip could be evaluated; says why for each.
    """
    settings = Settings(tuple(variants(list(methods), list(models), list(smooth))), protocol, **options)
    for name, allowed in (("protocol", PROTOCOLS), ("keypoints", KEYPOINTS)):
        if getattr(settings, name) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, but is {getattr(settings, name)!r}")
    grid(settings.rotations, settings.scales, settings.seed)
    if not isinstance(jobs, int) or jobs < 1:
        raise ValueError(f"jobs must be an integer >= 1, but is {jobs!r}")
    settings = _check_model(settings, jobs)
    output = _check_output(Path(output))
    found = _find(clips, protocol)
    (output / "clips").mkdir(parents=True, exist_ok=True)
    results, failures = _run(found, output, settings, jobs, progress)
    if not results:
        raise RuntimeError("no clip could be evaluated: " + "; ".join(f"{k}: {v}" for k, v in failures.items()))
    summary = summarise(results, settings.seed) | {
        "distributions": _distributions(results, output, settings),
        "failures": failures,
        "settings": settings.as_dict(),
        "command": command,
        "made_with": _made_with(results),
    }
    write_csv(results, output / TABLE_FILE)
    _write_json(output / JSON_FILE, summary)
    write_page(summary, results, output, output / PAGE_FILE, pictures)
    return Evaluation(results, failures, summary)


def _check_output(output: Path) -> Path:
    if not output.parent.is_dir():
        raise FileNotFoundError(f"output: there is no folder {output.parent} to put {output.name} into")
    if (output / PAGE_FILE).exists() and not (output / JSON_FILE).exists():
        raise FileExistsError(
            f"output: {output} holds a {PAGE_FILE} that is not of an evaluation: choose another place"
        )
    return output


def _find(clips, protocol) -> list[Clip]:
    """The clips, and what stands in for none where the protocol needs none."""
    if protocol == "synthetic" or (protocol == "misaligned" and not clips):
        return [Clip(SYNTHETIC if p is None else Path(p).stem, None, p and Path(p)) for p in clips or [None]]
    found = find_clips(clips)
    if not found:
        raise ValueError("clips must be given for this protocol")
    return found


def _check_model(settings, jobs) -> Settings:
    """The settings; where they leave it open, as the model has it."""
    if settings.model is None:
        if settings.propagation:
            raise ValueError("propagation needs a model: give model, too")
    elif settings.protocol != "clips":
        raise ValueError(f"model must be given with protocol clips only, but protocol is {settings.protocol}")
    if settings.propagation and all(variant.method == "none" for variant in settings.variants):
        raise ValueError("propagation needs a method that aligns, but methods are none only")
    for group_size in (settings.group_size, *settings.propagation):
        PropagationPlan(1, GROUP_SIZE if group_size is None else group_size, settings.mode or MODE)
    if settings.weights is not None and not Path(settings.weights).is_dir():
        raise FileNotFoundError(f"weights: there is no folder {settings.weights}")
    if settings.model is None:
        return settings
    kind, place = recognise(settings.model)
    model = pipeline_class(kind)
    asked = {name: getattr(settings, name) for name in ("base", "vae", "group_size", "mode")}
    refuse_options(kind, **asked)
    if settings.propagation and (why := MODELS[kind].refuses.get("group_size")):
        raise ValueError(f"propagation must be left out: {kind} {why}")
    settings = dataclasses.replace(settings, model=f"{kind}:{place}")
    if jobs == 1:
        load_pipeline(settings.model, settings.base, settings.vae)  # what is missing is said first
    own = {name: getattr(model, name) for name in ("steps", "guidance")}
    own |= MODELS[kind].taken(group_size=GROUP_SIZE, mode=MODE)
    return dataclasses.replace(settings, **{name: own[name] for name in own if getattr(settings, name) is None})


def _run(clips, output, settings, jobs, progress):
    results, failures = {}, {}

    def take(clip, get):
        try:
            results[clip.name] = get()
        except Exception as error:  # whatever it is, the other clips go on
            failures[clip.name] = f"{type(error).__name__}: {error}"
            _log.warning("%s: %s", clip.name, failures[clip.name])
        if progress is not None:
            progress(len(results) + len(failures), len(clips), clip.name)

    jobs = min(jobs, len(clips))
    if jobs == 1:
        for clip in clips:
            take(clip, lambda clip=clip: evaluate_clip(clip, output, settings))
    else:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(jobs, context) as pool:
            waiting = {pool.submit(evaluate_clip, clip, output, settings): clip for clip in clips}
            for future in concurrent.futures.as_completed(waiting):
                take(waiting[future], future.result)
    return [results[clip.name] for clip in clips if clip.name in results], failures


def evaluate_clip(clip: Clip, output: Path, settings: Settings) -> dict:
    """One clip's result; taken from its file if that was made from the same."""
    folder = output / "clips" / folder_name(clip.name)
    made_from = {
        "format": _FORMAT,
        "version": __version__,
        "settings": settings.as_dict(),
        "clip": _files(clip, settings),
        "networks": sorted(_networks(settings)[0]),
    }
    made_from = json.loads(json.dumps(made_from))
    path = folder / RESULT_FILE
    if path.exists():
        with contextlib.suppress(ValueError, OSError, KeyError):
            result = json.loads(path.read_text(encoding="utf-8"))
            if result["made_from"] == made_from:
                return result
    followed = {} if settings.model is None else followed_files(clip, settings.model)
    folder.mkdir(parents=True, exist_ok=True)
    started, commit = time.perf_counter(), _commit()
    observed = _observe(clip, folder, settings)
    seen = time.perf_counter()
    asked, missing = list(settings.variants), _networks(settings)[1]
    perceptual, own_truth = _load_network("lpips", settings), _is_its_own_truth(clip, observed)
    if observed.published is not None:
        asked.insert(0, Variant("published"))
    rows, expected, last, propagation = [], {}, None, []
    if settings.model is not None:
        videos = _videos(observed, followed, folder, settings, own_truth)
    for variant in asked:
        alignment = align(observed, variant)
        frames, numbers = measure(observed, alignment)
        if settings.images and own_truth:
            numbers |= summarise_frames(measure_images(observed, alignment, perceptual))
        if settings.model is not None:
            numbers |= videos.compare(variant, alignment)
        rows.append(_row(clip, variant, None, frames, numbers))
        if variant.method not in ("published", "none"):
            expected[variant.name], last = alignment.matrices, (variant, alignment, frames)
    aligned = time.perf_counter()
    if last is not None:
        write_worst_frames(observed, *last, folder)
        if settings.propagation:
            propagation = videos.propagation(last[1], settings.propagation)
            for row in propagation:
                row |= {name: _number(value) for name, value in row.items() if name != "group_size"}
    unseen = []
    if settings.protocol == "synthetic":
        rows += _turning_rows(clip, settings, folder)
    elif settings.protocol == "misaligned":
        observed = dataclasses.replace(observed, expected=expected)
        rows += _misaligned_rows(clip, observed, settings, folder, unseen)
    result = {
        "clip": clip.name,
        "folder": folder.name,
        "made_from": made_from,
        "commit": commit,
        "frames": len(observed),
        "times": {
            "detect": seen - started,
            "align and measure": aligned - seen,
            "misaligned": time.perf_counter() - aligned,
        },
        "warnings": [*observed.warnings, *unseen, *missing],
        "rows": rows,
        "propagation": propagation,
    }
    _write_json(path, result)
    return json.loads(path.read_text(encoding="utf-8"))


def _videos(observed, followed, folder, settings, own_truth):
    asked = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Model) if field.name != "name"}
    networks = {metric: _load_network(metric, settings) for metric in _networks(settings)[0]}
    return ClipVideos(observed, followed, folder, Model(settings.model, **asked), networks, own_truth)


def _networks(settings) -> tuple[list[str], list[str]]:
    """Metrics whose networks are at hand, and what to fetch for the others."""
    if settings.weights is None:
        return [], []
    from tpc_fast.evaluation.networks import DISTRIBUTIONS, find_weights

    present, missing = [], []
    for metric in ("lpips", *DISTRIBUTIONS) if settings.model is not None else ("lpips",):
        try:
            find_weights(metric, settings.weights)
            present.append(metric)
        except FileNotFoundError as error:
            missing.append(str(error))
    return present, missing


def _load_network(metric, settings):
    """None if it is not at hand."""
    if metric not in _networks(settings)[0]:
        return None
    import torch

    return _cached_network(metric, os.fspath(settings.weights), "cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def _cached_network(metric, folder, device):
    from tpc_fast.evaluation.networks import load_network

    return load_network(metric, folder, device)


def _distributions(results, output, settings) -> dict:
    """FID, FID-VID and FVD of every variant over all clips."""
    if settings.model is None or settings.weights is None:
        return {}
    folders = [output / "clips" / result["folder"] for result in results]
    named = {variant_name(dataclasses.asdict(variant)): variant for variant in settings.variants}
    return {name: distances(folders, variant) for name, variant in named.items()}


def _is_its_own_truth(clip, observed) -> bool:
    """Whether the reference shows what the driving frames show, and these are on disk."""
    return (clip.driving is None and observed.driving.exists()) or (clip.driving is not None and clip.reference is None)


def _observe(clip, folder, settings):
    if clip.driving is None:
        return _observe_camera(clip, folder / "camera", settings, None)
    options = dict(size=settings.size, frames=settings.frames, reference_frame=settings.reference_frame)
    return observe(clip, folder / DETECTIONS, detector=settings.detector, **options)


def _observe_camera(clip, folder, settings, camera):
    if settings.keypoints == "given":
        return observe_synthetic(folder, clip.reference, camera, given=STAND_IN)
    return observe_synthetic(folder, clip.reference, camera, detector=settings.detector)


def _turning_rows(clip, settings, folder) -> list[dict]:
    """The sensitivity of the whole path: a camera that turns once, at every scale; a row for each bin of angles."""
    rows = []
    each = max(1, TURN_FRAMES // settings.rotations)  # frames of a bin
    for scale in settings.scales:
        camera = turning(scale, each * settings.rotations)
        observed = _observe_camera(clip, folder / f"turning-{scale:g}", settings, camera)
        for variant in settings.variants:
            frames, _ = measure(observed, align(observed, variant))
            for r in range(settings.rotations):
                cell = Misalignment(-180 + 360 * r / settings.rotations, scale, (0.0, 0.0))
                inside = {name: values[r * each : (r + 1) * each] for name, values in frames.items()}
                rows.append(_row(clip, variant, cell, inside, summarise_frames(inside)))
    return rows


def _misaligned_rows(clip, observed, settings, folder, unseen) -> list[dict]:
    rows, tracker = [], None
    try:
        if settings.keypoints == "detected":
            tracker = PersonTracker(get_detector(*([] if settings.detector is None else [settings.detector])))
        for cell in grid(settings.rotations, settings.scales, settings.seed):
            try:
                turned = misaligned(observed, cell, tracker, settings.whole)
            except ValueError as error:
                unseen.append(f"angle {cell.angle:g}, scale {cell.scale:g}: {error}")
                continue
            for variant in settings.variants:
                expected = None if turned.expected is None else turned.expected.get(variant.name)
                frames, numbers = measure(turned, align(turned, variant), expected)
                rows.append(_row(clip, variant, cell, frames, numbers | {"in_frame": turned.in_frame}))
    finally:
        if tracker is not None:
            tracker.detector.close()
    return rows


def _row(clip, variant, cell, frames, numbers) -> dict:
    return {
        "clip": clip.name,
        "method": variant.method,
        "model": variant.model,
        "smooth": variant.smooth,
        "angle": None if cell is None else cell.angle,
        "scale": None if cell is None else cell.scale,
        "metrics": {name: _number(value) for name, value in numbers.items()},
        "frames": {name: [_number(v) for v in frames[name]] for name in _KEPT if name in frames},
    }


def _number(value) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _files(clip: Clip, settings) -> list:
    paths = [clip.driving, clip.reference, clip.reference_mask, clip.driving_masks, clip.published]
    paths += [] if settings.model is None else clip.videos.values()  # all: which it follows is not asked to go on
    return [None if p is None else fingerprint(p, "", "") for p in paths]


def _made_with(results) -> dict:
    from tpc_fast.calibration.video import installed_versions

    # Of the results: those that were kept from an earlier run may be of another one.
    commits = dict.fromkeys(result["commit"] for result in results if result["commit"])
    return {"versions": installed_versions(), "commit": ", ".join(commits) or None, "date": time.strftime("%Y-%m-%d")}


def _commit() -> str | None:
    """Of the source tree that this package is run from, if it is one."""
    import subprocess

    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _write_json(path: Path, value) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=None, allow_nan=False) + "\n", encoding="utf-8")
