"""Files of a row: as they lie on this machine, or fetched to it from a URL while they are needed."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tpc_fast.media.limits import LIMITS

_CHUNK = 1 << 20


@contextlib.contextmanager
def local(path) -> Iterator[str]:
    """A path on this machine: of the file itself, or of a copy that is removed afterwards.

    Args:
        path: a path, or a URL that fsspec knows ("s3://...", "https://...").

    Raises:
        ValueError: for a URL of what is larger than `LIMITS.unpacked`, or of an unknown kind.
        ImportError: for a URL without fsspec, or without what its kind needs.
        OSError: if it cannot be fetched.
    """
    path = str(path)
    if "://" not in path:
        yield path
        return
    try:
        import fsspec
    except ImportError as error:
        raise ImportError(f"{path} needs fsspec: pip install fsspec") from error
    with tempfile.TemporaryDirectory(prefix="tpc_fast-") as folder:
        target = Path(folder) / (PurePosixPath(path.partition("?")[0]).name or "file")
        with fsspec.open(path, "rb") as source, target.open("wb") as copy:
            while chunk := source.read(_CHUNK):
                LIMITS.check("unpacked", copy.tell() + len(chunk), path)
                copy.write(chunk)
        yield str(target)
