"""One calibration in a process of its own, so that it can be ended at any moment: `python -m tpc_fast.app.work FOLDER`.

It reads `request.json` and the visitor's files in FOLDER, writes `out/`, and prints a line of JSON for every step. It
ends when its input does, which is when whoever started it is gone.
"""

import json
import os
import re
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

from tpc_fast._checks import plain
from tpc_fast.app.people import write_people
from tpc_fast.app.request import Request
from tpc_fast.calibration.private import NAMES_ONLY
from tpc_fast.calibration.video import calibrate
from tpc_fast.media.files import OutputFolder
from tpc_fast.media.video import VideoReader
from tpc_fast.output.export import export

REQUEST_FILE, OUT, SEEN_FILE, ARCHIVE = "request.json", "out", "seen.npz", "calibration.zip"
_WORDS = {"reference": "photo", "driving": "video"}  # what the page calls the arguments of `calibrate`
_IN_PYTHON = ", say where the person is (reference_box), or give reference_keypoints"  # the page takes neither
EXPECTED = (OSError, ValueError, TypeError, ImportError, RuntimeError, MemoryError)


def work(folder: Path, most_seconds: float, say: Callable[[dict], None]) -> None:
    """Does what the request in a folder asks for.

    Args:
        folder: the job's.
        most_seconds: of video.
        say: is given {"stage", "done", "total"} after every frame.

    Raises:
        As `calibrate` and `export`; ValueError for a video that is too long.
    """
    request = Request.read(folder / REQUEST_FILE)
    photo, video = folder / request.photo, folder / request.video
    say({"stage": "photo"})
    reader = VideoReader(video)
    frames = request.frames(reader.fps, reader.count, most_seconds)

    def progress(stage):
        return lambda done, total: say({"stage": stage, "done": done, "total": total})

    calibration = calibrate(
        photo, video, frames=frames, cache=folder / SEEN_FILE, keep_small=True, progress=progress("detect"),
        **request.options(),
    )  # fmt: skip
    calibration.options[NAMES_ONLY] = True  # what is downloaded names no folder of this machine
    with OutputFolder(folder / OUT, overwrite=True) as out:
        export(calibration, out, request.format, progress=progress("write"))
    write_people(calibration, folder, folder / SEEN_FILE)
    _pack(folder / OUT, folder / ARCHIVE)


def _pack(source: Path, archive: Path) -> None:
    """All files of a folder in one; pictures and videos are compressed already."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                packed.write(path, path.relative_to(source))


def explain(error: BaseException, folder: Path) -> str:
    """An error in words that name no folder of this machine."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.strerror}: {Path(error.filename).name}"
    if isinstance(error, MemoryError):
        text = f"out of memory: {text}"
    text = plain(text.replace(f"{folder}{os.sep}", "").replace(str(folder), ""))
    for word, ours in _WORDS.items():
        text = re.sub(f"^{word}: ", f"the {ours}: ", text)
    return text.replace(_IN_PYTHON, "")


def main(arguments: list[str] | None = None) -> int:
    """0 if all was written; 1 if the request could not be fulfilled, and the last line says why."""
    folder, seconds = sys.argv[1:] if arguments is None else arguments
    folder = Path(folder)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def say(step):
        print(json.dumps(step), flush=True)

    try:
        work(folder, float(seconds), say)
    except EXPECTED as error:
        say({"error": explain(error, folder)})
        return 1
    return 0


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # not `stdin.read`, whose lock Python waits for when it ends
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
