"""Files that appear whole or not at all, and beside which nothing of the user's is lost.

A result is made in a hidden folder beside its place, `.OUT.<8 hex digits>.partial`, and exchanged with what is there
in one step of the file system where there is one (renameat2 on Linux). Elsewhere two renames do it, and the names are
the journal: a folder that is called `.ready` is complete, and the next run gives it its name if a kill fell between.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tpc_fast.media.limits import LIMITS

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CALIBRATION_FILE = "calibration.json"
CALIBRATION_FORMAT = "tpc_fast.calibration"  # in files that people keep: it stays when modules move
WRITTEN = "files"  # in calibration.json: the files of the folder that were written with it, and may be replaced
# What earlier versions wrote, which kept no list.
_UNLISTED = re.compile(
    r"calibration\.json|reference\.png|masks\.npz|report\.html|preview\.mp4|calibrated\.npz|pose_video/[^/]*\.mp4|"
    r"ref_img/[^/]*\.PNG|\d+-person_(cal_ref_img|cal_ref_mask_img|pose_mask_img)(/\d{3,5}\.png|\.mp4)|"
    r"\d+-person_ref_mask_img/ref\.png"
)
_UNLISTED_FOLDERS = r"pose_video|ref_img|\d+-person_(cal_ref_img|cal_ref_mask_img|pose_mask_img|ref_mask_img)"
_LONGEST_NAME = 200  # bytes; file systems end at 255, and the hidden folder's name is longer
_EXCHANGE, _NO_REPLACE = 2, 1  # RENAME_EXCHANGE and RENAME_NOREPLACE of Linux
_NOT_THERE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)  # the file system cannot; seccomp says EPERM
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A file that appears whole or not at all: `with whole_file(path) as partial: ...` writes `partial`.

    It gets its name at the end. After an exception it is removed, and what was at `path` is as it was. What a killed
    process left beside `path` is removed by the next one that writes it.
    """
    path = Path(path)
    hidden = f".{_short(path.name)}."
    _remove_abandoned(path.parent, hidden)
    with contextlib.ExitStack() as stack:
        partial = stack.enter_context(_in_use(path, hidden))
        yield partial
        os.replace(partial, path)


@contextlib.contextmanager
def _in_use(path: Path, hidden: str) -> Iterator[Path]:
    """A hidden file beside `path`, empty, and locked for as long as this process lives; removed at the end."""
    while True:
        partial = path.with_name(f"{hidden}{secrets.token_hex(4)}.partial")
        with contextlib.ExitStack() as stack:
            stack.callback(partial.unlink, missing_ok=True)
            if fcntl is not None:
                handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                stack.callback(os.close, handle)
                with contextlib.suppress(OSError):  # there are no locks: nothing is removed either
                    fcntl.flock(handle, fcntl.LOCK_EX)
                if not _is_at(handle, partial):
                    continue  # taken for abandoned, before it was locked
            yield partial
        return


def _remove_abandoned(folder: Path, hidden: str) -> None:
    """Removes hidden files that no living process holds."""
    if fcntl is None:
        return
    pattern = re.compile(re.escape(hidden) + r"[0-9a-f]{8}\.partial")
    try:
        with os.scandir(folder) as entries:
            found = [e.path for e in entries if pattern.fullmatch(e.name) and e.is_file(follow_symlinks=False)]
    except OSError:  # which whoever writes there says better
        return
    for path in found:
        with contextlib.suppress(OSError):  # somebody writes it
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _short(name: str) -> str:
    """A name to which something can be added."""
    if len(os.fsencode(name)) <= _LONGEST_NAME:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


class OutputFolder:
    """A folder that appears whole or not at all: `with OutputFolder(path) as folder: ...`.

    Of a calibration that is replaced, the files go that its calibration.json lists as written; whatever else lies in
    its folder stays, in folders of ours, too. Files go to the folder that it gives, a hidden one beside `path`, which
    gets its name at the end. After an exception that folder is removed, and what was at `path` is as it was. After a
    kill at any moment `path` is the old result or the new one, and the next run removes what was left beside it.

    Args:
        path: the folder to make; its parent must exist.
        overwrite: whether a folder at `path` may be replaced; only one that holds our calibration ever is.

    Raises:
        FileExistsError: if there is something at `path` that may not be replaced, a file of the user's has the name of
            one that is to be written, or another process is writing there.
        FileNotFoundError, NotADirectoryError: if the parent is missing or not a folder.
        OSError: if it cannot be written.
        ValueError: for a path that is the name of no folder.
    """

    def __init__(self, path: str | os.PathLike, overwrite: bool = False):
        self.path = _place(path)
        self._overwrite = overwrite
        self._hidden = f".{_short(self.path.name)}."

    def check(self) -> None:
        """Raises what `with` would before it makes anything."""
        parent = self.path.parent
        if not parent.exists():
            raise FileNotFoundError(f"output: there is no folder {parent} to put {self.path.name} into")
        if not parent.is_dir():
            raise NotADirectoryError(f"output: {parent}, to put {self.path.name} into, is not a folder")
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise FileExistsError(f"output: {self.path} is a file: choose another place")
        if not _is_ours(self.path):
            raise FileExistsError(
                f"output: {self.path} exists and has no {CALIBRATION_FILE} of tpc_fast in it, so it is not replaced: "
                "choose another place"
            )
        if not self._overwrite:
            raise FileExistsError(
                f"output: {self.path} exists: choose another place, or overwrite the calibration in it "
                "(--overwrite, overwrite=True)"
            )
        for folder in (self.path, *(p for p in self.path.rglob("*") if p.is_dir() and not p.is_symlink())):
            if os.path.ismount(folder):
                raise FileExistsError(f"output: {folder} is a mount point, which stays: choose another place")

    def _beside(self, purpose, token=None):
        return self.path.with_name(f"{self._hidden}{token or self._token}.{purpose}")

    def __enter__(self) -> Path:
        with contextlib.ExitStack() as stack:
            if self.path.parent.is_dir():
                stack.enter_context(_lock(self._beside("lock", "0"), self.path))
                self._clean()
            self.check()
            self._token = secrets.token_hex(4)
            self._partial = self._beside("partial")
            try:
                self._partial.mkdir()
            except OSError as error:
                message = f"output: cannot write into {self.path.parent}: {error.strerror}"
                raise type(error)(error.errno, message) from error
            self._stack = stack.pop_all()
        return self._partial

    def __exit__(self, kind, error, trace) -> None:
        with self._stack:
            try:
                if kind is None:
                    self.check()  # again: what was there may have changed meanwhile
                    self._swap()
            finally:
                shutil.rmtree(self._partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM and error.filename is None:
            raise OSError(error.errno, f"output: cannot write {self.path}: {error.strerror}") from error

    def _swap(self):
        if not self.path.exists():
            _rename(self._partial, self.path, _NO_REPLACE) or self._partial.rename(self.path)
            return
        users = list(_not_ours(self.path))
        for name in users:
            if os.path.lexists(self._partial / name) and not (
                (self._partial / name).is_dir() and (self.path / name).is_dir()
            ):
                raise FileExistsError(
                    f"output: {self.path / name} would be overwritten, but was not written by tpc_fast: move it away"
                )
        for name in users:
            _take_along(self.path / name, self._partial / name)
        old = self._partial
        if not _rename(self._partial, self.path, _EXCHANGE):
            ready, old = self._beside("ready"), self._beside("old")
            self._partial.rename(ready)
            try:
                self.path.rename(old)
                try:
                    ready.rename(self.path)
                except BaseException:
                    old.rename(self.path)
                    raise
            except BaseException:
                ready.rename(self._partial)
                raise
        _bring_back(old, self.path)  # what came while the user's files were taken along
        shutil.rmtree(old, ignore_errors=True)

    def _clean(self):
        """Finishes and removes what killed runs left; nobody else is writing."""
        pattern = re.compile(re.escape(self._hidden) + r"([0-9a-f]{8})\.(partial|old|ready)")
        left = {p: m for p in self.path.parent.iterdir() if (m := pattern.fullmatch(p.name)) and p.is_dir()}
        for path, match in left.items():
            if match[2] == "ready" and not self.path.exists() and self._beside("old", match[1]).exists():
                path.rename(self.path)
        for path in left:
            if path.exists():
                if self.path.is_dir() and _is_ours(path):
                    _bring_back(path, self.path)
                shutil.rmtree(path, ignore_errors=True)


def _place(path: str | os.PathLike) -> Path:
    """The folder that a name means: what a link points to, as a link stays."""
    if not os.fspath(path):
        raise ValueError("output must be the name of a folder, but is ''")
    try:
        place = Path(os.path.realpath(path))
    except FileNotFoundError as error:  # the folder in which the process is
        message = f"output: the current folder, in which {path} is to be, is gone"
        raise FileNotFoundError(error.errno, message) from error
    if not place.name:
        raise ValueError(f"output must be the name of a folder, but is {str(path)!r}, the root")
    return place


def sha256(path: str | os.PathLike) -> str:
    """Of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def natural_order(path: Path) -> list:
    """A key that sorts paths by their names, 2.png before 10.png."""
    # Text stands at even places and numbers at odd ones, so that keys of any two names compare.
    parts = re.split("([0-9]+)", path.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def listed_files(folder: Path, also: tuple[str, ...] = ()) -> list[str]:
    """What calibration.json lists as written: the files in a folder of ours, and those that are about to come."""
    found, inside = set(also), [("", folder)]
    for name, path in inside:  # which grows; entries know what they are, and paths would ask the system three times
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    inside.append((f"{name}{entry.name}/", entry.path))
                elif entry.is_file(follow_symlinks=False):
                    found.add(f"{name}{entry.name}")
    return sorted(found)


def _is_ours(folder):
    return _record(folder).get("format") == CALIBRATION_FORMAT


def _record(folder) -> dict:
    path = folder / CALIBRATION_FILE
    if not path.is_file():  # a pipe would be waited for
        return {}
    try:
        if path.stat().st_size > LIMITS.text:
            return {}
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _not_ours(folder: Path) -> Iterator[str]:
    """The user's files, links and folders in a folder of ours, outer ones first, relative to it."""
    record = _record(folder)
    listed = record.get(WRITTEN)
    ours = {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else None
    kept = set()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder:
            if not any(path.iterdir()) and not _is_a_folder_of(name, ours):
                kept.add(name)
        elif path.is_symlink() or not (_UNLISTED.fullmatch(name) if ours is None else name in ours):
            kept.add(name)
    folders = {str(parent) for name in kept for parent in PurePosixPath(name).parents} - {"."}
    yield from sorted(kept | folders)


def _is_a_folder_of(name: str, ours) -> bool:
    """Whether files that are ours lay in a folder, which is empty now."""
    if ours is None:
        return re.fullmatch(_UNLISTED_FOLDERS, name) is not None
    return any(file.startswith(f"{name}/") for file in ours)


def _take_along(path: Path, target: Path) -> None:
    """Makes a file, link or folder of the user's appear in the new folder, too; a file by a second name of it."""
    if path.is_dir() and not path.is_symlink():
        target.mkdir(exist_ok=True)
        shutil.copystat(path, target)
        return
    try:
        os.link(path, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(path, target, follow_symlinks=False)


def _bring_back(old: Path, folder: Path) -> None:
    """Moves what is not ours in an old folder, and not in the new one, to the new one."""
    for name in _not_ours(old):
        path, target = old / name, folder / name
        if os.path.lexists(target):
            continue
        if path.is_dir() and not path.is_symlink():
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def _rename(source: Path, target: Path, how: int) -> bool:
    """Linux's renameat2; False where the system, or the file system, has none."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here = -100  # AT_FDCWD
    if call(here, os.fsencode(source), here, os.fsencode(target), how) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_THERE:
        return False
    raise OSError(code, os.strerror(code), str(target))


def one_writer(output: Path) -> contextlib.AbstractContextManager[None]:
    """`with one_writer(path): ...` raises FileExistsError if another process is in such a block for this path."""
    return _lock(output.with_name(f".{_short(output.name)}.0.lock"), output)


@contextlib.contextmanager
def _lock(path: Path, output: Path) -> Iterator[None]:
    """Lets one process at a time write an output; a kill unlocks it. The file is removed at the end."""
    if fcntl is None:
        yield
        return
    try:
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(handle, path):  # else removed by the process that had the lock before
                    break
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)
    except BlockingIOError:
        raise FileExistsError(f"output: another process is writing {output}: wait for it") from None
    except OSError:  # nothing can be written there, which mkdir says better; or there are no locks
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
