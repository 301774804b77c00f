"""Animates a photo along a video, frame by frame as it comes: python examples/live.py PHOTO VIDEO MODEL OUT.mp4

MODEL is a folder or hub id of MusePose or AnimateAnyone, which follow skeletons; or tiny-random:musepose, to try it.
"""

import sys

from tpc_fast import Calibrator, VideoReader
from tpc_fast.diffusion import LiveAnimator, load_pipeline
from tpc_fast.media.video import VideoWriter
from tpc_fast.pose.skeleton import draw_skeletons

photo, video, model, output = sys.argv[1:]
calibrator = Calibrator(photo, size=256)
with LiveAnimator(load_pipeline(model), calibrator) as live, VideoWriter(output, 30, calibrator.size) as writer:
    for frame in VideoReader(video):  # or tpc_fast.media.camera.Camera(0)
        calibrated = calibrator.step(frame.image, frame.time)
        skeleton = draw_skeletons(calibrated.keypoints, calibrated.scores, calibrator.size)
        frames = live.push(calibrated, pose=skeleton)  # four at a time, or None
        for picture in () if frames is None else frames:
            writer.write(picture)
    for picture in live.flush():
        writer.write(picture)
