#!/usr/bin/env bash
# torchrun refuses arguments of the SCRIPT that could abbreviate several options of its own, as --run, --max or --log.
#
# Versions: torch 2.13.0, Python 3.11, Linux x86-64.
# Behaviour: `torchrun --nproc-per-node 1 s.py --run x` ends with "ambiguous option: --run could match --run-path,
#   --run_path", although everything behind the script belongs to the script (argparse.REMAINDER): argparse of Python 3.11
#   looks at every argument before it knows whose it is. `--runs` passes, and so does `--run` behind `torchrun ... -- s.py`.
# Output seen:
#   --run x: exit 2, ambiguous option: --run could match --run-path, --run_path
#   --max 3: exit 2, ambiguous option: --max could match --max-restarts, --max_restarts
#   --log 5: exit 2, ambiguous option: --log could match --log-dir, --log_dir, --logs-specs, --logs_specs
#   --runs x: exit 0
#   -- s.py --run x: exit 0
# Date: 2026-11-28. Exits non-zero when this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5
echo 'import sys; print("script got", sys.argv[1:])' > "$work/s.py"
cd "$work"
"$work/venv/bin/python" -c 'import sys, torch; print("torch", torch.__version__, "Python", sys.version.split()[0])'

launch() {  # prints what happened, and fails unless the exit status is the one expected
    local expected=$1 status=0
    shift
    OMP_NUM_THREADS=1 "$work/venv/bin/torchrun" --standalone --nproc-per-node 1 "$@" > out 2> err || status=$?
    echo "${*#s.py }: exit $status$(grep -o ', ambiguous option.*\|ambiguous option.*' err | head -1 | sed 's/^/, /')"
    [ "$status" = "$expected" ]
}

launch 2 s.py --run x
launch 2 s.py --max 3
launch 2 s.py --log 5
launch 0 s.py --runs x
launch 0 -- s.py --run x
echo "as described"
