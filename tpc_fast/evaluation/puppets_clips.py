"""How steady clips of drawn figures are: with propagation and without, with motion modules and without, and live.

The truth of every frame is known, so what is measured is what flickers and should not: the error of the differences
between neighbouring frames. A constant error counts nothing. The smaller a group, the closer calibrated photos are to
the pose of their frames, and the more often they change.
"""

import contextlib
import dataclasses

import numpy as np

from tpc_fast.evaluation import puppets
from tpc_fast.ops.propagation import MODES

FRAMES = 16
CLIPS = 4  # most that are compared: they are four times as long as those of the pictures


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a clip is made.

    Attributes:
        noise: of the keypoints, see `puppets.draw_scene`.
        group_size, mode: of the propagation.
        motion: whether the motion modules work.
        live: by a `LiveAnimator` with chunks of `group_size` frames, whose frames have their own noise.
    """

    noise: float = puppets.NOISE
    group_size: int = 1
    mode: str = "first"
    motion: bool = True
    live: bool = False


SETTINGS = (
    Setting(noise=0.0), Setting(noise=0.0, motion=False), Setting(), Setting(motion=False),
    *(Setting(group_size=size, mode=mode) for size in (2, 4, 8) for mode in MODES),
    *(Setting(group_size=size, mode="nearest", motion=False) for size in (2, 4, 8)),
    Setting(group_size=4, mode="nearest", live=True), Setting(group_size=4, mode="nearest", motion=False, live=True),
)  # fmt: skip


def flicker(found: np.ndarray, scene: puppets.Scene) -> float:
    """Root mean square of the error of differences between neighbouring frames, grey levels.

    Over the pixels where either frame shows the figure.
    """
    wrong = found.astype(np.float64) - scene.frames
    inside = scene.masks >= 128
    inside = inside[1:] | inside[:-1]
    return float(np.sqrt(np.square(np.diff(wrong, axis=0))[inside].mean()))


@contextlib.contextmanager
def without_motion(unet):
    """The motion modules of a UNet do nothing in this context: each frame is made by itself."""
    from tpc_fast.diffusion.models.puppets import motion_ends

    last = motion_ends(unet)
    kept = [[value.detach().clone() for value in module.parameters()] for module in last]
    try:
        for module in last:
            for value in module.parameters():
                value.data.zero_()
        yield
    finally:
        for module, values in zip(last, kept, strict=True):
            for value, before in zip(module.parameters(), values, strict=True):
                value.data.copy_(before)


def make(pipe, scene: puppets.Scene, setting: Setting) -> np.ndarray:
    """The clip, uint8 [F, H, W, 3]."""
    calibration = puppets.calibrate_scene(scene)
    with contextlib.nullcontext() if setting.motion else without_motion(pipe.unet):
        if setting.live:
            return live(pipe, calibration, scene.pose, chunk=setting.group_size, mode=setting.mode)
        options = {"group_size": setting.group_size, "mode": setting.mode}
        return puppets.generate(pipe, calibration, scene.pose, **options)


def live(pipe, calibration, pose: np.ndarray, **options) -> np.ndarray:
    """Frames as a `LiveAnimator` makes them, with the pictures and masks of a calibration."""
    from tpc_fast.diffusion.live.animator import LiveAnimator

    masks = calibration.reference_mask
    with LiveAnimator(pipe, calibration.reference_image, masks, size=calibration.size, **options) as animator:
        parts = calibration.pose_masks, calibration.images, calibration.masks
        done = [animator.push(pose[f], *(np.array(part[f]) for part in parts)) for f in range(len(pose))]
        done.append(animator.flush())
    return np.concatenate([frames for frames in done if frames is not None])


def consistency(pipe, count: int = CLIPS, first: int = 1000, settings=None, progress=None) -> list[dict]:
    """Flicker and PSNR of clips of figures whose photos are turned by a right angle.

    Args:
        pipe: a `PuppetsPipeline`; count: of clips, at most `CLIPS` are made; first: their first seed.
        settings: what is compared; None: `SETTINGS`; progress: called as `progress(done, total)`.

    Returns:
        One row for each setting: its values, and lists of flicker and psnr, one entry a clip.
    """
    rows, settings = [], SETTINGS if settings is None else settings
    for done, setting in enumerate(settings):
        row = dataclasses.asdict(setting) | {"flicker": [], "psnr": []}
        for seed in range(first, first + min(count, CLIPS)):
            scene = puppets.draw_scene(seed, np.pi / 2, frames=FRAMES, noise=setting.noise)
            made = make(pipe, scene, setting)
            row["flicker"].append(flicker(made, scene))
            row["psnr"].append(puppets.score(made, scene)["psnr"])
        rows.append(row)
        if progress is not None:
            progress(done + 1, len(settings))
    return rows


def table(rows: list[dict]) -> str:
    """Flicker and PSNR of every row."""
    lines = [f"{'noise':>5} {'group':>5} {'photo of':<8} {'motion':<6} {'':<4} {'flicker':>7} {'PSNR, dB':>8}"]
    for row in rows:
        lines.append(
            f"{row['noise']:>5.1f} {row['group_size']:>5} {row['mode']:<8} {'yes' if row['motion'] else 'no':<6} "
            f"{'live' if row['live'] else '':<4} {np.mean(row['flicker']):>7.2f} {np.mean(row['psnr']):>8.2f}"
        )
    return "\n".join(lines)
