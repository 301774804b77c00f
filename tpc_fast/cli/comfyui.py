"""`tpc-fast comfyui install PATH`, `uninstall PATH` and `pack PATH`."""


def add_options(command) -> None:
    command.add_argument("action", choices=("install", "uninstall", "pack"))
    command.add_argument(
        "path", metavar="PATH", help="folder of ComfyUI, with main.py and custom_nodes; for pack: a new folder"
    )
    command.add_argument("--publisher", default="", metavar="ID", help="for pack: your name in the registry")
    command.add_argument(
        "--repository", default="", metavar="URL", help="for pack: the repository, with a tag for this version"
    )


def run(options) -> int:
    from tpc_fast.comfyui.install import install, pack, uninstall

    if options.action == "pack":
        folder = pack(options.path, options.publisher, options.repository)
    else:
        folder = {"install": install, "uninstall": uninstall}[options.action](options.path)
    if not options.quiet:
        print(f"{options.action}ed: {folder}")
        print(_NEXT[options.action], end="")
    return 0


_NEXT = {
    "install": "next: restart ComfyUI; the nodes are in the menu under tpc_fast, workflows under its templates\n",
    "uninstall": "",
    "pack": "next: look at pyproject.toml, then run `comfy node publish` in the folder\n",
}
