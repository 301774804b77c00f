"""How far off keypoints are, in units of person size, for the sets that have a name."""

import numpy as np

from tpc_fast import _checks, _dispatch

_BODY = [0.026, *[0.025] * 2, *[0.035] * 2, *[0.079] * 2, *[0.072] * 2, *[0.062] * 2, *[0.107] * 2, *[0.087] * 2,
         *[0.089] * 2]  # fmt: skip
_FEET = [0.068, 0.066, 0.066, 0.092, 0.094, 0.094]
_FACE = [
    0.042, 0.043, 0.044, 0.043, 0.040, 0.035, 0.031, 0.025, 0.020, 0.023, 0.029, 0.032, 0.037, 0.038, 0.043, 0.041,
    0.045, 0.013, 0.012, 0.011, 0.011, 0.012, 0.012, 0.011, 0.011, 0.013, 0.015, 0.009, 0.007, 0.007, 0.007, 0.012,
    0.009, 0.008, 0.016, 0.010, 0.017, 0.011, 0.009, 0.011, 0.009, 0.007, 0.013, 0.008, 0.011, 0.012, 0.010, 0.034,
    0.008, 0.008, 0.009, 0.008, 0.008, 0.007, 0.010, 0.008, 0.009, 0.009, 0.009, 0.007, 0.007, 0.008, 0.011, 0.008,
    0.008, 0.008, 0.010, 0.008,
]  # fmt: skip
_HAND = [
    0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024, 0.022, 0.026, 0.017, 0.021, 0.021,
    0.032, 0.020, 0.019, 0.022, 0.031,
]  # fmt: skip

#: By the name of a set, in its order. "coco": COCO keypoint evaluation (cocoeval.py). "coco-wholebody": the evaluation
#: of COCO-WholeBody (myeval_wholebody.py). "halpe26": that of Halpe-FullBody (halpecocotools, cocoeval.py).
#: "mediapipe": BlazePose publishes none; COCO's where the points are COCO's, an eye's for its corners, the nose's for
#: the mouth, the wrist's for the fingers beside it, and Halpe's for heels and toes.
SIGMAS = {
    "coco": np.array(_BODY),
    "coco-wholebody": np.array(_BODY + _FEET + _FACE + 2 * _HAND),
    "halpe26": np.array([*_BODY, 0.026, 0.026, 0.066, *[0.079] * 6]),
    "mediapipe": np.array(
        [0.026, *[0.025] * 6, *[0.035] * 2, *[0.026] * 2, *_BODY[5:11], *[0.062] * 6, *_BODY[11:], *[0.079] * 4]
    ),
}
#: How many keypoints of a set, the first, are the upper body: those that tell a person's size.
UPPER = {"coco": 13, "coco-wholebody": 13, "halpe26": 13, "mediapipe": 25}


def sigmas_of(sigmas, points: int) -> tuple[np.ndarray, int]:
    """The sigmas [K] of a set by name, or as given, and how many of the keypoints tell a person's size.

    Raises:
        ValueError: for an unknown name, a set of another number of keypoints, and what is not K numbers above 0.
        TypeError: for a tensor that wants a gradient, or is not on the CPU.
    """
    if isinstance(sigmas, str):
        if sigmas not in SIGMAS:
            raise ValueError(f"sigmas must be one of {', '.join(SIGMAS)}, or K numbers, but is {sigmas!r}")
        if len(SIGMAS[sigmas]) != points:
            raise ValueError(f"sigmas {sigmas!r} are of {len(SIGMAS[sigmas])} keypoints, but src has {points}")
        return SIGMAS[sigmas], UPPER[sigmas]
    sigmas = _checks.to_numpy(sigmas, "sigmas") if _dispatch.is_torch(sigmas) else sigmas
    try:
        numbers = np.asarray(sigmas, np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (points,) or not ((numbers > 0) & np.isfinite(numbers)).all():
        raise ValueError(f"sigmas must be a name or {points} numbers > 0, one per keypoint, but is {sigmas!r}")
    return numbers, points
