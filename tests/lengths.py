"""How long the functions of the package are: a longer one hides its steps from who reads it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES = 80  # of a function, its decorators left out and its docstring included: a screen and a half


def long_functions(root: Path = ROOT) -> list[str]:
    """Every function in `tpc_fast/` that has more lines, in words; kernels and the core lie elsewhere."""
    found = []
    for path in sorted((root / "tpc_fast").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > MOST_LINES:
                    found.append(f"{path.relative_to(root)}: {node.name} has {lines} lines")
    return found
