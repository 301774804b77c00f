"""The page itself: Gradio's components and what they call. All else is in the files beside."""

import base64
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from tpc_fast.app import looks, result, visit
from tpc_fast.app.jobs import Cancelled, JobError, Jobs
from tpc_fast.app.live import VIEWS, Lives
from tpc_fast.app.people import PHOTO_PICTURE, VIDEO_PICTURE, People
from tpc_fast.app.progress import Step
from tpc_fast.app.request import MOST_PEOPLE, NOBODY, SHAPES, SIZES, canvas_size
from tpc_fast.app.work import EXPECTED
from tpc_fast.media.fetch import fetched
from tpc_fast.media.images import load_image
from tpc_fast.output.layout import FORMATS

_CAMERA_SECONDS = 0.1  # between frames of the live view that the browser sends
_LIVE_SECONDS = 600.0  # after which the browser asks again


def theme() -> gr.themes.Base:
    """Fonts of the system, of which none is fetched, and labels that are plain text."""
    plain = {
        f"block_{kind}_{what}{dark}": value
        for kind in ("label", "title")
        for what, value in (("text_color", "*body_text_color_subdued"), ("background_fill", "*block_background_fill"))
        for dark in ("", "_dark")
    }
    return gr.themes.Soft(
        primary_hue=gr.themes.colors.sky, neutral_hue=gr.themes.colors.gray, font=looks.FONTS, font_mono=looks.MONO
    ).set(**plain, block_title_padding="0")


def page(jobs: Jobs, lives: Lives) -> gr.Blocks:
    """The page, for jobs and live views of its visitors."""
    kept = int(jobs.limits.kept_seconds)
    blocks = gr.Blocks(title="tpc_fast", analytics_enabled=False, delete_cache=(min(kept, 300), kept))
    with blocks:
        gr.HTML(looks.TITLE)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                photo = gr.Image(
                    label="Photo", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=360,
                    elem_id="photo", buttons=[],
                )  # fmt: skip
            with gr.Column(scale=3, min_width=300), gr.Tabs():
                with gr.Tab("Video", id="video"):
                    form = _form()
                with gr.Tab("Live camera", id="live"):
                    camera = _camera()
        shown = _shown()
        _wire(jobs, photo, form, shown)
        _wire_live(lives, photo, camera)
        for component in (photo, form.video):
            _as_it_is(component)
        _frames_as_they_are(camera.source)

        def left(request: gr.Request):
            jobs.leave(request.session_hash)
            lives.leave(request.session_hash)

        blocks.unload(left)
    return blocks


def _as_it_is(component) -> None:
    """Files come to us as the visitor sent them, for our readers to judge; none is fetched from an address, and none
    is taken that was not sent: Gradio asks for that only of pages that it launches itself."""
    move = component.async_move_resource_to_block_cache

    async def sent_only(path):
        return await move(_sent(component, path))

    component.async_move_resource_to_block_cache = sent_only
    component.preprocess = lambda payload: None if payload is None else _sent(component, payload.path)


def _sent(component, path) -> str:
    sent = Path(component.GRADIO_CACHE).resolve()
    if path is None or "://" in str(path) or not Path(path).resolve().is_relative_to(sent):
        raise gr.Error("Send the file itself, not an address or a path")
    return str(path)


def _frames_as_they_are(component) -> None:
    """The same of a camera's frames, which become pictures by our reader: Pillow alone would hand some formats on to
    other programs."""
    _as_it_is(component)
    file_of = component.preprocess

    def picture(payload):
        if payload is None:
            return None
        address = payload.url or ""
        try:
            if address.startswith("data:"):
                return load_image(fetched(base64.b64decode(address.partition(",")[2], validate=True), "frame"))[0]
            return load_image(file_of(payload))[0]
        except EXPECTED as error:
            raise gr.Error("A frame of the camera cannot be read") from error

    component.preprocess = picture


def _form() -> SimpleNamespace:
    form = SimpleNamespace()
    form.video = gr.Video(label="Video of the motion", sources=["upload"], height=280, elem_id="video", buttons=[])
    with gr.Row():
        form.shape = gr.Dropdown(list(SHAPES), value="square", label="Shape of the result", min_width=140)
        form.largest = gr.Dropdown(list(SIZES), value=SIZES[0], label="Longer side, pixels", min_width=140)
        form.people = gr.Dropdown(
            [("as the photo shows", 0), *((str(n), n) for n in range(1, MOST_PEOPLE + 1))], value=0,
            label="People in the video", min_width=140,
        )  # fmt: skip
    with gr.Accordion("More options", open=False):
        with gr.Row():
            form.start = gr.Number(0, label="Start, seconds", minimum=0, min_width=120)
            form.seconds = gr.Number(0, label="Length, seconds (0: all)", minimum=0, min_width=120)
        form.motion = gr.Radio(
            [("follow every frame", "frame"), ("one place and size for each shot", "constant")], value="frame",
            label="Motion",
        )  # fmt: skip
        form.smooth = gr.Radio(
            [("smooth, the whole clip in view", "offline"), ("smooth, the past alone", "causal"), ("none", "none")],
            value="offline", label="Smoothing",
        )  # fmt: skip
        form.resize = gr.Radio(
            [("keep the video's shape, with bars", "pad"), ("fill, stretched", "stretch")], value="pad",
            label="Where shapes differ",
        )  # fmt: skip
        form.format = gr.Radio(list(FORMATS), value="png", label="Files of the frames")
        form.clean_masks = gr.Checkbox(False, label="Clean masks: the largest piece of each, without holes")
    with gr.Row():
        form.run = gr.Button("Calibrate", variant="primary", size="lg", elem_id="run")
        form.cancel = gr.Button("Cancel", variant="stop", size="lg", visible=False, elem_id="cancel")
    form.state = gr.HTML(elem_id="state")
    return form


def _shown() -> SimpleNamespace:
    shown = SimpleNamespace()
    with gr.Column(visible=False, elem_id="result") as shown.all:
        shown.summary = gr.HTML(elem_id="summary")
        with gr.Tabs():
            with gr.Tab("Watch"):
                shown.player = gr.Video(show_label=False, interactive=False, elem_id="player", loop=True, buttons=[])
            with gr.Tab("Before and after"):
                shown.compare = gr.ImageSlider(
                    label="Video / photo's person in it", interactive=False, elem_id="compare", buttons=["fullscreen"]
                )
                shown.frame = gr.Slider(0, 1, step=1, value=0, label="Frame", elem_id="frame")
            with gr.Tab("Who plays whom"):
                with gr.Row():
                    shown.photo = gr.Image(label="Photo", interactive=False, buttons=[], elem_id="people-photo")
                    shown.video = gr.Image(label="Video", interactive=False, buttons=[], elem_id="people-video")
                with gr.Row():
                    shown.cast = [
                        gr.Dropdown([], label=f"Person {p} of the photo is played by", visible=False, min_width=180)
                        for p in range(MOST_PEOPLE)
                    ]
                shown.recast = gr.Button("Use this cast", elem_id="recast")
            with gr.Tab("Report and curves"):
                shown.report = gr.HTML(elem_id="report")
            with gr.Tab("Files"):
                shown.download = gr.DownloadButton("Download everything (.zip)", variant="primary", elem_id="zip")
                shown.files = gr.File(label="Files", interactive=False, elem_id="files")
    return shown


def _camera() -> SimpleNamespace:
    camera = SimpleNamespace()
    camera.view = gr.Radio(list(VIEWS), value=VIEWS[0], label="Show the photo's person", elem_id="view")
    with gr.Row():
        camera.source = gr.Image(
            label="Camera", sources=["webcam"], streaming=True, type="numpy", height=300, elem_id="camera",
            webcam_options=gr.WebcamOptions(mirror=False),
        )  # fmt: skip
        camera.picture = gr.Image(
            label="Live", streaming=True, interactive=False, height=300, elem_id="live", buttons=[]
        )
    camera.state = gr.HTML(elem_id="live-state")
    return camera


def _wire(jobs: Jobs, photo, form: SimpleNamespace, shown: SimpleNamespace) -> None:
    outputs = [form.run, form.cancel, form.state, shown.all, shown.summary, shown.player, shown.compare, shown.frame,
               shown.photo, shown.video, *shown.cast, shown.report, shown.download, shown.files]  # fmt: skip
    wanted = [form.shape, form.largest, form.people, form.start, form.seconds, form.motion, form.smooth, form.resize,
              form.format, form.clean_masks]  # fmt: skip

    def run(photo, video, shape, largest, people, start, seconds, motion, smooth, resize, fmt, clean,
            request: gr.Request):  # fmt: skip
        steps = visit.calibrate(
            jobs, request.session_hash, photo, video, size=canvas_size(int(largest), shape), people=int(people),
            start=float(start or 0), seconds=float(seconds or 0), motion=motion, smooth=smooth, resize=resize,
            format=fmt, clean_masks=bool(clean),
        )  # fmt: skip
        yield from _told(steps, form, shown, anew=True)

    def recast(request: gr.Request, *cast):
        cast = tuple(int(driving) for driving in cast if driving is not None)
        yield from _told(visit.recast(jobs, request.session_hash, cast), form, shown)

    def cancel(request: gr.Request):
        job = jobs.of(request.session_hash)
        if job is not None:
            job.cancel()

    def compare(frame, request: gr.Request):
        job = jobs.of(request.session_hash)
        return None if job is None else tuple(map(str, result.compare(job.folder, int(frame))))

    quiet = dict(show_progress="hidden", api_visibility="private")
    form.run.click(run, [photo, form.video, *wanted], outputs, concurrency_limit=None, **quiet)
    shown.recast.click(recast, shown.cast, outputs, concurrency_limit=None, **quiet)
    form.cancel.click(cancel, None, None, queue=False, **quiet)
    shown.frame.release(compare, shown.frame, shown.compare, **quiet)
    shown.frame.input(compare, shown.frame, shown.compare, trigger_mode="always_last", **quiet)


def _told(steps, form: SimpleNamespace, shown: SimpleNamespace, anew: bool = False):
    """Updates of the page for the steps of a visit; if it begins anew, the files of the last result are gone."""
    busy = {form.run: gr.update(interactive=False), form.cancel: gr.update(visible=True)}
    if anew:
        busy[shown.all] = gr.update(visible=False)
    free = {form.run: gr.update(interactive=True), form.cancel: gr.update(visible=False)}
    try:
        for step in steps:
            if isinstance(step, visit.Finished):
                yield free | {form.state: looks.note("Done")} | _finished(step, shown)
            elif isinstance(step, Step):
                yield busy | {form.state: looks.progress_bar(step)}
            else:
                yield busy | {form.state: looks.note(step)}
    except Cancelled:
        yield free | {form.state: looks.note("Cancelled")}
    except (JobError, *EXPECTED) as error:
        yield free | {form.state: looks.alert(str(error))}


def _finished(done: visit.Finished, shown: SimpleNamespace) -> dict:
    folder, calibration = done.folder, result.load(done.folder)
    middle = done.frames // 2
    files = [str(path) for path in result.files(folder)]
    updates = {
        shown.all: gr.update(visible=True),
        shown.summary: result.summary(calibration),
        shown.player: str(result.preview(folder)),
        shown.frame: gr.update(minimum=0, maximum=max(1, done.frames - 1), value=middle),
        shown.compare: tuple(map(str, result.compare(folder, middle))),
        shown.photo: str(folder / PHOTO_PICTURE),
        shown.video: str(folder / VIDEO_PICTURE),
        shown.report: looks.report_frame(f"gradio_api/file={result.report(folder).as_posix()}"),
        shown.download: files[0],
        shown.files: files,
    }
    return updates | dict(zip(shown.cast, _roles(done.people), strict=True))


def _roles(people: People) -> list:
    """The lists from which roles are chosen, one a person of the photo."""
    choices = [*((f"person {n} of the video", n) for n in people.driving), ("nobody", NOBODY)]
    return [
        gr.update(visible=True, choices=choices, value=people.match[p])
        if p < people.photo
        else gr.update(visible=False, choices=[], value=None)
        for p in range(MOST_PEOPLE)
    ]


def _wire_live(lives: Lives, photo, camera: SimpleNamespace) -> None:
    def look(frame, photo, view, request: gr.Request):
        if frame is None:
            return gr.update(), ""
        if photo is None:
            return gr.update(), looks.alert("Bring a photo first")
        try:
            return lives.step(request.session_hash, Path(photo), frame, view), ""
        except EXPECTED as error:
            return gr.update(), looks.alert(lives.explain(error, Path(photo)))

    camera.source.stream(
        look, [camera.source, photo, camera.view], [camera.picture, camera.state], stream_every=_CAMERA_SECONDS,
        time_limit=_LIVE_SECONDS, concurrency_limit=lives.most, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
