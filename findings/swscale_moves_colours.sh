#!/usr/bin/env bash
# FFmpeg's scaler moves the colours of a 4:2:0 film when it makes RGB of it and shrinks it in one call; in two calls it does not.
#
# Versions: av 18.1.0 (FFmpeg's libswscale inside), numpy 2.4.6, Python 3.11, Linux x86-64.
# Behaviour: VideoReformatter().reformat(frame, 64, 48, "rgb24", interpolation="AREA") of a yuv420p frame of 640 x 480
#   is off by several of 255 in red and blue, which are made of the planes that are stored at half the size; reformat to
#   rgb24 at 640 x 480 first, then to 64 x 48 by the same filter, is near the truth. Of a yuv444p frame both are right.
# Why it matters: whoever trains on scaled films and later feeds a camera's RGB frames, scaled by any right filter, sees
#   other colours than in training. No setting of reformat changes it.
# Output seen (mean distance from the true average of every block, of 255: red, green, blue):
#   yuv420p one call [5.75, 2.66, 5.23]   two calls [1.07, 1.4, 1.16]
#   yuv444p one call [0.23, 0.24, 0.28]   two calls [0.23, 0.24, 0.29]
# Date: 2026-11-29. Exits non-zero when this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 av==18.1.0
cat > "$work/look.py" <<'PY'
import av
import numpy as np
from av.video.reformatter import VideoReformatter

y, x = np.mgrid[:480, :640]
waves = [128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(y / 30), 128 + 90 * np.sin((x + y) / 50)]
raw = np.stack(waves, -1).astype(np.uint8)
truth = raw.reshape(48, 10, 64, 10, 3).mean((1, 3))


def scaled(frame):
    return VideoReformatter().reformat(frame, 64, 48, "rgb24", interpolation="AREA")


off = {}
for pixels in ("yuv420p", "yuv444p"):
    frame = av.VideoFrame.from_ndarray(raw, format="rgb24").reformat(format=pixels)
    whole = VideoReformatter().reformat(frame, 640, 480, "rgb24")
    for how, found in (("one call", scaled(frame)), ("two calls", scaled(whole))):
        off[pixels, how] = np.abs(found.to_ndarray() - truth).mean((0, 1)).round(2)
        print(pixels, how, off[pixels, how].tolist())
assert off["yuv420p", "one call"][[0, 2]].min() > 3 * off["yuv420p", "two calls"][[0, 2]].max(), off
assert off["yuv444p", "one call"].max() < 2, off
PY
"$work/venv/bin/python" "$work/look.py"
echo "as described"
