#!/usr/bin/env bash
# rich 15.0.0: a progress bar that does not fit loses bar, count and remaining time, and keeps the text behind them.
#
# Seen 2026-11-28 with rich 15.0.0, Python 3.11: columns description, BarColumn(bar_width=24), MofNCompleteColumn,
# TimeElapsedColumn, TimeRemainingColumn and a TextColumn of 79 letters. At 200 columns all are there. At 80 and at 40
# the description is cut to "tra…" and every column between it and the long text has width 0: no bar, no "24/1500", no
# times, although each of them would fit. One expects the long text to be shortened first, since it is the only one with
# room to spare. Where output is no terminal, nothing at all is written until the end, and then the same cut line.
# Way round: compose the line oneself, what must be seen first. The script fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check rich==15.0.0
"$folder/venv/bin/python" - <<'PY'
import io
import re
import sys
from importlib.metadata import version

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

TEXT = "loss 53.8 rec 3.1e+03 kl 102 kl_dyn 1.14e+03 visible 8.98 a 0.29 b 0.31 sc 0.2"


def last_lines(width, terminal):
    """The line as last drawn while work goes on, and all that was written when it has ended."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None, _environ={"TERM": "xterm"})
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        progress.add_task("training", total=1500, completed=24, text=TEXT)
        progress.refresh()
        during = re.split(r"\r|\x1b\[2K", out.getvalue())[-1]
    return during, out.getvalue()


print("rich", version("rich"))
failed = []
for width, whole in ((200, True), (80, False), (40, False)):
    line = last_lines(width, True)[0]
    print(f"{width:4}: {line}")
    if ("24/1500" in line and "training" in line) != whole or "loss 53.8" not in line:
        failed.append(f"width {width}")
during, end = last_lines(80, False)
print(f"file, while it works: {during!r}\nfile, at the end:     {end!r}")
if during or "24/1500" in end or "loss 53.8" not in end:
    failed.append("file")
sys.exit(f"changed: {failed}" if failed else 0)
PY
