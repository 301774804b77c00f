"""What editors, type checkers and `help` see of packages whose names are imported late."""

import importlib
import importlib.util
import json
import subprocess
import sys

import pytest
import stubs
from test_package import python

import tpc_fast


@pytest.mark.parametrize("package", stubs.PACKAGES)
def test_stubs_are_up_to_date(package):
    path = stubs.path_of(package)
    assert path.read_text() == stubs.stub_of(package), "python tests/stubs.py writes it anew"
    assert (stubs.ROOT / "tpc_fast" / "py.typed").exists()


@pytest.mark.parametrize(
    "without",
    [
        pytest.param((), marks=pytest.mark.slow),
        ("torch", "triton", "diffusers", "ai_edge_litert", "skimage", "mediapipe"),
    ],
)
def test_everything_listed_can_be_had(without):
    """`import *`, `dir`, `inspect.getmembers` and `pydoc`, with the optional packages and without."""
    packages = [*stubs.PACKAGES]
    if not without and importlib.util.find_spec("diffusers") is None:
        packages.remove("diffusion")
    names = [".".join(filter(None, ("tpc_fast", package))) for package in packages]
    result = python(
        f"""
        import importlib, json, sys
        sys.modules.update(dict.fromkeys({without!r}))
        import inspect, pydoc
        listed = {{}}
        for name in {names!r}:
            package = importlib.import_module(name)
            before = set(package.__all__)
            names = {{}}
            exec(f"from {{name}} import *", names)
            assert before == set(package.__all__) == names.keys() - {{"__builtins__"}}, before ^ names.keys()
            members = dict(inspect.getmembers(package))
            assert before <= members.keys() and before <= set(dir(package))
            text = pydoc.render_doc(package, renderer=pydoc.plaintext)
            assert all(name in text for name in before - {{"__version__"}})
            listed[name] = sorted(before)
        print(json.dumps(listed))
        """
    )
    assert result.returncode == 0, result.stderr
    listed = json.loads(result.stdout)
    everything = {name: set(importlib.import_module(name)._PUBLIC) for name in names}
    left_out = {package: everything[name] - set(listed[name]) for package, name in zip(packages, names, strict=True)}
    if without:
        missing = {"RegionPlan", "reference_attention"}
        assert left_out == {"": missing, "pose": set(), "diffusion": everything["tpc_fast.diffusion"]}
    elif importlib.util.find_spec("torch") is not None:
        assert not any(left_out.values()), left_out


def test_a_name_that_needs_torch_says_so():
    result = python(
        """
        import sys
        sys.modules["torch"] = None
        import tpc_fast
        try:
            tpc_fast.reference_attention
        except ModuleNotFoundError as error:
            print(error)
        """
    )
    assert result.stdout.strip() == (
        "tpc_fast.reference_attention needs torch, which is not installed: pip install torch"
    ), result.stderr


@pytest.mark.slow  # mypy reads NumPy and torch
def test_type_checkers_see_real_types(tmp_path):
    """Not `Any`: mypy reveals what calls return, and finds a name that does not exist."""
    pytest.importorskip("mypy", reason="mypy is not installed (extra 'test')")
    code = tmp_path / "code.py"
    code.write_text(
        "import tpc_fast\n"
        "from tpc_fast.pose import load_keypoints\n"
        "reveal_type(tpc_fast.calibrate('photo.png', 'video.mp4'))\n"
        "reveal_type(tpc_fast.fit_similarity)\n"
        "reveal_type(tpc_fast.backends()['cpu'].available)\n"
        "tpc_fast.calibrat\n"
    )
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--ignore-missing-imports", str(code)]
    result = subprocess.run(
        [*command, f"--cache-dir={tmp_path / 'cache'}"], cwd=stubs.ROOT, capture_output=True, text=True, timeout=600
    )
    said = result.stdout
    assert 'Revealed type is "tpc_fast.calibration.result.Calibration"' in said, said + result.stderr
    assert "-> tpc_fast.ops.procrustes.Fit" in said, said
    assert 'Revealed type is "bool"' in said or 'Revealed type is "builtins.bool"' in said, said
    assert 'Module has no attribute "calibrat"' in said, said


def test_editors_complete_names():
    jedi = pytest.importorskip("jedi", reason="jedi is not installed (extra 'test')")
    script = jedi.Script("import tpc_fast\ntpc_fast.", project=jedi.Project(stubs.ROOT))
    assert set(tpc_fast._PUBLIC) <= {completion.name for completion in script.complete(2, 9)}
