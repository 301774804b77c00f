"""Videos of a diffusion model beside the truth (self-reenactment), and how propagation steadies them.

Needs the extra `diffusion`. Videos are uint8 [F, H, W, 3].
"""

import dataclasses
import functools
import os
from pathlib import Path

import numpy as np

from tpc_fast.calibration.result import Calibration
from tpc_fast.diffusion.models.load import load_model
from tpc_fast.diffusion.models.registry import MODELS, is_tiny, pipeline_class, recognise
from tpc_fast.evaluation import metrics
from tpc_fast.evaluation.alignment import Alignment, Variant
from tpc_fast.evaluation.clips import DETECTIONS, Clip, Observed
from tpc_fast.evaluation.images import compare_frames
from tpc_fast.media.video import VideoReader
from tpc_fast.ops.propagation import GROUP_SIZE, MODE, PropagationPlan
from tpc_fast.output.pose_video import followed_videos, stand_ins

BANK_STEPS = 4  # denoising steps at which the bank is looked at, evenly over a run
_BATCH = 8  # images in the encoder


@dataclasses.dataclass(frozen=True)
class Model:
    """A model and how it is run.

    Attributes:
        name: as for `tpc_fast.diffusion.models.registry.recognise`.
        steps, guidance: of denoising.
        group_size, mode, seed: of the propagation, where the model takes them; the seed is that of the noise, too.
        base, vae: what the model needs, if not beside it; see `from_pretrained` of its class.
    """

    name: str
    steps: int
    guidance: float | tuple[float, float]
    group_size: int | None = GROUP_SIZE
    mode: str | None = MODE
    seed: int = 0
    base: str | os.PathLike | None = None
    vae: str | os.PathLike | None = None


load_pipeline = functools.lru_cache(maxsize=1)(load_model)  # the clips of a run share it


def followed_files(clip: Clip, model: str) -> dict[str, Path]:
    """The videos in a clip's folder that a model follows, by its names for them; none if its weights are random.

    Raises:
        ValueError: if one is missing; says what it must show.
    """
    kind, _ = recognise(model)
    follows = MODELS[kind].follows
    stems = {name: "densepose" if follows.densepose else name for name in pipeline_class(kind).videos}
    missing = [stem for stem in stems.values() if stem not in clip.videos]
    if missing and not is_tiny(model):
        shown = follows.value + " and one of the driving person's face" * ("face" in stems)
        raise ValueError(
            f"clip {clip.name} must be a folder with {', '.join(f'{stem}.*' for stem in missing)}, of the driving "
            f"video: {kind} follows {shown}"
        )
    return {} if missing else {name: clip.videos[stem] for name, stem in stems.items()}


def pose_videos_of(pipe, files: dict[str, Path], calibration: Calibration):
    """What a model follows, as it takes it: one video, or several by name; person masks where there are no files.

    Raises:
        ValueError: for videos that do not fit; see `tpc_fast.output.pose_video.followed_videos`.
    """
    videos = followed_videos(files, calibration) if files else stand_ins(pipe.videos, calibration)
    return videos if len(videos) > 1 else next(iter(videos.values()))


def aligned_by(calibration: Calibration, alignment: Alignment) -> Calibration:
    """The calibration with the transforms of an alignment; persons who are lost are not shown."""
    matrices, status = alignment.matrices[:, None].astype(np.float32), alignment.status[:, None]
    opacity = np.where(status == "lost", 0.0, 1.0).astype(np.float32)
    return dataclasses.replace(calibration, matrices=matrices, status=status, opacity=opacity)


def make_video(pipe, calibration: Calibration, pose_video, model: Model, group_size: int | None) -> np.ndarray:
    """All that the model generates."""
    import torch

    asked = MODELS[recognise(model.name)[0]].taken(group_size=group_size, mode=model.mode, seed=model.seed)
    latents = pipe(
        calibration,
        pose_video,
        num_inference_steps=model.steps,
        guidance_scale=model.guidance,
        generator=torch.Generator().manual_seed(model.seed),
        output_type="latent",
        **asked,
    ).frames
    return np.concatenate([frames.cpu().numpy() for frames in pipe.decode(latents)])


def over_reference(video: np.ndarray, calibration: Calibration) -> np.ndarray:
    """The video as `tpc-fast animate` shows it: outside of the (dilated) pose masks stands the reference."""
    from tpc_fast.diffusion import composite_background

    background = calibration.reference_canvas.draw(calibration.reference_image)
    return composite_background(video, calibration.pose_masks[:], background)


def compare_videos(found: np.ndarray, truth: np.ndarray, masks: np.ndarray, perceptual=None) -> dict[str, np.ndarray]:
    """L1, PSNR and SSIM of all frames, whole and by mask; LPIPS if its network is given: name -> [F]."""
    rows = compare_frames(found, truth, masks)
    if perceptual is not None:
        from tpc_fast.evaluation.networks import lpips

        parts = {"": None, "_foreground": masks >= 128, "_background": masks < 128}
        for suffix, inside in parts.items():
            values = [
                lpips(perceptual, found[i], truth[i], None if inside is None else inside[i]) for i in range(len(found))
            ]
            rows[f"lpips{suffix}"] = np.array(values)
    return rows


def unsteadiness(video: np.ndarray, masks: np.ndarray | None = None) -> float:
    """Mean absolute difference of frames that follow each other, 0 to 1.

    Args:
        video: uint8 [F, H, W, 3], two frames or more.
        masks: [F, H, W], uint8 (inside from 128 on) or bool: only pixels that are inside in both frames count; a pair
            without any is left out.

    Returns:
        0 for a video that stands still; NaN if nothing counts.

    Raises:
        ValueError: for one frame, or masks of another shape.
    """
    if len(video) < 2:
        raise ValueError(f"video must have at least 2 frames, but has {len(video)}")
    if masks is not None and np.shape(masks) != video.shape[:3]:
        raise ValueError(f"masks must have the shape {video.shape[:3]}, but have {np.shape(masks)}")
    inside = None if masks is None else masks if masks.dtype == np.bool_ else masks >= 128
    steps = []
    for i in range(len(video) - 1):
        step = np.abs(video[i + 1].astype(np.int16) - video[i]).mean(-1) / 255
        step = step if inside is None else step[inside[i] & inside[i + 1]]
        if step.size:
            steps.append(step.mean())
    return float(np.mean(steps)) if steps else np.nan


def bank_unsteadiness(pipe, calibration: Calibration, model: Model, group_size: int) -> float:
    """How much the features that neighbouring frames read of the calibrated reference differ.

    Per entry of the bank: the mean absolute difference between what frames f and f + 1 read, divided by the entry's
    mean absolute value. For a model that reads tokens, the tokens are the entry. The result is the mean over frames,
    entries, and `BANK_STEPS` steps of a run. Frames of one group read the same, so only the borders of groups count.
    """
    import torch

    plan = PropagationPlan(len(calibration), group_size, model.mode, model.seed)
    reference = pipe.encode_reference(calibration, group_size, model.mode, model.seed)
    adapter = pipe.reference_adapter()
    text = pipe.conditional_text(reference)
    pipe.scheduler.set_timesteps(model.steps, device=text.device)
    chosen = np.unique(np.linspace(0, model.steps - 1, BANK_STEPS).round().astype(int))
    found = []
    for step in chosen:
        images = reference.calibrated_latents[0, torch.from_numpy(plan.representatives(int(step)))]
        found.append(_differences(adapter, images, pipe.scheduler.timesteps[step], text))
    return float(np.mean(found)) / max(len(calibration) - 1, 1)


def _differences(adapter, images, timestep, text) -> float:
    """The sum over neighbouring images of the relative differences of their bank entries, a mean over the entries."""
    import torch

    totals, sizes, last = {}, {}, {}
    with torch.no_grad():
        for part in images.split(_BATCH):
            for name, entry in adapter.encode(part, timestep, text).items():
                entry = entry.float()
                chain = torch.cat([last[name], entry]) if name in last else entry
                steps = (chain[1:] - chain[:-1]).abs().mean((1, 2)).sum()
                totals[name] = totals.get(name, 0.0) + float(steps)
                sizes[name] = sizes.get(name, 0.0) + float(entry.abs().mean((1, 2)).sum())
                last[name] = entry[-1:]
    return float(np.mean([totals[name] * len(images) / sizes[name] for name in totals]))


class ClipVideos:
    """The videos that a model makes of one clip.

    Args:
        observed: the clip.
        files: what the model follows, see `followed_files`.
        folder: where the clip's detections are, and features are kept.
        model: what makes the videos.
        networks: metric -> network, of `tpc_fast.evaluation.networks`; may be empty.
        own_truth: whether the driving frames are what the videos should be (self-reenactment).
    """

    def __init__(self, observed: Observed, files: dict, folder: Path, model: Model, networks: dict, own_truth: bool):
        self._pipe, self._model, self._networks = load_pipeline(model.name, model.base, model.vae), model, networks
        calibration = Calibration.load(folder / DETECTIONS)
        self._calibration = dataclasses.replace(calibration, packed_pose_masks=observed.packed_pose_masks[:, None])
        self._pose_video = pose_videos_of(self._pipe, files, self._calibration)
        frames = VideoReader(observed.driving, frames=observed.frames)
        self._driving = np.stack([observed.canvas.draw(frame.image) for frame in frames])
        self._masks = observed.pose_masks(slice(None))
        self._observed, self._folder, self._own_truth = observed, folder, own_truth

    def compare(self, variant: Variant, alignment: Alignment) -> dict[str, float]:
        """Makes the video of an alignment, as `tpc-fast animate` shows it, and compares it with the truth.

        Features for distances of distributions, which are of all clips together, are kept in `features_file`.

        Returns:
            Means over the frames, without the one that is the reference; empty if there is no truth.
        """
        if not self._own_truth:
            return {}
        calibration = aligned_by(self._calibration, alignment)
        video = make_video(self._pipe, calibration, self._pose_video, self._model, self._model.group_size)
        video = over_reference(video, calibration)
        rows = compare_videos(video, self._driving, self._masks, self._networks.get("lpips"))
        others = np.arange(len(video)) != self._observed.reference_frame
        self._keep_features(variant, video, others)
        return {f"video_{name}": metrics.mean(values[others]) for name, values in rows.items()}

    def _keep_features(self, variant, video, others):
        from tpc_fast.evaluation.networks import DISTRIBUTIONS, SEGMENT, features

        kept = {}
        for metric in DISTRIBUTIONS:
            if metric in self._networks and (metric == "fid" or len(video) >= SEGMENT):
                for name, frames in (("found", video), ("truth", self._driving)):
                    frames = frames[others] if metric == "fid" else frames
                    kept[f"{metric}_{name}"] = features(metric, self._networks[metric], frames)
        np.savez(features_file(self._folder, variant), **kept)

    def propagation(self, alignment: Alignment, group_sizes) -> list[dict]:
        """See `measure_propagation`."""
        calibration = aligned_by(self._calibration, alignment)
        return measure_propagation(self._pipe, calibration, self._pose_video, self._model, group_sizes, self._driving)


def features_file(folder: Path, variant: Variant) -> Path:
    """Where features of a clip's videos are kept."""
    return folder / f"features-{variant.name.replace('/', '-').replace(':', '')}.npz"


def distances(folders, variant: Variant) -> dict[str, dict]:
    """FID, FID-VID and FVD over the clips whose features are in `folders`.

    Returns:
        metric -> value and samples (of either side); only metrics for which there are two samples or more.
    """
    from tpc_fast.evaluation.networks import DISTRIBUTIONS, frechet_distance

    files = [np.load(path) for folder in folders if (path := features_file(folder, variant)).exists()]
    found = {}
    for metric in DISTRIBUTIONS:
        pairs = [(file[f"{metric}_found"], file[f"{metric}_truth"]) for file in files if f"{metric}_found" in file]
        samples = sum(len(pair[0]) for pair in pairs)
        if samples > 1:
            sides = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
            found[metric] = {"value": frechet_distance(*sides), "samples": samples}
    return found


def measure_propagation(
    pipe, calibration: Calibration, pose_video, model: Model, group_sizes, truth=None
) -> list[dict]:
    """One row for each group size (1: no propagation): how unsteady the bank and the generated video are.

    Args:
        truth: the driving frames on the canvas, whose own unsteadiness is a yardstick; or None.
    """
    masks, rows = calibration.pose_masks[:].max(1), []
    for group_size in group_sizes:
        video = make_video(pipe, calibration, pose_video, model, group_size)
        row = {
            "group_size": group_size,
            "bank": bank_unsteadiness(pipe, calibration, model, group_size),
            "output": unsteadiness(video),
            "output_foreground": unsteadiness(video, masks),
        }
        if truth is not None:
            row |= {"driving": unsteadiness(truth), "driving_foreground": unsteadiness(truth, masks)}
        rows.append(row)
    return rows
