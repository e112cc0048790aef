"""What is taken out of an ONNX graph before it is written: constants are computed, what is not needed goes.

PyTorch's exporter would have onnxscript's ``optimize_ir`` do that. One of its rules, two slices that are a split,
compares every node with every slice of the graph, which takes minutes where a step is a loop that was written out; the
others hardly change what ONNX Runtime makes of the graph.
"""

from __future__ import annotations

from typing import Any


def simplify(model: Any) -> None:
    """Simplify an ``onnx_ir.Model`` in place."""
    from onnx_ir.passes import Sequential, common
    from onnxscript.optimizer import fold_constants_ir

    common.InlinePass()(model)
    fold_constants_ir(model, onnx_shape_inference=True)
    Sequential(
        common.RemoveUnusedNodesPass(), common.RemoveUnusedFunctionsPass(), common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(), common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(), common.NameFixPass(),
    )(model)
