"""Train a small world model on a video of your own and predict how it goes on.

    python examples/03_your_own_video.py my_video.mp4 --steps 300

The same from the command line: worldkit train lpwm-mini --data my_video.mp4
"""

import argparse

import torch

import worldkit as wk
from worldkit.data import collate
from worldkit.training import animation
from worldkit.training.recipes import open_clips, train
from worldkit.viz import save_animation

parser = argparse.ArgumentParser()
parser.add_argument("video")
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--run", default="runs/my-video")
options = parser.parse_args()

model, result = train("lpwm-mini", options.video, run=options.run, train_overrides={"steps": options.steps})
print(f"{result.step} steps in {result.seconds:.0f} s; loss {result.log[0]['loss']:.1f} at the start")

context, horizon = 5, 5
clips = open_clips(model, options.video, split="test", num_frames=context + horizon)
frames = animation(model, collate([clips[0]]), context_frames=context, generator=torch.Generator().manual_seed(0))
save_animation(frames, f"{options.run}/prediction.gif", fps=6)
print(f"truth | driven by inferred latent actions | sampled: {options.run}/prediction.gif")

loaded = wk.WorldModel.from_pretrained(f"{options.run}/best")
print(f"the best model so far, loaded again: {loaded.parameter_report()['total']:,} parameters")
