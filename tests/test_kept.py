"""Nothing of the user is lost: what is replaced, what a kill leaves, two writers; what a record says and checks."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from test_layout import files, make_calibration

from tpc_fast._checks import plain
from tpc_fast.calibration.private import NAMES_ONLY
from tpc_fast.calibration.result import Calibration
from tpc_fast.media import files as media_files
from tpc_fast.media.files import OutputFolder
from tpc_fast.media.json_text import to_text
from tpc_fast.output.export import export
from tpc_fast.pose.files.detections import Detections, StaleDetectionsError, load_detections, save_detections


@pytest.fixture(params=["exchange", "renames"])
def way(request, monkeypatch):
    """With the file system's exchange, and without one."""
    if request.param == "renames":
        monkeypatch.setattr(media_files, "_rename", lambda *arguments: False)
    return request.param


@pytest.fixture(scope="module")
def calibration():
    return make_calibration(2)


def write(calibration, path, overwrite=True):
    with OutputFolder(path, overwrite) as folder:
        export(calibration, folder, preview=False, report=False)


def test_files_of_the_user_stay(tmp_path, way, calibration):
    """In folders that look like ours, with names that do, as links, and empty folders."""
    out = tmp_path / "out"
    write(calibration, out)
    ours = files(out)
    mine = ["0-person_my_notes/a.txt", "picture.png", "pose_video/my.mp4", "0-person_cal_ref_img/my.png", "deep/er/x"]
    for name in mine:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    (out / "empty").mkdir()
    (out / "link").symlink_to("calibration.json")
    (out / "0-person_cal_ref_img" / "link.png").symlink_to("000.png")
    (out / "reference.png").write_text("edited")
    write(calibration, out)
    assert set(files(out)) == {*ours, *mine, "link", "0-person_cal_ref_img/link.png"}
    assert all((out / name).read_text() == name for name in mine)
    assert (out / "link").is_symlink()
    assert (out / "empty").is_dir()
    assert (out / "reference.png").read_bytes()[:4] == b"\x89PNG"
    assert os.listdir(tmp_path) == ["out"]


def test_a_list_of_strangers_reaches_nothing_outside(tmp_path, way, calibration):
    out, outside = tmp_path / "out", tmp_path / "precious.txt"
    outside.write_text("mine")
    write(calibration, out)
    record = json.loads((out / "calibration.json").read_text())
    record["files"] += ["../precious.txt", str(outside), 5, None]
    (out / "calibration.json").write_text(json.dumps(record))
    write(calibration, out)
    assert outside.read_text() == "mine"


def test_a_file_of_the_user_in_the_way_is_not_overwritten(tmp_path, way, calibration):
    out = tmp_path / "out"
    write(calibration, out)
    (out / "new.txt").write_text("mine")

    def add():
        with OutputFolder(out, True) as folder:
            (folder / "new.txt").write_text("ours")

    with pytest.raises(FileExistsError, match=r"new\.txt would be overwritten, but was not written by tpc_fast"):
        add()
    assert (out / "new.txt").read_text() == "mine"
    assert os.listdir(tmp_path) == ["out"]


def test_the_current_folder_is_replaced(tmp_path, monkeypatch, way, calibration):
    """As `cd OUT && tpc-fast render .` does."""
    out = tmp_path / "out"
    write(calibration, out)
    (out / "mine.txt").write_text("mine")
    monkeypatch.chdir(out)
    write(calibration, ".")
    assert (out / "mine.txt").read_text() == "mine"
    assert Calibration.load(out).size == calibration.size
    assert os.listdir(tmp_path) == ["out"]


def test_a_mount_point_stays(tmp_path, monkeypatch, calibration):
    out = tmp_path / "out"
    write(calibration, out)
    (out / "disk").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == out / "disk")
    with pytest.raises(FileExistsError, match="disk is a mount point, which stays"):
        write(calibration, out)
    assert (out / "disk").is_dir()
    assert os.listdir(tmp_path) == ["out"]


def test_one_writer_at_a_time(tmp_path, calibration):
    pytest.importorskip("fcntl", reason="Windows has no such locks")
    with OutputFolder(tmp_path / "out"):
        with pytest.raises(FileExistsError, match="another process is writing"):
            OutputFolder(tmp_path / "out").__enter__()
    write(calibration, tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]


def test_long_names(tmp_path, calibration):
    out = tmp_path / ("x" * 250)
    for _ in range(2):
        write(calibration, out)
    assert os.listdir(tmp_path) == [out.name]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.slow
def test_killed_at_every_call_of_the_file_system(tmp_path, calibration, exchange):
    """The n-th rename, link, folder or removal kills the process: OUT is the old result or the new one, notes stay."""
    out = tmp_path / "out"
    write(calibration, out)
    (out / "notes.txt").write_text("mine")
    code = f"""
        import os, sys, signal
        from pathlib import Path
        import tpc_fast.media.files as files
        left = int(sys.argv[2])
        def killing(real):
            def call(*arguments, **options):
                global left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)
            return call
        real = files._rename
        files._rename = killing(real if {exchange} else lambda *arguments: False)
        for owner, names in ((os, "rename link unlink rmdir mkdir".split()),):
            for name in names:
                setattr(owner, name, killing(getattr(owner, name)))
        with files.OutputFolder(sys.argv[1], True) as folder:
            for name in ("calibration.json", "reference.png", "masks.npz"):
                (folder / name).write_bytes((Path(sys.argv[1]) / name).read_bytes())
            (folder / "mark").write_text("new")
            text = (folder / "calibration.json").read_text().replace('"files": [', '"files": ["mark",')
            (folder / "calibration.json").write_text(text)
    """
    kills = 0
    for calls in range(200):
        run = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(out), str(calls)], capture_output=True)
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, run.stderr
        kills += 1
        if not out.exists():  # between two renames: the next run completes it
            assert not exchange
            with pytest.raises(FileExistsError, match="exists"), OutputFolder(out):
                pass
        assert len(Calibration.load(out)) == 2
        write(calibration, out)
        assert (out / "notes.txt").read_text() == "mine"
        assert os.listdir(tmp_path) == ["out"]
    assert kills > 5


# --cache


def test_cache_replaces_only_its_own_files(tmp_path):
    found = Detections.from_arrays(np.zeros((2, 1, 17, 2)))
    path = tmp_path / "x.npz"
    save_detections(path, found)
    with pytest.raises(FileExistsError, match="is no file that was kept here"):
        load_detections(path, expected={"file": "a"})
    save_detections(path, found, {"file": "a"})
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(StaleDetectionsError, match="can't be read"):  # which is made anew
        load_detections(path, expected={"file": "a"})
    path.write_bytes(b"three hours of work")
    with pytest.raises(FileExistsError, match=r"can't be read.* choose another"):
        load_detections(path, expected={"file": "a"})
    assert path.read_bytes() == b"three hours of work"


def _lose_the_first_bytes(whole):
    return bytes(64) + whole[64:]


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:-50], _lose_the_first_bytes])
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    path = tmp_path / "x.npz"
    save_detections(path, Detections.from_arrays(np.zeros((2, 1, 17, 2))), {"file": "a"})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StaleDetectionsError):
        load_detections(path, expected={"file": "a"})


@pytest.mark.parametrize(
    "wrong", [{"size": np.array([-5, 7])}, {"bits": np.zeros((2, 1, 3), np.uint8)}, {"keypoints": np.zeros((2, 5, 2))}]
)
def test_a_cache_of_impossible_contents_is_made_anew(tmp_path, wrong):
    path = tmp_path / "x.npz"
    save_detections(path, Detections.from_arrays(np.zeros((2, 1, 17, 2)), masks=np.zeros((2, 1, 8, 8), bool)), {"a": 1})
    with np.load(path) as kept:
        np.savez(path, **dict(kept) | wrong)
    with pytest.raises(StaleDetectionsError):
        load_detections(path, expected={"a": 1})
    with pytest.raises(ValueError, match="must"):  # as a file of the user's, it is refused
        load_detections(path)


def test_a_cache_that_is_a_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="path must be a file"):
        load_detections(tmp_path.joinpath("x.npz").mkdir() or tmp_path / "x.npz")


# The record


def test_strings_of_a_record_come_back_as_they_were(tmp_path, calibration):
    names = ["clip [ 1080p ].mp4", 'a "b" [ 1,\n 2 ].mp4', "[  ]{ }", "\u202eevil", "\\[ 3 ]", "é[ ]"]
    text = to_text({"a": names, "b": {name: [[1, 2], [3, None]] for name in names}, "c": [], "d": {}})
    assert json.loads(text) == {"a": names, "b": {name: [[1, 2], [3, None]] for name in names}, "c": [], "d": {}}
    assert "[[1, 2], [3, null]]" in text
    calibration.driving_path = str(tmp_path / names[0])
    calibration.save(tmp_path / "out")
    assert Calibration.load(tmp_path / "out").driving_path == str(tmp_path / names[0])
    calibration.driving_path = None


def test_long_strings_take_linear_time():
    assert json.loads(to_text({"a": "[ " * 2_000_000}))["a"].count("[ ") == 2_000_000


def test_where_files_lie_is_not_told(tmp_path, calibration):
    calibration.driving_path = str(tmp_path / "secret" / "clip.mp4")
    calibration.warnings.append(f"{calibration.driving_path} is cut off; /home/alice/films/x.mp4, too")
    calibration.options["segmenter"] = "sam:/home/alice/models/sam.pth"
    try:
        with OutputFolder(tmp_path / "out") as folder:
            export(calibration, folder)
        report = (tmp_path / "out" / "report.html").read_text()
        record = (tmp_path / "out" / "calibration.json").read_text()
        for text in (report, record):
            assert "alice" not in text
            assert str(tmp_path) not in text
            assert "sam:sam.pth" in text
        assert "secret" not in report
        assert '"../secret/clip.mp4"' in record
        assert Calibration.load(tmp_path / "out").driving_path == calibration.driving_path
        calibration.options[NAMES_ONLY] = True
        calibration.save(tmp_path / "names")
        assert "secret" not in (tmp_path / "names" / "calibration.json").read_text()
    finally:
        calibration.driving_path = None
        calibration.warnings.clear()
        calibration.options.clear()


def test_control_characters_are_shown():
    assert plain("\u202e4pm.exe\x1b[2J\u2066 é\n") == "\\u202e4pm.exe\\u001b[2J\\u2066 é\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(fps="25"), "fps must be a number"),
        (lambda d: d.update(fps=0), "fps must be above 0"),
        (lambda d: d.update(fps=1e400), "fps must be a finite number"),
        (lambda d: d["frames"][0].update(time=None), "time of frame 0 must be a finite number"),
        (lambda d: d["frames"][1].update(time=-5), "times must not decrease"),
        (lambda d: d.update(size=[1 << 40, 1 << 40]), "size must have at most .* pixels"),
        (lambda d: d.update(size=[-1, 5]), "size must be"),
        (lambda d: d["driving"].update(box=[0, 0, 1e300, 1]), "driving.box must be 4 integers"),
        (lambda d: d["driving"].update(box=[0, 0, 1 << 62, 1]), "driving.box must be .left, top"),
        (lambda d: d["driving"].update(frame_range=[-1, None]), "driving.frame_range must be"),
        (lambda d: d["driving"].update(path=["x"]), "driving.path must be text"),
        (lambda d: d["reference"].update(path="a\0b"), "reference.path must be the name of a file"),
        (lambda d: d.update(timings={"x": "y"}), "timings of 'x' must be a finite number"),
        (lambda d: d["frames"][0]["persons"][0].update(members=[17]), "members of frame 0, person 0"),
        (lambda d: d["frames"][0]["persons"][0].update(members=[True]), "members of frame 0, person 0"),
        (lambda d: d["frames"][0]["persons"][0].update(residual=-1), "residual must be at least 0"),
        (lambda d: d["frames"][0]["persons"][0].update(matrix=[[1, 0, 4e16], [0, 1, 0]]), "matrix of frame 0"),
        (lambda d: d["frames"][0]["persons"][0].update(matrix=[[1, 0, 1e400], [0, 1, 0]]), "matrix must be finite"),
        (lambda d: d.update(frames=5), "frames must be a list"),
        (lambda d: d.update(warnings=[5]), "warnings must be text"),
        (lambda d: d.pop("reference"), "reference must be an object"),
        (lambda d: d.update(frames=[]), "frames must be at least one"),
        (lambda d: d["frames"][0].update(time=-1e308), r"times must be at most 1e\+12 seconds"),
        (lambda d: d["driving"].update(path="\ud800"), "driving.path must be the name of a file"),
        (lambda d: d["options"].update(pose=["a"]), "options.pose must be text"),
    ],
)
def test_a_record_is_checked(tmp_path, calibration, change, message):
    calibration.save(tmp_path / "out")
    path = tmp_path / "out" / "calibration.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"calibration\.json is incomplete or wrong: .*{message}"):
        Calibration.load(tmp_path / "out")


def test_damaged_masks_are_named(tmp_path, calibration):
    calibration.save(tmp_path / "out")
    path = tmp_path / "out" / "masks.npz"
    whole = path.read_bytes()
    for length in (0, 10, 100, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"masks\.npz cannot be read"):
            Calibration.load(tmp_path / "out")
    np.savez(path, reference_mask=np.zeros((1, 60, 50)), pose_masks=np.zeros((2, 1, 3), np.uint8))
    with pytest.raises(ValueError, match=r"masks\.npz cannot be read: reference_mask must be uint8"):
        Calibration.load(tmp_path / "out")


# Places and room


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_in_place_of_the_record_is_not_waited_for(tmp_path):
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "calibration.json")
    with pytest.raises(FileExistsError, match=r"exists and has no calibration\.json of tpc_fast in it"):
        OutputFolder(tmp_path / "out", overwrite=True).check()


def test_names_that_are_no_folder():
    for path, message in (("", "is ''"), ("/", "the root")):
        with pytest.raises(ValueError, match=f"output must be the name of a folder, but .*{message}"):
            OutputFolder(path)


def test_a_current_folder_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError, match="output: the current folder, in which out is to be, is gone"):
        OutputFolder("out")


def test_a_full_disk_is_said_of_the_output(tmp_path):
    def fill():
        with OutputFolder(tmp_path / "out"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"output: cannot write .*out: No space left on device"):
        fill()
    assert os.listdir(tmp_path) == []


# Single files


@pytest.mark.skipif(media_files.fcntl is None, reason="there are no locks")
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    """But not what a living one writes, nor other hidden files."""
    path, other = tmp_path / "film.mp4", tmp_path / ".film.mp4.notes"
    other.write_text("mine")
    code = """
        import os, signal, sys
        from tpc_fast.media.files import whole_file
        with whole_file(sys.argv[1]) as partial:
            partial.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(path)])
    assert len(os.listdir(tmp_path)) == 2
    with media_files.whole_file(path) as first:
        assert sorted(os.listdir(tmp_path)) == sorted([first.name, other.name])
        first.write_text("one")
        with media_files.whole_file(path) as second:
            second.write_text("two")
            assert first.read_text() == "one"
        assert path.read_text() == "two"
    assert path.read_text() == "one"
    assert sorted(os.listdir(tmp_path)) == [other.name, path.name]


@pytest.mark.skipif(media_files.fcntl is None, reason="there are no locks")
def test_a_file_that_is_taken_for_abandoned_is_made_again(tmp_path, monkeypatch):
    """Between its making and its lock another process may remove it."""
    path, real, left = tmp_path / "a.txt", media_files.fcntl.flock, [1]

    def flock(handle, how):
        if left and how == media_files.fcntl.LOCK_EX:
            left.pop()
            next(tmp_path.iterdir()).unlink()
        return real(handle, how)

    monkeypatch.setattr(media_files.fcntl, "flock", flock)
    with media_files.whole_file(path) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["a.txt"]
