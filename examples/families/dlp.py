"""Deep latent particles (DLPv2): single pictures as places, sizes and looks of things; no futures yet.

    python examples/families/dlp.py [STEPS]
"""

import sys

import torch

import worldkit as wk
from worldkit.training.recipes import train

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
model, _ = train("dlpv2-balls-mini", "balls-32", run="runs/dlp", train_overrides={"steps": steps})
pictures = wk.data.open_dataset("balls-32", split="test", num_frames=1, num_episodes=2)
with torch.no_grad():
    z = model.encode(pictures[0]["video"][None])
    drawn = model.decode(z).video
    moved = model.decode(z.edit([0], delta_position=(0.2, 0.0))).video  # the first particle lower down
for (y, x), seen in zip(z.position[0, 0].tolist(), z.transparency[0, 0, :, 0].tolist(), strict=True):
    print(f"a particle at ({y:+.2f}, {x:+.2f}), opacity {seen:.2f}")
print(f"moving one changes {(moved - drawn).abs().mean():.4f} a pixel")
