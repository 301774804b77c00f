"""Persons of a frame and known persons: which are visible, where, how far apart; the update of those matched.

All arrays are NumPy, coordinates in pixels; D persons of a frame, T known persons, K keypoints. These are called
several times a frame with a few dozen numbers: checks look at dtypes and shapes only. The twin is `csrc/people`.
"""

from typing import NamedTuple

import numpy as np

from tpc_fast import _checks, _dispatch, _native, naive

_FLOAT, _BOOL = np.dtype(np.float64), np.dtype(np.bool_)


class Prices(NamedTuple):
    """What `pair_costs` asks for, in its order; lengths in person sizes.

    Attributes:
        reach, reach_per_second: how far somebody can have come, and more for every second of absence.
        coast_seconds: the time constant in which somebody unseen slows down.
        no_overlap, size, gap: of no overlap, of a size e times as large, of a second of absence.
        impossible: of what cannot be.
    """

    reach: float
    reach_per_second: float
    coast_seconds: float
    no_overlap: float
    size: float
    gap: float
    impossible: float


def seen_points(points: np.ndarray, scores: np.ndarray, threshold: float, backend: str | None = None) -> np.ndarray:
    """Which keypoints count.

    Args:
        points: float64 [..., 2], NaN where missing; scores: float64 [...]; threshold: the least score that counts.
        backend: None, "cpu" or "naive".

    Returns:
        bool [...], whether a point is finite and its score at least `threshold`.

    Raises:
        TypeError, ValueError: for arrays of another dtype or shape.
        RuntimeError: for a backend that cannot be had.
    """
    _check("scores", scores, _FLOAT, scores.shape)
    _check("points", points, _FLOAT, (*scores.shape, 2))
    return _module(backend).seen_points(_plain(points), _plain(scores), threshold)


def person_bounds(points: np.ndarray, seen: np.ndarray, body: int, backend: str | None = None) -> np.ndarray:
    """Where persons are, and how large.

    Args:
        points: float64 [D, K, 2]; seen: bool [D, K]; body: the number of keypoints, the first, that tell the size.

    Returns:
        float64 [D, 5]: left, top, minus right, minus bottom, log of the size. Of two rows, the larger of each of the
        first four bounds their overlap; they are infinite where nothing is seen. The size is the square root of the
        area of the body's box, but at least a quarter of its longer side.

    Raises:
        As `seen_points`.
    """
    _check("seen", seen, _BOOL, seen.shape if getattr(seen, "ndim", 0) == 2 else (None, None))
    _check("points", points, _FLOAT, (*seen.shape, 2))
    if not 0 <= body <= seen.shape[1]:
        raise ValueError(f"body must be from 0 to {seen.shape[1]}, but is {body!r}")
    return _module(backend).person_bounds(_plain(points), _plain(seen), body)


def pair_costs(
    points, known, velocity, last, bounds, theirs, seen, their_bounds, time, mirrored, good, prices, backend=None
) -> tuple[np.ndarray, np.ndarray]:
    """The cost of taking each person of a frame for each known person.

    Args:
        points [T, K, 2], velocity [T, 2] (pixels per second), last [T] (when seen, seconds), bounds [T, 5]: float64, of
            who is known, as `follow` leaves them; known: bool [T, K].
        theirs [D, K, 2], their_bounds [D, 5]: float64, of the frame at `time`; seen: bool [D, K].
        mirrored: [K] the keypoints with left and right exchanged.
        good: of fewer keypoints the size does not count.
        prices: a `Prices`.

    Returns:
        float64 [T, D, 2], mean distances (pixels) of the keypoints that both have, sides as named and exchanged,
        infinite without any; and the cost, float64 [T, D].

    Raises:
        As `seen_points`.
    """
    _check_people(points, known, velocity, last, bounds, theirs, seen, their_bounds, mirrored)
    arrays = map(_plain, (points, known, velocity, last, bounds, theirs, seen, their_bounds))
    return _module(backend).pair_costs(*arrays, time, mirrored, good, prices)


def follow(
    points, known, velocity, last, bounds, theirs, seen, their_bounds, time, mirrored, good,
    tracks, found, exchanged, velocity_seconds, size_seconds, backend=None,
) -> None:  # fmt: skip
    """Updates the known persons, in place, with the persons of a frame that were matched to them.

    Args:
        points, known, velocity, last, bounds, theirs, seen, their_bounds, time, mirrored, good: as for `pair_costs`;
            the first five must be contiguous, since they are written.
        tracks, found: int [N], which known persons are which of the frame; exchanged: bool [N], whether left and right
            are exchanged between them.
        velocity_seconds, size_seconds: time constants.

    Raises:
        As `seen_points`; and ValueError for pairs that name nobody.
    """
    _check_people(points, known, velocity, last, bounds, theirs, seen, their_bounds, mirrored)
    names = "points", "known", "velocity", "last", "bounds"
    for name, array in zip(names, (points, known, velocity, last, bounds), strict=True):
        if not array.flags.carray:  # contiguous, aligned, writeable
            raise ValueError(f"{name} must be contiguous and writeable, since it is updated in place")
    for name, numbers, count in (("tracks", tracks, len(points)), ("found", found, len(theirs))):
        if len(numbers) != len(exchanged):
            raise ValueError(f"{name} must have {len(exchanged)} numbers, as exchanged has, but has {len(numbers)}")
        if any(not 0 <= number < count for number in numbers.tolist()):  # few: faster than arrays
            raise ValueError(f"{name} must be from 0 to {count - 1}, but is {numbers}")
    _module(backend).follow(
        points, known, velocity, last, bounds, *map(_plain, (theirs, seen, their_bounds)), time, mirrored, good,
        tracks, found, exchanged, velocity_seconds, size_seconds,
    )  # fmt: skip


def float32_threshold(threshold: float) -> float:
    """The lowest float64 score that passes a threshold, given that a float32 score may be the threshold rounded."""
    return min(threshold, float(np.float32(threshold)))


_NOTHING = np.zeros(0)


def _module(backend):
    backend = _dispatch.resolve(_NOTHING, backend)
    if backend == "triton":
        raise RuntimeError("backend 'triton' has no operations on persons: they are a few dozen numbers")
    return naive if backend == "naive" else _native.core()


def _check_people(points, known, velocity, last, bounds, theirs, seen, their_bounds, mirrored):
    _check("known", known, _BOOL, known.shape if getattr(known, "ndim", 0) == 2 else (None, None))
    people, keypoints = known.shape
    _check("points", points, _FLOAT, (people, keypoints, 2))
    _check("velocity", velocity, _FLOAT, (people, 2))
    _check("last", last, _FLOAT, (people,))
    _check("bounds", bounds, _FLOAT, (people, 5))
    _check("seen", seen, _BOOL, (len(seen), keypoints))
    _check("theirs", theirs, _FLOAT, (len(seen), keypoints, 2))
    _check("their_bounds", their_bounds, _FLOAT, (len(seen), 5))
    if len(mirrored) != keypoints:  # what it names is left to the core, which looks anyway
        raise ValueError(f"mirrored must name each of the {keypoints} keypoints, but is {mirrored}")


def _plain(array):
    """The array, or a copy if it is strided or not aligned, which the core does not read."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else array.copy(order="C")


def _check(name, array, dtype, shape):
    if isinstance(array, np.ndarray) and array.dtype == dtype and array.shape == shape:  # nearly always: 0.2 us
        return
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise TypeError(f"{name} must be a NumPy array of {dtype}, but is {_checks.describe(array)}")
    fits = array.ndim == len(shape)
    fits = fits and all(wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True))
    if not fits:
        words = ", ".join("any" if wanted is None else str(wanted) for wanted in shape)
        raise ValueError(f"{name} must be [{words}], but is {_checks.describe(array)}")
