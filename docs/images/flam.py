"""Draw the pictures of flam.md of two runs, FLAM's and that of one action for all (half a minute)::

    python docs/images/flam.py runs/flam runs/coupled --agents 2 --cells 4

``flam-slots.png``: what every slot looks at. ``flam-edits.png``: the next frame when one factor's action (one part of
the one action for all) is another one. ``flam-dream.gif``: what happened, the same by actions read off it, and by
actions drawn from the prior, the policy that knows nothing.
"""

import argparse
import sys
from pathlib import Path

import torch
from einops import rearrange

import worldkit as wk
from worldkit.viz import save_png
from worldkit.viz.images import enlarge, labelled_rows, save_gif, to_uint8

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from flam import parts, whole  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("flam")
parser.add_argument("coupled", nargs="?")
parser.add_argument("--only", choices=("slots", "edits", "dream"))
parser.add_argument("--agents", type=int, default=2)
parser.add_argument("--cells", type=int, default=8)
parser.add_argument("--clip", type=int, default=0)
parser.add_argument("--at", type=int, default=6, help="frame whose action is edited")
options = parser.parse_args()
here, cell = Path(__file__).parent, 72


def large(pictures):
    return enlarge(to_uint8(pictures.clamp(0, 1)), cell)[0]


def wanted(what):
    return options.only in (None, what)


flam, coupled = (run and wk.WorldModel.from_pretrained(run).eval() for run in (options.flam, options.coupled))
size, factors = flam.config.obs.height, flam.dynamics.factor_spec.num_tokens
clips = wk.data.open_dataset(f"multigrid-{size}", split="test", num_frames=24, num_agents=options.agents,
                             cells=options.cells)
video = clips[options.clip]["video"][None]
pixels = wk.batch.to_float_video(video)

torch.set_grad_enabled(False)
if wanted("slots"):
    z = flam.encode(video)
    rows, side = {}, round(z.spec.num_tokens**0.5)
    for t in (2, 5, 8):
        first = max(0, t - flam.dynamics.window)
        shares = flam.dynamics.shares(z[:, first : t + 1])[0, -1]  # [K, P]
        maps = rearrange(shares, "k (h w) -> k 1 h w", h=side).repeat_interleave(size // side, 2)
        maps = maps / maps.amax((2, 3), keepdim=True)
        looked = pixels[0, t] * maps.repeat_interleave(size // side, 3)
        rows[f"frame {t}"] = large(torch.cat([pixels[0, t : t + 1], looked]))
    save_png(labelled_rows(rows, ["frame", *[f"slot {k}" for k in range(factors)]]), here / "flam-slots.png")

if wanted("edits"):
    generator, at, rows = torch.Generator().manual_seed(0), options.at, {}
    for name, model in (("one each", flam), *([("one for all", coupled)] if coupled else [])):
        action = model.infer_latent_actions(video)[:, : at + 1]
        split = parts(action, factors)
        seen = [pixels[0, at], model.rollout(video[:, : at + 1], 1, latent_actions=action).video[0, 0]]
        for k in range(factors):
            edited = split.clone()
            edited[:, -1, k] = torch.randn(edited[:, -1, k].shape, generator=generator)
            seen.append(model.rollout(video[:, : at + 1], 1, latent_actions=whole(edited, action)).video[0, 0])
        rows[name] = large(torch.stack(seen))
    save_png(labelled_rows(rows, ["now", "as inferred", *[f"edit {k}" for k in range(factors)]]),
             here / "flam-edits.png")

if wanted("dream"):
    count = video.shape[1] - 1
    told = flam.rollout(video[:, :1], count, latent_actions=flam.infer_latent_actions(video)).video
    drawn = flam.rollout(video[:, :1], count, generator=torch.Generator().manual_seed(1)).video
    start = pixels[:, :1]
    rows = {"happened": pixels[0], "inferred": torch.cat([start, told], 1)[0], "drawn": torch.cat([start, drawn], 1)[0]}
    large_rows = {name: large(film) for name, film in rows.items()}
    frames = [labelled_rows({f"frame {t}": torch.stack([film[t] for film in large_rows.values()])}, list(rows))
              for t in range(count + 1)]
    save_gif(torch.stack(frames), here / "flam-dream.gif", fps=3)
