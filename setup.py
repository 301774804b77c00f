"""Builds the compiled core. Without a compiler the package still installs: `tpc_fast.backends()` then says why."""

import os
import sys
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

NAMES = [
    "bindings", "bindings_quick", "mask_head", "parallel", "people", "png", "procrustes", "resample", "sample",
    "search_3d", "search_many", "simd", "track", "transforms", "warp",
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
            note.write_text(f"the compiled core could not be built at install time: {error}\n")


core = Pybind11Extension(
    "tpc_fast._C",
    SOURCES,
    depends=HEADERS,  # also what puts the headers into the sdist
    cxx_std=17,
)

setup(ext_modules=[core], cmdclass={"build_ext": BuildCore})
