"""Calibrated references in the denoising loop of diffusers pipelines. Needs the extra `diffusion`."""

import importlib

_PUBLIC = {
    "CalibratedReference": "reference",
    "ReferenceEncoder": "encoder",
    "CalibrationState": "hooks",
    "ReferenceAdapter": "adapter",
    "KeyValueAdapter": "adapter",
    "apply_calibration": "apply",
    "remove_calibration": "apply",
    "MagicAnimatePipeline": "magic_animate",
    "AnimateAnyonePipeline": "animate_anyone",
    "ChampPipeline": "animate_anyone",
    "MusePosePipeline": "animate_anyone",
    "load_pipeline": "models",
    "DreamPosePipeline": "dreampose",
    "DisCoPipeline": "disco",
    "context_windows": "windows",
    "apply_windows": "long_video",
    "remove_windows": "long_video",
    "composite_background": "composite",
    "composite_reference": "composite",
    "apply_segment_references": "wan",
    "remove_segment_references": "wan",
    "apply_slot_references": "slots",
    "remove_slot_references": "slots",
    "SlotAdapter": "slots",
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
