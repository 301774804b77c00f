"""The page of an evaluation: tables, plots and the worst frames, in one self-contained HTML file."""

from pathlib import Path

import numpy as np

from tpc_fast.diffusion.models.registry import is_tiny
from tpc_fast.evaluation.tables import variant_name
from tpc_fast.evaluation.worst import PATTERN, WORST
from tpc_fast.media.files import whole_file
from tpc_fast.output.html import Heights, chart, css, curve, escape, jpeg_element, pairs_table, section, ticks

#: metric -> (heading, what it is, digits, whether more is better)
METRICS = {
    "iou": ("mask IoU", "intersection over union of calibrated mask and pose mask", 3, True),
    "oks": ("OKS", "object keypoint similarity of all common keypoints (COCO)", 3, True),
    "oks_unused": ("OKS, unused", "of the common keypoints that the fit did not use", 3, True),
    "rms": ("rms", "distance of all common keypoints, in person sizes", 3, False),
    "rms_unused": ("rms, unused", "of the common keypoints that the fit did not use", 3, False),
    "angle_error_median": ("angle error", "degrees, median over the frames", 2, False),
    "angle_error_95": ("95 %", "95th percentile of the angle error", 2, False),
    "log_scale_error_median": ("|log scale| error", "median over the frames", 4, False),
    "log_scale_error_95": ("95 %", "95th percentile of the |log scale| error", 4, False),
    "point_error_median": ("point error", "rms over the reference's keypoints, canvas pixels, median", 2, False),
    "head_offset": ("head", "offset of nose and eyes in head sizes, median over the frames", 3, False),
    "head_offset_95": ("95 %", "95th percentile of the head's offset", 3, False),
    "torso_offset": ("torso", "offset of shoulders and hips in head sizes, median over the frames", 3, False),
    "torso_offset_95": ("95 %", "95th percentile of the torso's offset", 3, False),
    "scale_range": ("scale range", "largest scale over the smallest", 2, None),
    "roughness_log_scale": ("roughness, log scale", "deviation of the second difference", 4, False),
    "roughness_degrees": ("roughness, degrees", "deviation of the angle's second difference", 3, False),
    "lag_seconds": ("lag", "seconds by which the truth is trailed", 3, False),
    "tracked": ("tracked", "share of the frames", 3, None),
    "fallback": ("fallback", "share of the frames", 3, None),
    "held": ("held", "share of the frames", 3, None),
    "lost": ("lost", "share of the frames", 3, None),
    "mask_jumps": ("mask jumps", "share of the frames whose mask's area changes by more than a quarter", 3, None),
    "in_frame": ("in frame", "share of the reference's keypoints that its picture shows", 2, None),
    "l1_foreground": ("L1", "mean absolute difference of pixels inside the pose mask, 0 to 1", 4, False),
    "psnr_foreground": ("PSNR", "of pixels inside the pose mask, dB", 2, True),
    "ssim_foreground": ("SSIM", "structural similarity inside the pose mask", 4, True),
    "lpips_foreground": ("LPIPS", "of AlexNet, mean of its map inside the pose mask", 4, False),
}
_PICTURE_METRICS = {
    "l1": ("L1", "mean absolute difference of pixels, 0 to 1", 4, False),
    "psnr": ("PSNR", "dB", 2, True),
    "ssim": ("SSIM", "structural similarity", 4, True),
    "lpips": ("LPIPS", "of AlexNet", 4, False),
}
_PLACES = {
    "": ("", ""),
    "_foreground": (", person", ", inside the pose mask"),
    "_background": (", around", ", outside of the pose mask"),
}
#: the same of the videos that a model makes
VIDEO_METRICS = {
    f"video_{name}{suffix}": (heading + place, said + where, digits, more)
    for suffix, (place, where) in _PLACES.items()
    for name, (heading, said, digits, more) in _PICTURE_METRICS.items()
} | {
    "fid": ("FID", "of all frames of all clips", 2, False),
    "fid_vid": ("FID-VID", "of all clips of 16 frames, 3-D ResNet-50", 2, False),
    "fvd": ("FVD", "of all clips of 16 frames, I3D", 2, False),
}
PROPAGATION_METRICS = {
    "bank": ("bank", "relative difference of what neighbouring frames read of the reference", 4, False),
    "output": ("video", "mean absolute difference of neighbouring frames, 0 to 1", 5, False),
    "output_foreground": ("video, person", "the same inside the pose masks", 5, False),
    "driving": ("driving video", "the same of the driving video", 5, None),
    "driving_foreground": ("driving video, person", "the same inside the pose masks", 5, None),
}
_ERRORS = (
    "angle_error",
    "angle_error_median",
    "log_scale_error",
    "log_scale_error_median",
)  # "none" is off their charts
_MOST_CURVES = 8
_COLOURS = ("#2266dd", "#c2410c", "#0f8a6d", "#8b3fc7", "#b58900", "#d33682", "#3a9fbf", "#6b7280")
_SHEET = 12  # pictures


def write_page(summary: dict, results: list[dict], folder: Path, path: Path, pictures: bool = True) -> None:
    """Writes report.html; pictures of the worst frames are taken from `folder`/clips, or left out."""
    aligned, by_angle, by_scale = summary["aligned"], summary["by_angle"], summary["by_scale"]
    made_with, settings = summary["made_with"], dict(summary["settings"])
    settings.pop("variants")
    what = "camera" if settings["protocol"] == "synthetic" else "reference"
    record = {"command": summary["command"], "commit": made_with["commit"], "date": made_with["date"]}
    outlined = "the driving frame; over it the calibrated person, outlined, and the outline of the driving person"
    sections = [
        _header(summary, results),
        _warnings(summary, results),
        section("Methods", _table(aligned), _how(len(results))),
        section("Videos", _table(_videos(summary), VIDEO_METRICS), _videos_note(summary)),
        section("Propagation", _propagation(summary), _propagation_note(summary)),
        section(f"Turned and scaled: {what}", _table(summary["misaligned"]), _misaligned_note(summary)),
        section("Against rotation", _curves(by_angle, f"rotation of the {what}, degrees"), _keys(by_angle)),
        section("Against scale", _curves(by_scale, f"scale of the {what}", True), _keys(by_scale)),
        section("Every bin", _bin_table(summary)),
        section("Distributions", _distributions(results), _keys(aligned)),
        section("Worst frames", _sheet(results, folder) if pictures else "", outlined),
        section("Clips", _clips(results)),
        section("Made with", pairs_table({**record, **made_with["versions"], **settings})),
    ]
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>tpc_fast evaluation</title>
<style>{css()}{_STYLE}</style></head>
<body><main>{"".join(sections)}</main></body></html>
"""
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")


# Parts of the page


def _header(summary, results):
    settings, frames = summary["settings"], sum(result["frames"] for result in results)
    what = {
        "clips": "clips as they are",
        "misaligned": "references turned and scaled",
        "synthetic": "a camera path whose truth is known",
    }[settings["protocol"]]
    count = f"{len(results)} clip{'s' * (len(results) != 1)}, {frames} frames, {len(summary['aligned'])} variants"
    return f"""<header><div><p class="eyebrow">tpc_fast evaluation</p><h1>{what[0].upper() + what[1:]}</h1>
<p class="dim">{count}</p></div></header>"""


def _warnings(summary, results):
    said = [f"{clip} could not be evaluated: {why}" for clip, why in summary["failures"].items()]
    said += [f"{result['clip']}: {warning}" for result in results for warning in result["warnings"]]
    items = "".join(f"<li>{escape(warning)}</li>" for warning in said)
    return f'<section class="warnings"><h2>Warnings</h2><ul>{items}</ul></section>' if said else ""


def _how(clips):
    interval = "means over clips, 95 % intervals by bootstrap" if clips > 1 else "one clip: no intervals"
    return f"{interval}; the best of each column is bold; a dash: not defined. Smoothing is named where there is any."


def _misaligned_note(summary):
    if summary["settings"]["protocol"] == "synthetic":
        return "a camera that turns once about the face, at every scale; errors against the truth"
    cells = max((bins[0]["cells"] * len(bins) for bins in summary["by_angle"].values() if bins), default=0)
    return (
        f"means over {cells} rotations and scales of the reference; errors against the truth if it is known, else "
        "against the same method with the reference as it was"
    )


def _videos(summary):
    """The metrics of videos, and distances of distributions, which have no intervals."""
    table = {}
    for name, row in summary["aligned"].items():
        of_all = {m: [d["value"], None, None] for m, d in summary["distributions"].get(name, {}).items()}
        mine = {m: values for m, values in row.items() if m in VIDEO_METRICS} | of_all
        if mine:
            table[name] = mine
    return table


def _videos_note(summary):
    model, samples = summary["settings"]["model"], {}
    for distances in summary["distributions"].values():
        samples |= {m: d["samples"] for m, d in distances.items()}
    counts = ", ".join(f"{VIDEO_METRICS[m][0]} of {n} samples" for m, n in samples.items())
    said = [f"what {escape(str(model))} makes of each method's alignment, beside the true frames", counts]
    said += ["random weights: these figures show that the path works, and nothing else"] * is_tiny(model)
    return "; ".join(part for part in said if part)


def _propagation(summary):
    table = summary["propagation"]
    if not table:
        return ""
    charts = []
    for metric in ("bank", "output_foreground"):
        points = [(int(size), row[metric][0]) for size, row in table.items() if row[metric][0] is not None]
        title, unit, _, _ = PROPAGATION_METRICS[metric]
        charts.append(_chart(title.capitalize(), unit, "frames of a group", {metric: points}, False, [metric]))
    named = {f"groups of {size}" if size != "1" else "no propagation": row for size, row in table.items()}
    return _table(named, PROPAGATION_METRICS) + "".join(charts)


def _propagation_note(summary):
    model = summary["settings"]["model"]
    said = [f"how unsteady features and videos of {escape(str(model))} are from frame to frame, with the last method"]
    said += ["random weights: videos mean nothing"] * is_tiny(model)
    return "; ".join(said)


def _table(table, known=METRICS):
    if not table:
        return ""
    metrics = [m for m in known if any(row.get(m, [None])[0] is not None for row in table.values())]
    metrics = [m for m in metrics if m not in ("held", "lost") or any(row.get(m, [0])[0] for row in table.values())]
    best = {}
    for metric in metrics:
        values = [row[metric][0] for row in table.values() if row.get(metric, [None])[0] is not None]
        if metric.startswith("roughness"):
            values = [value for value in values if value > 0]  # what cannot turn or grow is perfectly steady
        said = {f"{value:.{known[metric][2]}f}" for value in values}
        if known[metric][3] is not None and len(said) > 1:
            best[metric] = f"{(max if known[metric][3] else min)(values):.{known[metric][2]}f}"
    head = "".join(f'<th class="n" title="{known[m][1]}">{known[m][0]}</th>' for m in metrics)
    rows = []
    for name, row in table.items():
        cells = []
        for metric in metrics:
            value, low, high = row.get(metric, [None] * 3)
            digits = known[metric][2]
            text = "&ndash;" if value is None else f"{value:.{digits}f}"
            text = f"<b>{text}</b>" if text == best.get(metric) else text
            if low is not None:
                text += f"<br><small>{low:.{digits}f} to {high:.{digits}f}</small>"
            cells.append(f'<td class="n">{text}</td>')
        rows.append(f"<tr><td>{escape(name)}</td>{''.join(cells)}</tr>")
    notes = "".join(f"<div><dt>{known[m][0]}</dt><dd>{known[m][1]}</dd></div>" for m in metrics)
    return (
        f'<div class="wide"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div><dl class="notes">{notes}</dl>'
    )


def _curves(bins, label, logarithmic=False):
    charts = []
    for metric, title, unit in (
        ("iou", "Mask IoU", "mean"),
        ("angle_error_median", "Angle error", "degrees, median"),
        ("log_scale_error_median", "|log scale| error", "median"),
    ):
        series = {
            name: [(entry["value"], entry[metric]) for entry in entries if entry.get(metric) is not None]
            for name, entries in bins.items()
            if metric not in _ERRORS or name != "none"
        }
        charts.append(_chart(title, unit, label, {k: v for k, v in series.items() if v}, logarithmic, bins))
    return "".join(charts)


def _distributions(results):
    """Cumulative distributions over all frames of the clips as they are."""
    charts, names = [], []
    for metric, title, unit in (
        ("iou", "Mask IoU", "of a frame"),
        ("angle_error", "Angle error", "degrees, of a frame"),
        ("log_scale_error", "|log scale| error", "of a frame"),
    ):
        pooled: dict[str, list] = {}
        for result in results:
            for row in result["rows"]:
                if row["angle"] is None and (metric not in _ERRORS or row["method"] != "none"):
                    values = [v for v in row["frames"].get(metric, []) if v is not None]
                    pooled.setdefault(variant_name(row), []).extend(values)
        names = names or list(pooled)  # of the first chart, which has all
        series = {}
        for name, values in pooled.items():
            if values:
                levels = np.linspace(0, 1, min(len(values), 100))
                series[name] = list(zip(np.quantile(values, levels).tolist(), levels.tolist(), strict=True))
        charts.append(_chart(title, "share of the frames that have no more", unit, series, False, names))
    return "".join(charts)


def _chart(title, unit, label, series, logarithmic, names):
    """Curves as an SVG that stretches, with labels that do not. `names` gives the colours their order."""
    names = _drawn(names)
    series = {name: points for name, points in series.items() if name in names}
    if not series:
        return ""
    colours = {name: i % len(_COLOURS) for i, name in enumerate(names)}
    place = np.log if logarithmic else np.asarray
    x = np.concatenate([[p[0] for p in points] for points in series.values()])
    y = np.concatenate([[p[1] for p in points] for points in series.values()])
    left, right = float(place(x.min())), float(place(x.max()))
    right = right if right > left else left + 1
    heights = Heights(min(0.0, float(y.min())), max(float(y.max()), 1e-9))

    def across(values):
        return 1000 * (place(values) - left) / (right - left)

    lines = []
    for name, points in series.items():
        said = f"<title>{escape(name)}</title>"
        run = np.array(points, np.float64)
        lines.append(curve(f'style="stroke:var(--c{colours[name]})"', across(run[:, 0]), heights.down(run[:, 1]), said))
    columns = sorted({float(v) for v in x}) if logarithmic else ticks(float(x.min()), float(x.max()), 6)
    places = [float(across(c)) for c in columns]
    axis = "".join(f'<span style="left:{at / 10:.2f}%">{c:g}</span>' for c, at in zip(columns, places, strict=True))
    below = f'\n<div class="axis ticks">{axis}</div><p class="label dim">{label}</p>'
    return chart(title, unit, heights, places, "".join(lines), below=below)


def _drawn(names) -> list[str]:
    """The variants that charts show: plain ones first."""
    return sorted(names, key=lambda name: len(name.split()))[:_MOST_CURVES]


def _keys(names):
    more, names = len(names) - _MOST_CURVES, _drawn(names)
    keys = (
        f'<span class="key"><i class="line" style="background:var(--c{i})"></i>{escape(name)}</span>'
        for i, name in enumerate(names)
    )
    more = f"and {more} more, not drawn; " if more > 0 else ""
    return "".join(keys) + more + ("errors of none: see the table" if "none" in names else "")


def _bin_table(summary):
    digits_of = {m: METRICS[m][2] for m in ("iou", "angle_error_median", "angle_error_95")}
    columns = [*digits_of.items(), ("log_scale_error_median", 4), ("log_scale_error_95", 4)]
    if summary["settings"]["protocol"] == "misaligned":
        columns.append(("in_frame", METRICS["in_frame"][2]))
    headings = ["", "turned, scaled", "cells", *(METRICS[m][0] for m, _ in columns)]
    rows = []
    for key, unit in (("by_angle", "&deg;"), ("by_scale", "&times;")):
        for name, entries in summary[key].items():
            for entry in entries:
                values = ["&ndash;" if entry.get(m) is None else f"{entry[m]:.{digits}f}" for m, digits in columns]
                cells = [f"{entry['value']:g} {unit}", str(entry["cells"]), *values]
                numbers = "".join(f'<td class="n">{cell}</td>' for cell in cells)
                rows.append(f"<tr><td>{escape(name)}</td>{numbers}</tr>")
    head = "".join(f'<th class="n">{heading}</th>' for heading in headings)
    table = f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    return f"<details><summary>{len(rows)} bins</summary>{table}</details>" if rows else ""


def _sheet(results, folder):
    found = []
    for result in results:
        for path in (folder / "clips" / result["folder"]).glob(PATTERN):
            _, iou, frame = path.stem.split("-")
            found.append((float(iou) if iou != "nan" else 0.0, result["clip"], int(frame), path))
    cards = []
    for iou, clip, frame, path in sorted(found)[: max(_SHEET, WORST)]:
        caption = f"<b>{escape(clip)}</b> <span>frame {frame}</span> <span>IoU {iou:.3f}</span>"
        cards.append(
            f'<figure class="card">{jpeg_element(path.read_bytes(), f"frame {frame} of {clip}")}'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f'<div class="sheet">{"".join(cards)}</div>' if cards else ""


def _clips(results):
    rows = (
        f'<tr><td>{escape(result["clip"])}</td><td class="n">{result["frames"]}</td>'
        + "".join(f'<td class="n">{seconds:.2f} s</td>' for seconds in result["times"].values())
        + "</tr>"
        for result in results
    )
    head = '<tr><th></th><th class="n">frames</th><th class="n">detecting, or reading what was detected</th>'
    head += '<th class="n">aligning and measuring</th><th class="n">misaligned references</th></tr>'
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


_STYLE = (
    ":root{"
    + "".join(f"--c{i}:{colour};" for i, colour in enumerate(_COLOURS))
    + """}
@media(prefers-color-scheme:dark){:root{--c0:#6ea8ff;--c1:#ff9a5c;--c2:#4fd1b0;--c3:#c792f5;--c4:#e3c04d;--c5:#f48fb8}}
polyline{stroke-width:2}.chart .plot{height:190px}
.axis.ticks{height:18px;margin:6px 0 0 46px}
.axis.ticks span:first-child{transform:translateX(-50%);text-align:center}
.label{margin:2px 0 14px 46px;text-align:center;font-size:13px}
.notes{display:grid;grid-template-columns:repeat(auto-fit,minmax(240px,1fr));
gap:4px 18px;margin:14px 0;font-size:13px}
.notes dt{display:inline;font-weight:600}.notes dd{display:inline;margin:0 0 0 6px;color:var(--dim)}
.wide td:first-child{white-space:nowrap}
.key{white-space:nowrap}.legend .key{margin-bottom:2px}
"""
)
