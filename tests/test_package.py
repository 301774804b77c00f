"""What is installed, from what, and what happens where something is missing."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import time
import types
import zipfile
from pathlib import Path

import imports
import lengths
import pytest

import tpc_fast
from tpc_fast._extras import INSTALL

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch", "triton", "ai_edge_litert", "mediapipe", "cv2", "skimage", "scipy", "av", "PIL", "diffusers", "tqdm",
    "matplotlib",
)  # fmt: skip


# An editable install finds our modules wherever Python starts; where other copies are tried, it must not.
FORGET_EDITABLE = """
import sys
sys.meta_path = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
"""


def python(code: str, cwd=None, editable=True, **environment) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", ("" if editable else FORGET_EDITABLE) + textwrap.dedent(code)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_import_is_light():
    """Under 0.3 s (of the processor, which others may use, too; best of five), and no optional or slow package."""
    code = f"""
        import sys, time
        import numpy
        start = time.process_time()
        import tpc_fast
        print(time.process_time() - start)
        print([name for name in {HEAVY!r} if name in sys.modules])
        tpc_fast.fit_similarity, tpc_fast.warp_composite
        print([name for name in {HEAVY!r} if name in sys.modules])
    """
    seconds = []
    for _ in range(5):
        result = python(code)
        assert result.returncode == 0, result.stderr
        first, imported, used = result.stdout.splitlines()
        seconds.append(float(first))
        assert imported == "[]"
        assert used == "[]"
    assert min(seconds) < 0.3


def test_commands_import_nothing_of_the_network():
    """It takes as long as all files of the command line together: 40 ms."""
    result = python("""
        import sys
        import tpc_fast.cli.main, tpc_fast.calibration.video, tpc_fast.output.export
        print([name for name in ("asyncio", "http.client", "ssl", "urllib.request") if name in sys.modules])
    """)
    assert result.stdout == "[]\n", result.stderr + result.stdout


def test_the_guide_installs_what_was_tried(monkeypatch):
    """What a session of tests/noxfile.py installs is a line of the guide, but for the test tools."""
    guide = ROOT / "docs" / "guides" / "detectors.md"
    lines = re.findall(r"^(?:MMCV_WITH_OPS=1 )?pip install (.*)$", guide.read_text(), re.MULTILINE)
    said = [set(shlex.split(line.partition(" && ")[0])) for line in lines]

    class Session:
        posargs = ()

        def __init__(self):
            self.installed = []

        def chdir(self, folder):
            pass

        def install(self, *words, env=None):
            self.installed.append(set(words) - {"hypothesis", "pytest"})

        def run(self, *command, env):
            assert Path(ROOT / command[3]).exists()
            assert env["TPC_REQUIRE"].startswith("native,")

    nox = types.ModuleType("nox")
    nox.options, nox.session = types.SimpleNamespace(), lambda python: lambda function: function
    monkeypatch.setitem(sys.modules, "nox", nox)
    sessions = runpy.run_path(str(ROOT / "tests" / "noxfile.py"))
    for name, count in (("mmpose", 5), ("segment_anything", 3)):
        session = Session()
        sessions[name](session)
        assert len(session.installed) == count
        for words in session.installed:
            assert words in said


def test_calibrating_needs_no_torch(tmp_path):
    """The main job with given keypoints, in an interpreter where every optional package refuses to be imported."""
    result = python(
        f"""
        import sys
        for name in ("torch", "triton", "ai_edge_litert", "mediapipe", "rtmlib", "mmpose", "cv2", "skimage",
                     "diffusers", "kornia", "roma"):
            sys.modules[name] = None
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import numpy as np
        from scene import PERSON, scene
        import tpc_fast
        from tpc_fast.output.export import export
        from pathlib import Path
        image, mask, driving, keypoints, masks, truth = scene(np.random.default_rng(0), 5)
        calibration = tpc_fast.calibrate(image, driving, reference_keypoints=PERSON, reference_mask=mask,
                                         driving_keypoints=keypoints, driving_masks=masks, size=64)
        export(calibration, Path({str(tmp_path)!r}))
        try:
            tpc_fast.Calibrator(image)
        except ImportError as error:
            print(error)
        """
    )
    assert result.returncode == 0, result.stderr
    assert INSTALL["demo"] in result.stdout
    assert (tmp_path / "report.html").exists()


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist and the wheel that is built from it, as `python -m build` makes them."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".git", "*.so", "build", "*.egg-info", ".venv*", ".nox", "__pycache__", "results")
    shutil.copytree(ROOT, source, ignore=ignored)
    result = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_sdists_of_one_commit_are_equal(tmp_path):
    """Whatever the folder, the files' times and the umask: with SOURCE_DATE_EPOCH, and by the commit's time without."""
    moment = "1700000000"
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    environment |= {f"GIT_{who}_{what}": "somebody@example.org" for who in ("AUTHOR", "COMMITTER")
                    for what in ("NAME", "EMAIL")}  # fmt: skip
    environment["GIT_COMMITTER_DATE"] = f"{moment} +0000"
    ignored = shutil.ignore_patterns(".git", "*.so", "build", "*.egg-info", ".venv*", ".nox", "__pycache__", "results")
    made = []
    for name, umask, extra in (("by the variable", 0o022, {"SOURCE_DATE_EPOCH": moment}), ("by-the-commit", 0o027, {})):
        source = tmp_path / name
        shutil.copytree(ROOT, source, ignore=ignored, copy_function=shutil.copyfile)
        for command in ("git init -q", "git add .", "git commit -q -m made") if not extra else ():
            subprocess.run(command.split(), cwd=source, env=environment, check=True, timeout=60)
        os.utime(source / "setup.py", (len(made) + 1e9, len(made) + 1e9))
        subprocess.run(
            [sys.executable, "setup.py", "-q", "sdist"],
            cwd=source, env=environment | extra, umask=umask, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        (sdist,) = (source / "dist").iterdir()
        made.append(sdist.read_bytes())
    assert made[0] == made[1]
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
        assert {member.mtime for member in archive} == {int(moment)}
        assert {(member.uid, member.gid, member.uname, member.gname) for member in archive} == {(0, 0, "", "")}
    # And a wheel that is made of the sdist, here without a compiler, has no other time in it.
    subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel"], cwd=tmp_path / sdist.name.removesuffix(".tar.gz"),
        env=environment | {"CC": "/no/compiler", "CXX": "/no/compiler"}, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*/dist/*.whl")
    assert {member.date_time for member in zipfile.ZipFile(wheel).infolist()} == {time.gmtime(int(moment))[:6]}


@pytest.mark.slow
def test_sdist_holds_all_sources(distributions):
    names = {name.split("/", 1)[1] for name in tarfile.open(distributions[0]).getnames() if "/" in name}
    folders = ("csrc", "kernels", "tpc_fast", "tests", "benchmarks", "examples")
    wanted = {str(p.relative_to(ROOT)) for folder in folders for p in (ROOT / folder).rglob("*")
              if p.suffix in (".h", ".cpp", ".py")}  # fmt: skip
    assert wanted <= names
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE"} <= names


@pytest.mark.slow
def test_wheel_built_from_the_sdist_installs_and_runs(distributions, tmp_path):
    _, wheel = distributions
    names = zipfile.ZipFile(wheel).namelist()
    assert f"tpc_fast/_C{sysconfig.get_config_var('EXT_SUFFIX')}" in names
    assert "tpc_fast/kernels/__init__.py" in names
    assert not [name for name in names if name.endswith((".cpp", ".h")) or name.startswith("tests")]
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)],
        check=True,
        timeout=300,
    )
    result = python(
        f"""
        import sys
        sys.path.insert(0, {str(target)!r})
        import tpc_fast, tpc_fast.kernels
        assert tpc_fast.__file__.startswith({str(target)!r}), tpc_fast.__file__
        assert tpc_fast.backends()["cpu"].available
        print(tpc_fast.fit_similarity([[0, 0], [1, 0]], [[0, 0], [0, 2]]).scale)
        """,
        cwd=tmp_path,
        editable=False,
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == 2


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["/no/compiler", shutil.which("false")], ids=["absent", "fails"])
def test_installs_without_a_compiler(distributions, tmp_path, compiler):
    """From the sdist: `naive` serves, `backends()` says why, and using it warns loudly."""
    target = tmp_path / "site"
    environment = {**os.environ, "CC": compiler, "CXX": compiler}
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(target),
         str(distributions[0])],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stdout + installed.stderr
    result = python(
        f"""
        import sys
        sys.path.insert(0, {str(target)!r})
        import tpc_fast
        assert tpc_fast.__file__.startswith({str(target)!r})
        status = tpc_fast.backends()["cpu"]
        print(status.available, status.reasons)
        print(tpc_fast.fit_similarity([[0, 0], [1, 0]], [[0, 0], [0, 2]]).scale)
        """,
        cwd=tmp_path,
        editable=False,
    )
    assert result.returncode == 0, result.stderr
    said, scale = result.stdout.splitlines()
    assert said.startswith("False")
    assert "could not be built" in said
    assert compiler in said
    assert "-std=" not in said  # nor anything else of its command line
    assert float(scale) == 2
    assert "RuntimeWarning: tpc_fast runs without its compiled core" in result.stderr


def test_source_without_the_core_warns(tmp_path):
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "_build_failure.txt")
    for folder in ("tpc_fast", "csrc"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    result = python(
        """
        import tpc_fast
        tpc_fast.fit_similarity([[0, 0], [1, 0]], [[0, 0], [0, 2]])
        tpc_fast.fit_similarity([[0, 0], [1, 0]], [[0, 0], [0, 2]])
        """,
        cwd=tmp_path,
        editable=False,
        PYTHONPATH=str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("RuntimeWarning: tpc_fast runs without its compiled core") == 1
    assert "pip install -e ." in result.stderr


@pytest.mark.native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_threads_survive_a_fork():
    """Work in the parent, then in forked children, then in the parent again; torch's threads stand beside ours."""
    result = python(
        """
        import multiprocessing, sys
        import numpy as np
        import tpc_fast
        tpc_fast.set_num_threads(4)
        x = np.random.default_rng(0).normal(size=(5000, 17, 2))
        expected = tpc_fast.fit_similarity(x, x[::-1]).scale
        try:
            import torch
            torch.ones(1000, 1000) @ torch.ones(1000, 1000)
        except ImportError:
            pass
        def work(_):
            return bool((tpc_fast.fit_similarity(x, x[::-1]).scale == expected).all())
        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map_async(work, range(12)).get(timeout=240) == [True] * 12
        assert work(0)
        print("done")
        """
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "done\n"


@pytest.mark.native
def test_threads_from_several_python_threads():
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    x = np.random.default_rng(0).normal(size=(3000, 17, 2))
    expected = tpc_fast.fit_similarity(x, x[::-1]).scale
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: tpc_fast.fit_similarity(x, x[::-1]).scale, range(40)))
    assert all((r == expected).all() for r in results)


def readme_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.demo
@pytest.mark.slow
def test_readme_code_runs(tmp_path):
    """All Python of the README, in one interpreter, beside a photo and a video of those names."""
    from tpc_fast import demo
    from tpc_fast.media.png import write_png

    photo = demo.load_photo()
    write_png(tmp_path / "photo.png", photo)
    demo.write_clip(photo, tmp_path / "video.mp4", demo.camera_path(12))
    blocks = readme_blocks("python")
    assert blocks
    # What the comments promise:
    promises = """
assert calibration.matrices.shape == (12, 1, 2, 3)
assert calibration.images[0].shape == (1, 512, 512, 3) and calibration.masks[0].shape == (1, 512, 512)
assert batch.shape == (8, 1, 3, 512, 512) and batch.dtype == "float16" and -1 <= batch.min() < 0 < batch.max() <= 1
assert out.image.shape == (1, 512, 512, 3) and out.matrix.shape == (1, 2, 3)
"""
    code = "\n".join([*blocks, promises])
    result = python(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr + "\n" + code


def test_readme_commands_are_the_promised_ones():
    shell = "\n".join(readme_blocks("bash"))
    assert 'pip install -c constraints.txt -e ".[demo]" && tpc-fast demo' in shell
    assert 'pip install -c constraints.txt -e ".[test]" && pytest' in shell


def pins(path) -> dict[str, str]:
    """The names of a file of constraints -> the versions that were tested."""
    lines = [line for line in (ROOT / path).read_text().splitlines() if line and not line.startswith("#")]
    return {name.lower(): version for name, version in (line.partition("#")[0].strip().split("==") for line in lines)}


def test_constraints_pin_what_the_extras_need():
    """Every requirement of pyproject.toml has a tested version, and one that it allows."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {None: project["dependencies"], **project["optional-dependencies"]}
    for extra, requirements in extras.items():
        tested = pins("tests/numpy1.txt" if extra == "mediapipe" else "constraints.txt")
        for requirement in map(Requirement, requirements):
            if requirement.name != "tpc-fast":
                assert requirement.specifier.contains(tested[requirement.name.lower()]), requirement


def test_only_mediapipe_keeps_numpy_1():
    """Beside it stands what it cannot have newer; all else is the same as everywhere."""
    main, old = pins("constraints.txt"), pins("tests/numpy1.txt")
    assert int(main["numpy"].split(".")[0]) >= 2 > int(old["numpy"].split(".")[0])
    assert "mediapipe" not in main
    differing = {name for name in main.keys() & old.keys() if main[name] != old[name]}
    assert differing == {"numpy", "opencv-contrib-python", "protobuf"}


def test_hints_are_commands_that_work():
    """The package is on no index: hints name what an extra brings, and nothing asks an index for tpc-fast."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    def wanted(extra):
        for requirement in (r.partition(";")[0].strip() for r in extras[extra]):
            inner = re.fullmatch(r"tpc-fast\[(.*)\]", requirement)
            yield from (r for name in inner[1].split(",") for r in wanted(name)) if inner else [requirement]

    for extra, command in INSTALL.items():
        assert shlex.split(command) == ["pip", "install", *wanted(extra)]
    files = [*(ROOT / "tpc_fast").rglob("*.py"), *(ROOT / "kernels").rglob("*.py"), *ROOT.glob("*.md")]
    assert [path for path in files if re.search(r"pip install [^\n`&]*tpc-fast", path.read_text())] == []


def test_the_notice_names_what_is_installed():
    """Every requirement of a user's extra has a licence there, on the lines of that extra; the wheel carries it."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "NOTICE" in project["license-files"]
    parts = re.split(r"^  (\w+) {2,}(?=\S)", (ROOT / "NOTICE").read_text(), flags=re.MULTILINE)
    listed = {extra: text.lower() for extra, text in zip(parts[1::2], parts[2::2], strict=True)}
    wanted = {"core": project["dependencies"], **project["optional-dependencies"]}
    for extra in wanted.keys() - {"test", "bench"}:  # tools of those who work on the library
        for requirement in map(Requirement, wanted[extra]):
            if requirement.name != "tpc-fast":
                assert re.search(rf"\b(py)?{requirement.name.lower()}[\s,]", listed[extra]), (extra, requirement)


def test_top_level_is_as_agreed():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0 or not tracked.stdout:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in tracked.stdout.splitlines()}
    assert top == {
        "csrc", "kernels", "tpc_fast", "benchmarks", "tests", "setup.py", "pyproject.toml", "README.md",
        "constraints.txt", "LICENSE", "CONTRIBUTING.md", "SECURITY.md", ".ci", ".gitignore", ".github", "MANIFEST.in",
        "examples", "docs", "mkdocs.yml", "CHANGELOG.md", "CITATION.cff", "NOTICE",
    }  # fmt: skip


def test_imports_go_downwards_only():
    """The law of CONTRIBUTING.md, for every import of every file, those inside functions too."""
    edges = imports.graph()
    assert len(edges) > 80
    assert sum(map(len, edges.values())) > 200
    assert imports.violations() == []


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("ops/warp.py", "from tpc_fast.media.canvas import Canvas", "tpc_fast.ops.warp imports tpc_fast.media.canvas"),
        ("ops/warp.py", "def f():\n    import tpc_fast.cli.main", "tpc_fast.ops.warp imports tpc_fast.cli.main"),
        ("ops/warp.py", "def f():\n    from tpc_fast import pose", "tpc_fast.ops.warp imports tpc_fast.pose"),
        ("media/png.py", "f = importlib.import_module('tpc_fast.demo')", "tpc_fast.media.png imports tpc_fast.demo"),
        ("demo.py", "import tpc_fast", "tpc_fast.demo imports the top package"),
        ("pose/files/read.py", "from tpc_fast.pose.masks import sam", "tpc_fast.pose.files.read imports"),
        ("pose/detect/rtmlib.py", "from tpc_fast.pose import load_keypoints", "tpc_fast.pose.detect.rtmlib imports"),
        ("media/images.py", "def f():\n    from tpc_fast.media.video import VideoReader", "circle: "),
        ("media/__init__.py", "_PUBLIC = {'VideoReader': 'films'}", "lists VideoReader in films"),
        ("../kernels/launch.py", "from tpc_fast.ops import warp", "tpc_fast.kernels.launch imports tpc_fast.ops.warp"),
    ],
)
def test_the_law_of_imports_sees_what_is_planted(tmp_path, file, line, said):
    for folder in ("tpc_fast", "kernels"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    before = set(imports.violations())
    path = tmp_path / "tpc_fast" / file
    path.write_text(path.read_text() + f"\n\n{line}\n")
    found = set(imports.violations(tmp_path)) - before
    assert any(said in violation for violation in found), found


def test_a_module_in_no_room_is_an_error(tmp_path):
    (tmp_path / "tpc_fast" / "attic").mkdir(parents=True)
    (tmp_path / "tpc_fast" / "attic" / "old.py").write_text("from tpc_fast.attic import older")
    (tmp_path / "tpc_fast" / "attic" / "older.py").write_text("")
    with pytest.raises(ValueError, match=r"tpc_fast\.attic\.older? is in no room"):
        imports.violations(tmp_path)


def test_no_function_is_too_long(tmp_path):
    assert lengths.long_functions() == []
    (tmp_path / "tpc_fast").mkdir()
    body = ["        pass"] * 79
    lines = ["class C:", "    async def short(self):", *body, "    def long(self):", *body, body[0]]
    (tmp_path / "tpc_fast" / "new.py").write_text("\n".join(lines))
    assert lengths.long_functions(tmp_path) == ["tpc_fast/new.py: long has 81 lines"]


def test_the_stranger_finds_what_the_walk_names():
    """CONTRIBUTING.md, "From names to files": names, and then in parentheses the file that has them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = text.partition("\nFrom names to files:\n")[2].partition("\n## ")[0].strip().splitlines()[2:]
    assert len(rows) >= 6
    for row in rows:
        names, files = [], 0
        for within, file, name in re.findall(r"(\(`([^`]+)`\))|`([^`]+)`", row):
            if not within and "/" not in name:
                names.append(re.sub(r"\W.*", "", name.rpartition(".")[2]))
                continue
            files += 1
            (path,) = [path for path in (ROOT / (file or name), ROOT / "tpc_fast" / (file or name)) if path.exists()]
            found = path.read_text(encoding="utf-8") if names and path.is_file() else ""
            missing = [one for one in names if not re.search(rf"\b{one}\b", found)]
            assert not missing, f"{path} has no {', '.join(missing)}: {row}"
            names = []
        assert files, row
        assert not names, row
