"""DDLP: particles that keep their identity. Where each visible one goes, frame by frame.

    python examples/families/ddlp.py
"""

import torch

import worldkit as wk

model = wk.create_model("ddlp-balls-mini", pretrained=True)
video = wk.data.open_dataset("balls-32", split="test", num_frames=12, num_episodes=2)[0]["video"][None]
with torch.no_grad():
    future = model.rollout(video[:, :4], horizon=8, deterministic=True)
z = future.latents  # particles [1, 8, N]: position (y, x) in [-1, 1], scale, depth, transparency, features
visible = z.transparency[0, 0, :, 0] > 0.5
for number in visible.nonzero()[:, 0].tolist():
    path = " ".join(f"({y:+.2f}, {x:+.2f})" for y, x in z.position[0, :, number].tolist())
    print(f"particle {number}: {path}")
error = (future.video - video[:, 4:] / 255).square().mean()
print(f"{int(visible.sum())} particles seen; predicted: {-10 * torch.log10(error):.1f} dB")
