"""Who the page lets in, and what is left of servers that were killed; without Gradio."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tpc_fast.app import folder
from tpc_fast.app.gate import Gate
from tpc_fast.app.limits import PageLimits

LIMITS = PageLimits(upload_bytes=1000, stored_bytes=5000)


def asked(tmp_path, path="/", names=(), method="GET", body=(), kind="http", **headers):
    """(status or close code, headers of the answer) of one request; what the page reads is kept in `asked.read`."""

    async def page(scope, receive, send):
        asked.read, more = 0, True
        while more and (message := await receive())["type"] != "http.disconnect":
            asked.read += len(message.get("body", b""))
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    said, parts = (
        [],
        [{"type": "http.request", "body": part, "more_body": True} for part in body] or [{"type": "http.request"}],
    )
    parts[-1]["more_body"] = False

    async def receive():
        return parts.pop(0)

    async def send(message):
        said.append(message)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "path": path, "method": method, "headers": named}
    asyncio.run(Gate(page, tmp_path, LIMITS, names)(scope, receive, send))
    return said[0].get("status", said[0].get("code")), dict(said[0].get("headers", ()))


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860", "192.168.0.7:7860"])
def test_asked_by_an_address(tmp_path, host):
    status, headers = asked(tmp_path, host=host)
    assert status == 200
    assert headers[b"content-security-policy"] == b"frame-ancestors 'self'"
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize("host", ["evil.example:7860", "127.0.0.1.evil.example", "", "[", "localhost.evil.example"])
def test_a_name_that_was_made_to_point_here(tmp_path, host):
    assert asked(tmp_path, host=host)[0] == 403
    assert asked(tmp_path, host=host, kind="websocket")[0] == 1008


def test_names_that_are_given(tmp_path):
    assert asked(tmp_path, host="page.example", names=["Page.example"])[0] == 200
    proxied = dict(host="127.0.0.1:7860", origin="https://page.example")
    assert asked(tmp_path, **proxied)[0] == 403
    assert asked(tmp_path, **proxied, names=["page.example"])[0] == 200


@pytest.mark.parametrize(
    "says",
    [
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://localhost:7860"},
        {"origin": "http://127.0.0.1:80"}, {"origin": "http://["}, {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "origin": "https://evil.example"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join", "/"])
def test_requests_of_other_pages(tmp_path, says, path):
    assert asked(tmp_path, path, method="POST", host="127.0.0.1:7860", **says)[0] == 403


def test_requests_of_the_page_itself(tmp_path):
    own = dict(
        host="127.0.0.1:7860", origin="http://127.0.0.1:7860", sec_fetch_site="same-origin", sec_fetch_mode="cors"
    )
    assert asked(tmp_path, "/gradio_api/upload", method="POST", **own)[0] == 200
    link = dict(host="127.0.0.1:7860", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    assert asked(tmp_path, **link)[0] == 200  # somebody follows a link to it


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=http://a/b", "/gradio_api/file/https://a/b", "/gradio_api/FILE=HTTP://a", "/gradio_api/proxy=a",
     "/gradio_api/startup-events"],
)  # fmt: skip
def test_nothing_is_asked_of_others(tmp_path, path):
    assert asked(tmp_path, path, host="localhost")[0] == 403


def test_what_is_too_large(tmp_path):
    most = LIMITS.upload_bytes + (1 << 20)
    for path, size, status in (
        ("/gradio_api/upload", most + 1, 413), ("/gradio_api/upload", 100, 200), ("/gradio_api/queue/join", most, 200),
        ("/gradio_api/queue/join", 1 << 30, 413),
    ):  # fmt: skip
        assert asked(tmp_path, path, method="POST", host="localhost", content_length=str(size))[0] == status
    assert asked(tmp_path, host="localhost", content_length="-1")[0] == 413
    # Without a length it is counted; the page sees its visitor go.
    asked(tmp_path, "/gradio_api/upload", method="POST", host="localhost", body=[bytes(1 << 20)] * 4)
    assert asked.read <= most


def test_room_for_all_files(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "one").write_bytes(bytes(4000))
    os.link(tmp_path / "jobs" / "one", tmp_path / "two")  # as a job takes what was sent: counted once
    upload = dict(method="POST", host="localhost")
    assert asked(tmp_path, "/gradio_api/upload", content_length="900", **upload)[0] == 200
    assert asked(tmp_path, "/gradio_api/upload", content_length="1100", **upload)[0] == 507


# Folders


SERVER = """
import sys
from tpc_fast.app.folder import own_folder
with own_folder() as own:
    (own / "photo.png").write_text("somebody's")
    print(own, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(folder.fcntl is None, reason="there are no locks here")
def test_what_a_killed_server_left_goes_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)})
    with contextlib.ExitStack() as stack:
        killed, alive = (stack.enter_context(subprocess.Popen([sys.executable, "-c", SERVER], **pipes)) for _ in "ab")
        left, kept = (Path(server.stdout.readline().strip()) for server in (killed, alive))
        foreign = tmp_path / "tpc-fast-page-notes"  # without a lock: not ours, or just being made
        foreign.mkdir()
        killed.kill()
        killed.wait()
        assert (left / "photo.png").exists()
        with folder.own_folder() as own:
            assert own.stat().st_mode & 0o077 == 0
            assert not left.exists()
            assert (kept / "photo.png").exists()
        assert not own.exists()
        assert foreign.exists()
        alive.stdin.close()
        assert alive.wait() == 0
        assert not kept.exists()
