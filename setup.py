"""Builds the compiled core. Without a compiler the package still installs: `tpc_fast.backends()` then says why.

With the same tools, the wheels and sdists of one commit have the same bytes, wherever and whenever they are built.
"""

import gzip
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup
from setuptools.command.sdist import sdist

NAMES = [
    "bindings", "bindings_quick", "marks", "mask_head", "panels", "parallel", "people", "png", "procrustes", "resample",
    "sample", "search_3d", "search_many", "simd", "track", "transforms", "warp", "yuv",
]  # fmt: skip
SOURCES = [f"csrc/{name}.cpp" for name in NAMES]
HEADERS = [*(f"csrc/{name}.h" for name in NAMES[1:]), "csrc/exchange.h", "csrc/subsets.h", "csrc/svd3.h"]
FAILURE_NOTE = "_build_failure.txt"  # read by tpc_fast/_native.py


# By the kind of compiler, for Windows has more than one. MSVC keeps to IEEE by itself; it ignores `omp simd`, whose
# reductions it does not know.
FLAGS = {
    "msvc": ["/O2"],
    "unix": ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-g0", "-Wno-maybe-uninitialized",
             "-Wno-unknown-warning-option"],
}  # fmt: skip


def shortened(error):
    """Without the compiler's whole command line, which users would meet in every warning."""
    cause = error.args[0] if error.args else error
    if isinstance(cause, subprocess.CalledProcessError):
        return f"{cause.cmd[0]!r} ended with status {cause.returncode} (`pip install -v` shows what it said)"
    return error


class BuildCore(build_ext):
    def build_extensions(self):
        flags = FLAGS["msvc" if self.compiler.compiler_type == "msvc" else "unix"]
        if flags is FLAGS["unix"]:  # neither paths of the machine that builds, nor names that nobody looks up
            here = os.path.dirname(os.path.abspath(__file__))
            flags = [*flags, f"-ffile-prefix-map={here}=."]
        for extension in self.extensions:
            extension.extra_compile_args += flags
            if sys.platform.startswith("linux"):
                extension.extra_link_args.append("-Wl,--strip-all")
        super().build_extensions()

    def build_extension(self, extension):
        note = Path(self.get_ext_fullpath(extension.name)).with_name(FAILURE_NOTE)
        note.unlink(missing_ok=True)
        try:
            super().build_extension(extension)
        except Exception as error:
            if os.environ.get("TPC_FAST_NEED_CORE") == "1":  # who makes wheels wants an error
                raise
            print(f"warning: the compiled core was not built: {error}", file=sys.stderr)
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(
                f"the compiled core could not be built at install time: {shortened(error)}\n", encoding="utf-8"
            )


class PackSources(sdist):
    """Setuptools heeds SOURCE_DATE_EPOCH in wheels, but not in sdists: pypa/setuptools issue 2133."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        if format != "gztar" or "SOURCE_DATE_EPOCH" not in os.environ:
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        moment = int(os.environ["SOURCE_DATE_EPOCH"])

        def plain(member):
            member.mtime, member.mode = moment, 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            return member

        path = f"{base_name}.tar.gz"
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=moment) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(base_dir, filter=plain)  # sorted by name
        return path


def date_by_commit():
    """Sets SOURCE_DATE_EPOCH, unless it is set: in a repository and in an sdist that was made of one."""
    here = Path(__file__).absolute().parent
    if "SOURCE_DATE_EPOCH" in os.environ:
        return
    if (here / ".git").exists():
        try:
            said = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=here, capture_output=True, text=True)
        except OSError:  # no git here
            return
        if said.returncode == 0:
            os.environ["SOURCE_DATE_EPOCH"] = said.stdout.strip()
    elif (here / "PKG-INFO").exists():
        os.environ["SOURCE_DATE_EPOCH"] = str(int((here / "PKG-INFO").stat().st_mtime))


core = Pybind11Extension(
    "tpc_fast._C",
    SOURCES,
    depends=HEADERS,  # also what puts the headers into the sdist
    cxx_std=17,
)

date_by_commit()
setup(ext_modules=[core], cmdclass={"build_ext": BuildCore, "sdist": PackSources})
