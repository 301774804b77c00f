"""The library without what Windows lacks, and with files that cannot be removed while they are open (as_windows.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks in /proc for open files"),
]
HERE = Path(__file__).parent

EVERY_MODULE = """
import importlib, pkgutil, sys
import as_windows
as_windows.install()
import tpc_fast._moved  # old names, some of whose modules warn
for module in pkgutil.walk_packages(tpc_fast.__path__, "tpc_fast."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:  # of an extra that is not installed here
        if error.name in as_windows.MODULES or error.name.startswith("tpc_fast"):
            raise
print("all")
"""

REFUSES = """
import os, sys, tempfile, types
import as_windows
as_windows.install()
ours = types.ModuleType("tpc_fast.nothing")
exec("import os as system, signal", ours.__dict__)
assert not hasattr(ours.system, "fork") and not hasattr(ours.signal, "SIGHUP") and hasattr(os, "fork")
try:
    exec("import fcntl", ours.__dict__)
    raise SystemExit("there is fcntl")
except ModuleNotFoundError:
    pass
with tempfile.TemporaryDirectory() as folder:
    inside = os.path.join(folder, "inside")
    os.mkdir(inside)
    with open(os.path.join(inside, "file"), "wb") as file:
        for call, *names in ((os.rename, inside, inside + "2"), (os.replace, file.name, file.name + "2"),
                             (os.remove, file.name)):
            try:
                call(*names)
                raise SystemExit(call.__name__)
            except PermissionError:
                pass
    os.remove(file.name)
print("all")
"""

RUN = """
import sys
import as_windows
as_windows.install()
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def run(code: str, *arguments: str) -> str:
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "ignore::EncodingWarning", "-c", code, *arguments]
    result = subprocess.run(
        command, cwd=HERE.parent, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=1200
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-6000:]
    return result.stdout


def test_what_windows_refuses_is_refused():
    assert run(REFUSES).strip() == "all"


def test_every_module_is_imported():
    assert run(EVERY_MODULE).splitlines()[-1] == "all"


@pytest.mark.parametrize(
    ("files", "which"),
    [
        ("layout cli", "not completion"),  # 20 CPU seconds
        ("hdr", "mapped_and_said and 16"),  # a file that FFmpeg reads
        ("evaluation", "misaligned or interrupted"),
        ("animate", "signed or interrupted"),
    ],
)
def test_tests_pass(files, which):
    paths = [str(HERE / f"test_{name}.py") for name in files.split()]
    assert " passed" in run(RUN, "-q", "--tb=short", "-m", "not slow", "-k", which, *paths)
