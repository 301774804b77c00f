"""Files of unknown origin: regular ones, bounded, and what a library says of a damaged one becomes a ValueError."""

import contextlib
import json
import math
import os
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from tpc_fast.media.limits import LIMITS


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """The one place where exceptions of libraries that read a file become ours.

    A damaged file makes zipfile, zlib, json, NumPy, Pillow and FFmpeg raise anything: BadZipFile, struct.error,
    KeyError, OverflowError, RecursionError, TokenError, NotImplementedError ... all become ValueError. A file that is
    missing or may not be read, and memory that runs out, are what they are.

    Args:
        what: how messages begin, with file and purpose: "'a.npz' can't be read as keypoints".
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, MemoryError):
        raise
    except Exception as error:
        why = str(error) or type(error).__name__
        if isinstance(error, RecursionError):
            why = "it is nested too deeply"
        elif not isinstance(error, ValueError | OSError):
            why = f"{type(error).__name__}: {why}"
        raise ValueError(f"{what}: {why}") from error


def regular_file(path: str | os.PathLike, what: str = "") -> Path:
    """The path of a file that can be read to its end, which a pipe or a device cannot.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if it is something else.
    """
    path, before = Path(path), f"{what}: " if what else ""
    if not path.exists():
        raise FileNotFoundError(f"{before}there is no file {str(path)!r}")
    if not path.is_file():
        raise ValueError(f"{before}{str(path)!r} is not a file")
    return path


def read_json(path: str | os.PathLike, most: int | None = None):
    """What a JSON file holds; errors are for `reading` to name.

    Args:
        path: the file.
        most: bytes, where a file of the kind never has as many as `LIMITS.text`.
    """
    path = regular_file(path)
    LIMITS.check("text", size := path.stat().st_size, path.name)
    if most is not None and size > most:
        raise ValueError(f"{path.name} must have at most {most} bytes, but has {size}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path.name} is not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error


def read_npz(path: str | os.PathLike, wanted: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, in the machine's byte order; those that nobody asks for are not unpacked.

    Args:
        path: the file.
        wanted: the names of the arrays that are read if they are there; None: all.

    Raises:
        ValueError: for what is no such file, and one whose arrays are larger than `LIMITS.unpacked` bytes in all. What
            zipfile, zlib and NumPy raise for a damaged file is for `reading` to name.
    """
    path, arrays, total = regular_file(path), {}, 0
    with zipfile.ZipFile(path) as archive:
        found = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        chosen = {name: found[name] for name in found if wanted is None or name in wanted}
        for entry in chosen.values():  # all of them, before the first is unpacked
            with archive.open(entry) as file:
                total += _bytes_of(file, entry, archive.getinfo(entry).file_size)
            LIMITS.check("unpacked", total, path.name)
        for name, entry in chosen.items():
            with archive.open(entry) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
            arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return arrays


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """The array of an .npy file, in the machine's byte order.

    Raises:
        ValueError: for what is no such file, or larger than `LIMITS.unpacked` bytes. What else damage makes NumPy raise
            is for `reading` to name.
    """
    path = regular_file(path)
    with open(path, "rb") as file:
        LIMITS.check("unpacked", _bytes_of(file, path.name, path.stat().st_size), path.name)
        file.seek(0)
        array = np.lib.format.read_array(file, allow_pickle=False)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def names_in_npz(path: str | os.PathLike) -> list[str]:
    """The names of the arrays in an .npz file."""
    with zipfile.ZipFile(regular_file(path)) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _bytes_of(file, name: str, available: int) -> int:
    """How many bytes an array takes, by its header alone."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{name} has version {version} of NumPy's format, which is not read here")
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are not read")
    size = math.prod(shape) * dtype.itemsize
    if size > available:
        raise ValueError(f"{name} must have {size} bytes by its header, but has {available}")
    return size
