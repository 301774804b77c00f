"""tpc_fast: fast Test-time Procrustes Calibration.

Brings the person of a reference photo onto the person of a driving video, frame by frame, for diffusion models that
animate people. `calibrate` does a whole video, `Calibrator` one frame at a time; `fit_similarity`, `search_subset` and
`warp_composite` are the operations beneath. `backends()` says what this installation can compute with.
"""

from tpc_fast import _moved
from tpc_fast._lazy import lazy
from tpc_fast._version import __version__  # noqa: F401

_PUBLIC = {
    "Similarity": "ops.procrustes",
    "Fit": "ops.procrustes",
    "SubsetFit": "ops.procrustes",
    "fit_similarity": "ops.procrustes",
    "search_subset": "ops.procrustes",
    "Track": "ops.track",
    "TrackEstimator": "ops.track_stream",
    "estimate_track": "ops.track",
    "Warped": "ops.warp",
    "WarpSource": "ops.warp",
    "warp_composite": "ops.warp",
    "CalibratedFrame": "calibration.stream",
    "Calibration": "calibration.result",
    "Calibrator": "calibration.stream",
    "calibrate": "calibration.video",
    "VideoReader": "media.video",
    "PropagationPlan": "ops.propagation",
    "propagate": "ops.propagation",
    "RegionPlan": "ops.attention",
    "reference_attention": "ops.attention",
    "Backend": "_dispatch",
    "backends": "_dispatch",
    "get_num_threads": "_native",
    "set_num_threads": "_native",
}

__getattr__, __dir__ = lazy(__name__, _PUBLIC, needs={"ops.attention": "torch"})

_moved.install()
