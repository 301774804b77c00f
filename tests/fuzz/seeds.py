"""The seed corpora of the readers: small files of every kind, made by the writers of the package and its neighbours."""

import contextlib
import csv
import functools
import io
import json
import shutil
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tpc_fast.calibration.video import calibrate
from tpc_fast.media.hdr import HLG, PQ
from tpc_fast.media.video import VideoWriter
from tpc_fast.output.provenance import Provenance
from tpc_fast.pose.files.detections import Detections, save_detections

FRAMES = 2
FILES = ("calibration.json", "masks.npz", "reference.png")
FILM = "film.mp4"  # that the records of `filmed` name
PICTURE = np.arange(16 * 16 * 3, dtype=np.uint32).astype(np.uint8).reshape(16, 16, 3)

OPENPOSE = {"people": [{"pose_keypoints_2d": [1.0, 2, 0.5] * 18}], "canvas_width": 9, "canvas_height": 8}
COCO = [{"image_id": 1, "keypoints": [3.0, 4, 2] * 17}]
MMPOSE = {"instance_info": [{"frame_id": 0, "instances": [{"keypoints": [[3, 4]] * 17, "keypoint_scores": [1] * 17}]}]}
MEDIAPIPE = [[{"x": 5.0, "y": 6.0, "visibility": 1.0}] * 33]
POSEDATA = {
    "pose_metas_original": [
        {"width": 9, "height": 8, "keypoints_body": [[0.5, 0.5, 1]] * 20, "keypoints_left_hand": [[0.1, 0.2, 1]] * 21}
    ]
}


def _bytes_of(write) -> bytes:
    """What `write(path)` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write(path)
        return path.read_bytes()


def _npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def keypoint_texts() -> list[bytes]:
    return [json.dumps(one).encode() for one in (OPENPOSE, COCO, MMPOSE, MEDIAPIPE, POSEDATA)]


def keypoint_archives() -> list[bytes]:
    points = np.random.default_rng(0).uniform(3, 40, (2, 1, 17, 2))
    with tempfile.TemporaryDirectory() as folder:
        save_detections(Path(folder) / "a.npz", Detections.from_arrays(points), None)
        own = (Path(folder) / "a.npz").read_bytes()
    dwpose = dict(bodies=np.full((18, 2), 5.0), subset=np.arange(18.0)[None], size=np.array([9, 8]))
    return [own, _npz(landmarks=np.zeros((2, 33, 4))), _npz(**dwpose)]


def mask_archives() -> list[bytes]:
    return [_npz(masks=np.zeros((2, 4, 5), np.uint8)), _npz(masks=np.ones((2, 1, 4, 5), bool))]


def pictures() -> list[bytes]:
    kinds = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM", "WEBP", "AVIF", "HEIF")
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return [_picture(kind) for kind in kinds if kind in Image.SAVE]


def animations() -> list[bytes]:
    def moving(kind):
        file = io.BytesIO()
        first, *others = (Image.fromarray(np.roll(PICTURE, place, 0)) for place in range(3))
        first.save(file, kind, save_all=True, append_images=others, duration=40)
        return file.getvalue()

    return [moving("PNG"), moving("WEBP")]


def _picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, kind)
    return file.getvalue()


@functools.cache
def _calibration() -> Path:
    """A calibration of a tiny photo and clip."""
    points = np.random.default_rng(1).uniform(2, 14, (1, 17, 2))
    found = calibrate(
        PICTURE, np.stack([PICTURE] * FRAMES), size=16, reference_keypoints=points,
        reference_mask=np.full((1, 16, 16), 255, np.uint8), driving_keypoints=np.stack([points] * FRAMES),
        driving_masks=np.full((FRAMES, 1, 16, 16), 255, np.uint8),
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp()) / "calibration"
    found.save(folder)
    return folder


def calibration(folder: Path) -> Path:
    """A folder with a good calibration, in which whatever was there is replaced."""
    folder.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(_calibration() / name, folder / name)
    return folder


def records() -> list[bytes]:
    return [(_calibration() / "calibration.json").read_bytes()]


def folders() -> list[bytes]:
    return [bytes([place]) + (_calibration() / name).read_bytes() for place, name in enumerate(FILES)]


def filmed() -> list[bytes]:
    """A record that names its photo and its film, which lie beside it."""
    record = json.loads(records()[0])
    record["reference"]["path"], record["driving"]["path"] = "reference.png", FILM
    return [json.dumps(record).encode()]


def videos() -> list[bytes]:
    """Of every kind of container and many codecs; turned, mirrored, of high dynamic range."""
    kinds = (("mp4", "libx264"), ("webm", "libvpx"), ("gif", "gif"), ("avi", "mpeg4"), ("matroska", "ffv1"),
             ("flv", "flv"), ("h264", "libx264"), ("mov", "mjpeg"), ("mpegts", "mpeg2video"), ("mpeg", "mpeg1video"),
             ("asf", "wmv2"), ("nut", "huffyuv"), ("ivf", "libvpx"), ("3gp", "h263"), ("rm", "rv10"),
             ("yuv4mpegpipe", "rawvideo"), ("hevc", "libx265"), ("mxf", "mpeg2video"))  # fmt: skip
    return [*(_film(*kind) for kind in kinds), _turned(_film("mp4", "libx264")), *map(_hdr, (PQ, HLG))]


def _turned(film: bytes) -> bytes:
    """An mp4 whose picture is to be shown mirrored, and turned by a quarter: the matrix in its `tkhd` box."""
    place = film.index(b"tkhd") + 44
    return film[:place] + struct.pack(">9i", 0, 1 << 16, 0, 1 << 16, 0, 0, 0, 0, 1 << 30) + film[place + 36 :]


def _hdr(transfer: int) -> bytes:
    return _film("mp4", "libx264", pixels="yuv420p10le", transfer=transfer)


def _film(container: str, codec: str, sound: bool = False, pixels: str | None = None, transfer: int = 0) -> bytes:
    import av

    pixels = pixels or {"gif": "rgb8", "mjpeg": "yuvj420p", "huffyuv": "yuv422p"}.get(codec, "yuv420p")
    width, height = (128, 96) if codec == "h263" else (16, 16)  # its smallest
    count = 60 if container == "mpegts" else 3  # of fewer nobody tells what they are, if the name does not

    def write(path):
        with av.open(str(path), "w", format=container) as file:
            stream = file.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, pixels
            if codec == "libx265":
                stream.options = {"x265-params": "log-level=none"}
            if transfer:
                stream.codec_context.color_trc = transfer
            heard = file.add_stream("aac", 16000, layout="mono") if sound else None
            for _ in range(count):
                frame = av.VideoFrame.from_ndarray(PICTURE, format="rgb24").reformat(width, height, pixels)
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
            if heard is not None:
                for place in range(2):
                    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                    frame.sample_rate, frame.pts = 16000, place * 1024
                    file.mux(heard.encode(frame))
                file.mux(heard.encode(None))

    return _bytes_of(write)


def sounds() -> list[bytes]:
    """Of films, and of sound alone."""
    kinds = (("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus"), ("adts", "aac"))
    films = [_film("mp4", "libx264", sound=True), _film("matroska", "ffv1", sound=True)]
    return films + [_heard(*kind) for kind in kinds]


def _heard(container: str, codec: str) -> bytes:
    import av

    def write(path):
        with av.open(str(path), "w", format=container) as file:
            stream = file.add_stream(codec, 16000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, 0
            fifo = av.AudioFifo()
            for part in av.AudioResampler(stream.format, "mono", 16000).resample(frame):
                fifo.write(part)
            while part := fifo.read(stream.frame_size or 1024, partial=True):
                file.mux(stream.encode(part))
            file.mux(stream.encode(None))

    return _bytes_of(write)


def poses() -> list[bytes]:
    def film(path):
        with VideoWriter(path, 25, (16, 16)) as video:
            for _ in range(FRAMES):
                video.write(PICTURE)

    file = io.BytesIO()
    np.save(file, np.zeros((2, 16, 16), np.float32))
    return [b"f" + _bytes_of(film), b"a" + file.getvalue()]


def _state() -> dict:
    import torch

    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.float16)}


def safetensors() -> list[bytes]:
    from safetensors.torch import save

    import tpc_fast.diffusion.checkpoints  # noqa: F401  here, so that its time is not the first file's

    return [save(_state())]


def checkpoints() -> list[bytes]:
    """As torch writes them, today and before 1.6, bare and wrapped."""
    import torch

    return [
        _bytes_of(lambda path: torch.save(_state(), path)),
        _bytes_of(lambda path: torch.save({"state_dict": _state()}, path)),
        _bytes_of(lambda path: torch.save({"module": _state()}, path, _use_new_zipfile_serialization=False)),
    ]


def configurations() -> list[bytes]:
    import diffusers  # noqa: F401  here, so that its time is not the first file's

    small = dict(
        sample_size=8, block_out_channels=[32, 32], layers_per_block=1, cross_attention_dim=8, attention_head_dim=8,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
    )  # fmt: skip
    return [json.dumps(small).encode()]


def marked() -> list[bytes]:
    """What `verify` looks at: a video with a tag, and, where it can be signed, a video and a picture that are.

    The first byte says what the file is called.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        made = Provenance(folder / "v.mp4", "model", "champ")
        with VideoWriter(folder / "v.mp4", 25, (16, 16), metadata=made.metadata) as video:
            video.write(PICTURE)
        film, picture = (folder / "v.mp4").read_bytes(), _picture("JPEG")
        found = [b"v" + film]
        try:
            import c2pa  # noqa: F401
        except ImportError:
            return found
        sys.path.append(str(Path(__file__).parents[1]))
        import certificates

        from tpc_fast.output.credentials import Signer

        signer = Signer(*certificates.make(folder).split(","))
        (folder / "photo.png").write_bytes(_picture("PNG"))
        for first, kind, data in ((b"v", "video/mp4", film), (b"p", "image/jpeg", picture)):
            target = io.BytesIO()
            signer._embed(folder / "photo.png", "title", made.tag, kind, io.BytesIO(data), target)
            found.append(first + target.getvalue())
        return found


def sidecars() -> list[bytes]:
    """The record beside a made video."""

    def write(path):
        made = Provenance(path.with_name("v.mp4"), "model", "champ", "ab" * 32, seed=3)
        path.with_name("v.mp4").write_bytes(b"film")
        made.finish(path.with_name("v.mp4"))
        made.write()
        made.path.rename(path)

    return [_bytes_of(write)]


def manifests() -> list[bytes]:
    """Tables of photos and videos; the first byte says of which kind."""
    rows = [
        {"reference": f"{n}.png", "driving": "a/b.mp4", "note": str(n), "options": '{"size": 64}'} for n in range(3)
    ]
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    numbered = [row | {"number": n, "options": {"size": 64}} for n, row in enumerate(rows)]
    found = [b"c" + table.getvalue().encode(), b"j" + "\n".join(map(json.dumps, numbered)).encode()]
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return found

    def write(path):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(numbered), path)

    return [*found, b"p" + _bytes_of(write)]
