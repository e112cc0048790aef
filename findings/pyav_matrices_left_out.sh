#!/usr/bin/env bash
# PyAV before 17 shows films of YCgCo and of BT.2020 constant luminance in wrong colours without a word; from 17 on they fail.
#
# Versions: av 15.0.0, 16.1.0 against 17.0.0, 18.1.0 (numpy 2.3.5), Python 3.11, Linux x86-64.
# Behaviour: libswscale undoes neither matrix. With PyAV 15 and 16 frame.to_ndarray(format="rgb24") takes such a frame for
#   BT.601; with 17 and 18 it raises OSError 95 (Operation not supported), which names neither the film nor the matrix, so
#   code that treats OSError as damage calls a whole film damaged. Setting frame.colorspace first decides in all of them.
# Output seen:
#   15.0.0 ycgco converted                       bt2020c converted
#   18.1.0 ycgco OSError [Errno 95] ...           bt2020c OSError [Errno 95] ...
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

for matrix in ("ycgco", "bt2020c"):
    path = f"{sys.argv[1]}-{matrix}.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv444p"
        stream.options = {"crf": "0", "colorspace": matrix}
        planes = np.full((3, 32, 32), 90, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv444p")))
        container.mux(stream.encode())
    with av.open(path) as container:
        frame = next(container.decode(video=0))
        stated = int(frame.colorspace)
        try:
            frame.to_ndarray(format="rgb24")
            found = "converted"
        except OSError as error:
            found = f"OSError {error}"
        frame.colorspace = 9  # BT.2020, not constant luminance
        decided = frame.to_ndarray(format="rgb24").shape == (32, 32, 3)
    print(av.__version__, matrix, "number", stated, found, "| decided by hand:", decided)
PY
for version in 15.0.0 16.1.0 17.0.0 18.1.0; do
    "$work/venv/bin/pip" install --quiet "av==$version"
    "$work/venv/bin/python" "$work/look.py" "$work/$version" 2>/dev/null | tee -a "$work/seen"
done
[ "$(grep -c "^1[56].*converted | decided by hand: True" "$work/seen")" = 4 ]
[ "$(grep -c "^1[78].*OSError .* | decided by hand: True" "$work/seen")" = 4 ]
echo "as described"
