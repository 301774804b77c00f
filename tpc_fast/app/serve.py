"""Serves the page, on this machine alone unless told otherwise."""

import contextlib
import logging
import os
import socket
from collections.abc import Collection

from tpc_fast._extras import INSTALL
from tpc_fast.app.folder import own_folder
from tpc_fast.app.gate import Gate
from tpc_fast.app.jobs import Jobs
from tpc_fast.app.limits import PageLimits

HOST, PORT = "127.0.0.1", 7860
# Nothing is told to anybody; and nothing is looked for on a hub.
_ALONE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_SSR_MODE": "False"}


@contextlib.contextmanager
def application(limits: PageLimits, names: Collection[str] = ()):
    """The page as an ASGI application; its files are in a folder that goes with it.

    Args:
        limits: what visitors may ask for.
        names: under which it is reached, beside addresses and the names of this machine.

    Raises:
        ImportError: without Gradio; says how to install it.
    """
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(own_folder())
        os.environ.update(_ALONE | {"GRADIO_TEMP_DIR": str(root / "uploads")})  # read when Gradio is imported
        try:
            import fastapi
            import gradio
        except ImportError as error:
            raise ImportError(f"the page needs Gradio: {INSTALL['app']} ({error})") from error
        from tpc_fast.app import looks
        from tpc_fast.app.live import Lives
        from tpc_fast.app.page import page, theme

        jobs = stack.enter_context(Jobs(root / "jobs", limits))
        lives = Lives()
        stack.callback(lives.close)
        jobs.root.mkdir()
        gradio.set_static_paths([jobs.root])  # results are served where they lie, and are gone with their job
        app = gradio.mount_gradio_app(
            fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None), page(jobs, lives), path="",
            max_file_size=limits.upload_bytes, footer_links=[], ssr_mode=False, theme=theme(), css=looks.CSS,
            head=looks.HEAD, show_error=False, allowed_paths=[], pwa=False, mcp_server=False,
        )  # fmt: skip
        yield Gate(app, root, limits, names)


def serve(
    host: str = HOST, port: int = PORT, limits: PageLimits | None = None, ready=None, quiet: bool = True,
    names: Collection[str] = (),
) -> None:  # fmt: skip
    """Serves until interrupted.

    Args:
        host: address to listen on; the default is this machine alone.
        port: 0 takes any that is free.
        limits: what visitors may ask for.
        ready: called with the address of the page before the first visitor comes.
        quiet: whether requests are left unsaid.
        names: under which the page is reached beside addresses, `host` and the names of this machine, as behind a
            proxy; who asks by another name is refused.

    Raises:
        OSError: if the port is taken.
        ImportError: without Gradio.
    """
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(contextlib.closing(_socket(host, port)))
        app = stack.enter_context(application(limits or PageLimits(), (host, *names)))
        import uvicorn

        config = uvicorn.Config(
            app, log_level="warning" if quiet else "info", access_log=not quiet, timeout_graceful_shutdown=2
        )
        logging.getLogger("uvicorn.error").addFilter(_not_cut_off)
        if ready is not None:
            name = f"[{host}]" if ":" in host else host
            ready(f"http://{name}:{listening.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[listening])


def _not_cut_off(record: logging.LogRecord) -> bool:
    """Whether a message is none of those that say, by a traceback, that a page was open when the server ended."""
    import asyncio  # here: every command imports this file, and that one takes 15 ms

    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError)


def _socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"cannot listen on {host}, port {port}: {error.strerror}") from error
    return listening
