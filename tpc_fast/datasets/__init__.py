"""Training sets: a table of photos and videos in; transforms, masks and quality out, on one machine or a cluster."""

from tpc_fast._lazy import lazy

_PUBLIC = {
    "calibrate_row": "row",
    "CalibrateRow": "operators",
    "RenderRow": "operators",
    "AnimateRow": "animate",
    "calibration_of": "row",
    "CalibratedClips": "clips",
    "calibrate_table": "batch",
    "animate_table": "animate",
}

__getattr__, __dir__ = lazy(__name__, _PUBLIC, needs={"clips": "torch"})
