"""Names of a package that are imported when they are asked for, so that `import tpc_fast` costs little."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping

from tpc_fast import _moved


def lazy(package: str, public: dict[str, str], needs: Mapping[str, str] | None = None):
    """The `__getattr__` and `__dir__` of a package whose public names stand in modules below it.

    `__all__`, and what `dir` lists, are the names that can be had here: so `from tpc_fast import *`, `pydoc` and
    `inspect.getmembers` work without what the others need. Type checkers read the `__init__.pyi` beside it, which has
    them all (`python tests/stubs.py` writes it).

    Args:
        package: its name.
        public: name -> the module that has it, relative to the package.
            Names of the past, `_moved.NAMES`, are found, too.
        needs: module -> the optional package that it cannot be imported without; "" for all modules.
    """
    needs = needs or {}

    def needed(name):
        return needs.get(public[name], needs.get(""))

    def here():
        found = {wanted for wanted in needs.values() if importlib.util.find_spec(wanted) is not None}
        return [name for name in public if needed(name) is None or needed(name) in found]

    def find(name):
        if name == "__all__":
            return sorted([*here(), *({"__version__"} & vars(sys.modules[package]).keys())])
        if name not in public:
            return _moved.find_name(package, name)
        try:
            module = importlib.import_module(f"{package}.{public[name]}")
        except ModuleNotFoundError as error:
            if error.name != needed(name):
                raise
            raise ModuleNotFoundError(
                f"{package}.{name} needs {error.name}, which is not installed: pip install {error.name}",
                name=error.name,
            ) from error
        value = getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return find, lambda: sorted({*vars(sys.modules[package]), *here()})
