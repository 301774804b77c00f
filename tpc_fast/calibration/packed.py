"""A calibration as bytes, without its pictures: what a column of a table holds."""

import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from tpc_fast.calibration.record import MASKS_FILE, read_record, to_json, write_masks
from tpc_fast.calibration.result import Calibration
from tpc_fast.media.files import CALIBRATION_FILE
from tpc_fast.media.json_text import to_text
from tpc_fast.media.limits import LIMITS
from tpc_fast.media.reading import reading


def pack(calibration: Calibration) -> bytes:
    """A zip archive in memory of calibration.json and masks.npz; it names photo and video without their folders.

    Equal calibrations give equal bytes: how long they took is left out.
    """
    masks, archive = io.BytesIO(), io.BytesIO()
    write_masks(calibration, masks)
    with zipfile.ZipFile(archive, "w") as file:  # by ZipInfo, which has no time
        text = to_text(to_json(calibration, None) | {"timings": {}})
        file.writestr(zipfile.ZipInfo(CALIBRATION_FILE), text, zipfile.ZIP_DEFLATED)
        file.writestr(zipfile.ZipInfo(MASKS_FILE), masks.getvalue())  # is compressed
    return archive.getvalue()


def unpack(data: bytes, reference_image: np.ndarray, driving: str | None = None) -> Calibration:
    """What `pack` packed.

    Args:
        data: the bytes.
        reference_image: the photo, uint8 [H, W, 3].
        driving: path of the driving video, if its frames will be wanted.

    Raises:
        ValueError: if the bytes are not a calibration, are larger than `LIMITS` allow, or are of another photo.
    """
    with tempfile.TemporaryDirectory(prefix="tpc_fast-") as folder, reading("record cannot be read"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name, limit in ((CALIBRATION_FILE, "text"), (MASKS_FILE, "unpacked")):
                LIMITS.check(limit, archive.getinfo(name).file_size, name)
                (Path(folder) / name).write_bytes(archive.read(name))
        fields = read_record(Path(folder), reference_image)
    return Calibration(**{**fields, "driving_path": driving, "reference_path": None})
