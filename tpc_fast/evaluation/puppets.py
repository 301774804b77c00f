"""What calibration does to a trained model, as the paper measures it: photos that are turned and scaled, all drawn.

Figures are drawn (`tpc_fast.diffusion.models.puppet_figures`), so the truth of every frame is known, and so are all
keypoints and masks: what is measured is the model and the loop, not a detector. Needs the extra `diffusion`.
"""

import dataclasses
import logging
import warnings
from pathlib import Path

import numpy as np

from tpc_fast.calibration.video import calibrate
from tpc_fast.diffusion.models import puppet_figures as figures
from tpc_fast.evaluation import images
from tpc_fast.evaluation.alignment import Variant, align
from tpc_fast.evaluation.animation import aligned_by
from tpc_fast.evaluation.clips import Observed
from tpc_fast.ops.procrustes import Similarity

SIDE, FINER = 64, 2  # pixels of a frame's side, and how many times as many a photo has
FRAMES = 4
SMALL = 0.5  # of the size that the model learnt: so that photos that are twice as large show the whole figure
NOISE, WRONG, FAR = 1.0, 0.1, 6.0  # of keypoints: pixels of a frame; the share that is wrong, by how many times as much
DIFFERENCE = 0.6  # of the frames' poses from the photo's: see `puppet_figures.draw_pairs`
WAYS = ("plain", "photo", "calibrated")
#: The library's, and what the paper compares with it.
ABLATIONS = {
    "face points": Variant("face"),
    "all points": Variant("all"),
    "optimal subset": Variant("subset"),
    "translation": Variant("subset", "translation"),
    "linear": Variant("subset", "linear"),
    "affine": Variant("subset", "affine"),
}
_BOOTSTRAPS = 1000
_log = logging.getLogger("tpc_fast")


@dataclasses.dataclass(frozen=True)
class Scene:
    """A photo of a figure, and a clip of the same figure.

    Attributes:
        photo, photo_mask: uint8 [N, N, 3], [N, N]; photo_points: [17, 2].
        frames, masks: uint8 [F, H, W, 3], [F, H, W]; points: [F, 17, 2].
        pose: float32 [F, 3, H, W] in [0, 1], what the model follows; drawn without the noise of the keypoints.
    """

    photo: np.ndarray
    photo_mask: np.ndarray
    photo_points: np.ndarray
    frames: np.ndarray
    masks: np.ndarray
    points: np.ndarray
    pose: np.ndarray


def draw_scene(
    seed: int, angle: float = 0.0, scale: float = 1.0, frames: int = FRAMES, *, size: float = 1.0, noise: float = 0.0
) -> Scene:
    """The figure and the clip of a seed; the photo is turned (radians) and scaled about its middle.

    With angle 0 and scale 1 photo and clip are composed as the pairs are that the model learnt from.

    Args:
        size: of the figure in photo and clip, as a part of what the model learnt from.
        noise: deviation of all keypoints, in pixels of a frame; a share `WRONG` of them deviates `FAR` times as much.
    """
    rng, canvas = np.random.default_rng((20, seed)), (SIDE, SIDE)
    looks = figures.Looks.random(rng, 1)
    first, last = figures.random_angles(rng, 1), figures.random_angles(rng, 1)
    spread = figures.TURN / 2, figures.SCALE / 2, [figures.SHIFT / 2]
    here, there = (figures.composition(rng, 1, canvas, *spread) for _ in range(2))
    part = np.linspace(0, DIFFERENCE, frames)[:, None]
    points = figures.pose_figure(first + part * (last - first), here + part[:, :, None] * (there - here))
    centre = np.full(2, (SIDE - 1) / 2)
    points = centre + size * (points - centre)
    picture, mask = figures.draw_figures(points, looks[np.zeros(frames, int)], canvas)
    native = FINER * (centre + size * (figures.pose_figure(first, here) - centre) + 0.5) - 0.5
    middle = np.full(2, (FINER * SIDE - 1) / 2)
    turned = Similarity.from_scale_angle(scale, angle, middle, middle).apply(native)
    photo, photo_mask = figures.draw_figures(turned, looks, (FINER * SIDE, FINER * SIDE))
    seen = np.random.default_rng((21, seed))
    return Scene(
        _bytes(photo)[0], _levels(photo_mask)[0], _seen(seen, turned, noise * FINER * scale)[0], _bytes(picture),
        _levels(mask), _seen(seen, points, noise), figures.draw_poses(points, canvas),
    )  # fmt: skip


def _seen(rng, points, noise):
    """Keypoints as a detector finds them."""
    wrong = rng.random(points.shape[:2]) < WRONG
    return points + noise * np.where(wrong, FAR, 1)[..., None] * rng.standard_normal(points.shape)


def _levels(values):
    return np.rint(values * 255).astype(np.uint8)


def _bytes(pictures):
    return np.ascontiguousarray(_levels(pictures).transpose(0, 2, 3, 1))


def _unsaid(record) -> bool:
    return record.levelno > logging.WARNING


def calibrate_scene(scene: Scene, variant: Variant | None = None):
    """The Calibration from the drawing's own keypoints and masks, each frame by itself; or that of a variant.

    What it warns of is what is measured here; it is in its `warnings`, and not said.
    """
    _log.addFilter(_unsaid)
    try:
        calibration = calibrate(
            scene.photo, scene.frames, size=scene.frames.shape[1:3], smooth="none", cuts="none",
            reference_keypoints=scene.photo_points, reference_mask=scene.photo_mask, driving_keypoints=scene.points,
            driving_masks=scene.masks,
        )  # fmt: skip
    finally:
        _log.removeFilter(_unsaid)
    if variant is None:
        return calibration
    observed = Observed(
        "puppet", calibration.size, calibration.times, scene.photo, calibration.reference_mask[0],
        calibration.reference_keypoints[0], calibration.reference_scores[0], calibration.keypoints[:, 0],
        calibration.scores[:, 0], calibration.packed_pose_masks[:, 0], calibration.canvas, Path(),
    )  # fmt: skip
    return aligned_by(calibration, align(observed, variant))


def generate(pipe, calibration, pose: np.ndarray, way: str = "calibrated", seed: int = 0, **options) -> np.ndarray:
    """The frames that a model makes, uint8 [F, H, W, 3].

    Args:
        pipe: a `PuppetsPipeline`.
        calibration: of `calibrate_scene`.
        pose: of the Scene.
        way: "plain" (the model reads the photo as it is), "calibrated" (as the library has it), or "photo" (it reads
            the calibrated picture instead of the photo, everywhere).
        seed: of the noise; options: of the pipeline's call.

    Raises:
        ValueError: for another way.
    """
    import torch

    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, but is {way!r}")
    pose = torch.from_numpy(pose)
    options = {"group_size": 1, "mode": "first", "seed": seed} | options
    reference = pipe.encode_reference(calibration, options["group_size"], options["mode"])
    if way == "calibrated":
        return pipe(reference, pose, **options).frames
    if way == "plain":
        return pipe(nobody(reference), pose, **options).frames
    frames = []
    for frame in range(len(pose)):
        alone = nobody(reference, slice(frame, frame + 1))
        alone = dataclasses.replace(alone, latent=reference.calibrated_latents[0, frame : frame + 1])
        frames.append(pipe(alone, pose[frame : frame + 1], **options).frames)
    return np.concatenate(frames)


def nobody(reference, frames: slice = slice(None)):
    """The photo alone, for some frames: all of it is read, as by the model without calibration."""
    masks = reference.pose_masks[:0, frames]
    count = masks.shape[1]
    return dataclasses.replace(
        reference, pose_masks=masks, calibrated_masks=reference.calibrated_masks[:0, :1].expand(0, count, -1, -1),
        calibrated_latents=reference.calibrated_latents[:0, :1].expand(0, count, -1, -1, -1),
        reference_masks=reference.reference_masks[:0], candidates=None, valid=None, reference_valid=None,
    )  # fmt: skip


def score(found: np.ndarray, scene: Scene, perceptual=None) -> dict[str, float]:
    """PSNR (dB) and SSIM inside the mask, means over the frames but the first, which is the photo's own pose.

    With a network of `stlpips.load`, "stlpips" too: of pictures that show the truth outside of the mask.
    """
    pairs = list(zip(found, scene.frames, scene.masks, strict=True))[1:]
    scores = {name: float(np.mean([getattr(images, name)(*pair) for pair in pairs])) for name in ("psnr", "ssim")}
    if perceptual is not None:
        shown = [np.where(mask[..., None] >= 128, made, truth) for made, truth, mask in pairs]
        scores["stlpips"] = float(np.mean(perceptual(np.stack(shown), scene.frames[1:])))
    return scores


@dataclasses.dataclass(frozen=True)
class Cell:
    """How photos are, and how figures are seen: see `draw_scene`."""

    angle: float = 0.0
    scale: float = 1.0
    size: float = 1.0
    noise: float = 0.0


def sensitivity(
    pipe, cells: list[Cell], count: int = 8, first: int = 1000, ways=WAYS, perceptual=None, progress=None
) -> list[dict]:
    """Scores of figures whose photos are turned and scaled.

    Args:
        pipe: a `PuppetsPipeline`; cells: what is compared; count: of figures; first: their first seed.
        ways: see `generate`; perceptual: see `score`; progress: called as `progress(done, total)`.

    Returns:
        One row for each cell and way: the cell's numbers, way, and lists of psnr and ssim, one entry a figure.
    """
    return _rows(pipe, cells, {way: (way, None) for way in ways}, count, first, perceptual, progress)


def ablations(pipe, cells: list[Cell], count: int = 8, first: int = 1000, perceptual=None, progress=None) -> list[dict]:
    """As `sensitivity`, of calibrations by other points and other transforms."""
    compared = {name: ("calibrated", v) for name, v in ABLATIONS.items()}
    return _rows(pipe, cells, compared, count, first, perceptual, progress)


def _rows(pipe, cells, compared, count, first, perceptual, progress):
    rows = []
    for done, cell in enumerate(cells):
        found = {name: [] for name in compared}
        for seed in range(first, first + count):
            scene = draw_scene(seed, **dataclasses.asdict(cell))
            calibrations = {variant: calibrate_scene(scene, variant) for _, variant in compared.values()}
            for name, (way, variant) in compared.items():
                with warnings.catch_warnings():  # a wrong fit may put the figure beside the picture: that is its score
                    warnings.filterwarnings("ignore", ".*calibrated masks of person")
                    frames = generate(pipe, calibrations[variant], scene.pose, way)
                found[name].append(score(frames, scene, perceptual))
        for name, scores in found.items():
            metrics = {metric: [one[metric] for one in scores] for metric in scores[0]}
            rows.append(dataclasses.asdict(cell) | {"way": name} | metrics)
        if progress is not None:
            progress(done + 1, len(cells))
    return rows


def interval(values, seed: int = 0) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval by bootstrap over figures."""
    values = np.asarray(values, float)
    drawn = np.random.default_rng(seed).choice(values, (_BOOTSTRAPS, len(values))).mean(1)
    return float(values.mean()), *(float(x) for x in np.percentile(drawn, (2.5, 97.5)))


def table(rows: list[dict]) -> str:
    """PSNR with its interval, SSIM, and what else there is, of every row."""
    more = [name for name in ("stlpips",) if any(name in row for row in rows)]
    head = f"{'angle':>6} {'scale':>6} {'size':>5} {'noise':>5} {'':<16} {'PSNR, dB':>8} {'95 %':>15} {'SSIM':>6}"
    lines = [head + "".join(f" {name:>8}" for name in more)]
    for row in rows:
        mean, low, high = interval(row["psnr"])
        lines.append(
            f"{np.degrees(row['angle']):>6.0f} {row['scale']:>6.2f} {row['size']:>5.2f} {row['noise']:>5.1f} "
            f"{row['way']:<16} {mean:>8.2f} {f'{low:.2f} .. {high:.2f}':>15} {np.mean(row['ssim']):>6.3f}"
            + "".join(f" {np.mean(row[name]):>8.4f}" for name in more)
        )
    return "\n".join(lines)


def sheet(pipe, seeds, angle: float, scale: float = 1.0, larger: int = 2) -> np.ndarray:
    """A picture: of every figure the photo, the last frame's truth, and what is made of it in each way."""
    rows = []
    for seed in seeds:
        scene = draw_scene(seed, angle, scale)
        calibration = calibrate_scene(scene)
        cells = [calibration.reference_canvas.draw(scene.photo), scene.frames[-1]]
        cells += [generate(pipe, calibration, scene.pose, way)[-1] for way in WAYS]
        rows.append(np.concatenate(cells, 1))
    return np.concatenate(rows).repeat(larger, 0).repeat(larger, 1)
