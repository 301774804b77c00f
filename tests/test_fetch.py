"""Photos and videos from addresses, bytes and open files; and that nothing else is fetched."""

import contextlib
import functools
import gc
import http.server
import io
import json
import os
import pickle
import socket
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from test_workers import FIGURE, photo_and_keypoints

import tpc_fast
from tpc_fast import VideoReader
from tpc_fast.media import camera, fetch, limits
from tpc_fast.media.fetch import LocalCopy, fetched
from tpc_fast.media.images import load_image
from tpc_fast.media.video import VideoWriter


@pytest.fixture
def folder(tmp_path):
    """A photo and a clip of three frames."""
    Image.fromarray(photo_and_keypoints()[0]).save(tmp_path / "photo.png")
    with VideoWriter(tmp_path / "clip.mp4", 30, (180, 120)) as writer:
        for level in (50, 100, 150):
            writer.write(np.full((180, 120, 3), level, np.uint8))
    return tmp_path


@pytest.fixture
def served(folder):
    """The address of a server of that folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def calibrated(reference, driving):
    """With the keypoints of all persons given, so that nobody looks."""
    return tpc_fast.calibrate(
        reference,
        driving,
        reference_keypoints=FIGURE,
        reference_mask=photo_and_keypoints()[1],
        driving_keypoints=np.stack([FIGURE] * 3),
        size=32,
    )


def test_all_ways_give_the_same(folder, served):
    photo, clip = folder / "photo.png", folder / "clip.mp4"
    want = calibrated(photo, clip)
    frames = [frame.image for frame in VideoReader(clip)]
    with open(photo, "rb") as open_photo, open(clip, "rb") as open_clip:
        ways = [
            (f"{served}/photo.png", f"{served}/clip.mp4?token=1"),
            (photo.read_bytes(), bytearray(clip.read_bytes())),
            (open_photo, open_clip),
            (io.BytesIO(photo.read_bytes()), io.BytesIO(clip.read_bytes())),
        ]
        for reference, driving in ways:
            found = calibrated(reference, driving)
            assert_array_equal(found.matrices, want.matrices)
            assert_array_equal(found.images[:], want.images[:])
            assert found.reference_path is found.driving_path is None
            assert_array_equal([frame.image for frame in VideoReader(found.driving)], frames)  # as the preview does
            assert pickle.loads(pickle.dumps(found)).driving is None
    assert tpc_fast.Calibrator(f"{served}/photo.png", reference_keypoints=FIGURE).size == (512, 512)


def test_fsspec_serves_other_addresses(folder, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/photo.png", (folder / "photo.png").read_bytes())
    assert_array_equal(load_image(fetched("memory://photo.png", "reference"))[0], load_image(folder / "photo.png")[0])
    with pytest.raises(ValueError, match=r"reference: memory://none.png cannot be fetched"):
        fetched("memory://none.png", "reference")
    with pytest.raises(ValueError, match=r"driving: nowhere://x cannot be fetched: Protocol not known"):
        fetched("nowhere://x", "driving")
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(ImportError, match=r"driving: s3://bucket/a.mp4 needs fsspec.*pip install fsspec"):
        fetched("s3://bucket/a.mp4", "driving")


def test_what_cannot_be_fetched_is_said_as_it_was_typed(served, monkeypatch):
    with pytest.raises(ValueError, match=f"driving: {served}/none.mp4 cannot be fetched: .*not found"):
        calibrated(np.zeros((9, 9, 3), np.uint8), f"{served}/none.mp4")
    with pytest.raises(ValueError, match=r"reference: http://127.0.0.1:1/a.png cannot be fetched"):
        fetched("http://127.0.0.1:1/a.png", "reference")
    with pytest.raises(ValueError, match=r"reference must be a file opened in binary mode, but gives str"):
        fetched(io.StringIO("text"), "reference")
    monkeypatch.setattr(limits.LIMITS, "download", 100)
    for source in (f"{served}/photo.png", bytes(101), io.BytesIO(bytes(101))):
        with pytest.raises(ValueError, match=r"reference: .*at most 100 bytes"):
            fetched(source, "reference")


@pytest.fixture
def answering():
    """Serves bytes as they are: gives an address that answers with these parts, one after another, and counts them."""
    with contextlib.ExitStack() as stack:

        def address(*parts, pause=0.0, path="photo.png"):
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listening.settimeout(120)

            def answer():
                with contextlib.suppress(OSError), listening.accept()[0] as connected:
                    connected.recv(1 << 16)
                    for part in parts:
                        connected.sendall(part)
                        address.sent += 1
                        time.sleep(pause)

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            stack.callback(thread.join, 120)
            return f"http://127.0.0.1:{listening.getsockname()[1]}/{path}"

        address.sent = 0
        yield address


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD + b"\r\n", *[b"x"] * 100], [HEAD, *[b"X"] * 100],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"0"] * 100],
        [HEAD + b"Content-Length: 1000\r\n\r\n", *[b"x"] * 100],
    ],
    ids=["body", "header", "chunk", "length"],
)  # fmt: skip
def test_a_server_that_never_ends_is_given_up(answering, monkeypatch, parts):
    """Each byte comes in time, so that no time-out of a socket ends it. The clock: the server's ten parts a second."""
    monkeypatch.setattr(limits.LIMITS, "fetching", 1)
    with pytest.raises(
        ValueError, match=r"reference: http://.*/photo.png cannot be fetched: it takes longer than 1 second"
    ):
        fetched(answering(*parts, pause=0.1), "reference")
    assert answering.sent < 80


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (HEAD + b"Content-Length: 10\r\n\r\n12345", "it ends 5 bytes too early"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\n123", "IncompleteRead"),
        (b"nonsense\r\n\r\n", "nonsense"),
        (b"", "closed connection"),
        (HEAD + b"A: " + b"x" * 70000, "line"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "not allowed"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1:1/x\r\n\r\n", "unknown url type: ftp"),
        (b"HTTP/1.1 302 Found\r\nLocation: data:text/plain,x\r\n\r\n", "not allowed"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n", "Invalid IPv6"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", None),
    ],
)
def test_answers_that_are_none(answering, tmp_path, monkeypatch, answer, why):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if why is None:
        assert Path(fetched(answering(answer), "reference")).read_bytes() == b""
        return
    with pytest.raises(ValueError, match=f"^reference: http://.*/photo.png cannot be fetched: .*{why}") as error:
        fetched(answering(answer), "reference")
    assert not list(tmp_path.iterdir()), error  # while the error is known


@pytest.mark.parametrize(
    "address", ["http://[", "http://h:x/", "http:///x", "http://a\x00b/", "http://127.0.0.1:1/\u00e4 b.png"]
)
def test_addresses_that_are_none(address):
    with pytest.raises(ValueError, match=r"^reference: http.* cannot be fetched: "):
        fetched(address, "reference")


def test_errors_of_other_libraries_become_ours(monkeypatch):
    fsspec = pytest.importorskip("fsspec")

    class Strange(Exception):
        pass

    def fails(*_):
        raise Strange("no bucket")

    monkeypatch.setattr(fsspec, "open", fails)
    with pytest.raises(ValueError, match=r"reference: s3://a/b.png cannot be fetched: no bucket"):
        fetched("s3://a/b.png", "reference")


def test_copies_go_and_the_rest_stays(folder):
    copy = fetched(b"some", "reference")
    path = Path(os.fspath(copy))
    assert path.read_bytes() == b"some"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(copy)
    del copy
    gc.collect()
    assert not path.exists()
    for kept in ("photo.png", Path("a"), r"C:\photo.png", "c:/a://b", np.zeros(3), [1], Image.new("L", (2, 2))):
        assert fetched(kept, "reference") is kept
    assert not fetch.is_address(Path("http://x"))


def test_addresses_in_files_are_not_fetched(folder, served, tmp_path, monkeypatch):
    """A record of somebody else names an address: it is a name of a file that is not there."""
    calibration = calibrated(folder / "photo.png", folder / "clip.mp4")
    calibration.save(tmp_path / "out")
    record = tmp_path / "out" / "calibration.json"
    written = json.loads(record.read_text())
    written["driving"]["path"] = f"{served}/clip.mp4"
    record.write_text(json.dumps(written))

    def never(*_, **__):
        raise AssertionError("fetched")

    monkeypatch.setattr(fetch._Watch, "opener", never)
    monkeypatch.setattr(LocalCopy, "__init__", never)
    loaded = tpc_fast.Calibration.load(tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        list(VideoReader(loaded.driving_path))
    for source in (f"{served}/clip.mp4", f"{served}/photo.png"):
        with pytest.raises(FileNotFoundError):
            VideoReader(source)
        with pytest.raises(FileNotFoundError):
            load_image(source)


def test_network_cameras(monkeypatch):
    import av

    asked = []

    def opened(address, format, options):
        asked.append((address, format, options))
        raise OSError("no camera")

    monkeypatch.setattr(av, "open", opened)
    with pytest.raises(ValueError, match=r"camera: rtsp://10.0.0.1/live .* cannot be read by rtsp"):
        camera.Camera("rtsp://10.0.0.1/live")
    ((address, kind, options),) = asked
    assert (address, kind, options["rtsp_transport"]) == ("rtsp://10.0.0.1/live", "rtsp", "tcp")
    assert "file" not in options["protocol_whitelist"].split(",")
    assert 0 < int(options["timeout"]) <= 60_000_000


def test_a_network_camera_that_is_not_there():
    with pytest.raises(ValueError, match=r"rtsp://127.0.0.1:1/x .* cannot be read by rtsp"):
        camera.Camera("rtsp://127.0.0.1:1/x")
