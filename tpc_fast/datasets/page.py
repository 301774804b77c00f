"""The summary of a table: how good it is, on one page, with the worst clips in pictures."""

import itertools
from pathlib import Path

import numpy as np

from tpc_fast.datasets.row import calibration_of
from tpc_fast.datasets.tables import open_table
from tpc_fast.media.files import whole_file
from tpc_fast.output.html import css, escape, file_name, jpeg_element, pairs_table, section
from tpc_fast.output.preview import draw_strip, to_jpeg
from tpc_fast.output.render import RenderedFrame, draw_panels

WORST = 50
LISTED = 1000  # failures on the page; the table has all
_BINS = 20
_HEIGHT = 160  # of the pictures, pixels: fifty of them are a megabyte
#: Column -> (title, edges of the histogram, how values are written).
_SHOWN = {
    "tracked": ("share tracked", (0.0, 1.0), "{:.0%}"),
    "head": ("offset of the head, 95 %, head sizes", (0.0, 1.0), "{:.2f}"),
    "torso": ("offset of the torso, 95 %, head sizes", (0.0, 1.0), "{:.2f}"),
    "scale_range": ("largest over smallest scale", (1.0, 3.0), "{:.2f}"),
    "mask_jumps": ("mask jumps", (0.0, 0.2), "{:.1%}"),
    "seconds": ("seconds a row", None, "{:.1f}"),
}


def write_page(output: Path, failed: Path) -> Path:
    """Writes NAME.html beside NAME.parquet."""
    file = open_table(output)
    figures = {name: file.read([name])[name].to_numpy() for name in _SHOWN}  # not the rows: there may be millions
    losses, failures = [], 0
    if failed.exists():
        table = open_table(failed)
        failures, names = table.metadata.num_rows, ["index", "reference", "driving", "error"]
        batches = (batch.to_pylist() for batch in table.iter_batches(LISTED, columns=names))
        losses = list(itertools.islice(itertools.chain.from_iterable(batches), LISTED))
    seconds = figures["seconds"].sum()
    numbers = {"good": file.metadata.num_rows, "failed": failures, "seconds in all": f"{seconds:.0f}"}
    histograms = "".join(_histogram(figures[name], *shown) for name, shown in _SHOWN.items())
    body = section("Rows", pairs_table(numbers))
    body += section("Quality", histograms, "the last bin has what is beyond")
    body += section("Failed", _failures(losses), f"the first {LISTED}" if failures > LISTED else "")
    body += section(
        f"The worst {min(WORST, file.metadata.num_rows)}",
        f'<div class="sheet">{"".join(_worst(file, figures["head"]))}</div>',
        "those with the largest offsets of the head first; the middle frame: driving, calibrated, overlay",
    )  # fmt: skip
    page = output.with_suffix(".html")
    with whole_file(page) as partial:
        partial.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{escape(output.stem)}</title><style>{css()}</style>"
            f"<main><h1>{escape(output.stem)}</h1>{body}</main></html>",
            encoding="utf-8",
        )
    return page


def _histogram(values: np.ndarray, title: str, ends, form: str) -> str:
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    low, high = ends or (0.0, float(values.max()) or 1.0)
    counts, _ = np.histogram(np.clip(values, low, high), _BINS, (low, high))
    bars = "".join(
        f'<rect x="{50 * i + 2}" y="{100 - h:.1f}" width="46" height="{h:.1f}" fill="var(--p0)"/>'
        for i, h in enumerate(100 * counts / counts.max())
    )
    said = ", ".join(
        f"{name} {form.format(np.percentile(values, q))}"
        for name, q in (("5th percentile", 5), ("median", 50), ("95th percentile", 95))
    )
    return (
        f"<figure><figcaption><b>{title}</b> {form.format(low)} to {form.format(high)}; {said}</figcaption>"
        '<svg viewBox="0 0 1000 100" preserveAspectRatio="none" width="100%" height="80" role="img" '
        f'aria-label="{title}">'
        f"{bars}</svg></figure>"
    )


def _failures(losses) -> str:
    items = "".join(
        f"<tr><td>{row['index']}</td><td>{escape(file_name(row['driving']))}</td><td>{escape(row['error'])}</td></tr>"
        for row in losses
    )
    return f"<table><tr><th>row</th><th>video</th><th>error</th></tr>{items}</table>" if items else ""


def _worst(file, heads: np.ndarray):
    """The rows whose heads are farthest off, as pictures of driving frame, photo and overlay."""
    order = np.argsort(-np.nan_to_num(heads, nan=np.inf), kind="stable")[:WORST]
    starts = np.cumsum([0, *(file.metadata.row_group(g).num_rows for g in range(file.num_row_groups))])
    for i in order:
        group = int(np.searchsorted(starts, i, "right")) - 1
        row = file.read_row_group(group).slice(int(i - starts[group]), 1).to_pylist()[0]
        name = escape(file_name(row["driving"]))
        said = f"row {row['index']}, {name}: head {row['head']:.2f}, tracked {row['tracked']:.0%}"
        try:
            picture = jpeg_element(_picture(calibration_of(row)), said)
        except (OSError, ValueError) as error:
            picture = f'<p class="dim">{escape(error)}</p>'
        yield f'<figure class="card">{picture}<figcaption>{said}</figcaption></figure>'


def _picture(calibration) -> bytes:
    """The panels of the middle frame, as a JPEG file; masks instead of the driving frame if the video is gone."""
    middle, size = len(calibration) // 2, (_HEIGHT, round(_HEIGHT * calibration.size[1] / calibration.size[0]))
    try:
        driving = next(itertools.islice(calibration.driving_frames(size), middle, None), None)
    except (ValueError, FileNotFoundError):
        driving = None
    warped, pose_masks = calibration.render(middle), calibration.pose_masks[middle]
    panels = draw_panels(calibration, middle, size, warped, pose_masks, driving)
    frame = RenderedFrame(middle, warped.image[0], warped.mask[0], pose_masks, panels)
    return to_jpeg(draw_strip(calibration, frame), _HEIGHT)
