"""The command line: `tpc-fast calibrate`, `inspect`, `retarget`, `render`, `animate`, `live`, `evaluate`, ..."""

import argparse
import contextlib
import json
import logging
import re
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

from tpc_fast import _moved
from tpc_fast._checks import plain
from tpc_fast._dispatch import backends
from tpc_fast._native import set_num_threads
from tpc_fast._version import __version__
from tpc_fast.calibration.options import parse_depth, parse_match
from tpc_fast.calibration.private import NAMES_ONLY
from tpc_fast.cli import animate, batch, comfyui, completion, live, retarget, serve, verify
from tpc_fast.cli.terminal import INTERRUPTED, progress_bar
from tpc_fast.ops.coco import SCORE_THRESHOLD
from tpc_fast.output.layout import FORMATS

FEW_TRACKED = 3  # of `--min-tracked`
EXIT_CODES = "exit codes: 0 done, 1 failed (a line on stderr says why), 2 wrong usage, 130 interrupted"
CONSENT = "Use a photo of a person only if that person agrees (docs/guides/provenance.md)"
WITH_PHOTO = ("calibrate", "inspect", "retarget", "animate", "live", "batch", "serve")
WITH_JSON = ("calibrate", "render", "inspect", "retarget", "batch", "verify")
DEMO_FILE = "picture.png"
RENDER_STAGE = "render and write"
_OTHER_NAMES = {"hold_seconds": "hold", "fade_seconds": "fade", "count": "threads", "num_gpus": "gpus"}
# What is stored under the name of an argument, and called otherwise on the command line.
_SHORT = {"reference_box": "box", "reference_point": "point", "wheel": "from"}
_POSITIONAL = (
    "reference",
    "driving",
    "folder",
    "clips",
    "manifest",
    "path",
    "shell",
    "run",
    "arguments",
    "action",
    "file",
)
KEYPOINT_FILE = "keypoints of OpenPose, DWPose, MMPose, COCO, AlphaPose, MediaPipe, or .npz with `keypoints` [F, 17, 2]"


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit code (0 done, 1 failed, 2 wrong usage, 3 few tracked, 130 interrupted)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if getattr(options, "json", False):
        options.quiet = True
    options.arguments = sys.argv[1:] if arguments is None else arguments
    level = logging.ERROR if options.quiet else logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    try:
        with _ended_as_interrupted():
            return options.run(options)
    except KeyboardInterrupt:
        print("tpc-fast: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    except (OSError, ValueError, TypeError, ImportError, RuntimeError, MemoryError) as error:
        if options.verbose:
            raise
        print(f"tpc-fast: error: {_as_option(_explain(error), options)}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def _ended_as_interrupted():
    """Makes SIGTERM and SIGHUP what Ctrl-C is, so that nothing is left behind either."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        wanted = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]  # not with nohup
        before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _explain(error) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.strerror}: {error.filename}"
    return plain(text) if not isinstance(error, MemoryError) else f"out of memory: {text}"


def _as_option(text: str, options) -> str:
    """A message that begins with the name of an argument, with the name that it has on the command line."""
    name = text.partition(" ")[0].rstrip(":")
    given = _OTHER_NAMES.get(name, name)
    if not re.fullmatch("[a-z_]+", name) or name in _POSITIONAL or not hasattr(options, given):
        return text
    return f"--{_SHORT.get(given, given).replace('_', '-')}{text[len(name) :]}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tpc-fast", description="Align a reference photo to a driving video, frame by frame.", epilog=EXIT_CODES
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"tpc-fast {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, run, help):
        epilog = f"{EXIT_CODES}. {CONSENT}" if name in WITH_PHOTO else EXIT_CODES
        command = commands.add_parser(name, help=help, description=help, formatter_class=_Help, epilog=epilog)
        command.set_defaults(run=run)
        command.add_argument("-q", "--quiet", action="store_true", help="no progress, no warnings")
        command.add_argument("-v", "--verbose", action="store_true", help="more messages, and tracebacks")
        if name in WITH_JSON:
            command.add_argument("--json", action="store_true", help="print one line of JSON and nothing else")
        return command

    calibrate = add(
        "calibrate", _calibrate, "find, fit, smooth and render: a photo and a video in, calibrated frames out"
    )
    calibrate.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to make")
    _add_output_options(calibrate, "png")
    calibrate.add_argument("--overwrite", action="store_true", help="replace OUT if it is a calibration")
    calibrate.add_argument(
        "--names-only", action="store_true",
        help="calibration.json names photo and video without their folders; `render` then cannot show the video",
    )  # fmt: skip
    calibrate.add_argument(
        "--pose", metavar="FILE",
        help="DensePose video of the driving video, or a TorchScript file, a program, that draws it; none: the person "
        "masks (default)",
    )  # fmt: skip
    calibrate.add_argument(
        "--min-tracked", type=_share, metavar="SHARE",
        help=f"exit with {FEW_TRACKED} if a person is tracked in a smaller share of the frames, 0 to 1; all is written",
    )  # fmt: skip
    calibrate.add_argument(
        "--dry-run", action="store_true", help="check files and options and say what would be done; detects nothing"
    )
    _add_calibration_options(calibrate)

    inspect = add("inspect", _inspect, "print how far photo and video are apart, person by person; writes nothing")
    _add_calibration_options(inspect)
    inspect.add_argument("--threads", type=int, metavar="N", help="of the compiled core (default: all)")

    move = add(
        "retarget", _retarget, "the driving skeletons moved to the photo's person: pose video and keypoint files"
    )
    retarget.add_options(move)
    _add_calibration_options(move)

    render = add("render", _render, "render again from an edited calibration.json, without detecting")
    render.add_argument("folder", metavar="DIR", help="what `calibrate` wrote; it is replaced when all is rendered")
    render.add_argument("-o", "--output", metavar="OUT", help="folder to make instead")
    _add_output_options(render, "as before")
    render.add_argument("--overwrite", action="store_true", help="replace OUT if it is a calibration")
    render.add_argument(
        "--pose", metavar="FILE", help="as for `calibrate` (default: the video that it was given; a program never)"
    )

    help = "make a video of a calibration with a diffusion model; goes on where it was interrupted"
    animate.add_options(add("animate", animate.run, help))

    help = "a camera in, the calibrated or animated person on the screen, frame by frame"
    live.add_options(add("live", _live, help), _size)

    help = "calibrate a table of photos and videos, with one worker a core or on a cluster; goes on where it stopped"
    batch.add_options(add("batch", _batch, help), _size)

    help = "say how a video or picture was made, as far as it tells: signature, tag"
    verify.add_options(add("verify", verify.run, help))

    _add_evaluate(add)

    _add_trials(add)
    _add_places(add)
    add("backends", _backends, "what this installation can compute with, and why not with the rest")
    return parser


def _add_trials(add) -> None:
    """What shows that it works, and what it needs for that."""
    demo = add("demo", _demo, "calibrate a clip whose every transform is known, and show the error; needs no files")
    demo.add_argument("-o", "--output", default="tpc-fast-demo", metavar="OUT", help="folder to make")
    demo.add_argument("--threads", type=int, metavar="N", help="of the compiled core")

    models = add("models", _models, "fetch the networks of the embedded detector; without it, the first use does")
    models.add_argument("action", choices=("fetch",))
    models.add_argument(
        "--from", dest="wheel", metavar="FILE", help="wheel of MediaPipe 0.10.21 (default: asks the package index)"
    )


def _add_places(add) -> None:
    """Where else it works: a browser, ComfyUI, a shell."""
    page = add("serve", serve.run, "a page in the browser, on this machine: photo and video in, calibrated frames out")
    serve.add_options(page)
    nodes = add("comfyui", comfyui.run, "put nodes into a ComfyUI folder, take them out, or pack them for its registry")
    comfyui.add_options(nodes)
    shell = add("completion", _completion, "print what a shell needs to complete commands, options and files")
    completion.add_options(shell)


def _add_evaluate(add) -> None:
    evaluate = add("evaluate", _evaluate, "compare alignments on clips: tables, plots and worst frames on one page")
    evaluate.add_argument(
        "clips", nargs="*", metavar="CLIP", help="videos, folders with reference.* and driving.*, or folders of these"
    )
    evaluate.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to make, or to go on in")
    evaluate.add_argument(
        "--protocol", choices=("clips", "misaligned", "synthetic", "puppets"), default="clips",
        help="clips as they are; also with references turned and scaled; a camera path with a known truth; or drawn "
        "figures whose photos are turned and scaled, animated by the model that comes with the package",
    )  # fmt: skip
    for name, default, help in (
        ("--methods", "none,face,all,subset", "which keypoints are fitted: of none, face, all, subset, fixed:N"),
        ("--models", "similarity", "what is fitted: of translation, linear, similarity, affine"),
        ("--smooth", "none,offline", "of none, causal, offline; similarities only"),
    ):
        evaluate.add_argument(name, type=_list, default=default, metavar="LIST", help=help)
    evaluate.add_argument("--size", type=_size, default=512, metavar="N|HxW", help="of the canvas, pixels")
    evaluate.add_argument("--frames", type=_frames, metavar="A:B", help="use frames A to B - 1 only")
    evaluate.add_argument("--reference-frame", type=int, default=0, metavar="N", help="of a video without a reference")
    evaluate.add_argument("--detector", help="name of the detector (default: the embedded one)")
    evaluate.add_argument("--rotations", type=int, default=12, metavar="N", help="of the reference, evenly round")
    evaluate.add_argument("--scales", type=_numbers, default="0.4,0.6,1,1.5,2", metavar="LIST", help="of the reference")
    evaluate.add_argument("--seed", type=int, default=0, metavar="N", help="of shifts and bootstrap")
    evaluate.add_argument(
        "--keypoints", choices=("detected", "given"), default="detected",
        help="of misaligned references: seen by the detector, or moved along",
    )  # fmt: skip
    evaluate.add_argument("--whole", action="store_true", help="misaligned references are not cut off by their picture")
    evaluate.add_argument("--images", action="store_true", help="compare pixels, too, where the truth is shown")
    evaluate.add_argument("--weights", metavar="DIR", help="files of the networks of LPIPS, FID, FID-VID and FVD")
    evaluate.add_argument(
        "--model", metavar="PATH_OR_ID",
        help="compare the videos that it makes, too; as for animate; what it follows lies in the clip's folder: "
        "densepose.mp4 for magic-animate and dreampose, depth.mp4, normal.mp4, semantic_map.mp4 and dwpose.mp4 for "
        "champ, else pose.mp4, and face.mp4 for wan-animate",
    )  # fmt: skip
    animate.add_model_options(evaluate)
    evaluate.add_argument(
        "--propagation", type=_integers, default=(), metavar="LIST", help="group sizes to compare, as 1,2,4,8"
    )
    evaluate.add_argument("--no-pictures", dest="pictures", action="store_false", help="no worst frames on the page")
    evaluate.add_argument("--jobs", type=int, default=1, metavar="N", help="clips at a time")
    evaluate.add_argument("--threads", type=int, metavar="N", help="of the compiled core (default: all)")


def _list(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between, but is {text!r}") from None


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be integers with commas between, but is {text!r}") from None


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except those that say nothing."""

    def _get_help_string(self, action):
        silent = any(action.default is value for value in (None, False, True)) or action.default in ("", (), [])
        silent = silent or "default:" in action.help
        return action.help if silent else super()._get_help_string(action)


def _add_calibration_options(command) -> None:
    command.add_argument("reference", metavar="REFERENCE", help="photo of the person or persons")
    command.add_argument("driving", metavar="DRIVING", help="video (or folder of pictures) of the motion")
    command.add_argument("--size", type=_size, default=512, metavar="N|HxW", help="of the canvas, pixels")
    command.add_argument(
        "--resize", choices=("pad", "stretch"), default="pad", help="keep the aspect ratio, or fill the canvas"
    )
    command.add_argument("--fit", choices=("pad", "squeeze"), help=argparse.SUPPRESS)  # until the next release
    command.add_argument("--subset", default="optimal", help="keypoints that are fitted: optimal, face, all, fixed:N")
    command.add_argument("--smooth", choices=("offline", "causal", "none"), default="offline", help="of the transforms")
    command.add_argument(
        "--motion",
        choices=("frame", "constant"),
        default="frame",
        help="constant: one transform for each shot, so that whoever is far away stays far away",
    )
    command.add_argument(
        "--cuts",
        type=_cuts,
        default="auto",
        metavar="auto|none|FRAME,...",
        help="where new shots begin: found, nowhere, or with these frames; shots are followed apart",
    )
    command.add_argument("--frames", type=_frames, metavar="A:B", help="use frames A to B - 1 only")
    command.add_argument(
        "--detector",
        metavar="NAME",
        help="blazepose, mediapipe, rtmlib or mmpose, with options as blazepose:people=2 or "
        "rtmlib:pose=FILE,detect=FILE (default: what is installed)",
    )
    command.add_argument(
        "--score-threshold", type=float, default=SCORE_THRESHOLD, metavar="S", help="keypoints below it are missing"
    )
    command.add_argument("--reference-keypoints", metavar="FILE", help=f"{KEYPOINT_FILE}: no detector for the photo")
    command.add_argument("--reference-mask", metavar="FILE", help="picture of the person's mask")
    for name, what, form, help in (
        ("", "reference", "box", "around the person of the photo: for drawings that detectors miss"),
        ("", "reference", "point", "on the person of the photo who is meant, if it shows several"),
        ("driving-", "driving", "box", "around the person to follow, in the first frame that is used"),
        ("driving-", "driving", "point", "on the person to follow, in the first frame that is used"),
    ):
        command.add_argument(
            f"--{name}{form}", dest=f"{what}_{form}", type=_numbers, help=f"{help} (pixels from the top left)",
            metavar="X,Y,W,H" if form == "box" else "X,Y",
        )  # fmt: skip
    command.add_argument("--driving-keypoints", metavar="FILE", help=f"{KEYPOINT_FILE}: no detector for the video")
    command.add_argument(
        "--driving-masks", metavar="PATH", help="their masks: video, folder of pictures or folders, .npz"
    )
    command.add_argument(
        "--segmenter",
        metavar="NAME",
        help="sam:MODEL, sam2:MODEL, segment-anything:FILE or densepose:FILE makes the masks that are not given "
        "(default: the detector)",
    )
    command.add_argument("--clean-masks", action="store_true", help="largest component of each mask, without holes")
    command.add_argument("--cache", metavar="FILE", help=".npz that keeps the video's detections for the next run")
    command.add_argument(
        "--interpolation", choices=("cubic", "bilinear", "nearest"), default="cubic", help="of the warp"
    )
    command.add_argument("--no-antialias", dest="antialias", action="store_false", help="do not blur before shrinking")
    command.add_argument("--hold", type=float, default=1.0, metavar="SECONDS", help="how long an unseen person is held")
    command.add_argument("--fade", type=float, default=0.5, metavar="SECONDS", help="how long fading out takes")
    command.add_argument(
        "--match",
        type=parse_match,
        default="auto",
        metavar="HOW",
        help="who plays whom: auto, left-to-right, columns (of given keypoints), or pairs REFERENCE:DRIVING as 0:1,1:0",
    )
    command.add_argument(
        "--depth",
        type=parse_depth,
        default="auto",
        metavar="HOW",
        help="who stands in front: auto (lower feet, or larger), or the persons from back to front as 1,0",
    )


def _add_output_options(command, default_format: str) -> None:
    command.add_argument("--format", choices=FORMATS, help=f"of the calibrated frames (default: {default_format})")
    command.add_argument("--no-preview", dest="preview", action="store_false", help="do not write preview.mp4")
    command.add_argument("--no-report", dest="report", action="store_false", help="do not write report.html")
    command.add_argument("--threads", type=int, metavar="N", help="of the compiled core (default: all)")


def _size(text: str):
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must be N or HxW, but is {text!r}")
    height = int(match[1])
    return (height, int(match[2]) if match[2] else height)


def _cuts(text: str):
    return text if text in ("auto", "none") else _integers(text)


def _frames(text: str) -> slice:
    match = re.fullmatch(r"(\d*):(\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must be A:B, A: or :B, but is {text!r}")
    start, stop = (int(n) if n else None for n in match.groups())
    if stop is not None and stop <= (start or 0):
        raise argparse.ArgumentTypeError(f"must select a frame, but is {text!r}")
    return slice(start, stop)


def _threads(options) -> None:
    if options.threads is not None:
        set_num_threads(options.threads)


def _calibrate(options) -> int:
    from tpc_fast.media.files import OutputFolder

    _threads(options)
    started = time.perf_counter()
    _check_pose(options)
    if options.dry_run:
        return _dry_run(options)
    with OutputFolder(options.output, options.overwrite) as folder:
        calibration = _calibration(options)
        if options.names_only:
            calibration.options[NAMES_ONLY] = True
        _write(options, calibration, folder)
    _summary(options, calibration, options.output, time.perf_counter() - started)
    return _verdict(options, calibration)


def _verdict(options, calibration) -> int:
    """The exit code: whether as many frames are tracked as `--min-tracked` asks for, of every person."""
    if options.min_tracked is None:
        return 0
    shares = (calibration.status == "tracked").mean(0)
    if shares.min() >= options.min_tracked:
        return 0
    person = int(shares.argmin())
    print(
        f"tpc-fast: person {person} is tracked in {shares[person]:.0%} of the frames, but --min-tracked is "
        f"{options.min_tracked:g}",
        file=sys.stderr,
    )
    return FEW_TRACKED


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, but is {text!r}")
    return share


def _dry_run(options) -> int:
    """Reads what is cheap to read of photo, video and keypoints, and says what a run would make."""
    from tpc_fast.calibration.options import Options
    from tpc_fast.media.fetch import fetched
    from tpc_fast.media.files import OutputFolder
    from tpc_fast.media.images import load_image
    from tpc_fast.media.video import VideoReader
    from tpc_fast.pose.files.read import load_keypoints

    photo = load_image(fetched(options.reference, "reference"))[0]
    reader = VideoReader(fetched(options.driving, "driving"), frames=options.frames)
    Options.checked(size=options.size, resize=options.resize, subset=options.subset, smooth=options.smooth)
    for path, size in ((options.reference_keypoints, photo.shape[:2]), (options.driving_keypoints, reader.size)):
        if path is not None:
            load_keypoints(path, size)
    OutputFolder(options.output, options.overwrite).check()
    if not options.quiet:
        for what, (height, width) in (("photo", photo.shape[:2]), ("video", reader.size)):
            print(f"{what}: {width} x {height}")
        print(f"would write {options.format or 'png'} frames into {options.output}; nothing was written")
    return 0


def _calibration(options):
    """The calibration that the options of `_add_calibration_options` ask for."""
    return _detect_and_fit(
        options,
        options.reference,
        options.driving,
        size=options.size,
        resize=options.resize if options.fit is None else None,
        fit=options.fit,
        subset=options.subset,
        smooth=options.smooth,
        motion=options.motion,
        cuts=options.cuts,
        frames=options.frames,
        detector=options.detector,
        score_threshold=options.score_threshold,
        reference_keypoints=options.reference_keypoints,
        reference_mask=options.reference_mask,
        driving_keypoints=options.driving_keypoints,
        driving_masks=options.driving_masks,
        cache=options.cache,
        interpolation=options.interpolation,
        antialias=options.antialias,
        hold_seconds=options.hold,
        fade_seconds=options.fade,
        match=options.match,
        depth=options.depth,
        segmenter=options.segmenter,
        clean_masks=options.clean_masks,
        reference_box=options.reference_box,
        reference_point=options.reference_point,
        driving_box=options.driving_box,
        driving_point=options.driving_point,
    )


def _inspect(options) -> int:
    from tpc_fast.calibration.summary import describe, summarise

    _threads(options)
    calibration = _calibration(options)
    if options.json:
        return _print_json(calibration)
    for summary in summarise(calibration):
        print(f"person {summary.person}")
        for title, text in describe(summary).items():
            print(f"  {title + ':':<22}{text}")
    if calibration.cuts:
        print(f"cuts at frames {', '.join(map(str, calibration.cuts))}")
    print("look at:" if calibration.warnings else "nothing stands out")
    for warning in calibration.warnings:
        print(f"  {warning}")
    return 0


def _detect_and_fit(options, reference, driving, **arguments):
    from tpc_fast.calibration.video import calibrate

    with progress_bar(options, "detect and fit") as progress:
        shown = getattr(options, "preview", False) or getattr(options, "report", False)
        return calibrate(reference, driving, progress=progress, keep_small=shown, **arguments)


def _write(options, calibration, folder: Path) -> None:
    from tpc_fast.output.export import export

    with progress_bar(options, "render and write") as progress:
        fmt = options.format or calibration.options.get("format", "png")
        export(calibration, folder, fmt, options.preview, options.report, getattr(options, "pose", None), progress)


def _check_pose(options) -> None:
    from tpc_fast.output.export import NO_POSE

    if options.pose not in (None, NO_POSE) and not Path(options.pose).exists():
        raise FileNotFoundError(f"pose: there is no file {options.pose!r}")


def _render(options) -> int:
    from tpc_fast.calibration.result import Calibration
    from tpc_fast.media.files import OutputFolder

    _threads(options)
    started = time.perf_counter()
    calibration = Calibration.load(options.folder)
    output = options.output or options.folder
    with OutputFolder(output, options.overwrite or options.output is None) as folder:
        _write(options, calibration, folder)
    calibration.timings = {RENDER_STAGE: calibration.timings[RENDER_STAGE]}
    _summary(options, calibration, output, time.perf_counter() - started)
    return 0


def _retarget(options) -> int:
    _threads(options)
    return retarget.run(options, _calibration, _print_json)


def _batch(options) -> int:
    return batch.run(options)


def _live(options) -> int:
    _threads(options)
    return live.run(options)


def _print_json(calibration, **more) -> int:
    """One line for scripts."""
    counts = {status: int((calibration.status == status).sum()) for status in dict.fromkeys(calibration.status.flat)}
    print(
        json.dumps(
            {
                "frames": len(calibration), "persons": calibration.persons, "fps": calibration.fps,
                "size": list(calibration.size), "status": counts, "cuts": [int(cut) for cut in calibration.cuts],
                "detector": calibration.detector, "warnings": list(calibration.warnings), **more,
            }
        )
    )  # fmt: skip
    return 0


def _summary(options, calibration, output, seconds: float) -> None:
    if getattr(options, "json", False):
        _print_json(calibration, output=str(output), seconds=round(seconds, 3))
    if options.quiet or getattr(options, "json", False):
        return
    counts = ", ".join(f"{int((calibration.status == s).sum())} {s}" for s in dict.fromkeys(calibration.status.flat))
    print(f"{len(calibration)} frames ({counts}) in {seconds:.1f} s, {len(calibration) / seconds:.1f} frames/s")
    if calibration.device:
        print(f"detector: {calibration.detector} on {calibration.device}")
    if calibration.segmenter:
        print(f"segmenter: {calibration.segmenter} on {calibration.segmenter_device}")
    stages = ", ".join(f"{stage} {t:.2f} s" for stage, t in calibration.timings.items() if t >= 0.005)
    print(f"time: {stages}")
    for path in ("report.html", "preview.mp4", DEMO_FILE):
        if (Path(output) / path).exists():
            print(Path(output) / path)
    if options.run is _calibrate:
        look = "look at preview.mp4 and report.html, then " if options.preview and options.report else ""
        print(f"next: {look}animate with `tpc-fast animate {output} --model PATH_OR_ID`, or use the frames elsewhere")


def _demo(options) -> int:
    from tpc_fast import demo
    from tpc_fast.media.files import OutputFolder
    from tpc_fast.media.png import write_png

    _threads(options)
    options.format, options.preview, options.report = None, True, True
    started = time.perf_counter()
    photo, camera = demo.load_photo(), demo.camera_path()
    # Its own output of an earlier run may go, a calibration of the user's not.
    with OutputFolder(options.output, overwrite=(Path(options.output) / DEMO_FILE).exists()) as folder:
        reference, driving = folder / "photo.png", folder / "driving.mp4"
        write_png(reference, photo)
        demo.write_clip(photo, driving, camera)
        calibration = _detect_and_fit(options, reference, driving)
        write_png(folder / DEMO_FILE, demo.picture(calibration))  # before the record, which lists all files
        _write(options, calibration, folder)
    errors = demo.Errors.of(calibration.matrices, camera)
    if not options.quiet:
        print(errors.table())
    _summary(options, calibration, options.output, time.perf_counter() - started)
    if not errors.within:
        print("tpc-fast: error: the calibration is out of tolerance", file=sys.stderr)
        return 1
    return 0


def _models(options) -> int:
    from tpc_fast.pose.detect import model_files

    print(model_files.fetch(options.wheel))
    return 0


def _evaluate(options) -> int:
    from tpc_fast.evaluation.run import PAGE_FILE, evaluate

    _threads(options)
    if options.protocol == "puppets":
        return _evaluate_puppets(options)
    started = time.perf_counter()
    names = "protocol methods models smooth size frames reference_frame detector rotations scales seed keypoints whole"
    names += " images weights model base vae steps guidance group_size mode propagation pictures jobs"
    with progress_bar(options, "evaluate", "clip") as progress:
        try:
            evaluation = evaluate(
                options.clips,
                options.output,
                progress=progress,
                command=shlex.join(["tpc-fast", *options.arguments]),
                **{name: getattr(options, name) for name in names.split()},
            )
        except KeyboardInterrupt:
            print("tpc-fast: interrupted; the same command goes on with what is left", file=sys.stderr)
            return INTERRUPTED
    for clip, why in evaluation.failures.items():
        print(f"tpc-fast: {clip} could not be evaluated: {why}", file=sys.stderr)
    if not options.quiet:
        print(f"{len(evaluation.results)} clips in {time.perf_counter() - started:.1f} s")
        print(Path(options.output) / PAGE_FILE)
    return 0


def _evaluate_puppets(options) -> int:
    from tpc_fast.evaluation import puppets, puppets_clips
    from tpc_fast.evaluation.puppets_protocol import evaluate_puppets

    if options.clips:
        raise ValueError(f"clips must be left out: the protocol puppets draws its own, but are {options.clips}")
    with progress_bar(options, "evaluate", "cell") as progress:
        rows, clips = evaluate_puppets(
            options.output, options.model or "puppets", options.rotations, options.scales, progress=progress
        )
    if not options.quiet:
        print(f"{puppets.table(rows)}\n\n{puppets_clips.table(clips)}")
    return 0


def _completion(options) -> int:
    print(completion.script(_parser(), options.shell))
    return 0


def _backends(options) -> int:
    for name, status in backends().items():
        print(f"{name}: {'available' if status.available else 'absent'}: {status.detail}")
        for reason in status.reasons:
            print(f"    {reason}")
    return 0


_moved.also_a_function(__name__)

if __name__ == "__main__":
    sys.exit(main())
