"""Keypoint files of other programs, in the shapes that these write: read back as the same COCO-17 points."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scene import FIGURE, PERSON, scene

import tpc_fast
from tpc_fast.media.video import VideoWriter
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose import load_keypoints, save_keypoints
from tpc_fast.pose.files.detections import unpack_mask
from tpc_fast.pose.files.given import given_detections, load_masks

SIZE = (240, 320)
# The points of other orders by name, as their own documentation lists them; None: not in COCO-17.
_RIGHT = ["right_shoulder", "right_elbow", "right_wrist"]
_LEFT = ["left_shoulder", "left_elbow", "left_wrist"]
_LEGS = {side: [f"{side}_hip", f"{side}_knee", f"{side}_ankle"] for side in ("right", "left")}
_HEAD = ["right_eye", "left_eye", "right_ear", "left_ear"]
NAMES = {
    "coco": [*coco.NAMES],
    "openpose 18": ["nose", None, *_RIGHT, *_LEFT, *_LEGS["right"], *_LEGS["left"], *_HEAD],
    "openpose 25": ["nose", None, *_RIGHT, *_LEFT, None, *_LEGS["right"], *_LEGS["left"], *_HEAD, *[None] * 6],
    "halpe 26": [*coco.NAMES, *[None] * 9],
    "wholebody 133": [*coco.NAMES, *[None] * 116],
    "mediapipe": [
        "nose", None, "left_eye", None, None, "right_eye", None, "left_ear", "right_ear", None, None,
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", *[None] * 6,
        "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", *[None] * 4,
    ],
}  # fmt: skip


@pytest.fixture
def people(rng):
    """Three frames of two persons [3, 2, 17, 3]: pixels and scores; in the second frame only one, one hand missing."""
    points = 0.5 * FIGURE + rng.uniform(40, 60, (3, 2, 1, 2)) + [[[0, 0]], [[150, 10]]]
    people = np.concatenate([points, rng.uniform(0.6, 0.9, (3, 2, 17, 1))], -1)
    people[1, 1] = np.nan
    people[2, 0, 9] = np.nan
    return people


def laid_out(person, order):
    """A person [17, 3] in another order [K, 3]; what COCO does not have is somewhere, what is missing is 0."""
    rows = np.full((len(NAMES[order]), 3), 7.0)
    for row, name in zip(rows, NAMES[order], strict=True):
        if name is not None:
            row[:] = np.nan_to_num(person[coco.NAMES.index(name)])
    rows[:, 2] = np.minimum(rows[:, 2], 1)
    return rows


def each(people):
    """Frame by frame, the persons who are there."""
    return [[p for p in frame if np.isfinite(p).any()] for frame in people]


def check(detections, people):
    found = np.full((*people.shape[:2], 17, 3), np.nan)
    found[:, : detections.keypoints.shape[1], :, :2] = detections.keypoints
    found[:, : detections.keypoints.shape[1], :, 2] = detections.scores
    assert len(detections) == len(people)
    for f, frame in enumerate(each(people)):
        for d, person in enumerate(frame):
            assert_allclose(found[f, d, :, :2], person[:, :2], atol=1e-3)
            assert_allclose(found[f, d, :, 2], np.nan_to_num(person[:, 2]), atol=1e-6)
        assert np.isnan(found[f, len(frame) :, :, :2]).all()


@pytest.mark.parametrize("order", ["openpose 18", "openpose 25"])
def test_openpose(people, tmp_path, order):
    def frame(persons):
        lists = [{"pose_keypoints_2d": laid_out(p, order).ravel().tolist(), "face_keypoints_2d": []} for p in persons]
        return {"version": 1.3, "people": lists}

    folder = tmp_path / "clip"
    folder.mkdir()
    for f, persons in enumerate(each(people)):
        (folder / f"clip_{f + 8:d}_keypoints.json").write_text(
            json.dumps(frame(persons))
        )  # 8, 9, 10: not as text sorts
    check(load_keypoints(folder), people)
    (tmp_path / "list.json").write_text(json.dumps([frame(persons) for persons in each(people)]))
    check(load_keypoints(tmp_path / "list.json"), people)
    (tmp_path / "one.json").write_text(json.dumps(frame(each(people)[0])))
    check(load_keypoints(tmp_path / "one.json"), people[:1])


def test_controlnet(people, tmp_path):
    """Shares of a canvas that the file names."""
    shares = people.copy()
    shares[..., :2] = (shares[..., :2] + 0.5) / SIZE[::-1]
    frames = [
        {
            "people": [{"pose_keypoints_2d": laid_out(p, "openpose 18").ravel().tolist()} for p in persons],
            "canvas_height": SIZE[0],
            "canvas_width": SIZE[1],
        }
        for persons in each(shares)
    ]
    for frame in frames:  # what COCO does not have lies on the canvas, too
        for person in frame["people"]:
            person["pose_keypoints_2d"][3:6] = [0.5, 0.5, 1.0]
    (tmp_path / "poses.json").write_text(json.dumps(frames))
    found = load_keypoints(tmp_path / "poses.json")
    assert found.size == SIZE
    check(found, people)


@pytest.mark.parametrize("order", ["coco", "halpe 26", "wholebody 133"])
@pytest.mark.parametrize("first", [0, 1, "000000.jpg"])
def test_coco_results(people, tmp_path, order, first):
    """COCO results and AlphaPose: flat lists with the picture's name or number; a frame may have nobody."""
    people[1] = np.nan
    name = (lambda f: f"{f:06d}.jpg") if isinstance(first, str) else lambda f: f + first
    entries = [
        {"image_id": name(f), "category_id": 1, "keypoints": laid_out(p, order).ravel().tolist(), "score": 0.9}
        for f, persons in enumerate(each(people))
        for p in persons
    ]
    (tmp_path / "results.json").write_text(json.dumps(entries))
    check(load_keypoints(tmp_path / "results.json"), people)


def test_coco_annotations(people, tmp_path):
    """Marks instead of scores: 0 missing, 1 hidden, 2 visible; the list of pictures has their order."""
    people[..., 2] = np.where(np.isnan(people[..., 2]), np.nan, np.where(np.arange(17) % 4, 1.0, 0.5))
    marks = people.copy()
    marks[..., 2] *= 2
    ids = [31, 7, 99]
    annotations = [
        {"image_id": ids[f], "keypoints": np.nan_to_num(p).ravel().tolist(), "num_keypoints": 17}
        for f, persons in enumerate(each(marks))
        for p in persons
    ]
    data = {"images": [{"id": i, "file_name": f"{i}.jpg"} for i in ids], "annotations": annotations[::-1]}
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    found = load_keypoints(tmp_path / "annotations.json")
    flipped = np.stack([[*reversed(each(people)[f]), *[np.full((17, 3), np.nan)] * 2][:2] for f in range(3)])
    check(found, flipped)


@pytest.mark.parametrize("order", ["coco", "wholebody 133"])
@pytest.mark.parametrize("with_meta", [True, False])
def test_mmpose(people, tmp_path, order, with_meta):
    people = np.nan_to_num(people, nan=0.0)  # MMPose knows no missing points: their scores are low
    people[1, 1] = np.nan
    people[2, 0, 9] = (50, 50, 0.01)
    frames = [
        {
            "frame_id": f,
            "instances": [
                {
                    "keypoints": laid_out(p, order)[:, :2].tolist(),
                    "keypoint_scores": laid_out(p, order)[:, 2].tolist(),
                    "bbox": [[0.0, 0.0, 9.0, 9.0]],
                    "bbox_score": 0.9,
                }
                for p in persons
            ],
        }
        for f, persons in enumerate(each(people))
    ]
    data = {"meta_info": {"dataset_name": "coco"}, "instance_info": frames} if with_meta else frames
    (tmp_path / "results.json").write_text(json.dumps(data))
    check(load_keypoints(tmp_path / "results.json"), people)
    (tmp_path / "picture.json").write_text(json.dumps(frames[0]["instances"]))
    check(load_keypoints(tmp_path / "picture.json"), people[:1])


def as_mediapipe(person):
    rows = laid_out(person, "mediapipe")
    rows[:, :2] = np.where(rows[:, 2:] > 0, (rows[:, :2] + 0.5) / SIZE[::-1], 0)
    rows[:, 2] = np.where(rows[:, 2] > 0, (rows[:, 2] + 1) / 2, 0)
    return rows


def test_mediapipe(people, tmp_path):
    keys = ("x", "y", "visibility")
    frames = [
        [[dict(zip(keys, row, strict=True), z=-0.2) for row in as_mediapipe(p).tolist()] for p in persons]
        for persons in each(people)
    ]
    (tmp_path / "several.json").write_text(json.dumps(frames))
    check(load_keypoints(tmp_path / "several.json", SIZE), people)
    with pytest.raises(ValueError, match="shares of a picture whose size must be given"):
        load_keypoints(tmp_path / "several.json")
    (tmp_path / "single.json").write_text(json.dumps([{"pose_landmarks": frame[0]} for frame in frames]))
    check(load_keypoints(tmp_path / "single.json", SIZE), people[:, :1])
    rows = np.stack([as_mediapipe(frame[0]) for frame in people])
    columns = [rows[..., :2], np.full((3, 33, 1), -0.2), rows[..., 2:]]
    np.savez(tmp_path / "landmarks.npz", landmarks=np.concatenate(columns, -1), size=SIZE)
    check(load_keypoints(tmp_path / "landmarks.npz"), people[:, :1])


def test_dwpose(people, tmp_path):
    """Its own dictionary of one picture: points of all persons in shares, and which of them each person has."""
    bodies = np.concatenate([laid_out(p, "openpose 18")[:, :2] for p in people[2]])
    subset = np.arange(36.0).reshape(2, 18)
    subset[0, NAMES["openpose 18"].index("left_wrist")] = -1
    np.savez(tmp_path / "pose.npz", bodies=(bodies + 0.5) / SIZE[::-1], subset=subset, size=SIZE)
    expected = people[2:].copy()
    expected[..., 2] = np.where(np.isnan(expected[..., 2]), np.nan, 1)
    check(load_keypoints(tmp_path / "pose.npz"), expected)
    whole = np.stack([[laid_out(p, "wholebody 133") for p in frame] for frame in people])
    np.savez(tmp_path / "video.npz", keypoints=whole[..., :2], scores=whole[..., 2])
    check(load_keypoints(tmp_path / "video.npz"), people)
    neck = np.stack([[np.vstack([laid_out(p, "openpose 18"), np.ones((116, 3))]) for p in frame] for frame in people])
    np.savez(tmp_path / "neck.npz", keypoints=neck)
    check(load_keypoints(tmp_path / "neck.npz"), people)


SUFFIX = {"dwpose": ".npz"}
LAYOUT = {
    "openpose-18": "openpose 18", "openpose-25": "openpose 25", "coco-17": "coco", "halpe-26": "halpe 26",
    "wholebody-133": "wholebody 133", "mmpose": "coco", "mediapipe": "mediapipe", "dwpose": "openpose 18",
}  # fmt: skip


@pytest.mark.parametrize("form", LAYOUT)
def test_written_and_read_again(people, tmp_path, form):
    """By every format, two persons, one absent in a frame; and each point stands where the format has it."""
    path = tmp_path / f"poses{SUFFIX.get(form, '.json')}"
    for _ in range(2):  # and replaced
        save_keypoints(path, people[..., :2], np.nan_to_num(people[..., 2]), form, SIZE)
    found = load_keypoints(path, size=SIZE)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert len(found) == 3
    assert_allclose(found.keypoints, people[..., :2], atol=1e-3)
    assert_allclose(found.scores, np.nan_to_num(people[..., 2]), atol=2e-4)
    place = NAMES[LAYOUT[form]].index("left_knee")
    if form == "dwpose":
        left_knee = np.load(path)["keypoints"][0, 0, place]
    elif form == "mediapipe":
        landmark = json.loads(path.read_text())[0][0][place]
        left_knee = [landmark["x"] * SIZE[1] - 0.5, landmark["y"] * SIZE[0] - 0.5]
    elif form == "mmpose":
        left_knee = json.loads(path.read_text())[0]["instances"][0]["keypoints"][place]
    else:
        first = json.loads(path.read_text())[0]
        person = first["people"][0]["pose_keypoints_2d"] if "people" in first else first["keypoints"]
        left_knee = person[3 * place :]
    assert_allclose(left_knee[:2], people[0, 0, coco.NAMES.index("left_knee"), :2], atol=1e-3)


@pytest.mark.parametrize(("form", "place", "pair"), [
    ("openpose-18", 1, (5, 6)), ("openpose-25", 1, (5, 6)), ("openpose-25", 8, (11, 12)),
])  # fmt: skip
def test_necks_and_hips_lie_between(people, tmp_path, form, place, pair):
    people[2, 1, pair[0]] = np.nan
    save_keypoints(tmp_path / "p.json", people[..., :2], np.nan_to_num(people[..., 2]), form, SIZE)
    frames = json.loads((tmp_path / "p.json").read_text())
    assert [len(frame["people"]) for frame in frames] == [2, 1, 2]
    rows = np.array([frame["people"][-1]["pose_keypoints_2d"] for frame in (frames[0], frames[2])]).reshape(2, -1, 3)
    assert_allclose(rows[0, place, :2], people[0, 1, list(pair), :2].mean(0), atol=1e-3)
    assert_allclose(rows[0, place, 2], people[0, 1, list(pair), 2].min(), atol=1e-4)
    assert_array_equal(rows[1, place], 0)


def test_what_cannot_be_written(people, tmp_path):
    points = people[..., :2]
    with pytest.raises(ValueError, match=r"format must be one of openpose-18, .* but is 'bvh'"):
        save_keypoints(tmp_path / "p.json", points, format="bvh")
    with pytest.raises(ValueError, match=r"path must end in \.npz for dwpose"):
        save_keypoints(tmp_path / "p.json", points, format="dwpose")
    with pytest.raises(ValueError, match="size must be given for mediapipe"):
        save_keypoints(tmp_path / "p.json", points, format="mediapipe")
    with pytest.raises(ValueError, match="keypoints must be"):
        save_keypoints(tmp_path / "p.json", points[..., :5, :])
    with pytest.raises(FileNotFoundError):
        save_keypoints(tmp_path / "no" / "p.json", points)
    assert list(tmp_path.iterdir()) == []


def test_its_own(people, tmp_path):
    np.savez(tmp_path / "own.npz", keypoints=people[..., :2], scores=np.nan_to_num(people[..., 2]))
    check(load_keypoints(tmp_path / "own.npz"), people)
    np.savez(tmp_path / "three.npz", keypoints=people)
    check(load_keypoints(tmp_path / "three.npz"), people)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"frames": 3, "fps": 2}, r"it holds an object with 'frames', 'fps'; known are COCO-17, OpenPose 18,"),
        ([[1, 2, 3]], "it holds a list of 1, each a list of 3, each 1"),
        ([], "it holds a list of 0"),
        ({"people": [{"pose_keypoints_2d": [1, 2, 3] * 7}]}, "its persons have 7 points; known are COCO-17"),
        ({"people": [{"pose_keypoints_2d": [1, 2, 3, 4]}]}, "must be x, y, score of each point, but has 4 numbers"),
        ("{", "is not JSON"),
        ([{"instances": [{"points": 3}]}], "KeyError: 'keypoints'"),
        ([{"image_id": 3, "keypoints": ["a", 1, 2]}], "could not convert"),
    ],
)
def test_what_is_not_recognised(tmp_path, content, match):
    path = tmp_path / "unknown.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=match):
        load_keypoints(path)


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_keypoints(tmp_path / "absent.json")
    with pytest.raises(ValueError, match=r"must be a folder, or end in \.npz or \.json"):
        load_keypoints(__file__)
    with pytest.raises(ValueError, match=r"holds no .json file, but nothing"):
        load_keypoints(tmp_path)
    np.savez(tmp_path / "other.npz", poses=np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"must hold `keypoints`.* has poses"):
        load_keypoints(tmp_path / "other.npz")


def test_the_main_job_reads_them(rng, tmp_path):
    """Shares of the frames, whose size the video tells."""
    image, mask, driving, keypoints, _, _ = scene(rng, 8)
    rows = np.full((8, 33, 4), 0.5)
    rows[:, coco.OF_MEDIAPIPE, :2] = (keypoints + 0.5) / (160, 120)
    rows[..., 3] = 1
    np.savez(tmp_path / "landmarks.npz", landmarks=rows)
    given = {"reference_keypoints": PERSON, "reference_mask": mask, "size": 64}
    expected = tpc_fast.calibrate(image, driving, driving_keypoints=keypoints, **given)
    found = tpc_fast.calibrate(image, driving, driving_keypoints=tmp_path / "landmarks.npz", **given)
    assert_allclose(found.matrices, expected.matrices, atol=1e-4)
    assert_array_equal(found.status, expected.status)


@pytest.mark.parametrize("kind", ["npz", "folder", "folders", "video", "videos"])
def test_masks(rng, tmp_path, kind):
    """One or two persons' masks, blocks that survive a lossy video."""
    blocks = rng.integers(0, 2, (4, 2 if kind in ("npz", "folders", "videos") else 1, 6, 8), np.uint8).astype(bool)
    masks = blocks.repeat(16, -2).repeat(16, -1)

    def write_pictures(folder, frames):
        folder.mkdir()
        for f, mask in enumerate(frames):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{f}.png")

    def write_video(path, frames):
        with VideoWriter(path, 30, frames.shape[1:]) as video:
            for mask in frames:
                video.write(mask.astype(np.uint8) * 255)

    path = tmp_path / "masks"
    if kind == "npz":
        path = tmp_path / "masks.npz"
        np.savez(path, masks=masks)
    elif kind == "folder":
        write_pictures(path, masks[:, 0])
    elif kind == "video":
        path = tmp_path / "masks.mp4"
        write_video(path, masks[:, 0])
    else:
        path.mkdir()
        for p in range(2):
            if kind == "folders":
                write_pictures(path / f"{p}-person_pose_mask_img", masks[:, p])
            else:
                write_video(path / f"{p}.mp4", masks[:, p])
    bits, size = load_masks(path)
    assert size == (96, 128)
    same = (unpack_mask(bits, size) == 255) == masks
    assert same.all() if "video" not in kind else same.mean() > 0.98
    people = np.full((4, masks.shape[1], 17, 2), 50.0)
    assert_array_equal(given_detections(people, path, "driving_keypoints").bits, bits)
    with pytest.raises(ValueError, match=r"driving_masks must be of 3 frames with .* but are of 4"):
        given_detections(people[:3], path, "driving_keypoints")


def test_masks_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_masks(tmp_path / "absent.mp4")
    np.savez(tmp_path / "empty.npz", other=3)
    with pytest.raises(ValueError, match="must hold 'masks', but holds"):
        load_masks(tmp_path / "empty.npz")
    for name, frames in (("a", 2), ("b", 3)):
        (tmp_path / "people" / name).mkdir(parents=True)
        for f in range(frames):
            Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "people" / name / f"{f}.png")
    with pytest.raises(ValueError, match="must have one size and number of frames, but b differs"):
        load_masks(tmp_path / "people")
