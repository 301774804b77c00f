"""ST-LPIPS, a perceptual metric whose weights come with a package: Ghildyal and Liu, ECCV 2022.

LPIPS by an AlexNet that strides nowhere but in blurs, so that a shift by a pixel counts little. The package
`stlpips-pytorch` brings the weights. It is not imported, because it asks for torchvision: only its file is read, as
data, by a network of our own. So `pip install --no-deps stlpips-pytorch==0.0.2` is enough.
"""

import importlib.metadata
from pathlib import Path

import numpy as np

PACKAGE, FILE = "stlpips-pytorch", "alex_shift_tolerant.pth"
INSTALL = f"pip install --no-deps {PACKAGE}==0.0.2"
LEAST = 21  # pixels of a side: fewer leave the last blur less than what it reflects
_CHANNELS = (64, 192, 384, 256, 256)


def weights() -> Path | None:
    """The package's file, if it is installed."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(file.locate()) for file in files if file.name == FILE), None)


def installed() -> bool:
    """Whether the package is there."""
    return weights() is not None


def load(file: Path | None = None):
    """The metric, with the weights of the package, or of a file.

    Returns:
        A function of two stacks of pictures, uint8 [n, H, W, 3]: float64 [n], 0 for equal ones.

    Raises:
        ImportError: without the package.
        ValueError: for a file that does not hold what it should.
    """
    from tpc_fast.diffusion import checkpoints

    file = weights() if file is None else file
    if file is None:
        raise ImportError(f"stlpips needs the weights of {PACKAGE}: {INSTALL}")
    network = _network()
    state = checkpoints.load_state(file)
    checkpoints.fill(network, state, next(iter(state.values())).dtype, file)
    return lambda found, truth: _distance(network, found, truth)


def _network():
    """The layers, by the names of the file; the numbers of a stage's layers go on from those of the one before it."""
    import torch
    from torch import nn

    class Blur(nn.Module):
        """Every second pixel of a picture blurred by [1, 2, 1]; edges are reflected."""

        def __init__(self, channels):
            super().__init__()
            self.register_buffer("filt", torch.empty(channels, 1, 3, 3))

        def forward(self, x):
            x = nn.functional.pad(x, (2, 2, 2, 2), "reflect")
            return nn.functional.conv2d(x, self.filt, stride=2, groups=len(self.filt))

    class Scaling(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("shift", "scale"):
                self.register_buffer(name, torch.empty(1, 3, 1, 1))

    def conv(before, after, kernel, padding):
        return nn.Conv2d(before, after, kernel, padding=padding)

    def stage(start, *layers):
        named = nn.Sequential()
        for number, layer in enumerate(layers, start):
            named.add_module(str(number), layer)
        return named

    with torch.device("meta"):
        c = _CHANNELS
        net = nn.ModuleDict(
            {
                "slice1": stage(0, conv(3, c[0], 11, 2), Blur(c[0]), nn.ReLU()),
                "slice2": stage(3, nn.MaxPool2d(3, 1), Blur(c[0]), conv(c[0], c[1], 5, 2), nn.ReLU()),
                "slice3": stage(7, nn.MaxPool2d(3, 1), Blur(c[1]), conv(c[1], c[2], 3, 1), nn.ReLU()),
                "slice4": stage(11, conv(c[2], c[3], 3, 1), nn.ReLU()),
                "slice5": stage(13, conv(c[3], c[4], 3, 1), nn.ReLU()),
            }
        )
        network = nn.ModuleDict({"scaling_layer": Scaling(), "net": net})
        for number, channels in enumerate(c):
            model = nn.Sequential()
            model.add_module("1", nn.Conv2d(channels, 1, 1, bias=False))
            network[f"lin{number}"] = nn.ModuleDict({"model": model})
    return network.requires_grad_(False)


def _distance(network, found, truth) -> np.ndarray:
    import torch

    def features(pictures):
        _check(pictures)
        dtype = network["scaling_layer"].scale.dtype
        x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).to(dtype) / 127.5 - 1
        x, kept = (x - network["scaling_layer"].shift) / network["scaling_layer"].scale, []
        for stage in network["net"].values():
            x = stage(x)
            kept.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return kept

    if np.shape(found) != np.shape(truth):
        raise ValueError(f"found must have the shape of truth, {np.shape(truth)}, but has {np.shape(found)}")
    with torch.no_grad():
        pairs = zip(features(found), features(truth), strict=True)
        parts = [network[f"lin{n}"]["model"]((a - b) ** 2).mean((1, 2, 3)) for n, (a, b) in enumerate(pairs)]
    return torch.stack(parts).sum(0).double().numpy()


def _check(pictures) -> None:
    shape = np.shape(pictures)
    if getattr(pictures, "dtype", None) != np.uint8 or len(shape) != 4 or shape[3] != 3 or min(shape[1:3]) < LEAST:
        raise ValueError(
            f"pictures must be uint8 [n, H, W, 3] with sides of at least {LEAST}, but are "
            f"{getattr(pictures, 'dtype', type(pictures).__name__)} {list(shape)}"
        )
