"""Cameras, through PyAV: Video4Linux, AVFoundation (macOS), DirectShow (Windows)."""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tpc_fast.media.video import VideoFrame

_DEVICES = Path("/dev")


# What a network camera is reached by, and what FFmpeg may open for it: no file, and no other address.
_NETWORK = ("rtsp://", "rtsps://")
_PROTOCOLS = "rtp,srtp,udp,tcp,tls"
_WAIT_MICROSECONDS = 10_000_000  # for a network camera that says nothing; FFmpeg by itself waits for ever


class Camera:
    """The frames of a camera, as they come; a context manager. Its frames go through memory only.

    Args:
        name: a number from 0, as the system counts them; or a name: of a device file on Linux, of a camera elsewhere;
            or the address of a network camera, rtsp://... DirectShow knows names only.
        fps: frames per second that are asked for; None: as the camera does.

    Raises:
        FileNotFoundError: if there is no such camera; lists those that there are, where that can be seen.
        ValueError: if it cannot be read.
    """

    def __init__(self, name: int | str = 0, fps: float | None = None):
        import av

        kind, address = _address(name)
        self._name, self._closed, self._reading = name, False, threading.Lock()
        options = {} if fps is None else {"framerate": str(fps)}
        if kind == "rtsp":  # by TCP, as UDP loses packets, which show as torn pictures
            options = {
                "rtsp_transport": "tcp", "protocol_whitelist": _PROTOCOLS, "timeout": str(_WAIT_MICROSECONDS)
            }  # fmt: skip
        try:
            self._container = av.open(address, format=kind, options=options)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ValueError(f"camera: {name} ({address}) cannot be read by {kind}: {why}") from error
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"camera: {name} ({address}) gives no video")

    def __iter__(self) -> Iterator[VideoFrame]:
        import av

        started = time.perf_counter()
        try:
            decoded = self._container.decode(video=0)
            while (frame := self._next(decoded)) is not None:
                yield VideoFrame(frame.to_ndarray(format="rgb24"), time.perf_counter() - started)
        except av.error.FFmpegError as error:  # pulled out, or the network has gone
            raise OSError(f"camera: {self._name} gives no more pictures: {error.strerror or error}") from error
        finally:
            if self._closed:
                self.close()

    def _next(self, decoded):
        with self._reading:
            return None if self._closed else next(decoded, None)

    def close(self) -> None:
        """Lets the camera go; if another thread waits for a frame, when that has come, as FFmpeg must not lose it."""
        self._closed = True
        if self._reading.acquire(blocking=False):
            try:
                self._container.close()
            finally:
                self._reading.release()

    def __enter__(self) -> "Camera":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _address(name: int | str) -> tuple[str, str]:
    """FFmpeg's input device and what it calls the camera."""
    if str(name).lower().startswith(_NETWORK):
        return "rtsp", str(name)
    numbered = isinstance(name, int) or str(name).isdecimal()
    if sys.platform == "darwin":
        return "avfoundation", f"{name}:none"
    if sys.platform == "win32":
        if numbered:
            raise ValueError(f"camera must be a name as DirectShow lists it, but is {name!r}")
        return "dshow", f"video={name}"
    path = _DEVICES / f"video{name}" if numbered else Path(name)
    if not path.exists():
        found = ", ".join(str(other) for other in sorted(_DEVICES.glob("video*"))) or "none"
        raise FileNotFoundError(f"camera: there is no {path}; cameras that there are: {found}")
    return "v4l2", str(path)
