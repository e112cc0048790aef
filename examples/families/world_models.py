"""World Models: a VAE sees, an LSTM with a mixture remembers, and one may live in what it dreams.

    python examples/families/world_models.py [STEPS]
"""

import sys

import torch

import worldkit as wk
from worldkit.training.recipes import train

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
told = {"conditioners": {"action": {"dim": 2, "num_actions": None}},
        "heads": {"reward": None, "terminated": None}}  # actions of Push are vectors, and it has no rewards
model, _ = train("world-models-mini", "push-32", run="runs/world-models", overrides=told,
                 train_overrides={"steps": steps})
clip = wk.data.open_dataset("push-32", split="test", num_frames=10, num_episodes=2)[0]
with torch.no_grad():
    seen = model.perceive(wk.Batch(clip["video"][None], {"action": clip["action"][None]}))
    start = seen.latent[:, -1:]
    for temperature in (0.5, 1.15):
        model.dynamics.temperature = temperature
        dreams = [model.imagine(start, lambda z, sampler: (torch.zeros(1, 1, 2), {}), horizon=5) for _ in range(2)]
        one, two = (model.decode(dream.latents).video for dream in dreams)
        print(f"temperature {temperature}: two dreams differ by {(one - two).abs().mean():.4f} a pixel")
