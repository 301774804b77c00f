"""Every reader against mutated files: `python tests/fuzz/readers.py TARGET [SECONDS]`, with atheris where there is one.

Allowed are ValueError, TypeError, FileNotFoundError and MemoryError; anything else ends the run, and so does a file
that takes 10 CPU seconds, or more memory than the limits promise. Seeds (seeds.py) are changed by mutators.py; atheris
mixes its own changes in, which what they reach steers. With LAST=FILE each file is kept there before it is read, for
what ends the whole process.
"""

import contextlib
import importlib.util
import io
import logging
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import types
from pathlib import Path

try:
    import atheris

    watched = atheris.instrument_imports(include=["tpc_fast"])
except ImportError:
    atheris, watched = None, contextlib.nullcontext()

with watched:
    import seeds
    from mutators import mutated

    from tpc_fast.calibration.record import read_record
    from tpc_fast.calibration.result import Calibration
    from tpc_fast.cli import verify
    from tpc_fast.datasets.manifest import read_manifest
    from tpc_fast.datasets.parts import Parts
    from tpc_fast.datasets.row import RESULTS
    from tpc_fast.media.images import load_image
    from tpc_fast.media.limits import LIMITS
    from tpc_fast.media.sound import Sound
    from tpc_fast.media.video import VideoReader, VideoWriter
    from tpc_fast.output.export import export
    from tpc_fast.output.pose_video import dense_arrays, pose_pictures
    from tpc_fast.output.provenance import read_sidecar
    from tpc_fast.pose.files.given import load_masks
    from tpc_fast.pose.files.read import load_keypoints, load_whole_body

ALLOWED = (ValueError, TypeError, FileNotFoundError, MemoryError)
FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
SECONDS = 10
# Limits that even small files can reach, and what a file that keeps to them may take beside the rest of the process.
LIMITS.pixels, LIMITS.frames, LIMITS.unpacked, LIMITS.text = 1 << 20, 1000, 1 << 24, 1 << 20
MEMORY = 512 << 20
logging.disable(logging.CRITICAL)  # of what libraries say about damage


def _read(name: str, *readers):
    def run(data: bytes) -> None:
        (FOLDER / name).write_bytes(data)
        for read in readers:
            read(FOLDER / name)

    return run


def _film(path: Path) -> None:
    for _ in VideoReader(path):
        pass


def _sound(path: Path) -> None:
    with VideoWriter(FOLDER / "film.mp4", 25, (16, 16), preset="ultrafast", sound=Sound(path)) as film:
        film.write(seeds.PICTURE)


def _record(data: bytes) -> None:
    """A changed calibration.json; the number of its reader."""
    folder = seeds.calibration(FOLDER / "record")
    (folder / "calibration.json").write_bytes(data)
    read_record(folder)


def _folder(data: bytes) -> None:
    """A calibration one of whose files is changed, the one that the first byte names; rendered where it can be read."""
    folder = seeds.calibration(FOLDER / "folder")
    (folder / seeds.FILES[(data[:1] or b"0")[0] % len(seeds.FILES)]).write_bytes(data[1:])
    found = Calibration.load(folder)
    found.render(0)
    found.pose_masks[0]
    found.save(FOLDER / "saved", overwrite=True)


def _rendered(data: bytes) -> None:
    """A changed calibration.json in all that `tpc-fast render` makes of it, its film and its photo beside it."""
    folder, made = seeds.calibration(FOLDER / "rendered"), FOLDER / "made"
    (folder / "calibration.json").write_bytes(data)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    try:
        export(Calibration.load(folder), made)
    except OSError as error:  # a name that is too long for the file system
        raise ValueError from error


def _pose(data: bytes) -> None:
    """What `--pose` names: a film, or a folder of arrays; the first byte says which."""
    found = Calibration.load(seeds.calibration(FOLDER / "posed"))
    if data[:1] == b"f":
        (FOLDER / "pose.mp4").write_bytes(data[1:])
        list(pose_pictures(FOLDER / "pose.mp4", found))
        return
    folder = FOLDER / "arrays"
    folder.mkdir(exist_ok=True)
    for number in range(seeds.FRAMES):
        (folder / f"frame_{number}_densepose.npy").write_bytes(data[1:])
    dense_arrays(folder, found)


def _checkpoint(suffix: str):
    def run(data: bytes) -> None:
        from tpc_fast.diffusion.checkpoints import load_state

        (FOLDER / f"x{suffix}").write_bytes(data)
        load_state(FOLDER / f"x{suffix}")

    return run


def _configuration(data: bytes) -> None:
    from diffusers import UNet2DConditionModel

    from tpc_fast.diffusion.checkpoints import without_memory

    (FOLDER / "config.json").write_bytes(data)
    without_memory(UNet2DConditionModel, FOLDER)


def _verify(data: bytes) -> None:
    """All that `tpc-fast verify` does; the first byte says what the file is called."""
    path = FOLDER / ("p.jpg" if data[:1] == b"p" else "v.mp4")
    path.write_bytes(data[1:])
    with contextlib.redirect_stdout(io.StringIO()):
        for as_json in (False, True):
            verify.run(types.SimpleNamespace(file=str(path), trust=None, json=as_json))


def _sidecar(data: bytes) -> None:
    (FOLDER / "s.mp4").write_bytes(b"film")
    (FOLDER / "s.mp4.json").write_bytes(data)
    found = read_sidecar(FOLDER / "s.mp4")
    if found is None:
        raise ValueError("no record of ours")


def _manifest(data: bytes) -> None:
    """The first byte says of which kind it is; what is read can be stored."""
    kind = {b"c": "csv", b"j": "jsonl"}.get(data[:1], "parquet")
    (FOLDER / f"m.{kind}").write_bytes(data[1:])
    rows = read_manifest(FOLDER / f"m.{kind}")
    if importlib.util.find_spec("pyarrow"):
        output = FOLDER / "made.parquet"
        shutil.rmtree(FOLDER / ".made.parquet.parts", ignore_errors=True)
        output.unlink(missing_ok=True)
        with Parts(output, rows) as made:
            for row in rows[:3]:
                made.add([dict.fromkeys(RESULTS) | row | {"status": "ok"}])
            if rows:
                made.finish()


# Name -> (what reads it, what makes the seeds).
TARGETS = {
    "json": (_read("x.json", load_keypoints, load_whole_body), seeds.keypoint_texts),
    "npz": (_read("x.npz", load_keypoints), seeds.keypoint_archives),
    "masks": (_read("m.npz", load_masks), seeds.mask_archives),
    "pictures": (_read("x.png", load_image), seeds.pictures),
    "record": (_record, seeds.records),
    "folder": (_folder, seeds.folders),
    "rendered": (_rendered, seeds.filmed),
    "videos": (_read("x.mp4", _film), seeds.videos),
    "animations": (_read("x.webp", _film), seeds.animations),
    "sound": (_read("s.mp4", _sound), seeds.sounds),
    "pose": (_pose, seeds.poses),
    "safetensors": (_checkpoint(".safetensors"), seeds.safetensors),
    "checkpoints": (_checkpoint(".pth"), seeds.checkpoints),
    "configurations": (_configuration, seeds.configurations),
    "verify": (_verify, seeds.marked),
    "sidecars": (_sidecar, seeds.sidecars),
    "manifests": (_manifest, seeds.manifests),
}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def check(run, data: bytes) -> bool:
    """Whether a file was read; raises what must not be raised."""
    if "LAST" in os.environ:
        Path(os.environ["LAST"]).write_bytes(data)
    began, before, read = time.process_time(), _peak(), True
    try:
        run(data)
    except ALLOWED:
        read = False
    if (spent := time.process_time() - began) > SECONDS:
        raise TimeoutError(f"a file takes {spent:.0f} s")
    if _peak() - before > MEMORY:
        raise ResourceWarning(f"a file takes {(_peak() - before) >> 20} MiB")
    return read


def main(target: str, seconds: float) -> int:
    run, make = TARGETS[target]
    corpus = make()
    for number, one in enumerate(corpus):
        if not check(run, one):
            raise SystemExit(f"{target}: seed {number} cannot be read")
    seed = random.SystemRandom().randrange(1 << 32)
    random_, count, good, end = random.Random(seed), 0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(random_, random_.choice(corpus))
        try:
            good += check(run, data)
        except BaseException:
            (Path.cwd() / f"crash-{target}").write_bytes(data)
            raise
        count += 1
    print(f"{target}: {count} files, {good} of them read, nothing else than was allowed (random seed {seed})")
    return count


def guided(target: str, seconds: float) -> None:
    """Lets atheris look for files that reach more of the readers; it ends the process."""
    run, make = TARGETS[target]
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, one in enumerate(make()):
        (corpus / str(number)).write_bytes(one)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        random_ = random.Random(seed)
        found = mutated(random_, data) if random_.random() < 0.5 else atheris.Mutate(data, most)
        return found[:most]

    arguments = [sys.argv[0], f"-max_total_time={seconds:.0f}", "-max_len=65536", "-rss_limit_mb=4096", str(corpus)]
    atheris.Setup(arguments, lambda data: check(run, data), custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    name, limit = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 20
    guided(name, limit) if atheris else main(name, limit)
