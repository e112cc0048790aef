#!/usr/bin/env bash
# PyAV before 17 ignores the colour matrix and the range that a film states: the same file has other colours per release.
#
# Versions: av 15.0.0, 16.1.0 against 17.0.0, 18.1.0 (numpy 2.3.5), Python 3.11, Linux x86-64.
# Behaviour: frame.to_ndarray(format="rgb24") undoes BT.601 with limited range before 17, whatever the stream says (BT.709,
#   BT.2020, full range); from 17 on it does what the frame says. Passing src_colorspace=frame.colorspace alone changes
#   nothing before 17, with dst_colorspace="ITU601" it repairs films of limited range and spoils those of full range;
#   only VideoReformatter.reformat with both colour spaces AND both ranges gives one result in all of them.
# Output seen (red, then a brown 200/100/50, of a lossless BT.709 film of limited range):
#   15.0.0 plain [233, 0, 2] [191, 93, 53]   explicit [255, 1, 0] [200, 100, 50]
#   18.1.0 plain [255, 1, 0] [200, 100, 50]  explicit [255, 1, 0] [200, 100, 50]
# Date: 2026-11-28. Exits non-zero when this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.3.5
cat > "$work/look.py" <<'PY'
import sys

import av
import numpy as np
from av.video.reformatter import VideoReformatter

colors = np.array([(255, 0, 0), (200, 100, 50)]) / 255
path, full = sys.argv[1], sys.argv[2] == "full"
red, blue = 0.2126, 0.0722
luma = colors @ [red, 1 - red - blue, blue]
cb, cr = (colors[:, 2] - luma) / (2 - 2 * blue), (colors[:, 0] - luma) / (2 - 2 * red)
yuv = np.stack([255 * luma, 128 + 255 * cb, 128 + 255 * cr] if full else [16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr])
planes = np.clip(np.round(yuv), 0, 255).astype(np.uint8).repeat(16, 1)[:, None].repeat(32, 1)
with av.open(path, "w") as container:
    stream = container.add_stream("libx264", rate=10)
    stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv444p"
    stream.options = {"crf": "0", "colorspace": "bt709", **({"color_range": "pc"} if full else {})}
    container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="yuv444p")))
    container.mux(stream.encode())
with av.open(path) as container:
    frame = next(container.decode(video=0))
    plain = frame.to_ndarray(format="rgb24")
    half = frame.reformat(format="rgb24", src_colorspace=frame.colorspace, dst_colorspace="ITU601").to_ndarray()
    explicit = VideoReformatter().reformat(
        frame, 32, 32, "rgb24", frame.colorspace, "ITU601", None, frame.color_range, 2).to_ndarray()
for name, image in (("plain", plain), ("half", half), ("explicit", explicit)):
    error = int(np.abs(image[16, [8, 24]].astype(int) - np.round(255 * colors)).max())
    print(av.__version__, sys.argv[2], name, image[16, [8, 24]].tolist(), "error", error)
PY
for version in 15.0.0 16.1.0 17.0.0 18.1.0; do
    "$work/venv/bin/pip" install --quiet "av==$version"
    for range in limited full; do
        "$work/venv/bin/python" "$work/look.py" "$work/$version-$range.mp4" "$range" 2>/dev/null | tee -a "$work/seen"
    done
done
wrong() { awk -v v="$1" -v r="$2" -v n="$3" '$1 == v && $2 == r && $3 == n { print ($NF > 8) }' "$work/seen"; }
for version in 15.0.0 16.1.0; do
    [ "$(wrong $version limited plain)$(wrong $version full plain)" = 11 ]
    [ "$(wrong $version limited half)$(wrong $version full half)" = 01 ]
done
for version in 17.0.0 18.1.0; do
    [ "$(wrong $version limited plain)$(wrong $version full plain)" = 00 ]
done
for version in 15.0.0 16.1.0 17.0.0 18.1.0; do
    [ "$(wrong $version limited explicit)$(wrong $version full explicit)" = 00 ]
done
echo "as described"
