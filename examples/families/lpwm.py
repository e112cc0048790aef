"""LPWM: what moves are particles, and what may happen next is drawn. Two futures of one clip, beside the truth.

    python examples/families/lpwm.py
"""

import torch

import worldkit as wk
from worldkit.viz import grid, save_png

model = wk.create_model("lpwm-balls-mini", pretrained=True)
video = wk.data.open_dataset("balls-32", split="test", num_frames=10, num_episodes=2)[0]["video"][None]
with torch.no_grad():
    futures = [model.rollout(video[:, :5], 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    best = model.rollout(video[:, :5], 5, deterministic=True)
error = (best.video - video[:, 5:] / 255).square().mean()
copied = (video[:, 4:5] / 255 - video[:, 5:] / 255).square().mean()
print(f"predicted: {-10 * torch.log10(error):.1f} dB, copying the last frame: {-10 * torch.log10(copied):.1f} dB")
print("latent actions that were drawn:", tuple(futures[0].latent_actions.shape))
rows = torch.cat([video[0, 5:] / 255, best.video[0], *(f.video[0] for f in futures)])
save_png(grid(rows.clamp(0, 1), 5), "lpwm.png")
