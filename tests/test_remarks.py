"""What is said of a calibration: offsets of head and torso, and the sentences that a user reads."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scene import FIGURE

from tpc_fast.calibration.fade import StreamFade, fade_video, fading
from tpc_fast.calibration.remarks import remarks
from tpc_fast.evaluation.track_measures import area_jumps, measure_track
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.follow.quality import HEAD, TORSO, head_size, head_to_torso, offsets

FRAMES = 30
TIMES = np.arange(FRAMES) / 30
TORSO_LENGTH = np.linalg.norm(FIGURE[[5, 6]].mean(0) - FIGURE[[11, 12]].mean(0))
HEAD_SIZE = 0.45 * TORSO_LENGTH


def same(frames=FRAMES):
    """Matrices and keypoints of a person who stands where the photo's does."""
    return np.tile(np.eye(2, 3), (frames, 1, 1, 1)), np.tile(FIGURE, (frames, 1, 1, 1))


def said(matrices, keypoints, *, reference=FIGURE, status="tracked", swapped=False, match=(0,), picture=None):
    shape = keypoints.shape[:2]
    return remarks(
        np.full(shape, status) if isinstance(status, str) else status,
        matrices, np.full(shape, swapped), match, TIMES, np.broadcast_to(reference, (shape[1], 17, 2)), keypoints,
        picture,
    )  # fmt: skip


def test_offsets_are_in_head_sizes():
    matrices, keypoints = same()
    assert_allclose(head_size(keypoints), HEAD_SIZE)
    matrices[:, :, 0, 2] = HEAD_SIZE  # everything is one head to the right
    for offset in offsets(matrices, FIGURE[None], keypoints):
        assert_allclose(offset, 1)
    keypoints[:, 0, HEAD] += [HEAD_SIZE, 0]
    head, torso = offsets(matrices, FIGURE[None], keypoints)
    assert_allclose(head, 0, atol=1e-9)
    assert_allclose(torso, 1)


def test_offsets_of_what_is_not_seen():
    matrices, keypoints = same(3)
    keypoints[0, 0, TORSO[1:]] = np.nan  # one shoulder is no torso
    keypoints[1, 0, HEAD] = np.nan
    head, torso = offsets(matrices, FIGURE[None], keypoints)
    assert np.isnan(torso[0]).all()
    assert np.isfinite(torso[1:]).all()
    assert np.isnan(head[1]).all()
    keypoints[..., [11, 12], :] = np.nan  # without hips the shoulders tell how large a head is
    width = np.linalg.norm(FIGURE[5] - FIGURE[6])
    assert_allclose(head_size(keypoints), 0.5 * width)
    assert np.isnan(head_size(np.full((4, 1, 17, 2), np.nan))).all()


@pytest.mark.parametrize("swapped", [False, True])
def test_nothing_is_said_of_what_the_picture_cuts_off(swapped):
    """A talking head whose shoulders are guessed at the lower edge: neither off, nor those of a child."""
    matrices, keypoints = same()
    if swapped:
        keypoints = keypoints[:, :, coco.MIRRORED]
    left, top = FIGURE.min(0) - 1
    shoulders = keypoints[0, 0, coco.SHOULDERS]
    bottom = shoulders[:, 1].min() - 0.2 * HEAD_SIZE
    keypoints[..., 5:, :] = np.nan
    keypoints[..., coco.SHOULDERS, :] = shoulders.mean(0) + 0.6 * (shoulders - shoulders.mean(0)) - [0, HEAD_SIZE]
    assert any("torso" in sentence for sentence in said(matrices, keypoints))
    edges = left, top, FIGURE[:, 0].max() + 1, bottom
    assert said(matrices, keypoints, swapped=swapped, picture=edges) == (
        [said(matrices, same()[1], swapped=True)[-1]] if swapped else []
    )
    wide = left, top, FIGURE[:, 0].max() + 1, FIGURE[:, 1].max() + 1  # there they would be seen
    assert any("torso" in sentence for sentence in said(matrices, keypoints, swapped=swapped, picture=wide))


def turned(degrees, frames=FRAMES):
    """The photo is turned about the middle of the torso, the person is not."""
    matrices, keypoints = same(frames)
    angle, middle = np.radians(degrees), FIGURE[TORSO].mean(0)
    matrices[:, 0, :, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrices[:, 0, :, 2] = middle - matrices[0, 0, :, :2] @ middle
    return matrices, keypoints


@pytest.mark.parametrize(
    ("degrees", "way"), [(7.4, None), (7.6, "clockwise"), (-7.6, "counterclockwise"), (-7.4, None)]
)
def test_a_photo_that_leans_against_the_torso(degrees, way):
    """Angles are clockwise, as y points down."""
    matrices, keypoints = turned(degrees)
    sentences = [w for w in said(matrices, keypoints) if "turned" in w]
    expected = f"the picture is turned 8 degrees further {way} than the torso"
    assert [w.partition(":")[0] for w in sentences] == ([] if way is None else [expected])


def test_a_lean_is_that_of_most_frames_in_which_the_torso_is_seen():
    def told(matrices, keypoints):
        return any("turned" in w for w in said(matrices, keypoints))

    matrices, keypoints = turned(15)
    matrices[:16] = same()[0][:16]
    assert not told(matrices, keypoints)
    matrices, keypoints = turned(15)
    keypoints[:14, :, 11] = np.nan
    assert told(matrices, keypoints)
    keypoints[:16, :, 11] = np.nan
    assert not told(matrices, keypoints)
    assert not told(matrices, np.full_like(keypoints, np.nan))


def test_nothing_is_said_of_what_is_right():
    assert said(*same()) == []


def test_a_head_that_is_off_is_said():
    matrices, keypoints = same()
    keypoints[: FRAMES // 3, 0, :5] += [0.6 * HEAD_SIZE, 0]
    (sentence,) = said(matrices, keypoints)
    assert sentence == "the head is more than half a head off in 33% of the frames: head and torso disagree"
    matrices, keypoints = same()
    keypoints[:2, 0, :5] += [0.6 * HEAD_SIZE, 0]  # seldom
    assert said(matrices, keypoints) == []
    keypoints[2:4, 0, :5] += [0.6 * HEAD_SIZE, 0]  # four of 30
    assert len(said(matrices, keypoints)) == 1
    matrices, keypoints = same()
    keypoints[:, 0, :5] += [0.4 * HEAD_SIZE, 0]  # a little
    assert said(matrices, keypoints) == []


@pytest.mark.parametrize(
    ("change", "seconds", "is_said"),
    [
        (0.6, 0.5, True),  # 1.2 a second
        (0.4, 0.5, False),  # 0.8 a second: somebody who comes near at a walk
        (0.3, 0.1, True),  # at once, by more than 0.2 s at that speed would bring
        (0.15, 0.05, False),  # at once, but little: a person who leans
    ],
)
def test_a_size_that_changes_too_fast_is_said(change, seconds, is_said):
    size = np.exp(change * np.clip((TIMES - 0.3) / seconds, 0, 1))
    matrices, keypoints = same()
    matrices = matrices * size[:, None, None, None]
    keypoints = keypoints * size[:, None, None, None]
    found = said(matrices, keypoints)
    assert len(found) == is_said, found
    assert all("changes faster than a person can come nearer" in sentence for sentence in found)


def test_a_child_beside_an_adult_is_said():
    matrices, keypoints = same()
    child = FIGURE.copy()
    child[:5] *= 1.5
    (sentence,) = said(matrices, keypoints, reference=child)
    assert sentence == "proportions differ: beside the torso the photo's head is 1.5 times as large as the video's"
    (sentence,) = said(matrices, np.tile(child, (FRAMES, 1, 1, 1)))
    assert "1.5 times as small" in sentence
    child[:5] /= 1.2
    assert said(matrices, keypoints, reference=child) == []
    assert np.isnan(head_to_torso(np.where(np.arange(17)[:, None] == 0, np.nan, FIGURE)))


def test_a_mirrored_photo_is_said():
    (sentence,) = said(*same(), swapped=True)
    assert sentence.startswith("left and right are exchanged in 100% of the frames")
    turning = np.arange(FRAMES)[:, None] < 0.7 * FRAMES  # a back view for a while
    matrices, keypoints = same()
    shape = np.full((FRAMES, 1), "tracked")
    assert remarks(shape, matrices, turning, (0,), TIMES, FIGURE[None], keypoints) == []


def test_statuses_are_said_of_each_person():
    matrices, keypoints = (np.repeat(a, 2, 1) for a in same())
    status = np.full((FRAMES, 2), "tracked", "<U8")
    status[:3, 1], status[3:5, 1], status[5, 1] = "fallback", "held", "lost"
    assert said(matrices, keypoints, status=status, match=(0, 1)) == [
        "3 of 30 frames of person 1 show too little to tell scale, angle and position: their neighbours fill in",
        "2 of 30 frames of person 1 show nothing of the person: the transform is carried over",
        "1 of 30 frames of person 1 show nothing of the person for too long: it is faded out",
    ]
    assert said(matrices, keypoints, status="lost", match=(-1, -1)) == [
        "nobody in the driving video plays person 0 of the reference",
        "nobody in the driving video plays person 1 of the reference",
    ]


def test_track_measures():
    matrices, keypoints = same()
    scores = np.ones((FRAMES, 17))
    matrices[10:, :, :, :] *= 2
    keypoints[10:] *= 2
    keypoints[:, 0, 16] = 1e6  # what is not head or torso does not count
    measured = measure_track(FIGURE, np.ones(17), keypoints[:, 0], scores, matrices[:, 0])
    assert_allclose([measured.head_95, measured.torso_95], 0, atol=1e-9)
    assert_allclose(measured.scale_range, 2)
    assert measured.scale_roughness > 0.1
    nothing = measure_track(FIGURE, np.ones(17), keypoints[:, 0], 0 * scores, matrices[:, 0])
    assert np.isnan([nothing.head, nothing.torso_95]).all()


def test_area_jumps():
    masks = np.zeros((5, 10, 10), np.uint8)
    for mask, rows in zip(masks, (8, 7, 5, 0, 8), strict=True):
        mask[:rows] = 255
    assert area_jumps(masks) == 0.5  # 8 to 7 is none, 7 to 5 is one; what vanishes and comes back is told by statuses
    assert np.isnan(area_jumps(masks[3:4]))


@pytest.mark.parametrize(("gap", "expected"), [(0, 1), (1, 1), (1.25, 0.5), (1.5, 0), (9, 0)])
def test_fading(gap, expected):
    assert fading(gap, 1.0, 0.5) == expected
    assert fading(gap, 1.0, 0.0) == (gap <= 1)


def test_a_stream_comes_back_as_slowly_as_it_fades():
    fade, opacity = StreamFade(1, 0.1, 0.2), []
    for i, word in enumerate(["tracked"] * 5 + ["lost"] * 20 + ["fallback"] * 10):
        opacity.append(fade.step(np.array([word]), i / 30)[0])
    assert opacity[:8] == [1] * 8  # seen, and held for 0.1 s
    assert (np.diff(opacity[7:14]) < 0).all()
    assert opacity[14:25] == [0] * 11
    assert_allclose(np.diff(opacity[24:30]), 1 / 6, atol=1e-6)
    assert opacity[-1] == 1


def test_a_video_looks_ahead():
    status = np.array([["lost"], ["lost"], ["tracked"], ["held"], ["lost"], ["lost"]])
    found, opacity = fade_video(status, np.arange(6.0), 1.0, 2.0)
    assert found[:, 0].tolist() == ["lost", "held", "tracked", "held", "lost", "lost"]
    assert_allclose(opacity[:, 0], [0.5, 1, 1, 1, 0.5, 0])
    found, opacity = fade_video(np.array([["held"], ["lost"]]), np.arange(2.0), 1.0, 2.0)  # never seen
    assert (found == "lost").all()
    assert not opacity.any()
