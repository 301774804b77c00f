"""Animates a drawn figure along a stream of frames, and says how fast: python examples/puppets_live.py OUT.mp4 [FRAMES]

The photo is turned by 90 degrees. No detector and no download: each frame comes with the drawing's own keypoints and
mask, as of a detector of yours, and the model comes with the package.
"""

import sys
import time

import numpy as np

from tpc_fast import Calibrator
from tpc_fast.diffusion import LiveAnimator, load_pipeline
from tpc_fast.evaluation.puppets import draw_scene
from tpc_fast.media.video import VideoWriter
from tpc_fast.output.pose_video import body_parts
from tpc_fast.pose import Detection

output, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 64
scene = draw_scene(seed=7, angle=np.pi / 2, frames=count)
calibrator = Calibrator(
    scene.photo, size=scene.frames.shape[1:3], reference_keypoints=scene.photo_points, reference_mask=scene.photo_mask
)
scores = np.ones((1, 17), np.float32)
with LiveAnimator(load_pipeline("puppets"), calibrator) as live, VideoWriter(output, 24, calibrator.size) as writer:
    started, done = time.perf_counter(), []
    for frame, points, mask in zip(scene.frames, scene.points, scene.masks, strict=True):
        found = calibrator.step(frame, detection=Detection(points[None].astype(np.float32), scores, mask[None]))
        frames = live.push(found, pose=body_parts(found.keypoints, found.scores, calibrator.size)[0])
        done += [] if frames is None else list(frames)
    done += list(live.flush())
    seconds = time.perf_counter() - started
    for picture in done:
        writer.write(picture)
print(f"{len(done)} frames, {len(done) / seconds:.1f} a second")
