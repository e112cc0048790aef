#!/usr/bin/env bash
# Pillow drops GIF frames that equal the one before, so a recording of T frames comes back with fewer.
#
# Versions: pillow 11.3.0, 12.0.0 (numpy 2.3.5), Python 3.11, Linux x86-64.
# Behaviour: save(save_all=True, append_images=...) merges a frame with its equal neighbour and adds up the durations, with
#   disposal=2 and optimize=False too; no argument keeps them. A film whose frames are all equal becomes a still picture.
#   PIL.GifImagePlugin.getdata writes any number of frames, one by one.
# Output seen (8 frames of levels 40 40 40 120 120 200 40 40):
#   frames written 8, read 4, durations [300, 200, 100, 200]; all equal: read 1
# Date: 2026-11-28. Exits non-zero when this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.3.5
cat > "$work/look.py" <<'PY'
import io

import numpy as np
import PIL
from PIL import Image


def durations(levels, **options):
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)).quantize(256) for level in levels]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100, loop=0, **options)
    image, found = Image.open(file), []
    for number in range(image.n_frames):
        image.seek(number)
        found.append(image.info["duration"])
    return found


levels = [40, 40, 40, 120, 120, 200, 40, 40]
for options in ({}, {"disposal": 2}, {"optimize": False}, {"disposal": 2, "optimize": False}):
    found, still = durations(levels, **options), durations([90] * 8, **options)
    print(PIL.__version__, options, "frames written 8, read", len(found), "durations", found, "all equal: read", len(still))
    assert found == [300, 200, 100, 200] and len(still) == 1
PY
for version in 11.3.0 12.0.0; do
    "$work/venv/bin/pip" install --quiet "pillow==$version"
    "$work/venv/bin/python" "$work/look.py"
done
echo "as described"
