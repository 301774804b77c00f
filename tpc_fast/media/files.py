"""Files and folders that appear whole or not at all."""

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

CALIBRATION_FILE = "calibration.json"
CALIBRATION_FORMAT = "tpc_fast.calibration"  # in files that people keep: it stays when modules move
# What a calibration consists of, in any format.
_OURS = re.compile(
    r"calibration\.json|reference\.png|masks\.npz|report\.html|preview\.mp4|picture\.png|pose_video|ref_img|"
    r"calibrated\.npz|\d+-person_\w+(\.mp4)?"
)


def _beside(path: Path, purpose: str) -> Path:
    """A hidden place of no other's beside `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{purpose}")


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A file that appears whole or not at all: `with whole_file(path) as partial: ...` writes `partial`.

    It gets its name at the end. After an exception it is removed, and what was at `path` is as it was.
    """
    path = Path(path)
    partial = _beside(path, "partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class OutputFolder:
    """A folder that appears whole or not at all: `with OutputFolder(path) as folder: ...`.

    A calibration that is replaced goes, whatever else lay in its folder stays. Files go to the folder that it gives, a
    hidden one beside `path`, which gets its name at the end. After an exception that folder is removed, and what was at
    `path` is as it was.

    Args:
        path: the folder to make; its parent must exist.
        overwrite: whether a folder at `path` may be replaced; only one that holds our calibration ever is.

    Raises:
        FileExistsError: if there is something at `path` that may not be replaced.
        FileNotFoundError, NotADirectoryError: if the parent is missing or not a folder.
        OSError: if it cannot be written.
    """

    def __init__(self, path: str | os.PathLike, overwrite: bool = False):
        self.path = Path(os.path.realpath(path))  # a link stays, what it points to is replaced
        self._overwrite = overwrite

    def _check(self):
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

    def __enter__(self) -> Path:
        self._check()
        self._partial = _beside(self.path, "partial")
        try:
            self._partial.mkdir()
        except OSError as error:
            message = f"output: cannot write into {self.path.parent}: {error.strerror}"
            raise type(error)(error.errno, message) from error
        return self._partial

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self._check()  # again: what was there may have changed meanwhile
                self._swap()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _swap(self):
        if not self.path.exists():
            self._partial.rename(self.path)
            return
        old = _beside(self.path, "old")
        self.path.rename(old)
        try:
            self._partial.rename(self.path)
        except BaseException:
            old.rename(self.path)
            raise
        for entry in old.iterdir():  # what is not ours stays
            if not _OURS.fullmatch(entry.name) and not (self.path / entry.name).exists():
                entry.rename(self.path / entry.name)
        shutil.rmtree(old, ignore_errors=True)


def _is_ours(folder):
    try:
        return json.loads((folder / CALIBRATION_FILE).read_bytes())["format"] == CALIBRATION_FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False
