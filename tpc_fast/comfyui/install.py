"""Puts the nodes into a ComfyUI folder and takes them out again: a loader of a few lines in `custom_nodes`.

`pack` makes of the same loader what a registry of nodes publishes.
"""

import json
import os
import shutil
from pathlib import Path

from tpc_fast._version import __version__
from tpc_fast.media.files import whole_file

FOLDER = "tpc_fast_nodes"
MARK = "# Written by tpc-fast comfyui install; `tpc-fast comfyui uninstall` removes it.\n"
LOADER = MARK + "from tpc_fast.comfyui.nodes import comfy_entrypoint  # noqa: F401\n"
WORKFLOWS = Path(__file__).parent / "workflows"  # as the HTTP API takes them
CANVAS = WORKFLOWS / "canvas"  # the same, as the menus open them: with places, as ComfyUI's own page saved them
ICON = Path(__file__).parent / "icon.svg"
_WORKFLOWS_THERE = "example_workflows"  # where ComfyUI looks for a node pack's
_PACKAGE = f"tpc-fast[demo]=={__version__}"  # what the loader imports
#: Fields as docs.comfy.org/registry/specifications has them; the interface `comfy_api.v0_0_2` was seen from 0.3.64 on.
_PROJECT = """\
[project]
name = "tpc-fast"
version = {version}
description = "Brings the person of a photo onto the person of a video, frame by frame"
requires-python = ">=3.11"
license = {{ text = "MIT" }}
classifiers = ["Operating System :: POSIX :: Linux"]
dependencies = [{package}]

[project.urls]
Repository = {repository}

[tool.comfy]
PublisherId = {publisher}
DisplayName = "tpc_fast: photo to video calibration"
Icon = {icon}
requires-comfyui = ">=0.3.64"
"""


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
    for file in sorted(CANVAS.glob("*.json")):
        shutil.copyfile(file, workflows / file.name)
    with whole_file(folder / "__init__.py") as partial:
        partial.write_text(LOADER, encoding="utf-8")
    return folder


def pack(path: str | os.PathLike, publisher: str = "", repository: str = "") -> Path:
    """Writes a folder that `comfy node publish` takes: loader, workflows, icon, requirements and pyproject.toml.

    Args:
        path: a new folder.
        publisher: the publisher's name in the registry. Empty: to be filled in.
        repository: address of the public repository with a tag for this version; the icon's address follows from it.

    Returns:
        The folder.

    Raises:
        FileExistsError: if it exists.
    """
    folder = Path(path)
    folder.mkdir(parents=True)
    shutil.copytree(CANVAS, folder / _WORKFLOWS_THERE)
    shutil.copyfile(ICON, folder / ICON.name)
    icon = f"{repository.rstrip('/')}/raw/v{__version__}/tpc_fast/comfyui/{ICON.name}" if repository else ""
    values = {"version": __version__, "package": _PACKAGE, "publisher": publisher, "repository": repository}
    quoted = {name: json.dumps(value, ensure_ascii=False) for name, value in (values | {"icon": icon}).items()}
    (folder / "pyproject.toml").write_text(_PROJECT.format(**quoted), encoding="utf-8")
    (folder / "requirements.txt").write_text(f"{_PACKAGE}\n", encoding="utf-8")
    (folder / "__init__.py").write_text(LOADER, encoding="utf-8")
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
    return inner.parent == Path(_WORKFLOWS_THERE) and (CANVAS / inner.name).is_file()
