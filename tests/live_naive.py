"""The stream as a plain loop: every image is encoded anew for every frame, attention is dense, times go in one by one.

The twin of `LiveAnimator` for DDIM, in a few lines of the pipelines' own pieces.
"""

import numpy as np
import torch

from tpc_fast import naive
from tpc_fast.diffusion.models.control import condition_features


class NaiveStream:
    """The latents of every chunk when it is done, chunk by chunk.

    Args:
        pipe: MagicAnimate or one of the AnimateAnyone family.
        photo, masks: uint8 [H, W, 3], [P, H, W].
        chunk, levels, kept: frames, levels, and how many chunks that are done stay in the window.
        representative: (frame of the stream, level) -> the frame whose calibrated image it reads.
        noise: number of a chunk -> [1, C, n, h, w].
    """

    def __init__(self, pipe, photo, masks, chunk, levels, kept, representative, noise, guidance=1.0):
        self.pipe, self.adapter, self.masks = pipe, pipe.reference_adapter(), masks
        self.chunk, self.levels, self.kept, self.noise = chunk, levels, kept, noise
        self.representative, self.guidance = representative, guidance
        self.photo = self.adapter.prepare(photo[None], masks.max(0)[None])
        pipe.scheduler.set_timesteps(levels)
        self.times = pipe.scheduler.timesteps.tolist()
        parts = [self.text(photo)]
        if guidance > 1:
            parts.insert(0, self.unconditional(parts[0]))
        self.parts = torch.cat(parts)

    def text(self, photo):
        extras = self.adapter.photo(photo, self.masks)
        return extras["tokens"] if extras else self.pipe.encode_prompt("")

    def unconditional(self, text):
        return self.pipe.encode_prompt("") if hasattr(self.pipe, "text_encoder") else torch.zeros_like(text)

    @torch.no_grad()
    def run(self, frames):
        """frames: (name -> uint8 [H, W, 3], pose masks, calibrated images, masks); the chunk divides their number."""
        self.frames, window, done = frames, [], {}
        count = len(frames) // self.chunk
        for push in range(count + self.levels - 1):
            if push < count:
                window.append(dict(number=push, level=0, x=self.noise(push)))
            self.step(window)
            for entry in window:
                if entry["level"] == self.levels and entry["number"] not in done:
                    done[entry["number"]] = entry["x"]
            finished = [entry for entry in window if entry["level"] == self.levels]
            window = finished[max(0, len(finished) - self.kept) :] + [e for e in window if e["level"] < self.levels]
        return [done[number] for number in range(count)]

    def step(self, window):
        x = torch.cat([entry["x"] for entry in window], 2)
        levels = [entry["level"] for entry in window for _ in range(self.chunk)]
        covered = [entry["number"] * self.chunk + i for entry in window for i in range(self.chunk)]
        times = [self.times[level] if level < self.levels else 0 for level in levels]
        banks = [self.bank(f, min(level, self.levels - 1)) for f, level in zip(covered, levels, strict=True)]
        noise = self.predict(x.to(self.pipe.unet.dtype), times, covered, banks).float()
        if len(noise) > 1:
            noise = noise[:1] + self.guidance * (noise[1:] - noise[:1])
        for i, entry in enumerate(window):
            if entry["level"] < self.levels:
                part = slice(i * self.chunk, (i + 1) * self.chunk)
                entry["x"] = self.ddim(x[:, :, part], noise[:, :, part], entry["level"])
                entry["level"] += 1

    def ddim(self, x, prediction, level):
        """Song et al., 2021, equation 12 without noise."""
        scheduler = self.pipe.scheduler
        stride = scheduler.config.num_train_timesteps // self.levels
        before = self.times[level] - stride
        a = scheduler.alphas_cumprod[self.times[level]]
        b = scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod
        if scheduler.config.prediction_type == "v_prediction":
            clean, eps = a.sqrt() * x - (1 - a).sqrt() * prediction, a.sqrt() * prediction + (1 - a).sqrt() * x
        else:
            clean, eps = (x - (1 - a).sqrt() * prediction) / a.sqrt(), prediction
        return b.sqrt() * clean + (1 - b).sqrt() * eps

    def bank(self, frame, level):
        """name -> [1 + P, N, C], what a frame reads, and the masks of its images."""
        source = self.representative(frame, level)
        _, _, images, masks = self.frames[source]
        latents = torch.cat([self.photo, self.adapter.prepare(images, masks)])
        return self.adapter.encode(latents, self.times[level], self.parts[-1:]), masks

    def predict(self, x, times, covered, banks):
        pipe, unet = self.pipe, self.pipe.unet
        emb = [unet.time_embedding(unet.time_proj(torch.tensor([t])).to(unet.dtype)) for t in times]
        emb = torch.cat(emb).repeat(len(self.parts), 1)

        def own_times(resnet, args, kwargs):
            return (kwargs.get("input_tensor", args[0] if args else None), emb), {}

        resnets = [m for m in unet.modules() if type(m).__name__ == "ResnetBlock2D"]
        hooks = [m.register_forward_pre_hook(own_times, with_kwargs=True) for m in resnets]
        sites = {name: attention for name, (_, attention) in self.adapter.sites().items()}
        before = {name: attention.processor for name, attention in sites.items()}
        for name, attention in sites.items():
            attention.processor = Dense(self, name, covered, banks)
        poses, handle = [self.frames[f][0] for f in covered], None
        try:
            if hasattr(pipe, "controlnet"):
                pipe._scale = 1.0
                follow = [
                    condition_features(pipe.controlnet, torch.from_numpy(pose["pose"])[None], "cpu") for pose in poses
                ]
                alone = [pipe._control(x[:, :, i : i + 1], t, self.parts[-1:], follow[i]) for i, t in enumerate(times)]
                residuals = [torch.cat([torch.cat(r)] * len(self.parts)) for r in zip(*alone, strict=True)]
                more = dict(down_block_additional_residuals=residuals[:-1], mid_block_additional_residual=residuals[-1])
            else:
                videos = {name: torch.from_numpy(np.stack([pose[name] for pose in poses])) for name in poses[0]}
                light = {name: video.permute(0, 3, 1, 2).to(x.dtype) / 255 for name, video in videos.items()}
                guide, more = pipe.guides(light).repeat(len(self.parts), 1, 1, 1), {}
                handle = unet.conv_in.register_forward_hook(lambda m, args, out: out + guide)
            text = self.parts.repeat_interleave(len(times), 0)
            batch = torch.cat([x] * len(self.parts))
            return unet(batch, times[0], encoder_hidden_states=text, return_dict=False, **more)[0]
        finally:
            for hook in hooks + ([handle] if handle else []):
                hook.remove()
            for name, attention in sites.items():
                attention.processor = before[name]


class Dense:
    """Attention of every frame alone over all keys, with a mask."""

    def __init__(self, stream, name, covered, banks):
        self.stream, self.name, self.covered, self.banks = stream, name, covered, banks

    def __call__(self, attn, hidden, *_, **__):
        stream, frames, out = self.stream, len(self.covered), []
        side = int(hidden.shape[1] ** 0.5)
        for row, own in enumerate(hidden):
            bank, masks = self.banks[row % frames]
            reads = row >= len(hidden) - frames
            pose = stream.frames[self.covered[row % frames]][1]
            seen = torch.from_numpy(
                naive.visible_tokens(
                    pose[:, None] / 255,
                    masks[:, None] / 255,
                    stream.masks / 255,
                    1 + np.arange(len(pose))[:, None],
                    1 + len(pose),
                    (side, side),
                )
            )[0].flatten(1)
            keys = torch.cat([own, bank[self.name].flatten(0, 1)]) if reads else own
            mask = torch.cat([torch.ones(len(own), len(own), dtype=torch.bool), seen], 1) if reads else None
            q, k, v = (p(a).unflatten(1, (attn.heads, -1)).transpose(0, 1).double()
                       for p, a in ((attn.to_q, own), (attn.to_k, keys), (attn.to_v, keys)))  # fmt: skip
            got = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
            out.append(attn.to_out[0](got.transpose(0, 1).flatten(1).to(own.dtype)))
        return torch.stack(out)
