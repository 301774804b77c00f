"""Image and video metrics that need networks: LPIPS, FID, FID-VID, FVD. Needs the extra `evaluate`.

Nothing is downloaded: the published weights lie in a folder of yours, under the names that they were published with
(`WEIGHTS`). Pictures are uint8 RGB [H, W, 3]; what is done to them before a network sees them is part of a metric, and
stands at each.

Foreground and background apart has LPIPS only, whose map says where pictures differ. The networks of the others see
whole pictures: blackened surroundings would be what they measure.
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tpc_fast import _checks
from tpc_fast._extras import INSTALL
from tpc_fast.evaluation.images import check_pictures

SEGMENT = 16  # frames that the video networks see at once


@dataclasses.dataclass(frozen=True)
class Weights:
    """The file of a network, and who publishes it."""

    file: str
    source: str


_TORCHVISION = "https://download.pytorch.org/models/"
WEIGHTS = {
    "lpips": Weights("alexnet-owt-7be5be79.pth", _TORCHVISION + "alexnet-owt-7be5be79.pth"),
    "lpips_vgg": Weights("vgg16-397923af.pth", _TORCHVISION + "vgg16-397923af.pth"),
    "fid": Weights(
        "inception-2015-12-05.pt",
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    ),
    "fid_vid": Weights("resnet-50-kinetics.pth", "https://github.com/kenshohara/3D-ResNets-PyTorch (its README)"),
    "fvd": Weights("i3d_torchscript.pt", "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt"),
}
PERCEPTUAL = ("lpips", "lpips_vgg")  # of two pictures
DISTRIBUTIONS = ("fid", "fid_vid", "fvd")  # of two sets of pictures or videos


def find_weights(metric: str, folder) -> Path:
    """The file of a metric's network.

    Raises:
        ValueError: for an unknown metric.
        FileNotFoundError: if it is not in the folder; says which file to fetch, and where.
    """
    if metric not in WEIGHTS:
        raise ValueError(f"metric must be one of {', '.join(WEIGHTS)}, but is {metric!r}")
    path = Path(folder) / WEIGHTS[metric].file
    if not path.is_file():
        raise FileNotFoundError(f"{metric} needs the file {path}: fetch it from {WEIGHTS[metric].source}")
    return path


def load_network(metric: str, folder, device="cpu") -> nn.Module:
    """The network of a metric, in evaluation mode, of weights that are in `folder`.

    Raises:
        As `find_weights`; ValueError for a file that does not hold what it should; ImportError without torchmetrics.
    """
    path = find_weights(metric, folder)
    try:
        if metric in ("fid", "fvd"):
            network = torch.jit.load(path, map_location=device)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            network = Lpips("vgg" if metric == "lpips_vgg" else "alex") if metric in PERCEPTUAL else ResNet50()
            network.load_published(state)
    except ImportError as error:
        raise ImportError(f"{metric} needs {INSTALL['evaluate']}: {error}") from error
    except Exception as error:  # unpickling and archives fail in many ways
        raise ValueError(f"{path} must hold the weights of {metric}, but cannot be read: {error}") from error
    return network.to(device).eval()


# LPIPS

_BACKBONES = {  # channels of convolutions; M: pooling; a tap stands after the ReLU of those that are named
    "alex": ([(64, 11, 4, 2), "M", (192, 5, 1, 2), "M", (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)], range(5)),
    "vgg": (
        [
            entry
            for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
            for entry in ["M"] + [(channels, 3, 1, 1)] * count
        ][1:],
        (1, 3, 6, 9, 12),
    ),
}
_POOLING = {"alex": 3, "vgg": 2}  # side of its window; its step is 2
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's, for values from -1 to 1


class Lpips(nn.Module):
    """LPIPS 0.1 (Zhang, Isola, Efros, Shechtman, Wang, CVPR 2018), with AlexNet or VGG-16.

    Pictures are taken to [-1, 1] and not resized. The linear layers are those that torchmetrics brings, the published
    ones. (`lpips` and torchmetrics' own class need torchvision, for two stacks of convolutions.) The evaluation that
    came with DisCo, whose tables many papers continue, gives VGG pictures in [0, 1]: its values are not LPIPS's.

    Args:
        net: "alex", which its authors recommend for comparing, or "vgg".
    """

    def __init__(self, net: str = "alex"):
        super().__init__()
        layers, taps = _BACKBONES[net]
        self.net, self.features, self.taps, channels, convolutions = net, nn.Sequential(), [], 3, 0
        for layer in layers:
            if layer == "M":
                self.features.append(nn.MaxPool2d(_POOLING[net], 2))
                continue
            width, side, stride, padding = layer
            self.features.extend([nn.Conv2d(channels, width, side, stride, padding), nn.ReLU()])
            if convolutions in taps:
                self.taps.append(len(self.features) - 1)
            channels, convolutions = width, convolutions + 1
        widths = [self.features[tap - 1].out_channels for tap in self.taps]
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in widths)
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None], persistent=False)

    def load_published(self, state: dict) -> None:
        """Takes torchvision's weights of the backbone, and the linear layers."""
        self.features.load_state_dict(
            {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
        )
        import torchmetrics

        path = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / f"{self.net}.pth"
        heads = torch.load(path, map_location="cpu", weights_only=True)
        for i, head in enumerate(self.heads):
            head.data.copy_(heads[f"lin{i}.model.1.weight"].flatten())

    def forward(self, found: torch.Tensor, truth: torch.Tensor) -> list[torch.Tensor]:
        """Differences [h, w] at every tap, of pictures [3, H, W] with values from -1 to 1."""
        maps, x = [], torch.stack([found, truth]).sub(self.shift).div(self.scale)
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                unit = x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()
                head = self.heads[len(maps)]
                maps.append(((unit[0] - unit[1]).square() * head[:, None, None]).sum(0))
        return maps


@torch.no_grad()
def lpips(network: Lpips, found: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """LPIPS of two pictures.

    Args:
        network: of `load_network`.
        found, truth: uint8 [H, W, 3].
        mask: [H, W], uint8 (inside from 128 on) or bool: the mean of the map of differences inside it. The map is the
            sum of all taps' maps, bilinearly enlarged to the picture (the published code's `spatial`), and each spot of
            it has seen its surroundings. None: the mean of each tap's own map, which is LPIPS.

    Returns:
        0 for equal pictures; NaN for an empty mask.

    Raises:
        TypeError, ValueError: as `tpc_fast.evaluation.images.l1`; ValueError for pictures without colours, and for
            ones that are too small for the network.
    """
    found, truth, inside = check_pictures(found, truth, mask)
    if found.ndim != 3 or min(found.shape[:2]) < 64:
        raise ValueError(f"found must be at least 64 x 64 pixels of 3 channels for LPIPS, but is {found.shape}")
    tensors = (
        torch.from_numpy(x).permute(2, 0, 1).float().to(network.shift.device) / 127.5 - 1 for x in (found, truth)
    )
    maps = network(*tensors)
    if mask is None:
        return float(sum(part.mean() for part in maps))
    if not inside.any():
        return np.nan
    options = dict(size=found.shape[:2], mode="bilinear", align_corners=False)
    whole = sum(nn.functional.interpolate(part[None, None], **options)[0, 0] for part in maps)
    return float(whole.cpu().numpy()[inside].mean(dtype=np.float64))


# Distances of distributions


class ResNet50(nn.Module):
    """The 3-D ResNet-50 of Hara, Kataoka and Satoh (CVPR 2018), up to its pooled features.

    Modules have the names that they have in the published file.
    """

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        channels = 64
        for i, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
            blocks = []
            for j in range(count):
                blocks.append(_Bottleneck(channels, width, 2 if i > 1 and j == 0 else 1))
                channels = 4 * width
            setattr(self, f"layer{i}", nn.Sequential(*blocks))

    def load_published(self, checkpoint: dict) -> None:
        """Takes the weights; those of the classes are left aside."""
        state = {key.removeprefix("module."): value for key, value in checkpoint["state_dict"].items()}
        self.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [n, 2048]."""
        x = nn.functional.max_pool3d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x.mean((2, 3, 4))


class _Bottleneck(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(channels, width, 1, bias=False), nn.BatchNorm3d(width)
        self.conv2, self.bn2 = nn.Conv3d(width, width, 3, stride, 1, bias=False), nn.BatchNorm3d(width)
        self.conv3, self.bn3 = nn.Conv3d(width, 4 * width, 1, bias=False), nn.BatchNorm3d(4 * width)
        self.downsample = None
        if stride > 1 or channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv3d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm3d(4 * width)
            )

    def forward(self, x):
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn3(self.conv3(self.bn2(self.conv2(out)).relu()))
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


_KINETICS_MEAN = (114.7748, 107.7354, 99.4750)


@torch.no_grad()
def features(metric: str, network: nn.Module, video: np.ndarray) -> np.ndarray:
    """What the network of a metric sees in a video.

    - "fid": one sample a frame, Inception's 2048 features. The network resizes by itself, as TensorFlow did for the
      original (Heusel et al., NeurIPS 2017); clean-fid's resizing gives other values.
    - "fid_vid": one sample for each 16 frames, in a row and apart; 112 x 112 pixels by Pillow's bicubic on floats,
      less the mean of Kinetics. As in DisCo's evaluation, which takes videos of 16 frames.
    - "fvd": one sample for each 16 frames; the I3D network enlarges or shrinks to 224 x 224 bilinearly, takes values to
      [-1, 1] and gives 400 logits. As in StyleGAN-V's (Skorokhodov, Tulyakov, Elhoseiny, CVPR 2022).

    Args:
        metric: one of `DISTRIBUTIONS`; network: of `load_network`.
        video: uint8 [F, H, W, 3]; frames after the last whole 16 do not count in videos.

    Returns:
        float64 [n, D].

    Raises:
        TypeError: for a video that is not uint8 of that shape.
        ValueError: for an unknown metric, or a video that is too short.
    """
    if metric not in DISTRIBUTIONS:
        raise ValueError(f"metric must be one of {', '.join(DISTRIBUTIONS)}, but is {metric!r}")
    if not isinstance(video, np.ndarray) or video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3:
        raise TypeError(f"video must be uint8 [F, H, W, 3], but is {_checks.describe(video)}")
    least = 1 if metric == "fid" else SEGMENT
    if len(video) < least:
        raise ValueError(f"video must have at least {least} frames for {metric}, but has {len(video)}")
    parts = [video[start : start + SEGMENT] for start in range(0, len(video), SEGMENT)]
    tensors = next(network.parameters(), next(network.buffers(), torch.zeros(0)))
    found = [_look(metric, network, part, tensors.device) for part in parts if metric == "fid" or len(part) == SEGMENT]
    return np.concatenate([part.double().cpu().numpy() for part in found])


def _look(metric, network, part, device):
    if metric == "fid_vid":
        pixels = np.stack([_shrink(frame, 112) for frame in part]) - np.float32(_KINETICS_MEAN)
        return network(torch.from_numpy(pixels).permute(3, 0, 1, 2)[None].to(device))
    pixels = torch.from_numpy(part).to(device)
    if metric == "fid":
        return network(pixels.permute(0, 3, 1, 2), return_features=True).flatten(1)
    return network(pixels.permute(3, 0, 1, 2)[None].float(), rescale=True, resize=True, return_features=True)


def _shrink(frame, side):
    """float32 [side, side, 3], each channel by itself, not rounded."""
    from PIL import Image

    channels = [Image.fromarray(frame[..., c].astype(np.float32)) for c in range(3)]
    return np.stack([np.asarray(c.resize((side, side), Image.Resampling.BICUBIC)) for c in channels], -1)


def frechet_distance(found: np.ndarray, truth: np.ndarray) -> float:
    """The squared Frechet distance of two Gaussians that are fitted to samples, as FID is; torchmetrics computes it.

    Args:
        found, truth: features [N, D] and [M, D], at least two samples each. Fewer than a few times D make it large: it
            is to be compared at equal numbers only.

    Returns:
        At least 0, which it is for equal samples up to rounding.

    Raises:
        TypeError, ValueError: for other shapes, too few samples, or features that are not finite.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    arrays = {name: _checks.finite(value, name) for name, value in (("found", found), ("truth", truth))}
    for name, array in arrays.items():
        if array.ndim != 2 or len(array) < 2 or array.shape[1] != arrays["found"].shape[-1]:
            raise ValueError(f"{name} must be [N, D], two samples or more, D alike, but is {_checks.describe(array)}")
    network = nn.Identity()
    network.num_features = arrays["found"].shape[1]
    distance = FrechetInceptionDistance(feature=network).set_dtype(torch.float64)
    for name, array in arrays.items():
        distance.update(torch.from_numpy(array.astype(np.float64)), real=name == "truth")
    return max(0.0, float(distance.compute()))
