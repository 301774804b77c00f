"""Pictures as CLIP's image encoders take them."""

import numpy as np
import torch
from PIL import Image

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(images: np.ndarray, encoder, crop: bool = False) -> torch.Tensor:
    """uint8 [n, H, W, 3] -> [n, 3, s, s], on the encoder's device and of its dtype.

    Args:
        images: pictures.
        encoder: a CLIP vision model of transformers; it says how large s is.
        crop: keep the aspect ratio and cut out the middle; else pictures are squeezed into a square.
    """
    side = encoder.config.image_size
    height, width = images.shape[1:3]
    scale = side / min(height, width)
    size = (round(width * scale), round(height * scale)) if crop else (side, side)
    resized = np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images])
    top, left = ((full - side) // 2 for full in resized.shape[1:3])
    light = torch.from_numpy(resized[:, top : top + side, left : left + side]).permute(0, 3, 1, 2) / 255
    normalised = (light - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return normalised.to(encoder.device, encoder.dtype)
