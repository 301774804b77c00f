"""ST-LPIPS on random weights: its laws, and what it refuses; the package's own network gives the same numbers."""

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tpc_fast.evaluation import stlpips  # noqa: E402


@pytest.fixture
def file(tmp_path):
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in stlpips._network().state_dict().items():
        weight = torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5
        state[name] = weight.abs() if name.startswith(("lin", "scaling")) else weight
    for name in [name for name in state if name.endswith("filt")]:
        blur = torch.tensor([1.0, 2.0, 1.0])
        state[name] = (blur[:, None] * blur / 16).expand(state[name].shape).contiguous()
    save_file(state, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_equal_pictures_are_near_and_shifts_count_less_than_noise(file, rng):
    metric = stlpips.load(file)
    pictures = rng.integers(0, 256, (3, 33, 47, 3), np.uint8)
    np.testing.assert_array_equal(metric(pictures, pictures), np.zeros(3))
    other = rng.integers(0, 256, pictures.shape, np.uint8)
    far = metric(pictures, other)
    assert far.dtype == np.float64
    assert (far > 0).all()
    np.testing.assert_allclose(far, metric(other, pictures), rtol=1e-4)
    slightly = np.clip(pictures.astype(int) + rng.integers(-2, 3, pictures.shape), 0, 255).astype(np.uint8)
    assert (metric(pictures, slightly) < 0.5 * far).all()


def test_what_it_refuses(file, tmp_path, monkeypatch):
    metric, pictures = stlpips.load(file), np.zeros((1, 21, 21, 3), np.uint8)
    metric(pictures, pictures)
    for wrong in (pictures[0], pictures[:, :20], pictures.astype(float), pictures[..., :2]):
        with pytest.raises(ValueError, match=r"pictures must be uint8 \[n, H, W, 3\] with sides of at"):
            metric(wrong, wrong)
    with pytest.raises(ValueError, match="found must have the shape of truth"):
        metric(pictures, pictures.repeat(2, 0))
    monkeypatch.setattr(stlpips, "PACKAGE", "no-such-package-of-weights")
    assert not stlpips.installed()
    with pytest.raises(ImportError, match="stlpips needs the weights of no-such-package-of-weights: pip install"):
        stlpips.load()
