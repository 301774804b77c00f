"""`tpc-fast serve`: the page in the browser."""

from tpc_fast.app.limits import PageLimits
from tpc_fast.app.serve import HOST, PORT, serve
from tpc_fast.cli.terminal import INTERRUPTED

_OWN = PageLimits()


def add_options(command) -> None:
    """Adds the arguments of `serve` to an argparse parser."""
    command.add_argument("--host", default=HOST, help="address to listen on; the default is this machine alone")
    command.add_argument("--port", type=int, default=PORT, metavar="N", help="0: any that is free")
    command.add_argument("--open", action="store_true", help="open the page in the browser")
    command.add_argument(
        "--upload", type=int, default=_OWN.upload_bytes >> 20, metavar="MB", help="largest file that is taken"
    )
    command.add_argument(
        "--video", type=float, default=_OWN.video_seconds, metavar="SECONDS", help="longest part of a video"
    )
    command.add_argument(
        "--time", type=float, default=_OWN.job_seconds, metavar="SECONDS", help="longest time for one calibration"
    )
    command.add_argument("--jobs", type=int, default=_OWN.jobs, metavar="N", help="calibrations at a time")
    command.add_argument(
        "--keep", type=float, default=_OWN.kept_seconds, metavar="SECONDS", help="how long unused files are kept"
    )
    command.add_argument(
        "--room", type=int, default=_OWN.stored_bytes >> 20, metavar="MB", help="of all files; then no more are taken"
    )
    command.add_argument(
        "--name", action="append", default=[], metavar="NAME",
        help="by which the page is asked for, as behind a proxy; addresses and this machine's own names need none",
    )  # fmt: skip


def run(options) -> int:
    """Serves until interrupted; returns the exit code."""
    limits = PageLimits(
        options.upload << 20, options.video, options.time, options.jobs, options.keep, options.room << 20
    )

    def ready(address):
        print(address, flush=True)
        if not options.quiet:
            print("Ctrl-C ends it; all files of visitors are then removed", flush=True)
        if options.open:
            import webbrowser

            webbrowser.open(address)

    try:
        serve(options.host, options.port, limits, ready, not options.verbose, options.name)
    except KeyboardInterrupt:  # the way to end it
        return INTERRUPTED
    return 0
