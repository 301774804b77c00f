"""Every frame of a calibration is rendered once and handed to all sinks: layout, preview, the report's pictures."""

import collections
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

from tpc_fast._native import get_num_threads, work_alone
from tpc_fast.media.images import shrink_masks
from tpc_fast.media.panels import LARGEST_FACTOR, lay_over, shrink
from tpc_fast.media.video import prefetch
from tpc_fast.ops.warp import Warped


class Workers:
    """Threads with a bounded queue; a context manager that waits for all work at its end.

    The first error of a job is raised by the next `submit` or at the end; jobs that have not begun by then
    are dropped, as they are when the block ends with an exception. A single thread keeps the order of jobs.
    """

    def __init__(self, threads: int, ahead: int):
        self._pool = ThreadPoolExecutor(threads, "tpc_fast.worker")
        self._slots = threading.Semaphore(threads + ahead)
        self._error = None

    def submit(self, job: Callable, *arguments) -> None:
        """Queues `job(*arguments)`; waits while the queue is full."""
        self._slots.acquire()
        if self._error is not None:
            self._slots.release()
            raise self._error
        self._pool.submit(self._run, job, arguments)

    def _run(self, job, arguments):
        try:
            if self._error is None:
                job(*arguments)
        except BaseException as error:
            self._error = error
        finally:
            self._slots.release()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            self._error = error
        self._pool.shutdown()
        if kind is None and self._error is not None:
            raise self._error


class Panels(NamedTuple):
    """What a person looks at, uint8 [h, w, 3] each, smaller than the canvas.

    Attributes:
        driving: the driving frame; the pose masks if it is not at hand.
        calibrated: the calibrated reference, of several persons in their order of depth.
        overlay: the calibrated persons over the dimmed driving frame.
    """

    driving: np.ndarray
    calibrated: np.ndarray
    overlay: np.ndarray


class RenderedFrame(NamedTuple):
    """One frame, all uint8: what sinks get.

    Attributes:
        index: of the frame.
        images: [P, h, w, 3] on the canvas, the calibrated reference.
        masks: [P, h, w], its person.
        pose_masks: [P, h, w], where the driving person is.
        panels: small pictures, or None if they are not wanted.
    """

    index: int
    images: np.ndarray
    masks: np.ndarray
    pose_masks: np.ndarray
    panels: Panels | None


class Sink(Protocol):
    """Takes rendered frames, inside its own context."""

    def __enter__(self): ...

    def prepare(self, frame: RenderedFrame):
        """What of a frame's work needs no order, in the thread that rendered it; its result goes to `write`."""

    def write(self, frame: RenderedFrame, prepared) -> None:
        """The rest, frame by frame in order."""

    def __exit__(self, kind, error, trace): ...


def _rendered_frames(calibration, sinks, panel_size) -> Iterator[tuple[RenderedFrame, list]]:
    """All frames in order and what the sinks prepared of them; made several at a time, a few ahead."""
    threads = max(1, get_num_threads())
    source = prefetch(_driving_frames(calibration, panel_size)) if panel_size else itertools.repeat(None, 0)
    ahead = collections.deque()
    with (
        contextlib.closing(source) if panel_size else contextlib.nullcontext(),
        ThreadPoolExecutor(threads, "tpc_fast.render", initializer=work_alone) as pool,
    ):
        try:
            for index in range(len(calibration.times)):
                ahead.append(pool.submit(_render_frame, calibration, index, sinks, panel_size, next(source, None)))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for job in ahead:
                job.cancel()


def _render_frame(calibration, index, sinks, panel_size, driving) -> tuple[RenderedFrame, list]:
    warped, pose_masks = calibration.render(index), calibration.pose_masks[index]
    panels = draw_panels(calibration, index, panel_size, warped, pose_masks, driving) if panel_size else None
    frame = RenderedFrame(index, warped.image[0], warped.mask[0], pose_masks, panels)
    return frame, [sink.prepare(frame) for sink in sinks]


def draw_panels(
    calibration, index: int, size: tuple[int, int], warped: Warped, pose_masks: np.ndarray, driving
) -> Panels:
    """The panels of a frame.

    Args:
        calibration: the Calibration.
        index: of the frame.
        size: (height, width) of the panels.
        warped: the frame on the canvas, as `calibration.render(index)` gives it.
        pose_masks: [P, h, w], on the canvas.
        driving: the driving frame, of `size`; None if it is gone.
    """
    if driving is None:
        driving = np.repeat(shrink_masks(pose_masks, size).max(0)[..., None] // 3, 3, -1)
    order, factor = calibration.order[index].tolist(), calibration.size[0] // size[0]
    if factor <= LARGEST_FACTOR and (size[0] * factor, size[1] * factor) == tuple(calibration.size):
        images, masks = (shrink(pictures[0], factor) for pictures in (warped.image, warped.mask))
        overlay = driving >> 1
        lay_over(images, masks, order, overlay)
    else:
        images, masks, overlay = (a[0] for a in calibration.render(index, size=size, background=driving >> 1))
    calibrated = images[order[0]]
    if len(order) > 1:  # every calibrated image shows all persons of the photo: each is cut out of its own
        calibrated = calibrated >> 2
        for person in order:
            calibrated = np.where(masks[person][..., None] >= 128, images[person], calibrated)
    return Panels(driving, calibrated, overlay)


def _driving_frames(calibration, size):
    try:
        yield from calibration.driving_frames(size)
    except (ValueError, FileNotFoundError) as error:  # the video is gone, its calibration is not
        calibration.warnings.append(f"the preview shows masks instead of driving frames: {error}")


def render_into(
    calibration,
    sinks: Iterable[Sink],
    progress: Callable[[int, int], object] | None = None,
    panel_size: tuple[int, int] | None = None,
) -> None:
    """Renders every frame once and hands it to all sinks.

    Args:
        calibration: the Calibration.
        sinks: what to write.
        progress: called as `progress(done, total)` after every frame.
        panel_size: (height, width) of the panels, if a sink wants them.
    """
    with contextlib.ExitStack() as stack:
        sinks = [stack.enter_context(sink) for sink in sinks]
        with contextlib.closing(_rendered_frames(calibration, sinks, panel_size)) as frames:
            for frame, prepared in frames:
                for sink, part in zip(sinks, prepared, strict=True):
                    sink.write(frame, part)
                if progress is not None:
                    progress(frame.index + 1, len(calibration.times))
