"""What a diffusion model made, as a marked video."""

from collections.abc import Callable

import numpy as np

from tpc_fast.calibration.result import Calibration
from tpc_fast.diffusion.composite import composite_background
from tpc_fast.diffusion.models.registry import is_tiny
from tpc_fast.media.video import VideoWriter
from tpc_fast.output.provenance import Provenance
from tpc_fast.output.watermark import watermark

BACKGROUNDS = ("reference", "generated")


def write_animation(
    pipe,
    calibration: Calibration,
    latents,
    made: Provenance,
    model: str,
    background: str = "reference",
    dilate: int = 0,
    on_frame: Callable[[int, int], object] | None = None,
) -> None:
    """Decodes latents and writes them as `made.output`, with sound and marks, and the record beside it.

    Args:
        pipe: the pipeline that made the latents.
        calibration: of whose frames they are.
        latents: what the pipeline gives as output "latent".
        made: the marks.
        model: as the user named it; videos of small random weights get stripes.
        background: "reference" or "generated": what is seen outside of the driving persons.
        dilate: pixels by which these grow before.
        on_frame: called as `on_frame(done, total)` after each frame.
    """
    shown, written = calibration.reference_canvas.draw(calibration.reference_image), 0
    mark = watermark(calibration.size) if is_tiny(model) else None
    with VideoWriter(
        made.output, calibration.fps, calibration.size, sound=calibration.sound, metadata=made.metadata,
        finish=made.finish,
    ) as video:  # fmt: skip
        for chunk in pipe.decode(latents):
            frames = chunk.cpu().numpy()
            if background == "reference":
                masks = calibration.pose_masks[written : written + len(frames)]
                frames = composite_background(frames, masks, shown, dilate)
            for frame in frames:
                if mark is not None:
                    frame = np.where(mark[..., 3:] > 0, mark[..., :3], frame)
                video.write(frame, float(calibration.times[written] - calibration.times[0]))
                written += 1
                if on_frame is not None:
                    on_frame(written, len(calibration))
    made.write()
