"""The law of imports, read from the source: who imports whom, inside functions too, and what the law forbids.

Every room imports from rooms below it only, and no import goes in a circle. What counts is `import a.b`,
`from a import b`, `import_module("a.b")`, and the names that a package lists in `_PUBLIC` to import them later.
"""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: From the ground up. `_moved` says where old names went, and imports nothing.
ROOMS = (
    "_version", "_extras", "_moved", "_lazy", "_native", "_dispatch", "naive", "_checks", "_torch_rules", "kernels",
    "ops", "media", "pose", "calibration", "diffusion", "output", "comfyui", "app", "demo", "evaluation", "cli",
)  # fmt: skip
#: Within the room that has rooms of its own whose order matters.
POSE = ("keypoints", "skeleton", "detect", "files", "masks", "follow")


def module_files(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name -> file, of every module of the package; `kernels/` is installed as `tpc_fast.kernels`."""
    files = {}
    for folder, name in ((root / "tpc_fast", "tpc_fast"), (root / "kernels", "tpc_fast.kernels")):
        for path in sorted(folder.rglob("*.py")):
            parts = [name, *path.relative_to(folder).with_suffix("").parts]
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imports_of(path: Path, modules) -> set[str]:
    """The modules among `modules` that a file imports, whatever its code does first.

    Raises:
        ValueError: for a relative import.
    """
    found = set()
    for module, name in _read(path.read_text(encoding="utf-8"))[0]:
        if module is None:
            raise ValueError(f"{path}: relative imports are not used here")
        inner = f"{module}.{name}"
        found.add(inner if inner in modules else module)
    return found & set(modules)


def named_later(path: Path) -> dict[str, str]:
    """What a package's `_PUBLIC` lists: name -> module, relative to the package."""
    return _read(path.read_text(encoding="utf-8"))[1]


@functools.cache
def _read(text: str) -> tuple[frozenset, dict[str, str]]:
    """(module, name or "") of all imports of a source, and its `_PUBLIC`."""
    found, public = set(), {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(None if node.level else node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
                found.add((node.args[0].value, ""))
        elif isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["_PUBLIC"]:
            public = ast.literal_eval(node.value)
    return frozenset(found), public


def graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports at any time."""
    files = module_files(root)
    return {module: imports_of(path, files) for module, path in files.items()}


def violations(root: Path = ROOT) -> list[str]:
    """Every import that the law forbids, in words."""
    files, found = module_files(root), []
    edges = graph(root)
    for module, imported in edges.items():
        for other in sorted(imported):
            if other == "tpc_fast":
                found.append(f"{module} imports the top package")
            elif module != "tpc_fast" and _level(other) > _level(module):
                found.append(f"{module} imports {other}, which is above it")
    for module, path in files.items():
        for name, place in named_later(path).items():
            if f"{module}.{place}" not in files:
                found.append(f"{module} lists {name} in {place}, which does not exist")
    return found + ["circle: " + ", ".join(circle) for circle in circles(edges)]


def _level(module: str) -> tuple[int, int]:
    """Where a module stands: its room's place, and within `pose` its own. A package itself is on top of its room."""
    parts = module.split(".")
    if parts[1] not in ROOMS:
        raise ValueError(f"{module} is in no room of the law: {', '.join(ROOMS)}")
    inside = 0
    if parts[1] == "pose":
        inside = POSE.index(parts[2]) if len(parts) > 2 else len(POSE)
    return ROOMS.index(parts[1]), inside


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan), and modules that import themselves."""
    index, low, stack, found = {}, {}, [], []

    def visit(v):
        index[v] = low[v] = len(index)
        stack.append(v)
        for w in edges[v]:
            if w not in index:
                visit(w)
                low[v] = min(low[v], low[w])
            elif w in stack:
                low[v] = min(low[v], index[w])
        if low[v] == index[v]:
            component = stack[stack.index(v) :]
            del stack[stack.index(v) :]
            if len(component) > 1 or v in edges[v]:
                found.append(sorted(component))

    for v in edges:
        if v not in index:
            visit(v)
    return found
