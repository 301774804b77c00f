"""Peak memory of the whole job on a long video, 2,000 frames of 1920 x 1080, from photo and file to all outputs.

    python benchmarks/memory.py [frames]

Makes the video (the demo's photo under a slow camera path), runs `tpc-fast calibrate` in a process of its own, and
writes benchmarks/results/memory.json.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tpc_fast import Similarity, WarpSource, demo
from tpc_fast.media.png import write_png
from tpc_fast.media.video import VideoWriter

RESULTS = Path(__file__).parent / "results" / "memory.json"
SIZE = (1080, 1920)


def write_video(photo: np.ndarray, path: Path, frames: int) -> None:
    """The photo on a wall, slowly moving and zooming."""
    source = WarpSource(photo, np.full(photo.shape[:2], 255, np.uint8))
    with VideoWriter(path, 30, SIZE, preset="ultrafast") as video:
        for i in range(frames):
            t = i / 100
            scale, angle = 1.6 + 0.4 * np.sin(t), 0.3 * np.sin(0.7 * t)
            rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            shift = np.array([960 + 200 * np.sin(0.5 * t), 540.0]) - scale * rotation @ np.array([256.0, 256])
            matrix = Similarity(scale, rotation, shift).matrix[None]
            video.write(source.warp(matrix, SIZE, "bilinear", background=demo.WALL).composite[0])


def main() -> None:
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as folder:
        photo, video, out = (Path(folder) / name for name in ("photo.png", "video.mp4", "out"))
        write_png(photo, demo.load_photo())
        write_video(demo.load_photo(), video, frames)
        started = time.perf_counter()
        command = [sys.executable, "-m", "tpc_fast.cli", "calibrate", str(photo), str(video), "-o", str(out), "-q"]
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
        written = len(list((out / "0-person_cal_ref_img").iterdir()))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    result = {
        "frames": frames,
        "size": list(SIZE),
        "written": written,
        "peak_gigabytes": peak / 1e9,
        "seconds": seconds,
    }
    print(json.dumps(result))
    if frames >= 2000:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
