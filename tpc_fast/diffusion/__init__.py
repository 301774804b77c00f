"""Calibrated references in the denoising loop of diffusers pipelines. Needs the extra `diffusion`."""

import importlib

_PUBLIC = {
    "CalibratedReference": "reference",
    "ReferenceEncoder": "encoder",
    "CalibrationState": "state",
    "ReferenceAdapter": "adapter",
    "KeyValueAdapter": "adapter",
    "apply_calibration": "attach",
    "remove_calibration": "attach",
    "MagicAnimatePipeline": "models.magic_animate",
    "AnimateAnyonePipeline": "models.animate_anyone",
    "ChampPipeline": "models.animate_anyone",
    "MusePosePipeline": "models.animate_anyone",
    "load_pipeline": "models.registry",
    "DreamPosePipeline": "models.dreampose",
    "DisCoPipeline": "models.disco",
    "context_windows": "windows",
    "apply_windows": "long_video",
    "remove_windows": "long_video",
    "composite_background": "composite",
    "composite_reference": "composite",
    "apply_segment_references": "models.wan_segments",
    "remove_segment_references": "models.wan_segments",
    "apply_slot_references": "models.wan_slots",
    "remove_slot_references": "models.wan_slots",
    "SlotAdapter": "models.wan_slots",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tpc_fast.diffusion' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tpc_fast.diffusion.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_PUBLIC})
