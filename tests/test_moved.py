"""Old names and paths work for one release: each gives what is there today, and warns, once."""

import importlib
import pickle
import re
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest

import tpc_fast
from tpc_fast import _moved

HEAVY = ("diffusion", "pose.segment", "pose.densepose")
#: A public name or two of each, as it was before the move.
KNOWN = {
    "procrustes": "Similarity fit_similarity search_rows",
    "transforms": "MODELS search_transform",
    "warp": "WarpSource warp_composite",
    "propagation": "PropagationPlan",
    "attention": "RegionPlan reference_attention",
    "video": "VideoReader VideoWriter load_image scale prefetch",
    "png": "write_png",
    "canvas": "Canvas",
    "people": "Options Reference",
    "calibrator": "Calibrator CalibratedFrame",
    "offline": "calibrate",
    "retarget": "retarget_keypoints",
    "summary": "summarise",
    "layout": "OutputFolder CALIBRATION_FILE Workers RenderedFrame render_into write_layout LayoutSink shrink_masks",
    "preview": "PreviewSink",
    "report": "write_report section css",
    "export": "export",
    "pose_video": "pose_pictures",
    "pose.tracking": "PersonTracker",
    "pose.detectors": "get_detector",
    "pose.formats": "load_keypoints",
    "pose.formats_out": "save_keypoints",
    "pose.storage": "Detections",
    "pose.matching": "IdentityTracker",
}


def python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_old_modules_are_the_new_ones():
    """In a process of their own, so that each import is the first."""
    light = [old for old in _moved.MODULES if not old.startswith(HEAVY) and old != "animate"]
    assert len(light) > 30
    said = python(
        f"""
        import importlib, sys, warnings
        from tpc_fast import _moved
        for old in {light!r}:
            names = {KNOWN!r}.get(old, "").split()
            parts = [importlib.import_module("tpc_fast." + part) for part in _moved.MODULES[old]]
            spec = parts[0].__spec__
            for expected in (1, 0):
                with warnings.catch_warnings(record=True) as seen:
                    warnings.simplefilter("always")
                    module = importlib.import_module("tpc_fast." + old)
                # the parents of pose.detectors.* are old, too
                seen = [w for w in seen if str(w.message).startswith("tpc_fast." + old + " is now ")]
                assert len(seen) == expected, (old, [str(w.message) for w in seen])
                assert all(w.category is DeprecationWarning for w in seen)
            assert module is parts[0] or type(module) is _moved.Cut, old
            assert parts[0].__spec__ is spec and spec.name == parts[0].__name__
            for name in names:
                homes = [part for part in parts if name in vars(part)]
                assert homes and getattr(module, name) is getattr(homes[0], name), (old, name)
            for name in (n for part in parts for n in vars(part) if not n.startswith("_")):
                assert hasattr(module, name), (old, name)
            assert not hasattr(module, "no_such_name")
        print("done")
        """
    )
    assert said == "done\n"


@pytest.mark.diffusion
@pytest.mark.slow
def test_old_modules_of_diffusion_are_the_new_ones():
    said = python(
        f"""
        import importlib, warnings
        from tpc_fast import _moved
        for old, parts in _moved.MODULES.items():
            if old.startswith({HEAVY!r}) or old == "animate":
                with warnings.catch_warnings(record=True) as seen:
                    warnings.simplefilter("always")
                    module = importlib.import_module("tpc_fast." + old)
                assert any("tpc_fast." + old + " is now" in str(w.message) for w in seen), old
                new = importlib.import_module("tpc_fast." + parts[0])
                assert module is new or type(module) is _moved.Cut, old
        print("done")
        """
    )
    assert said == "done\n"


def test_the_warning_points_at_who_imports():
    said = python(
        """
        import warnings
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            from tpc_fast.video import VideoReader
            from tpc_fast.calibration import Calibration
            from tpc_fast.pose.detectors.mediapipe import MediaPipeDetector
        print([w.filename for w in seen], *[w.message for w in seen], sep="\\n")
        """
    )
    files, *messages = said.splitlines()
    assert files == str(["<string>"] * 4)
    assert messages[0].startswith("tpc_fast.video is now tpc_fast.media.video and tpc_fast.media.images;")
    assert messages[1].startswith("tpc_fast.calibration.Calibration is now tpc_fast.calibration.result.Calibration;")
    assert messages[2].startswith("tpc_fast.pose.detectors is now tpc_fast.pose.detect.registry;")


def test_old_names_are_the_new_ones():
    said = python(
        """
        import importlib, warnings
        from tpc_fast import _moved
        for module, names in _moved.NAMES.items():
            if module.startswith("diffusion"):
                continue
            old = importlib.import_module(f"tpc_fast.{module}".rstrip("."))
            for name, place in names.items():
                for expected in (1, 0):
                    with warnings.catch_warnings(record=True) as seen:
                        warnings.simplefilter("always")
                        value = getattr(old, name)
                    assert [w.category for w in seen] == [DeprecationWarning] * expected, (name, seen)
                part, _, inner = f"tpc_fast.{place}".rpartition(".")
                assert value is getattr(importlib.import_module(part), inner)
        print("done")
        """
    )
    assert said == "done\n"


@pytest.mark.diffusion
def test_old_names_of_diffusion_models():
    from tpc_fast.diffusion.models import registry

    for name, place in _moved.NAMES["diffusion.models"].items():
        with pytest.warns(DeprecationWarning, match=f"tpc_fast.diffusion.models.{name} is now tpc_fast.{place}"):
            assert _moved.find_name("tpc_fast.diffusion.models", name) is getattr(registry, name)


def test_resize_was_fit():
    from tpc_fast.calibration.options import Options

    assert Options.checked(64).resize == Options.checked(64, resize=None, fit=None).resize == "pad"
    assert Options.checked(64, resize="stretch").resize == "stretch"
    for old in ({"fit": "squeeze"}, {"resize": "squeeze"}):
        with pytest.warns(DeprecationWarning, match="resize|stretch"):
            assert Options.checked(64, **old).resize == "stretch"
    with pytest.warns(DeprecationWarning, match="the option fit is now resize"):
        assert Options.checked(64, fit="pad").resize == "pad"


def test_all_stand_in_the_changelog():
    """With the release of which it says that they warn."""
    from pathlib import Path

    from tpc_fast import __version__

    root = Path(__file__).parents[1]
    first = (root / "CHANGELOG.md").read_text().split("\n## ")[1]
    version, date = first.split("\n")[0].split()
    assert version == __version__
    assert f'\nversion: {version}\ndate-released: "{date[1:-1]}"\n' in (root / "CITATION.cff").read_text()
    missing = [name for name in _moved.MODULES if f"`tpc_fast.{name}`" not in first]
    missing += [name for names in _moved.NAMES.values() for name in names if f"`{name}`" not in first]
    assert not missing


def test_unknown_names_stay_unknown():
    from tpc_fast import calibration, diffusion

    for package in (tpc_fast, calibration, diffusion):
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
            package.nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("tpc_fast.nothing")


def test_the_command_line_is_a_function_still(capsys):
    from tpc_fast.cli import main

    with pytest.warns(DeprecationWarning, match=r"the function tpc_fast\.cli\.main is now tpc_fast\.cli\.main\.main"):
        assert main(["backends"]) == 0
    assert "naive: available" in capsys.readouterr().out


def old_pickle(value, old: str, new: str) -> bytes:
    """The pickle of `value` by the release before, which had the class in module `old`."""
    data = pickle.dumps(value, protocol=0)
    assert f"c{new}\n".encode() in data
    return data.replace(f"c{new}\n".encode(), f"c{old}\n".encode())


def test_pickles_of_before_load():
    said = python(
        f"""
        import pickle, sys, warnings
        from tpc_fast.media.canvas import Canvas
        from tpc_fast import Similarity
        warnings.simplefilter("ignore")
        similarity = pickle.loads({similarity_of_before()!r})
        assert type(similarity) is Similarity and similarity.scale == 2
        assert type(pickle.loads({canvas_of_before()!r})) is Canvas
        print(type(pickle.loads({calibration_of_before()!r})).__module__)
        """
    )
    assert said == "tpc_fast.calibration.result\n"


def similarity_of_before() -> bytes:
    similarity = tpc_fast.Similarity(np.array(2.0), np.eye(2), np.zeros(2))
    return old_pickle(similarity, "tpc_fast.procrustes", "tpc_fast.ops.procrustes")


def canvas_of_before() -> bytes:
    from tpc_fast.media.canvas import Canvas

    return old_pickle(Canvas((2, 2), (2, 2), (0, 0, 2, 2)), "tpc_fast.canvas", "tpc_fast.media.canvas")


def calibration_of_before() -> bytes:
    calibration = tpc_fast.Calibration.__new__(tpc_fast.Calibration)
    return old_pickle(calibration, "tpc_fast.calibration", "tpc_fast.calibration.result")


def test_the_package_itself_uses_no_old_name():
    """Nor do its tests and benchmarks."""
    from imports import ROOT

    modules = "|".join(re.escape(old) for old in sorted(_moved.MODULES, key=len, reverse=True))
    old = re.compile(rf"(?:from|import) tpc_fast\.(?:{modules})(?= import| as |$)", re.MULTILINE)
    seen = 0
    for folder in ("tpc_fast", "kernels", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "test_moved.py":
                seen += 1
                assert not old.findall(path.read_text(encoding="utf-8")), path
    assert seen > 150


def test_no_warning_without_an_old_name():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in tpc_fast.__all__:
            getattr(tpc_fast, name)
