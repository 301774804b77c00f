"""`tpc-fast live`: a photo and a camera in, the calibrated or animated person on the screen."""

import collections
import contextlib
import logging
import signal
import statistics
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tpc_fast.calibration.stream import DEFAULT_SIZE, CalibratedFrame, Calibrator
from tpc_fast.cli.animate import BACKGROUNDS
from tpc_fast.media.camera import Camera
from tpc_fast.media.newest import LiveFrame, NewestFrame, paced
from tpc_fast.media.sound import Sound
from tpc_fast.media.video import DEFAULT_FPS, VideoReader, VideoWriter
from tpc_fast.output.live_view import VIEWS, beside, open_view, over
from tpc_fast.output.provenance import Provenance
from tpc_fast.output.watermark import watermark

_log = logging.getLogger("tpc_fast")
TITLE = "tpc-fast live"
SCHEDULERS = {"ddim": "DDIMScheduler", "lcm": "LCMScheduler", "tcd": "TCDScheduler"}
_WAIT_SECONDS = 0.1  # for a frame, before the keys are looked at again
_RECENT = 30  # frames that the numbers on the screen are of
_APART = 1e-4  # between the times of two frames


def add_options(command, size) -> None:
    """Adds the arguments of `live` to an argparse parser; `size` parses that of the canvas."""
    command.add_argument("reference", metavar="PHOTO", help="photo of the person or persons")
    source = command.add_mutually_exclusive_group()
    source.add_argument("--camera", default="0", metavar="N", help="number or name of the camera, or rtsp://...")
    source.add_argument("--video", metavar="FILE", help="a video instead, at its own pace")
    command.add_argument(
        "--all-frames", action="store_true", help="with --video: take every frame, however long that takes; drop none"
    )
    command.add_argument("--show", choices=VIEWS, default="window", help="where to look at it")
    command.add_argument("--port", type=int, default=0, metavar="N", help="of --show browser (0: any that is free)")
    command.add_argument("--record", metavar="OUT.mp4", help="video to make of what is shown, without the numbers")
    command.add_argument("--overwrite", action="store_true", help="replace OUT.mp4 if it exists")
    command.add_argument("--size", type=size, default=DEFAULT_SIZE, metavar="N|HxW", help="of the canvas, pixels")
    command.add_argument("--detector", metavar="NAME", help="as for calibrate (default: what is installed)")
    command.add_argument("--segmenter", metavar="NAME", help="as for calibrate (default: the detector)")
    command.add_argument("--reference-mask", metavar="FILE", help="picture of the person's mask")
    command.add_argument("--threads", type=int, metavar="N", help="of the compiled core (default: all)")
    model = command.add_argument_group("with a model")
    model.add_argument(
        "--model", metavar="PATH_OR_ID",
        help="animates the photo: magic-animate, animate-anyone, musepose, champ, puppets; as for animate. None: the "
        "calibrated photo is laid over the frame",
    )  # fmt: skip
    model.add_argument("--base", metavar="PATH_OR_ID", help="as for animate")
    model.add_argument("--vae", metavar="PATH_OR_ID", help="as for animate")
    model.add_argument("--tiny-vae", metavar="PATH_OR_ID", help="an AutoencoderTiny, which is faster")
    model.add_argument("--pose", metavar="FILE", help="TorchScript file that draws DensePose, for magic-animate")
    model.add_argument(
        "--chunk", type=int, default=4, metavar="N",
        help="frames that enter the model at once; 1: evenly spaced in time, but each takes longer",
    )  # fmt: skip
    model.add_argument("--levels", type=int, default=4, metavar="N", help="denoising steps of each frame")
    model.add_argument("--window", type=int, metavar="N", help="frames the model sees at once (default: those in work)")
    model.add_argument("--lag", type=int, metavar="N", help="frames that come in meanwhile (default: one call a chunk)")
    model.add_argument("--scheduler", choices=tuple(SCHEDULERS), help="of the steps (default: the model's)")
    model.add_argument("--guidance", type=float, default=1.0, metavar="S", help="scale; 1: none, half of the work")
    model.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise")
    model.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    model.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="as for animate")
    model.add_argument(
        "--background", choices=BACKGROUNDS, default="reference", help="what is seen outside of the driving persons"
    )


class _Taken(NamedTuple):
    """A frame on its way through the model: the driving frame on the canvas, its pose masks, and its times."""

    driving: np.ndarray
    pose_masks: np.ndarray
    time: float
    arrived: float


class _Shown(NamedTuple):
    """A frame that is done."""

    picture: np.ndarray
    taken: _Taken


class _Overlay:
    """Without a model: the calibrated persons over the frame."""

    mark = kind = None

    def push(self, frame: CalibratedFrame, taken: _Taken) -> list[_Shown]:
        return [_Shown(over(taken.driving, frame.image, frame.mask, frame.order), taken)]

    def flush(self) -> list[_Shown]:
        return []

    def close(self) -> None:
        pass


class _Model:
    """With a model: its frames, and those that wait for theirs."""

    def __init__(self, options, calibrator: Calibrator):
        from tpc_fast.diffusion.live.animator import LiveAnimator
        from tpc_fast.diffusion.models.load import load_model
        from tpc_fast.diffusion.models.registry import MODELS, is_tiny, pipeline_class, recognise, refuse_options
        from tpc_fast.output.live_pose import live_pose

        self.kind, _ = recognise(options.model)
        kind = self.kind
        record, stand_in = MODELS[kind], is_tiny(options.model)
        if "live" in record.refuses:
            raise ValueError(f"--model must be one that takes frames as they come, but {kind} {record.refuses['live']}")
        refuse_options(kind, flags=True, base=options.base, vae=options.vae)
        self._pose = live_pose(record.follows, pipeline_class(kind).videos, options.pose, stand_in, options.device)
        pipe = load_model(options.model, options.base, options.vae, options.device, options.dtype)
        self._live = LiveAnimator(
            pipe, calibrator, chunk=options.chunk, levels=options.levels, window=options.window, lag=options.lag,
            guidance_scale=options.guidance, scheduler=_scheduler(options.scheduler, pipe),
            vae=_tiny_vae(options.tiny_vae, pipe), seed=options.seed,
        )  # fmt: skip
        self.mark = watermark(calibrator.size) if stand_in else None
        self._background = None
        if options.background == "reference":
            self._background = calibrator.reference_canvas.draw(calibrator.reference.image)
        self._waiting: collections.deque[_Taken] = collections.deque()

    def push(self, frame: CalibratedFrame, taken: _Taken) -> list[_Shown]:
        self._waiting.append(taken)
        return self._done(self._live.push(frame, pose=self._pose(taken.driving, frame)))

    def flush(self) -> list[_Shown]:
        return self._done(self._live.flush())

    def _done(self, frames) -> list[_Shown]:
        from tpc_fast.diffusion.composite import composite_background

        if frames is None:
            return []
        taken = [self._waiting.popleft() for _ in frames]
        if self._background is not None:
            frames = composite_background(frames, np.stack([each.pose_masks for each in taken]), self._background)
        return [_Shown(*pair) for pair in zip(frames, taken, strict=True)]

    def close(self) -> None:
        self._live.close()


def _scheduler(name, pipe):
    import diffusers

    return None if name is None else getattr(diffusers, SCHEDULERS[name]).from_config(pipe.scheduler.config)


def _tiny_vae(name, pipe):
    if name is None:
        return None
    from diffusers import AutoencoderTiny

    return AutoencoderTiny.from_pretrained(name, torch_dtype=pipe.dtype).to(pipe.device).eval()


class _Times:
    """How long frames take, and how many are done a second: of late, and in all."""

    def __init__(self):
        self.latencies: list[float] = []
        self._recent = collections.deque(maxlen=_RECENT)
        self._first = self._last = None
        self.count = 0

    def add(self, arrived: float) -> None:
        """A frame is done that came then."""
        self._last = time.perf_counter()
        self._first = self._last if self._first is None else self._first
        if len(self.latencies) < 100_000:  # an hour; a median needs no more
            self.latencies.append(self._last - arrived)
        self._recent.append((self._last, self._last - arrived))
        self.count += 1

    def line(self, dropped: int) -> str:
        """For the screen."""
        span = self._recent[-1][0] - self._recent[0][0]
        rate = f"{(len(self._recent) - 1) / span:.1f} frames/s, " if span > 0 else ""
        latency = statistics.median(latency for _, latency in self._recent)
        return f"{rate}latency {1000 * latency:.0f} ms, {dropped} dropped"

    def summary(self, dropped: int) -> str:
        """For the end."""
        if not self.latencies:
            return f"no frame was shown, {dropped} dropped"
        span = self._last - self._first
        rate = f", {(self.count - 1) / span:.1f} frames/s" if span > 0 else ""
        return (
            f"{self.count} frames{rate}, {dropped} dropped; latency {1000 * statistics.median(self.latencies):.0f} ms "
            f"(median), {1000 * max(self.latencies):.0f} ms (largest)"
        )


@contextlib.contextmanager
def _ended_by_signals():
    """An event that Ctrl-C, SIGTERM and SIGHUP set; a second Ctrl-C interrupts at once, as everywhere."""
    stop, before = threading.Event(), {}

    def end(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is threading.main_thread():
        names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {getattr(signal, name): signal.signal(getattr(signal, name), end) for name in names}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _source(options, stack):
    """(what gives LiveFrames, frames per second)."""
    if options.video is None:
        camera = stack.enter_context(Camera(options.camera))
        return stack.enter_context(NewestFrame(camera)), DEFAULT_FPS
    reader = VideoReader(options.video, "video")
    if options.all_frames:
        return _EveryFrame(reader), reader.fps
    return stack.enter_context(NewestFrame(paced(reader))), reader.fps


class _EveryFrame:
    """A file whose frames wait; what `NewestFrame` is for sources that do not."""

    dropped = 0

    def __init__(self, reader):
        self._frames = iter(reader)

    def take(self, timeout=None) -> LiveFrame:
        frame = next(self._frames, None)
        if frame is None:
            raise EOFError("the source has ended")
        return LiveFrame(frame.image, frame.time, time.perf_counter())


def run(options) -> int:
    """Runs until the source ends, the window is closed, or Ctrl-C; returns the exit code, 0 for all of these.

    What is recorded is whole in every case, after an error too.
    """
    if options.all_frames and options.video is None:
        raise ValueError("--all-frames must go with --video: a camera does not wait")
    if options.record is not None:
        _check_output(Path(options.record), options.overwrite)
    times = _Times()
    with contextlib.ExitStack() as stack:
        calibrator = stack.enter_context(
            Calibrator(
                options.reference, size=options.size, detector=options.detector, segmenter=options.segmenter,
                reference_mask=options.reference_mask,
            )
        )  # fmt: skip
        work = _Overlay() if options.model is None else _Model(options, calibrator)
        stack.callback(work.close)
        view = stack.enter_context(open_view(options.show, TITLE, options.port))
        if view.where is not None:
            print(f"look at {view.where}", flush=True)
        stop = stack.enter_context(_ended_by_signals())
        source, fps = _source(options, stack)
        video = stack.enter_context(_recording(options, fps, calibrator, work.kind))

        def show(done):
            for picture, taken in done:
                if work.mark is not None:
                    picture = np.where(work.mark[..., 3:] > 0, work.mark[..., :3], picture)
                times.add(taken.arrived)
                video(picture, taken.time)
                if options.show != "none":
                    view.show(beside(taken.driving, picture, text=times.line(source.dropped)))

        if not options.quiet:
            print("Ctrl-C ends it", flush=True)
        _follow(calibrator, work, source, show, lambda: stop.is_set() or view.closed)
    if not options.quiet:
        print(times.summary(source.dropped))
        if options.record is not None and times.count:
            print(options.record)
    return 0


def _follow(calibrator, work, source, show, ended) -> None:
    """Frame after frame until the source ends, or `ended` says so."""
    last, size = -np.inf, None
    while not ended():
        try:
            frame = source.take(_WAIT_SECONDS)
        except EOFError:
            show(work.flush())
            return
        if frame is None:
            continue
        last = max(frame.time, last + _APART)
        if size not in (None, frame.image.shape[:2]):  # the camera was turned, or its stream has another resolution
            _log.warning("frames have another size from %g s on: everybody is looked for anew", last)
            calibrator.reset()
        size = frame.image.shape[:2]
        calibrated = calibrator.step(frame.image, last)
        if calibrated.pose_mask is None and not isinstance(work, _Overlay):
            raise ValueError("--segmenter must be given: the detector makes no masks, which the model needs")
        taken = _Taken(calibrator.canvas.draw(frame.image), calibrated.pose_mask, last, frame.arrived)
        show(work.push(calibrated, taken))


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.parent.is_dir():
        raise FileNotFoundError(f"--record: there is no folder {output.parent} to put {output.name} into")
    if output.exists() and (output.is_dir() or not overwrite):
        raise FileExistsError(f"--record: {output} exists: choose another place, or overwrite it (--overwrite)")


@contextlib.contextmanager
def _recording(options, fps, calibrator, kind):
    """A function that writes a picture and its time; the file is whole whatever ends the block, if there is a frame."""
    if options.record is None:
        yield lambda picture, time: None
        return
    sound = None if options.video is None else Sound(options.video)
    made, marks = None, {}
    if kind is not None:
        made = Provenance(Path(options.record), options.model, kind, calibrator.reference.sha256, seed=options.seed)
        marks = {"metadata": made.metadata, "finish": made.finish}
    video, first = VideoWriter(options.record, fps, calibrator.size, sound=sound, **marks), []

    def write(picture, time):
        if not first:
            first.append(time)
        video.write(picture, time - first[0])

    try:
        yield write
    finally:
        video.close() if first else video.abort()
        if first and made is not None:
            made.write()
