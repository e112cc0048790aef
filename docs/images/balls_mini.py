"""Draw balls-mini.png, the picture of the README: ``python docs/images/balls_mini.py [FILE]`` (a few seconds).

Left the decomposition panel of a test clip, right what the shipped weights predict on two others, given five frames.
"""

import sys
from pathlib import Path

import torch

import worldkit as wk
from worldkit.data import collate
from worldkit.training import panel
from worldkit.training.figures import rollouts_beside_truth
from worldkit.training.recipes import open_clips
from worldkit.viz import rollout_strip, save_png
from worldkit.viz.images import canvas

model = wk.create_model("lpwm-balls-mini", pretrained=True)
clips = open_clips(model, "balls-32", split="test", num_frames=10)
generator = torch.Generator().manual_seed(0)
left = panel(model, clips[len(clips) // 2]["video"], frames=4, cell=96)
first, second = (rollouts_beside_truth(model, collate([clips[i]]), context_frames=5, generator=generator)
                 for i in (0, len(clips) // 3))
strips = [rollout_strip(**first | {"note": ""}, cell=96), rollout_strip(**second, cell=96)]
sheet = canvas(max(left.shape[1], sum(s.shape[1] for s in strips) + 16), left.shape[2] + 16 + strips[0].shape[2])
sheet[:, : left.shape[1], : left.shape[2]] = left
sheet[:, : strips[0].shape[1], -strips[0].shape[2] :] = strips[0]
sheet[:, strips[0].shape[1] + 16 :, -strips[1].shape[2] :][:, : strips[1].shape[1]] = strips[1]
save_png(sheet, sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("balls-mini.png"))
