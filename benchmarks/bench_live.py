"""`LiveAnimator` on a random model of medium size, CPU: where a push spends its time, beside a pipeline's calls.

    python benchmarks/bench_live.py [--size 256] [--chunk 4] [--levels 4] [--pushes 4] [--tiny-vae] [--kind KIND]

The model is that of `tiny-random:KIND` with 96 to 256 channels and 8 heads. "bookkeeping" is what is neither of the
UNet (with ControlNet and pose encoder), the autoencoder, nor the reference encoder: regions (also the lists that are
made inside the UNet's attention), ring, steps, copies. The peer
makes the same frames by the pipeline's own call, a chunk at a time, with as many steps: it encodes the photo again and
plans all regions again in every call. Without a lag both must give the same frames, which is checked first.

    python benchmarks/bench_live.py --memory 1000

pushes so many chunks of one frame through the tiny model and prints the resident memory after every tenth of them.
"""

import argparse
import collections
import contextlib
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]

from bench_attention import ellipses  # noqa: E402
from peak_memory import PeakMemory  # noqa: E402

from tpc_fast.diffusion import CalibratedReference, LiveAnimator, load_pipeline  # noqa: E402
from tpc_fast.diffusion.live.steps import generator_of  # noqa: E402
from tpc_fast.diffusion.models import tiny  # noqa: E402
from tpc_fast.ops.attention import RegionPlan  # noqa: E402

CHANNELS, HEADS = (96, 192, 256, 256), 8


def medium(kind: str):
    """The pipeline of a kind with more channels."""
    before = tiny.CHANNELS, tiny.HEADS, tiny.UNET
    tiny.CHANNELS, tiny.HEADS = CHANNELS, HEADS
    tiny.UNET = dict(tiny.UNET, block_out_channels=CHANNELS, attention_head_dim=HEADS)
    try:
        return load_pipeline(f"tiny-random:{kind}")
    finally:
        tiny.CHANNELS, tiny.HEADS, tiny.UNET = before


class Clock:
    """Seconds of CPU time by part; what runs inside another part counts there only."""

    def __init__(self):
        self.spent, self._stack = collections.Counter(), []

    @contextlib.contextmanager
    def part(self, name):
        started = time.process_time()
        self._stack.append(0.0)
        try:
            yield
        finally:
            passed = time.process_time() - started
            self.spent[name] += passed - self._stack.pop()
            if self._stack:
                self._stack[-1] += passed

    def wrap(self, owner, name, part):
        """Times a method from now on."""
        method = getattr(owner, name)

        def timed(*args, **kwargs):
            with self.part(part):
                return method(*args, **kwargs)

        setattr(owner, name, timed)


def frames_of(rng, count, size):
    """(pose, pose masks, calibrated images, masks) of frames of one person."""
    step = 512 // size
    masks = [np.ascontiguousarray(ellipses(rng, 1, count)[..., ::step, ::step]) for _ in range(2)]
    return [
        (rng.integers(0, 256, (size, size, 3), np.uint8), masks[0][:, i],
         rng.integers(0, 256, (1, size, size, 3), np.uint8), masks[1][:, i])
        for i in range(count)
    ]  # fmt: skip


def by_pipeline(pipe, photo, mask, frames, levels, seed_of):
    """A chunk as a user makes it without `LiveAnimator`: a CalibratedReference and a call."""
    adapter, middle = pipe.reference_adapter(), (len(frames) - 1) // 2
    both = adapter.prepare(np.concatenate([photo[None], frames[middle][2]]), np.concatenate([mask, frames[middle][3]]))
    reference = CalibratedReference(
        both[:1], both[1:][:, None], torch.from_numpy(np.stack([frame[1] for frame in frames], 1)),
        torch.from_numpy(frames[middle][3][:, None]), torch.from_numpy(mask), candidates=[middle],
        extras=adapter.photo(photo, mask),
    )  # fmt: skip
    return pipe(
        reference, np.stack([frame[0] for frame in frames]), num_inference_steps=levels, guidance_scale=1.0,
        mode="nearest", group_size=len(frames), generator=generator_of(0, seed_of),
    ).frames  # fmt: skip


def measure(options) -> None:
    torch.set_num_threads(1)
    pipe, rng = medium(options.kind), np.random.default_rng(0)
    size, chunk, levels = options.size, options.chunk, options.levels
    vae = None
    if options.tiny_vae:
        from diffusers import AutoencoderTiny

        vae = AutoencoderTiny().eval()
    photo, mask = rng.integers(0, 256, (size, size, 3), np.uint8), frames_of(rng, 1, size)[0][1]
    frames = frames_of(rng, chunk, size)
    # No speed without correctness.
    theirs = by_pipeline(pipe, photo, mask, frames, levels, 0)
    with LiveAnimator(pipe, photo, mask, chunk=chunk, levels=levels, lag=0) as live:
        ours = [live.push(*frame) for frame in frames][-1]
    print(f"{options.kind}, chunks of {chunk} frames {size} x {size}, {levels} levels, one thread, CPU time")
    print(f"largest difference from the pipeline without a lag: {np.abs(ours.astype(int) - theirs).max()} of 255")

    clock, started = Clock(), time.process_time()
    live = LiveAnimator(pipe, photo, mask, chunk=chunk, levels=levels, vae=vae)
    made = time.process_time() - started
    for owner, name, part in (
        (pipe.unet, "forward", "UNet"), (live._vae, "decode", "decode"), (live._vae, "encode", "VAE encode"),
        (live._bank, "write", "reference encoder"), (live._model, "follow", "pose encoder"),
        (getattr(pipe, "controlnet", torch.nn.Module()), "forward", "ControlNet"),
    ):  # fmt: skip
        clock.wrap(owner, name, part)
    for name in ("write", "select"):
        clock.wrap(live._regions, name, "regions")
    for name in ("row_lists", "key_list"):
        clock.wrap(RegionPlan, name, "regions")
    firsts = 0.0
    for _ in range(levels):  # until the window is full
        for frame in frames_of(rng, chunk, size):
            started = time.process_time()
            live.push(*frame)
            firsts += time.process_time() - started
    clock.spent.clear()
    pushes = []
    for _ in range(options.pushes):
        given, started = frames_of(rng, chunk, size), time.process_time()
        for frame in given:
            live.push(*frame)
        pushes.append(time.process_time() - started)
    total, parts = sum(pushes), clock.spent.copy()
    with PeakMemory() as memory:  # which takes time itself
        for frame in frames_of(rng, chunk, size):
            live.push(*frame)
    live.close()
    model = ("UNet", "decode", "VAE encode", "reference encoder", "pose encoder", "ControlNet")
    book = total - sum(parts[name] for name in model)
    shares = ", ".join(f"{name} {100 * parts[name] / total:.2f} %" for name in model if parts[name])
    print(f"a push of a chunk: {min(pushes):.2f} s, {min(pushes) / chunk:.3f} s a frame: {shares}")
    print(f"  bookkeeping {100 * book / total:.2f} %, of which regions {100 * parts['regions'] / total:.2f} %")
    print(f"first frame: {made:.2f} s for the photo, then {firsts:.2f} s in {levels} pushes")
    print(f"tensors that a push makes: {memory.peak / 2**20:.0f} MiB at most")

    peer = []
    for number in range(max(1, options.pushes // 2)):
        given, started = frames_of(rng, chunk, size), time.process_time()
        by_pipeline(pipe, photo, mask, given, levels, number)
        peer.append(time.process_time() - started)
    print(f"the pipeline called chunk by chunk: {min(peer):.2f} s; live takes {min(pushes) / min(peer):.2f} of that")


def run_memory(options) -> None:
    import psutil

    pipe, rng, size = load_pipeline(f"tiny-random:{options.kind}"), np.random.default_rng(0), 64
    frames = frames_of(rng, 16, size)
    with LiveAnimator(pipe, frames[0][0], frames[0][1], chunk=1, levels=2, window=3) as live:
        for index in range(options.memory):
            live.push(*frames[index % 16])
            if (index + 1) % max(1, options.memory // 10) == 0:
                print(f"{index + 1} chunks: {psutil.Process().memory_info().rss / 2**20:.1f} MiB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="animate-anyone", choices=("animate-anyone", "magic-animate", "musepose"))
    for name, default in (("size", 256), ("chunk", 4), ("levels", 4), ("pushes", 4), ("memory", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tiny-vae", action="store_true")
    options = parser.parse_args()
    run_memory(options) if options.memory else measure(options)
