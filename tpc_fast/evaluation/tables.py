"""From results of clips to tables: means with confidence intervals, and bins of rotation and scale."""

import csv
from pathlib import Path

import numpy as np

from tpc_fast.media.files import whole_file

RESAMPLES = 2000
CONFIDENCE = 0.95


def bootstrap(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean of values [N] and its 95 % confidence interval: percentiles over 2,000 resamples (Efron, 1979).

    NaN is left out; the interval of fewer than two values is NaN, as is the mean of none.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return (float(values[0]) if len(values) else np.nan), np.nan, np.nan
    picks = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[picks].mean(-1), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(values.mean()), float(low), float(high)


def variant_name(row: dict) -> str:
    """What a row compares, in one word."""
    if row["method"] in ("none", "published"):
        return row["method"]
    parts = [row["method"]] + [row["model"]] * (row["model"] != "similarity")
    return " ".join(parts + [row["smooth"]] * (row["smooth"] != "none"))


def summarise(results: list[dict], seed: int = 0) -> dict:
    """The tables of a run.

    Returns:
        clips: names.
        aligned, misaligned: variant -> metric -> [mean over clips, low, high].
        by_angle, by_scale: variant -> list of bins with `value` and `cells`. Over all frames of a bin, they hold the
        mean IoU, the median and 95th percentile of each error, and the mean share of keypoints inside the reference's
        picture.
        propagation: group size -> metric -> [mean over clips, low, high].
        None stands for what is not defined.
    """
    rows = [row for result in results for row in result["rows"]]
    return {
        "clips": [result["clip"] for result in results],
        "aligned": _means([r for r in rows if r["angle"] is None], seed),
        "misaligned": _means([r for r in rows if r["angle"] is not None], seed),
        "by_angle": _bins(rows, "angle"),
        "by_scale": _bins(rows, "scale"),
        "propagation": _propagation([row for result in results for row in result["propagation"]], seed),
    }


def _propagation(rows, seed) -> dict:
    table = {}
    for group_size in dict.fromkeys(row["group_size"] for row in rows):
        mine = [row for row in rows if row["group_size"] == group_size]
        table[str(group_size)] = {  # as JSON has it
            metric: [_or_none(x) for x in bootstrap(np.array([_float(row[metric]) for row in mine]), seed)]
            for metric in mine[0]
            if metric != "group_size"
        }
    return table


def _means(rows, seed) -> dict:
    table: dict[str, dict] = {}
    for name in dict.fromkeys(variant_name(row) for row in rows):
        mine = [row for row in rows if variant_name(row) == name]
        table[name] = {}
        for metric in dict.fromkeys(metric for row in mine for metric in row["metrics"]):
            by_clip: dict[str, list] = {}
            for row in mine:
                by_clip.setdefault(row["clip"], []).append(_float(row["metrics"].get(metric)))
            means = [np.nan if np.isnan(v).all() else float(np.nanmean(v)) for v in by_clip.values()]
            table[name][metric] = [_or_none(x) for x in bootstrap(np.array(means), seed)]
    return table


def _bins(rows, key) -> dict:
    table: dict[str, list] = {}
    rows = [row for row in rows if row[key] is not None]
    for name in dict.fromkeys(variant_name(row) for row in rows):
        mine = [row for row in rows if variant_name(row) == name]
        table[name] = []
        for value in sorted({row[key] for row in mine}):
            inside = [row for row in mine if row[key] == value]
            entry = {"value": value, "cells": len(inside)}
            for metric in inside[0]["frames"]:
                pooled = np.array([_float(v) for row in inside for v in row["frames"][metric]])
                pooled = pooled[~np.isnan(pooled)]
                if metric == "iou":
                    entry["iou"] = _or_none(pooled.mean() if len(pooled) else np.nan)
                elif len(pooled):
                    entry[f"{metric}_median"] = float(np.median(pooled))
                    entry[f"{metric}_95"] = float(np.percentile(pooled, 95))
            shown = [row["metrics"]["in_frame"] for row in inside if "in_frame" in row["metrics"]]
            if shown:
                entry["in_frame"] = float(np.mean(shown))
            table[name].append(entry)
    return table


def write_csv(results: list[dict], path: Path) -> None:
    """One line for each clip, variant and misalignment, one column for each metric; empty where not defined."""
    rows = [row for result in results for row in result["rows"]]
    keys = ("clip", "method", "model", "smooth", "angle", "scale")
    metrics = list(dict.fromkeys(metric for row in rows for metric in row["metrics"]))
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*keys, *metrics])
        for row in rows:
            writer.writerow([*(row[k] for k in keys), *(row["metrics"].get(m) for m in metrics)])


def _float(value) -> float:
    return np.nan if value is None else float(value)


def _or_none(value) -> float | None:
    return None if np.isnan(value) else float(value)
