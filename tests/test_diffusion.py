"""Calibrated references on diffusers pipelines: the original's tensors; attaching, running and detaching."""

import copy
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import tiny  # noqa: E402
from peak_memory import PeakMemory  # noqa: E402

from tpc_fast.diffusion.attach import ReferenceAttnProcessor, apply_calibration, remove_calibration  # noqa: E402
from tpc_fast.diffusion.encoder import ReferenceEncoder  # noqa: E402
from tpc_fast.diffusion.reference import CalibratedReference  # noqa: E402
from tpc_fast.diffusion.windows import apply_windows  # noqa: E402
from tpc_fast.ops.attention import RegionPlan, reference_attention  # noqa: E402

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "diffusion"
golden = pytest.mark.skipif(not GOLDEN.exists(), reason=f"the original's tensors are not at {GOLDEN}")
FRAMES = 6
SCHEDULERS = [  # steps, guidance
    ("LCMScheduler", 1, 1.0), ("LCMScheduler", 4, 7.5), ("TCDScheduler", 2, 1.0), ("PNDMScheduler", 3, 7.5),
    ("EulerDiscreteScheduler", 2, 1.0), ("EulerAncestralDiscreteScheduler", 2, 7.5), ("HeunDiscreteScheduler", 2, 7.5),
    ("DPMSolverMultistepScheduler", 2, 7.5), ("UniPCMultistepScheduler", 2, 7.5),
]  # fmt: skip


@pytest.fixture(scope="module")
def encoder():
    return ReferenceEncoder(tiny.unet2d(1))


def run(pipe, frames=FRAMES, size=32, steps=2, seed=0, **options):
    """Latents of a run."""
    options = dict(height=size, width=size, num_inference_steps=steps, output_type="latent") | options
    generator = torch.Generator().manual_seed(seed)
    if type(pipe).__name__.startswith("AnimateDiff"):
        return pipe(num_frames=frames, generator=generator, **tiny.embeddings(), **options).frames
    return pipe(num_images_per_prompt=frames, generator=generator, **tiny.embeddings(), **options).images


def unpacked(tensors, name):
    return torch.from_numpy(np.unpackbits(tensors[name].numpy(), axis=-1)) * 255


# The original's tensors


@golden
@pytest.mark.parametrize("persons", [1, 2])
@pytest.mark.parametrize("variant", ["aligned", "ref_only", "plain"])
def test_block_is_the_original(persons, variant):
    from diffusers.models.attention import BasicTransformerBlock
    from safetensors.torch import load_file

    tensors = load_file(GOLDEN / f"block_p{persons}_n8.safetensors")
    block = BasicTransformerBlock(32, 4, 8, cross_attention_dim=24)
    block.load_state_dict({k.removeprefix("sd."): v.float() for k, v in tensors.items() if k.startswith("sd.")})
    frames, video = tensors["frame_index"].numpy(), 24
    masks = [unpacked(tensors, name) for name in ("pose_mask_packed", "cal_mask_packed", "ref_mask_packed")]
    if variant == "ref_only":
        masks, persons = [mask[:0] for mask in masks], 0
    rows = 1 + np.arange(persons)[:, None] * video + frames
    selection = RegionPlan(*masks, (8, 8)).select(frames, frames, rows)
    bank = tensors["bank"][len(tensors["bank"]) // 2 :]

    class State:
        enabled = variant != "plain"
        resting = False

        def attend(self, name, attn, q, k, v):
            bank_k, bank_v = (project(bank).view(-1, *q.shape[1:]) for project in (attn.to_k, attn.to_v))
            return reference_attention(q, k, v, bank_k, bank_v, selection, slice(16, 32))

    block.attn1.processor = ReferenceAttnProcessor(State(), "attn1", block.attn1.processor)
    with torch.no_grad():
        got = block(tensors["hidden_states"], encoder_hidden_states=tensors["encoder_hidden_states"])
    expected = tensors[f"out_{variant}"]
    assert (got - expected).abs().max() <= 1e-4 * expected.std()
    if variant == "aligned":
        tokens = selection.plan.tokens
        visible = np.unpackbits(tensors["visible"].numpy(), axis=-1).reshape(16, tokens, -1, tokens)
        seen = np.zeros((16 * tokens, 1 + persons, tokens), np.uint8)
        for queries, image, keys in selection.rectangles():
            seen[np.ix_(queries, [0 if image == 0 else 1 + (image - 1) // video], keys)] = 1
        np.testing.assert_array_equal(seen.reshape(visible[:, :, 1:].shape), visible[:, :, 1:])


# What attaching, running and detaching do


@pytest.mark.parametrize("make", [tiny.animatediff, tiny.stable_diffusion])
@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_attach_run_detach(rng, encoder, make, guidance):
    pipe = make()
    weights = copy.deepcopy(pipe.unet.state_dict())
    processors, attributes = pipe.unet.attn_processors, set(vars(pipe.unet))
    before = run(pipe, guidance_scale=guidance)

    state = apply_calibration(pipe, tiny.calibrated_reference(rng, 2), encoder)
    first = run(pipe, guidance_scale=guidance)
    assert (first - before).abs().max() > 1e-3
    assert torch.equal(run(pipe, guidance_scale=guidance), first)
    state.enabled = False
    assert torch.equal(run(pipe, guidance_scale=guidance), before)
    state.enabled = True
    assert torch.equal(run(pipe, guidance_scale=guidance), first)

    remove_calibration(pipe)
    assert torch.equal(run(pipe, guidance_scale=guidance), before)
    assert pipe.unet.attn_processors == processors
    assert set(vars(pipe.unet)) == attributes
    assert not pipe.unet._forward_pre_hooks
    assert not pipe.unet._forward_hooks
    assert all(torch.equal(value, weights[name]) for name, value in pipe.unet.state_dict().items())
    with pytest.raises(ValueError, match="no calibration to remove"):
        remove_calibration(pipe)


class Dense:
    """The specification of a whole run: every frame's image is encoded, for every call, and masks are full."""

    enabled, resting = True, False

    def __init__(self, unet, encoder, reference, plan, guided=True):
        self.unet, self.encoder, self.reference, self.plan, self.guided = unet, encoder, reference, plan, guided
        self.step = -1
        unet.register_forward_pre_hook(self.before, with_kwargs=True)
        for name in encoder.names:
            attention = unet.get_submodule(name)
            attention.processor = ReferenceAttnProcessor(self, name, attention.processor)

    def before(self, unet, args, kwargs):
        self.step += 1
        reference, frames = self.reference, self.plan.num_frames
        drawn = self.plan.candidates[self.plan.representatives(self.step)][self.plan.group_of]
        latents = [reference.latent, *(reference.calibrated_latents[p, drawn] for p in range(reference.persons))]
        text = kwargs["encoder_hidden_states"][-1:]
        self.bank = self.encoder(torch.cat(latents), args[1], text)
        self.rows = 1 + np.arange(reference.persons)[:, None] * frames + np.arange(frames)
        self.drawn = drawn

    def attend(self, name, attn, q, k, v):
        from tpc_fast import naive

        reference, frames = self.reference, self.plan.num_frames
        grid = {64: (8, 8), 16: (4, 4), 96: (8, 12), 24: (4, 6)}[q.shape[1]]
        pose, calibrated, mask = (
            m.numpy() / 255 for m in (reference.pose_masks, reference.calibrated_masks, reference.reference_masks)
        )
        bank = self.bank[name]
        visible = naive.visible_tokens(pose, calibrated[:, self.drawn], mask, self.rows, len(bank), grid)
        keys, values = (project(bank).view(-1, *q.shape[1:]) for project in (attn.to_k, attn.to_v))
        cond = slice(len(q) - frames, len(q))
        out = naive.reference_attention(*(x.detach().numpy() for x in (q, k, v, keys, values)), visible, cond)
        return torch.from_numpy(out).to(q.dtype)


@pytest.mark.parametrize("latent", [(8, 8), (8, 12)])
@pytest.mark.parametrize("make", [tiny.animatediff, tiny.stable_diffusion])
def test_runs_agree_with_the_dense_scheme(rng, encoder, make, latent):
    """Other sizes than squares, too."""
    reference = tiny.calibrated_reference(rng, 2, latent=latent)
    options = dict(height=4 * latent[0], width=4 * latent[1], steps=2)
    pipe = make()
    state = apply_calibration(pipe, reference, encoder, group_size=3, seed=4)
    got = run(pipe, **options)
    plan = state.plan
    remove_calibration(pipe)
    Dense(pipe.unet, encoder, reference, plan)
    with torch.no_grad():
        expected = run(pipe, **options)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize(("persons", "group"), [(0, 4), (1, 4), (2, 4), (2, 1), (1, 6)])
@pytest.mark.slow
def test_images_per_step(rng, persons, group):
    """1 + P * ceil(F / g) per step, counted by a hook on the encoder; each with its conditional text only."""
    encoder = ReferenceEncoder(tiny.unet2d(1))
    counted, texts = {}, []

    def count(_, arguments, options):
        step = float(arguments[1])
        counted[step] = counted.get(step, 0) + len(arguments[0])
        texts.append(options["encoder_hidden_states"])
        assert len(arguments[0]) <= 2 * FRAMES  # no more at once than the UNet takes

    encoder.unet.register_forward_pre_hook(count, with_kwargs=True)
    pipe = tiny.animatediff()
    state = apply_calibration(pipe, tiny.calibrated_reference(rng, persons), encoder, group_size=group)
    run(pipe, steps=4)
    assert list(counted.values()) == [1 + persons * -(-FRAMES // group)] * 4
    assert state.encoded == sum(counted.values())
    assert all(torch.equal(row, tiny.embeddings()["prompt_embeds"][0]) for text in texts for row in text)


def test_the_drawn_frame_is_encoded_and_its_mask_used(rng):
    """By identity: every candidate's latent and mask are known, and what the encoder and attention got is looked up."""
    encoder, pipe = ReferenceEncoder(tiny.unet2d(1)), tiny.animatediff()
    reference = tiny.calibrated_reference(rng, 2, frames=9)
    state = apply_calibration(pipe, reference, encoder, group_size=4, seed=3)
    encoded, read = [], []
    encoder.unet.register_forward_pre_hook(lambda _, arguments: encoded.append(arguments[0]))
    select = RegionPlan.select

    def watched(self, frames, candidates, rows):
        read.append((np.array(frames), np.array(candidates), np.array(rows)))
        return select(self, frames, candidates, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RegionPlan, "select", watched)
        run(pipe, frames=9, steps=6)
    per_step = []
    for step, latents in enumerate(encoded):
        drawn = [
            int((reference.calibrated_latents[p] == latent).flatten(1).all(1).nonzero())
            for p, latent in zip([0, 0, 0, 1, 1, 1], latents[1:], strict=True)
        ]
        assert torch.equal(latents[0], reference.latent[0])
        assert drawn[:3] == drawn[3:] == state.plan.representatives(step).tolist()
        per_step.append(tuple(drawn[:3]))
    assert len(set(per_step)) > 1
    assert all(group == frame // 4 for draw in per_step for group, frame in enumerate(draw))
    grids = len(read) // 6  # once a step for all layers of a grid
    assert len(read) == 6 * grids < 6 * len(encoder.names)
    for call, (frames, candidates, rows) in enumerate(read):
        draw = per_step[call // grids]
        assert frames.tolist() == list(range(9))
        assert candidates.tolist() == [draw[f // 4] for f in range(9)]
        assert rows.tolist() == [[1 + 3 * p + f // 4 for f in range(9)] for p in range(2)]


@pytest.mark.parametrize("mode", ["first", "nearest"])
def test_other_modes_need_only_their_candidates(rng, encoder, mode):
    from tpc_fast.ops.propagation import PropagationPlan

    plan = PropagationPlan(FRAMES, 4, mode)
    reference = tiny.calibrated_reference(rng, 1, candidates=plan.candidates)
    pipe = tiny.animatediff()
    apply_calibration(pipe, reference, encoder, mode=mode)
    first = run(pipe)
    remove_calibration(pipe)
    with pytest.raises(ValueError, match="reference must have the candidates that mode 'random' draws from, but lacks"):
        apply_calibration(pipe, reference, encoder)
    # all frames may be there, too
    every = tiny.calibrated_reference(np.random.default_rng(0), 1)
    every.calibrated_latents[:, plan.candidates] = reference.calibrated_latents
    every.calibrated_masks[:, plan.candidates] = reference.calibrated_masks
    every.latent, every.pose_masks, every.reference_masks = (
        reference.latent, reference.pose_masks, reference.reference_masks
    )  # fmt: skip
    apply_calibration(pipe, every, encoder, mode=mode)
    assert torch.equal(run(pipe), first)


def test_windows_and_single_frames_read_the_right_images(rng, encoder):
    """Whatever frames a call covers, in whatever order, each sees what it sees in a call of all; images are not encoded
    again within a step."""
    reference = tiny.calibrated_reference(rng, 2)
    pipe = tiny.stable_diffusion()
    state = apply_calibration(pipe, reference, encoder, group_size=2)
    sample, text = torch.randn(2 * FRAMES, 4, 8, 8), torch.randn(2, 7, tiny.TEXT)
    pipe._guidance_scale = 7.5

    def call(frames, t):
        both = [*frames, *(FRAMES + f for f in frames)]
        embeddings = text.repeat_interleave(len(frames), 0)
        with torch.no_grad(), state.covering(frames):
            return pipe.unet(sample[both], t, encoder_hidden_states=embeddings).sample

    whole = call(np.arange(FRAMES), 500)
    assert state.encoded == 7
    state.reset()
    for frames, encoded in (([4, 5], 3), ([0, 5, 0], 5), ([2], 7), ([3, 1], 7)):
        both = [*frames, *(FRAMES + f for f in frames)]
        torch.testing.assert_close(call(frames, 500), whole[both], rtol=1e-4, atol=1e-4)
        assert state.encoded == encoded
        assert state.step == 0
    call([0], 400)
    assert state.step == 1


def test_bank_refresh_reuses_the_bank(rng, encoder):
    pipe = tiny.animatediff()
    state = apply_calibration(pipe, tiny.calibrated_reference(rng, 1), encoder, bank_refresh=2)
    run(pipe, steps=5)
    assert state.encoded == 3 * 3
    with pytest.raises(ValueError, match="bank_refresh must be an integer of at least 1, but is 0"):
        apply_calibration(tiny.animatediff(), tiny.calibrated_reference(rng, 1), encoder, bank_refresh=0)


@pytest.mark.parametrize(("name", "steps", "guidance"), SCHEDULERS)
@pytest.mark.slow
def test_schedulers(rng, encoder, name, steps, guidance):
    """Whoever evaluates a timestep twice (Heun, PNDM) reads one bank for both."""
    import diffusers

    settings = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}  # as Stable Diffusion has it
    pipe = tiny.animatediff(scheduler=getattr(diffusers, name)(**settings))
    options = dict(steps=steps, guidance_scale=guidance)
    before = run(pipe, **options)
    state = apply_calibration(pipe, tiny.calibrated_reference(rng, 1), encoder)
    first = run(pipe, **options)
    assert torch.isfinite(first).all()
    assert not torch.equal(first, before)
    assert torch.equal(run(pipe, **options), first)
    evaluated = len(set(pipe.scheduler.timesteps.tolist()))
    assert (state.step, state.encoded) == (evaluated - 1, 3 * evaluated)


def test_one_step_runs_are_told_apart(rng, encoder):
    """The same timestep twice in a row, in two runs, is step 0 twice."""
    pipe = tiny.animatediff()
    state = apply_calibration(pipe, tiny.calibrated_reference(rng, 1), encoder)
    first = run(pipe, steps=1)
    assert torch.equal(run(pipe, steps=1), first)
    assert (state.step, state.encoded) == (0, 3)


def test_an_interrupted_run_leaves_nothing(rng, encoder):
    pipe = tiny.animatediff()
    state = apply_calibration(pipe, tiny.calibrated_reference(rng, 1), encoder)
    first = run(pipe)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pipe, callback_on_step_end=stop)
    assert torch.equal(run(pipe), first)
    with pytest.raises(RuntimeError, match="runs without the hook"):
        state.attend("x", None, torch.zeros(1, 1, 1, 1), None, None)


def test_several_videos_in_a_batch(rng, encoder):
    pipe = tiny.animatediff()
    one = tiny.embeddings()
    two = {name: value.repeat(2, 1, 1) for name, value in one.items()}
    apply_calibration(pipe, tiny.calibrated_reference(rng, 1), encoder)
    latents = torch.randn(2, 4, FRAMES, 8, 8)
    options = dict(num_frames=FRAMES, height=32, width=32, num_inference_steps=2, output_type="latent")
    both = pipe(latents=latents, **two, **options).frames
    for i in range(2):
        alone = pipe(latents=latents[i : i + 1], **one, **options).frames
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-3, atol=1e-4 * float(alone.std()))
    two["prompt_embeds"][1] += 1
    with pytest.raises(ValueError, match="prompts of a batch must be the same"):
        pipe(latents=latents, **two, **options)


def test_two_pipelines_share_nothing(rng, encoder):
    pipes = [tiny.animatediff(seed) for seed in (0, 5)]
    references = [tiny.calibrated_reference(rng, persons) for persons in (1, 2)]
    alone = []
    for pipe, reference in zip(pipes, references, strict=True):
        apply_calibration(pipe, reference, encoder)
        alone.append(run(pipe))
        remove_calibration(pipe)
    for pipe, reference in zip(pipes, references, strict=True):
        apply_calibration(pipe, reference, encoder)

    def run_other(*_):
        run(pipes[1])
        return {}

    swapped = run(pipes[0], callback_on_step_end=run_other)
    assert torch.equal(swapped, alone[0])
    assert torch.equal(run(pipes[1]), alone[1])


def test_blocks_full(rng):
    encoder = ReferenceEncoder(tiny.unet2d(1), "full")
    assert encoder.names[0].startswith("down_blocks")
    pipe = tiny.animatediff()
    apply_calibration(pipe, tiny.calibrated_reference(rng, 1), encoder, blocks="full")
    full = run(pipe)
    remove_calibration(pipe)
    with pytest.raises(ValueError, match="blocks must be 'full', as the encoder was made for, but is 'midup'"):
        apply_calibration(pipe, tiny.calibrated_reference(rng, 1), encoder)
    apply_calibration(pipe, tiny.calibrated_reference(rng, 1), tiny.unet2d(1))
    assert not torch.equal(run(pipe), full)


def test_encoder_is_truncated_and_exact(rng):
    """It gives what a hook on the whole UNet sees, leaves that UNet alone, shares its weights, and has fewer."""
    unet = tiny.unet2d(1)
    keys = list(unet.state_dict())
    encoder = ReferenceEncoder(unet)
    seen = {}
    for name in encoder.names:
        unet.get_submodule(name).register_forward_pre_hook(
            lambda _, arguments, name=name: seen.__setitem__(name, arguments[0])
        )
    latents, text = torch.randn(3, 4, 8, 12), torch.randn(1, 7, tiny.TEXT)
    with torch.no_grad():
        unet(latents, 7, encoder_hidden_states=text.expand(3, -1, -1))
        bank = encoder(latents, 7, text)
    assert list(bank) == encoder.names == list(seen)
    for name, value in bank.items():
        assert torch.equal(value, seen[name])
    assert list(unet.state_dict()) == keys
    theirs = {parameter.data_ptr() for parameter in unet.parameters()}
    ours = {parameter.data_ptr() for parameter in encoder.parameters()}
    assert ours < theirs


@pytest.mark.parametrize("offload", ["model", "sequential", "group"])
def test_encoder_of_an_offloaded_model(offload):
    """It has the same weights and no hooks; nothing is held back, whatever the model does."""
    from accelerate import cpu_offload, cpu_offload_with_hook
    from diffusers.hooks import apply_group_offloading

    unet = tiny.unet2d(1)
    arguments = torch.randn(2, 4, 8, 8), 7, torch.randn(1, 7, tiny.TEXT)
    with torch.no_grad():
        expected = ReferenceEncoder(unet)(*arguments)
    cpu = torch.device("cpu")
    if offload == "model":
        cpu_offload_with_hook(unet, cpu)
    elif offload == "sequential":
        cpu_offload(unet, cpu)
        assert all(parameter.is_meta for parameter in unet.parameters())
    else:
        apply_group_offloading(unet, cpu, cpu, offload_type="leaf_level")
    encoder = ReferenceEncoder(unet)
    assert encoder.device == cpu
    with torch.no_grad():
        bank = encoder(*arguments)
    for name, value in bank.items():
        assert torch.equal(value, expected[name])
    assert not any("_hf_hook" in vars(m) or "_diffusers_hook" in vars(m) for m in encoder.modules())


@pytest.fixture
def free_noise():
    """A pipeline for long videos, whose prompts are seeds, and a run of it."""
    pipe = tiny.animatediff()

    def encode_prompt(prompt, *_, **__):
        rows = [tiny.embeddings(len(text)) for text in prompt]
        return tuple(torch.cat([row[name] for row in rows]) for name in ("prompt_embeds", "negative_prompt_embeds"))

    pipe.encode_prompt = encode_prompt
    pipe.motion_adapter = tiny.motion_unet()
    pipe.motion_adapter.config.motion_max_seq_length = 24
    pipe.enable_free_noise(context_length=8, context_stride=4)

    def go():
        generator = torch.Generator().manual_seed(0)
        return pipe(
            {0: "a", 10: "abc"}, num_frames=20, height=32, width=32, num_inference_steps=2, output_type="latent",
            generator=generator,
        ).frames  # fmt: skip

    return pipe, go


def test_free_noise(rng, encoder, free_noise):
    pipe, go = free_noise
    before = go()
    state = apply_calibration(pipe, tiny.calibrated_reference(rng, 1, frames=20), encoder)
    first = go()
    assert not torch.equal(first, before)
    assert state.encoded == 2 * 6
    assert torch.equal(go(), first)
    remove_calibration(pipe)
    assert torch.equal(go(), before)
    apply_windows(pipe)  # they rest: FreeNoise makes its own
    assert torch.equal(go(), before)
    del pipe.encode_prompt
    pipe.disable_free_noise()
    calls = []
    pipe.unet.conv_in.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    run(pipe, frames=20, steps=1)
    assert calls == [32, 32]


def test_split_inference_is_refused(rng, encoder, free_noise):
    pipe, go = free_noise
    reference = tiny.calibrated_reference(rng, 1, frames=20)
    apply_calibration(pipe, reference, encoder)
    pipe.enable_free_noise_split_inference(spatial_split_size=8, temporal_split_size=4)
    with pytest.raises(RuntimeError, match="split inference"):
        go()
    remove_calibration(pipe)
    with pytest.raises(ValueError, match="pipe must not split inference"):
        apply_calibration(pipe, reference, encoder)


def test_replaced_processors_are_noticed(rng, encoder):
    pipe = tiny.animatediff()
    apply_calibration(pipe, tiny.calibrated_reference(rng, 1), encoder)
    from diffusers.models.attention_processor import AttnProcessor2_0

    pipe.unet.set_attn_processor(AttnProcessor2_0())
    with pytest.raises(RuntimeError, match=r"0 of \d self-attentions of the UNet read the calibrated reference"):
        run(pipe)


@pytest.mark.parametrize("order", ["before", "after"])
def test_cpu_offload(rng, encoder, order):
    """accelerate wraps and unwraps `forward` in every run; run twice."""
    pipe, reference = tiny.animatediff(), tiny.calibrated_reference(rng, 1)
    apply_calibration(pipe, reference, encoder)
    expected = run(pipe)
    if order == "before":
        remove_calibration(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    if order == "before":
        apply_calibration(pipe, reference, encoder)
    for _ in range(2):
        assert torch.equal(run(pipe), expected)


@pytest.mark.parametrize("order", ["compiled first", "calibrated first"])
@pytest.mark.slow
def test_compiled_unet(rng, order):
    """By a backend that only traces, which takes its time: a UNet of one level.

    Compiled first, hooks sit on the wrapper of the UNet; there with windows, all of which must run compiled, and with
    blocks that are not traced.
    """
    two = order == "compiled first"
    blocks = dict(block_out_channels=(32,), layers_per_block=1)
    kind, make, frames = ("Motion", tiny.animatediff, 9) if two else ("2D", tiny.stable_diffusion, FRAMES)
    names = dict(down_block_types=(f"CrossAttnDownBlock{kind}",), up_block_types=(f"CrossAttnUpBlock{kind}",))
    pipe, reference = make(**blocks, **names), tiny.calibrated_reference(rng, 1, frames=frames)
    plain = dict(down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",))
    encoder = ReferenceEncoder(tiny.unet2d(1, **blocks, **plain))
    options = dict(window=6, overlap=2)
    apply_calibration(pipe, reference, encoder, **options)
    expected = run(pipe, frames=frames, steps=1)
    if two:
        remove_calibration(pipe)
        for block in (*pipe.unet.down_blocks, pipe.unet.mid_block, *pipe.unet.up_blocks):
            block.forward = torch.compiler.disable(block.forward)
    calls = []

    def backend(graph, _):
        return lambda *tensors: calls.append(graph) or graph.forward(*tensors)

    pipe.unet = torch.compile(pipe.unet, backend=backend)
    try:
        if two:
            apply_calibration(pipe, reference, encoder, **options)
        assert torch.equal(run(pipe, frames=frames, steps=1), expected)
        if two:
            assert min(calls.count(graph) for graph in calls) >= 2  # each of them once per window, at least
        remove_calibration(pipe)
    finally:
        torch._dynamo.reset()


def test_half_precision(rng):
    """As far from float32, with the same weights and noise, as the pipeline is without a calibration, or twice."""
    pipe, appearance = tiny.animatediff(), tiny.unet2d(1)
    reference, noise = tiny.calibrated_reference(rng, 2), torch.randn(1, 4, FRAMES, 8, 8).bfloat16()
    results = {}
    for dtype in (torch.bfloat16, torch.float32):  # float32 last: its weights are those that were rounded
        pipe.to(dtype)
        text = {name: value.bfloat16().to(dtype) for name, value in tiny.embeddings().items()}
        options = dict(num_frames=FRAMES, height=32, width=32, num_inference_steps=3, output_type="latent", **text)
        for calibrated in (False, True):
            if calibrated:
                apply_calibration(pipe, reference, ReferenceEncoder(appearance.to(dtype)))
            out = pipe(latents=noise.to(dtype), **options).frames
            assert out.dtype == dtype
            results[dtype, calibrated] = out.double()
        remove_calibration(pipe)
    lost = {
        calibrated: (results[torch.bfloat16, calibrated] - results[torch.float32, calibrated]).square().mean().sqrt()
        for calibrated in (False, True)
    }
    effect = (results[torch.float32, True] - results[torch.float32, False]).square().mean().sqrt()
    print(f"rms errors without and with a calibration {lost[False]:.4f}, {lost[True]:.4f}; its effect {effect:.4f}")
    assert lost[True] <= 2 * lost[False]
    assert effect > 2 * lost[True]  # the test can fail


def test_plans_and_projections_are_made_once(rng, encoder, monkeypatch):
    """Region plans once for the video and grid; keys and values once per image and step, whatever the windows."""
    from tpc_fast.diffusion import state as hooks

    built, rows = [], []

    class Counted(RegionPlan):
        def __init__(self, *arguments):
            built.append(arguments[3])
            super().__init__(*arguments)

    monkeypatch.setattr(hooks, "RegionPlan", Counted)
    pipe = tiny.animatediff()
    attention = pipe.unet.get_submodule(encoder.names[0])
    for layer in (attention.to_k, attention.to_v):
        layer.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    state = apply_calibration(pipe, tiny.calibrated_reference(rng, 2, frames=20), encoder)
    for _ in range(2):
        run(pipe, frames=20, steps=3)
    assert sorted(built) == [(4, 4), (8, 8)]
    own, images = 2 * 2 * 16, 1 + 2 * 5  # two windows in two halves
    assert state.encoded == 3 * images
    assert sum(rows) == 2 * 2 * 3 * (own + images)


# Errors


def test_bad_pipelines_and_encoders_are_refused(rng, encoder):
    pipe, reference = tiny.animatediff(), tiny.calibrated_reference(rng, 1)
    with pytest.raises(ValueError, match="encoder must be given: a ReferenceEncoder"):
        apply_calibration(pipe, reference)
    with pytest.raises(TypeError, match="pipe must have a UNetMotionModel or a UNet2DConditionModel, but object"):
        apply_calibration(object(), reference, encoder)
    with pytest.raises(TypeError, match="unet must be a UNet2DConditionModel, but is a UNetMotionModel"):
        ReferenceEncoder(pipe.unet)
    with pytest.raises(ValueError, match="blocks must be one of midup, full"):
        apply_calibration(pipe, reference, encoder, blocks="down")
    with pytest.raises(TypeError, match="reference must be a CalibratedReference, a Calibration or its folder"):
        apply_calibration(pipe, 5, encoder)
    with pytest.raises(ValueError, match="encoder must have the self-attentions of the pipeline's UNet"):
        apply_calibration(pipe, reference, tiny.unet2d(layers_per_block=2))
    with pytest.raises(ValueError, match=r"encoder must have the widths of the pipeline's UNet, but at .* 96 channels"):
        apply_calibration(pipe, reference, tiny.unet2d(block_out_channels=(32, 96)))
    apply_calibration(pipe, reference, encoder)
    with pytest.raises(ValueError, match="pipe has a calibration already"):
        apply_calibration(pipe, reference, encoder)


def test_bad_runs_are_refused(rng, encoder):
    pipe = tiny.animatediff()
    state = apply_calibration(pipe, tiny.calibrated_reference(rng, 1), encoder)
    with pytest.raises(ValueError, match="the UNet is called with 8 frames, but the calibration has 6"):
        run(pipe, frames=8)
    with pytest.raises(ValueError, match="must make latents of the reference's size, 8 x 8, but makes 16 x 16"):
        run(pipe, size=64)
    state.frames = [0, 7]
    with pytest.raises(ValueError, match="frames must be a list of frames from 0 to 5"):
        run(pipe, frames=2)
    state.frames = None
    assert torch.isfinite(run(pipe)).all()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (dict(latent=torch.zeros(2, 4, 8, 8)), ValueError, "latent must be"),
        (dict(latent=None), TypeError, "latent must be a tensor"),
        (dict(calibrated_latents=torch.zeros(1, 6, 4, 8, 9)), ValueError, "calibrated_latents must be"),
        (dict(calibrated_masks=torch.zeros(1, 6, 32, 32)), ValueError, "calibrated_masks must be .2, 6, 32, 32."),
        (dict(reference_masks=torch.zeros(1, 32, 32)), ValueError, "reference_masks must be .2, 32, 32."),
        (dict(pose_masks=torch.zeros(2, 6, 32)), ValueError, "pose_masks must have 4 axes"),
        (dict(candidates=[0, 1, 2, 3, 4, 6]), ValueError, "candidates must be increasing frames from 0 to 5"),
        (dict(valid=torch.zeros(32, 31)), ValueError, "valid must be .32, 32."),
    ],
)
def test_bad_references_are_refused(rng, change, error, said):
    good = tiny.calibrated_reference(rng, 2)
    fields = {name: getattr(good, name) for name in good.__dataclass_fields__}
    with pytest.raises(error, match=said):
        CalibratedReference(**(fields | change))


def test_persons_without_any_mask_read_nothing(rng, encoder):
    """Empty masks of person and reference: then nobody stands before the background, and all of it is read."""
    reference = tiny.calibrated_reference(rng, 1)
    for masks in (reference.pose_masks, reference.calibrated_masks, reference.reference_masks):
        masks.zero_()
    pipe = tiny.animatediff()
    apply_calibration(pipe, reference, encoder)
    got = run(pipe)
    remove_calibration(pipe)
    nobody = tiny.calibrated_reference(rng, 0)
    nobody.latent = reference.latent
    apply_calibration(pipe, nobody, encoder)
    torch.testing.assert_close(run(pipe), got, rtol=1e-3, atol=1e-4 * float(got.std()))


@pytest.mark.slow
def test_peak_memory_of_a_step(rng):
    """At most a quarter more than without a reference, images, keys and values of the bank included."""
    pipe, encoder = tiny.animatediff(layers_per_block=2), ReferenceEncoder(tiny.unet2d(1, layers_per_block=2))
    peaks = []
    for attached in (False, True):
        if attached:
            apply_calibration(pipe, tiny.calibrated_reference(rng, 2, frames=16, latent=(32, 32)), encoder)
        with PeakMemory() as memory:
            run(pipe, frames=16, size=128, steps=1)
        peaks.append(memory.peak)
    print(f"two persons: {peaks[1] / peaks[0]:.3f} of the peak without a reference, {peaks[0]} bytes")
    assert peaks[1] <= 1.25 * peaks[0]


# From a calibration


@pytest.fixture(scope="module")
def calibration():
    """A small scene, seven frames; the canvas pads the driving frames and the photo differently."""
    from scene import PERSON, scene

    import tpc_fast

    rng = np.random.default_rng(2)
    image, mask, driving, keypoints, masks, _ = scene(rng, 7)
    return tpc_fast.calibrate(
        image, driving, reference_keypoints=PERSON, reference_mask=mask, driving_keypoints=keypoints,
        driving_masks=masks, size=(64, 96), resize="pad",
    )  # fmt: skip


def vae_latents(vae, images):
    """The definition, one image at a time."""
    images = torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        return torch.cat([vae.encode(image[None]).latent_dist.mean for image in images]) * vae.config.scaling_factor


@pytest.mark.parametrize("mode", ["random", "first"])
def test_reference_from_a_calibration(calibration, mode):
    from tpc_fast.media.canvas import Canvas
    from tpc_fast.ops.propagation import PropagationPlan

    vae, plan = tiny.vae(), PropagationPlan(7, 3, mode)
    encoded = []
    vae.encoder.register_forward_pre_hook(lambda _, arguments: encoded.append(len(arguments[0])))
    reference = CalibratedReference.from_calibration(calibration, vae, plan, batch_size=2)
    persons, candidates = calibration.persons, plan.candidates
    assert sum(encoded) == 1 + persons * len(candidates)  # each once
    assert max(encoded) <= 2
    assert reference.size == (64, 96)
    for p in range(persons):
        expected = vae_latents(vae, [calibration.images[int(i)][p] for i in candidates])
        # Other batches, other rounding, which the random weights amplify; another picture would be off by 1.
        torch.testing.assert_close(reference.calibrated_latents[p], expected, rtol=1e-3, atol=1e-3)
        for u, i in enumerate(candidates):
            np.testing.assert_array_equal(reference.calibrated_masks[p, u], calibration.masks[int(i)][p])
        np.testing.assert_array_equal(reference.pose_masks[p], [calibration.pose_masks[i][p] for i in range(7)])
    photo = calibration.reference_image
    canvas = Canvas.fitting(photo.shape[:2], (64, 96), "pad")
    torch.testing.assert_close(reference.latent, vae_latents(vae, [canvas.draw(photo)]), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(reference.valid, calibration.valid_mask)
    np.testing.assert_array_equal(reference.reference_valid, canvas.valid_mask())


def test_batches_fit_the_memory(calibration, monkeypatch):
    """Where the GPU's memory does not hold a batch, it is halved; where it does not hold one image, that is said."""
    vae, sizes = tiny.vae(), []
    encode, limit = vae.encode, 2

    def limited(images):
        sizes.append(len(images))
        if len(images) > limit:
            raise torch.cuda.OutOfMemoryError("full")
        return encode(images)

    monkeypatch.setattr(vae, "encode", limited)
    reference = CalibratedReference.from_calibration(calibration, vae, batch_size=5)
    assert [size for size in sizes if size > limit] == [5]
    monkeypatch.undo()
    expected = CalibratedReference.from_calibration(calibration, vae, batch_size=2)
    # A layer may sum in another order for another batch: n products round to n eps / 2 of their size at most, and each
    # of the encoder's layers in a row adds its own.
    layers = [m for m in vae.encoder.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    longest, eps = max(layer.weight[0].numel() for layer in layers), torch.finfo(torch.float32).eps
    atol = len(layers) * longest * eps * float(expected.calibrated_latents.std())
    torch.testing.assert_close(reference.calibrated_latents, expected.calibrated_latents, rtol=0, atol=atol)
    limit = 0
    monkeypatch.setattr(vae, "encode", limited)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        CalibratedReference.from_calibration(calibration, vae)


def test_reference_at_another_size(calibration):
    reference = CalibratedReference.from_calibration(calibration, tiny.vae(), size=(32, 48))
    assert reference.size == (32, 48)
    assert reference.latent.shape[-2:] == (8, 12)
    assert reference.to(dtype=torch.float16).latent.dtype == torch.float16
    with pytest.raises(ValueError, match="size must be multiples of 4, as the VAE needs, but is 30 x 48"):
        CalibratedReference.from_calibration(calibration, tiny.vae(), size=(30, 48))


def test_reference_from_the_originals_layout(calibration, tmp_path):
    """The same as from the calibration that wrote it, but for the padding, which it does not tell."""
    from tpc_fast.ops.propagation import PropagationPlan
    from tpc_fast.output.layout import write_layout

    write_layout(calibration, tmp_path)
    vae, plan = tiny.vae(), PropagationPlan(7, 3, "first")
    ours = CalibratedReference.from_layout(tmp_path, vae, plan)
    other = CalibratedReference.from_calibration(calibration, vae, plan)
    for name in ("latent", "calibrated_latents", "pose_masks", "calibrated_masks", "reference_masks"):
        torch.testing.assert_close(getattr(ours, name), getattr(other, name))
    np.testing.assert_array_equal(ours.candidates, other.candidates)
    assert ours.valid is None
    with pytest.raises(ValueError, match="plan must be of the 7 frames of the folder, but is of 8"):
        CalibratedReference.from_layout(tmp_path, vae, PropagationPlan(8))
    (tmp_path / "0-person_pose_mask_img" / "003.png").unlink()
    with pytest.raises(ValueError, match=r"all persons must have the same number of frames, but .* has \[6, 7\]"):
        CalibratedReference.from_layout(tmp_path, vae)
    with pytest.raises(FileNotFoundError, match="folder must hold pictures"):
        CalibratedReference.from_layout(tmp_path / "pose_video", vae)


@pytest.mark.parametrize("given", ["calibration", "its folder", "layout"])
def test_a_pipeline_takes_calibrations_and_folders(calibration, tmp_path, given, encoder):
    from tpc_fast.output.layout import write_layout

    reference = calibration
    if given != "calibration":
        reference = tmp_path / "saved"
    if given == "its folder":
        calibration.save(reference)
    if given == "layout":
        reference.mkdir()
        write_layout(calibration, reference)
    pipe = tiny.animatediff()
    state = apply_calibration(pipe, reference, encoder)
    out = run(pipe, frames=7, steps=1, height=64, width=96)
    assert out.shape == (1, 4, 7, 16, 24)
    assert torch.isfinite(out).all()
    assert state.encoded == 1 + 2 * calibration.persons


def test_windows_are_switched_on_and_off_with_it(rng, encoder):
    pipe, reference = tiny.animatediff(), tiny.calibrated_reference(rng, 1, frames=20)
    before = run(pipe, frames=20, steps=1)
    state = apply_calibration(pipe, reference, encoder, window=8, overlap=2)
    first = run(pipe, frames=20, steps=2)
    assert state.encoded == 2 * (1 + 5)  # once per step, whatever the windows
    assert torch.equal(run(pipe, frames=20, steps=2), first)
    remove_calibration(pipe)
    assert torch.equal(run(pipe, frames=20, steps=1), before)
    with pytest.raises(ValueError, match="overlap must be smaller than window"):
        apply_calibration(pipe, reference, encoder, window=8, overlap=8)
    assert torch.equal(run(pipe, frames=20, steps=1), before)
