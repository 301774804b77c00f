"""DensePose through TorchScript: a tiny module whose persons are the pure red and the pure green of a picture."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from scene import PERSON, scene

from tpc_fast import Calibration, calibrate
from tpc_fast.cli.main import main
from tpc_fast.media.video import VideoReader, VideoWriter
from tpc_fast.output.pose_video import pose_pictures
from tpc_fast.pose import Segmenter, get_segmenter
from tpc_fast.pose.masks.densepose import COLOURS, SUFFIXES, DensePose

pytest.importorskip("torch", reason="extra 'torch'")
import torch

HEAD, TORSO = 23, 2
RED, GREEN = (255, 0, 0), (0, 255, 0)


class Tiny(torch.nn.Module):
    """Boxes around what is red and what is green; head in the upper half, torso below, nobody at the right edge."""

    def forward(self, image: torch.Tensor):
        assert image.dtype == torch.uint8 and image.shape[0] == 3  # noqa: PT018
        boxes: list[torch.Tensor] = []
        for channel in (0, 1):
            spots = (image[channel] > 200) & (image.sum(0) < 300)
            if bool(spots.any()):
                y, x = torch.nonzero(spots).unbind(1)
                boxes.append(torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float())
        count = len(boxes)
        coarse = torch.zeros(count, 2, 4, 4)
        coarse[:, 1, :, :3] = 9.0
        coarse[:, 0, :, 3] = 9.0
        fine = torch.zeros(count, 25, 4, 4)
        fine[:, 23, :2] = 5.0
        fine[:, 2, 2:] = 5.0
        found = torch.stack(boxes) if count > 0 else torch.zeros(0, 4)
        return found, coarse, fine, fine, fine


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("densepose") / "tiny.torchscript"
    torch.jit.script(Tiny()).save(str(path))
    return path


def picture(size=(120, 160), red=(20, 30, 40, 60), green=(90, 20, 40, 80)):
    """Persons at (left, top, width, height)."""
    image = np.full((*size, 3), 60, np.uint8)
    for colour, (left, top, width, height) in ((RED, red), (GREEN, green)):
        image[top : top + height, left : left + width] = colour
    return image


def test_parts(model):
    dense = DensePose(model, "cpu")
    assert dense.device == "cpu"
    (left, top, labels), (left_2, top_2, labels_2) = dense.parts(picture())
    assert (left, top, labels.shape) == (20, 30, (60, 40))
    assert (left_2, top_2, labels_2.shape) == (90, 20, (80, 40))
    assert_array_equal(labels[:, :25], np.where(np.arange(60)[:, None] < 30, HEAD, TORSO).repeat(25, 1))
    assert not labels[:, -5:].any()
    assert dense.parts(np.zeros((32, 32, 3), np.uint8)) == []


def test_drawn_in_the_colours_of_densepose(model):
    """Viridis at 255 / 24 times the part, as in the videos that MagicAnimate was trained on; the first is in front."""
    dense = DensePose(model, "cpu")
    drawn = dense.draw(picture(green=(40, 50, 40, 60)))
    assert drawn.dtype == np.uint8
    assert_array_equal(drawn[0, 0], (68, 1, 84))
    assert_array_equal(drawn[35, 25], COLOURS[HEAD])
    assert_array_equal(drawn[80, 25], COLOURS[TORSO])
    assert_array_equal(drawn[55, 45], COLOURS[HEAD])  # red is in front of green
    assert_array_equal(drawn[109, 45], COLOURS[TORSO])
    cv2 = pytest.importorskip("cv2", reason="OpenCV is what is compared with; it comes with extra 'bench'")
    scale = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_VIRIDIS)[0][:, ::-1]
    assert_array_equal(COLOURS, scale[(np.arange(25) * 255 / 24).astype(int)])


@pytest.mark.sample
def test_the_colours_are_those_of_the_published_video(sample):
    frames = np.stack([frame.image for frame in VideoReader(sample / "densepose.mp4", frames=slice(0, 3))]).astype(int)
    pixels = frames.reshape(-1, 3)[::41]
    nearest = np.sqrt(((pixels[:, None] - COLOURS) ** 2).sum(-1).min(1))
    assert np.median(nearest) < 6  # of a compressed video
    assert nearest.mean() < np.sqrt(((pixels[:, None] - COLOURS[:, ::-1]) ** 2).sum(-1).min(1)).mean() / 3


def test_masks_go_to_whose_keypoints_are_on_them(model):
    segmenter = get_segmenter(f"densepose:{model}")
    assert isinstance(segmenter, Segmenter)
    image = picture()
    keypoints, seen = np.full((3, 17, 2), np.nan), np.zeros((3, 17), bool)
    for p, spot in enumerate(((100, 40), (30, 50), (5, 5))):  # green, red, nobody
        keypoints[p, :4] = spot
        seen[p, :4] = True
    masks = segmenter.segment(image, keypoints, seen)
    assert masks.shape == (3, 120, 160)
    assert set(np.unique(masks)) == {0, 255}
    assert masks[0, 40, 100] == masks[1, 50, 30] == 255
    assert not masks[0, :, :80].any()
    assert not masks[1, :, 80:].any()
    assert not masks[2].any()
    assert not segmenter.segment(np.zeros((120, 160, 3), np.uint8), keypoints, seen).any()


def test_wrong_files(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*absent.pt.* for DensePose"):
        DensePose(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("no module")
    with pytest.raises(ValueError, match=r"text.pt' can't be loaded as a TorchScript module"):
        DensePose(tmp_path / "text.pt")

    class Other(torch.nn.Module):
        def forward(self, image: torch.Tensor):
            return image

    torch.jit.script(Other()).save(str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match=r"other.pt' must take uint8 \[3, H, W\] and return boxes"):
        DensePose(tmp_path / "other.pt").draw(picture())


@pytest.fixture
def job(rng, tmp_path):
    """Files of a clip in which a red person moves, and the arguments that calibrate to it."""
    image, mask, _, keypoints, masks, _ = scene(rng, 5)
    with VideoWriter(tmp_path / "clip.mp4", 30, (120, 160)) as video:
        for f in range(5):
            video.write(picture(red=(20 + 4 * f, 30, 60, 60), green=(0, 0, 0, 0)))
    Image.fromarray(image).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.savez(tmp_path / "reference.npz", keypoints=PERSON)
    np.savez(tmp_path / "driving.npz", keypoints=keypoints, masks=masks)
    return tmp_path, [
        "calibrate", str(tmp_path / "photo.png"), str(tmp_path / "clip.mp4"), "-o", str(tmp_path / "out"), "-q",
        "--size", "160x160", "--reference-keypoints", str(tmp_path / "reference.npz"),
        "--reference-mask", str(tmp_path / "mask.png"), "--driving-keypoints", str(tmp_path / "driving.npz"),
    ]  # fmt: skip


def pose_video(folder):
    return np.stack([frame.image for frame in VideoReader(folder / "pose_video" / "clip.mp4")]).astype(int)


def test_pose_video_by_the_command_line(job, model, capsys):
    """Drawn on the padded canvas, and again when it is rendered again; the report says nothing is missing.

    A program is never taken from a calibration: it must be given again.
    """
    folder, arguments = job
    assert main([*arguments, "--pose", str(model)]) == 0
    drawn = pose_video(folder / "out")
    assert drawn.shape == (5, 160, 160, 3)
    for f in range(5):
        assert abs(drawn[f, 60, 25 + 4 * f] - COLOURS[HEAD]).max() < 12
        assert abs(drawn[f, 100, 40 + 4 * f] - COLOURS[TORSO]).max() < 12
        assert abs(drawn[f, 60, 5] - COLOURS[0]).max() < 12
        assert abs(drawn[f, 5, 5] - COLOURS[0]).max() < 12
    assert "person masks" not in (folder / "out" / "report.html").read_text()
    assert main(["render", str(folder / "out"), "-q", "--no-preview"]) == 1
    assert "--pose FILE, or --pose none" in capsys.readouterr().err
    assert abs(pose_video(folder / "out") - drawn).mean() == 0
    assert main(["render", str(folder / "out"), "-q", "--no-preview", "--pose", str(model)]) == 0
    assert abs(pose_video(folder / "out") - drawn).mean() < 1
    calibration = Calibration.load(folder / "out")
    assert calibration.options["pose"] == str(model.resolve())
    # The pictures of a video that was drawn before are the same.
    again = np.stack(list(pose_pictures(folder / "out" / "pose_video" / "clip.mp4", calibration)))
    assert abs(again.astype(int) - drawn).mean() < 1
    with pytest.raises(FileNotFoundError, match="gone"):
        next(pose_pictures(folder / "gone.mp4", calibration))


def test_without_either_the_report_says_so(job, capsys):
    folder, arguments = job
    assert main(arguments) == 0
    text = "pose_video shows person masks: if your model follows DensePose, give --pose FILE"
    assert text in (folder / "out" / "report.html").read_text()
    assert json.loads((folder / "out" / "calibration.json").read_text())["warnings"].count(text) == 1
    assert main(["render", str(folder / "out"), "-q", "--no-preview"]) == 0
    assert json.loads((folder / "out" / "calibration.json").read_text())["warnings"].count(text) == 1
    arguments[arguments.index("-o") + 1] = str(folder / "other")
    assert main([*arguments, "--pose", str(folder / "absent.mp4")]) == 1
    assert "pose: there is no file" in capsys.readouterr().err
    assert not (folder / "other").exists()


def test_a_calibration_names_no_program(job, model, monkeypatch, capsys):
    """A calibration.json that somebody edited must not have a file loaded as a program, by no command."""
    folder, arguments = job
    assert main(arguments) == 0
    record = folder / "out" / "calibration.json"
    loaded = []
    monkeypatch.setattr("torch.jit.load", lambda *arguments, **options: loaded.append(arguments))
    for suffix in SUFFIXES:
        program = folder / f"evil{suffix.upper()}"
        program.write_bytes(model.read_bytes())
        for name in (str(program), f"evil{suffix}", f"{program}"):
            data = json.loads(record.read_text())
            data["options"]["pose"] = name
            record.write_text(json.dumps(data))
            assert main(["render", str(folder / "out"), "-q", "--no-preview", "--no-report"]) == 1
            animate = ["animate", str(folder / "out"), "--model", "tiny-random", "--steps", "1", "-q"]
            assert main([*animate, "-o", str(folder / "v.mp4")]) == 1
            assert "must be given again" in capsys.readouterr().err
    assert not loaded
    assert main(["render", str(folder / "out"), "-q", "--no-preview", "--pose", "none"]) == 0
    assert not loaded
    assert "pose" not in Calibration.load(folder / "out").options


def test_a_video_that_is_gone(job):
    folder, arguments = job
    copy = folder / "copy.mp4"
    copy.write_bytes((folder / "clip.mp4").read_bytes())
    assert main([*arguments, "--pose", str(copy)]) == 0
    copy.unlink()
    assert main(["render", str(folder / "out"), "-q", "--no-preview"]) == 0
    assert "copy.mp4 is gone" in (folder / "out" / "report.html").read_text()


def test_tensors_are_told_apart_while_another_thread_imports_torch(monkeypatch):
    """The module is in sys.modules from the first moment on, its names come later."""
    import sys
    import types

    from tpc_fast._dispatch import is_torch

    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    assert not is_torch(np.zeros(3))


def test_masks_of_the_driving_video(model, rng):
    """The segmenter's masks of the frames, as the original's: a detector that finds keypoints alone."""
    from tpc_fast.pose import Detection

    body = np.array([30.0, 50.0]) + rng.normal(0, 4, (1, 17, 2))

    class Detector:
        name, version, device = "points", "1", "paper"

        def detect(self, image):
            points = body + rng.normal(0, 0.1, (1, 17, 2))
            return Detection(points.astype(np.float32), np.ones((1, 17), np.float32))

        def close(self):
            pass

    frames = np.stack([picture()] * 2)
    calibration = calibrate(
        picture(), frames, detector=Detector(), segmenter=f"densepose:{model}", size=(120, 160), smooth="none"
    )
    assert calibration.pose_masks[1][0, 50, 30] == 255
    assert not calibration.pose_masks[1][0, :, 80:].any()
    assert calibration.reference_mask[0, 50, 30] == 255
