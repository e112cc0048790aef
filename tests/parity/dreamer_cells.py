"""Official weights of recurrent cells, by their names in the golden files, into ours."""

import torch

from worldkit.cells.block_gru import BlockGRU
from worldkit.cells.gru import GRU, LayerNormGRU, PlaNetGRU


@torch.no_grad()
def load_cell(cell, w, drawn):
    """Weights ``w`` (name -> tensor, as stored) into a cell; the rows of the input layer that read the action are left.

    Those rows are the conditioner's, except in v3, where they are a layer of its own: ``dyn/dynin2``.
    """
    if isinstance(cell, BlockGRU):
        for layer, name in ((cell.from_state, "dyn/dynin0"), (cell.from_drawn, "dyn/dynin1")):
            _linear(layer.linear, w, name)
            layer.norm.scale.copy_(w[f"{name}norm/scale"])
        for index, (layer, norm) in enumerate(zip(cell.layers, cell.norms, strict=True)):
            layer.weight.copy_(w[f"dyn/dynhid{index}/kernel"])
            layer.bias.copy_(w[f"dyn/dynhid{index}/bias"])
            norm.scale.copy_(w[f"dyn/dynhid{index}norm/scale"])
        cell.gates.weight.copy_(w["dyn/dyngru/kernel"])
        cell.gates.bias.copy_(w["dyn/dyngru/bias"])
        return
    name = {PlaNetGRU: "transition/in", GRU: "img1", LayerNormGRU: "img_in"}[type(cell)]
    cell.inputs.linear.weight.copy_(w[f"{name}/kernel"][:drawn].T)
    cell.inputs.linear.bias.copy_(w[f"{name}/bias"])
    if isinstance(cell, PlaNetGRU):
        _linear(cell.gates, w, "gru/gates")
        _linear(cell.candidate, w, "gru/candidate")
    elif isinstance(cell, LayerNormGRU):
        _linear(cell.gates, w, "gru/dense")
        cell.gate_norm.weight.copy_(w["gru/norm/gamma"])
        cell.gate_norm.bias.copy_(w["gru/norm/beta"])
        if "img_in_norm/gamma" in w:
            cell.inputs.norm.weight.copy_(w["img_in_norm/gamma"])
            cell.inputs.norm.bias.copy_(w["img_in_norm/beta"])
    else:  # Keras: update, reset, candidate
        for layer, kernel, bias in ((cell.from_input, "gru/kernel", w["gru/bias"][0]),
                                    (cell.from_state, "gru/recurrent_kernel", w["gru/bias"][1])):
            layer.weight.copy_(_reset_first(w[kernel]).T)
            layer.bias.copy_(_reset_first(bias))


def _linear(layer, w, name):
    layer.weight.copy_(w[f"{name}/kernel"].T)
    layer.bias.copy_(w[f"{name}/bias"])


def _reset_first(columns):
    update, reset, candidate = columns.chunk(3, -1)
    return torch.cat([reset, update, candidate], -1)
