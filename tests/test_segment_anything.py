"""Segment Anything through its original package, end to end; it needs an environment of its own (tests/noxfile.py)."""

import functools
import shutil

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scene import TWO, two_people

import tpc_fast
from tpc_fast.cli.main import main
from tpc_fast.pose import Segmenter, get_segmenter
from tpc_fast.pose.masks.sam import prompt_box

pytestmark = pytest.mark.segment_anything

SIZE = (140, 210)


def save_random(folder, kind):
    """Random weights of a model of the package."""
    import torch
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    path = folder / f"sam_{kind}_random.pth"
    torch.save(sam_model_registry[kind]().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of a vit_b whose encoder of pictures is tiny: the package's takes most of a minute for one on a slow core."""
    from segment_anything import sam_model_registry
    from segment_anything.build_sam import _build_sam

    with pytest.MonkeyPatch.context() as patch:
        for kind, width in (("vit_b", 32), ("vit_l", 48)):
            patch.setitem(sam_model_registry, kind, functools.partial(_build_sam, width, 1, 2, []))
        yield save_random(tmp_path_factory.mktemp("segment_anything"), "vit_b")


@pytest.fixture(scope="module")
def segmenter(checkpoint):
    return get_segmenter(f"segment-anything:{checkpoint}")


@pytest.fixture
def picture(rng):
    return rng.integers(0, 255, (*SIZE, 3), np.uint8)


def test_the_model_as_it_comes(tmp_path, picture):
    """The package's own vit_b, as large as it is; before the fixture `checkpoint` puts a tiny one in its place."""
    path = save_random(tmp_path, "vit_b")
    masks = get_segmenter(f"segment-anything:{path}").segment(picture, TWO, np.ones((2, 17), bool))
    assert masks.shape == (2, *SIZE)
    assert set(np.unique(masks)) <= {0, 255}
    assert path.stat().st_size > 3e8
    path.unlink()


def test_masks_are_those_of_the_package(checkpoint, segmenter, picture, rng):
    """Against direct calls of its predictor; of two persons, some keypoints are not seen."""
    import torch
    from segment_anything import SamPredictor, sam_model_registry

    assert isinstance(segmenter, Segmenter)
    assert segmenter.name == "segment-anything"
    assert segmenter.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert segmenter._predictor.device.type == segmenter.device
    seen = rng.random((2, 17)) < 0.5
    seen[:, 0] = True
    masks = segmenter.segment(picture, TWO, seen)
    assert masks.shape == (2, *SIZE)
    assert masks.dtype == np.uint8
    assert set(np.unique(masks)) <= {0, 255}
    predictor = SamPredictor(sam_model_registry["vit_b"](checkpoint=str(checkpoint)).to(segmenter.device))
    predictor.set_image(picture)
    for p in range(2):
        points = TWO[p][seen[p]].astype(float)
        expected = predictor.predict(
            points, np.ones(len(points)), np.array(prompt_box(points, SIZE)), multimask_output=False
        )[0]
        assert expected.shape == (1, *SIZE)
        assert_array_equal(masks[p] == 255, expected[0])


def test_prompts_count(segmenter, picture):
    """Other keypoints give another mask; without any there is none, and no picture is looked at."""
    seen = np.ones((1, 17), bool)
    mask = segmenter.segment(picture, TWO[:1], seen)
    moved = [segmenter.segment(picture, TWO[:1] * scale, seen) for scale in (0.2, 0.5, 1.2)]
    assert any((other != mask).any() for other in moved)
    segmenter._predictor.reset_image()
    assert segmenter.segment(picture, TWO[:0], seen[:0]).shape == (0, *SIZE)
    assert not segmenter.segment(picture, TWO[:1], ~seen).any()
    assert not segmenter._predictor.is_image_set


def test_through_the_command_line(checkpoint, segmenter, tmp_path, rng, capsys):
    """Two persons, whose keypoints are given; nobody is in the second frame."""
    picture, arguments = two_people(tmp_path, rng)
    assert main([*arguments, "--segmenter", f"segment-anything:{checkpoint}"]) == 0
    assert f"segmenter: segment-anything on {segmenter.device}" in capsys.readouterr().out
    calibration = tpc_fast.Calibration.load(tmp_path / "out")
    assert (calibration.segmenter, calibration.segmenter_device) == ("segment-anything", segmenter.device)
    expected = segmenter.segment(picture, TWO, np.ones((2, 17), bool))
    assert_array_equal(calibration.reference_mask, expected)
    assert_array_equal(calibration.pose_masks[0], expected)
    assert_array_equal(calibration.pose_masks[2], expected)
    assert not calibration.pose_masks[1].any()


def test_wrong_files(checkpoint, tmp_path, rng, capsys):
    import torch

    with pytest.raises(FileNotFoundError, match=r"there is no file '.*sam_vit_b_absent.pth' for segment-anything"):
        get_segmenter(f"segment-anything:{tmp_path / 'sam_vit_b_absent.pth'}")
    for name in ("other.pth", "sam_hq_vit_b.pth", "foo_vit_b.pth"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=f"begins with sam_vit_h, sam_vit_l or sam_vit_b, .* but is '.*{name}'"):
            get_segmenter(f"segment-anything:{tmp_path / name}")
    wrong = tmp_path / "sam_vit_b_wrong.pth"
    problem = "sam_vit_b_wrong.pth' can't be loaded as a checkpoint of SAM's vit_b: "
    for content in (b"", b"this is no checkpoint", checkpoint.read_bytes()[:-1000]):
        wrong.write_bytes(content)
        with pytest.raises(ValueError, match=problem):
            get_segmenter(f"segment-anything:{wrong}")
    for content in ([1, 2], {"weight": torch.zeros(3)}, torch.nn.Linear(2, 2)):
        torch.save(content, wrong)
        with pytest.raises(ValueError, match=problem):
            get_segmenter(f"segment-anything:{wrong}")
    # Weights of another of its models, as a file that was renamed has them.
    renamed = shutil.copy(checkpoint, tmp_path / "sam_vit_l_renamed.pth")
    with pytest.raises(ValueError, match=r"sam_vit_l_renamed.pth' can't be loaded as a checkpoint of SAM's vit_l"):
        get_segmenter(f"segment-anything:{renamed}")
    _, arguments = two_people(tmp_path, rng)
    assert main([*arguments, "--segmenter", f"segment-anything:{wrong}"]) == 1
    error = capsys.readouterr().err
    assert problem in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
