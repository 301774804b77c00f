"""Who is let in: a browser lets every page of the web send requests to this machine, and strangers send large ones."""

import contextlib
import ipaddress
import os
import socket
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from tpc_fast.app.limits import PageLimits

_UPLOAD = "/gradio_api/upload"
_ELSEWHERE = ("/gradio_api/proxy=", "/gradio_api/startup-events")  # what would ask others for a visitor
_FORM = 1 << 20  # bytes around a file that is sent
_BODY = 64 << 20  # of other requests: a frame of a camera is some megabytes
_HEADERS = (
    (b"content-security-policy", b"frame-ancestors 'self'"),  # no page of others around ours, to catch clicks
    (b"x-content-type-options", b"nosniff"),  # a file is what its name says, never a page
)


class Gate:
    """ASGI: lets requests through that come from the page itself, and asks nobody else for anything.

    What a page of the web sends here says where it comes from (`Origin`, `Sec-Fetch-Site`). A page that had its own
    name point here (DNS rebinding) asks by that name (`Host`): only addresses, the names of this machine and those that
    are given are answered.

    Args:
        app: what is behind it.
        root: the folder of all files of visitors.
        limits: what visitors may ask for.
        names: under which the page is reached beside those of this machine, as behind a proxy.
    """

    def __init__(self, app, root: Path, limits: PageLimits, names: Collection[str] = ()):
        self._app, self._root, self._limits = app, root, limits
        self._given = {name.lower() for name in names}
        self._names = {"localhost", socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"} | self._given

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused is None:
            await self._app(scope, self._bounded(scope, receive), _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, why = refused
            head = {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]}
            await send(head)
            await send({"type": "http.response.body", "body": why.encode()})

    def _refused(self, scope) -> tuple[int, str] | None:
        """(status, why) of a request that is not let through."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", "").lower(), headers.get(b"origin")
        if not self._known(host):
            return 403, "not by this name: tpc-fast serve --name"
        if origin is not None and not self._own(origin, host):
            return 403, "not from another page"
        # Browsers say this of every request; what is opened by a click, from anywhere, is the page.
        site, mode = headers.get(b"sec-fetch-site", "none"), headers.get(b"sec-fetch-mode")
        if site not in ("none", "same-origin") and mode != "navigate":
            return 403, "not from another page"
        path = scope["path"].lower()
        if "://" in path or path.startswith(_ELSEWHERE):
            return 403, "not from elsewhere"
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > self._most(scope):
            return 413, "too large"
        if _is_upload(scope) and self._stored() + int(length) > self._limits.stored_bytes:
            return 507, "no room: files that nobody uses are removed after a while"
        return None

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _own(self, origin: str, host: str) -> bool:
        try:
            parts = urlsplit(origin.lower())
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and (parts.netloc == host or parts.hostname in self._given)

    def _most(self, scope) -> int:
        return self._limits.upload_bytes + _FORM if _is_upload(scope) else _BODY

    def _stored(self) -> int:
        """Bytes of all files of visitors; those with two names count once."""
        sizes = {}
        for folder, _, names in os.walk(self._root):
            for name in names:
                with contextlib.suppress(OSError):  # it goes meanwhile
                    found = os.lstat(os.path.join(folder, name))
                    sizes[found.st_ino] = found.st_size
        return sum(sizes.values())

    def _bounded(self, scope, receive):
        """`receive`, whose sender goes away, as it were, when more comes than may come: not all say how much it is."""
        most, total = self._most(scope), 0

        async def bounded():
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            return message if total <= most else {"type": "http.disconnect"}

        return bounded


def _is_upload(scope) -> bool:
    return scope["path"].lower().rstrip("/") == _UPLOAD


def _with_headers(send):
    async def more(message):
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return more
