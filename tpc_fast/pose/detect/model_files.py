"""The networks of the detector blazepose: taken as data out of MediaPipe's wheel, checked, and kept for the user.

Nothing of the wheel is installed or run. The package index that pip (or uv) is set up for is asked for it.
"""

import contextlib
import errno
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from tpc_fast._extras import INSTALL

PACKAGE, VERSION = "mediapipe", "0.10.21"  # the last of which the wheels carry these networks
WHEEL_BYTES = 35_627_340  # of the first platform's
VARIABLE = "TPC_FAST_MODELS"
# What the wheel is asked for, whatever runs here: the networks in all of these are the same. (There is none for Python
# 3.13 or Linux on ARM.)
_PYTHON = "312"
_PLATFORMS = ("manylinux_2_28_x86_64", "win_amd64", "macosx_11_0_universal2")
_TEMPORARY = "fetching-"


class Network(NamedTuple):
    """A file of the wheel."""

    member: str
    bytes: int
    sha256: str


NETWORKS = {
    "pose_detection": Network(
        "mediapipe/modules/pose_detection/pose_detection.tflite",
        2_959_046,
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    ),
    "pose_landmark_full": Network(
        "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
        6_440_512,
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    ),
}


def folder() -> Path:
    """Where the networks are kept: TPC_FAST_MODELS, or the user's cache."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    try:
        import platformdirs
    except ImportError as error:
        raise ImportError(
            f"where the detector's networks are kept is asked of platformdirs ({error}): "
            f"{INSTALL['demo']}, or set {VARIABLE} to a folder"
        ) from error
    return Path(platformdirs.user_cache_dir("tpc-fast", appauthor=False)) / f"{PACKAGE}-{VERSION}"


def network(name: str) -> Path:
    """The file of a network, checked; all of them are fetched first if it is not there.

    Raises:
        ValueError: if the file is damaged or another one.
        OSError: if it is not there and can't be fetched; names both ways out.
    """
    path = folder() / f"{name}.tflite"
    if not path.exists():
        fetch()
    wrong = _wrong(path, NETWORKS[name])
    if wrong:
        raise ValueError(f"{str(path)!r} {wrong}: `tpc-fast models fetch` puts the right one in its place")
    return path


def fetch(wheel: str | os.PathLike | None = None) -> Path:
    """Puts the networks into `folder()`, unless the right ones are there; says so on the standard error.

    Files appear whole or not at all, and what fails leaves nothing behind. Of several processes one fetches, and the
    others wait for it.

    Args:
        wheel: a wheel of MediaPipe 0.10.21, of any platform; None: the package index is asked for one.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: if there is no such wheel.
        ValueError: if it does not hold the networks.
        OSError: if the index can't be asked or has none, or the folder can't be written; names both ways out.
    """
    where = folder()
    if wheel is not None and not Path(wheel).is_file():
        raise FileNotFoundError(f"there is no wheel {str(wheel)!r}")
    if _complete(where):
        return where
    new = not where.exists()
    try:
        where.mkdir(parents=True, exist_ok=True)
        with _folder_lock(where):
            if not _complete(where):  # another process may have been here meanwhile
                _fetch(where, wheel)
    except BaseException as error:
        if new:
            with contextlib.suppress(OSError):
                where.rmdir()
        if not isinstance(error, OSError) or isinstance(error, NotFetchedError):
            raise
        raise OSError(f"the detector's networks can't be put into {str(where)!r} ({error}); {_WAYS_OUT}") from error
    return where


class NotFetchedError(ConnectionError):
    """The package index can't be reached, or has no such wheel."""


_WAYS_OUT = (
    f"on a machine without a package index, bring a wheel of {PACKAGE} {VERSION} and run `tpc-fast models fetch --from "
    f"FILE.whl`, or set {VARIABLE} to a folder that has {' and '.join(f'{name}.tflite' for name in NETWORKS)}"
)


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrong(path: Path, wanted: Network) -> str | None:
    """What is wrong with a file."""
    size = path.stat().st_size
    if size != wanted.bytes:
        return f"is damaged or another file (it has {size} bytes, not {wanted.bytes})"
    found = digest(path)
    if found == wanted.sha256:
        return None
    return f"is damaged or another file (SHA-256 {found[:12]}..., not {wanted.sha256[:12]}...)"


def _complete(where: Path) -> bool:
    paths = [(where / f"{name}.tflite", wanted) for name, wanted in NETWORKS.items()]
    return all(path.is_file() and not _wrong(path, wanted) for path, wanted in paths)


@contextlib.contextmanager
def _folder_lock(where: Path):
    """While no other process is here; where a folder can't be locked several may be, which does no harm."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(where, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network drives
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _fetch(where: Path, wheel) -> None:
    for left in where.glob(f"{_TEMPORARY}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    total = sum(wanted.bytes for wanted in NETWORKS.values()) / 1e6
    source = (
        f"out of {str(wheel)!r}" if wheel else f"out of the wheel of {PACKAGE} {VERSION} ({WHEEL_BYTES / 1e6:.0f} MB)"
    )
    print(f"tpc-fast: fetching the detector's networks ({total:.0f} MB) {source} into {where}, once", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=where, prefix=_TEMPORARY, ignore_cleanup_errors=True) as temporary:
        source = _download(Path(temporary)) if wheel is None else wheel
        for name, path in _take_out(source, Path(temporary)).items():
            os.replace(path, where / f"{name}.tflite")


def _take_out(wheel, temporary: Path) -> dict[str, Path]:
    """The networks of a wheel (or of a folder into which one was unpacked), each checked."""
    taken = {}
    for name, wanted in NETWORKS.items():
        taken[name] = temporary / f"{name}.tflite"
        try:
            if Path(wheel).is_dir():
                shutil.copyfile(Path(wheel) / wanted.member, taken[name])
            else:
                with zipfile.ZipFile(wheel) as archive, archive.open(wanted.member) as file:
                    taken[name].write_bytes(file.read(wanted.bytes + 1))
        except Exception as error:  # those of zip files, of four ways to pack, and of what is encrypted
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                raise  # the disk is full
            raise ValueError(f"{str(wheel)!r} is no whole wheel of {PACKAGE} {VERSION}: {error}") from error
        wrong = _wrong(taken[name], wanted)
        if wrong:
            raise ValueError(f"{wanted.member} of {str(wheel)!r} {wrong}")
    return taken


def _download(temporary: Path) -> Path:
    """The wheel, by pip; or, where only uv is there, a folder into which that has unpacked it."""
    requirement, target = f"{PACKAGE}=={VERSION}", temporary / "wheel"
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-input", "--no-cache-dir", "--retries", "1"]
        command += ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", _PYTHON]
        command += [word for platform in _PLATFORMS for word in ("--platform", platform)]
        command += ["--disable-pip-version-check", "--dest", str(target), requirement]
    elif shutil.which("uv"):
        command = ["uv", "pip", "install", "-q", "--no-cache", "--no-deps", "--only-binary", ":all:", "--target"]
        command += [str(target), "--python", sys.executable, "--python-version", "3.12"]
        command += ["--python-platform", "x86_64-manylinux_2_28", requirement]
    else:
        raise NotFetchedError(f"neither pip nor uv is here to ask a package index for {requirement}; {_WAYS_OUT}")
    said = _run(command, temporary)
    wheels = list(target.glob("*.whl"))
    if said is None:
        return wheels[0] if wheels else target
    raise NotFetchedError(f"{requirement} can't be had from the package index ({said}); {_WAYS_OUT}")


def _run(command: list[str], temporary: Path) -> str | None:
    """Runs what downloads the wheel, with a progress bar; returns why it failed.

    Raises:
        OSError: if the disk is full.
    """
    import subprocess  # here, for every detector that finds its files imports this module
    import threading

    from tqdm import tqdm

    # It keeps what it downloads there meanwhile: that tells how far it is, and nothing stays elsewhere.
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))}
    said: list[str] = []  # not in a file, which a full disk would cut short
    with (
        tqdm(total=WHEEL_BYTES, unit="B", unit_scale=True, desc="networks", disable=None, file=sys.stderr) as bar,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8", errors="replace",
        ) as process,
    ):  # fmt: skip
        reader = threading.Thread(target=lambda: said.extend(process.stdout), daemon=True)
        reader.start()
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
                bar.update(min(_bytes_below(temporary), WHEEL_BYTES) - bar.n)
        except BaseException:
            process.kill()
            raise
        reader.join()
    if process.returncode == 0:
        return None
    lines = [line.strip() for line in said if line.strip()]
    if any("connection broken by" in line or "Failed to fetch" in line for line in lines):
        return "it can't be reached"
    for full in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if any(os.strerror(full) in line for line in lines):
            raise OSError(full, os.strerror(full))
    if any("No usable temporary directory" in line for line in lines):  # Python's, where not four bytes can be written
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith(("ERROR: ", "error: "))]
    return next(iter(errors or lines[-1:]), f"{command[0]} ended with {process.returncode}")


def _bytes_below(folder: Path) -> int:
    """The size of all files; folders may go meanwhile, too, over which `os.walk` passes and `rglob` stumbles."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total
