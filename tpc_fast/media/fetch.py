"""Photos and videos that are no files here: addresses, bytes and open files become files that go when they may.

Only what a user gives comes here: an address in a file, of a calibration or of keypoints, is never fetched (see
`VideoReader`, which opens files alone).
"""

import io
import os
import re
import tempfile
import urllib.error
import urllib.request
import weakref
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

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
        ValueError: for one that cannot be fetched, an unknown scheme, text where bytes are needed, and for more than
            `LIMITS.download` bytes.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _copied(io.BytesIO(source), name, "", None)
    if hasattr(source, "read") and not hasattr(source, "__fspath__") and not hasattr(source, "getbands"):  # no picture
        return _copied(source, name, "", None)
    if not is_address(source):
        return source
    suffix = PurePosixPath(urlsplit(source).path).suffix
    suffix = suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", suffix) else ""
    if urlsplit(source).scheme.lower() in ("http", "https"):
        try:
            with urllib.request.urlopen(source, timeout=SECONDS) as answer:
                return _copied(answer, name, suffix, source)
        except (urllib.error.URLError, OSError) as error:
            why = getattr(error, "reason", None) or error
            raise ValueError(f"{name}: {source} cannot be fetched: {why}") from error
    return _by_fsspec(source, name, suffix)


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
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: {source} cannot be fetched: {str(error) or type(error).__name__}") from error


def _copied(file, name, suffix, source) -> LocalCopy:
    copy, total = LocalCopy(suffix, source), 0
    with open(copy, "wb") as out:
        while chunk := file.read(_CHUNK):
            if not isinstance(chunk, bytes | bytearray | memoryview):
                raise ValueError(f"{name} must be a file opened in binary mode, but gives {type(chunk).__name__}")
            total += len(chunk)
            LIMITS.check("download", total, f"{name}: {source or 'a file'}")
            out.write(chunk)
    return copy
