"""LiveAnimator: against a plain loop, against the pipelines, and by laws (causal, repeatable, of constant memory)."""

import gc
import itertools
import threading
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import tiny  # noqa: E402
from diffusers import AutoencoderTiny, DDIMScheduler, LCMScheduler, TCDScheduler  # noqa: E402
from live_naive import NaiveStream  # noqa: E402
from params import slow  # noqa: E402
from scene import PERSON, scene  # noqa: E402

from tpc_fast.calibration.stream import Calibrator  # noqa: E402
from tpc_fast.diffusion import CalibratedReference, LiveAnimator, ReferenceEncoder, apply_calibration  # noqa: E402
from tpc_fast.diffusion.attach import remove_calibration  # noqa: E402
from tpc_fast.diffusion.live.predict import FrameTimes  # noqa: E402
from tpc_fast.diffusion.live.steps import LevelSteps, generator_of  # noqa: E402
from tpc_fast.diffusion.models.registry import load_pipeline  # noqa: E402
from tpc_fast.media.canvas import Canvas  # noqa: E402
from tpc_fast.ops.propagation import PropagationStream  # noqa: E402
from tpc_fast.pose.detect.detection import Detection  # noqa: E402

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
SIDE, PERSONS = 64, 2
KINDS = ("magic-animate", "animate-anyone", "champ", "musepose")
TOLERANCE = 1e-4  # standard deviations


@pytest.fixture(scope="module")
def pipes():
    """In float64: with random weights, two steps make 1e-3 of a rounding error of 1e-7."""
    return {kind: load_pipeline(f"tiny-random:{kind}", torch_dtype=torch.float64) for kind in KINDS}


def picture(rng, side=SIDE):
    return rng.integers(0, 256, (side, side, 3), np.uint8)


def photo_of(rng, persons=PERSONS, side=SIDE):
    return picture(rng, side), tiny.boxes(rng, persons, size=(side, side))


def frames_of(rng, count, videos=("pose",), persons=PERSONS, side=SIDE):
    """(poses, pose masks, calibrated images, their masks) of every frame."""
    size = side, side
    return [
        (
            {name: picture(rng, side) for name in videos},
            tiny.boxes(rng, persons, size=size),
            np.stack([picture(rng, side) for _ in range(persons)]),
            tiny.boxes(rng, persons, size=size),
        )
        for _ in range(count)
    ]


def sized_frames(rng, count, size, videos=("pose",)):
    """The same of one person, of any size."""
    return [
        (
            {name: rng.integers(0, 256, (*size, 3), np.uint8) for name in videos},
            tiny.boxes(rng, 1, size=size),
            rng.integers(0, 256, (1, *size, 3), np.uint8),
            tiny.boxes(rng, 1, size=size),
        )
        for _ in range(count)
    ]


def pushed(live, frames, flush=True):
    """What comes out of all frames, [F, H, W, 3], and the latents of every chunk."""
    latents, decode = [], live._vae.decode
    live._vae.decode = lambda x: latents.append(x.clone()) or decode(x)
    done = []
    try:
        for pose, *masks in frames:
            done.append(live.push(pose if len(live.videos) > 1 else pose.get("pose") if live.videos else None, *masks))
        if flush:
            done.append(live.flush())
    finally:
        live._vae.decode = decode
    done = [frames for frames in done if frames is not None]
    return np.concatenate(done), latents


def noise_of(seed, chunk, frames, channels=4, side=SIDE // 8):
    return torch.randn(1, channels, frames, side, side, generator=generator_of(seed, chunk))


def error(got, expected):
    return float((got - expected).abs().max() / expected.std())


# Against the plain loop


@pytest.mark.parametrize(
    ("kind", "guidance", "kept", "options"),
    [
        ("magic-animate", 1.0, 0, {}),
        ("magic-animate", 3.0, 1, {"group_size": 1, "mode": "random"}),
        ("animate-anyone", 1.0, 2, {"group_size": 1}),
        ("animate-anyone", 2.0, 0, {"mode": "random"}),
        ("champ", 1.0, 0, {"mode": "first"}),
        *slow(("musepose", 1.0, 1, {})),
    ],
)
def test_the_stream_is_the_plain_loop(rng, pipes, kind, guidance, kept, options):
    chunk, levels, seed, pipe = 2, 2, 5, pipes[kind]
    photo, masks = photo_of(rng)
    frames = frames_of(rng, 4 * chunk, pipe.videos)
    group = options.get("group_size", chunk)
    groups = PropagationStream(group, options.get("mode", "nearest"), seed)

    def representative(frame, level):
        first = frame // group
        return first * group + int(groups.candidates[groups.representative(first, level)])

    def noise(number):
        return noise_of(seed, number, chunk)

    plain = NaiveStream(pipe, photo, masks, chunk, levels, kept, representative, noise, guidance)
    expected = plain.run(frames)
    with LiveAnimator(
        pipe, photo, masks, chunk=chunk, levels=levels, window=chunk * (levels + kept), guidance_scale=guidance,
        seed=seed, **options,
    ) as live:  # fmt: skip
        _, latents = pushed(live, frames)
    for got, want in zip(latents, expected, strict=True):
        assert error(got.transpose(0, 1)[None], want) < TOLERANCE


# Against the pipelines


def reference_of(pipe, photo, masks, frames):
    """The CalibratedReference of a chunk whose middle frame represents it."""
    adapter, middle = pipe.reference_adapter(), (len(frames) - 1) // 2
    return CalibratedReference(
        latent=adapter.prepare(photo[None], masks.max(0)[None]),
        calibrated_latents=adapter.prepare(frames[middle][2], frames[middle][3])[:, None],
        pose_masks=torch.from_numpy(np.stack([frame[1] for frame in frames], 1)),
        calibrated_masks=torch.from_numpy(frames[middle][3][:, None]),
        reference_masks=torch.from_numpy(masks),
        candidates=[middle],
        extras=adapter.photo(photo, masks),
    )


@pytest.mark.parametrize(
    ("scheduler", "kind"),
    [
        *((DDIMScheduler, kind) for kind in KINDS),
        (LCMScheduler, KINDS[0]),
        (TCDScheduler, KINDS[0]),
        *slow(*itertools.product((LCMScheduler, TCDScheduler), KINDS[1:])),
    ],
)
def test_without_lag_it_is_the_pipeline_called_chunk_by_chunk(rng, pipes, kind, scheduler):
    chunk, levels, pipe, own = 3, 2, pipes[kind], pipes[kind].scheduler
    photo, masks = photo_of(rng)
    frames = frames_of(rng, 2 * chunk, pipe.videos)
    pipe.scheduler = scheduler.from_config(own.config)
    guidance, eta = (2.0 if kind == "animate-anyone" else 1.0), (0.0 if scheduler is LCMScheduler else 0.3)
    try:
        with LiveAnimator(
            pipe, photo, masks, chunk=chunk, levels=levels, lag=0, guidance_scale=guidance, seed=3, eta=eta or None
        ) as live:
            got, latents = pushed(live, frames)
        for number, ours in enumerate(latents):
            part = frames[number * chunk : (number + 1) * chunk]
            videos = {name: np.stack([frame[0][name] for frame in part]) for name in pipe.videos}
            one_window = dict(window=chunk, overlap=0) if kind == "musepose" else {}  # which fills windows up
            made = pipe(
                reference_of(pipe, photo, masks, part), videos if len(videos) > 1 else videos["pose"],
                num_inference_steps=levels, guidance_scale=guidance, mode="nearest", group_size=chunk,
                generator=generator_of(3, number), output_type="latent", eta=eta, **one_window,
            ).frames  # fmt: skip
            assert error(ours.transpose(0, 1)[None], made) < TOLERANCE
    finally:
        pipe.scheduler = own
    decoded = torch.cat(list(pipe.decode(made))).numpy()
    assert np.abs(got[chunk:].astype(int) - decoded).max() <= 1


def test_one_level_of_several_groups_is_one_step_of_the_pipeline(rng, pipes):
    """The window of a single level, of groups that read different images."""
    pipe = pipes["magic-animate"]
    photo, masks = photo_of(rng)
    frames = frames_of(rng, 12, pipe.videos)
    with LiveAnimator(pipe, photo, masks, chunk=12, levels=1, group_size=4) as live:
        _, (latents,) = pushed(live, frames)
    adapter, drawn = pipe.reference_adapter(), [frames[i] for i in (1, 5, 9)]
    reference = CalibratedReference(
        latent=adapter.prepare(photo[None], masks.max(0)[None]),
        calibrated_latents=torch.stack([adapter.prepare(frame[2], frame[3]) for frame in drawn], 1),
        pose_masks=torch.from_numpy(np.stack([frame[1] for frame in frames], 1)),
        calibrated_masks=torch.from_numpy(np.stack([frame[3] for frame in drawn], 1)),
        reference_masks=torch.from_numpy(masks), candidates=[1, 5, 9],
    )  # fmt: skip
    videos = np.stack([frame[0]["pose"] for frame in frames])
    made = pipe(reference, videos, num_inference_steps=1, guidance_scale=1.0, mode="nearest", group_size=4,
                generator=generator_of(0, 0), output_type="latent").frames  # fmt: skip
    assert error(latents.transpose(0, 1)[None], made) < TOLERANCE


@pytest.mark.parametrize("controlled", [False, True])
def test_any_animatediff_pipeline_with_an_encoder(rng, controlled):
    from diffusers import AnimateDiffControlNetPipeline, ControlNetModel
    from PIL import Image

    chunk, levels, encoder, pipe = 2, 2, ReferenceEncoder(tiny.unet2d(1)), tiny.animatediff()
    if controlled:
        control = ControlNetModel(**tiny.COMMON, attention_head_dim=2, down_block_types=tiny.DOWN,
                                  conditioning_embedding_out_channels=(8, 8, 8))  # fmt: skip
        pipe = AnimateDiffControlNetPipeline(
            **{k: v for k, v in pipe.components.items() if k not in ("feature_extractor", "image_encoder")},
            controlnet=tiny.randomised(control, 2),
        )  # fmt: skip
        pipe.set_progress_bar_config(disable=True)
    side = 32
    photo, masks = photo_of(rng, 1, side)
    frames = frames_of(rng, 2 * chunk, ("pose",), 1, side)
    text = tiny.embeddings()
    with LiveAnimator(pipe, photo, masks, encoder=encoder, chunk=chunk, levels=levels, lag=0,
                      prompt_embeds=text["prompt_embeds"]) as live:  # fmt: skip
        assert live.videos == (("pose",) if controlled else ())
        _, latents = pushed(live, frames)
    pipe.reference_adapter = lambda: live._bank.adapter
    for number, ours in enumerate(latents):
        part, generator = frames[number * chunk : (number + 1) * chunk], generator_of(0, number)
        noise = torch.randn(1, 4, chunk, 8, 8, generator=generator)
        apply_calibration(pipe, reference_of(pipe, photo, masks, part), encoder, mode="nearest", group_size=chunk)
        follows = {"conditioning_frames": [Image.fromarray(frame[0]["pose"]) for frame in part]} if controlled else {}
        made = pipe(
            num_frames=chunk, height=side, width=side, num_inference_steps=levels, guidance_scale=1.0, latents=noise,
            generator=generator, output_type="latent", prompt_embeds=text["prompt_embeds"], **follows,
        ).frames  # fmt: skip
        remove_calibration(pipe)
        assert error(ours.transpose(0, 1)[None], made) < TOLERANCE


def test_a_picture_is_encoded_once_for_all_its_levels(rng):
    """By the ControlNet of a pipeline of diffusers."""
    from diffusers import AnimateDiffControlNetPipeline
    from test_control import controlnet

    chunk, levels, side, pipe = 2, 3, 32, tiny.animatediff()
    parts = {k: v for k, v in pipe.components.items() if k not in ("feature_extractor", "image_encoder")}
    pipe = AnimateDiffControlNetPipeline(**parts, controlnet=controlnet())
    seen, text = [], tiny.embeddings()["prompt_embeds"]
    pipe.controlnet.controlnet_cond_embedding.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    photo, masks = photo_of(rng, 1, side)
    with LiveAnimator(pipe, photo, masks, encoder=ReferenceEncoder(tiny.unet2d(1)), chunk=chunk, levels=levels,
                      prompt_embeds=text) as live:  # fmt: skip
        pushed(live, frames_of(rng, 4 * chunk, ("pose",), 1, side))
    assert seen == [chunk] * 4


@pytest.mark.parametrize("kind", [*KINDS[:2], *slow(*KINDS[2:])])
@pytest.mark.parametrize("size", [(64, 72), (88, 40)])
def test_latents_of_odd_sides(rng, pipes, kind, size):
    """Without a lag it is the pipeline, whatever the blocks of the UNet make of sides that do not halve."""
    pipe = pipes[kind]
    frames = sized_frames(rng, 2, size, pipe.videos)
    photo, masks = rng.integers(0, 256, (*size, 3), np.uint8), tiny.boxes(rng, 1, size=size)
    with LiveAnimator(pipe, photo, masks, chunk=2, levels=1) as live:
        assert live.size == size
        _, (latents,) = pushed(live, frames)
    videos = {name: np.stack([frame[0][name] for frame in frames]) for name in pipe.videos}
    made = pipe(
        reference_of(pipe, photo, masks, frames), videos if len(videos) > 1 else videos["pose"], num_inference_steps=1,
        guidance_scale=1.0, mode="nearest", group_size=2, generator=generator_of(0, 0), output_type="latent", window=2,
        overlap=0,
    ).frames  # fmt: skip
    assert error(latents.transpose(0, 1)[None], made) < TOLERANCE


def test_a_picture_of_any_size_is_padded(rng, pipes):
    """Pixel for pixel: as the same picture that was padded before."""
    pipe = pipes["animate-anyone"]
    photo, masks = rng.integers(0, 256, (61, 50, 3), np.uint8), tiny.boxes(rng, 1, size=(61, 50))
    with LiveAnimator(pipe, photo, masks, chunk=2, levels=1) as live:
        assert live.size == (64, 56)
        _, (got,) = pushed(live, frames := sized_frames(rng, 2, live.size))
        valid = live._photo.valid
    assert valid[1:62, 3:53].all()
    assert valid.sum() == 255 * 61 * 50
    ready, ready_masks = np.zeros((64, 56, 3), np.uint8), np.zeros((1, 64, 56), np.uint8)
    ready[1:62, 3:53], ready_masks[:, 1:62, 3:53] = photo, masks
    with LiveAnimator(pipe, ready, ready_masks, chunk=2, levels=1) as live:
        live._photo = live._photo._replace(valid=valid)
        live._regions = type(live._regions)(
            live._photo.masks, [plan.grid for plan in live._regions.plans.values()], 1, 2, 1, valid
        )
        _, (expected,) = pushed(live, frames)
    assert error(got, expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["magic-animate", "animate-anyone"])
def test_a_compiled_unet(rng, kind):
    """One graph for all pushes, which computes the same of every frame."""
    torch._dynamo.reset()
    pipe, graphs = load_pipeline(f"tiny-random:{kind}"), []
    photo, masks = photo_of(rng, 1)
    frames, options = frames_of(rng, 6, pipe.videos, 1), dict(chunk=2, levels=1)

    def backend(graph, inputs):
        graphs.append(any("attend_call" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    with LiveAnimator(pipe, photo, masks, **options) as live:
        _, expected = pushed(live, frames)
    pipe.unet = torch.compile(pipe.unet, backend=backend, fullgraph=True, dynamic=False)
    try:
        with LiveAnimator(pipe, photo, masks, **options) as live:
            _, got = pushed(live, frames)
    finally:
        torch._dynamo.reset()
    for one, other in zip(got, expected, strict=True):
        assert error(one, other) < 1e-3
    assert sum(graphs) == 1


# Its parts


def test_frames_have_times_of_their_own(rng, pipes):
    """Without motion modules a frame does not depend on others: each is as in a call of its own."""
    unet = tiny.motion_unet()
    for module in unet.modules():
        if type(module).__name__ == "AnimateDiffTransformer3D":
            module.proj_out.weight.data.zero_()
            module.proj_out.bias.data.zero_()
    x, text = torch.randn(2, 4, 3, 8, 8), torch.randn(6, 7, tiny.TEXT)
    with torch.no_grad():
        alone = torch.cat(
            [unet(x[:, :, [i]], t, text[[i, 3 + i]], return_dict=False)[0] for i, t in enumerate((900, 40, 0))], 2
        )
        before = unet(x, 40, text, return_dict=False)[0]
        times = FrameTimes(unet)
        got = unet(x, torch.tensor([900, 40, 0]), text, return_dict=False)[0]
        assert error(got, alone) < 1e-5
        assert error(unet(x, torch.tensor([40] * 3), text, return_dict=False)[0], before) < 1e-5
        assert torch.equal(unet(x, 40, text, return_dict=False)[0], before)
        times.remove()
        assert torch.equal(unet(x, 40, text, return_dict=False)[0], before)


@pytest.mark.parametrize("kind", [DDIMScheduler, LCMScheduler, TCDScheduler])
def test_steps_in_any_order_are_the_schedulers(kind):
    scheduler = kind()
    steps = LevelSteps(scheduler, 4, "cpu")
    scheduler.set_timesteps(4)
    x, predictions, drawn = torch.randn(1, 4, 2, 8, 8), torch.randn(4, 1, 4, 2, 8, 8), torch.Generator().manual_seed(2)
    expected, states = x, []
    for t, prediction in zip(scheduler.timesteps, predictions, strict=True):
        states.append((expected, drawn.get_state()))
        expected = scheduler.step(prediction, t, expected, generator=drawn).prev_sample
    for level in (2, 0, 3, 1):
        before, state = states[level]
        generator = torch.Generator()
        generator.set_state(state)
        got = steps.step(predictions[level], level, before, generator)
        assert torch.equal(got, states[level + 1][0] if level < 3 else expected)


# Laws


def test_what_comes_later_changes_nothing(rng, pipes):
    """In the window are chunks that came after: frames that have left it do not know of later ones."""
    pipe = pipes["magic-animate"]
    photo, masks = photo_of(rng)
    frames, others = frames_of(rng, 12, pipe.videos), frames_of(rng, 12, pipe.videos)
    with LiveAnimator(pipe, photo, masks, chunk=2, levels=2, window=6) as live:
        first, _ = pushed(live, frames, flush=False)
        live.reset()
        second, _ = pushed(live, frames[:8] + others[8:], flush=False)
    np.testing.assert_allclose(first[:6].astype(int), second[:6].astype(int), atol=1)
    assert np.abs(first[6:].astype(int) - second[6:]).max() > 2


def test_the_seed_repeats_it(rng, pipes):
    pipe, own = pipes["animate-anyone"], pipes["animate-anyone"].scheduler
    timesteps = own.timesteps.clone()
    photo, masks = photo_of(rng, 1)
    frames = frames_of(rng, 5, pipe.videos, 1)
    outs = []
    for seed in (1, 1, 2):
        with LiveAnimator(pipe, photo, masks, chunk=2, levels=2, seed=seed,
                          scheduler=LCMScheduler.from_config(own.config)) as live:  # fmt: skip
            outs.append(pushed(live, frames)[0])
            again = pushed(live, frames)[0]  # flush began anew
    assert np.abs(outs[0].astype(int) - outs[1]).max() <= 1
    assert np.abs(again.astype(int) - outs[2]).max() <= 1
    assert np.abs(outs[0].astype(int) - outs[2]).max() > 2
    assert pipe.scheduler is own
    assert torch.equal(own.timesteps, timesteps)


@pytest.mark.parametrize("count", [1, 2, 5, *slow(8)])
@pytest.mark.parametrize(("lag", "window"), [(None, None), (0, 2), (2, 8)])
def test_every_frame_comes_out_once_and_in_time(rng, pipes, count, lag, window):
    pipe = pipes["musepose"]
    photo, masks = photo_of(rng, 1)
    with LiveAnimator(pipe, photo, masks, chunk=2, levels=4, lag=lag, window=window) as live:
        out = 0
        for index, (pose, *rest) in enumerate(frames_of(rng, count, pipe.videos, 1)):
            frames = live.push(pose["pose"], *rest)
            full = index >= live.lag + 1 and index % 2
            assert (frames is not None) == bool(full)
            out += 0 if frames is None else len(frames)
        rest = live.flush()
        assert out + (0 if rest is None else len(rest)) == count
        assert live.flush() is None


def test_the_pipeline_is_left_as_it_was(rng, pipes):
    pipe = pipes["magic-animate"]
    photo, masks = photo_of(rng, 1)
    unet = pipe.unet
    before = {name: m.processor for name, m in unet.named_modules() if hasattr(m, "processor")}
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in unet.modules())
    live = LiveAnimator(pipe, photo, masks, chunk=2, levels=2)
    with pytest.raises(RuntimeError, match="the UNet belongs to a LiveAnimator"):
        unet(torch.randn(1, 4, 2, 8, 8), 5, torch.randn(2, 77, 32))
    with pytest.raises(ValueError, match="reads a calibrated reference already, of a LiveAnimator"):
        LiveAnimator(pipe, photo, masks, chunk=2, levels=2)
    pushed(live, frames_of(rng, 2, pipe.videos, 1))
    live.close()
    live.close()
    assert {name: m.processor for name, m in unet.named_modules() if hasattr(m, "processor")} == before
    assert sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in unet.modules()) == hooks
    with pytest.raises(RuntimeError, match="the LiveAnimator is closed"):
        live.push(None)


def test_an_empty_calibrated_mask_reads_the_photo(rng, pipes):
    pipe = pipes["animate-anyone"]
    photo, masks = photo_of(rng)
    frames = frames_of(rng, 2, pipe.videos)
    lost = [(pose, poses, images, np.stack([m[0], 0 * m[1]])) for pose, poses, images, m in frames]
    given = [
        (pose, poses, np.stack([images[0], photo]), np.stack([m[0], masks[1]])) for pose, poses, images, m in frames
    ]
    with LiveAnimator(pipe, photo, masks, chunk=2, levels=1) as live:
        got, expected, other = (pushed(live, x)[1][0] for x in (lost, given, frames))
    assert error(got, expected) < 1e-5
    assert error(got, other) > 1e-3


def test_a_failure_begins_anew(rng, pipes, monkeypatch):
    pipe = pipes["animate-anyone"]
    photo, masks = photo_of(rng, 1)
    frames = frames_of(rng, 6, pipe.videos, 1)
    with LiveAnimator(pipe, photo, masks, chunk=2, levels=2) as live:
        expected, _ = pushed(live, frames)
        for pose, *rest in frames[:2]:
            live.push(pose["pose"], *rest)
        step = live._steps.step
        monkeypatch.setattr(live._steps, "step", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        live.push(frames[2][0]["pose"], *frames[2][1:])
        with pytest.raises(KeyboardInterrupt):
            live.push(frames[3][0]["pose"], *frames[3][1:])
        monkeypatch.setattr(live._steps, "step", step)
        again, _ = pushed(live, frames)
    assert np.abs(again.astype(int) - expected).max() <= 1


def test_a_tiny_autoencoder(rng, pipes):
    pipe = pipes["animate-anyone"]
    torch.manual_seed(0)
    vae = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
                          num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4).eval()  # fmt: skip
    photo, masks = photo_of(rng, 1)
    frames = frames_of(rng, 4, pipe.videos, 1)
    with LiveAnimator(pipe, photo, masks, chunk=2, levels=2, vae=vae) as live:
        got, latents = pushed(live, frames)
    assert got.shape == (4, SIDE, SIDE, 3)
    with torch.no_grad():
        expected = vae.decode(torch.cat(latents)).sample
    expected = (expected.permute(0, 2, 3, 1) + 1) * 127.5
    assert (torch.from_numpy(got) - expected.clamp(0, 255)).abs().max() <= 0.51


@pytest.mark.parametrize("lag", [0, 2])
def test_a_calibrator_is_its_source(rng, pipes, lag):
    """What `Calibrator.step` gives goes in as it is, and is as if it were given piece by piece; padding is not read."""
    pipe, count = pipes["magic-animate"], 4
    image, mask, driving, keypoints, masks, _ = scene(rng, count + lag)
    known = [
        Detection(keypoints[f][None].astype(np.float32), np.ones((1, 17), np.float32), masks[f][None])
        for f in range(len(driving))
    ]
    options = dict(reference_keypoints=PERSON, reference_mask=mask, size=(SIDE, SIDE), lag=lag)
    with Calibrator(image, **options) as calibrator:
        with LiveAnimator(pipe, calibrator, chunk=2, levels=2) as live:
            out, frames = [], []
            for f in range(len(driving)):
                frame = calibrator.step(driving[f], f / 30, known[f])
                pose = picture(rng)
                if frame is not None:
                    frames.append((pose, frame))
                out.append(live.push(frame, pose=pose if frame is not None else None))
            out.append(live.flush())
            got = np.concatenate([x for x in out if x is not None])
            assert len(got) == count
            again = [live.push(pose, f.pose_mask, f.image, f.mask) for pose, f in frames] + [live.flush()]
            again = np.concatenate([x for x in again if x is not None])
            assert np.abs(got.astype(int) - again).max() <= 1
            assert calibrator.canvas.valid_mask().min() == 0
            live._calibrator = None
            padded = [live.push(pose, f.pose_mask, f.image, f.mask) for pose, f in frames] + [live.flush()]
            assert np.abs(got.astype(int) - np.concatenate([x for x in padded if x is not None])).max() > 1
            with pytest.raises(TypeError, match="must be left out with a CalibratedFrame"):
                live.push(frames[0][1], frames[0][1].pose_mask)


def test_floating_pictures_are_as_good(rng, pipes):
    pipe = pipes["animate-anyone"]
    photo, masks = photo_of(rng, 1)
    frames = frames_of(rng, 2, pipe.videos, 1)
    floats = [
        ({"pose": torch.from_numpy(pose["pose"]).permute(2, 0, 1) / 255}, torch.from_numpy(poses) > 0,
         images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1, m.astype(np.float32) / 255)
        for pose, poses, images, m in frames
    ]  # fmt: skip
    with LiveAnimator(pipe, photo, masks, chunk=2, levels=1) as live:
        got, expected = (pushed(live, x)[1][0] for x in (floats, frames))
    assert error(got, expected) < TOLERANCE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 0}, "chunk must be an integer of at least 1, but is 0"),
        ({"levels": True}, "levels must be an integer"),
        ({"lag": 3}, "lag must be one of 0, 4, 12 with a chunk of 4 frames and 4 levels, but is 3"),
        ({"lag": 8}, "lag must be one of 0, 4, 12"),
        ({"window": 12}, "window must be a multiple of 4 from 16"),
        ({"window": 18}, "window must be a multiple of 4 from 16"),
        ({"window": 40}, "window must be a multiple of 4 from 16, which are denoised at once, to 24"),
        ({"group_size": 3}, r"group_size must divide chunk \(4\)"),
        ({"mode": "last"}, "mode must be one of"),
        ({"output_type": "pil"}, "output_type must be one of np, pt"),
        ({"masks": None}, "masks must be .P, H, W., of a person at least"),
        ({"size": (60, 64)}, "size must be multiples of 8"),
        ({"scheduler": "pndm"}, "scheduler must be one of DDIMScheduler, LCMScheduler, TCDScheduler"),
    ],
)
def test_options_out_of_range(rng, pipes, options, message):
    from diffusers import PNDMScheduler

    pipe = pipes["magic-animate"]
    photo, masks = photo_of(rng, 1)
    options = {"masks": masks} | options
    if options.get("scheduler") == "pndm":
        options["scheduler"] = PNDMScheduler()
    with pytest.raises(ValueError, match=message):
        LiveAnimator(pipe, photo, **options)
    assert not any(m.processor.__class__.__name__.startswith("Reference") for m in pipe.unet.modules()
                   if hasattr(m, "processor"))  # fmt: skip


def test_other_models_are_refused(rng):
    photo, masks = photo_of(rng, 1)
    with pytest.raises(TypeError, match="must have a UNetMotionModel, but DreamPosePipeline has"):
        LiveAnimator(load_pipeline("tiny-random:dreampose"), photo, masks)
    with pytest.raises(ValueError, match="encoder must be given"):
        LiveAnimator(tiny.animatediff(), *photo_of(rng, 1, 32))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"pose_masks": None}, ValueError, "pose_masks must say where"),
        ({"pose_masks": np.zeros((1, 8, 8), np.uint8)}, ValueError, r"pose_masks must be \[1, 64, 64\]"),
        ({"masks": np.zeros((1, SIDE, SIDE), np.int64)}, TypeError, "masks must be uint8, bool or floating"),
        ({"calibrated": np.zeros((2, SIDE, SIDE, 3), np.uint8)}, ValueError, "calibrated must be uint8"),
        ({"calibrated": np.zeros((1, SIDE, SIDE, 3), np.int32)}, TypeError, "calibrated must be uint8 or floating"),
        ({"masks": np.full((1, SIDE, SIDE), np.nan)}, ValueError, "masks must be finite, but has NaN"),
        ({"calibrated": np.full((1, 3, SIDE, SIDE), np.inf)}, ValueError, "calibrated must be finite"),
        ({"frame": np.full((3, SIDE, SIDE), np.nan)}, ValueError, "pose must be finite"),
        ({"frame": None}, TypeError, "pose must be an array or a tensor, but is NoneType"),
        ({"frame": np.zeros((SIDE, SIDE), np.uint8)}, ValueError, "pose must be uint8"),
        ({"frame": {"depth": np.zeros((SIDE, SIDE, 3), np.uint8)}}, ValueError, "pose must have the pictures pose"),
        ({"pose": np.zeros((SIDE, SIDE, 3), np.uint8)}, TypeError, "pose must be left out without a CalibratedFrame"),
    ],
)
def test_a_frame_that_does_not_fit_leaves_the_stream_as_it_was(rng, pipes, changes, kind, message):
    pipe = pipes["musepose"]
    photo, masks = photo_of(rng, 1)
    good = frames_of(rng, 2, pipe.videos, 1)
    with LiveAnimator(pipe, photo, masks, chunk=2, levels=1) as live:
        expected, _ = pushed(live, good)
        live.push(good[0][0]["pose"], *good[0][1:])
        names = ("frame", "pose_masks", "calibrated", "masks")
        with pytest.raises(kind, match=message):
            live.push(**dict(zip(names, (good[1][0]["pose"], *good[1][1:]), strict=True)) | changes)
        got = live.push(good[1][0]["pose"], *good[1][1:])
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_frames_of_a_chunk_lie_on_one_canvas(rng, pipes):
    """A Calibrator that was reset takes videos of another size; where one ends, the stream ends."""
    pipe = pipes["animate-anyone"]
    photo, masks = photo_of(rng, 1)
    (pose, *rest), *_ = frames_of(rng, 1, pipe.videos, 1)
    with LiveAnimator(pipe, photo, masks, chunk=2, levels=1) as live:
        live._calibrator = types.SimpleNamespace(canvas=Canvas.fitting((64, 48), (SIDE, SIDE), "pad"))
        live.push(pose["pose"], *rest)
        live._calibrator.canvas = Canvas.fitting((48, 64), (SIDE, SIDE), "pad")
        with pytest.raises(ValueError, match="frame must lie on its canvas as those before it do"):
            live.push(pose["pose"], *rest)
        live.reset()
        assert live.push(pose["pose"], *rest) is None
        assert live.push(pose["pose"], *rest).shape == (2, SIDE, SIDE, 3)


def test_threads_take_turns(rng, pipes):
    """Pushes and resets of several threads; afterwards the stream is as new."""
    pipe = pipes["animate-anyone"]
    photo, masks = photo_of(rng, 1)
    frames, failed = frames_of(rng, 3, pipe.videos, 1), []
    with LiveAnimator(pipe, photo, masks, chunk=1, levels=2) as live:
        expected, _ = pushed(live, frames)

        def work(call):
            try:
                for pose, *rest in frames:
                    call(pose["pose"], *rest)
            except Exception as error:
                failed.append(error)

        threads = [
            threading.Thread(target=work, args=(call,)) for call in (live.push, live.push, lambda *_: live.reset())
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        live.reset()
        again, _ = pushed(live, frames)
    assert np.abs(again.astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_memory_is_flat(rng, pipes, monkeypatch):
    """The tensors that live, counted: what a process takes depends on all that ran in it before."""
    from tpc_fast.ops import attention

    for name in ("_SOURCES_KEPT", "_LISTS_KEPT"):  # bounds that are reached at once
        monkeypatch.setattr(attention, name, 2)
    pipe = pipes["magic-animate"]
    photo, masks = photo_of(rng)
    frames = frames_of(rng, 16, pipe.videos)
    alive = []
    with LiveAnimator(pipe, photo, masks, chunk=1, levels=2, window=3, mode="random") as live:
        for index in range(96):  # benchmarks/bench_live.py --memory: a thousand, by the memory of the process
            pose, *rest = frames[index % 16]
            live.push(pose["pose"], *rest)
            if index % 16 == 15:
                gc.collect()
                # By their types: `isinstance` wakes proxies, which make tensors.
                tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
                alive.append((len(tensors), sum(one.nbytes for one in tensors)))
                del tensors
    counts, sizes = zip(*alive[1:], strict=True)
    assert len(set(counts)) == 1, alive
    assert max(sizes) - min(sizes) < 1024, alive  # tables of a window are a few numbers longer or shorter
