"""Calibrates a photo to a whole video, and writes what animation code reads.

python examples/calibrate_a_clip.py PHOTO VIDEO OUT
"""

import sys
from pathlib import Path

import tpc_fast
from tpc_fast.media.png import write_png

photo, video, out = sys.argv[1:]
calibration = tpc_fast.calibrate(photo, video)
calibration.save(out)
for warning in calibration.warnings:
    print(warning)
print(f"{(calibration.status == 'tracked').mean():.0%} of {len(calibration)} frames are tracked")
write_png(Path(out) / "first.png", calibration.composites[0])
