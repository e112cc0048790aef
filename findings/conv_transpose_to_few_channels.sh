#!/usr/bin/env bash
# PyTorch's transposed convolution to 3 channels takes as long on a CPU as one to 12, and 3 times as long as an ordinary
# convolution that computes the same.
#
# Versions: torch 2.13.0+cpu (numpy 2.3.5), Python 3.11, Linux x86-64, one thread of an AMD EPYC (Zen 4), AVX-512.
# Behaviour: the last layer of decoders draws 3 channels. A transposed convolution of stride 2 is four convolutions, one for
#   each place in 2 x 2 pixels, so one convolution to 12 channels at half the size, its channels put side by side as
#   pixels, gives the same. torch.nn.functional.conv_transpose2d does not become faster below 12 channels; the other way
#   does, evenly. Somewhere between 12 and 32 channels conv_transpose2d becomes the faster one. Both in channels-last, without gradients.
# Output seen (64 x 32 x 30 x 30, kernel 6, stride 2; smallest of 7 CPU times, in ms, and the ratio):
#    3 channels: transposed 22.7, convolution and order 7.4: 3.1
#   12 channels: transposed 23.6, convolution and order 20.0: 1.2
#   32 channels: transposed 62.9, convolution and order 88.4: 0.7
# Date: 2026-12-01. Exits non-zero when this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5
cat > "$work/look.py" <<'PY'
import time

import torch
import torch.nn.functional as F

torch.manual_seed(0)
torch.set_num_threads(1)
print(torch.__version__)


def by_convolution(x, weight):
    """Kernels of even size; the four places of 2 x 2 pixels are channels first."""
    inputs, outputs, size, _ = weight.shape
    taps = size // 2
    small = weight.view(inputs, outputs, taps, 2, taps, 2).flip(2, 4).permute(3, 5, 1, 0, 2, 4)
    made = F.conv2d(x, small.reshape(4 * outputs, inputs, taps, taps), padding=taps - 1)
    made = made.unflatten(1, (2, 2, outputs)).permute(0, 3, 4, 1, 5, 2)
    return made.reshape(len(x), outputs, 2 * made.shape[2], -1)


def least(function):
    times = []
    for _ in range(7):
        begun = time.process_time()
        function()
        times.append(1e3 * (time.process_time() - begun))
    return min(times)


ratios = {}
with torch.no_grad():
    x = torch.randn(64, 32, 30, 30).contiguous(memory_format=torch.channels_last)
    for outputs in (3, 12, 32):
        weight = torch.randn(32, outputs, 6, 6) / 32
        assert torch.allclose(F.conv_transpose2d(x, weight, stride=2), by_convolution(x, weight), atol=1e-4)
        one, other = least(lambda: F.conv_transpose2d(x, weight, stride=2)), least(lambda: by_convolution(x, weight))
        ratios[outputs] = one / other
        print(f"{outputs:2d} channels: transposed {one:.1f}, convolution and order {other:.1f}: {one / other:.1f}")
assert ratios[3] > 1.5 and ratios[32] < 1
PY
"$work/venv/bin/python" "$work/look.py"
echo "as described"
