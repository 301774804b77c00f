"""Builds the compiled core. Without a compiler the package still installs: `tpc_fast.backends()` then says why."""

import sys
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

NAMES = [
    "bindings", "parallel", "people", "png", "procrustes", "resample", "simd", "track", "transforms", "warp",
]  # fmt: skip
SOURCES = [f"csrc/{name}.cpp" for name in NAMES]
HEADERS = [*(f"csrc/{name}.h" for name in NAMES[1:]), "csrc/subsets.h"]
FAILURE_NOTE = "_build_failure.txt"  # read by tpc_fast/_native.py


class BuildCore(build_ext):
    def build_extension(self, extension):
        note = Path(self.get_ext_fullpath(extension.name)).with_name(FAILURE_NOTE)
        note.unlink(missing_ok=True)
        try:
            super().build_extension(extension)
        except Exception as error:
            print(f"warning: the compiled core was not built: {error}", file=sys.stderr)
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(f"the compiled core could not be built at install time: {error}\n")


core = Pybind11Extension(
    "tpc_fast._C",
    SOURCES,
    depends=HEADERS,  # also what puts the headers into the sdist
    cxx_std=17,
    extra_compile_args=[]
    if sys.platform == "win32"
    else ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-g0", "-Wno-maybe-uninitialized"],
)

setup(ext_modules=[core], cmdclass={"build_ext": BuildCore})
