"""The report: one HTML page, with everything in it, that says how well a calibration went."""

import base64
import html
import math
import os
from pathlib import Path

import numpy as np

from tpc_fast.calibration.summary import KEYPOINT_NAMES, describe, scale_and_angle, summarise
from tpc_fast.output.preview import (
    MEMBER_COLOUR,
    OTHER_COLOUR,
    STATUS_COLOURS,
    PreviewSink,
    contours,
    draw_disc,
    person_colour,
    to_jpeg,
    worst_status,
    write_preview,
)

_STATUS_WORDS = {
    "tracked": "tracked",
    "fallback": "fitted to fewer points",
    "held": "carried over, nothing fitted",
    "lost": "lost and faded out",
}
_EVEN, _MARKED = 12, 12  # pictures: of evenly spaced frames, of frames that are not tracked
_POINTS = 2000  # of a curve, at most


def frames_to_show(calibration) -> list[int]:
    """The frames that the report pictures: evenly spaced ones, and the first of runs that are not tracked."""
    count = len(calibration.times)
    even = np.linspace(0, count - 1, min(_EVEN, count)).round().astype(int)
    marked = [start for start, _, status in _runs(calibration) if status != "tracked"]
    if len(marked) > _MARKED:
        marked = [marked[i] for i in np.linspace(0, len(marked) - 1, _MARKED).round().astype(int)]
    return sorted({*even.tolist(), *marked})


def write_report(calibration, path: str | os.PathLike, seen: PreviewSink | None = None) -> None:
    """Writes report.html: self-contained, without scripts or outside links, for light and dark screens.

    Args:
        calibration: the Calibration.
        path: the file.
        seen: a PreviewSink that has taken all frames and kept those of `frames_to_show`; without it the
            frames are rendered again.
    """
    if seen is None:
        seen = write_preview(calibration, None, frames_to_show(calibration))
    sections = [
        _header(calibration),
        _warnings(calibration.warnings),
        _numbers(calibration, seen.mask_iou),
        section("People", _people(calibration)),
        section("Over time", _curves(calibration, seen.mask_iou), _legend(calibration)),
        section("Keypoints used by the fit", _members(calibration)),
        section("Frames", _sheet(calibration, seen.pictures), "driving, calibrated, overlay"),
        section("Not tracked", _marked(calibration)),
        '<div class="columns">',
        section("Time", _timings(calibration)),
        section("Options", pairs_table({**_paths(calibration), **calibration.options})),
        section("Versions", pairs_table(_computed(calibration))),
        "</div>",
    ]
    title = _escape(f"{_name(calibration.reference_path)} on {_name(calibration.driving_path)}")
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title} - tpc_fast</title>
<style>{css()}</style></head>
<body><main>{"".join(sections)}</main></body></html>
"""
    Path(path).write_text(page, encoding="utf-8", errors="backslashreplace")


# What the numbers say


def _runs(calibration):
    """(first, last + 1, status) of consecutive frames with the same worst status."""
    return _runs_of([worst_status(row) for row in calibration.status])


def _runs_of(status):
    starts = [i for i in range(len(status)) if i == 0 or status[i] != status[i - 1]]
    return [(a, b, status[a]) for a, b in zip(starts, [*starts[1:], len(status)], strict=True)]


def _counts(calibration):
    counts = dict.fromkeys(_STATUS_WORDS, 0)
    for start, end, status in _runs(calibration):
        counts[status] += end - start
    return counts


# Parts of the page


def _header(calibration):
    count, counts = len(calibration.times), _counts(calibration)
    others = [f"{n} {_STATUS_WORDS[s]}" for s, n in counts.items() if n and s != "tracked"]
    worst = next((s for s in reversed(counts) if counts[s]), "tracked")
    verdict = f"{counts['tracked']} of {count} frames tracked"
    who = "The person was" if calibration.persons == 1 else "All persons were"
    detail = ", ".join(others) if others else f"{who} found, and fitted, in every frame."
    seconds = float(calibration.times[-1] - calibration.times[0]) + 1 / calibration.fps
    height, width = calibration.size
    facts = f"{count} frames, {seconds:.2f} s at {calibration.fps:.4g} fps, on a canvas of {width} x {height}"
    reference, driving = (_escape(_name(p)) for p in (calibration.reference_path, calibration.driving_path))
    return f"""<header><div><p class="eyebrow">tpc_fast calibration</p>
<h1>{reference} <span>aligned to</span> {driving}</h1>
<p class="verdict {worst}"><i></i>{verdict}</p><p>{_escape(detail)}</p><p class="dim">{facts}</p></div>
{_reference(calibration)}</header>"""


def _reference(calibration):
    """The reference photo: background dimmed, person outlined, keypoints filled where fits use them."""
    photo, masks = calibration.reference_image, calibration.reference_mask
    height, width = photo.shape[:2]
    step = max(1, math.ceil(max(height, width) / 800))
    photo, masks = photo[::step, ::step].copy(), masks[:, ::step, ::step]
    photo[masks.max(axis=0) < 128] //= 2
    for person, mask in enumerate(masks):
        photo[contours(mask[None])] = person_colour(person)
    share = calibration.members.mean(axis=0)
    radius = max(photo.shape[:2]) / 110
    for person, keypoints in enumerate(calibration.reference_keypoints):
        for k in np.flatnonzero(np.isfinite(keypoints).all(axis=-1)):
            colour, r = (MEMBER_COLOUR, radius) if share[person, k] >= 0.5 else (OTHER_COLOUR, 0.6 * radius)
            draw_disc(photo, keypoints[k] / step, r, colour)
    caption = (
        '<span class="key"><i style="background:var(--member)"></i>used in most frames</span>'
        '<span class="key"><i class="small" style="background:var(--other)"></i>seldom or never used</span>'
    )
    picture = _jpeg(to_jpeg(photo, 560), f"the reference, {width} x {height}, keypoints and mask outline")
    return f'<figure class="reference">{picture}<figcaption>{caption}</figcaption></figure>'


def _warnings(warnings):
    if not warnings:
        return ""
    items = "".join(f"<li>{_escape(warning)}</li>" for warning in warnings)
    return f'<section class="warnings"><h2>Warnings</h2><ul>{items}</ul></section>'


def _numbers(calibration, mask_iou):
    scale, angle = scale_and_angle(calibration.matrices)
    fitted = np.isin(calibration.status, ("tracked", "fallback"))
    residual, used = (
        (np.median(calibration.residual[fitted]), calibration.members[fitted].sum(axis=-1).mean())
        if fitted.any()
        else (0, 0)
    )
    seconds = _total(calibration.timings)
    numbers = [
        ("scale", f"{scale.min():.2f} to {scale.max():.2f}", "&times;"),
        ("angle", f"{angle.min():.0f} to {angle.max():.0f}", "&deg;"),
        ("residual, median", f"{residual:.1f}", "px"),
        ("mask IoU, mean", f"{mask_iou.mean():.3f}", ""),
        ("keypoints used, mean", f"{used:.1f}", "of 17"),
        ("speed", f"{len(calibration.times) / seconds:.1f}" if seconds else "-", "frames/s"),
    ]
    cells = (f"<div><dt>{k}</dt><dd>{v} <small>{unit}</small></dd></div>" for k, v, unit in numbers)
    return f'<dl class="numbers">{"".join(cells)}</dl>'


def _people(calibration):
    """A column of what is worth knowing about each person."""
    columns = [describe(summary) for summary in summarise(calibration)]
    titles = dict.fromkeys(title for column in columns for title in column)
    head = "".join(f"<th>{_person_key(p)}</th>" for p in range(len(columns)))
    rows = (
        f"<tr><td>{title}</td>" + "".join(f"<td>{_escape(column.get(title, '-'))}</td>" for column in columns) + "</tr>"
        for title in titles
    )
    head = f"<tr><th></th>{head}</tr>" if len(columns) > 1 else ""
    return f'<div class="wide"><table class="pairs">{head}{"".join(rows)}</table></div>'


def _person_key(person):
    return f'<span class="key"><i style="background:rgb{person_colour(person)}"></i>person {person}</span>'


def _total(timings):
    return timings.get("total", sum(timings.values()))


def _curves(calibration, mask_iou):
    scale, angle = scale_and_angle(calibration.matrices)
    raw_scale, raw_angle = scale_and_angle(calibration.raw_matrices)
    raw_angle += 360 * np.round((angle - raw_angle).mean(axis=0) / 360)  # unwrapped from the same turn
    size, about = float(np.median(scale)), float(np.median(angle))
    charts = [
        _lanes(calibration) if calibration.persons > 1 else "",
        _chart(calibration, "Scale", "canvas px per photo px", scale, raw_scale, (0.97 * size, 1.03 * size)),
        _chart(calibration, "Angle", "degrees, clockwise", angle, raw_angle, (about - 2, about + 2)),
        _chart(calibration, "Residual", "rms, canvas px", calibration.residual, None, (0, 1)),
        _chart(calibration, "Mask IoU", "calibrated person and driving person", mask_iou, None, (0, 1)),
        _time_axis(calibration),
    ]
    return "".join(charts)


def _legend(calibration):
    lines = '<span class="key"><i class="line thin"></i>each frame alone</span>'
    lines += '<span class="key"><i class="line"></i>smoothed, as used</span>'
    if calibration.persons > 1:
        lines += "".join(
            f'<span class="key"><i class="line" style="background:var(--p{p % 6})"></i>person {p}</span>'
            for p in range(calibration.persons)
        )
    seen = {status for _, _, status in _runs(calibration)}
    shades = (
        f'<span class="key"><i class="{status}"></i>{_STATUS_WORDS[status]}</span>'
        for status in (*STATUS_COLOURS, *["tracked"] * (calibration.persons > 1))
        if status in seen
    )
    return lines + "".join(shades)


def _span(calibration):
    """Start and end of the video in seconds, the last frame's duration included."""
    times = calibration.times
    return float(times[0]), float(times[-1]) + 1 / calibration.fps


def _edges(calibration):
    """[F + 1]: where on the time axis, of 0 to 1000, each frame begins, and the last one ends."""
    start, end = _span(calibration)
    return 1000 * (np.append(calibration.times, end) - start) / (end - start)


def _chart(calibration, title, unit, values, raw, within):
    """Curves over time: an SVG that stretches, and labels that do not.

    Args:
        values: [F, P], drawn thick.
        raw: the same before smoothing, drawn thin; or None.
        within: the least range of the axis.
    """
    start, end = _span(calibration)
    edges = _edges(calibration)
    x = edges[:-1]
    everything = np.concatenate([np.ravel(a) for a in (values, raw, within) if a is not None])
    marks = ticks(float(everything.min()), float(everything.max()), 4)
    low, high = min(marks[0], everything.min()), max(marks[-1], everything.max())
    pick = np.unique(np.linspace(0, len(x) - 1, min(len(x), _POINTS)).round().astype(int))

    def curve(series, kind):
        y = 100 * (high - series) / (high - low)
        lines = []
        for person, column in enumerate(y.T):
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[pick], column[pick], strict=True))
            lines.append(f'<polyline class="{kind} p{person % 6}" points="{points}"/>')
        return "".join(lines)

    shades = "".join(
        f'<rect class="{status}" x="{edges[a]:.1f}" width="{edges[b] - edges[a]:.1f}" height="100">'
        f"<title>frames {a} to {b - 1}: {_STATUS_WORDS[status]}</title></rect>"
        for a, b, status in _runs(calibration)
        if status != "tracked" and calibration.persons == 1  # of several, lanes say whose
    )
    heights = [100 * (high - tick) / (high - low) for tick in marks]
    grid = "".join(f"M0 {y:.2f}H1000" for y in heights)
    grid += "".join(f"M{1000 * (t - start) / (end - start):.1f} 0V100" for t in ticks(start, end, 4))
    labels = "".join(f'<span style="top:{y:.1f}%">{t:g}</span>' for t, y in zip(marks, heights, strict=True))
    curves = ("" if raw is None else curve(raw, "raw")) + curve(values, "curve")
    return f"""<figure class="chart"><figcaption><b>{title}</b> <span class="dim">{unit}</span></figcaption>
<div class="plot">{labels}
<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{title} over time">
{shades}<path class="grid" d="{grid}"/>{curves}</svg></div></figure>"""


def _lanes(calibration):
    """The status of each of several persons over time, in a lane of the own."""
    edges = _edges(calibration)
    persons = range(calibration.persons)
    lanes = []
    for p in persons:
        for a, b, status in _runs_of(calibration.status[:, p].tolist()):
            lanes.append(
                f'<rect class="lane {status}" x="{edges[a]:.1f}" width="{edges[b] - edges[a]:.1f}" y="{p + 0.15:g}" '
                f'height="0.7"><title>person {p}, frames {a} to {b - 1}: {_STATUS_WORDS[status]} '
                f"({_escape(_rungs(calibration, a, b, p))})</title></rect>"
            )
    labels = "".join(
        f'<span style="top:{100 * (p + 0.5) / len(persons):.1f}%;color:var(--p{p % 6})">{p}</span>' for p in persons
    )
    return f"""<figure class="chart"><figcaption><b>Status</b> <span class="dim">person by person</span></figcaption>
<div class="plot" style="height:{20 * len(persons)}px">{labels}
<svg viewBox="0 0 1000 {len(persons)}" preserveAspectRatio="none" role="img" aria-label="status over time">
{"".join(lanes)}</svg></div></figure>"""


def _rungs(calibration, a, b, person):
    """What was used in frames a to b - 1."""
    return ", ".join(dict.fromkeys(calibration.rung[a:b, person].tolist()))


def _time_axis(calibration):
    start, end = _span(calibration)
    labels = (
        f'<span style="left:{100 * (t - start) / (end - start):.2f}%">{t:g} s<br>'
        f"<small>frame {np.searchsorted(calibration.times, t - 1e-6)}</small></span>"
        for t in ticks(start, end, 4)
        if t <= end - 0.04 * (end - start)
    )
    return f'<div class="axis">{"".join(labels)}</div>'


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from `low` to `high`, both within a step of the ends."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (10, 5, 2, 1, 0.5) if power * m <= 1.5 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)] or [low]


def _members(calibration):
    """A strip per keypoint: bright where the fit used it, faint where it was only seen."""
    frames, persons = calibration.members.shape[:2]
    seen = np.isfinite(calibration.keypoints).all(axis=-1)
    names = "".join(f"<span>{name}</span>" for name in KEYPOINT_NAMES)
    blocks = []
    for person in range(persons):
        used = calibration.members[:, person]
        shares = "".join(f"<span>{100 * share:.0f} %</span>" for share in used.mean(axis=0))
        strips = _blocks(seen[:, person], "seen") + _blocks(used, "used")
        heading = f"<h3>{_person_key(person)}</h3>" if persons > 1 else ""
        blocks.append(
            f'{heading}<div class="members"><div>{names}</div>'
            f'<svg viewBox="0 0 {frames} 17" preserveAspectRatio="none" role="img" aria-label="members">'
            f"{strips}</svg><div>{shares}</div></div>"
        )
    keys = (
        '<p class="legend"><span class="key"><i style="background:var(--member)"></i>used by the fit</span>'
        '<span class="key"><i style="background:var(--seen)"></i>seen, not used</span>'
        '<span class="key"><i class="none"></i>not seen</span></p>'
    )
    return keys + "".join(blocks)


def _blocks(flags, kind):
    """One path with a rectangle for every run of frames in which a flag [F, 17] is set."""
    steps = np.diff(np.pad(flags.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    runs = (
        f"M{a} {k + 0.1:g}H{b}v.8H{a}z"
        for k, column in enumerate(steps.T)
        for a, b in zip(np.flatnonzero(column == 1), np.flatnonzero(column == -1), strict=True)
    )
    return f'<path class="{kind}" d="{"".join(runs)}"/>'


def _sheet(calibration, pictures):
    scale, angle = scale_and_angle(calibration.matrices)
    cards = []
    for index, picture in sorted(pictures.items()):
        status = worst_status(calibration.status[index])
        words = f"scale {scale[index, 0]:.2f}, {angle[index, 0]:.0f}&deg;" if scale.shape[1] == 1 else ""
        mark = f'<b class="{status}">{_STATUS_WORDS[status]}</b>' if status != "tracked" else ""
        cards.append(
            f'<figure class="card {status}">{_jpeg(picture, f"frame {index}: driving, calibrated, overlay")}'
            f"<figcaption><b>{index}</b> <span>{calibration.times[index]:.2f} s</span> "
            f"<span>{words}</span> {mark}</figcaption></figure>"
        )
    return f'<div class="sheet">{"".join(cards)}</div>'


def _marked(calibration):
    several = calibration.persons > 1
    runs = [
        (a, b, status, p)
        for p in range(calibration.persons)
        for a, b, status in _runs_of(calibration.status[:, p].tolist())
        if status != "tracked"
    ]
    rows = (
        f"<tr>{f'<td>{_person_key(p)}</td>' if several else ''}"
        f"<td>{a}{f' to {b - 1}' if b > a + 1 else ''}</td><td>{calibration.times[a]:.2f} s</td>"
        f'<td><b class="{status}">{_STATUS_WORDS[status]}</b></td>'
        f"<td>{_escape(_rungs(calibration, a, b, p))}</td></tr>"
        for a, b, status, p in sorted(runs)
    )
    who = "<th>who</th>" if several else ""
    head = f"<tr>{who}<th>frames</th><th>from</th><th>status</th><th>what was used</th></tr>"
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>' if runs else ""


def _timings(calibration):
    frames, total = len(calibration.times), _total(calibration.timings)
    rows = (
        f"<tr><td>{_escape(stage)}</td>"
        f'<td class="bar"><i style="width:{100 * min(1, t / max(total, 1e-9)):.1f}%"></i></td>'
        f'<td class="n">{t:.2f} s</td><td class="n">{1000 * t / frames:.2f} ms</td></tr>'
        for stage, t in calibration.timings.items()
    )
    head = '<tr><th>stage</th><th></th><th class="n">all</th><th class="n">per frame</th></tr>'
    return f"<table>{head}{''.join(rows)}</table>" if calibration.timings else ""


def _computed(calibration):
    device = f" on {calibration.device}" if calibration.device else ""
    by = {"detector": calibration.detector and calibration.detector + device}
    if calibration.segmenter:
        by["segmenter"] = f"{calibration.segmenter} on {calibration.segmenter_device}"
    return by | calibration.versions


def _paths(calibration):
    return {"reference": calibration.reference_path, "driving": calibration.driving_path}


def pairs_table(values: dict) -> str:
    """A table of names and values."""
    rows = (
        f"<tr><td>{_escape(key)}</td><td>{'-' if value is None else _escape(value)}</td></tr>"
        for key, value in values.items()
    )
    return f'<table class="pairs">{"".join(rows)}</table>'


def section(title: str, body: str, beside: str = "") -> str:
    """A section of a page with its heading and a legend beside it; nothing without a body."""
    legend = f'<p class="legend">{beside}</p>' if beside else ""
    return f"<section><h2>{title}</h2>{legend}{body}</section>" if body else ""


def _jpeg(data, alt):
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(data).decode()}" alt="{_escape(alt)}">'


def _name(path):
    return Path(path).name if path else "arrays"


def _escape(value):
    return html.escape(str(value))


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
