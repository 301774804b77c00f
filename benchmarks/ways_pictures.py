"""Makes the README's pictures of the ways in, with a drawn person: `python benchmarks/ways_pictures.py`.

Everything shown is real: what the command printed (without its times, which are those of one machine), what Python
returned, and the page as a browser shows it. Needs the extras `app` and `demo`, Playwright (`pip install playwright`)
and a Chromium on the path.
"""

import base64
import contextlib
import html
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import tpc_fast
from tpc_fast.media.video import VideoReader, VideoWriter

RESULTS = Path(__file__).parent / "results"
FRAMES, FPS = 48, 16
PHOTO, CLIP = (560, 640), (512, 512)  # (height, width)
SIZE = (760, 560)  # (width, height) of a picture of the README
SMOOTH = 3  # the drawing is made so many times as large, and shrunk
LOOKS = {
    "photo": dict(shirt="#d1495b", arms="#d1495b", legs="#30638e", shoes="#33261d", skin="#e9b48e", hair="#4a2c17"),
    "clip": dict(shirt="#3d5a45", arms="#3d5a45", legs="#22252b", shoes="#101114", skin="#b98058", hair="#15120f"),
}
CODE = """\
import tpc_fast

calibration = tpc_fast.calibrate("photo.png", "clip.mp4")

calibration.images[24]      # the photo, warped to frame 24
calibration.masks[24]       # its person
calibration.composites[24]  # the person alone
"""
PAGE = """<body style="margin:0;background:{ground};color:{ink};font:{font};width:{width}px;height:{height}px;
box-sizing:border-box;padding:26px 30px;display:flex;flex-direction:column;gap:20px;overflow:hidden">
<pre style="margin:0;font:inherit;line-height:1.5;white-space:pre-wrap;overflow:hidden">{text}</pre>
<div style="display:flex;gap:12px;margin-top:auto">{pictures}</div></body>"""


def skeleton(arms: tuple[float, float], bend: float) -> np.ndarray:
    """[17, 2] of a person of height 1 who stands on (0, 0): arms at these angles from hanging, knees so far apart."""
    points = np.zeros((17, 2))
    for side, angle in ((0, arms[0]), (1, arms[1])):
        sign = 1 if side == 0 else -1  # the left is at the right of the picture
        points[1 + side], points[3 + side] = (sign * 0.022, -0.895), (sign * 0.056, -0.885)
        shoulder = points[5 + side] = np.array([sign * 0.11, -0.755])
        elbow = points[7 + side] = shoulder + 0.155 * np.array([sign * np.sin(angle), np.cos(angle)])
        points[9 + side] = elbow + 0.145 * np.array([sign * np.sin(1.5 * angle), np.cos(1.5 * angle)])
        points[11 + side] = (sign * 0.07, -0.47)
        points[13 + side] = (sign * (0.08 + bend), -0.25)
        points[15 + side] = (sign * (0.085 + 0.4 * bend), -0.03)
    points[0] = (0, -0.872)
    return points


def place(points: np.ndarray, height: float, angle: float, feet) -> np.ndarray:
    """A skeleton of so many pixels, turned by `angle` about its feet at `feet`."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return height * points @ turn.T + np.asarray(feet, float)


def draw(points: np.ndarray, size: tuple[int, int], looks: dict, walls: tuple[str, str]) -> np.ndarray:
    """The person in a room, uint8 [H, W, 3]."""
    height, width = size
    canvas = Image.new("RGB", (width * SMOOTH, height * SMOOTH), walls[0])
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((0, 0.8 * height * SMOOTH, width * SMOOTH, height * SMOOTH), fill=walls[1])
    p = points * SMOOTH
    unit = np.linalg.norm(p[[5, 6]].mean(0) - p[[11, 12]].mean(0)) / 0.285  # the person's height

    def stroke(colour, thick, *places):
        ways = [tuple(place) for place in places]
        pen.line(ways, fill=colour, width=round(thick * unit), joint="curve")
        for x, y in ways:
            r = thick * unit / 2
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    for side in (0, 1):
        foot = p[15 + side] + (p[15 + side] - p[13 + side]) * 0.1
        stroke(looks["legs"], 0.082, p[11 + side], p[13 + side], p[15 + side])
        stroke(looks["shoes"], 0.06, foot, foot + unit * np.array([0.03 if side == 0 else -0.03, 0]))
    neck, up = p[[5, 6]].mean(0), (p[0] - p[[5, 6]].mean(0)) / 0.117
    stroke(looks["skin"], 0.06, neck, neck + 0.08 * up)
    pen.polygon([tuple(x) for x in p[[5, 6, 12, 11]]], fill=looks["shirt"])
    stroke(looks["shirt"], 0.075, p[5], p[6], p[12], p[11], p[5])
    for side in (0, 1):
        stroke(looks["skin"], 0.05, p[7 + side], p[9 + side])
        stroke(looks["arms"], 0.062, p[5 + side], p[7 + side])
        stroke(looks["skin"], 0.06, p[9 + side])
    head, right = p[0] + 0.012 * up, p[3] - p[4]
    around = np.linspace(0, 2 * np.pi, 60)[:, None]
    for colour, centre, wide, tall in (
        (looks["hair"], head + 0.018 * up, 0.62, 0.088), (looks["skin"], head - 0.006 * up, 0.53, 0.075)
    ):  # fmt: skip
        pen.polygon([tuple(x) for x in centre + wide * np.cos(around) * right + tall * np.sin(around) * up], colour)
    stroke(looks["hair"], 0.03, head + 0.062 * up - 0.35 * right, head + 0.075 * up, head + 0.062 * up + 0.35 * right)
    for eye in p[[1, 2]]:
        stroke("#ffffff", 0.02, eye)
        stroke("#1b1b1b", 0.011, eye)
    stroke("#8f5a3c", 0.008, p[0] + 0.012 * up, p[0] - 0.006 * up)
    mouth = p[0] - 0.034 * up
    stroke("#9c3d3d", 0.009, mouth - 0.16 * right, mouth - 0.004 * up, mouth + 0.16 * right)
    return np.asarray(canvas.resize((width, height), Image.Resampling.LANCZOS))


def photo() -> np.ndarray:
    """Small, at the left, leaning."""
    return draw(place(skeleton((0.3, 0.45), 0), 400, -0.2, (235, 520)), PHOTO, LOOKS["photo"], ("#e8d9c0", "#b99c74"))


def clip() -> list[np.ndarray]:
    """Somebody who walks to the right and nearer, and waves."""
    frames = []
    for t in np.linspace(0, 1, FRAMES):
        body = skeleton((0.5 + 1.6 * t, 0.35 + 0.25 * np.sin(9 * t)), 0.02 * np.sin(12 * t) ** 2)
        body = place(body, 330 + 110 * t, 0.1 * np.sin(6 * t), (200 + 110 * t, 440 + 46 * t))
        frames.append(draw(body, CLIP, LOOKS["clip"], ("#b7cbd6", "#7b8f9b")))
    return frames


def as_tag(picture: np.ndarray, label: str, height: int) -> str:
    """An <img> with what it shows."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    source = base64.b64encode(data.getvalue()).decode()
    style = f"height:{height}px;border-radius:8px;display:block"
    text = f'<figcaption style="padding-top:6px;opacity:.75">{label}</figcaption>'
    return f'<figure style="margin:0"><img style="{style}" src="data:image/png;base64,{source}">{text}</figure>'


def coloured(code: str) -> str:
    """Python as HTML, with comments and text in colours."""
    colours = {"#": "#77808c", '"': "#0a7d4b"}
    paint = lambda found: f'<span style="color:{colours[found[0][0]]}">{found[0]}</span>'  # noqa: E731
    return re.sub(r'#.*|"[^"]*"', paint, html.escape(code, quote=False))


def command_page(folder: Path) -> str:
    """Runs the command; its words, and a frame of its preview."""
    words = ["calibrate", "photo.png", "clip.mp4", "-o", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "tpc_fast.cli.main", *words], cwd=folder, capture_output=True, text=True, check=True
    )
    said = "\n".join(line for line in done.stdout.splitlines() if line.strip() and not line.startswith("time:"))
    said = re.sub(r" in [\d.]+ s, [\d.]+ frames/s", "", said)
    shown = f'<span style="color:#7ee0a8">$</span> {" ".join(["tpc-fast", *words])}\n{html.escape(said)}'
    strip = [frame.image for frame in VideoReader(folder / "out" / "preview.mp4")][FRAMES // 2]
    return PAGE.format(
        ground="#14181f", ink="#e6e9ee", font="16px 'DejaVu Sans Mono',monospace", width=SIZE[0], height=SIZE[1],
        text=shown, pictures=as_tag(strip, "out/preview.mp4: the video, the calibrated photo, both", 226),
    )  # fmt: skip


def python_page(folder: Path) -> str:
    """Runs the code; what it returns for a frame."""
    with contextlib.chdir(folder):
        known = {"tpc_fast": tpc_fast}
        exec(CODE, known)
        calibration = known["calibration"]
        i = FRAMES // 2
        driving = list(calibration.driving_frames())[i]
        mask = np.repeat(calibration.masks[i][0][..., None], 3, -1)
        pictures = [
            (driving, "frame 24"), (calibration.images[i][0], "images[24]"), (mask, "masks[24]"),
            (calibration.composites[i], "composites[24]"),
        ]  # fmt: skip
    shown = "".join(as_tag(picture, label, 164) for picture, label in pictures)
    return PAGE.format(
        ground="#ffffff", ink="#1b222c", font="18px 'DejaVu Sans Mono',monospace", width=SIZE[0], height=SIZE[1],
        text=coloured(CODE), pictures=shown,
    )  # fmt: skip


def main() -> None:
    """Draws, runs, photographs."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with (
        tempfile.TemporaryDirectory() as temporary,
        sync_playwright() as playwright,
        contextlib.closing(playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])) as browser,
    ):
        folder = Path(temporary)
        Image.fromarray(photo()).save(folder / "photo.png")
        with VideoWriter(folder / "clip.mp4", FPS, CLIP) as video:
            for frame in clip():
                video.write(frame)
        tab = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        for name, make in (("command", command_page), ("python", python_page)):
            tab.set_content(make(folder))
            save(tab.screenshot(), name)
        save(page_shot(browser, folder), "page")


def page_shot(browser, folder: Path) -> bytes:
    """The page of `tpc-fast serve` after a calibration, as its visitor sees it."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tpc_fast.cli.main", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        tab = browser.new_page(viewport={"width": 1180, "height": 870})
        tab.goto(server.stdout.readline().strip())
        for where, name, shown in (("photo", "photo.png", "img"), ("video", "clip.mp4", "video")):
            tab.set_input_files(f"#{where} input[type=file]", folder / name)
            tab.wait_for_selector(f"#{where} {shown}")
        tab.click("#run")
        tab.wait_for_selector("#summary .tpc-verdict", timeout=300_000)
        tab.get_by_role("tab", name="Before and after").click()
        tab.wait_for_selector("#compare img")
        tab.wait_for_timeout(2000)
        tab.evaluate("document.querySelector('#result').scrollIntoView()")
        tab.wait_for_timeout(500)
        return tab.screenshot()
    finally:
        server.terminate()
        server.wait()


def save(shot: bytes, name: str) -> None:
    """A screenshot in few colours, small enough for a README."""
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    picture.thumbnail(SIZE, Image.Resampling.LANCZOS)
    path = RESULTS / f"way-{name}.png"
    picture.quantize(192, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {picture.size}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
