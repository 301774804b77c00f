"""What a made video says of itself: a tag in the file, a record beside it, and a signature if there is a key.

The words are those of IPTC's vocabulary of digital source types (cv.iptc.org/newscodes/digitalsourcetype), which
Content Credentials (C2PA) use, too.
"""

import datetime
import json
import os
from pathlib import Path

from tpc_fast._version import __version__
from tpc_fast.media.container import open_container
from tpc_fast.media.files import sha256, whole_file
from tpc_fast.media.json_text import to_text
from tpc_fast.media.reading import read_json

FORMAT = "tpc_fast.provenance"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_KEY = "comment"  # of an mp4: FFmpeg keeps it when it encodes again
_LONGEST = 1 << 16  # characters of a tag that is read
_LARGEST = 1 << 20  # bytes of a record that is read; ours have some hundred, and settings


class Provenance:
    """Marks one video that a model makes: `VideoWriter(..., metadata=p.metadata, finish=p.finish)`, then `p.write()`.

    Args:
        output: the video.
        model: what made it: a name, a hub id, or a path, of which the last part is told.
        kind: of the model.
        photo_sha256: of the photo's file, or None if it is not known.
        sign: called with the finished file, which it signs in place; None: it is not signed.
        settings: what else the record keeps.

    Attributes:
        output: the video.
        path: the record.
        tag: what both say.
        metadata, finish: for `VideoWriter`.

    Raises:
        FileExistsError: if something that is no such record has its name.
    """

    def __init__(self, output: Path, model: str, kind: str, photo_sha256=None, sign=None, **settings):
        self.path = sidecar(output)
        if os.path.lexists(self.path) and _sidecar_of(output) is None:
            raise FileExistsError(
                f"output: {self.path}, where the record of the video is to be, exists and is none: move it away"
            )
        self.tag = {
            "format": FORMAT, "tool": "tpc_fast", "version": __version__, "model": _name(model), "kind": kind,
            "digitalSourceType": SOURCE_TYPE,
        }  # fmt: skip
        self.metadata = {_KEY: json.dumps(self.tag)}
        self._record = {"photo_sha256": photo_sha256, "signed": sign is not None, "settings": settings}
        self.output, self._sign, self._sha256 = Path(output), sign, None

    def finish(self, partial: Path) -> None:
        """Signs the file before it gets its name, and takes its hash."""
        if self._sign is not None:
            self._sign(partial)
        self._sha256 = sha256(partial)

    def write(self) -> None:
        """Writes the record beside the video, which is there."""
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = self.tag | {"video": self.output.name, "sha256": self._sha256, "created": created} | self._record
        with whole_file(self.path) as partial:
            partial.write_text(to_text(record) + "\n", encoding="utf-8")


def sidecar(video: Path) -> Path:
    """Where the record of a video is: OUT.mp4.json beside OUT.mp4."""
    return video.with_name(f"{video.name}.json")


def read_tag(path: Path) -> dict | None:
    """What the tag of a video says: name -> text; None if it has none of ours, or is no video."""
    import av

    try:
        with open_container(path) as container:
            text = container.metadata.get(_KEY, "")
        return _ours(json.loads(text)) if len(text) <= _LONGEST else None
    except (av.error.FFmpegError, OSError, ValueError, RecursionError):
        return None


def read_sidecar(path: Path) -> dict | None:
    """The record beside a video, with `same`: whether the file is the one that was written, byte by byte."""
    record = _sidecar_of(path)
    return None if record is None else record | {"same": record.get("sha256") == sha256(path)}


def _sidecar_of(path: Path) -> dict | None:
    try:
        return _ours(read_json(sidecar(path), _LARGEST))
    except (OSError, ValueError):
        return None


def _ours(found) -> dict | None:
    """The texts of a tag or record of ours."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        return None
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _name(model: str) -> str:
    """Of a path the last part: where it lies is nobody's business."""
    local = os.path.isabs(model) or os.path.exists(model) or model.startswith((".", "~"))
    return Path(model).name if local else model
