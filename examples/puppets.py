"""Draws a figure whose photo is turned, and a clip of it; calibrates the photo; says how to animate it.

    python examples/puppets.py FOLDER [DEGREES]

No detector and no download: keypoints and masks are the drawing's own, and the model comes with the package.
"""

import sys

import numpy as np

from tpc_fast.evaluation.puppets import calibrate_scene, draw_scene

folder, degrees = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 90.0
scene = draw_scene(seed=7, angle=np.radians(degrees), frames=16)
calibration = calibrate_scene(scene)
calibration.save(folder)
print(f"{(calibration.status == 'tracked').mean():.0%} of {len(calibration)} frames are tracked")
print(f"next: tpc-fast animate {folder} --model puppets -o puppet.mp4")
