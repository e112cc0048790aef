#!/usr/bin/env bash
# stable-worldmodel 0.1.1: LeWM.get_cost holds candidate s of EVERY problem against the goal of problem s.
#
# Versions: stable-worldmodel 0.1.1 (PyPI), torch 2.13.0, Python 3.11, Linux x86-64.
# Behaviour: the goal's embedding is (B, T, D), and the criterion expands it to the prediction's (B, S, T, D): axes are aligned from
# the right, so problems fall on the axis of candidates. With batch_size=1 (the solvers' default) nothing is wrong. With
# batch_size > 1 it raises "The expanded size of the tensor (S) must match the existing size (B)", unless S == B: then the
# costs are silently those of other problems' goals. (Its main branch scores with GoalMSE, which inserts the axis.)
#
# Output seen:
#   one problem at a time: [[0.0, 4.0], [4.0, 0.0]]
#   both problems at once: [[0.0, 0.0], [0.0, 0.0]]
#   5 candidates of 2 problems: RuntimeError
# Date: 2026-11-28. Exits non-zero when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 einops==0.8.2 numpy
"$folder/venv/bin/pip" install -q --no-deps stable-worldmodel==0.1.1
"$folder/venv/bin/python" - <<'END'
import importlib.metadata
import importlib.util
import types
from pathlib import Path

import torch
from torch import nn

print("torch", torch.__version__, "stable-worldmodel", importlib.metadata.version("stable-worldmodel"))
package = Path(importlib.util.find_spec("stable_worldmodel").submodule_search_locations[0])
spec = importlib.util.spec_from_file_location("lewm", package / "wm/lewm/lewm.py")  # its package imports much more
lewm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lewm)


class Encoder(nn.Module):
    """The embedding of a picture is its mean."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, pixels, **options):
        return types.SimpleNamespace(last_hidden_state=pixels.mean((1, 2, 3))[:, None, None])


class Predictor(nn.Module):
    num_frames = 3

    def forward(self, emb, act_emb):
        return emb + act_emb


model = lewm.LeWM(Encoder(), Predictor(), nn.Identity()).requires_grad_(False)
start = torch.zeros(2, 1, 1, 4, 4)
goal = torch.stack([torch.full((1, 1, 4, 4), 0.0), torch.full((1, 1, 4, 4), 2.0)])  # stay; move by 2
candidates = torch.tensor([0.0, 2.0]).reshape(1, 2, 1, 1).expand(2, 2, 1, 1)  # stay, or move by 2


def costs(rows, actions):
    count = actions.shape[1]
    info = {name: x[rows][:, None].expand(-1, count, *x.shape[1:]) for name, x in (("pixels", start), ("goal", goal))}
    return model.get_cost(info | {"action": actions[:, :, :1]}, actions)


alone = torch.cat([costs(slice(i, i + 1), candidates[i : i + 1]) for i in range(2)])
together = costs(slice(0, 2), candidates)
print("one problem at a time:", alone.tolist())
print("both problems at once:", together.tolist())
try:
    costs(slice(0, 2), candidates[:, :1].expand(2, 5, 1, 1))
    raised = "nothing"
except RuntimeError:
    raised = "RuntimeError"
print("5 candidates of 2 problems:", raised)
assert alone.tolist() == [[0.0, 4.0], [4.0, 0.0]] and not torch.equal(alone, together) and together.abs().max() == 0 and raised == "RuntimeError"
END
