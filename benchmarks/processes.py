"""What the processes of a run use, as Linux tells it."""

import os
from pathlib import Path


def usage(processes: list[int]) -> dict[int, dict]:
    """Of each process: name, seconds of processor time (`cpu`), most memory (`bytes`)."""
    return {p: {"name": name_of(p), "cpu": cpu_seconds(p), "bytes": peak_bytes(p)} for p in processes}


def family_of(process: int) -> list[int]:
    """A process, its living children, and theirs."""
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found, waiting = [process], [process]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def cpu_seconds(process: int) -> float:
    """Processor time of a process, and of its children that have ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def name_of(process: int) -> str:
    """What a process calls itself."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def peak_bytes(process: int) -> int:
    """The most memory that a process held, what it shares with others included."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
