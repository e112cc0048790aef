#!/usr/bin/env bash
# HDF5: a virtual dataset whose source file is gone reads as zeros, without an error or a warning.
#
# Versions: Python 3.11, h5py 3.16.0 (its wheel has HDF5 2.0.0), numpy 2.4.6. Date: 2026-11-28.
# Behaviour: a data set that is put together from several files (VDS) stays readable when some of them were not copied
# along; the rows of the missing file have the fill value (0), so frames are black and actions are 0. Nothing tells.
# Output seen:
#   whole:   [1.0, 1.0, 2.0, 2.0]
#   one file moved away: [1.0, 1.0, 0.0, 0.0]  (no error, no warning)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet h5py==3.16.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W error - <<'PYTHON'
import os
import sys

import h5py
import numpy as np

print("python", sys.version.split()[0], "h5py", h5py.__version__, "HDF5", h5py.version.hdf5_version)
for number in (1, 2):
    with h5py.File(f"part{number}.h5", "w") as file:
        file["action"] = np.full(2, float(number))
layout = h5py.VirtualLayout((4,), "f8")
for number in (1, 2):
    layout[2 * number - 2 : 2 * number] = h5py.VirtualSource(f"part{number}.h5", "action", shape=(2,))
with h5py.File("whole.h5", "w") as file:
    file.create_virtual_dataset("action", layout)


def read():
    with h5py.File("whole.h5", "r") as file:
        return file["action"][:].tolist()


whole = read()
os.rename("part2.h5", "elsewhere.h5")
incomplete = read()
print("whole:  ", whole)
print("one file moved away:", incomplete, " (no error, no warning)")
sys.exit(0 if (whole, incomplete) == ([1, 1, 2, 2], [1, 1, 0, 0]) else 1)
PYTHON
