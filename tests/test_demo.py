"""The demo: its clip, its truth, and the whole path on real pixels."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

import tpc_fast
from tpc_fast import Similarity, demo
from tpc_fast.cli.main import main
from tpc_fast.media.video import VideoReader


def test_camera_path_covers_what_it_promises():
    camera = demo.camera_path()
    assert camera.scale.shape == (96,)
    assert camera.scale.min() == pytest.approx(0.45, abs=0.005)
    assert camera.scale.max() == pytest.approx(1.6, abs=0.01)
    assert np.degrees(camera.angle).min() == pytest.approx(-60, abs=0.2)
    assert np.degrees(camera.angle).max() == pytest.approx(60, abs=0.2)
    corners = camera.apply(np.broadcast_to(np.array([[0, 0], [511, 0], [0, 511], [511, 511.0]]), (96, 4, 2)))
    outside = ((corners < 0) | (corners > 511)).any(-1).any(-1)
    assert outside.sum() > 20  # partly out of frame


def test_errors_are_measured_against_the_truth():
    camera = demo.camera_path()
    off = Similarity(1.1, np.array([[np.cos(0.05), -np.sin(0.05)], [np.sin(0.05), np.cos(0.05)]]), np.array([3.0, 4]))
    exact = demo.Errors.of(camera.matrix[:, None], camera)
    assert exact.within
    assert_allclose([exact.angle.max(), exact.log_scale.max(), exact.shift.max()], 0, atol=1e-6)
    wrong = demo.Errors.of((off @ camera).matrix[:, None], camera)
    assert not wrong.within
    assert_allclose(wrong.angle, np.degrees(0.05), rtol=1e-6)
    assert_allclose(wrong.log_scale, np.log(1.1), rtol=1e-6)
    assert "angle, degrees" in wrong.table()


@pytest.mark.demo
@pytest.mark.native
@pytest.mark.slow  # continuous integration runs the command by itself, too
def test_demo_from_the_command_line(tmp_path, capsys, monkeypatch):
    """The README's first command: errors within tolerance, every frame accounted for, pictures that decode."""
    out = tmp_path / "demo"
    assert main(["demo", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    print(printed)
    assert "error against the truth" in printed
    assert "frames/s" in printed
    calibration = tpc_fast.Calibration.load(out)
    assert len(calibration) == demo.FRAMES
    assert np.isin(calibration.status, ["tracked", "fallback", "held"]).all()
    assert (calibration.status == "tracked").mean() > 0.8
    errors = demo.Errors.of(calibration.matrices, demo.camera_path())
    assert errors.within
    assert np.median(errors.shift) < 5
    assert errors.angle.max() <= 2
    assert errors.log_scale.max() <= 0.08
    assert calibration.warnings == ["pose_video shows person masks: if your model follows DensePose, give --pose FILE"]
    panels = [f.image[:256, :256].astype(int) for f in VideoReader(out / "preview.mp4")]
    driving = [f.image.astype(int) for f in VideoReader(out / "driving.mp4", scale_to=(256, 256))]
    assert len(panels) == len(driving) == demo.FRAMES
    # The preview shows the driving frames; half of their colour is lost in the video's format.
    assert np.mean([abs(a - b).mean() for a, b in zip(panels, driving, strict=True)]) < 4
    assert np.asarray(Image.open(out / "picture.png")).std() > 20
    report = (out / "report.html").read_text()
    assert "data:image/jpeg;base64," in report
    assert "<svg" in report
    paths = json.loads((out / "calibration.json").read_text())
    assert paths["driving"]["path"] == "driving.mp4"
    path = demo.camera_path()
    monkeypatch.setattr(demo, "camera_path", lambda: path[:8])
    assert main(["demo", "-o", str(out), "-q"]) == 0  # again, over its own output
    assert len(tpc_fast.Calibration.load(out)) == 8


@pytest.mark.demo
@pytest.mark.slow
def test_demo_fails_out_of_tolerance(tmp_path, capsys, monkeypatch):
    """The exit code is a real check: against another truth it is not 0."""
    camera = demo.camera_path()[:8]
    monkeypatch.setattr(demo, "camera_path", lambda: camera)
    turned = Similarity(1.0, np.array([[0.0, -1], [1, 0]]), np.zeros(2)) @ camera
    monkeypatch.setattr(demo.Errors, "of", classmethod(lambda cls, m, _, of=demo.Errors.of: of(m, turned)))
    assert main(["demo", "-o", str(tmp_path / "demo"), "-q"]) == 1
    assert "out of tolerance" in capsys.readouterr().err
