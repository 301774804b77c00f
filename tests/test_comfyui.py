"""The nodes for ComfyUI, without ComfyUI: functions, schemas, loader, workflows."""

import asyncio
import inspect
import json
import re
from types import SimpleNamespace

import comfy
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scene import PERSON, scene

from tpc_fast.cli.main import main
from tpc_fast.comfyui import functions
from tpc_fast.comfyui.install import CANVAS, FOLDER, WORKFLOWS
from tpc_fast.pose.files.read import whole_body_of
from tpc_fast.pose.files.whole_body import WholeBody, openpose_frames

FRAMES = 6


def _pose(points, size):
    whole = WholeBody.of_bodies(points[:, None], np.ones((len(points), 1, 17)), size)
    return openpose_frames(whole)


@pytest.fixture
def batches(rng) -> dict:
    """What ComfyUI hands over: floats in 0..1, masks, POSE_KEYPOINT."""
    image, mask, driving, keypoints, masks, _ = scene(rng, FRAMES)
    return {
        "reference": image[None] / np.float32(255), "driving": driving / np.float32(255), "fps": 16.0,
        "reference_mask": mask[None] / np.float32(255), "driving_mask": masks / np.float32(255),
        "reference_pose": _pose(PERSON[None], (104, 80)), "driving_pose": _pose(keypoints, (120, 160)),
    }  # fmt: skip


@pytest.fixture
def calibration(batches):
    return functions.calibrate(**batches, size=(96, 128), smooth="none")


@pytest.fixture
def nodes(monkeypatch, tmp_path):
    said = comfy.install(monkeypatch, tmp_path)
    from tpc_fast.comfyui import nodes

    return nodes, said


def test_batches_are_what_the_calibration_renders(calibration):
    told = []
    found = functions.rendered(calibration, lambda *n: told.append(n))
    assert told == [(i + 1, FRAMES) for i in range(FRAMES)]
    assert all(batch.dtype == np.float32 for batch in found)
    assert_allclose(found.image, calibration.images[:][:, 0] / 255, atol=1e-6)
    assert_allclose(found.mask, calibration.masks[:][:, 0] / 255, atol=1e-6)
    assert_allclose(found.pose_mask, calibration.pose_masks[:][:, 0] / 255, atol=1e-6)
    assert_allclose(found.composite, np.stack(list(calibration.composites)) / 255, atol=1e-6)
    assert found.pose_mask.any()


def test_identity_masks_have_one_colour_a_person(calibration):
    """As core's SCAIL2ColoredMask has it, around the photo's persons is what is not around the video's."""
    for purpose, still, moving in (("animation", 1, 0), ("replacement", 0, 1)):
        photo, video = functions.identity_masks(calibration, purpose)
        for picture, masks in ((photo[0], None), *zip(video, calibration.pose_masks, strict=True)):
            ground = still if masks is None else moving
            colours = {tuple(c) for c in picture.reshape(-1, 3).tolist()}
            assert colours == {(0, 0, 1), (ground,) * 3}
            if masks is not None:
                assert_array_equal((picture == (0, 0, 1)).all(-1), masks[0] >= 128)
    with pytest.raises(ValueError, match="purpose must be one of animation, replacement, but is 'x'"):
        functions.identity_masks(calibration, "x")


def test_who_stands_in_front_covers_others():
    masks = [np.full((2, 3), 255), np.array([[255, 0, 0], [0, 0, 0]])]
    for order, colour in (((0, 1), (1, 0, 0)), ((1, 0), (0, 0, 1))):
        picture = functions._coloured(masks, order, 0)
        assert tuple(picture[0, 0]) == colour
        assert tuple(picture[1, 1]) == (0, 0, 1)
    assert len(set(functions.PALETTE)) == 6


def test_too_many_persons_for_the_palette():
    with pytest.raises(ValueError, match="at most 6 persons, but is of 7"):
        functions.identity_masks(SimpleNamespace(persons=7))


def test_retarget_of_both_kinds(calibration, batches):
    pose = functions.retarget(calibration, batches["driving_pose"], mode="frame")
    assert pose.picture.shape == (FRAMES, 96, 128, 3)
    assert pose.picture.max() == 1
    expected = calibration.reference_canvas.apply(PERSON)
    found = whole_body_of(pose.pose_keypoint).keypoints[:, 0, :17]
    assert_allclose(found, np.broadcast_to(expected, found.shape), atol=0.5)
    assert_allclose(whole_body_of(pose.posedata["pose_metas_original"]).keypoints[:, 0, :17], found, atol=1e-3)
    meta = pose.posedata["pose_metas"][0]
    assert meta.kps_body.shape == (20, 2)
    assert meta.kps_lhand_p.shape == (21,)
    source = functions.posedata(whole_body_of(batches["driving_pose"]))
    again = functions.retarget(calibration, pose_data=source, mode="frame")
    assert_allclose(again.picture, pose.picture, atol=1)
    with pytest.raises(ValueError, match="pose_keypoint must not go with pose_data"):
        functions.retarget(calibration, [], {})
    with pytest.raises(ValueError, match="pose_data can't be read as keypoints"):
        functions.retarget(calibration, pose_data={"pose_metas": []})


def test_inspect(calibration):
    assert functions.inspect(calibration).shape == (1, 3 * 96, 3 * 128, 3)
    calibration.driving = None
    assert functions.inspect(calibration).max() == 1
    assert "person 0" in functions.report(calibration)


@pytest.mark.parametrize("name", ["..", "", ".", "/etc", "a/../../b"])
def test_no_path_outside(name, tmp_path):
    with pytest.raises(ValueError, match="name must be of a folder within"):
        functions.inside(tmp_path, name)


@pytest.mark.parametrize(
    "spec",
    ["rtmlib:pose=/tmp/x.onnx", "rtmlib:rtmo=https://a.example/x.onnx", "mmpose:config=/tmp/x.py",
     "blazepose:landmark=x", "/tmp/x.torchscript", "mmpose:detect_checkpoint=x,people=2"],
)  # fmt: skip
def test_a_workflow_names_no_program(spec):
    with pytest.raises(ValueError, match=r"detector must be one of blazepose, .*a network is a program"):
        functions.choices(spec, None, None)


def test_options_that_are_no_files_are_all_that_detectors_have():
    """An option that is added, and names no file, may join the list."""
    from tpc_fast.pose.detect.registry import NEEDS, PLAIN_OPTIONS

    assert {name for needs in NEEDS.values() for name in needs.converters} <= set(PLAIN_OPTIONS)
    for name in NEEDS:
        functions.choices(f"{name}:device=cpu", None, None)


def test_a_saved_calibration_shows_no_video_from_elsewhere(calibration, tmp_path):
    """Whoever can put files into ComfyUI's folder, by its uploads, could name any video of this machine."""
    root, inputs, secret = tmp_path / "output", tmp_path / "input", tmp_path / "secret.mp4"
    root.mkdir()
    for video, kept in ((secret, None), (inputs / "a.mp4", str(inputs / "a.mp4")), (inputs / "../secret.mp4", None)):
        calibration.driving_path = calibration.reference_path = str(video)
        calibration.save(root / "x", True)
        found = functions.load(root, "x", inputs)
        assert found.driving_path == found.reference_path == kept
    with pytest.raises(ValueError, match="name must be of a folder within"):
        functions.load(root, "../x")


def test_schemas_fit_what_is_executed(nodes):
    nodes, _ = nodes
    listed = asyncio.run(asyncio.run(nodes.comfy_entrypoint()).get_node_list())
    schemas = [node.define_schema() for node in listed]
    assert len({schema.node_id for schema in schemas}) == len(listed) == 7
    for node, schema in zip(listed, schemas, strict=True):
        parameters = inspect.signature(node.execute).parameters
        assert {value.name for value in schema.inputs} == set(parameters)
        optional = {value.name for value in schema.inputs if value.optional}
        assert optional == {name for name, p in parameters.items() if p.default is None}
        assert schema.category == "tpc_fast"
        assert schema.description


def test_nodes_run(nodes, batches):
    torch = pytest.importorskip("torch")
    nodes, said = nodes
    tensors = {n: torch.from_numpy(b) if isinstance(b, np.ndarray) else b for n, b in batches.items()}
    options = {"width": 128, "height": 96, "resize": "pad", "smooth": "none", "motion": "frame"}
    *pictures, calibration, text = nodes.Calibrate.execute(**tensors, **options)
    assert [tuple(p.shape) for p in pictures] == [(FRAMES, 96, 128, 3), *[(FRAMES, 96, 128)] * 2, (FRAMES, 96, 128, 3)]
    assert len(pictures) == len(nodes.Calibrate.define_schema().outputs) - 2
    assert "person 0" in text
    shares = [value / total for value, total in said.updates]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    (folder,) = nodes.SaveCalibration.execute(calibration, "a/b", False)
    loaded = nodes.LoadCalibration.execute("a/b")
    assert torch.equal(loaded[0], pictures[0])
    assert folder.endswith("b")
    assert nodes.LoadCalibration.fingerprint_inputs("a/b") > 0 == nodes.LoadCalibration.fingerprint_inputs("none")
    moved = nodes.Retarget.execute(calibration, "constant", 0.5, 2.0, False)
    assert len(moved) == len(nodes.Retarget.define_schema().outputs)
    assert len(nodes.IdentityMasks.execute(calibration, "animation")) == 2
    assert len(nodes.Inspect.execute(calibration)) == 2
    photo, driving = nodes.OnCanvas.execute(calibration)
    assert tuple(photo.shape) == (1, 96, 128, 3)
    assert torch.equal(driving[2], torch.from_numpy(list(calibration.driving_frames())[2].copy()) / 255)
    played = nodes.Calibrate.execute(**tensors, **options, detector="", match="0:0", depth="0")[4]
    assert played.options["match"] == [[0, 0]]
    assert played.options["depth"] == [0]
    video = SimpleNamespace(get_components=lambda: SimpleNamespace(images=tensors["driving"], frame_rate=25))
    assert nodes.Calibrate.execute(**tensors | {"driving": None, "video": video}, **options)[4].fps == 25
    with pytest.raises(ValueError, match="driving or video must be given, and not both"):
        nodes.Calibrate.execute(**tensors, video=video, **options)
    said.interrupt = True
    with pytest.raises(comfy.Interrupted):
        nodes.Calibrate.execute(**tensors, **options)


def test_what_people_write(calibration):
    assert functions.choices("", "auto", "auto") == {"match": "auto", "depth": "auto"}
    assert functions.choices(None, None, "") == {}
    assert functions.choices("blazepose:people=2", "0:1,1:0", "1,0") == {
        "detector": "blazepose:people=2", "match": ((0, 1), (1, 0)), "depth": (1, 0)
    }  # fmt: skip


# Inputs (required, optional) and the number of outputs of core nodes, as comfy_extras/nodes_scail.py, nodes_wan.py and
# nodes.py of Comfy-Org/ComfyUI define them; sizes must be multiples of the number.
CORE = {
    "WanSCAILToVideo": (
        {"positive", "negative", "vae", "width", "height", "length", "batch_size", "pose_strength", "pose_start",
         "pose_end", "video_frame_offset", "previous_frame_count"},
        {"pose_video", "pose_video_mask", "replacement_mode", "reference_image", "reference_image_mask",
         "clip_vision_output", "previous_frames"}, 4, 32,
    ),
    "WanAnimateToVideo": (
        {"positive", "negative", "vae", "width", "height", "length", "batch_size", "continue_motion_max_frames",
         "video_frame_offset"},
        {"clip_vision_output", "reference_image", "face_video", "pose_video", "background_video", "character_mask",
         "continue_motion"}, 6, 16,
    ),
    "CLIPVisionEncode": ({"clip_vision", "image", "crop"}, set(), 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.json")), ids=lambda path: path.stem)
def test_workflows_fit_core(path):
    graph = json.loads(path.read_text())
    for node in graph.values():
        for value in node["inputs"].values():
            if isinstance(value, list) and graph[value[0]]["class_type"] in CORE:
                assert value[1] < CORE[graph[value[0]]["class_type"]][2]
        if node["class_type"] in CORE:
            required, optional, _, step = CORE[node["class_type"]]
            assert required <= set(node["inputs"]) <= required | optional
            if step > 1:
                calibrated = next(n for n in graph.values() if n["class_type"] == "TpcFastCalibrate")["inputs"]
                for side in ("width", "height"):
                    assert node["inputs"][side] == calibrated[side]
                    assert node["inputs"][side] % step == 0
        if node["class_type"] == "WanSCAILToVideo":
            purpose = graph[node["inputs"]["pose_video_mask"][0]]["inputs"]["purpose"]
            assert node["inputs"]["replacement_mode"] == (purpose == "replacement")
    if path.stem == "several_people":
        assert any(n["inputs"].get("detector") == "blazepose:people=2" for n in graph.values())


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.json")), ids=lambda path: path.stem)
def test_menus_open_the_same_workflows(path):
    """The graph with places has the nodes, links and values of the one for the HTTP API."""
    graph, canvas = json.loads(path.read_text()), json.loads((CANVAS / path.name).read_text())
    nodes = {str(node["id"]): node for node in canvas["nodes"]}
    assert {key: node["type"] for key, node in nodes.items()} == {key: n["class_type"] for key, n in graph.items()}
    ends = {link: (str(source), slot, str(target)) for link, source, slot, target, *_ in canvas["links"]}
    for key, node in graph.items():
        inputs = {value["name"]: value for value in nodes[key]["inputs"]}
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                assert ends[inputs[name]["link"]] == (*value, key)
            else:
                assert value in nodes[key]["widgets_values"], (key, name)
    assert len(ends) == sum(isinstance(value, list) for node in graph.values() for value in node["inputs"].values())
    assert {p.name for p in CANVAS.iterdir()} == {p.name for p in WORKFLOWS.glob("*.json")}


def test_what_the_registry_takes(tmp_path, capsys):
    import tomllib

    from tpc_fast import __version__

    said = ["--publisher", 'Ann "A"', "--repository", "https://example.org/ann/tpc-fast/"]
    assert main(["comfyui", "pack", str(tmp_path / "new" / "pack"), *said]) == 0
    folder = tmp_path / "new" / "pack"
    assert {p.name for p in (folder / "example_workflows").iterdir()} == {p.name for p in WORKFLOWS.glob("*.json")}
    written = tomllib.loads((folder / "pyproject.toml").read_text())
    assert written["project"]["version"] == __version__
    assert "comfyui" not in written["project"]["name"].lower()
    assert written["project"]["dependencies"] == (folder / "requirements.txt").read_text().split()
    assert written["tool"]["comfy"]["PublisherId"] == 'Ann "A"'
    icon = f"https://example.org/ann/tpc-fast/raw/v{__version__}/tpc_fast/comfyui/icon.svg"
    assert written["tool"]["comfy"]["Icon"] == icon
    assert (folder / "icon.svg").read_text().startswith("<svg")
    assert "comfy_entrypoint" in (folder / "__init__.py").read_text()
    assert main(["comfyui", "pack", str(folder)]) == 1
    assert "File exists" in capsys.readouterr().err
    assert main(["comfyui", "pack", str(tmp_path / "empty")]) == 0
    fields = tomllib.loads((tmp_path / "empty" / "pyproject.toml").read_text())["tool"]["comfy"]
    assert fields["PublisherId"] == fields["Icon"] == ""  # whoever publishes fills them in


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.json")), ids=lambda path: path.stem)
def test_workflows_fit_the_schemas(nodes, path):
    nodes, _ = nodes
    schemas = {node.define_schema().node_id: node.define_schema() for node in nodes.NODES}
    graph = json.loads(path.read_text())
    used = 0
    for node in graph.values():
        for value in node["inputs"].values():
            if isinstance(value, list) and (source := graph[value[0]])["class_type"] in schemas:
                assert value[1] < len(schemas[source["class_type"]].outputs)
        if node["class_type"] in schemas:
            used += 1
            inputs = {value.name: value for value in schemas[node["class_type"]].inputs}
            assert set(node["inputs"]) <= set(inputs)
            assert {name for name, value in inputs.items() if not value.optional} <= set(node["inputs"])
    assert used


def test_install_and_uninstall(tmp_path, capsys):
    assert main(["comfyui", "install", str(tmp_path)]) == 1
    assert "path must be ComfyUI's folder" in capsys.readouterr().err
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "main.py").touch()
    assert main(["comfyui", "uninstall", str(tmp_path)]) == 1
    folder = tmp_path / "custom_nodes" / FOLDER
    for _ in range(2):
        assert main(["comfyui", "install", str(tmp_path)]) == 0
    assert re.search(
        r"^from tpc_fast.comfyui.nodes import comfy_entrypoint", (folder / "__init__.py").read_text(), re.M
    )
    assert {p.name for p in (folder / "example_workflows").iterdir()} == {p.name for p in WORKFLOWS.glob("*.json")}
    assert all("nodes" in json.loads(p.read_text()) for p in (folder / "example_workflows").iterdir())
    (folder / "mine.txt").touch()
    assert main(["comfyui", "uninstall", str(tmp_path)]) == 1
    (folder / "mine.txt").unlink()
    assert main(["comfyui", "uninstall", str(tmp_path)]) == 0
    assert not folder.exists()
    folder.mkdir()
    (folder / "__init__.py").write_text("mine")
    assert main(["comfyui", "install", str(tmp_path)]) == 1
    assert main(["comfyui", "uninstall", str(tmp_path)]) == 1
