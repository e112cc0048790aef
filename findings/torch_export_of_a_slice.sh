#!/usr/bin/env bash
# A program that torch.export traced with a slice of a wider tensor is saved without a word and cannot be read back.
#
# Versions: torch 2.13.0+cpu, numpy 2.3.5, Python 3.11, Linux x86-64, an AMD EPYC (Zen 4).
# Behaviour: where leading sizes of an input are left open (Dim.AUTO) and the tensor it is traced with is not contiguous,
#   its strides do not follow from its shape, so they become a symbol of their own. No range of that symbol is kept in
#   ExportedProgram.range_constraints; torch.export.save writes the program all the same, and torch.export.load fails as
#   soon as the graph compares strides (flatten does): "vr must not be None for symbol ...". torch.export.export and the
#   program in memory work. The same module traced with the same numbers, contiguous, is read back.
# Output seen:
#   a slice: symbols of strides without a range: 1; load: AssertionError: vr must not be None for symbol s9
#   contiguous: symbols of strides without a range: 0; load: read back, the same numbers
# Date: 2026-12-01. Exits non-zero when this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5
cat > "$work/look.py" <<'PY'
import io
import logging

import torch
from torch.export import Dim

logging.disable(logging.ERROR)
print("torch", torch.__version__)


class Flatten(torch.nn.Module):
    def forward(self, x):
        return x.flatten(0, 1)


wide = torch.arange(2.0 * 4 * 3 * 6).reshape(2, 4, 3, 6)


def read_back(x):
    """(symbols of the input's strides that have no range, error of torch.export.load)"""
    program = torch.export.export(Flatten(), (x,), dynamic_shapes=({0: Dim.AUTO, 1: Dim.AUTO},), strict=False)
    assert torch.equal(program.module()(x), x.flatten(0, 1))
    (given,) = (node.meta["val"] for node in program.graph.nodes if node.op == "placeholder")
    symbols = {s for size in given.stride() if isinstance(size, torch.SymInt) for s in size.node.expr.free_symbols}
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    try:
        again = torch.export.load(file)
    except Exception as error:
        return symbols - set(program.range_constraints), f"{type(error).__name__}: {error}"
    assert torch.equal(again.module()(x), x.flatten(0, 1))
    return symbols - set(program.range_constraints), None


found = {"a slice": read_back(wide[..., :2]), "contiguous": read_back(wide[..., :2].contiguous())}
for name, (symbols, error) in found.items():
    print(f"{name}: symbols of strides without a range: {len(symbols)}; load: {error or 'read back, the same numbers'}")
assert len(found["a slice"][0]) == 1 and found["a slice"][1] is not None
assert not found["contiguous"][0] and found["contiguous"][1] is None
PY
"$work/venv/bin/python" "$work/look.py"
echo "as described"
