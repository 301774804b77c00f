"""A step with calibrated references waits for the device no more than the UNet does, so that it can be captured."""

import collections

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import tiny  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from tpc_fast.diffusion.attach import apply_calibration  # noqa: E402
from tpc_fast.diffusion.encoder import ReferenceEncoder  # noqa: E402

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
WAITS = ("_local_scalar_dense", "equal", "nonzero", "is_nonzero")  # what reads a tensor's values on the host
FRAMES = 6


class Waits(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[1].split(".")[0]
        if name in WAITS:
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def waits(call):
    with torch.no_grad(), Waits() as counted:
        call()
    return counted.seen


@pytest.mark.parametrize("make", [tiny.animatediff, tiny.stable_diffusion])
def test_a_step_waits_no_more_than_the_unet(rng, make):
    pipe = make()
    pipe.scheduler.set_timesteps(4)
    video = make is tiny.animatediff
    reference, prompts = tiny.calibrated_reference(rng, 2), tiny.embeddings()
    size = reference.latent.shape[-2:]
    sample = torch.randn((2, 4, FRAMES, *size) if video else (2 * FRAMES, 4, *size))
    text = torch.cat([prompts["negative_prompt_embeds"], prompts["prompt_embeds"]]).repeat_interleave(FRAMES, 0)

    def step(i):
        pipe.unet(sample, pipe.scheduler.timesteps[i], encoder_hidden_states=text)

    plain = waits(lambda: step(1))
    state = apply_calibration(pipe, reference, ReferenceEncoder(tiny.unet2d(1)), mode="first")
    pipe._guidance_scale = 7.5  # which pipelines know of from a call
    with torch.no_grad():
        step(0)
    assert waits(lambda: step(1)) == plain
    assert waits(lambda: step(2)) == plain
    assert state.step == 2


def test_timesteps_are_read_once_a_run(rng):
    pipe = tiny.animatediff()
    state = apply_calibration(pipe, tiny.calibrated_reference(rng, 1), ReferenceEncoder(tiny.unet2d(1)))
    timesteps = torch.tensor([901, 601, 301])
    state._run = timesteps
    assert [state._value_of(t) for t in timesteps] == [901, 601, 301]
    assert not waits(lambda: [state._value_of(t) for t in timesteps])
    timesteps[1] = 555  # another value in the same place is read again
    assert state._value_of(timesteps[1]) == 555
    assert state._value_of(torch.tensor([7, 8])) == 7  # of somebody else
    assert state._value_of(torch.tensor(7.5)) == 7.5
    assert state._value_of(3) == 3
    with torch.inference_mode():
        inside = torch.tensor([5, 4])
        state._run = inside
        assert [state._value_of(t) for t in inside] == [5, 4]
        inside[0] = 6
        assert state._value_of(inside[0]) == 6


def test_prompts_are_compared_once(rng):
    pipe = tiny.stable_diffusion()
    state = apply_calibration(pipe, tiny.calibrated_reference(rng, 1), ReferenceEncoder(tiny.unet2d(1)))
    state._cond, state._videos = slice(FRAMES, 2 * FRAMES), 0
    text = torch.randn(2, 5, 8).repeat_interleave(FRAMES, 0)
    assert waits(lambda: state._conditional(text))
    assert not waits(lambda: state._conditional(text))
    text[-1, 0, 0] += 1
    with pytest.raises(ValueError, match="prompts of a batch must be the same"):
        state._conditional(text)


def test_what_a_call_reads_is_uploaded_once(rng, monkeypatch):
    from test_reference_attention import problem

    _, selection, _, _ = problem(rng, persons=2, frames=6, group=3)
    first = selection.tables(12, (6, 12), 32)
    again = selection.plan.select(selection.frames, selection.candidates, selection.rows)
    monkeypatch.setattr(torch, "from_numpy", lambda array: pytest.fail("uploaded again"))
    for a, b in zip(first, again.tables(12, (6, 12), 32), strict=True):
        assert a is b
    monkeypatch.undo()
    other = selection.plan.select(selection.frames, selection.candidates, selection.rows + 1)
    assert not np.array_equal(other.tables(12, (6, 12), 32)[2], first[2])


def test_lists_do_not_grow_with_steps(rng):
    """Every step draws other images, which the same frames share."""
    pipe = tiny.animatediff()
    state = apply_calibration(
        pipe, tiny.calibrated_reference(rng, 2, FRAMES), ReferenceEncoder(tiny.unet2d(1)), group_size=3
    )
    kept = []
    for steps in (2, 8):
        pipe(
            num_frames=FRAMES, height=32, width=32, num_inference_steps=steps, output_type="latent", **tiny.embeddings()
        )
        kept.append({grid: len(regions._row_lists) for grid, regions in state._regions.items()})
    assert kept[0] == kept[1]
    assert set(kept[0].values()) == {1}


def test_lists_of_a_call_are_made_once_for_all_layers(rng, monkeypatch):
    from test_reference_attention import problem

    from tpc_fast.ops import attention

    tensors, selection, cond, _ = problem(rng, persons=2, frames=6, group=3)
    tensors = [torch.from_numpy(tensor) for tensor in tensors]
    first = attention.reference_attention(*tensors, selection, cond)
    monkeypatch.setattr(type(selection.plan), "row_lists", lambda *_: pytest.fail("made again"))
    torch.testing.assert_close(attention.reference_attention(*tensors, selection, cond), first)


def test_no_more_lists_are_kept_than_windows_need(rng, monkeypatch):
    from test_reference_attention import problem

    from tpc_fast.ops import attention

    monkeypatch.setattr(attention, "_LISTS_KEPT", 3)
    _, selection, _, _ = problem(rng, persons=2, frames=6, group=3)
    plan = selection.plan
    for frame in range(6):
        plan.row_lists(np.array([frame]), np.ones((3, 1), np.int64))
        plan.tiles(np.array([frame]), 1, (0, 1), 32)
    assert len(plan._row_lists) == len(plan._tiles) == 3


@pytest.mark.parametrize("make", [tiny.animatediff, tiny.stable_diffusion])
def test_masks_are_pooled_once_for_all_grids(rng, monkeypatch, make):
    """And as each grid would have it alone."""
    from tpc_fast.ops import attention

    read, init = [], attention._Coverage.__init__

    def counted(self, masks, grid):
        read.append(masks)
        init(self, masks, grid)

    pipe, reference = make(), tiny.calibrated_reference(rng, 2, FRAMES)
    state = apply_calibration(pipe, reference, ReferenceEncoder(tiny.unet2d(1), "full"), blocks="full")
    monkeypatch.setattr(attention._Coverage, "__init__", counted)
    frames = {"num_frames": FRAMES} if make is tiny.animatediff else {"num_images_per_prompt": FRAMES}
    pipe(height=32, width=32, num_inference_steps=2, output_type="latent", **frames, **tiny.embeddings())
    monkeypatch.undo()
    assert len(read) == 3  # poses, calibrated images, photo
    grids = {grid for grid, _ in state._regions}
    assert {(8, 8), (4, 4)} <= grids
    for (grid, _), plan in state._regions.items():
        alone = attention.RegionPlan(reference.pose_masks, reference.calibrated_masks, reference.reference_masks, grid)
        for name in ("classes", "keys", "background_keys"):
            assert torch.equal(getattr(plan, name), getattr(alone, name))
