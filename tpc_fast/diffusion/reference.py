"""The calibrated reference as a diffusion model reads it: latents and masks."""

import dataclasses
import os
import re
import warnings
from pathlib import Path

import numpy as np
import torch

from tpc_fast import _checks
from tpc_fast.calibration.result import Calibration
from tpc_fast.media.canvas import Canvas
from tpc_fast.media.images import load_image
from tpc_fast.ops.propagation import PropagationPlan


@dataclasses.dataclass
class CalibratedReference:
    """Latents and masks of a reference and its calibrated images; P persons, F frames, U candidates.

    Candidates are the frames whose calibrated images may be encoded: all of them, or one per group. With P = 0 the
    model reads the whole reference, uncalibrated.

    Attributes:
        latent: [1, C, h, w] floating, the reference on its canvas; for models that read tokens of an image encoder,
            these, [1, L, d].
        calibrated_latents: [P, U, C, h, w] or [P, U, L, d], the calibrated images of the candidates.
        pose_masks: [P, F, H, W], where the driving persons are: uint8 0..255, bool, or floating in [0, 1].
        calibrated_masks: [P, U, H, W].
        reference_masks: [P, H, W].
        candidates: [U] int64, the frames that the candidates are, increasing; None for all frames (U = F).
        valid: [H, W], nonzero where the canvas of the frames is not padding; None for all of it.
        reference_valid: [H, W], the same for the reference.
        extras: what else a model wants of the photo, by name: see `ReferenceAdapter.photo`.

    Raises:
        TypeError: for something that is not a tensor.
        ValueError: for shapes that do not match, saying which.
    """

    latent: torch.Tensor
    calibrated_latents: torch.Tensor
    pose_masks: torch.Tensor
    calibrated_masks: torch.Tensor
    reference_masks: torch.Tensor
    candidates: np.ndarray | None = None
    valid: torch.Tensor | None = None
    reference_valid: torch.Tensor | None = None
    extras: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        tokens = getattr(self.latent, "ndim", 4) == 3
        for name, ndim in (
            ("latent", 4 - tokens), ("calibrated_latents", 5 - tokens), ("pose_masks", 4), ("calibrated_masks", 4),
            ("reference_masks", 3), ("valid", 2), ("reference_valid", 2),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is None and name in ("valid", "reference_valid"):
                continue
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"{name} must be a tensor, but is {_checks.describe(value)}")
            if value.ndim != ndim:
                raise ValueError(f"{name} must have {ndim} axes, but is {_checks.describe(value)}")
            if value.dtype.is_floating_point and not value.is_meta and not bool(value.isfinite().all()):
                raise ValueError(f"{name} must be finite, but has NaN or infinity")
        if self.candidates is None:
            self.candidates = np.arange(self.num_frames)
        self.candidates = np.asarray(self.candidates, np.int64)
        count = len(self.candidates)
        if self.candidates.ndim != 1 or (np.diff(self.candidates) <= 0).any() or (
            count and not 0 <= self.candidates[0] <= self.candidates[-1] < self.num_frames
        ):  # fmt: skip
            raise ValueError(
                f"candidates must be increasing frames from 0 to {self.num_frames - 1}, but is {self.candidates}"
            )
        persons, size = self.persons, self.size
        for name, want in (
            ("latent", (1, *self.latent.shape[1:])),
            ("calibrated_latents", (persons, count, *self.latent.shape[1:])),
            ("calibrated_masks", (persons, count, *size)),
            ("reference_masks", (persons, *size)),
            ("valid", size),
            ("reference_valid", size),
        ):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != want:
                raise ValueError(
                    f"{name} must be {list(want)} beside pose masks of {persons} persons, {self.num_frames} frames, "
                    f"{size[0]} x {size[1]} pixels, and {count} candidates, but is {_checks.describe(value)}"
                )

    def __repr__(self) -> str:
        return (
            f"CalibratedReference({self.num_frames} frames, {self.persons} person(s), {len(self.candidates)} "
            f"candidates, {self.size[0]}x{self.size[1]})"
        )

    @property
    def persons(self) -> int:
        """P."""
        return self.pose_masks.shape[0]

    @property
    def num_frames(self) -> int:
        """F."""
        return self.pose_masks.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the masks, in pixels."""
        return tuple(self.pose_masks.shape[2:])

    def to(self, device=None, dtype=None) -> "CalibratedReference":
        """On another device; `dtype` is that of the latents."""
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), torch.Tensor)
        }
        for name in ("latent", "calibrated_latents"):
            moved[name] = moved[name].to(dtype=dtype)
        moved["extras"] = {name: value.to(device, dtype) for name, value in self.extras.items()}
        return dataclasses.replace(self, **moved)

    def with_fallbacks(self) -> "CalibratedReference":
        """Itself; where a person's calibrated mask is empty, the photo and its mask instead, with a warning.

        A person who is in the driving video, but not in the calibrated image, would else read nothing of the reference.
        """
        empty = (self.calibrated_masks.flatten(2).amax(2) == 0) & self.pose_masks.flatten(1).amax(1).bool()[:, None]
        if not empty.any():
            return self
        said = ", ".join(str(person) for person in empty.any(1).nonzero()[:, 0].tolist())
        warnings.warn(
            f"{int(empty.sum())} calibrated masks of person {said} are empty where the driving person is seen: the "
            "photo is read there, as it is",
            UserWarning,
            stacklevel=3,
        )
        images, masks = self.calibrated_latents.clone(), self.calibrated_masks.clone()
        images[empty] = self.latent[0]
        whole = 255 if masks.dtype == torch.uint8 else 1
        photo = self.reference_masks.clone()
        photo[photo.flatten(1).amax(1) == 0] = whole  # nobody is marked: all of it
        masks[empty] = photo[empty.nonzero()[:, 0]].to(masks.dtype)
        return dataclasses.replace(self, calibrated_latents=images, calibrated_masks=masks)

    @classmethod
    def from_calibration(
        cls, calibration: Calibration, vae, plan: PropagationPlan | None = None, size=None, batch_size: int = 8
    ) -> "CalibratedReference":
        """Renders a calibration and encodes its candidates with a VAE, each of them once.

        Args:
            calibration: a Calibration, or what it was saved in.
            vae: the pipeline's VAE (diffusers), which decides the device and dtype of the latents; or the
                `ReferenceAdapter` of the pipeline.
            plan: the PropagationPlan of the run, which says what may be drawn; None to encode every frame.
            size: (height, width) in pixels; None for that of the calibration.
            batch_size: how many images go through the VAE at once; halved where the GPU's memory does not hold them.

        Raises:
            ValueError: if the plan is of another number of frames, or the VAE cannot make latents of this size.
        """
        if isinstance(calibration, str | os.PathLike):
            calibration = Calibration.load(calibration)
        size = tuple(calibration.size if size is None else size)
        frames, persons = len(calibration), calibration.persons
        if not persons:
            raise ValueError("calibration must have a person, but has none")
        if plan is not None and plan.num_frames != frames:
            raise ValueError(f"plan must be of the {frames} frames of the calibration, but is of {plan.num_frames}")
        candidates = np.arange(frames) if plan is None else plan.candidates
        model = _model(vae, batch_size)
        model.canvas(size)

        photo = calibration.reference_image
        canvas = calibration.reference_canvas.scaled(size)
        masks = np.zeros((persons, len(candidates), *size), np.uint8)
        latents = []
        for start in range(0, len(candidates), batch_size):
            part = slice(start, start + batch_size)
            image, mask, _ = calibration.render(candidates[part], size=size)
            masks[:, part] = mask.swapaxes(0, 1)
            flat = image.reshape(-1, *size, 3), mask.reshape(-1, *size)
            latents.append(_prepare(model, *flat, batch_size).unflatten(0, (-1, persons)))
        pose = np.stack([_resize_masks(calibration.pose_masks[i], size) for i in range(frames)], 1)
        valid = calibration.canvas.scaled(size).valid_mask()
        reference_masks = np.stack([canvas.draw(mask) for mask in calibration.reference_mask])
        device, photo = latents[0].device, canvas.draw(photo)
        return cls(
            latent=model.prepare(photo[None], reference_masks.max(0, keepdims=True)),
            calibrated_latents=torch.cat(latents).transpose(0, 1).contiguous(),
            pose_masks=torch.from_numpy(pose).to(device),
            calibrated_masks=torch.from_numpy(masks).to(device),
            reference_masks=torch.from_numpy(reference_masks).to(device),
            candidates=candidates,
            valid=torch.from_numpy(valid).to(device),
            reference_valid=torch.from_numpy(canvas.valid_mask()).to(device),
            extras=model.photo(photo, reference_masks),
        )

    @classmethod
    def from_layout(
        cls, folder: str | os.PathLike, vae, plan: PropagationPlan | None = None, batch_size: int = 8
    ) -> "CalibratedReference":
        """Reads the original's folder layout (`write_layout` writes it) and encodes its candidates with a VAE.

        Of `{p}-person_cal_ref_img`, `{p}-person_cal_ref_mask_img` and `{p}-person_pose_mask_img`, files are frames in
        the order of their numbers; `{p}-person_ref_mask_img` and `ref_img` hold one file each. Masks are the first
        channel. The layout does not say what of a canvas is padding: nothing is.

        Args:
            folder: the folder; vae, plan, batch_size: see `from_calibration`.

        Raises:
            FileNotFoundError: if a folder or its files are missing.
            ValueError: if folders differ in their number of frames or pictures in their size, or the plan is of
                another number of frames.
        """
        folder = Path(folder)
        persons = len(list(folder.glob("*-person_cal_ref_img")))
        kinds = ("cal_ref_img", "cal_ref_mask_img", "pose_mask_img")
        files = {kind: [_pictures(folder / f"{p}-person_{kind}") for p in range(persons)] for kind in kinds}
        (reference,) = _pictures(folder / "ref_img", 1)
        if not persons:
            raise FileNotFoundError(f"folder must hold 0-person_cal_ref_img, but {folder} does not")
        counts = {len(paths) for of_kind in files.values() for paths in of_kind}
        if len(counts) > 1:
            raise ValueError(f"all persons must have the same number of frames, but {folder} has {sorted(counts)}")
        frames = counts.pop()
        if plan is not None and plan.num_frames != frames:
            raise ValueError(f"plan must be of the {frames} frames of the folder, but is of {plan.num_frames}")
        candidates = np.arange(frames) if plan is None else plan.candidates
        photo = _picture(reference)
        size = photo.shape[:2]
        model = _model(vae, batch_size)
        model.canvas(size)

        def masks(paths):
            return torch.from_numpy(np.stack([_picture(path, size)[..., 0] for path in paths]))

        calibrated_masks = torch.stack([masks([paths[i] for i in candidates]) for paths in files["cal_ref_mask_img"]])
        latents = []
        for paths, of_person in zip(files["cal_ref_img"], calibrated_masks, strict=True):
            parts = []
            for start in range(0, len(candidates), batch_size):
                part = slice(start, start + batch_size)
                images = np.stack([_picture(paths[i], size) for i in candidates[part]])
                parts.append(model.prepare(images, of_person[part].numpy()))
            latents.append(torch.cat(parts))
        latents = torch.stack(latents)
        reference_masks = torch.cat([masks(_pictures(folder / f"{p}-person_ref_mask_img", 1)) for p in range(persons)])
        photo_mask = reference_masks.amax(0, keepdim=True).numpy()
        return cls(
            latent=model.prepare(photo[None], photo_mask),
            calibrated_latents=latents,
            pose_masks=torch.stack([masks(paths) for paths in files["pose_mask_img"]]).to(latents.device),
            calibrated_masks=calibrated_masks.to(latents.device),
            reference_masks=reference_masks.to(latents.device),
            candidates=candidates,
            extras=model.photo(photo, reference_masks.numpy()),
        )


def _pictures(folder: Path, count=None) -> list[Path]:
    """The pictures of a folder in the order of the numbers in their names."""
    paths = [path for path in folder.glob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
    if not paths:
        raise FileNotFoundError(f"folder must hold pictures in {folder}, but there are none")
    if count is not None and len(paths) != count:
        raise ValueError(f"{folder} must hold {count} picture, but holds {len(paths)}")
    return sorted(
        paths, key=lambda path: [int(part) for part in re.findall(r"\d+", path.stem)] if count is None else []
    )


def _picture(path: Path, size=None) -> np.ndarray:
    """uint8 [H, W, 3]."""
    image, _ = load_image(path)
    if size is not None and image.shape[:2] != size:
        raise ValueError(
            f"{path} must be of {size[0]} x {size[1]} pixels, as the reference is, but is {image.shape[:2]}"
        )
    return image


def _model(vae, batch_size):
    """Something that prepares pictures: a ReferenceAdapter, as it is, or one for a VAE alone."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but is {batch_size}")
    return vae if hasattr(vae, "prepare") else VaeEncoder(vae)


def _prepare(model, images, masks, batch_size) -> torch.Tensor:
    parts = (slice(start, start + batch_size) for start in range(0, len(images), batch_size))
    return torch.cat([model.prepare(images[part], masks[part]) for part in parts])


@torch.no_grad()
def decode_latents(vae, latents: torch.Tensor, device) -> torch.Tensor:
    """Pictures of latents [n, C, h, w], decoded on a device: uint8 [n, H, W, 3] there."""
    shift = getattr(vae.config, "shift_factor", None) or 0
    images = vae.decode(latents.to(device, vae.dtype) / vae.config.scaling_factor + shift, return_dict=False)[0]
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class VaeEncoder:
    """Latents of pictures: the mean of the VAE's distribution, as its UNet takes them; see `ReferenceAdapter`.

    Attributes:
        sample: whether they are drawn from it instead, with one noise of a fixed seed for all pictures.
    """

    sample = False

    def __init__(self, vae):
        self.vae, self._most = vae, None  # how many pictures at once, where memory has set a limit

    @property
    def scale(self) -> int:
        """Pixels of a side of a latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def canvas(self, size):
        """Sides must be multiples of what the VAE scales by."""
        scale = self.scale
        if any(side % scale for side in size):
            raise ValueError(f"size must be multiples of {scale}, as the VAE needs, but is {size[0]} x {size[1]}")
        return size

    def prepare(self, images: np.ndarray, masks=None) -> torch.Tensor:
        """uint8 [n, H, W, 3] -> [n, C, h, w]."""
        return self.encode(
            torch.tensor(images, device=self.vae.device).permute(0, 3, 1, 2).to(self.vae.dtype) / 127.5 - 1
        )

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 3, H, W], as a rule in [-1, 1] -> [n, C, h, w]; in halves where the GPU's memory does not hold them."""
        vae, parts, encoded_count = self.vae, [], 0
        while encoded_count < len(pixels):
            batch = pixels[encoded_count : encoded_count + self._most] if self._most else pixels
            try:
                encoded = vae.encode(batch)
            except torch.cuda.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self._most = len(batch) // 2
                continue
            latents = self._latents(encoded)
            shift = getattr(vae.config, "shift_factor", None) or 0
            parts.append((latents - shift) * vae.config.scaling_factor)
            encoded_count += len(batch)
        return torch.cat(parts)

    def _latents(self, encoded):
        if not hasattr(encoded, "latent_dist"):
            return encoded.latents
        found = encoded.latent_dist
        if not self.sample:
            return found.mode()
        noise = torch.randn(found.mean.shape[1:], generator=torch.Generator().manual_seed(0))
        return found.mean + found.std * noise.to(found.mean)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """As `decode_latents`, where the weights are."""
        return decode_latents(self.vae, latents, self.vae.device)

    def photo(self, image, masks) -> dict:
        """Nothing else."""
        return {}


def _resize_masks(masks: np.ndarray, size) -> np.ndarray:
    """Masks uint8 [P, h, w] at another size, by area means."""
    if masks.shape[1:] == size:
        return masks
    return np.stack([Canvas.fitting(mask.shape, size, "stretch").draw(mask) for mask in masks])
