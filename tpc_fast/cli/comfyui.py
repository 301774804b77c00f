"""`tpc-fast comfyui install PATH` and `uninstall PATH`."""


def add_options(command) -> None:
    command.add_argument("action", choices=("install", "uninstall"))
    command.add_argument("path", metavar="PATH", help="folder of ComfyUI, with main.py and custom_nodes")


def run(options) -> int:
    from tpc_fast.comfyui.install import install, uninstall

    folder = {"install": install, "uninstall": uninstall}[options.action](options.path)
    if not options.quiet:
        print(f"{options.action}ed: {folder}")
        if options.action == "install":
            print("next: restart ComfyUI; the nodes are in the menu under tpc_fast, workflows under its templates")
    return 0
