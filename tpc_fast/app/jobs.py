"""Calibrations of visitors: each in a process and a folder of its own, which are ended and removed for certain."""

import contextlib
import json
import os
import queue
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tpc_fast.app.limits import PageLimits
from tpc_fast.app.progress import STAGES, Step
from tpc_fast.app.request import Request
from tpc_fast.app.work import REQUEST_FILE

_LOOK_SECONDS = 0.2  # between looks at whether a job was cancelled
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif"} | {
    ".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".ogv", ".3gp", ".flv", ".wmv"
}  # fmt: skip
_QUIET = "errors.txt"  # what the process says beside its steps


class JobError(Exception):
    """A calibration that could not be made; says why in words for the visitor."""


class Cancelled(JobError):
    """The visitor ended it."""


class Job:
    """A folder, and at most one process that calibrates in it.

    Attributes:
        folder: its own, with a name that nobody guesses.
        used: when it was last used, by `time.monotonic`.
    """

    def __init__(self, root: Path, limits: PageLimits):
        self.folder = Path(root) / secrets.token_urlsafe(16)
        self.folder.mkdir(parents=True, mode=0o700)
        self.used = time.monotonic()
        self._limits, self._process, self._cancelled = limits, None, False
        self._lock = threading.Lock()

    def take(self, source: str | os.PathLike, name: str) -> str:
        """A visitor's file in the folder, called `name` with the suffix of its own; returns that.

        Raises:
            JobError: if it is too large.
        """
        source = Path(source)
        size, most = source.stat().st_size, self._limits.upload_bytes
        if size > most:
            raise JobError(f"{source.name} has {size / 1e6:.0f} MB: at most {most / 1e6:.0f} MB are taken here")
        suffix = source.suffix.lower()  # which says of a picture that it is no film; nothing else depends on it
        target = self.folder / f"{name}{suffix if suffix in _SUFFIXES else ''}"
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copyfile(source, target)
        return target.name

    def ready(self) -> None:
        """Forgets that it was cancelled: the visitor asks anew."""
        self._cancelled = False

    def run(self, request: Request) -> Iterator[Step]:
        """Calibrates; gives every step. The process has ended when this has, whatever ended it.

        Raises:
            Cancelled: after `cancel`.
            JobError: if it cannot be done, or takes too long.
        """
        request.write(self.folder / REQUEST_FILE)
        self.used, began = time.monotonic(), time.monotonic()
        with self._lock:
            if self._cancelled:
                raise Cancelled("cancelled")
            self._process = process = self._start()
        lines: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True).start()
        stage, stage_began, error = "start", began, None
        try:
            yield Step(stage)
            while True:
                self.used = time.monotonic()
                if self.used - began > self._limits.job_seconds:
                    raise JobError(f"it took longer than {self._limits.job_seconds:g} s, which is the most here")
                try:
                    line = lines.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    continue
                if line is None:
                    break
                said = json.loads(line)
                error = said.get("error", error)
                if said.get("stage") in STAGES:
                    if said["stage"] != stage:
                        stage, stage_began = said["stage"], time.monotonic()
                    spent = time.monotonic() - stage_began
                    yield Step(stage, said.get("done", 0), said.get("total"), spent)
            code = process.wait()
            if self._cancelled:
                raise Cancelled("cancelled")
            if code:
                raise JobError(error or f"the calibration ended with code {code}")
        finally:
            self._end()

    def _start(self) -> subprocess.Popen:
        # -P: no module is looked for among a visitor's files, where it works. What it leaves goes with them.
        command = [sys.executable, "-P", "-m", "tpc_fast.app.work", str(self.folder), str(self._limits.video_seconds)]
        with open(self.folder / _QUIET, "wb") as quiet:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, cwd=self.folder,
                env=os.environ | {"TMPDIR": str(self.folder)},
            )  # fmt: skip

    @property
    def cancelled(self) -> bool:
        """Whether the visitor ended it."""
        return self._cancelled

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        process = self._process
        return process is not None and process.poll() is None

    def cancel(self) -> None:
        """Ends the process, at once; `run` then raises `Cancelled`."""
        with self._lock:
            self._cancelled = True
        self._end()

    def _end(self) -> None:
        process = self._process
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()
            with contextlib.suppress(OSError):
                process.stdin.close()

    def remove(self) -> None:
        """Ends the process and removes the folder with everything in it."""
        self.cancel()
        shutil.rmtree(self.folder, ignore_errors=True)


def _read_lines(file, lines) -> None:
    """Puts all lines, then None."""
    with file:
        for line in file:
            if line.strip():
                lines.put(line)
    lines.put(None)


class Jobs:
    """One job a visitor, in folders below `root`; a context manager that removes them all.

    Args:
        root: a folder; what is below it is removed at the end.
        limits: what a visitor may ask for.
    """

    def __init__(self, root: Path, limits: PageLimits):
        self.root, self.limits = Path(root), limits
        self._jobs: dict[str, Job] = {}
        self._lock, self._turns = threading.Lock(), threading.BoundedSemaphore(limits.jobs)

    def new(self, visitor: str) -> Job:
        """A fresh job; the visitor's last one is removed."""
        self.sweep()
        job = Job(self.root, self.limits)
        with self._lock:
            before, self._jobs[visitor] = self._jobs.get(visitor), job
        if before is not None:
            before.remove()
        return job

    def of(self, visitor: str) -> Job | None:
        """The visitor's job, or None."""
        with self._lock:
            job = self._jobs.get(visitor)
        if job is not None:
            job.used = time.monotonic()
        return job

    def leave(self, visitor: str) -> None:
        """Removes the visitor's job."""
        with self._lock:
            job = self._jobs.pop(visitor, None)
        if job is not None:
            job.remove()

    def sweep(self) -> None:
        """Removes jobs that nobody used for long."""
        old = time.monotonic() - self.limits.kept_seconds
        with self._lock:
            visitors = [visitor for visitor, job in self._jobs.items() if job.used < old and not job.running]
        for visitor in visitors:
            self.leave(visitor)

    def begin(self) -> bool:
        """Waits a moment for a turn; whether it came. Who got one gives it back by `end`."""
        return self._turns.acquire(timeout=_LOOK_SECONDS)

    def end(self) -> None:
        """Lets the next one begin."""
        self._turns.release()

    def close(self) -> None:
        """Removes all jobs."""
        for visitor in list(self._jobs):
            self.leave(visitor)

    def __enter__(self) -> "Jobs":
        return self

    def __exit__(self, *_) -> None:
        self.close()
