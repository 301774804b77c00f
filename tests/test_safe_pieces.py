"""Pieces that are shared, copied, replaced or called in other ways than thought of: right, or clearly refused."""

import copy
import functools
import pickle
import threading

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import tiny  # noqa: E402

from tpc_fast.diffusion import apply_calibration, apply_windows, load_pipeline, remove_calibration  # noqa: E402
from tpc_fast.diffusion.encoder import ReferenceEncoder  # noqa: E402

FRAMES = 6


def reference(seed=0, **options):
    return tiny.calibrated_reference(np.random.default_rng(seed), frames=FRAMES, **options)


@functools.cache
def encoder():
    return ReferenceEncoder(tiny.unet2d(1))


def sibling(pipe, **components):
    """Another pipeline of the same parts."""
    more = {} if hasattr(pipe, "motion_adapter") else {"requires_safety_checker": False}
    other = type(pipe)(**pipe.components | components, **more)
    other.set_progress_bar_config(disable=True)
    return other


def run(pipe, steps=2, **options):
    """Latents."""
    options = {"guidance_scale": 3.0, **options}
    generator = torch.Generator().manual_seed(0)
    common = dict(height=32, width=32, num_inference_steps=steps, output_type="latent", generator=generator, **options)
    if hasattr(pipe, "motion_adapter"):
        return pipe(num_frames=FRAMES, **tiny.embeddings(), **common).frames
    return pipe(num_images_per_prompt=FRAMES, **tiny.embeddings(), **common).images


@pytest.mark.parametrize("make", [tiny.stable_diffusion, tiny.animatediff])
def test_a_unet_that_another_pipeline_calls_is_refused(make):
    """It would read guidance and steps of the pipeline that has the calibration."""
    pipe = make()
    other = sibling(pipe)
    assert other.unet is pipe.unet
    plain = run(other)
    apply_calibration(pipe, reference(), encoder())
    right = run(pipe)
    with pytest.raises(RuntimeError, match="the UNet has a calibration of another pipeline"):
        run(other, guidance_scale=1.0)
    torch.testing.assert_close(run(pipe), right)
    remove_calibration(pipe)
    torch.testing.assert_close(run(other), plain)


@pytest.mark.parametrize("make", [tiny.stable_diffusion, tiny.animatediff])
@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda unet: pickle.loads(pickle.dumps(unet))], ids=["copied", "pickled"]
)
def test_copies_have_no_calibration(make, how):
    """Neither processors, nor hooks, nor windows; and what is done to them does not touch the original."""
    pipe = make()
    plain = run(pipe)
    apply_calibration(pipe, reference(), encoder())
    calibrated = run(pipe)
    other = sibling(pipe, unet=how(pipe.unet))
    torch.testing.assert_close(run(other), plain)
    with pytest.raises(ValueError, match="no calibration to remove"):
        remove_calibration(other)
    apply_calibration(other, reference(), encoder())
    torch.testing.assert_close(run(other), calibrated)
    remove_calibration(other)
    torch.testing.assert_close(run(pipe), calibrated)
    remove_calibration(pipe)
    torch.testing.assert_close(run(pipe), plain)


def test_windows_are_not_copied():
    pipe = tiny.animatediff()
    whole = run(pipe)
    apply_windows(pipe, window=4, overlap=1)
    other = sibling(pipe, unet=copy.deepcopy(pipe.unet))
    torch.testing.assert_close(run(other), whole)
    assert not torch.allclose(run(pipe), whole)
    apply_windows(other, window=4, overlap=1)
    torch.testing.assert_close(run(other), run(pipe))


def test_one_encoder_in_two_threads():
    """Each gets its own bank, however the calls lie."""
    shared, rng = encoder(), np.random.default_rng(0)
    latents = [torch.from_numpy(rng.normal(size=(1, 4, 8, 8))).float() for _ in range(2)]
    text, both = torch.zeros(1, 7, tiny.TEXT), threading.Barrier(2)
    with torch.no_grad():
        alone = [shared(x, 500, text) for x in latents]
    wrong = []

    def work(i):
        both.wait()
        for _ in range(10):
            with torch.no_grad():
                bank = shared(latents[i], 500, text)
            wrong.extend(name for name in bank if not torch.allclose(bank[name], alone[i][name], atol=1e-5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(not recorder.kept for recorder in shared._recorders)


def test_stable_diffusion_xl_is_refused_at_once():
    extra = dict(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80)
    with pytest.raises(ValueError, match="'text_time' embeddings besides, as Stable Diffusion XL"):
        ReferenceEncoder(tiny.unet2d(0, **extra))


def test_a_loop_of_ones_own_says_whether_it_is_guided():
    """Where no pipeline runs."""
    pipe = tiny.stable_diffusion()
    sample, text = torch.randn(2 * FRAMES, 4, 8, 8), torch.randn(1, 7, tiny.TEXT).expand(2 * FRAMES, -1, -1)
    apply_calibration(pipe, reference(), encoder())
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match=r"give apply_calibration\(\.\.\., guidance=True or False\)"),
    ):
        pipe.unet(sample, 500, encoder_hidden_states=text)
    remove_calibration(pipe)
    with torch.no_grad():
        plain = pipe.unet(sample, 500, encoder_hidden_states=text).sample
        apply_calibration(pipe, reference(), encoder(), guidance=True)
        guided = pipe.unet(sample, 500, encoder_hidden_states=text).sample
        remove_calibration(pipe)
        apply_calibration(pipe, reference(), encoder(), guidance=False)
        alone = pipe.unet(sample[FRAMES:], 500, encoder_hidden_states=text[FRAMES:]).sample
    torch.testing.assert_close(guided[:FRAMES], plain[:FRAMES], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(guided[FRAMES:], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(guided[FRAMES:], plain[FRAMES:], atol=1e-2)


def test_an_empty_calibrated_mask_falls_back_to_the_photo():
    given = reference()
    given.pose_masks[:], given.calibrated_masks[:] = 255, 0
    pipe = tiny.stable_diffusion()
    plain = run(pipe)
    with pytest.warns(UserWarning, match="6 calibrated masks of person 0 are empty"):
        apply_calibration(pipe, given, encoder())
    found = run(pipe)
    remove_calibration(pipe)
    photo = reference()
    photo.pose_masks[:], photo.calibrated_masks[:] = 255, photo.reference_masks[:, None]
    photo.calibrated_latents[:] = photo.latent[0]
    apply_calibration(pipe, photo, encoder())
    torch.testing.assert_close(found, run(pipe))
    assert not torch.allclose(found, plain, atol=1e-2)
    nobody = reference()
    nobody.pose_masks[:], nobody.calibrated_masks[:] = 0, 0  # nobody drives: nothing to say
    assert nobody.with_fallbacks() is nobody


# The pipelines of this package


@pytest.fixture(scope="module")
def pipe():
    pipe = load_pipeline("tiny-random")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def animate(pipe, **options):
    rng = np.random.default_rng(3)
    size = (32, 32)
    given = tiny.calibrated_reference(rng, frames=2, latent=(4, 4))
    given = given.__class__(
        latent=given.latent, calibrated_latents=given.calibrated_latents,
        **{name: torch.from_numpy(tiny.boxes(rng, *shape, size=size)) for name, shape in
           (("pose_masks", (1, 2)), ("calibrated_masks", (1, 2)), ("reference_masks", (1,)))},
    )  # fmt: skip
    dense = rng.integers(0, 256, (2, *size, 3), np.uint8)
    options = dict(num_inference_steps=2, guidance_scale=1.0, output_type="latent", mode="first") | options
    return pipe(given, dense, **options)


@pytest.fixture
def scheduled(pipe, request):
    import diffusers

    before = pipe.scheduler
    pipe.scheduler = getattr(diffusers, request.param).from_config(before.config)
    yield pipe
    pipe.scheduler = before


@pytest.mark.parametrize(
    "scheduled", ["LCMScheduler", "TCDScheduler", "EulerAncestralDiscreteScheduler"], indirect=True
)
@pytest.mark.slow
def test_schedulers_that_draw_are_repeatable(scheduled):
    one, two, three = (
        animate(scheduled, generator=torch.Generator().manual_seed(seed)).frames for seed in (0, 0, 1)
    )  # fmt: skip
    torch.testing.assert_close(one, two)
    assert not torch.allclose(one, three, atol=1e-2)


@pytest.mark.parametrize("scheduled", ["EulerDiscreteScheduler"], indirect=True)
def test_given_noise_is_scaled_as_drawn_noise_is(scheduled):
    drawn = animate(scheduled, generator=torch.Generator().manual_seed(0)).frames
    noise = torch.randn((1, 4, 2, 4, 4), generator=torch.Generator().manual_seed(0))
    given = animate(scheduled, generator=torch.Generator().manual_seed(0), latents=noise).frames
    torch.testing.assert_close(given, drawn)
    with pytest.raises(ValueError, match="eta must be 0 with EulerDiscreteScheduler"):
        animate(scheduled, eta=0.5)


def test_the_seed_is_that_of_the_noise(pipe):
    one, two, three = (animate(pipe, seed=seed).frames for seed in (5, 5, 6))
    torch.testing.assert_close(one, two)
    assert not torch.allclose(one, three, atol=1e-2)


def test_a_callback_can_end_a_run(pipe):
    steps = []

    def stop(pipe, step, timestep, state):
        steps.append(step)
        pipe._interrupt = True
        return state

    animate(pipe, num_inference_steps=4, callback_on_step_end=stop)
    assert steps == [0]
    assert not hasattr(pipe.unet, "_tpc_fast_calibration")
    animate(pipe, num_inference_steps=2, callback_on_step_end=lambda pipe, step, t, state: steps.append(step))
    assert steps == [0, 0, 1]


def test_what_comes_out(pipe):
    pictures = animate(pipe, output_type="pil").frames
    frames = animate(pipe, output_type="np").frames
    assert np.array_equal([np.asarray(picture) for picture in pictures], frames)
    (same,) = animate(pipe, output_type="np", return_dict=False)
    assert np.array_equal(same, frames)
    with pytest.raises(ValueError, match="bank_refresh must be an integer of at least 1, but is 0"):
        animate(pipe, bank_refresh=0)
