"""The operations on persons: each backend says the same, and wrong arguments are named."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tpc_fast import naive
from tpc_fast.ops import people
from tpc_fast.pose import keypoints as coco

PRICES = people.Prices(0.8, 1.5, 0.3, 0.5, 0.5, 0.3, 1e6)
BODY = 13


def known_and_frame(rng, known: int, seen: int):
    """Arguments of `pair_costs` up to the prices."""
    points, theirs = (rng.uniform(0, 300, (n, 17, 2)) for n in (known, seen))
    has, shown = (rng.random((n, 17)) < 0.8 for n in (known, seen))
    return [
        *(points, has, rng.normal(size=(known, 2)), rng.uniform(0, 1, known), naive.person_bounds(points, has, BODY)),
        *(theirs, shown, naive.person_bounds(theirs, shown, BODY), 1.5, coco.MIRRORED, 5),
    ]


@pytest.mark.native
@pytest.mark.parametrize(("known", "seen"), [(0, 0), (0, 2), (3, 0), (1, 1), (4, 3)])
def test_backends_agree(rng, known, seen):
    arguments = known_and_frame(rng, known, seen)
    for a, b in zip(
        people.pair_costs(*arguments, PRICES, backend="cpu"),
        people.pair_costs(*arguments, PRICES, backend="naive"),
        strict=True,
    ):
        assert_allclose(a, b, rtol=1e-12)
    assert_array_equal(
        people.pair_costs(*arguments, PRICES)[1], people.pair_costs(*arguments, PRICES, backend="cpu")[1]
    )
    theirs, shown = arguments[5:7]
    scores = rng.random(shown.shape)
    theirs[shown] = np.nan
    bounds, passed = (
        [f(*a, backend=b) for b in ("cpu", "naive")]
        for f, a in ((people.person_bounds, (arguments[0], arguments[1], BODY)),
                     (people.seen_points, (theirs, scores, 0.3)))
    )  # fmt: skip
    assert_allclose(*bounds, rtol=1e-12)
    assert_array_equal(*passed)


@pytest.mark.native
def test_follow_writes_in_place(rng):
    arguments = known_and_frame(rng, 4, 3)
    pairs = np.array([2, 0]), np.array([1, 2]), np.array([True, False])
    after = []
    for backend in ("cpu", "naive"):
        copies = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        assert people.follow(*copies, *pairs, 0.2, 0.3, backend=backend) is None
        after.append(copies[:5])
    for a, b, before in zip(*after, arguments[:5], strict=True):
        assert_allclose(a, b, rtol=1e-12)
        assert_array_equal(a[[1, 3]], before[[1, 3]])
    assert not np.array_equal(after[0][0][2], arguments[0][2])


@pytest.mark.parametrize(
    ("place", "wrong", "error", "said"),
    [
        (0, lambda a: a.astype(np.float32), TypeError, r"points must be a NumPy array of float64, but is .*float32"),
        (0, lambda a: a[:1], ValueError, r"points must be \[3, 17, 2\], but is .*\(1, 17, 2\)"),
        (1, lambda a: a.astype(int), TypeError, "known must be a NumPy array of bool"),
        (2, lambda a: a[:, 0], ValueError, r"velocity must be \[3, 2\]"),
        (3, lambda a: a[:2], ValueError, r"last must be \[3\]"),
        (4, lambda a: a[:, :4], ValueError, r"bounds must be \[3, 5\]"),
        (5, lambda a: a.tolist(), TypeError, "theirs must be a NumPy array of float64, but is list"),
        (6, lambda a: a[:, :5], ValueError, r"seen must be \[2, 17\]"),
        (7, lambda a: a[:1], ValueError, r"their_bounds must be \[2, 5\]"),
        (9, lambda a: a[:16], ValueError, "mirrored must name each of the 17 keypoints"),
    ],
)
def test_wrong_arguments_are_named(rng, place, wrong, error, said):
    arguments = known_and_frame(rng, 3, 2)
    arguments[place] = wrong(arguments[place])
    with pytest.raises(error, match=said):
        people.pair_costs(*arguments, PRICES)
    with pytest.raises(error, match=said):
        people.follow(*arguments, np.array([0]), np.array([0]), np.array([False]), 0.2, 0.3)


def test_what_follow_cannot_do(rng):
    arguments, one = known_and_frame(rng, 3, 2), np.array([0])
    for tracks, found, exchanged, said in (
        (np.array([3]), one, np.array([False]), "tracks must be from 0 to 2"),
        (one, np.array([-1]), np.array([False]), "found must be from 0 to 1"),
        (one, np.array([0, 1]), np.array([False]), "found must have 1 numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            people.follow(*arguments, tracks, found, exchanged, 0.2, 0.3)
    arguments[0] = np.asfortranarray(arguments[0])
    with pytest.raises(ValueError, match="points must be contiguous and writeable"):
        people.follow(*arguments, one, one, np.array([False]), 0.2, 0.3)


def test_other_wrong_arguments(rng):
    with pytest.raises(ValueError, match=r"points must be \[2, 17, 2\]"):
        people.seen_points(np.zeros((2, 16, 2)), np.zeros((2, 17)), 0.3)
    with pytest.raises(ValueError, match="body must be from 0 to 17, but is 18"):
        people.person_bounds(np.zeros((2, 17, 2)), np.zeros((2, 17), bool), 18)
    with pytest.raises(RuntimeError):
        people.seen_points(np.zeros((1, 2)), np.zeros(1), 0.3, backend="triton")


def test_a_rounded_score_passes():
    for threshold in (0.1, 0.3, 0.7, 1.0):
        assert float(np.float32(threshold)) >= people.float32_threshold(threshold)
        assert people.float32_threshold(threshold) <= threshold


@pytest.mark.native
@pytest.mark.parametrize("layout", ["strided", "unaligned"])
def test_any_layout_of_arrays(rng, layout):
    def other(array):
        if layout == "strided":
            return np.repeat(array, 2, -1)[..., ::2]
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        raw[...] = array
        assert not raw.flags.aligned
        return raw

    points, scores = rng.uniform(0, 300, (3, 17, 2)), rng.random((3, 17))
    seen = people.seen_points(points, scores, 0.3)
    assert_array_equal(people.seen_points(other(points), other(scores), 0.3), seen)
    assert_array_equal(
        people.person_bounds(other(points), np.repeat(seen, 2, -1)[..., ::2], BODY),
        people.person_bounds(points, seen, BODY),
    )
