"""Trains a tiny network through the warp: python examples/train_through_warp.py [STEPS]

The network sees a picture that was turned, scaled and moved, and says how. Nobody tells it: the picture, warped by what
it says, has to look like what it sees, and the gradient comes through the warp.
"""

import sys

import torch

from tpc_fast import warp_composite

SIZE, BATCH = 32, 16
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 400
torch.manual_seed(0)

# A picture without symmetry: three blobs. Its mask is everywhere.
y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
blobs = [(10, 12, 20, 1.0), (20, 14, 12, 0.7), (16, 22, 8, 0.5)]
picture = sum(level * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / spread) for cx, cy, spread, level in blobs)
pictures = picture.clamp(0, 1)[None, :, :, None].expand(BATCH, -1, -1, -1)
masks = torch.ones(BATCH, SIZE, SIZE)


def matrices(numbers: torch.Tensor) -> torch.Tensor:
    """Forward matrices [N, 1, 2, 3] of log scale, angle (radians) and shift (pixels) about the middle, [N, 4]."""
    log_scale, angle, shift = numbers[:, 0], numbers[:, 1], numbers[:, 2:]
    a, b = log_scale.exp() * angle.cos(), log_scale.exp() * angle.sin()
    linear = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], -2)
    middle = torch.full((2,), (SIZE - 1) / 2)
    return torch.cat([linear, (shift + middle - linear @ middle)[..., None]], -1)[:, None]


def warped(numbers: torch.Tensor) -> torch.Tensor:
    """The picture under similarities [N, 4]: [N, 1, 32, 32], one photo per sample."""
    found = warp_composite(pictures, masks, matrices(numbers), SIZE, interpolation="bilinear", samples=True)
    return found.image[:, 0, 0].movedim(-1, 1)


network = torch.nn.Sequential(
    torch.nn.Conv2d(1, 8, 5, 2, 2), torch.nn.ReLU(),
    torch.nn.Conv2d(8, 16, 3, 2, 1), torch.nn.ReLU(),
    torch.nn.Flatten(), torch.nn.Linear(16 * 8 * 8, 32), torch.nn.ReLU(),
    torch.nn.Linear(32, 4),
)  # fmt: skip
scales = torch.tensor([0.2, 0.5, 3.0, 3.0])  # how far the pictures differ: e^0.2, 0.5 radians, 3 pixels
optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
for step in range(steps):
    with torch.no_grad():
        truth = (torch.rand(BATCH, 4) * 2 - 1) * scales
        seen = warped(truth)
    said = network(seen) * scales
    loss = ((warped(said) - seen) ** 2).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if step % 50 == 0 or step == steps - 1:
        off = (said - truth).detach().abs().mean(0)
        print(
            f"step {step}: loss {loss.item():.5f}, off by {off[0]:.3f} of log scale, {off[1]:.3f} rad, "
            f"{off[2:].mean():.2f} px"
        )
