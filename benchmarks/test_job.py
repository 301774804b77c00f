"""The main job on the published sample: keypoints to files beside the original's stage, and the whole job."""

import shutil
import time

import numpy as np
import pytest

import tpc_fast
from tpc_fast.media.images import load_image
from tpc_fast.media.video import VideoReader
from tpc_fast.output.export import export
from tpc_fast.output.layout import LayoutSink
from tpc_fast.output.render import render_into
from tpc_fast.pose import PersonTracker, get_detector

cv2 = pytest.importorskip("cv2", reason="OpenCV (extra 'bench') is the peer")
torch = pytest.importorskip("torch", reason="torch (extra 'bench') is the peer")

FILES = "93 frames, keypoints to the original's PNG files"
JOB = "whole job, 93 frames, detector included"


@pytest.fixture(scope="module")
def found(sample):
    """Reference, its detection, and the detections of all frames, found once."""
    detector = get_detector()
    tracker = PersonTracker(detector)
    image, _ = load_image(sample / "reference.png")
    reference = tracker.find(image)
    frames = [frame.image for frame in VideoReader(sample / "driving.mp4")]
    detections = [tracker.step(frame) for frame in frames]
    detector.close()
    return image, reference, np.stack(frames), detections


def original_stage(image_path, mask_path, reference, detections, poses, folder):
    """Fit, warps and files of one video as the released code makes them, frame by frame (run.py; FACTS of the method).

    Five face points, one SVD a frame, two perspective warps of three channels, the mask read anew from disk for every
    frame, three PNG files of 512 x 512 at OpenCV's own settings.
    """
    for kind in ("cal_ref_img", "cal_ref_mask_img", "pose_mask_img"):
        (folder / f"0-person_{kind}").mkdir(parents=True)
    image = cv2.imread(str(image_path))
    x = torch.from_numpy(reference[:5].astype(np.float64))
    for i, (keypoints, pose) in enumerate(zip(detections, poses, strict=True)):
        y = torch.from_numpy(keypoints[:5].astype(np.float64))
        xc, yc = x - x.mean(0), y - y.mean(0)
        u, s, vt = torch.linalg.svd(yc.T @ xc)
        sign = torch.sign(torch.linalg.det(u @ vt))
        rotation = u @ torch.diag(torch.tensor([1.0, sign], dtype=torch.float64)) @ vt
        scale = (s[0] + sign * s[1]) / (xc**2).sum()
        matrix = np.eye(3)
        matrix[:2, :2] = scale * rotation
        matrix[:2, 2] = y.mean(0) - scale * rotation @ x.mean(0)
        mask = cv2.imread(str(mask_path))
        size = image.shape[1], image.shape[0]
        warped = cv2.warpPerspective(image, matrix, size, flags=cv2.INTER_CUBIC)
        warped_mask = cv2.warpPerspective(mask, matrix, size, flags=cv2.INTER_CUBIC)
        for kind, picture in (("cal_ref_img", warped), ("cal_ref_mask_img", warped_mask), ("pose_mask_img", pose)):
            cv2.imwrite(str(folder / f"0-person_{kind}" / f"{i:03d}.png"), picture)


def as_given(found):
    image, reference, frames, detections = found
    return dict(
        reference=image,
        driving=frames,
        reference_keypoints=np.column_stack([reference.keypoints[0], reference.scores[0]]),
        reference_mask=reference.mask[0],
        driving_keypoints=np.stack([np.column_stack([d.keypoints[0], d.scores[0]]) for d in detections]),
        driving_masks=np.stack([d.mask[0] for d in detections]),
    )


@pytest.fixture
def folders(tmp_path):
    """Empty folders, a new one for every round: where files were just deleted, a file system makes new ones slowly."""
    made = []

    def fresh():
        made.append(tmp_path / str(len(made)))
        made[-1].mkdir()

    yield made, fresh
    shutil.rmtree(tmp_path)


def test_files_tpc_fast(measure, found, folders):
    given = as_given(found)
    made, fresh = folders

    def job():
        calibration = tpc_fast.calibrate(**given, antialias=False)  # the original does not either
        render_into(calibration, [LayoutSink(calibration, made[-1], pose_video=False)])
        return calibration

    calibration = measure(job, 5, member="tpc_fast", work=FILES, items=93, setup=fresh, unit="frames")
    last = cv2.imread(str(made[-1] / "0-person_cal_ref_img" / "092.png"))[..., ::-1]
    assert (last == calibration.images[92][0]).all()
    assert len(list((made[-1] / "0-person_pose_mask_img").glob("*.png"))) == 93


def test_files_original(measure, found, folders, tmp_path_factory):
    made, fresh = folders
    given = tmp_path_factory.mktemp("given")
    image, reference, _, detections = found
    cv2.imwrite(str(given / "image.png"), image[..., ::-1])
    cv2.imwrite(str(given / "mask.png"), np.repeat(reference.mask[0][..., None], 3, -1))
    poses = [np.repeat(d.mask[0][..., None], 3, -1) for d in detections]
    keypoints = [d.keypoints[0] for d in detections]
    measure(
        lambda: original_stage(
            given / "image.png", given / "mask.png", reference.keypoints[0], keypoints, poses, made[-1]
        ),
        3,
        member="the original's stage",
        work=FILES,
        items=93,
        setup=fresh,
        unit="frames",
    )
    assert len(list((made[-1] / "0-person_cal_ref_img").glob("*.png"))) == 93


def test_whole_job_tpc_fast(measure, sample, folders):
    """Photo and video in; PNG files, preview, report and calibration out."""
    made, fresh = folders
    detector = get_detector()
    shares = []

    def job():
        started = time.perf_counter()
        given = sample / "reference.png", sample / "driving.mp4"
        calibration = tpc_fast.calibrate(*given, detector=detector, keep_small=True)
        export(calibration, made[-1])
        shares.append(
            (time.perf_counter() - started) / (calibration.timings["detect"] + calibration.timings["reference"])
        )
        return calibration

    calibration = measure(job, 3, member="tpc_fast", work=JOB, items=93, setup=fresh, unit="frames", shares=shares)
    detector.close()
    assert (calibration.status == "tracked").all()
    assert (made[-1] / "report.html").stat().st_size > 10_000


def test_detector_alone(measure, sample):
    """What the job's own detector passes cost without anything else."""
    detector = get_detector()
    image, _ = load_image(sample / "reference.png")
    frames = [frame.image for frame in VideoReader(sample / "driving.mp4")]

    def detect():
        tracker = PersonTracker(detector)
        tracker.find(image)
        return [tracker.step(frame) for frame in frames]

    found = measure(detect, 3, member="the detector alone", work=JOB, items=93, unit="frames")
    detector.close()
    assert all(len(d) == 1 for d in found)


def test_mediapipe_as_it_comes(measure, sample):
    """MediaPipe Pose over the video frame by frame, with masks, as its documentation shows: no rolls, no crops."""
    mp = pytest.importorskip("mediapipe")
    frames = [frame.image for frame in VideoReader(sample / "driving.mp4")]
    with mp.solutions.pose.Pose(static_image_mode=True, enable_segmentation=True) as pose:
        results = measure(
            lambda: [pose.process(f) for f in frames],
            3,
            member="MediaPipe Pose as it comes",
            work=JOB,
            items=93,
            unit="frames",
        )
    assert sum(r.pose_landmarks is not None for r in results) > 80
