"""Everything that is to be learned on a GPU, in one command that ends within nine minutes.

    python benchmarks/device.py --out FOLDER [--wheels FOLDER]     # on the machine with the GPU
    python benchmarks/device.py --out FOLDER --dry-run             # on a CPU: smallest sizes, nothing is measured

For a bare machine with Python 3.12, torch 2.11, triton 3.6, pytest, pytest-xdist, hypothesis, NumPy and SciPy, without
network. What else the steps and peers need is carried as wheels (47 MB, of which PyAV 35), downloaded anywhere by

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp -d wheels \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        diffusers==0.42.1 kornia==0.9.0 kornia_rs==0.2.0 roma==1.8.0 isal av

The compiled core is taken as it lies in tpc_fast/, or built first (setup.py build_ext; pybind11 and a compiler).

Every part is a process of its own with a limit, the most valuable first: one that crashes, hangs or poisons its device
loses nothing but what it had not yet measured. Rows go to FOLDER/rows.jsonl as they are measured, what parts print to
FOLDER/log.txt, and the end writes FOLDER/gpu-CARD.json: card, driver, versions, date, rows, and every goal beside what
was measured. Copied to benchmarks/results/, `table.py` makes the table of docs/measured.md of it.

Goals, written down before any run. Predictions are reckoned from machine code, not measured:

| goal | predicted |
|---|---|
| attention, heads of 40, fp16: at most 0.8 x torch's flash attention over as many pairs | 0.55 to 0.7 x |
| attention, heads of 64, 80, 160, fp16: at most 1.1 x | 0.8 to 1.1 x |
| a calibrated step: at most 1.15 x the plain one | 1.1 x |
| the original's scheme: at least 3 x a calibrated step | 3 x |
| warp of 93 frames 512x512, uint8: at most 250 us | 150 to 250 us |
| search of 93 frames: at most 90 us | 60 us |
| 1,000,000 fits of 17 points: at most 200 us | 110 to 200 us |
| 512x512 with 4 steps: at least 16 frames a second | 16 to 25 |
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 9 * 60
KERNEL_TESTS = ("tests/test_kernels.py", "tests/test_reference_attention_kernel.py")


@dataclasses.dataclass(frozen=True)
class Part:
    """A command with a limit in seconds; `tool`: a program that it needs."""

    name: str
    limit: float
    command: tuple[str, ...]
    tool: str | None = None
    environment: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Goal:
    """`measured` makes a number of the rows, or None; it must be at most (`most`) or at least the limit."""

    text: str
    limit: float
    measured: Callable[[list], float | None]
    most: bool = True


def time_of(rows, work: str, member: str) -> float | None:
    """Microseconds an item of the first row whose work begins so."""
    for row in rows:
        if row.get("work", "").startswith(work) and row.get("member") == member and "us" in row:
            return row["us"] / row["items"]
    return None


def _ratio(work, member, other, of=max) -> Callable:
    """`member` over `other`, of the works that match a pattern the largest or the smallest."""

    def measured(rows):
        names = {row["work"] for row in rows if re.match(work, row.get("work", ""))}
        times = [(time_of(rows, name, member), time_of(rows, name, other)) for name in names]
        found = [a / b for a, b in times if a and b]
        return of(found) if found else None

    return measured


def _total(work, scale=1.0) -> Callable:
    """Microseconds of ours for the items that it was given."""

    def measured(rows):
        return next((r["us"] * scale for r in rows if re.match(work, r.get("work", ""))
                     and r.get("member") == "tpc_fast" and "us" in r), None)  # fmt: skip

    return measured


def _frames_per_second(rows):
    each = time_of([r for r in rows if ", 4 steps" in r.get("work", "")], "", "tpc_fast")
    return 1e6 / each if each else None


FLASH = "torch flash_attention over as many pairs"
GOALS = (
    Goal("attention, heads of 40, fp16, over torch's flash", 0.8,
         _ratio(r"attention.*of 40,.* float16", "tpc_fast", FLASH)),
    Goal("attention, heads of 64 to 160, fp16, over torch's flash", 1.1,
         _ratio(r"attention.*of (64|80|160),.* float16", "tpc_fast", FLASH)),
    Goal("a calibrated step over the plain one", 1.15, _ratio("guided step", "tpc_fast", "no reference at all")),
    Goal("the original's scheme over a calibrated step", 3.0,
         _ratio("guided step", "the original's scheme", "tpc_fast", min), most=False),
    Goal("warp of 93 frames 512x512 uint8, us", 250, _total("warp of 93 frames 512x512.*uint8")),
    Goal("search of 93 frames, us", 90, _total("search of 131,072 subsets, 93 frames")),
    Goal("1,000,000 fits of 17 points, us", 200, _total("fit of 1,000,000")),
    Goal("frames a second, 512x512, 4 steps", 16, _frames_per_second, most=False),
)  # fmt: skip


def parts(rows: Path, dry: bool) -> list[Part]:
    """What is run, in this order."""
    python = sys.executable

    def measured(name, limit):
        script = str(ROOT / "benchmarks" / "device_parts.py")
        return Part(name, limit, (python, script, name, str(rows), *(["tiny"] if dry else [])))

    def checked(name, limit, tool, *options):
        return Part(name, limit, (tool, *options, *measured("kernels", 0).command), None if dry else tool,
                    {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})  # fmt: skip

    # Interpreted tests of all kernels take minutes: a dry run starts one of each file.
    which = ["-k", "registered or forced"] if dry else ["-k", "not compiles", "-n", "8"]
    tests = (python, "-m", "pytest", "-q", *which, *KERNEL_TESTS)
    sanitizer = ("--print-limit", "20", "--error-exitcode", "9", "--launch-timeout", "60")
    sections = ("SpeedOfLight", "Occupancy", "MemoryWorkloadAnalysis")
    counters = ("--clock-control", "none", *(x for s in sections for x in ("--section", s)), "-c", "16",
                "-k", "regex:fit_2d|search_kernel|warp_composite|attention")  # fmt: skip
    listed = [
        measured("ceilings", 40),
        Part("tests", 120, tests),
        measured("attention", 100),
        measured("step", 110),
        measured("geometry", 70),
        measured("live", 30),
        checked("memcheck", 60, "compute-sanitizer", "--tool", "memcheck", *sanitizer),
        checked("racecheck", 45, "compute-sanitizer", "--tool", "racecheck", *sanitizer),
        checked("counters", 45, "ncu", *counters),
        measured("compiled", 100),
    ]
    if dry:  # the checkers' commands cannot run; what they look at can
        listed = [p if p.name not in ("memcheck", "racecheck", "counters") else dataclasses.replace(
            measured("kernels", p.limit), name=p.name) for p in listed]  # fmt: skip
        listed = [dataclasses.replace(p, limit=3 * p.limit) for p in listed]
    return listed


def append(path: Path, row: dict) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def run_parts(listed: list[Part], out: Path, seconds: float, environment: dict) -> None:
    """Runs every part in a process group of its own; says in rows.jsonl how each ended."""
    end = time.monotonic() + seconds
    for part in listed:
        left = end - time.monotonic()
        limit = min(part.limit, left)
        if part.tool is not None and shutil.which(part.tool) is None:
            status = {"status": f"left out: there is no {part.tool}"}
        elif limit < 1:
            status = {"status": "left out: no time left"}
        else:
            status = _run(part, out, limit, environment)
        append(out / "rows.jsonl", {"part": part.name, **status})
        print(f"{seconds - (end - time.monotonic()):5.0f} s  {part.name}: {status['status']}", flush=True)


def _run(part: Part, out: Path, limit: float, environment: dict) -> dict:
    start = time.monotonic()
    with open(out / "log.txt", "ab") as log:
        log.write(f"== {part.name}: {' '.join(part.command)}\n".encode())
        log.flush()
        begin = log.tell()
        try:
            process = subprocess.Popen(
                part.command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment | part.environment,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return {"status": f"failed to start: {error}", "seconds": 0.0}
        try:
            code = process.wait(limit)
            status = "ok" if code == 0 else f"failed with exit status {code}"
        except subprocess.TimeoutExpired:
            status = f"stopped at its limit of {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    with open(out / "log.txt", "rb") as log:
        log.seek(begin)
        said = log.read().decode(errors="replace").splitlines()
    return {
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "said": said[-3 if status == "ok" else -12 :],
    }


def environment_of(out: Path, wheels: Path | None, dry: bool) -> dict:
    """Variables for the parts: where packages lie, which caches are the run's own."""
    paths = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]
    if wheels is not None:
        target = out / "site"
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target"]
        installed = subprocess.run([*command, target, *sorted(wheels.glob("*.whl"))], timeout=120)
        if installed.returncode == 0:
            paths.append(str(target))
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    if dry:
        variables |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return variables


def prepare(out: Path, environment: dict) -> None:
    """The compiled core and the kernels in place, where the package is run from its source."""
    check = "import tpc_fast, tpc_fast.kernels; assert tpc_fast.backends()['cpu'].available"
    if subprocess.run([sys.executable, "-c", check], env=environment, cwd=ROOT, capture_output=True).returncode == 0:
        return
    link = ROOT / "tpc_fast" / "kernels"
    if not link.exists():
        link.symlink_to(Path("..") / "kernels", target_is_directory=True)
    build = Part("build", 150, (sys.executable, "setup.py", "-q", "build_ext", "--inplace"))
    append(out / "rows.jsonl", {"part": "build", **_run(build, out, build.limit, environment)})


def condense(out: Path) -> dict:
    """What was measured, as it is kept."""
    lines = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    versions = next((row for row in lines if row.get("work") == "versions"), {})
    rows = [row for row in lines if "work" in row and row["work"] != "versions"]
    goals = []
    for goal in GOALS:
        got = goal.measured(rows)
        met = None if got is None else got <= goal.limit if goal.most else got >= goal.limit
        goals.append({"goal": goal.text, "limit": goal.limit, "most": goal.most, "measured": got, "met": met})
    return {
        "date": datetime.date.today().isoformat(),
        "gpu": versions.get("gpu", "unknown"), "driver": versions.get("driver", "unknown"),
        "versions": versions.get("versions", {}), "goals": goals,
        "parts": [row for row in lines if "status" in row], "rows": rows,
    }  # fmt: skip


def summary(results: dict) -> str:
    """The end of what is printed: goals, and parts that did not end well."""
    lines = [f"{results['gpu']}, driver {results['driver']}, {results['versions']}, {results['date']}"]
    for goal in results["goals"]:
        verdict = {None: "not measured", True: "met", False: "MISSED"}[goal["met"]]
        got = "" if goal["measured"] is None else f"{goal['measured']:.3g}, "
        lines.append(f"{goal['goal']}: {got}goal {'<=' if goal['most'] else '>='} {goal['limit']:g}: {verdict}")
    failed = sum("failed" in row for row in results["rows"])
    lines.append(f"{len(results['rows']) - failed} rows measured, {failed} failed or absent")
    for part in results["parts"]:
        if part["status"] != "ok":
            lines.append(f"{part['part']}: {part['status']}")
            lines += [f"    {line[:200]}" for line in part.get("said", [])[-4:]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for rows.jsonl, log.txt and gpu-CARD.json")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install for the run")
    parser.add_argument("--only", help="parts to run, separated by commas")
    parser.add_argument("--seconds", type=float, help="for all parts together")
    parser.add_argument("--dry-run", action="store_true", help="smallest sizes on the CPU, by Triton's interpreter")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    (out / "rows.jsonl").unlink(missing_ok=True)
    listed = parts(out / "rows.jsonl", options.dry_run)
    if options.only:
        wanted = options.only.split(",")
        unknown = set(wanted) - {part.name for part in listed}
        if unknown:
            parser.error(f"--only must name some of {', '.join(p.name for p in listed)}, but has {', '.join(unknown)}")
        listed = [part for part in listed if part.name in wanted]
    begin = time.monotonic()
    environment = environment_of(out, options.wheels, options.dry_run)
    prepare(out, environment)
    seconds = options.seconds or (3600 if options.dry_run else SECONDS)
    run_parts(listed, out, seconds - (time.monotonic() - begin), environment)
    results = condense(out)
    card = re.sub(r"[^a-z0-9]+", "-", results["gpu"].lower()).strip("-") if not options.dry_run else "dry-run"
    (out / f"gpu-{card}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(summary(results))


if __name__ == "__main__":
    main()
