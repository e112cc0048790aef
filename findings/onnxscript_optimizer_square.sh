#!/usr/bin/env bash
# onnxscript's optimizer, which torch.onnx.export runs by default, takes time that grows with the square of a graph that
# has slices: twice as many nodes, four times as long.
#
# Versions: onnxscript 0.7.2, onnx-ir 1.1.0, onnx 1.23.2 (numpy 2.3.5), Python 3.11, Linux x86-64, an Intel Xeon.
# Behaviour: onnxscript.optimizer.optimize has one rewrite rule whose pattern ends in two nodes (two slices of one tensor
#   are a split). Its matcher holds every node of the graph, of whatever kind, against every Slice of the graph, also
#   where no two slices belong together. Loops that were unrolled (denoising, tokens one by one, rollouts) have thousands
#   of nodes: minutes for nothing. onnxscript.optimizer.fold_constants, without rewrite rules, grows evenly.
# Output seen (graphs of overlapping slices and sums; CPU seconds):
#    800 nodes: optimize 1.41, fold_constants 0.01
#   1600 nodes: optimize 5.31, fold_constants 0.01
#   3.8 times and 1.9 times as long for twice the nodes
# Date: 2026-12-01. Exits non-zero when this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnxscript==0.7.2 onnx-ir==1.1.0 onnx==1.23.2 numpy==2.3.5
cat > "$work/look.py" <<'PY'
import time

import numpy as np
import onnx
import onnxscript
from onnx import TensorProto, helper, numpy_helper
from onnxscript.optimizer import fold_constants, optimize

print("onnxscript", onnxscript.__version__)


def graph(slices):
    """Overlapping slices of one tensor, summed: no two of them are a split."""
    held = [numpy_helper.from_array(np.array([i], np.int64), f"n{i}") for i in range(slices + 2)]
    nodes, total = [helper.make_node("Slice", ["x", "n0", "n2"], ["x0"])], "x0"
    for i in range(1, slices):
        nodes.append(helper.make_node("Slice", ["x", f"n{i}", f"n{i + 2}"], [f"x{i}"]))
        nodes.append(helper.make_node("Add", [total, f"x{i}"], [f"sum{i}"]))
        total = f"sum{i}"
    made = helper.make_graph(nodes, "slices", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [slices + 2])],
                             [helper.make_tensor_value_info(total, TensorProto.FLOAT, [2])], held)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def seconds(do, slices):
    model = onnxscript.ir.serde.deserialize_model(graph(slices))
    begun = time.process_time()
    do(model)
    return time.process_time() - begun


grown = {}
taken = {slices: (seconds(optimize, slices), seconds(fold_constants, slices)) for slices in (400, 800)}
for slices, (whole, folded) in taken.items():
    print(f"{2 * slices:4d} nodes: optimize {whole:.2f}, fold_constants {folded:.2f}")
whole, folded = (taken[800][i] / taken[400][i] for i in (0, 1))
print(f"{whole:.1f} times and {folded:.1f} times as long for twice the nodes")
assert whole > 3 and folded < 3 and taken[800][0] > 5 * taken[800][1]
PY
"$work/venv/bin/python" "$work/look.py"
echo "as described"
