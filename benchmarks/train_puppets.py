"""Trains the puppets: `python benchmarks/train_puppets.py FOLDER`; the same command goes on where it was.

Two stages, one after the other. First single frames: the UNet that encodes the photo and makes frames of it. Then
clips: the motion modules between its layers, which stay as they are. `--export FOLDER` writes the weights of both, as
the package has them, once the second stage has begun.

# Frames

Seen of the photo is what counts, so two figures are written again and again: PSNR inside the figure's mask of what the
model makes of noise alone, with the right photo and with that of another figure. A model that does not read the photo
has no gap between them.

What makes a small model read it, each of which the first trial lacked:

- one UNet for both, so that features of the photo and of the frame match from the first step;
- self-attention that starts as a comparison: keys as queries, and output as the transposed values, so that each token
  begins by adding what alike tokens carry, wherever they are;
- positions among the inputs of both;
- colours that nothing but the photo tells, the background's too, which is the easiest to find;
- easy pairs first: the same pose and place, then more and more different;
- x0-prediction, half of it from noise alone: nothing can be read from the noisy frame instead.

# Clips

Motion modules begin as nothing: their last layers are zero. They learn what single frames cannot know: that errors of
neighbouring frames should be alike. So a part of the loss is the error of the differences between frames; photos of a
clip jitter, as calibrations of noisy keypoints do; and frames stand at one noise level, as in a video, or at several,
as in the window of `LiveAnimator`. What stands below the noise is mostly what the model itself makes of noise alone, as
when it runs: single frames were trained on the truth there, and follow the noise as if it were detail (20.2 dB in one
step, 19.3 in ten).
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional as F

from tpc_fast.diffusion.encoder import ReferenceEncoder
from tpc_fast.diffusion.live.predict import FrameTimes
from tpc_fast.diffusion.models.puppet_figures import draw_clips, draw_pairs
from tpc_fast.diffusion.models.puppets import (
    MOTION_WEIGHTS,
    SIZE,
    UNET,
    WEIGHTS,
    PatchTransform,
    as_seen,
    motion_unet,
    no_text,
    puppets_scheduler,
    with_positions,
)

CHECK = 12  # figures that the gap is measured on
CHECK_CLIPS, CHECK_FRAMES = 6, 8  # that differences between frames are measured on
LENGTHS = (8, 16, 8, 4, 8, 16, 8, 1)  # of clips, one step after the other; a batch has `--frames` frames of them
OWN = 0.8  # share of batches with noise over the model's own frames, where it is not noise alone
DIFFERENCES = 0.5  # weight of errors of differences between frames, beside 1 of frames
LEVELS = (2, 4, 8)  # noise levels of a window
MASK_WEIGHT = 3.0  # of the figure's pixels, beside 1 of all
EMA, WARM = 0.998, 40  # the average's decay; steps in which the rate grows


class Reading:
    """An attention processor that appends features of photos to keys and values, as the library's does, for training.

    Each photo serves as many rows of the batch as follow each other.
    """

    def __init__(self):
        self.bank = None

    def __call__(self, attn, hidden_states, *args, **kwargs):
        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        if self.bank is not None:
            rows = len(hidden_states) // len(self.bank)
            k = torch.cat([k, attn.to_k(self.bank).repeat_interleave(rows, 0)], 1)
            v = torch.cat([v, attn.to_v(self.bank).repeat_interleave(rows, 0)], 1)
        q, k, v = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return attn.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Trainee:
    """The UNet with its encoder, as it is trained.

    Args:
        seed: of the weights.
        alike: the gain of queries and keys that start alike; 0: as diffusers starts them.
        bfloat16: whether the UNet multiplies in it.
    """

    def __init__(self, seed: int = 0, alike: float = 0.7, bfloat16: bool = False):
        self.bfloat16, self.signal = bfloat16, puppets_scheduler().alphas_cumprod.float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.unet = UNet2DConditionModel(**UNET)
            if alike:
                start_alike(self.unet, alike)
        self.encoder = ReferenceEncoder(self.unet, "full")
        self.transform = PatchTransform()
        self.readers = {name: Reading() for name in self.encoder.names}
        for name, reader in self.readers.items():
            self.unet.get_submodule(name).set_processor(reader)

    def latents(self, pictures: np.ndarray) -> torch.Tensor:
        """Of pictures [n, 3, H, W] in [0, 1]."""
        return self.transform.encode(torch.from_numpy(pictures) * 2 - 1).latents

    def __call__(self, noisy, t, pose, photo) -> torch.Tensor:
        """What is seen without noise, [n, C, h, w]; photo: latents of one for some rows each, or None."""
        text = no_text().expand(len(noisy), -1, -1)
        noisy = as_seen(noisy, self.signal[t].reshape(-1, 1, 1, 1))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            bank = {} if photo is None else self.encoder(with_positions(photo), 0, no_text())
            for name, reader in self.readers.items():
                reader.bank = bank.get(name)
            found = self.unet(with_positions(noisy, pose), t, encoder_hidden_states=text, return_dict=False)[0]
        return found.float()


def start_alike(unet, gain: float) -> None:
    """Self-attention that begins as a comparison of tokens."""
    for name, module in unet.named_modules():
        if name.endswith(".attn1"):
            torch.nn.init.orthogonal_(module.to_q.weight, gain)
            module.to_k.weight.data.copy_(module.to_q.weight.data)
            torch.nn.init.orthogonal_(module.to_v.weight)
            module.to_out[0].weight.data.copy_(module.to_v.weight.data.T)
            torch.nn.init.zeros_(module.to_out[0].bias)


class Task:
    """Pictures, noise and loss."""

    def __init__(self, trainee: Trainee, figures: int, targets: int):
        self.trainee, self.figures, self.targets = trainee, figures, targets
        self.signal = trainee.signal

    def loss(self, rng: np.random.Generator, difference: float, alone: float = 0.5, without: bool = False):
        """Of one batch, a tensor; alone: which part is of noise alone; without: the photo is not shown."""
        pairs = draw_pairs(rng, self.figures, self.targets, (SIZE, SIZE), difference)
        last, count = len(self.signal) - 1, len(pairs.target)
        t = np.where(rng.random(count) < alone, last, (last * rng.random(count) ** 0.5).astype(int))
        clean, pose = self.trainee.latents(pairs.target), self.trainee.transform.encode(torch.from_numpy(pairs.pose))
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        signal = self.signal[t][:, None, None, None]
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        photo = None if without else self.trainee.latents(pairs.reference)
        found = self.trainee(noisy, torch.from_numpy(t), pose.latents, photo)
        weight = 1 + MASK_WEIGHT * torch.from_numpy(pairs.mask)[:, None]
        error = self.trainee.transform.decode(found - clean).sample  # in pixels: the transform is orthonormal
        return (weight * error**2).sum() / (3 * weight.sum())

    @torch.no_grad()
    def gap(self, difference: float) -> tuple[float, float]:
        """PSNR in dB inside the mask, of noise alone: with the right photo, and with another figure's."""
        rng = np.random.default_rng(2026)
        pairs = draw_pairs(rng, CHECK, 1, (SIZE, SIZE), difference)
        pose = self.trainee.transform.encode(torch.from_numpy(pairs.pose)).latents
        noise = torch.from_numpy(rng.standard_normal(pose.shape, np.float32))
        t, photo = torch.full((CHECK,), len(self.signal) - 1), self.trainee.latents(pairs.reference)
        return tuple(
            psnr(self.trainee.transform.decode(self.trainee(noise, t, pose, photo.roll(by, 0))).sample, pairs)
            for by in (0, 1)
        )


def psnr(pixels: torch.Tensor, pairs) -> float:
    """Mean over pictures, dB, inside the mask; pixels in [-1, 1]."""
    error = ((pixels.numpy() / 2 + 0.5).clip(0, 1) - pairs.target) ** 2
    mse = (error * pairs.mask[:, None]).sum((1, 2, 3)) / (3 * pairs.mask.sum((1, 2)))
    return float((-10 * np.log10(mse)).mean())


class Average:
    """Weights averaged over steps."""

    def __init__(self, parameters):
        self.parameters = list(parameters)
        self.kept = [parameter.detach().clone() for parameter in self.parameters]

    def update(self, step: int) -> None:
        torch._foreach_lerp_(self.kept, [p.detach() for p in self.parameters], 1 - min(EMA, (1 + step) / (10 + step)))

    def swap(self) -> None:
        """Exchanges the average and the weights."""
        for parameter, kept in zip(self.parameters, self.kept, strict=True):
            held = parameter.detach().clone()
            parameter.data.copy_(kept)
            kept.copy_(held)


class MotionTrainee:
    """Motion modules in a UNet that stays as it is, and its encoder.

    Args:
        spatial: the weights of the first stage.
        seed: of the motion modules.
        bfloat16: whether the UNet multiplies in it.
    """

    def __init__(self, spatial: dict, seed: int = 0, bfloat16: bool = False):
        self.bfloat16, self.signal = bfloat16, puppets_scheduler().alphas_cumprod.float()
        self.transform, frames = PatchTransform(), UNet2DConditionModel(**UNET)
        frames.load_state_dict(spatial)
        self.encoder = ReferenceEncoder(frames.requires_grad_(False), "full")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.unet = motion_unet(frames)
        self.unet.freeze_unet2d_params()
        self.times = FrameTimes(self.unet)
        self.readers = {name: Reading() for name in self.encoder.names}
        for name, reader in self.readers.items():
            self.unet.get_submodule(name).set_processor(reader)
        self.parameters = {name: value for name, value in self.unet.named_parameters() if value.requires_grad}

    latents = Trainee.latents

    def __call__(self, noisy, times, pose, photos) -> torch.Tensor:
        """What is seen without noise, [R * T, C, h, w], of as many noisy latents, at timesteps [T] of each clip."""
        count, text = len(noisy) // len(times), no_text().expand(len(noisy), -1, -1)
        seen = with_positions(as_seen(noisy, self.signal[times].repeat(count).reshape(-1, 1, 1, 1)), pose)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            with torch.no_grad():
                bank = self.encoder(with_positions(photos), 0, no_text())
            for name, reader in self.readers.items():
                reader.bank = bank[name]
            clips = seen.unflatten(0, (count, len(times))).transpose(1, 2)
            found = self.unet(clips, times, encoder_hidden_states=text, return_dict=False)[0]
        return found.float().transpose(1, 2).flatten(0, 1)


class MotionTask:
    """Clips, noise and loss."""

    def __init__(self, trainee: MotionTrainee, frames: int):
        self.trainee, self.frames, self.signal = trainee, frames, trainee.signal

    def loss(self, rng: np.random.Generator, length: int):
        """Of one batch of clips of a length, a tensor."""
        photos = int(rng.choice([n for n in (1, 2, 4, 8, 16) if n <= length]))
        pairs = draw_clips(rng, self.frames // length, length, photos, (SIZE, SIZE))
        times, shared, own = self._times(rng, length), rng.random() < 0.5, rng.random() < OWN
        found, clean = self._predict(rng, pairs, times, shared, own)
        error = self.trainee.transform.decode(found - clean).sample
        weight = 1 + MASK_WEIGHT * torch.from_numpy(pairs.mask)[:, None]
        loss = (weight * error**2).sum() / (3 * weight.sum())
        if length == 1:
            return loss
        clips, weight = (x.unflatten(0, (-1, length)) for x in (error, weight))
        change, weight = clips.diff(dim=1), torch.maximum(weight[:, 1:], weight[:, :-1])
        return loss + DIFFERENCES * (weight * change**2).sum() / (3 * weight.sum())

    def _times(self, rng, length: int) -> torch.Tensor:
        """Of the frames of a clip: noise alone, one level, or those of a window of a stream, the oldest done most."""
        last, kind = len(self.signal) - 1, rng.random()
        if kind < 0.25:
            return torch.full((length,), last)
        if kind < 0.5 or length == 1:
            return torch.full((length,), int(last * rng.random() ** 0.5))
        levels = int(rng.choice([n for n in LEVELS if n <= length]))
        chunks = int(rng.choice([n for n in (1, *LEVELS) if n <= levels]))
        done = chunks - 1 - np.arange(length) // (length // chunks) + rng.integers(0, levels - chunks + 1)
        return torch.from_numpy(np.rint((last + 1) * (1 - done / levels)).astype(int) - 1)

    def _predict(self, rng, pairs, times, shared: bool, own: bool):
        """(prediction, truth), latents: of noise that frames share or not, over the model's own frames or the truth."""
        clean = self.trainee.latents(pairs.target)
        pose = self.trainee.transform.encode(torch.from_numpy(pairs.pose)).latents
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        if shared:  # by the frames of a clip
            noise = noise.unflatten(0, (-1, len(times)))[:, :1].expand(-1, len(times), -1, -1, -1).flatten(0, 1)
        signal = self.signal[times].repeat(len(clean) // len(times)).reshape(-1, 1, 1, 1)
        photos, below = self.trainee.latents(pairs.reference), clean
        if own and signal.any():
            with torch.no_grad():
                below = self.trainee(noise, torch.full_like(times, len(self.signal) - 1), pose, photos)
        noisy = signal.sqrt() * below + (1 - signal).sqrt() * noise
        return self.trainee(noisy, times, pose, photos), clean

    @torch.no_grad()
    def check(self) -> dict:
        """PSNR in dB, and the error of differences between frames in grey levels, both inside the mask.

        Of noise alone, and of frames at four levels of it, each with a photo of its own.
        """
        found, length = {}, CHECK_FRAMES
        stairs = 999 - 250 * (3 - torch.arange(length) // (length // 4))
        for name, times in (("alone", torch.full((length,), 999)), ("window", stairs)):
            rng = np.random.default_rng(2027)
            pairs = draw_clips(rng, CHECK_CLIPS, length, length, (SIZE, SIZE))
            latents, clean = self._predict(rng, pairs, times, False, True)
            pixels, error = (self.trainee.transform.decode(x).sample for x in (latents, latents - clean))
            change = 127.5 * error.unflatten(0, (-1, length)).diff(dim=1)
            mask = torch.from_numpy(pairs.mask).unflatten(0, (-1, length))
            mask = torch.maximum(mask[:, 1:], mask[:, :-1])[:, :, None]
            flicker = ((mask * change**2).sum() / (3 * mask.sum())) ** 0.5
            found[name] = [round(psnr(pixels, pairs), 2), round(float(flicker), 2)]
        return found


def difference_at(step: int, options) -> float:
    """How different pairs may be."""
    return float(np.clip((step - options.easy) / options.ramp, 0, 1))


def rate_at(step: int, steps: int, most: float) -> float:
    """The learning rate: up, even, and down along a cosine in the last half."""
    part = np.clip((step / steps - 0.5) * 2, 0, 1)
    return float(most * min(1, (step + 1) / WARM) * (0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * part))))


class Run:
    """Steps of one stage, with checkpoints; `options.minutes` are those of all stages together."""

    def __init__(self, name: str, parameters: dict, options, started: float, most: float):
        self.kept, self.curve = options.folder / f"{name}.pt", options.folder / f"{name}.jsonl"
        self.parameters, self.options, self.started = parameters, options, started
        self.optimizer = torch.optim.AdamW(parameters.values(), most, (0.9, 0.99), weight_decay=0.01)
        self.average, self.first = Average(parameters.values()), 0
        if self.kept.exists():
            state = torch.load(self.kept, weights_only=True)
            for parameter, kept in zip(parameters.values(), state["weights"], strict=True):
                parameter.data.copy_(kept)
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.kept, self.first = state["average"], state["step"]
        count = sum(value.numel() for value in parameters.values()) / 1e6
        print(f"{name}: {count:.2f} million parameters, from step {self.first}", flush=True)

    def go(self, steps: int, loss, rate, check) -> bool:
        """Until all steps are done, or the time is over; returns whether they are done.

        Args:
            loss: of a step and its random generator; rate: of a step; check: a dict of numbers for the curve.
        """
        losses = []
        for step in range(self.first, steps):
            rng = np.random.default_rng((self.options.seed, step))  # a run that goes on sees what it would have seen
            for group in self.optimizer.param_groups:
                group["lr"] = rate(step)
            value = loss(step, rng)
            self.optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
            self.optimizer.step()
            self.average.update(step)
            losses.append(value.item())
            minutes = (time.monotonic() - self.started) / 60
            over = minutes > self.options.minutes
            if (step + 1) % self.options.every == 0 or over or step + 1 == steps:
                self._keep(step + 1, check, {"minutes": round(minutes, 2), "loss": round(float(np.mean(losses)), 4)})
                losses = []
            if over:
                return step + 1 == steps
        return True

    def _keep(self, step, check, line):
        self.average.swap()
        line = {"step": step} | line | check(step)
        self.average.swap()
        print(json.dumps(line), flush=True)
        with open(self.curve, "a") as file:
            file.write(json.dumps(line) + "\n")
        weights = [value.detach() for value in self.parameters.values()]
        state = {"weights": weights, "optimizer": self.optimizer.state_dict(), "average": self.average.kept}
        torch.save(state | {"step": step}, self.kept.with_suffix(".new"))
        os.replace(self.kept.with_suffix(".new"), self.kept)


def train(options) -> None:
    """Both stages, until all steps are done or `options.minutes` have passed."""
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    if options.frames_from is not None or train_frames(options, started):
        train_motion(options, started)


def train_frames(options, started: float) -> bool:
    """The first stage; returns whether it is done."""
    trainee = Trainee(options.seed, options.alike, options.bfloat16)
    task = Task(trainee, options.figures, options.targets)

    def loss(step, rng):
        without = step >= options.alone and step % 20 == 19
        return task.loss(rng, difference_at(step, options), 1.0 if step < options.alone else 0.5, without)

    def check(step):
        gaps = {"easy": task.gap(0.2), "hard": task.gap(1.0)}
        found = {name: [round(x, 2) for x in gap] for name, gap in gaps.items()}
        return {"difference": round(difference_at(step, options), 2)} | found

    def rate(step):
        return rate_at(step, options.steps, options.rate)

    run = Run("frames", dict(trainee.unet.named_parameters()), options, started, options.rate)
    return run.go(options.steps, loss, rate, check)


def frames_weights(options) -> dict:
    """What the second stage begins with: the averaged weights of the first in half precision, as they are exported."""
    if options.frames_from is not None:
        from safetensors.torch import load_file

        return load_file(options.frames_from)
    kept = torch.load(options.folder / "frames.pt", weights_only=True)["average"]
    names = [name for name, _ in UNet2DConditionModel(**UNET).named_parameters()]
    return {name: value.half() for name, value in zip(names, kept, strict=True)}


def train_motion(options, started: float) -> bool:
    """The second stage; returns whether it is done."""
    trainee = MotionTrainee(frames_weights(options), options.seed, options.bfloat16)
    task = MotionTask(trainee, options.frames)
    run = Run("motion", trainee.parameters, options, started, options.motion_rate)

    def loss(step, rng):
        return task.loss(rng, LENGTHS[step % len(LENGTHS)])

    def rate(step):
        return rate_at(step, options.motion_steps, options.motion_rate)

    return run.go(options.motion_steps, loss, rate, lambda step: task.check())


def export(options) -> None:
    """Writes the averaged weights in half precision, two files into a folder."""
    from safetensors.torch import save_file

    frames, kept = frames_weights(options), torch.load(options.folder / "motion.pt", weights_only=True)
    trainee = MotionTrainee(frames, options.seed)
    for parameter, value in zip(trainee.parameters.values(), kept["average"], strict=True):
        parameter.data.copy_(value)
    state = trainee.unet.state_dict()
    # The parameters, and the table of positions, which is no parameter.
    motion = {name: value.half().contiguous() for name, value in state.items() if "motion_modules" in name}
    options.export.mkdir(exist_ok=True)
    for path, weights in ((WEIGHTS, frames), (MOTION_WEIGHTS, motion)):
        file = options.export / path.name
        save_file(weights, file)
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
    print(f"motion: step {kept['step']}")


def parse(arguments=None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of checkpoints and curves")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="only write the weights in half precision")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop then, with a checkpoint")
    parser.add_argument("--every", type=int, default=100, help="steps between two checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true", help="multiply in bfloat16: faster where the CPU can")
    frames = parser.add_argument_group("frames, the first stage")
    frames.add_argument("--frames-from", type=Path, metavar="FILE", help="weights of the first stage, in its place")
    frames.add_argument("--steps", type=int, default=5000)
    frames.add_argument("--figures", type=int, default=4, help="photos of a batch")
    frames.add_argument("--targets", type=int, default=3, help="frames of each")
    frames.add_argument("--rate", type=float, default=1.5e-3)
    frames.add_argument("--easy", type=int, default=150, help="steps with pairs that are all but the same")
    frames.add_argument("--ramp", type=int, default=600, help="steps in which they become different")
    frames.add_argument("--alone", type=int, default=1000, help="steps from noise alone, before all levels of it")
    frames.add_argument("--alike", type=float, default=0.7)
    motion = parser.add_argument_group("clips, the second stage")
    motion.add_argument("--motion-steps", type=int, default=1200)
    motion.add_argument("--motion-rate", type=float, default=2e-3)
    motion.add_argument("--frames", type=int, default=16, help="of a batch")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parse()
    export(options) if options.export else train(options)
