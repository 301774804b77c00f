"""What pages are built of: sections, tables, charts, pictures, and their style."""

import base64
import html
import math
from pathlib import Path

import numpy as np

from tpc_fast._checks import plain
from tpc_fast.output.preview import MEMBER_COLOUR, OTHER_COLOUR, STATUS_COLOURS


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from `low` to `high`, both within a step of the ends."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (10, 5, 2, 1, 0.5) if power * m <= 1.5 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)] or [low]


class Heights:
    """The vertical axis of a chart: round marks, and where values lie, 0 at the top and 100 at the bottom."""

    def __init__(self, least: float, most: float):
        self.marks = ticks(least, most, 4)
        self._low, self._high = min(self.marks[0], least), max(self.marks[-1], most)

    def down(self, value):
        """Of values [...]; NaN stays."""
        return 100 * (self._high - value) / (self._high - self._low)


def curve(attributes: str, x: np.ndarray, y: np.ndarray, title: str = "") -> str:
    """Lines through points x [N], y [N]; broken where a value is NaN."""
    known = np.isfinite(y)
    starts = np.flatnonzero(np.diff(known.astype(np.int8), prepend=0) == 1)
    ends = np.flatnonzero(np.diff(known.astype(np.int8), append=0) == -1) + 1
    lines = []
    for a, b in zip(starts, ends, strict=True):
        points = " ".join(f"{h:.1f},{v:.2f}" for h, v in zip(x[a:b], y[a:b], strict=True))
        lines.append(f'<polyline {attributes} points="{points}">{title}</polyline>')
    return "".join(lines)


def chart(title: str, unit: str, heights: Heights, columns, drawn: str, behind: str = "", below: str = "") -> str:
    """A chart that stretches, with labels that do not.

    Args:
        columns: where the grid has vertical lines, 0 to 1000.
        drawn, behind: elements of an SVG 1000 wide and 100 high, before and behind the grid.
        below: what stands under it.
    """
    rows = [float(heights.down(mark)) for mark in heights.marks]
    grid = "".join(f"M0 {y:.2f}H1000" for y in rows) + "".join(f"M{x:.1f} 0V100" for x in columns)
    labels = "".join(f'<span style="top:{y:.1f}%">{m:g}</span>' for m, y in zip(heights.marks, rows, strict=True))
    return f"""<figure class="chart"><figcaption><b>{title}</b> <span class="dim">{unit}</span></figcaption>
<div class="plot">{labels}
<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{title}">
{behind}<path class="grid" d="{grid}"/>{drawn}</svg></div>{below}</figure>"""


def pairs_table(values: dict) -> str:
    """A table of names and values."""
    rows = (
        f"<tr><td>{escape(key)}</td><td>{'-' if value is None else escape(value)}</td></tr>"
        for key, value in values.items()
    )
    return f'<table class="pairs">{"".join(rows)}</table>'


def section(title: str, body: str, beside: str = "") -> str:
    """A section of a page with its heading and a legend beside it; nothing without a body."""
    legend = f'<p class="legend">{beside}</p>' if beside else ""
    return f"<section><h2>{title}</h2>{legend}{body}</section>" if body else ""


def jpeg_element(data: bytes, alt: str) -> str:
    """A JPEG file in memory, as an element that holds it."""
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(data).decode()}" alt="{escape(alt)}">'


def file_name(path) -> str:
    """The name of what was given as a file, or what says that arrays were."""
    return Path(path).name if path else "arrays"


def escape(value) -> str:
    """Text that a page may show."""
    return html.escape(plain(str(value)))


def css() -> str:
    """The style of all pages."""
    colours = {"member": MEMBER_COLOUR, "other": OTHER_COLOUR}
    rules = "".join(f"--{name}:rgb{colour};" for name, colour in colours.items())
    rules += "".join(f"--{status}:{colour};" for status, colour in STATUS_COLOURS.items())
    return f":root{{{rules}}}{_STYLE}"


_STYLE = """
:root{--page:#f4f5f6;--card:#fff;--ink:#1b1f23;--dim:#69727b;--line:#e3e6e9;--good:#1f9d61;--seen:#e6dfd2;
--p0:#0a7fb5;--p1:#c2410c;--p2:#0f8a6d;--p3:#8b3fc7;--p4:#9a7400;--p5:#c2338f}
@media(prefers-color-scheme:dark){:root{
--page:#121417;--card:#1b1e22;--ink:#e8eaec;--dim:#98a1aa;--line:#2d3238;
--good:#3ecf8a;--seen:#40392c;--p0:#4cc9ff;--p1:#ff9a5c;--p2:#4fd1b0;--p3:#c792f5;--p4:#e5c453;--p5:#ff8ac4}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);-webkit-text-size-adjust:100%;
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1200px;margin:0 auto;padding:24px 20px 48px;
display:grid;gap:20px;grid-template-columns:minmax(0,1fr)}
header{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:32px;align-items:center}
section,.numbers{margin:0;padding:18px 22px;
background:var(--card);border:1px solid var(--line);border-radius:12px}
h1{font-size:30px;line-height:1.2;margin:0 0 18px;overflow-wrap:anywhere}
h1 span{color:var(--dim);font-weight:400}
h2{font-size:17px;margin:0 0 8px}h3{font-size:14px;margin:14px 0 4px}p{margin:0 0 6px}
.eyebrow{color:var(--dim);font-size:13px;letter-spacing:.04em;margin-bottom:4px}
.dim,figcaption,dt,th,small{color:var(--dim)}
.verdict{font-size:21px;font-weight:600;display:flex;align-items:center;gap:10px}
.verdict i{width:14px;height:14px;border-radius:50%;background:var(--good);flex:none}
.verdict.fallback i{background:var(--fallback)}.verdict.held i{background:var(--held)}
.verdict.lost i{background:var(--lost)}
figure{margin:0}img{display:block;max-width:100%;height:auto}
.reference img{max-height:340px;width:auto;border-radius:12px}
figcaption{font-size:13px;margin-top:6px}
.key{display:inline-flex;vertical-align:middle;align-items:center;gap:6px;margin-right:16px;white-space:nowrap}
.key i{width:12px;height:12px;border-radius:50%;border:1px solid #0003}
.key i.small{width:9px;height:9px}.key i.none{border:1px solid var(--line)}
.key i.line{height:3px;width:22px;border:0;border-radius:2px;background:var(--p0)}
.key i.thin{height:1px;opacity:.8}
i.tracked{background:var(--good);opacity:.4}i.fallback{background:var(--fallback)}i.held{background:var(--held)}i.lost{background:var(--lost)}
.legend{font-size:13px;color:var(--dim);margin-bottom:10px}
.warnings{border-left:4px solid var(--fallback)}
.warnings ul{margin:0;padding-left:20px;overflow-wrap:anywhere}
.numbers{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:14px}
.numbers dt{font-size:13px}.numbers dd{margin:0;font-size:20px;font-weight:600;white-space:nowrap}
.numbers small{font-size:13px;font-weight:400}
.chart{margin-bottom:16px}.chart figcaption{margin:0 0 6px;font-size:14px}.chart b{color:var(--ink)}
.plot{position:relative;height:118px;margin-left:46px}
.plot span{position:absolute;right:100%;margin-right:8px;transform:translateY(-50%);font-size:12px;
line-height:1;color:var(--dim);font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:100%;overflow:visible}
svg *{vector-effect:non-scaling-stroke}
.grid{stroke:var(--line);stroke-width:1;fill:none}
polyline{fill:none;stroke:var(--p0);stroke-linejoin:round}
polyline.curve{stroke-width:2.4}polyline.raw{stroke-width:1;opacity:.75}
.p1{stroke:var(--p1)}.p2{stroke:var(--p2)}.p3{stroke:var(--p3)}
.p4{stroke:var(--p4)}.p5{stroke:var(--p5)}
rect{opacity:.22}.lane{opacity:.9}.lane.tracked{fill:var(--good);opacity:.3}
rect.fallback{fill:var(--fallback)}rect.held{fill:var(--held)}rect.lost{fill:var(--lost)}
.axis{position:relative;height:38px;margin:-8px 0 0 46px}
.axis span{position:absolute;transform:translateX(-50%);text-align:center;font-size:12px;line-height:1.35;
white-space:nowrap;color:var(--dim)}
.axis span:first-child{transform:none;text-align:left}
.members{display:grid;grid-template:289px/auto minmax(0,1fr) auto;gap:10px}
.members div{display:grid;grid-auto-rows:17px;font-size:12px;line-height:17px;color:var(--dim);
text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.used{fill:var(--member)}.seen{fill:var(--seen)}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,500px),1fr));gap:16px}
.card img{width:100%;border-radius:8px}.card figcaption{margin-top:5px}.card b,.card span{margin-right:10px}
.card figcaption>b:first-child{color:var(--ink)}
b.fallback{color:var(--fallback)}b.held{color:var(--held)}b.lost{color:var(--lost)}
.columns{display:grid;gap:20px;align-items:start;
grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr))}
table{width:100%;border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th{font-weight:400;text-align:left;font-size:13px}
td,th{padding:5px 12px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}td:last-child,th:last-child{padding-right:0}
.pairs td{overflow-wrap:anywhere}.pairs td:first-child{color:var(--dim);white-space:nowrap}
.n{text-align:right;white-space:nowrap}.bar{width:35%}
.bar i{display:block;height:8px;margin-top:7px;border-radius:4px;background:var(--p0);min-width:2px}
.wide{overflow-x:auto}
@media(max-width:760px){main{padding:16px 12px 32px;gap:14px}section,.numbers{padding:14px}
header{grid-template-columns:minmax(0,1fr);gap:16px}h1{font-size:24px}
.reference img{max-height:none;width:100%}
.numbers{grid-template-columns:1fr 1fr}.numbers dd{font-size:18px}}
@media print{section{break-inside:avoid}}
"""
