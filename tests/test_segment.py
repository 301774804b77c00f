"""Masks by Segment Anything: a tiny random model of transformers end to end; and their cleaning."""

import shutil
import sys
import types

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from scene import TWO as PEOPLE
from scene import two_people

import tpc_fast
from tpc_fast.cli.main import main
from tpc_fast.media.video import VideoWriter
from tpc_fast.pose import Detection, clean_mask, get_segmenter
from tpc_fast.pose.masks.sam import Segmenter, prompt_box, with_masks


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """The folder of a tiny random SAM."""
    pytest.importorskip("torch", reason="extra 'torch'")
    transformers = pytest.importorskip("transformers", reason="extra 'diffusion'")
    folder = tmp_path_factory.mktemp("sam")
    config = transformers.SamConfig(
        vision_config=dict(
            hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8,
            mlp_dim=16, global_attn_indexes=[0], num_pos_feats=8, window_size=4,
        ),
        prompt_encoder_config=dict(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4),
        mask_decoder_config=dict(
            hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16,
            iou_head_depth=2,
        ),
    )  # fmt: skip
    from tiny import randomised

    randomised(transformers.SamModel(config)).save_pretrained(folder)
    transformers.SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sam2(tmp_path_factory):
    """The folder of a tiny random SAM 2."""
    pytest.importorskip("torch", reason="extra 'torch'")
    transformers = pytest.importorskip("transformers", reason="extra 'diffusion'")
    folder = tmp_path_factory.mktemp("sam2")
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[8, 4, 4, 4], global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )  # fmt: skip
    config = transformers.Sam2Config(
        vision_config=dict(
            backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        ),
        prompt_encoder_config=dict(hidden_size=32, image_size=64, patch_size=16),
        mask_decoder_config=dict(hidden_size=32, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16),
    )  # fmt: skip
    from tiny import randomised

    randomised(transformers.Sam2Model(config)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_tiny_sam(kind, request, rng):
    folder = request.getfixturevalue(kind)
    segmenter = get_segmenter(f"{kind}:{folder}")
    assert isinstance(segmenter, Segmenter)
    assert segmenter.name == kind
    import torch

    assert segmenter.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert {parameter.device.type for parameter in segmenter._model.parameters()} == {segmenter.device}
    image = rng.integers(0, 255, (140, 210, 3), np.uint8)
    seen = np.ones((2, 17), bool)
    masks = segmenter.segment(image, PEOPLE, seen)
    assert masks.shape == (2, 140, 210)
    assert masks.dtype == np.uint8
    assert set(np.unique(masks)) <= {0, 255}
    # One person alone gives the same mask: prompts do not mix.
    assert_array_equal(segmenter.segment(image, PEOPLE[1:], seen[1:])[0], masks[1])
    seen[0] = False
    assert not segmenter.segment(image, PEOPLE, seen)[0].any()
    assert segmenter.segment(image, PEOPLE[:0], seen[:0]).shape == (0, 140, 210)


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_prompts_and_picture_count(kind, request, rng):
    """Other keypoints, or another picture, give another mask: neither is ignored."""
    segmenter = get_segmenter(f"{kind}:{request.getfixturevalue(kind)}")
    seen, size = np.ones((1, 17), bool), (140, 210)
    pictures = rng.integers(0, 255, (4, *size, 3), np.uint8)
    masks = [segmenter.segment(picture, PEOPLE[:1], seen) for picture in pictures]
    assert any((mask != masks[0]).any() for mask in masks[1:])
    moved = [segmenter.segment(pictures[0], PEOPLE[:1] * scale, seen) for scale in (0.2, 0.5, 1.2)]
    assert any((mask != masks[0]).any() for mask in moved)


def test_sam_through_the_main_job(sam, rng):
    """A detector without masks: the segmenter's serve, in photo and frames."""

    class Detector:
        name, version, device = "two people", "1", "paper"

        def detect(self, image):
            return Detection(PEOPLE, np.ones((2, 17), np.float32))

        def close(self):
            pass

    image = rng.integers(0, 255, (140, 210, 3), np.uint8)
    options = {"detector": Detector(), "size": (140, 210), "smooth": "none"}
    calibration = tpc_fast.calibrate(image, np.stack([image] * 3), segmenter=f"sam:{sam}", **options)
    expected = get_segmenter(f"sam:{sam}").segment(image, PEOPLE, np.ones((2, 17), bool))
    assert_array_equal(calibration.reference_mask, expected)
    assert_array_equal(calibration.pose_masks[2], expected)
    without = tpc_fast.calibrate(image, np.stack([image] * 3), **options)
    assert any("two people finds no masks" in w for w in without.warnings)
    cleaned = tpc_fast.calibrate(image, np.stack([image] * 3), segmenter=f"sam:{sam}", clean_masks=True, **options)
    assert_array_equal(cleaned.reference_mask, [clean_mask(mask) for mask in expected])


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_given_keypoints_through_the_command_line(kind, request, tmp_path, rng, capsys):
    """They are the prompts, as in the original; in a frame without anybody nothing is asked."""
    model = f"{kind}:{request.getfixturevalue(kind)}"
    picture, arguments = two_people(tmp_path, rng)
    assert main([*arguments, "--segmenter", model]) == 0
    segmenter = get_segmenter(model)
    assert f"segmenter: {kind} on {segmenter.device}" in capsys.readouterr().out
    assert f"{kind} on {segmenter.device}" in (tmp_path / "out" / "report.html").read_text()
    calibration = tpc_fast.Calibration.load(tmp_path / "out")
    assert (calibration.segmenter, calibration.segmenter_device) == (kind, segmenter.device)
    expected = segmenter.segment(picture, PEOPLE, np.ones((2, 17), bool))
    assert_array_equal(calibration.reference_mask, expected)
    assert_array_equal(calibration.pose_masks[0], expected)
    assert_array_equal(calibration.pose_masks[2], expected)
    assert not calibration.pose_masks[1].any()
    assert (calibration.status[1] == "held").all()
    assert not [warning for warning in calibration.warnings if "no masks" in warning]


@pytest.mark.parametrize("where", ["host", "device", "keypoints on the device"])
def test_given_keypoints_of_a_stream(sam, rng, where):
    import torch

    image = rng.integers(0, 255, (140, 210, 3), np.uint8)
    scores = np.ones((2, 17), np.float32)
    expected = get_segmenter(f"sam:{sam}").segment(image, PEOPLE, scores > 0)
    device = None if where == "host" else "cpu"
    options = {"reference_keypoints": PEOPLE, "size": (140, 210), "match": "columns", "device": device}
    with tpc_fast.Calibrator(image, segmenter=f"sam:{sam}", **options) as calibrator:
        assert_array_equal(calibrator.reference.mask, expected)
        keypoints = torch.from_numpy(PEOPLE) if where == "keypoints on the device" else PEOPLE
        frame = image if device is None else torch.from_numpy(image)
        for _ in range(2):
            out = calibrator.step(frame, detection=Detection(keypoints, scores))
            assert_array_equal(np.asarray(out.pose_mask) >= 128, expected >= 128)
        # Masks that are given stay, and nobody has none.
        given = np.full((2, 140, 210), 255, np.uint8)
        out = calibrator.step(frame, detection=Detection(keypoints, scores, given))
        assert (np.asarray(out.pose_mask) == 255).all()
        calibrator.reset()
        out = calibrator.step(image, detection=Detection.nobody())
        assert not np.asarray(out.pose_mask).any()


def test_given_masks_stay(sam, tmp_path, rng):
    picture, arguments = two_people(tmp_path, rng)
    driving = np.load(tmp_path / "driving.npz")["keypoints"]
    masks = rng.random((3, 2, *picture.shape[:2])) < 0.5
    np.savez(tmp_path / "driving.npz", keypoints=driving, masks=masks)
    (tmp_path / "masks").mkdir()
    for p in range(2):
        Image.fromarray(masks[0, p] * np.uint8(255)).save(tmp_path / "masks" / f"{p}.png")
    assert main([*arguments, "-q", "--segmenter", f"sam:{sam}", "--reference-mask", str(tmp_path / "masks")]) == 0
    calibration = tpc_fast.Calibration.load(tmp_path / "out")
    assert_array_equal(calibration.reference_mask, masks[0] * np.uint8(255))
    assert_array_equal(calibration.pose_masks[2], masks[2] * np.uint8(255))


def test_prompts_lie_in_the_picture():
    """What is outside of it, missing, or of a low score is not asked with."""
    asked = []

    class Recorder:
        name, device = "recorder", "paper"

        def segment(self, image, keypoints, seen):
            asked.append(seen)
            return np.zeros((len(keypoints), *image.shape[:2]), np.uint8)

    keypoints, scores = PEOPLE.copy(), np.ones((2, 17), np.float32)
    keypoints[0, :5] = [(-0.6, 3), (209.6, 3), (3, -0.6), (3, 139.6), (np.nan, np.nan)]
    scores[1, 3] = 0.29
    expected = np.ones((2, 17), bool)
    expected[0, :5] = expected[1, 3] = False
    with_masks(Recorder(), np.zeros((140, 210, 3), np.uint8), Detection(keypoints, scores), 0.3)
    assert_array_equal(asked[0], expected)


@pytest.mark.slow
def test_a_cache_is_of_one_model(sam, tmp_path, rng, caplog):
    """Masks of other weights, or of other prompts, are made anew."""

    class Detector:
        name, version, device = "two people", "1", "paper"

        def detect(self, image):
            return Detection(PEOPLE, np.linspace(0.2, 1, 34, dtype=np.float32).reshape(2, 17))

        def close(self):
            pass

    with VideoWriter(tmp_path / "clip.mp4", 30, (140, 210)) as video:
        for _ in range(2):
            video.write(rng.integers(0, 255, (140, 210, 3), np.uint8))
    other = shutil.copytree(sam, tmp_path / "other")

    def replaced(**options):
        options = {"segmenter": f"sam:{sam}", "detector": Detector(), "size": (140, 210)} | options
        caplog.clear()
        image = np.zeros((140, 210, 3), np.uint8)
        tpc_fast.calibrate(image, tmp_path / "clip.mp4", cache=tmp_path / "cache.npz", **options)
        return "the cache is replaced" in caplog.text

    assert not replaced()
    assert not replaced()
    assert replaced(segmenter=f"sam:{other}")
    assert not replaced(segmenter=f"sam:{other}")
    assert replaced(segmenter=f"sam:{other}", score_threshold=0.5)
    assert replaced(segmenter=None)
    assert not replaced(segmenter=None, score_threshold=0.5)


@pytest.mark.demo
@pytest.mark.parametrize("kind", ["sam", "sam2"])
@pytest.mark.slow
def test_sam_through_the_command_line(kind, request, tmp_path):
    from tpc_fast import demo

    model = f"{kind}:{request.getfixturevalue(kind)}"

    photo = demo.load_photo()
    Image.fromarray(photo).save(tmp_path / "photo.png")
    demo.write_clip(photo, tmp_path / "clip.mp4", demo.camera_path(3))
    files = [str(tmp_path / "photo.png"), str(tmp_path / "clip.mp4"), "-o", str(tmp_path / "out")]
    assert main(["calibrate", *files, "-q", "--size", "128", "--detector", "blazepose", "--segmenter", model]) == 0
    assert len(tpc_fast.Calibration.load(tmp_path / "out")) == 3


def test_wrong_segmenters(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"segmenter must be sam:MODEL, sam2:MODEL, .* or densepose:FILE, but is 'rembg'"
    ):
        get_segmenter("rembg")
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(ImportError, match="pip install segment-anything"):
        get_segmenter("segment-anything:sam_vit_b.pth")


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_wrong_models(kind, request, tmp_path, rng, capsys):
    """Weights that are missing, of another model or damaged are never drawn at random in silence."""
    good, other = request.getfixturevalue(kind), request.getfixturevalue({"sam": "sam2", "sam2": "sam"}[kind])
    from safetensors.torch import load_file, save_file

    name = {"sam": "SAM", "sam2": "SAM 2"}[kind]
    half = shutil.copytree(good, tmp_path / "half")
    weights = load_file(half / "model.safetensors")
    save_file(dict(list(weights.items())[::2]), half / "model.safetensors", {"format": "pt"})
    shape = shutil.copytree(good, tmp_path / "shape")
    longest = max(weights, key=lambda key: weights[key].numel())
    save_file(weights | {longest: weights[longest][:1].clone()}, shape / "model.safetensors", {"format": "pt"})
    junk = shutil.copytree(good, tmp_path / "junk")
    (junk / "model.safetensors").write_bytes(b"no weights at all")
    (tmp_path / "empty").mkdir()
    for folder, why in (
        (half, r"\d+ of its weights are missing or of another shape"),
        (shape, f"1 of its weights are missing or of another shape, {longest} among them"),
        (junk, "Error while deserializing"),
        (other, f"its config.json says it is '{other.name[:-1]}'"),
        (tmp_path / "empty", "its config.json is missing"),
        (tmp_path / "absent", "there is no such folder"),
    ):
        with pytest.raises(ValueError, match=f"{folder.name}' can't be loaded as a {name} model: {why}"):
            get_segmenter(f"{kind}:{folder}")
    _, arguments = two_people(tmp_path, rng)
    assert main([*arguments, "--segmenter", f"{kind}:{other}"]) == 1
    error = capsys.readouterr().err
    assert f"can't be loaded as a {name} model: its config.json says" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_the_original_package_is_asked_rightly(tmp_path, monkeypatch, rng):
    """`segment-anything` is not installed beside the rest: a stand-in with its interface records what it is asked."""
    pytest.importorskip("torch", reason="extra 'torch'")
    asked = []

    class Model:
        def __init__(self, checkpoint):
            self.checkpoint = checkpoint

        def to(self, device):
            return self

    class Predictor:
        def __init__(self, model):
            pass

        def set_image(self, image):
            asked.append(("image", image.shape))
            self.size = image.shape[:2]

        def predict(self, point_coords, point_labels, box, multimask_output):
            asked.append((point_coords.shape, point_labels.tolist(), box.shape, multimask_output))
            return np.ones((1, *self.size), bool), np.ones(1), None

    package = types.ModuleType("segment_anything")
    package.SamPredictor, package.sam_model_registry = Predictor, {"vit_b": Model}
    monkeypatch.setitem(sys.modules, "segment_anything", package)
    (tmp_path / "sam_vit_b_01ec64.pth").write_text("")
    segmenter = get_segmenter(f"segment-anything:{tmp_path / 'sam_vit_b_01ec64.pth'}")
    seen = rng.random((2, 17)) < 0.5
    seen[:, 0] = True
    masks = segmenter.segment(np.zeros((140, 210, 3), np.uint8), PEOPLE, seen)
    assert (masks == 255).all()
    prompts = [((int(s.sum()), 2), [1] * int(s.sum()), (4,), False) for s in seen]
    assert asked == [("image", (140, 210, 3)), *prompts]


def test_prompt_box():
    assert prompt_box(np.array([[10.0, 10], [30, 50]]), (100, 35)) == [7, 4, 33, 56]


def test_clean_mask():
    mask = np.zeros((20, 30), np.uint8)
    mask[2:12, 3:15] = 255
    mask[2:12, 15] = 100  # a soft edge
    expected = mask.copy()
    mask[5:8, 6:9] = 0  # a hole
    mask[15:18, 20:28] = 200  # something else
    assert_array_equal(clean_mask(mask), expected)
    assert not clean_mask(np.full((5, 5), 90, np.uint8)).any()
