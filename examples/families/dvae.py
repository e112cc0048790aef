"""DVAE, which LPWM is measured against: the same dynamics on a grid of patches instead of particles.

    python examples/families/dvae.py
"""

import torch

import worldkit as wk

model = wk.create_model("dvae-balls-mini", pretrained=True)
video = wk.data.open_dataset("balls-32", split="test", num_frames=10, num_episodes=2)[0]["video"][None]
with torch.no_grad():
    future = model.rollout(video[:, :5], 5, deterministic=True)
error, copied = ((x - video[:, 5:] / 255).square().mean() for x in (future.video, video[:, 4:5] / 255))
print(f"predicted: {-10 * torch.log10(error):.1f} dB, copying the last frame: {-10 * torch.log10(copied):.1f} dB")
features = future.latents.features[0]  # [5, 16, 9]: patches of a grid of 4 x 4
moved = (features[-1] - features[0]).norm(dim=-1).reshape(4, 4)
print("where the picture will change most:", "\n".join(" ".join(f"{x:5.2f}" for x in row) for row in moved.tolist()),
      sep="\n")
