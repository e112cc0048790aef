"""DiT: pictures out of noise by a diffusion transformer.

    python examples/families/dit.py [STEPS]
"""

import sys

import torch

from worldkit.training.recipes import train
from worldkit.viz import grid, save_png

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500  # 500 draw smudges; 8,000 is what the preset asks for
model, trained = train("dit-mini", "shapes-32", run="runs/dit", train_overrides={"steps": steps})
with torch.no_grad():
    drawn = model.sample(8, generator=torch.Generator().manual_seed(0))
pictures = drawn.context_video[:, 0].clamp(0, 1)
print(f"{trained.step} steps; pictures:", tuple(pictures.shape))
save_png(grid(pictures, 4), "dit.png")
