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


def test_one_calibration_in_two_threads_is_refused():
    """While a call is open; one that ended, or was interrupted in a thread that is gone, is not in the way."""
    pipe = tiny.stable_diffusion()
    state = apply_calibration(pipe, reference(), encoder(), guidance=False)
    sample, text = torch.randn(FRAMES, 4, 8, 8), torch.randn(1, 7, tiny.TEXT).expand(FRAMES, -1, -1)
    opened, go, found = threading.Event(), threading.Event(), []

    def call():
        with torch.no_grad():
            return pipe.unet(sample, 500, encoder_hidden_states=text).sample

    def slow(module, args):
        if threading.current_thread() is not threading.main_thread():
            opened.set()
            go.wait(120)

    expected = call()
    handle = pipe.unet.mid_block.register_forward_pre_hook(slow)
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    assert opened.wait(120)
    with pytest.raises(RuntimeError, match="the UNet is called in two threads at once"):
        call()
    go.set()
    thread.join(120)
    torch.testing.assert_close(found, [expected])
    handle.remove()
    state._open, state._thread = True, thread  # as an interrupt leaves it
    torch.testing.assert_close(call(), expected)


def test_a_reference_that_is_not_finite_is_refused():
    given = reference()
    parts = [given.latent, given.calibrated_latents, given.pose_masks, given.calibrated_masks, given.reference_masks]
    names = ("latent", "calibrated_latents", "pose_masks", "calibrated_masks", "reference_masks")
    for i, name in enumerate(names):
        wrong = [part.clone().float() for part in parts]
        wrong[i].flatten()[3] = float("nan")
        with pytest.raises(ValueError, match=f"^{name} must be finite, but has NaN or infinity"):
            type(given)(*wrong)


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


def test_checkpointed_gradients_are_refused():
    """Blocks run again in the backward pass, when the images that they read are closed; plain gradients flow."""
    pipe = tiny.animatediff()
    apply_calibration(pipe, reference(), encoder(), guidance=False)
    sample, text = torch.randn(1, 4, FRAMES, 8, 8), torch.randn(1, 7, tiny.TEXT).expand(FRAMES, -1, -1)
    sample.requires_grad_()
    pipe.unet(sample, 500, encoder_hidden_states=text).sample.sum().backward()
    assert sample.grad.abs().sum() > 0
    pipe.unet.train().enable_gradient_checkpointing()
    loss = pipe.unet(sample, 500, encoder_hidden_states=text).sample.sum()
    with pytest.raises(RuntimeError, match="gradient checkpointing, which runs blocks once more"):
        loss.backward()


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


def test_a_unet_that_was_replaced_is_noticed():
    """The new one has no calibration; the old one can be freed, and used again."""
    pipe = tiny.stable_diffusion()
    old, plain = pipe.unet, run(pipe)
    apply_calibration(pipe, reference(), encoder())
    calibrated = run(pipe)
    pipe.unet = tiny.unet2d(7)
    with pytest.raises(RuntimeError, match=r"pipe\.unet was replaced after apply_calibration"):
        run(pipe)
    remove_calibration(pipe)
    run(pipe)
    pipe.unet = old
    torch.testing.assert_close(run(pipe), plain)
    apply_calibration(pipe, reference(), encoder())
    torch.testing.assert_close(run(pipe), calibrated)
    remove_calibration(pipe)
    assert "progress_bar" not in vars(pipe)
    apply_calibration(pipe, reference(), encoder())
    pipe.unet = torch.compile(pipe.unet, backend="eager")  # which wraps the same
    torch.testing.assert_close(run(pipe, steps=1), run(pipe, steps=1))
    torch._dynamo.reset()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))], ids=["copy", "pickle"])
def test_copies_of_whole_pipelines_have_no_calibration(how):
    pipe = tiny.stable_diffusion()
    plain = run(pipe)
    apply_calibration(pipe, reference(), encoder())
    calibrated, other = run(pipe), how(pipe)
    torch.testing.assert_close(run(other), plain)
    other.unet = copy.deepcopy(other.unet)  # nothing watches over it
    torch.testing.assert_close(run(other), plain)
    torch.testing.assert_close(run(pipe), calibrated)


def ip_adapter(unet):
    """A small IP-Adapter for a UNet, as its file holds it."""
    generator = torch.Generator().manual_seed(5)
    names = [name for name in unet.attn_processors if ".attn2." in name and "motion_modules" not in name]
    widths = [unet.get_submodule(name.removesuffix(".processor")).to_k.out_features for name in names]
    state = {f"{2 * i + 1}.to_{part}_ip.weight": torch.randn(width, tiny.TEXT, generator=generator)
             for i, width in enumerate(widths) for part in "kv"}  # fmt: skip
    projection = {"proj.weight": torch.randn(4 * tiny.TEXT, tiny.TEXT, generator=generator),
                  "proj.bias": torch.zeros(4 * tiny.TEXT), "norm.weight": torch.ones(tiny.TEXT),
                  "norm.bias": torch.zeros(tiny.TEXT)}  # fmt: skip
    return {"image_proj": projection, "ip_adapter": state}


@pytest.mark.parametrize("make", [tiny.stable_diffusion, tiny.animatediff])
def test_an_ip_adapter_may_come_before_or_after(make):
    picture = [torch.randn((2, 1, tiny.TEXT), generator=torch.Generator().manual_seed(1))]
    pipe = make()
    calibrated = None
    apply_calibration(pipe, reference(), encoder())
    calibrated = run(pipe)
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)])
    after = run(pipe, ip_adapter_image_embeds=picture)
    remove_calibration(pipe)
    plain = run(pipe, ip_adapter_image_embeds=picture)
    apply_calibration(pipe, reference(), encoder())
    torch.testing.assert_close(run(pipe, ip_adapter_image_embeds=picture), after)
    assert not torch.allclose(after, plain, atol=1e-2)
    assert not torch.allclose(after, calibrated, atol=1e-2)
    pipe.unload_ip_adapter()
    torch.testing.assert_close(run(pipe), calibrated)


def test_strength_goes_from_off_to_as_it_is():
    pipe = tiny.stable_diffusion()
    plain, results = run(pipe), {}
    for strength in (0.0, 0.25, 1.0, 4.0):
        state = apply_calibration(pipe, reference(), encoder(), strength=strength)
        results[strength] = run(pipe)
        assert bool(state.encoded) == (strength > 0)
        remove_calibration(pipe)
    apply_calibration(pipe, reference(), encoder())
    torch.testing.assert_close(results[1.0], run(pipe), rtol=0, atol=0)
    torch.testing.assert_close(results[0.0], plain, rtol=0, atol=0)
    away = [float((results[strength] - plain).norm()) for strength in (0.25, 1.0, 4.0)]
    assert 0 < away[0] < away[1] < away[2]
    remove_calibration(pipe)
    for strength in (-1, float("nan"), float("inf"), "1", True):
        with pytest.raises(ValueError, match="strength must be a finite number from 0"):
            apply_calibration(pipe, reference(), encoder(), strength=strength)


def test_steps_that_read_are_chosen():
    pipe = tiny.stable_diffusion()
    plain, seen = run(pipe, steps=4), {}
    for start, end in ((0, None), (0, 0), (4, None), (2, None), (0, 2), (1, 3)):
        read = []
        state = apply_calibration(pipe, reference(), encoder(), start_step=start, end_step=end)
        attend = state.attend
        state.attend = lambda *args, state=state, attend=attend, read=read: (read.append(state.step), attend(*args))[1]
        seen[start, end] = run(pipe, steps=4)
        assert sorted(set(read)) == list(range(start, 4 if end is None else end))
        remove_calibration(pipe)
    torch.testing.assert_close(seen[0, 0], plain, rtol=0, atol=0)
    torch.testing.assert_close(seen[4, None], plain, rtol=0, atol=0)
    assert not torch.allclose(seen[2, None], seen[0, 2], atol=1e-2)
    with pytest.raises(ValueError, match="start_step must be an integer from 0, but is -1"):
        apply_calibration(pipe, reference(), encoder(), start_step=-1)
    with pytest.raises(ValueError, match=r"end_step must be an integer from 0, but is 0\.5"):
        apply_calibration(pipe, reference(), encoder(), end_step=0.5)


@pytest.mark.parametrize("mode", ["plain", "steps"])
def test_one_graph(mode):
    """torch.compile needs no break in the UNet, and computes the same; steps that rest are seen when the graph runs."""
    torch._dynamo.reset()
    pipe = tiny.stable_diffusion()
    options = {"end_step": 1} if mode == "steps" else {}
    state = apply_calibration(pipe, reference(), encoder(), **options)
    eager = run(pipe)
    graphs = []

    def backend(graph, inputs):
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return graph.forward

    pipe.unet = torch.compile(pipe.unet, backend=backend, fullgraph=True)
    try:
        torch.testing.assert_close(run(pipe), eager, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(run(pipe), eager, rtol=1e-4, atol=1e-4)
        assert state.step == 1
        reads = [any("attend_call" in name for name in graph) for graph in graphs]
        assert (
            sum(reads) == 1
        )  # of the UNet itself, once for all steps and runs; hooks around it are graphs of their own
        assert len(graphs) <= 3
    finally:
        torch._dynamo.reset()
    remove_calibration(pipe)


def compiled(unet, graphs, **options):
    """By torch.compile, without an optimiser; appends what every graph calls."""

    def backend(graph, inputs):
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return graph.forward

    return torch.compile(unet, backend=backend, **options)


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def readers(graphs):
    return sum(any("attend_call" in name for name in graph) for graph in graphs)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["compiled", "calibrated"])
def test_a_short_video_is_one_graph(dynamo, first):
    """It needs no windows, which are there by default."""
    pipe, graphs = tiny.animatediff(), []
    apply_calibration(pipe, reference(), encoder())
    eager = run(pipe)
    if first == "compiled":
        remove_calibration(pipe)
        pipe.unet = compiled(pipe.unet, graphs, fullgraph=True)
        apply_calibration(pipe, reference(), encoder())
    else:
        pipe.unet = compiled(pipe.unet, graphs, fullgraph=True)
    torch.testing.assert_close(run(pipe), eager, rtol=1e-4, atol=1e-4)
    assert readers(graphs) == 1
    remove_calibration(pipe)


@pytest.mark.slow
def test_windows_of_a_compiled_unet(dynamo):
    """All are calls of one graph; and without the wrapper of torch.compile they are as they were."""
    pipe, graphs, cut = tiny.animatediff(), [], dict(window=4, overlap=1)
    plain = run(pipe)
    apply_calibration(pipe, reference(), encoder(), **cut)
    eager = run(pipe)
    remove_calibration(pipe)
    unet = pipe.unet
    pipe.unet = compiled(unet, graphs, fullgraph=True)
    state = apply_calibration(pipe, reference(), encoder(), **cut)
    torch.testing.assert_close(run(pipe), eager, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run(pipe), eager, rtol=1e-4, atol=1e-4)
    assert readers(graphs) == 1
    assert state.part is None
    wrapper, pipe.unet = pipe.unet, unet
    torch.testing.assert_close(run(pipe), eager, rtol=1e-4, atol=1e-4)
    pipe.unet = wrapper
    remove_calibration(pipe)
    assert not wrapper._forward_hooks
    assert not unet._forward_hooks
    torch.testing.assert_close(run(pipe), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_windows_inside_a_graph(dynamo):
    """They break it, or, where it must not break, are refused with what to do."""
    pipe = tiny.animatediff()
    apply_calibration(pipe, reference(), encoder(), window=4, overlap=1)
    eager = run(pipe)
    unet = pipe.unet
    pipe.unet = compiled(unet, [])
    torch.testing.assert_close(run(pipe), eager, rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()
    pipe.unet = compiled(unet, [], fullgraph=True)
    with pytest.raises(Exception, match=r"call torch\.compile before apply_calibration"):
        run(pipe)
    pipe.unet = unet
    torch.testing.assert_close(run(pipe), eager)


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


def test_calls_that_would_share_state_are_refused(pipe):
    """In threads as in callbacks: steps, guidance and noise levels of one would be those of the other."""
    parts = dict(pipe.components)
    parts["unet"] = load_pipeline("tiny-random").unet
    other, said = type(pipe)(**parts), []

    def call(pipe, step, timestep, state):
        for one in (pipe, other):
            with pytest.raises(RuntimeError, match="in use by a call that is still running") as caught:
                animate(one)
            said.append(str(caught.value).partition(" of ")[0])
        return state

    expected = animate(pipe).frames
    torch.testing.assert_close(animate(pipe, callback_on_step_end=call).frames, expected)
    assert said == ["the pipeline", "the scheduler"] * 2
    animate(other)


def test_what_comes_out(pipe):
    pictures = animate(pipe, output_type="pil").frames
    frames = animate(pipe, output_type="np").frames
    assert np.array_equal([np.asarray(picture) for picture in pictures], frames)
    (same,) = animate(pipe, output_type="np", return_dict=False)
    assert np.array_equal(same, frames)
    with pytest.raises(ValueError, match="bank_refresh must be an integer of at least 1, but is 0"):
        animate(pipe, bank_refresh=0)
