#!/usr/bin/env bash
# PyTorch's GroupNorm loses digits on channels-last inputs on a CPU: contiguous inputs give 1e-6 where it gives 1e-3.
#
# Versions: torch 2.13.0+cpu (numpy 2.3.5), Python 3.11, Linux x86-64.
# Behaviour: with torch.channels_last, sums run over the pixels one after the other, and the variance is the mean of squares
#   less the square of the mean. Errors grow with the square of mean over deviation, and with the number of pixels: a small
#   object on a flat ground is off by 1e-4 at any mean. So a model changes by more than rounding when only its memory
#   format changes.
# Output seen (largest error against float64, 4 x 32 x 64 x 64 standard normal numbers plus the mean, 4 groups, seed 0):
#   mean   0: contiguous 5e-07, channels-last 1e-06
#   mean  10: contiguous 1e-06, channels-last 5e-04
#   mean 100: contiguous 1e-05, channels-last 3e-02
#   flat ground with a small object (4 x 32 x 128 x 128): contiguous 6e-07, channels-last 5e-04
# Date: 2026-11-28. Exits non-zero when this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5
cat > "$work/look.py" <<'PY'
import torch
import torch.nn.functional as F


def errors(x):
    exact = F.group_norm(x.double(), 4)
    forms = x, x.contiguous(memory_format=torch.channels_last)
    return [(F.group_norm(form, 4) - exact).abs().max().item() for form in forms]


torch.manual_seed(0)
torch.set_num_threads(1)
print(torch.__version__)
for mean, least in ((0, 0), (10, 1e-4), (100, 1e-2)):
    plain, last = errors(torch.randn(4, 32, 64, 64) + mean)
    print(f"mean {mean:3d}: contiguous {plain:.0e}, channels-last {last:.0e}")
    assert plain < 3e-5 and last > least
ground = torch.randn(4, 32, 1, 1).expand(4, 32, 128, 128).clone()
ground[..., 102:, 102:] += 3 * torch.randn(4, 32, 1, 1)
plain, last = errors(ground)
print(f"flat ground with a small object (4 x 32 x 128 x 128): contiguous {plain:.0e}, channels-last {last:.0e}")
assert plain < 3e-6 and last > 1e-5
PY
"$work/venv/bin/python" "$work/look.py"
echo "as described"
