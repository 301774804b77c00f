"""The command line on a synthetic scene: files, refusals, interruption, rendering again."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from scene import PERSON, scene, two_people

import tpc_fast
from tpc_fast.cli.main import main
from tpc_fast.media.video import VideoReader, VideoWriter

FRAMES = 12


@pytest.fixture
def files(rng, tmp_path):
    """A folder with a photo, its mask, a video, and keypoints of both; and the command that calibrates them."""
    image, mask, driving, keypoints, masks, _ = scene(rng, FRAMES)
    Image.fromarray(image).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with VideoWriter(tmp_path / "clip.mp4", 30, (120, 160)) as video:
        for frame in driving:
            video.write(frame)
    np.savez(tmp_path / "reference.npz", keypoints=PERSON)
    np.savez(tmp_path / "driving.npz", keypoints=keypoints, masks=masks)
    return tmp_path


def command(files, *more, output="out"):
    return [
        "calibrate", str(files / "photo.png"), str(files / "clip.mp4"), "-o", str(files / output), "-q",
        "--size", "96x128",
        "--reference-keypoints", str(files / "reference.npz"), "--reference-mask", str(files / "mask.png"),
        "--driving-keypoints", str(files / "driving.npz"), *more,
    ]  # fmt: skip


def leftovers(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_calibrate_writes_everything(files, capsys):
    assert main(command(files)) == 0
    out = files / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        "0-person_cal_ref_img", "0-person_cal_ref_mask_img", "0-person_pose_mask_img", "0-person_ref_mask_img",
        "calibration.json", "masks.npz", "pose_video", "preview.mp4", "ref_img", "reference.png", "report.html",
    ]  # fmt: skip
    assert [p.name for p in sorted((out / "0-person_cal_ref_img").iterdir())] == [f"{i:03d}.png" for i in range(FRAMES)]
    assert (out / "pose_video" / "clip.mp4").exists()
    assert (out / "ref_img" / "photo.PNG").exists()
    calibration = tpc_fast.Calibration.load(out)
    assert (calibration.status == "tracked").all()
    for i in (0, FRAMES - 1):
        written = np.asarray(Image.open(out / "0-person_cal_ref_img" / f"{i:03d}.png"))
        assert (written == calibration.images[i][0]).all()
        pose = np.asarray(Image.open(out / "0-person_pose_mask_img" / f"{i:03d}.png"))
        assert pose.shape == (96, 128, 3)
        assert (pose[..., 0] == calibration.pose_masks[i][0]).all()
    assert calibration.pose_masks[0].any(), "the masks of the keypoint file were used"
    assert sum(1 for _ in VideoReader(out / "preview.mp4")) == FRAMES
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert capsys.readouterr().out == ""
    assert leftovers(files) == []


def test_summary_is_printed(files, capsys):
    arguments = command(files, "--no-preview", "--no-report")
    arguments.remove("-q")
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert f"{FRAMES} frames ({FRAMES} tracked)" in printed.out
    assert "frames/s" in printed.out
    assert "render and write" in printed.out
    assert not (files / "out" / "preview.mp4").exists()
    assert not (files / "out" / "report.html").exists()


@pytest.mark.parametrize(("fmt", "name"), [("npz", "calibrated.npz"), ("mp4", "0-person_cal_ref_img.mp4")])
def test_formats(files, fmt, name):
    assert main(command(files, "--format", fmt)) == 0
    assert (files / "out" / name).exists()


def test_options_reach_the_calibration(files):
    assert main(command(files, "--subset", "face", "--smooth", "none", "--resize", "stretch", "--no-antialias",
                        "--interpolation", "bilinear", "--threads", "1", "--hold", "2")) == 0  # fmt: skip
    options = tpc_fast.Calibration.load(files / "out").options
    assert options["subset"] == "face"
    assert options["smooth"] == "none"
    assert options["resize"] == "stretch"
    assert options["antialias"] is False
    assert options["interpolation"] == "bilinear"
    assert options["hold_seconds"] == 2
    assert tpc_fast.get_num_threads() == 1
    tpc_fast.set_num_threads(os.cpu_count())


def test_frames_selects(files):
    points = np.load(files / "driving.npz")
    np.savez(files / "driving.npz", keypoints=points["keypoints"][3:8])
    assert main(command(files, "--frames", "3:8")) == 0
    assert len(tpc_fast.Calibration.load(files / "out")) == 5


def test_render_again_from_an_edited_file(files):
    assert main(command(files)) == 0
    path = files / "out" / "calibration.json"
    data = json.loads(path.read_text())
    for frame in data["frames"]:
        frame["persons"][0]["matrix"] = [[1, 0, 20], [0, 1, 0]]
    path.write_text(json.dumps(data))
    assert main(["render", str(files / "out"), "-q"]) == 0
    written = np.asarray(Image.open(files / "out" / "0-person_cal_ref_img" / "005.png"))
    photo = np.asarray(Image.open(files / "photo.png"))
    assert (written[:, 20:100] == photo[:96]).all()
    assert main(["render", str(files / "out"), "-q", "-o", str(files / "other"), "--format", "npz"]) == 0
    assert (np.load(files / "other" / "calibrated.npz")["images"][5, 0] == written).all()
    assert main(["render", str(files / "other"), "-q"]) == 0  # in the format that it had
    assert (files / "other" / "calibrated.npz").exists()
    assert main(["render", str(files / "out"), "-q", "-o", str(files / "other")]) == 1
    assert main(["render", str(files / "out"), "-q", "-o", str(files / "other"), "--overwrite"]) == 0
    assert leftovers(files) == []


def test_render_of_something_else(files, capsys):
    assert main(["render", str(files), "-q"]) == 1
    assert "must hold a calibration.json" in capsys.readouterr().err


# Refusals: exit code 1, one line, nothing written


def refused(files, capsys, arguments, *words):
    before = sorted(files.rglob("*"))
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("tpc-fast: error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert sorted(files.rglob("*")) == before


def test_existing_output_is_refused(files, capsys):
    (files / "out").mkdir()
    (files / "out" / "diary.txt").write_text("dear")
    refused(files, capsys, command(files), "exists", "calibration.json")
    refused(files, capsys, command(files, "--overwrite"), "exists", "calibration.json")
    assert (files / "out" / "diary.txt").read_text() == "dear"


def test_overwrite_replaces_a_calibration(files):
    assert main(command(files)) == 0
    (files / "out" / "0-person_cal_ref_img" / "999.png").write_text("old")
    (files / "out" / "notes.txt").write_text("mine")
    assert main(command(files, "--overwrite", "--format", "npz")) == 0
    assert [p.name for p in (files / "out" / "0-person_cal_ref_img").iterdir()] == ["999.png"]  # not in our list
    assert (files / "out" / "notes.txt").read_text() == "mine"  # only what is ours is replaced
    assert leftovers(files) == []
    assert (files / "out" / "report.html").exists()


def test_output_that_cannot_be_written(files, capsys):
    refused(files, capsys, command(files, output="photo.png/out"), "photo.png")
    refused(files, capsys, command(files, output="absent/out"), "absent")


def test_disk_that_runs_full(files, capsys, monkeypatch):
    from tpc_fast.output import layout

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layout, "write_png", full)
    refused(files, capsys, command(files), "No space left on device")


def test_missing_and_unreadable_files(files, capsys):
    arguments = command(files)
    refused(files, capsys, [arguments[0], str(files / "no.png"), *arguments[2:]], "reference", "no.png")
    refused(files, capsys, [*arguments[:2], str(files / "no.mp4"), *arguments[3:]], "driving", "no.mp4")
    refused(files, capsys, [*arguments[:2], str(files / "mask.npz"), *arguments[3:]], "driving")
    refused(files, capsys, [arguments[0], str(files / "clip.mp4"), *arguments[2:]], "reference", "clip.mp4")


@pytest.mark.parametrize(
    "wrong", [["--size", "big"], ["--frames", "3"], ["--frames", "5:5"], ["--smooth", "very"], ["--format", "gif"]]
)
def test_wrong_usage(files, wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command(files, *wrong))
    assert stop.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_bad_values(files, capsys):
    refused(files, capsys, command(files, "--subset", "best"), "subset must be optimal")
    refused(files, capsys, command(files, "--threads", "0"), "--threads must be an integer from 1")
    refused(files, capsys, command(files, "--frames", "50:60"), "driving")


@pytest.mark.slow
def test_interrupted(files):
    """Ctrl-C in a real process, while frames are written: exit code 130, nothing left behind."""
    with VideoWriter(files / "clip.mp4", 30, (120, 160)) as video:
        for frame in np.random.default_rng(0).integers(0, 255, (600, 120, 160, 3), np.uint8):
            video.write(frame)
    points = np.load(files / "driving.npz")["keypoints"]
    np.savez(files / "driving.npz", keypoints=np.resize(points, (600, 17, 2)))
    arguments = command(files, "--size", "1024")
    process = subprocess.Popen([sys.executable, "-m", "tpc_fast.cli", *arguments], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300
    while not any(files.glob(".out.*/0-person_cal_ref_img/0*.png")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "no frame is written"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted; nothing was written" in error
    assert leftovers(files) == []
    assert not (files / "out").exists()


def test_backends(capsys):
    assert main(["backends"]) == 0
    printed = capsys.readouterr().out
    assert "naive: available" in printed
    for name, backend in tpc_fast.backends().items():
        assert f"{name}: {'available' if backend.available else 'absent'}: " in printed


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"tpc-fast {tpc_fast.__version__}\n"


def test_json_is_one_line_for_scripts(rng, tmp_path, capsys):
    _, arguments = two_people(tmp_path, rng)
    assert main([*arguments, "--json", "--no-preview", "--no-report"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["frames"], found["persons"], found["size"], found["output"]) == (3, 2, [140, 210], arguments[4])
    assert sum(found["status"].values()) == 6
    inspected = ["inspect", *arguments[1:3], *arguments[5:]]
    assert main([*inspected, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["persons"] == 2


def test_dry_run_checks_and_writes_nothing(rng, tmp_path, capsys):
    _, arguments = two_people(tmp_path, rng)
    assert main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "photo: 210 x 140" in said
    assert "nothing was written" in said
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert main([*arguments, "--dry-run"]) == 1
    assert "is not replaced" in capsys.readouterr().err
    (tmp_path / "out").rmdir()
    (tmp_path / "driving.npz").write_bytes(b"damaged")
    assert main([*arguments, "--dry-run"]) == 1
    assert "driving.npz' can't be read as keypoints" in capsys.readouterr().err


def test_calibrate_ends_with_what_to_do_next(rng, tmp_path, capsys):
    _, arguments = two_people(tmp_path, rng)
    assert main([*arguments, "--no-preview"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: animate with `tpc-fast animate")
