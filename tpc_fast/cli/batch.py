"""`tpc-fast batch`: a table of photos and videos in, transforms, masks and quality out."""

import json
import sys
from pathlib import Path

from tpc_fast.cli.terminal import INTERRUPTED, progress_bar
from tpc_fast.datasets.batch import calibrate_table


def add_options(command, size) -> None:
    command.add_argument(
        "manifest", metavar="MANIFEST",
        help=".csv, .jsonl or .parquet with the columns reference and driving: paths, or URLs that fsspec knows",
    )  # fmt: skip
    command.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT.parquet",
        help="table to make, or to go on with; failures beside it",
    )
    command.add_argument("--actors", type=int, metavar="N", help="workers of one thread each (default: all cores)")
    command.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster (default: this machine)")
    command.add_argument(
        "--within", metavar="DIR", help="for a MANIFEST of strangers: rows that name files elsewhere, or URLs, fail"
    )
    command.add_argument("--retry-failed", action="store_true", help="try rows again that failed")
    command.add_argument("--no-page", dest="page", action="store_false", help="do not write OUT.html")
    command.add_argument("--detector", metavar="NAME", help="as for calibrate (default: the embedded one, one thread)")
    command.add_argument("--size", type=size, default=512, metavar="N|HxW", help="of the canvas, pixels")
    command.add_argument("--subset", default="optimal", help="keypoints that are fitted: optimal, face, all, fixed:N")


def run(options) -> int:
    """Works through the manifest; 0 if every row is good, 1 if some failed."""
    try:
        with progress_bar(options, "batch", "row") as show:
            done = calibrate_table(
                options.manifest,
                options.output,
                actors=options.actors,
                address=options.address,
                detector=options.detector,
                options={"size": options.size, "subset": options.subset},
                within=options.within,
                retry_failed=options.retry_failed,
                page=options.page,
                progress=show,
            )
    except KeyboardInterrupt:
        print("tpc-fast: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        print(json.dumps(done._asdict()))
    if not options.quiet:
        print(f"{done.good} rows are good, {done.failed} failed; {done.rows} were done in {done.seconds:.0f} s")
        output = Path(options.output)
        print(output)
        if done.failed:
            print(f"why they failed: {output.with_suffix('.failed.parquet')}")
        if options.page:
            print(f"a page about all: {output.with_suffix('.html')}")
    return 1 if done.failed else 0
