"""`tpc-fast retarget`: the driving skeletons moved to the photo's person."""

import argparse
from pathlib import Path

from tpc_fast.calibration.proportions import BOUNDS
from tpc_fast.calibration.retarget import MODES
from tpc_fast.calibration.skeletons import move_skeletons
from tpc_fast.cli.terminal import progress_bar
from tpc_fast.media.files import OutputFolder
from tpc_fast.output.skeletons import PHOTO_FILE, POSE_FILE, write_skeletons
from tpc_fast.pose.files.read import load_whole_body


def _bounds(text: str) -> tuple[float, float]:
    try:
        smallest, largest = (float(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be SMALLEST:LARGEST, but is {text!r}") from None
    return smallest, largest


def add_options(command) -> None:
    command.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to make")
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it is a calibration")
    command.add_argument(
        "--place", choices=MODES, default="constant",
        help="one transform for the clip, so that all motion remains, or every frame's own, so that the torso stays",
    )  # fmt: skip
    command.add_argument(
        "--limbs", type=_bounds, default=":".join(map(str, BOUNDS)), metavar="A:B",
        help="how far head, torso, arms and legs are shortened or lengthened to the photo's; 1:1 not at all",
    )  # fmt: skip
    command.add_argument(
        "--reframe", action="store_true", help="show as much around the photo as the skeletons need, the photo smaller"
    )
    command.add_argument("--threads", type=int, metavar="N", help="of the compiled core (default: all)")


def run(options, calibrate, print_json) -> int:
    """Calibrates, moves, writes.

    Args:
        options: those of `add_options` and of a calibration.
        calibrate: called with the options; gives the Calibration.
        print_json: called with the Calibration and what else to say, for `--json`.
    """
    with OutputFolder(options.output, options.overwrite) as folder:
        calibration = calibrate(options)
        whole = None
        if options.driving_keypoints is not None:
            whole = load_whole_body(options.driving_keypoints, calibration.canvas.source)
        skeletons = move_skeletons(calibration, whole, options.place, options.limbs, options.reframe)
        with progress_bar(options, "draw") as drawn:
            write_skeletons(skeletons, calibration.fps, folder, drawn, calibration.sound)
        calibration.warnings += skeletons.outside
        calibration.write(folder)
    if options.json:
        print_json(calibration, output=options.output)
    if not options.quiet:
        for line in skeletons.outside:
            print(f"look at: {line}")
        for name in (POSE_FILE, PHOTO_FILE):
            print(Path(options.output) / name)
        print(
            f"next: drive your model with {POSE_FILE} and {PHOTO_FILE}, which share a canvas; the keypoints lie beside"
        )
    return 0
