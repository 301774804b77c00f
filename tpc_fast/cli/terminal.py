"""What commands share at the terminal: progress bars, and the exit status of an interruption."""

import contextlib
from collections.abc import Callable, Iterator

INTERRUPTED = 130  # the shell's own code for Ctrl-C


@contextlib.contextmanager
def progress_bar(options, what: str, unit: str = "frame", total: int | None = None) -> Iterator[Callable]:
    """A bar with its pace and the time left, as a function `progress(done, total, *ignored)`; none if quiet."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, total=total, disable=options.quiet or None) as bar:

        def progress(done, total, *_):
            bar.total = None if total is None or total < done else total  # an estimate may be wrong
            bar.update(done - bar.n)

        yield progress
