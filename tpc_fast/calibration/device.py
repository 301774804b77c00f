"""The photo and its pictures on a device, for a `Calibrator` whose pixels are to stay there."""

import numpy as np

from tpc_fast import _checks
from tpc_fast._dispatch import is_torch
from tpc_fast.media.canvas import Canvas
from tpc_fast.ops.warp import Warped, WarpSource
from tpc_fast.pose.detect.detection import Detection
from tpc_fast.pose.files.given import check_detection


class DevicePictures:
    """Photo and mask of a reference as tensors on `device`, uploaded once; their warps stay there.

    Raises:
        ImportError: if torch is not installed.
        RuntimeError: if there is no such device.
    """

    def __init__(self, image: np.ndarray, mask: np.ndarray, device):
        import torch

        self._canvas = None
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(_checks.torch_device(device))
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

    def on_host(self, detection: Detection, size: tuple[int, int]) -> tuple[Detection, object]:
        """The detection with its numbers on the host, and apart from it its mask, where that is a tensor.

        Keypoints and scores that are tensors come back in one copy.
        """
        keypoints, scores, mask = detection.keypoints, detection.scores, detection.mask
        check_detection(Detection(keypoints, scores), size)
        if is_torch(keypoints) and is_torch(scores):
            import torch

            numbers = torch.cat([keypoints.float(), scores.float()[..., None].to(keypoints.device)], -1)
            numbers = numbers.cpu().numpy()
            keypoints, scores = numbers[..., :2], numbers[..., 2]
        else:
            keypoints, scores = (a.cpu().numpy() if is_torch(a) else a for a in (keypoints, scores))
        if not is_torch(mask):
            return Detection(keypoints, scores, mask), None
        mask = _checks.to_tensor(mask, "detection.mask", self.device)
        wanted = (len(detection), *size)
        if tuple(mask.shape) != wanted or str(mask.dtype) != "torch.uint8":
            raise ValueError(f"detection must have a uint8 mask {wanted}, but has {_checks.describe(mask)}")
        return Detection(keypoints, scores), mask

    def render(self, matrix, opacity, size, interpolation, antialias, dtype) -> Warped:
        """The warped reference of one frame [P, ...]; its mask is faded after the warp.

        Args:
            matrix: float32 [P, 2, 3].
            opacity: float32 [P]; goes to the device in one copy with the matrices.
        """
        numbers = self._upload(np.concatenate([matrix.reshape(-1, 6), opacity[:, None]], -1))
        image, mask, _ = self._source.warp(
            numbers[None, :, :6].reshape(1, -1, 2, 3), size, interpolation, antialias, dtype=dtype
        )
        image, mask = image[0], mask[0]
        if (opacity < 1).any():
            share = mask * numbers[:, 6, None, None]
            mask = (share.round() if dtype == "uint8" else share).to(mask.dtype)
        return Warped(image, mask, None)

    def _upload(self, array: np.ndarray):
        """A small array on the device, by a copy that the host does not wait for where there is pinned memory."""
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def pose_mask(self, mask, places: np.ndarray, canvas: Canvas):
        """uint8 [P, h, w] on the canvas, of a frame's masks.

        Args:
            mask: a tensor [D, H, W] of whoever was seen; or NumPy [P, h, w], already drawn and in order.
            places: [P] which of the D plays each person of the reference, -1 for nobody.
            canvas: of the frames.
        """
        if not is_torch(mask):
            return self._upload(mask)
        out = mask.new_zeros((len(places), *canvas.size))
        played = np.flatnonzero(places >= 0)
        if len(played):
            import torch

            # Numbers one by one: a list of them would be copied to the device, which waits.
            binary = (torch.stack([mask[d] for d in places[played].tolist()]) >= 128).to(torch.uint8) * 255
            # A frame's mask is warped once: of its pyramid, only what the canvas's scale needs.
            scale = float(np.sqrt(np.linalg.det(canvas.matrix[:, :2])))
            source = WarpSource(binary[..., None], binary, least_scale=scale)
            matrix = self._canvas_matrix(canvas).expand(1, len(played), 2, 3)
            drawn = source.warp(matrix, canvas.size, "bilinear", antialias=True).mask[0]
            for p, one in zip(played.tolist(), drawn, strict=True):
                out[p] = one
        return out

    def _canvas_matrix(self, canvas: Canvas):
        """Its matrix [2, 3] on the device, uploaded once."""
        if self._canvas is None or self._canvas[0] != canvas:
            self._canvas = canvas, self._upload(canvas.matrix)
        return self._canvas[1]
