"""IRIS: pictures become codes, a transformer says which codes come next.

    python examples/families/iris.py [STEPS]
"""

import sys

import torch

import worldkit as wk
from worldkit.training.recipes import train

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
told = {"conditioners": {"action": {"dim": 2, "num_actions": None}}, "heads": {"reward": None, "terminated": None},
        "timestep_horizon": 2, "objective": {"tokenizer_steps": max(1, steps // 3)}}
model, _ = train("iris-mini", "push-32", run="runs/iris", overrides=told, train_overrides={"steps": steps})
clip = wk.data.open_dataset("push-32", split="test", num_frames=10, num_episodes=2)[0]
with torch.no_grad():
    codes = model.encode(clip["video"][None]).values["patches", "code"]
    out = model.rollout(clip["video"][None, :5], 5, conditions={"action": clip["action"][None]},
                        generator=torch.Generator().manual_seed(0))
print("codes of a frame:", codes[0, 0].flatten().tolist())
print("predicted frames:", tuple(out.video.shape))
print("and their codes:", out.latents.values["patches", "code"][0, 0].flatten().tolist())
