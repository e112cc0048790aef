"""I-JEPA: features of pictures, learned without drawing one. V-JEPA 2 (vjepa2-mini) learns those of clips the same way.

    python examples/families/jepa.py [STEPS]
"""

import sys

import torch

import worldkit as wk
from worldkit.training.probe import probe
from worldkit.training.recipes import train

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
model, _ = train("ijepa-mini", "push-32", run="runs/ijepa", train_overrides={"steps": steps})
video = wk.data.open_dataset("push-32", split="test", num_frames=4, num_episodes=2)[0]["video"][None]
with torch.no_grad():
    features = model.encode(video).values["patches", "features"]
print("features of every patch of every frame:", tuple(features.shape))
print("what they know of places, and what pixels know:")
for score in probe(model, "push-32", "position", max_clips=60, data_options={"num_episodes": 40}).scores:
    print(f"  {score.features}, {score.probe}: R2 {score.r2:.2f}")
