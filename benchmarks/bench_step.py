"""One denoising step with calibrated references beside the original's scheme, on a random model of medium size, CPU.

The model is a UNetMotionModel with an encoder of the same spatial architecture (96 to 256 channels, 8 heads), latents
32 x 32, 8 frames in groups of 4, guidance. The peer is the original's scheme on the same weights: a calibrated image is
encoded for every frame and in both guidance halves, every layer makes its mask of pixels, and attention is that of
bench_attention.py. Both give the same step, which is checked first.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
F = torch.nn.functional

from bench_attention import ellipses, in_memory  # noqa: E402
from peak_memory import PeakMemory  # noqa: E402

from tpc_fast.diffusion import CalibratedReference, ReferenceEncoder, apply_calibration, remove_calibration  # noqa: E402

FRAMES, GROUP, LATENT, TEXT = 8, 4, 32, 64
STRIDE = 40  # of timesteps, in 25 steps
CHANNELS = (96, 192, 256, 256)


class Pipe:
    """As much of a pipeline as is attached to."""

    do_classifier_free_guidance = True
    scheduler = None

    def __init__(self, unet):
        self.unet = unet


def models():
    """A UNetMotionModel and a UNet2DConditionModel."""
    from diffusers import UNet2DConditionModel, UNetMotionModel

    common = dict(block_out_channels=CHANNELS, layers_per_block=1, cross_attention_dim=TEXT, sample_size=LATENT)
    down, up = ("CrossAttnDown{}",) * 3 + ("Down{}",), ("Up{}",) + ("CrossAttnUp{}",) * 3
    made = []
    torch.manual_seed(0)
    for model, kind, heads in (
        (UNetMotionModel, "BlockMotion", dict(num_attention_heads=8, motion_num_attention_heads=8)),
        (UNet2DConditionModel, "Block2D", dict(attention_head_dim=8)),
    ):
        blocks = dict(
            down_block_types=tuple(x.format(kind) for x in down), up_block_types=tuple(x.format(kind) for x in up)
        )
        made.append(model(**common, **heads, **blocks).eval())
    return made


class Original:
    """The original's scheme on a UNet."""

    def __init__(self, unet, encoder, reference, plan, attend):
        self.unet, self.encoder, self.reference, self.plan, self.attend = unet, encoder, reference, plan, attend
        self.processors = {name: unet.get_submodule(name).processor for name in encoder.names}
        for name in encoder.names:
            unet.get_submodule(name).processor = self.processor(name)

    def remove(self):
        for name, processor in self.processors.items():
            self.unet.get_submodule(name).processor = processor

    def __call__(self, sample, t, text):
        reference, drawn = self.reference, self.plan.representatives(0)[self.plan.group_of]
        latents = torch.cat([reference.latent, *reference.calibrated_latents[:, drawn]])
        halves = [self.encoder(latents, t, text[half]) for half in (slice(0, 1), slice(FRAMES, FRAMES + 1))]
        self.bank = {name: [half[name] for half in halves] for name in self.encoder.names}
        return self.unet(sample, t, encoder_hidden_states=text, return_dict=False)[0]

    def mask(self, tokens):
        grid = (int(tokens**0.5),) * 2
        reference, drawn = self.reference, self.plan.representatives(0)[self.plan.group_of]
        pose, calibrated, background = (
            F.adaptive_avg_pool2d(masks.float() / 255, grid).flatten(-2)
            for masks in (reference.pose_masks, reference.calibrated_masks[:, drawn], reference.reference_masks)
        )
        mask = torch.full((FRAMES, tokens, 2 + len(pose), tokens), -torch.inf)
        mask[:, :, 0] = 0
        seen = (pose.mean(0) < 0.001)[:, :, None] & (background.mean(0) < 0.001)[None, None]
        mask[:, :, 1].masked_fill_(seen, 0)
        for p in range(len(pose)):
            mask[:, :, 2 + p].masked_fill_((pose[p] > 0.001)[:, :, None] & (calibrated[p] > 0.001)[:, None], 0)
        return mask.view(FRAMES, 1, tokens, -1)

    def processor(self, name):
        def process(attn, hidden, *_, **__):
            def layer(own, read, mask):
                heads = (len(own), -1, attn.heads, own.shape[-1] // attn.heads)
                q, k, v = (
                    project(x).view(heads).transpose(1, 2)
                    for project, x in ((attn.to_q, own), (attn.to_k, read), (attn.to_v, read))
                )
                return self.attend(q, k, v, mask).transpose(1, 2).flatten(2)

            mask = self.mask(hidden.shape[1])
            out = []
            for half, bank in zip(hidden.split(FRAMES), self.bank[name], strict=True):
                persons = bank[1:].unflatten(0, (-1, FRAMES))
                read = torch.cat([half, bank[:1].expand(FRAMES, -1, -1), *persons], 1)
                out.append(layer(half, read, mask))
            out[0] = layer(hidden[:FRAMES], hidden[:FRAMES], None)
            return attn.to_out[0](torch.cat(out))

        return process


@pytest.fixture(scope="module", params=[1, 2], ids=lambda persons: f"{persons} person(s)")
def work(request):
    persons = request.param
    rng = np.random.default_rng(persons)
    unet, appearance = models()
    encoder = ReferenceEncoder(appearance)
    generator = torch.Generator().manual_seed(persons)
    reference = CalibratedReference(
        torch.randn(1, 4, LATENT, LATENT, generator=generator),
        torch.randn(persons, FRAMES, 4, LATENT, LATENT, generator=generator),
        *(torch.from_numpy(ellipses(rng, persons, *shape)) for shape in ((FRAMES,), (FRAMES,), ())),
    )
    sample = torch.randn(2, 4, FRAMES, LATENT, LATENT, generator=generator)
    text = torch.randn(2, 77, TEXT, generator=generator).repeat_interleave(FRAMES, 0)
    name = f"one guided step of {FRAMES} frames, {persons} person{'s' * (persons > 1)}"
    return dict(unet=unet, encoder=encoder, reference=reference, sample=sample, text=text, name=name)


@torch.no_grad()
def ours(work, measure=None, steps=1, **options):
    """The last step's prediction; `measure` times `steps` steps."""
    pipe = Pipe(work["unet"])
    state = apply_calibration(pipe, work["reference"], work["encoder"], group_size=GROUP, **options)

    def run():
        state.reset()
        for left in reversed(range(steps)):
            t = 1 + left * STRIDE
            out = pipe.unet(work["sample"], t, encoder_hidden_states=work["text"], return_dict=False)[0]
        return out

    try:
        return run() if measure is None else measure(run)
    finally:
        remove_calibration(pipe)


@torch.no_grad()
def original(work, attend, measure=None):
    pipe = Pipe(work["unet"])
    state = apply_calibration(pipe, work["reference"], work["encoder"], group_size=GROUP)
    remove_calibration(pipe)
    scheme = Original(work["unet"], work["encoder"], work["reference"], state.plan, attend)
    try:
        run = lambda: scheme(work["sample"], 1, work["text"])  # noqa: E731
        return run() if measure is None else measure(run)
    finally:
        scheme.remove()


@pytest.fixture
def timed(measure, work):
    def run(function, member, items=1, memory=True, **facts):
        def timing(job):
            if memory:
                with PeakMemory() as memory_used:
                    job()
                facts["peak_bytes"] = memory_used.peak
            return measure(job, 3, member=member, work=work["name"], items=items, **facts)

        return function(work, measure=timing)

    return run


def error(work):
    """Between ours and the original's scheme, in standard deviations of the latter."""
    expected = original(work, F.scaled_dot_product_attention)
    return float((ours(work) - expected).abs().max() / expected.std())


def test_tpc_fast(timed, work):
    off = error(work)
    assert off < 1e-4
    timed(ours, "tpc_fast", max_error_in_std=off)


@pytest.mark.parametrize("steps", [2, 4])
def test_tpc_fast_bank_refresh(timed, work, steps):
    """A bank for some steps; how far the last one's prediction then is from that with a bank of its own, same images.

    The latents of this benchmark's frames have nothing in common, so that another frame's image would say nothing.
    """
    options = dict(steps=steps, mode="first")
    fresh = ours(work, **options)
    off = float((ours(work, bank_refresh=steps, **options) - fresh).abs().max() / fresh.std())
    timed(
        lambda work, measure: ours(work, measure, bank_refresh=steps, **options),
        f"tpc_fast, bank_refresh={steps}",
        items=steps,
        memory=False,
        max_error_in_std=off,
    )


@pytest.mark.parametrize(
    ("member", "attend"),
    [("the original's scheme", in_memory), ("the original's scheme, fused", F.scaled_dot_product_attention)],
    ids=["in memory", "fused"],
)
def test_original(timed, member, attend):
    timed(lambda work, measure: original(work, attend, measure), member)


def test_without_reference(timed):
    """The UNet alone."""

    @torch.no_grad()
    def plain(work, measure):
        return measure(lambda: work["unet"](work["sample"], 1, encoder_hidden_states=work["text"]).sample)

    timed(plain, "no reference at all")
