#!/usr/bin/env bash
# The duration of a Matroska or WebM film, as FFmpeg writes and reads it, is the time at which the film ends.
#
# Versions: av (PyAV) 15.1.0 and 17.0.0 with their FFmpeg, numpy 2.3.5, Python 3.11, Linux x86-64.
# Behaviour: where the first picture comes after time 0 (sound first, a cut that kept the times), the tag DURATION of the
#   stream and container.duration count from 0, so a check of "last - first against duration" takes whole films for cut
#   off. ASF (wmv) does the same in stream.duration; mp4, mov, MPEG-TS and FLV give the time that the pictures fill.
# Output seen (60 frames at 30 per second, the first at 2.0 s):
#   mkv: DURATION 00:00:04.000000000, container 4.00, pictures fill 2.00
#   wmv: stream 4.00, container 4.00, pictures fill 2.00
#   mp4: stream 2.00, container 2.00, pictures fill 2.00
# Date: 2026-11-28. Exits non-zero when this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.3.5
cat > "$work/look.py" <<'PY'
import sys
from fractions import Fraction

import av
import numpy as np

for suffix, codec, told in (("mkv", "mpeg4", 4), ("wmv", "wmv2", 4), ("mp4", "mpeg4", 2)):
    path = f"{sys.argv[1]}/film.{suffix}"
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 4 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = 60 + number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(path) as container:
        stream = container.streams.video[0]
        length = None if stream.duration is None else float(stream.duration * stream.time_base)
        tag = stream.metadata.get("DURATION")
        times = [frame.time for frame in container.decode(stream)]
        fill = times[-1] - times[0] + 1 / 30
        print(av.__version__, f"{suffix}: stream {length}, DURATION {tag}, container {container.duration / 1e6:.2f}, fill {fill:.2f}")
        assert len(times) == 60 and abs(fill - 2) < 0.01 and abs(container.duration / 1e6 - told) < 0.01
        assert suffix != "mkv" or (length is None and tag.startswith("00:00:04"))
        assert suffix == "mkv" or abs(length - told) < 0.01
PY
for version in 15.1.0 17.0.0; do
    "$work/venv/bin/pip" install --quiet "av==$version"
    "$work/venv/bin/python" "$work/look.py" "$work"
done
echo "as described"
