"""Follows a stream frame by frame, without its future.

python examples/stream.py PHOTO VIDEO
"""

import sys

import tpc_fast

photo, video = sys.argv[1:]
with tpc_fast.Calibrator(photo, detect_every=2) as calibrator:  # what lies between is predicted
    for frame in tpc_fast.VideoReader(video):  # or tpc_fast.media.camera.Camera(0)
        out = calibrator.step(frame.image, frame.time)
        scale = (out.matrix[0, 0] ** 2).sum() ** 0.5
        print(f"{out.time:6.2f} s: {out.status[0]:8} scale {scale:.3f}, seen {out.time - out.seen:.2f} s ago")
