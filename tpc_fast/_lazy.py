"""Names of a package that are imported when they are asked for, so that `import tpc_fast` costs little."""

import importlib
import sys


def lazy(package: str, public: dict[str, str]):
    """The `__getattr__` and `__dir__` of a package whose public names stand in modules below it.

    Args:
        package: its name.
        public: name -> the module that has it, relative to the package.
    """

    def find(name):
        if name not in public:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{public[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return find, lambda: sorted({*vars(sys.modules[package]), *public})
