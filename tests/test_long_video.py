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
    attributes = set(vars(pipe.unet))
    before = run(pipe, 5), run(pipe)
    apply_windows(pipe, WINDOW, OVERLAP)
    assert torch.equal(run(pipe, 5), before[0])
    assert not torch.equal(run(pipe), before[1])
    remove_windows(pipe)
    remove_windows(pipe)
    assert torch.equal(run(pipe), before[1])
    assert set(vars(pipe.unet)) == attributes
    assert not pipe.unet._forward_pre_hooks
    assert not pipe.unet._forward_hooks


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
    state = apply_calibration(pipe, reference, encoder, group_size=2, window=None)
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
    state = apply_calibration(pipe, reference, encoder, group_size=2, window=WINDOW, overlap=OVERLAP,
                              closed_loop=closed_loop)  # fmt: skip
    assert torch.equal(run(pipe), whole)
    assert state.frames is None
    remove_calibration(pipe)


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


def test_frames_that_are_covered_in_parts(pipe, rng):
    """A call that covers a part of the calibration is itself cut into windows."""
    reference, encoder = tiny.calibrated_reference(rng, frames=FRAMES + 4), tiny.unet2d(3)
    state = apply_calibration(pipe, reference, encoder, window=WINDOW, overlap=OVERLAP)
    seen = []
    opened = state.open
    state.open = lambda *args: seen.append(state._covered(args[0]).tolist()) or opened(*args)
    covered = np.arange(3, 3 + FRAMES)
    with state.covering(covered), torch.no_grad():
        pipe._guidance_scale = 1
        pipe.unet(torch.zeros(1, 4, FRAMES, 8, 8), 7, torch.zeros(FRAMES, 5, tiny.TEXT))
    assert seen == [covered[w].tolist() for w in context_windows(FRAMES, WINDOW, OVERLAP)]


@pytest.mark.slow
def test_a_calibration_has_windows_of_sixteen_frames(pipe, rng):
    """Unless it is told otherwise; a video that is not longer is one window of all its frames."""
    encoder = tiny.unet2d(3)
    calls, _ = record(pipe.unet)
    for frames, options, wanted in (
        (20, {}, [16, 16]), (16, {}, [16]), (3, {}, [3]), (20, {"window": None}, [20]),
        (20, {"overlap": 14}, [16, 16, 16]), (20, {"window": 99}, [20]), (9, {"window": 1, "overlap": 0}, [1] * 9),
    ):  # fmt: skip
        apply_calibration(pipe, tiny.calibrated_reference(rng, frames=frames), encoder, **options)
        run(pipe, frames)
        remove_calibration(pipe)
        assert [len(call) // 2 for call in calls] == wanted * 2  # two steps
        calls.clear()
    with pytest.raises(ValueError, match="window must be at most 24"):
        apply_calibration(pipe, tiny.calibrated_reference(rng, frames=30), encoder, window=25)
    assert not hasattr(pipe.unet, "_tpc_fast_calibration")
    with pytest.raises(ValueError, match="window must be an integer from 1, but is int 0"):
        apply_calibration(tiny.stable_diffusion(), tiny.calibrated_reference(rng), encoder, window=0)


def test_a_failed_call_leaves_nothing(pipe, rng):
    state = apply_calibration(pipe, tiny.calibrated_reference(rng, frames=FRAMES), tiny.unet2d(3), window=WINDOW)
    whole, attend = run(pipe), state.attend
    for calls in (0, 6):  # in the first window, and in a further one

        def fails(*args, left=[calls]):  # noqa: B006
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return attend(*args)

        state.attend = fails
        with pytest.raises(KeyboardInterrupt):
            run(pipe)
        state.attend = attend
        with pytest.raises(ValueError, match="but the calibration has 11"):
            run(pipe, 5)
        assert torch.equal(run(pipe), whole)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.slow
def test_windows_outlive_cpu_offload(pipe, rng, order):
    """Which replaces `forward` anew in every run; run twice."""
    reference, encoder = tiny.calibrated_reference(rng, frames=FRAMES), tiny.unet2d(3)
    apply_calibration(pipe, reference, encoder, window=WINDOW)
    wanted = run(pipe)
    if order == "before":
        remove_calibration(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    if order == "before":
        apply_calibration(pipe, reference, encoder, window=WINDOW)
    for _ in range(2):
        assert torch.equal(run(pipe), wanted)
    remove_calibration(pipe)
    assert not torch.equal(run(pipe), wanted)
