"""AnimateDiff of diffusers reads a calibrated photo.

    python examples/animatediff_reference.py PHOTO VIDEO BASE MOTION OUT.mp4

BASE is a folder or hub id of Stable Diffusion 1.5, MOTION one of a motion adapter, such as
guoyww/animatediff-motion-adapter-v1-5-2.
"""

import sys

import numpy as np
from diffusers import AnimateDiffPipeline, MotionAdapter, UNet2DConditionModel

import tpc_fast
from tpc_fast.diffusion import apply_calibration
from tpc_fast.media.video import VideoWriter

photo, video, base, motion, output = sys.argv[1:]
pipe = AnimateDiffPipeline.from_pretrained(base, motion_adapter=MotionAdapter.from_pretrained(motion))
encoder = UNet2DConditionModel.from_pretrained(base, subfolder="unet")  # it writes what the pipeline reads
size = pipe.unet.config.sample_size * pipe.vae_scale_factor
calibration = tpc_fast.calibrate(photo, video, size=size, frames=slice(0, 16))
apply_calibration(pipe, calibration, encoder)  # remove_calibration(pipe) undoes it
frames = pipe(
    "a person who dances", num_frames=len(calibration), height=size, width=size, num_inference_steps=4, output_type="np"
).frames[0]
with VideoWriter(output, calibration.fps, (size, size)) as writer:
    for frame in frames:
        writer.write((255 * frame).round().astype(np.uint8))
