# Written by tests/stubs.py from _PUBLIC of __init__.py.
from tpc_fast._dispatch import Backend as Backend
from tpc_fast._dispatch import backends as backends
from tpc_fast._native import get_num_threads as get_num_threads
from tpc_fast._native import set_num_threads as set_num_threads
from tpc_fast._version import __version__ as __version__
from tpc_fast.calibration.result import Calibration as Calibration
from tpc_fast.calibration.stream import CalibratedFrame as CalibratedFrame
from tpc_fast.calibration.stream import Calibrator as Calibrator
from tpc_fast.calibration.video import calibrate as calibrate
from tpc_fast.media.video import VideoReader as VideoReader
from tpc_fast.ops.attention import RegionPlan as RegionPlan
from tpc_fast.ops.attention import reference_attention as reference_attention
from tpc_fast.ops.procrustes import Fit as Fit
from tpc_fast.ops.procrustes import Similarity as Similarity
from tpc_fast.ops.procrustes import SubsetFit as SubsetFit
from tpc_fast.ops.procrustes import fit_similarity as fit_similarity
from tpc_fast.ops.procrustes import search_subset as search_subset
from tpc_fast.ops.propagation import PropagationPlan as PropagationPlan
from tpc_fast.ops.propagation import propagate as propagate
from tpc_fast.ops.track import Track as Track
from tpc_fast.ops.track import estimate_track as estimate_track
from tpc_fast.ops.track_stream import TrackEstimator as TrackEstimator
from tpc_fast.ops.warp import WarpSource as WarpSource
from tpc_fast.ops.warp import Warped as Warped
from tpc_fast.ops.warp import warp_composite as warp_composite

__all__ = [
    "Backend",
    "CalibratedFrame",
    "Calibration",
    "Calibrator",
    "Fit",
    "PropagationPlan",
    "RegionPlan",
    "Similarity",
    "SubsetFit",
    "Track",
    "TrackEstimator",
    "VideoReader",
    "WarpSource",
    "Warped",
    "__version__",
    "backends",
    "calibrate",
    "estimate_track",
    "fit_similarity",
    "get_num_threads",
    "propagate",
    "reference_attention",
    "search_subset",
    "set_num_threads",
    "warp_composite",
]
