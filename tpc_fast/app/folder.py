"""The folder of a server: it goes when the server ends, or, if that was killed, when the next one begins."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PREFIX, _LOCK, _UNLOCKED = "tpc-fast-page-", "lock", "unlocked"


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A folder among temporary files, for this user alone, removed at the end with all that is in it.

    It is locked for as long as this process lives; those that nobody locks any more are removed first. Where there are
    no locks, as on Windows, those of killed servers stay.
    """
    _remove_abandoned(Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(folder)
        if fcntl is not None:
            handle = os.open(folder / _UNLOCKED, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.rename(folder / _UNLOCKED, folder / _LOCK)  # under this name it is always locked
        yield folder


def _remove_abandoned(root: Path) -> None:
    if fcntl is None:
        return
    for folder in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or its server lives
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)
