"""Several persons with the embedded detector: the astronaut beside herself, mirrored, turned and scaled."""

import discs
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import tpc_fast
from tpc_fast import Similarity, WarpSource, demo
from tpc_fast.cli.main import main
from tpc_fast.media.video import VideoWriter
from tpc_fast.pose import Detection, get_detector
from tpc_fast.pose.detect.one_person import PersonTracker
from tpc_fast.pose.detect.parts import squares
from tpc_fast.pose.detect.several_people import LOOKS, GroupTracker, _add, _listed
from tpc_fast.pose.detect.whole_picture import get_tracker

NOSE = np.array([223.0, 120.0])  # of the photo, as demo.FACE
NOSES = NOSE, np.array([511 - NOSE[0], NOSE[1]])  # as it is, and mirrored
SIZE = (360, 640)


@pytest.mark.parametrize("size", [(512, 512), (360, 640), (640, 360), (500, 550), (40, 300)])
def test_squares_cover_the_picture(size):
    """Every spot lies in the whole and in a smaller square, and none reaches beyond."""
    (left, top, side), *smaller = squares(*size)
    assert (left, top, side) == (0, 0, max(size))
    covered = np.zeros(size, int)
    for left, top, side in smaller:
        assert left >= 0
        assert top >= 0
        assert left + side <= size[1]
        assert top + side <= size[0]
        covered[top : top + side, left : left + side] += 1
    assert covered.min() >= 1


def person(x, score):
    """A face and shoulders at x, 60 across, inside their mask, so that the score is the quality."""
    keypoints = np.full((17, 2), np.nan)
    keypoints[:7] = np.array([[0, 0], [5, -5], [-5, -5], [9, 0], [-9, 0], [30, 40], [-30, 40]]) + (x, 40)
    scores = np.where(np.arange(17) < 7, score, 0)
    mask = np.zeros((1, 90, 400), np.uint8)
    mask[..., x - 45 : x + 45] = 255
    return Detection(keypoints[None].astype(np.float32), scores[None].astype(np.float32), mask)


def test_one_person_seen_twice_is_one():
    found = []
    for name, x, score in (("a", 200, 0.6), ("b", 100, 0.9), ("c", 203, 0.8), ("d", 300, 0.5), ("e", 98, 0.7)):
        _add(found, name, person(x, score), (90, 400))
    trackers, seen = _listed(found)
    assert trackers == ["b", "c", "d"]  # from left to right, the better of two
    assert_allclose(seen.keypoints[:, 0, 0], [100, 203, 300])
    assert seen.mask.shape == (3, 90, 400)
    assert len(_listed([])[1]) == 0


@pytest.mark.parametrize(("hips", "count"), [(None, 1), (0, 1), (60, 2)])
def test_heads_of_two_who_embrace_are_not_one_person(hips, count):
    """Two crops with the same face: one person seen twice, unless their hips are apart."""
    found = []
    for name, x in (("left", 0), ("right", hips)):
        seen = person(200, 0.9)
        if hips is not None:
            seen.keypoints[0, 11:13] = (185 + x, 85), (215 + x, 85)
            seen.scores[0, 11:13] = 0.9
        _add(found, name, seen, (90, 400))
    assert len(found) == count


class Told(discs.OnlyWhole):
    """Finds whom it was told of, and loses only whose body is bright."""

    people = 2

    def __init__(self, persons):
        super().__init__()
        self.persons = np.array(persons, np.float32)

    def detect_people(self, image):
        scores = np.where(np.arange(17) < 13, 0.9, 0.0).astype(np.float32)
        return Detection(self.persons, np.stack([scores] * len(self.persons)))

    def detect_upright(self, image):
        bright = image[..., 2].max() > 90
        return super().detect_upright(image) if bright else discs.DiscDetector.detect_upright(self, image)


@pytest.mark.parametrize("bright", [False, True])
def test_everybody_has_a_crop_of_the_own(bright):
    """Two half figures, one of whom the crop for half figures loses: that one is measured in the other."""
    persons = [discs.person_at((x, 300), 12) for x in (130, 500)]  # cut above the knees
    picture = np.maximum(*map(discs.draw, persons))
    if bright:
        picture[:, 320:, 2] *= 2
    tracker = GroupTracker(Told(persons))
    assert_allclose(tracker.find(picture).keypoints[:, :7], [person[:7] for person in persons], atol=2.5)
    assert_allclose(tracker.step(picture).keypoints[:, :7], [person[:7] for person in persons], atol=2.5)
    half, whole = tracker.detector.half, tracker.detector.whole
    assert [one.crop for one in tracker._followed] == [half, whole if bright else half]


@pytest.fixture(scope="module")
def cut_out():
    """The astronaut as she is, and mirrored, without what is behind her."""
    photo = demo.load_photo()
    with get_detector("blazepose") as detector:
        mask = PersonTracker(detector).find(photo).mask[0]
    return [WarpSource(*(np.ascontiguousarray(a[:, ::step]) for a in (photo, mask))) for step in (1, -1)]


@pytest.fixture(scope="module")
def detector():
    with get_detector("blazepose:people=2") as detector:
        yield detector


def place(mirrored, scale, angle, nose):
    """The similarity that brings the astronaut's nose to a place."""
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, -sin], [sin, cos]])
    return Similarity(np.float64(scale), rotation, np.asarray(nose, float) - scale * rotation @ NOSES[mirrored])


def wall(size=SIZE, rng=0):
    """Coloured squares of 40 pixels, the same ones in every run: in one of twelve walls the network saw somebody."""
    shape = -(-size[0] // 40), -(-size[1] // 40), 3
    squares = np.random.default_rng(rng).integers(60, 200, shape).astype(np.uint8)
    return np.ascontiguousarray(squares.repeat(40, 0).repeat(40, 1)[: size[0], : size[1]])


def draw(cut_out, places, background):
    """The persons over a background, the last in front."""
    for mirrored, similarity in places:
        source = cut_out[mirrored]
        background = source.warp(
            similarity.matrix[None], background.shape[:2], antialias=True, background=background
        ).composite[0]
    return background


def at_random(rng, size):
    """Two places side by side."""
    return [
        (
            mirrored := int(rng.integers(2)),
            place(
                mirrored,
                rng.uniform(0.35, 0.6),
                rng.uniform(-0.35, 0.35),
                (size[1] * (p + 0.5) / 2 + rng.uniform(-30, 30), rng.uniform(0.2, 0.4) * size[0]),
            ),
        )
        for p in range(2)
    ]


@pytest.mark.demo
@pytest.mark.slow
def test_two_are_found_side_by_side(cut_out, detector):
    """30 of 30 such layouts were when this was written; two of these six may be missed.

    The same layouts every time: on ten fixed ones 2 to 15 passes were seen, so that the median of fresh ones varies.
    """
    rng = np.random.default_rng(0)
    tracker = get_tracker(detector)
    assert isinstance(tracker, GroupTracker)
    both, passes = 0, []
    for f in range(6):
        size = [SIZE, (480, 480)][f % 2]
        places = at_random(rng, size)
        picture = draw(cut_out, places, wall(size, rng))
        noses = np.array([similarity.apply(NOSES[m][None])[0] for m, similarity in places])
        photo = tracker.find(picture)
        tracker.reset()
        first, second = tracker.step(picture), tracker.step(picture)
        if len(photo) == len(first) == len(second) == 2:
            both += 1
            for seen in (photo, first, second):
                assert_allclose(seen.keypoints[:, 0], noses, atol=12)
                assert seen.mask.shape == (2, *size)
            passes.append(tracker.passes)
    assert both >= 4
    assert np.median(passes) <= 8  # one each, if they are seen well


@pytest.mark.demo
@pytest.mark.slow
def test_two_walk_through_the_command_line(cut_out, tmp_path, capsys):
    """A photo of two, and a clip in which they move and turn; one is away for a while."""
    start = [(0, place(0, 0.45, 0, (160, 100))), (1, place(1, 0.4, 0.1, (470, 110)))]
    behind, frames = wall(), 16
    Image.fromarray(draw(cut_out, start, behind)).save(tmp_path / "photo.png")
    truth, there = [], np.ones((frames, 2), bool)
    there[6:10, 1] = False
    with VideoWriter(tmp_path / "clip.mp4", 24.0, SIZE) as video:
        for f in range(frames):
            t = f / frames
            places = [
                (0, place(0, 0.4 + 0.1 * t, 0.3 * np.sin(6 * t), (150 + 60 * t, 105))),
                (1, place(1, 0.5 - 0.1 * t, -0.2 * np.sin(5 * t), (480 - 50 * t, 115))),
            ]
            video.write(draw(cut_out, [p for p, seen in zip(places, there[f], strict=True) if seen], behind))
            truth.append([(now @ was.inverse()).matrix for (_, now), (_, was) in zip(places, start, strict=True)])
    files = [str(tmp_path / "photo.png"), str(tmp_path / "clip.mp4"), "-q", "--size", f"{SIZE[0]}x{SIZE[1]}",
             "--detector", "blazepose:people=2"]  # fmt: skip
    assert main(["calibrate", *files, "-o", str(tmp_path / "out")]) == 0
    calibration = tpc_fast.Calibration.load(tmp_path / "out")
    assert calibration.match == [0, 1]
    assert calibration.status.shape == (frames, 2)
    assert np.isin(calibration.status[there], ["tracked", "fallback"]).mean() > 0.9
    assert np.isin(calibration.status[~there], ["held"]).all()
    truth = np.array(truth)
    noses = np.array([[160, 100, 1], [470, 110, 1]])
    apart = np.linalg.norm(np.einsum("fpij,pj->fpi", calibration.matrices - truth, noses), axis=-1)
    log_scales = [np.log(np.hypot(m[..., 0, 0], m[..., 1, 0])) for m in (calibration.matrices, truth)]
    assert np.median(apart[there]) < 5
    assert np.median(abs(log_scales[0] - log_scales[1])[there]) < 0.08
    assert (calibration.pose_masks[0].reshape(2, -1) >= 128).sum(-1).min() > 1000
    capsys.readouterr()
    assert main(["inspect", *files, "--frames", "0:3"]) == 0
    printed = capsys.readouterr().out
    assert "played by:            driving person 0" in printed
    assert "played by:            driving person 1" in printed


def test_a_place_is_looked_at_twice_a_roll(monkeypatch):
    """Somebody who is never seen well, in every square of a photo: the search ends soon."""
    looks, there = [], person(200, 0.9)
    monkeypatch.setattr(GroupTracker, "_people", lambda *_: [(there.keypoints[0], there.scores[0])])
    monkeypatch.setattr(PersonTracker, "approach", lambda *_: looks.append(1) or Detection.nobody())
    photo = np.zeros((90, 400, 3), np.uint8)
    assert len(squares(90, 400)) > LOOKS
    assert len(GroupTracker(Told(there.keypoints)).find(photo)) == 0
    assert len(looks) == 4 * LOOKS


def test_a_person_inside_another_is_the_same_unless_both_are_seen_well():
    """A second skeleton somewhere in the body of a person, as networks see them; a child in front of somebody."""
    for score, count in ((0.4, 1), (0.9, 2)):
        body, inner = person(100, 0.8), person(250, score)
        body.mask[:] = 255
        found = []
        for name, detection in (("a", inner), ("b", body)):
            _add(found, name, detection, (90, 400))
        assert len(found) == count
        assert found[-1][0] == "b"  # the better of the two, or the last


@pytest.mark.demo
@pytest.mark.slow
def test_two_photographs_side_by_side(detector):
    """One of them in profile, leaning over a camera: whoever looks for faces does not find him."""
    from skimage import data

    picture = np.concatenate([np.repeat(data.camera()[..., None], 3, -1), data.astronaut()], 1)
    tracker = GroupTracker(detector)
    photo, frame = tracker.find(picture), tracker.step(picture)
    for seen in (photo, frame):
        assert_allclose(seen.keypoints[:, 0], [(250, 165), (512 + NOSE[0], NOSE[1])], atol=25)
        assert (seen.mask[0, :, :512] >= 128).mean() > 0.15
        assert not (seen.mask[0, :, 640:] >= 128).any()
    assert len(GroupTracker(detector).find(picture[:, :512].copy())) == 1


@pytest.mark.demo
@pytest.mark.slow
def test_fewer_than_asked_for(cut_out, detector):
    picture = draw(cut_out, [(0, place(0, 0.6, 0, (300, 110)))], wall())
    with tpc_fast.Calibrator(picture, detector=detector, size=SIZE) as calibrator:
        assert calibrator.warnings == ["reference: 1 of 2 persons were found"]
        assert calibrator.step(picture).status.tolist() == ["tracked"]
        empty = calibrator.step(wall(rng=1))
        assert empty.status.tolist() == ["held"]
    with pytest.raises(ValueError, match=r"no person was found .blazepose looked for people .* in 4 rolls"):
        tpc_fast.Calibrator(wall(rng=2), detector=detector)


@pytest.mark.demo
def test_a_photo_on_its_side(cut_out, detector):
    size = SIZE
    upright = draw(cut_out, [(0, place(0, 0.45, 0, (160, 100))), (1, place(1, 0.5, 0, (470, 110)))], wall(size))
    photo = np.ascontiguousarray(np.rot90(upright))
    found = GroupTracker(detector).find(photo)
    assert len(found) == 2
    x, y = found.keypoints[:, 0].T  # rot90 moves (x, y) to (y, width - 1 - x)
    back = np.stack([size[1] - 1 - y, x], -1)
    back = back[np.argsort(back[:, 0])]
    assert_allclose(back, [[160, 100], [470, 110]], atol=15)


@pytest.mark.demo
def test_wrong_numbers_of_people():
    for wrong in ("0", "21", "two"):
        with pytest.raises(ValueError, match=r"people must be an integer from 1 to 20"):
            get_detector(f"blazepose:people={wrong}")
    with get_detector("blazepose:people=1") as one:
        assert isinstance(get_tracker(one), PersonTracker)
    with pytest.raises(ValueError, match="is closed"):
        one.detect_people(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.demo
def test_several_persons_cost_one_nothing(cut_out):
    """The path of one person is the same: the same passes, the same keypoints."""
    picture = draw(cut_out, [(0, place(0, 0.6, 0, (300, 110)))], wall())
    with get_detector("blazepose") as plain, get_detector("blazepose:people=1") as one:
        trackers = [get_tracker(plain), get_tracker(one)]
        found = [tracker.find(picture) for tracker in trackers]
        assert_array_equal(found[0].keypoints, found[1].keypoints)
        assert trackers[0].passes == trackers[1].passes
