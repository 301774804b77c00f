"""One person followed through a video in several places at once, as if frame after frame.

Each frame is looked at where the frame before showed the person, so frames come one after another, and two threads
share the network's work. With more cores, chunks of the video are looked at beside each other, on one thread each. A
lane begins some frames before its chunk, with what was known long before. If whoever comes out of the chunk before sees
the same person in the same place, the chunk counts. Else he goes on into it until both agree, and it counts from there.
Where that never happens, nothing of it counts.
"""

import collections
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from tpc_fast._native import work_alone
from tpc_fast.media.picture_difference import AROUND_FRAMES
from tpc_fast.pose.detect.detection import Detection, Detector
from tpc_fast.pose.detect.one_person import PersonTracker

# Frames of a chunk (a choice): those that a lane sees before it are a sixteenth; more would wait in more memory.
CHUNK = 48
# Frames that a lane sees before its chunk. Of 190 chunks of 22 public clips 107 agreed after three, 27 after four.
WARM_UP = 3
LEAST = 4 * WARM_UP  # frames of a chunk that are worth a lane (a choice)
MEMORY = 400 << 20  # bytes of frames and masks that wait: four short lanes of 1080p, whose job takes as much by itself
# Two take 9 % less time than two threads of one network (`calibrate` of the sample, two cores): too little for the
# memory that waits, and for what they take longer while nobody is in sight.
LEAST_LANES = 3
MAX_LANES = 8  # each holds a network, 30 MB; and Python's share of a frame, a tenth, is done by one of them at a time
_MOST_REST = 16  # chunks that are looked at frame after frame, after others were looked at in vain (a choice)


def plan(threads: int, frame_bytes: int, frames: int | None) -> tuple[int, int]:
    """How many lanes are worth having, and how many frames a chunk of theirs has.

    Args:
        threads: that may be used.
        frame_bytes: of the picture of one frame, RGB; its mask comes on top.
        frames: that follow; None: unknown.

    Returns:
        (1, any) where there is nothing to share out.
    """
    most = MEMORY // max(frame_bytes * 4 // 3, 1)
    lanes = min(threads, MAX_LANES, most // LEAST)
    if frames is not None:
        lanes = min(lanes, frames // LEAST)
    if lanes < LEAST_LANES:
        return 1, CHUNK
    chunk = min(CHUNK, most // lanes)
    if frames is None:
        return lanes, chunk
    rounds = -(-frames // (lanes * chunk))
    return lanes, -(-frames // (lanes * rounds))  # all lanes end at the same time


class _Chunk:
    """Frames of a lane, and what its thread has seen in them so far."""

    def __init__(self):
        self.frames, self.looks = [], queue.SimpleQueue()
        self.exact = False  # whether it began with what the frame before left
        self.begun = False  # whether a lane looks at it

    def run(self, tracker: PersonTracker, before: list, inbox: queue.SimpleQueue, stop: threading.Event) -> None:
        """Looks at the frames before the chunk, then at those of `inbox` until there is None, or nobody is seen.

        A search takes several looks in every frame. One tracker does it, not all.
        """
        try:
            for frame in before:
                tracker.step(frame.image)
            self.looks.put(tracker.place)
            seen = tracker.followed or not before
            while seen and (frame := inbox.get()) is not None and not stop.is_set():
                detection = tracker.step(frame.image)
                seen = tracker.followed
                self.looks.put((detection, tracker.place))
            self.looks.put(tracker)
        except BaseException as error:
            self.looks.put(error)

    def take(self):
        """The place before the first frame, (detection, place) of each, then the tracker after the last that was seen.

        Raises what the thread raised.
        """
        look = self.looks.get()
        if isinstance(look, BaseException):
            raise look
        return look


def steps(
    tracker: PersonTracker, frames: Iterable, lanes: int, copies: Callable[[int], Detector], chunk: int = CHUNK
) -> Iterator[tuple[object, Detection]]:
    """`(frame, tracker.step(frame.image))` for every frame, several at once.

    Args:
        tracker: as the frames before left it; it is where the last frame leaves it when all are done.
        frames: with an `image`, uint8 [H, W, 3]. Up to `lanes * chunk` of them are read ahead.
        lanes: how many frames are looked at at once, 2 or more.
        copies: the detector of a lane, given its number, made when it is first asked for; it computes on one thread.
        chunk: frames that a lane looks at in a row.

    Detections differ from those of `tracker.step` by what a network's answer jumps with the pixels of its crop, since
    crops agree to `SAME_PLACE` where a chunk begins to count.
    """
    source, stop = iter(frames), threading.Event()
    chunks: collections.deque[_Chunk] = collections.deque()
    before: collections.deque = collections.deque(maxlen=WARM_UP + AROUND_FRAMES + 1)  # frames before the next chunk
    # Of each lane. No pool: those take no work once the main thread has ended, though others of the user's go on.
    working: dict[int, threading.Thread] = {}
    number = rest = failures = 0

    def begin(look: bool) -> None:
        """Reads the next chunk; a lane looks at it meanwhile, beginning with what `tracker` knows now."""
        nonlocal number
        new, inbox = _Chunk(), queue.SimpleQueue()
        try:
            for frame in islice(source, chunk):
                if look and not new.frames:
                    new.exact, new.begun = not chunks, True
                    away, known = sum(len(one.frames) for one in chunks), list(before)
                    warm_up = known[len(known) - min(WARM_UP, away) :]
                    earlier = [one.image for one in known[: len(known) - len(warm_up)]]
                    ahead = tracker.ahead(away - len(warm_up), earlier)
                    lane = number % lanes
                    if lane in working:
                        working[lane].join()  # its chunk is done
                    what = (new, ahead, lane, copies, warm_up, inbox, stop)
                    working[lane] = threading.Thread(target=_start, args=what, name=f"tpc_fast.lane_{lane}")
                    working[lane].start()
                new.frames.append(frame)
                inbox.put(frame)
        finally:
            inbox.put(None)
        before.extend(new.frames)
        number += 1
        if new.frames:
            chunks.append(new)

    try:
        for _ in range(lanes):
            begin(look=True)
        while chunks:
            now = chunks[0]
            agreed = yield from _resolved(tracker, now)
            chunks.popleft()
            if now.begun and not now.exact:
                failures = 0 if agreed else failures + 1
                rest = 0 if agreed else min(2**failures, _MOST_REST)
            begin(look=rest == 0)
            rest = max(rest - 1, 0)
    finally:
        stop.set()
        for thread in working.values():
            if thread.ident is not None:  # else it could not be started
                thread.join()


def _start(chunk: _Chunk, tracker: PersonTracker, lane, copies, warm_up, inbox, stop) -> None:
    """In a lane's thread: its detector is made when it is first needed, beside those of the others."""
    try:
        work_alone()
        tracker.detector = copies(lane)
    except BaseException as error:
        chunk.looks.put(error)
        return
    chunk.run(tracker, warm_up, inbox, stop)


def _resolved(tracker: PersonTracker, chunk: _Chunk):
    """All frames of a chunk with what counts; returns whether the lane's looks came to count. Moves the tracker on."""
    looking = chunk.begun
    counts = counted = looking and (tracker.agrees(chunk.take()) or chunk.exact)
    for frame in chunk.frames:
        look = chunk.take() if looking else None
        if isinstance(look, PersonTracker):  # the lane saw nobody any more
            if counts:
                tracker.take(look)
            looking = counts = False
        if counts:
            detection, _ = look
        else:
            detection = tracker.step(frame.image)
            counts = looking and tracker.agrees(look[1])
            counted = counted or counts
        yield frame, detection
    if looking:
        after = chunk.take()
        if counts:
            tracker.take(after)
    return counted
