"""Calibrated references in the denoising loop of diffusers pipelines. Needs the extra `diffusion`."""

from tpc_fast._lazy import lazy

_PUBLIC = {
    "CalibratedReference": "reference",
    "ReferenceEncoder": "encoder",
    "CalibrationState": "state",
    "ReferenceAdapter": "adapter",
    "KeyValueAdapter": "adapter",
    "apply_calibration": "attach",
    "remove_calibration": "attach",
    "LiveAnimator": "live.animator",
    "MagicAnimatePipeline": "models.magic_animate",
    "AnimateAnyonePipeline": "models.animate_anyone",
    "ChampPipeline": "models.animate_anyone",
    "MusePosePipeline": "models.animate_anyone",
    "load_pipeline": "models.registry",
    "DreamPosePipeline": "models.dreampose",
    "DisCoPipeline": "models.disco",
    "DisCoPlainPipeline": "models.disco",
    "context_windows": "windows",
    "apply_windows": "windows",
    "remove_windows": "windows",
    "composite_background": "composite",
    "composite_reference": "composite",
    "apply_segment_references": "models.wan_segments",
    "remove_segment_references": "models.wan_segments",
    "apply_segment_references_2": "models.wan_2_segments",
    "remove_segment_references_2": "models.wan_2_segments",
    "apply_slot_references": "models.wan_slots",
    "remove_slot_references": "models.wan_slots",
    "SlotAdapter": "models.wan_slots",
}

__getattr__, __dir__ = lazy(__name__, _PUBLIC, needs={"": "torch"})
