"""The main job on a synthetic scene with a known truth: no detector needed."""

import json
import logging
import os
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scene import PERSON, scene

import tpc_fast
from tpc_fast import Calibration, Calibrator, Similarity, calibrate
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.images import mask_iou
from tpc_fast.media.video import VideoWriter
from tpc_fast.pose.detect.detection import Detection

GIVEN = {"reference_keypoints": PERSON, "size": (96, 128)}
NO_MASKS = {"driving_masks": None}


@pytest.fixture
def small(rng):
    return scene(rng, 20)


def run(small, **options):
    image, mask, driving, keypoints, masks, _ = small
    options = {"reference_mask": mask, "driving_keypoints": keypoints, "driving_masks": masks, **GIVEN} | options
    return calibrate(image, driving, **options)


def canvas_truth(small, size=(96, 128)):
    canvas = Canvas.fitting((120, 160), size, "pad")
    return Similarity.from_matrix(canvas.matrix) @ small[-1]


def test_matrices_are_the_truth(small):
    calibration = run(small, smooth="none")
    assert calibration.matrices.shape == (20, 1, 2, 3)
    assert calibration.matrices.dtype == np.float32
    assert_allclose(calibration.matrices[:, 0], canvas_truth(small).matrix, atol=1e-4)
    assert (calibration.status == "tracked").all()
    assert calibration.members.all()
    assert calibration.residual.max() < 1e-4
    assert calibration.detector is None
    assert calibration.warnings == []


def test_fits_by_frame_are_judged_by_all_that_is_seen(small):
    """A head that is drawn ten times too large takes the photo's torso out of the picture; the video's is in it."""
    keypoints = small[3].copy()
    keypoints[:, 1:5] = keypoints[:, :1] + 10 * (keypoints[:, 1:5] - keypoints[:, :1])
    warnings = run(small, smooth="none", subset="face", driving_keypoints=keypoints).warnings
    assert any("the torso is more than half a head off in 100% of the frames" in warning for warning in warnings)


def test_rendered_pictures_match_the_driving_person(small):
    calibration = run(small, smooth="none")
    assert calibration.mask_iou().min() > 0.94  # a narrow figure, whose edge pixels count
    assert calibration.images[0].shape == (1, 96, 128, 3)
    assert calibration.images[3:7].shape == (4, 1, 96, 128, 3)
    assert calibration.masks[-1].shape == (1, 96, 128)
    assert len(calibration.images) == len(calibration) == 20
    assert_array_equal(calibration.images[3:7][1], calibration.images[4])
    assert_array_equal(np.stack(list(calibration.masks)), calibration.masks[:])
    assert set(np.unique(calibration.pose_masks[:])) <= {0, 255}
    for frame, composite, mask in zip(
        calibration.driving_frames(), calibration.composites, calibration.masks, strict=True
    ):
        inside = mask[0] == 255
        assert np.abs(frame[inside].astype(int) - composite[inside]).mean() < 25  # both resampled, of blocks of noise
    with pytest.raises(IndexError):
        calibration.images[20]


def test_offline_and_causal_stay_near_the_truth(small):
    truth = canvas_truth(small).matrix
    corners = np.array([[0, 0], [80, 0], [0, 104], [80, 104.0]])
    for smooth, tolerance in (("offline", 2.0), ("causal", 8.0)):
        matrices = run(small, smooth=smooth).matrices[:, 0]
        moved, expected = (Similarity.from_matrix(m.astype(float)).apply(corners) for m in (matrices, truth))
        assert abs(moved - expected).max() < tolerance


def test_a_stream_is_the_causal_video(small):
    image, mask, driving, keypoints, masks, _ = small
    keypoints = keypoints.copy()
    keypoints[6:12] = np.nan  # held, faded out and in
    fading = {"hold_seconds": 0.05, "fade_seconds": 0.1}
    whole = run(small, smooth="causal", driving_keypoints=keypoints, **fading)
    assert 0 < whole.opacity[9, 0] < 1
    with Calibrator(image, reference_mask=mask, **GIVEN, **fading) as calibrator:
        for _ in range(2):  # a reset makes it new
            for i, frame in enumerate(driving):
                seen = Detection(
                    keypoints[i][None].astype(np.float32),
                    np.ones((1, 17), np.float32),
                    np.where(masks[i] >= 128, 255, 0).astype(np.uint8)[None],
                )
                out = calibrator.step(frame, detection=seen)
                assert_array_equal(out.matrix, whole.matrices[i])
                assert_array_equal(out.image, whole.images[i])
                assert_array_equal(out.mask, whole.masks[i])
                assert_array_equal(out.pose_mask >= 128, whole.pose_masks[i] == 255)
                assert_array_equal(out.status, whole.status[i])
                assert out.time == pytest.approx(i / 30)
            calibrator.reset()


def test_a_stream_with_a_lag_gives_frames_later(small):
    """The same frames, each `lag` later, and the rest at the end; an estimate that knows more is no worse."""
    image, mask, driving, keypoints, masks, _ = small
    lag, given, late = 4, [], []
    calibrators = [Calibrator(image, reference_mask=mask, lag=n, **GIVEN) for n in (0, lag)]
    for i, frame in enumerate(driving):
        seen = Detection(keypoints[i][None].astype(np.float32), np.ones((1, 17), np.float32), masks[i][None])
        now, then = (calibrator.step(frame, detection=seen) for calibrator in calibrators)
        given.append(now)
        assert (then is None) == (i < lag)
        late += [] if then is None else [then]
    late += calibrators[1].flush()
    assert calibrators[0].flush() == []
    assert [frame.time for frame in late] == [frame.time for frame in given]
    for now, then in zip(given, late, strict=True):
        assert_array_equal(then.keypoints, now.keypoints)
        assert_array_equal(then.pose_mask, now.pose_mask)
    truth = canvas_truth(small).matrix
    some = slice(8, -lag)  # of the last frames both know the same
    errors = [abs(np.stack([f.matrix[0] for f in frames])[some] - truth[some]).max() for frames in (given, late)]
    assert errors[1] < errors[0]
    with pytest.raises(ValueError, match="lag must be 0, or"):
        Calibrator(image, reference_mask=mask, smooth="none", lag=1, **GIVEN)
    with pytest.raises(ValueError, match="lag must be 0, or"):
        Calibrator(image, reference_mask=mask, lag=61, **GIVEN)


def test_constant_motion_is_one_transform(small):
    calibration = run(small, motion="constant")
    assert_array_equal(calibration.matrices, np.repeat(calibration.matrices[:1], 20, 0))
    truth = canvas_truth(small)
    found = Similarity.from_matrix(calibration.matrices[0, 0].astype(float))
    assert truth.scale.min() <= found.scale <= truth.scale.max()


def test_given_cuts_begin_shots(rng):
    """Each shot is estimated by itself: as if it were the whole clip."""
    small = scene(rng, 40)
    keypoints = small[3].copy()
    keypoints[20:] = 1.5 * keypoints[20:] - [60, 40]
    both = run(small, driving_keypoints=keypoints, cuts=[20])
    assert both.cuts == [20]
    second = run((*small[:2], small[2][20:], keypoints[20:], small[4][20:], None))
    assert_allclose(both.matrices[20:], second.matrices, atol=1e-3)
    assert run(small, driving_keypoints=keypoints, cuts="none").cuts == []
    with pytest.raises(ValueError, match='cuts must be "auto", "none" or frame numbers'):
        run(small, cuts="all")
    with pytest.raises(ValueError, match='cuts must be "auto", "none" or frame numbers'):
        run(small, cuts=[-3])


def test_the_two_front_doors_have_the_same_defaults():
    """`Calibrator` names its options, `calibrate` passes them on: to `Options`, whose defaults are the same."""
    import dataclasses
    import inspect

    from tpc_fast.calibration.options import Options

    named = {name: p.default for name, p in inspect.signature(Calibrator.__init__).parameters.items()}
    for field in dataclasses.fields(Options):
        if field.name not in ("size", "smooth", "motion", "cuts"):
            assert named[field.name] in (field.default, None), field.name  # None: the default of Options
    assert (named["size"],) * 2 == Options.size


def test_inputs_of_every_kind_give_the_same(small, tmp_path):
    image, mask, driving, keypoints, masks, _ = small
    expected = run(small).matrices
    Image.fromarray(image).save(tmp_path / "photo.png")
    Image.fromarray(np.dstack([image, mask])).save(tmp_path / "cut out.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(driving):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{i}.png")
    np.savez(tmp_path / "points.npz", keypoints=keypoints, scores=np.ones((20, 17)))
    (tmp_path / "reference.json").write_text(json.dumps({"keypoints": PERSON.tolist()}))
    with_scores = np.dstack([keypoints, np.ones((20, 17))])
    for options in (
        {"reference": tmp_path / "photo.png", "reference_mask": tmp_path / "mask.png"},
        {"reference": str(tmp_path / "cut out.png"), "reference_mask": None},
        {"reference": Image.fromarray(image), "driving": tmp_path / "frames"},
        {
            "driving": [Image.fromarray(f) for f in driving],
            "driving_keypoints": tmp_path / "points.npz",
            "driving_masks": None,
        },
        {"reference_keypoints": tmp_path / "reference.json", "driving_keypoints": with_scores},
        {"reference_keypoints": PERSON[None], "driving_keypoints": keypoints[:, None], "driving_masks": masks[:, None]},
    ):
        base = {"reference": image, "driving": driving, "driving_keypoints": keypoints, "driving_masks": masks}
        calibration = calibrate(**base | {"reference_mask": mask} | GIVEN | options)
        assert_allclose(calibration.matrices, expected, atol=1e-5)
        assert_array_equal(calibration.reference_mask[0], mask)


def test_stretch_fits_the_stretched_photo(small):
    calibration = run(small, smooth="none", resize="stretch", size=(64, 64))
    squeeze_reference = Canvas.fitting((104, 80), (64, 64), "stretch")
    squeeze_driving = Canvas.fitting((120, 160), (64, 64), "stretch")
    mapped = (
        np.einsum("fij,kj->fki", calibration.matrices[:, 0, :, :2], PERSON) + calibration.matrices[:, 0, None, :, 2]
    )
    # A squeezed turn is no similarity: the fit is the best one there is.
    expected = squeeze_driving.apply(small[3])
    assert abs(mapped - expected).mean() < 2
    linear = calibration.matrices[:, 0, :, :2] @ np.linalg.inv(squeeze_reference.matrix[:, :2])
    gram = linear @ linear.swapaxes(-1, -2)
    assert_allclose(gram[:, 0, 0], gram[:, 1, 1], rtol=1e-4)
    assert_allclose(gram[:, 0, 1], 0, atol=1e-4)
    assert (calibration.valid_mask == 255).all()


def test_padding_is_remembered(small):
    calibration = run(small, size=(128, 128))  # 160 x 120 on a square: 16 rows of padding above and below
    valid = calibration.valid_mask
    assert_array_equal(np.unique(np.nonzero(valid)[0])[[0, -1]], [16, 111])
    for frame in calibration.driving_frames():
        assert (frame[valid == 0] == 0).all()
    assert (calibration.pose_masks[:][:, :, valid == 0] == 0).all()


def test_frames_selects(small):
    _, _, _, keypoints, masks, _ = small
    whole = run(small, smooth="none")
    part = run(small, smooth="none", frames=slice(5, 12), driving_keypoints=keypoints[5:12], driving_masks=masks[5:12])
    assert_allclose(part.matrices, whole.matrices[5:12], atol=1e-5)
    assert len(list(part.driving_frames())) == 7


# People who are not seen


def test_gap_is_held_then_lost_then_fades_in(rng):
    small = scene(rng, 90)
    keypoints = small[3].copy()
    keypoints[20:80] = np.nan
    causal = run(small, smooth="causal", driving_keypoints=keypoints, hold_seconds=0.5, fade_seconds=0.2)
    status = causal.status[:, 0]
    assert (status[:20] == "tracked").all()
    assert (status[20:34] == "held").all()  # 0.5 s are 15 frames after the last one that was seen
    assert (status[36:80] == "lost").all()
    assert (status[80:] == "tracked").all()
    corners = np.array([[0, 0], [80, 104.0]])
    moved = Similarity.from_matrix(causal.matrices[19:80, 0].astype(float)).apply(corners)
    assert abs(moved - moved[0]).max() < 20  # the motion before dies out: half of the 40 by which the truth has moved
    opacity = causal.opacity[:, 0]
    assert (opacity[:34] == 1).all()
    assert (opacity[41:80] == 0).all()
    assert (np.diff(opacity[80:]) >= 0).all()
    assert opacity[80] < 0.3
    assert opacity[-1] == 1
    assert causal.masks[60].max() == 0
    assert 0 < causal.masks[37].max() < 255
    assert any("0 s" not in w and "faded out" in w for w in causal.warnings)
    assert any("carried over" in w for w in causal.warnings)


def test_offline_bridges_a_gap(rng):
    small = scene(rng, 60)
    keypoints = small[3].copy()
    keypoints[25:33] = np.nan
    calibration = run(small, driving_keypoints=keypoints)
    assert (calibration.status[25:33] == "held").all()
    assert (calibration.opacity == 1).all()
    corners = np.array([[0, 0], [80, 104.0]])
    moved, truth = (
        t.apply(corners)
        for t in (Similarity.from_matrix(calibration.matrices[:, 0].astype(float)), canvas_truth(small))
    )
    assert abs(moved - truth).max() < 1.5


@pytest.mark.parametrize("smooth", ["causal", "offline"])
def test_a_jump_is_followed_at_once(rng, smooth):
    """Who is suddenly far larger and elsewhere has not moved there, and nothing ramps over it."""
    image, mask, _, _, _, _ = small = scene(rng, 1)
    size = np.where(np.arange(60) < 30, 1.0, 2.5)
    keypoints = size[:, None, None] * (PERSON - [40, 52]) + [80, 60]
    driving = np.broadcast_to(small[2], (60, 120, 160, 3))
    options = {"driving_keypoints": keypoints, "driving_masks": None, "reference_keypoints": PERSON}
    calibration = calibrate(image, driving, reference_mask=mask, size=(120, 160), smooth=smooth, **options)
    found = Similarity.from_matrix(calibration.matrices[:, 0].astype(float)).scale
    assert_allclose(found[:30], 1, atol=0.01)
    assert_allclose(found[40 if smooth == "causal" else 30 :], 2.5, atol=0.01)


def test_times_of_a_variable_frame_rate_are_kept(small, tmp_path):
    image, mask, driving, keypoints, _, _ = small
    times = np.cumsum([0, *np.resize([0.02, 0.1, 0.05], 19)])
    with VideoWriter(tmp_path / "v.mp4", 30, (120, 160)) as video:
        for frame, time in zip(driving, times, strict=True):
            video.write(frame, float(time))
    calibration = calibrate(image, tmp_path / "v.mp4", reference_mask=mask, driving_keypoints=keypoints, **GIVEN)
    assert_allclose(calibration.times, times, atol=1e-3)


def test_long_videos_take_memory_in_proportion(rng):
    import tracemalloc

    from tpc_fast.calibration.fade import fade_video

    status = np.full((20_000, 1), "tracked")
    status[100:200] = "lost"
    tracemalloc.start()
    status, opacity = fade_video(status, np.arange(20_000) / 30, 1.0, 0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    # The gap of 100 frames: 30 are near enough to either side to be held, the rest is lost.
    assert (status == "held").sum() == 60
    assert (status == "lost").sum() == 40
    assert opacity[150, 0] == 0


def test_a_person_who_comes_late(rng):
    small = scene(rng, 60)
    keypoints = small[3].copy()
    keypoints[:50] = np.nan
    causal = run(small, smooth="causal", driving_keypoints=keypoints)
    assert (causal.status[:50] == "lost").all()
    assert (causal.opacity[:50] == 0).all()
    assert (causal.opacity[50:] == 1).all()
    offline = run(small, driving_keypoints=keypoints, hold_seconds=0.5, fade_seconds=0.0)
    assert (offline.status[36:50] == "held").all()
    assert (offline.status[:34] == "lost").all()
    assert_allclose(offline.matrices[0], offline.matrices[50], atol=12)  # pixels; what is not seen moves little


def test_fallback_is_marked(rng):
    small = scene(rng, 30)
    scores = np.ones((30, 17))
    scores[10:20] = np.isin(np.arange(17), [5, 6])
    calibration = run(small, driving_keypoints=np.dstack([small[3], scores]))
    assert (calibration.status[10:20] == "fallback").all()
    assert_array_equal(calibration.determined[10:20, 0].all(-1), False)
    assert calibration.determined[10:20, 0, 2].all()
    said = "10 of 30 frames show too little to tell scale, angle and position: their neighbours fill in"
    assert calibration.warnings == [said]


def test_one_frame(rng):
    small = scene(rng, 1)
    for smooth in ("offline", "causal", "none"):
        calibration = run(small, smooth=smooth)
        assert_allclose(calibration.matrices[:, 0], canvas_truth(small).matrix, atol=1e-4)


# Files


def test_save_and_load(small, tmp_path):
    calibration = run(small)
    calibration.save(tmp_path / "out")
    loaded = Calibration.load(tmp_path / "out")
    for name in ("matrices", "raw_matrices", "times", "keypoints", "scores", "members", "residual", "opacity", "status",
                 "determined", "swapped", "reference_image", "reference_mask", "packed_pose_masks"):  # fmt: skip
        assert_array_equal(getattr(loaded, name), getattr(calibration, name), err_msg=name)
    assert loaded.options == calibration.options
    assert loaded.size == calibration.size
    assert_array_equal(loaded.images[7], calibration.images[7])
    assert_array_equal(loaded.pose_masks[7], calibration.pose_masks[7])
    with pytest.raises(ValueError, match="not at hand"):
        next(loaded.driving_frames())
    with pytest.raises(FileExistsError, match="--overwrite"):
        calibration.save(tmp_path / "out")
    calibration.save(tmp_path / "out", overwrite=True)


def test_the_file_is_made_to_be_edited(small, tmp_path):
    """A matrix stands on one line, and reading what was written line by line loses nothing."""
    calibration = run(small)
    calibration.save(tmp_path / "out")
    lines = (tmp_path / "out" / "calibration.json").read_text().splitlines()
    matrices = [json.loads("{" + line.strip().rstrip(",") + "}")["matrix"] for line in lines if '"matrix":' in line]
    assert_array_equal(np.array(matrices, np.float32), calibration.matrices[:, 0])


def test_missing_keypoints_survive_a_file(small, tmp_path):
    keypoints = small[3].copy()
    keypoints[3, 9] = np.nan
    calibration = run(small, driving_keypoints=keypoints)
    calibration.save(tmp_path / "out")
    assert_array_equal(Calibration.load(tmp_path / "out").keypoints, calibration.keypoints)
    assert np.isnan(calibration.keypoints[3, 0, 9]).all()


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda d: d.update(format="other"), "not a calibration"),
        (lambda d: d.update(format_version=99), "format version 99"),
        (lambda d: d.pop("frames"), "incomplete or wrong.*frames"),
        (lambda d: d["frames"].pop(), "incomplete or wrong"),
        (lambda d: d["frames"][1]["persons"][0].update(matrix=[[1, 2], [3, 4]]), "matrix of frame 1, person 0 must be"),
        (
            lambda d: d["frames"][7]["persons"][0].update(matrix=[[1, 2, 0], [2, 4, 0]]),
            "frame 7, person 0 must have an inv",
        ),
        (
            lambda d: d["frames"][0]["persons"][0].update(matrix=[[1, 2, None], [0, 1, 0]]),
            "incomplete or wrong.*matrix",
        ),
        (
            lambda d: d["frames"][2]["persons"][0].update(status="fine"),
            "status of frame 2, person 0 must be one of.*'fine'",
        ),
        (lambda d: d.update(size=[10, 10]), "pose masks"),
    ],
)
def test_damaged_calibration(small, tmp_path, damage, match):
    run(small).save(tmp_path / "out")
    path = tmp_path / "out" / "calibration.json"
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=match):
        Calibration.load(tmp_path / "out")


def test_missing_parts_of_a_calibration(small, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold a calibration.json"):
        Calibration.load(tmp_path)
    run(small).save(tmp_path / "out")
    os.remove(tmp_path / "out" / "masks.npz")
    with pytest.raises(FileNotFoundError, match=r"must hold masks.npz"):
        Calibration.load(tmp_path / "out")
    (tmp_path / "out" / "calibration.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        Calibration.load(tmp_path / "out")


# Bad input


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, r"size must be an integer or \(height, width\).*'big'", {"size": "big"}),
        (ValueError, "size must be .* 16 to 16384.*8", {"size": 8}),
        (ValueError, "resize must be one of pad, stretch.*'crop'", {"resize": "crop"}),
        (ValueError, "smooth must be one of.*'very'", {"smooth": "very"}),
        (ValueError, "subset must be optimal", {"subset": "best"}),
        (ValueError, "interpolation must be one of.*'area'", {"interpolation": "area"}),
        (ValueError, "score_threshold must be a finite number from 0 to 1.*2", {"score_threshold": 2}),
        (ValueError, "hold_seconds must be a finite number.*-1", {"hold_seconds": -1}),
        (ValueError, "fade_seconds must be a finite number.*'x'", {"fade_seconds": "x"}),
        (ValueError, "fps must be a positive number", {"fps": 0}),
        (ValueError, "frames must be a slice without a step", {"frames": slice(0, 9, 2)}),
        (ValueError, "frames must be a slice", {"frames": 3}),
        (ValueError, "reference_keypoints: keypoints must be", {"reference_keypoints": np.zeros((5, 2))}),
        (TypeError, "reference_keypoints must be an array", {"reference_keypoints": object()}),
        (FileNotFoundError, "there is no file", {"reference_keypoints": "absent.npz"}),
        (ValueError, "reference_mask must be .*H, W", {"reference_mask": np.zeros((3, 3), np.uint8)}),
        (TypeError, "reference_mask must be uint8 or bool", {"reference_mask": np.zeros((104, 80))}),
        (ValueError, "driving_keypoints: keypoints must be", {"driving_keypoints": np.zeros((20, 4, 2))}),
        (ValueError, "must be of all frames, but is of 3", {"driving_keypoints": np.zeros((3, 17, 2))} | NO_MASKS),
        (ValueError, "must be of the 20 frames.*is of 25", {"driving_keypoints": np.full((25, 17, 2), 9)} | NO_MASKS),
        (ValueError, "must be in pixels, but reach only to 0.5", {"reference_keypoints": np.full((17, 2), 0.5)}),
        (ValueError, "hold_seconds must be a finite number", {"hold_seconds": np.inf}),
        (ValueError, "match must be one of auto, .*'best'", {"match": "best"}),
        (TypeError, "match must be one of auto, .* 7", {"match": 7}),
        (ValueError, "match must be pairs .*each person once", {"match": [(0, 1), (0, 2)]}),
        (ValueError, "match names person 1 of the reference, which has 1", {"match": {1: 0}}),
        (ValueError, r'depth must be "auto" or the 1 person.* \(1, 0\)', {"depth": (1, 0)}),
        (ValueError, "driving_masks must come with driving_keypoints", {"driving_keypoints": None}),
        (ValueError, "driving_masks must have the frames' size", {"driving_masks": np.zeros((20, 8, 8), np.uint8)}),
        (ValueError, "not be fitted in any of the 20 frames", {"driving_keypoints": np.full((20, 17, 2), np.nan)}),
        (ValueError, "0 of 17 keypoints have a score", {"reference_keypoints": np.full((17, 2), np.nan)}),
        (ValueError, "cache must go with a driving video", {"driving_keypoints": None, "cache": "c.npz"} | NO_MASKS),
        (TypeError, "unexpected keyword", {"colour": "blue"}),
    ],
)  # fmt: skip
def test_bad_options(small, error, match, options):
    with pytest.raises(error, match=match):
        run(small, **options)


def test_bad_files(small, tmp_path):
    image, mask, driving, keypoints, _, _ = small
    text = tmp_path / "text.mp4"
    text.write_text("this is no video")
    given = {"reference_mask": mask, "driving_keypoints": keypoints, **GIVEN}
    with pytest.raises(FileNotFoundError, match=r"reference.*absent.png"):
        calibrate(tmp_path / "absent.png", driving, **given)
    with pytest.raises(FileNotFoundError, match=r"driving.*absent.mp4"):
        calibrate(image, tmp_path / "absent.mp4", **given)
    with pytest.raises(ValueError, match="driving"):
        calibrate(image, text, **given)
    with pytest.raises(ValueError, match="reference"):
        calibrate(text, driving, **given)


def test_rendering_follows_edits_and_cannot_be_spoilt(small):
    calibration = run(small)
    before = calibration.images[3]
    with pytest.raises(ValueError, match="read-only"):
        before[:] = 0
    calibration.matrices[3] = np.eye(2, 3)
    assert_array_equal(calibration.images[3], calibration.images[3:4][0])
    assert (calibration.images[3] != before).any()
    calibration.opacity[3] = 0
    assert not calibration.masks[3].any()
    again = pickle.loads(pickle.dumps(calibration))
    assert_array_equal(again.images[3], calibration.images[3])


def test_backgrounds_belong_to_the_rendered_frames(small):
    calibration = run(small)
    grounds = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 96, 128, 3), np.uint8)
    for opacity in (1.0, 0.0):
        calibration.opacity[9] = opacity
        composite = calibration.render(slice(8, 12), background=grounds[:4]).composite
        assert_array_equal(composite[:, 0, 0, 0], np.arange(4))
        with pytest.raises(ValueError, match="background must be"):
            calibration.render(slice(8, 12), background=grounds)
    with pytest.raises(TypeError, match=r"indexed by an integer or a slice, not \[0, 5\]"):
        calibration.images[[0, 5]]


def test_rendering_at_another_size_scales(small):
    calibration = run(small)
    large, small_ = (calibration.render(4, size=size).mask[0, 0].astype(float) for size in ((96, 128), (48, 64)))
    assert abs(large.reshape(48, 2, 64, 2).mean((1, 3)) - small_).mean() < 3


def test_bad_steps(small):
    image, mask, driving, keypoints, _, _ = small
    seen = Detection(keypoints[:1].astype(np.float32), np.ones((1, 17), np.float32))
    with Calibrator(image, reference_mask=mask, **GIVEN) as calibrator:
        calibrator.step(driving[0], 1.0, seen)
        with pytest.raises(ValueError, match=r"time must increase, but is 1.0 after 1.0"):
            calibrator.step(driving[1], 1.0, seen)
        with pytest.raises(
            ValueError, match=r"frame must have the size of the first, \(120, 160\), but has \(60, 80\)"
        ):
            calibrator.step(driving[1, ::2, ::2], 2.0, seen)
        with pytest.raises(ValueError, match="time must be finite"):
            calibrator.step(driving[1], np.nan, seen)
        with pytest.raises(ValueError, match=r"detection must have keypoints \[P, 17, 2\]"):
            calibrator.step(driving[1], 2.0, Detection(keypoints[0], np.ones(17)))
        with pytest.raises(ValueError, match="detection must have a uint8 mask"):
            calibrator.step(driving[1], 2.0, Detection(seen.keypoints, seen.scores, np.zeros((1, 5, 5), np.uint8)))
        nobody = calibrator.step(driving[1], 2.0, Detection.nobody())
        assert nobody.pose_mask.shape == (1, 96, 128)


def test_no_mask_at_all_is_said(small, caplog):
    with caplog.at_level(logging.WARNING, "tpc_fast"):
        calibration = run(small, reference_mask=None, driving_masks=None)
    assert (calibration.reference_mask == 255).all()
    assert (calibration.pose_masks[0] == 0).all()
    assert any("whole photo is the mask" in w for w in calibration.warnings)
    assert any("pose masks are empty" in w for w in calibration.warnings)
    assert "whole photo is the mask" in caplog.text


def test_mask_iou():
    a, b = np.zeros((2, 3, 8, 8), np.uint8)
    a[0, :4], b[0, 2:6] = 255, 255
    a[1], b[1] = 255, 128
    assert_allclose(mask_iou(a, b), [1 / 3, 1, np.nan])


def test_canvas():
    canvas = Canvas.fitting((100, 200), (50, 50), "pad")
    assert_allclose(canvas.apply(np.array([[-0.5, -0.5], [199.5, 99.5]])), [[-0.5, 11.5], [49.5, 36.5]])
    assert_array_equal(np.nonzero(canvas.valid_mask()[:, 0])[0], range(12, 37))
    squeeze = Canvas.fitting((100, 200), (50, 50), "stretch")
    assert_allclose(squeeze.apply(np.array([[199.5, 99.5]])), [[49.5, 49.5]])
    same = np.zeros((8, 8, 3), np.uint8)
    assert Canvas.fitting((8, 8), (8, 8), "pad").draw(same) is same


def test_public_names():
    for name in tpc_fast.__all__:
        assert getattr(tpc_fast, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tpc_fast.nonsense  # noqa: B018


# With the embedded detector


@pytest.fixture(scope="module")
def empty_room():
    """Pictures in which nobody is: a smooth gradient with a few boxes."""
    y, x = np.mgrid[:240, :320]
    room = np.stack([x // 2 + 40, y // 2 + 60, np.full_like(x, 90)], -1).astype(np.uint8)
    room[150:200, 40:120] = (120, 80, 40)
    return room


@pytest.mark.demo
def test_reference_without_a_person(empty_room):
    """The error says what was tried."""
    with pytest.raises(
        ValueError, match=r"reference: no person was found \(blazepose looked at the 320x240 picture in 4"
    ):
        Calibrator(empty_room)


@pytest.mark.demo
def test_video_without_a_person(empty_room):
    from tpc_fast import demo

    with pytest.raises(ValueError, match=r"driving: the person could not be fitted in any of the 3 frames \(blazepose"):
        calibrate(demo.load_photo(), np.stack([empty_room] * 3))


@pytest.fixture(scope="module")
def astronaut():
    """The keypoints of the demo's photo."""
    from tpc_fast import demo

    with Calibrator(demo.load_photo()) as calibrator:
        return calibrator.reference.keypoints


@pytest.mark.demo
@pytest.mark.parametrize("kind", ["grey", "RGBA", "16 bit", "EXIF-turned"])
def test_references_of_every_kind_are_found(kind, tmp_path, astronaut):
    """The same person, the same keypoints (grey apart, which the detector sees a little differently)."""
    from tpc_fast import demo

    photo, path = demo.load_photo(), tmp_path / "photo.png"
    if kind == "grey":
        Image.fromarray(photo).convert("L").save(path)
    elif kind == "RGBA":
        Image.fromarray(np.dstack([photo, np.full((512, 512), 255, np.uint8)])).save(path)
    elif kind == "16 bit":
        Image.fromarray(np.asarray(Image.fromarray(photo).convert("L")).astype(np.uint16) * 257).save(path)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned a quarter clockwise
        Image.fromarray(np.rot90(photo)).save(path, exif=exif)
    with Calibrator(path) as calibrator:
        assert calibrator.reference.image.shape == (512, 512, 3)
        distance = np.linalg.norm(calibrator.reference.keypoints - astronaut, axis=-1)[0, :7]
        assert distance.max() < (15 if kind in ("grey", "16 bit") else 0.5)


@pytest.mark.demo
def test_cache_is_used_and_replaced(tmp_path, caplog):
    """A second run looks at no frame; another slice, or a changed file, is looked at anew, and that is said."""
    from tpc_fast import demo
    from tpc_fast.pose import PersonTracker

    photo = demo.load_photo()
    demo.write_clip(photo, tmp_path / "clip.mp4", demo.camera_path(3))
    looks, step = [], PersonTracker.step

    def counted(self, frame):
        looks.append(frame.shape)
        return step(self, frame)

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING, "tpc_fast"):
        patch.setattr(PersonTracker, "step", counted)
        arguments = {"cache": tmp_path / "cache.npz", "size": 128}
        first = calibrate(photo, tmp_path / "clip.mp4", **arguments)
        assert len(looks) == 3
        second = calibrate(photo, tmp_path / "clip.mp4", **arguments)
        assert len(looks) == 3
        assert_array_equal(second.matrices, first.matrices)
        assert_array_equal(second.packed_pose_masks, first.packed_pose_masks)
        assert "replaced" not in caplog.text
        calibrate(photo, tmp_path / "clip.mp4", frames=slice(0, 2), **arguments)
        assert len(looks) == 5
        assert "the cache is replaced" in caplog.text
        os.utime(tmp_path / "clip.mp4", (1, 1))
        calibrate(photo, tmp_path / "clip.mp4", frames=slice(0, 2), **arguments)
        assert len(looks) == 7
        with pytest.raises(ValueError, match=r"cache must be an .npz file in an existing folder"):
            calibrate(photo, tmp_path / "clip.mp4", cache=tmp_path / "absent" / "cache.npz")
        assert len(looks) == 7


def test_a_change_of_person_is_told(rng):
    """One-person mode follows somebody else only with a warning that names the frame; motion and gaps are no change."""
    image, mask, driving, keypoints, _, _ = scene(rng, 30)
    moving = keypoints.astype(np.float32)
    moving[10:14] = np.nan
    options = dict(reference_keypoints=PERSON, reference_mask=mask, size=(120, 160))

    def told(points):
        warnings = calibrate(image, driving, driving_keypoints=points, **options).warnings
        return [w for w in warnings if "somebody else" in w]

    assert told(moving) == []
    other = moving.copy()
    other[14:] = 0.3 * (other[14:] - other[14:].mean(1, keepdims=True)) + (20, 20)
    assert told(other) == ["driving: from frame 14 on somebody else is followed, or the same person elsewhere"]
    with Calibrator(image, **options) as calibrator:
        for frame, points in zip(driving, other, strict=True):
            shown = np.isfinite(points).all()
            scores = np.full((1, 17), shown, np.float32)
            calibrator.step(frame, detection=Detection(points[None], scores) if shown else Detection.nobody())
        assert sum("from frame 14" in w for w in calibrator.warnings) == 1
