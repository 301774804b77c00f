"""How the page looks: the system's own fonts, few colours, light and dark, from a phone's width on."""

from tpc_fast.app.progress import Step, share_done, words
from tpc_fast.output.html import escape

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
CSS = """
.gradio-container{max-width:1180px!important;margin:0 auto!important}
.tpc-head h1{font-size:30px;line-height:1.15;margin:8px 0 2px;letter-spacing:-.01em}
.tpc-head p{margin:0 0 4px;opacity:.75;font-size:16px}
.tpc-bar{height:10px;border-radius:6px;background:var(--border-color-primary);overflow:hidden;margin-top:8px}
.tpc-bar i{display:block;height:100%;border-radius:6px;background:var(--color-accent);transition:width .3s}
.tpc-step{font-size:15px;font-variant-numeric:tabular-nums}
.tpc-alert{border-left:4px solid #d1435b;padding:10px 14px;border-radius:8px;background:var(--block-background-fill);
overflow-wrap:anywhere}
.tpc-verdict{font-size:20px;font-weight:600;margin:0 0 8px;display:flex;align-items:center;gap:10px}
.tpc-verdict:before{content:"";width:13px;height:13px;border-radius:50%;background:#1f9d61;flex:none}
.tpc-verdict.look:before{background:#d9a21b}
.tpc-warnings ul{margin:6px 0 0;padding-left:20px;overflow-wrap:anywhere}
.tpc-person i{display:inline-block;width:12px;height:12px;border-radius:50%;border:1px solid #0004;margin:0 4px}
.tpc-person,.tpc-warnings{padding:6px 0}
.tpc-person summary,.tpc-warnings summary{cursor:pointer}
.tpc-person table{width:100%;border-collapse:collapse;font-size:14px;margin-top:6px}
.tpc-person td{padding:4px 10px 4px 0;border-bottom:1px solid var(--border-color-primary);vertical-align:top}
.tpc-person td:first-child{opacity:.7;white-space:nowrap}
.tpc-report{width:100%;height:80vh;border:1px solid var(--border-color-primary);
border-radius:10px;background:transparent}
.tpc-note{font-size:14px;opacity:.75}
:focus-visible{outline:3px solid var(--color-accent)!important;outline-offset:2px}
@media(max-width:640px){.gradio-container{padding:8px!important}.tpc-head h1{font-size:24px}}
@media(prefers-reduced-motion:reduce){*{transition:none!important;animation:none!important}}
"""
# A calibration ends with its page: the browser asks before that happens. Cancel is there while one runs.
HEAD = """<meta name="color-scheme" content="light dark"><script>addEventListener("beforeunload",e=>{
const c=document.querySelector("#cancel");if(c&&c.offsetParent)e.preventDefault()})</script>"""
TITLE = """<div class="tpc-head"><h1>Photo to video</h1>
<p>Brings the person of a photo onto the person of a video, frame by frame. Nothing leaves this machine.<br>
Use a photo of a person only if that person agrees.</p></div>"""


def progress_bar(step: Step) -> str:
    """A bar and a line of words, for eyes and screen readers."""
    percent = round(100 * share_done(step))
    text = escape(words(step))
    return (
        f'<div class="tpc-step" aria-live="polite">{text}</div><div class="tpc-bar" role="progressbar" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" aria-label="{text}">'
        f'<i style="width:{percent}%"></i></div>'
    )


def note(text: str) -> str:
    """A line that says what happens."""
    return f'<div class="tpc-step" role="status">{escape(text)}</div>'


def alert(text: str) -> str:
    """What went wrong."""
    return f'<div class="tpc-alert" role="alert">{escape(text)}</div>'


def report_frame(address: str) -> str:
    """The report, a page of its own that runs no scripts, inside this one."""
    return f'<iframe class="tpc-report" title="Report with curves" sandbox src="{escape(address)}"></iframe>'
