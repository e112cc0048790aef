"""DiffuseDDLP: four first frames out of nothing, drawn by diffusion over particles, and DDLP goes on from there.

    python examples/families/diffuse_ddlp.py
"""

import torch

import worldkit as wk
from worldkit.viz import save_gif

model = wk.create_model("diffuse-ddlp-balls-mini", pretrained=True)
with torch.no_grad():
    drawn = model.sample(4, horizon=8, generator=torch.Generator().manual_seed(0))
videos = torch.cat([drawn.context_video, drawn.video], 1).clamp(0, 1)  # [4, 12, 3, 32, 32]
print("videos out of nothing:", tuple(videos.shape), "of which frames were drawn:", drawn.context_video.shape[1])
save_gif(torch.cat(list(videos), -1), "diffuse_ddlp.gif", fps=6)
