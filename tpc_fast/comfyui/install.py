"""Puts the nodes into a ComfyUI folder and takes them out again: a loader of a few lines in `custom_nodes`."""

import os
import shutil
from pathlib import Path

from tpc_fast.media.files import whole_file

FOLDER = "tpc_fast_nodes"
MARK = "# Written by tpc-fast comfyui install; `tpc-fast comfyui uninstall` removes it.\n"
LOADER = MARK + "from tpc_fast.comfyui.nodes import comfy_entrypoint  # noqa: F401\n"
WORKFLOWS = Path(__file__).parent / "workflows"
_WORKFLOWS_THERE = "example_workflows"  # where ComfyUI looks for a node pack's


def install(path: str | os.PathLike) -> Path:
    """Writes the loader and the example workflows into `custom_nodes` of a ComfyUI folder.

    The package itself must be installed in the Python environment that runs ComfyUI.

    Args:
        path: the folder with ComfyUI's main.py and custom_nodes.

    Returns:
        The folder of the nodes.

    Raises:
        NotADirectoryError: if that is no folder of ComfyUI.
        FileExistsError: if there is something of that name that is not ours.
    """
    folder = _folder(path)
    if folder.exists() and not _is_ours(folder):
        raise FileExistsError(f"{folder} exists, and is not what `tpc-fast comfyui install` wrote")
    workflows = folder / _WORKFLOWS_THERE
    workflows.mkdir(parents=True, exist_ok=True)
    for file in sorted(WORKFLOWS.glob("*.json")):
        shutil.copyfile(file, workflows / file.name)
    with whole_file(folder / "__init__.py") as partial:
        partial.write_text(LOADER, encoding="utf-8")
    return folder


def uninstall(path: str | os.PathLike) -> Path:
    """Removes what `install` wrote, and nothing else.

    Raises:
        NotADirectoryError: if that is no folder of ComfyUI.
        FileNotFoundError: if it is not installed there.
        FileExistsError: if what is there is not ours, or holds other files, too.
    """
    folder = _folder(path)
    if not folder.exists():
        raise FileNotFoundError(f"the nodes are not installed in {folder.parent}")
    others = [f for f in folder.rglob("*") if f.is_file() and not _was_written(f, folder)]
    if not _is_ours(folder) or others:
        raise FileExistsError(f"{folder} holds files that are not ours: {', '.join(f.name for f in others) or 'all'}")
    shutil.rmtree(folder)
    return folder


def _folder(path) -> Path:
    path = Path(path)
    if not (path / "custom_nodes").is_dir() or not (path / "main.py").is_file():
        raise NotADirectoryError(f"path must be ComfyUI's folder, with main.py and custom_nodes, but is {str(path)!r}")
    return path / "custom_nodes" / FOLDER


def _is_ours(folder: Path) -> bool:
    loader = folder / "__init__.py"
    return loader.is_file() and loader.read_text(encoding="utf-8", errors="replace").startswith(MARK)


def _was_written(file: Path, folder: Path) -> bool:
    inner = file.relative_to(folder)
    if "__pycache__" in inner.parts or inner == Path("__init__.py"):
        return True
    return inner.parent == Path(_WORKFLOWS_THERE) and (WORKFLOWS / inner.name).is_file()
