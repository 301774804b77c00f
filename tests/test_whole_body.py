"""Whole bodies in the files of other programs, there and back, and drawn."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scene import PERSON

from tpc_fast.pose.files.read import load_keypoints, load_whole_body
from tpc_fast.pose.files.whole_body import WholeBody, posedata, save_dwpose, save_openpose, save_posedata
from tpc_fast.pose.skeleton import draw_whole_bodies

SIZE = (104, 160)


@pytest.fixture
def people(rng) -> WholeBody:
    """Two persons in three frames; of the second no left hand is known, and nothing in the second frame."""
    points = rng.uniform(3, 100, (3, 2, 133, 2))
    points[:, :, :17] = PERSON
    scores = rng.uniform(0.4, 1, (3, 2, 133))
    points[:, 1, 91:112] = points[1, 1] = np.nan
    scores[:, 1, 91:112] = scores[1, 1] = 0
    return WholeBody(points, scores, SIZE)


def _same(found: WholeBody, people: WholeBody, persons=slice(None), atol=1e-3):
    assert_allclose(found.keypoints, people.keypoints[:, persons], atol=atol)
    assert_allclose(found.scores, people.scores[:, persons], atol=1e-4)


def test_openpose_there_and_back(people, tmp_path):
    save_openpose(tmp_path / "pose.json", people)
    frames = json.loads((tmp_path / "pose.json").read_text())
    assert [len(frame["people"]) for frame in frames] == [2, 1, 2]
    assert len(frames[0]["people"][0]["face_keypoints_2d"]) == 3 * 70
    found = load_whole_body(tmp_path / "pose.json")
    assert found.size == SIZE
    _same(found, people)
    assert_allclose(load_keypoints(tmp_path / "pose.json").keypoints, people.keypoints[:, :, :17], atol=1e-3)


def test_dwpose_there_and_back(people, tmp_path):
    save_dwpose(tmp_path / "pose.npz", people)
    _same(load_whole_body(tmp_path / "pose.npz"), people)


def test_posedata_there_and_back(people, tmp_path):
    save_posedata(tmp_path / "pose.json", people, 1)
    found = load_whole_body(tmp_path / "pose.json")
    assert_allclose(found.keypoints, _without_small_toes(people.keypoints[:, 1:]), atol=1e-3)
    meta = posedata(people, 0)["pose_metas_original"][0]
    assert {name: part.shape for name, part in meta.items() if name.startswith("key")} == {
        "keypoints_body": (20, 3), "keypoints_left_hand": (21, 3), "keypoints_right_hand": (21, 3),
        "keypoints_face": (69, 3),
    }  # fmt: skip


def _without_small_toes(points):
    """POSEDATA has the big toes only."""
    points = points.copy()
    points[:, :, [18, 19, 21, 22]] = np.nan
    return points


@pytest.mark.parametrize("count", [17, 25, 26, 33, 133])
def test_feet_of_other_orders(count, tmp_path):
    """Every point lies at its own number; MediaPipe's has the right heel as 30 and COCO-WholeBody as 22."""
    points = np.stack([np.arange(count) + 10.0, np.arange(count) + 5.0, np.ones(count)], -1)
    np.savez(tmp_path / "pose.npz", keypoints=points[None, None])
    found = load_whole_body(tmp_path / "pose.npz").keypoints[0, 0, :, 0] - 10
    feet = {17: [np.nan] * 6, 25: [19, 20, 21, 22, 23, 24], 26: [20, 22, 24, 21, 23, 25],
            33: [31, np.nan, 29, 32, np.nan, 30], 133: [17, 18, 19, 20, 21, 22]}  # fmt: skip
    assert_array_equal(found[17:23], feet[count])
    assert np.isnan(found[23:]).all() == (count < 133)


def test_a_file_of_another_canvas_is_scaled(people, tmp_path):
    save_openpose(tmp_path / "pose.json", people)
    double = (2 * SIZE[0], 2 * SIZE[1])
    found = load_keypoints(tmp_path / "pose.json", double)
    assert found.size == double
    assert_allclose(found.keypoints, 2 * people.keypoints[:, :, :17] + 0.5, atol=1e-3)


def test_another_number_of_points_is_refused(people, tmp_path):
    save_openpose(tmp_path / "pose.json", people)
    frames = json.loads((tmp_path / "pose.json").read_text())
    frames[0]["people"][0]["hand_left_keypoints_2d"] = [1.0] * 9
    (tmp_path / "pose.json").write_text(json.dumps(frames))
    with pytest.raises(ValueError, match="hand_left_keypoints_2d must be of 21 points, but is of 3"):
        load_whole_body(tmp_path / "pose.json")


def test_hands_and_faces_are_drawn():
    points = np.full((1, 133, 2), np.nan)
    points[0, 23:91] = np.stack([np.linspace(10, 60, 68), np.full(68, 10)], -1)
    points[0, 91:112] = np.stack([np.linspace(10, 60, 21), np.full(21, 40)], -1)
    scores = np.ones((1, 133))
    picture = draw_whole_bodies(points, scores, (60, 80), width=2)
    assert tuple(picture[10, 10]) == (255, 255, 255)
    assert tuple(picture[40, 10]) == (0, 0, 255)
    assert not picture[20:35].any()
    scores[0, 91:112] = 0.1
    assert not draw_whole_bodies(points, scores, (60, 80))[30:50].any()
    with pytest.raises(ValueError, match=r"keypoints must be \[P, 133, 2\]"):
        draw_whole_bodies(points[0], None, (60, 80))
