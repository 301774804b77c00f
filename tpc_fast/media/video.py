"""Videos in and out: with `camera`, `container` and `sound` the only files that know PyAV."""

import contextlib
import itertools
import math
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tpc_fast import _native
from tpc_fast._checks import describe, is_finite, pixel_size
from tpc_fast._dispatch import is_torch
from tpc_fast.media.animation import animation
from tpc_fast.media.container import open_container
from tpc_fast.media.files import natural_order, whole_file
from tpc_fast.media.hdr import NAMES as HDR_NAMES
from tpc_fast.media.hdr import ToneMap
from tpc_fast.media.images import SWAPPED, load_image, scale, tensor_to_numpy
from tpc_fast.media.limits import LIMITS
from tpc_fast.media.reading import reading
from tpc_fast.media.sound import Sound, SoundTrack

DEFAULT_FPS = 30.0
MAX_SECONDS = 1e12  # of a time: in ticks of a microsecond, the finest that fps allows, it fits into 64 bits
# Whether a picture is mirrored and its quarter turns clockwise -> FFmpeg's filters.
_TURNS = {
    (1, 0): (),
    (1, 1): ("transpose=clock",),
    (1, 2): ("hflip", "vflip"),
    (1, 3): ("transpose=cclock",),
    (-1, 0): ("vflip",),
    (-1, 1): ("transpose=cclock_flip",),
    (-1, 2): ("hflip",),
    (-1, 3): ("transpose=clock_flip",),
}
_LARGEST_ASPECT = 8  # of pixels: anamorphic film has 2, and a few bytes can claim 2^32
_UNTIMED = {"avi", "h264", "hevc", "m4v"}  # formats without times: FFmpeg guesses them, wrongly with B-frames
_BT709, _LIMITED_RANGE = 1, 1  # FFmpeg's numbers: what players assume of a film
_IMAGE_SUFFIXES = {
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".gif",
    ".heic",
    ".heif",
    ".avif",
}


class VideoFrame(NamedTuple):
    """A picture of a video.

    Attributes:
        image: uint8 [H, W, 3] RGB, upright.
        time: seconds from the start of the video.
        small: the same picture at the reader's `small_size`, if it has one.
    """

    image: np.ndarray
    time: float
    small: np.ndarray | None = None


class VideoReader:
    """The frames of a video, decoded as they are asked for. Iterate over it, again if need be.

    What can be decoded of a damaged file is used, and `warnings` says what could not. A rotation in the
    metadata is applied, pixels that are not square are made so, and the times of a variable frame rate kept.
    Films of high dynamic range (PQ, HLG) become usual ones, with a warning.

    Args:
        source: a video file (animated WebP and PNG too), or a folder of pictures (taken in natural order). Or an array
            or CPU tensor uint8 [F, H, W, 3]. Or an iterable of arrays or PIL images; an iterator serves one pass only.
        name: what errors call it.
        frames: the frames to take, a slice with ends >= 0 and a step >= 1. Nothing after its end is decoded,
            and little before its start.
        fps: frames per second of sources without times (30 by default); replaces the times of a file.
        scale_to: (height, width) that frames are scaled to as they are decoded; None: as they are.

    Attributes:
        size: (height, width) of every frame, before it is scaled.
        fps: frames per second, on average.
        count: how many frames there are: exact for pictures, an estimate for files, None if unknown.
        path: the file or folder, or None.
        small_size: (height, width) at which frames are given once more, as if scaled to it while they are decoded; None
            for not at all. May be set before the frames are read, and to None again at any time.
        warnings: what was wrong with the source; complete once it was read to its end.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if there is no video in it, not one frame can be decoded, or `frames` selects none.
        TypeError: if the source is none of these kinds.
    """

    def __init__(
        self,
        source,
        name: str = "driving",
        frames: slice | None = None,
        fps: float | None = None,
        scale_to: tuple[int, int] | None = None,
    ):
        if fps is not None and not (is_finite(fps) and fps > 0):
            raise ValueError(f"fps must be a positive number, but is {fps!r}")
        self.path: Path | None = None
        self.warnings: list[str] = []
        self._name, self._given_fps, self._scale_to = name, fps, None
        self.small_size: tuple[int, int] | None = None
        scale_to = None if scale_to is None else pixel_size(scale_to, "scale_to")
        self._start, self._stop, self._step = _check_slice(frames)
        self._seeks = True  # until it turns out not to
        self._pictures = None  # what to load, unless it is a video file
        self._moving = None  # the animated picture, which has times of its own
        self._unread = None  # of an iterator: whether its one pass is still to come
        if isinstance(source, str | os.PathLike):
            self.path = Path(source)
            if not self.path.exists():
                raise FileNotFoundError(f"{name}: there is no file or folder {source}")
            if self.path.is_dir():
                self._pictures = _pictures_in(self.path, name)
            elif not self.path.is_file():  # a pipe or a device, which cannot be read twice
                raise ValueError(f"{name} must be a video file or a folder of pictures, but {self.path} is neither")
            elif self.path.suffix.lower() in _IMAGE_SUFFIXES - {".gif"}:  # one of which may be a film
                self._pictures = self._moving = animation(self.path, name)
            if self._pictures is None and self.path.suffix.lower() in _IMAGE_SUFFIXES - {".gif"}:
                self._pictures = [self.path]
                self.warnings.append(f"{name}: {self.path} is a picture: a video of one frame; {SWAPPED}")
        else:
            self._pictures = _check_pictures(source, name)
        self.size = None
        natural = DEFAULT_FPS if self._moving is None else self._moving.rate
        self._rate = float(fps or natural)  # of the source, all its frames
        total = self._probe_file() if self._pictures is None else self._probe_pictures()
        self._scale_to = scale_to  # not before: the size is that of frames as they are
        self.fps = self._rate / self._step
        self.count = None if total is None else len(range(total)[self._start : self._stop : self._step])

    @property
    def in_memory(self) -> bool:
        """Whether the frames were given as an array, so that reading ahead gains nothing."""
        return isinstance(self._pictures, np.ndarray)

    def __iter__(self) -> Iterator[VideoFrame]:
        if self._pictures is None:
            return self._decode()
        if self._unread is False:
            raise ValueError(f"{self._name} is an iterator, which can be read only once: pass a list instead")
        if self._unread:
            self._unread = False
        return self._load()

    def _error(self, what):
        return ValueError(f"{self._name}: {self.path or 'the sequence'} {what}")

    def _warn(self, what):
        if what not in self.warnings:
            self.warnings.append(what)

    # Pictures

    def _probe_pictures(self):
        total = len(self._pictures) if hasattr(self._pictures, "__len__") else None
        if total is not None and not self.in_memory:
            LIMITS.check("frames", total, self._name)
        pictures = itertools.islice(self._pictures, self._start, self._stop, self._step)
        first = next(pictures, None)
        if first is None:
            raise self._error("has none of the chosen frames" if total or self._start else "has no frames")
        if iter(self._pictures) is self._pictures:
            self._pictures, self._unread = itertools.chain([first], pictures), True
        image, _ = load_image(first, f"{self._name}[{self._start}]")
        self.size = image.shape[:2]
        return total

    def _load(self):
        pictures = self._pictures
        # What makes its frames as they are asked for may fill one array again and again, and frames are read ahead.
        one_buffer = not isinstance(pictures, np.ndarray | list | tuple)
        if self._unread is None:
            pictures = itertools.islice(pictures, self._start, self._stop, self._step)
        for index, picture in zip(itertools.count(self._start, self._step), pictures):
            image, _ = load_image(picture, f"{self._name}[{index}]")
            if one_buffer and (isinstance(picture, np.ndarray) or is_torch(picture)):
                image = image.copy()
            if image.shape[:2] != self.size:
                raise ValueError(
                    f"{self._name}: all frames must have one size, but frame {index} is {image.shape[1]} x "
                    f"{image.shape[0]} and those before it are {self.size[1]} x {self.size[0]}"
                )
            time = index / self._rate
            if self._moving is not None and not self._given_fps:
                time = float(self._moving.times[index])
            small = None if self.small_size is None else scale(image, self.small_size)
            yield VideoFrame(image if self._scale_to is None else scale(image, self._scale_to), time, small)

    # Files

    def _probe_file(self):
        with self._container() as (_, stream):
            self._rate = float(self._given_fps or stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
            total = stream.frames or None
            if total is None and stream.duration:
                total = round(float(stream.duration * stream.time_base) * self._rate)
        first = next(self._decode(), None)
        if first is None:
            raise self._error("has none of the chosen frames" if self._start else "has no readable frame")
        self.size = first.image.shape[:2]
        return total

    @contextlib.contextmanager
    def _container(self):
        import av

        try:
            container = open_container(self.path)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            empty = " (it is empty)" if self.path.stat().st_size == 0 else ""
            why = getattr(error, "strerror", None) or error
            raise self._error(f"is not a video that can be read{empty}: {why}") from error
        with container:
            attached = av.stream.Disposition.attached_pic  # the cover of a song is not a video
            streams = [s for s in container.streams.video if not s.disposition & attached]
            if not streams:
                raise self._error("has no video in it")
            if streams[0].codec_context is None:
                raise self._error("is a video in a format that is not known here")
            LIMITS.check("pixels", streams[0].width * streams[0].height, f"{self._name}: a frame of {self.path}")
            streams[0].thread_type = "AUTO"
            # Sizes may change on the way: the decoder refuses a large frame before it allocates it. It counts its own
            # borders, too.
            streams[0].codec_context.options = {"max_pixels": str(LIMITS.pixels * 9 // 8 + (1 << 16))}
            yield container, streams[0]

    def _decode(self):
        with self._container() as (container, stream):
            index, target, expected = 0, None, stream.frames
            times = self._index() if self._start and self._seeks else None
            if times is not None:
                index, target, expected = self._start, times[self._start], len(times)
                container.seek(target, stream=stream)  # to the key frame before it
            origin, last = stream.start_time or 0, -float("inf")
            keeps_times = not self._given_fps and container.format.name not in _UNTIMED
            transfer = self._transfer(stream)
            aspect, small_size = self._aspect(stream), self.small_size
            to_rgb = _ToRgb(aspect, self._scale_to or self.size, self._name, transfer)
            to_small = None if small_size is None else _ToRgb(aspect, small_size, self._name, transfer)
            damage = _Damage()
            sides = None
            for frame in _decoded(container, stream, damage):
                if target is not None:
                    if (frame.pts or 0) < target:
                        continue  # between the key frame and the start
                    if frame.pts != target:
                        break  # not every container seeks to where it is told
                target = None
                LIMITS.check("frames", index + 1, self._name)
                if sides not in (None, (frame.width, frame.height)):
                    self._warn(
                        f"{self.path} changes its size in frame {index}, from {sides[0]} x {sides[1]} to "
                        f"{frame.width} x {frame.height}: such frames are scaled to the size of the first"
                    )
                sides = frame.width, frame.height
                timed = keeps_times and frame.pts is not None
                time = float((frame.pts - origin) * stream.time_base) if timed else index / self._rate
                last = time if time > last else last + 1 / self._rate
                if index >= self._start and (index - self._start) % self._step == 0:
                    with reading(f"{self._name}: frame {index} of {self.path} cannot be shown"):
                        small = None if to_small is None or self.small_size is None else to_small(frame)
                        image = to_rgb(frame)
                    yield VideoFrame(image, last, small)
                index += 1
                if self._stop is not None and index >= self._stop:
                    break
            else:
                if target is None:
                    self._check_end(index, expected - damage.skipped, last, container, stream)
            if target is None and damage.errors:
                self._warn(f"{self.path} is damaged: {damage.errors} packets or frames are not clean")
        if target is not None:
            self._seeks = False
            yield from self._decode()

    def _aspect(self, stream):
        """Width of a pixel by its height."""
        aspect = stream.sample_aspect_ratio
        if not aspect or aspect <= 0:
            return 1
        if not 1 / _LARGEST_ASPECT <= aspect <= _LARGEST_ASPECT:
            self._warn(
                f"{self.path} claims pixels of {aspect.numerator} : {aspect.denominator}: they are taken as square"
            )
            return 1
        return aspect

    def _transfer(self, stream) -> int | None:
        """Of a film of high dynamic range, what its numbers mean."""
        transfer = int(stream.codec_context.color_trc)
        if transfer not in HDR_NAMES:
            return None
        self._warn(
            f"{self.path} is of high dynamic range ({HDR_NAMES[transfer]}): its colours are compressed to the usual one"
        )
        return transfer

    def _index(self):
        """The pts of all frames in order, or None where only counting tells frames apart. Decodes nothing."""
        with self._container() as (container, stream):
            times = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
            timed = container.format.name not in _UNTIMED and None not in times and len(set(times)) == len(times)
        if self._start >= len(times):
            raise self._error(f"has {len(times)} frames, none of the chosen ones")
        return sorted(times) if timed else None

    def _check_end(self, count, expected, last, container, stream):
        """Says so if the file promises more than was decoded."""
        if count < expected:
            self._warn(f"{self.path} is damaged or cut off: {count} of its {expected} frames can be read")
        elif not stream.frames and container.duration and len(container.streams) == 1:
            missing = container.duration / 1e6 - last - 1 / self._rate
            if missing > max(0.5, 2 / self._rate):
                self._warn(f"{self.path} is damaged or cut off: its last {missing:.1f} s cannot be read")


class _Damage:
    """What a decoder stumbled over."""

    errors = 0  # packets and frames that were lost or patched up
    skipped = 0  # packets that the file itself says not to show


def _decoded(container, stream, damage):
    """The frames of a stream; goes on after errors, which it counts."""
    import av

    packets = container.demux(stream)
    flushed = False
    while not flushed:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, OSError):  # the file ends in the middle of something
            damage.errors += 1
            packet = None
        flushed = packet is None or not packet.size  # the empty packet at the end drains the decoder
        try:
            if packet is not None:
                damage.skipped += packet.is_discard
                damage.errors += packet.is_corrupt
            frames = stream.decode(packet)
        except (av.error.FFmpegError, OSError):
            damage.errors += 1
            continue
        for frame in frames:
            damage.errors += frame.is_corrupt
            yield frame


class _ToRgb:
    """Makes upright RGB arrays with square pixels, all of the size of the first, from a stream's frames.

    Frames are turned in their own pixel format, which is ten times faster than turning arrays.
    """

    def __init__(self, aspect, size, name, transfer=None):
        from av.video.reformatter import VideoReformatter

        self._aspect, self._size, self._name = aspect, size, name
        self._reformat = VideoReformatter().reformat  # kept: setting one up takes 2 ms
        self._key = self._graph = None  # the filter graph that turns, and for what
        self._tone_map = None if transfer is None else ToneMap(transfer)

    def __call__(self, frame):
        turns = _turns(frame)
        if self._size is None:
            height, width = frame.height, max(1, round(frame.width * self._aspect))
            LIMITS.check("pixels", height * width, f"{self._name}: a frame of square pixels")
            self._size = (width, height) if any("clock" in turn for turn in turns) else (height, width)
        if turns:
            frame = self._turn(frame, turns)
        height, width = self._size
        if self._tone_map is not None:
            return self._tone_map(frame, height, width)
        return self._reformat(frame, width, height, "rgb24").to_ndarray()

    def _turn(self, frame, turns):
        import av

        key = frame.width, frame.height, frame.format.name, turns
        if key != self._key:
            graph = av.filter.Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1, 1)
            )
            filters = [graph.add(*turn.split("=")) for turn in turns]
            graph.link_nodes(source, *filters, graph.add("buffersink")).configure()
            self._key, self._graph = key, graph
        self._graph.push(frame)
        return self._graph.pull()


def _turns(frame) -> tuple[str, ...]:
    """FFmpeg's filters that bring a frame upright: quarter turns and mirrors of its display matrix.

    The matrix maps pixels of the frame to the screen, ((a, b), (c, d)) row by row in 16.16 fixed point; the nearest of
    the eight ways to lay a picture on a screen is taken.
    """
    import av

    found = frame.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
    if found is None:
        return ()
    a, b, _, c, d, *_ = np.frombuffer(bytes(found), "=i4").tolist()
    if a * d == b * c:  # no matrix at all
        return ()
    sides = -1 if a * d < b * c else 1  # mirrored
    quarters = round(math.atan2(b - sides * c, a + sides * d) / (math.pi / 2)) % 4  # clockwise
    return _TURNS[sides, quarters]


def _check_slice(frames):
    """(start, stop, step) of the frames to take."""
    if frames is None:
        return 0, None, 1
    if not isinstance(frames, slice):
        raise TypeError(f"frames must be a slice, but is {describe(frames)}")
    start, step = frames.start or 0, 1 if frames.step is None else frames.step
    ends = [start, step] + [frames.stop] * (frames.stop is not None)
    if not all(isinstance(end, int) for end in ends) or min(ends) < 0 or max(ends) > sys.maxsize or step < 1:
        raise ValueError(f"frames must be a slice with ends from 0 to {sys.maxsize} and a step >= 1, but is {frames}")
    if frames.stop is not None and frames.stop <= start:
        raise ValueError(f"frames must select at least one frame, but is {frames}")
    return start, frames.stop, step


def _pictures_in(folder, name):
    """The picture files of a folder, 2.png before 10.png."""
    pictures = [p for p in folder.iterdir() if p.suffix.lower() in _IMAGE_SUFFIXES and p.name[0] != "."]
    if not pictures:
        raise ValueError(f"{name}: the folder {folder} has no pictures in it")

    return sorted(pictures, key=natural_order)


def _check_pictures(source, name):
    if is_torch(source):
        source = tensor_to_numpy(source, name)
    if isinstance(source, np.ndarray) and source.ndim != 4:
        advice = f": for one frame pass {name}[None]" if source.ndim in (2, 3) else ""
        raise ValueError(f"{name} must be [F, H, W, 3], but is {describe(source)}{advice}")
    if not isinstance(source, Iterable) or isinstance(source, bytes | dict):
        kinds = "a path, an array or an iterable of pictures"
        raise TypeError(f"{name} must be {kinds}, but is {describe(source)}")
    return source


class VideoWriter:
    """Writes an H.264 MP4 file that players and browsers open; a context manager.

    The file is written beside `path` and renamed at the end; after an exception nothing is left of it, and a
    file that was there before stays as it was. Odd sizes, which H.264 lacks, get another row or column.

    Args:
        path: the file, usually named .mp4.
        fps: frames per second.
        size: (height, width) of every frame.
        crf: x264's quality, lower is better; 18 looks lossless.
        preset: x264's preset, faster ones make larger files.
        scale: of the video to the frames that are written.
        sound: what is heard, or None; it ends with the pictures.
        metadata: name -> text, of the file; names that mp4 knows, as "title" and "comment".
        finish: called with the whole file, before it gets its name; it may change the file in place.
        threads: of the encoder; None: as many as there are cores, which is right for one video at a time.

    Raises:
        ValueError: if `fps` or `size` is out of range, or at the end if no frame was written.
        OSError: if the file cannot be written.
    """

    _TICKS = 1000  # per frame: the resolution of `time`

    def __init__(
        self,
        path: str | os.PathLike,
        fps: float,
        size: tuple[int, int],
        crf: int = 18,
        preset: str = "veryfast",
        scale: float = 1.0,
        sound: Sound | None = None,
        metadata: dict[str, str] | None = None,
        finish: Callable[[Path], None] | None = None,
        threads: int | None = None,
    ):
        import av

        if not 0.01 <= fps <= 1000:
            raise ValueError(f"fps must be from 0.01 to 1000, but is {fps!r}")
        height, width = self._size = tuple(int(n) for n in size)
        if min(height, width) < 1:
            raise ValueError(f"size must be (height, width) of at least one pixel, but is {size}")
        self.path = Path(path)
        self._index, self._pts = 0, -1
        rate = Fraction(fps).limit_denominator(1001)
        quality = {"crf": str(crf), "preset": preset, "threads": str(threads or "auto")}
        with contextlib.ExitStack() as stack:
            partial = stack.enter_context(whole_file(self.path))
            partial.touch()  # fails at once where nothing can be written
            self._container = av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"})
            self._container.metadata.update(metadata or {})
            self._partial, self._finish = partial, finish
            self._stream = self._container.add_stream("libx264", rate, options=quality)
            self._sound = None if sound is None else SoundTrack(self._container, sound)
            self._file = stack.pop_all()
        even = [max(2, 2 * round((n + n % 2) * scale / 2)) for n in (height, width)]
        self._stream.height, self._stream.width = even
        self._stream.pix_fmt = "yuv420p"
        self._to_yuv = av.video.reformatter.VideoReformatter().reformat  # kept: setting one up takes 2 ms
        self._converting = threading.Lock()
        codec = self._stream.codec_context
        codec.time_base = 1 / (rate * self._TICKS)
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = _LIMITED_RANGE

    def convert(self, image: np.ndarray):
        """A picture as the encoder takes it, for `write`: costs less in the thread that made it, and needs no order.

        Args:
            image: uint8 [H, W, 3] RGB, or [H, W] grey.

        Returns:
            A frame of PyAV: YUV 4:2:0, BT.709, limited range.
        """
        import av

        height, width = self._size
        if image.dtype != np.uint8 or image.shape[:2] != self._size or image.shape[2:] not in ((), (3,)):
            raise ValueError(f"image must be uint8 of shape {(height, width, 3)}, but is {describe(image)}")
        if height % 2 or width % 2:
            image = np.pad(image, [(0, height % 2), (0, width % 2), (0, 0)][: image.ndim], mode="edge")
        image, core = np.ascontiguousarray(image), _native.core()
        if core is not None and image.shape[:2] == (self._stream.height, self._stream.width):
            frame = av.VideoFrame(self._stream.width, self._stream.height, "yuv420p")
            core.rgb_to_yuv(image, *(np.frombuffer(p, np.uint8).reshape(p.height, p.line_size) for p in frame.planes))
            return frame
        with self._converting:
            return self._to_yuv(
                av.VideoFrame.from_ndarray(image, format="gray" if image.ndim == 2 else "rgb24"),
                width=self._stream.width,
                height=self._stream.height,
                format="yuv420p",
                dst_colorspace=_BT709,
                dst_color_range=_LIMITED_RANGE,
            )

    def write(self, image, time: float | None = None) -> None:
        """Appends a frame.

        Args:
            image: uint8 [H, W, 3] RGB, or [H, W] grey, or what `convert` made of one.
            time: seconds from the start of the video, later than the frame before; by default index / fps.
        """
        frame = self.convert(image) if isinstance(image, np.ndarray) else image
        if not (time is None or (is_finite(time) and abs(time) <= MAX_SECONDS)):
            raise ValueError(f"time must be seconds, at most {MAX_SECONDS:g}, but is {time!r}")
        time_base = self._stream.codec_context.time_base
        pts = self._index * self._TICKS if time is None else round(time / time_base)
        frame.pts = self._pts = max(pts, self._pts + 1)
        frame.time_base = time_base
        self._index += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Ends the file and gives it its name."""
        try:
            if not self._index:
                raise ValueError(f"no frame was written to {self.path}")
            self._container.mux(self._stream.encode(None))
            if self._sound is not None:
                self._sound.write(float((self._pts + self._TICKS) * self._stream.codec_context.time_base))
            self._container.close()
            if self._finish is not None:
                self._finish(self._partial)
        except BaseException:
            self.abort()
            raise
        self._file.close()

    def abort(self) -> None:
        """Removes what was written."""
        with contextlib.suppress(Exception):  # may fail again for the reason that ended it
            self._container.close()
        if self._sound is not None:
            self._sound.close()
        ended = InterruptedError(f"{self.path} was not finished")
        self._file.__exit__(type(ended), ended, None)  # as after an exception: the file is removed

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close() if kind is None else self.abort()


def prefetch(iterable: Iterable, depth: int = 2) -> Iterator:
    """Iterates in a thread of its own, up to `depth` items ahead, so that producing and consuming overlap.

    Exceptions of the iterable reach the caller. Closing the iterator, or dropping it, ends the thread.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, but is {depth}")
    return _prefetch(iterable, depth)


def _prefetch(iterable, depth):
    items = queue.SimpleQueue()
    free = threading.Semaphore(depth)
    stop = threading.Event()

    def produce():
        try:
            iterator = iter(iterable)
            with contextlib.closing(iterator) if hasattr(iterator, "close") else contextlib.nullcontext():
                while free.acquire() and not stop.is_set():
                    items.put((next(iterator), None))
        except StopIteration:
            items.put((None, StopIteration))
        except BaseException as error:
            items.put((None, error))

    thread = threading.Thread(target=produce, name="tpc_fast.prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if error is StopIteration:
                return
            if error is not None:
                raise error
            free.release()
            yield item
    finally:
        stop.set()
        free.release()
        thread.join()
