"""ControlNets run once a frame and step, and encode the pose video once a run."""

import threading

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import tiny  # noqa: E402

from tpc_fast.diffusion import context_windows, load_pipeline  # noqa: E402
from tpc_fast.diffusion.models.control import OncePerFrame, condition_features, encoded_conditions  # noqa: E402


@pytest.mark.parametrize(
    ("frames", "window", "overlap", "closed_loop"),
    [(24, 16, 4, False), (32, 16, 4, True), (7, 3, 2, True), (9, 5, 1, False), (5, 8, 2, False), (6, 3, 0, False)],
)
def test_every_frame_is_computed_once(frames, window, overlap, closed_loop):
    windows, seen = context_windows(frames, window, overlap, closed_loop), []

    def compute(asked):
        seen.append(asked.tolist())
        return [torch.from_numpy(asked)[:, None] * k for k in (1, 2)]

    once = OncePerFrame(windows, compute)
    for number, wanted in enumerate(windows):
        one, two = once.of(number)
        assert one[:, 0].tolist() == wanted.tolist()
        assert two[:, 0].tolist() == (2 * wanted).tolist()
        assert set(once._kept) <= set(windows[number + 1 :].ravel().tolist())
    assert sorted(frame for batch in seen for frame in batch) == list(range(frames))
    for start in range(1, len(windows)):  # an interrupted run: the same batches
        whole, seen[:] = list(seen), []
        once = OncePerFrame(windows, compute)
        for number in range(start, len(windows)):
            assert once.of(number)[0][:, 0].tolist() == windows[number].tolist()
        assert all(batch in whole for batch in seen)
        seen[:] = whole


@pytest.mark.parametrize("kind", ["magic-animate", "disco"])
def test_what_is_computed(kind):
    """24 frames in windows of 16 and overlaps of 4: 24 through the ControlNet at each of 2 steps, not 32."""
    pipe, rng, frames, size = load_pipeline(f"tiny-random:{kind}"), np.random.default_rng(0), 24, (32, 32)
    counts = {"net": [], "embedding": []}
    net = pipe.controlnet if kind == "magic-animate" else pipe.controlnet.nets[0]
    net.register_forward_pre_hook(
        lambda module, args, kwargs: counts["net"].append(len(args[0] if args else kwargs["sample"])), with_kwargs=True
    )
    net.controlnet_cond_embedding.register_forward_pre_hook(
        lambda module, args: counts["embedding"].append(len(args[0]))
    )
    calibration = tiny.calibrated_reference(rng, frames=frames, latent=(4, 4))
    masks = {name: torch.from_numpy(tiny.boxes(rng, *shape, size=size)) for name, shape in
             (("pose_masks", (1, frames)), ("calibrated_masks", (1, frames)), ("reference_masks", (1,)))}  # fmt: skip
    latents = {"latent": calibration.latent, "calibrated_latents": calibration.calibrated_latents}
    if kind == "disco":
        latents = {"latent": torch.randn(1, 5, 32), "calibrated_latents": torch.randn(1, frames, 5, 32)}
    reference = type(calibration)(
        **latents, **masks, extras={"null": torch.zeros(1, 5, 32), "background": torch.randn(1, 4, 4, 4)}
    )
    video = rng.integers(0, 256, (frames, *size, 3), np.uint8)
    overlap = 4 if kind == "magic-animate" else 0
    pipe(reference, video, num_inference_steps=2, window=16, overlap=overlap, output_type="latent", closed_loop=False)
    if kind == "magic-animate":  # both halves share its residuals
        assert counts["net"] == [16, 8] * 2
    assert sum(counts["embedding"]) == frames


def controlnet(**changes):
    from diffusers import ControlNetModel

    config = tiny.COMMON | dict(attention_head_dim=2, down_block_types=tiny.DOWN) | changes
    return tiny.randomised(ControlNetModel(**config, conditioning_embedding_out_channels=(8, 8, 8)), 2)


def residuals(net, condition):
    sample = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        down, mid = net(sample, 500, torch.zeros(2, 7, tiny.TEXT), condition, return_dict=False)
    return [*down, mid]


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_what_is_encoded_before_is_what_would_be_encoded(order):
    """Whatever the order of the channels that the ControlNet takes."""
    net = controlnet(controlnet_conditioning_channel_order=order)
    embedding = net.controlnet_cond_embedding
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    expected = residuals(net, pictures.permute(0, 3, 1, 2) / 255)
    features = condition_features(net, pictures, "cpu")
    with encoded_conditions(net):
        got = residuals(net, features)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert net.controlnet_cond_embedding is embedding


def test_threads_that_share_a_controlnet_take_what_they_have():
    """One is inside while another enters and leaves, and a third gives it pictures."""
    net = controlnet()
    embedding = net.controlnet_cond_embedding
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    light, features = pictures.permute(0, 3, 1, 2) / 255, condition_features(net, pictures, "cpu")
    expected, entered, left, found = residuals(net, light), threading.Event(), threading.Event(), []

    def first():
        with encoded_conditions(net):
            entered.set()
            left.wait(120)
            found.append(residuals(net, features))

    def second():
        entered.wait(120)
        with encoded_conditions(net), encoded_conditions(net):
            found.append(residuals(net, features))
        found.append(residuals(net, light))
        left.set()

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(found) == 3
    for got in found:
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other)
    assert net.controlnet_cond_embedding is embedding
    assert not any("embedding.embedding" in name for name in net.state_dict())
