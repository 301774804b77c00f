"""What the page rests on, without Gradio and without a browser: wishes, time left, people, jobs, files, live views."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scene import PERSON, TWO, reference, scene

from tpc_fast.app import looks, result, visit, work
from tpc_fast.app.jobs import Cancelled, JobError, Jobs
from tpc_fast.app.limits import PageLimits
from tpc_fast.app.live import VIEWS, Live, Lives
from tpc_fast.app.people import People, best_frame
from tpc_fast.app.progress import STAGES, Step, duration, seconds_left, share_done, words
from tpc_fast.app.request import SHAPES, Request, canvas_size
from tpc_fast.calibration.video import calibrate
from tpc_fast.media.video import VideoReader, VideoWriter
from tpc_fast.pose.detect.detection import Detection
from tpc_fast.pose.files.detections import Detections

FRAMES = 6
# Stands in for the process: the same steps, by a script that needs no detector.
QUICK = """
import json, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
print(json.dumps({"stage": "photo"}), flush=True)
for i in range(WAIT):
    print(json.dumps({"stage": "detect", "done": i + 1, "total": WAIT}), flush=True)
    time.sleep(0.05)
END
"""


@pytest.fixture
def jobs(tmp_path):
    with Jobs(tmp_path / "jobs", PageLimits()) as jobs:
        yield jobs


def quick(monkeypatch, job, wait=2, end=""):
    """Makes the job start the script instead."""
    code = QUICK.replace("WAIT", str(wait)).replace("END", end)
    start = lambda: subprocess.Popen(  # noqa: E731
        [sys.executable, "-S", "-c", code, str(job.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    monkeypatch.setattr(job, "_start", start)


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """Photo and clip as files, and a detection of everybody, so that `work` needs no detector."""
    image, mask, driving, keypoints, masks, _ = scene(np.random.default_rng(4), FRAMES)
    Image.fromarray(image).save(tmp_path / "photo.png")
    with VideoWriter(tmp_path / "clip.mp4", 30, driving.shape[1:3]) as video:
        for frame in driving:
            video.write(frame)

    def known(photo, video, cache=None, frames=None, **options):
        options.pop("detector", None)
        found = calibrate(
            photo, video, frames=frames, reference_keypoints=PERSON, reference_mask=mask,
            driving_keypoints=keypoints[frames], driving_masks=masks[frames], **options,
        )  # fmt: skip
        np.savez(cache, keypoints=keypoints[frames][:, None], scores=np.ones((len(found), 1, 17)))
        return found

    monkeypatch.setattr(work, "calibrate", known)
    return tmp_path


def make(clip, jobs, **wanted):
    """A job that is done."""
    job = jobs.new("me")
    names = {name: job.take(clip / file, name) for name, file in (("photo", "photo.png"), ("video", "clip.mp4"))}
    Request(**names, **{"size": (96, 128), **wanted}).write(job.folder / work.REQUEST_FILE)
    said = []
    work.work(job.folder, 60, said.append)
    return job, said


def test_work_writes_everything_and_says_every_frame(clip, jobs):
    job, said = make(clip, jobs)
    for stage in ("detect", "write"):
        assert [step["done"] for step in said if step["stage"] == stage] == list(range(1, FRAMES + 1))
    assert {step["stage"] for step in said} <= set(STAGES)
    names = [path.name for path in result.files(job.folder)]
    assert names == ["calibration.zip", "preview.mp4", "report.html", "calibration.json"]
    with zipfile.ZipFile(job.folder / work.ARCHIVE) as archive:
        assert {"calibration.json", "preview.mp4", "0-person_cal_ref_img/000.png"} <= set(archive.namelist())
        for name in ("calibration.json", "report.html"):
            assert str(jobs.root).encode() not in archive.read(name)
    calibration = result.load(job.folder)
    assert len(calibration) == FRAMES
    assert f"{FRAMES} of {FRAMES} frames tracked" in result.summary(calibration)
    assert People.read(job.folder) == People(1, (0,), (0,))


def test_before_is_the_video_and_after_has_the_person_in_it(clip, jobs):
    job, _ = make(clip, jobs, start=2 / 30)
    calibration = result.load(job.folder)
    assert len(calibration) == FRAMES - 2
    before, after = (np.asarray(Image.open(path)).astype(int) for path in result.compare(job.folder, 1))
    frame = [f.image for f in VideoReader(clip / "clip.mp4")][3]
    assert np.abs(before - calibration.canvas.draw(frame)).mean() < 4
    inside = calibration.masks[1][0] == 255
    assert np.abs(after - calibration.images[1][0])[inside].mean() < 8
    outside = calibration.masks[1][0] == 0
    assert np.abs(after - before)[outside].mean() < 4
    assert result.compare(job.folder, 99) == result.compare(job.folder, len(calibration) - 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"format": "bmp"}, "format must be one of png, npz, mp4, but is 'bmp'"),
        ({"people": 7}, "people must be from 0 to 6"),
        ({"size": (16384, 512)}, r"size must be from 16 to 1024, but is \(16384, 512\)"),
        ({"resize": "x"}, "resize must be one of pad, stretch, but is 'x'"),
        ({"smooth": "x"}, "smooth must be one of none, causal, offline"),
        ({"motion": "x"}, "motion must be one of frame, constant"),
        ({"start": -1.0}, "start must be at least 0"),
        ({"seconds": float("nan")}, "seconds must be at least 0"),
        ({"cast": (1, 1)}, "cast must give each person of the video one role"),
        ({"cast": (-1,)}, "cast must give a role to somebody"),
    ],
)
def test_wishes_that_are_not_as_they_must_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        Request("a", "b", **wrong)


def test_wishes_become_options_and_survive_their_file(tmp_path):
    wish = Request("p.png", "v.mp4", (512, 384), people=2, cast=(1, -1, 0), seconds=2.0)
    wish.write(tmp_path / "r.json")
    assert Request.read(tmp_path / "r.json") == wish
    assert wish.options()["match"] == ((0, 1), (2, 0))
    assert wish.options()["detector"] == "blazepose:people=2"
    assert not {"match", "detector"} & set(Request("a", "b").options())


@pytest.mark.parametrize(
    ("start", "seconds", "count", "expected"),
    [(0, 0, 100, (0, None)), (1, 2, 100, (30, 90)), (0, 9, 100, (0, 270)), (0, 0, None, (0, 300)),
     (1, 0, 31, (30, None))],
)  # fmt: skip
def test_the_part_of_a_video(start, seconds, count, expected):
    assert Request("a", "b", start=start, seconds=seconds).frames(30, count, 10) == slice(*expected)


@pytest.mark.parametrize(
    ("start", "seconds", "count", "message"),
    [(0, 0, 400, "at most 10 s long here, but is 13.3 s: choose a part"), (0, 20, None, "at most 10 s"),
     (9, 0, 100, "is 3.3 s long and has nothing from 9 s on")],
)  # fmt: skip
def test_too_long_or_nothing(start, seconds, count, message):
    with pytest.raises(ValueError, match=message):
        Request("a", "b", start=start, seconds=seconds).frames(30, count, 10)


@pytest.mark.parametrize("shape", SHAPES)
def test_canvas_sizes_fit_models(shape):
    height, width = canvas_size(768, shape)
    assert max(height, width) == 768
    assert height % 16 == width % 16 == 0
    assert abs(height / width - SHAPES[shape][0] / SHAPES[shape][1]) < 0.05


@given(st.sampled_from(sorted(STAGES)), st.integers(0, 50), st.one_of(st.none(), st.integers(0, 50)), st.floats(0, 1e5))
def test_progress_is_within_bounds(stage, done, total, seconds):
    step = Step(stage, done, total, seconds)
    assert 0 <= share_done(step) <= 1
    left = seconds_left(step)
    assert left is None or 0 <= left < 1e9
    assert words(step)
    assert 'role="progressbar"' in looks.progress_bar(step)


def test_time_left_is_the_pace_so_far():
    assert seconds_left(Step("write", 25, 100, 10.0)) == pytest.approx(30)
    rest = STAGES["write"][1] / STAGES["detect"][1]
    assert seconds_left(Step("detect", 50, 100, 10.0)) == pytest.approx(10 + 20 * rest)
    assert sum(share for _, share in STAGES.values()) == pytest.approx(1)
    assert share_done(Step("write", 1, 1)) == pytest.approx(1)
    assert [duration(s) for s in (0.2, 59, 60, 125, 3600)] == ["1 s", "59 s", "1 min", "2 min 5 s", "1 h"]
    assert duration(3780) == "1 h 3 min"


def test_the_frame_that_shows_the_most_people():
    points = np.full((4, 2, 17, 2), np.nan)
    points[:, 0] = TWO[0]
    points[2:, 1] = TWO[1]
    seen = Detections.from_arrays(points, np.where(np.isnan(points[..., 0]), 0, 0.9))
    assert best_frame(seen, np.arange(4) / 30, 0.3) == (2, {0: 0, 1: 1})
    assert best_frame(seen, np.arange(2) / 30, 0.3) == (0, {0: 0})


# Jobs


def test_a_cancelled_job_is_dead_and_gone(jobs, monkeypatch, clip):
    steps, seen = [], threading.Event()
    monkeypatch.setattr(jobs, "new", lambda visitor, new=jobs.new: _slow(monkeypatch, new(visitor)))

    def visitor():
        try:
            for step in visit.calibrate(jobs, "me", clip / "photo.png", clip / "clip.mp4"):
                steps.append(step)
                if isinstance(step, Step) and step.stage == "detect":
                    seen.set()
        except Cancelled as error:
            steps.append(error)

    thread = threading.Thread(target=visitor)
    thread.start()
    assert seen.wait(120)
    job = jobs.of("me")
    pid = job._process.pid
    job.cancel()
    thread.join(120)
    assert isinstance(steps[-1], Cancelled)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not job.folder.exists()
    assert jobs.of("me") is None
    assert jobs.begin()  # the turn was given back


def _slow(monkeypatch, job):
    quick(monkeypatch, job, 1000)
    return job


def test_a_job_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    with Jobs(tmp_path, PageLimits(job_seconds=0.5)) as jobs:
        job = jobs.new("me")
        quick(monkeypatch, job, 1000)
        with pytest.raises(JobError, match=r"it took longer than 0.5 s, which is the most here"):
            list(job.run(Request("a", "b")))
        assert not job.running


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("print(json.dumps({'error': 'nobody is there'})); sys.exit(1)", "^nobody is there$"),
        ("import os; os.kill(os.getpid(), 9)", "the calibration ended with code -9"),
    ],
)
def test_a_job_that_fails_says_why(jobs, monkeypatch, end, message):
    job = jobs.new("me")
    quick(monkeypatch, job, end=end)
    with pytest.raises(JobError, match=message):
        list(job.run(Request("a", "b")))


def test_steps_come_with_their_times(jobs, monkeypatch):
    job = jobs.new("me")
    quick(monkeypatch, job, 3)
    steps = list(job.run(Request("a", "b")))
    assert [(s.stage, s.done, s.total) for s in steps] == [
        ("start", 0, None), ("photo", 0, None), ("detect", 1, 3), ("detect", 2, 3), ("detect", 3, 3)
    ]  # fmt: skip
    assert steps[-1].seconds > steps[2].seconds >= 0


def test_the_process_ends_with_who_started_it(tmp_path):
    """Its input is closed: it goes by itself, whatever it was doing."""
    (tmp_path / work.REQUEST_FILE).write_text("{}")
    code = "import time\nfrom tpc_fast.app import work\nwork.work = lambda *a: time.sleep(60)\nwork.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), "10"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    process.stdin.close()
    assert process.wait(120) == 1


def test_a_job_looks_for_no_module_in_its_folder(jobs, tmp_path):
    """It works there, among a visitor's files."""
    job = jobs.new("me")
    (job.folder / "json.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(JobError):
        list(job.run(Request("a", "b")))
    assert not (tmp_path / "ran").exists()


def test_errors_name_no_folder(tmp_path, capsys):
    Request("photo.png", "video.mp4").write(tmp_path / work.REQUEST_FILE)
    with open(os.devnull) as nothing:
        process = subprocess.run(
            [sys.executable, "-c", "import threading\nfrom tpc_fast.app import work\n"
             "work._end_with_parent = lambda: None\nraise SystemExit(work.main())", str(tmp_path), "10"],
            stdin=nothing, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    assert process.returncode == 1
    error = json.loads(process.stdout.splitlines()[-1])["error"]
    assert error == "the video: there is no file or folder video.mp4"


def test_errors_have_the_words_of_the_page(tmp_path):
    """What the library advises in Python's words is left out."""
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")

    class Nobody:
        name, version, device = "nobody", "1", "cpu"

        def detect(self, image):
            return Detection(np.zeros((0, 17, 2), np.float32), np.zeros((0, 17), np.float32))

        def close(self):
            pass

    with pytest.raises(ValueError, match="reference: no person was found") as caught:
        calibrate(tmp_path / "photo.png", np.zeros((1, 64, 64, 3), np.uint8), detector=Nobody())
    said = work.explain(caught.value, tmp_path)
    assert said.startswith("the photo: no person was found")
    assert said.endswith("use a photo in which head and shoulders are visible")


def test_uploads_are_limited_and_named_by_us(tmp_path):
    with Jobs(tmp_path / "jobs", PageLimits(upload_bytes=10)) as jobs:
        (tmp_path / "large.png").write_bytes(b"12345678901")
        (tmp_path / "evil.html").write_bytes(b"1")
        (tmp_path / "fine.PNG").write_bytes(b"1")
        job = jobs.new("me")
        with pytest.raises(JobError, match=r"large.png has 0 MB: at most 0 MB are taken here"):
            job.take(tmp_path / "large.png", "photo")
        assert job.take(tmp_path / "evil.html", "photo") == "photo"  # which no browser takes for a page
        assert job.take(tmp_path / "fine.PNG", "photo") == "photo.png"
    assert list((tmp_path / "jobs").iterdir()) == []


def test_visitors_have_folders_of_their_own_for_a_while(tmp_path):
    with Jobs(tmp_path, PageLimits(kept_seconds=100)) as jobs:
        mine, yours = jobs.new("me"), jobs.new("you")
        assert mine.folder != yours.folder
        again = jobs.new("me")
        assert not mine.folder.exists()
        again.used -= 101
        jobs.sweep()
        assert not again.folder.exists()
        assert jobs.of("you") is yours
        jobs.leave("you")
        jobs.leave("nobody")
        assert not yours.folder.exists()


def test_one_at_a_time(jobs, monkeypatch, clip):
    assert jobs.begin()
    steps = visit.calibrate(jobs, "me", clip / "photo.png", clip / "clip.mp4")
    assert next(steps) == visit.WAITING
    jobs.of("me").cancel()
    with pytest.raises(Cancelled):
        next(steps)
    jobs.end()


def test_what_a_visitor_forgets(jobs, clip):
    with pytest.raises(JobError, match="Bring a photo first"):
        next(visit.calibrate(jobs, "me", None, clip / "clip.mp4"))
    with pytest.raises(JobError, match="Bring a video first"):
        next(visit.calibrate(jobs, "me", clip / "photo.png", None))
    with pytest.raises(JobError, match=r"The video is not here any more \(files are kept for 1 h\): bring it again"):
        next(visit.calibrate(jobs, "me", clip / "photo.png", clip / "removed.mp4"))
    assert jobs.of("me") is None
    with pytest.raises(JobError, match="This calibration is gone"):
        next(visit.recast(jobs, "me", (0,)))


def test_a_cast_runs_the_same_job_again(clip, jobs, monkeypatch):
    job, _ = make(clip, jobs)
    made = (job.folder / work.OUT / "calibration.json").stat().st_mtime_ns
    monkeypatch.setattr(job, "run", lambda request: iter([request]))
    asked, done = visit.recast(jobs, "me", (0,))
    assert asked == dataclasses.replace(Request.read(job.folder / work.REQUEST_FILE), cast=(0,))
    assert done.folder == job.folder
    assert made == result._made(job.folder)


@pytest.mark.parametrize("name", ["upload_bytes", "video_seconds", "job_seconds", "jobs", "kept_seconds"])
def test_limits_are_above_nothing(name):
    with pytest.raises(ValueError, match=f"{name} must be above 0, but is 0"):
        PageLimits(**{name: 0})


# Live


@pytest.fixture
def camera(tmp_path, monkeypatch):
    """A photo in a file, and streams that know where everybody is."""
    from tpc_fast.calibration.stream import Calibrator

    image, mask = reference(np.random.default_rng(2))
    Image.fromarray(np.dstack([image, mask])).save(tmp_path / "photo.png")
    step = Calibrator.step

    def found(self, frame, time=None):
        points = (PERSON + (30, 10)).astype(np.float32)[None]
        mask = np.full((1, *frame.shape[:2]), 255, np.uint8)
        return step(self, frame, time, Detection(points, np.ones((1, 17), np.float32), mask))

    monkeypatch.setattr(Calibrator, "step", found)
    init = Calibrator.__init__
    monkeypatch.setattr(Calibrator, "__init__", lambda self, *a, **o: init(self, *a, **o, reference_keypoints=PERSON))
    return tmp_path / "photo.png"


def test_live_views(camera):
    live = Live(camera, size=64)
    frame = np.full((120, 160, 3), 60, np.uint8)
    over, beside, alone = (live.step(frame, view) for view in VIEWS)
    assert over.shape == alone.shape == (64, 64, 3)
    assert beside.shape == (64, 128, 3)
    assert (over != 60).any()
    assert (alone == 0).any()
    assert live.step(frame[:100]).shape == (64, 64, 3)  # the camera was turned
    with pytest.raises(ValueError, match="view must be one of over the camera, beside it, alone, but is 'x'"):
        live.step(frame, "x")
    live.close()


def test_live_views_of_visitors(camera):
    lives = Lives(most=1)
    frame = np.zeros((120, 160, 3), np.uint8)
    lives.step("me", camera, frame, VIEWS[0])
    first = lives._views["me"][1]
    lives.step("me", camera, frame, VIEWS[0])
    assert lives._views["me"][1] is first
    lives.step("you", camera, frame, VIEWS[0])
    assert list(lives._views) == ["you"]
    lives.close()
    assert not lives._views
    assert lives.explain(ValueError(f"reference: {camera} is bad"), camera) == "the photo: photo.png is bad"


def test_pages_show_text_as_text():
    assert "<b>" not in looks.alert("<b>") + looks.note("<b>") + looks.report_frame('"<b>')
