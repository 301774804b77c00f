"""Writes what type checkers and editors read of the packages whose names are imported late: `python tests/stubs.py`."""

from pathlib import Path

import imports

ROOT = Path(__file__).parents[1]
PACKAGES = ("", "pose", "diffusion")  # below tpc_fast


def path_of(package: str) -> Path:
    return ROOT / "tpc_fast" / package / "__init__.pyi"


def _by_ruff(name: str):
    return not name[0].isupper(), name.lower()


def stub_of(package: str) -> str:
    """The text of a package's stub: every public name, from the module that has it."""
    public = imports.named_later(path_of(package).with_suffix(".py"))
    name = ".".join(filter(None, ("tpc_fast", package)))
    lines = ["# Written by tests/stubs.py from _PUBLIC of __init__.py."]
    modules = {f"{name}.{module}" for module in public.values()}
    names = {module: sorted(n for n, place in public.items() if f"{name}.{place}" == module) for module in modules}
    version = ["__version__"] if not package else []
    if version:
        names["tpc_fast._version"] = version
    lines += [f"from {module} import {n} as {n}" for module in sorted(names) for n in names[module]]
    lines += ["", "__all__ = [", *(f'    "{n}",' for n in sorted([*version, *public])), "]", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    for package in PACKAGES:
        path_of(package).write_text(stub_of(package))
