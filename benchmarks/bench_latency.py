"""How long a frame of a stream waits for its result, state by state, beside the detector's networks alone.

    python benchmarks/bench_latency.py [--detectors blazepose,mediapipe] [--rounds 60] [--json FILE]

The published sample at 512 x 512, and 1280 x 720 for "nobody yet". Each detector runs in a process of its own, one
after another, by turns. For every state: wall time (p50, p95, least), processor time of the whole process, the share of
it that its detector took (for blazepose: its networks; else the whole detector), and how many calls that were. On a
machine that others use, compare processor times and the least wall times; the percentiles need a quiet one.

Where a step of blazepose goes, in ms of one core (least of 350 steps of the sample, AVX-512, a busy machine): landmark
network in LiteRT 10.6, the photo's warp 1.4, what is left (decoding, cuts, colours, track) 2 to 3. Three parts by
themselves (least of 60 calls, 512 x 512): the network's last layers (the mask) in the core 1.0, the crop 0.2, the mask
back into the frame 0.3. The whole network takes 14.5 to 15.7 in LiteRT, in OpenVINO 15.6 (float32).
Several persons in one call are no faster: 10.9 ms a person alone, 11.3 of two, 12.9 of four.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "tpc_sample1"
GOALS = {  # milliseconds, p50 and p95, of the detector blazepose on two quiet cores
    "constructor": (600, None),
    "first frame": (50, None),
    "step": (12, 16),
    "person has left": (20, None),
    "nobody yet, 720p": (30, None),
}


class Clock:
    """Wall and processor time of calls, and the part of it that is spent in the detector."""

    def __init__(self):
        self.rows, self.inside, self.calls = [], 0.0, 0

    def watch(self, owner, name: str, calls: int = 1) -> None:
        """Counts a function's calls, as so many each, and the processor time in them."""
        function = getattr(owner, name)

        def counted(*args, **options):
            began = time.process_time()
            try:
                return function(*args, **options)
            finally:
                self.inside += time.process_time() - began
                self.calls += calls

        setattr(owner, name, counted)

    def take(self, function):
        self.inside, self.calls = 0.0, 0
        wall, processor = time.perf_counter(), time.process_time()
        result = function()
        self.rows.append((time.perf_counter() - wall, time.process_time() - processor, self.inside, self.calls))
        return result

    def summary(self) -> dict:
        wall, processor, inside, calls = np.array(self.rows).T
        self.rows = []
        return {
            "p50_ms": float(np.median(wall) * 1e3),
            "p95_ms": float(np.percentile(wall, 95) * 1e3),
            "min_ms": float(wall.min() * 1e3),
            "cpu_ms": float(np.median(processor) * 1e3),
            "detector_cpu_ms": float(np.median(inside) * 1e3),
            "calls": float(calls.mean()),
            "rounds": len(wall),
        }


def blocks(rng, height: int, width: int) -> np.ndarray:
    """A picture that shows nobody: squares of any colour."""
    small = rng.integers(4, 252, (-(-height // 20), -(-width // 20), 3), dtype=np.uint8)
    return np.ascontiguousarray(small.repeat(20, 0).repeat(20, 1)[:height, :width])


def noisy(picture: np.ndarray, rng) -> np.ndarray:
    """The picture as a camera that stands still sees it again."""
    return picture + rng.integers(0, 4, picture.shape, dtype=np.uint8)


def measure(detector: str, rounds: int) -> dict:
    """The states of one detector, in this process."""
    clock, found = Clock(), {}
    kind = detector.partition(":")[0]
    began = time.perf_counter()
    import tpc_fast

    found["import"] = {"p50_ms": (time.perf_counter() - began) * 1e3}
    from tpc_fast.media.video import VideoReader

    if kind == "blazepose":
        from tpc_fast.pose.detect import blazepose, blazepose_mask

        clock.watch(blazepose._Network, "__call__")
        clock.watch(blazepose_mask, "confidence", calls=0)
    photo, rng = str(SAMPLE / "reference.png"), np.random.default_rng(0)
    frames = [frame.image for frame in VideoReader(SAMPLE / "driving.mp4")]
    calibrator = clock.take(lambda: tpc_fast.Calibrator(photo, detector=detector))
    found["constructor"] = clock.summary()
    if kind != "blazepose":
        looks = calibrator._session.observer.detector
        for name in ("detect", "detect_upright", "detect_people"):
            if hasattr(looks, name):
                clock.watch(looks, name)
    for _ in range(max(3, rounds // 10)):
        calibrator.reset()
        clock.take(lambda: calibrator.step(frames[0]))
    found["first frame"] = clock.summary()
    for i in range(1, 1 + rounds):
        clock.take(lambda i=i: calibrator.step(frames[_bounce(i, len(frames))]))
    found["step"] = clock.summary()
    for state, size in (("person has left", (512, 512)), ("nobody yet, 720p", (720, 1280))):
        if state.startswith("nobody"):
            calibrator.reset()
        room = blocks(rng, *size)
        for _ in range(rounds):
            seen = noisy(room, rng)
            clock.take(lambda seen=seen: calibrator.step(seen))
        found[state] = clock.summary()
    calibrator.close()
    return found


def _bounce(i: int, count: int) -> int:
    """There and back again, so that no frame is a jump."""
    i %= 2 * count - 2
    return i if i < count else 2 * count - 2 - i


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", default="blazepose,mediapipe", help="names with options, separated by commas")
    parser.add_argument("--rounds", type=int, default=60, help="steps of each state")
    parser.add_argument("--json", help="file for all figures")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # in this process
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.rounds)))
        return
    results = {}
    for detector in options.detectors.split(","):
        command = [sys.executable, __file__, "--one", detector, "--rounds", str(options.rounds)]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if run.returncode:
            print(f"{detector}: could not be measured", file=sys.stderr)
            continue
        results[detector] = json.loads(run.stdout.splitlines()[-1])
    columns = "".join(f"{name:>7}" for name in ("p50", "p95", "least", "CPU", "in it", "calls"))
    print(f"{'state':<18}{'detector':<12}{columns}  CPU ratio  goal")
    for state in GOALS:
        for detector, found in results.items():
            row, (p50, p95) = found[state], GOALS[state]
            ratio = row["cpu_ms"] / row["detector_cpu_ms"] if row["detector_cpu_ms"] else float("nan")
            goal = f"{p50}" + (f" / {p95}" if p95 else "") if detector.startswith("blazepose") else ""
            numbers = "".join(f"{row[k]:7.1f}" for k in ("p50_ms", "p95_ms", "min_ms", "cpu_ms", "detector_cpu_ms"))
            print(f"{state:<18}{detector:<12}{numbers}{row['calls']:7.2f}  {ratio:9.2f}  {goal}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
