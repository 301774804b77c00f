"""MMPose end to end, on a tiny random model; it needs an environment of its own (tests/noxfile.py makes it)."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

import tpc_fast
from tpc_fast.cli import main
from tpc_fast.pose import PeopleDetector, get_detector

pytestmark = pytest.mark.mmpose

CONFIG = """
default_scope = 'mmpose'
data_mode, dataset_type = 'topdown', 'CocoDataset'
codec = dict(type='MSRAHeatmap', input_size=(96, 128), heatmap_size=(24, 32), sigma=1)
model = dict(
    type='TopdownPoseEstimator',
    data_preprocessor=dict(type='PoseDataPreprocessor', mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4],
                           bgr_to_rgb=True),
    backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8),
    head=dict(type='HeatmapHead', in_channels=64, out_channels=17, deconv_out_channels=(8, 8, 8),
              deconv_kernel_sizes=(4, 4, 4), loss=dict(type='KeypointMSELoss'), decoder=codec),
    test_cfg=dict(flip_test=False))
visualizer = dict(type='PoseLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
pipeline = [dict(type='LoadImage'), dict(type='GetBBoxCenterScale'), dict(type='TopdownAffine', input_size=(96, 128)),
            dict(type='PackPoseInputs')]
test_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(
    type='CocoDataset', data_root='', data_mode='topdown', ann_file='', data_prefix=dict(img=''), pipeline=pipeline))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Configuration and checkpoint; the head's bias lifts heat above noise, so that scores are well above zero."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpose.datasets.datasets.utils import parse_pose_metainfo
    from mmpose.models import build_pose_estimator

    folder = tmp_path_factory.mktemp("mmpose")
    (folder / "tiny.py").write_text(CONFIG)
    config = Config.fromfile(folder / "tiny.py")
    init_default_scope("mmpose")
    torch.manual_seed(0)
    model = build_pose_estimator(config.model)
    with torch.no_grad():
        model.head.final_layer.weight.normal_(0, 3)
        model.head.final_layer.bias.fill_(0.8)
    meta = {"dataset_meta": parse_pose_metainfo({"from_file": "configs/_base_/datasets/coco.py"})}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, folder / "tiny.pth")
    return folder


def spec(files):
    return f"mmpose:config={files / 'tiny.py'},checkpoint={files / 'tiny.pth'},detect=whole_image,device=cpu"


def test_detects(files, rng):
    detector = get_detector(spec(files))
    assert isinstance(detector, PeopleDetector)
    assert detector.device == "cpu"
    image = rng.integers(0, 255, (160, 120, 3), np.uint8)
    found = detector.detect(image)
    assert found.keypoints.shape == (1, 17, 2)
    assert found.scores.shape == (1, 17)
    assert found.mask is None
    assert np.isfinite(found.keypoints).all()
    assert_allclose(detector.detect(image).keypoints, found.keypoints)
    assert abs(detector.detect(255 - image).keypoints - found.keypoints).max() > 1  # it looks at the picture
    detector.close()
    with pytest.raises(ValueError, match="closed"):
        detector.detect(image)


def test_through_the_command_line(files, tmp_path, rng, capsys):
    """Photo and frames are one picture, found by one model: everything stays where it is."""
    picture = rng.integers(0, 255, (160, 120, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    (tmp_path / "frames").mkdir()
    for f in range(3):
        Image.fromarray(picture).save(tmp_path / "frames" / f"{f}.png")
    arguments = ["calibrate", str(tmp_path / "photo.png"), str(tmp_path / "frames"), "-o", str(tmp_path / "out"),
                 "--size", "160x120", "--score-threshold", "0", "--smooth", "none", "--detector",
                 spec(files)]  # fmt: skip
    assert main(arguments) == 0
    assert "detector: mmpose on cpu" in capsys.readouterr().out
    calibration = tpc_fast.Calibration.load(tmp_path / "out")
    assert calibration.detector == "mmpose"
    assert_allclose(calibration.matrices, np.broadcast_to(np.eye(2, 3), (3, 1, 2, 3)), atol=1e-3)


def test_wrong_files(files, tmp_path):
    with pytest.raises(ValueError, match=r"MMPose can't make .*absent.py"):
        get_detector(f"mmpose:config={tmp_path / 'absent.py'},checkpoint={files / 'tiny.pth'},detect=whole_image")
    with pytest.raises(ValueError, match=r"MMPose can't make .* with .*absent.pth"):
        get_detector(f"mmpose:config={files / 'tiny.py'},checkpoint={tmp_path / 'absent.pth'},detect=whole_image")
