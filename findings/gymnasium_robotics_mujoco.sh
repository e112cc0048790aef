#!/usr/bin/env bash
# Gymnasium-Robotics' arms and hands cannot be made on the MuJoCo that pip installs beside it, and pip check is clean.
#
# Versions: gymnasium-robotics 1.4.2 (it asks for mujoco>=2.2.0), mujoco 3.10.0 and 3.12.0, gymnasium 1.4.0, Python 3.11.
# Behaviour: gymnasium.make("FetchPush-v4") raises a bare AssertionError (utils/mujoco_utils.py, set_joint_qpos: the type of a
#   joint, a number, is compared with enums, which newer MuJoCo bindings do not count as equal). Mazes and Adroit work.
#   Up to mujoco 3.10 all is well; 3.12.0 to 3.17.0 were seen to fail.
# Output seen:
#   mujoco 3.10.0: FetchPush-v4 (25,)
#   mujoco 3.12.0: FetchPush-v4 AssertionError ''
# Date: 2026-11-28. Exits non-zero when this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cat > "$work/look.py" <<'PY'
import sys

import gymnasium
import gymnasium_robotics
import mujoco

gymnasium.register_envs(gymnasium_robotics)
try:
    seen = str(gymnasium.make("FetchPush-v4").reset(seed=0)[0]["observation"].shape)
except AssertionError as error:
    seen = f"AssertionError {str(error)!r}"
print(f"mujoco {mujoco.__version__}: FetchPush-v4 {seen}")
sys.exit(seen.startswith("Assertion") != (sys.argv[1] == "fails"))
PY
for pair in "3.10.0 works" "3.12.0 fails"; do
    set -- $pair
    "$work/venv/bin/pip" install --quiet gymnasium-robotics==1.4.2 gymnasium==1.4.0 "mujoco==$1"
    "$work/venv/bin/pip" check > /dev/null
    MUJOCO_GL=disable "$work/venv/bin/python" -W ignore "$work/look.py" "$2" 2>/dev/null
done
