#!/usr/bin/env bash
# safetensors 0.8 writes files that their owner alone can read, whatever the umask says, and narrows existing files, too.
#
# Versions: safetensors 0.7.0 and 0.8.0 (numpy 2.3.5), Python 3.11, Linux x86-64.
# Behaviour: save_file fills a temporary file (mode 0600) and renames it. A model in a shared folder can no longer be read
#   by others, and a file that was 0664 is 0600 after it was written again. Up to 0.7.0 the umask counts. Nothing is said.
# Output seen (umask 022):
#   0.7.0: new file 0o644, file that was 0o664: 0o664
#   0.8.0: new file 0o600, file that was 0o664: 0o600
# Date: 2026-11-28. Exits non-zero when this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.3.5
cat > "$work/look.py" <<'PY'
import os
import stat
import sys

import numpy as np
import safetensors
from safetensors.numpy import save_file

os.umask(0o022)
mode = lambda: oct(stat.S_IMODE(os.stat(path).st_mode))
path = os.path.join(sys.argv[1], f"{safetensors.__version__}.safetensors")
save_file({"z": np.zeros(2)}, path)
new = mode()
os.chmod(path, 0o664)
save_file({"z": np.zeros(2)}, path)
print(f"{safetensors.__version__}: new file {new}, file that was 0o664: {mode()}")
assert (new, mode()) == {"0.7.0": ("0o644", "0o664"), "0.8.0": ("0o600", "0o600")}[safetensors.__version__]
PY
for version in 0.7.0 0.8.0; do
    "$work/venv/bin/pip" install --quiet "safetensors==$version"
    "$work/venv/bin/python" "$work/look.py" "$work"
done
echo "as described"
