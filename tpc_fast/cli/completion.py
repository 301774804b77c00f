"""`tpc-fast completion SHELL`: what a shell needs to complete commands, options and files, made by shtab."""

import argparse

from tpc_fast._extras import INSTALL

SHELLS = ("bash", "zsh", "tcsh")
_FOLDERS = ("DIR", "PATH")
_FILES = (
    "FILE", "PHOTO", "VIDEO", "REFERENCE", "DRIVING", "CLIP", "CALIBRATED", "MANIFEST", "OUT", "OUT.mp4",
    "OUT.parquet", "PATH_OR_ID",
)  # fmt: skip


def add_options(command) -> None:
    """Adds the arguments of `completion` to an argparse parser."""
    command.add_argument("shell", choices=SHELLS)


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell.

    Raises:
        ImportError: without shtab; says how to install it.
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError(f"completion needs shtab: {INSTALL['completion']}") from error
    _name_files(parser, shtab)
    return shtab.complete(parser, shell)


def _name_files(parser, shtab) -> None:
    """Says of every argument that is a file or a folder that it is one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _name_files(command, shtab)
        elif action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY
        elif action.metavar in _FILES:
            action.complete = shtab.FILE
