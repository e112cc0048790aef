"""Cells: every registered one passes the checks, the sins of others are caught, and what is wrong is said."""

import pytest
import torch

from worldkit.assembly import build
from worldkit.cells import Cell, CellConfig, list_cells, register_cell
from worldkit.cells.base import InputLayer, as_given
from worldkit.cells.gru import gated, sooner
from worldkit.distributions import Sampler
from worldkit.errors import ConfigError, IncompatibleComponentsError
from worldkit.registry import cells
from worldkit.testing import check_cell, example_batch
from worldkit.testing.examples import SMALL, small_config


@pytest.mark.parametrize("name", list_cells())
def test_conforms(name):
    check_cell(name)


@pytest.mark.parametrize(("name", "options"), [
    ("planet-gru", {"norm": "layer"}), ("gru", {"norm": "rms"}), ("layernorm-gru", {"norm": "layer"}),
    ("layernorm-gru", {"gate_bias": False}), ("block-gru", {"layers": 3}), ("block-gru", {"norm": "layer"}),
    ("transformer", {"window": 2}), ("transformer", {"num_layers": 1, "window": 9}),
])
def test_options(name, options):
    check_cell(name, **options)


class AttendsOverTheBatch(Cell):
    """What TorchWM's transformer does: rows as if they were times."""

    Config = CellConfig

    def __init__(self, config, *, dim, drawn):
        super().__init__(config, dim=dim, drawn=drawn)
        self.inputs = InputLayer(config, drawn)
        self.layer = torch.nn.TransformerEncoderLayer(config.hidden, 2, dropout=0, batch_first=True)
        self.out = torch.nn.Linear(config.hidden, dim)

    def begin(self):
        return as_given, lambda deter, memory, drawn, told: (
            self.out(self.layer(self.inputs(drawn, told)[None])[0]), memory)


class Forgets(Cell):
    """Keeps its memory to itself."""

    Config = CellConfig

    def __init__(self, config, *, dim, drawn):
        super().__init__(config, dim=dim, drawn=drawn)
        self.inputs, self.cell = InputLayer(config, drawn), torch.nn.LSTMCell(config.hidden, dim)

    def begin(self):
        state = []

        def step(deter, memory, drawn, told):
            state[:] = self.cell(self.inputs(drawn, told), state or None)
            return state[0], memory

        return as_given, step


@pytest.mark.parametrize(("cls", "message"), [
    (AttendsOverTheBatch, "rows keep apart: another row, when the draw of row 1 changes"),
    (Forgets, "the state holds everything"),
])
def test_faults_are_found(cls, message):
    with pytest.raises(AssertionError, match=message):
        check_cell(cls, name="fault", hidden=6)


def test_a_plugin_adds_one():
    class Own(cells.get("lstm")):
        pass

    register_cell("own-memory")(Own)
    try:
        assert "own-memory" in list_cells()
        check_cell("own-memory", hidden=6)
    finally:
        del cells._entries["own-memory"]


def test_the_lstm_is_torchs():
    cell = cells.get("lstm")(cells.get("lstm").Config(hidden=5), dim=4, drawn=3).double()
    other = torch.nn.LSTMCell(5, 4).double()
    other.weight_ih.data, other.weight_hh.data = cell.gates.weight[:, :5], cell.gates.weight[:, 5:]
    other.bias_ih.data, other.bias_hh.data = cell.gates.bias, torch.zeros_like(cell.gates.bias)
    deter, memory, drawn, told = (torch.randn(2, n, dtype=torch.float64) for n in (4, 4, 3, 5))
    ours = cell.begin()[1](deter, memory, drawn, told)
    for a, b in zip(ours, other(cell.inputs(drawn, told), (deter, memory)), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_wrong_widths_are_refused():
    for name, options, message in (("block-gru", {"blocks": 3}, "of 8 does not divide into 3 blocks"),
                                   ("transformer", {"num_heads": 3}, "does not divide into 3 heads")):
        with pytest.raises(ConfigError, match=message):
            cells.get(name)(cells.get(name).Config(hidden=4, **options), dim=8, drawn=3)
    with pytest.raises(IncompatibleComponentsError, match="is no cell|derive it from worldkit.cells.base.Cell"):
        check_cell(torch.nn.Linear)


@pytest.mark.parametrize("blocks", [0, 2])
def test_the_fused_gates_are_the_formula(blocks):
    state, weight = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    gates = torch.randn(*([blocks, 5, 9] if blocks else [5, 18]), dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (state, gates)]
    # of blocks [blocks, N, 3 D / blocks] -> [N, 3 D], all resets first
    flat = gates.unflatten(-1, (3, -1)).permute(1, 2, 0, 3).flatten(1) if blocks else gates
    reset, candidate, update = flat.chunk(3, -1)
    formula = torch.lerp(state, torch.tanh(torch.sigmoid(reset) * candidate), torch.sigmoid(update))
    ours = gated(state, gates, blocks)
    with torch.no_grad():
        assert torch.equal(gated(state, gates, blocks), ours) and ours.is_contiguous()
    assert torch.allclose(ours, formula, atol=1e-14)
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), leaves) for x in (ours, formula)), strict=True):
        assert torch.allclose(a, b, atol=1e-14)
    assert sooner(torch.zeros(6), 2).tolist() == [0, 0, 0, 0, -1, -1]


@pytest.mark.parametrize("stochastic", ["categorical", "normal"])
@pytest.mark.parametrize("name", list_cells())
def test_states_stay_in_float32_under_autocast(name, stochastic):
    rssm = {"name": "rssm", "cell": {"name": name, **SMALL["cell"][name]}, "deterministic_dim": 8, "hidden_dim": 6,
            "num_variables": 2, "num_classes": 3, "stochastic": stochastic}
    config = small_config(encoder="conv", decoder="conv", dynamics=rssm, latent_action=None,
                          conditioners={"action": {"name": "transition-action", "dim": 2}}, objective="dreamer")
    model, batch = build(config), example_batch(config)
    with torch.autocast("cpu", torch.bfloat16):
        seen = model.perceive(batch, Sampler())
        dream = model.rollout(batch.video[:, :2], 2, conditions=batch.conditions)
        model.loss(batch).total.backward()
    for z in (seen.latent, dream.latents):
        assert all(x.dtype == torch.float32 and x.isfinite().all() for x in z.values.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
