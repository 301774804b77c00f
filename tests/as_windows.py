"""What Windows lacks or refuses, on Linux: `install()` in a fresh process, before tpc_fast is imported.

- For modules of tpc_fast: no fcntl, resource, pwd, ...; no fork, owners or O_CLOEXEC in `os`; no SIGHUP in `signal`.
- For all: a file that this process has open, or mapped, is not renamed, replaced or removed, nor a folder with one in
  it. Text of tpc_fast without a named encoding is an error (with `-X warn_default_encoding`): Windows has others.
"""

import builtins
import os
import signal
import sys
import types
import warnings

MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "curses", "readline", "posix")
LACKS = {
    "os": (
        "fork", "forkpty", "register_at_fork", "getuid", "geteuid", "getgid", "getegid", "getgroups", "setsid",
        "killpg", "getpgid", "getpgrp", "setpgid", "chown", "lchown", "fchown", "mkfifo", "nice", "uname", "statvfs",
        "fstatvfs", "sysconf", "getloadavg", "sched_getaffinity", "sched_setaffinity", "posix_fadvise",
        "posix_fallocate", "pread", "pwrite", "sendfile", "sync", "fdatasync", "wait", "WNOHANG", "fchdir",
        "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_SYNC", "O_DIRECT", "O_TMPFILE",
    ),
    "signal": (
        "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGCHLD", "SIGCONT", "SIGSTOP",
        "SIGTSTP", "alarm", "setitimer", "pause", "pthread_kill", "pthread_sigmask", "sigwait",
    ),
}  # fmt: skip


def install() -> None:
    poor = {name: _without(module, LACKS[name]) for name, module in (("os", os), ("signal", signal))}
    plain = builtins.__import__

    def imported(name, globals=None, locals=None, fromlist=(), level=0):
        if str((globals or {}).get("__name__", "")).partition(".")[0] == "tpc_fast" and level == 0:
            if name in MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in poor:
                return poor[name]
        return plain(name, globals, locals, fromlist, level)

    builtins.__import__ = imported
    warnings.filterwarnings("error", category=EncodingWarning, module="tpc_fast")
    sys.addaudithook(_refuse)


def _without(module, names):
    poor = types.ModuleType(module.__name__)
    poor.__dict__.update({name: value for name, value in vars(module).items() if name not in names})
    return poor


def _refuse(event: str, arguments: tuple) -> None:
    if event == "os.rename":
        source, target, source_folder, target_folder = arguments
        named = [(source, source_folder), (target, target_folder)]
    elif event in ("os.remove", "os.rmdir"):
        named = [arguments]
    else:
        return
    frame = sys._getframe(1)
    if frame.f_code.co_name == "TemporaryFile":  # where this system unlinks, Windows has a flag of the open file
        return
    held = set(_held())
    for path, folder in named:
        whole = _whole(path, folder)
        for file in held:
            if file == whole or file.startswith(whole + os.sep):
                raise PermissionError(13, f"as on Windows, no {event} of a file in use: {file}", whole)


def _whole(path, folder: int) -> str:
    base = os.getcwd() if folder == -1 else os.readlink(f"/proc/self/fd/{folder}")
    path = os.path.join(base, os.fsdecode(path))
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _held():
    """The files that this process has open or mapped; folders are not among them."""
    for number in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # that of the listing
            continue
        if os.path.isfile(path):
            yield path
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = line.split(maxsplit=5)[5:]
            if path and path[0].startswith("/"):
                yield path[0].rstrip("\n")
