"""A hundred thousand fits and ten thousand exact searches in one call each, on the GPU if there is one.

python examples/batch_fits.py
"""

import math

import torch

import tpc_fast

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
photo = 512 * torch.rand(100_000, 17, 2, device=device)
angle = math.radians(30)
turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], device=device)
frame = 0.7 * photo @ turn.T + torch.tensor([40.0, 10.0], device=device)

fit = tpc_fast.fit_similarity(photo, frame)
print(f"scale {fit.scale.mean():.4f}, angle {math.degrees(fit.angle.mean()):.2f} degrees, on {fit.scale.device}")

few, moved = photo[:10_000], frame[:10_000].clone()
moved[:, 9:11] += 100  # wrists that moved by themselves
found = tpc_fast.search_subset(few, moved)
print(f"wrists are left out in {(~found.members[:, 9:11]).all(1).float().mean():.0%} of the searches")
