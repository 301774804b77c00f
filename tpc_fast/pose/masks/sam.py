"""Person masks by Segment Anything, asked with a person's keypoints and box; and the cleaning of masks."""

import dataclasses
import re
import textwrap
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from tpc_fast._checks import torch_device
from tpc_fast._extras import INSTALL
from tpc_fast.pose.detect.detection import Detection
from tpc_fast.pose.masks.densepose import DensePose

BOX_MARGIN = 0.15  # of the box's sides, by which a person reaches beyond the keypoints
_INSTALL = {
    "sam": f"{INSTALL['diffusion']} (transformers and torch; torchvision is not needed)",
    "sam2": f"{INSTALL['diffusion']} (transformers and torch; torchvision is not needed)",
    "densepose": f"{INSTALL['torch']}, and a torchvision that fits torch, which published files call",
    "segment-anything": "pip install segment-anything==1.0, in an environment whose torch and torchvision match (see "
    "docs/guides/detectors.md)",
}


@runtime_checkable
class Segmenter(Protocol):
    """Finds the masks of persons whose keypoints are known.

    Attributes:
        name: what it is called.
        device: what it computes on, in the words of its library.
    """

    name: str
    device: str

    def segment(self, image: np.ndarray, keypoints: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Masks uint8 [P, H, W], 0 or 255, of persons in a picture uint8 [H, W, 3].

        Args:
            image: RGB.
            keypoints: [P, 17, 2] pixels.
            seen: [P, 17] bool, the keypoints that are prompts.
        """
        ...


def get_segmenter(spec: str) -> Segmenter:
    """A segmenter, ready to use.

    Args:
        spec: one of
            "sam:MODEL" or "sam2:MODEL": a folder or name that `transformers.SamModel` or `Sam2Model` loads.
            "segment-anything:FILE": a checkpoint of the original package. Its name begins with sam_vit_h, sam_vit_l or
            sam_vit_b, as those of the published files, and so tells the model.
            "densepose:FILE": a TorchScript file, see `tpc_fast.pose.masks.densepose`.

    Raises:
        ValueError: if it is none of these, or the model can't be loaded.
        FileNotFoundError: if there is no such FILE.
        ImportError: if the package is missing; says how to install it.
    """
    name, _, model = spec.partition(":")
    if name not in _INSTALL or not model:
        names = "sam:MODEL, sam2:MODEL, segment-anything:FILE or densepose:FILE"
        raise ValueError(f"segmenter must be {names}, but is {spec!r}")
    kinds = {
        "sam": TransformersSam, "sam2": TransformersSam2, "segment-anything": OriginalSam, "densepose": DensePose,
    }  # fmt: skip
    try:
        return kinds[name](model)
    except ImportError as error:
        raise ImportError(f"the segmenter {name} can't be had ({error}): {_INSTALL[name]}") from error


class TransformersSam:
    """SAM through `transformers.SamModel`.

    Args:
        model: folder or name, as `from_pretrained` takes it.
        device: of torch; None: cuda if there is one.
    """

    name = "sam"

    def __init__(self, model: str, device: str | None = None):
        import torch
        from transformers import SamImageProcessorPil, SamModel, SamProcessor

        self.device = torch_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model = _from_pretrained(SamModel, model, "SAM", ("sam",)).to(self.device)
        try:
            self._processor = SamProcessor(SamImageProcessorPil.from_pretrained(model))
        except (OSError, ValueError) as error:
            raise ValueError(f"{model!r} has no image processor of SAM: {_brief(error)}") from error

    def segment(self, image: np.ndarray, keypoints: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """See `Segmenter.segment`. The picture is encoded once."""
        import torch

        masks = np.zeros((len(keypoints), *image.shape[:2]), np.uint8)
        embedding = None
        for p in np.flatnonzero(seen.any(-1)):
            points = keypoints[p][seen[p]].astype(float)
            inputs = self._processor(
                image,
                input_points=[[points.tolist()]],
                input_labels=[[[1] * len(points)]],
                input_boxes=[[prompt_box(points, image.shape[:2])]],
                return_tensors="pt",
            )
            sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
            inputs = {k: v.to(self.device, torch.float32 if v.is_floating_point() else None) for k, v in inputs.items()}
            pixels = inputs.pop("pixel_values")
            with torch.inference_mode():
                if embedding is None:
                    embedding = self._model.get_image_embeddings(pixels)
                found = self._model(image_embeddings=embedding, multimask_output=False, **inputs).pred_masks
            mask = self._processor.image_processor.post_process_masks(found.cpu(), *sizes)[0]
            masks[p] = np.asarray(mask).reshape(image.shape[:2]) * np.uint8(255)
        return masks


class TransformersSam2:
    """SAM 2 on single pictures, through `transformers.Sam2Model`.

    Its processor needs torchvision, so what that does is done here: pictures are squeezed into the model's square.

    Args:
        model: folder or name, as `from_pretrained` takes it.
        device: of torch; None: cuda if there is one.
    """

    name = "sam2"

    def __init__(self, model: str, device: str | None = None):
        import torch
        from transformers import Sam2Model

        self.device = torch_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model = _from_pretrained(Sam2Model, model, "SAM 2", ("sam2", "sam2_video")).to(self.device)
        self._side = int(np.max(self._model.config.prompt_encoder_config.image_size))

    def segment(self, image: np.ndarray, keypoints: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """See `Segmenter.segment`. The picture is encoded once."""
        import torch
        from torch.nn.functional import interpolate

        size = image.shape[:2]
        masks = np.zeros((len(keypoints), *size), np.uint8)
        shrunk = self._side / np.array(size[::-1], float)
        embedding = None
        for p in np.flatnonzero(seen.any(-1)):
            points = keypoints[p][seen[p]].astype(float)
            box = np.reshape(prompt_box(points, size), (2, 2)) * shrunk
            points, box = (
                torch.tensor(a, dtype=torch.float32, device=self.device)[None, None]
                for a in (points * shrunk, box.ravel())
            )
            with torch.inference_mode():
                if embedding is None:
                    embedding = self._model.get_image_embeddings(self._pixels(image))
                found = self._model(
                    image_embeddings=embedding,
                    input_points=points,
                    input_labels=torch.ones(points.shape[:-1], dtype=torch.int64, device=self.device),
                    input_boxes=box,
                    multimask_output=False,
                ).pred_masks
                mask = interpolate(found[0].float(), size, mode="bilinear", align_corners=False)[0, 0] > 0
            masks[p] = mask.cpu().numpy() * np.uint8(255)
        return masks

    def _pixels(self, image):
        """[1, 3, side, side], normalised as ImageNet is."""
        import torch
        from torch.nn.functional import interpolate

        pixels = torch.tensor(image, device=self.device).permute(2, 0, 1)[None] / 255
        pixels = interpolate(pixels, (self._side, self._side), mode="bilinear", align_corners=False, antialias=True)
        mean, deviation = torch.tensor([(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)], device=self.device)
        return (pixels - mean[:, None, None]) / deviation[:, None, None]


class OriginalSam:
    """SAM through the package `segment-anything` (`SamPredictor`).

    Args:
        checkpoint: a file whose name begins with the kind, sam_vit_h, sam_vit_l or sam_vit_b.
        device: of torch; None: cuda if there is one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its name is another, or it is no checkpoint of this kind.
    """

    name = "segment-anything"

    def __init__(self, checkpoint: str, device: str | None = None):
        import torch
        from segment_anything import SamPredictor, sam_model_registry

        name = re.match("sam_(vit_[hlb])", Path(checkpoint).name)
        if not name:
            raise ValueError(
                "the checkpoint of segment-anything must be a file whose name begins with sam_vit_h, sam_vit_l or "
                f"sam_vit_b, which says of which model it is, but is {checkpoint!r}"
            )
        if not Path(checkpoint).is_file():
            raise FileNotFoundError(f"there is no file {checkpoint!r} for segment-anything")
        self.device = torch_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            model = sam_model_registry[name[1]](checkpoint=checkpoint)
        except Exception as error:  # those of pickle, of zip files, of keys and of shapes
            message = f"{checkpoint!r} can't be loaded as a checkpoint of SAM's {name[1]}: {_brief(error)}"
            raise ValueError(message) from error
        self._predictor = SamPredictor(model.to(self.device))

    def segment(self, image: np.ndarray, keypoints: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """See `Segmenter.segment`. The picture is encoded once."""
        masks = np.zeros((len(keypoints), *image.shape[:2]), np.uint8)
        people = np.flatnonzero(seen.any(-1))
        if len(people):
            self._predictor.set_image(image)
        for p in people:
            points = keypoints[p][seen[p]].astype(float)
            found, _, _ = self._predictor.predict(
                point_coords=points,
                point_labels=np.ones(len(points), int),
                box=np.array(prompt_box(points, image.shape[:2])),
                multimask_output=False,
            )
            masks[p] = found[0] * np.uint8(255)
        return masks


def _from_pretrained(kind, model: str, what: str, types: tuple[str, ...]):
    """A model of transformers, if it is of one of the types: weights that a file lacks would be drawn at random."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # what it would list is said here
    try:
        found = kind.config_class.get_config_dict(model)[0].get("model_type")
        if found not in types:
            said = f"says it is {found!r}" if found else "is missing or does not say what it is"
            raise ValueError(f"its config.json {said}; needed is {' or '.join(map(repr, types))}")
        loaded, info = kind.from_pretrained(model, output_loading_info=True, ignore_mismatched_sizes=True)
        wrong = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
        if wrong:
            raise ValueError(f"{len(wrong)} of its weights are missing or of another shape, {wrong[0]} among them")
    except Exception as error:  # those of safetensors and of the hub too
        absent = "" if Path(model).exists() else "there is no such folder, and of the hub: "
        raise ValueError(f"{model!r} can't be loaded as a {what} model: {absent}{_brief(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    return loaded.eval()


def _brief(error: Exception) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 300)


def prompt_box(points: np.ndarray, size: tuple[int, int]) -> list[float]:
    """[left, top, right, bottom] around points [N, 2] with a margin, within a picture of `size` (H, W)."""
    low, high = points.min(0), points.max(0)
    margin = BOX_MARGIN * np.maximum(high - low, (high - low).max() / 2)
    limit = np.array(size[::-1]) - 1
    return [*np.clip(low - margin, 0, limit).tolist(), *np.clip(high + margin, 0, limit).tolist()]


def with_masks(segmenter: Segmenter, image: np.ndarray, detection: Detection, threshold: float) -> Detection:
    """A detection whose masks are the segmenter's, asked with the keypoints that lie in the picture."""
    x, y = detection.keypoints[..., 0], detection.keypoints[..., 1]
    inside = (x >= -0.5) & (y >= -0.5) & (x <= image.shape[1] - 0.5) & (y <= image.shape[0] - 0.5)
    seen = inside & (detection.scores >= threshold)
    return dataclasses.replace(detection, mask=segmenter.segment(image, detection.keypoints, seen))


def clean_mask(mask: np.ndarray) -> np.ndarray:
    """A mask uint8 [H, W] with its largest component only, and without holes.

    Covered is what is 128 or more; the coverage of edges is kept, holes become 255.
    """
    from scipy import ndimage

    parts, count = ndimage.label(mask >= 128)
    if count == 0:
        return np.zeros_like(mask)
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    filled = ndimage.binary_fill_holes(largest)
    edge = ndimage.binary_dilation(filled, iterations=2)  # soft edges lie outside of what is half covered
    return np.where(filled & (mask < 128), 255, np.where(edge & ~((parts > 0) & ~largest), mask, 0)).astype(np.uint8)
