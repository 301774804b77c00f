"""Several persons: synthetic clips with a known truth, in which nobody may be taken for somebody else."""

import itertools
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scene import FIGURE

from tpc_fast import Calibration, Calibrator, Similarity, calibrate
from tpc_fast.cli.main import main
from tpc_fast.ops.warp import warp_composite
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.detection import Detection
from tpc_fast.pose.files import given
from tpc_fast.pose.files.given import split_mask
from tpc_fast.pose.follow.depth import DepthOrder
from tpc_fast.pose.follow.matching import IdentityTracker, PeopleMatcher

SIZE, PHOTO = (240, 420), (120, 400)
SCALE = 0.3  # of a figure in the photo
CORNERS = np.array([[-15.0, 0], [15, 90]])  # of a person, around its place in the photo


def similarity(scale, angle, centre):
    """Turns and scales about the origin, which lands on `centre`."""
    c, s = np.cos(angle), np.sin(angle)
    return Similarity(np.float64(scale), np.array([[c, -s], [s, c]]), np.asarray(centre, float))


class Clip:
    """P persons who stand side by side in the photo and move in the video; keypoints in any order in every frame."""

    def __init__(self, rng, moves, frames=90, noise=0.3):
        """`moves[p](seconds)` gives (scale, angle, x, y) and, if anything is hidden, which keypoints are seen."""
        count = len(moves)
        self.places = np.array([[60 + 90 * p, 20] for p in range(count)], float)
        self.figures = SCALE * FIGURE * rng.uniform(0.93, 1.07, (count, 17, 1))  # nobody is built like another
        self.reference = self.figures + self.places[:, None]
        self.times = np.arange(frames) / 30
        self.truth = np.empty((frames, count, 2, 3))
        self.visible = np.ones((frames, count), bool)
        keypoints = np.full((frames, count, 17, 2), np.nan)
        scores = np.zeros((frames, count, 17))
        self.columns = np.empty((frames, count), int)
        for f, p in itertools.product(range(frames), range(count)):
            (scale, angle, x, y), *seen = moves[p](self.times[f])
            seen = seen[0] if seen else np.ones(17, bool)
            move = similarity(scale, angle, (x, y))
            self.visible[f, p] = seen.any()
            self.truth[f, p] = (move @ similarity(1, 0, -self.places[p])).matrix
            keypoints[f, p] = move.apply(self.figures[p]) + rng.normal(0, noise, (17, 2))
            scores[f, p] = np.where(seen, 0.9, 0.0)
        keypoints[scores == 0] = np.nan
        self.keypoints, self.scores = np.empty_like(keypoints), np.empty_like(scores)
        for f in range(frames):
            order = np.arange(count) if f == 0 else rng.permutation(count)
            self.keypoints[f], self.scores[f] = keypoints[f, order], scores[f, order]
            self.columns[f, order] = np.arange(count)
        self.image = rng.integers(0, 255, (*PHOTO, 3), np.uint8)
        self.masks = np.zeros((count, *PHOTO), np.uint8)
        for p, (x, y) in enumerate(self.places.astype(int)):
            self.masks[p, y - 5 : y + 95, x - 18 : x + 18] = 255
        self.video = np.zeros((frames, *SIZE, 3), np.uint8)

    def calibrate(self, **options):
        given = np.concatenate([self.keypoints, self.scores[..., None]], -1)
        arguments = {"reference_mask": self.masks, "driving_keypoints": given, "size": SIZE, "smooth": "none"}
        return calibrate(self.image, self.video, reference_keypoints=self.reference, **arguments | options)

    def errors(self, matrices):
        """[F, P] how far corners of the persons lie from where they should, in pixels."""
        corners = CORNERS + self.places[:, None]
        found, truth = (
            np.einsum("fpij,pkj->fpki", m[..., :2], corners) + m[..., None, :, 2] for m in (matrices, self.truth)
        )
        return np.linalg.norm(found - truth, axis=-1).max(-1)


def hidden_between(start, stop, *parts):
    """Which keypoints are seen at a time: not `parts` (all, if there are none) from start to stop."""
    which = np.isin(np.arange(17), parts) if parts else np.ones(17, bool)
    return lambda t: ~which if start <= t < stop else np.ones(17, bool)


def walk(x, to, seconds=3.0, y=60.0, scale=1.0, seen=None):
    """From x to another x at an even pace."""

    def move(t):
        place = (scale, 0.05 * np.sin(3 * t), x + (to - x) * t / seconds, y)
        return place if seen is None else (place, seen(t))

    return lambda t: move(t) if seen is not None else (move(t),)


def crossing(rng):
    # At t = 1.5 they are at the same place; the one behind is hidden for a third of a second.
    return Clip(rng, [walk(60, 360, seen=hidden_between(1.33, 1.67)), walk(360, 60)])


def crossing_in_sight(rng):
    return Clip(rng, [walk(60, 360), walk(360, 60, y=64, scale=1.1), walk(200, 220, y=56, scale=0.9)])


def leaving(rng):
    def out(t):  # to the right, out of the picture for 1.2 s, back from there
        x = 340 + 80 * np.sin(np.pi * t / 3)
        return (1.0, 0.0, x, 60), np.full(17, not 0.9 <= t < 2.1)

    return Clip(rng, [walk(70, 90), walk(200, 180), out])


def turned(rng):
    return Clip(rng, [lambda t: ((1.0, 0.9 * t, 110, 120),), lambda t: ((1.0, -0.3, 310, 100),)])


def zooming(rng):
    def round_about(phase):
        return lambda t: (
            (0.9 + 0.2 * np.sin(1.5 * t + phase), 0.1 * np.sin(2 * t + phase), 210 + 130 * np.cos(0.9 * t + phase),
             70 + 25 * np.sin(0.9 * t + phase)),
        )  # fmt: skip

    return Clip(rng, [round_about(phase) for phase in (np.pi, 1.5 * np.pi, 0.5 * np.pi, 0)], frames=120)


CLIPS = [crossing, crossing_in_sight, leaving, turned, zooming]


@pytest.mark.parametrize("smooth", ["none", "offline", "causal"])
@pytest.mark.parametrize("make", CLIPS)
def test_nobody_is_taken_for_somebody_else(rng, make, smooth):
    """Columns are shuffled in every frame; transforms are near the truth wherever a person is seen."""
    clip = make(rng)
    count = len(clip.places)
    calibration = clip.calibrate(smooth=smooth, match=[(p, p) for p in range(count)])
    assert calibration.matrices.shape == (len(clip.times), count, 2, 3)
    given = clip.keypoints[np.arange(len(clip.times))[:, None], clip.columns]
    assert_allclose(calibration.keypoints, given, atol=1e-4)  # identity: everybody's own keypoints
    errors = clip.errors(calibration.matrices)
    if smooth == "none":
        assert errors[clip.visible].max() < 3
        assert errors[clip.visible].mean() < 0.8
    elif smooth == "offline":
        assert errors[clip.visible].max() < 4
    else:  # One-Euro lags, and comes back from an absence within 0.3 s
        assert np.median(errors[clip.visible]) < 6
    assert (calibration.status[clip.visible] == "tracked").all()
    assert np.isin(calibration.status[~clip.visible], ["held", "lost"]).all()
    for order in calibration.order:
        assert_array_equal(np.sort(order), range(count))


@pytest.mark.parametrize("make", CLIPS)
def test_a_stream_sees_the_same(rng, make):
    clip = make(rng)
    whole = clip.calibrate(smooth="causal")
    with Calibrator(clip.image, reference_keypoints=clip.reference, reference_mask=clip.masks, size=SIZE) as calibrator:
        for f, frame in enumerate(clip.video):
            seen = Detection(clip.keypoints[f].astype(np.float32), clip.scores[f].astype(np.float32))
            out = calibrator.step(frame, clip.times[f], seen)
            assert_array_equal(out.matrix, whole.matrices[f])
            assert_array_equal(out.status, whole.status[f])
            assert_array_equal(out.order, whole.order[f])


# Who plays whom


def test_methods_of_matching(rng):
    clip = crossing_in_sight(rng)
    assert clip.calibrate().match == [0, 2, 1]  # by place: who is last in the photo is last in the first frame
    assert clip.calibrate(match="left-to-right").match == [0, 2, 1]
    assert clip.calibrate(match=[(0, 1), (2, 0)]).match == [1, -1, 0]
    calibration = clip.calibrate(match={0: 1, 2: 0})
    assert any("nobody in the driving video plays person 1" in w for w in calibration.warnings)
    assert (calibration.status[:, 1] == "lost").all()
    assert (calibration.opacity[:, 1] == 0).all()
    columns = clip.calibrate(match="columns")
    assert_allclose(columns.keypoints, clip.keypoints, atol=1e-4)


def test_automatic_matching_takes_out_shift_and_zoom(rng):
    """The group stands to the left and far away in the video, in the photo's order; the sizes differ."""
    sizes = rng.permutation([0.2, 0.3, 0.45])
    ours = np.stack([s * FIGURE + (150 + 100 * p, 50) for p, s in enumerate(sizes)])
    order = rng.permutation(3)
    matcher = PeopleMatcher(ours, np.ones((3, 17)), (300, 500))
    places = matcher.step((ours * 0.4 + (5, 60))[order], np.ones((3, 17)), (300, 500), 0.0)
    assert_array_equal(order[places], range(3))


def test_one_reference_person_gets_the_largest(rng):
    figures = np.stack([s * FIGURE + (100 + 150 * p, 50) for p, s in enumerate((0.3, 0.5, 0.35))])
    matcher = PeopleMatcher(FIGURE[None] + 50, np.ones((1, 17)), (400, 300))
    for f in range(10):
        order = rng.permutation(3)
        places = matcher.step(figures[order] + f, np.ones((3, 17)), (300, 500), f / 30)
        assert order[places[0]] == 1


def test_offline_waits_for_everybody(rng):
    """In the first second only the right person is there, at the left: a stream must choose, a whole video need not."""
    clip = Clip(rng, [walk(40, 50, seen=hidden_between(0, 1)), walk(100, 110)], frames=60)
    assert clip.calibrate(smooth="none").match[0] == 1
    offline = clip.calibrate(smooth="offline")
    assert offline.match[1] == 1  # who comes later has the next free number, 0 or 2
    assert clip.errors(offline.matrices)[clip.visible].max() < 4
    assert (offline.status[clip.visible] == "tracked").all()


@pytest.mark.parametrize("smooth", ["none", "causal", "offline"])
@pytest.mark.parametrize("counts", [(1, 3), (3, 1), (2, 4), (4, 2)])
def test_counts_that_differ(rng, counts, smooth):
    """Every frame has a transform and a status for every person of the reference, on frame 0 too."""
    ours, theirs = counts
    clip, other = (Clip(rng, [walk(60 + 90 * p, 70 + 90 * p) for p in range(n)], frames=12) for n in counts)
    clip.keypoints, clip.scores, clip.video = other.keypoints, other.scores, other.video
    calibration = clip.calibrate(smooth=smooth)
    assert calibration.status.shape == (12, ours)
    assert np.isfinite(calibration.matrices).all()
    played = np.array(calibration.match) >= 0
    assert played.sum() == min(ours, theirs)
    assert (calibration.status[:, played] == "tracked").all()
    assert (calibration.status[:, ~played] == "lost").all()


def test_frames_with_any_number_of_persons(rng):
    """0 to 4 persons come and go at random: nothing is lost, nothing crashes."""
    with Calibrator(
        np.zeros((*PHOTO, 3), np.uint8),
        reference_keypoints=np.stack([SCALE * FIGURE + (60 + 90 * p, 20) for p in range(3)]),
        size=64,
    ) as calibrator:
        for f in range(60):
            count = 0 if f == 0 else int(rng.integers(0, 5))
            keypoints = rng.uniform(-50, 450, (count, 17, 2)).astype(np.float32)
            keypoints[rng.random((count, 17)) < 0.3] = np.nan
            scores = rng.random((count, 17)).astype(np.float32)
            masks = None if f % 3 == 0 and count else rng.integers(0, 2, (count, *SIZE), np.uint8) * 255
            out = calibrator.step(np.zeros((*SIZE, 3), np.uint8), detection=Detection(keypoints, scores, masks))
            assert out.matrix.shape == (3, 2, 3)
            assert np.isfinite(out.matrix).all()
            assert out.status.shape == (3,)
            assert out.pose_mask is None or out.pose_mask.shape == (3, 64, 64)


# Identity


def test_swapped_sides_are_the_same_person(rng):
    """Two persons side by side; the detector confuses left and right of either in every other frame."""
    tracker = IdentityTracker()
    persons = np.stack([0.4 * FIGURE + (100, 50), 0.4 * FIGURE + (150, 52)])
    for f in range(30):
        frame = np.stack([p[coco.MIRRORED] if rng.random() < 0.5 else p for p in persons]) + f
        ids = tracker.step(frame + rng.normal(size=frame.shape), np.ones((2, 17), bool), f / 30)
        assert_array_equal(ids, [0, 1])


def test_a_cut_keeps_the_layout():
    tracker = IdentityTracker()
    persons = np.stack([0.2 * FIGURE + (50, 50), 0.3 * FIGURE + (300, 50)])
    seen = np.ones((2, 17), bool)
    tracker.step(persons, seen, 0.0)
    assert_array_equal(tracker.step(persons[::-1] + (2000, 0), seen, 1 / 30), [1, 0])
    assert_array_equal(tracker.step(persons[::-1], seen, 2 / 30), [1, 0])


def test_crowds_are_forgotten():
    """Who is never seen again takes no memory for ever; who is followed is kept."""
    tracker = IdentityTracker()
    for f in range(40):
        there = np.stack([0.2 * FIGURE + (5000.0 * f, 0), 0.2 * FIGURE + (0.1 * f, 9000)])
        tracker.step(there, np.ones((2, 17), bool), float(f), keep=[0])
    assert len(tracker.numbers) < 15
    assert {0, 1} <= set(tracker.numbers)


def test_somebody_comes_to_one_who_was_alone(rng):
    """The first frames list one person, later ones two in any order; then one of them by a single keypoint."""
    figures = np.stack([0.4 * FIGURE + (100, 50), 0.5 * FIGURE + (300, 50)])
    matcher = PeopleMatcher(FIGURE[None], np.ones((1, 17)), (400, 500))
    for f in range(30):
        order = np.array([0]) if f < 10 else rng.permutation(2)
        scores = np.ones((len(order), 17))
        if f > 20:
            scores[order == 0, 1:] = 0
        places = matcher.step((figures + f)[order], scores, (400, 500), f / 30)
        assert order[places[0]] == 0


# Pictures


def test_depth_orders_by_feet_then_size():
    scores, sizes = np.ones((2, 17)), np.array([50.0, 50.0])
    low, high = FIGURE + (0, 30), FIGURE
    order = DepthOrder(2)
    assert_array_equal(order.step(np.stack([low, high]), scores, sizes), [1, 0])
    assert_array_equal(order.step(np.stack([high, high + (0, 1)]), scores, sizes), [1, 0])  # too close: as before
    assert_array_equal(order.step(np.stack([high, low]), scores, sizes), [0, 1])
    assert_array_equal(order.step(np.full((2, 17, 2), np.nan), scores * 0, sizes * np.nan), [0, 1])
    scores[:, coco.ANKLES] = 0
    assert_array_equal(order.step(np.stack([low, high]), scores, np.array([60.0, 40])), [1, 0])
    assert_array_equal(DepthOrder(2, (1, 0)).step(np.stack([high, low]), scores, sizes), [1, 0])


@pytest.mark.parametrize(
    ("feet", "lower", "larger", "changes"),
    [(True, 5, 1.0, False), (True, 10, 1.0, True), (False, 0, 1.06, False), (False, 0, 1.12, True)],
)
def test_two_change_places_by_a_margin(feet, lower, larger, changes):
    """The one behind must be lower by a tenth to a fifth of 50 pixels, or larger by a tenth; else all flickers."""
    order, scores = DepthOrder(2), np.ones((2, 17))
    scores[:, coco.ANKLES] = feet
    assert_array_equal(order.step(np.stack([FIGURE + (0, 30), FIGURE]), scores, np.array([60.0, 50])), [1, 0])
    people, sizes = np.stack([FIGURE, FIGURE + (0, lower)]), np.array([50.0, 50 * larger])
    assert_array_equal(order.step(people, scores, sizes), [0, 1] if changes else [1, 0])


def test_order_in_depth_waits_for_who_is_seen_in_part():
    """The lower of two, seen by the face for a while, or not at all, while the camera moves, stays in front."""
    order, people = DepthOrder(2), np.stack([FIGURE + (0, 30), FIGURE])
    scores, sizes = np.ones((2, 17)), np.array([50.0, 50.0])
    assert_array_equal(order.step(people, scores, sizes), [1, 0])
    face = np.where(np.isin(np.arange(17), coco.FACE), scores, [[0], [1]])
    assert_array_equal(order.step(people, face, np.array([20.0, 50])), [1, 0])
    away = np.array([[0], [1]]) * scores
    assert_array_equal(order.step(people + (0, 100), away, np.array([np.nan, 50])), [1, 0])
    back = people[::-1] + (0, 100)
    assert_array_equal(order.step(back, scores, sizes), [0, 1])


def test_composite_follows_the_order(rng):
    clip = crossing_in_sight(rng)
    calibration = clip.calibrate(depth=(2, 0, 1))
    assert (calibration.order == (2, 0, 1)).all()
    f = 45  # all three are in one place
    calibration.opacity[f, 0] = 0.5
    order = [2, 0, 1]
    masks = np.rint(clip.masks * calibration.opacity[f][:, None, None]).astype(np.uint8)
    expected = warp_composite(
        clip.image, masks[order], calibration.matrices[f][order][None], SIZE, antialias=True, background=(7, 8, 9)
    )
    found = calibration.render(f, background=(7, 8, 9))
    assert_array_equal(found.composite, expected.composite)
    assert_array_equal(found.mask[:, order], expected.mask)
    assert_array_equal(found.image, calibration.images[f][None])


def test_one_mask_is_split(rng):
    clip = crossing_in_sight(rng)
    together = clip.masks.max(0)
    assert_array_equal(split_mask(together, clip.reference, np.ones((3, 17), bool)), clip.masks)
    calibration = clip.calibrate(reference_mask=together)
    assert_array_equal(calibration.reference_mask, clip.masks)
    assert any("each pixel goes to the nearest" in w for w in calibration.warnings)


def split_plainly(mask, keypoints, usable):
    """`split_mask`, every pixel measured; and by how many pixels its person is nearer than the next."""
    y, x = np.nonzero(mask)
    pixels, distances = np.stack([x, y], -1).astype(np.float64), []
    for points, seen in zip(keypoints, usable, strict=True):
        nearest = np.full(len(pixels), np.inf)
        for a, b in [*(bone for bone in coco.BONES if seen[list(bone)].all()), *((k, k) for k in np.flatnonzero(seen))]:
            along = points[b] - points[a]
            share = np.clip((pixels - points[a]) @ along / max(along @ along, 1e-6), 0, 1)
            nearest = np.minimum(nearest, ((pixels - points[a] - share[:, None] * along) ** 2).sum(-1))
        distances.append(nearest)
    masks, leads = np.zeros((len(keypoints), *mask.shape), np.uint8), np.full(mask.shape, np.inf)
    masks[np.argmin(distances, 0), y, x] = mask[y, x]
    if len(keypoints) > 1:
        first, second = np.sqrt(np.partition(distances, 1, 0)[:2])
        leads[y, x] = second - first
    return masks, leads


@pytest.mark.parametrize("size", [(300, 417), (64, 64), (1, 5), (130, 7)])
@pytest.mark.parametrize("persons", [1, 2, 4])
def test_splitting_by_squares_is_splitting_by_pixels(rng, size, persons):
    keypoints = rng.uniform(-20, 400, (persons, 17, 2))
    usable = rng.random((persons, 17)) < 0.6
    usable[:, :2] = True
    mask = rng.integers(0, 256, size, dtype=np.uint8) * (rng.random(size) < 0.7).astype(np.uint8)
    masks, (expected, leads) = split_mask(mask, keypoints, usable), split_plainly(mask, keypoints, usable)
    decided = leads > 1e-3  # float32 rounds distances of up to 600 pixels by 1e-4
    assert decided.mean() > 0.5
    assert_array_equal(masks[:, decided], expected[:, decided])
    assert_array_equal(masks.sum(0), mask)  # one person has each pixel


def test_splitting_measures_few_pixels(rng, monkeypatch):
    """Of a photo of two persons side by side only those near the border: it took 128 s for 12 megapixels."""
    measured, nearest = [], given._nearest
    monkeypatch.setattr(
        given, "_nearest", lambda places, *rest: (measured.append(len(places)), nearest(places, *rest))[1]
    )
    keypoints = rng.uniform(0, 1, (2, 17, 2)) * (200, 600) + [[[100, 50]], [[600, 50]]]
    split_mask(np.full((700, 900), 255, np.uint8), keypoints, np.ones((2, 17), bool))
    assert 0 < sum(measured) < 0.1 * 700 * 900


def test_pose_masks_follow_the_persons(rng):
    clip = crossing_in_sight(rng)
    drawn = np.zeros((*clip.keypoints.shape[:2], *SIZE), np.uint8)
    for f, d in np.ndindex(drawn.shape[:2]):
        x, y = clip.keypoints[f, d, 0].astype(int)  # a spot on the nose
        drawn[f, d, y : y + 3, x : x + 3] = 255
    calibration = clip.calibrate(driving_masks=drawn)
    for f in (0, 30, 80):
        x, y = calibration.keypoints[f, :, 0].astype(int).T
        assert (calibration.pose_masks[f][np.arange(3), y + 1, x + 1] == 255).all()


# Files and the command line


@pytest.fixture
def files(rng, tmp_path):
    clip = leaving(rng)
    Image.fromarray(clip.image).save(tmp_path / "photo.png")
    Image.fromarray(clip.masks.max(0)).save(tmp_path / "mask.png")
    (tmp_path / "frames").mkdir()
    for f, frame in enumerate(clip.video):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{f:03d}.png")
    np.savez(tmp_path / "reference.npz", keypoints=clip.reference[None])
    np.savez(tmp_path / "driving.npz", keypoints=clip.keypoints, scores=clip.scores)
    return tmp_path, [
        str(tmp_path / "photo.png"), str(tmp_path / "frames"), "-q", "--size", f"{SIZE[0]}x{SIZE[1]}",
        "--reference-keypoints", str(tmp_path / "reference.npz"), "--reference-mask", str(tmp_path / "mask.png"),
        "--driving-keypoints", str(tmp_path / "driving.npz"),
    ]  # fmt: skip


@pytest.mark.slow
def test_command_line(files):
    folder, arguments = files
    more = ["--match", "0:1,1:0,2:2", "--depth", "2,1,0", "-o", str(folder / "out")]
    assert main(["calibrate", *arguments, *more]) == 0
    calibration = Calibration.load(folder / "out")
    assert calibration.match == [1, 0, 2]
    assert (calibration.order == (2, 1, 0)).all()
    assert calibration.options["match"] == [[0, 1], [1, 0], [2, 2]]
    for p in range(3):
        assert len(list((folder / "out" / f"{p}-person_cal_ref_img").iterdir())) == len(calibration)
    page = (folder / "out" / "report.html").read_text()
    for words in ("driving person 1", "person 2", "not seen, carried over"):
        assert words in page
    path = folder / "out" / "calibration.json"
    data = json.loads(path.read_text())
    data["frames"][3]["order"] = [0, 0, 1]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="order of frame 3 must name the 3 person"):
        Calibration.load(folder / "out")


def test_inspect_prints_and_writes_nothing(files, capsys):
    folder, arguments = files
    before = sorted(folder.rglob("*"))
    assert main(["inspect", *arguments]) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("person")] == ["person 0", "person 1", "person 2"]
    assert "played by:            driving person 2" in printed
    assert "54 tracked, 36 held" in printed
    assert sorted(folder.rglob("*")) == before
