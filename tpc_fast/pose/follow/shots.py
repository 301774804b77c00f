"""Hard cuts of a video: where a new shot begins, so that each is estimated by itself.

A cut changes the picture and the keypoints at once, and is no motion: the frames before it are alike, and so are those
after it. A fast dancer moves keypoints and leaves the background; a flash or a change of exposure changes the picture
and leaves the keypoints.

The picture's part is `media.picture_difference`.
"""

import numpy as np

from tpc_fast import _checks
from tpc_fast.media.picture_difference import AROUND_SECONDS, PICTURE_LEAST, TIMES_SURE, stands_out
from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.detect.last_seen import STEP

# Person sizes by which keypoints jump beyond their motion, or log of scale: more than people do within a frame, and
# what no person does.
JUMP_LEAST, JUMP_SURE = STEP, 1.0


def keypoint_jumps(
    keypoints: np.ndarray, scores: np.ndarray, times: np.ndarray, score_threshold: float = coco.SCORE_THRESHOLD
) -> np.ndarray:
    """How far the keypoints of each frame are from where those of the frame before would have gone, [F].

    In person sizes (twice the spread of the keypoints that both show), median over the keypoints, plus the change of
    the log of that size; the motion is that of the step before, or none. The least of all persons who are seen in both:
    in a cut everybody jumps. NaN where nobody is, 0 in the first frame.

    Args:
        keypoints: [F, P, K, 2] pixels; scores: [F, P, K]; times: [F] seconds.
    """
    seen = _seen(keypoints, scores, score_threshold)
    return np.array([_jump(keypoints, seen, times, f) for f in range(len(keypoints))], np.float64)


def _seen(keypoints, scores, score_threshold) -> np.ndarray:
    return np.isfinite(keypoints).all(-1) & (scores >= score_threshold)


def _jump(keypoints, seen, times, f) -> float:
    """`keypoint_jumps` of one frame; seen: bool [F, P, K]."""
    if f == 0:
        return 0.0
    least = np.nan
    for p in range(seen.shape[1]):
        both = seen[f, p] & seen[f - 1, p]
        if both.sum() < 2:
            continue
        now, then = keypoints[f, p, both], keypoints[f - 1, p, both]
        sizes = [max(np.linalg.norm(points.std(0)), 1e-9) for points in (now, then)]
        moved = now - then
        velocity = np.zeros(2)
        if f > 1 and (seen[f - 2, p] & both).any() and times[f - 1] > times[f - 2]:
            common = seen[f - 2, p] & both
            velocity = np.median(keypoints[f - 1, p, common] - keypoints[f - 2, p, common], 0)
            velocity = velocity * (times[f] - times[f - 1]) / (times[f - 1] - times[f - 2])
        far = [np.median(np.linalg.norm(moved - v, axis=-1)) for v in (velocity, 0)]
        least = np.fmin(least, min(far) / (2 * np.sqrt(sizes[0] * sizes[1])) + abs(np.log(sizes[0] / sizes[1])))
    return float(least)


def find_cuts(
    keypoints: np.ndarray,
    scores: np.ndarray,
    times: np.ndarray,
    picture_differences: np.ndarray | None = None,
    score_threshold: float = coco.SCORE_THRESHOLD,
) -> list[int]:
    """The frames with which new shots begin (never frame 0).

    With pictures: where the picture differs as nowhere around, and either keypoints jump too, nobody is seen on one
    side, or the picture changes beyond doubt. Without: where keypoints jump beyond doubt, and do not come back in the
    frame after (a detector's mistake).

    Args:
        keypoints: [F, P, K, 2] or [F, K, 2] pixels, NaN where missing; scores: [F, P, K] or [F, K]; times: [F] seconds.
        picture_differences: [F] of `PictureDifference`, or None.
        score_threshold: keypoints with a lower score are missing.

    Raises:
        ValueError: shapes that do not fit.
    """
    points, given = np.asarray(keypoints, np.float64), np.asarray(scores, np.float64)
    if points.ndim not in (3, 4) or points.shape[-1] != 2 or given.shape != points.shape[:-1]:
        raise ValueError(
            f"keypoints must be [F, P, K, 2] and scores [F, P, K], but are {_checks.describe(keypoints)} and "
            f"{_checks.describe(scores)}"
        )
    times = np.asarray(times, np.float64)
    if times.shape != (len(points),):
        raise ValueError(f"times must be [{len(points)}], one per frame, but is {_checks.describe(times)}")
    if points.ndim == 3:
        points, given = points[:, None], given[:, None]
    if picture_differences is None:
        jumps = keypoint_jumps(points, given, times, score_threshold)
        return [
            f for f in range(1, len(points)) if jumps[f] >= JUMP_SURE and not _returns(points, given, times, f, jumps)
        ]
    picture = np.asarray(picture_differences, np.float64)
    if picture.shape != times.shape:
        raise ValueError(f"picture_differences must be [{len(times)}], but is {_checks.describe(picture_differences)}")
    cuts, seen = [], _seen(points, given, score_threshold)
    for f in (1 + np.flatnonzero(picture[1:] >= PICTURE_LEAST)).tolist():  # few: all keypoints would take 10 ms
        near = np.flatnonzero((abs(times - times[f]) <= AROUND_SECONDS) & (np.arange(len(times)) > 0))
        others = picture[near[near != f]]
        if not stands_out(picture[f], others):
            continue
        jump = _jump(points, seen, times, f)
        jumped = not np.isfinite(jump) or jump >= JUMP_LEAST
        if (jumped or stands_out(picture[f], others, TIMES_SURE)) and not (cuts and f - cuts[-1] < 2):
            cuts.append(f)
    return cuts


def _returns(points, scores, times, f, jumps) -> bool:
    """Whether the frame after a jump is where the frame before it was: one frame's mistake; or jumps on itself."""
    if f + 1 >= len(points):
        return False
    pair = [f - 1, f + 1]
    back = keypoint_jumps(points[pair], scores[pair], times[pair])[1]
    return bool(back < JUMP_SURE) or bool(jumps[f - 1] >= JUMP_SURE)


def main_person(people, score_threshold: float = coco.SCORE_THRESHOLD) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints [F, 17, 2] and scores [F, 17] of the largest person of each frame; zero scores where nobody is.

    Args:
        people: of each frame keypoints [D, 17, 2] and scores [D, 17], and whatever follows them.
        score_threshold: keypoints with a lower score are missing.
    """
    found, given = np.full((len(people), coco.COUNT, 2), np.nan), np.zeros((len(people), coco.COUNT))
    for f, (keypoints, scores, *_) in enumerate(people):
        if len(keypoints):
            seen = np.isfinite(keypoints).all(-1) & (scores >= score_threshold)
            sizes = [np.prod(np.ptp(k[s], axis=0)) if s.any() else 0.0 for k, s in zip(keypoints, seen, strict=True)]
            best = int(np.argmax(sizes))
            found[f], given[f] = keypoints[best], scores[best]
    return found, given
