"""The report: one HTML page, with everything in it, that says how well a calibration went."""

import math
import os

import numpy as np

from tpc_fast.calibration.private import Private
from tpc_fast.calibration.record import DETERMINED
from tpc_fast.calibration.summary import KEYPOINT_NAMES, describe, scale_and_degrees, summarise
from tpc_fast.media.files import whole_file
from tpc_fast.media.marks import draw_marks
from tpc_fast.output.html import (
    Heights,
    chart,
    css,
    curve,
    escape,
    file_name,
    jpeg_element,
    pairs_table,
    section,
    ticks,
)
from tpc_fast.output.preview import (
    MEMBER_COLOUR,
    OTHER_COLOUR,
    STATUS_COLOURS,
    PreviewSink,
    person_colour,
    to_jpeg,
    worst_status,
    write_preview,
)

_STATUS_WORDS = {
    "tracked": "tracked",
    "fallback": "shows too little, neighbours fill in",
    "held": "not seen, carried over",
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
    private = Private(calibration, None)
    sections = [
        _header(calibration),
        _warnings([private.text(warning) for warning in calibration.warnings]),
        _numbers(calibration, seen.mask_iou),
        section("People", _people(calibration)),
        section("Over time", _curves(calibration, seen.mask_iou), _legend(calibration)),
        section("Keypoints used by the fit", _members(calibration)),
        section("Frames", _sheet(calibration, seen.pictures), "driving, calibrated, overlay"),
        section("Not tracked", _marked(calibration)),
        '<div class="columns">',
        section("Time", _timings(calibration)),
        section("Options", pairs_table({**_files(calibration), **private.options(calibration.options)})),
        section("Versions", pairs_table(_computed(calibration))),
        "</div>",
    ]
    title = escape(f"{file_name(calibration.reference_path)} on {file_name(calibration.driving_path)}")
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title} - tpc_fast</title>
<style>{css()}</style></head>
<body><main>{"".join(sections)}</main></body></html>
"""
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")


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
    reference, driving = (escape(file_name(p)) for p in (calibration.reference_path, calibration.driving_path))
    return f"""<header><div><p class="eyebrow">tpc_fast calibration</p>
<h1>{reference} <span>aligned to</span> {driving}</h1>
<p class="verdict {worst}"><i></i>{verdict}</p><p>{escape(detail)}</p><p class="dim">{facts}</p></div>
{_reference(calibration)}</header>"""


def _reference(calibration):
    """The reference photo: background dimmed, person outlined, keypoints filled where fits use them."""
    photo, masks = calibration.reference_image, calibration.reference_mask
    height, width = photo.shape[:2]
    step = max(1, math.ceil(max(height, width) / 800))
    photo, masks = photo[::step, ::step].copy(), masks[:, ::step, ::step]
    photo >>= (masks.max(axis=0) < 128)[..., None]
    share = calibration.members.mean(axis=0)
    radius = max(photo.shape[:2]) / 110
    discs = []
    for person, keypoints in enumerate(calibration.reference_keypoints):
        for k in np.flatnonzero(np.isfinite(keypoints).all(axis=-1)):
            colour, r = (MEMBER_COLOUR, radius) if share[person, k] >= 0.5 else (OTHER_COLOUR, 0.6 * radius)
            discs.append((*keypoints[k] / step, r, *colour))
    draw_marks(photo, masks, [person_colour(person) for person in range(len(masks))], discs)
    caption = (
        '<span class="key"><i style="background:var(--member)"></i>used in most frames</span>'
        '<span class="key"><i class="small" style="background:var(--other)"></i>seldom or never used</span>'
    )
    picture = jpeg_element(to_jpeg(photo, 560), f"the reference, {width} x {height}, keypoints and mask outline")
    return f'<figure class="reference">{picture}<figcaption>{caption}</figcaption></figure>'


def _warnings(warnings):
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<section class="warnings"><h2>Warnings</h2><ul>{items}</ul></section>'


def _numbers(calibration, mask_iou):
    scale, angle = scale_and_degrees(calibration.matrices)
    fitted = np.isin(calibration.status, ("tracked", "fallback"))
    residual, used = (
        (np.median(calibration.residual[fitted]), calibration.members[fitted].sum(axis=-1).mean())
        if fitted.any()
        else (0, 0)
    )
    seconds = _total(calibration.timings)
    numbers = [
        ("scale", f"{scale.min():.2f} to {scale.max():.2f}", "&times;"),
        ("angle", f"{angle.min():z.0f} to {angle.max():z.0f}", "&deg;"),
        ("residual, median", f"{residual:.1f}", "px"),
        ("mask IoU, mean", f"{np.nanmean(mask_iou):.3f}" if np.isfinite(mask_iou).any() else "-", ""),
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
        f"<tr><td>{title}</td>" + "".join(f"<td>{escape(column.get(title, '-'))}</td>" for column in columns) + "</tr>"
        for title in titles
    )
    head = f"<tr><th></th>{head}</tr>" if len(columns) > 1 else ""
    return f'<div class="wide"><table class="pairs">{head}{"".join(rows)}</table></div>'


def _person_key(person):
    return f'<span class="key"><i style="background:rgb{person_colour(person)}"></i>person {person}</span>'


def _total(timings):
    return timings.get("total", sum(timings.values()))


def _curves(calibration, mask_iou):
    scale, angle = scale_and_degrees(calibration.matrices)
    raw_scale, raw_angle = scale_and_degrees(calibration.raw_matrices)
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
    heights = Heights(float(np.nanmin(everything)), float(np.nanmax(everything)))
    pick = np.unique(np.linspace(0, len(x) - 1, min(len(x), _POINTS)).round().astype(int))

    def curves(series, kind):
        return "".join(
            curve(f'class="{kind} p{person % 6}"', x[pick], heights.down(column[pick]))
            for person, column in enumerate(series.T)
        )

    shades = "".join(
        f'<rect class="{status}" x="{edges[a]:.1f}" width="{edges[b] - edges[a]:.1f}" height="100">'
        f"<title>frames {a} to {b - 1}: {_STATUS_WORDS[status]}</title></rect>"
        for a, b, status in _runs(calibration)
        if status != "tracked" and calibration.persons == 1  # of several, lanes say whose
    )
    columns = [1000 * (t - start) / (end - start) for t in ticks(start, end, 4)]
    drawn = ("" if raw is None else curves(raw, "raw")) + curves(values, "curve")
    return chart(title, unit, heights, columns, drawn, shades)


def _lanes(calibration):
    """The status of each of several persons over time, in a lane for each."""
    edges = _edges(calibration)
    persons = range(calibration.persons)
    lanes = []
    for p in persons:
        for a, b, status in _runs_of(calibration.status[:, p].tolist()):
            lanes.append(
                f'<rect class="lane {status}" x="{edges[a]:.1f}" width="{edges[b] - edges[a]:.1f}" y="{p + 0.15:g}" '
                f'height="0.7"><title>person {p}, frames {a} to {b - 1}: {_STATUS_WORDS[status]} '
                f"({escape(_shown(calibration, a, b, p))})</title></rect>"
            )
    labels = "".join(
        f'<span style="top:{100 * (p + 0.5) / len(persons):.1f}%;color:var(--p{p % 6})">{p}</span>' for p in persons
    )
    return f"""<figure class="chart"><figcaption><b>Status</b> <span class="dim">person by person</span></figcaption>
<div class="plot" style="height:{20 * len(persons)}px">{labels}
<svg viewBox="0 0 1000 {len(persons)}" preserveAspectRatio="none" role="img" aria-label="status over time">
{"".join(lanes)}</svg></div></figure>"""


def _shown(calibration, a, b, person):
    """What the keypoints of frames a to b - 1 determine, in words."""
    sometimes = calibration.determined[a:b, person].any(0)
    return ", ".join(name for name, is_ in zip(DETERMINED, sometimes, strict=True) if is_) or "nothing"


def _time_axis(calibration):
    start, end = _span(calibration)
    labels = (
        f'<span style="left:{100 * (t - start) / (end - start):.2f}%">{t:g} s<br>'
        f"<small>frame {np.searchsorted(calibration.times, t - 1e-6)}</small></span>"
        for t in ticks(start, end, 4)
        if t <= end - 0.04 * (end - start)
    )
    return f'<div class="axis">{"".join(labels)}</div>'


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
    scale, angle = scale_and_degrees(calibration.matrices)
    cards = []
    for index, picture in sorted(pictures.items()):
        status = worst_status(calibration.status[index])
        words = f"scale {scale[index, 0]:.2f}, {angle[index, 0]:z.0f}&deg;" if scale.shape[1] == 1 else ""
        mark = f'<b class="{status}">{_STATUS_WORDS[status]}</b>' if status != "tracked" else ""
        cards.append(
            f'<figure class="card {status}">{jpeg_element(picture, f"frame {index}: driving, calibrated, overlay")}'
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
        f"<td>{escape(_shown(calibration, a, b, p))}</td></tr>"
        for a, b, status, p in sorted(runs)
    )
    who = "<th>who</th>" if several else ""
    head = f"<tr>{who}<th>frames</th><th>from</th><th>status</th><th>what the frame shows</th></tr>"
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>' if runs else ""


def _timings(calibration):
    frames, total = len(calibration.times), _total(calibration.timings)
    rows = (
        f"<tr><td>{escape(stage)}</td>"
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


def _files(calibration):
    return {"reference": file_name(calibration.reference_path), "driving": file_name(calibration.driving_path)}
