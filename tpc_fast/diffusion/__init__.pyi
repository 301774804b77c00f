# Written by tests/stubs.py from _PUBLIC of __init__.py.
from tpc_fast.diffusion.adapter import KeyValueAdapter as KeyValueAdapter
from tpc_fast.diffusion.adapter import ReferenceAdapter as ReferenceAdapter
from tpc_fast.diffusion.attach import apply_calibration as apply_calibration
from tpc_fast.diffusion.attach import remove_calibration as remove_calibration
from tpc_fast.diffusion.composite import composite_background as composite_background
from tpc_fast.diffusion.composite import composite_reference as composite_reference
from tpc_fast.diffusion.encoder import ReferenceEncoder as ReferenceEncoder
from tpc_fast.diffusion.live.animator import LiveAnimator as LiveAnimator
from tpc_fast.diffusion.models.animate_anyone import AnimateAnyonePipeline as AnimateAnyonePipeline
from tpc_fast.diffusion.models.animate_anyone import ChampPipeline as ChampPipeline
from tpc_fast.diffusion.models.animate_anyone import MusePosePipeline as MusePosePipeline
from tpc_fast.diffusion.models.disco import DisCoPipeline as DisCoPipeline
from tpc_fast.diffusion.models.disco import DisCoPlainPipeline as DisCoPlainPipeline
from tpc_fast.diffusion.models.dreampose import DreamPosePipeline as DreamPosePipeline
from tpc_fast.diffusion.models.magic_animate import MagicAnimatePipeline as MagicAnimatePipeline
from tpc_fast.diffusion.models.registry import load_pipeline as load_pipeline
from tpc_fast.diffusion.models.wan_2_segments import apply_segment_references_2 as apply_segment_references_2
from tpc_fast.diffusion.models.wan_2_segments import remove_segment_references_2 as remove_segment_references_2
from tpc_fast.diffusion.models.wan_segments import apply_segment_references as apply_segment_references
from tpc_fast.diffusion.models.wan_segments import remove_segment_references as remove_segment_references
from tpc_fast.diffusion.models.wan_slots import SlotAdapter as SlotAdapter
from tpc_fast.diffusion.models.wan_slots import apply_slot_references as apply_slot_references
from tpc_fast.diffusion.models.wan_slots import remove_slot_references as remove_slot_references
from tpc_fast.diffusion.reference import CalibratedReference as CalibratedReference
from tpc_fast.diffusion.state import CalibrationState as CalibrationState
from tpc_fast.diffusion.windows import apply_windows as apply_windows
from tpc_fast.diffusion.windows import context_windows as context_windows
from tpc_fast.diffusion.windows import remove_windows as remove_windows

__all__ = [
    "AnimateAnyonePipeline",
    "CalibratedReference",
    "CalibrationState",
    "ChampPipeline",
    "DisCoPipeline",
    "DisCoPlainPipeline",
    "DreamPosePipeline",
    "KeyValueAdapter",
    "LiveAnimator",
    "MagicAnimatePipeline",
    "MusePosePipeline",
    "ReferenceAdapter",
    "ReferenceEncoder",
    "SlotAdapter",
    "apply_calibration",
    "apply_segment_references",
    "apply_segment_references_2",
    "apply_slot_references",
    "apply_windows",
    "composite_background",
    "composite_reference",
    "context_windows",
    "load_pipeline",
    "remove_calibration",
    "remove_segment_references",
    "remove_segment_references_2",
    "remove_slot_references",
    "remove_windows",
]
