"""Serves the page, on this machine alone unless told otherwise."""

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
from pathlib import Path

from tpc_fast._extras import INSTALL
from tpc_fast.app.jobs import Jobs
from tpc_fast.app.limits import PageLimits

HOST, PORT = "127.0.0.1", 7860
_OUTSIDE = ("/gradio_api/file=http", "/gradio_api/proxy=")  # what would fetch from elsewhere for a visitor
# Nothing is told to anybody; and nothing is looked for on a hub.
_ALONE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_SSR_MODE": "False"}


class OnlyHere:
    """ASGI: refuses what would make the server fetch anything from elsewhere."""

    def __init__(self, app):
        self._app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"].lower().startswith(_OUTSIDE):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"not from elsewhere"})
            return
        await self._app(scope, receive, send)


@contextlib.contextmanager
def application(limits: PageLimits):
    """The page as an ASGI application; its files are in a folder that goes with it.

    Raises:
        ImportError: without Gradio; says how to install it.
    """
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tpc-fast-", ignore_cleanup_errors=True)))
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
        yield OnlyHere(app)


def serve(host: str = HOST, port: int = PORT, limits: PageLimits | None = None, ready=None, quiet: bool = True) -> None:
    """Serves until interrupted.

    Args:
        host: address to listen on; the default is this machine alone.
        port: 0 takes any that is free.
        limits: what visitors may ask for.
        ready: called with the address of the page before the first visitor comes.
        quiet: whether requests are left unsaid.

    Raises:
        OSError: if the port is taken.
        ImportError: without Gradio.
    """
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(contextlib.closing(_socket(host, port)))
        app = stack.enter_context(application(limits or PageLimits()))
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
