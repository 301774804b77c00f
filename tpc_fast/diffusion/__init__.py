"""Calibrated references in the denoising loop of diffusers pipelines. Needs the extra `diffusion`."""

import importlib

_PUBLIC = {
    "CalibratedReference": "reference",
    "ReferenceEncoder": "encoder",
    "CalibrationState": "hooks",
    "apply_calibration": "apply",
    "remove_calibration": "apply",
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
