"""Photos and videos that are no files here: addresses, bytes and open files become files that go when they may.

Only what a user gives comes here: an address in a file, of a calibration or of keypoints, is never fetched (see
`VideoReader`, which opens files alone).
"""

import contextlib
import io
import os
import re
import socket
import string
import tempfile
import threading
import time
import weakref
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from tpc_fast.media.limits import LIMITS

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # not a drive, which has one letter
_CHUNK = 1 << 20
SECONDS = 30  # without a byte, after which a server is given up: what browsers and package installers wait, roughly


class LocalCopy(os.PathLike):
    """A file that is deleted when this is no longer used.

    Attributes:
        source: the address as it was typed, or None for bytes.
    """

    def __init__(self, suffix: str = "", source: str | None = None):
        handle, self._path = tempfile.mkstemp(suffix, "tpc-fast-")
        os.close(handle)
        self.source = source
        weakref.finalize(self, Path(self._path).unlink, missing_ok=True)

    def __fspath__(self) -> str:
        return self._path

    def __str__(self) -> str:
        return self.source or self._path

    def __reduce__(self):
        raise TypeError(f"a copy of {self.source or 'bytes'} lives with the process that made it and cannot be pickled")


def is_address(source) -> bool:
    """Whether a source is an address, as `https://...` or `s3://...`."""
    return isinstance(source, str) and _ADDRESS.match(source) is not None


def fetched(source, name: str):
    """What a user gave, as a file if it is an address, bytes or an open binary file; anything else as it is.

    Args:
        source: an http or https address; one of another scheme that fsspec knows (`s3://`, `gs://`, `hf://`, ...);
            bytes; or an object with `read`.
        name: what errors call it.

    Returns:
        A `LocalCopy`, or `source`.

    Raises:
        ImportError: for an address that needs fsspec, which is not installed.
        ValueError: for one that cannot be fetched, ends early or takes longer than `LIMITS.fetching` seconds, an
            unknown scheme, text where bytes are needed, and for more than `LIMITS.download` bytes.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _copied(io.BytesIO(source), name, "", None)
    if hasattr(source, "read") and not hasattr(source, "__fspath__") and not hasattr(source, "getbands"):  # no picture
        return _copied(source, name, "", None)
    if not is_address(source):
        return source
    suffix = PurePosixPath(_parts(source, name).path).suffix
    suffix = suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", suffix) else ""
    if _parts(source, name).scheme.lower() in ("http", "https"):
        return _by_http(source, name, suffix)
    return _by_fsspec(source, name, suffix)


def _parts(source: str, name: str):
    try:
        return urlsplit(source)
    except ValueError as error:
        raise ValueError(f"{name}: {source} cannot be fetched: {error}") from error


def _by_http(source: str, name: str, suffix: str) -> LocalCopy:
    import http.client

    with _Watch(LIMITS.fetching) as watch:
        try:
            with watch.opener().open(quote(source, safe=string.punctuation), timeout=SECONDS) as answer:
                copy = _copied(answer, name, suffix, source)
                left = answer.length  # http.client says nothing of an answer that ends early
        except _Refused:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: of where it sends one on to
            why = watch.why() or getattr(error, "reason", None) or str(error) or type(error).__name__
            raise ValueError(f"{name}: {source} cannot be fetched: {why}") from error
    if why := watch.why() or (left and f"it ends {left} bytes too early"):
        os.unlink(copy)
        raise ValueError(f"{name}: {source} cannot be fetched: {why}")
    return copy


class _Watch:
    """Ends the connections of an address after some seconds, whatever the server sends: `with _Watch(60) as watch`.

    The time-out of a socket is one for each byte; who sends one a second, of an answer or of what stands before it, is
    not stopped by that.
    """

    def __init__(self, seconds: float):
        self._seconds, self._sockets, self._over = seconds, [], threading.Event()
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def opener(self):
        """What opens http and https and goes where it is sent on to, to these alone: not to ftp or a file."""
        import http.client
        import urllib.request  # here: it takes 15 ms, and hardly anybody gives an address

        opener = urllib.request.OpenerDirector()
        for kind in (
            urllib.request.ProxyHandler, urllib.request.UnknownHandler, urllib.request.HTTPDefaultErrorHandler,
            urllib.request.HTTPRedirectHandler, urllib.request.HTTPErrorProcessor,
        ):  # fmt: skip
            opener.add_handler(kind())
        watch = self

        class Http(urllib.request.HTTPHandler):
            def http_open(self, request):
                return self.do_open(watch._made(http.client.HTTPConnection), request)

        class Https(urllib.request.HTTPSHandler):
            def https_open(self, request):
                return self.do_open(watch._made(http.client.HTTPSConnection), request)

        opener.add_handler(Http())
        opener.add_handler(Https())
        return opener

    def why(self) -> str | None:
        """What to say if it was ended."""
        return f"it takes longer than {self._seconds:g} seconds" if self._over.is_set() else None

    def _made(self, kind):
        def connection(host, **options):
            made = kind(host, **options)
            made._create_connection = self._connect  # before TLS, and before a proxy is asked
            return made

        return connection

    def _connect(self, *arguments, **options) -> socket.socket:
        connected = socket.create_connection(*arguments, **options)
        self._sockets.append(connected.dup())  # TLS takes the first away
        if self._over.is_set():
            self._end()
        return connected

    def _end(self) -> None:
        self._over.set()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "_Watch":
        self._timer.start()
        return self

    def __exit__(self, *_) -> None:
        self._timer.cancel()
        for one in self._sockets:
            one.close()


def _by_fsspec(source, name, suffix):
    scheme = urlsplit(source).scheme
    try:
        import fsspec
    except ImportError:
        raise ImportError(
            f"{name}: {source} needs fsspec, which is not installed: pip install fsspec (and what it needs for "
            f"{scheme}://)"
        ) from None
    try:
        with fsspec.open(source, "rb") as file:
            return _copied(file, name, suffix, source)
    except ImportError as error:
        raise ImportError(f"{name}: {source}: {error}") from error
    except (_Refused, MemoryError):
        raise
    except Exception as error:  # each of its file systems has errors of its own
        raise ValueError(f"{name}: {source} cannot be fetched: {str(error) or type(error).__name__}") from error


class _Refused(ValueError):
    """What is said already."""


def _copied(file, name, suffix, source) -> LocalCopy:
    copy, total, end = LocalCopy(suffix, source), 0, time.monotonic() + LIMITS.fetching
    what = f"{name}: {source or 'a file'}"
    try:
        with open(copy, "wb") as out:
            while chunk := file.read(_CHUNK):
                if not isinstance(chunk, bytes | bytearray | memoryview):
                    raise _Refused(f"{name} must be a file opened in binary mode, but gives {type(chunk).__name__}")
                total += len(chunk)
                if total > LIMITS.download:
                    raise _Refused(LIMITS.above("download", total, what))
                out.write(chunk)
                if source is not None and time.monotonic() > end:
                    raise _Refused(f"{what} cannot be fetched: it takes longer than {LIMITS.fetching} seconds")
    except BaseException:
        os.unlink(copy)  # now, and not when nobody knows the error any more
        raise
    return copy
