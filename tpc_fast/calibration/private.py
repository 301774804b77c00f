"""What others may read of a calibration: names of files, but not where they lie on the machine that made it."""

import os
import re
from pathlib import Path

NAMES_ONLY = "names_only"  # of options: whether files are named without their folders
PATHS = ("pose", "reference_keypoints", "reference_mask", "driving_keypoints", "driving_masks", "cache")  # of options
# A path from the root, or of a disk of Windows, up to its last part.
_FOLDERS = re.compile(r"(?<![\w./\\])(?:[A-Za-z]:)?[/\\](?:[^\s/\\\'\":,;]+[/\\])+(?=[^\s/\\])")


class Private:
    """What others may read of a calibration: files relative to its folder, and never where that folder lies.

    Args:
        calibration: the Calibration.
        folder: where its record is written, or a folder beside it.
    """

    def __init__(self, calibration, folder: Path | None):
        self._folder = None if calibration.options.get(NAMES_ONLY) else folder
        known = (calibration.reference_path, calibration.driving_path, calibration.options.get("pose"))
        self._known = sorted((str(path) for path in known if path and os.path.isabs(str(path))), key=len, reverse=True)

    def path(self, path) -> str | None:
        """A file, relative to the folder; its name alone if there is none, or on another disk."""
        if path is None:
            return None
        try:
            if self._folder is not None:
                return Path(os.path.relpath(path, os.path.realpath(self._folder))).as_posix()
        except ValueError:
            pass
        return Path(path).name

    def text(self, text: str | None) -> str | None:
        """Text without the folders of the files in it."""
        if not isinstance(text, str):
            return text
        for path in self._known:
            text = text.replace(path, Path(path).name)
        return _FOLDERS.sub("", text)

    def options(self, options: dict) -> dict:
        """Options, whose files are relative to the folder."""
        return {
            name: self.path(value) if name in PATHS and isinstance(value, str) else self._any(value)
            for name, value in options.items()
        }

    def _any(self, value):
        if isinstance(value, dict):
            return {name: self._any(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._any(one) for one in value]
        return self.text(value) if isinstance(value, str) else value
