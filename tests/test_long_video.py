"""Windows on unmodified AnimateDiff pipelines, with and without a calibration."""

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import tiny  # noqa: E402

from tpc_fast.diffusion import apply_calibration, apply_windows, remove_calibration, remove_windows  # noqa: E402
from tpc_fast.diffusion.windows import context_windows  # noqa: E402

FRAMES, WINDOW, OVERLAP = 11, 6, 2


@pytest.fixture
def pipe():
    return tiny.animatediff()


def run(pipe, frames=FRAMES, **options):
    return pipe(num_frames=frames, height=32, width=32, num_inference_steps=2, output_type="latent",
                generator=torch.Generator().manual_seed(0), **tiny.embeddings(), **options).frames  # fmt: skip


def record(unet):
    """(sample, frames) of every call of the UNet that did work."""
    calls = []
    handle = unet.conv_in.register_forward_pre_hook(lambda module, args: calls.append(args[0]))
    return calls, handle


def test_windows_are_averaged(pipe, rng):
    """Against the definition, with text, ControlNet residuals and positional arguments."""
    unet, (h, w) = pipe.unet, (8, 8)
    sample = torch.from_numpy(rng.normal(size=(2, 4, FRAMES, h, w))).float()
    text = torch.from_numpy(rng.normal(size=(2 * FRAMES, 5, tiny.TEXT))).float()
    shapes = [(32, h, w), (32, h, w), (32, h // 2, w // 2), (64, h // 2, w // 2)]
    down = tuple(torch.from_numpy(rng.normal(size=(2 * FRAMES, *shape))).float() for shape in shapes)
    mid = torch.from_numpy(rng.normal(size=(2 * FRAMES, 64, h // 2, w // 2))).float()

    def rows(x, window):
        return x.view(2, FRAMES, *x.shape[1:])[:, window].flatten(0, 1)

    for closed_loop in (False, True):
        total, count = torch.zeros_like(sample), torch.zeros(FRAMES)
        with torch.no_grad():
            for window in context_windows(FRAMES, WINDOW, OVERLAP, closed_loop):
                total[:, :, window] += unet(
                    sample[:, :, window], 7, rows(text, window), mid_block_additional_residual=rows(mid, window),
                    down_block_additional_residuals=[rows(x, window) for x in down],
                ).sample  # fmt: skip
                count[window] += 1
            wanted = total / count.view(-1, 1, 1)
            apply_windows(pipe, WINDOW, OVERLAP, closed_loop)
            options = dict(down_block_additional_residuals=down, mid_block_additional_residual=mid)
            out = unet(sample, 7, text, **options).sample
            named = unet(sample, timestep=7, encoder_hidden_states=text, return_dict=False, **options)
            assert torch.equal(out, named[0])
        remove_windows(pipe)
        assert torch.allclose(out, wanted, atol=1e-6)


def test_short_videos_and_removal_are_bit_identical(pipe):
    before = run(pipe, 5), run(pipe)
    apply_windows(pipe, WINDOW, OVERLAP)
    assert torch.equal(run(pipe, 5), before[0])
    assert not torch.equal(run(pipe), before[1])
    remove_windows(pipe)
    remove_windows(pipe)
    assert torch.equal(run(pipe), before[1])


def test_a_video_longer_than_the_motion_modules(pipe):
    frames = 30
    with pytest.raises(RuntimeError):
        run(pipe, frames)
    apply_windows(pipe, 24, 4)
    assert run(pipe, frames).shape == (1, 4, frames, 8, 8)


@pytest.mark.parametrize("closed_loop", [False, True])
def test_windows_read_their_frames_of_a_calibration(pipe, rng, closed_loop):
    """The same as telling the state, window by window, which frames it covers."""
    reference, encoder = tiny.calibrated_reference(rng, frames=FRAMES), tiny.unet2d(3)
    sample = torch.from_numpy(rng.normal(size=(2, 4, FRAMES, 8, 8))).float()
    text = torch.from_numpy(rng.normal(size=(2, 5, tiny.TEXT))).float()
    pipe._guidance_scale = 7.5
    state = apply_calibration(pipe, reference, encoder, group_size=2)
    total, count = torch.zeros_like(sample), torch.zeros(FRAMES)
    with torch.no_grad():
        for window in context_windows(FRAMES, WINDOW, OVERLAP, closed_loop):
            with state.covering(window):
                part = text.repeat_interleave(len(window), 0)
                total[:, :, window] += pipe.unet(sample[:, :, window], 7, part).sample
            count[window] += 1
        state.reset()
        apply_windows(pipe, WINDOW, OVERLAP, closed_loop, state)
        out = pipe.unet(sample, 7, text.repeat_interleave(FRAMES, 0)).sample
    assert state.encoded == 1 + 6  # nothing is encoded again for another window
    assert torch.allclose(out, total / count.view(-1, 1, 1), atol=1e-5)
    whole = run(pipe)
    assert torch.equal(run(pipe), whole)
    remove_calibration(pipe)
    remove_windows(pipe)
    assert not torch.equal(run(pipe), whole)


def test_refusals(pipe):
    with pytest.raises(TypeError, match="UNetMotionModel"):
        apply_windows(object())
    with pytest.raises(ValueError, match="overlap must be"):
        apply_windows(pipe, 4, 4)
    with pytest.raises(ValueError, match="window must be at most 24"):
        apply_windows(pipe, 25)
    apply_windows(pipe)
    with pytest.raises(ValueError, match="already"):
        apply_windows(pipe)
    remove_windows(pipe)
    pipe._free_noise_context_length = 8  # what enable_free_noise sets
    with pytest.raises(ValueError, match="FreeNoise"):
        apply_windows(pipe)


def test_frames_that_are_covered_in_parts(pipe, rng):
    """A call that covers a part of the calibration is itself cut into windows."""
    reference, encoder = tiny.calibrated_reference(rng, frames=FRAMES + 4), tiny.unet2d(3)
    state = apply_calibration(pipe, reference, encoder)
    apply_windows(pipe, WINDOW, OVERLAP, state=state)
    seen = []
    opened = state.open
    state.open = lambda *args: seen.append(np.asarray(state.frames).tolist()) or opened(*args)
    covered = np.arange(3, 3 + FRAMES)
    with state.covering(covered), torch.no_grad():
        pipe._guidance_scale = 1
        pipe.unet(torch.zeros(1, 4, FRAMES, 8, 8), 7, torch.zeros(FRAMES, 5, tiny.TEXT))
    assert seen == [covered.tolist(), *(covered[w].tolist() for w in context_windows(FRAMES, WINDOW, OVERLAP))]
