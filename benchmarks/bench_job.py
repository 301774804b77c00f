"""What the files of the main job cost beside its detector passes, in one run, by turns.

    python benchmarks/bench_job.py [--rounds 7] [--json FILE]

The published sample, photo and video in. In every round, one after another in this process: the detector alone (the
photo and all frames, decoded before), `calibrate` (decoding and the track, no files), and the whole job (`calibrate`,
then all files). Wall and processor time, least and median; ratios are of rounds, so that a machine that others use
slows both sides alike. Every whole job writes into a new folder, 37 MB, and all go at the end: where files were just
deleted, ext4 makes new ones slowly.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

import tpc_fast
from tpc_fast.media.images import load_image
from tpc_fast.media.video import VideoReader
from tpc_fast.output.export import export
from tpc_fast.pose import PersonTracker, get_detector

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "tpc_sample1"
STAGES = ("detector alone", "calibrate", "whole job")


def timed(function) -> tuple[float, float]:
    """Wall and processor seconds of a call; the processor's are those of all threads."""
    wall, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - processor


def measure(rounds: int, folder: Path) -> np.ndarray:
    """Seconds [rounds, stages, (wall, processor)]."""
    detector = get_detector()
    photo, video = SAMPLE / "reference.png", SAMPLE / "driving.mp4"
    image, _ = load_image(photo)
    frames = [frame.image for frame in VideoReader(video)]

    def detect():
        tracker = PersonTracker(detector)
        tracker.find(image)
        for frame in frames:
            tracker.step(frame)

    def job(to: Path):
        to.mkdir()
        export(tpc_fast.calibrate(photo, video, detector=detector, keep_small=True), to)

    calls = detect, lambda: tpc_fast.calibrate(photo, video, detector=detector), lambda: job(folder / str(len(rows)))
    rows = []
    for _ in range(rounds + 1):  # the first one warms up
        rows.append([timed(call) for call in calls])
    detector.close()
    return np.array(rows[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="file for all figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(options.rounds, Path(folder))
    alone = seconds[:, :1]
    print(f"{'':<16}{'wall, s':>16}{'processor, s':>16}   ratio to the detector alone, wall and processor")
    print(f"{'':<16}{'least':>8}{'median':>8}{'least':>8}{'median':>8}")
    for stage, own, ratio in zip(STAGES, seconds.swapaxes(0, 1), (seconds / alone).swapaxes(0, 1), strict=True):
        figures = np.stack([own.min(0), np.median(own, 0)], 1).ravel()
        numbers = "".join(f"{figure:8.2f}" for figure in figures)
        wall, processor = np.median(ratio, 0)
        least = own[:, 0].min() / alone[..., 0].min()
        print(f"{stage:<16}{numbers}   {wall:.2f}, of the least {least:.2f}; {processor:.2f}")
    files = seconds[:, 2] - seconds[:, 1]
    print(
        f"files: wall {np.median(files[:, 0]):.2f} s, processor {np.median(files[:, 1]):.2f} s (medians of differences)"
    )
    if options.json:
        Path(options.json).write_text(json.dumps({"stages": STAGES, "seconds": seconds.tolist()}))


if __name__ == "__main__":
    main()
