"""Preview and report: they exist, decode, say what happened, and need nothing from elsewhere."""

import base64
import io
import re
import types
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

import tpc_fast
from tpc_fast.media.panels import lay_over, shrink
from tpc_fast.media.video import VideoReader
from tpc_fast.output import html, report
from tpc_fast.output.preview import contours, draw_strip, to_jpeg, worst_status, write_preview
from tpc_fast.output.render import _render_frame, draw_panels
from tpc_fast.output.report import frames_to_show, write_report

KEYPOINTS = np.random.default_rng(5).uniform(8, 40, (17, 2))


def make_calibration(frames=6, size=(48, 64), video=True):
    """A person that moves to the right; frame 2 is a fallback, 3 is held and 4 lost, as far as there are so many."""
    photo = np.random.default_rng(1).integers(0, 256, (60, 50, 3), np.uint8)
    mask = np.zeros((60, 50), np.uint8)
    mask[10:40, 10:30] = 255
    pose = np.zeros((frames, 48, 64), np.uint8)
    pose[:, 5:40, 8:30] = 255
    calibration = tpc_fast.calibrate(
        photo,
        np.full((frames, 48, 64, 3), 200, np.uint8),
        size=size,
        smooth="none",
        reference_keypoints=KEYPOINTS,
        reference_mask=mask,
        driving_keypoints=KEYPOINTS + np.arange(frames)[:, None, None] * [1.0, 0.0],
        driving_masks=pose,
    )
    calibration.status = calibration.status.astype("U8")
    for frame, status in zip(range(2, frames), ("fallback", "held", "lost"), strict=False):
        calibration.status[frame] = status
    if not video:
        calibration.driving = None
    return calibration


def frame_of(calibration, index, driving=None):
    return _render_frame(calibration, index, (), calibration.size, driving)[0]


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects what a page asks for."""

    VOID = ("meta", "img", "br")
    DRAWN = ("path", "polyline")  # of SVG, closed at once

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.sources = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.sources += [value for name, value in attributes if name in ("src", "href", "data", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_a_report_is_whole_or_not_there(tmp_path, monkeypatch):
    def stops(path, text, **options):
        path.write_bytes(text.encode()[:100])
        raise OSError("the disk is full")

    calibration = make_calibration()
    monkeypatch.setattr(Path, "write_text", stops)
    with pytest.raises(OSError, match="disk is full"):
        write_report(calibration, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def written(tmp_path, calibration):
    write_report(calibration, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    return text, page


# The preview


def test_preview(tmp_path):
    calibration = make_calibration()
    seen = write_preview(calibration, tmp_path / "preview.mp4", keep=[0, 3])
    frames = list(VideoReader(tmp_path / "preview.mp4"))
    assert len(frames) == 6
    assert frames[0].image.shape == (48, 3 * 64 + 2 * 4, 3)
    assert np.abs(frames[0].image[10:40, 10:50].astype(int) - 200).mean() < 6  # the driving frame comes first
    assert sorted(seen.pictures) == [0, 3]
    with Image.open(io.BytesIO(seen.pictures[3])) as picture:
        assert (picture.format, picture.height) == ("JPEG", 48)
    assert np.allclose(seen.mask_iou, calibration.mask_iou(), equal_nan=True)


def test_preview_of_a_large_canvas_is_scaled(tmp_path):
    write_preview(make_calibration(1, size=(600, 400)), tmp_path / "preview.mp4")
    height, width = VideoReader(tmp_path / "preview.mp4").size
    assert (height, width) == (256, pytest.approx(3 * 400 * 256 / 600 + 8, abs=3))


def test_preview_of_odd_sizes(tmp_path):
    write_preview(make_calibration(2, size=(47, 63)), tmp_path / "preview.mp4")
    assert len(list(VideoReader(tmp_path / "preview.mp4"))) == 2


def test_preview_without_the_driving_video(tmp_path):
    write_preview(make_calibration(video=False), tmp_path / "preview.mp4")
    first = next(iter(VideoReader(tmp_path / "preview.mp4"))).image
    assert abs(int(first[20, 20].mean()) - 85) < 10  # its person mask, dark
    assert first[45, 60].max() < 10


def test_preview_keeps_times(tmp_path):
    calibration = make_calibration(4)
    calibration.times = np.array([2.0, 2.1, 2.5, 2.6])
    write_preview(calibration, tmp_path / "preview.mp4")
    assert np.allclose([f.time for f in VideoReader(tmp_path / "preview.mp4")], [0, 0.1, 0.5, 0.6], atol=1e-4)


def test_nothing_is_left_of_a_failed_preview(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr("tpc_fast.output.preview.draw_strip", broken)
    with pytest.raises(RuntimeError, match="broken"):
        write_preview(make_calibration(), tmp_path / "preview.mp4")
    assert list(tmp_path.iterdir()) == []


def test_strip():
    calibration = make_calibration(size=(48, 64))
    driving = np.full((48, 64, 3), 200, np.uint8)
    strip = draw_strip(calibration, frame_of(calibration, 0, driving))
    plain = np.ones((48, 64), bool)
    for x, y in calibration.keypoints[0, 0]:
        plain[max(int(y) - 6, 0) : int(y) + 7, max(int(x) - 6, 0) : int(x) + 7] = False
    plain &= ~contours(calibration.pose_masks[0])
    panels = [strip[:, i * 68 : i * 68 + 64] for i in range(3)]
    inside, outside = plain & (calibration.masks[0][0] == 255), plain & (calibration.masks[0][0] == 0)
    assert np.array_equal(panels[0], driving)
    assert np.array_equal(panels[1], calibration.images[0][0])
    assert inside.any()
    assert np.array_equal(panels[2][inside], panels[1][inside])
    assert (panels[2][outside] == 100).all()


def test_frames_that_are_not_tracked_are_marked():
    calibration = make_calibration()
    tracked, held = (draw_strip(calibration, frame_of(calibration, i)) for i in (0, 3))
    colour = (224, 116, 46)
    assert (held[-1] == colour).all()
    assert not (tracked[-1] == colour).all()


def test_drawing_does_not_change_what_was_rendered():
    calibration = make_calibration()
    frame = frame_of(calibration, 0, np.full((48, 64, 3), 200, np.uint8))
    parts = [*frame[1:4], *frame.panels]
    copies = [part.copy() for part in parts]
    draw_strip(calibration, frame)
    assert all(np.array_equal(a, b) for a, b in zip(parts, copies, strict=True))


def test_contours():
    masks = np.zeros((2, 9, 9), np.uint8)
    masks[0, 3:7, 3:7] = 200
    lines = contours(masks)
    assert lines[2:8, 2:8].sum() - lines[4:6, 4:6].sum() == lines.sum()
    assert lines[3, 4]
    assert lines[2, 4]
    assert not lines[4:6, 4:6].any()


def test_worst_status():
    assert worst_status(np.array(["tracked", "lost", "held"])) == "lost"
    assert worst_status(np.array(["tracked", "tracked"])) == "tracked"


def test_jpeg_is_made_smaller_not_larger():
    for height, expected in ((100, 50), (30, 30)):
        with Image.open(io.BytesIO(to_jpeg(np.zeros((height, 60, 3), np.uint8), 50))) as picture:
            assert picture.height == expected


# The report


def test_report_is_self_contained(tmp_path):
    text, page = written(tmp_path, make_calibration())
    assert page.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert not re.search(r"https?:|url\(|@import", text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    for source in page.sources:
        with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as picture:
            picture.load()


def test_report_says_what_happened(tmp_path):
    calibration = make_calibration()
    calibration.warnings = ["the video is cut off"]
    calibration.timings = {"detect": 3.0, "write": 1.0}
    _, page = written(tmp_path, calibration)
    for words in (
        "3 of 6 frames tracked",
        "1 shows too little, neighbours fill in, 1 not seen, carried over, 1 lost and faded out",
        "6 frames, 0.20 s at 30 fps, on a canvas of 64 x 48",
        "the video is cut off",
        "detect 3.00 s 500.00 ms",
        "1.5 frames/s",
        "left shoulder",
        "tpc_fast 0",
        "score_threshold",
    ):
        assert words in page.text, words


def test_good_news(tmp_path):
    _, page = written(tmp_path, make_calibration(2))
    assert "2 of 2 frames tracked" in page.text
    assert "Not tracked" not in page.text
    assert "Warnings" not in page.text


def test_one_frame(tmp_path):
    _, page = written(tmp_path, make_calibration(1))
    assert "1 of 1 frames tracked" in page.text


def test_report_of_lost_frames_only(tmp_path):
    calibration = make_calibration(3)
    calibration.status[:] = "lost"
    calibration.keypoints[:] = np.nan
    calibration.members[:] = False
    text, page = written(tmp_path, calibration)
    assert "0 of 3 frames tracked" in page.text
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text)


def test_curves_have_a_point_for_every_frame(tmp_path):
    calibration = make_calibration(6)
    _, page = written(tmp_path, calibration)
    curves = [a for tag, a in page.tags if tag == "polyline"]
    assert [a["class"].split()[0] for a in curves] == ["raw", "curve", "raw", "curve", "curve", "curve"]
    for attributes in curves:
        points = [[float(n) for n in point.split(",")] for point in attributes["points"].split()]
        assert len(points) == 6
        assert all(0 <= x <= 1000 and 0 <= y <= 100 for x, y in points)


def test_shades_are_where_the_frames_are(tmp_path):
    _, page = written(tmp_path, make_calibration(6))
    first = [a for tag, a in page.tags if tag == "rect"][:3]
    assert [(a["class"], float(a["x"]), float(a["width"])) for a in first] == [
        ("fallback", 333.3, 166.7),
        ("held", 500.0, 166.7),
        ("lost", 666.7, 166.7),
    ]


def test_hostile_names_are_escaped(tmp_path):
    calibration = make_calibration(2)
    evil = "<script>alert('1')</script>\"&.png"
    calibration.reference_path = calibration.driving_path = f"/x{evil}"
    calibration.warnings, calibration.options[evil] = [evil], evil
    calibration.versions[evil], calibration.timings[evil], calibration.detector = evil, 1.0, evil
    text, page = written(tmp_path, calibration)
    assert "<script" not in text
    assert page.text.count("alert('1')") >= 7


def test_frames_to_show():
    calibration = make_calibration(100)
    calibration.status[:] = "tracked"
    calibration.status[20:30] = "held"
    shown = frames_to_show(calibration)
    assert 20 in shown
    assert (shown[0], shown[-1]) == (0, 99)
    assert 12 <= len(shown) <= 13
    calibration.status[::2] = "lost"
    assert 18 < len(frames_to_show(calibration)) <= 24  # twelve evenly spaced, twelve of fifty that are not tracked


def test_curves_of_long_videos_are_thinned():
    """To more points than a screen has columns, and no more."""
    frames = 5000
    status = np.full((frames, 1), "tracked")
    calibration = types.SimpleNamespace(times=np.arange(frames) / 30, fps=30, persons=1, status=status)
    drawn = report._chart(calibration, "title", "unit", np.ones((frames, 1)), None, (0, 2))
    (points,) = re.findall(r'points="([^"]*)"', drawn)
    assert 1500 < len(points.split()) < 2500


def test_report_takes_what_the_preview_has_seen(tmp_path, monkeypatch):
    calibration = make_calibration()
    seen = write_preview(calibration, None, keep=frames_to_show(calibration))
    monkeypatch.setattr(type(calibration), "render", lambda *_: pytest.fail("rendered again"))
    write_report(calibration, tmp_path / "report.html", seen)
    assert "3 of 6 frames tracked" in Page((tmp_path / "report.html").read_text(encoding="utf-8")).text


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.45, 0.88, [0.5, 0.6, 0.7, 0.8]),
        (-59.5, -52.9, [-58, -56, -54]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round(low, high, ticks):
    assert report.ticks(low, high, 4) == ticks


def test_scale_and_angle(rng):
    angle, scale = np.radians([170, 179, 188, 200]), np.array([0.5, 1, 2, 3])
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    matrices = np.stack([np.stack([a, -b, 0 * a], -1), np.stack([b, a, 0 * a], -1)], -2)[:, None]
    found = report.scale_and_degrees(matrices)
    assert np.allclose(found[0][:, 0], scale)
    assert np.allclose(found[1][:, 0], [170, 179, 188, 200])


def two_persons():
    """Person 0 stands still and is tracked; person 1 is not seen from frame 3 on. In the photo they stand apart."""
    rng = np.random.default_rng(2)
    photo = rng.integers(100, 256, (60, 120, 3), np.uint8)
    masks = np.zeros((2, 60, 120), np.uint8)
    masks[0, 10:50, 10:40], masks[1, 10:50, 80:110] = 255, 255
    reference = np.stack([KEYPOINTS, KEYPOINTS + (68, 0)])
    driving = np.repeat(np.concatenate([reference, np.ones((2, 17, 1))], -1)[None], 6, 0)
    driving[:, 1, :, 0] -= 25
    driving[3:, 1, :, 2] = 0
    return tpc_fast.calibrate(
        photo, np.full((6, 60, 120, 3), 200, np.uint8), size=(60, 120), smooth="none", match="columns",
        reference_keypoints=reference, reference_mask=masks, driving_keypoints=driving,
    )  # fmt: skip


def test_lanes_say_whose_status_it_is(tmp_path):
    calibration = two_persons()
    assert calibration.status[:, 1].tolist() == ["tracked"] * 3 + ["held"] * 3
    write_report(calibration, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    lanes = re.findall(
        r'<rect class="lane (\w+)" x="([\d.]+)" width="([\d.]+)" y="([\d.]+)".*?<title>(.*?)</title>', text
    )
    assert [(kind, float(x), float(y)) for kind, x, _, y, _ in lanes] == [
        ("tracked", 0, 0.15), ("tracked", 0, 1.15), ("held", 500, 1.15),
    ]  # fmt: skip
    assert lanes[2][-1] == "person 1, frames 3 to 5: not seen, carried over (nothing)"
    assert len(re.findall("<rect", text)) == len(lanes)  # the curves are not shaded for two at once


def test_panels_show_the_frame_as_it_is_on_the_canvas():
    """Means of it, which are nearer to the means of many samples than a warp to their size is: it blurs more."""
    calibration = two_persons()
    frame = frame_of(calibration, 0, np.full((60, 120, 3), 90, np.uint8))
    warped, size = calibration.render(0), (30, 60)
    driving = np.full((*size, 3), 90, np.uint8)
    panels = draw_panels(calibration, 0, size, warped, frame.pose_masks, driving)
    overlay = driving >> 1
    images, masks = (shrink(pictures[0], 2) for pictures in warped[:2])
    lay_over(images, masks, calibration.order[0], overlay)
    assert_array_equal(panels.overlay, overlay)
    direct = calibration.render(0, size=size, background=driving >> 1).composite[0]
    many = calibration.render(0, size=(240, 480), antialias=False, background=45).composite.astype(float)
    true = many[0].reshape(30, 8, 60, 8, 3).mean((1, 3))
    assert np.square(panels.overlay - true).mean() <= np.square(direct - true).mean()


def test_each_of_several_is_cut_out_of_the_own_image():
    """The image of the one shows the other, too, where only the one was brought to the frame."""
    calibration = two_persons()
    frame = frame_of(calibration, 0, np.zeros((60, 120, 3), np.uint8))
    calibrated = frame.panels.calibrated.astype(int)
    masks = calibration.masks[0] >= 128
    for person in calibration.order[0]:
        inside = masks[person] & ~masks[1 - person]
        assert_array_equal(calibrated[inside], calibration.images[0][person][inside])
    assert calibrated[~masks.any(0)].max() < 64
    assert calibrated[masks.any(0)].mean() > 100


def test_curves_are_broken_where_nothing_is_known():
    y = np.array([np.nan, 1, 2, np.nan, 3, np.nan])
    drawn = html.curve('class="curve"', np.arange(6.0), y)
    assert drawn.count("<polyline") == 2
    assert 'points="1.0,1.00 2.0,2.00"' in drawn
    assert 'points="4.0,3.00"' in drawn
    assert html.curve("", np.arange(2.0), np.full(2, np.nan)) == ""
