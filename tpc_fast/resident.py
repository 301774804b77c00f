"""A reference that lives on a device, for a `Calibrator` whose pixels are to stay there."""

import numpy as np

from tpc_fast import _checks
from tpc_fast._dispatch import is_torch
from tpc_fast.canvas import Canvas
from tpc_fast.pose.detection import Detection
from tpc_fast.pose.given import check_detection
from tpc_fast.warp import Warped, WarpSource


class ResidentReference:
    """Image and mask of a reference as tensors on `device`, uploaded once.

    Raises:
        ImportError: if torch is not installed.
        RuntimeError: if there is no such device.
    """

    def __init__(self, image: np.ndarray, mask: np.ndarray, device):
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device)
        self.device = pixels.device
        self._source = WarpSource(pixels, torch.from_numpy(np.ascontiguousarray(mask)).to(device))

    def frame(self, frame, looked_at: bool):
        """A driving frame that is a uint8 tensor [H, W, 3]: as it is, or copied to the host if a detector looks at it.

        None for anything else.
        """
        if not is_torch(frame):
            return None
        if frame.ndim != 3 or frame.shape[-1] != 3 or str(frame.dtype) != "torch.uint8":
            raise ValueError(f"frame must be a uint8 tensor [H, W, 3], but is {_checks.describe(frame)}")
        return frame.cpu().numpy() if looked_at else frame

    def on_host(self, detection: Detection, size: tuple[int, int]):
        """The detection with its keypoints on the host, and its mask where that is a tensor: the two apart."""
        numbers = [a.cpu().numpy() if is_torch(a) else a for a in (detection.keypoints, detection.scores)]
        if not is_torch(detection.mask):
            return Detection(*numbers, detection.mask), None
        check_detection(Detection(*numbers), size)
        mask = _checks.to_tensor(detection.mask, "detection.mask", self.device)
        wanted = (len(detection), *size)
        if tuple(mask.shape) != wanted or str(mask.dtype) != "torch.uint8":
            raise ValueError(f"detection must have a uint8 mask {wanted}, but has {_checks.describe(mask)}")
        return Detection(*numbers), mask

    def render(self, matrix: np.ndarray, opacity: np.ndarray, size, interpolation, antialias, dtype) -> Warped:
        """The warped reference of one frame [P, ...]; its mask is faded after the warp."""
        import torch

        transforms = torch.from_numpy(matrix).to(self.device, non_blocking=True)[None]
        image, mask, _ = self._source.warp(transforms, size, interpolation, antialias, dtype=dtype)
        image, mask = image[0], mask[0]
        if (opacity < 1).any():
            share = torch.from_numpy(opacity).to(self.device, non_blocking=True)[:, None, None]
            mask = (mask * share).round().to(mask.dtype) if dtype == "uint8" else (mask * share).to(mask.dtype)
        return Warped(image, mask, None)

    def pose_mask(self, mask, places: np.ndarray, canvas: Canvas):
        """uint8 [P, h, w] on the canvas, of a frame's masks.

        Args:
            mask: a tensor [D, H, W] of whoever was seen; or NumPy [P, h, w], already drawn and in order.
            places: [P] which of the D plays each person of the reference, -1 for nobody.
            canvas: of the frames.
        """
        import torch

        if not is_torch(mask):
            return torch.from_numpy(mask).to(self.device)
        out = torch.zeros((len(places), *canvas.size), dtype=torch.uint8, device=self.device)
        played = np.flatnonzero(places >= 0)
        n = len(played)
        if n:
            binary = (mask[places[played].tolist()] >= 128).to(torch.uint8) * 255
            matrix = torch.from_numpy(canvas.matrix).to(self.device, non_blocking=True).expand(1, n, 2, 3)
            source = WarpSource(binary[..., None], binary)
            out[played.tolist()] = source.warp(matrix, canvas.size, "bilinear", antialias=True).mask[0]
        return out
