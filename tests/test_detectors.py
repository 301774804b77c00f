"""Detectors of several persons: by name, and rtmlib end to end on tiny ONNX models whose answer is known."""

import importlib.util
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scene import FIGURE

import tpc_fast
from tpc_fast.cli.main import main
from tpc_fast.pose import Detection, PeopleDetector, get_detector
from tpc_fast.pose.detect.registry import NAMES, NEEDS, installed
from tpc_fast.pose.detect.whole_picture import PictureTracker

ABSENT = {
    "blazepose": "pip install .*ai-edge-litert",
    "mediapipe": "pip install mediapipe",
    "rtmlib": "pip install --no-deps rtmlib",
    "mmpose": "recipe",
}


@pytest.mark.parametrize("name", list(ABSENT))
def test_an_absent_detector_says_how_to_install_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, NEEDS[name][0][0], None)
    with pytest.raises(ImportError, match=ABSENT[name]):
        get_detector(name)


def test_the_default_is_what_is_installed(monkeypatch):
    there = installed()
    assert all(importlib.util.find_spec(package) for name in there for package in NEEDS[name][0])
    assert NAMES[0] == "blazepose"
    for name in ABSENT:
        monkeypatch.setitem(sys.modules, NEEDS[name][0][0], None)
    assert installed() == ()
    with pytest.raises(ImportError, match=ABSENT["blazepose"]):
        get_detector()


class Turned:
    """A detector that sees people only if the picture's bright row is on top."""

    name, version, device = "turned", "1", "paper"

    def detect(self, image):
        if image[0].mean() < 200:
            return Detection.nobody()
        people = np.stack([FIGURE * 0.05 + (20, 3), FIGURE * 0.05 + (40, 4)]).astype(np.float32)
        mask = np.zeros((2, *image.shape[:2]), np.uint8)
        mask[0, :, :30] = mask[1, :, 30:] = 255
        return Detection(people, np.ones((2, 17), np.float32), mask)

    def close(self):
        pass


@pytest.mark.parametrize("quarters", range(4))
def test_turned_photos(quarters):
    detector = Turned()
    assert isinstance(detector, PeopleDetector)
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[0] = 255
    expected = detector.detect(upright)
    tracker = PictureTracker(detector)
    photo = np.rot90(upright, -quarters)
    found = tracker.find(photo)
    assert tracker.passes == quarters + 1
    assert found.mask.shape == (2, *photo.shape[:2])
    assert_array_equal(np.rot90(found.mask, quarters, (1, 2)), expected.mask)
    x, y = found.keypoints[1, 0]
    back = np.zeros(photo.shape[:2])
    back[round(float(y)), round(float(x))] = 1
    assert_array_equal(np.argwhere(np.rot90(back, quarters)), [[4, 40]])
    assert len(PictureTracker(detector).find(np.zeros((40, 60, 3), np.uint8))) == 0


# rtmlib, with models that look at the picture (a mean that counts little) and give what they were made with


def save(path, inputs, outputs):
    """An ONNX model: outputs name -> array [1, ...], each plus a random multiple of the picture's mean."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0)]
    constants, values = [], []
    for name, array in outputs.items():
        for part, value in (("base", array), ("slope", np.random.default_rng(0).normal(0, 1e-6, array.shape))):
            constants.append(numpy_helper.from_array(value.astype(np.float32), f"{name} {part}"))
        nodes += [
            helper.make_node("Mul", ["mean", f"{name} slope"], [f"{name} part"]),
            helper.make_node("Add", [f"{name} base", f"{name} part"], [name]),
        ]
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, *inputs])
    graph = helper.make_graph(nodes, "tiny", [image], values, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))


# Of the pose model's input, 192 across and 256 down.
POSE = FIGURE * 0.8 + (96, 12)
BOXES = np.array([[40, 40, 100, 200], [180, 60, 240, 190]], float)  # in a picture of 320 x 320


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    x, y = np.full((1, 17, 384), 0.01), np.full((1, 17, 512), 0.01)
    column, row = np.rint(2 * POSE).astype(int).T
    x[0, np.arange(17), column], y[0, np.arange(17), row] = 0.9, 0.9
    save(folder / "pose.onnx", (3, 256, 192), {"simcc_x": x, "simcc_y": y})
    save(folder / "nobody.onnx", (3, 320, 320), {"dets": np.zeros((1, 2, 5))})
    save(folder / "boxes.onnx", (3, 320, 320), {"dets": np.column_stack([BOXES, [0.9, 0.8]])[None]})
    people = np.stack([FIGURE * 0.4 + (70, 50), FIGURE * 0.35 + (200, 60)])
    points = np.concatenate([people, np.full((2, 17, 1), 0.9)], -1)
    boxes = np.column_stack([people.min(1), people.max(1), [0.9, 0.8]])
    save(folder / "rtmo.onnx", (3, 320, 320), {"dets": boxes[None], "keypoints": points[None]})
    empty = {"dets": np.zeros((1, 0, 5)), "keypoints": np.zeros((1, 0, 17, 3))}
    save(folder / "rtmo_nobody.onnx", (3, 320, 320), empty)
    save(folder / "hand.onnx", (3, 256, 192), {"simcc_x": x.repeat(2, 1)[:, :21], "simcc_y": y.repeat(2, 1)[:, :21]})
    (folder / "text.onnx").write_text("this is no model")
    return folder


def in_box(box):
    """Where POSE lies in a picture whose box is seen: rtmlib makes it 1.25 times as large, and of the model's shape."""
    centre, side = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * 1.25
    width = max(side[0], side[1] * 192 / 256)
    return (POSE - (96, 128)) * width / 192 + centre


@pytest.mark.rtmlib
def test_rtmlib_with_boxes(models):
    detector = get_detector(f"rtmlib:pose={models / 'pose.onnx'},detect={models / 'boxes.onnx'},device=cpu")
    assert isinstance(detector, PeopleDetector)
    assert detector.device == "cpu"
    found = detector.detect(np.full((320, 320, 3), 90, np.uint8))
    assert found.keypoints.shape == (2, 17, 2)
    assert found.mask is None
    for keypoints, box in zip(found.keypoints, BOXES, strict=True):
        inside = ((in_box(box) > 0) & (in_box(box) < 319)).all(-1)
        assert_allclose(keypoints, in_box(box), atol=1.5)  # of half a cell of its grid
        assert inside.all()
    assert_allclose(found.scores, 0.9, atol=0.01)
    half = detector.detect(np.full((160, 160, 3), 90, np.uint8))
    assert_allclose(half.keypoints, found.keypoints / 2, atol=1)
    detector.close()
    with pytest.raises(ValueError, match="closed"):
        detector.detect(np.zeros((32, 32, 3), np.uint8))


@pytest.mark.rtmlib
def test_rtmlib_sees_nobody(models):
    """rtmlib itself would take the whole picture for a person."""
    detector = get_detector(f"rtmlib:pose={models / 'pose.onnx'},detect={models / 'nobody.onnx'}")
    assert len(detector.detect(np.zeros((320, 320, 3), np.uint8))) == 0
    detector = get_detector(f"rtmlib:rtmo={models / 'rtmo_nobody.onnx'}")
    assert len(detector.detect(np.zeros((320, 320, 3), np.uint8))) == 0
    whole = get_detector(f"rtmlib:pose={models / 'pose.onnx'}")
    assert len(whole.detect(np.zeros((320, 320, 3), np.uint8))) == 1


@pytest.mark.rtmlib
def test_rtmlib_models_that_are_wrong(models):
    with pytest.raises(FileNotFoundError, match=r"no file .*absent.onnx.* for rtmlib's pose model"):
        get_detector("rtmlib:pose=absent.onnx")
    with pytest.raises(ValueError, match=r"text.onnx' can't be loaded as rtmlib's pose model"):
        get_detector(f"rtmlib:pose={models / 'text.onnx'}")
    with pytest.raises(ValueError, match=r"boxes.onnx' is no pose model of rtmlib: it takes .* gives 1 output"):
        get_detector(f"rtmlib:pose={models / 'boxes.onnx'}")
    with pytest.raises(ValueError, match=r"hand.onnx' is no pose model of rtmlib: it finds 21 keypoints, not 17, 26"):
        get_detector(f"rtmlib:pose={models / 'hand.onnx'}")
    with pytest.raises(ValueError, match=r"pose.onnx' is no rtmo model of rtmlib: .*invalid dimensions"):
        get_detector(f"rtmlib:rtmo={models / 'pose.onnx'}")
    with pytest.raises(ValueError, match=r"pose.onnx' is no detect model of rtmlib: .*invalid dimensions"):
        get_detector(f"rtmlib:pose={models / 'pose.onnx'},detect={models / 'pose.onnx'}")
    with pytest.raises(FileNotFoundError, match=r"no file .*absent.onnx.* for rtmlib's detect model"):
        get_detector(f"rtmlib:pose={models / 'pose.onnx'},detect=absent.onnx")
    with pytest.raises(ValueError, match="takes detect with pose"):
        get_detector(f"rtmlib:detect={models / 'boxes.onnx'}")
    with pytest.raises(ValueError, match="takes pose or rtmo, not both"):
        get_detector(f"rtmlib:pose={models / 'pose.onnx'},rtmo={models / 'rtmo.onnx'}")
    with pytest.raises(ValueError, match="does not take these options: 'colour=red'"):
        get_detector("rtmlib:colour=red")
    with pytest.raises(ValueError, match="mode of rtmlib must be one of"):
        get_detector("rtmlib:mode=best")


@pytest.mark.rtmlib
@pytest.mark.parametrize("kind", ["rtmo", "pose"])
def test_rtmlib_through_the_command_line(models, tmp_path, rng, capsys, kind):
    """Two persons in photo and video, found by the same model: everything stays where it is."""
    picture = rng.integers(0, 255, (320, 320, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    (tmp_path / "frames").mkdir()
    for f in range(4):
        Image.fromarray(picture).save(tmp_path / "frames" / f"{f}.png")
    files = (
        f"rtmo={models / 'rtmo.onnx'}"
        if kind == "rtmo"
        else f"pose={models / 'pose.onnx'},detect={models / 'boxes.onnx'}"
    )
    arguments = ["calibrate", str(tmp_path / "photo.png"), str(tmp_path / "frames"), "-o", str(tmp_path / "out"),
                 "--size", "320", "--smooth", "none", "--detector", f"rtmlib:{files},device=cpu"]  # fmt: skip
    assert main(arguments) == 0
    assert "detector: rtmlib on cpu" in capsys.readouterr().out
    calibration = tpc_fast.Calibration.load(tmp_path / "out")
    assert calibration.detector == "rtmlib"
    assert calibration.device == "cpu"
    assert calibration.match == [0, 1]
    assert calibration.matrices.shape == (4, 2, 2, 3)
    assert_allclose(calibration.matrices, np.broadcast_to(np.eye(2, 3), (4, 2, 2, 3)), atol=1e-3)
    assert (calibration.status == "tracked").all()
    assert "rtmlib on cpu" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.rtmlib
def test_wrong_models_through_the_command_line(models, tmp_path, capsys):
    """One line that names the file, and nothing is written."""
    Image.fromarray(np.zeros((320, 320, 3), np.uint8)).save(tmp_path / "photo.png")
    photo = str(tmp_path / "photo.png")
    for files, why in (
        (f"pose={models / 'absent.onnx'}", f"there is no file '{models / 'absent.onnx'}'"),
        (f"pose={models / 'text.onnx'}", "text.onnx' can't be loaded as rtmlib's pose model"),
        (f"rtmo={models / 'pose.onnx'}", "pose.onnx' is no rtmo model of rtmlib"),
    ):
        arguments = ["calibrate", photo, photo, "-o", str(tmp_path / "out"), "--detector", f"rtmlib:{files}"]
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert why in error
        assert "Traceback" not in error
        assert not (tmp_path / "out").exists()


@pytest.mark.rtmlib
@pytest.mark.parametrize("files", ["pose={0}/pose.onnx,detect={0}/nobody.onnx", "rtmo={0}/rtmo_nobody.onnx"])
def test_nobody_through_the_command_line(models, tmp_path, capsys, files):
    Image.fromarray(np.zeros((320, 320, 3), np.uint8)).save(tmp_path / "photo.png")
    detector = f"rtmlib:{files.format(models)}"
    photo = str(tmp_path / "photo.png")
    assert main(["calibrate", photo, photo, "-o", str(tmp_path / "out"), "--detector", detector]) == 1
    assert "reference: no person was found (rtmlib looked at the 320x320 picture in 4 rolls)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
