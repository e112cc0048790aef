#!/usr/bin/env bash
# Closing one PettingZoo environment makes another one, of the same process, unable to draw.
#
# Versions: pettingzoo 1.27.0, pygame-ce 2.5.8, gymnasium 1.4.0, Python 3.11, Linux x86-64.
# Behaviour: with render_mode="rgb_array" multiwalker draws into pygame's one window (pygame.display.set_mode), although no
#   window is asked for. close() of any of them calls pygame.quit(), after which every other one raises
#   "pygame.error: Surface is not initialized" at render(). A check of an environment, closed before data are collected with
#   another one, is enough. simple_spread of mpe2 draws into a surface of its own and is not touched.
# Output seen:
#   before: (400, 600, 3)
#   after another one was closed: error: Surface is not initialized
# Date: 2026-11-28. Exits non-zero when this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pettingzoo[sisl]==1.27.0" pygame-ce==2.5.8 gymnasium==1.4.0
cat > "$work/look.py" <<'PY'
import os
import sys

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
import pygame  # noqa: E402
from pettingzoo.sisl import multiwalker_v9  # noqa: E402

one, other = (multiwalker_v9.parallel_env(render_mode="rgb_array") for _ in range(2))
for env in (one, other):
    env.reset(seed=0)
    env.render()
print("before:", one.render().shape)
other.close()
try:
    print("after another one was closed:", one.render().shape)
    sys.exit(1)
except pygame.error as error:
    print("after another one was closed: error:", error)
PY
"$work/venv/bin/python" "$work/look.py" 2>/dev/null
