"""Where what is done with a few dozen keypoints is computed."""

import numpy as np

from tpc_fast import _dispatch, _native, naive


def operations():
    """The module that has `seen_points`, `pair_costs`, `fit_rungs` and the like.

    It is the compiled core, which takes float64 and bool arrays only, or without it `naive`.
    """
    return naive if _dispatch.resolve(np.zeros(0), None) == "naive" else _native.core()


def lowest(threshold: float) -> float:
    """The lowest float64 score that passes a threshold, given that a float32 score may be the threshold rounded."""
    return min(threshold, float(np.float32(threshold)))
