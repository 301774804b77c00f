"""Metrics that need networks, with random weights in files of the published names and shapes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from numpy.testing import assert_allclose  # noqa: E402
from torch import nn  # noqa: E402

from tpc_fast.evaluation import networks  # noqa: E402

pytestmark = pytest.mark.evaluate


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Small networks are faster so."""


def alexnet_features():
    """torchvision's AlexNet.features, written out."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(),
        nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip


def vgg_features():
    """torchvision's VGG16.features."""
    layers, channels = [], 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width == 0:
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)


@pytest.fixture(params=["lpips", "lpips_vgg"])
def perceptual(request, tmp_path, monkeypatch):
    """A network of ours, and torchmetrics' own LPIPS over the same random backbone."""
    from torchmetrics.functional.image import lpips as theirs

    backbone = alexnet_features() if request.param == "lpips" else vgg_features()
    state = {f"features.{key}": value for key, value in backbone.state_dict().items()}
    state["classifier.1.weight"] = torch.zeros(3)  # the file has more than is used
    torch.save(state, tmp_path / networks.WEIGHTS[request.param].file)
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *_: backbone)
    net = "alex" if request.param == "lpips" else "vgg"
    peers = [theirs._LPIPS(net=net, spatial=spatial) for spatial in (False, True)]
    return networks.load_network(request.param, tmp_path), peers


def test_lpips_is_that_of_torchmetrics(rng, perceptual):
    network, (plain, spatial) = perceptual
    found, truth = rng.integers(0, 256, (2, 97, 131, 3), np.uint8)
    tensors = [torch.from_numpy(x).permute(2, 0, 1)[None] / 127.5 - 1 for x in (found, truth)]
    with torch.no_grad():
        expected, differences = float(plain(*tensors)), spatial(*tensors)[0, 0].numpy()
    assert networks.lpips(network, found, truth) == pytest.approx(expected, rel=1e-5)
    assert networks.lpips(network, truth, found) == pytest.approx(expected, rel=1e-5)
    mask = rng.random((97, 131)) < 0.3
    inside, outside = (networks.lpips(network, found, truth, m) for m in (mask, ~mask))
    assert inside == pytest.approx(differences[mask].mean(), rel=1e-5)
    assert outside == pytest.approx(differences[~mask].mean(), rel=1e-5)
    assert networks.lpips(network, found, found) == 0
    assert np.isnan(networks.lpips(network, found, truth, np.zeros((97, 131), bool)))
    near = np.clip(found.astype(int) + rng.integers(-4, 5, found.shape), 0, 255).astype(np.uint8)
    assert 0 < networks.lpips(network, found, near) < expected


def test_lpips_says_what_it_takes(tmp_path):
    network = networks.Lpips().eval()
    picture = np.zeros((80, 80, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 64 x 64 pixels of 3 channels"):
        networks.lpips(network, picture[:40], picture[:40])
    with pytest.raises(ValueError, match="at least 64 x 64 pixels of 3 channels"):
        networks.lpips(network, picture[..., 0], picture[..., 0])
    with pytest.raises(ValueError, match="truth must have the shape of found"):
        networks.lpips(network, picture, picture[:70])
    with pytest.raises(TypeError, match="truth must be uint8"):
        networks.lpips(network, picture, picture / 255)
    with pytest.raises(ValueError, match="mask must have the size"):
        networks.lpips(network, picture, picture, np.ones((8, 8), bool))


def test_missing_and_damaged_files_are_named(tmp_path):
    for metric, weights in networks.WEIGHTS.items():
        with pytest.raises(FileNotFoundError) as error:
            networks.load_network(metric, tmp_path)
        assert str(tmp_path / weights.file) in str(error.value)
        assert weights.source in str(error.value)
        (tmp_path / weights.file).write_bytes(b"no weights")
        with pytest.raises(ValueError, match=f"{weights.file} must hold the weights of {metric}, but cannot be read"):
            networks.load_network(metric, tmp_path)
    with pytest.raises(ValueError, match=r"metric must be one of lpips, .*, but is 'kid'"):
        networks.find_weights("kid", tmp_path)


def test_frechet_distance_is_the_formula(rng):
    """A literal of one dimension; and in several scipy's square root, which torchmetrics does without."""
    from scipy.linalg import sqrtm

    a, b = rng.normal(2, 3, (40, 1)), rng.normal(-1, 0.5, (30, 1))
    literal = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert networks.frechet_distance(a, b) == pytest.approx(literal, rel=1e-9)
    a, b = rng.normal(size=(60, 7)) @ rng.normal(size=(7, 7)), rng.normal(0.3, 2, (50, 7))
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert networks.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert networks.frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)
    for same in (a, rng.normal(size=(5, 50))):  # also with fewer samples than dimensions
        assert networks.frechet_distance(same, same[::-1]) == pytest.approx(0, abs=1e-5 * np.square(same).sum())
    shifted = networks.frechet_distance(a, a + 3)
    assert shifted == pytest.approx(7 * 9, rel=1e-6)


def test_frechet_distance_says_what_it_takes(rng):
    a = rng.normal(size=(5, 3))
    for found, truth, match in (
        (a[:1], a, r"found must be \[N, D\], two samples or more"),
        (a, a[:, :2], r"truth must be \[N, D\], two samples or more, D alike"),
        (a, a[0], r"truth must be \[N, D\]"),
        (a, a * np.nan, "truth must be finite"),
    ):
        with pytest.raises(ValueError, match=match):
            networks.frechet_distance(found, truth)


class Inception(nn.Module):
    """As the published script is called; its features are the means of the channels, scaled."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 4.0]))

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features
        assert x.dtype == torch.uint8
        return (x.float().mean(dim=[2, 3]) * self.scale)[:, :, None, None]


class I3D(nn.Module):
    """Likewise: mean and largest step in time of every channel."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert rescale
        assert resize
        assert return_features
        x = 2 * x / 255 - 1
        return torch.cat([x.mean(dim=[2, 3, 4]), (x[:, :, 1:] - x[:, :, :-1]).abs().amax(dim=[2, 3, 4])], 1)


def test_frames_and_clips_go_to_scripted_networks_as_they_must(rng, tmp_path):
    for metric, module in (("fid", Inception()), ("fvd", I3D())):
        torch.jit.script(module).save(tmp_path / networks.WEIGHTS[metric].file)
    video = rng.integers(0, 256, (35, 20, 24, 3), np.uint8)
    found = networks.features("fid", networks.load_network("fid", tmp_path), video)
    assert found.dtype == np.float64
    assert_allclose(found, video.mean((1, 2)) * [1, 2, 4], rtol=1e-5)
    found = networks.features("fvd", networks.load_network("fvd", tmp_path), video)
    values = video[:32].reshape(2, 16, 20, 24, 3) / 127.5 - 1  # the last three frames do not make a clip
    expected = np.concatenate([values.mean((1, 2, 3)), abs(np.diff(values, axis=1)).max((1, 2, 3))], 1)
    assert_allclose(found, expected, atol=1e-6)


def test_what_the_3d_resnet_is_given(rng):
    """112 x 112 pixels less the mean of Kinetics; a flat picture stays flat, a smooth one is where it was."""

    class Keeps(nn.Module):
        def forward(self, x):
            self.x = x
            return torch.zeros(len(x), 2048)

    video = np.empty((20, 64, 90, 3), np.uint8)
    video[:] = rng.integers(0, 256, (20, 1, 1, 3))
    network = Keeps()
    assert networks.features("fid_vid", network, video).shape == (1, 2048)
    assert network.x.shape == (1, 3, 16, 112, 112)
    flat = video[:16, 0, 0].T[None, :, :, None, None] - np.reshape([114.7748, 107.7354, 99.4750], (1, 3, 1, 1, 1))
    assert_allclose(network.x, np.broadcast_to(flat, network.x.shape), atol=1e-3)
    ramp = np.arange(0, 224).astype(np.uint8)
    video = np.zeros((16, 224, 224, 3), np.uint8) + ramp[:, None]
    networks.features("fid_vid", network, video)
    assert_allclose(network.x[0, 0, 3, :, 5:-5] + 114.7748, np.tile(2 * np.arange(5, 107) + 0.5, (112, 1)), atol=0.02)


def resnet_by_hand(state, x):
    """The published network, written from its description: a walk over the file's keys."""

    def norm(x, name):
        shape = (1, -1, 1, 1, 1)
        mean, var, w, b = (state[f"{name}.{k}"].view(shape) for k in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / torch.sqrt(var + 1e-5) * w + b

    x = norm(nn.functional.conv3d(x, state["conv1.weight"], stride=(1, 2, 2), padding=3), "bn1").clamp(min=0)
    x = nn.functional.max_pool3d(x, 3, 2, 1)
    for layer, count in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for block in range(count):
            name = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = norm(nn.functional.conv3d(x, state[f"{name}.conv1.weight"]), f"{name}.bn1").clamp(min=0)
            y = nn.functional.conv3d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)
            y = norm(y, f"{name}.bn2").clamp(min=0)
            y = norm(nn.functional.conv3d(y, state[f"{name}.conv3.weight"]), f"{name}.bn3")
            if block == 0:
                x = norm(
                    nn.functional.conv3d(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1"
                )
            x = (x + y).clamp(min=0)
    return x.flatten(2).mean(2)


@pytest.mark.slow
def test_the_3d_resnet_takes_the_published_file(rng, tmp_path):
    model = networks.ResNet50()
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
    state = {}
    for key, value in model.state_dict().items():
        noise = torch.rand(value.shape, generator=generator)
        scale = value[0].numel() ** -0.5 if value.ndim > 1 else 1.0
        state[key] = value if key.endswith("tracked") else (noise - 0.5 * (value.ndim > 1)) * scale
    assert sum(key.endswith("weight") and value.ndim == 5 for key, value in state.items()) == 53
    blocks = ((64, 64, 3), (256, 128, 4), (512, 256, 6), (1024, 512, 3))  # channels before, width, count
    numbers = [5 * c * w + 31 * w**2 + (count - 1) * 35 * w**2 for c, w, count in blocks]
    assert sum(value.numel() for value in state.values() if value.ndim == 5) == 3 * 64 * 7**3 + sum(numbers)
    published = {f"module.{key}": value for key, value in state.items()} | {"module.fc.weight": torch.zeros(400, 2048)}
    torch.save({"arch": "resnet-50", "state_dict": published}, tmp_path / "resnet-50-kinetics.pth")
    network = networks.load_network("fid_vid", tmp_path)
    x = torch.randn(1, 3, 16, 32, 32, generator=generator)
    with torch.no_grad():
        found, expected = network(x), resnet_by_hand(state, x)
    assert found.shape == (1, 2048)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    del published["module.layer3.2.conv2.weight"]
    torch.save({"state_dict": published}, tmp_path / "resnet-50-kinetics.pth")
    with pytest.raises(ValueError, match=r"(?s)cannot be read: .*layer3\.2\.conv2\.weight"):
        networks.load_network("fid_vid", tmp_path)


def test_features_say_what_they_take():
    video = np.zeros((15, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="video must have at least 16 frames for fvd, but has 15"):
        networks.features("fvd", nn.Identity(), video)
    with pytest.raises(ValueError, match="metric must be one of fid, fid_vid, fvd, but is 'lpips'"):
        networks.features("lpips", nn.Identity(), video)
    for wrong in (video[0], video.astype(np.float32), video[..., :1]):
        with pytest.raises(TypeError, match=r"video must be uint8 \[F, H, W, 3\]"):
            networks.features("fid", nn.Identity(), wrong)
