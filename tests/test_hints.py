"""Who is meant: a box around a person, a point on it; and how many a photo is of, if nobody says so."""

import discs
import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from test_group import SIZE, cut_out, draw, place, wall  # noqa: F401  a fixture

import tpc_fast
from tpc_fast.calibration.observer import Observer
from tpc_fast.cli.main import main
from tpc_fast.media.video import VideoWriter
from tpc_fast.pose import Detection, get_detector
from tpc_fast.pose.detect.hint import check_hint
from tpc_fast.pose.detect.one_person import PersonTracker
from tpc_fast.pose.detect.whole_picture import PictureTracker

SIDES = (0.45, 0.45)


@pytest.fixture(scope="module")
def detector():
    with get_detector("blazepose") as one:
        yield one


class Blind(discs.DiscDetector):
    """Sees persons in canonical crops only: a search finds nobody, as in drawings."""

    def detect(self, image):
        return Detection.nobody()


@pytest.mark.parametrize("below", [25.0, 12.5, 6.0])  # where the box ends under the nose, in distances between the eyes
def test_a_drawing_that_a_search_misses_is_seen_in_its_box(below):
    truth = discs.person_at((320, 80), 12)
    picture, tracker = discs.draw(truth), PersonTracker(Blind())
    assert not len(tracker.find(picture))
    box = (320 - 60, 80 - 2.2 * 12, 121, (2.2 + below) * 12)
    found = tracker.find(picture, check_hint("reference", box, None))
    assert_allclose(found.keypoints[0, :7], truth[:7], atol=1.6)
    first = tracker.begin(picture, check_hint("driving", box, None))
    assert_allclose(first.keypoints[0, :7], truth[:7], atol=1.6)
    assert tracker.followed
    tracker.step(picture)
    assert tracker.passes <= 2  # it is followed from there
    elsewhere = check_hint("reference", (0, 300, 60, 100), None)
    assert not len(tracker.find(picture, elsewhere))


@pytest.mark.parametrize(
    ("box", "point", "said"),
    [
        ((1, 2, 3), None, r"reference_box must be 4 finite numbers, x, y, width and height.* but is \(1, 2, 3\)"),
        ((1, 2, 0, 5), None, "reference_box must be 4 finite numbers"),
        ("1,2,3,4", None, "reference_box must be 4 finite numbers"),
        (None, (1, np.nan), "reference_point must be 2 finite numbers, x and y"),
        (None, 3, "reference_point must be 2 finite numbers"),
        (None, (640, 2), r"reference_point must lie in the picture of 640x360 pixels, but is \(640.0, 2.0\)"),
        (None, (-1, 2), "reference_point must lie in the picture"),
        ((640, 0, 10, 10), None, "reference_box must lie in the picture"),
        ((1, 2, 3, 4), (1, 2), "reference_box and reference_point must not be given together"),
    ],
)
def test_hints_that_are_wrong(box, point, said):
    photo = np.zeros((*SIZE, 3), np.uint8)
    with pytest.raises(ValueError, match=said):
        tpc_fast.Calibrator(photo, detector=Blind(), reference_box=box, reference_point=point)


def test_hints_that_do_not_fit_what_else_is_given():
    points = discs.person_at((320, 80), 12)
    photo = discs.draw(points)
    with pytest.raises(ValueError, match="reference_point must not go with reference_keypoints"):
        tpc_fast.Calibrator(photo, reference_keypoints=points, reference_point=(320, 80))
    frames = np.stack([photo] * 2)
    with pytest.raises(ValueError, match="driving_box must not go with driving_keypoints"):
        tpc_fast.calibrate(
            photo,
            frames,
            reference_keypoints=points,
            driving_keypoints=np.stack([points] * 2),
            driving_box=(0, 0, 9, 9),
        )
    with pytest.raises(ValueError, match=r"driving_point: nobody was found there in the first frame \(discs looked"):
        tpc_fast.calibrate(photo, frames, detector=discs.DiscDetector(), driving_point=(30, 30))
    two = discs.DiscDetector()
    two.people = 2
    with pytest.raises(ValueError, match=r"reference_point says who of several .* must not go with 2 persons"):
        tpc_fast.Calibrator(photo, detector=two, reference_point=(320, 80))


def test_a_point_or_a_box_picks_among_all_whom_a_detector_finds():
    persons = np.stack([discs.person_at((150, 60), 8), discs.person_at((450, 60), 8)]).astype(np.float32)

    class All:
        name, version, device = "all", "1", "cpu"

        def detect(self, image):
            return Detection(persons, np.ones((2, 17), np.float32))

        def close(self):
            pass

    tracker = PictureTracker(All())
    picture = np.zeros((480, 640, 3), np.uint8)
    for p, x in enumerate((150, 450)):
        for box, point in ((None, (x, 120)), ((x - 40, 40, 80, 300), None)):
            found = tracker.find(picture, check_hint("reference", box, point))
            assert_allclose(found.keypoints[0], persons[p])
    assert not len(tracker.find(picture, check_hint("reference", None, (300, 400))))
    with pytest.raises(ValueError, match="driving_point must go with a detector of one person, not all"):
        tpc_fast.calibrate(picture, picture[None], detector=All(), reference_point=(150, 120), driving_point=(150, 120))


def side_by_side(cut_out, noses=((170, 110), (470, 110)), scales=SIDES):  # noqa: F811
    return draw(cut_out, [(p, place(p, s, 0, n)) for p, (s, n) in enumerate(zip(scales, noses, strict=True))], wall())


@pytest.mark.demo
def test_a_photo_of_two_makes_two_and_a_bystander_does_not(cut_out, detector):  # noqa: F811
    two = side_by_side(cut_out)
    found = Observer(detector, None, 0.3).find(two)
    assert_allclose(found.keypoints[:, 0], [[170, 110], [470, 110]], atol=12)
    behind = side_by_side(cut_out, ((170, 110), (500, 60)), (0.6, 0.24))
    assert len(PersonTracker(detector).find(behind)) == 1
    (nose,) = Observer(detector, None, 0.3).find(behind).keypoints[:, 0]
    assert_allclose(nose, (170, 110), atol=12)
    child = side_by_side(cut_out, ((170, 110), (500, 140)), (0.6, 0.42))
    assert len(Observer(detector, None, 0.3).find(child)) == 2


@pytest.mark.demo
def test_two_by_default_or_the_one_who_is_meant(cut_out, detector, tmp_path, capsys):  # noqa: F811
    """A photo of two on a clip of two: each on the own; one who is meant in each: that one on that one."""
    noses = np.array([[[170 + 2 * f, 110], [470 - 2 * f, 112]] for f in range(3)])
    frames = np.stack([side_by_side(cut_out, nose) for nose in noses])
    photo = side_by_side(cut_out, ((150, 130), (460, 100)))
    clip = tpc_fast.calibrate(photo, frames, detector=detector, size=SIZE)
    assert clip.matrices.shape[1] == 2
    assert (clip.status == "tracked").all()
    assert_allclose(clip.keypoints[:, :, 0], noses, atol=12)
    one = tpc_fast.calibrate(frames[0], frames, detector=detector, size=SIZE, reference_point=(470, 200),
                             driving_box=(60, 40, 230, 320))  # fmt: skip
    assert one.matrices.shape[1] == 1
    assert_allclose(one.reference_keypoints[0, 0], noses[0, 1], atol=12)
    assert_allclose(one.keypoints[:, 0, 0], noses[:, 0], atol=12)
    assert one.options["reference_point"] == [470, 200]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    with VideoWriter(tmp_path / "clip.mp4", 24, SIZE) as video:
        for frame in frames:
            video.write(frame)
    arguments = [str(tmp_path / name) for name in ("photo.png", "clip.mp4")]
    hints = ["--point", "460,200", "--driving-point", "470,200", "--cache", str(tmp_path / "cache.npz")]
    assert main(["inspect", *arguments, "--size", "360x640", "-q", *hints]) == 0
    assert "person 1" not in capsys.readouterr().out
    assert main(["inspect", *arguments, "--size", "360x640", "-q", "--box", "9,9,9"]) != 0
    assert "--box must be 4 finite numbers" in capsys.readouterr().err
    assert main(["inspect", *arguments, "--size", "360x640", "-q"]) == 0
    assert "person 1" in capsys.readouterr().out


@pytest.mark.demo
def test_one_photo_on_a_clip_of_several_follows_the_larger(cut_out, detector):  # noqa: F811
    frames = np.stack([side_by_side(cut_out, ((150, 100), (470 - f, 110)), (0.35, 0.6)) for f in range(5)])
    photo = draw(cut_out, [(1, place(1, 0.6, 0, (320, 110)))], wall())
    clip = tpc_fast.calibrate(photo, frames, detector=detector, size=SIZE)
    assert clip.matrices.shape[1] == 1
    assert_allclose(clip.keypoints[:, 0, 0, 0], 470 - np.arange(5), atol=12)


@pytest.mark.parametrize("far", [1e18, 1e300, 1.7e308])
def test_boxes_that_reach_far_beyond_the_picture(far):
    """They are cut to it; a float that is too large became an OverflowError."""
    assert check_hint("reference", (0, 0, far, far), None).part((7, 9)) == (slice(0, 7), slice(0, 9))
    assert check_hint("reference", (-far / 2, 2, far, 3), None).part((7, 9), 0.0) == (slice(2, 5), slice(0, 9))


@pytest.mark.parametrize("given", [((10**400, 0, 5, 5), None), (None, (10**400, 0))])
def test_integers_that_are_no_floats(given):
    with pytest.raises(ValueError, match=r"^reference_(box|point) must be . finite numbers"):
        check_hint("reference", *given)
