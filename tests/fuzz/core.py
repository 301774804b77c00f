"""The compiled core against random calls: `python tests/fuzz/core.py [SECONDS] [SEED]`.

Sizes of zero and one and odd ones, views that are strided, reversed, unaligned or of the other byte order, numbers that
are huge, tiny, infinite or NaN, and several threads at once. Allowed are an answer, ValueError, TypeError and
MemoryError; anything else ends the run. What reads or writes where it must not is seen when the core is built with a
sanitizer: tests/sanitize.sh.
"""

import random
import sys
import threading
import time

import numpy as np

import tpc_fast
from tpc_fast import _native
from tpc_fast.media.png import encode_png
from tpc_fast.ops.people import person_bounds, seen_points
from tpc_fast.ops.resample import resample
from tpc_fast.ops.track import estimate_track
from tpc_fast.ops.track_stream import TrackEstimator
from tpc_fast.ops.transforms import MODELS, fit_linear_map

ENOUGH = 200  # calls of a kind, of which one must be answered
_MASK_WEIGHTS = 681  # of csrc/mask_head.h
ALLOWED = (ValueError, TypeError, MemoryError)
NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e-300, 1e9, -1e15, 2.0**31, 2.0**53, 1e30, 1e300, np.inf, -np.inf, np.nan]


class Draw:
    """Random arguments."""

    def __init__(self, seed: int):
        self.choice = random.Random(seed).choice
        self.numbers = np.random.default_rng(seed)

    def size(self, most: int = 40) -> int:
        return self.choice([0, 1, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, most])

    def view(self, array: np.ndarray) -> np.ndarray:
        """The same numbers, laid out in another way."""
        how = self.choice(["plain", "plain", "reversed", "strided", "unaligned", "swapped", "fortran"])
        if how == "reversed" and array.ndim:
            return np.ascontiguousarray(array[::-1])[::-1]
        if how == "strided" and array.ndim:
            wide = np.repeat(array, 2, axis=-1)
            return wide[..., ::2]
        if how == "unaligned":
            raw = np.zeros(array.nbytes + 1, np.uint8)
            other = raw[1:].view(array.dtype).reshape(array.shape) if array.nbytes else array
            if array.nbytes:
                other[...] = array
            return other
        if how == "swapped":
            return array.astype(array.dtype.newbyteorder())
        return np.asfortranarray(array) if how == "fortran" else array

    def kind(self) -> type:
        return self.choice([np.float32, np.float64])

    def floats(self, *shape: int, spread: float = 100.0, kind: type | None = None) -> np.ndarray:
        array = self.numbers.normal(0, spread, shape)
        for _ in range(self.choice([0, 0, 1, 3])):
            if array.size:
                array.flat[self.numbers.integers(array.size)] = self.choice(NUMBERS)
        return self.view(array.astype(kind or self.kind()))

    def pixels(self, *shape: int) -> np.ndarray:
        return self.view(self.numbers.integers(0, 256, shape, np.uint8))

    def matrices(self, *lead: int) -> np.ndarray:
        scale = self.choice([1e-9, 1e-3, 0.3, 1.0, 1.0, 3.0, 1e3, 1e9, 1e14])
        angle = self.numbers.uniform(-4, 4, lead)
        shift = self.floats(*lead, 2, spread=self.choice([1.0, 50.0, 50.0, 1e4, 1e12, 1e15]))
        rows = scale * np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(*lead, 2, 2)
        whole = np.concatenate([rows, shift.astype(np.float64)[..., None]], -1)
        if self.choice([False, False, False, True]):
            whole = self.floats(*lead, 2, 3, spread=scale)
        return self.view(whole)


def warp(draw: Draw) -> None:
    persons, height, width = draw.choice([1, 1, 2, 3]), draw.size(), draw.size()
    mask = draw.pixels(persons, height, width)
    out = (draw.size(), draw.size())
    background = draw.choice([None, None, (1, 2, 3), draw.pixels(*out, 3), draw.pixels(draw.size(), draw.size(), 3)])
    tpc_fast.warp_composite(
        draw.pixels(height, width, 3), mask, draw.matrices(draw.choice([0, 1, 2, 5]), persons), out,
        draw.choice(["nearest", "bilinear", "cubic"]), draw.choice([False, True]), background,
        draw.choice(["uint8", "float32", "float16"]),
    )  # fmt: skip


def fit(draw: Draw) -> None:
    lead, points = draw.size(), draw.size()
    weights = draw.choice([None, np.abs(draw.floats(lead, points))])
    dimensions = draw.choice([2, 2, 3])
    kind = draw.kind()
    src, dst = (draw.floats(lead, points, dimensions, kind=kind) for _ in range(2))
    if draw.choice([True, False]):
        tpc_fast.fit_similarity(src, dst, weights)
    else:
        fit_linear_map(src, dst, draw.choice(MODELS), weights)


def search(draw: Draw) -> None:
    lead, points = draw.choice([0, 1, 2, 5]), draw.choice([0, 1, 2, 3, 4, 7, 12, 17])
    kind = draw.kind()
    valid = draw.view(draw.numbers.random((lead, points)) < 0.8)
    tpc_fast.search_subset(
        *(draw.floats(lead, points, 2, kind=kind) for _ in range(2)), np.abs(draw.floats(lead, points)), valid,
        draw.choice([None, np.abs(draw.floats(lead, points))]), min_points=draw.choice([2, 4]),
    )  # fmt: skip


def track(draw: Draw) -> None:
    frames, persons = draw.choice([0, 1, 2, 3, 9, 30]), draw.choice([1, 1, 2])
    times = np.cumsum(np.abs(draw.floats(frames, spread=0.04)))
    estimate_track(draw.floats(persons, 17, 2), draw.floats(frames, persons, 17, 2), times)


def people(draw: Draw) -> None:
    count = draw.size()
    points, scores = draw.floats(count, 17, 2, kind=np.float64), np.abs(draw.floats(count, 17, kind=np.float64))
    seen = seen_points(points, scores, draw.choice([0.0, 0.3, 1.0]))
    person_bounds(points, seen, draw.choice([0, 5, 17]))


def picture(draw: Draw) -> None:
    channels = draw.choice([(3,), (3,), ()])
    encode_png(draw.pixels(draw.size(), draw.size(), *channels))


def crop(draw: Draw) -> None:
    image = draw.pixels(draw.size(), draw.size(), 3)
    size = (draw.size(), draw.size())
    resample(image, draw.matrices(), size, draw.choice(["repeat", "black"]), draw.choice([1, 2, 4]))


def floats(draw: Draw) -> None:
    """Floating pictures, and what training asks of them."""
    samples, channels = draw.choice([1, 2]), draw.choice([1, 3, 4])
    sides, size, taps = (draw.size(17), draw.size(17)), (draw.size(17), draw.size(17)), draw.choice([1, 2, 4])
    image = draw.view(draw.numbers.random((samples, channels, *sides)).astype(draw.kind()))
    inverse = np.ascontiguousarray(draw.matrices(samples, draw.choice([0, 1, 3])).astype(np.float64))
    image = np.ascontiguousarray(image.astype(image.dtype.newbyteorder("=")))
    share = np.abs(draw.numbers.normal(size=inverse.shape[:2]))
    seen = _native.core().sample_pictures(image, inverse, share, *size, taps)
    wanted = draw.numbers.normal(size=seen.shape).astype(seen.dtype)
    asked = draw.choice([True, False]), draw.choice([True, False])
    _native.core().sample_gradients(image, inverse, share, taps, wanted, *asked)


def many(draw: Draw) -> None:
    """Searches of more points than all subsets are looked at of."""
    points = draw.choice([21, 22, 26, 33])
    src = draw.numbers.normal(0, 50, (points, 2))
    dst = src * draw.choice([0.1, 1.0, 30.0]) + draw.numbers.normal(0, 1, (points, 2))
    for array in (src, dst):
        for _ in range(draw.choice([0, 1, 9])):
            array[draw.numbers.integers(points), draw.choice([0, 1])] = draw.choice(NUMBERS)
    tpc_fast.search_subset(draw.view(src), draw.view(dst), draw.choice([3.0, 1e-6, 1e9]))


def mask(draw: Draw) -> None:
    height, width = draw.size(17), draw.size(17)
    weights = draw.floats(_MASK_WEIGHTS + draw.choice([0, 0, 0, -1]), spread=1.0, kind=np.float32)
    features = draw.floats(height, width, 8, kind=np.float32)
    earlier = draw.floats(2 * height, 2 * width + draw.choice([0, 0, 0, 1]), 8, kind=np.float32)
    _native.core().mask_head(*(np.ascontiguousarray(a.astype(np.float32)) for a in (features, earlier, weights)))


def stream(draw: Draw) -> None:
    persons = draw.choice([1, 1, 2])
    estimator = TrackEstimator(draw.floats(persons, 17, 2), lag=draw.choice([0, 0, 1, 5]))
    time = 0.0
    for _ in range(draw.choice([0, 1, 7, 40])):
        time += abs(float(draw.numbers.normal(0, 0.04)))
        estimator.step(draw.floats(persons, 17, 2), np.abs(draw.floats(persons, 17, spread=0.5)), time)
    estimator.flush()


def panels(draw: Draw) -> None:
    """What a preview is made of."""
    core, persons = _native.core(), draw.choice([0, 1, 2])
    factor = draw.choice([1, 2, 3, 4, 5])
    height, width = (factor * draw.size(17) + draw.choice([0, 0, 0, 1]) for _ in range(2))
    channels = draw.choice([(3,), (3,), (), (2,)])
    pictures, masks = draw.pixels(persons, height, width, 3), draw.pixels(persons, height, width)
    core.mask_areas(masks, draw.pixels(persons, height, width + draw.choice([0, 0, 0, 0, 0, 0, 1])))
    ground = np.zeros((height, width + draw.choice([0, 0, 0, 1]), 3), np.uint8)
    last = max(persons + draw.choice([0, 0, 0, 1]), 1)
    order = draw.numbers.integers(draw.choice([0, 0, 0, -1]), last, draw.choice([0, 1, 3])).tolist()
    if draw.choice([True, False]):
        core.lay_over(np.ascontiguousarray(pictures), np.ascontiguousarray(masks), order, ground)
    else:
        core.shrink(draw.pixels(persons, height, width, *channels), factor)


CALLS = (warp, fit, search, track, people, picture, crop, floats, many, mask, stream, panels)


def tried(call, seed: int, counts: dict, answered: dict) -> None:
    try:
        with np.errstate(all="ignore"):
            call(Draw(seed))
        answered[call.__name__] = answered.get(call.__name__, 0) + 1
    except ALLOWED:
        pass
    except BaseException:
        print(f"{call.__name__}(Draw({seed})) raised:", file=sys.stderr)
        raise
    counts[call.__name__] = counts.get(call.__name__, 0) + 1


def run(seed: int, end: float, counts: dict, answered: dict) -> None:
    while time.monotonic() < end:
        done = sum(counts.values())
        tried(CALLS[done % len(CALLS)], seed + done, counts, answered)


def main(seconds: float = 20, seed: int | None = None, threads: int = 3) -> None:
    seed = random.SystemRandom().randrange(1 << 30) if seed is None else seed
    print(f"random seed {seed}", flush=True)
    end = time.monotonic() + seconds
    failures = []

    def one(number: int, counts: dict, answered: dict) -> None:
        try:
            run(seed + number * (1 << 31), end, counts, answered)
        except BaseException as error:
            failures.append(error)

    sums = [({}, {}) for _ in range(threads)]
    workers = [threading.Thread(target=one, args=(n, *sums[n])) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    for place, call in enumerate(CALLS):
        called, good = (sum(part[k].get(call.__name__, 0) for part in sums) for k in (0, 1))
        # Half of the calls are refused: where time was short, chance must not be what says that all are.
        for one in range(ENOUGH - called):
            if good:
                break
            counts, answered = {}, {}
            tried(call, seed + (threads + place) * (1 << 31) + one, counts, answered)
            called, good = called + len(counts), len(answered)
        print(f"{call.__name__}: {called} calls, {good} answered")
        if not good:
            raise RuntimeError(f"{call.__name__} never answered, so that nothing was tried")


if __name__ == "__main__":
    if not tpc_fast.backends()["cpu"].available:
        raise SystemExit("the compiled core is missing")
    main(*(kind(value) for kind, value in zip((float, int), sys.argv[1:], strict=False)))
