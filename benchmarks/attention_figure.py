"""Draws where attention goes with and without calibration: `python benchmarks/attention_figure.py`.

No trained model is involved. Queries and keys are made of what a token shows (mean and spread of its colours) and where
it lies (sines and cosines of its position), as a diffusion model's features are of both. The clip is the demo's, whose
truth is known, so that the share of the attention that goes where it belongs can be told.
"""

from pathlib import Path

import numpy as np

import tpc_fast
from tpc_fast import demo
from tpc_fast.ops.attention import RegionPlan

GRID = 32  # tokens along a side, as at 256 x 256 pixels in the first block of Stable Diffusion 1.5
SIZE = demo.SIZE
SPOTS = {"face": (223, 120), "badge": (171, 388)}  # xy in the photo
FRAME = 28  # of 96: rolled by 58 degrees, as large as in the photo
SHARPNESS, POSITION = 8.0, 0.7  # of the softmax; weight of position against appearance
NEAR = 40  # pixels of the photo around a spot that belong to it
FIGURE = Path(__file__).parent / "results" / "attention.jpg"


def features(image: np.ndarray) -> np.ndarray:
    """[N, D] unit vectors, one per token of an image uint8 [SIZE, SIZE, 3]."""
    side = SIZE // GRID
    patches = (image / 127.5 - 1).reshape(GRID, side, GRID, side, 3).swapaxes(1, 2).reshape(GRID * GRID, -1, 3)
    looks = np.concatenate([patches.mean(1), 2 * patches.std(1)], 1)
    looks = looks - looks.mean(0)
    y, x = np.divmod(np.arange(GRID * GRID), GRID)
    phases = np.pi * np.outer(np.concatenate([x, y]) / GRID, [1, 2, 4])
    place = np.concatenate([np.cos(phases), np.sin(phases)], 1).reshape(2, GRID * GRID, -1)
    place = np.concatenate(list(place), 1)
    return np.concatenate([unit(looks), POSITION * unit(place)], 1)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def attention(query: np.ndarray, keys: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """[N]: softmax of a query over the visible keys, 0 for the others."""
    scores = np.where(visible, SHARPNESS * keys @ query, -np.inf)
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def centres() -> np.ndarray:
    """[N, 2] xy of the tokens, canvas pixels."""
    y, x = np.divmod(np.arange(GRID * GRID), GRID)
    return (np.stack([x, y], 1) + 0.5) * SIZE / GRID - 0.5


def main() -> None:
    """Computes, prints and draws."""
    import torch

    photo, camera = demo.load_photo(), demo.camera_path()
    clip = FIGURE.with_suffix(".mp4")
    try:
        demo.write_clip(photo, clip, camera)
        calibration = tpc_fast.calibrate(photo, clip, size=SIZE)
        driving = np.stack(list(calibration.driving_frames()))[FRAME]
    finally:
        clip.unlink(missing_ok=True)
    calibrated, to_canvas = (
        calibration.images[FRAME][0],
        tpc_fast.Similarity.from_matrix(calibration.matrices[FRAME, 0]),
    )
    truth = tpc_fast.Similarity.from_matrix(camera.matrix[FRAME])
    plan = RegionPlan(
        torch.from_numpy(calibration.pose_masks[FRAME][:, None]), torch.from_numpy(calibration.masks[FRAME][:, None]),
        torch.from_numpy(calibration.reference_mask), (GRID, GRID),
    )  # fmt: skip
    everything, person = np.ones(GRID * GRID, bool), plan.keys[0, 0].numpy()

    queries, unmoved = features(driving), tpc_fast.Similarity.from_matrix(np.eye(2, 3))
    banks = {
        "not calibrated": (photo, features(photo), everything, unmoved.apply(centres())),
        "calibrated": (calibrated, features(calibrated), person, to_canvas.inverse().apply(centres())),
    }

    def look(token, spot, bank):
        """The attention of a query token, and its share within NEAR pixels of a spot of the photo."""
        _, keys, visible, places = banks[bank]
        weights = attention(queries[token], keys, visible)
        return weights, weights[np.linalg.norm(places - spot, axis=1) < NEAR].sum()

    on_person = np.flatnonzero(plan.classes[0].numpy() > 1)
    spots = truth.inverse().apply(centres())
    for bank in banks:
        mean = np.mean([look(token, spots[token], bank)[1] for token in on_person])
        print(f"{bank}: {mean:.0%} of the attention of the {len(on_person)} tokens of the person is where it belongs")
    rows = []
    for name, spot in SPOTS.items():
        place = truth.apply(np.array([spot], float))[0]
        token = int(np.argmin(np.linalg.norm(centres() - place, axis=1)))
        row = [(f"driving frame, query: {name}", marked(driving, place))]
        for bank, (image, *_) in banks.items():
            weights, share = look(token, spot, bank)
            row.append((f"{bank}: {share:.0%} where it belongs", heated(image, weights)))
        rows.append(row)
    draw(rows)


def marked(image, place):
    """The driving frame with a ring where the query is."""
    y, x = np.mgrid[:SIZE, :SIZE]
    ring = abs(np.hypot(x - place[0], y - place[1]) - 26) < 5
    return np.where(ring[..., None], (255, 230, 0), image).astype(np.uint8)


def heated(image, weights):
    """An image, dimmed, with the attention over it."""
    heat = np.sqrt(weights / weights.max()).reshape(GRID, GRID).repeat(SIZE // GRID, 0).repeat(SIZE // GRID, 1)
    return (image * 0.35 * (1 - heat[..., None]) + np.array([255, 150, 20]) * heat[..., None]).astype(np.uint8)


def draw(rows) -> None:
    """Writes the figure: rows of (title, picture)."""
    from PIL import Image, ImageDraw, ImageFont

    side, gap, top = 260, 8, 32
    sheet = Image.new("RGB", (3 * side + 2 * gap, len(rows) * (side + top)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, row in enumerate(rows):
        for j, (title, picture) in enumerate(row):
            x, y = j * (side + gap), i * (side + top)
            pen.text((x + 2, y + 6), title, "black", font)
            sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (x, y + top - 4))
    sheet.save(FIGURE, quality=82)
    print(FIGURE)


if __name__ == "__main__":
    main()
