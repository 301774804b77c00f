"""The files of retargeted skeletons."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tpc_fast.calibration.skeletons import Skeletons
from tpc_fast.media.png import write_png
from tpc_fast.media.sound import Sound
from tpc_fast.media.video import VideoWriter
from tpc_fast.pose.files.whole_body import save_dwpose, save_openpose, save_posedata
from tpc_fast.pose.skeleton import draw_whole_bodies

POSE_FILE, PHOTO_FILE = "pose.mp4", "photo.png"
THICKNESS = 4 / 512  # half of a bone's: OpenPose's 4 pixels of a picture of 512


def pose_frames(skeletons: Skeletons) -> Iterator[np.ndarray]:
    """The skeletons drawn as DWPose does, on black: uint8 [h, w, 3] for every frame."""
    people = skeletons.people
    width = max(1, round(THICKNESS * min(people.size)))
    for points, scores in zip(people.keypoints, people.scores, strict=True):
        yield draw_whole_bodies(points, scores, people.size, width=width)


def write_skeletons(skeletons: Skeletons, fps: float, folder: Path, progress=None, sound: Sound | None = None) -> None:
    """Writes into an existing folder: pose.mp4, photo.png, openpose.json, dwpose.npz, and a posedata.json a person.

    All in the pixels of one canvas. Of several persons the file of the second is posedata-1.json, and so on.

    Args:
        skeletons: what to write.
        fps: of the video.
        folder: an existing folder.
        progress: called as `progress(done, total)` after every frame.
        sound: what is heard in the pose video.
    """
    people = skeletons.people
    with VideoWriter(folder / POSE_FILE, fps, people.size, sound=sound) as writer:
        for done, picture in enumerate(pose_frames(skeletons), 1):
            writer.write(picture)
            if progress is not None:
                progress(done, len(people.keypoints))
    write_png(folder / PHOTO_FILE, skeletons.photo)
    save_openpose(folder / "openpose.json", people)
    save_dwpose(folder / "dwpose.npz", people)
    for person in range(people.keypoints.shape[1]):
        save_posedata(folder / (f"posedata-{person}.json" if person else "posedata.json"), people, person)
