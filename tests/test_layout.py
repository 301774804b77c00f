"""Files on disk: PNG without loss, the layout's names, and output that is whole or absent."""

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

import tpc_fast
from tpc_fast.media import files as media_files
from tpc_fast.media.files import OutputFolder, whole_file
from tpc_fast.media.video import VideoReader
from tpc_fast.output import layout
from tpc_fast.output.layout import FORMATS, write_layout
from tpc_fast.output.render import Workers, render_into

KEYPOINTS = np.random.default_rng(5).uniform(8, 40, (17, 2))


def make_calibration(frames=4, persons=1, size=(48, 64), **options):
    """A person that moves to the right by a pixel a frame; everything is given, nothing detected."""
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (60, 50, 3), np.uint8)
    mask = np.zeros((persons, 60, 50), np.uint8)
    mask[:, 10:40, 10:30] = 255
    driving = rng.integers(0, 256, (frames, 48, 64, 3), np.uint8)
    moving = KEYPOINTS + np.arange(frames)[:, None, None, None] * [1.0, 0.0]
    pose = np.zeros((frames, persons, 48, 64), np.uint8)
    pose[..., 5:40, 8:30] = 255
    return tpc_fast.calibrate(
        photo,
        driving,
        size=size,
        smooth="none",
        reference_keypoints=np.broadcast_to(KEYPOINTS, (persons, 17, 2)),
        reference_mask=mask,
        driving_keypoints=np.broadcast_to(moving, (frames, persons, 17, 2)),
        driving_masks=pose,
        **options,
    )


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def read(path):
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


# The folder


def write_calibration_json(folder, text=None):
    folder.mkdir()
    (folder / "calibration.json").write_text(text or json.dumps({"format": "tpc_fast.calibration"}))
    (folder / "report.html").write_text("old")


def test_folder_appears_at_the_end(tmp_path):
    with OutputFolder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("a")
        assert not (tmp_path / "out").exists()
        assert folder.parent == tmp_path  # so that renaming it never copies
    assert files(tmp_path) == ["out/a.txt"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_left_after_an_error(tmp_path, error, overwrite):
    if overwrite:
        write_calibration_json(tmp_path / "out")
    before = files(tmp_path)

    def fail():
        with OutputFolder(tmp_path / "out", overwrite) as folder:
            (folder / "a.txt").write_text("a")
            raise error

    with pytest.raises(error):
        fail()
    assert files(tmp_path) == before
    assert os.listdir(tmp_path) == (["out"] if overwrite else [])


def enter(path, overwrite=False):
    with OutputFolder(path, overwrite):
        pass


def test_existing_folder_is_refused(tmp_path):
    write_calibration_json(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"out exists.*--overwrite"):
        enter(tmp_path / "out")
    assert files(tmp_path) == ["out/calibration.json", "out/report.html"]


def test_overwrite_replaces_our_folder(tmp_path):
    write_calibration_json(tmp_path / "out")
    with OutputFolder(tmp_path / "out", overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
        assert (tmp_path / "out" / "report.html").exists()
    assert files(tmp_path) == ["out/new.txt"]


def test_overwrite_keeps_what_is_not_ours(tmp_path):
    write_calibration_json(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "out" / "clips").mkdir()
    (tmp_path / "out" / "clips" / "a.mp4").write_text("mine too")
    (tmp_path / "out" / "0-person_cal_ref_img").mkdir()
    with OutputFolder(tmp_path / "out", overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
    assert files(tmp_path) == ["out/clips/a.mp4", "out/new.txt", "out/notes.txt"]


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"format": "something else"}'])
def test_overwrite_refuses_other_folders(tmp_path, text):
    write_calibration_json(tmp_path / "out", text)
    with pytest.raises(FileExistsError, match=r"has no calibration\.json of tpc_fast"):
        enter(tmp_path / "out", overwrite=True)
    assert files(tmp_path) == ["out/calibration.json", "out/report.html"]


def test_overwrite_refuses_an_empty_folder(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="so it is not replaced"):
        enter(tmp_path / "out", overwrite=True)


def test_output_is_a_file(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(FileExistsError, match="out is a file"):
        enter(tmp_path / "out", overwrite=True)


def test_parent_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"output: there is no folder .*none to put out into"):
        enter(tmp_path / "none" / "out")


def test_parent_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        enter(tmp_path / "file" / "out")


def test_parent_cannot_be_written(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(layout.Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match=r"output: cannot write into .*Permission denied"):
        enter(tmp_path / "out")


def test_something_that_came_meanwhile_is_kept(tmp_path):
    def race():
        with OutputFolder(tmp_path / "out"):
            (tmp_path / "out").mkdir()

    with pytest.raises(FileExistsError):
        race()
    assert os.listdir(tmp_path) == ["out"]


def test_failed_swap_restores_the_old_folder(tmp_path, monkeypatch):
    write_calibration_json(tmp_path / "out")
    rename = layout.Path.rename

    def fail_once(self, target):
        if self.name.endswith(".ready") and target.name == "out":
            raise OSError("cannot rename")
        return rename(self, target)

    monkeypatch.setattr(layout.Path, "rename", fail_once)
    monkeypatch.setattr(media_files, "_rename", lambda *arguments: False)  # a system without an exchange in one step
    with pytest.raises(OSError, match="cannot rename"):
        enter(tmp_path / "out", overwrite=True)
    assert files(tmp_path) == ["out/calibration.json", "out/report.html"]
    assert os.listdir(tmp_path) == ["out"]


def test_link_stays_a_link(tmp_path):
    write_calibration_json(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with OutputFolder(tmp_path / "link", overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert files(tmp_path / "real") == ["new.txt"]


# Workers


def test_workers_raise_the_first_error_and_drop_the_rest():
    done = []

    def job(i):
        if i == 2:
            raise OSError("disk full")
        done.append(i)

    def run():
        with Workers(1, 1) as workers:
            for i in range(100):
                workers.submit(job, i)

    with pytest.raises(OSError, match="disk full"):
        run()
    assert done == [0, 1]
    assert not [t for t in threading.enumerate() if t.name.startswith("tpc_fast.worker")]


def test_workers_are_bounded():
    gate, running = threading.Event(), []

    def job(i):
        running.append(i)
        gate.wait(120)

    def submit_all(workers):
        for i in range(6):
            workers.submit(job, i)

    with Workers(2, 3) as workers:
        feeder = threading.Thread(target=submit_all, args=(workers,))
        feeder.start()
        feeder.join(0.2)
        assert feeder.is_alive()  # two run, three wait, the sixth is held back
        gate.set()
        feeder.join()
    assert sorted(running) == list(range(6))


# The layout


def names(persons, frames):
    kinds = ("cal_ref_img", "cal_ref_mask_img", "pose_mask_img")
    pictures = [f"{p}-person_{k}/{i:03d}.png" for p in range(persons) for k in kinds for i in range(frames)]
    return sorted(pictures + common(persons))


def common(persons):
    return [f"{p}-person_ref_mask_img/ref.png" for p in range(persons)] + [
        "pose_video/driving.mp4",
        "ref_img/reference.PNG",
    ]


@pytest.mark.parametrize("persons", [1, 2])
def test_names(tmp_path, persons):
    calibration = make_calibration(3, persons) if persons == 1 else two_persons()
    warnings = write_layout(calibration, tmp_path)
    assert files(tmp_path) == names(persons, 3)
    assert "pose_video" in warnings[0]


def two_persons():
    """One calibration, with its person twice: several persons come from files for now."""
    calibration = make_calibration(3)
    for name in ("matrices", "raw_matrices", "status", "determined", "swapped", "opacity", "members", "residual",
                 "keypoints", "scores", "packed_pose_masks"):  # fmt: skip
        setattr(calibration, name, np.repeat(getattr(calibration, name), 2, axis=1))
    for name in ("reference_keypoints", "reference_scores", "reference_mask"):
        setattr(calibration, name, np.repeat(getattr(calibration, name), 2, axis=0))
    return calibration


def test_names_come_from_the_files(tmp_path):
    calibration = make_calibration(2)
    calibration.reference_path, calibration.driving_path = "/a/Photo 1.jpeg", "/b/walk.MOV"
    write_layout(calibration, tmp_path)
    assert (tmp_path / "ref_img" / "Photo 1.PNG").exists()
    assert (tmp_path / "pose_video" / "walk.mp4").exists()


def test_pictures(tmp_path):
    calibration = make_calibration(3, size=(47, 65))
    write_layout(calibration, tmp_path)
    for i in range(3):
        assert np.array_equal(read(tmp_path / f"0-person_cal_ref_img/{i:03d}.png"), calibration.images[i][0])
        for kind, masks in (("cal_ref_mask_img", calibration.masks), ("pose_mask_img", calibration.pose_masks)):
            picture = read(tmp_path / f"0-person_{kind}/{i:03d}.png")
            assert np.array_equal(picture, np.repeat(masks[i][0][..., None], 3, 2))
    assert read(tmp_path / "ref_img/reference.PNG").shape == (47, 65, 3)


def test_reference_keeps_its_aspect_ratio_or_not(tmp_path):
    for resize in ("pad", "stretch"):
        calibration = make_calibration(1, size=(60, 100), resize=resize)
        (tmp_path / resize).mkdir()
        write_layout(calibration, tmp_path / resize)
        columns = read(tmp_path / resize / "ref_img/reference.PNG").any(axis=(0, 2))
        assert columns.sum() == (50 if resize == "pad" else 100)


def test_pose_video_shows_the_masks(tmp_path):
    calibration = make_calibration(3)
    write_layout(calibration, tmp_path)
    frames = list(VideoReader(tmp_path / "pose_video/driving.mp4"))
    assert len(frames) == 3
    assert np.abs(frames[1].image[..., 0].astype(int) - calibration.pose_masks[1][0]).mean() < 3


@pytest.mark.slow
def test_five_digits_sort_more_than_a_thousand_frames(tmp_path):
    calibration = make_calibration(1001, size=(16, 16))
    write_layout(calibration, tmp_path)
    frames = sorted(os.listdir(tmp_path / "0-person_cal_ref_img"))
    assert (frames[0], frames[-1], len(frames)) == ("00000.png", "01000.png", 1001)


def test_npz(tmp_path):
    calibration = make_calibration(3)
    write_layout(calibration, tmp_path, "npz")
    assert files(tmp_path) == sorted(["calibrated.npz", *common(1)])
    with np.load(tmp_path / "calibrated.npz") as data:
        assert sorted(data) == ["images", "masks", "pose_masks"]
        for name in data:
            assert np.array_equal(data[name], getattr(calibration, name)[:])


def test_mp4(tmp_path):
    calibration = make_calibration(3)
    write_layout(calibration, tmp_path, "mp4")
    kinds = ("cal_ref_img", "cal_ref_mask_img", "pose_mask_img")
    assert files(tmp_path) == sorted([f"0-person_{k}.mp4" for k in kinds] + common(1))
    for kind in kinds:
        assert len(list(VideoReader(tmp_path / f"0-person_{kind}.mp4"))) == 3


def test_unknown_format(tmp_path):
    with pytest.raises(ValueError, match="fmt must be one of png, npz, mp4, but is 'gif'"):
        write_layout(make_calibration(1), tmp_path, "gif")
    assert os.listdir(tmp_path) == []


def test_progress(tmp_path):
    seen = []
    write_layout(make_calibration(3), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("panel_size", [(24, 32), (20, 30)], ids=str)
def test_every_frame_is_rendered_once_for_all_sinks(tmp_path, monkeypatch, panel_size):
    """Panels are made of it if their size divides the canvas; else they are rendered, too."""
    calibration = make_calibration(4)
    rendered, got = [], []
    render = type(calibration).render

    def noting(self, frame, **options):
        rendered.append((frame, *options))
        return render(self, frame, **options)

    monkeypatch.setattr(type(calibration), "render", noting)

    class Collect:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            got.append("closed")

        def prepare(self, frame):
            return frame.index + 100

        def write(self, frame, prepared):
            got.append(frame.index)
            assert prepared == frame.index + 100
            assert all(panel.shape == (*panel_size, 3) for panel in frame.panels)

    (tmp_path / "layout").mkdir()
    render_into(calibration, [layout.LayoutSink(calibration, tmp_path / "layout"), Collect()], panel_size=panel_size)
    again = [(i, "size", "background") for i in range(4)] if panel_size == (20, 30) else []
    assert sorted(rendered) == sorted([*((i,) for i in range(4)), *again])
    assert got == [0, 1, 2, 3, "closed"]


@pytest.mark.parametrize("fmt", FORMATS)
def test_failing_writes_leave_nothing(tmp_path, monkeypatch, fmt):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layout, "write_png", full)
    calibration = make_calibration(3)

    def write():
        with OutputFolder(tmp_path / "out") as folder:
            write_layout(calibration, folder, fmt)

    with pytest.raises(OSError, match="No space left"):
        write()
    assert os.listdir(tmp_path) == []


def run(script, *arguments):
    """A Python process that has this module as `tests`."""
    head = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("tests", {__file__!r})
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
"""
    command = [sys.executable, "-c", head + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("fmt", FORMATS)
def test_disk_runs_full(tmp_path, fmt):
    """A limit on the size of files fails writes as a full disk does, without needing one."""
    script = """
import resource
calibration = tests.make_calibration(40)
resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))
try:
    with tests.OutputFolder(sys.argv[1]) as folder:
        tests.write_layout(calibration, folder, sys.argv[2])
except OSError as error:
    print("refused:", error)
"""
    out, err = run(script, tmp_path / "out", fmt).communicate(timeout=120)
    assert out.startswith("refused:"), err
    assert os.listdir(tmp_path) == []


def test_interrupt_leaves_nothing(tmp_path):
    script = """
import time

def progress(done, total):
    if done == 5:
        print("writing", flush=True)
        for _ in range(6000):  # until it is interrupted; a signal just before a sleep is only heard after that sleep
            time.sleep(0.01)

calibration = tests.make_calibration(20)
with tests.OutputFolder(sys.argv[1]) as folder:
    tests.write_layout(calibration, folder, progress=progress)
"""
    process = run(script, tmp_path / "out")
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert "KeyboardInterrupt" in err
    assert os.listdir(tmp_path) == []


def test_whole_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "out.txt"
    for text in ("one", "two"):
        with whole_file(path) as partial:
            partial.write_text(text)
            assert partial.parent == tmp_path
        assert path.read_text() == text
        assert os.listdir(tmp_path) == ["out.txt"]

    def fail():
        with whole_file(path) as partial:
            partial.write_text("three")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "two"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_calibrations_of_before_are_read(tmp_path):
    """Which said `fit`, and "squeeze"."""
    calibration = make_calibration(1, size=(60, 100), resize="stretch")
    calibration.save(tmp_path / "out")
    path = tmp_path / "out" / "calibration.json"
    data = json.loads(path.read_text())
    assert data["options"].pop("resize") == "stretch"
    data["options"]["fit"] = "squeeze"
    path.write_text(json.dumps(data))
    assert tpc_fast.Calibration.load(tmp_path / "out").options == calibration.options
    assert tpc_fast.Calibration.load(tmp_path / "out").reference_canvas == calibration.reference_canvas
