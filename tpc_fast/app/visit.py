"""What happens when a visitor presses a button, step by step, without a word of how it is shown."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from tpc_fast.app import result
from tpc_fast.app.jobs import Cancelled, Job, JobError, Jobs
from tpc_fast.app.people import People
from tpc_fast.app.progress import Step, duration
from tpc_fast.app.request import Request
from tpc_fast.app.work import REQUEST_FILE

WAITING = "Waiting: another calibration is running on this machine"


@dataclasses.dataclass(frozen=True)
class Finished:
    """A job that is done.

    Attributes:
        folder: its own.
        people: who there is.
        frames: how many.
    """

    folder: Path
    people: People
    frames: int


def calibrate(jobs: Jobs, visitor: str, photo, video, **wanted) -> Iterator[str | Step | Finished]:
    """A new job for a visitor's files: words, steps, and at the end what it made.

    Args:
        photo, video: files that the visitor sent; None if one is missing.
        wanted: of `Request`.

    Raises:
        JobError: if it cannot be done; ValueError for a wish that is not as it must be.
    """
    for path, name in ((photo, "photo"), (video, "video")):
        if path is None:
            raise JobError(f"Bring a {name} first")
        if not Path(path).is_file():  # it was sent long ago, and removed since
            kept = duration(jobs.limits.kept_seconds)
            raise JobError(f"The {name} is not here any more (files are kept for {kept}): bring it again")
    job = jobs.new(visitor)
    names = {name: job.take(path, name) for path, name in ((photo, "photo"), (video, "video"))}
    try:
        yield from _run(jobs, job, Request(**names, **wanted))
    except Cancelled:
        jobs.leave(visitor)
        raise


def recast(jobs: Jobs, visitor: str, cast: tuple[int, ...]) -> Iterator[str | Step | Finished]:
    """The visitor's job again, with other roles; nobody is looked for again."""
    job = jobs.of(visitor)
    if job is None or not (job.folder / REQUEST_FILE).exists():
        raise JobError("This calibration is gone: make it again")
    request = Request.read(job.folder / REQUEST_FILE)
    yield from _run(jobs, job, dataclasses.replace(request, cast=cast))


def _run(jobs: Jobs, job: Job, request: Request) -> Iterator[str | Step | Finished]:
    job.ready()
    while not jobs.begin():
        if job.cancelled:
            raise Cancelled("cancelled")
        yield WAITING
    try:
        yield from job.run(request)
    finally:
        jobs.end()
    yield Finished(job.folder, People.read(job.folder), len(result.load(job.folder)))
