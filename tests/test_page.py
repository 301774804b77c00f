"""The page in a real browser, headless, with the embedded detector; and its server, asked for what it must not give."""

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import chromium

from tpc_fast import demo
from tpc_fast.media.png import write_png
from tpc_fast.media.video import VideoWriter
from tpc_fast.ops.warp import WarpSource

pytestmark = [pytest.mark.app, pytest.mark.demo, pytest.mark.slow]
FRAMES, LONG = 8, 48
SECONDS = 120_000  # milliseconds that the browser waits for anything, on a busy machine


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The demo's photo, and the middle of its clip, short and long; what is no picture."""
    folder = tmp_path_factory.mktemp("clips")
    photo, camera = demo.load_photo(), demo.camera_path()
    write_png(folder / "photo.png", photo)
    source = WarpSource(photo, np.full(photo.shape[:2], 255, np.uint8))
    for name, count in (("clip.mp4", FRAMES), ("long.mp4", LONG)):
        with VideoWriter(folder / name, demo.FPS, (256, 256)) as video:
            for matrix in camera.matrix[40 : 40 + count] / [[[2], [2]]]:
                video.write(source.warp(matrix[None], (256, 256), "cubic", antialias=True, background=0).composite[0])
    (folder / "letter.png").write_text("dear sir")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(address, process, folder of its files)."""
    folder = tmp_path_factory.mktemp("served")
    process = subprocess.Popen(
        [sys.executable, "-m", "tpc_fast.cli.main", "serve", "--port", "0", "--upload", "2"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    yield process.stdout.readline().strip(), process, folder
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    process.stdout.close()


@pytest.fixture(scope="module")
def browser(clips):
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with (
        sync_playwright() as playwright,
        contextlib.closing(playwright.chromium.launch(executable_path=chromium(), args=options)) as browser,
    ):
        yield browser


@pytest.fixture
def open_page(browser, server):
    """Opens the page anew; tells it from which hosts something was asked for."""
    with contextlib.ExitStack() as stack:

        def go(**options):
            context = stack.enter_context(
                contextlib.closing(browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options))
            )
            context.set_default_timeout(SECONDS)
            page = context.new_page()
            page.hosts, page.problems = set(), []
            page.on("request", lambda request: page.hosts.add(urlsplit(request.url).netloc))
            page.on("pageerror", lambda error: page.problems.append(str(error)))
            # Catches choosers of files from now on. Playwright begins with the first listener, without waiting for it:
            # a listener that came just before the key was too late in 45 of 120 tries on a busy machine.
            page.on("filechooser", lambda chooser: None)
            page.goto(server[0])
            page.wait_for_selector("#run")
            return page

        yield go


def bring(page, clips, photo="photo.png", video="clip.mp4"):
    for where, name, shown in (("photo", photo, "img"), ("video", video, "video")):
        if name is not None:
            page.set_input_files(f"#{where} input[type=file]", clips / name)
            if not name.startswith("letter"):
                page.wait_for_selector(f"#{where} {shown}")


def jobs_in(folder: Path) -> list[Path]:
    return [path for root in folder.glob("tpc-fast-*/jobs") for path in root.iterdir()]


def children(process) -> list[int]:
    """The processes that calibrate."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "tpc_fast.app.work" in line]


def until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


@contextlib.contextmanager
def held(process):
    """The calibration stands still in here, so that what the page says of it stays as long as a slow browser needs."""
    until(lambda: children(process))
    stopped = children(process)
    for child in stopped:
        os.kill(child, signal.SIGSTOP)
    try:
        yield
    finally:
        for child in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGCONT)


def test_from_upload_to_download(open_page, clips, server):
    page = open_page()
    bring(page, clips)
    page.click("#run")
    with held(server[1]):
        page.wait_for_selector("#state [role=progressbar]")
        assert page.is_visible("#cancel")
    page.wait_for_selector("#summary .tpc-verdict")
    assert re.match(rf"\d+ of {FRAMES} frames tracked", page.inner_text("#summary .tpc-verdict"))
    page.wait_for_selector("#player video")
    until(lambda: page.evaluate("document.querySelector('#player video').readyState") >= 2)
    page.get_by_role("tab", name="Before and after").click()
    page.wait_for_selector("#compare img")
    before = page.get_attribute("#compare img", "src")
    page.fill("#frame input[type=number]", "1")
    page.press("#frame input[type=number]", "Enter")
    until(lambda: page.get_attribute("#compare img", "src") != before)
    page.get_by_role("tab", name="Report and curves").click()
    frame = page.frame_locator("#report iframe")
    assert "frames tracked" in frame.locator(".verdict").inner_text()
    assert frame.locator("figure.chart").count() >= 4
    page.get_by_role("tab", name="Files").click()
    with page.expect_download() as loading:
        page.click("#zip")
    with zipfile.ZipFile(loading.value.path()) as archive:
        assert {"calibration.json", "preview.mp4", "report.html"} <= set(archive.namelist())
        assert sum(name.startswith("0-person_cal_ref_img/") for name in archive.namelist()) == FRAMES
    page.get_by_role("tab", name="Who plays whom").click()
    page.click("#recast")
    with held(server[1]):
        page.wait_for_selector("#state [role=progressbar]")
    page.wait_for_selector("#state [role=status]")
    assert page.inner_text("#state") == "Done"
    assert page.hosts - {""} == {urlsplit(server[0]).netloc}  # "": data and blob addresses
    assert not page.problems
    assert len(jobs_in(server[2])) == 1
    page.close()
    until(lambda: not jobs_in(server[2]))


def test_cancel_ends_the_process(open_page, clips, server):
    page = open_page()
    bring(page, clips, video="long.mp4")
    page.click("#run")
    page.wait_for_selector("#state >> text=/frame \\d+ of/")
    with held(server[1]):
        page.click("#cancel")
        page.wait_for_selector("#state >> text=Cancelled")
    assert not children(server[1])
    assert not jobs_in(server[2])
    assert page.is_enabled("#run")


def test_what_is_wrong_is_said(open_page, clips):
    page = open_page()
    page.click("#run")
    page.wait_for_selector("#state >> text=Bring a photo first")
    bring(page, clips, photo="letter.png")
    page.wait_for_selector("#photo img", state="attached")
    page.wait_for_timeout(1000)
    page.click("#run")
    page.wait_for_selector("#state [role=alert] >> text=no picture of a format that is read here")
    assert "/" not in page.inner_text("#state").replace("photo/video", "")


WRONG = (
    ("photo.png", "empty.mp4", "the video: video.mp4 is not a video that can be read"),
    ("empty.png", "clip.mp4", "the photo: photo.png cannot be read"),
    ("photo.png", "letter.mp4", "the video: video.mp4 is not a video that can be read"),
    ("photo.png", "minutes.mp4", "the video must be at most 120 s long here, but is 600.0 s"),
    ("wall.png", "clip.mp4", "the photo: no person was found"),
)


@pytest.mark.parametrize(("photo", "video", "said"), WRONG, ids=[f"{p}-{v}" for p, v, _ in WRONG])
def test_files_that_will_not_do(open_page, clips, photo, video, said):
    """Each says why in the page's words, and leaves a page that can be used."""
    (clips / "empty.mp4").touch()
    (clips / "empty.png").touch()
    (clips / "letter.mp4").write_text("dear sir")
    write_png(clips / "wall.png", np.full((200, 200, 3), 150, np.uint8))
    if video == "minutes.mp4" and not (clips / video).exists():
        with VideoWriter(clips / video, 1, (16, 16)) as written:
            for _ in range(600):
                written.write(np.zeros((16, 16, 3), np.uint8))
    page = open_page()
    page.set_input_files("#photo input[type=file]", clips / photo)
    page.set_input_files("#video input[type=file]", clips / video)
    page.wait_for_selector("#photo img", state="attached")
    page.wait_for_selector("#video video", state="attached")
    page.wait_for_timeout(1000)
    page.click("#run")
    page.wait_for_selector(f"#state [role=alert] >> text={said}")
    assert page.is_enabled("#run")
    assert not page.is_visible("#cancel")
    assert not page.is_visible("#result")


def test_a_page_that_is_loaded_anew(open_page, clips, server):
    """The browser asks before a calibration is lost, and only then; after it all is as for a new visitor."""
    page, asked = open_page(), []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    bring(page, clips, video="long.mp4")
    page.click("#run")
    page.wait_for_selector("#state >> text=/frame \\d+ of/")
    with held(server[1]):
        page.reload()
        assert asked == ["beforeunload"]
        page.wait_for_selector("#run")
    until(lambda: not children(server[1]) and not jobs_in(server[2]))
    page.wait_for_timeout(1000)
    assert page.inner_text("#state") == ""
    bring(page, clips)
    page.click("#run")
    page.wait_for_selector("#summary .tpc-verdict")
    page.reload()
    assert asked == ["beforeunload"]


def test_two_tabs_take_turns(open_page, clips, server):
    """And a new calibration hides the old one, whose files are gone."""
    first, second = open_page(), open_page()
    bring(first, clips, video="long.mp4")
    bring(second, clips)
    first.click("#run")
    first.wait_for_selector("#state >> text=/frame \\d+ of/")
    with held(server[1]):
        second.click("#run")
        second.wait_for_selector("#state >> text=Waiting: another calibration is running")
        assert len(children(server[1])) == 1
    for page in (first, second):
        page.wait_for_selector("#summary .tpc-verdict")
    second.click("#run")
    with held(server[1]):
        second.wait_for_selector("#result", state="hidden")
        second.click("#cancel")
        second.wait_for_selector("#state >> text=Cancelled")
    assert not second.is_visible("#result")
    assert first.is_visible("#result")


def test_all_of_it_by_keyboard(open_page, clips, server):
    page = open_page()

    def tab_to(script):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"(e => {script})(document.activeElement)"):
                return
        pytest.fail(f"Tab does not reach {script}")

    for where, name, shown in (("photo", "photo.png", "img"), ("video", "clip.mp4", "video")):
        tab_to(f"e.closest('#{where} .upload-container')")
        with page.expect_file_chooser() as choosing:
            page.keyboard.press("Enter")
        choosing.value.set_files(clips / name)
        page.wait_for_selector(f"#{where} {shown}")
    tab_to("e.id == 'run'")
    page.keyboard.press("Enter")
    with held(server[1]):
        page.wait_for_selector("#cancel")
        tab_to("e.id == 'cancel'")
        page.keyboard.press("Enter")
        page.wait_for_selector("#state >> text=Cancelled")
    page.focus("#run")
    page.keyboard.press("Enter")
    page.wait_for_selector("#summary .tpc-verdict")
    tab_to("e.innerText == 'Files'")
    page.keyboard.press("Enter")
    tab_to("e.closest('#zip') || e.id == 'zip'")
    with page.expect_download():
        page.keyboard.press("Enter")


def test_phone_width(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("Video", "Live camera"):
        page.get_by_role("tab", name=name, exact=True).click()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_keyboard_only(open_page):
    page = open_page()
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
        if reached[-1] == "run":
            break
    assert reached[-1] == "run"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector("#state [role=alert] >> text=Bring a photo first")


def test_light_and_dark(open_page):
    lightness = {}
    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme)
        colours = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('h1')).color]"
        )
        lightness[scheme] = [_luminance(colour) for colour in colours]
    (page_light, ink_light), (page_dark, ink_dark) = lightness["light"], lightness["dark"]
    assert page_light > 0.8 > 0.2 > page_dark
    for one, other in ((page_light, ink_light), (ink_dark, page_dark)):
        assert (one + 0.05) / (other + 0.05) > 7  # WCAG 2.2, AAA


def _luminance(colour: str) -> float:
    channels = np.array([float(n) for n in re.findall(r"[\d.]+", colour)][:3]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_live_camera(open_page, clips):
    page = open_page()
    bring(page, clips, video=None)
    page.get_by_role("tab", name="Live camera").click()
    page.click("#camera >> text=Click to Access Webcam")
    page.click("#camera >> button:visible >> text=Record")
    page.wait_for_selector("#live img")
    first = page.get_attribute("#live img", "src")
    until(lambda: page.get_attribute("#live img", "src") != first)


# What the server must not do


def ask(server, method, path, body=None, headers=()):
    address = urlsplit(server[0])
    with contextlib.closing(http.client.HTTPConnection(address.hostname, address.port, timeout=120)) as connection:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize(
    "path",
    ["=/etc/passwd", "=/proc/self/environ", f"={Path(__file__)}", "=..%2f..%2fetc/passwd", "=http://127.0.0.1:1/",
     "=HTTP://x/", "=https://example.org/", "/http://127.0.0.1:1/", "//etc/passwd"],
)  # fmt: skip
def test_no_file_outside_is_read(server, path):
    status, answer = ask(server, "GET", f"/gradio_api/file{path}")
    assert status in (403, 404)
    assert b"root:" not in answer
    assert b"pytest" not in answer


def test_uploads_are_bounded(server):
    part = b"--b\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    assert ask(server, "POST", "/gradio_api/upload", part + bytes(100) + b"\r\n--b--\r\n", kind)[0] == 200
    assert ask(server, "POST", "/gradio_api/upload", part + bytes(3 << 20) + b"\r\n--b--\r\n", kind)[0] == 413


def forged(server, button, event, given) -> bytes:
    """What the server says to one who asks as a program would that forges what the browser sends."""
    status, config = ask(server, "GET", "/config")
    assert status == 200
    config = json.loads(config)
    ids = {c["props"].get("elem_id"): c["id"] for c in config["components"]}
    (run,) = [d for d in config["dependencies"] if [ids[button], event] in [list(t) for t in d["targets"]]]
    values = {ids[name]: value for name, value in given.items()}
    data = {"data": [values.get(i) for i in run["inputs"]], "fn_index": run["id"], "session_hash": "forged"}
    kind = {"Content-Type": "application/json"}
    status, _ = ask(server, "POST", "/gradio_api/queue/join", json.dumps(data), kind)
    return ask(server, "GET", "/gradio_api/queue/data?session_hash=forged")[1] if status == 200 else b'"success":false'


def file_data(path, **more) -> dict:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:1/x.png", "PHOTO"])
def test_no_job_takes_a_file_from_elsewhere(server, clips, path):
    file = file_data(clips / "photo.png" if path == "PHOTO" else path)
    assert b'"success":false' in forged(server, "run", "click", {"photo": file, "video": file})
    assert not jobs_in(server[2])


@pytest.mark.parametrize("how", ["address", "path", "data"])
def test_a_camera_is_no_way_in(server, clips, tmp_path, how):
    """Frames that are addresses, files of this machine, and PostScript, for which Pillow would run Ghostscript."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
    frame = {
        "address": lambda: file_data("http://127.0.0.1:1/x.png"),
        "path": lambda: file_data(clips / "photo.png"),
        "data": lambda: file_data("x", url=f"data:image/png;base64,{base64.b64encode(script).decode()}"),
    }[how]()
    assert b'"success":false' in forged(server, "camera", "stream", {"camera": frame, "view": "alone"})


def test_other_pages_are_refused(server):
    kind = {"Content-Type": "text/plain", "Origin": "https://evil.example"}
    assert ask(server, "POST", "/gradio_api/queue/join", "{}", kind)[0] == 403
    assert ask(server, "POST", "/gradio_api/upload", "", kind)[0] == 403
    assert ask(server, "GET", "/config", headers={"Host": "evil.example"})[0] == 403


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_this_machine_alone_and_nothing_left(tmp_path, number):
    """A server of its own: where it listens, and what is left after a signal."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tpc_fast.cli.main", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # under nohup it would be deaf to the hang-up
    )  # fmt: skip
    address = process.stdout.readline().strip()
    assert urlsplit(address).hostname == "127.0.0.1"
    until(lambda: list(tmp_path.glob("tpc-fast-*/jobs")))
    process.send_signal(number)
    process.communicate(timeout=120)
    assert not list(tmp_path.iterdir())
