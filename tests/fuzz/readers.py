"""Every reader against mutated files: `python tests/fuzz/readers.py TARGET [SECONDS]`, with atheris where there is one.

Allowed are ValueError, TypeError, FileNotFoundError and MemoryError; anything else ends the run. Without atheris, files
of the seed corpus are mutated at random. The corpus is made here, of the writers of the package.
"""

import io
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tpc_fast.calibration.record import read_record
from tpc_fast.media.images import load_image
from tpc_fast.pose.files.detections import Detections, save_detections
from tpc_fast.pose.files.given import load_masks
from tpc_fast.pose.files.read import load_keypoints

ALLOWED = (ValueError, TypeError, FileNotFoundError, MemoryError)
FOLDER = Path(tempfile.mkdtemp())


def _picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(file, kind)
    return file.getvalue()


def _detections(name: str, **arrays) -> bytes:
    points = np.random.default_rng(0).uniform(3, 40, (2, 1, 17, 2))
    save_detections(FOLDER / name, Detections.from_arrays(points, **arrays), None)
    return (FOLDER / name).read_bytes()


def _npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _read(name: str, read):
    def run(data: bytes) -> None:
        (FOLDER / name).write_bytes(data)
        read(FOLDER / name)

    return run


def _record(data: bytes) -> None:
    (FOLDER / "calibration.json").write_bytes(data)
    (FOLDER / "reference.png").write_bytes(_picture("PNG"))
    masks = _npz(reference_mask=np.zeros((1, 4, 4), np.uint8), pose_masks=np.zeros((1, 1, 2), np.uint8))
    (FOLDER / "masks.npz").write_bytes(masks)
    read_record(FOLDER)


OPENPOSE = {"people": [{"pose_keypoints_2d": [1.0, 2, 0.5] * 18}], "canvas_width": 9, "canvas_height": 8}
COCO = [{"image_id": 1, "keypoints": [3.0, 4, 2] * 17}]
RECORD = {
    "format": "tpc_fast.calibration", "format_version": 1, "size": [4, 4], "fps": 25, "cuts": [], "options": {},
    "reference": {"path": "a.png", "persons": [{"driving": 0, "keypoints": [[1, 1, 1]] * 17}]},
    "driving": {"path": "a.mp4", "size": [4, 4], "box": [0, 0, 4, 4], "frame_range": [0, None]},
    "detector": None, "timings": {}, "warnings": [], "versions": {},
    "frames": [{"time": 0, "persons": [{
        "status": "tracked", "swapped": False, "opacity": 1, "matrix": [[1, 0, 0], [0, 1, 0]],
        "raw_matrix": [[1, 0, 0], [0, 1, 0]], "members": [0, 1], "residual": 0.5, "keypoints": [[1, 1, 1]] * 17,
    }]}],
}  # fmt: skip

# Name -> (what reads it, seeds).
TARGETS = {
    "json": (_read("x.json", load_keypoints), [json.dumps(d).encode() for d in (OPENPOSE, COCO)]),
    "npz": (_read("x.npz", load_keypoints), [_detections("a.npz"), _npz(landmarks=np.zeros((2, 33, 4)))]),
    "masks": (_read("m.npz", load_masks), [_npz(masks=np.zeros((2, 4, 5), np.uint8))]),
    "pictures": (_read("x.png", load_image), [_picture(k) for k in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM")]),
    "record": (_record, [json.dumps(RECORD).encode()]),
}


def check(run, data: bytes) -> bool:
    """Whether a file was read; raises what must not be raised."""
    try:
        run(data)
    except ALLOWED:
        return False
    return True


def mutated(random_, seed: bytes) -> bytes:
    """A seed cut off, or with bytes changed, doubled or taken out."""
    data = bytearray(seed)
    for _ in range(random_.randint(1, 8)):
        at, length = random_.randrange(len(data) + 1), random_.randint(1, 16)
        how = random_.randrange(4)
        if how == 0:
            del data[at : at + length]
        elif how == 1:
            data[at:at] = data[max(at - length, 0) : at] or b"9" * length
        elif how == 2 and at < len(data):
            data[at] = random_.randrange(256)
        else:
            data[at : at + 1] = random_.choice([b"e999", b"-1", b"[", b"{}", b"null", b"\xff", b"\0" * 4, b'"x"'])
    return bytes(data)


def main(target: str, seconds: float) -> int:
    run, seeds = TARGETS[target]
    if not all(check(run, seed) for seed in seeds):
        raise SystemExit(f"{target}: a seed cannot be read")
    seed = random.SystemRandom().randrange(1 << 32)
    random_, count, good, end = random.Random(seed), 0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(random_, random_.choice(seeds))
        try:
            good += check(run, data)
        except BaseException:
            (Path.cwd() / f"crash-{target}").write_bytes(data)
            raise
        count += 1
    print(f"{target}: {count} files, {good} of them read, nothing else than was allowed (random seed {seed})")
    return count


if __name__ == "__main__":
    name, limit = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 20
    try:
        import atheris
    except ImportError:
        main(name, limit)
    else:
        target = TARGETS[name][0]
        corpus = FOLDER / "corpus"
        corpus.mkdir()
        for number, one in enumerate(TARGETS[name][1]):
            (corpus / str(number)).write_bytes(one)
        atheris.instrument_all()
        atheris.Setup([sys.argv[0], f"-max_total_time={limit:.0f}", str(corpus)], lambda data: check(target, data))
        atheris.Fuzz()
