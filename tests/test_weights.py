"""Weights that share memory are saved once, and are one again when they are loaded."""


import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import worldkit as wk
from worldkit import registry
from worldkit.dynamics.gru import GRU, GRUConfig
from worldkit.errors import CheckpointError, TrainingError
from worldkit.storage.folders import WEIGHTS_FILE
from worldkit.storage.hub import load_parts
from worldkit.storage.sharing import export_model
from worldkit.storage.weights import check_storable, put, read_weights, stored_shapes, write_weights
from worldkit.testing import check_dynamics, check_model
from worldkit.testing.examples import small_config
from worldkit.training import TrainConfig, Trainer


class Tied(GRU):
    """A GRU whose two interactions are one module, with a tied weight, and buffers that are views of one another."""

    class Config(GRUConfig):
        name: str = "test-tied"

    def __init__(self, config, **wiring):
        super().__init__(config, **wiring)
        self.interactions[1] = self.interactions[0]
        self.first = nn.Linear(config.dim, config.dim, bias=False)
        self.second = nn.Linear(config.dim, config.dim, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.arange(8.0))
        self.register_buffer("begin", self.table[:4])
        self.register_buffer("again", self.table)
        self.register_buffer("wide", torch.ones(1).expand(5))

    def _inputs(self, z, cond):
        return super()._inputs(z, cond) + self.second(self.first(super()._inputs(z, cond)))


@pytest.fixture
def tied(monkeypatch):
    for attribute in ("_entries", "_aliases"):
        monkeypatch.setattr(registry.dynamics, attribute, dict(getattr(registry.dynamics, attribute)))
    registry.dynamics.register("test-tied", Tied)
    options = {"dynamics": {"name": "test-tied", "dim": 16, "num_heads": 2}, "latent_action": None}
    return small_config(**options)


@pytest.fixture
def make(tied):
    def make(seed=0):
        torch.manual_seed(seed)
        return wk.create_model(config=tied)

    return make


def is_tied(model):
    dynamics = model.dynamics
    return (dynamics.first.weight is dynamics.second.weight
            and dynamics.interactions[0] is dynamics.interactions[1]
            and dynamics.begin.data_ptr() == dynamics.table.data_ptr())


def same(a, b):
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_the_checks_for_plugins_pass(tied):
    check_dynamics(Tied, dim=16, num_heads=2)
    check_model(tied)


def test_saved_once_and_loaded_as_one(make, tmp_path):
    model = make()
    assert is_tied(model)
    folder = model.save_pretrained(tmp_path / "m")
    stored = load_file(folder / WEIGHTS_FILE)
    assert ("dynamics.first.weight" in stored) != ("dynamics.second.weight" in stored)
    assert not any(name.startswith("dynamics.interactions.1.") for name in stored)
    torch.manual_seed(5)
    again = wk.WorldModel.from_pretrained(folder)
    assert is_tied(again) and same(model, again)


def test_trained_resumed_and_averaged(make, balls, tmp_path):
    def trained(folder, *steps):
        model = make()
        for number in steps:
            config = TrainConfig(batch_size=2, steps=number, ema=0.9, eval_clips=2)
            model = make(seed=number)
            if number == steps[0]:
                model = make()
            Trainer(model, balls(5), balls(5, "val"), config, run=folder, show_progress=False).fit()
        return model

    whole, halves = trained(tmp_path / "whole", 2), trained(tmp_path / "halves", 1, 2)
    assert is_tied(whole) and is_tied(halves) and same(whole, halves)
    best = wk.WorldModel.from_pretrained(tmp_path / "whole")
    assert is_tied(best) and not same(whole, best)  # the moving average
    newest = read_weights(tmp_path / "whole" / "checkpoints" / "step-00000002" / WEIGHTS_FILE)
    assert set(newest) == set(whole.state_dict())


def test_parts_and_copies_for_others(make, tmp_path):
    model = make()
    folder = model.save_pretrained(tmp_path / "m")
    other = make(seed=3)
    assert "dynamics" in load_parts(other, folder) and is_tied(other) and same(model, other)
    export_model(folder, tmp_path / "shared")
    shared = wk.WorldModel.from_pretrained(tmp_path / "shared")
    assert is_tied(shared) and same(model, shared)


def test_what_was_tied_by_hand_is_tied_again(tiny_model, tmp_path):
    model = tiny_model()
    a, b = model.decoder, model.encoder
    one = next(n for n, p in a.named_parameters() if any(p.shape == q.shape for q in b.parameters()))
    other = next(n for n, q in b.named_parameters() if q.shape == a.get_parameter(one).shape)
    owner, _, leaf = other.rpartition(".")
    setattr(b.get_submodule(owner), leaf, a.get_parameter(one))
    again = wk.WorldModel.from_pretrained(model.save_pretrained(tmp_path / "m"))
    assert again.encoder.get_parameter(other) is again.decoder.get_parameter(one)
    assert same(model, again)


def test_files_without_shared_tensors_are_as_before(tiny_model, tmp_path):
    model = tiny_model()
    folder = model.save_pretrained(tmp_path / "m")
    assert set(load_file(folder / WEIGHTS_FILE)) == set(model.state_dict())
    save_file({n: x.contiguous() for n, x in model.state_dict().items()}, folder / WEIGHTS_FILE)  # without metadata
    assert same(model, wk.WorldModel.from_pretrained(folder))


@pytest.mark.parametrize("aliases", ['{"b": "no"}', '{"a": "a"}', '["a"]', '{"b": 3}', '{"b": ["a"]}', "{", "[" * 9999])
def test_a_damaged_header(tmp_path, aliases):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata={"aliases": aliases})
    for read in (read_weights, stored_shapes):
        with pytest.raises(CheckpointError, match="cannot read weights .*w.safetensors: its header is damaged"):
            read(path)


def test_overlaps_and_empty_tensors(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    state = {"whole": whole, "same": whole, "row": whole[0], "turned": whole.T, "bits": whole.view(torch.int32),
             "none": torch.empty(0), "nothing": torch.empty(0), "wide": torch.ones(1).expand(4)}
    write_weights(state, tmp_path / "w", metadata={"format": "pt"})
    again = read_weights(tmp_path / "w")
    assert again.keys() == state.keys() and all(torch.equal(again[n], x) for n, x in state.items())
    assert stored_shapes(tmp_path / "w") == {n: list(x.shape) for n, x in state.items()}
    assert sorted(load_file(tmp_path / "w")) == sorted(state.keys() - {"same"})


@pytest.mark.parametrize("value, message", [
    (torch.zeros(2, dtype=torch.complex128), "'x' is a tensor of dtype torch.complex128, which a weights file"),
    (torch.eye(2).to_sparse(), "'x' is a tensor of layout torch.sparse_coo, .* register it with .to_dense"),
    ({"steps": 3}, "'x' is a dict, which a weights file .safetensors. cannot hold: keep it in the config"),
])
def test_what_a_file_cannot_hold(value, message):
    with pytest.raises(CheckpointError, match=message):
        check_storable({"x": value})


def test_training_says_so_before_it_begins(tiny_model, balls, tmp_path):
    model = tiny_model()
    model.dynamics.register_buffer("phase", torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(CheckpointError, match=r"'dynamics.phase' is a tensor of dtype torch.complex128"):
        Trainer(model, balls(4), balls(4), TrainConfig(batch_size=2, steps=1), run=tmp_path, show_progress=False)


def test_other_errors_of_writing_do_not_ask_for_room(tiny_model, balls, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a hook of mine")

    monkeypatch.setattr("safetensors.torch.save_file", broken)
    with pytest.raises(TrainingError, match=r"\(RuntimeError: a hook of mine\): there is no checkpoint yet$"):
        Trainer(tiny_model(), balls(4), balls(4), TrainConfig(batch_size=2, steps=1), run=tmp_path,
                show_progress=False).fit()


def test_put_ties_only_what_was_tied():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    put(model, {n: x.clone() for n, x in model.state_dict().items()})
    assert model["a"].weight is not model["b"].weight
    weight = torch.ones(2, 2)
    put(model, model.state_dict() | {"a.weight": weight, "b.weight": weight})
    assert model["a"].weight is model["b"].weight and model["a"].bias is not model["b"].bias
