"""Trains the puppets: `python benchmarks/train_puppets.py FOLDER`; the same command goes on where it was.

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
from tpc_fast.diffusion.models.puppet_figures import draw_pairs
from tpc_fast.diffusion.models.puppets import (
    SIZE,
    UNET,
    PatchTransform,
    as_seen,
    no_text,
    puppets_scheduler,
    with_positions,
)

CHECK = 12  # figures that the gap is measured on
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


def difference_at(step: int, options) -> float:
    """How different pairs may be."""
    return float(np.clip((step - options.easy) / options.ramp, 0, 1))


def rate_at(step: int, options) -> float:
    """The learning rate: up, even, and down along a cosine in the last half."""
    part = np.clip((step / options.steps - 0.5) * 2, 0, 1)
    return float(options.rate * min(1, (step + 1) / WARM) * (0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * part))))


def train(options) -> None:
    """Until `options.steps` are done or `options.minutes` have passed."""
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    started, kept = time.monotonic(), options.folder / "checkpoint.pt"
    trainee = Trainee(options.seed, options.alike, options.bfloat16)
    task, parameters = Task(trainee, options.figures, options.targets), list(trainee.unet.parameters())
    average = Average(parameters)
    optimizer = torch.optim.AdamW(parameters, options.rate, (0.9, 0.99), weight_decay=0.01)
    first = 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        trainee.unet.load_state_dict(state["unet"])
        optimizer.load_state_dict(state["optimizer"])
        average.kept = state["average"]
        first = state["step"]
    print(f"{sum(p.numel() for p in parameters) / 1e6:.2f} million parameters, from step {first}", flush=True)

    def keep(step):
        state = {"unet": trainee.unet.state_dict(), "optimizer": optimizer.state_dict(), "average": average.kept}
        torch.save(state | {"step": step}, kept.with_suffix(".new"))
        os.replace(kept.with_suffix(".new"), kept)

    def report(step, losses):
        average.swap()
        easy, hard = task.gap(0.2), task.gap(1.0)
        average.swap()
        line = dict(
            step=step, minutes=round((time.monotonic() - started) / 60, 2), loss=round(float(np.mean(losses)), 4),
            difference=round(difference_at(step, options), 2), easy=[round(x, 2) for x in easy],
            hard=[round(x, 2) for x in hard],
        )  # fmt: skip
        print(json.dumps(line), flush=True)
        with open(options.folder / "curve.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    losses = []
    for step in range(first, options.steps):
        rng = np.random.default_rng((options.seed, step))  # so that a run that goes on sees what it would have seen
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, options)
        alone = 1.0 if step < options.alone else 0.5
        without = step >= options.alone and step % 20 == 19
        loss = task.loss(rng, difference_at(step, options), alone, without)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update(step)
        losses.append(loss.item())
        done = step + 1
        over = time.monotonic() - started > options.minutes * 60 or done == options.steps
        if done % options.every == 0 or over:
            report(done, losses)
            keep(done)
            losses = []
        if over:
            break


def export(folder: Path, file: Path) -> None:
    """Writes the averaged weights in half precision."""
    from safetensors.torch import save_file

    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    names = [name for name, _ in UNet2DConditionModel(**UNET).named_parameters()]
    save_file({name: value.half() for name, value in zip(names, state["average"], strict=True)}, file)
    print(f"{file}: {file.stat().st_size / 1e6:.2f} MB, step {state['step']}")


def parse(arguments=None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of checkpoint and curve")
    parser.add_argument("--export", type=Path, metavar="FILE", help="only write the weights in half precision")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop then, with a checkpoint")
    parser.add_argument("--figures", type=int, default=6, help="photos of a batch")
    parser.add_argument("--targets", type=int, default=3, help="frames of each")
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--easy", type=int, default=300, help="steps with pairs that are all but the same")
    parser.add_argument("--ramp", type=int, default=1200, help="steps in which they become different")
    parser.add_argument("--alone", type=int, default=1000, help="steps from noise alone, before all levels of it")
    parser.add_argument("--alike", type=float, default=0.7)
    parser.add_argument("--every", type=int, default=200, help="steps between two checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true", help="multiply in bfloat16: faster where the CPU can")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parse()
    export(options.folder, options.export) if options.export else train(options)
