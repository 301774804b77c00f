"""Retargeted skeletons: whole bodies, persons by their keypoints, what falls outside, the files, the command."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from scene import PERSON, scene, two_people

from tpc_fast import calibrate
from tpc_fast.calibration.skeletons import move_skeletons, outside
from tpc_fast.cli.main import main
from tpc_fast.media.video import VideoReader
from tpc_fast.pose.files.read import load_whole_body
from tpc_fast.pose.files.whole_body import WholeBody, save_openpose

FRAMES = 12


@pytest.fixture
def case(rng):
    """A calibration, the driving whole bodies (the second person of a frame plays), a hand."""
    image, mask, driving, keypoints, _, truth = scene(rng, FRAMES)
    given = {"reference_keypoints": PERSON, "reference_mask": mask, "driving_keypoints": keypoints, "size": (104, 80)}
    calibration = calibrate(image, driving, smooth="none", **given)
    hand = PERSON[9] + rng.uniform(-3, 3, (21, 2))
    points = np.full((FRAMES, 2, 133, 2), np.nan)
    points[:, 1, :17], points[:, 1, 91:112] = keypoints, truth.apply(hand)
    points[:, 0, :17] = keypoints + 30
    return calibration, WholeBody(points, np.isfinite(points).all(-1) * 1.0, (120, 160)), hand


def test_hands_move_with_their_person(case):
    calibration, whole, hand = case
    moved = move_skeletons(calibration, whole, "frame", (1, 1))
    assert moved.people.size == (104, 80)
    assert_allclose(moved.people.keypoints[:, 0, 91:112], np.broadcast_to(hand, (FRAMES, 21, 2)), atol=0.3)
    assert_allclose(moved.people.keypoints[:, 0, :17], np.broadcast_to(PERSON, (FRAMES, 17, 2)), atol=0.3)
    assert not moved.outside


def test_a_part_of_the_video(case):
    calibration, whole, _ = case
    before = WholeBody(
        np.concatenate([whole.keypoints[:3] + 7, whole.keypoints]), whole.scores[[0] * 3 + list(range(12))]
    )
    calibration.frame_range = (3, None)
    expected = move_skeletons(calibration, whole).people.keypoints
    assert_allclose(move_skeletons(calibration, before).people.keypoints, expected)
    with pytest.raises(ValueError, match="whole must be of the driving video, 15 frames"):
        move_skeletons(calibration, WholeBody(whole.keypoints[:5], whole.scores[:5]))


def test_what_falls_outside_is_said_and_reframed(case):
    calibration, whole, _ = case
    calibration.reference_keypoints = calibration.reference_keypoints + np.float32([0, 50])  # a close-up: no legs
    calibration.reference_keypoints[:, 13:] = np.nan
    calibration.matrices = calibration.matrices.copy()
    calibration.matrices[..., 2] -= calibration.matrices[..., :2] @ np.float32([0, 50])
    moved = move_skeletons(calibration, whole)
    (line,) = moved.outside
    assert "left ankle" in line
    assert "nose" not in line
    assert f"of {FRAMES} frames" in line
    assert "of 80 x 104; --reframe widens the canvas" in line
    framed = move_skeletons(calibration, whole, reframe=True)
    assert not framed.outside
    assert framed.people.size == moved.people.size == framed.photo.shape[:2]
    # The photo lies where the skeleton says: the margin above and beside it is black, below there is more of it.
    rows = np.flatnonzero(framed.photo.any((1, 2)))
    assert rows[0] == 0
    assert rows[-1] < 80
    ours, theirs = (m.people.keypoints[:, 0, [5, 6]] for m in (framed, moved))
    ratio = np.linalg.norm(ours[:, 0] - ours[:, 1], axis=-1) / np.linalg.norm(theirs[:, 0] - theirs[:, 1], axis=-1)
    assert_allclose(ratio, (rows[-1] + 1) / 104, rtol=0.03)
    assert_allclose(ours[..., 1], theirs[..., 1] * (rows[-1] + 1) / 104, atol=1)


def test_far_points_do_not_widen_without_end(case):
    calibration, whole, _ = case
    whole.keypoints[0, 1, 95] += 1e6
    framed = move_skeletons(calibration, whole, reframe=True)
    shown = np.flatnonzero(framed.photo.any((1, 2)))
    assert len(shown) > 104 / 6


def test_outside_counts_pixels_not_centres():
    points = np.full((2, 1, 133, 2), np.nan)
    points[:, 0, 0] = [[-0.4, 5], [19.4, 9.4]]
    people = WholeBody(points, np.isfinite(points).all(-1) * 1.0, (10, 20))
    assert outside(people) == []
    points[1, 0, 9] = [3, 12]
    assert outside(people, True) == [
        "person 0: left wrist outside the picture in 1 of 2 frames, as far as x = 3, y = 12 of 20 x 10"
    ]


def test_the_command(rng, tmp_path, capsys):
    _, arguments = two_people(tmp_path, rng)
    out = tmp_path / "out"
    arguments = ["retarget", *arguments[1:]]
    assert main([*arguments, "--limbs", "0.8:1.25"]) == 0
    assert "next: drive your model with pose.mp4" in capsys.readouterr().out
    people = load_whole_body(out / "openpose.json")
    assert people.keypoints.shape == (3, 2, 133, 2)
    assert people.size == (140, 210)
    assert not people.scores[1].any()  # nobody is seen there
    assert_allclose(load_whole_body(out / "dwpose.npz").keypoints, people.keypoints, atol=1e-3)
    assert load_whole_body(out / "posedata-1.json").keypoints.shape == (3, 1, 133, 2)
    pictures = [frame.image for frame in VideoReader(out / "pose.mp4")]
    assert pictures[0].shape == (140, 210, 3)
    assert pictures[0].max() > 150
    assert pictures[1].max() < 30
    assert Image.open(out / "photo.png").size == (210, 140)
    assert main(arguments) == 1  # it is there
    capsys.readouterr()
    assert main([*arguments, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == str(out)


def test_the_command_takes_hands(case, rng, tmp_path):
    _, whole, _ = case
    image, _mask, driving, *_ = scene(rng, FRAMES)
    Image.fromarray(image).save(tmp_path / "photo.png")
    (tmp_path / "video").mkdir()
    for f, frame in enumerate(driving):
        Image.fromarray(frame).save(tmp_path / "video" / f"{f}.png")
    save_openpose(tmp_path / "pose.json", WholeBody(whole.keypoints[:, 1:], whole.scores[:, 1:], (240, 320)))
    frames = json.loads((tmp_path / "pose.json").read_text())
    for frame in frames:  # keypoints of a canvas twice as large
        for part in frame["people"][0].values():
            part[:] = [v * 2 if i % 3 < 2 else v for i, v in enumerate(part)]
    (tmp_path / "pose.json").write_text(json.dumps(frames))
    np.savez(tmp_path / "reference.npz", keypoints=PERSON[None])
    code = main(["retarget", str(tmp_path / "photo.png"), str(tmp_path / "video"), "-o", str(tmp_path / "out"), "-q",
                 "--size", "104x80", "--reference-keypoints", str(tmp_path / "reference.npz"),
                 "--driving-keypoints", str(tmp_path / "pose.json")])  # fmt: skip
    assert code == 0
    found = load_whole_body(tmp_path / "out" / "openpose.json")
    assert np.isfinite(found.keypoints[:, 0, 91:112]).all()
    assert np.linalg.norm(found.keypoints[:, 0, 91:112] - found.keypoints[:, 0, 9:10], axis=-1).max() < 8


@pytest.mark.parametrize("text", ["1", "a:b", "1:2:3"])
def test_bad_limbs(text, capsys):
    with pytest.raises(SystemExit):
        main(["retarget", "a.png", "b.mp4", "-o", "out", "--limbs", text])
    assert "must be SMALLEST:LARGEST" in capsys.readouterr().err
