"""DensePose through a TorchScript file: the pictures that MagicAnimate follows, and masks of persons."""

import os
from pathlib import Path

import numpy as np

from tpc_fast._checks import torch_device

# Viridis at 255 / 24 times the number of the body part, 0 (nobody) to 24, as DensePose's own visualiser has it.
COLOURS = np.frombuffer(
    bytes.fromhex(
        "440154471063481f70472c7a4439834046883b518b365d8d31688e2c718e287c8e25858e21908d1f9a8a20a38627ad8135b77946c06f"
        "5cc86373d0568ed645aadc32c5e021e2e418fde725"
    ),
    np.uint8,
).reshape(25, 3)
SUFFIXES = (".torchscript", ".ts", ".pt", ".jit")
_OUTPUTS = "boxes [D, 4], coarse [D, C, h, w] and fine [D, 25, h, w] segmentation, u and v"


def is_model(path) -> bool:
    """Whether a path is that of a TorchScript file, by its name, and not of a video."""
    return Path(path).suffix.lower() in SUFFIXES


class DensePose:
    """DensePose exported with TorchScript, as `densepose_r50_fpn_dl.torchscript` is (controlnet_aux).

    The module takes a picture, uint8 [3, H, W] RGB. It returns boxes (left, top, right, bottom), the best seen person
    first. For each box it returns the logits of the person and of its 24 parts. It also returns u and v, which are not
    used.

    Also a `Segmenter`: a person's mask is that of the box in which most of that person's keypoints lie on a body.

    Args:
        model: the file.
        device: of torch; None: cuda if there is one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no TorchScript module.
        ImportError: if torch is missing.
    """

    name = "densepose"

    def __init__(self, model: str | os.PathLike, device: str | None = None):
        if not Path(model).is_file():
            raise FileNotFoundError(f"there is no file {str(model)!r} for DensePose")
        import importlib.util

        import torch

        if importlib.util.find_spec("torchvision"):  # whose operations the published files call
            import torchvision  # noqa: F401
        self.device = torch_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._path = str(model)
        try:
            self._model = torch.jit.load(self._path, map_location=self.device).eval()
        except (RuntimeError, ValueError) as error:
            hint = ": it needs a torchvision that fits torch" if "torchvision" in str(error) else ""
            raise ValueError(f"{self._path!r} can't be loaded as a TorchScript module{hint}: {error}") from error

    def parts(self, image: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
        """The persons of a picture uint8 [H, W, 3] RGB, best seen first.

        Returns:
            For each (left, top, labels uint8 [h, w]): 0 is nobody, 1 to 24 are parts of the body.

        Raises:
            ValueError: if the module returns something else than it should.
        """
        import torch

        with torch.inference_mode():
            try:
                boxes, coarse, fine, *_ = self._model(
                    torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1)
                )
                persons = [
                    _labels(box, *logits, image.shape[:2]) for box, *logits in zip(boxes, coarse, fine, strict=True)
                ]
            except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
                raise ValueError(f"{self._path!r} must take uint8 [3, H, W] and return {_OUTPUTS}: {error}") from error
        return [person for person in persons if person[2].size]

    def draw(self, image: np.ndarray) -> np.ndarray:
        """A picture of the parts, uint8 like the image; the best seen person in front."""
        picture = np.empty_like(image)
        picture[:] = COLOURS[0]
        for left, top, labels in reversed(self.parts(image)):
            part = picture[top : top + labels.shape[0], left : left + labels.shape[1]]
            np.copyto(part, COLOURS[labels], where=labels[..., None] > 0)
        return picture

    def segment(self, image: np.ndarray, keypoints: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """See `Segmenter.segment`."""
        from scipy.optimize import linear_sum_assignment

        found = self.parts(image)
        bodies = np.zeros((len(found), *image.shape[:2]), np.uint8)
        for body, (left, top, labels) in zip(bodies, found, strict=True):
            body[top : top + labels.shape[0], left : left + labels.shape[1]] = (labels > 0) * np.uint8(255)
        masks = np.zeros((len(keypoints), *image.shape[:2]), np.uint8)
        if not len(found) or not len(keypoints):
            return masks
        x, y = np.rint(np.where(seen[..., None], keypoints, -1)).astype(int).transpose(2, 0, 1)
        inside = (x >= 0) & (y >= 0) & (x < image.shape[1]) & (y < image.shape[0])
        hits = (bodies[:, np.where(inside, y, 0), np.where(inside, x, 0)] > 0) & inside  # [bodies, persons, 17]
        who, which = linear_sum_assignment(-hits.sum(-1).T)
        some = hits.sum(-1)[which, who] > 0
        masks[who[some]] = bodies[which[some]]
        return masks


def _labels(box, coarse, fine, size) -> tuple[int, int, np.ndarray]:
    """(left, top, labels) of one person, cut at the borders of a picture of `size`."""
    from torch.nn.functional import interpolate

    left, top, right, bottom = (int(side) for side in box)
    shape = max(bottom - top, 1), max(right - left, 1)
    coarse, fine = (
        interpolate(logits[None].float(), shape, mode="bilinear", align_corners=False)[0].argmax(0)
        for logits in (coarse, fine)
    )
    if int(fine.max()) >= len(COLOURS):
        raise ValueError(f"there are {len(COLOURS) - 1} parts, not {int(fine.max())}")
    labels = (fine * (coarse > 0)).byte().cpu().numpy()[max(-top, 0) :, max(-left, 0) :]
    left, top = max(left, 0), max(top, 0)
    return left, top, labels[: max(size[0] - top, 0), : max(size[1] - left, 0)]
