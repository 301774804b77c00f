"""`tpc-fast animate`: a calibration and a model in, a video out. An interrupted run goes on where it was."""

import argparse
import contextlib
import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np

from tpc_fast._version import __version__
from tpc_fast.calibration.record import MASKS_FILE, REFERENCE_FILE
from tpc_fast.calibration.result import Calibration
from tpc_fast.cli.terminal import INTERRUPTED, progress_bar
from tpc_fast.diffusion.models.load import load_model
from tpc_fast.diffusion.models.registry import MODELS, Follows, is_tiny, pipeline_class, recognise, refuse_options
from tpc_fast.diffusion.resume import Progress
from tpc_fast.media.files import CALIBRATION_FILE
from tpc_fast.ops.propagation import GROUP_SIZE, MODE, MODES
from tpc_fast.output.animation import BACKGROUNDS, write_animation
from tpc_fast.output.pose_video import followed_paths, followed_videos, own_videos
from tpc_fast.output.provenance import Provenance
from tpc_fast.pose.masks.densepose import is_model

# What may be asked of a model, and is refused by one that does not take it.
_ASKED = (
    "base",
    "vae",
    "prompt",
    "negative_prompt",
    "group_size",
    "mode",
    "closed_loop",
    "noise_period",
    "strength",
    "start_step",
    "end_step",
    "regions",
    "face",
)
_OF_A_TABLE = ("actors", "address", "gpus")
_OF_A_CALL = (
    "window", "overlap", "closed_loop", "group_size", "mode", "seed", "noise_period", "strength", "start_step",
    "end_step",
)  # fmt: skip


def add_options(command) -> None:
    """Adds the arguments of `animate` to an argparse parser."""
    command.add_argument(
        "folder", metavar="CALIBRATED", help="folder that `tpc-fast calibrate` wrote, or table of `tpc-fast batch`"
    )
    command.add_argument(
        "--model", required=True, metavar="PATH_OR_ID",
        help="folder or hub id of a model's checkpoints, whose kind is recognised; puppets: the one that comes with "
        "the package, for drawn figures; tiny-random, or tiny-random:KIND: small random weights, to try the path",
    )  # fmt: skip
    command.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="video to make, .mp4; of a table, the folder for its videos",
    )
    command.add_argument("--overwrite", action="store_true", help="replace OUT.mp4 if it exists")
    command.add_argument(
        "--sign", type=_key_and_certificates, metavar="KEY,CERT",
        help="sign the video (Content Credentials): PEM files of a private key, and of its certificate and those that "
        "vouch for it",
    )  # fmt: skip
    command.add_argument(
        "--pose", metavar="FILE",
        help="video that the model follows, made from the driving video: DensePose, a skeleton ... For champ: a folder "
        "of videos or of folders of pictures. For magic-animate: also a TorchScript file that draws DensePose. "
        "(default: that of `calibrate`)",
    )  # fmt: skip
    command.add_argument(
        "--regions", action="store_true",
        help="for wan-animate: calibrated references per group and region; an experiment, not seen on trained weights",
    )  # fmt: skip
    command.add_argument("--face", metavar="VIDEO", help="for wan-animate: the driving person's face")
    add_model_options(command)
    command.add_argument(
        "--strength", type=float, metavar="S", help="how much the reference counts: 0 is off, 1 as trained (default: 1)"
    )
    command.add_argument(
        "--start-step", type=int, metavar="N", help="the first denoising step, from 0, that reads the reference"
    )
    command.add_argument("--end-step", type=int, metavar="N", help="the first that does not any more (default: none)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise and of what is drawn")
    command.add_argument("--prompt", help="none in the original")
    command.add_argument("--negative-prompt", help="likewise")
    command.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    command.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="(default: float32 on a CPU, else float16)"
    )
    command.add_argument(
        "--window", type=int, metavar="N", help="frames that the model sees at once (default: the model's)"
    )
    command.add_argument("--overlap", type=int, metavar="N", help="frames that two windows share (likewise)")
    command.add_argument(
        "--closed-loop", action=argparse.BooleanOptionalAction,
        help="windows go on from the end to the beginning (default: the model's)",
    )  # fmt: skip
    command.add_argument(
        "--noise-period", type=int, metavar="N", help="noise repeats every N frames, 0: never (default: the model's)"
    )
    command.add_argument(
        "--skip", type=int, default=0, metavar="N",
        help="leave out N frames after each that is made (MusePose's script: 1)",
    )  # fmt: skip
    command.add_argument(
        "--background", choices=BACKGROUNDS, default="reference", help="what is seen outside of the driving persons"
    )
    command.add_argument(
        "--dilate",
        type=int,
        default=0,
        metavar="N",
        help="pixels by which the driving persons grow before (default: 0)",
    )
    table = command.add_argument_group("of a table")
    table.add_argument("--actors", type=int, metavar="N", help="workers (default: one a GPU, else one a core)")
    table.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster (default: this machine)")
    table.add_argument("--gpus", type=float, metavar="N", help="GPUs that a worker takes (default: 1 if there are any)")


def add_model_options(command) -> None:
    """Adds what `animate` and `evaluate` ask about a model alike."""
    command.add_argument(
        "--base", metavar="PATH_OR_ID", help="what the model started from (Stable Diffusion), if not beside it"
    )
    command.add_argument("--vae", metavar="PATH_OR_ID", help="autoencoder, if not beside the model")
    command.add_argument("--steps", type=int, metavar="N", help="of denoising (default: the model's)")
    command.add_argument(
        "--guidance", type=_scale, metavar="S",
        help="scale; 1: none, half of the work; a pair S,S for dreampose (default: the model's)",
    )  # fmt: skip
    command.add_argument(
        "--group-size", type=int, metavar="N", help=f"frames that share a calibrated image (default: {GROUP_SIZE})"
    )
    command.add_argument("--mode", choices=MODES, help=f"whose image a group shares (default: {MODE})")


def _key_and_certificates(text: str) -> tuple[str, str]:
    key, _, certificates = text.partition(",")
    if not key or not certificates:
        raise argparse.ArgumentTypeError(f"must be two files with a comma between, but is {text!r}")
    return key, certificates


def _scale(text: str):
    """A number, or a pair of them."""
    numbers = tuple(float(part) for part in text.split(","))
    if len(numbers) > 2:
        raise ValueError
    return numbers[0] if len(numbers) == 1 else numbers


def run(options) -> int:
    """Makes the video of parsed arguments; returns the exit code.

    A run can be continued from every window of every denoising step that it finished: its latents are kept in a hidden
    file beside the output, until the video is there. Only the same command, on the same files, goes on from them.
    """
    if Path(options.folder).suffix.lower() == ".parquet":
        return _run_table(options)
    for name in _OF_A_TABLE:
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} is for tables of `tpc-fast batch`, but {options.folder} is none")
    timings, started = {}, time.perf_counter()
    output = _check_output(Path(options.output), options.overwrite)
    kind = _recognise(options)  # first: what it follows takes long to make
    calibration = Calibration.load(options.folder)
    provenance = _provenance(options, kind, calibration, output)
    _say(options, _warning(options))
    with _stage(timings, "read"):
        videos = _pose_videos(options, calibration, kind)
        if options.skip < 0:
            raise ValueError(f"--skip must be at least 0, but is {options.skip}")
        calibration = calibration.every(options.skip + 1)
        videos = {name: video[:: options.skip + 1] for name, video in videos.items()}
    progress = Progress(output, _fingerprint(options, videos))
    try:
        with _stage(timings, "load"):
            pipe = load_model(options.model, options.base, options.vae, options.device, options.dtype)
        latents = _denoise(options, pipe, calibration, videos, progress, timings)
        with _stage(timings, "decode and write"):
            with progress_bar(options, "decode and write", total=len(calibration)) as progress_of_frames:
                write_animation(
                    pipe, calibration, latents, provenance, options.model, options.background, options.dilate,
                    progress_of_frames,
                )  # fmt: skip
    except KeyboardInterrupt:
        after = f"; the same command goes on after {progress.place} of {options.steps}" if progress.kept else ""
        print(f"tpc-fast: interrupted; {output} was not written{after}", file=sys.stderr)
        return INTERRUPTED
    progress.remove()
    seconds = time.perf_counter() - started
    _say(options, f"{len(calibration)} frames in {seconds:.1f} s")
    _say(options, "time: " + ", ".join(f"{stage} {t:.2f} s" for stage, t in timings.items()))
    _say(options, str(output))
    return 0


def _run_table(options) -> int:
    """Makes the videos of a table; 0 if every one is there, 1 if some failed."""
    from tpc_fast.datasets.animate import FAILED_FILE, animate_table

    for name in ("sign", "pose", "face", "regions", "skip", "overwrite"):
        if getattr(options, name):
            raise ValueError(f"--{name} is not for tables: it must be left out")
    kind = _recognise(options)
    _say(options, _warning(options))
    asked = MODELS[kind].taken(**{name: getattr(options, name) for name in _OF_A_CALL})
    asked = {name: value for name, value in asked.items() if value is not None}
    asked |= {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    asked |= {name: text for name in ("prompt", "negative_prompt") if (text := getattr(options, name))}
    with progress_bar(options, "animate", "row") as progress:
        made = animate_table(
            options.folder, options.output, options.model, actors=options.actors, address=options.address,
            num_gpus=options.gpus, progress=progress, base=options.base, vae=options.vae, device=options.device,
            dtype=options.dtype, seed=options.seed, background=options.background, dilate=options.dilate, options=asked,
        )  # fmt: skip
    _say(options, f"{made.good} videos are there, {made.failed} rows failed; {made.rows} were done now")
    _say(options, str(Path(options.output) / FAILED_FILE if made.failed else options.output))
    return 1 if made.failed else 0


def _say(options, text: str | None) -> None:
    if text and not options.quiet:
        print(text)


def _warning(options) -> str | None:
    if is_tiny(options.model):
        return "the weights are small and random: the video shows that the path works, and nothing else; it is marked"
    return None


@contextlib.contextmanager
def _stage(timings, name):
    started = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - started


def _check_output(output: Path, overwrite: bool) -> Path:
    if not output.parent.is_dir():
        raise FileNotFoundError(f"output: there is no folder {output.parent} to put {output.name} into")
    if output.is_dir():
        raise FileExistsError(f"output: {output} is a folder: choose another place")
    if output.exists() and not overwrite:
        raise FileExistsError(f"output: {output} exists: choose another place, or overwrite it (--overwrite)")
    return output


def _provenance(options, kind: str, calibration: Calibration, output: Path) -> Provenance:
    """What the video will say of itself; a signature is tried before any work."""
    settings = {name: getattr(options, name) for name in ("steps", "guidance", "seed", "strength")}
    digest, sign = calibration.reference_sha256, None
    if options.sign is not None:
        from tpc_fast.output.credentials import Signer, photos_of

        signer = Signer(*options.sign)
        photo = signer.check(photos_of(Path(options.folder), calibration.reference_path, digest, REFERENCE_FILE))

        def sign(video):
            signer.sign(video, photo, output.name, provenance.tag)

    provenance = Provenance(output, options.model, kind, digest, sign, **settings)
    return provenance


# What goes in


def _pose_videos(options, calibration: Calibration, kind: str) -> dict[str, np.ndarray]:
    """The videos that the model follows, by name: uint8 [F, h, w, 3] on the canvas."""
    model, follows = pipeline_class(kind), MODELS[kind].follows
    pose, drawn = options.pose, follows is Follows.DENSEPOSE
    if pose is None and drawn:
        pose = calibration.options.get("pose")  # that `calibrate` was given
        if pose is not None and is_model(str(pose)):
            raise ValueError(
                f"--pose must be given again: {Path(pose).name}, which `calibrate` was given, is a program, and a "
                "calibration must not name one"
            )
    if pose is not None and not drawn and is_model(pose):
        raise ValueError(
            f"--pose must be {follows.value} of the driving video, but is a file that draws DensePose: {pose}"
        )
    if pose is not None:
        return followed_videos(followed_paths(model.videos, pose, options.face), calibration, options.device)
    videos = own_videos(options.model, kind, calibration)
    if videos is None:
        made = (
            ". It is made with `--pose FILE.pt` or `calibrate --pose FILE.pt`, a TorchScript export of DensePose, or "
            "drawn by detectron2"
        )
        raise ValueError(
            f"--pose must be {follows.value} of the driving video, which the model follows; there is none in "
            f"{options.folder} (its pose_video shows person masks){made if drawn else ''}"
        )
    return videos


def _fingerprint(options, videos: dict[str, np.ndarray]) -> str:
    """What a run depends on; a model counts by its name."""
    ignored = {"arguments", "sign"}  # as they were typed; what does not change the pictures
    ignored |= {"run", "quiet", "verbose", "output", "overwrite", "background", "dilate", "folder", "pose", "face"}
    ignored |= set(_OF_A_TABLE)
    values = {name: value for name, value in sorted(vars(options).items()) if name not in ignored}
    digest = hashlib.sha256(json.dumps([__version__, values]).encode())
    for name in (CALIBRATION_FILE, MASKS_FILE, REFERENCE_FILE):
        digest.update(hashlib.sha256((Path(options.folder) / name).read_bytes()).digest())
    for video in videos.values():
        digest.update(np.ascontiguousarray(video))
    return digest.hexdigest()


# The work


def _recognise(options) -> str:
    """The kind of the model; what the user left open is as the model has it."""
    kind, _ = recognise(options.model)
    model = pipeline_class(kind)
    refuse_options(kind, flags=True, **{name: getattr(options, name) for name in _ASKED})
    _say(options, f"model: {kind}")
    own = {name: getattr(model, name) for name in ("steps", "guidance", "window", "overlap")}
    for name, value in (own | MODELS[kind].taken(group_size=GROUP_SIZE, mode=MODE)).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return kind


def _denoise(options, pipe, calibration, videos, progress, timings):
    """The final latents [1, C, F, h, w]."""
    import torch

    latents, predicted = progress.load()
    if progress.kept:
        _say(options, f"going on after {progress.place} of {options.steps}")
    elif progress.path.exists():
        _say(options, f"{progress.path} is of another run, or damaged: it is replaced")
    if progress.steps == options.steps:
        return latents[:, :, : len(calibration)]
    asked = MODELS[pipe.kind].taken(**{name: getattr(options, name) for name in _OF_A_CALL})
    asked = {name: value for name, value in asked.items() if value is not None}
    drawn = {name: asked[name] for name in ("group_size", "mode", "seed") if name in asked}
    with _stage(timings, "encode"):
        reference = pipe.encode_reference(calibration, **drawn)
    with _stage(timings, "denoise"), progress_bar(options, "denoise", "window") as on_window:
        if pipe.resumable:
            asked |= _going_on(progress, latents, predicted)
        if options.regions:
            asked["regions"] = True
        return pipe(
            reference,
            videos if len(videos) > 1 else next(iter(videos.values())),
            options.prompt or "",
            options.negative_prompt or "",
            options.steps,
            options.guidance,
            generator=torch.Generator().manual_seed(options.seed),
            output_type="latent",
            on_window=on_window,
            **asked,
        ).frames


def _going_on(progress, latents, predicted) -> dict:
    """Options of a pipeline's call: to go on from what is kept, and to keep what is done."""

    def keep(pipe, step, t, state):
        progress.save(state["latents"], step + 1)

    def keep_window(pipe, step, done, state):
        progress.save(state["latents"], step, done, state["predicted"])

    return {
        "latents": latents,
        "first_step": progress.steps,
        "first_window": progress.windows,
        "predicted": predicted,
        "callback_on_step_end": keep,
        "callback_on_window_end": keep_window,
    }
