"""MMPose end to end, on a tiny random model; it needs an environment of its own (tests/noxfile.py makes it)."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

import tpc_fast
from tpc_fast.cli.main import main
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


DETECT = """
default_scope = 'mmdet'
model = dict(
    type='FCOS',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4],
                           bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8, out_indices=(2, 3)),
    neck=dict(type='FPN', in_channels=[32, 64], out_channels=8, num_outs=2),
    bbox_head=dict(type='FCOSHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1, strides=[16, 32],
                   regress_ranges=((-1, 64), (64, 1e8)), norm_cfg=None),
    test_cfg=dict(nms_pre=100, score_thr=0.01, nms=dict(type='nms', iou_threshold=0.5), max_per_img=3))
visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
test_dataloader = dict(dataset=dict(type='CocoDataset', ann_file='', data_prefix=dict(img=''), pipeline=[
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
"""
SIZE = (160, 120)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Configurations and checkpoints; heads are biased, so that scores are well above zero, or what the name says.

    tiny, hand: pose models of 17 and 21 keypoints; persons, chairs, cats, nobody: what models that detect find.
    """
    import torch
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpose.datasets.datasets.utils import parse_pose_metainfo
    from mmpose.models import build_pose_estimator

    folder = tmp_path_factory.mktemp("mmpose")
    (folder / "tiny.py").write_text(CONFIG)
    (folder / "wider.py").write_text(CONFIG.replace("deconv_out_channels=(8, 8, 8)", "deconv_out_channels=(8, 8, 16)"))
    (folder / "hand.py").write_text(CONFIG.replace("out_channels=17", "out_channels=21"))
    (folder / "detect.py").write_text(DETECT)
    for name, data in (("tiny", "coco"), ("hand", "coco_wholebody_hand")):
        config = Config.fromfile(folder / f"{name}.py")
        init_default_scope("mmpose")
        torch.manual_seed(0)
        model = build_pose_estimator(config.model)
        with torch.no_grad():
            model.head.final_layer.weight.normal_(0, 3)
            model.head.final_layer.bias.fill_(0.8)
        meta = {"dataset_meta": parse_pose_metainfo({"from_file": f"configs/_base_/datasets/{data}.py"})}
        torch.save({"state_dict": model.state_dict(), "meta": meta}, folder / f"{name}.pth")
    config = Config.fromfile(folder / "detect.py")
    init_default_scope("mmdet")
    model = MODELS.build(config.model)
    for name, biases, classes in (
        ("persons", (-20.0, 5.0), ("chair", "person")),
        ("nobody", (-20.0, -20.0), ("chair", "person")),
        ("chairs", (5.0, -20.0), ("chair", "person")),
        ("cats", (5.0, 5.0), ("cat", "dog")),
    ):
        with torch.no_grad():
            model.bbox_head.conv_cls.bias.copy_(torch.tensor(biases))
            model.bbox_head.conv_centerness.bias.fill_(5)
            model.bbox_head.conv_reg.bias.fill_(2)
        meta = {"dataset_meta": {"classes": classes}}
        torch.save({"state_dict": model.state_dict(), "meta": meta}, folder / f"{name}.pth")
    init_default_scope("mmpose")
    return folder


def spec(files, detect="whole_image"):
    """Of the tiny pose model, and a model that detects by the name of its checkpoint."""
    pose = f"mmpose:config={files / 'tiny.py'},checkpoint={files / 'tiny.pth'},device=cpu"
    if detect == "whole_image":
        return f"{pose},detect=whole_image"
    return f"{pose},detect={files / 'detect.py'},detect_checkpoint={files / f'{detect}.pth'}"


def test_detects(files, rng):
    detector = get_detector(spec(files))
    assert isinstance(detector, PeopleDetector)
    assert detector.device == "cpu"
    image = rng.integers(0, 255, (*SIZE, 3), np.uint8)
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
    picture = rng.integers(0, 255, (*SIZE, 3), np.uint8)
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


def test_boxes_of_persons(files, rng):
    """One person a box, of the category that is called so; MMPose's own inferencer says the same."""
    image = rng.integers(0, 255, (*SIZE, 3), np.uint8)
    detector = get_detector(spec(files, "persons"))
    found = detector.detect(image)
    assert len(found) == 3  # max_per_img
    assert found.scores.shape == (3, 17)
    assert abs(found.keypoints[0] - found.keypoints[1]).max() > 1
    whole = get_detector(spec(files)).detect(image)
    assert min(abs(person - whole.keypoints[0]).max() for person in found.keypoints) > 1
    from mmpose.apis import MMPoseInferencer

    from tpc_fast.pose.detect.mmpose import _known_globals

    with _known_globals():
        direct = MMPoseInferencer(
            str(files / "tiny.py"), str(files / "tiny.pth"), device="cpu", det_model=str(files / "detect.py"),
            det_weights=str(files / "persons.pth"), det_cat_ids=(1,),
        )  # fmt: skip
    expected = next(direct(np.ascontiguousarray(image[..., ::-1]), bbox_thr=0.3))["predictions"][0]
    assert_allclose(found.keypoints, [person["keypoints"] for person in expected], atol=1e-3)


@pytest.mark.parametrize("detect", ["nobody", "chairs"])
def test_nobody(files, tmp_path, rng, capsys, detect):
    """MMPose itself would take the whole picture for a person."""
    image = rng.integers(0, 255, (*SIZE, 3), np.uint8)
    detector = get_detector(spec(files, detect))
    assert len(detector.detect(image)) == 0
    assert len(detector.detect(image)) == 0
    Image.fromarray(image).save(tmp_path / "photo.png")
    photo = str(tmp_path / "photo.png")
    arguments = ["calibrate", photo, photo, "-o", str(tmp_path / "out"), "--detector", spec(files, detect)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "reference: no person was found (mmpose looked at the 120x160 picture in 4 rolls)" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_the_device_is_where_the_weights_are(files):
    import torch

    detector = get_detector(spec(files).replace(",device=cpu", ""))
    assert torch.device(detector.device).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_missing_files(files, tmp_path):
    absent = tmp_path / "absent"
    for option, what in (
        (f"config={absent}.py,checkpoint={files / 'tiny.pth'}", "config"),
        (f"config={files / 'tiny.py'},checkpoint={absent}.pth", "checkpoint"),
        (f"config={files / 'tiny.py'},checkpoint={files / 'tiny.pth'},detect={absent}.py", "detect"),
    ):
        with pytest.raises(FileNotFoundError, match=f"there is no file '.*absent.*' for mmpose's {what}"):
            get_detector(f"mmpose:{option}")
    with pytest.raises(ValueError, match=r"mmpose's config is a file, '.*tiny.py', so checkpoint must be given"):
        get_detector(f"mmpose:config={files / 'tiny.py'},detect=whole_image")
    pose = f"mmpose:config={files / 'tiny.py'},checkpoint={files / 'tiny.pth'}"
    with pytest.raises(ValueError, match=r"mmpose's detect is a file, '.*detect.py', so detect_checkpoint must be"):
        get_detector(f"{pose},detect={files / 'detect.py'}")
    for detect in ("", ",detect=whole_image"):
        with pytest.raises(ValueError, match="detect_checkpoint must come with the model that it is of"):
            get_detector(f"{pose},detect_checkpoint={files / 'persons.pth'}{detect}")


def test_wrong_models(files, tmp_path, rng, capsys):
    """MMPose itself goes on with random weights where a checkpoint is of another model."""
    import torch

    for config, checkpoint, why in (
        ("wider", "tiny", r"tiny.pth' is no checkpoint of '.*wider.py': \d+ of its weights are missing or of another"),
        ("tiny", "hand", r"hand.pth' is no checkpoint of '.*tiny.py': 2 of its weights are missing or of another"),
        ("tiny", "persons", r"persons.pth' is no checkpoint of '.*tiny.py': \d+ of its weights are missing"),
        ("hand", "hand", r"must find the 17 COCO keypoints first, but '.*hand.py' finds .*wrist, .*thumb1"),
        ("detect", "persons", r"MMPose can't make a model of '.*detect.py'"),
    ):
        options = f"config={files / f'{config}.py'},checkpoint={files / f'{checkpoint}.pth'},detect=whole_image"
        with pytest.raises(ValueError, match=why):
            get_detector(f"mmpose:{options}")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("this is no checkpoint")
    (tmp_path / "text.py").write_text("this is no configuration")
    for config, checkpoint in (
        (files / "tiny.py", "list.pth"),
        (files / "tiny.py", "text.pth"),
        (tmp_path / "text.py", "text.pth"),
    ):
        with pytest.raises(ValueError, match=rf"MMPose can't make a model of '{config}', '.*{checkpoint}', .*: .+"):
            get_detector(f"mmpose:config={config},checkpoint={tmp_path / checkpoint},detect=whole_image")
    with pytest.raises(ValueError, match=r"must find 'person', but '.*detect.py' finds \('cat', 'dog'\)"):
        get_detector(spec(files, "cats"))
    with pytest.raises(ValueError, match=r"tiny.pth' is no checkpoint of '.*detect.py'"):
        get_detector(spec(files, "tiny"))
    Image.fromarray(rng.integers(0, 255, (*SIZE, 3), np.uint8)).save(tmp_path / "photo.png")
    photo, wrong = str(tmp_path / "photo.png"), f"mmpose:config={files / 'tiny.py'},checkpoint={files / 'hand.pth'}"
    arguments = ["calibrate", photo, photo, "-o", str(tmp_path / "out"), "--detector", f"{wrong},detect=whole_image"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "hand.pth' is no checkpoint of" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
