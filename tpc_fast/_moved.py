"""Where names went that were moved: the old places work for one release, and warn.

A module's old path is an alias of the new module; of a module that was cut, something that looks in all its parts.
To be removed with the release after 0.2.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings

#: Old module -> the new one, or several if it was cut; below `tpc_fast`.
MODULES: dict[str, tuple[str, ...]] = {
    "procrustes": ("ops.procrustes",),
    "transforms": ("ops.transforms",),
    "warp": ("ops.warp",),
    "propagation": ("ops.propagation",),
    "attention": ("ops.attention",),
    "video": ("media.video", "media.images"),
    "png": ("media.png",),
    "canvas": ("media.canvas",),
    "people": ("calibration.options", "calibration.reference", "calibration.session", "calibration.fade"),
    "calibrator": ("calibration.stream",),
    "offline": ("calibration.video",),
    "retarget": ("calibration.retarget",),
    "summary": ("calibration.summary",),
    "animate": ("cli.animate",),
    "layout": ("output.layout", "output.render", "media.files", "media.images"),
    "preview": ("output.preview",),
    "report": ("output.report", "output.html"),
    "export": ("output.export",),
    "pose_video": ("output.pose_video",),
    "pose.operations": ("ops.people",),
    "pose.tracking": ("pose.detect.one_person",),
    "pose.group": ("pose.detect.several_people",),
    "pose.whole": ("pose.detect.whole_picture",),
    "pose.canonical": ("pose.detect.canonical",),
    "pose.detection": ("pose.detect.detection",),
    "pose.detectors": ("pose.detect.registry",),
    "pose.detectors.mediapipe": ("pose.detect.mediapipe",),
    "pose.detectors.rtmlib": ("pose.detect.rtmlib",),
    "pose.detectors.mmpose": ("pose.detect.mmpose",),
    "pose.formats": ("pose.files.read",),
    "pose.formats_out": ("pose.files.write",),
    "pose.storage": ("pose.files.detections",),
    "pose.given": ("pose.files.given",),
    "pose.matching": ("pose.follow.matching",),
    "pose.depth": ("pose.follow.depth",),
    "pose.segment": ("pose.masks.sam",),
    "pose.densepose": ("pose.masks.densepose",),
    "diffusion.magic_animate": ("diffusion.models.magic_animate",),
    "diffusion.animate_anyone": ("diffusion.models.animate_anyone",),
    "diffusion.dreampose": ("diffusion.models.dreampose",),
    "diffusion.disco": ("diffusion.models.disco",),
    "diffusion.image_model": ("diffusion.models.image_model",),
    "diffusion.norms": ("diffusion.models.norms",),
    "diffusion.guides": ("diffusion.models.pose_encoders",),
    "diffusion.clip": ("diffusion.models.clip",),
    "diffusion.halves": ("diffusion.models.shared_half",),
    "diffusion.tiny": ("diffusion.models.tiny",),
    "diffusion.wan_run": ("diffusion.models.wan",),
    "diffusion.wan": ("diffusion.models.wan_segments",),
    "diffusion.slots": ("diffusion.models.wan_slots",),
    "diffusion.hooks": ("diffusion.state", "diffusion.attach"),
    "diffusion.apply": ("diffusion.attach",),
    "diffusion.processor": ("diffusion.attach",),
    "diffusion.long_video": ("diffusion.windows",),
}


def _all_from(module: str, *names: str) -> dict[str, str]:
    return {name: f"{module}.{name}" for name in names}


#: Module or package -> the names that it has no more, and where they are; below `tpc_fast`.
NAMES: dict[str, dict[str, str]] = {
    "": _all_from("ops.transforms", "TransformFit", "TransformSubset", "search_transform")
    | {"fit_transform": "ops.transforms.fit_linear_map"}
    | _all_from("calibration.retarget", "retarget_keypoints"),
    "ops.transforms": {"fit_transform": "ops.transforms.fit_linear_map"},
    "calibration": _all_from("calibration.result", "Calibration", "Frames", "faded")
    | _all_from("media.images", "mask_iou")
    | _all_from("calibration.record", "STATUSES", "FORMAT_VERSION", "REFERENCE_FILE", "MASKS_FILE"),
    "diffusion.models": _all_from(
        "diffusion.models.registry",
        *("TINY_RANDOM", "is_tiny", "recognise", "pipeline_class", "load_pipeline"),
    ),
    "evaluation.clips": _all_from(
        "evaluation.synthetic",
        *("SYNTHETIC", "TURN_FRAMES", "STAND_IN", "turning", "observe_synthetic"),
        *("Misalignment", "grid", "misaligned"),
    ),
}


def warn(old: str, new: str, stacklevel: int) -> None:
    """Says that a name of the package is old."""
    warnings.warn(f"{old} is now {new}; the old name goes with the next release", DeprecationWarning, stacklevel + 1)


def find_name(module: str, name: str):
    """What a module's or package's attribute of the past is today; warns once.

    Raises:
        AttributeError: if it never had one of this name.
    """
    place = NAMES.get(module.removeprefix("tpc_fast").removeprefix("."), {}).get(name)
    if place is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warn(f"{module}.{name}", f"tpc_fast.{place}", 3)
    part, _, inner = place.rpartition(".")
    value = getattr(importlib.import_module(f"tpc_fast.{part}"), inner)
    setattr(sys.modules[module], name, value)
    return value


class Cut(types.ModuleType):
    """The old path of a module that was cut: has the names of all its parts."""

    def __init__(self, name: str, parts: tuple[str, ...]):
        super().__init__(name, "Moved: " + ", ".join(parts))
        self.__path__ = []  # some were packages
        self._parts = parts

    def __getattr__(self, name):
        if not name.startswith("__"):
            for part in self._parts:
                module = importlib.import_module(part)
                if name in vars(module):
                    return vars(module)[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __dir__(self):
        return sorted({name for part in self._parts for name in dir(importlib.import_module(part))})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules by their old paths; stands last in `sys.meta_path`, so that nothing else gets slower."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, old = fullname.partition(".")
        return importlib.machinery.ModuleSpec(fullname, self) if package == "tpc_fast" and old in MODULES else None

    def create_module(self, spec):
        parts = tuple(f"tpc_fast.{part}" for part in MODULES[spec.name.partition(".")[2]])
        warn(spec.name, " and ".join(parts), 2)
        if len(parts) > 1 or _had_modules(spec.name):
            return Cut(spec.name, parts)
        module = importlib.import_module(parts[0])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module):
        if not isinstance(module, Cut):  # the import system has given it the spec of its old name
            module.__spec__ = module.__spec__.loader_state


def _had_modules(name: str) -> bool:
    old = name.partition(".")[2] + "."
    return any(other.startswith(old) for other in MODULES)


def install() -> None:
    """Makes old paths work; does nothing the second time."""
    if not any(type(finder).__name__ == "Finder" and type(finder).__module__ == __name__ for finder in sys.meta_path):
        sys.meta_path.append(Finder())


class _Callable(types.ModuleType):
    def __call__(self, *arguments):
        warn(f"the function {self.__name__}", f"{self.__name__}.main", 2)
        return self.main(*arguments)


def also_a_function(name: str) -> None:
    """Lets a module whose name a function had be called as that function, which is now its `main`."""
    sys.modules[name].__class__ = _Callable
