"""First steps: encode a clip into particles, draw it again, predict, and ask a what-if question.

    python examples/01_first_steps.py

Uses the small model that ships with worldkit and synthetic Balls clips; takes a few seconds on a CPU.
"""

import torch

import worldkit as wk
from worldkit.training import panel
from worldkit.viz import grid, save_png

model = wk.create_model("lpwm-balls-mini", pretrained=True)
clip = wk.data.open_dataset("balls-32", split="test", num_frames=10, height=32, width=32)[0]
video = clip["video"][None]  # [1, 10, 3, 32, 32] uint8

with torch.no_grad():
    z = model.encode(video[:, :5])
    print(z)  # what the latent holds
    print("particles that are visible in frame 4:", int((z.transparency[0, 4] > 0.5).sum()))

    drawn = model.decode(z)
    error = (drawn.video - video[:, :5] / 255).square().mean()
    print(f"reconstruction: {-10 * torch.log10(error):.1f} dB")

    generator = torch.Generator().manual_seed(0)
    future = model.rollout(video[:, :5], horizon=5, generator=generator)
    print("predicted frames:", tuple(future.video.shape), "latent actions:", tuple(future.latent_actions.shape))

    # What if the red ball, at (y, x) = (0.6, 0.0) of the last given frame, had been up and to the right?
    ball = z.follow(z.object_at((0.6, 0.0)))  # frame -> all particles that draw it
    print("particles of the ball, frame by frame:", ball)
    answer = wk.what_if(model, z, z.edit(ball, delta_position=(-0.4, 0.4)), horizon=5)
    before, after = answer.original[0], answer.edited[0]  # [10, 3, 32, 32]: five frames given, five predicted
    there = [video[5, 0, 18:23, 19:24].mean() for video in (before, after)]  # red of the first predicted frame
    print(f"red where the ball would have been: {there[0]:.2f} before, {there[1]:.2f} after")

save_png(grid(torch.cat([before, after]).repeat_interleave(4, -1).repeat_interleave(4, -2), 10), "what_if.png")
save_png(panel(model, video[0, :5], frames=5), "first_steps.png")
print("how the model takes the clip apart: first_steps.png; the prediction and the what-if: what_if.png")
