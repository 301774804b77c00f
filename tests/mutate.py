"""Changes the package's named constants one at a time, and lists those whose change no test notices.

    python tests/mutate.py tpc_fast/calibration/remarks.py tests/test_remarks.py
    python tests/mutate.py tpc_fast/pose/follow/shots.py:RATIO tests/test_shots.py

A constant is a number, or a tuple of numbers, that a module assigns to a name in capitals, or gives a field of a class
as its default. Each number is made twice as large, and half as large (0 becomes 1), in a copy of the repository, whose
core is that of the source tree. Not part of the test run: it takes a run of the named tests for every change, each in
a fork of this process, so that the large packages are imported once. A test run that hangs has noticed the change.
"""

import ast
import contextlib
import importlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FACTORS = (2.0, 0.5)
LONGEST = 300  # seconds of a test run
LARGE = ("torch", "numpy", "scipy", "av", "PIL", "pytest", "hypothesis")  # packages


def numbers(node: ast.AST):
    """The numbers of an assigned value: itself, those of a tuple, those of products of them."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        yield node
    elif isinstance(node, ast.Tuple | ast.List):
        for element in node.elts:
            yield from numbers(element)
    elif isinstance(node, ast.UnaryOp):
        yield from numbers(node.operand)
    elif isinstance(node, ast.BinOp):
        yield from numbers(node.left)


def constants(source: str):
    """(name, number) of the constants of a module."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.ClassDef):
            for field in statement.body:
                if isinstance(field, ast.AnnAssign) and field.value is not None:
                    yield from ((field.target.id, number) for number in numbers(field.value))
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
                pairs = list(zip(target.elts, value.elts, strict=True))
            for name, part in pairs:
                if isinstance(name, ast.Name) and name.id.strip("_").isupper():
                    yield from ((name.id, number) for number in numbers(part))


def changed(source: str, number: ast.Constant, factor: float) -> str:
    """The source with one number multiplied."""
    value = number.value * factor if number.value else 1
    text = repr(type(number.value)(value) if isinstance(number.value, int) and value == int(value) else value)
    lines = source.splitlines(keepends=True)
    line = lines[number.lineno - 1].encode()
    lines[number.lineno - 1] = (line[: number.col_offset] + text.encode() + line[number.end_col_offset :]).decode()
    return "".join(lines)


def notices(copy: Path, tests: list[str]) -> bool:
    """Whether a test fails in the copy."""
    child = os.fork()
    if child == 0:
        os._exit(_test(copy, tests))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, 1, -signal.SIGALRM):
        raise RuntimeError(f"the tests ended with {code}: {' '.join(tests)}")
    return code != 0


def _test(copy: Path, tests: list[str]) -> int:
    """Runs the tests of a copy in this process, which has imported nothing of the package."""
    import pytest

    signal.alarm(LONGEST)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path.insert(0, str(copy))
    sys.path.remove(str(ROOT / "tests"))
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests]))


def main(arguments: list[str]) -> int:
    """Exit status 1 if a change was not noticed, 2 for wrong arguments."""
    modules = [a for a in arguments if a.startswith("tpc_fast/")]
    tests = [a for a in arguments if a.startswith("tests/")]
    if not modules or not tests or len(modules) + len(tests) != len(arguments):
        print(__doc__)
        return 2
    unnoticed = 0
    os.environ.setdefault("TRITON_INTERPRET", "1")
    for package in LARGE:
        with contextlib.suppress(ImportError):
            importlib.import_module(package)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "build", "__pycache__", "results"))
        if notices(copy, tests):
            raise RuntimeError("the tests fail before anything is changed")
        for module in modules:
            path, _, only = module.partition(":")
            source = (ROOT / path).read_text(encoding="utf-8")
            for name, number in constants(source):
                if only and name != only:
                    continue
                for factor in FACTORS if number.value else FACTORS[:1]:
                    (copy / path).write_text(changed(source, number, factor), encoding="utf-8")
                    if not notices(copy, tests):
                        unnoticed += 1
                        print(f"{path}:{number.lineno}: {name}, {number.value} times {factor:g}: not noticed")
                (copy / path).write_text(source, encoding="utf-8")
    print(f"{unnoticed} changes were not noticed")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
