"""What a person looks at while a stream runs: a window, a page in the browser, or nothing."""

import contextlib
import html
import secrets
import threading

import numpy as np

from tpc_fast.output.preview import to_jpeg

VIEWS = ("window", "browser", "none")
_HOST = "127.0.0.1"  # nobody else can look
_HEIGHT = 720  # of the pictures of the page, at most
_PAGE = (
    "<!doctype html><meta charset=utf-8><title>{title}</title><style>body{{margin:0;background:#121212;height:100vh;"
    "display:grid;place-items:center}}img{{max-width:100vw;max-height:100vh}}</style><img src=stream alt='{title}'>"
)


def over(frame: np.ndarray, images: np.ndarray, masks: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Calibrated persons over a frame.

    Args:
        frame: uint8 [h, w, 3], on the canvas.
        images: uint8 [P, h, w, 3]; masks: uint8 [P, h, w].
        order: [P], the persons from back to front.

    Returns:
        uint8 [h, w, 3].
    """
    picture = frame.astype(np.uint16)
    for person in order:
        opaque = masks[person][..., None].astype(np.uint16)
        picture = (images[person] * opaque + picture * (255 - opaque) + 127) // 255
    return picture.astype(np.uint8)


def beside(*pictures: np.ndarray, text: str = "") -> np.ndarray:
    """Pictures uint8 [h, w, 3] of one height side by side, with a line of text on them."""
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.fromarray(np.concatenate(pictures, 1))
    if text:
        font = ImageFont.load_default(size=max(10, canvas.height // 28))
        draw, place = ImageDraw.Draw(canvas), (canvas.height // 60 + 2, canvas.height // 60 + 2)
        draw.text(place, text, font=font, fill=(255, 255, 255), stroke_fill=(18, 18, 18), stroke_width=2)
    return np.asarray(canvas)


class NoView:
    """Shows nothing."""

    where = None
    closed = False

    def show(self, picture: np.ndarray) -> None:
        """A picture uint8 [h, w, 3]."""

    def close(self) -> None:
        """Ends it."""

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


class WindowView(NoView):
    """A window of tkinter; to be used in the main thread.

    Attributes:
        where: None.
        closed: whether the user closed it.

    Raises:
        RuntimeError: without tkinter, or without a display.
    """

    def __init__(self, title: str):
        other = "choose --show browser or --show none"
        try:
            import tkinter

            from PIL import ImageTk
        except ImportError as error:
            raise RuntimeError(f"a window needs tkinter, which this Python lacks ({error}): {other}") from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise RuntimeError(f"a window needs a display, and there is none ({error}): {other}") from error
        self._photo_of, self._error = ImageTk.PhotoImage, tkinter.TclError
        self._root.title(title)
        self._root.protocol("WM_DELETE_WINDOW", self._leave)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()

    def _leave(self):
        self.closed = True

    def show(self, picture):
        """A picture uint8 [h, w, 3]; lets the window react, too."""
        from PIL import Image

        try:
            self._photo = self._photo_of(Image.fromarray(picture), master=self._root)
            self._label.configure(image=self._photo)
            self._root.update()
        except self._error:  # the display has gone, and the window with it
            self.closed = True

    def close(self):
        """Closes the window."""
        self._photo = None
        with contextlib.suppress(self._error):
            self._root.destroy()


class BrowserView(NoView):
    """A page on this machine that shows a stream of JPEG pictures (multipart/x-mixed-replace).

    Only this machine can reach it, and only who knows the word in its address: pages of other origins do not.

    Args:
        title: of the page.
        port: 0 for any that is free.

    Attributes:
        where: the address.

    Raises:
        OSError: if the port is taken.
    """

    def __init__(self, title: str, port: int = 0):
        import http.server  # here: all commands import this file, and that one takes a while

        self._jpeg, self._count, self._changed = None, 0, threading.Condition()
        page = _PAGE.format(title=html.escape(title)).encode()
        word, view = secrets.token_urlsafe(12), self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                """The page, or its stream."""
                if self.path == f"/{word}/":
                    self._begin("text/html; charset=utf-8", len(page))
                    self.wfile.write(page)
                elif self.path == f"/{word}/stream":
                    self._begin("multipart/x-mixed-replace; boundary=frame")
                    view._send(self.wfile)
                else:
                    self.send_error(404)

            def _begin(self, kind, length=None):
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Cache-Control", "no-store")
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()

            def log_message(self, *_):
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer((_HOST, port), Handler)
        self._server.daemon_threads, self._server.block_on_close = True, False
        self.where = f"http://{_HOST}:{self._server.server_address[1]}/{word}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def _send(self, file):
        """Every new picture, until the browser goes or the view is closed; those that come in between are dropped."""
        seen = 0
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda seen=seen: self._count > seen or self.closed)
                    if self.closed:
                        return
                    jpeg, seen = self._jpeg, self._count
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                file.write(head.encode() + jpeg + b"\r\n")
        except OSError:  # the browser has gone
            return

    def show(self, picture):
        """A picture uint8 [h, w, 3]."""
        jpeg = to_jpeg(picture, _HEIGHT)
        with self._changed:
            self._jpeg, self._count = jpeg, self._count + 1
            self._changed.notify_all()

    def close(self):
        """Ends the streams and the server."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def open_view(kind: str, title: str, port: int = 0) -> NoView:
    """A view of one of the `VIEWS`; raises what it raises."""
    if kind not in VIEWS:
        raise ValueError(f"show must be one of {', '.join(VIEWS)}, but is {kind!r}")
    if kind == "window":
        return WindowView(title)
    return BrowserView(title, port) if kind == "browser" else NoView()
