"""What commands share at the terminal: text that is only text, progress bars, the exit status of an interruption."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

from tpc_fast._checks import plain

INTERRUPTED = 130  # the shell's own code for Ctrl-C


class _Text:
    """A stream in which control characters are shown, not obeyed: names and messages come from files of strangers."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(plain(text))
        return len(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


class _Messages(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


def only_text() -> contextlib.AbstractContextManager:
    """`with only_text(): ...` prints no control character of a terminal on standard output."""
    if sys.stdout is None:  # closed, which `print` takes
        return contextlib.nullcontext()
    return contextlib.redirect_stdout(_Text(sys.stdout))


def log_messages(level: int) -> None:
    """Writes messages of this level and above to standard error, as text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Messages("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


@contextlib.contextmanager
def progress_bar(options, what: str, unit: str = "frame", total: int | None = None) -> Iterator[Callable]:
    """A bar with its pace and the time left, as a function `progress(done, total, *ignored)`; none if quiet."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, total=total, disable=options.quiet or None) as bar:

        def progress(done, total, *_):
            bar.total = None if total is None or total < done else total  # an estimate may be wrong
            bar.update(done - bar.n)

        yield progress
