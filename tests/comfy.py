"""The least of ComfyUI's V3 interface that the nodes use: schemas keep what they are given, bars what they are told."""

import sys
from types import ModuleType, SimpleNamespace


class _Value:
    def __init__(self, kind, name=None, optional=False, **more):
        self.kind, self.name, self.optional, self.more = kind, name, optional, more


def custom(kind: str):
    return SimpleNamespace(
        Input=lambda name, **more: _Value(kind, name, **more), Output=lambda display_name: _Value(kind, display_name)
    )


class ComfyNode:
    pass


class ComfyExtension:
    pass


class Interrupted(Exception):
    pass


def install(monkeypatch, output) -> SimpleNamespace:
    """Puts the stand-in into `sys.modules`; returns what the bar was told, and a flag to interrupt."""
    said = SimpleNamespace(updates=[], interrupt=False)
    kinds = {
        name: custom(name.upper()) for name in ("Image", "Mask", "Video", "Int", "Float", "Boolean", "String", "Combo")
    }
    api = SimpleNamespace(
        ComfyNode=ComfyNode, Custom=custom, Schema=SimpleNamespace, NodeOutput=lambda *values: values, **kinds
    )

    class ProgressBar:
        def __init__(self, total):
            pass

        def update_absolute(self, value, total=None):
            said.updates.append((value, total))

    def throw():
        if said.interrupt:
            raise Interrupted

    for name, contents in {
        "comfy_api": {}, "comfy_api.v0_0_2": {"io": api, "ComfyExtension": ComfyExtension},
        "comfy": {}, "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy.model_management": {"throw_exception_if_processing_interrupted": throw},
        "folder_paths": {
            f"get_{kind}_directory": lambda kind=kind: str(output / kind) for kind in ("output", "input", "temp")
        },
    }.items():  # fmt: skip
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "tpc_fast.comfyui.nodes", raising=False)
    return said
