"""Names of a package that are imported when they are asked for, so that `import tpc_fast` costs little."""

import importlib
import sys

from tpc_fast import _moved


def lazy(package: str, public: dict[str, str]):
    """The `__getattr__` and `__dir__` of a package whose public names stand in modules below it.

    Args:
        package: its name.
        public: name -> the module that has it, relative to the package.
            Names of the past, `_moved.NAMES`, are found, too.
    """

    def find(name):
        if name not in public:
            return _moved.find_name(package, name)
        value = getattr(importlib.import_module(f"{package}.{public[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return find, lambda: sorted({*vars(sys.modules[package]), *public})
