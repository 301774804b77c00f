"""Faults under the commands that write: `python tests/faults.py [KILLS] [SEED]`.

kill -9 at random moments; SIGINT, SIGTERM and SIGHUP before and after every stage; disks that are full after so many
bytes; two writers of one output. After each, what was to be written is the old result or the new one, whole, the user's
own files are there, and the next run leaves nothing of the earlier one behind. Anything else ends the run.

Every job is a fork of a process that has imported all that it needs, so that kills fall into the work and not into the
start of Python.
"""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import tpc_fast.calibration.record
import tpc_fast.calibration.result
import tpc_fast.calibration.video
import tpc_fast.cli.main
import tpc_fast.media.files
import tpc_fast.output.export
import tpc_fast.output.render
from tpc_fast.media.png import write_png
from tpc_fast.media.video import VideoReader, VideoWriter
from tpc_fast.pose.files.detections import Detections, load_detections, save_detections

FRAMES, SIDE = 12, 64
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130
# Functions in which a run may be interrupted, in their order: (where, name).
STAGES = (
    (tpc_fast.cli.main, "_threads"),
    (tpc_fast.media.files.OutputFolder, "_clean"),
    (tpc_fast.calibration.video, "watch"),
    (tpc_fast.calibration.video, "follow"),
    (tpc_fast.output.export, "render_into"),
    (tpc_fast.output.render, "_render_frame"),
    (tpc_fast.output.export, "write_report"),
    (tpc_fast.calibration.record, "write_masks"),
    (tpc_fast.output.export, "write_json"),
    (tpc_fast.calibration.record, "listed_files"),
    (tpc_fast.media.files.OutputFolder, "_swap"),
)


# Processes


def log_of(process: int) -> Path:
    """Where the messages of what a process forks go."""
    return Path(tempfile.gettempdir()) / f"faults-{process}.log"


def start(work, *arguments) -> int:
    """Forks a process that calls `work` and ends with what it returns; its messages go to a file."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        log = os.open(log_of(os.getppid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for stream in (1, 2):
            os.dup2(log, stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup a job would not hear it
        code = int(work(*arguments) or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, within: float = 300) -> int:
    """Its exit code, negative for a signal; a process that hangs is an error."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise SystemExit(f"a job hung for {within:.0f} s")


def run(work, *arguments) -> int:
    return ended(start(work, *arguments))


def said() -> str:
    log = log_of(os.getpid())
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([line for line in lines if "interrupted; nothing was written" not in line][-25:])


def demand(condition: bool, what: str) -> None:
    if not condition:
        raise SystemExit(f"{what}\nThe jobs said last:\n{said()}")


# Jobs: what writes, and what says whether the old result or the new one is there


class Job:
    """A command that writes `output` into a folder of its own.

    Attributes:
        output: what is replaced, whole.
        known: what may lie beside it.
    """

    def __init__(self, folder: Path, inputs: Path):
        self.folder, self.inputs = folder, inputs
        folder.mkdir()

    def main(self, *arguments) -> int:
        return tpc_fast.cli.main.main([str(argument) for argument in arguments])

    def beside(self) -> set[str]:
        """What a killed run left beside the output."""
        return {path.name for path in self.folder.iterdir()} - {self.output.name, "notes.txt"}


class Calibrate(Job):
    """`tpc-fast calibrate --overwrite`; results differ by `--smooth`."""

    def __init__(self, folder: Path, inputs: Path):
        super().__init__(folder, inputs)
        self.output = folder / "out"

    def write(self, number: int) -> int:
        given = [x for name in ("reference", "driving") for x in (f"--{name}-keypoints", self.inputs / f"{name}.npz")]
        return self.main(
            "calibrate", self.inputs / "photo.png", self.inputs / "clip.mp4", *given, "--reference-mask",
            self.inputs / "mask.png", "--size", SIDE, "-q", "--overwrite", "--smooth", ("offline", "none")[number % 2],
            "-o", self.output,
        )  # fmt: skip

    def prepare(self) -> None:
        """The user's own files among ours."""
        for name in ("notes.txt", "0-person_cal_ref_img/mine.png", "my/notes.txt"):
            (self.output / name).parent.mkdir(exist_ok=True)
            (self.output / name).write_text(name)

    def found(self) -> int:
        """The number of the run whose result is there, whole, with the user's files."""
        for name in ("notes.txt", "0-person_cal_ref_img/mine.png", "my/notes.txt"):
            assert (self.output / name).read_text() == name
        record = json.loads((self.output / "calibration.json").read_text())
        missing = [name for name in record["files"] if not (self.output / name).is_file()]
        assert not missing, f"listed, but not there: {missing}"
        pngs = list(self.output.glob("0-person_cal_ref_img/???.png"))
        assert len(pngs) == FRAMES
        assert sum(1 for _ in VideoReader(self.output / "preview.mp4")) == FRAMES
        loaded = tpc_fast.calibration.result.Calibration.load(self.output)
        assert len(loaded) == FRAMES
        return ("offline", "none").index(loaded.options["smooth"])


class Render(Calibrate):
    """`tpc-fast render`, of a record in which every other run has another opacity."""

    def write(self, number: int) -> int:
        if not self.output.exists():
            return super().write(0)
        path = self.output / "calibration.json"
        text = path.read_text()
        for old, new in (("1.0", "0.5"),) if number % 2 else (("0.5", "1.0"),):
            text = text.replace(f'"opacity": {old}', f'"opacity": {new}')
        edited = path.with_name("calibration.json.new")
        edited.write_text(text)
        edited.rename(path)
        return self.main("render", self.output, "-q")

    def found(self) -> int:
        super().found()
        return -1  # the record is edited before


class Film(Job):
    """What `animate` writes: a video, and its progress beside it."""

    def __init__(self, folder: Path, inputs: Path):
        super().__init__(folder, inputs)
        self.output = folder / "film.mp4"

    def write(self, number: int) -> int:
        pictures = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
        with VideoWriter(self.output, 25, (SIDE, SIDE)) as video:
            for _ in range(FRAMES + number % 2):
                video.write(pictures[number % 2])
        return 0

    def prepare(self) -> None:
        (self.folder / "notes.txt").write_text("mine")

    def found(self) -> int:
        assert (self.folder / "notes.txt").read_text() == "mine"
        return sum(1 for _ in VideoReader(self.output)) - FRAMES


class Cache(Film):
    """Detections in a file, as `--cache` keeps them."""

    def __init__(self, folder: Path, inputs: Path):
        super().__init__(folder, inputs)
        self.output = folder / "cache.npz"

    def write(self, number: int) -> int:
        points = np.full((2000, 1, 17, 2), 10.0 + number % 2)
        save_detections(self.output, Detections.from_arrays(points), {"number": number % 2})
        return 0

    def found(self) -> int:
        assert (self.folder / "notes.txt").read_text() == "mine"
        return int(load_detections(self.output).keypoints[0, 0, 0, 0] - 10)


JOBS = (Calibrate, Render, Film, Cache)


def made(job: Job) -> float:
    """Writes the first result, twice; returns the seconds that it took to replace it."""
    for _ in range(2):
        began = time.monotonic()
        demand(run(job.write, 0) == 0, f"{type(job).__name__} does not run")
        seconds = time.monotonic() - began
    job.prepare()
    demand(run(lambda: check(job, (0, -1))) == 0, f"{type(job).__name__} writes something else")
    return seconds


def check(job: Job, allowed) -> int:
    found = job.found()
    assert found in allowed, f"the result of run {found} is there"
    return 0


def settled(job: Job, number: int, what: str) -> None:
    """After a fault in a run of this number: the old result or the new one; and the next run cleans."""
    name = type(job).__name__
    demand(run(check, job, (0, 1, -1)) == 0, f"{name}, {what}: neither the old result nor the new one is there")
    demand(run(job.write, number) == 0, f"{name}, {what}: the next run fails")
    demand(run(check, job, (number % 2, -1)) == 0, f"{name}, {what}: the next run's result is not there")
    demand(not job.beside(), f"{name}, {what}: the next run leaves {job.beside()}")


# Faults


def kills(job: Job, count: int, draw: random.Random) -> tuple[int, int]:
    """kill -9 after random times; returns how many runs were killed, and how many had left something."""
    seconds, killed, left = made(job), 0, 0
    for number in range(1, count + 1):
        pid = start(job.write, number)
        time.sleep(draw.uniform(0, 1.05 * seconds))
        os.kill(pid, signal.SIGKILL)  # it waits as a zombie, if it has ended
        killed += ended(pid) == -signal.SIGKILL
        left += bool(job.beside())
        settled(job, number + draw.randrange(2), f"killed for the {number}th time")
    return killed, left


def interrupted(job: Calibrate, owner, name: str, after: bool, number: int) -> int:
    """A run that gets a signal as a stage begins or has ended."""
    real = getattr(owner, name)

    def stage(*arguments, **options):
        if not after:
            os.kill(os.getpid(), SIGNALS[number % 3])
            time.sleep(0.01)  # where another thread is meant to be interrupted
        result = real(*arguments, **options)
        if after:
            os.kill(os.getpid(), SIGNALS[number % 3])
            time.sleep(0.01)
        return result

    setattr(owner, name, stage)
    return job.write(number)


def signals(job: Calibrate) -> int:
    made(job)
    number = 0
    for owner, name in STAGES:
        for after in (False, True):
            for _ in SIGNALS:
                number += 1
                what = f"signal {'after' if after else 'before'} {name}"
                code = run(interrupted, job, owner, name, after, number)
                demand(code == INTERRUPTED, f"{what}: the exit code is {code}")
                demand(not job.beside(), f"{what}: {job.beside()} is left")
                demand(run(check, job, (0, 1, -1)) == 0, f"{what}: neither the old result nor the new one is there")
    settled(job, 0, "after the signals")
    return number


def limited(job: Job, number: int, most: int) -> int:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    return job.write(number)


def short_files(job: Job) -> int:
    """Files that end at so many bytes, as on a full disk: from none to as many as are needed."""
    made(job)
    most, failed = 0, 0
    while True:
        code = run(limited, job, 1, most)
        if code == 0:
            break
        failed += 1
        what = f"files of at most {most} bytes"
        demand(code in (1, 99), f"{type(job).__name__}, {what}: the exit code is {code}")
        demand(not job.beside(), f"{type(job).__name__}, {what}: {job.beside()} is left")
        demand(run(check, job, (0, -1)) == 0, f"{type(job).__name__}, {what}: the old result is gone")
        most = int(most * 1.6) + 512
    settled(job, 0, "after short files")
    return failed


@contextlib.contextmanager
def small_disk(folder: Path):
    """A tmpfs, or None where nobody may mount one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def full_disk(kind, disk: Path, inputs: Path) -> int:
    """A disk with room for the first result, filled but for so many bytes."""
    job = kind(disk / kind.__name__, inputs)
    made(job)
    failed, room, fill = 0, 0, disk / "fill"
    while True:
        free = os.statvfs(disk)
        fill.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - room)))
        code = run(job.write, 1)
        fill.unlink()
        if code == 0:
            break
        failed += 1
        demand(code in (1, 99), f"{kind.__name__}, {room} bytes free: the exit code is {code}")
        demand(not job.beside(), f"{kind.__name__}, {room} bytes free: {job.beside()} is left")
        demand(run(check, job, (0, -1)) == 0, f"{kind.__name__}, {room} bytes free: the old result is gone")
        room = int(room * 1.6) + 4096
    settled(job, 0, "after the full disk")
    return failed


def two_writers(job: Job, rounds: int) -> int:
    """Two runs at once: each writes or is refused, and what is there is of one of them, whole."""
    made(job)
    refused = 0
    for number in range(1, rounds + 1):
        codes = [ended(pid) for pid in [start(job.write, number), start(job.write, number + 1)]]
        demand(set(codes) <= {0, 1} and 0 in codes, f"two writers end with {codes}")
        refused += codes.count(1)
        demand(run(check, job, (0, 1, -1)) == 0, "two writers: the result is of neither")
        demand(not job.beside(), f"two writers: {job.beside()} is left")
    return refused


def write_inputs(folder: Path) -> None:
    draw = np.random.default_rng(0)
    photo = draw.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[8:56, 20:44] = 255
    write_png(folder / "photo.png", photo)
    write_png(folder / "mask.png", mask)
    with VideoWriter(folder / "clip.mp4", 25, (SIDE, SIDE)) as video:
        for index in range(FRAMES):
            video.write(np.roll(photo, index, 1))
    points = draw.uniform(10, 54, (1, 17, 2))
    save_detections(folder / "reference.npz", Detections.from_arrays(points[:, None]))
    moved = points + np.arange(FRAMES)[:, None, None]
    save_detections(folder / "driving.npz", Detections.from_arrays(moved[:, None]))


def main(count: int = 10, seed: int | None = None) -> None:
    seed = random.SystemRandom().randrange(1 << 30) if seed is None else seed
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        inputs = folder / "inputs"
        inputs.mkdir()
        demand(run(lambda: write_inputs(inputs)) == 0, "there are no inputs")
        for place, kind in enumerate(JOBS):
            part = count // len(JOBS) + (place < count % len(JOBS))
            killed, left = kills(kind(folder / f"kill-{kind.__name__}", inputs), part, draw)
            print(
                f"{kind.__name__}: {part} kills, {killed} before the end, {left} left something: none lost", flush=True
            )
        print(f"signals: {signals(Calibrate(folder / 'signals', inputs))} in {len(STAGES)} stages", flush=True)
        for kind in (Calibrate, Film, Cache):
            failed = short_files(kind(folder / f"short-{kind.__name__}", inputs))
            print(f"{kind.__name__}: {failed} runs with files that end too early", flush=True)
        with small_disk(folder / "disk") as disk:
            for kind in (Calibrate, Film, Cache) if disk else ():
                print(f"{kind.__name__}: {full_disk(kind, disk, inputs)} runs on a full disk", flush=True)
            if disk is None:
                print("full disks: nobody here may mount one")
        refused = two_writers(Calibrate(folder / "two", inputs), 5)
        print(f"two writers: 5 rounds, {refused} refused; random seed {seed}")
        log_of(os.getpid()).unlink(missing_ok=True)


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
