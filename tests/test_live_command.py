"""`tpc-fast live`, its sources and views, and the example; a detector that knows where everybody is stands in."""

import io
import itertools
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scene import PERSON, scene

from tpc_fast import Calibrator
from tpc_fast.cli import live
from tpc_fast.cli.main import main
from tpc_fast.media import camera
from tpc_fast.media.files import sha256
from tpc_fast.media.newest import NewestFrame, paced
from tpc_fast.media.video import VideoFrame, VideoReader, VideoWriter
from tpc_fast.output.live_view import BrowserView, beside, open_view, over
from tpc_fast.output.provenance import read_tag, sidecar
from tpc_fast.pose.detect.detection import Detection

pytestmark = pytest.mark.usefixtures("one_thread")
FRAMES = 12
PATIENCE = 120  # seconds until what should come at once is given up
ROOT = Path(__file__).parents[1]


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """Photo, mask and clip as files; `Calibrator.step` is told who is in the frames, in their order."""
    image, mask, driving, keypoints, masks, _ = scene(np.random.default_rng(4), FRAMES)
    Image.fromarray(image).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with VideoWriter(tmp_path / "clip.mp4", 30, driving.shape[1:3]) as video:
        for frame in driving:
            video.write(frame)
    init, step = Calibrator.__init__, Calibrator.step

    def known(self, *args, **options):
        init(self, *args, **options | {"reference_keypoints": PERSON})

    def found(self, frame, time=None, detection=None):
        part = np.s_[: frame.shape[0], : frame.shape[1]]
        f = int(np.argmin([np.abs(frame.astype(int) - other[part]).mean() for other in driving]))
        of_frame = keypoints[f][None].astype(np.float32), np.ones((1, 17), np.float32), masks[f][part][None]
        return step(self, frame, time, Detection(*of_frame))

    monkeypatch.setattr(Calibrator, "__init__", known)
    monkeypatch.setattr(Calibrator, "step", found)
    return tmp_path


def command(folder, *more):
    return ["live", str(folder / "photo.png"), "--reference-mask", str(folder / "mask.png"), "--video",
            str(folder / "clip.mp4"), "--size", "64", "--show", "none", *more]  # fmt: skip


def test_without_a_model_the_calibrated_person_lies_over_the_frame(clip, capsys):
    assert main(command(clip, "--all-frames", "--record", str(clip / "out.mp4"))) == 0
    said = capsys.readouterr().out
    assert f"{FRAMES} frames" in said
    assert "0 dropped; latency" in said
    frames = list(VideoReader(clip / "out.mp4"))
    assert len(frames) == FRAMES
    assert read_tag(clip / "out.mp4") is None  # no model made it
    assert not sidecar(clip / "out.mp4").exists()
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(FRAMES) / 30, atol=2e-3)
    with Calibrator(clip / "photo.png", reference_mask=clip / "mask.png", size=64) as calibrator:
        source = next(iter(VideoReader(clip / "clip.mp4"))).image
        out = calibrator.step(source)
        expected = over(calibrator.canvas.draw(source), out.image, out.mask, out.order)
    assert np.abs(frames[0].image.astype(int) - expected).mean() < 12  # the film is compressed
    inside = out.mask[0] == 255
    np.testing.assert_array_equal(expected[inside], out.image[0][inside])


@pytest.mark.diffusion
@pytest.mark.parametrize("model", ["tiny-random", "tiny-random:musepose", "puppets"])
def test_with_a_model_every_frame_is_animated(clip, capsys, model):
    pytest.importorskip("diffusers")
    more = ["--model", model, "--chunk", "2", "--levels", "2", "--scheduler", "lcm", "--device", "cpu"]
    assert main(command(clip, "--all-frames", "--record", str(clip / "out.mp4"), *more)) == 0
    assert f"{FRAMES} frames" in capsys.readouterr().out
    assert sum(1 for _ in VideoReader(clip / "out.mp4")) == FRAMES
    assert read_tag(clip / "out.mp4")["model"] == model
    record = json.loads(sidecar(clip / "out.mp4").read_text())
    assert record["sha256"] == sha256(clip / "out.mp4")
    assert record["photo_sha256"] == sha256(clip / "photo.png")


@pytest.mark.diffusion
def test_the_example_runs(clip, monkeypatch):
    pytest.importorskip("diffusers")
    arguments = [str(clip / name) for name in ("photo.png", "clip.mp4")]
    monkeypatch.setattr(sys, "argv", ["live.py", *arguments, "tiny-random:musepose", str(clip / "out.mp4")])
    init = Calibrator.__init__
    monkeypatch.setattr(
        Calibrator, "__init__",
        lambda self, photo, size: init(self, photo, size=64, reference_mask=clip / "mask.png"),
    )  # fmt: skip
    example = ROOT / "examples" / "live.py"
    lines = [line for line in example.read_text().partition("sys.argv")[2].splitlines()[1:] if line]
    assert len(lines) == 10
    runpy.run_path(str(example), run_name="__main__")
    assert sum(1 for _ in VideoReader(clip / "out.mp4")) == FRAMES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_recording_whole(clip, number):
    """In a process of its own, on a source that never ends."""
    script = f"""
import itertools, numpy as np
from tpc_fast import Calibrator
from tpc_fast.cli import live
from tpc_fast.cli.main import main
from tpc_fast.media.video import VideoFrame
from tpc_fast.pose.detect.detection import Detection
step, init, steps = Calibrator.step, Calibrator.__init__, itertools.count()
points = np.array({PERSON.tolist()})
def found(self, frame, time=None, detection=None):
    if next(steps) == 3: print("running", flush=True)  # those before were shown; it comes from another thread
    mask = np.zeros((1, *frame.shape[:2]), np.uint8)
    return step(self, frame, time, Detection(points[None].astype(np.float32), np.ones((1, 17), np.float32), mask))
Calibrator.step = found
Calibrator.__init__ = lambda self, *a, **k: init(self, *a, **k | dict(reference_keypoints=points))
class Endless:
    def __init__(self, name): pass
    def __enter__(self): return self
    def __exit__(self, *_): print("camera closed", flush=True)
    def __iter__(self):
        import time
        for i in itertools.count():
            time.sleep(0.01)
            yield VideoFrame(np.full((120, 160, 3), i % 256, np.uint8), i / 100)
live.Camera = Endless
raise SystemExit(main(["live", "photo.png", "--reference-mask", "mask.png", "--size", "64", "--show", "none",
                       "--record", "out.mp4"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=clip, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    try:
        while "running" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        time.sleep(0.3)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "camera closed" in out
    assert "out.mp4" in out
    shown = int(out.partition(" frames")[0].split()[-1])
    assert sum(1 for _ in VideoReader(clip / "out.mp4")) == shown > 0
    assert not list(clip.glob(".*partial"))


def test_an_error_leaves_a_whole_recording_too(clip, monkeypatch, capsys):
    step, seen = Calibrator.step, []

    def fails(self, *args):
        seen.append(1)
        if len(seen) == 5:
            raise ValueError("the camera was pulled out")
        return step(self, *args)

    monkeypatch.setattr(Calibrator, "step", fails)
    assert main(command(clip, "--all-frames", "--record", str(clip / "out.mp4"))) == 1
    assert "the camera was pulled out" in capsys.readouterr().err
    assert sum(1 for _ in VideoReader(clip / "out.mp4")) == 4


def test_a_stream_that_changes_its_size_goes_on(clip, monkeypatch, caplog):
    class Turning:
        def __init__(self, path, name):
            self.fps, self._frames = 30.0, [frame.image for frame in VideoReader(path)]

        def __iter__(self):
            for number, image in enumerate(self._frames):
                cut = slice(None) if number < 5 else slice(0, -16)
                yield VideoFrame(image[:, cut], number / 30)

    monkeypatch.setattr(live, "VideoReader", Turning)
    assert main(command(clip, "--all-frames", "--record", str(clip / "out.mp4"))) == 0
    assert sum("frames have another size from" in text for text in caplog.messages) == 1
    assert sum(1 for _ in VideoReader(clip / "out.mp4")) == FRAMES


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--record", "nowhere/out.mp4"], "there is no folder nowhere"),
        (["--show", "window"], "choose --show browser or --show none"),
        (["--model", "tiny-random:dreampose"], "dreampose reads tokens"),
        (["--model", "tiny-random:wan-animate"], "wan-animate makes whole segments"),
        (["--model", "tiny-random:musepose", "--pose", "x.mp4"], "--pose must be left out"),
        (["--model", "tiny-random", "--pose", "x.mp4"], "--pose must be a TorchScript file"),
        (["--model", "tiny-random", "--lag", "3"], "lag must be one of 0, 4, 12"),
    ],
)
def test_what_cannot_be_is_said(clip, capsys, monkeypatch, more, message):
    pytest.importorskip("diffusers")
    monkeypatch.delenv("DISPLAY", raising=False)
    assert main(command(clip, *more)) == 1
    assert message in capsys.readouterr().err


def test_an_existing_recording_stays(clip, capsys):
    (clip / "out.mp4").write_bytes(b"mine")
    assert main(command(clip, "--record", str(clip / "out.mp4"))) == 1
    assert "exists: choose another place" in capsys.readouterr().err
    assert (clip / "out.mp4").read_bytes() == b"mine"
    assert main(["live", str(clip / "photo.png"), "--all-frames"]) == 1
    assert "--all-frames must go with --video" in capsys.readouterr().err


# A camera and a window, up to the libraries that reach them


class Device:
    """What av.open gives for a camera: a frame every now and then, until it is closed."""

    def __init__(self, frames, pause=0.02, ends=None):
        self.streams, self._closed = type("Streams", (), {"video": [0]}), threading.Event()
        self._frames, self._pause, self._ends = frames, pause, ends

    def decode(self, video):
        import av

        for frame in self._frames:
            if self._closed.wait(self._pause):
                return
            yield av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="yuyv422")
        if self._ends is not None:
            raise self._ends

    def close(self):
        self._closed.set()

    @property
    def closed(self):
        return self._closed.is_set()

    def closes(self):
        """Whether it is closed, or will be at once: by the thread that waited for a frame when the command ended."""
        return self._closed.wait(PATIENCE)


@pytest.fixture
def plugged(clip, monkeypatch):
    """A function that plugs in a camera with the clip's frames."""
    import av

    opened, original, asked = [], av.open, []

    def plug(endless=False, **options):
        frames = [frame.image for frame in VideoReader(clip / "clip.mp4")]
        (clip / "dev").mkdir()
        (clip / "dev" / "video0").write_bytes(b"")
        monkeypatch.setattr(camera, "_DEVICES", clip / "dev")
        monkeypatch.setattr(sys, "platform", "linux")

        def open_it(address, *args, **more):
            if more.get("format") != "v4l2":
                return original(address, *args, **more)
            asked.append(address)
            opened.append(Device(itertools.cycle(frames) if endless else frames, **options))
            return opened[-1]

        monkeypatch.setattr(av, "open", open_it)
        return opened, asked

    return plug


def of_camera(folder, *more):
    return ["live", str(folder / "photo.png"), "--reference-mask", str(folder / "mask.png"), "--size", "64",
            "--record", str(folder / "out.mp4"), *more]  # fmt: skip


def shown_frames(said):
    return int(said.partition(" frames")[0].split()[-1])


def test_a_camera_is_followed_until_it_ends(clip, plugged, capsys):
    opened, asked = plugged()
    assert main(of_camera(clip, "--show", "none")) == 0
    assert asked == [str(clip / "dev" / "video0")]
    assert opened[0].closes()
    shown = shown_frames(capsys.readouterr().out)
    assert 0 < shown <= FRAMES
    frames = list(VideoReader(clip / "out.mp4"))
    assert len(frames) == shown
    driving = [frame.image for frame in VideoReader(clip / "clip.mp4")]
    with Calibrator(clip / "photo.png", reference_mask=clip / "mask.png", size=64) as calibrator:
        out = calibrator.step(driving[0])
        backgrounds = [calibrator.canvas.draw(frame) for frame in driving]
    away = out.mask[0] == 0
    assert min(np.abs(frames[0].image.astype(int) - b)[away].mean() for b in backgrounds) < 20  # colours at half size


def test_a_camera_that_is_pulled_out_leaves_a_whole_recording(clip, plugged, capsys):
    import av

    opened, _ = plugged(ends=av.error.OSError(5, "Input/output error"))
    assert main(of_camera(clip, "--show", "none")) == 1
    assert "camera: 0 gives no more pictures: Input/output error" in capsys.readouterr().err
    assert opened[0].closes()
    assert sum(1 for _ in VideoReader(clip / "out.mp4")) > 0


def test_a_camera_is_not_closed_while_a_frame_is_waited_for(plugged):
    """By another thread: FFmpeg would read what is freed."""
    opened, _ = plugged()
    coming, given = threading.Event(), []

    def late(video):
        coming.wait(PATIENCE)
        assert not opened[0].closed
        yield Frame()

    class Frame:
        def to_ndarray(self, format):
            return np.zeros((2, 2, 3), np.uint8)

    source = camera.Camera(0)
    opened[0].decode = late
    thread = threading.Thread(target=lambda: given.extend(source))
    thread.start()
    while not source._reading.locked():
        time.sleep(0.001)
    source.close()
    assert not opened[0].closed
    coming.set()
    thread.join(PATIENCE)
    assert len(given) == 1
    assert opened[0].closed
    source.close()


class Screen:
    """tkinter and PIL's bridge to it: keeps what is shown; the user closes the window, or the display goes."""

    def __init__(self, monkeypatch, leaves_after=None, goes_after=None):
        import types

        self.shown, self.destroyed, self.title = [], 0, None
        screen = self

        class TclError(Exception):
            pass

        class Root:
            def title(self, text):
                screen.title = text

            def protocol(self, name, function):
                assert name == "WM_DELETE_WINDOW"
                self._leave = function

            def update(self):
                if goes_after is not None and len(screen.shown) >= goes_after:
                    raise TclError("application has been destroyed")
                if leaves_after is not None and len(screen.shown) >= leaves_after:
                    self._leave()

            def destroy(self):
                screen.destroyed += 1
                if goes_after is not None:
                    raise TclError("application has been destroyed")

        class Label:
            def __init__(self, root, **options):
                pass

            def pack(self):
                pass

            def configure(self, image):
                screen.shown.append(image)

        bridge = types.ModuleType("PIL.ImageTk")
        bridge.PhotoImage = lambda picture, master: np.asarray(picture)
        window = types.ModuleType("tkinter")
        window.Tk, window.Label, window.TclError = Root, Label, TclError
        monkeypatch.setitem(sys.modules, "tkinter", window)
        monkeypatch.setitem(sys.modules, "PIL.ImageTk", bridge)
        monkeypatch.setattr("PIL.ImageTk", bridge, raising=False)


@pytest.mark.parametrize("how", ["leaves_after", "goes_after"])
def test_a_window_that_closes_ends_it(clip, plugged, monkeypatch, capsys, how):
    """With the recording whole, and the camera let go."""
    screen = Screen(monkeypatch, **{how: 3})
    opened, _ = plugged(endless=True)
    assert main(of_camera(clip, "--show", "window")) == 0
    assert screen.title == live.TITLE
    assert len(screen.shown) == 3
    assert all(picture.shape == (64, 128, 3) for picture in screen.shown)  # the frame, and the person over it
    assert screen.destroyed == 1
    assert opened[0].closes()
    shown = shown_frames(capsys.readouterr().out)
    assert shown == 3
    assert sum(1 for _ in VideoReader(clip / "out.mp4")) == shown


@pytest.mark.diffusion
def test_a_camera_a_model_and_a_window(clip, plugged, monkeypatch, capsys):
    pytest.importorskip("diffusers")
    screen = Screen(monkeypatch)
    plugged()
    model = ["--model", "tiny-random:musepose", "--chunk", "1", "--levels", "2", "--device", "cpu"]
    assert main(of_camera(clip, "--show", "window", *model)) == 0
    shown = shown_frames(capsys.readouterr().out)
    assert len(screen.shown) == shown == sum(1 for _ in VideoReader(clip / "out.mp4")) > 0


# Sources


def numbered(count):
    return [VideoFrame(np.full((2, 2, 3), i, np.uint8), i / 100) for i in range(count)]


def test_the_newest_frame_wins():
    asked, given = threading.Event(), threading.Event()

    def source():
        yield from numbered(5)
        given.set()
        asked.wait(PATIENCE)
        yield from numbered(7)[5:]

    with NewestFrame(source()) as newest:
        assert given.wait(PATIENCE)
        assert newest.take().image[0, 0, 0] == 4
        assert newest.dropped == 4
        assert newest.take(0.01) is None
        asked.set()
        newest._thread.join(PATIENCE)
        assert newest.take().image[0, 0, 0] == 6
        assert newest.dropped == 5
        with pytest.raises(EOFError):
            newest.take()


def test_errors_of_a_source_arrive():
    def source():
        yield numbered(1)[0]
        raise OSError("unplugged")

    with NewestFrame(source()) as newest:
        newest._thread.join(PATIENCE)
        assert newest.take() is not None
        with pytest.raises(OSError, match="unplugged"):
            newest.take()


def test_a_file_comes_at_its_own_pace():
    started = time.perf_counter()
    times = [(frame.time, time.perf_counter() - started) for frame in paced(numbered(6))]
    assert all(later >= wanted - 1e-3 for wanted, later in times)


def test_cameras(tmp_path, monkeypatch):
    monkeypatch.setattr(camera, "_DEVICES", tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(FileNotFoundError, match="cameras that there are: none"):
        camera.Camera(0)
    (tmp_path / "video3").write_bytes(b"no camera")
    with pytest.raises(FileNotFoundError, match=r"there is no .*video0; cameras that there are: .*video3"):
        camera.Camera("0")
    with pytest.raises(ValueError, match="cannot be read by v4l2"):
        camera.Camera(3)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert camera._address(1) == ("avfoundation", "1:none")
    monkeypatch.setattr(sys, "platform", "win32")
    assert camera._address("HD Webcam") == ("dshow", "video=HD Webcam")
    with pytest.raises(ValueError, match="must be a name as DirectShow lists it, but is 0"):
        camera._address(0)


# Views


def test_persons_lie_over_the_frame_in_their_order(rng):
    frame, images = rng.integers(0, 256, (5, 4, 3), np.uint8), rng.integers(0, 256, (2, 5, 4, 3), np.uint8)
    masks = rng.integers(0, 256, (2, 5, 4), np.uint8)
    expected = frame.astype(float)
    for person in (1, 0):
        a = masks[person][..., None] / 255
        expected = a * images[person] + (1 - a) * expected
    assert np.abs(over(frame, images, masks, np.array([1, 0])) - expected).max() <= 1.01
    assert beside(frame, frame).shape == (5, 8, 3)
    assert (beside(np.zeros((60, 200, 3), np.uint8), text="12 frames/s") > 0).any()


def test_the_page_shows_the_newest_picture():
    pictures = [np.full((20, 30, 3), value, np.uint8) for value in (40, 200)]
    with BrowserView("a <title>") as view:
        page = urllib.request.urlopen(view.where, timeout=PATIENCE).read().decode()
        assert "a &lt;title&gt;" in page
        assert view.where.startswith("http://127.0.0.1:")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(view.where.rsplit("/", 2)[0] + "/stream", timeout=PATIENCE)
        for value in pictures:
            view.show(value)
        with urllib.request.urlopen(view.where + "stream", timeout=PATIENCE) as stream:
            assert stream.headers["Content-Type"].startswith("multipart/x-mixed-replace")
            assert stream.readline() == b"--frame\r\n"
            stream.readline()
            size = int(stream.readline().split()[1])
            stream.readline()
            shown = np.asarray(Image.open(io.BytesIO(stream.read(size))))
        assert np.abs(shown.astype(int) - 200).max() < 4
    with pytest.raises(ValueError, match="show must be one of window, browser, none"):
        open_view("hologram", "")


def test_numbers_are_of_late_and_of_all(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(live.time, "perf_counter", lambda: now[0])
    times = live._Times()
    assert times.summary(3) == "no frame was shown, 3 dropped"
    for i in range(50):
        now[0] = i * 0.1
        times.add(now[0] - 0.25)
    assert times.line(2) == "10.0 frames/s, latency 250 ms, 2 dropped"
    assert times.summary(2) == "50 frames, 10.0 frames/s, 2 dropped; latency 250 ms (median), 250 ms (largest)"
