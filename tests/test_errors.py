"""What is said of common mistakes: in one line, in the user's words, before anything takes long."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from discs import DiscDetector, draw, person_at
from test_cli import command, files  # noqa: F401
from test_workers import make_calibrator

import tpc_fast
from tpc_fast.cli.main import main
from tpc_fast.media.images import load_image
from tpc_fast.media.video import VideoReader


def said(capsys) -> str:
    """The one line that a failed command prints."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_photo_and_video_swapped(files, capsys):  # noqa: F811
    photo, clip = str(files / "photo.png"), str(files / "clip.mp4")
    assert main(["calibrate", clip, photo, "-o", str(files / "out")]) == 1
    assert "clip.mp4 cannot be read" in (line := said(capsys))
    assert line.endswith("did you swap photo and video?")
    reader = VideoReader(photo)
    assert reader.warnings == [f"driving: {photo} is a picture: a video of one frame; did you swap photo and video?"]
    (files / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"formats?.* \(PNG.*\)$"):  # no such question
        load_image(files / "text.png")


def test_addresses_are_printed_as_they_were_typed():
    with pytest.raises(FileNotFoundError, match=r"driving: there is no file or folder https://host/a.mp4$"):
        VideoReader("https://host/a.mp4")
    with pytest.raises(FileNotFoundError, match=r"mask: there is no file s3://bucket/a.png$"):
        load_image("s3://bucket/a.png", "mask")


def test_errors_name_the_options_of_the_command(files, capsys):  # noqa: F811
    for arguments, start in (
        (["--score-threshold", "nan"], "--score-threshold must"),
        (["--hold", "-1"], "--hold must"),
        (["--fade", "-1"], "--fade must"),
        (["--subset", "best"], "--subset must"),
        (["--match", "0:1,0:2"], "--match must"),
        (["--threads", "0"], "--threads must"),
        (["--depth", "1,1"], "--depth must"),
    ):
        assert main(command(files, *arguments)) == 1
        assert said(capsys).startswith(f"tpc-fast: error: {start}"), arguments
    assert main(["calibrate", "none.png", str(files / "clip.mp4"), "-o", str(files / "out")]) == 1
    assert said(capsys).startswith("tpc-fast: error: reference: there is no file none.png")


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert main(["render", str(tmp_path / "nofolder")]) == 1
    assert said(capsys) == f"tpc-fast: error: there is no folder {tmp_path / 'nofolder'}"
    assert main(["render", str(tmp_path)]) == 1
    assert "folder must hold a calibration.json" in said(capsys)


def test_few_tracked_frames_decide_the_exit_code(files, capsys):  # noqa: F811
    found = np.load(files / "driving.npz")
    keypoints = found["keypoints"].copy()
    keypoints[8:] = np.nan  # 8 of 12 frames show somebody
    np.savez(files / "driving.npz", keypoints=keypoints, masks=found["masks"])
    for share, code in (("0.5", 0), ("0.9", 3)):
        assert main(command(files, "--min-tracked", share, "--overwrite")) == code
        assert (files / "out" / "calibration.json").exists()
    assert said(capsys) == "tpc-fast: person 0 is tracked in 67% of the frames, but --min-tracked is 0.9"
    with pytest.raises(SystemExit):
        main(command(files, "--min-tracked", "90"))


def test_a_match_with_nobody_is_refused_before_the_video_is_looked_at():
    detector, image = DiscDetector(), draw(person_at((300, 100), 12.0))

    class Frames:
        def __iter__(self):
            yield image
            raise AssertionError("the video was read on")

    with pytest.raises(ValueError, match=r"match must name driving persons up to 0, as 1 are followed .*but names 3"):
        tpc_fast.calibrate(image, Frames(), detector=detector, match=((0, 3),), size=64)


@pytest.mark.torch
def test_a_device_that_is_not_there_is_one_line(monkeypatch):
    import torch

    from tpc_fast._checks import torch_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"^device 'cuda' cannot be had: torch finds no CUDA device$"):
        make_calibrator(device="cuda")
    with pytest.raises(ValueError, match="device must be a device of torch, as 'cpu' or 'cuda', but is 'gpu'"):
        make_calibrator(device="gpu")
    assert torch_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert torch_device("cuda:0") == "cuda:0"
    with pytest.raises(RuntimeError, match="device 'cuda:1' cannot be had: there are 1 CUDA devices"):
        torch_device("cuda:1")


@pytest.mark.diffusion
@pytest.mark.slow  # 8 s of CPU: a tiny pipeline, and the imports of diffusers
def test_a_device_that_is_not_there_when_animating(files, capsys, monkeypatch):  # noqa: F811
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(command(files)) == 0
    out = str(files / "a.mp4")
    model = ["--model", "tiny-random:magic-animate", "--device", "cuda", "-q"]
    assert main(["animate", str(files / "out"), "-o", out, *model]) == 1
    assert said(capsys) == "tpc-fast: error: --device 'cuda' cannot be had: torch finds no CUDA device"


@pytest.mark.diffusion
def test_animate_looks_at_the_model_first(tmp_path, capsys):
    assert main(["animate", "nofolder", "-o", str(tmp_path / "a.mp4"), "--model", str(tmp_path / "nomodel"), "-q"]) == 1
    line = f"--model must be a folder or a hub id, but there is no folder {tmp_path / 'nomodel'}"
    assert said(capsys) == f"tpc-fast: error: {line}"
    assert not (tmp_path / "a.mp4").exists()


def test_records_are_not_options(files, capsys):  # noqa: F811
    """A message about a file that begins like an option stays as it is."""
    assert main(command(files)) == 0
    record = files / "out" / "calibration.json"
    data = json.loads(record.read_text()) | {"size": [0, 3]}
    record.write_text(json.dumps(data))
    assert main(["render", str(files / "out")]) == 1
    assert "calibration.json" in said(capsys)


def test_messages_name_options_as_they_are_typed():
    """Every option that is stored under another name than its own is known to what writes the messages."""
    from tpc_fast.cli.main import _SHORT, _parser

    waiting, other = [_parser()], {}
    while waiting:
        for action in waiting.pop()._actions:
            if isinstance(action.choices, dict):
                waiting += action.choices.values()
            elif action.option_strings and action.nargs != 0:
                names = [option.lstrip("-").replace("-", "_") for option in action.option_strings]
                if action.dest not in names:
                    other[action.dest] = names[0]
    assert other == _SHORT


def test_positional_arguments_have_no_dashes():
    """What is typed without an option's name is not named as an option."""
    from tpc_fast.cli.main import _as_option, _parser

    parsers, found = [_parser()], set()
    while parsers:
        for action in parsers.pop()._actions:
            if isinstance(action.choices, dict):
                parsers += action.choices.values()
            elif not action.option_strings:
                found.add(action.dest)
    assert {"path", "manifest"} <= found
    for name in found:
        text = f"{name} must be there"
        assert _as_option(text, SimpleNamespace(**{name: 1})) == text
